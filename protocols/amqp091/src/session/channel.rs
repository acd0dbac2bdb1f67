//! Channels: what one is, how it opens and closes (specification section 1.5).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use amq_protocol::protocol::{AMQPClass, channel as class};
use isthmus_contract::{
    Command, CommandError, Confirms, Delivery, Place, Places, Reply, TransactOp, Unacked,
};
use isthmus_model::{ConsumerId, Outcome, Token, TransactionId};

use crate::fault::{Fault, ReplyCode};

use super::publish::Assembly;
use super::reply::Replies;
use super::transaction::Transaction;
use super::{Amqp091Session, Handled};

/// What stands under a channel number.
#[derive(Debug, Default)]
pub(super) enum Slot {
    /// Nothing.
    #[default]
    Free,
    /// A channel in use.
    Open(Box<Channel>),
    /// A channel that this side closed; the client may not know yet.
    Closing,
}

/// A channel in use.
#[derive(Debug)]
pub(super) struct Channel {
    /// Tokens made before it was opened: older ones belong to a namesake.
    pub(super) since: u64,
    pub(super) mode: Mode,
    /// The message whose frames are coming in.
    pub(super) assembly: Option<Assembly>,
    pub(super) unacked: Unacked,
    /// Publishes that the broker has not answered, a batch each, in order.
    pub(super) publishing: VecDeque<Publishing>,
    /// Replies that the client waits for, in the order of its methods.
    pub(super) pending: VecDeque<Pending>,
    pub(super) consumers: HashMap<Arc<str>, ConsumerId>,
    /// Prefetch of consumers to come; 0 for no limit.
    pub(super) prefetch: u16,
    /// Whether all consumers share a window (`basic.qos` with the global bit).
    pub(super) windowed: bool,
    /// The queue that methods without a queue's name mean.
    pub(super) last_queue: Arc<str>,
    /// Where replies to its requests go, if it consumes them.
    pub(super) replies: Option<Replies>,
    /// Whether the client has closed it and waits for close-ok only.
    pub(super) leaving: bool,
    /// Its place among the user's channels, given back with it.
    _place: Option<Place>,
}

/// How publishes of a channel are answered.
#[derive(Debug)]
pub(super) enum Mode {
    /// Not at all.
    Plain,
    /// One by one.
    Confirm(Confirms),
    /// With the transaction.
    Transaction(Transaction),
}

/// A batch that the broker has not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Publishing {
    pub(super) token: Token,
    /// Whether any of it goes to a named exchange, which may turn out not to exist.
    pub(super) named: bool,
}

/// A method that the client waits for, or that must not overtake one.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) token: Token,
    /// Class and method id, for the error if it fails.
    pub(super) method: (u16, u16),
    pub(super) op: Op,
    pub(super) answer: Option<Answer>,
}

/// What is said once the answer is there.
#[derive(Debug)]
pub(super) enum Op {
    /// Nothing (nowait).
    Nothing,
    /// This.
    Say(AMQPClass),
    /// queue.declare-ok.
    DeclareQueue { nowait: bool, unnamed: bool },
    /// A method that tells a number of messages.
    Count(fn(u32) -> AMQPClass),
    /// consume-ok, unless nowait.
    Consume { consumer: ConsumerId, nowait: bool },
    /// get-ok or get-empty.
    Get { consumer: ConsumerId, settled: bool },
    /// tx.commit-ok.
    Commit,
    /// channel.close-ok, and the channel is gone.
    Close,
}

/// What came of a method.
#[derive(Debug)]
pub(super) enum Answer {
    /// The broker's reply.
    Done(Reply),
    /// The broker's refusal.
    Refused(CommandError),
    /// What `basic.get` brought, and how many more there are.
    Got(Option<Box<Delivery>>, u64),
}

impl Channel {
    fn new(since: u64, place: Option<Place>) -> Channel {
        Channel {
            since,
            mode: Mode::Plain,
            assembly: None,
            unacked: Unacked::new(),
            publishing: VecDeque::new(),
            pending: VecDeque::new(),
            consumers: HashMap::new(),
            prefetch: 0,
            windowed: false,
            last_queue: Arc::from(""),
            replies: None,
            leaving: false,
            _place: place,
        }
    }
}

impl Amqp091Session {
    /// Whether what comes in on this channel is not looked at: this side has closed the channel
    /// (section 1.5.2.5), or the client has.
    pub(super) fn is_ignored(&mut self, number: u16, method: (u16, u16)) -> bool {
        match self.channels.get_mut(usize::from(number)) {
            Some(slot @ Slot::Closing) => {
                match method {
                    (20, 41) => *slot = Slot::Free,
                    // Both closed at the same time; the client's close-ok is still to come.
                    (20, 40) => self.say(number, &close_ok()),
                    _ => {}
                }
                true
            }
            Some(Slot::Open(channel)) => channel.leaving,
            _ => false,
        }
    }

