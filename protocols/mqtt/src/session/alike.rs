//! What many clients get alike: with nothing in it that is a client's own, a message is the same
//! bytes for everybody who speaks the same version and gets it with the same QoS, but for the packet
//! identifier of QoS 1. A batch that goes to several of them is encoded once. With QoS 0 its bytes are
//! referred to in each outbox; with QoS 1 they are copied there, and each gets its identifier.

use std::sync::Arc;

use isthmus_contract::{Delivery, Outbox};
use isthmus_model::{Batch, Form};

use super::MqttSession;
use super::lanes::Lane;
use super::outgoing::left_ms;
use super::packet_ids::{Held, of_sequence};
use crate::codec::publish::{Outgoing, TopicName, set_packet_id};
use crate::codec::{Qos, Version};
use crate::convert::topic::is_topic_name;

/// How many must hold a batch for it to be likely that others get it, too: its delivery, its queue,
/// and those of three others. Encoding it whole for one who gets it alone would cost more than it
/// saves.
const HOLDERS_MIN: usize = 5;

/// Which form of a batch is for a version and a QoS: 3.1 and 3.1.1 have the same PUBLISH.
fn form_of(version: Version, qos: Qos) -> Option<usize> {
    let version = usize::from(version == Version::V5);
    match qos {
        Qos::AtMostOnce => Some(version),
        Qos::AtLeastOnce => Some(2 + version),
        Qos::ExactlyOnce => None,
    }
}

impl MqttSession {
    /// Delivers `delivery` as others get it; false if it has something of its own, and is to be
    /// delivered message by message.
    pub(super) fn deliver_alike(&mut self, delivery: &Delivery) -> bool {
        let Some(lane) = Lane::from_number(delivery.consumer.0) else { return false };
        if delivery.annotations.is_some()
            || !self.waiting.is_empty()
            || self.has_claims_to_send()
            || self.given.may_be_told()
        {
            return false;
        }
        let Some(qos) = self.subscriptions.filters.tell_only(lane) else { return false };
        debug_assert_eq!(lane.is_acknowledged(), qos != Qos::AtMostOnce, "what lanes are for");
        let Some(number) = form_of(self.peer.version, qos) else { return false };
        let batch = &delivery.batch;
        let form = match batch.forms.get(number) {
            Some(form) => form,
            None if Arc::strong_count(batch) >= HOLDERS_MIN && is_of_small(batch) => {
                batch.forms.get_or_make(number, || self.form(delivery, qos))
            }
            None => None,
        };
        let Some(form) = form.filter(|form| form.largest() <= self.peer.packet_max) else {
            return false;
        };
        let Some(span) = form.span(delivery.record, delivery.len) else { return false };
        if qos == Qos::AtMostOnce {
            self.outbox.push_slice(form.bytes(), span);
            return true;
        }
        self.deliver_form(lane, delivery, form)
    }

    /// Delivers what a form of QoS 1 has of `delivery`; false if not all of it may be sent now.
    fn deliver_form(&mut self, lane: Lane, delivery: &Delivery, form: &Form) -> bool {
        let first = of_sequence(lane, delivery.first);
        let Ok(len) = u16::try_from(delivery.len) else { return false };
        // Where the lane's identifiers begin anew, they are no run.
        let last = of_sequence(lane, delivery.first + u64::from(len.saturating_sub(1)));
        if delivery.redelivered
            || len == 0
            || first.checked_add(len - 1) != Some(last)
            || self.flights.counted() + u32::from(len) > self.inflight_max()
            || !self.flights.are_free(first, len)
        {
            return false;
        }
        for (message, id) in form.messages(delivery.record, delivery.len).zip(first..=last) {
            let buf = self.outbox.buf();
            let at = buf.len();
            buf.extend_from_slice(message);
            set_packet_id(&mut buf[at..], id);
        }
        let &Delivery { queue, first: sequence, epoch, .. } = delivery;
        self.flights.begin_all(first, Held { queue, sequence, epoch }, len);
        true
    }

    /// All messages of a batch with `qos`, 0 or 1; `None` if some would have to be told to each
    /// client for itself, or have another QoS.
    fn form(&self, delivery: &Delivery, qos: Qos) -> Option<Form> {
        let batch = &delivery.batch;
        let mut bytes = Vec::with_capacity(batch.chunk.len() + 4 * batch.records.len());
        let mut ends = Vec::with_capacity(batch.records.len());
        for record in &batch.records {
            let key = batch.routing_key(record);
            // Filters with a wildcard in front do not match these.
            if key.starts_with('$') {
                return None;
            }
            // What is no topic's name goes to nobody, and is settled where somebody could.
            let is_name = is_topic_name(key);
            if !is_name && qos != Qos::AtMostOnce {
                return None;
            }
            if is_name {
                let told = self.told(delivery, record);
                let properties = told.properties();
                // What is left of its life depends on how long it has waited where.
                if told.qos() < qos || left_ms(record, properties, 0).is_some() {
                    return None;
                }
                let outgoing = Outgoing {
                    version: self.peer.version,
                    dup: false,
                    qos,
                    retain: false,
                    topic: TopicName::RoutingKey(key.as_bytes()),
                    packet_id: 0,
                    expiry_left_s: None,
                    subscription_ids: &[],
                    properties,
                    chunk: &batch.chunk,
                    payload: record.body,
                };
                outgoing.write_whole(&mut bytes);
            }
            ends.push(u32::try_from(bytes.len()).ok()?);
        }
        Some(Form::new(bytes.into(), ends))
    }
}

/// Whether its messages would be copied anyhow.
fn is_of_small(batch: &Batch) -> bool {
    batch.chunk.len() / batch.records.len().max(1) < Outbox::COPY_MAX_BYTES
}
