//! `basic.publish` with its content, decoded where it lies (specification section 1.8.3.7 and
//! 4.2.6).

use isthmus_model::{Record, RecordFlags, Span};

use super::frame::{self, Frame};
use super::head::Head;
use super::reader::{Malformed, Reader};

/// Class and method id of `basic.publish`.
pub const BASIC_PUBLISH: (u16, u16) = (60, 40);

/// The first octets of the payload of a `basic.publish`.
pub const METHOD_PREFIX: [u8; 4] = [0, 60, 0, 40];

/// Octets of a content header before the property flags: class, weight, body size.
const HEADER_FIXED_BYTES: usize = 12;

/// The arguments of a `basic.publish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arguments<'a> {
    /// The exchange's name.
    pub exchange: &'a str,
    /// The routing key.
    pub routing_key: &'a str,
    /// Whether it is returned if no queue takes it.
    pub mandatory: bool,
    /// Whether it is returned if no consumer takes it at once.
    pub immediate: bool,
}

/// Reads the payload of a `basic.publish`, ids included.
///
/// # Errors
/// If it is cut or has more in it, or a name is not UTF-8.
#[inline]
pub fn read_arguments(payload: &[u8]) -> Result<Arguments<'_>, Malformed> {
    let mut r = Reader::new(payload);
    // Class, method, and the ticket that nobody uses.
    r.take(6)?;
    let exchange = utf8(r.short_string()?)?;
    let routing_key = utf8(r.short_string()?)?;
    let bits = r.u8()?;
    if !r.is_empty() {
        return Err(Malformed("basic.publish"));
    }
    Ok(Arguments { exchange, routing_key, mandatory: bits & 1 != 0, immediate: bits & 2 != 0 })
}

#[inline]
fn utf8(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("short string"))
}

/// A content header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// The class that the content belongs to.
    pub class: u16,
    /// The declared size of the body.
    pub body_size: u64,
    /// Property flags and list.
    pub head: &'a [u8],
}

/// Reads the payload of a content header frame, save for what is in its head.
///
/// # Errors
/// If it is too short.
#[inline]
pub fn read_header(payload: &[u8]) -> Result<ContentHeader<'_>, Malformed> {
    let mut r = Reader::new(payload);
    let class = r.u16()?;
    let _weight = r.u16()?;
    let body_size = r.u64()?;
    Ok(ContentHeader { class, body_size, head: &payload[HEADER_FIXED_BYTES..] })
}

/// The queue that stands for a channel's own replies
/// (<https://www.rabbitmq.com/docs/direct-reply-to>).
pub const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// What lies at the start of some bytes that begin with a `basic.publish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// A whole message in three frames (two if it is empty).
    Whole {
        /// The message, as offsets into the bytes it was looked for in.
        record: Record,
        /// Where the next frame begins.
        end: usize,
    },
    /// The beginning of one so small that waiting for the rest is cheaper than assembling it.
    Short,
    /// Anything else: to be taken frame by frame, which also finds out what is wrong with it.
    Irregular,
}

/// What the fast path takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest payload of a frame.
    pub payload_max: u32,
    /// The largest body.
    pub body_max: u64,
}

/// Heads up to here may be waited for: reading them again with every read costs next to nothing.
const SHORT_HEAD_BYTES_MAX: usize = 4 * 1024;
/// Bodies up to here may be waited for.
const SHORT_BODY_BYTES_MAX: u64 = 64 * 1024;

/// Decodes the message that begins in `bytes` at `at`, with the complete method frame `method`.
///
/// A message with a user id, with further routing keys or with the address that stands for the
/// channel's own replies is irregular: whether and as what it is taken depends on more than its
/// bytes.
#[inline]
pub fn peek(bytes: &[u8], at: usize, method: &Frame<'_>, limits: Limits) -> Peeked {
    let Ok(arguments) = read_arguments(method.payload) else { return Peeked::Irregular };
    let header_at = at + method.wire_len();
    let header = match frame::next(&bytes[header_at..], limits.payload_max) {
        Ok(Some(header)) if header.kind == frame::HEADER && header.channel == method.channel => {
            header
        }
        Ok(None) if bytes.len() - header_at < SHORT_HEAD_BYTES_MAX => return Peeked::Short,
        _ => return Peeked::Irregular,
    };
    let Ok(content) = read_header(header.payload) else { return Peeked::Irregular };
    let Ok(head) = Head::read(content.head) else { return Peeked::Irregular };
    let Ok(ttl_ms) = head.ttl_ms(content.head) else { return Peeked::Irregular };
    if content.class != BASIC_PUBLISH.0
        || content.body_size > limits.body_max
        || arguments.immediate
        || head.user_id.is_some()
        || head.more_keys
        || head.reply_to.clone().is_some_and(|at| content.head[at] == *REPLY_TO.as_bytes())
    {
        return Peeked::Irregular;
    }
    let body_at = header_at + header.wire_len();
    let (body, end) = if content.body_size == 0 {
        (Span::new(body_at, 0), body_at)
    } else {
        match frame::next(&bytes[body_at..], limits.payload_max) {
            Ok(Some(body))
                if body.kind == frame::BODY
                    && body.channel == method.channel
                    && body.payload.len() as u64 == content.body_size =>
            {
                let span = Span::new(body_at + frame::PREFIX_BYTES, body.payload.len());
                (span, body_at + body.wire_len())
            }
            Ok(None)
                if content.body_size <= SHORT_BODY_BYTES_MAX
                    && content.head.len() <= SHORT_HEAD_BYTES_MAX =>
            {
                return Peeked::Short;
            }
            _ => return Peeked::Irregular,
        }
    };
    // Payload, ids and ticket, length octet.
    let exchange_at = at + frame::PREFIX_BYTES + 7;
    let exchange = Span::new(exchange_at, arguments.exchange.len());
    let key_at = exchange_at + arguments.exchange.len() + 1;
    let head_at = header_at + frame::PREFIX_BYTES + HEADER_FIXED_BYTES;
    let record = Record {
        exchange,
        routing_key: Span::new(key_at, arguments.routing_key.len()),
        head: Span::new(head_at, content.head.len()),
        body,
        ttl_ms,
        priority: head.priority,
        flags: flags(head.durable, arguments.mandatory),
    };
    Peeked::Whole { record, end }
}

/// The record flags of a message.
#[inline]
pub(crate) fn flags(durable: bool, mandatory: bool) -> RecordFlags {
    let mut flags = RecordFlags::default();
    if durable {
        flags = flags.with(RecordFlags::DURABLE);
    }
    if mandatory {
        flags = flags.with(RecordFlags::MANDATORY);
    }
    flags
}
