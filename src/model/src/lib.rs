//! Messages, identifiers, outcomes and limits: what every other crate of Isthmus speaks of.
