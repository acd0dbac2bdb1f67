//! openraft's state machine: hands on what is committed.

use std::io;
use std::sync::Arc;

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
    /// openraft has been started, and asks for a snapshot only to send it.
    started: bool,
}

impl Machine {
    pub(super) fn new(replica: Arc<dyn Replica>) -> Machine {
        Machine { replica, started: false }
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
        self.started = true;
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
        self.started = true;
        let SnapshotData::Staged(install) = snapshot else {
            return Err(io::Error::other("a snapshot that was not received"));
        };
        install().await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        if !self.started {
            // Only what it speaks of is looked at.
            let Some(point) = self.replica.checkpoint() else { return Ok(None) };
            return Ok(Some(Snapshot { meta: meta_of(&point)?, snapshot: nothing_to_send() }));
        }
        let (point, chunks) = self.replica.send_snapshot().await?;
        Ok(Some(Snapshot { meta: meta_of(&point)?, snapshot: SnapshotData::Outgoing(chunks) }))
    }
}
