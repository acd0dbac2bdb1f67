//! What clients publish (section 3.3, 4.3): runs of whole packets where they lie, and those whose
//! topic only an alias tells, or that go to another exchange.

use std::sync::Arc;

use isthmus_contract::Input;
use isthmus_model::{Batch, RecordFlags};

use super::MqttSession;
use super::aliases::Taken;
use super::gather::Answer;
use super::in_use::InUse;
use super::notes;
use super::packet_ids::ById;
use crate::ReasonCode;
use crate::codec::{Ack, AckKind, Kind, Publish, Qos, Sender, Version, frame};
use crate::convert::stored::{Draft, Message, seal, store};
use crate::fault::{Fault, Problem};

/// Bytes of input that become one chunk at the most: offsets into it have 32 bits.
const CHUNK_BYTES_MAX: usize = 1 << 30;

/// What is known of a client's publishes.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Packet identifiers of QoS 2 that are not released, and whether they are among
    /// [`Incoming::outstanding`]: not those that an earlier connection has brought.
    pub(super) received: ById<bool>,
    /// Publishes of this connection that are not answered to the end (section 4.9).
    pub(super) outstanding: u32,
    /// Packet identifiers of publishes of QoS 1 that are not answered.
    pub(super) unanswered: InUse,
    /// Publishes go one by one: one was refused, and which of a batch that is, is not told.
    pub(super) is_careful: bool,
    pub(super) aliases: Taken,
}

/// A batch in the making.
#[derive(Default)]
struct Run {
    /// Bytes of input.
    len: usize,
    drafts: Vec<Draft>,
    /// Records to be retained.
    retained: Vec<usize>,
    answers: Vec<Answer>,
}

impl MqttSession {
    /// Takes the publishes that `input` begins with into one batch; returns whether there were
    /// any. One whose topic is an alias alone or begins with `$`, and what is not whole, ends the
    /// run.
    pub(super) fn publish_run(&mut self, input: &mut Input) -> Result<bool, Fault> {
        let mut run = Run::default();
        let mut failed = Ok(());
        while run.len < CHUNK_BYTES_MAX && !(self.incoming.is_careful && run.len > 0) {
            let bytes = &input.bytes()[run.len..];
            if bytes.first().is_none_or(|first| Kind::of(*first) != Kind::Publish) {
                break;
            }
            if self.holds_publishes() {
                self.holding = true;
                break;
            }
            let next = frame::next(bytes, self.config.packet_bytes_max);
            let Ok(Some(frame)) = next else {
                failed = next.map(|_| ());
                break;
            };
            let publish = match Publish::read(&frame, self.version(), Sender::Client) {
                Ok(publish) if publish.topic.is_empty() || publish.topic.starts_with('$') => break,
                Ok(publish) => publish,
                Err(fault) => {
                    failed = Err(fault);
                    break;
                }
            };
            failed = self.check_publish(&publish);
            if failed.is_err() {
                break;
            }
            let record = run.drafts.len() as u32;
            if self.is_new(&publish, record, &mut run.answers) {
                if publish.retain {
                    run.retained.push(run.drafts.len());
                }
                run.drafts.push(Draft::new(&publish, &frame, run.len));
            }
            run.len += frame.wire_len();
        }
        // What came before a fault has been published.
        let any = run.len > 0;
        if run.drafts.is_empty() {
            input.skip(run.len);
            self.gathered.get_or_insert_default().answers.extend(run.answers);
        } else {
            let batch = seal(input.take(run.len), &self.config.exchange, run.drafts);
            self.publish(Arc::new(retaining(batch, &run.retained)), run.answers);
        }
        failed.map(|()| any)
    }

    /// Takes a publish whose topic an alias tells or begins with `$`.
    pub(super) fn publish_one(&mut self, publish: &Publish<'_>) -> Result<(), Fault> {
        self.check_publish(publish)?;
        let known;
        let topic = if publish.topic.is_empty() {
            let alias = publish.properties.topic_alias().unwrap_or_default();
            let Some(topic) = self.incoming.aliases.topic(alias) else {
                // Section 3.3.2.3.4: the mapping must have been made.
                let problem = Problem::Value(u64::from(alias));
                return Err(Fault::protocol(Kind::Publish, "Topic Alias", problem));
            };
            known = topic.to_owned();
            &known
        } else {
            publish.topic
        };
        if is_system(topic) {
            self.deny(publish);
            return Ok(());
        }
        let mut answers = Vec::new();
        if self.is_new(publish, 0, &mut answers) {
            let batch = store(&Message::published(publish, topic), &self.config.exchange);
            let retained: &[usize] = if publish.retain { &[0] } else { &[] };
            let batch = retaining(Arc::unwrap_or_clone(batch), retained);
            self.publish(Arc::new(batch), answers);
        } else {
            self.gathered.get_or_insert_default().answers.extend(answers);
        }
        Ok(())
    }

