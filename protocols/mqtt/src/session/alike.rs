//! What many clients get alike: with QoS 0, and nothing in it that is a client's own, a message is
//! the same bytes for everybody who speaks the same version. A batch that goes to several of them is
//! encoded once, and its bytes are referred to in each outbox.

use std::sync::Arc;

use isthmus_contract::{Delivery, Outbox};
use isthmus_model::{Batch, Form};

use super::MqttSession;
use super::lanes::Lane;
use super::outgoing::left_ms;
use crate::codec::publish::{Outgoing, TopicName};
use crate::codec::{Qos, Version};
use crate::convert::topic::is_topic_name;

/// How many must hold a batch for it to be likely that others get it, too: its delivery, its queue,
/// and those of three others. Encoding it whole for one who gets it alone would cost more than it
/// saves.
const HOLDERS_MIN: usize = 5;

/// Which form of a batch is for a version: 3.1 and 3.1.1 have the same PUBLISH.
fn form_of(version: Version) -> usize {
    match version {
        Version::V5 => 1,
        _ => 0,
    }
}

impl MqttSession {
    /// Delivers `delivery` as others get it; false if it has something of its own, and is to be
    /// delivered message by message.
    pub(super) fn deliver_alike(&mut self, delivery: &Delivery) -> bool {
        let Some(lane) = Lane::from_number(delivery.consumer.0) else { return false };
        let batch = &delivery.batch;
        if lane.is_acknowledged()
            || delivery.annotations.is_some()
            || !self.waiting.is_empty()
            || self.has_claims_to_send()
            || self.given.may_be_told()
            || !self.subscriptions.filters.tell_nothing(lane)
        {
            return false;
        }
        let number = form_of(self.peer.version);
        let form = match batch.forms.get(number) {
            Some(form) => form,
            None if Arc::strong_count(batch) >= HOLDERS_MIN && is_of_small(batch) => {
                batch.forms.get_or_make(number, || self.form(delivery))
            }
            None => None,
        };
        let Some(form) = form.filter(|form| form.largest() <= self.peer.packet_max) else {
            return false;
        };
        let Some(span) = form.span(delivery.record, delivery.len) else { return false };
        self.outbox.push_slice(form.bytes(), span);
        true
    }

    /// All messages of a batch with QoS 0; `None` if some would have to be told to each client for
    /// itself.
    fn form(&self, delivery: &Delivery) -> Option<Form> {
        let batch = &delivery.batch;
        let mut bytes = Vec::with_capacity(batch.chunk.len() + 4 * batch.records.len());
        let mut ends = Vec::with_capacity(batch.records.len());
        for record in &batch.records {
            let key = batch.routing_key(record);
            // Filters with a wildcard in front do not match these.
            if key.starts_with('$') {
                return None;
            }
            // What is no topic's name goes to nobody.
            if is_topic_name(key) {
                let told = self.told(delivery, record);
                let properties = told.properties();
                // What is left of its life depends on how long it has waited where.
                if left_ms(record, properties, 0).is_some() {
                    return None;
                }
                let outgoing = Outgoing {
                    version: self.peer.version,
                    dup: false,
                    qos: Qos::AtMostOnce,
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
