//! What one read of the client's bytes brought and is to take effect as one.
//!
//! Publishes of QoS 2 go into a transaction with the notes of their packet identifiers, so that
//! whoever resumes the session knows exactly those that were taken; PUBRECs settle their deliveries
//! in one with the notes that a PUBREL is due. A session that ends with its connection notes
//! nothing, and needs no transaction.
//!
//! Answers are told in the order of what they answer, as clients must tell theirs (section 4.6).

use std::collections::VecDeque;
use std::sync::Arc;

use isthmus_contract::{
    Command, CommandError, PublishException, PublishRefusal, Reply, Token, TransactOp,
};
use isthmus_model::{Batch, Note, NotesOf, Settlement, TransactionId};

use super::MqttSession;
use super::notes;
use super::packet_ids::Step;
use crate::ReasonCode;
use crate::codec::{Ack, AckKind, Qos, Version};

/// The session's only transaction.
const TRANSACTION: TransactionId = TransactionId(0);

/// What the client is told once the broker has done something.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// Whether a publish was taken: a PUBACK or PUBREC.
    Taken {
        /// Its batch among those of the same transaction.
        batch: usize,
        record: u32,
        packet_id: u16,
        qos: Qos,
    },
    /// A PUBREL, for the delivery that it names.
    Release(u16),
    /// The PUBLISH that was claimed under this packet identifier.
    Claimed(u16),
    /// Something that is certain.
    Say {
        kind: AckKind,
        packet_id: u16,
        reason: ReasonCode,
        /// Whether it ends a publish that is counted in the Receive Maximum.
        ends: bool,
    },
}

/// What is gathered until [`MqttSession::flush`].
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) batches: Vec<Noted>,
    pub(super) settlements: Vec<Settlement>,
    pub(super) notes: Vec<Note>,
    pub(super) answers: Vec<Answer>,
}

/// A batch to be published, with what is to be noted of its records that are taken.
#[derive(Debug)]
pub(super) struct Noted {
    batch: Arc<Batch>,
    notes: Vec<Note>,
    records: Vec<u32>,
}

/// A batch that was published, and its command's token.
#[derive(Debug)]
struct Published {
    token: Token,
    batch: Arc<Batch>,
    refused: Option<ReasonCode>,
}

/// Commands that the broker has not answered.
#[derive(Debug)]
pub(super) struct Pending {
    /// Of the last of them.
    token: Token,
    published: Vec<Published>,
    /// Of the others in a transaction.
    tokens: Vec<Token>,
    /// Why one of those failed.
    failed: Option<CommandError>,
    answers: Vec<Answer>,
}

impl Pending {
    fn new(token: Token, answers: Vec<Answer>) -> Pending {
        Pending { token, published: Vec::new(), tokens: Vec::new(), failed: None, answers }
    }
}

/// In the order of their commands.
pub(super) type Pendings = VecDeque<Pending>;

/// The reason code that says why a command was refused.
pub(super) fn reason_of(error: &CommandError) -> ReasonCode {
    match error {
        CommandError::Refused(_) => ReasonCode::NOT_AUTHORIZED,
        CommandError::Limit(_) => ReasonCode::QUOTA_EXCEEDED,
        CommandError::NotLeader => ReasonCode::USE_ANOTHER_SERVER,
        _ => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
    }
}

fn reason_of_refusal(refusal: PublishRefusal) -> ReasonCode {
    match refusal {
        PublishRefusal::Full => ReasonCode::QUOTA_EXCEEDED,
        PublishRefusal::Unroutable => ReasonCode::NO_MATCHING_SUBSCRIBERS,
        PublishRefusal::NoExchange | PublishRefusal::InternalExchange => {
            ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
        }
    }
}

