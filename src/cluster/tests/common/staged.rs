//! The fold with snapshots that go through a network: made while they are sent, staged on arrival.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use isthmus_cluster::{
    peer::SnapshotMeta,
    raft::{Chunk, Chunks, Install, RaftLogId, RaftTypes, SnapshotData},
};
use openraft::{
    OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
    type_config::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf},
};
use tokio::sync::mpsc;

use super::fold::{Fold, Folded};

/// What a snapshot has beside the fold, so that it is sent in pieces.
const FILLING: usize = 20;
const PIECE: usize = 900_000;

/// The state machine. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Staged(pub(crate) Fold);

fn outgoing(folded: &Folded) -> SnapshotOf<RaftTypes, SnapshotData> {
    let meta =
        SnapshotMeta { last_log_id: folded.applied, last_membership: folded.membership.clone() };
    let head = [folded.proposals.to_le_bytes(), folded.hash.to_le_bytes()].concat();
    let (sender, chunks) = mpsc::channel(2);
    tokio::spawn(async move {
        let filling = (0..FILLING).map(|n| Chunk::Data(vec![n as u8; PIECE].into()));
        let all = std::iter::once(Chunk::Data(head.into())).chain(filling).chain([Chunk::End]);
        for chunk in all {
            if sender.send(Ok(chunk)).await.is_err() {
                return;
            }
        }
    });
    SnapshotOf::<RaftTypes, SnapshotData> { meta, snapshot: SnapshotData::Outgoing(chunks) }
}

impl Staged {
    /// Takes what [`outgoing`] sends.
    pub(crate) async fn stage(self, meta: SnapshotMeta, mut chunks: Chunks) -> io::Result<Install> {
        let mut bytes = Vec::new();
        loop {
            match chunks.recv().await {
                Some(Ok(Chunk::Data(data))) => bytes.extend_from_slice(&data),
                Some(Ok(Chunk::End)) => break,
                Some(Err(e)) => return Err(e),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        let mut bytes = Bytes::from(bytes);
        let head = bytes.split_to(16);
        let whole = bytes
            .chunks(PIECE)
            .enumerate()
            .all(|(n, piece)| piece.len() == PIECE && piece.iter().all(|byte| *byte == n as u8));
        if !whole || bytes.len() != FILLING * PIECE {
            return Err(wrong());
        }
        let number = |from: usize| head[from..from + 8].try_into().map(u64::from_le_bytes);
        let folded = Folded {
            applied: meta.last_log_id,
            membership: meta.last_membership,
            proposals: number(0).map_err(|_| wrong())?,
            hash: number(8).map_err(|_| wrong())?,
        };
        Ok(Box::new(move || {
            Box::pin(async move {
                self.0.restore(folded);
                Ok(())
            })
        }))
    }
}

impl RaftSnapshotBuilder<RaftTypes> for Staged {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<RaftTypes, SnapshotData>, io::Error> {
        Ok(outgoing(&self.0.folded()))
    }
}

impl RaftStateMachine<RaftTypes> for Staged {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<RaftLogId>, StoredMembershipOf<RaftTypes>), io::Error> {
        self.0.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<RaftTypes>, io::Error>> + Unpin + OptionalSend,
    {
        self.0.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<RaftTypes>,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        match snapshot {
            SnapshotData::Staged(install) => install().await,
            SnapshotData::Outgoing(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// What is applied now: the fold keeps nothing older.
    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<RaftTypes, SnapshotData>>, io::Error> {
        let folded = self.0.folded();
        Ok(folded.applied.is_some().then(|| outgoing(&folded)))
    }
}
