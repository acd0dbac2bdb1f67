//! Holding publishers back while the node is short of memory or disk, and telling them
//! (connection.blocked and connection.unblocked, RabbitMQ's extension); and while they have used up
//! what they may publish, of which they are not told.

use amq_protocol::protocol::connection as class;
use isthmus_contract::Shortage;

use crate::codec::frame::{self, Frame};
use crate::codec::method;
use crate::codec::publish::BASIC_PUBLISH;

use super::Amqp091Session;
use super::connection::Phase;

/// What the node is short of, and what that means for this client.
#[derive(Debug)]
pub(super) struct Pressure {
    shortage: Shortage,
    /// Messages that may be taken until the limit is renewed.
    pub(super) allowance: u64,
    /// The client has published, or tried to.
    publishes: bool,
    /// A publish, or a piece of one, is left in the input.
    pub(super) holding: bool,
    /// connection.blocked was sent last, and not connection.unblocked.
    told: bool,
}

impl Default for Pressure {
    fn default() -> Pressure {
        Pressure {
            shortage: Shortage::NONE,
            allowance: u64::MAX,
            publishes: false,
            holding: false,
            told: false,
        }
    }
}

impl Amqp091Session {
    /// So many messages may be taken from now on.
    pub(super) fn renew_allowance(&mut self, messages: u64) {
        self.pressure.allowance = messages;
        if messages > 0 {
            // What is held is looked at again with the next input.
            self.pressure.holding &= self.pressure.shortage.is_any();
        }
    }

    /// The node is short of other things than before.
    pub(super) fn pressure_changed(&mut self, shortage: Shortage) {
        self.pressure.shortage = shortage;
        // What is held is looked at again with the next input.
        self.pressure.holding &= shortage.is_any();
        self.tell_pressure();
    }

    /// Whether the frame is left in the input because it publishes. What only consumes, settles
    /// or declares goes on: it is what ends the shortage, or costs next to nothing.
    pub(super) fn holds(&mut self, frame: &Frame<'_>) -> bool {
        if !matches!(self.phase, Phase::Running) {
            return false;
        }
        let begins = frame.kind == frame::METHOD
            && method::ids(frame.payload).is_ok_and(|ids| ids == BASIC_PUBLISH);
        if !begins && !matches!(frame.kind, frame::HEADER | frame::BODY) {
            return false;
        }
        self.pressure.publishes = true;
        // A message that was begun has been counted.
        let is_used_up = begins && self.pressure.allowance == 0;
        self.pressure.holding = self.pressure.shortage.is_any() || is_used_up;
        if self.pressure.holding {
            self.tell_pressure();
        }
        self.pressure.holding
    }

    /// Tells a client that publishes, once, that it is held back, and once, that no more.
    fn tell_pressure(&mut self) {
        let Pressure { shortage, publishes, told, .. } = self.pressure;
        let blocked = shortage.is_lasting() && publishes;
        if blocked == told || !self.peer.blocked || !matches!(self.phase, Phase::Running) {
            return;
        }
        self.pressure.told = blocked;
        self.say_connection(if blocked {
            class::AMQPMethod::Blocked(class::Blocked { reason: shortage.reason().into() })
        } else {
            class::AMQPMethod::Unblocked(class::Unblocked {})
        });
    }
}
