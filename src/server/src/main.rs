//! The Isthmus message broker.

fn main() {}
