//! What a protocol and the broker say to each other.