    /// Checks what the CONNACK has told, and notes what an alias stands for.
    fn check_publish(&mut self, publish: &Publish<'_>) -> Result<(), Fault> {
        // [MQTT-3.3.4-7]; before 5.0 clients are told no limit.
        let is_known = self.incoming.received.contains_key(&publish.packet_id);
        if publish.qos != Qos::AtMostOnce
            && self.version() == Version::V5
            && self.incoming.outstanding >= u32::from(self.config.receive_max)
            && !(publish.qos == Qos::ExactlyOnce && is_known)
        {
            let problem = Problem::TooMany { max: u64::from(self.config.receive_max) };
            let reason = ReasonCode::RECEIVE_MAXIMUM_EXCEEDED;
            return Err(Fault::because(reason, Kind::Publish, "Packet Identifier", problem));
        }
        let Some(alias) = publish.properties.topic_alias() else { return Ok(()) };
        if alias > self.config.topic_alias_max {
            let problem = Problem::Value(u64::from(alias));
            let reason = ReasonCode::TOPIC_ALIAS_INVALID;
            return Err(Fault::because(reason, Kind::Publish, "Topic Alias", problem));
        }
        if !publish.topic.is_empty() {
            self.incoming.aliases.set(alias, publish.topic);
        }
        Ok(())
    }

    /// Whether `publish`, which becomes `record` of its batch, has not come before
    /// [MQTT-4.3.3-10]; adds its answer.
    fn is_new(&mut self, publish: &Publish<'_>, record: u32, answers: &mut Vec<Answer>) -> bool {
        let &Publish { qos, packet_id, .. } = publish;
        if qos != Qos::AtMostOnce {
            if let Some((kind, reason)) = self.known_as(publish) {
                answers.push(Answer::Say { kind, packet_id, reason, ends: false });
                return false;
            }
            if qos == Qos::ExactlyOnce {
                self.incoming.received.insert(packet_id, true);
            } else if self.version() == Version::V5 {
                self.incoming.unanswered.insert(packet_id);
            }
            self.incoming.outstanding += 1;
            answers.push(Answer::Taken { batch: 0, record, packet_id, qos });
        }
        self.allowance = self.allowance.saturating_sub(1);
        true
    }

    /// What a publish is answered with whose packet identifier is in use. With QoS 2 it is the same
    /// message again; any other use of it 5.0 tells [MQTT-2.2.1-3]. Before, clients may send
    /// publishes again whenever they like.
    fn known_as(&self, publish: &Publish<'_>) -> Option<(AckKind, ReasonCode)> {
        let &Publish { qos, packet_id, .. } = publish;
        let is_received = self.incoming.received.contains_key(&packet_id);
        let kind = match qos {
            Qos::ExactlyOnce if is_received => {
                return Some((AckKind::PubRec, ReasonCode::SUCCESS));
            }
            Qos::ExactlyOnce => AckKind::PubRec,
            _ => AckKind::PubAck,
        };
        let is_in_use = self.version() == Version::V5
            && (is_received
                || self.incoming.unanswered.contains(packet_id)
                || self.subscriptions.is_asking(packet_id));
        is_in_use.then_some((kind, ReasonCode::PACKET_IDENTIFIER_IN_USE))
    }

    /// Whether the packet identifier of a SUBSCRIBE or UNSUBSCRIBE is in use, and 5.0 tells that.
    pub(super) fn is_in_use(&self, packet_id: u16) -> bool {
        self.version() == Version::V5
            && (self.incoming.received.contains_key(&packet_id)
                || self.incoming.unanswered.contains(packet_id)
                || self.subscriptions.is_asking(packet_id))
    }

    /// Answers a publish to a topic that only the broker publishes to. 5.0 has a reason code for
    /// it. Before, a server may acknowledge what it does not allow, or close the connection
    /// [MQTT-3.3.5-2 of 3.1.1]: a client would come back with the same publish for ever, and
    /// nothing is lost that anybody could have got, so it is acknowledged, as by other brokers.
    fn deny(&mut self, publish: &Publish<'_>) {
        let kind = match publish.qos {
            Qos::AtMostOnce => return,
            Qos::AtLeastOnce => AckKind::PubAck,
            Qos::ExactlyOnce => AckKind::PubRec,
        };
        let reason = match self.version() {
            Version::V5 => ReasonCode::NOT_AUTHORIZED,
            _ => ReasonCode::SUCCESS,
        };
        let packet_id = publish.packet_id;
        self.gathered.get_or_insert_default().answers.push(Answer::Say {
            kind,
            packet_id,
            reason,
            ends: false,
        });
    }

    /// Takes a PUBREL: the packet identifier may be forgotten [MQTT-4.3.3-11].
    pub(super) fn released(&mut self, ack: &Ack<'_>) {
        let (kind, packet_id) = (AckKind::PubComp, ack.packet_id);
        let known = self.incoming.received.remove(&packet_id);
        let reason = match known {
            None if self.version() == Version::V5 => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            _ => ReasonCode::SUCCESS,
        };
        if known.is_some() && self.client.lasts {
            self.gathered.get_or_insert_default().notes.push(notes::received(packet_id, false));
        }
        let ends = known == Some(true);
        self.gathered.get_or_insert_default().answers.push(Answer::Say {
            kind,
            packet_id,
            reason,
            ends,
        });
    }
}

/// Whether `topic` is one of the broker's own: clients have none that begin with `$` (section 4.7.2).
pub(super) fn is_system(topic: &str) -> bool {
    topic.starts_with('$')
}

/// `batch`, of which the records `retained` are to be kept by the exchange.
pub(super) fn retaining(mut batch: Batch, retained: &[usize]) -> Batch {
    for at in retained {
        let flags = &mut batch.records[*at].flags;
        *flags = flags.with(RecordFlags::RETAIN);
    }
    batch
}
