//! STOMP 1.2.

use super::{Encoder, Fault, Inbound, Link, Outbound, Receiver, Settler, Sink};
use crate::net::Dialer;
use crate::payload::Body;
use crate::plan::{Access, Plan};
use crate::window::Settled;

/// A DISCONNECT.
pub(super) const GOODBYE: &[u8] = b"DISCONNECT\n\n\0";

/// The most that a frame's command and headers may be.
const HEAD_MAX: usize = 64 * 1024;

struct Frame<'a> {
    command: &'a [u8],
    /// The header lines, the last line end included.
    headers: &'a [u8],
    body: &'a [u8],
    /// Line ends before the frame included.
    len: usize,
}

impl<'a> Frame<'a> {
    /// The value of a header, as it was sent.
    fn header(&self, name: &[u8]) -> Option<&'a [u8]> {
        header(self.headers, name)
    }

    /// Why this frame should not have come here.
    fn unasked(&self) -> Fault {
        let command = String::from_utf8_lossy(self.command);
        if self.command != b"ERROR" {
            return Fault::protocol(format!("unexpected frame {command}"));
        }
        let message = String::from_utf8_lossy(self.header(b"message").unwrap_or_default());
        let body = String::from_utf8_lossy(self.body);
        let first_line = body.lines().next().unwrap_or_default();
        Fault::Refused(match first_line.is_empty() || *first_line == *message {
            true => message.into_owned(),
            false => format!("{message}: {first_line}"),
        })
    }
}

fn header<'a>(headers: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut rest = headers;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.len() > name.len() && line[name.len()] == b':' && line.starts_with(name) {
            let value = &line[name.len() + 1..];
            return Some(value.strip_suffix(b"\r").unwrap_or(value));
        }
    }
    None
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Where the headers end: the first empty line.
fn blank(bytes: &[u8]) -> Option<(usize, usize)> {
    memchr::memchr_iter(b'\n', bytes).find_map(|at| match bytes.get(at + 1..) {
        Some([b'\n', ..]) => Some((at + 1, at + 2)),
        Some([b'\r', b'\n', ..]) => Some((at + 1, at + 3)),
        _ => None,
    })
}

/// The first frame in `bytes`, if it is whole.
#[inline]
fn frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, Fault> {
    let Some(start) = bytes.iter().position(|byte| !matches!(byte, b'\n' | b'\r')) else {
        return Ok(None);
    };
    let rest = &bytes[start..];
    let Some((head_end, body_start)) = blank(rest) else {
        return match rest.len() > HEAD_MAX {
            true => Err(Fault::protocol("no end of a frame's headers")),
            false => Ok(None),
        };
    };
    let head = &rest[..head_end];
    let line = memchr::memchr(b'\n', head).unwrap_or(head.len());
    let command = head[..line].strip_suffix(b"\r").unwrap_or(&head[..line]);
    let headers = head.get(line + 1..).unwrap_or_default();
    let after = &rest[body_start..];
    let end = match header(headers, b"content-length").and_then(number) {
        Some(len) => {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            match after.get(len) {
                None => return Ok(None),
                Some(0) => len,
                Some(_) => {
                    return Err(Fault::protocol("a frame is longer than its content-length"));
                }
            }
        }
        None => match memchr::memchr(0, after) {
            None => return Ok(None),
            Some(len) => len,
        },
    };
    let len = start + body_start + end + 1;
    Ok(Some(Frame { command, headers, body: &after[..end], len }))
}

/// A header's value with what STOMP 1.2 escapes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r").replace(':', "\\c")
}

fn put_header(out: &mut String, name: &str, value: &str) {
    out.push_str(&format!("{}:{}\n", escaped(name), escaped(value)));
}

async fn open(dialer: &Dialer, access: &Access) -> Result<Link, Fault> {
    let mut link = Link::connect(dialer).await?;
    // CONNECT is the one frame whose headers are not escaped.
    let target = &access.target;
    let host = target.vhost.as_deref().unwrap_or("/");
    let mut connect = format!("CONNECT\naccept-version:1.2\nhost:{host}\nheart-beat:0,0\n");
    for (name, value) in [("login", &target.user), ("passcode", &target.password)] {
        if let Some(value) = value {
            if value.contains('\n') {
                return Err(Fault::Refused(format!("a {name} with a line end cannot be sent")));
            }
            connect.push_str(&format!("{name}:{value}\n"));
        }
    }
    connect.push_str("\n\0");
    link.send(connect.as_bytes()).await?;
    let connected = link.input.until(|bytes| {
        let Some(frame) = frame(bytes)? else { return Ok(None) };
        match frame.command {
            b"CONNECTED" => Ok(Some(((), frame.len))),
            _ => Err(frame.unasked()),
        }
    });
    match connected.await {
        Err(Fault::Closed(_)) => Err(Fault::Closed(" before it accepted the login")),
        other => other.map(|()| link),
    }
}

/// A connection that does nothing further.
pub(super) async fn login(dialer: &Dialer, access: &Access) -> Result<Link, Fault> {
    open(dialer, access).await
}

/// A producer's connection.
pub(super) async fn producer(dialer: &Dialer, plan: &Plan, n: usize) -> Result<Outbound, Fault> {
    let link = open(dialer, &plan.access).await?;
    let mut starts = Vec::new();
    for address in plan.producer_addresses(n) {
        let mut start = "SEND\n".to_owned();
        put_header(&mut start, "destination", &format!("{}{}", plan.prefix, plan.name(address)));
        if plan.persistent {
            put_header(&mut start, "persistent", "true");
        }
        for (name, value) in &plan.headers {
            put_header(&mut start, name, value);
        }
        start.push_str("content-length:");
        starts.push(start.into_bytes());
    }
    let encoder = Box::new(Publisher { starts, receipts: plan.window > 0 });
    Ok(Outbound { link, encoder, settler: Box::new(Receipts) })
}

