//! Publishing: batches of whole messages where they lie, and messages that come in pieces
//! (specification section 4.2.6), confirms and returns (RabbitMQ's extension, section 1.8.3.7).

use amq_protocol::protocol::{AMQPClass, confirm};
use bytes::Bytes;
use isthmus_contract::{
    CommandError, ConfirmRun, Confirms, PublishException, PublishRefusal, Reply,
};
use isthmus_model::{Record, RecordFlags, Span, Token, TransactionId};

use crate::codec::deliver::{self, Content, Route};
use crate::codec::frame::{self, Frame};
use crate::codec::head::{BadExpiration, Head};
use crate::codec::publish::{self as codec, BASIC_PUBLISH, Limits, Peeked};
use crate::fault::{Fault, ReplyCode};

use super::channel::{Channel, Mode, Publishing, Slot};
use super::outgoing::{self, OpenBatch};
use super::{Amqp091Session, Handled};

/// Records that a batch is given room for at the start.
const BATCH_ROOM_MAX: usize = 4096;

/// A message whose frames come in one by one. It grows with the bytes that arrive, not with the
/// size that is declared.
#[derive(Debug)]
pub(super) struct Assembly {
    /// Exchange, routing key, head and body.
    chunk: Vec<u8>,
    exchange: Span,
    routing_key: Span,
    mandatory: bool,
    /// What the header told; `None` until it comes.
    content: Option<Announced>,
}

#[derive(Debug)]
struct Announced {
    head: Span,
    body_size: usize,
    durable: bool,
    /// Its headers name more routing keys.
    more_keys: bool,
    priority: u8,
    ttl_ms: u32,
}

impl Assembly {
    /// Bytes of the body that are still to come.
    fn missing(&self) -> Option<usize> {
        let content = self.content.as_ref()?;
        Some(content.body_size - (self.chunk.len() - content.head.end() as usize))
    }

    /// Appends a piece of the body; the buffer doubles, up to the size that was declared.
    fn push(&mut self, piece: &[u8], missing: usize) {
        let spare = self.chunk.capacity() - self.chunk.len();
        if spare < piece.len() {
            let double = self.chunk.len().max(piece.len());
            self.chunk.reserve_exact(double.min(missing));
        }
        self.chunk.extend_from_slice(piece);
    }

    /// The message, once all of it is there.
    fn finish(self) -> Option<(Bytes, Record)> {
        let content = self.content?;
        let start = content.head.end() as usize;
        let mut flags = codec::flags(content.durable, self.mandatory);
        if content.more_keys {
            flags = flags.with(RecordFlags::MORE_KEYS);
        }
        let record = Record {
            exchange: self.exchange,
            routing_key: self.routing_key,
            head: content.head,
            body: Span::new(start, content.body_size),
            ttl_ms: content.ttl_ms,
            priority: content.priority,
            flags,
        };
        Some((self.chunk.into(), record))
    }
}

impl Channel {
    /// The transaction that publishes are done under.
    pub(super) fn transaction(&self, number: u16) -> Option<TransactionId> {
        matches!(self.mode, Mode::Transaction(_)).then_some(TransactionId(u32::from(number)))
    }
}

impl Amqp091Session {
    /// Takes whole messages on the channel of `first`, the frame at `at`, into a batch. Returns
    /// where the first frame begins that it did not take; `None` if that is `first` itself,
    /// which must be taken by itself then.
    pub(super) fn publish_run(
        &mut self,
        bytes: &[u8],
        at: usize,
        first: &Frame<'_>,
    ) -> Option<usize> {
        let limits =
            Limits { payload_max: self.payload_max(), body_max: self.config.message_bytes_max };
        let number = first.channel;
        let Some(Slot::Open(channel)) = self.channels.get(usize::from(number)) else {
            return None;
        };
        if channel.assembly.is_some() || channel.leaving {
            return None;
        }
        let transaction = channel.transaction(number);
        let (mut at, mut method, begun) = (at, *first, at);
        loop {
            match codec::peek(bytes, at, &method, limits) {
                Peeked::Whole { record, end } => {
                    // As many messages like this one as there are bytes for.
                    let room = ((bytes.len() - at) / (end - at)).min(BATCH_ROOM_MAX);
                    self.add_to_batch(number, transaction, record, room);
                    at = end;
                    self.pressure.allowance = self.pressure.allowance.saturating_sub(1);
                    if self.pressure.allowance == 0 {
                        return Some(at);
                    }
                }
                Peeked::Short => return Some(at),
                Peeked::Irregular => return (at > begun).then_some(at),
            }
            match frame::next(&bytes[at..], limits.payload_max) {
                Ok(Some(next))
                    if next.kind == frame::METHOD
                        && next.channel == number
                        && next.payload.starts_with(&codec::METHOD_PREFIX)
                        && at < super::CHUNK_BYTES_MAX =>
                {
                    method = next;
                }
                _ => return Some(at),
            }
        }
    }

