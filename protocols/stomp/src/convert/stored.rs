//! How a STOMP message lies in a batch.
//!
//! The head of a message ([`EncodingId::STOMP`]) is one byte, the version by whose rules its
//! headers are written (0, 1 and 2 for 1.0, 1.1 and 1.2), and behind it the header lines of its
//! SEND as they came.
//!
//! Nearly all of it lies in the SEND as it was read: the byte before the first header is the end of
//! the command's line, which nobody needs any more, and takes the version. Exchange and routing key
//! lie in the value of `destination` or, where they do not stand there as they are, behind
//! everything else.

use bytes::{Bytes, BytesMut};
use isthmus_model::{Batch, EncodingId, Record, RecordFlags, Span};

use crate::codec::{Frame, Headers, Rules, Version};

/// The head of a stored message; `None` if `head` is no such message's.
pub fn read_head(head: &[u8]) -> Option<Headers<'_>> {
    let (&bits, lines) = head.split_first()?;
    let rules = Rules::of(Version::from_bits(bits)?);
    // Looked at when it came.
    Some(Headers::checked(std::str::from_utf8(lines).ok()?, rules))
}

/// What the broker is to know of a message beside what lies in its SEND.
#[derive(Clone, Debug, Default)]
pub struct Draft<'a> {
    /// The exchange.
    pub exchange: &'a str,
    /// The routing key.
    pub routing_key: &'a str,
    /// Header lines in the place of those that came, by the rules of the same version.
    pub lines: Option<Vec<u8>>,
    /// Milliseconds until it expires, or [`isthmus_model::NO_TTL`].
    pub ttl_ms: u32,
    /// Higher is delivered sooner.
    pub priority: u8,
    /// Durable, mandatory.
    pub flags: RecordFlags,
}

/// Messages on their way into a batch, whose bytes still lie as they came.
#[derive(Debug, Default)]
pub struct Drafts {
    records: Vec<Record>,
    /// What lies behind everything else, once that is known: which record, which of its spans, and
    /// where in `appended`.
    later: Vec<(usize, Part, Span)>,
    appended: Vec<u8>,
    /// The exchange written to `appended` last: neighbours mostly share it.
    last_exchange: Option<(String, Span)>,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Exchange,
    RoutingKey,
    Head,
}

impl Drafts {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds the message of `frame`, a SEND that begins at `at`. `key_at` is where its routing key
    /// stands as it is in the frame's header lines, if it does.
    pub fn push(
        &mut self,
        frame: &Frame<'_>,
        at: usize,
        version: Version,
        draft: Draft<'_>,
        key_at: Option<usize>,
    ) {
        let Draft { exchange, routing_key, lines, ttl_ms, priority, flags } = draft;
        let number = self.records.len();
        let headers_at = at + frame.headers_at;
        let mut record = Record {
            exchange: Span::default(),
            routing_key: Span::default(),
            // The end of the command's line is the place of the version.
            head: Span::new(headers_at - 1, 1 + frame.headers.block().len()),
            body: Span::new(at + frame.body_at, frame.body.len()),
            ttl_ms,
            priority,
            flags,
        };
        if !exchange.is_empty() {
            let span = match &self.last_exchange {
                Some((last, span)) if last == exchange => *span,
                _ => {
                    let span = self.append(exchange.as_bytes());
                    self.last_exchange = Some((exchange.to_owned(), span));
                    span
                }
            };
            self.later.push((number, Part::Exchange, span));
        }
        match key_at {
            Some(key_at) => record.routing_key = Span::new(headers_at + key_at, routing_key.len()),
            None => {
                let span = self.append(routing_key.as_bytes());
                self.later.push((number, Part::RoutingKey, span));
            }
        }
        if let Some(lines) = lines {
            let start = self.appended.len();
            self.appended.push(version.bits());
            self.appended.extend_from_slice(&lines);
            let span = Span::new(start, 1 + lines.len());
            self.later.push((number, Part::Head, span));
        }
        self.records.push(record);
    }

    fn append(&mut self, bytes: &[u8]) -> Span {
        let start = self.appended.len();
        self.appended.extend_from_slice(bytes);
        Span::new(start, bytes.len())
    }

    /// The batch of them. `chunk` is what they lie in, and is changed where it lies if nobody else
    /// refers to it.
    pub fn seal(self, chunk: Bytes, version: Version) -> Batch {
        let mut chunk = chunk.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        for record in &self.records {
            chunk[record.head.start as usize] = version.bits();
        }
        let end = chunk.len();
        chunk.extend_from_slice(&self.appended);
        let mut records = self.records;
        for (number, part, span) in self.later {
            let span = Span::new(end + span.start as usize, span.len as usize);
            let record = &mut records[number];
            match part {
                Part::Exchange => record.exchange = span,
                Part::RoutingKey => record.routing_key = span,
                Part::Head => record.head = span,
            }
        }
        Batch::new(EncodingId::STOMP, chunk.freeze(), records)
    }
}

/// Where `key` stands in the header lines of `headers`, if it lies there and is not a copy.
pub fn place_of(headers: Headers<'_>, key: &str) -> Option<usize> {
    let block = headers.block();
    let at = (key.as_ptr() as usize).checked_sub(block.as_ptr() as usize)?;
    (block.get(at..at + key.len()) == Some(key)).then_some(at)
}
