//! What clients get (1.2, "MESSAGE").

use std::io::Write;

use isthmus_contract::{Command as Ask, Delivery};
use isthmus_model::{
    Annotations, Batch, ConsumerId, DeathReason, EncodingId, Encodings, Outcome, Properties,
    Record, SessionId, Settlement, Token, Value,
};

use super::StompSession;
use super::filter;
use super::settle::write_id;
use super::subscribe::{AckMode, Subscription};
use crate::codec::{Headers, Rules, Version, header};
use crate::convert::properties::{DELAY, X_DELAY, from_neutral, is_of_frame};
use crate::convert::stored::read_head;
use crate::destination::written;

impl StompSession {
    pub(super) fn deliver(&mut self, deliveries: &[Delivery]) {
        let mut place = Place::default();
        for delivery in deliveries {
            self.deliver_run(delivery, &mut place);
        }
    }

    fn deliver_run<'a>(&mut self, delivery: &'a Delivery, place: &mut Place<'a>) {
        let consumer = self.subscriptions.first_of(delivery.consumer);
        let Some(subscription) = self.subscriptions.get_mut(consumer) else { return };
        let is_settled = subscription.mode == AckMode::Auto;
        let first = if is_settled {
            subscription.unacked.skip(delivery.len)
        } else {
            subscription.unacked.delivered(delivery)
        };
        let mut unwanted: Vec<Settlement> = Vec::new();
        let shared = Shared {
            version: self.peer.version,
            session: self.config.id,
            encodings: self.config.encodings,
            consumer,
            delivery,
        };
        for offset in 0..delivery.len {
            let batch = &delivery.batch;
            let Some(record) = batch.records.get((delivery.record + offset) as usize) else {
                break;
            };
            let tag = first + u64::from(offset);
            if shared.is_wanted(subscription, record) {
                shared.write(&mut self.outbox, subscription, record, tag, place);
            } else if !is_settled {
                // Nobody else gets it: the queue is the subscription's own.
                unwanted.extend(subscription.unacked.settle_one(tag, Outcome::Accept));
            }
        }
        unwanted.into_iter().for_each(|settlement| self.settle_quietly(settlement));
    }
}

impl StompSession {
    /// A subscription that browses has been shown all there was: ActiveMQ's clients wait for a
    /// message that says so. Nothing more comes for it, and the client may UNSUBSCRIBE.
    pub(super) fn tell_end(&mut self, consumer: ConsumerId) {
        let (rules, session) = (self.rules(), self.config.id);
        let Some(subscription) = self.subscriptions.get_mut(consumer) else { return };
        let Some(destination) = &subscription.browses else { return };
        let out = self.outbox.buf();
        out.extend_from_slice(&subscription.prefix);
        header::write(out, rules, "destination", destination);
        out.extend_from_slice(b"message-id:");
        write_id(out, session, consumer, subscription.unacked.skip(1));
        out.extend_from_slice(b"\nbrowser:end\ncontent-length:0\n\n\0");
        self.commands.push_back(Ask::Detach { token: Token::SILENT, consumer });
    }
}

/// What all messages of a run have in common.
#[derive(Clone, Copy)]
struct Shared<'a> {
    version: Version,
    session: SessionId,
    encodings: Encodings,
    consumer: ConsumerId,
    delivery: &'a Delivery,
}

/// The `destination` of the message before: neighbours mostly have the same.
#[derive(Default)]
struct Place<'a> {
    /// Its exchange and routing key.
    of: Option<(&'a str, &'a str)>,
    line: Vec<u8>,
}

impl<'a> Place<'a> {
    fn write(&mut self, out: &mut Vec<u8>, rules: Rules, exchange: &'a str, key: &'a str) {
        if self.of != Some((exchange, key)) {
            self.of = Some((exchange, key));
            self.line.clear();
            header::write(&mut self.line, rules, "destination", &written(exchange, key));
        }
        out.extend_from_slice(&self.line);
    }
}

impl<'a> Shared<'a> {
    fn properties(&self, record: &Record) -> Properties {
        let batch = &self.delivery.batch;
        let encoding = self.encodings.get(batch.encoding);
        encoding.map(|encoding| encoding.properties(batch.head(record))).unwrap_or_default()
    }

    fn is_wanted(&self, subscription: &Subscription, record: &Record) -> bool {
        let Some(selector) = &subscription.selector else { return true };
        let properties = self.properties(record);
        let redelivered = self.delivery.redelivered;
        selector.matches(&|name| filter::value(&properties, redelivered, name))
    }

