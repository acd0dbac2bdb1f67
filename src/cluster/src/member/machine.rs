//! openraft's state machine: hands on what is committed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::mpsc;

use super::{Committed, Content, Point, Replica};
use crate::raft::convert::{id_from_log, id_to_log, invalid};
use crate::raft::{RaftLogId, RaftTypes, SnapshotData, membership};
use isthmus_storage::LogId;

type Snapshot = SnapshotOf<RaftTypes, SnapshotData>;

/// Entries handed over at once.
const ENTRIES_MAX: usize = 256;

/// See the module's documentation.
pub struct Machine {
    replica: Arc<dyn Replica>,
    /// openraft has been built, and asks for a snapshot only to send it.
    is_built: Arc<AtomicBool>,
}

impl Machine {
    /// `is_built` is to be set when openraft has been built. Not later: a leader that has just come back
    /// may have nothing to apply until those who have a vote have got a snapshot from it.
    pub(super) fn new(replica: Arc<dyn Replica>, is_built: Arc<AtomicBool>) -> Machine {
        Machine { replica, is_built }
    }
}

/// What a snapshot at `point` says of itself.
fn meta_of(point: &Point) -> io::Result<SnapshotMetaOf<RaftTypes>> {
    Ok(SnapshotMetaOf::<RaftTypes> {
        last_log_id: id_from_log(LogId { term: point.term, index: point.index }),
        last_membership: membership_of(point)?,
    })
}

fn membership_of(point: &Point) -> io::Result<StoredMembershipOf<RaftTypes>> {
    let Some((index, term, members)) = &point.members else {
        return Ok(StoredMembershipOf::<RaftTypes>::default());
    };
    let id = id_from_log(LogId { term: *term, index: *index });
    let members = membership::decode(members)
        .map_err(|error| invalid(format!("the members as of entry {index}: {error}")))?;
    Ok(StoredMembershipOf::<RaftTypes>::new(id, members))
}

/// A snapshot that is only spoken of.
fn nothing_to_send() -> SnapshotData {
    SnapshotData::Outgoing(mpsc::channel(1).1)
}

/// Speaks of the newest checkpoint as of a snapshot, which lets openraft purge the log.
pub struct Builder(Arc<dyn Replica>);

impl RaftSnapshotBuilder<RaftTypes> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let none = || io::Error::other("no checkpoint was written yet");
        let point = self.0.checkpoint().ok_or_else(none)?;
        Ok(Snapshot { meta: meta_of(&point)?, snapshot: nothing_to_send() })
    }
}

impl RaftStateMachine<RaftTypes> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<RaftLogId>, StoredMembershipOf<RaftTypes>), io::Error> {
        let meta = meta_of(&self.replica.start())?;
        Ok((meta.last_log_id, meta.last_membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<RaftTypes>, io::Error>> + Unpin + OptionalSend,
    {
        let mut gathered = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let LogId { index, term } = id_to_log(&entry.log_id);
            let content = match entry.payload {
                EntryPayload::Blank => Content::Blank,
                EntryPayload::Normal(proposal) => Content::Proposal(proposal.0),
                EntryPayload::Membership(members) => {
                    Content::Members(membership::encode(&members).into())
                }
            };
            gathered.push(Committed { index, term, content });
            // Nobody waits for more than that it is accepted.
            if let Some(responder) = responder {
                responder.send(());
            }
            if gathered.len() >= ENTRIES_MAX {
                self.replica.apply(std::mem::take(&mut gathered)).await;
            }
        }
        if !gathered.is_empty() {
            self.replica.apply(gathered).await;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        self.replica.checkpoint().map(|_| Builder(Arc::clone(&self.replica)))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(Arc::clone(&self.replica))
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<RaftTypes>,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let SnapshotData::Staged(install) = snapshot else {
            return Err(io::Error::other("a snapshot that was not received"));
        };
        install().await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        if !self.is_built.load(Ordering::Acquire) {
            // Only what it speaks of is looked at.
            let Some(point) = self.replica.checkpoint() else { return Ok(None) };
            return Ok(Some(Snapshot { meta: meta_of(&point)?, snapshot: nothing_to_send() }));
        }
        let (point, chunks) = self.replica.send_snapshot().await?;
        Ok(Some(Snapshot { meta: meta_of(&point)?, snapshot: SnapshotData::Outgoing(chunks) }))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;
    use openraft::storage::RaftStateMachine;

    use super::*;
    use crate::raft::{Chunk, Chunks};

    /// Has a checkpoint, and applies nothing.
    struct Idle;

    impl Replica for Idle {
        fn start(&self) -> Point {
            Point { index: 7, term: 2, members: None }
        }

        fn apply(&self, _entries: Vec<Committed>) -> BoxFuture<'_, ()> {
            Box::pin(std::future::ready(()))
        }

        fn checkpoint(&self) -> Option<Point> {
            Some(self.start())
        }

        fn send_snapshot(&self) -> BoxFuture<'_, io::Result<(Point, Chunks)>> {
            let (sender, chunks) = mpsc::channel(1);
            sender.try_send(Ok(Chunk::End)).expect("there is room");
            Box::pin(std::future::ready(Ok((self.start(), chunks))))
        }
    }

    /// Whether the current snapshot has anything in it.
    async fn is_there(machine: &mut Machine) -> bool {
        let snapshot = machine.get_current_snapshot().await.expect("it can be had");
        let snapshot = snapshot.expect("there is a checkpoint").snapshot;
        let SnapshotData::Outgoing(mut chunks) = snapshot else { panic!("one to be sent") };
        chunks.recv().await.is_some()
    }

    #[tokio::test]
    async fn a_snapshot_can_be_sent_before_anything_was_applied() {
        let is_built = Arc::new(AtomicBool::new(false));
        let mut machine = Machine::new(Arc::new(Idle), Arc::clone(&is_built));
        assert!(!is_there(&mut machine).await, "openraft only looks where it stands");
        is_built.store(true, Ordering::Release);
        assert!(is_there(&mut machine).await);
    }
}
