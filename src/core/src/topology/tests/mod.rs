//! Tests of the whole topology.
