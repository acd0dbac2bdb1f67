//! Content methods of the server and confirms, encoded straight into an [`Outbox`]
//! (specification section 1.8.3, RabbitMQ's `basic.nack`).

use bytes::Bytes;
use isthmus_contract::Outbox;
use isthmus_model::{Record, Span};

use super::frame::{self, BODY, END, HEADER, METHOD, OVERHEAD_BYTES, PREFIX_BYTES};
use super::table::write_short_string;

/// Bodies up to here are encoded together with their frames; beyond, the outbox decides whether
/// it copies or refers to them.
const INLINE_BODY_BYTES_MAX: u32 = Outbox::COPY_MAX_BYTES as u32;

/// What all deliveries of a consumer begin with: the frame of `basic.deliver` up to its consumer
/// tag, the size left open.
#[derive(Clone, Debug)]
pub struct DeliverPrefix {
    channel: u16,
    bytes: Vec<u8>,
}

impl DeliverPrefix {
    /// The prefix for the consumer that the client calls `tag` on `channel`; a tag of more than
    /// 255 bytes is cut, but none arrives in a short string.
    pub fn new(channel: u16, tag: &str) -> DeliverPrefix {
        let [c0, c1] = channel.to_be_bytes();
        let mut bytes = vec![METHOD, c0, c1, 0, 0, 0, 0, 0, 60, 0, 60];
        write_short_string(&mut bytes, tag.as_bytes());
        DeliverPrefix { channel, bytes }
    }
}

/// Exchange and routing key that a message is told to have come with.
#[derive(Clone, Copy, Debug)]
pub enum Route<'a> {
    /// Both as short strings, one behind the other, as they lie in the publisher's frame.
    Wire(&'a [u8]),
    /// Both by themselves.
    Names {
        /// The exchange's name.
        exchange: &'a [u8],
        /// The routing key.
        routing_key: &'a [u8],
    },
}

impl<'a> Route<'a> {
    /// The route that `record` of `chunk` was published with: one copy of what the publisher
    /// wrote, where the chunk still has it in one piece.
    #[inline]
    pub fn published(record: &Record, chunk: &'a [u8]) -> Route<'a> {
        let Record { exchange, routing_key, .. } = record;
        let between = exchange.end() as usize;
        if exchange.start > 0
            && routing_key.start as usize == between + 1
            && u32::from(chunk[exchange.start as usize - 1]) == exchange.len
            && u32::from(chunk[between]) == routing_key.len
        {
            return Route::Wire(&chunk[exchange.start as usize - 1..routing_key.end() as usize]);
        }
        Route::Names { exchange: exchange.of(chunk), routing_key: routing_key.of(chunk) }
    }

    /// Octets on the wire. Names come from short strings and fit them again; a longer one (none
    /// can be declared) is cut.
    #[inline]
    fn wire_len(&self) -> usize {
        match self {
            Route::Wire(bytes) => bytes.len(),
            Route::Names { exchange, routing_key } => {
                2 + short(exchange).len() + short(routing_key).len()
            }
        }
    }

    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Route::Wire(bytes) => out.extend_from_slice(bytes),
            Route::Names { exchange, routing_key } => {
                write_short_string(out, exchange);
                write_short_string(out, routing_key);
            }
        }
    }
}

#[inline]
fn short(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(255)]
}

/// A message's content: its head, and where its body lies.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// Property flags and list.
    pub head: &'a [u8],
    /// The chunk with the body.
    pub chunk: &'a Bytes,
    /// The body in the chunk.
    pub body: Span,
}