    #[inline]
    fn add_to_batch(
        &mut self,
        number: u16,
        transaction: Option<TransactionId>,
        record: Record,
        room: usize,
    ) {
        if let Some(batch) = &mut self.out.open
            && batch.channel == number
        {
            batch.records.push(record);
            return;
        }
        self.close_batch();
        let token = self.out.publish_token(number);
        let mut records = Vec::with_capacity(room.max(1));
        records.push(record);
        self.out.open = Some(OpenBatch { channel: number, token, transaction, records });
    }

    /// Ends the batch that publishes joined so far: what comes next must come after it.
    pub(super) fn close_batch(&mut self) {
        let Some(batch) = self.out.open.take() else { return };
        let named = batch.records.iter().any(|r| r.exchange.len > 0);
        self.note_published(batch.channel, batch.token, batch.records.len(), named);
        self.out.stage_batch(batch);
    }

    fn note_published(&mut self, number: u16, token: Token, len: usize, named: bool) {
        let Some(channel) = self.open_channel(number) else { return };
        channel.publishing.push_back(Publishing { token, named });
        if let Mode::Confirm(confirms) = &mut channel.mode {
            confirms.published(token, len as u32);
        }
    }

    /// Takes a `basic.publish` whose content is still to come.
    pub(super) fn begin_publish(&mut self, frame: &Frame<'_>) -> Handled {
        let number = frame.channel;
        let Some(channel) = self.open_channel(number) else {
            return Err(Fault::new(ReplyCode::ChannelError, "expected 'channel.open'"));
        };
        if channel.assembly.is_some() {
            return Err(Fault::new(
                ReplyCode::UnexpectedFrame,
                "expected content for class 60, got a method frame instead",
            ));
        }
        let arguments = codec::read_arguments(frame.payload)
            .map_err(|e| Fault::new(ReplyCode::SyntaxError, e.to_string()))?;
        if arguments.immediate {
            return Err(Fault::new(ReplyCode::NotImplemented, "immediate=true"));
        }
        let mut chunk = Vec::new();
        let mut keep = |text: &str| {
            chunk.extend_from_slice(text.as_bytes());
            Span::new(chunk.len() - text.len(), text.len())
        };
        let (exchange, routing_key) = (keep(arguments.exchange), keep(arguments.routing_key));
        let mandatory = arguments.mandatory;
        channel.assembly =
            Some(Assembly { chunk, exchange, routing_key, mandatory, content: None });
        self.pressure.allowance = self.pressure.allowance.saturating_sub(1);
        Ok(())
    }

