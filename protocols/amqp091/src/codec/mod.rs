//! Bytes of AMQP 0-9-1 in and out (specification section 2.3 and 4.2).
//!
//! Public for benchmarks and fuzzing; brokers use [`crate::Amqp091Session`].

pub mod deaths;
pub mod deliver;
pub mod fields;
pub mod frame;
pub mod head;
pub mod method;
pub mod publish;
mod reader;
pub mod table;

pub use reader::{Malformed, Reader};
