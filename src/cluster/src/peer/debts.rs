//! What a node had acknowledged before it came back, as its peers know it.
//!
//! A power cut may tear the last records of a log, which were not acknowledged then; so a start cuts
//! them. Damage to the last records that were acknowledged looks the same, and a disk that says too
//! early that it has synced leaves nothing to be seen at all. The node that comes back then has less
//! than it counted for, and with another one that lacks the same entry it could elect a leader that
//! lacks it: an acknowledged message would be lost.
//!
//! The node cannot know it, and others do: a leader knows what each follower has acknowledged to it,
//! and a follower what it has got from each leader, which the leader wrote as well. So the handshake of
//! every connection tells the other end what it had ([`Word`]), and a node
//!
//! - has no part in elections until it has heard from every other voter, or for [`Debts::begin`]'s
//!   patience: a leader that can be reached has told it by then;
//! - from then on has no part in the election of anybody, itself included, who has less than it owes.
//!   So it votes as if it still had the entries, which is all that a majority needs to be sure of.
//!
//! Its leader sends it the entries again, as to anybody who lags. Then its own log refuses whoever has
//! less, and nothing has to be paid back here.
//!
//! Whoever knows is up, and has in its log what it tells of or something later, so somebody can be
//! elected. If it ends for good before the node has the entries again, they may be nowhere, and the node
//! votes for nobody who lacks them until it is started again. What nobody knows any more, because all
//! have been started meanwhile, is not noticed; the log's own records tell of all but the last sync of
//! theirs (see `isthmus_storage`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::BufMut;
use isthmus_storage::LogId;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{
    identity::MemberId,
    wire::{Malformed, Reader},
};
use crate::raft::{RaftLogId, convert::id_to_log};

/// How many are remembered that were heard: more than any cluster has.
const HEARD_MAX: usize = 1 << 10;

/// What one member knows of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Word {
    /// The last entry that it has acknowledged, as a follower.
    pub(super) acknowledged: LogId,
    /// The last entry that it has sent, as a leader. It may not have been durable there.
    pub(super) sent: LogId,
}

impl Word {
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        for LogId { term, index } in [self.acknowledged, self.sent] {
            out.put_u64_le(term);
            out.put_u64_le(index);
        }
    }

    /// Nothing where the message ends: a release that does not say it.
    pub(super) fn decode(reader: &mut Reader) -> Result<Self, Malformed> {
        if reader.is_at_end() {
            return Ok(Self::default());
        }
        let mut id = || Ok(LogId { term: reader.u64()?, index: reader.u64()? });
        Ok(Self { acknowledged: id()?, sent: id()? })
    }

    fn raise(&mut self, other: Self) {
        self.acknowledged = self.acknowledged.max(other.acknowledged);
        self.sent = self.sent.max(other.sent);
    }
}

/// See the module's documentation. Both directions share it.
#[derive(Debug, Default)]
pub(super) struct Debts {
    state: Mutex<State>,
    /// Something has changed of what is waited for.
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What is known of each member since this process began.
    members: BTreeMap<MemberId, Word>,
    /// What others have said of this node.
    owed: Word,
    /// The last entry that this node had when it began, or has acknowledged since.
    had: LogId,
    waiting: Waiting,
    /// Whom this node has heard of since it began.
    heard: BTreeSet<MemberId>,
    /// It was said that entries are missing, up to this one.
    said: LogId,
}

/// For whose word a node waits before it takes part in elections.
#[derive(Debug, Default)]
enum Waiting {
    /// It is not known yet.
    #[default]
    Begins,
    For {
        others: BTreeSet<MemberId>,
        until: Instant,
    },
    Over,
}

impl Debts {
    /// Consensus begins with `had` as its last entry. For the word of `others`, who vote, it is waited
    /// for `patience` at the most.
    pub(super) fn begin(&self, had: LogId, others: BTreeSet<MemberId>, patience: Duration) {
        let mut state = self.state.lock();
        state.had = state.had.max(had);
        state.waiting = Waiting::For { others, until: Instant::now() + patience };
        state.look();
        drop(state);
        self.news.notify_waiters();
    }