    /// Takes a content header or a piece of a body.
    pub(super) fn content_frame(&mut self, frame: &Frame<'_>) -> Handled {
        let number = frame.channel;
        let unexpected = |text: &str| Err(Fault::new(ReplyCode::UnexpectedFrame, text));
        let channel = match self.channels.get_mut(usize::from(number)) {
            Some(Slot::Closing) => return Ok(()),
            Some(Slot::Open(channel)) if channel.leaving => return Ok(()),
            Some(Slot::Open(channel)) if number != 0 => channel,
            _ => return unexpected("content on a channel that is not open"),
        };
        let Some(assembly) = &mut channel.assembly else {
            return unexpected("expected method frame, got content frame instead");
        };
        match (frame.kind, assembly.missing()) {
            (frame::HEADER, None) => {
                self.begin_content(number, frame.payload).map_err(|f| f.of(BASIC_PUBLISH))?;
            }
            (frame::BODY, Some(missing)) if frame.payload.len() <= missing => {
                assembly.push(frame.payload, missing);
            }
            (frame::BODY, Some(_)) => {
                return Err(Fault::new(
                    ReplyCode::FrameError,
                    "more content than the content header declared",
                ));
            }
            (_, None) => return unexpected("expected content header for class 60"),
            (_, Some(_)) => return unexpected("expected content body"),
        }
        self.finish_publish(number);
        Ok(())
    }

    fn begin_content(&mut self, number: u16, payload: &[u8]) -> Handled {
        let syntax = |text: String| Fault::new(ReplyCode::SyntaxError, text);
        let content = codec::read_header(payload).map_err(|e| syntax(e.to_string()))?;
        if content.class != BASIC_PUBLISH.0 {
            return Err(Fault::new(
                ReplyCode::UnexpectedFrame,
                format!(
                    "expected content header for class 60, got one for class {} instead",
                    content.class
                ),
            ));
        }
        let head = Head::read(content.head).map_err(|e| syntax(e.to_string()))?;
        let precondition = |text: String| Fault::new(ReplyCode::PreconditionFailed, text);
        let max = self.config.message_bytes_max;
        let body_size = usize::try_from(content.body_size)
            .ok()
            .filter(|_| content.body_size <= max)
            .filter(|size| size.checked_add(payload.len()).is_some_and(|n| n < 1 << 31))
            .ok_or_else(|| {
                precondition(format!(
                    "message size {} is larger than configured max size {max}",
                    content.body_size
                ))
            })?;
        if let Some(range) = head.user_id.clone()
            && content.head[range.clone()] != *self.peer.user.as_bytes()
        {
            return Err(precondition(format!(
                "user_id property set to '{}' but authenticated user was '{}'",
                String::from_utf8_lossy(&content.head[range]),
                self.peer.user
            )));
        }
        let ttl_ms = head
            .ttl_ms(content.head)
            .map_err(|BadExpiration(text)| precondition(format!("invalid expiration '{text}'")))?;
        head.check_more_keys(content.head).map_err(precondition)?;
        let own_replies = self.reply_address(number, &head, content.head)?;
        if let Some(Channel { assembly: Some(assembly), .. }) = self.open_channel(number) {
            let written = own_replies.as_deref().unwrap_or(content.head);
            let span = Span::new(assembly.chunk.len(), written.len());
            assembly.chunk.extend_from_slice(written);
            assembly.content = Some(Announced {
                head: span,
                body_size,
                durable: head.durable,
                more_keys: head.more_keys,
                priority: head.priority,
                ttl_ms,
            });
        }
        Ok(())
    }

    /// Publishes the message of the channel if all of it is there.
    fn finish_publish(&mut self, number: u16) {
        self.close_batch();
        let Some(channel) = self.open_channel(number) else { return };
        let transaction = channel.transaction(number);
        let Some((chunk, record)) = channel
            .assembly
            .take_if(|assembly| assembly.missing() == Some(0))
            .and_then(Assembly::finish)
        else {
            return;
        };
        let token = self.out.publish_token(number);
        self.note_published(number, token, 1, record.exchange.len > 0);
        self.out.stage(outgoing::publish(token, transaction, chunk, vec![record]));
    }

    pub(super) fn confirm_select(&mut self, number: u16, nowait: bool) -> Handled {
        // What was published before is not confirmed.
        self.close_batch();
        if let Some(channel) = self.open_channel(number) {
            match channel.mode {
                Mode::Plain => channel.mode = Mode::Confirm(Confirms::new()),
                Mode::Confirm(_) => {}
                Mode::Transaction(_) => {
                    return Err(Fault::new(
                        ReplyCode::PreconditionFailed,
                        "cannot switch from tx to confirm mode",
                    ));
                }
            }
        }
        if !nowait {
            let ok = confirm::AMQPMethod::SelectOk(confirm::SelectOk {});
            self.reply(number, AMQPClass::Confirm(ok));
        }
        Ok(())
    }

