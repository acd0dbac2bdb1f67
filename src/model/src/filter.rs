//! What a consumer wants of a queue's messages.

use std::fmt;
use std::sync::Arc;

use crate::{Annotations, Batch, Record};

/// A message that a consumer may want.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The batch that holds it.
    pub batch: &'a Batch,
    /// Its record there.
    pub record: &'a Record,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Deliveries known to have failed.
    pub delivery_count: u32,
    /// What the broker wrote beside it.
    pub annotations: Option<&'a Annotations>,
}

/// Says which messages a consumer wants. A message is asked about when the consumer comes to it,
/// and again when it has come back from somebody: the answer is to depend on the candidate alone.
pub trait Filter: fmt::Debug + Send + Sync {
    /// Whether the consumer wants this message.
    fn wants(&self, candidate: &Candidate<'_>) -> bool;
}

/// A filter that somebody holds.
#[derive(Clone, Debug)]
pub struct SharedFilter(pub Arc<dyn Filter>);

impl PartialEq for SharedFilter {
    /// Whether they are the same filter: two that want the same cannot be told to.
    fn eq(&self, other: &SharedFilter) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