impl Content<'_> {
    /// Octets that are reserved in the outbox's buffer for it.
    #[inline]
    fn inline_len(&self) -> usize {
        let body = if self.body.len <= INLINE_BODY_BYTES_MAX { self.body.len as usize } else { 0 };
        2 * OVERHEAD_BYTES + 12 + self.head.len() + body
    }

    /// Ends the method frame before it, and appends header and body frames.
    #[inline]
    fn write(&self, out: &mut Outbox, channel: u16, payload_max: u32) {
        let [c0, c1] = channel.to_be_bytes();
        let [s0, s1, s2, s3] = (12 + self.head.len() as u32).to_be_bytes();
        let [l0, l1, l2, l3] = self.body.len.to_be_bytes();
        let buf = out.buf();
        buf.extend_from_slice(&[
            END, HEADER, c0, c1, s0, s1, s2, s3, 0, 60, 0, 0, 0, 0, 0, 0, l0, l1, l2, l3,
        ]);
        buf.extend_from_slice(self.head);
        if self.body.len == 0 {
            buf.push(END);
        } else if self.body.len <= INLINE_BODY_BYTES_MAX.min(payload_max) {
            buf.extend_from_slice(&[END, BODY, c0, c1, l0, l1, l2, l3]);
            buf.extend_from_slice(self.body.of(self.chunk));
            buf.push(END);
        } else {
            buf.push(END);
            self.write_body(out, channel, payload_max);
        }
    }

    fn write_body(&self, out: &mut Outbox, channel: u16, payload_max: u32) {
        let [c0, c1] = channel.to_be_bytes();
        let mut at = self.body.start;
        while at < self.body.end() {
            let len = payload_max.min(self.body.end() - at);
            let [l0, l1, l2, l3] = len.to_be_bytes();
            out.buf().extend_from_slice(&[BODY, c0, c1, l0, l1, l2, l3]);
            out.push_slice(self.chunk, Span { start: at, len });
            out.buf().push(END);
            at += len;
        }
    }
}

/// Appends a `basic.deliver` with its content.
#[inline]
pub fn deliver(
    out: &mut Outbox,
    prefix: &DeliverPrefix,
    tag: u64,
    redelivered: bool,
    route: Route<'_>,
    content: Content<'_>,
    payload_max: u32,
) {
    let buf = out.buf();
    let size = prefix.bytes.len() - PREFIX_BYTES + 9 + route.wire_len();
    buf.reserve(PREFIX_BYTES + size + content.inline_len());
    let start = buf.len();
    buf.extend_from_slice(&prefix.bytes);
    buf[start + 3..start + PREFIX_BYTES].copy_from_slice(&(size as u32).to_be_bytes());
    let mut fixed = [0; 9];
    fixed[..8].copy_from_slice(&tag.to_be_bytes());
    fixed[8] = u8::from(redelivered);
    buf.extend_from_slice(&fixed);
    route.write(buf);
    content.write(out, prefix.channel, payload_max);
}

/// Appends a `basic.get-ok` with its content.
#[allow(clippy::too_many_arguments)] // the method's fields, each of another kind
pub fn get_ok(
    out: &mut Outbox,
    channel: u16,
    tag: u64,
    redelivered: bool,
    route: Route<'_>,
    message_count: u32,
    content: Content<'_>,
    payload_max: u32,
) {
    open_frame(out.buf(), channel, 71, 9 + route.wire_len() + 4);
    out.buf().extend_from_slice(&tag.to_be_bytes());
    out.buf().push(u8::from(redelivered));
    route.write(out.buf());
    out.buf().extend_from_slice(&message_count.to_be_bytes());
    content.write(out, channel, payload_max);
}

/// Appends a `basic.return` with its content.
pub fn basic_return(
    out: &mut Outbox,
    channel: u16,
    reply: (u16, &str),
    route: Route<'_>,
    content: Content<'_>,
    payload_max: u32,
) {
    let (code, text) = reply;
    let text = short(text.as_bytes());
    open_frame(out.buf(), channel, 50, 3 + text.len() + route.wire_len());
    out.buf().extend_from_slice(&code.to_be_bytes());
    out.buf().push(text.len() as u8);
    out.buf().extend_from_slice(text);
    route.write(out.buf());
    content.write(out, channel, payload_max);
}

/// Appends the frame of a method of class basic up to its arguments, which take `size` octets.
fn open_frame(out: &mut Vec<u8>, channel: u16, method: u8, size: usize) {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = (size as u32 + 4).to_be_bytes();
    out.extend_from_slice(&[METHOD, c0, c1, s0, s1, s2, s3, 0, 60, 0, method]);
}

/// Appends a `basic.ack` that confirms publishes.
pub fn ack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    frame::write(out, METHOD, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 80]);
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple));
    });
}

/// Appends a `basic.nack` that refuses publishes.
pub fn nack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    frame::write(out, METHOD, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 120]);
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple));
    });
}
