//! Sessions that are there when their client comes (section 4.1, 4.4).
//!
//! What is bound and held durably the broker has kept; what the client has asked for is read from
//! the notes. What the client was sent and has not acknowledged comes again by itself, for it is
//! ready in its lane; what it was told to release is told again here.

use isthmus_contract::{Command, CommandError, Reply, Token, TopologyChange};
use isthmus_model::Note;

use super::MqttSession;
use super::connect::Phase;
use super::lanes::Lane;
use super::notes::{self, Noted, Options};
use super::subscribe::is_without_system;
use crate::ReasonCode;
use crate::codec::topic::Filter;

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resuming {
    /// A lane.
    Lane(Lane),
    /// A filter of the broker's own topics.
    System,
    /// Another filter.
    Filter,
}

impl Resuming {
    fn of(filter: &str) -> Resuming {
        if filter.starts_with('$') { Resuming::System } else { Resuming::Filter }
    }
}

impl MqttSession {
    /// The session is open: the client is told, and what was noted in it holds again.
    pub(super) fn opened(&mut self, present: bool, notes: &[Note]) {
        self.client.lasts |= present;
        self.accept(present);
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        let mut subscriptions = Vec::new();
        let mut lanes = Vec::new();
        for note in notes {
            match notes::read(note) {
                Some(Noted::Lane(lane)) => lanes.push(lane),
                Some(Noted::Subscription(filter, options)) => {
                    subscriptions.push((filter, options));
                }
                Some(Noted::Received(id)) => {
                    self.incoming.received.insert(id, false);
                }
                Some(Noted::Recorded(id)) => self.release_again(id),
                Some(Noted::Claimed(id, message)) => self.claimed_before(id, message),
                None => {}
            }
        }
        self.send_claimed_again();
        self.resume(lanes, &subscriptions);
    }

    fn resume(&mut self, mut lanes: Vec<Lane>, subscriptions: &[(&str, Options)]) {
        let is_shared = |filter: &str| Filter::parse(filter).is_ok_and(|f| f.group.is_some());
        let (shared, own): (Vec<_>, Vec<_>) =
            subscriptions.iter().copied().partition(|(filter, _)| is_shared(filter));
        // Before the first delivery comes.
        for (filter, options) in &own {
            self.subscriptions.filters.ask(filter, Some(*options));
            self.subscriptions.filters.activate(filter, Some(*options));
            lanes.push(options.lane());
        }
        for lane in lanes {
            if !std::mem::replace(&mut self.subscriptions.lanes[lane as usize], true) {
                self.make_lane(lane, |session, command| {
                    session.ask_again(Resuming::Lane(lane), command);
                });
            }
        }
        // Bindings of lanes that are durable are there, save for those of the broker's own topics,
        // whose exchange a restart makes anew.
        for (filter, options) in own {
            let lane = options.lane();
            if !lane.is_acknowledged() || filter.starts_with('$') {
                self.bind_again(filter, lane);
            }
        }
        for (text, options) in shared {
            let Ok(filter) = Filter::parse(text) else { continue };
            self.join(text, &filter, options, |session, command| {
                session.ask_again(Resuming::of(filter.filter), command);
            });
        }
    }

    fn bind_again(&mut self, filter: &str, lane: Lane) {
        let change = TopologyChange::Bind(self.binding(filter, self.lane_queue(lane)));
        self.ask_again(Resuming::of(filter), |token| Command::Topology { token, change });
    }

    /// Queues a command without which the session is not what it was.
    fn ask_again(&mut self, what: Resuming, command: impl FnOnce(Token) -> Command) {
        let token = self.token();
        self.resuming.insert(token, what);
        self.commands.push_back(command(token));
    }

    /// Takes in what came of a command; returns whether it was one of these.
    pub(super) fn resume_done(
        &mut self,
        token: Token,
        result: &Result<Reply, CommandError>,
    ) -> bool {
        let Some(what) = self.resuming.remove(&token) else { return false };
        // Somebody has deleted the queue, and the bindings with it: what the client was promised
        // holds again from now on.
        if let (Resuming::Lane(lane), Ok(Reply::Queue { is_new: true, .. })) = (what, result)
            && lane.is_acknowledged()
        {
            for filter in self.subscriptions.filters.of_lane(lane) {
                self.bind_again(&filter, lane);
            }
        }
        if let Err(error) = result
            && !(what == Resuming::System && is_without_system("$", error))
        {
            // The client believes that it is subscribed; the next connection tries again.
            let reason = match error {
                CommandError::NotLeader => ReasonCode::USE_ANOTHER_SERVER,
                CommandError::Limit(_) => ReasonCode::QUOTA_EXCEEDED,
                _ => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
            };
            self.disconnect(reason, Some(&error.to_string()));
        }
        true
    }
}
