//! Receiving: qos, consume, cancel, get, and what the broker delivers (specification section
//! 1.8.3).

use std::sync::Arc;

use amq_protocol::protocol::{AMQPClass, basic};
use isthmus_contract::{Attach, AttachMode, Command, Credit, Delivery, Reply};
use isthmus_model::{
    Annotations, ConsumerId, EncodingId, Encodings, Outcome, Record, RecordFlags, Settlement,
    Token, WindowId,
};

use crate::codec::deaths;
use crate::codec::deliver::{self, Content, DeliverPrefix, Route};
use crate::codec::head::Head;
use crate::codec::method::{self, Method};
use crate::codec::publish::REPLY_TO;
use crate::convert;
use crate::fault::{Fault, ReplyCode};

use super::channel::{Answer, Op, Slot};
use super::{Amqp091Session, Handled};

/// Someone whom the broker delivers to.
#[derive(Debug)]
pub(super) struct Consumer {
    channel: u16,
    tag: Arc<str>,
    mode: AttachMode,
    /// Unsettled deliveries at the most; `None` for no limit.
    limit: Option<u32>,
    role: Role,
}

#[derive(Debug)]
enum Role {
    /// Deliveries go to the client.
    Deliver(DeliverPrefix),
    /// Asked for one message; what came is held until it is known how many are left.
    Get(Option<Box<Delivery>>),
    /// Detached: what still arrives goes back.
    Gone,
}

impl Consumer {
    fn credit(&self, shared: Option<WindowId>) -> Credit {
        match self.mode {
            AttachMode::Consume => Credit::Window { limit: self.limit, shared },
            AttachMode::ConsumeSettled | AttachMode::Browse => Credit::Unlimited,
        }
    }
}

fn mode(no_ack: bool) -> AttachMode {
    if no_ack { AttachMode::ConsumeSettled } else { AttachMode::Consume }
}