    /// What to tell `member`.
    pub(super) fn word_for(&self, member: MemberId) -> Word {
        self.state.lock().members.get(&member).copied().unwrap_or_default()
    }

    /// `member` has acknowledged the entries up to `last` to this node, its leader.
    pub(super) fn acknowledged_by(&self, member: MemberId, last: Option<&RaftLogId>) {
        let acknowledged = last.map_or(LogId::ZERO, id_to_log);
        let word = Word { acknowledged, ..Word::default() };
        self.state.lock().members.entry(member).or_default().raise(word);
    }

    /// This node acknowledges the entries up to `last` to `leader`.
    pub(super) fn acknowledged_to(&self, leader: MemberId, last: Option<&RaftLogId>) {
        let sent = last.map_or(LogId::ZERO, id_to_log);
        let mut state = self.state.lock();
        state.had = state.had.max(sent);
        state.members.entry(leader).or_default().raise(Word { sent, ..Word::default() });
    }

    /// `peer` says what this node had.
    pub(super) fn told(&self, peer: MemberId, word: Word) {
        let mut state = self.state.lock();
        if state.heard.len() < HEARD_MAX {
            state.heard.insert(peer);
        }
        state.owed.raise(word);
        state.look();
        drop(state);
        self.news.notify_waiters();
    }

    /// Nobody listens where `peer` is to be. What it knew went with its process.
    pub(super) fn is_gone(&self, peer: MemberId) {
        self.told(peer, Word::default());
    }

    /// Whether `peer` has been heard since this process began.
    pub(super) fn has_heard(&self, peer: MemberId) -> bool {
        self.state.lock().heard.contains(&peer)
    }

    /// Waits until it is known what this node owes, as far as anybody answers.
    pub(super) async fn known(&self) {
        loop {
            // Made first: it hears of what happens after the state was looked at.
            let news = self.news.notified();
            let until = match &self.state.lock().waiting {
                Waiting::Over => return,
                Waiting::For { until, .. } => Some(*until),
                Waiting::Begins => None,
            };
            match until {
                Some(until) => {
                    if timeout_at(until, news).await.is_err() {
                        self.state.lock().waiting = Waiting::Over;
                    }
                }
                None => news.await,
            }
        }
    }

    /// Whether this node may have a part in the election of somebody whose last entry is `last`.
    pub(super) fn allows(&self, last: Option<&RaftLogId>) -> bool {
        last.map_or(LogId::ZERO, id_to_log) >= self.owed()
    }

    /// The last entry that this node is known to have had.
    pub(super) fn owed(&self) -> LogId {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::forgets_debts() {
            return LogId::ZERO;
        }
        let Word { acknowledged, sent } = self.state.lock().owed;
        acknowledged.max(sent)
    }
}

impl State {
    /// Whether all have been heard that are waited for; and tells the operator of a loss.
    fn look(&mut self) {
        let Waiting::For { others, .. } = &self.waiting else {
            if matches!(self.waiting, Waiting::Over) {
                self.say();
            }
            return;
        };
        if others.is_subset(&self.heard) {
            self.waiting = Waiting::Over;
        }
        self.say();
    }

