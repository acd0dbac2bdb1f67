//! The way of proposals into openraft.

use std::future::ready;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::Raft;
use crate::raft::Proposal;

/// Something that is proposed; encoded on consensus' own thread.
pub trait Encode: Send + 'static {
    /// Appends the bytes to `out`.
    fn encode(&self, out: &mut Vec<u8>);
}

/// Proposals of one node for as long as it leads, in order. Dropping it proposes what was handed
/// over and ends.
#[derive(Debug)]
pub struct Proposer<E> {
    proposals: mpsc::UnboundedSender<E>,
}

/// Proposals handed to openraft in one call.
const AT_ONCE_MAX: usize = 64;

/// Memory that is kept to encode in, in bytes.
const SCRATCH_MAX: usize = 1 << 20;

impl<E: Encode> Proposer<E> {
    pub(super) fn start(raft: Raft, on_refused: impl FnOnce() + Send + 'static) -> Proposer<E> {
        // Not bounded here: whoever proposes holds back by what is not committed yet.
        let (proposals, received) = mpsc::unbounded_channel();
        tokio::spawn(run(raft, received, on_refused));
        Proposer { proposals }
    }

    /// Proposes. Whether it is accepted is seen when it is committed, or by the callback.
    pub fn propose(&self, proposal: E) {
        // After a refusal nobody listens, and whoever proposes has been told.
        self.proposals.send(proposal).ok();
    }
}

async fn run<E: Encode>(
    raft: Raft,
    mut proposals: mpsc::UnboundedReceiver<E>,
    on_refused: impl FnOnce() + Send + 'static,
) {
    let mut answers: FuturesUnordered<BoxFuture<'static, bool>> = FuturesUnordered::new();
    let mut batch = Vec::with_capacity(AT_ONCE_MAX);
    let mut scratch = Vec::new();
    let mut is_open = true;
    while is_open || !answers.is_empty() {
        tokio::select! {
            biased;
            Some(accepted) = answers.next(), if !answers.is_empty() => {
                if !accepted {
                    return on_refused();
                }
            }
            count = proposals.recv_many(&mut batch, AT_ONCE_MAX), if is_open => {
                if count == 0 {
                    is_open = false;
                    continue;
                }
                #[cfg(feature = "planted-bugs")]
                if let Some(time) = crate::planted::refusal() {
                    batch.remove(0);
                    answers.push(Box::pin(async move {
                        tokio::time::sleep(time).await;
                        false
                    }));
                    if batch.is_empty() {
                        continue;
                    }
                }
                let encoded: Vec<Proposal> =
                    batch.drain(..).map(|proposal| encode(&proposal, &mut scratch)).collect();
                let Ok(answer) = raft.client_write_many(encoded).await else {
                    return on_refused();
                };
                let accepted = answer.all(|answer| ready(matches!(answer, Ok(Ok(_)))));
                answers.push(Box::pin(accepted));
            }
        }
    }
}

/// Encodes in `scratch`, and gives away no more than it takes: entries stay in memory for a while, and
/// one that grew there would be copied several times and keep up to twice its size.
fn encode<E: Encode>(proposal: &E, scratch: &mut Vec<u8>) -> Proposal {
    scratch.clear();
    proposal.encode(scratch);
    let encoded = Proposal(Bytes::copy_from_slice(scratch));
    if scratch.capacity() > SCRATCH_MAX {
        *scratch = Vec::new();
    }
    encoded
}
