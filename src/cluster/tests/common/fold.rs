//! A state machine that folds what is applied into a number, in memory.

use std::{io, sync::Arc};

use futures_util::{Stream, StreamExt};
use isthmus_cluster::raft::{RaftLogId, RaftTypes};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
    type_config::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf},
};
use parking_lot::Mutex;

/// What was applied so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Folded {
    /// The last entry applied.
    pub(crate) applied: Option<RaftLogId>,
    /// The last membership applied.
    pub(crate) membership: StoredMembershipOf<RaftTypes>,
    /// How many proposals were applied.
    pub(crate) proposals: u64,
    /// FNV-1a over the proposals in their order.
    pub(crate) hash: u64,
}

/// The state machine. Clones share it, so that a test can look while openraft owns one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fold {
    state: Arc<Mutex<Folded>>,
    snapshot: Arc<Mutex<Option<Folded>>>,
}

impl Fold {
    /// What was applied so far.
    pub(crate) fn folded(&self) -> Folded {
        self.state.lock().clone()
    }

    /// Puts `folded` in the place of what was applied.
    pub(crate) fn restore(&self, folded: Folded) {
        *self.state.lock() = folded;
    }
}

fn hash(seed: u64, bytes: &[u8]) -> u64 {
    // The first bytes tell the tests' proposals apart; hashing all would be what a bench measures.
    bytes
        .iter()
        .take(16)
        .fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn snapshot_of(folded: Folded) -> SnapshotOf<RaftTypes, Folded> {
    let meta = SnapshotMetaOf::<RaftTypes> {
        last_log_id: folded.applied,
        last_membership: folded.membership.clone(),
    };
    SnapshotOf::<RaftTypes, Folded> { meta, snapshot: folded }
}

impl RaftSnapshotBuilder<RaftTypes> for Fold {
    type SnapshotData = Folded;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<RaftTypes, Folded>, io::Error> {
        let folded = self.folded();
        *self.snapshot.lock() = Some(folded.clone());
        Ok(snapshot_of(folded))
    }
}

impl RaftStateMachine<RaftTypes> for Fold {
    type SnapshotData = Folded;
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<RaftLogId>, StoredMembershipOf<RaftTypes>), io::Error> {
        let folded = self.folded();
        Ok((folded.applied, folded.membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<RaftTypes>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            {
                let mut folded = self.state.lock();
                folded.applied = Some(entry.log_id);
                match entry.payload {
                    EntryPayload::Blank => {}
                    EntryPayload::Normal(proposal) => {
                        folded.proposals += 1;
                        folded.hash = hash(folded.hash, &proposal.0);
                    }
                    EntryPayload::Membership(members) => {
                        folded.membership =
                            StoredMembershipOf::<RaftTypes>::new(Some(entry.log_id), members);
                    }
                }
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<RaftTypes>,
        snapshot: Folded,
    ) -> Result<(), io::Error> {
        *self.state.lock() = snapshot.clone();
        *self.snapshot.lock() = Some(snapshot);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<RaftTypes, Folded>>, io::Error> {
        Ok(self.snapshot.lock().clone().map(snapshot_of))
    }
}
