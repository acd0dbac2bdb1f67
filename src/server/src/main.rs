//! The Isthmus message broker.

mod config;
mod users;

fn main() {}