    pub(super) fn channel_open(&mut self, number: u16) -> Handled {
        if number > self.peer.channel_max {
            return Err(Fault::new(
                ReplyCode::ChannelError,
                format!(
                    "channel number {number} is above the negotiated channel_max ({})",
                    self.peer.channel_max
                ),
            ));
        }
        let since = self.out.tokens();
        let index = usize::from(number);
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, Slot::default);
        }
        if !matches!(self.channels[index], Slot::Free) {
            return Err(Fault::new(ReplyCode::ChannelError, "second 'channel.open' seen"));
        }
        let place = self.places.as_ref().map(Places::take).transpose().map_err(|max| {
            Fault::new(
                ReplyCode::NotAllowed,
                format!(
                    "number of channels opened for user '{}' has reached the maximum allowed user \
                     limit of ({max})",
                    self.peer.user
                ),
            )
        })?;
        self.channels[index] = Slot::Open(Box::new(Channel::new(since, place)));
        self.say(number, &AMQPClass::Channel(class::AMQPMethod::OpenOk(class::OpenOk {})));
        Ok(())
    }

    pub(super) fn channel_class(&mut self, number: u16, method: &class::AMQPMethod) -> Handled {
        match method {
            class::AMQPMethod::Flow(class::Flow { active: true }) => {
                let ok = class::AMQPMethod::FlowOk(class::FlowOk { active: true });
                self.reply(number, AMQPClass::Channel(ok));
                Ok(())
            }
            class::AMQPMethod::Flow(_) => {
                Err(Fault::new(ReplyCode::NotImplemented, "active=false"))
            }
            class::AMQPMethod::Close(_) => {
                self.channel_close(number);
                Ok(())
            }
            _ => Err(Fault::new(ReplyCode::CommandInvalid, "unexpected channel method")),
        }
    }

    /// The client closes the channel: it is done with what it asked before, then it hears so.
    fn channel_close(&mut self, number: u16) {
        self.release_channel(number);
        if let Some(channel) = self.open_channel(number) {
            channel.leaving = true;
        }
        self.pend(number, Token::SILENT, (20, 40), Op::Close, Some(Answer::Done(Reply::Ok)));
        self.flush_replies(number);
    }

    /// Gives everything back that the channel holds. It can still say what it owes.
    pub(super) fn release_channel(&mut self, number: u16) {
        self.close_batch();
        self.abandon_gets(number);
        let Some(channel) = self.open_channel(number) else { return };
        channel.assembly = None;
        let settlements = channel.unacked.settle_all(Outcome::Requeue);
        let consumers: Vec<ConsumerId> = channel.consumers.drain().map(|(_, id)| id).collect();
        let transacting =
            matches!(std::mem::replace(&mut channel.mode, Mode::Plain), Mode::Transaction(_));
        // Consumers go first, so that nothing comes back to the channel that gives it back.
        for consumer in consumers {
            self.detach(consumer);
        }
        self.disown_consumers(number);
        if !settlements.is_empty() {
            self.command(Command::Settle { token: Token::SILENT, settlements, transaction: None });
        }
        if transacting {
            self.command(Command::Transact {
                token: Token::SILENT,
                transaction: TransactionId(u32::from(number)),
                op: TransactOp::Rollback,
            });
        }
    }

    /// Ends the channel for an error; what the client has sent on it meanwhile is not looked at.
    pub(super) fn fail_channel(&mut self, number: u16, fault: &Fault) {
        self.release_channel(number);
        self.drop_channel(number, Slot::Closing);
        let close = class::Close {
            reply_code: fault.code.number(),
            reply_text: fault.reply_text().into(),
            class_id: fault.method.0,
            method_id: fault.method.1,
        };
        self.say(number, &AMQPClass::Channel(class::AMQPMethod::Close(close)));
    }

    /// Puts `slot` in the channel's place; what it still owed is not said any more.
    pub(super) fn drop_channel(&mut self, number: u16, slot: Slot) {
        if let Some(place) = self.channels.get_mut(usize::from(number))
            && let Slot::Open(channel) = std::mem::replace(place, slot)
        {
            self.outstanding -= channel.pending.len();
        }
    }

    /// Notes a method that is answered later, or must not be answered before others are.
    pub(super) fn pend(
        &mut self,
        number: u16,
        token: Token,
        method: (u16, u16),
        op: Op,
        answer: Option<Answer>,
    ) {
        if let Some(channel) = self.open_channel(number) {
            channel.pending.push_back(Pending { token, method, op, answer });
            self.outstanding += 1;
        }
    }

    /// Answers a method at once, but not before those that came before it.
    pub(super) fn reply(&mut self, number: u16, class: AMQPClass) {
        let waits = self.open_channel(number).is_some_and(|c| !c.pending.is_empty());
        if waits {
            let done = Some(Answer::Done(Reply::Ok));
            self.pend(number, Token::SILENT, (0, 0), Op::Say(class), done);
        } else {
            self.say(number, &class);
        }
    }
}

/// channel.close-ok.
pub(super) fn close_ok() -> AMQPClass {
    AMQPClass::Channel(class::AMQPMethod::CloseOk(class::CloseOk {}))
}