impl Amqp091Session {
    pub(super) fn qos(&mut self, number: u16, qos: &basic::Qos, payload: &[u8]) -> Handled {
        let prefetch_size = method::prefetch_size(payload)
            .map_err(|e| Fault::new(ReplyCode::SyntaxError, e.to_string()))?;
        if prefetch_size != 0 {
            return Err(Fault::new(
                ReplyCode::NotImplemented,
                format!("prefetch_size!=0 ({prefetch_size})"),
            ));
        }
        let count = qos.prefetch_count;
        if qos.global {
            self.set_window(number, (count > 0).then_some(u32::from(count)));
        } else if let Some(channel) = self.open_channel(number) {
            channel.prefetch = count;
        }
        self.reply(number, AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})));
        Ok(())
    }

    /// Sets the window that all consumers of the channel share (RabbitMQ's reading of the global
    /// bit: <https://www.rabbitmq.com/docs/consumer-prefetch>).
    fn set_window(&mut self, number: u16, limit: Option<u32>) {
        let Some(channel) = self.open_channel(number) else { return };
        let window = WindowId(u32::from(number));
        let joining = if std::mem::replace(&mut channel.windowed, true) {
            Vec::new()
        } else {
            channel.consumers.values().copied().collect()
        };
        self.command(Command::Window { window, limit });
        for consumer in joining {
            if let Some(known) = self.consumers.get(&consumer)
                && known.mode == AttachMode::Consume
            {
                let credit = known.credit(Some(window));
                self.command(Command::Credit { consumer, credit });
            }
        }
    }

    pub(super) fn consume(
        &mut self,
        number: u16,
        consume: &basic::Consume,
        method: &Method<'_>,
    ) -> Handled {
        let arguments =
            method.arguments().map_err(|e| Fault::new(ReplyCode::SyntaxError, e.to_string()))?;
        let id = self.next_consumer_id();
        let tag: Arc<str> = match consume.consumer_tag.as_str() {
            "" => Arc::from(format!("amq.ctag-{:x}-{:x}", self.config.id.0, id.0)),
            tag => Arc::from(tag),
        };
        let Some(channel) = self.open_channel(number) else { return Ok(()) };
        if channel.consumers.contains_key(&tag) {
            return Err(Fault::new(
                ReplyCode::NotAllowed,
                format!("attempt to reuse consumer tag '{tag}'"),
            ));
        }
        let queue = if consume.queue.as_str() == REPLY_TO {
            self.begin_replies(number, consume, &tag)?
        } else {
            self.queue_name(number, &consume.queue)?
        };
        let Some(channel) = self.open_channel(number) else { return Ok(()) };
        channel.consumers.insert(tag.clone(), id);
        let consumer = Consumer {
            channel: number,
            tag: tag.clone(),
            mode: mode(consume.no_ack),
            limit: (channel.prefetch > 0).then_some(u32::from(channel.prefetch)),
            role: Role::Deliver(DeliverPrefix::new(number, &tag)),
        };
        let shared = channel.windowed.then_some(WindowId(u32::from(number)));
        let (mode, credit) = (consumer.mode, consumer.credit(shared));
        self.consumers.insert(id, consumer);
        let token = self.out.token(number);
        let op = Op::Consume { consumer: id, nowait: consume.nowait };
        self.pend(number, token, (60, 20), op, None);
        self.command(Command::Attach(Attach {
            token,
            consumer: id,
            queue,
            mode,
            credit,
            lease_ms: None,
            exclusive: consume.exclusive,
            look: false,
            no_local: false,
            filter: None,
            arguments,
            tag,
        }));
        Ok(())
    }

    pub(super) fn consumer_tag(&self, consumer: ConsumerId) -> Option<Arc<str>> {
        self.consumers.get(&consumer).map(|c| c.tag.clone())
    }

    fn next_consumer_id(&mut self) -> ConsumerId {
        self.last_consumer += 1;
        ConsumerId(self.last_consumer)
    }

    pub(super) fn cancel(&mut self, number: u16, cancel: &basic::Cancel) -> Handled {
        let tag = cancel.consumer_tag.clone();
        let ok = AMQPClass::Basic(basic::AMQPMethod::CancelOk(basic::CancelOk {
            consumer_tag: tag.clone(),
        }));
        let op = if cancel.nowait { Op::Nothing } else { Op::Say(ok) };
        self.end_replies(number, tag.as_str());
        let known = self.open_channel(number).and_then(|c| c.consumers.remove(tag.as_str()));
        let Some(consumer) = known else {
            // A consumer that is not there is cancelled.
            self.pend(number, Token::SILENT, (60, 30), op, Some(Answer::Done(Reply::Ok)));
            self.flush_replies(number);
            return Ok(());
        };
        let token = self.out.token(number);
        self.pend(number, token, (60, 30), op, None);
        // It stays as it is until the broker has stopped it: what is delivered before goes to
        // the client, which owes an acknowledgement.
        self.detaching.insert(token, consumer);
        self.command(Command::Detach { token, consumer });
        Ok(())
    }

    /// Ends a consumer of a channel that is going; what still arrives for it goes back.
    pub(super) fn detach(&mut self, consumer: ConsumerId) {
        let Some(known) = self.consumers.get_mut(&consumer) else { return };
        let role = std::mem::replace(&mut known.role, Role::Gone);
        let settled = known.mode == AttachMode::ConsumeSettled;
        let token = self.out.token(0);
        self.detaching.insert(token, consumer);
        self.command(Command::Detach { token, consumer });
        if let Role::Get(Some(delivery)) = role
            && !settled
        {
            self.give_back(&delivery);
        }
    }

    /// Has whatever still arrives for consumers of a channel that is going go back: also for
    /// those that the client has cancelled and the broker has not stopped yet.
    pub(super) fn disown_consumers(&mut self, number: u16) {
        for consumer in self.consumers.values_mut().filter(|c| c.channel == number) {
            consumer.role = Role::Gone;
        }
    }

    /// The broker has stopped a consumer: no more comes for it.
    pub(super) fn detached(&mut self, token: Token) {
        if let Some(consumer) = self.detaching.remove(&token) {
            self.consumers.remove(&consumer);
        }
    }

    /// The broker refused a consumer.
    pub(super) fn forget_consumer(&mut self, consumer: ConsumerId) {
        let Some(known) = self.consumers.remove(&consumer) else { return };
        if let Some(channel) = self.open_channel(known.channel) {
            channel.consumers.retain(|_, id| *id != consumer);
        }
    }

    /// The broker ended a consumer by itself: clients that understand it are told (RabbitMQ's
    /// <https://www.rabbitmq.com/docs/consumer-cancel>).
    pub(super) fn consumer_ended(&mut self, consumer: ConsumerId) {
        let Some(known) = self.consumers.get(&consumer) else { return };
        if let Role::Get(_) = known.role {
            // The queue went while one was asked for: there is nothing in it.
            self.got(consumer, 0);
            return;
        }
        let (number, tag) = (known.channel, known.tag.clone());
        // One that the client has cancelled itself, or whose channel is gone, is not news.
        let current = self
            .open_channel(number)
            .is_some_and(|c| c.consumers.get(&tag).is_some_and(|id| *id == consumer));
        let told = self.peer.cancel_notify && current;
        self.forget_consumer(consumer);
        if told {
            let cancel = basic::Cancel { consumer_tag: (&*tag).into(), nowait: true };
            self.say(number, &AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)));
        }
    }

    pub(super) fn get(&mut self, number: u16, get: &basic::Get) -> Handled {
        let queue = self.queue_name(number, &get.queue)?;
        let id = self.next_consumer_id();
        let mode = mode(get.no_ack);
        let tag: Arc<str> = Arc::from("basic.get");
        let role = Role::Get(None);
        let consumer = Consumer { channel: number, tag: tag.clone(), mode, limit: None, role };
        self.consumers.insert(id, consumer);
        let token = self.out.token(number);
        let op = Op::Get { consumer: id, settled: get.no_ack };
        self.pend(number, token, (60, 70), op, None);
        self.command(Command::Attach(Attach {
            token,
            consumer: id,
            queue,
            mode,
            // Now or never: what is not ready is given up at once.
            credit: Credit::Explicit { credit: 1, drain: true, deadline: self.now },
            lease_ms: None,
            exclusive: false,
            look: true,
            no_local: false,
            filter: None,
            arguments: isthmus_model::Table::default(),
            tag,
        }));
        Ok(())
    }

    /// The broker has looked: `ready` messages are left.
    pub(super) fn got(&mut self, consumer: ConsumerId, ready: u64) {
        let Some(Consumer { channel, role: Role::Get(held), .. }) =
            self.consumers.get_mut(&consumer)
        else {
            return;
        };
        let (number, held) = (*channel, held.take());
        let Some(channel) = self.open_channel(number) else { return };
        let asked = |op: &Op| matches!(op, Op::Get { consumer: c, .. } if *c == consumer);
        if let Some(pending) = channel.pending.iter_mut().find(|p| asked(&p.op)) {
            pending.answer = Some(Answer::Got(held, ready));
        }
        self.detach(consumer);
        self.flush_replies(number);
    }

    /// Forgets every `basic.get` of the channel that is not answered.
    pub(super) fn abandon_gets(&mut self, number: u16) {
        let Some(channel) = self.open_channel(number) else { return };
        let mut asked = Vec::new();
        for pending in &mut channel.pending {
            if let Op::Get { consumer, settled } = pending.op {
                pending.op = Op::Nothing;
                let answer = pending.answer.replace(Answer::Done(Reply::Ok));
                asked.push((consumer, settled, answer));
            }
        }
        for (consumer, settled, answer) in asked {
            self.detach_once(consumer);
            if let Some(Answer::Got(Some(delivery), _)) = answer
                && !settled
            {
                self.give_back(&delivery);
            }
        }
    }

    fn detach_once(&mut self, consumer: ConsumerId) {
        if !self.consumers.get(&consumer).is_some_and(|c| matches!(c.role, Role::Gone)) {
            self.detach(consumer);
        }
    }

    fn give_back(&mut self, delivery: &Delivery) {
        self.close_batch();
        self.out.stage_settlement(Settlement {
            queue: delivery.queue,
            first: delivery.first,
            len: delivery.len,
            epoch: delivery.epoch,
            outcome: Outcome::Requeue,
        });
    }

    /// Messages for a consumer.
    pub(super) fn deliver(&mut self, delivery: Delivery) {
        let payload_max = self.send_payload_max();
        let Some(consumer) = self.consumers.get_mut(&delivery.consumer) else { return };
        let settled = consumer.mode == AttachMode::ConsumeSettled;
        match &mut consumer.role {
            Role::Deliver(prefix) => {
                let slot = self.channels.get_mut(usize::from(consumer.channel));
                let Some(Slot::Open(channel)) = slot else { return };
                let first = if settled {
                    channel.unacked.skip(delivery.len)
                } else {
                    channel.unacked.delivered(&delivery)
                };
                let out = &mut self.out.outbox;
                for (i, tag) in (first..).take(delivery.len as usize).enumerate() {
                    let Some(record) = delivery.batch.records.get(delivery.record as usize + i)
                    else {
                        break;
                    };
                    let message = Message { delivery: &delivery, record };
                    message.with_content(self.config.encodings, |route, content| {
                        let redelivered = delivery.redelivered;
                        deliver::deliver(
                            out,
                            prefix,
                            tag,
                            redelivered,
                            route,
                            content,
                            payload_max,
                        );
                    });
                }
            }
            Role::Get(held) => *held = Some(Box::new(delivery)),
            Role::Gone if !settled => self.give_back(&delivery),
            Role::Gone => {}
        }
    }

    /// Answers a `basic.get`.
    pub(super) fn say_got(
        &mut self,
        number: u16,
        settled: bool,
        delivery: Option<&Delivery>,
        ready: u64,
    ) {
        let payload_max = self.send_payload_max();
        let message = delivery.and_then(|delivery| {
            let record = delivery.batch.records.get(delivery.record as usize)?;
            Some(Message { delivery, record })
        });
        let Some(message) = message else {
            let empty = basic::AMQPMethod::GetEmpty(basic::GetEmpty {});
            self.say(number, &AMQPClass::Basic(empty));
            return;
        };
        let Some(Slot::Open(channel)) = self.channels.get_mut(usize::from(number)) else { return };
        let tag = if settled {
            channel.unacked.skip(1)
        } else {
            channel.unacked.delivered(message.delivery)
        };
        let ready = u32::try_from(ready).unwrap_or(u32::MAX);
        let out = &mut self.out.outbox;
        message.with_content(self.config.encodings, |route, content| {
            let redelivered = message.delivery.redelivered;
            deliver::get_ok(out, number, tag, redelivered, route, ready, content, payload_max);
        });
    }
}

