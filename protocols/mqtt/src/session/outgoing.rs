//! What clients get (section 3.3 to 3.7, 4.3, 4.4, 4.9).

use std::collections::VecDeque;

use isthmus_contract::{Command, Delivery, Input};
use isthmus_model::{
    ConsumerId, EncodingId, NO_TTL, Outcome, Record, RecordFlags, Settlement, Time, Token,
};

use super::MqttSession;
use super::filters::Granted;
use super::gather::Answer;
use super::lanes::Lane;
use super::notes;
use super::packet_ids::{Held, Step, of_sequence};
use crate::ReasonCode;
use crate::codec::ack::{PUB_ACK_BYTES, pub_acks};
use crate::codec::publish::{Outgoing, TopicName};
use crate::codec::{Ack, AckKind, Properties, PropertiesBuf, Qos, Version};
use crate::convert::properties::of_encoding;
use crate::convert::stored::Head;
use crate::convert::topic::is_topic_name;
use crate::fault::{Fault, Problem};

/// QoS and properties of a message.
pub(super) enum Told<'d> {
    /// As it was stored from MQTT.
    Stored(Head<'d>),
    /// Of another protocol, converted.
    Converted(Qos, PropertiesBuf),
}

impl Told<'_> {
    /// The QoS that it was published with.
    pub(super) fn qos(&self) -> Qos {
        match self {
            Told::Stored(head) => head.qos,
            Told::Converted(qos, _) => *qos,
        }
    }

    /// The properties that it was published with.
    pub(super) fn properties(&self) -> Properties<'_> {
        match self {
            Told::Stored(head) => head.properties,
            Told::Converted(_, properties) => properties.as_properties(),
        }
    }
}

/// Deliveries of one message each that wait for their packet identifier, or for the client's
/// Receive Maximum, and since when they do: in the order in which they came, none before another
/// one of its consumer.
pub(super) type Waiting = VecDeque<(Time, Delivery)>;

impl MqttSession {
    pub(super) fn deliver(&mut self, deliveries: &[Delivery]) {
        for delivery in deliveries {
            if self.deliver_alike(delivery) {
                continue;
            }
            for offset in 0..delivery.len {
                let is_behind = self.has_claims_to_send()
                    || self.waiting.iter().any(|(_, d)| d.consumer == delivery.consumer);
                if is_behind || !self.deliver_one(delivery, offset, 0) {
                    let first = delivery.first + u64::from(offset);
                    let record = delivery.record + offset;
                    let delivery = Delivery { first, len: 1, record, ..delivery.clone() };
                    self.waiting.push_back((self.now, delivery));
                }
            }
        }
    }

    /// Delivers what waits, as far as it can.
    fn deliver_waiting(&mut self) {
        self.send_claimed_again();
        let mut blocked: Vec<ConsumerId> = Vec::new();
        let mut at = 0;
        while at < self.waiting.len() && self.has_quota() {
            if !blocked.contains(&self.waiting[at].1.consumer)
                && let Some((since, delivery)) = self.waiting.remove(at)
            {
                let here_ms = self.now.since(since).as_millis() as u64;
                if self.deliver_one(&delivery, 0, here_ms) {
                    continue;
                }
                blocked.push(delivery.consumer);
                self.waiting.insert(at, (since, delivery));
            }
            at += 1;
        }
    }

    /// QoS 1 and 2 deliveries that may be on their way at once [MQTT-3.3.4-9].
    pub(super) fn inflight_max(&self) -> u32 {
        u32::from(self.peer.receive_max.min(self.config.inflight_max))
    }

    pub(super) fn has_quota(&self) -> bool {
        self.flights.counted() < self.inflight_max()
    }

