//! What clients get (section 3.3, 3.4, 4.3).

use std::collections::HashMap;

use isthmus_contract::{Command, Delivery};
use isthmus_model::{EncodingId, LeaseEpoch, Outcome, QueueId, RecordFlags, Settlement, Token};

use super::MqttSession;
use crate::codec::publish::{Outgoing, TopicName};
use crate::codec::{Ack, AckKind, PropertiesBuf, Qos, Version};
use crate::convert::properties::of_encoding;
use crate::convert::stored::Head;
use crate::convert::topic::{is_topic_name, swapped_text};
use crate::fault::{Fault, Problem};

/// QoS 1 deliveries that the client has not acknowledged, by their packet identifiers.
#[derive(Debug, Default)]
pub(super) struct Inflight {
    unacknowledged: HashMap<u16, (QueueId, u64, LeaseEpoch)>,
    /// The packet identifier given out last.
    last_id: u16,
}

impl Inflight {
    /// A packet identifier that is not in use [MQTT-2.2.1-4]; `None` if all are, which the window
    /// of its consumer does not let happen.
    fn next_id(&mut self) -> Option<u16> {
        (0..u16::MAX).find_map(|_| {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            (!self.unacknowledged.contains_key(&self.last_id)).then_some(self.last_id)
        })
    }
}

impl MqttSession {
    pub(super) fn deliver(&mut self, deliveries: &[Delivery]) {
        for delivery in deliveries {
            for offset in 0..delivery.len {
                self.deliver_one(delivery, offset);
            }
        }
    }

    fn deliver_one(&mut self, delivery: &Delivery, offset: u32) {
        let batch = &delivery.batch;
        let Some(record) = batch.records.get((delivery.record + offset) as usize) else { return };
        // The consumer's number is the QoS that its subscriptions were granted.
        let granted = if delivery.consumer.0 == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce };
        let moved = delivery.annotations.as_ref().and_then(|a| a.routing_key.as_deref());
        let key = moved.unwrap_or_else(|| batch.routing_key(record));
        let converted;
        let (published, properties) = match self.head(delivery, record) {
            Told::Stored(head) => (head.qos, head.properties),
            Told::Converted(qos, properties) => {
                converted = properties;
                (qos, converted.as_properties())
            }
        };
        let qos = published.min(granted);
        let packet_id = if qos == Qos::AtMostOnce { Some(0) } else { self.inflight.next_id() };
        let written = self.is_for_client(granted, key)
            && packet_id.is_some_and(|packet_id| {
                let outgoing = Outgoing {
                    version: self.peer.version,
                    dup: delivery.redelivered,
                    qos,
                    retain: false,
                    topic: TopicName::RoutingKey(key.as_bytes()),
                    packet_id,
                    expiry_left_s: None,
                    subscription_ids: &[],
                    properties,
                    chunk: &batch.chunk,
                    payload: record.body,
                };
                outgoing.write(&mut self.outbox, self.peer.packet_max)
            });
        let sequence = delivery.first + u64::from(offset);
        match packet_id {
            Some(id) if written && qos != Qos::AtMostOnce => {
                let held = (delivery.queue, sequence, delivery.epoch);
                self.inflight.unacknowledged.insert(id, held);
            }
            // Nobody will acknowledge it.
            _ if granted != Qos::AtMostOnce => {
                self.settle((delivery.queue, sequence, delivery.epoch), Outcome::Accept);
            }
            _ => {}
        }
    }

    /// Whether the message with `key` is one that the client can be told, and has asked for: its
    /// bindings know nothing of the rule for `$` [MQTT-4.7.2-1].
    fn is_for_client(&self, granted: Qos, key: &str) -> bool {
        is_topic_name(key)
            && (!key.starts_with('$') || self.subscriptions.matches(granted, &swapped_text(key)))
    }

    fn head<'d>(&self, delivery: &'d Delivery, record: &isthmus_model::Record) -> Told<'d> {
        let batch = &delivery.batch;
        let bytes = record.head.of(&batch.chunk);
        if batch.encoding == EncodingId::MQTT
            && let Some(head) = Head::read(bytes)
        {
            return Told::Stored(head);
        }
        let durable = record.flags.has(RecordFlags::DURABLE);
        let qos = if durable { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        let encoding = self.config.encodings.get(batch.encoding);
        let properties = match encoding.filter(|_| self.peer.version == Version::V5) {
            // What does not fit is left out: the body is what matters most.
            Some(encoding) => of_encoding(encoding, bytes).unwrap_or_default(),
            None => PropertiesBuf::new(),
        };
        Told::Converted(qos, properties)
    }

    /// Takes an acknowledgement of the client.
    pub(super) fn acknowledged(&mut self, kind: AckKind, ack: &Ack<'_>) -> Result<(), Fault> {
        if kind != AckKind::PubAck {
            // QoS 2 is in no conversation of this session.
            let problem = Problem::Value(u64::from(ack.packet_id));
            return Err(Fault::protocol(kind.kind(), "Packet Identifier", problem));
        }
        // One that is not known was acknowledged before, or never sent; nothing follows from it.
        if let Some(held) = self.inflight.unacknowledged.remove(&ack.packet_id) {
            let outcome = if ack.reason.is_error() { Outcome::Reject } else { Outcome::Accept };
            self.settle(held, outcome);
        }
        Ok(())
    }

    /// Settles a delivery, as part of the command before it where that settles, too, and of its
    /// last run where they touch.
    fn settle(&mut self, held: (QueueId, u64, LeaseEpoch), outcome: Outcome) {
        let (queue, first, epoch) = held;
        let settlement = Settlement { queue, first, len: 1, epoch, outcome };
        let Some(Command::Settle { token: Token::SILENT, settlements, .. }) =
            self.commands.back_mut()
        else {
            self.commands.push_back(Command::Settle {
                token: Token::SILENT,
                settlements: vec![settlement],
                transaction: None,
            });
            return;
        };
        match settlements.last_mut() {
            Some(last)
                if (last.queue, last.epoch, last.outcome) == (queue, epoch, outcome)
                    && last.first + u64::from(last.len) == first =>
            {
                last.len += 1;
            }
            _ => settlements.push(settlement),
        }
    }
}

/// QoS and properties of a message.
enum Told<'d> {
    /// As it was stored from MQTT.
    Stored(Head<'d>),
    /// Of another protocol, converted.
    Converted(Qos, PropertiesBuf),
}