    fn say(&mut self) {
        let owed = self.owed.acknowledged;
        if owed > self.had && owed > self.said {
            self.said = owed;
            tracing::error!(
                acknowledged = owed.index,
                found = self.had.index,
                "the log of this node ends before what it had acknowledged: its disk has lost what it \
                 had synced. It votes for nobody who lacks that, and is sent it again; look after the \
                 disk, or replace it: stop the node and start it empty"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::convert::id_from_log;

    const PATIENCE: Duration = Duration::from_secs(1);

    fn at(term: u64, index: u64) -> LogId {
        LogId { term, index }
    }

    fn others(numbers: &[u64]) -> BTreeSet<MemberId> {
        numbers.iter().copied().map(MemberId).collect()
    }

    fn acknowledged(id: LogId) -> Word {
        Word { acknowledged: id, ..Word::default() }
    }

    #[test]
    fn what_was_acknowledged_either_way_is_told() {
        let debts = Debts::default();
        for index in [5, 3] {
            debts.acknowledged_by(MemberId(2), id_from_log(at(1, index)).as_ref());
            debts.acknowledged_to(MemberId(3), id_from_log(at(2, index)).as_ref());
        }
        assert_eq!(debts.word_for(MemberId(2)), acknowledged(at(1, 5)));
        assert_eq!(debts.word_for(MemberId(3)), Word { sent: at(2, 5), ..Word::default() });
        assert_eq!(debts.word_for(MemberId(65538)), Word::default(), "another life of node 2");
    }

    #[test]
    fn nobody_is_elected_with_less_than_is_owed() {
        let debts = Debts::default();
        let allows = |id: LogId| debts.allows(id_from_log(id).as_ref());
        assert!(allows(LogId::ZERO));
        debts.told(MemberId(2), acknowledged(at(3, 7)));
        debts.told(MemberId(3), Word { sent: at(2, 9), ..Word::default() });
        assert!(!allows(at(3, 6)) && !allows(at(2, 9)) && !allows(LogId::ZERO));
        assert!(allows(at(3, 7)) && allows(at(4, 2)), "a later leader has all that counts");
        debts.told(MemberId(3), Word { sent: at(3, 8), ..Word::default() });
        assert!(!allows(at(3, 7)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_waits_for_everybodys_word_but_not_for_ever() {
        let begun = Instant::now();
        let debts = Debts::default();
        assert!(tokio::time::timeout(PATIENCE, debts.known()).await.is_err(), "it has not begun");
        debts.begin(at(1, 1), others(&[2, 3]), PATIENCE);
        debts.told(MemberId(2), Word::default());
        debts.told(MemberId(4), Word::default());
        assert!(tokio::time::timeout(PATIENCE / 2, debts.known()).await.is_err(), "3 is silent");
        debts.is_gone(MemberId(3));
        debts.known().await;
        assert_eq!(begun.elapsed(), PATIENCE * 3 / 2);

        let debts = Debts::default();
        debts.begin(at(1, 1), others(&[2, 3]), PATIENCE);
        debts.known().await;
        assert_eq!(begun.elapsed(), PATIENCE * 5 / 2);
        debts.told(MemberId(2), acknowledged(at(1, 2)));
        assert!(!debts.allows(id_from_log(at(1, 1)).as_ref()), "late, and not in vain");

        let debts = Debts::default();
        debts.begin(at(1, 1), others(&[]), PATIENCE);
        debts.known().await;
        assert_eq!(begun.elapsed(), PATIENCE * 5 / 2, "it is alone");
    }

    #[test]
    fn a_loss_is_said_once_and_only_if_there_is_one() {
        let debts = Debts::default();
        let said = || debts.state.lock().said;
        debts.told(MemberId(2), acknowledged(at(1, 9)));
        assert_eq!(said(), LogId::ZERO, "it is not known yet what there is");
        debts.begin(at(1, 7), others(&[2]), PATIENCE);
        assert_eq!(said(), at(1, 9));
        debts.told(MemberId(2), acknowledged(at(1, 9)));
        assert_eq!(said(), at(1, 9));

        let debts = Debts::default();
        let said = || debts.state.lock().said;
        debts.begin(at(1, 7), others(&[2]), PATIENCE);
        debts.acknowledged_to(MemberId(2), id_from_log(at(1, 8)).as_ref());
        debts.told(MemberId(2), acknowledged(at(1, 8)));
        debts.told(MemberId(3), Word { sent: at(1, 99), ..Word::default() });
        assert_eq!(said(), LogId::ZERO, "what it sent as a leader need not have been durable");
    }
}