    fn write(
        &self,
        outbox: &mut isthmus_contract::Outbox,
        subscription: &Subscription,
        record: &Record,
        tag: u64,
        place: &mut Place<'a>,
    ) {
        let Shared { version, session, consumer, delivery, .. } = *self;
        let (batch, rules) = (&*delivery.batch, Rules::of(version));
        let out = outbox.buf();
        out.extend_from_slice(&subscription.prefix);
        let moved = delivery.annotations.as_deref();
        let (exchange, key) = address(batch, record, moved);
        place.write(out, rules, exchange, key);
        out.extend_from_slice(b"message-id:");
        write_id(out, session, consumer, tag);
        if version == Version::V1_2 && subscription.mode != AckMode::Auto {
            out.extend_from_slice(b"\nack:");
            write_id(out, session, consumer, tag);
        }
        let redelivered = if delivery.redelivered { "true" } else { "false" };
        header_end(out, redelivered);
        if delivery.delivery_count > 0 {
            let count = delivery.delivery_count;
            // A vector takes everything.
            let _ = writeln!(out, "x-delivery-count:{count}");
        }
        if let Some(moved) = moved {
            write_deaths(out, rules, moved);
        }
        let is_spent = moved.is_some_and(|moved| moved.delay_spent);
        let is_stomp = batch.encoding == EncodingId::STOMP;
        let content_length = match is_stomp.then(|| read_head(batch.head(record))).flatten() {
            Some(headers) => write_stored(out, rules, headers, is_spent),
            None => {
                let mut properties = self.properties(record);
                if is_spent {
                    properties.spend_delay();
                }
                let told = from_neutral(&properties, batch.body(record));
                for (name, value) in &told.headers {
                    header::write(out, rules, name, value);
                }
                told.content_length
            }
        };
        if content_length {
            out.extend_from_slice(b"content-length:");
            out.extend_from_slice(itoa::Buffer::new().format(record.body.len).as_bytes());
            out.push(b'\n');
        }
        out.push(b'\n');
        outbox.push_slice(&batch.chunk, record.body);
        outbox.buf().push(0);
    }
}

fn header_end(out: &mut Vec<u8>, redelivered: &str) {
    out.extend_from_slice(b"\nredelivered:");
    out.extend_from_slice(redelivered.as_bytes());
    out.push(b'\n');
}

/// The exchange and key that a message came with last.
fn address<'a>(
    batch: &'a Batch,
    record: &Record,
    moved: Option<&'a Annotations>,
) -> (&'a str, &'a str) {
    let exchange = moved.and_then(|moved| moved.exchange.as_deref());
    let key = moved.and_then(|moved| moved.routing_key.as_deref());
    (
        exchange.unwrap_or_else(|| batch.exchange(record)),
        key.unwrap_or_else(|| batch.routing_key(record)),
    )
}

/// Why a message was dead-lettered first, as AMQP 0-9-1's consumers are told.
fn write_deaths(out: &mut Vec<u8>, rules: Rules, moved: &Annotations) {
    // The latest comes first.
    let Some(death) = moved.deaths.last() else { return };
    let reason = match death.reason {
        DeathReason::Rejected => "rejected",
        DeathReason::Expired => "expired",
        DeathReason::MaxLength => "maxlen",
        DeathReason::DeliveryLimit => "delivery_limit",
    };
    header::write(out, rules, "x-first-death-queue", &death.queue);
    header::write(out, rules, "x-first-death-reason", reason);
    header::write(out, rules, "x-first-death-exchange", &death.exchange);
}

/// Writes the headers of a message that came by STOMP; returns whether its publisher has told how
/// long the body is. Once it has been held (`is_spent`), the header that asked for that says so.
fn write_stored(out: &mut Vec<u8>, rules: Rules, headers: Headers<'_>, is_spent: bool) -> bool {
    let mut content_length = false;
    let as_they_are = headers.rules() == rules;
    for raw in headers.raw() {
        if is_of_frame(raw.name) {
            content_length |= raw.name == "content-length";
        } else if is_spent
            && matches!(raw.name, DELAY | X_DELAY)
            && let Some(ms) = Value::String(raw.value.to_owned()).held_for_ms()
        {
            header::write(out, rules, X_DELAY, &format!("-{ms}"));
        } else if as_they_are {
            out.extend_from_slice(raw.name.as_bytes());
            out.push(b':');
            out.extend_from_slice(raw.value.as_bytes());
            out.push(b'\n');
        } else {
            let (name, value) = (headers.unescaped(raw.name), headers.unescaped(raw.value));
            header::write(out, rules, &name, &value);
        }
    }
    content_length
}
