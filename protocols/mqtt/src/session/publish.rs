//! What clients publish (section 3.3, 3.4): runs of whole packets where they lie, and those whose
//! topic only an alias tells.

use std::collections::VecDeque;
use std::sync::Arc;

use isthmus_contract::{Command, CommandError, Input, PublishRefusal, Reply};
use isthmus_model::{Batch, Token};

use super::MqttSession;
use crate::ReasonCode;
use crate::codec::{Ack, AckKind, Kind, Publish, Qos, Sender, Version, frame};
use crate::convert::stored::{Draft, Message, seal, store};
use crate::fault::{Fault, Problem};

/// Bytes of input that become one chunk at the most: offsets into it have 32 bits.
const CHUNK_BYTES_MAX: usize = 1 << 30;

/// A record of a batch, and the packet identifier that its acknowledgement names.
type Awaited = (u32, u16);

/// Batches that the broker has not answered, in order.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    batches: VecDeque<(Token, Vec<Awaited>)>,
}

impl Publishing {
    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }

    fn take(&mut self, token: Token) -> Option<Vec<Awaited>> {
        // Nearly always the first.
        let at = self.batches.iter().position(|(own, _)| *own == token)?;
        self.batches.remove(at).map(|(_, awaited)| awaited)
    }
}

impl MqttSession {
    /// Takes the publishes that `input` begins with into one batch; returns whether there were
    /// any. One whose topic is an alias alone, and what is not whole, ends the run.
    pub(super) fn publish_run(&mut self, input: &mut Input) -> Result<bool, Fault> {
        let (mut at, mut drafts, mut awaited) = (0, Vec::new(), Vec::new());
        let mut failed = Ok(());
        while at < CHUNK_BYTES_MAX {
            let bytes = &input.bytes()[at..];
            if bytes.first().is_none_or(|first| Kind::of(*first) != Kind::Publish) {
                break;
            }
            if self.shortage.is_any() {
                self.holding = true;
                break;
            }
            let next = frame::next(bytes, self.config.packet_bytes_max);
            let Ok(Some(frame)) = next else {
                failed = next.map(|_| ());
                break;
            };
            let publish = match Publish::read(&frame, self.version(), Sender::Client) {
                Ok(publish) if publish.topic.is_empty() => break,
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
            if publish.qos != Qos::AtMostOnce {
                awaited.push((drafts.len() as u32, publish.packet_id));
            }
            drafts.push(Draft::new(&publish, &frame, at));
            at += frame.wire_len();
        }
        // What came before a fault has been published.
        let any = !drafts.is_empty();
        if any {
            let batch = seal(input.take(at), &self.config.exchange, drafts);
            self.publish(Arc::new(batch), awaited);
        }
        failed.map(|()| any)
    }

    /// Takes a publish whose topic an alias tells.
    pub(super) fn publish_one(&mut self, publish: &Publish<'_>) -> Result<(), Fault> {
        self.check_publish(publish)?;
        let alias = publish.properties.topic_alias().map_or(0, usize::from);
        let known = alias.checked_sub(1).and_then(|i| self.peer.aliases.get(i)?.as_deref());
        let Some(topic) = known else {
            // Section 3.3.2.3.4: the mapping must have been made.
            let problem = Problem::Value(alias as u64);
            return Err(Fault::protocol(Kind::Publish, "Topic Alias", problem));
        };
        let batch = store(&Message::published(publish, topic), &self.config.exchange);
        let awaited = match publish.qos {
            Qos::AtMostOnce => Vec::new(),
            _ => vec![(0, publish.packet_id)],
        };
        self.publish(batch, awaited);
        Ok(())
    }

    /// Refuses what the CONNACK has told not to be there, and notes what an alias stands for.
    fn check_publish(&mut self, publish: &Publish<'_>) -> Result<(), Fault> {
        let refuse = |reason, field, value| {
            Err(Fault::because(reason, Kind::Publish, field, Problem::Value(value)))
        };
        if publish.qos == Qos::ExactlyOnce {
            return refuse(ReasonCode::QOS_NOT_SUPPORTED, "QoS", 2);
        }
        if publish.retain && self.version() == Version::V5 {
            return refuse(ReasonCode::RETAIN_NOT_SUPPORTED, "RETAIN flag", 1);
        }
        let Some(alias) = publish.properties.topic_alias() else { return Ok(()) };
        if alias > self.config.topic_alias_max {
            return refuse(ReasonCode::TOPIC_ALIAS_INVALID, "Topic Alias", u64::from(alias));
        }
        if !publish.topic.is_empty() {
            let aliases = &mut self.peer.aliases;
            let at = usize::from(alias) - 1;
            if aliases.len() <= at {
                aliases.resize(at + 1, None);
            }
            aliases[at] = Some(publish.topic.into());
        }
        Ok(())
    }

    fn publish(&mut self, batch: Arc<Batch>, awaited: Vec<Awaited>) {
        let token = if awaited.is_empty() { Token::SILENT } else { self.token() };
        if !awaited.is_empty() {
            self.publishing.batches.push_back((token, awaited));
        }
        let publish = isthmus_contract::Publish { token, batch, transaction: None };
        self.commands.push_back(Command::Publish(publish));
    }

    /// Acknowledges what the broker has taken [MQTT-4.3.2-4].
    pub(super) fn published(&mut self, token: Token, result: Result<Reply, CommandError>) {
        let awaited = self.publishing.take(token).unwrap_or_default();
        let exceptions = match result {
            Ok(Reply::Published { exceptions }) => exceptions,
            Ok(_) => Vec::new(),
            Err(error) => return self.refused(&awaited, &error),
        };
        let mut refused = exceptions.iter().peekable();
        for (record, packet_id) in awaited {
            while refused.next_if(|exception| exception.record < record).is_some() {}
            let reason = match refused.peek() {
                Some(exception) if exception.record == record => match exception.refusal {
                    PublishRefusal::Full => ReasonCode::QUOTA_EXCEEDED,
                    PublishRefusal::Unroutable => ReasonCode::NO_MATCHING_SUBSCRIBERS,
                    PublishRefusal::NoExchange | PublishRefusal::InternalExchange => {
                        ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
                    }
                },
                _ => ReasonCode::SUCCESS,
            };
            self.acknowledge(packet_id, reason);
        }
    }

    /// Tells that none of the `awaited` was taken.
    fn refused(&mut self, awaited: &[Awaited], error: &CommandError) {
        let reason = match error {
            CommandError::Refused(_) => ReasonCode::NOT_AUTHORIZED,
            CommandError::Limit(_) => ReasonCode::QUOTA_EXCEEDED,
            _ => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
        };
        for (_, packet_id) in awaited {
            self.acknowledge(*packet_id, reason);
        }
    }

    /// Writes a PUBACK. Before 5.0 it cannot say that something failed, and a publish that was
    /// not taken must not be acknowledged: the connection ends instead.
    fn acknowledge(&mut self, packet_id: u16, reason: ReasonCode) {
        if self.version() != Version::V5 && reason.is_error() {
            self.end();
            return;
        }
        let ack = Ack { reason, ..Ack::success(packet_id) };
        // Without properties it is never too long.
        let _ = ack.write(AckKind::PubAck, self.version(), self.outbox.buf());
    }
}