impl MqttSession {
    /// Publishes `batch`. It joins what is gathered if it is to be noted, or comes behind what is.
    pub(super) fn publish(&mut self, batch: Arc<Batch>, mut answers: Vec<Answer>) {
        let is_noted = self.client.lasts
            && answers.iter().any(|a| matches!(a, Answer::Taken { qos: Qos::ExactlyOnce, .. }));
        let joins = self.gathered.as_ref().is_some_and(|gathered| !gathered.batches.is_empty());
        if is_noted || joins {
            let gathered = self.gathered.get_or_insert_default();
            let mut noted = Noted { batch, notes: Vec::new(), records: Vec::new() };
            for answer in &mut answers {
                if let Answer::Taken { batch, packet_id, qos, record } = answer {
                    *batch = gathered.batches.len();
                    if *qos == Qos::ExactlyOnce && self.client.lasts {
                        noted.notes.push(notes::received(*packet_id, true));
                        noted.records.push(*record);
                    }
                }
            }
            gathered.batches.push(noted);
            gathered.answers.extend(answers);
            return;
        }
        // Answers that are due before it.
        self.flush();
        let token = if answers.is_empty() { Token::SILENT } else { self.token() };
        if !answers.is_empty() {
            let mut pending = Pending::new(token, answers);
            pending.published.push(Published { token, batch: Arc::clone(&batch), refused: None });
            self.pendings.push_back(pending);
        }
        let publish = isthmus_contract::Publish { token, batch, transaction: None };
        self.commands.push_back(Command::Publish(publish));
    }

    /// Asks the broker for what is gathered.
    pub(super) fn flush(&mut self) {
        let Some(gathered) = self.gathered.take() else { return };
        let Gathered { batches, settlements, notes, answers } = *gathered;
        if !batches.is_empty() || !settlements.is_empty() && !notes.is_empty() {
            self.transact(batches, settlements, notes, answers);
            return;
        }
        if settlements.is_empty() && notes.is_empty() {
            match self.pendings.back_mut() {
                Some(pending) => pending.answers.extend(answers),
                None => answers.into_iter().for_each(|answer| self.say(answer, None)),
            }
            return;
        }
        let token = if answers.is_empty() { Token::SILENT } else { self.token() };
        if !answers.is_empty() {
            self.pendings.push_back(Pending::new(token, answers));
        }
        self.commands.push_back(if notes.is_empty() {
            Command::Settle { token, settlements, transaction: None }
        } else {
            Command::Note { token, notes, of: None, transaction: None }
        });
    }

    fn transact(
        &mut self,
        batches: Vec<Noted>,
        settlements: Vec<Settlement>,
        notes: Vec<Note>,
        answers: Vec<Answer>,
    ) {
        let mut pending = Pending::new(Token::SILENT, answers);
        let transaction = Some(TRANSACTION);
        if !std::mem::replace(&mut self.has_begun, true) {
            let op = TransactOp::Begin;
            let token = Token::SILENT;
            self.commands.push_back(Command::Transact { token, transaction: TRANSACTION, op });
        }
        let mut about = Vec::new();
        for Noted { batch, notes, records } in batches {
            let token = self.token();
            if !notes.is_empty() {
                about.push((notes, NotesOf { publish: token, records }));
            }
            let published = Published { token, batch: Arc::clone(&batch), refused: None };
            pending.published.push(published);
            let publish = isthmus_contract::Publish { token, batch, transaction };
            self.commands.push_back(Command::Publish(publish));
        }
        for (notes, of) in about {
            let token = self.token();
            pending.tokens.push(token);
            self.commands.push_back(Command::Note { token, notes, of: Some(of), transaction });
        }
        if !settlements.is_empty() {
            let token = self.token();
            pending.tokens.push(token);
            self.commands.push_back(Command::Settle { token, settlements, transaction });
        }
        if !notes.is_empty() {
            let token = self.token();
            pending.tokens.push(token);
            self.commands.push_back(Command::Note { token, notes, of: None, transaction });
        }
        pending.token = self.token();
        let (token, op) = (pending.token, TransactOp::Commit);
        self.commands.push_back(Command::Transact { token, transaction: TRANSACTION, op });
        self.pendings.push_back(pending);
    }

    /// Takes in what came of a command. What is not waited for, and what was silent, is passed
    /// over: publishes of QoS 0 have no answer.
    pub(super) fn gathered_done(&mut self, token: Token, result: Result<Reply, CommandError>) {
        if token == Token::SILENT {
            return;
        }
        // Nearly always the first.
        for at in 0..self.pendings.len() {
            let pending = &mut self.pendings[at];
            if pending.token == token {
                if let Some(pending) = self.pendings.remove(at) {
                    self.complete(pending, result);
                }
                return;
            }
            if let Some(published) = pending.published.iter_mut().find(|own| own.token == token) {
                published.refused = result.err().map(|error| reason_of(&error));
                return;
            }
            if pending.tokens.contains(&token) {
                pending.failed = pending.failed.take().or(result.err());
                return;
            }
        }
    }