    /// A batch is where it should be, or not.
    pub(super) fn published(&mut self, token: Token, result: Result<Reply, CommandError>) {
        let number = outgoing::channel_of(token);
        match self.open_channel(number) {
            Some(channel) if outgoing::age(token) > channel.since => {
                // Answers come in the order of publishing.
                channel.publishing.pop_front_if(|p| p.token == token);
            }
            // The channel is gone, and its namesake did not publish this.
            _ => return,
        }
        let refused = match result {
            Ok(Reply::Published { exceptions }) => self.exceptions(number, &exceptions),
            Ok(_) => Ok(Vec::new()),
            // It was never proposed: a publisher that waits for confirms hears of it, and may
            // publish again.
            Err(CommandError::NotLeader) if self.is_confirming(number) => {
                return self.refuse_batch(number, token);
            }
            Err(error) => Err(Fault::from_refusal(&error)),
        };
        match refused {
            Ok(refused) => self.confirm(number, token, refused),
            Err(fault) => self.fail(number, &fault.of(BASIC_PUBLISH)),
        }
    }

    /// Returns what could not be routed, and tells which records were refused.
    pub(super) fn exceptions(
        &mut self,
        number: u16,
        exceptions: &[PublishException],
    ) -> Result<Vec<u32>, Fault> {
        let mut refused = Vec::new();
        for exception in exceptions {
            let Some(record) = exception.batch.records.get(exception.record as usize) else {
                continue;
            };
            let exchange = exception.batch.exchange(record);
            let vhost = &self.peer.vhost;
            match exception.refusal {
                PublishRefusal::Unroutable => self.return_message(number, exception, record),
                PublishRefusal::Full => refused.push(exception.record),
                PublishRefusal::NoExchange => {
                    let text = format!("no exchange '{exchange}' in vhost '{vhost}'");
                    return Err(Fault::new(ReplyCode::NotFound, text));
                }
                PublishRefusal::InternalExchange => {
                    let text = format!(
                        "cannot publish to internal exchange '{exchange}' in vhost '{vhost}'"
                    );
                    return Err(Fault::new(ReplyCode::AccessRefused, text));
                }
            }
        }
        Ok(refused)
    }

    fn return_message(&mut self, number: u16, exception: &PublishException, record: &Record) {
        let batch = &exception.batch;
        let payload_max = self.send_payload_max();
        deliver::basic_return(
            &mut self.out.outbox,
            number,
            (ReplyCode::NoRoute.number(), ReplyCode::NoRoute.name()),
            Route::published(record, &batch.chunk),
            Content { head: batch.head(record), chunk: &batch.chunk, body: record.body },
            payload_max,
        );
    }

    /// Tells every confirm that may be told now.
    fn confirm(&mut self, number: u16, token: Token, refused: Vec<u32>) {
        let Some(Slot::Open(channel)) = self.channels.get_mut(usize::from(number)) else { return };
        let Mode::Confirm(confirms) = &mut channel.mode else { return };
        let out = self.out.outbox.buf();
        confirms.done(token, refused, |run| say_confirm(out, number, run));
    }

    fn is_confirming(&self, number: u16) -> bool {
        let slot = self.channels.get(usize::from(number));
        matches!(slot, Some(Slot::Open(channel)) if matches!(channel.mode, Mode::Confirm(_)))
    }

    /// Says that none of a batch was taken.
    fn refuse_batch(&mut self, number: u16, token: Token) {
        let Some(Slot::Open(channel)) = self.channels.get_mut(usize::from(number)) else { return };
        let Mode::Confirm(confirms) = &mut channel.mode else { return };
        let out = self.out.outbox.buf();
        confirms.refused(token, |run| say_confirm(out, number, run));
    }
}

fn say_confirm(out: &mut Vec<u8>, number: u16, run: ConfirmRun) {
    let write = if run.taken { deliver::ack } else { deliver::nack };
    write(out, number, run.last, run.first != run.last);
}