struct Publisher {
    /// For each address, everything before the length.
    starts: Vec<Vec<u8>>,
    receipts: bool,
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

impl Encoder for Publisher {
    #[inline]
    fn encode(&mut self, n: u64, slot: usize, body: &Body<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.starts[slot]);
        put_number(out, body.len() as u64);
        if self.receipts {
            out.extend_from_slice(b"\nreceipt:");
            put_number(out, n);
        }
        out.extend_from_slice(b"\n\n");
        body.write(out);
        out.push(0);
    }
}

struct Receipts;

impl Settler for Receipts {
    fn settle(
        &mut self,
        input: &[u8],
        settled: &mut Vec<Settled>,
        _: &mut Vec<u8>,
    ) -> Result<usize, Fault> {
        let mut used = 0;
        while let Some(frame) = frame(&input[used..])? {
            used += frame.len;
            match (frame.command, frame.header(b"receipt-id").and_then(number)) {
                (b"RECEIPT", Some(n)) => settled.push(Settled::One(n)),
                _ => return Err(frame.unasked()),
            }
        }
        Ok(used)
    }
}

/// A consumer's connection.
pub(super) async fn consumer(dialer: &Dialer, plan: &Plan, n: usize) -> Result<Inbound, Fault> {
    let mut link = open(dialer, &plan.access).await?;
    let mut frames = String::new();
    let addresses = plan.consumer_addresses(n).1;
    for (id, address) in addresses.iter().enumerate() {
        frames.push_str("SUBSCRIBE\n");
        put_header(&mut frames, "id", &id.to_string());
        put_header(&mut frames, "destination", &format!("{}{}", plan.prefix, plan.name(*address)));
        put_header(&mut frames, "ack", if plan.ack_every == 0 { "auto" } else { "client" });
        if plan.ack_every > 0 && plan.prefetch > 0 {
            // As RabbitMQ and as ActiveMQ call it.
            put_header(&mut frames, "prefetch-count", &plan.prefetch.to_string());
            put_header(&mut frames, "activemq.prefetchSize", &plan.prefetch.to_string());
        }
        for (name, value) in &plan.headers {
            put_header(&mut frames, name, value);
        }
        if id + 1 == addresses.len() {
            put_header(&mut frames, "receipt", "subscribed");
        }
        frames.push_str("\n\0");
    }
    link.send(frames.as_bytes()).await?;
    // Where messages come first, the subscription is there, and the receipt follows.
    let answered = link.input.until(|bytes| {
        let Some(frame) = frame(bytes)? else { return Ok(None) };
        match frame.command {
            b"RECEIPT" => Ok(Some(((), frame.len))),
            b"MESSAGE" => Ok(Some(((), 0))),
            _ => Err(frame.unasked()),
        }
    });
    answered.await?;
    let subscriptions = vec![Subscription::default(); addresses.len()];
    let receiver = Deliveries { ack_every: plan.ack_every, subscriptions };
    Ok(Inbound { link, receiver: Box::new(receiver) })
}

/// What of a subscription is not acknowledged.
#[derive(Debug, Clone, Default)]
struct Subscription {
    count: u32,
    /// The last message's `ack` header.
    last: Vec<u8>,
}

impl Subscription {
    fn acknowledge(&mut self, reply: &mut Vec<u8>) {
        self.count = 0;
        reply.extend_from_slice(b"ACK\nid:");
        reply.extend_from_slice(&self.last);
        reply.extend_from_slice(b"\n\n\0");
    }
}

struct Deliveries {
    ack_every: u32,
    subscriptions: Vec<Subscription>,
}

impl Deliveries {
    fn count(&mut self, frame: &Frame<'_>, reply: &mut Vec<u8>) -> Result<(), Fault> {
        let id = frame.header(b"subscription").and_then(number);
        let subscription = id.and_then(|id| self.subscriptions.get_mut(usize::try_from(id).ok()?));
        let (Some(subscription), Some(ack)) = (subscription, frame.header(b"ack")) else {
            return Err(Fault::protocol("a MESSAGE without the subscription or ack header"));
        };
        subscription.count += 1;
        subscription.last.clear();
        subscription.last.extend_from_slice(ack);
        if subscription.count >= self.ack_every {
            subscription.acknowledge(reply);
        }
        Ok(())
    }
}

impl Receiver for Deliveries {
    fn receive(
        &mut self,
        input: &[u8],
        sink: &mut dyn Sink,
        reply: &mut Vec<u8>,
    ) -> Result<usize, Fault> {
        let mut used = 0;
        while let Some(frame) = frame(&input[used..])? {
            used += frame.len;
            match frame.command {
                b"MESSAGE" => {
                    let redelivered = frame.header(b"redelivered") == Some(b"true");
                    sink.message(frame.body, redelivered);
                    if self.ack_every > 0 {
                        self.count(&frame, reply)?;
                    }
                }
                b"RECEIPT" => {}
                _ => return Err(frame.unasked()),
            }
        }
        Ok(used)
    }

    fn finish(&mut self, reply: &mut Vec<u8>) {
        for subscription in self.subscriptions.iter_mut().filter(|each| each.count > 0) {
            subscription.acknowledge(reply);
        }
    }
}