    fn complete(&mut self, mut pending: Pending, result: Result<Reply, CommandError>) {
        let exceptions = match result {
            Ok(Reply::Published { exceptions }) => exceptions,
            Ok(_) => Vec::new(),
            // Of one publish without a transaction. Whether something was done is certain, save
            // for a node that leads no more.
            Err(error) if pending.published.iter().any(|own| own.token == pending.token) => {
                let reason = reason_of(&error);
                pending.published.iter_mut().for_each(|own| own.refused = Some(reason));
                if matches!(error, CommandError::NotLeader) {
                    pending.failed = Some(error);
                }
                Vec::new()
            }
            Err(error) => {
                pending.failed = Some(error);
                Vec::new()
            }
        };
        // What is not settled or noted must not be acknowledged: the client asks again.
        if let Some(error) = &pending.failed {
            return self.disconnect(reason_of(error), Some(&error.to_string()));
        }
        if pending.published.iter().any(|own| own.refused.is_some()) {
            self.incoming.is_careful = true;
        }
        for answer in pending.answers {
            let reason = match answer {
                Answer::Taken { batch, record, .. } => {
                    refusal(&pending.published, &exceptions, batch, record)
                }
                _ => None,
            };
            self.say(answer, reason);
        }
    }

    /// Tells the client; `refused` says why a publish was not taken.
    fn say(&mut self, answer: Answer, refused: Option<ReasonCode>) {
        match answer {
            Answer::Release(packet_id) => {
                self.flights.go_on(packet_id, Step::Released);
                self.acknowledge(AckKind::PubRel, packet_id, ReasonCode::SUCCESS);
            }
            Answer::Claimed(packet_id) => self.send_claimed(packet_id, false),
            Answer::Say { kind, packet_id, reason, ends } => {
                self.incoming.outstanding -= u32::from(ends);
                self.acknowledge(kind, packet_id, reason);
            }
            Answer::Taken { packet_id, qos, .. } => {
                let reason = refused.unwrap_or(ReasonCode::SUCCESS);
                if qos == Qos::ExactlyOnce {
                    self.recorded(packet_id, reason);
                    self.acknowledge(AckKind::PubRec, packet_id, reason);
                } else {
                    self.incoming.outstanding -= 1;
                    self.incoming.unanswered.remove(packet_id);
                    self.acknowledge(AckKind::PubAck, packet_id, reason);
                }
            }
        }
    }

    /// A publish of QoS 2 that was refused is over [MQTT-4.3.3-9]: its packet identifier may come
    /// with another one. It was not noted.
    fn recorded(&mut self, packet_id: u16, reason: ReasonCode) {
        if !reason.is_error() {
            return;
        }
        if let Some(is_counted) = self.incoming.received.remove(&packet_id) {
            self.incoming.outstanding -= u32::from(is_counted);
        }
    }

    /// Writes an acknowledgement. Before 5.0 it cannot say that something failed, and a publish
    /// that was not taken must not be acknowledged: the connection ends instead
    /// [MQTT-3.3.5-2 of 3.1.1].
    pub(super) fn acknowledge(&mut self, kind: AckKind, packet_id: u16, reason: ReasonCode) {
        if self.version() != Version::V5 && reason.is_error() {
            self.end();
            return;
        }
        let ack = Ack { reason, ..Ack::success(packet_id) };
        // Without properties it is never too long.
        let _ = ack.write(kind, self.version(), self.outbox.buf());
    }
}

/// Why the message `record` of the batch with the number `batch` was refused, if it was.
fn refusal(
    published: &[Published],
    exceptions: &[PublishException],
    batch: usize,
    record: u32,
) -> Option<ReasonCode> {
    let own = published.get(batch)?;
    if own.refused.is_some() {
        return own.refused;
    }
    let is_own = |exception: &&PublishException| {
        exception.record == record
            && (published.len() == 1 || Arc::ptr_eq(&exception.batch, &own.batch))
    };
    exceptions.iter().find(is_own).map(|exception| reason_of_refusal(exception.refusal))
}
