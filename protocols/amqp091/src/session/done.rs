//! What the broker says, and the replies that go out for it, in the order of their methods.

use std::sync::Arc;

use amq_protocol::protocol::{AMQPClass, basic, queue, tx};
use isthmus_contract::{CommandError, Event, Reply};
use isthmus_model::Token;

use crate::fault::{Fault, ReplyCode};

use super::channel::{Answer, Op, Pending, Slot, close_ok};
use super::{Amqp091Session, Handled, outgoing};

impl Amqp091Session {
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Done { token, result } => self.done(token, result),
            Event::Deliveries(deliveries) => {
                for delivery in deliveries {
                    self.deliver(delivery);
                }
            }
            Event::CreditState { consumer, ready, .. } => self.got(consumer, ready),
            Event::Detached { consumer, .. } => self.consumer_ended(consumer),
            Event::Pressure(shortage) => self.pressure_changed(shortage),
            Event::Closed(reason) => self.closed_by_broker(reason),
        }
    }

    fn done(&mut self, token: Token, result: Result<Reply, CommandError>) {
        if outgoing::is_publish(token) {
            self.published(token, result);
            return;
        }
        if self.handshake_done(token, &result) {
            return;
        }
        self.detached(token);
        let number = outgoing::channel_of(token);
        let Some(channel) = self.open_channel(number) else { return };
        let Some(pending) = channel.pending.iter_mut().find(|p| p.token == token) else { return };
        pending.answer = match (result, &pending.op) {
            // That somebody asks is known; what there is for him is still to come.
            (Ok(_), Op::Get { .. }) => return,
            (Ok(reply), _) => Some(Answer::Done(reply)),
            (Err(error), _) => Some(Answer::Refused(error)),
        };
        self.flush_replies(number);
    }

    /// Says what may be said: everything before the first method that is not done.
    pub(super) fn flush_replies(&mut self, number: u16) {
        while let Some(channel) = self.open_channel(number) {
            if channel.pending.front().is_none_or(|p| p.answer.is_none()) {
                return;
            }
            let Some(Pending { method, op, answer: Some(answer), .. }) =
                channel.pending.pop_front()
            else {
                return;
            };
            self.outstanding -= 1;
            if let Err(fault) = self.say_done(number, op, answer) {
                self.fail(number, &fault.of(method));
            }
        }
    }

    fn say_done(&mut self, number: u16, op: Op, answer: Answer) -> Handled {
        match (op, answer) {
            (Op::Consume { consumer, .. } | Op::Get { consumer, .. }, Answer::Refused(error)) => {
                self.forget_consumer(consumer);
                Err(Fault::from_refusal(&error))
            }
            (_, Answer::Refused(error)) => Err(Fault::from_refusal(&error)),
            (Op::Get { settled, .. }, Answer::Got(delivery, ready)) => {
                self.say_got(number, settled, delivery.as_deref(), ready);
                Ok(())
            }
            (op, Answer::Done(reply)) => self.say_reply(number, op, reply),
            (_, Answer::Got(..)) => Ok(()),
        }
    }

    fn say_reply(&mut self, number: u16, op: Op, reply: Reply) -> Handled {
        match (op, reply) {
            (Op::Say(class), _) => self.say(number, &class),
            (Op::DeclareQueue { nowait, .. }, Reply::Queue { name, ready, consumers, .. }) => {
                let message_count = count(ready);
                let queue = (&*name).into();
                self.remember_queue(number, name);
                if !nowait {
                    let ok = queue::DeclareOk { queue, message_count, consumer_count: consumers };
                    self.say(number, &AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)));
                }
            }
            (Op::Count(make), Reply::Messages(n)) => self.say(number, &make(count(n))),
            (Op::Count(make), _) => self.say(number, &make(0)),
            (Op::Consume { consumer, nowait: false }, _) => {
                if let Some(tag) = self.consumer_tag(consumer) {
                    let ok = basic::ConsumeOk { consumer_tag: (&*tag).into() };
                    self.say(number, &AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)));
                }
            }
            (Op::Commit, Reply::Published { exceptions }) => {
                // A transaction of which a part was refused is not what was asked for; RabbitMQ
                // says it in the same words.
                if !self.exceptions(number, &exceptions)?.is_empty() {
                    return Err(Fault::new(ReplyCode::PreconditionFailed, "partial tx completion"));
                }
                self.say_committed(number);
            }
            (Op::Commit, _) => self.say_committed(number),
            (Op::Close, _) => {
                self.say(number, &close_ok());
                self.drop_channel(number, Slot::Free);
            }
            (Op::Nothing | Op::Consume { .. } | Op::Get { .. } | Op::DeclareQueue { .. }, _) => {}
        }
        Ok(())
    }

    fn say_committed(&mut self, number: u16) {
        self.say(number, &AMQPClass::Tx(tx::AMQPMethod::CommitOk(tx::CommitOk {})));
    }

    /// Methods without a queue's name mean the one that was declared last.
    pub(super) fn remember_queue(&mut self, number: u16, name: Arc<str>) {
        if let Some(channel) = self.open_channel(number) {
            channel.last_queue = name;
        }
    }
}

/// A number of messages as far as the wire can tell it.
fn count(messages: u64) -> u32 {
    u32::try_from(messages).unwrap_or(u32::MAX)
}
