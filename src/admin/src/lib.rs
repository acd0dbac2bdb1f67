//! Health, metrics and the management API.
