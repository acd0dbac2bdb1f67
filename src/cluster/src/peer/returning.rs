//! What a node makes of its peers' answers before it raises the term.
//!
//! openraft asks first (pre-vote), and whoever is served by a leader says no. Two things it does not
//! know:
//!
//! - A leader that no majority answers says yes like anybody else. If it lives, it goes on, with all
//!   that it holds for its clients, as soon as the node that asks has heard it.
//! - A node that has just started, or was stopped for a while, has had no time to hear anybody.
//!
//! So a yes counts only if no leader has answered, which answers show: a leader's vote is its own,
//! granted by a quorum. And while the node [returns](Returning::is_returning), only if everybody has
//! answered that can be there.
//!
//! This delays elections and never allows one, so it is about time alone: a leader's word counts for
//! [`LED_MAX`] election timeouts, since it may be one that cannot reach the node, and a node returns
//! for one.

use std::{sync::Arc, sync::Weak, time::Duration};

use openraft::raft::VoteResponse;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::raft::RaftTypes;

type Answer = VoteResponse<RaftTypes>;

/// How long a yes waits for the others' answers: a few round trips between zones.
const SETTLE: Duration = Duration::from_millis(20);

/// For how many election timeouts the word of a leader counts that is not heard.
const LED_MAX: u32 = 2;

/// After how many election timeouts without a word of a leader a new count begins.
const LED_FORGOTTEN: u32 = 6;

/// What is known of the rounds in which this node asks. Shared by the links to all peers.
#[derive(Debug)]
pub(super) struct Returning {
    election_timeout: Duration,
    state: Mutex<State>,
    /// Something of the round has become known.
    news: Notify,
}

#[derive(Debug)]
struct State {
    /// When the node began to listen: it started, or went on after it was stopped.
    since: Instant,
    /// When it was last seen to run.
    seen: Instant,
    round: Round,
    /// When a leader answered that is not heard: first and last.
    led: Option<(Instant, Instant)>,
}

/// The questions that are under way, which are put at once.
#[derive(Debug, Default)]
struct Round {
    open: usize,
    /// Somebody has not answered who may be there.
    is_silent: bool,
    is_led: bool,
}

/// A question to a peer. Dropped, it has got no answer.
pub(super) struct Question {
    returning: Arc<Returning>,
    is_answered: bool,
}

impl Returning {
    /// Of a node that starts now.
    pub(super) fn new(election_timeout: Duration) -> Arc<Returning> {
        let now = Instant::now();
        let state = State { since: now, seen: now, round: Round::default(), led: None };
        Arc::new(Returning { election_timeout, state: Mutex::new(state), news: Notify::new() })
    }