/// One message of a run.
#[derive(Clone, Copy)]
struct Message<'a> {
    delivery: &'a Delivery,
    record: &'a Record,
}

impl Message<'_> {
    /// Passes on how the message reads after what the broker wrote beside it.
    #[inline]
    fn with_content(&self, encodings: Encodings, encode: impl FnOnce(Route<'_>, Content<'_>)) {
        let Message { delivery, record } = self;
        let chunk = &delivery.batch.chunk;
        let mut content = Content { head: record.head.of(chunk), chunk, body: record.body };
        let converted;
        if delivery.batch.encoding != EncodingId::AMQP_0_9_1 {
            converted = head_of_other(encodings, delivery.batch.encoding, content.head);
            content.head = &converted;
        }
        let annotations: Option<&Annotations> = delivery.annotations.as_deref();
        let stripped = record.flags.has(RecordFlags::MORE_KEYS).then(|| without_bcc(content.head));
        if let Some(head) = stripped.as_ref().and_then(|head| head.as_deref()) {
            content.head = head;
        }
        if annotations.is_none() && delivery.delivery_count == 0 {
            encode(Route::published(record, chunk), content);
            return;
        }
        let route = Route::Names {
            exchange: annotations
                .and_then(|a| a.exchange.as_deref())
                .map_or(record.exchange.of(chunk), str::as_bytes),
            routing_key: annotations
                .and_then(|a| a.routing_key.as_deref())
                .map_or(record.routing_key.of(chunk), str::as_bytes),
        };
        let head = deaths::annotated(content.head, annotations, delivery.delivery_count);
        if let Some(head) = &head {
            content.head = head;
        }
        encode(route, content);
    }
}

/// The head of a message of another protocol, in this one's words.
#[cold]
fn head_of_other(encodings: Encodings, encoding: EncodingId, head: &[u8]) -> Vec<u8> {
    let properties = encodings.get(encoding).map(|encoding| encoding.properties(head));
    convert::from_neutral(&properties.unwrap_or_default())
}

/// A head without what receivers are not to see; `None` if it is as they may see it.
#[cold]
fn without_bcc(head: &[u8]) -> Option<Vec<u8>> {
    Head::read(head).ok()?.without_bcc(head)
}