    /// Delivers one message of `delivery`, which has waited here for `here_ms`; false if it must
    /// wait.
    fn deliver_one(&mut self, delivery: &Delivery, offset: u32, here_ms: u64) -> bool {
        let batch = &delivery.batch;
        let Some(record) = batch.records.get((delivery.record + offset) as usize) else {
            return true;
        };
        let sequence = delivery.first + u64::from(offset);
        let held = Held { queue: delivery.queue, sequence, epoch: delivery.epoch };
        let lane = Lane::from_number(delivery.consumer.0);
        let annotations = delivery.annotations.as_deref();
        let moved = annotations.and_then(|a| a.routing_key.as_deref());
        let key = moved.unwrap_or_else(|| batch.routing_key(record));
        let is_recalled = annotations.is_some_and(|a| a.recalled);
        let is_held = lane.is_none_or(Lane::is_acknowledged);
        let granted = match self.granted(delivery.consumer, key, is_recalled) {
            Ok(granted) => granted,
            Err(outcome) => {
                if is_held {
                    self.settle(held, 1, outcome);
                }
                return true;
            }
        };
        let told = self.told(delivery, record);
        let properties = told.properties();
        let qos = told.qos().min(granted.qos);
        let left_ms = left_ms(record, properties, delivery.waited_ms + here_ms);
        // Its time has come while it waited here [MQTT-3.3.2-5], unless its delivery was begun
        // before.
        if here_ms > 0 && left_ms == Some(0) && !delivery.redelivered {
            if is_held {
                self.settle(held, 1, Outcome::Accept);
            }
            return true;
        }
        let Some(packet_id) = self.packet_id(lane, qos, sequence) else { return false };
        let is_retained = granted.retain_as_published && record.flags.has(RecordFlags::RETAIN);
        let topic = self.given.name(key);
        let outgoing = Outgoing {
            version: self.peer.version,
            dup: delivery.redelivered,
            qos,
            retain: is_recalled || is_retained,
            topic,
            packet_id,
            // What is begun counts: one that is delivered has not expired.
            expiry_left_s: left_ms.map(|ms| u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)),
            subscription_ids: &granted.ids,
            properties,
            chunk: &batch.chunk,
            payload: record.body,
        };
        let is_exactly_once = lane.is_none() && qos == Qos::ExactlyOnce;
        if is_exactly_once && let Some(is_claimed) = self.claim(held, &outgoing, key) {
            return is_claimed;
        }
        let written = self.write(outgoing, key);
        match qos {
            Qos::AtLeastOnce if written => {
                self.flights.begin(packet_id, Step::Published(held), true);
            }
            // Where the session ends with the connection nobody else gets it after that
            // [MQTT-4.8.2-5].
            Qos::ExactlyOnce if written && is_exactly_once && !self.client.lasts => {
                self.flights.begin(packet_id, Step::Claimed, true);
                self.settle(held, 1, Outcome::Accept);
            }
            Qos::ExactlyOnce if written => self.flights.begin(packet_id, Step::Sent(held), true),
            // Nobody will acknowledge it.
            _ if is_held => self.settle(held, 1, Outcome::Accept),
            _ => {}
        }
        true
    }

    /// What the message with `key` is for, of those that come by `consumer`; what becomes of it
    /// if it is not to be delivered.
    fn granted(
        &mut self,
        consumer: ConsumerId,
        key: &str,
        is_recalled: bool,
    ) -> Result<Granted, Outcome> {
        if !is_topic_name(key) {
            return Err(Outcome::Accept);
        }
        let granted = match Lane::from_number(consumer.0) {
            Some(lane) => self.subscriptions.filters.granted(lane, key, is_recalled),
            // One that has left the group: another member gets it.
            None => {
                let granted = self.subscriptions.shared.granted(consumer, key);
                granted.map_err(|_| Outcome::Requeue)?
            }
        };
        granted.ok_or(Outcome::Accept)
    }

    /// The packet identifier of a delivery; `None` if it must wait.
    fn packet_id(&mut self, lane: Option<Lane>, qos: Qos, sequence: u64) -> Option<u16> {
        if qos == Qos::AtMostOnce {
            return Some(0);
        }
        if !self.has_quota() {
            return None;
        }
        match lane {
            Some(lane) => {
                let id = of_sequence(lane, sequence);
                self.flights.step(id).is_none().then_some(id)
            }
            None => self.flights.next_shared(),
        }
    }

    /// Writes a PUBLISH of the message with `key`; returns whether the client takes one that large.
    pub(super) fn write<'a>(&mut self, mut outgoing: Outgoing<'a>, key: &'a str) -> bool {
        let max = self.peer.packet_max;
        if outgoing.write(&mut self.outbox, max) {
            self.given.told(key, &outgoing.topic);
            return true;
        }
        // An alias may be what is too much.
        if let TopicName::NewAlias(..) = outgoing.topic {
            outgoing.topic = TopicName::RoutingKey(key.as_bytes());
            return outgoing.write(&mut self.outbox, max);
        }
        false
    }

    /// What is told of a message.
    pub(super) fn told<'d>(&self, delivery: &'d Delivery, record: &Record) -> Told<'d> {
        let batch = &delivery.batch;
        let bytes = record.head.of(&batch.chunk);
        let is_spent = delivery.annotations.as_deref().is_some_and(|a| a.delay_spent);
        let encoding = self.config.encodings.get(batch.encoding);
        let encoding = encoding.filter(|_| self.peer.version == Version::V5);
        if batch.encoding == EncodingId::MQTT
            && let Some(head) = Head::read(bytes)
        {
            let Some(encoding) = encoding.filter(|_| is_spent) else { return Told::Stored(head) };
            let properties = of_encoding(encoding, bytes, true).unwrap_or_default();
            return Told::Converted(head.qos, properties);
        }
        let durable = record.flags.has(RecordFlags::DURABLE);
        let qos = if durable { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        let properties = match encoding {
            // What does not fit is left out: the body is what matters most.
            Some(encoding) => of_encoding(encoding, bytes, is_spent).unwrap_or_default(),
            None => PropertiesBuf::new(),
        };
        Told::Converted(qos, properties)
    }

    /// Takes an acknowledgement of the client.
    pub(super) fn acknowledged(&mut self, kind: AckKind, ack: &Ack<'_>) -> Result<(), Fault> {
        let id = ack.packet_id;
        let step = match kind {
            AckKind::PubRel => {
                self.released(ack);
                return Ok(());
            }
            _ => self.flights.step(id),
        };
        match (kind, step) {
            (AckKind::PubAck, Some(Step::Published(held))) => self.is_over(id, held, ack.reason),
            (AckKind::PubRec, Some(Step::Sent(held))) if ack.reason.is_error() => {
                self.is_over(id, held, ack.reason);
            }
            (AckKind::PubRec, Some(Step::Sent(held))) => self.is_recorded(id, Some(held)),
            (AckKind::PubRec, Some(Step::Claimed)) => {
                self.unclaim(id);
                if ack.reason.is_error() {
                    self.flights.end(id);
                    self.deliver_waiting();
                } else {
                    self.is_recorded(id, None);
                }
            }
            // Its PUBREL comes once the broker knows.
            (AckKind::PubRec, Some(Step::Recording)) => {}
            (AckKind::PubRec, Some(Step::Released)) => {
                self.acknowledge(AckKind::PubRel, id, ReasonCode::SUCCESS);
            }
            (AckKind::PubRec, None) => {
                let reason = match self.version() {
                    Version::V5 => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
                    _ => ReasonCode::SUCCESS,
                };
                self.acknowledge(AckKind::PubRel, id, reason);
            }
            (AckKind::PubComp, Some(Step::Released)) => {
                self.flights.end(id);
                if self.client.lasts {
                    self.gathered.get_or_insert_default().notes.push(notes::recorded(id, false));
                }
                self.deliver_waiting();
            }
            // It was acknowledged before, or never sent; nothing follows from it.
            (_, None) => {}
            (_, Some(_)) => {
                let problem = Problem::Value(u64::from(id));
                return Err(Fault::protocol(kind.kind(), "Packet Identifier", problem));
            }
        }
        Ok(())
    }

    /// Takes the PUBACKs that `input` begins with and that nothing but their identifiers, one after
    /// the other, is said in; returns whether there were any. Others go the long way.
    pub(super) fn acknowledged_run(&mut self, input: &mut Input) -> bool {
        let Some((id, len)) = pub_acks(input.bytes()) else { return false };
        let Some((held, len)) = self.flights.end_all(id, len) else { return false };
        input.skip(usize::from(len) * PUB_ACK_BYTES);
        self.settle(held, len, Outcome::Accept);
        self.deliver_waiting();
        true
    }

    /// The client has taken a delivery, or will have none of it: it is not sent again either way
    /// [MQTT-4.4.0-2].
    fn is_over(&mut self, id: u16, held: Held, reason: ReasonCode) {
        self.flights.end(id);
        let outcome = if reason.is_error() { Outcome::Reject } else { Outcome::Accept };
        self.settle(held, 1, outcome);
        self.deliver_waiting();
    }

    /// The client has recorded a delivery of QoS 2: it leaves its queue, if it has not before, and
    /// a PUBREL is due [MQTT-4.3.3-4], both or neither.
    fn is_recorded(&mut self, id: u16, held: Option<Held>) {
        self.flights.go_on(id, Step::Recording);
        if let Some(held) = held {
            add(&mut self.gathered.get_or_insert_default().settlements, held, 1, Outcome::Accept);
        }
        if self.client.lasts {
            self.gathered.get_or_insert_default().notes.push(notes::recorded(id, true));
        }
        self.gathered.get_or_insert_default().answers.push(Answer::Release(id));
    }

    /// Settles `len` deliveries from `held` on, as part of the command before it where that settles,
    /// too.
    pub(super) fn settle(&mut self, held: Held, len: u16, outcome: Outcome) {
        if let Some(Command::Settle { token: Token::SILENT, settlements, transaction: None }) =
            self.commands.back_mut()
        {
            add(settlements, held, len, outcome);
            return;
        }
        let mut settlements = Vec::new();
        add(&mut settlements, held, len, outcome);
        let token = Token::SILENT;
        self.commands.push_back(Command::Settle { token, settlements, transaction: None });
    }

    /// The PUBRELs of an earlier connection are sent again [MQTT-4.4.0-1].
    pub(super) fn release_again(&mut self, id: u16) {
        self.flights.begin(id, Step::Released, false);
        self.acknowledge(AckKind::PubRel, id, ReasonCode::SUCCESS);
    }
}

/// Milliseconds that are left of a message's Message Expiry Interval once it has waited for
/// `waited_ms` [MQTT-3.3.2-6]; `None` if it has none. The record says more exactly how long it
/// was to live, or, of one that was kept, what was left of that when it came into the queue.
pub(super) fn left_ms(record: &Record, properties: Properties<'_>, waited_ms: u64) -> Option<u64> {
    let published_ms = u64::from(properties.message_expiry_s()?) * 1000;
    let ms = if record.ttl_ms == NO_TTL { published_ms } else { u64::from(record.ttl_ms) };
    Some(ms.saturating_sub(waited_ms))
}

/// Adds the settlement of `len` deliveries from `held` on to others, and to the last run of them
/// where they touch.
pub(super) fn add(settlements: &mut Vec<Settlement>, held: Held, len: u16, outcome: Outcome) {
    let Held { queue, sequence: first, epoch } = held;
    let len = u32::from(len);
    match settlements.last_mut() {
        Some(last)
            if (last.queue, last.epoch, last.outcome) == (queue, epoch, outcome)
                && last.first + u64::from(last.len) == first =>
        {
            last.len += len;
        }
        _ => settlements.push(Settlement { queue, first, len, epoch, outcome }),
    }
}