    /// Notes that the node runs, for as long as it is about; else it would seem to have been
    /// stopped.
    pub(super) async fn watch(this: Weak<Returning>) {
        while let Some(returning) = this.upgrade() {
            returning.is_returning();
            let pause = returning.election_timeout / 10;
            drop(returning);
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether the node has not run for an election timeout yet.
    fn is_returning(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        if now - state.seen > self.election_timeout / 2 {
            state.since = now;
        }
        state.seen = now;
        now - state.since < self.election_timeout
    }

    /// A question is put to a peer.
    pub(super) fn ask(self: &Arc<Self>) -> Question {
        // A node that goes on must not take its old questions for those of now.
        self.is_returning();
        let mut state = self.state.lock();
        if state.round.open == 0 {
            state.round = Round::default();
        }
        state.round.open += 1;
        Question { returning: Arc::clone(self), is_answered: false }
    }

    fn answered(&self, is_silent: bool, is_led: bool) {
        let mut state = self.state.lock();
        state.round.open -= 1;
        state.round.is_silent |= is_silent;
        if is_led {
            let now = Instant::now();
            let first = match state.led {
                Some((first, last)) if now - last < self.election_timeout * LED_FORGOTTEN => first,
                _ => now,
            };
            state.led = Some((first, now));
            state.round.is_led |= now - first < self.election_timeout * LED_MAX;
        }
        self.news.notify_waiters();
    }

    /// Whether a yes counts, as far as the round has come.
    fn counts(&self) -> bool {
        let is_returning = self.is_returning();
        let round = &self.state.lock().round;
        !round.is_led && !(is_returning && (round.is_silent || round.open > 0))
    }

    fn is_settled(&self) -> bool {
        let round = &self.state.lock().round;
        round.is_led || round.open == 0
    }
}

impl Question {
    /// The answer of member `from`, as this node is to take it.
    pub(super) async fn answered(mut self, from: u64, mut answer: Answer) -> Answer {
        let vote = &answer.vote;
        let leads = vote.is_committed() && vote.leader_id.voted_for == from;
        self.is_answered = true;
        self.returning.answered(false, leads);
        if answer.vote_granted {
            let until = Instant::now() + SETTLE;
            loop {
                let news = self.returning.news.notified();
                if self.returning.is_settled() {
                    break;
                }
                tokio::select! {
                    // In this order, so that a simulation replays.
                    biased;
                    () = news => {}
                    () = sleep_until(until) => break,
                }
            }
            answer.vote_granted = self.returning.counts();
        }
        answer
    }

    /// Nobody listens where the peer is to be: it is not there, and does not lead.
    pub(super) fn refused(mut self) {
        self.is_answered = true;
        self.returning.answered(false, false);
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if !self.is_answered {
            self.returning.answered(true, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Vote;

    const TIMEOUT: Duration = Duration::from_millis(500);

    /// A node that has run for long.
    async fn settled() -> Arc<Returning> {
        let returning = Returning::new(TIMEOUT);
        tokio::spawn(Returning::watch(Arc::downgrade(&returning)));
        tokio::time::sleep(TIMEOUT * 2).await;
        returning
    }

    /// Of a node that follows member 1 in term 3, or is that.
    fn yes() -> Answer {
        Answer::new(Vote::new_committed(3, 1), None, true)
    }

    #[tokio::test(start_paused = true)]
    async fn a_yes_counts_where_the_leader_is_gone() {
        let returning = settled().await;
        let (gone, other) = (returning.ask(), returning.ask());
        drop(gone);
        assert!(other.answered(2, yes()).await.vote_granted);
        // One that says nothing costs a moment.
        let (_silent, other) = (returning.ask(), returning.ask());
        let asked = Instant::now();
        assert!(other.answered(2, yes()).await.vote_granted);
        assert_eq!(asked.elapsed(), SETTLE);
    }

    #[tokio::test(start_paused = true)]
    async fn no_yes_counts_where_a_leader_answers_whoever_is_first() {
        let returning = settled().await;
        let (leader, other) = (returning.ask(), returning.ask());
        let others = tokio::spawn(other.answered(2, yes()));
        tokio::task::yield_now().await;
        assert!(!leader.answered(1, yes()).await.vote_granted);
        assert!(!others.await.expect("no panic").vote_granted);
        let (leader, other) = (returning.ask(), returning.ask());
        assert!(!leader.answered(1, yes()).await.vote_granted);
        assert!(!other.answered(2, yes()).await.vote_granted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_stays_unheard_is_replaced() {
        let returning = settled().await;
        let began = Instant::now();
        while !returning.ask().answered(1, yes()).await.vote_granted {
            tokio::time::sleep(TIMEOUT / 2).await;
            assert!(began.elapsed() < TIMEOUT * 4, "its word counts for ever");
        }
        assert!(began.elapsed() >= TIMEOUT * LED_MAX);
        // Much later it is another matter.
        tokio::time::sleep(TIMEOUT * LED_FORGOTTEN).await;
        assert!(!returning.ask().answered(1, yes()).await.vote_granted);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_just_started_waits_for_those_who_may_be_there() {
        let returning = Returning::new(TIMEOUT);
        tokio::spawn(Returning::watch(Arc::downgrade(&returning)));
        let (silent, other) = (returning.ask(), returning.ask());
        assert!(!other.answered(2, yes()).await.vote_granted);
        drop(silent);
        // Not for those who are not.
        let (absent, other) = (returning.ask(), returning.ask());
        absent.refused();
        assert!(other.answered(2, yes()).await.vote_granted);
        tokio::time::sleep(TIMEOUT).await;
        let (_silent, other) = (returning.ask(), returning.ask());
        assert!(other.answered(2, yes()).await.vote_granted);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_stopped_listens_again() {
        let returning = settled().await;
        tokio::time::advance(TIMEOUT).await;
        let (_silent, other) = (returning.ask(), returning.ask());
        assert!(!other.answered(2, yes()).await.vote_granted);
    }
}
