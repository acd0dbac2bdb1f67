//! AMQP 0-9-1, with RabbitMQ's publisher confirms.

use super::{Encoder, Fault, Inbound, Link, Outbound, Receiver, Settler, Sink};
use crate::net::Dialer;
use crate::payload::Body;
use crate::plan::{Access, Plan};
use crate::window::Settled;

/// A connection.close with code 200.
pub(super) const GOODBYE: &[u8] =
    &[1, 0, 0, 0, 0, 0, 11, 0, 10, 0, 50, 0, 200, 0, 0, 0, 0, 0, 0xce];

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xce;
/// Type, channel, size; and the end.
const AROUND: usize = 8;

/// The largest frame that is asked for, in bytes.
const FRAME_MAX: u32 = 131_072;

const START: (u16, u16) = (10, 10);
const START_OK: (u16, u16) = (10, 11);
const TUNE: (u16, u16) = (10, 30);
const TUNE_OK: (u16, u16) = (10, 31);
const OPEN: (u16, u16) = (10, 40);
const OPEN_OK: (u16, u16) = (10, 41);
const CLOSE: (u16, u16) = (10, 50);
const BLOCKED: (u16, u16) = (10, 60);
const UNBLOCKED: (u16, u16) = (10, 61);
const CHANNEL_OPEN: (u16, u16) = (20, 10);
const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
const CHANNEL_CLOSE: (u16, u16) = (20, 40);
const EXCHANGE_DECLARE: (u16, u16) = (40, 10);
const EXCHANGE_DECLARE_OK: (u16, u16) = (40, 11);
const EXCHANGE_DELETE: (u16, u16) = (40, 20);
const EXCHANGE_DELETE_OK: (u16, u16) = (40, 21);
const QUEUE_DECLARE: (u16, u16) = (50, 10);
const QUEUE_DECLARE_OK: (u16, u16) = (50, 11);
const QUEUE_BIND: (u16, u16) = (50, 20);
const QUEUE_BIND_OK: (u16, u16) = (50, 21);
const QUEUE_DELETE: (u16, u16) = (50, 40);
const QUEUE_DELETE_OK: (u16, u16) = (50, 41);
const QOS: (u16, u16) = (60, 10);
const QOS_OK: (u16, u16) = (60, 11);
const CONSUME: (u16, u16) = (60, 20);
const CONSUME_OK: (u16, u16) = (60, 21);
const CANCEL: (u16, u16) = (60, 30);
const PUBLISH: (u16, u16) = (60, 40);
const DELIVER: (u16, u16) = (60, 60);
const ACK: (u16, u16) = (60, 80);
const NACK: (u16, u16) = (60, 120);
const CONFIRM: (u16, u16) = (85, 10);
const CONFIRM_OK: (u16, u16) = (85, 11);

struct Frame<'a> {
    kind: u8,
    payload: &'a [u8],
    len: usize,
}

/// The first frame in `bytes`, if it is whole.
#[inline]
fn frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, Fault> {
    let Some((head, rest)) = bytes.split_first_chunk::<7>() else {
        return Ok(None);
    };
    if head[0] == b'A' {
        return Err(Fault::Refused("it speaks no AMQP 0-9-1".to_owned()));
    }
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    match rest.get(size) {
        None => Ok(None),
        Some(&END) => Ok(Some(Frame { kind: head[0], payload: &rest[..size], len: size + AROUND })),
        Some(_) => Err(Fault::protocol("a frame without its end")),
    }
}

fn id(payload: &[u8]) -> Result<((u16, u16), &[u8]), Fault> {
    match payload.split_first_chunk::<4>() {
        Some((&[a, b, c, d], rest)) => {
            Ok(((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])), rest))
        }
        None => Err(Fault::protocol("a method without an identifier")),
    }
}

/// A short string at the start of `bytes`, and what follows it.
fn short(bytes: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let cut = || Fault::protocol("a string that is cut short");
    let (&len, rest) = bytes.split_first().ok_or_else(cut)?;
    rest.split_at_checked(usize::from(len)).ok_or_else(cut)
}

/// What a close says.
fn refusal(arguments: &[u8]) -> Fault {
    let code = arguments.first_chunk().map_or(0, |&code| u16::from_be_bytes(code));
    let text =
        arguments.get(2..).and_then(|rest| short(rest).ok()).map_or(&b""[..], |(text, _)| text);
    Fault::Refused(format!("{code} {}", String::from_utf8_lossy(text)))
}

/// What is done with methods that may come at any time.
fn unasked(id: (u16, u16), arguments: &[u8]) -> Result<(), Fault> {
    match id {
        CLOSE | CHANNEL_CLOSE => Err(refusal(arguments)),
        CANCEL => Err(Fault::Refused("the consumer is cancelled, its queue is gone".to_owned())),
        // A producer notices it by not getting on.
        BLOCKED | UNBLOCKED => Ok(()),
        (class, method) => Err(Fault::protocol(format!("unexpected method {class}.{method}"))),
    }
}

fn put_short(out: &mut Vec<u8>, text: &str) -> Result<(), Fault> {
    let len = u8::try_from(text.len())
        .map_err(|_| Fault::Refused(format!("'{text}' is longer than 255 bytes")))?;
    out.push(len);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    put_long(out, payload);
    out.push(END);
}

/// A method's frame, its arguments written by `write`.
fn method(
    channel: u16,
    id: (u16, u16),
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>,
) -> Result<Vec<u8>, Fault> {
    let mut payload = Vec::with_capacity(64);
    payload.extend_from_slice(&id.0.to_be_bytes());
    payload.extend_from_slice(&id.1.to_be_bytes());
    write(&mut payload)?;
    let mut out = Vec::with_capacity(payload.len() + AROUND);
    put_frame(&mut out, METHOD, channel, &payload);
    Ok(out)
}

/// Arguments of a queue: whole numbers as such, `true` and `false` as such, anything else as text.
fn put_table(out: &mut Vec<u8>, entries: &[(String, String)]) -> Result<(), Fault> {
    let mut table = Vec::new();
    for (name, value) in entries {
        put_short(&mut table, name)?;
        if let Ok(number) = value.parse::<i64>() {
            table.push(b'l');
            table.extend_from_slice(&number.to_be_bytes());
        } else if let Ok(truth) = value.parse::<bool>() {
            table.extend_from_slice(&[b't', u8::from(truth)]);
        } else {
            table.push(b'S');
            put_long(&mut table, value.as_bytes());
        }
    }
    put_long(out, &table);
    Ok(())
}

impl Link {
    /// Sends a method and waits for its answer, whose arguments are returned.
    async fn call(&mut self, request: &[u8], answer: (u16, u16)) -> Result<Vec<u8>, Fault> {
        self.send(request).await?;
        self.answer(answer).await
    }

    async fn answer(&mut self, answer: (u16, u16)) -> Result<Vec<u8>, Fault> {
        loop {
            let found = self.input.until(|bytes| {
                let Some(frame) = frame(bytes)? else { return Ok(None) };
                if frame.kind == HEARTBEAT {
                    return Ok(Some((None, frame.len)));
                }
                let (found, arguments) = id(frame.payload)?;
                if found == answer {
                    return Ok(Some((Some(arguments.to_vec()), frame.len)));
                }
                unasked(found, arguments)?;
                Ok(Some((None, frame.len)))
            });
            if let Some(arguments) = found.await? {
                return Ok(arguments);
            }
        }
    }
}

fn start_ok(access: &Access) -> Result<Vec<u8>, Fault> {
    let user = access.target.user.as_deref().unwrap_or("guest");
    let password = access.target.password.as_deref().unwrap_or("guest");
    method(0, START_OK, |out| {
        let mut capabilities = Vec::new();
        for name in ["authentication_failure_close", "connection.blocked", "publisher_confirms"] {
            put_short(&mut capabilities, name)?;
            capabilities.extend_from_slice(b"t\x01");
        }
        let mut properties = Vec::new();
        put_short(&mut properties, "product")?;
        properties.push(b'S');
        put_long(&mut properties, b"isthmus-bench");
        put_short(&mut properties, "capabilities")?;
        properties.push(b'F');
        put_long(&mut properties, &capabilities);
        put_long(out, &properties);
        put_short(out, "PLAIN")?;
        put_long(out, format!("\0{user}\0{password}").as_bytes());
        put_short(out, "en_US")
    })
}

/// A connection with channel 1, and the largest frame that both ends agree to.
async fn open(dialer: &Dialer, access: &Access) -> Result<(Link, usize), Fault> {
    let mut link = Link::connect(dialer).await?;
    link.send(b"AMQP\0\0\x09\x01").await?;
    link.answer(START).await?;
    let refused = "; the name, the password or the virtual host may be wrong";
    let tune = match link.call(&start_ok(access)?, TUNE).await {
        Err(Fault::Closed(_)) => return Err(Fault::Closed(refused)),
        other => other?,
    };
    let Some(&[c, h, a, b, d, e, ..]) = tune.first_chunk::<8>() else {
        return Err(Fault::protocol("connection.tune is cut short"));
    };
    let theirs = match u32::from_be_bytes([a, b, d, e]) {
        0 => FRAME_MAX,
        theirs => theirs,
    };
    let frame_max = theirs.min(FRAME_MAX);
    let tune_ok = method(0, TUNE_OK, |out| {
        out.extend_from_slice(&[c, h]);
        out.extend_from_slice(&frame_max.to_be_bytes());
        // No heartbeats: a load that stands still is what the drain's patience is for.
        out.extend_from_slice(&[0, 0]);
        Ok(())
    })?;
    link.send(&tune_ok).await?;
    let request = method(0, OPEN, |out| {
        put_short(out, access.target.vhost.as_deref().unwrap_or("/"))?;
        out.extend_from_slice(&[0, 0]);
        Ok(())
    })?;
    match link.call(&request, OPEN_OK).await {
        Err(Fault::Closed(_)) => return Err(Fault::Closed(refused)),
        other => other?,
    };
    let request = method(1, CHANNEL_OPEN, |out| put_short(out, ""))?;
    link.call(&request, CHANNEL_OPEN_OK).await?;
    Ok((link, frame_max as usize))
}

/// A connection that does nothing further.
pub(super) async fn login(dialer: &Dialer, access: &Access) -> Result<Link, Fault> {
    Ok(open(dialer, access).await?.0)
}

/// Makes the queues, and with a fan-out the exchanges.
pub(super) async fn set_up(dialer: &Dialer, plan: &Plan) -> Result<(), Fault> {
    let (mut link, _) = open(dialer, &plan.access).await?;
    let durable = u8::from(plan.durable) << 1;
    for n in 0..plan.addresses {
        if plan.fan_out > 1 {
            let request = method(1, EXCHANGE_DECLARE, |out| {
                out.extend_from_slice(&[0, 0]);
                put_short(out, &plan.name(n))?;
                put_short(out, "fanout")?;
                out.push(durable);
                put_table(out, &[])
            })?;
            link.call(&request, EXCHANGE_DECLARE_OK).await?;
        }
        for copy in 0..plan.fan_out {
            let request = method(1, QUEUE_DECLARE, |out| {
                out.extend_from_slice(&[0, 0]);
                put_short(out, &plan.queue(n, copy))?;
                out.push(durable);
                put_table(out, &plan.queue_args)
            })?;
            link.call(&request, QUEUE_DECLARE_OK).await?;
            if plan.fan_out > 1 {
                let request = method(1, QUEUE_BIND, |out| {
                    out.extend_from_slice(&[0, 0]);
                    put_short(out, &plan.queue(n, copy))?;
                    put_short(out, &plan.name(n))?;
                    put_short(out, "")?;
                    out.push(0);
                    put_table(out, &[])
                })?;
                link.call(&request, QUEUE_BIND_OK).await?;
            }
        }
    }
    link.close(GOODBYE).await;
    Ok(())
}

/// Removes what `set_up` made.
pub(super) async fn tear_down(dialer: &Dialer, plan: &Plan) -> Result<(), Fault> {
    let (mut link, _) = open(dialer, &plan.access).await?;
    let delete = |id, name: &str| {
        method(1, id, |out| {
            out.extend_from_slice(&[0, 0]);
            put_short(out, name)?;
            out.push(0);
            Ok(())
        })
    };
    for n in 0..plan.addresses {
        for copy in 0..plan.fan_out {
            link.call(&delete(QUEUE_DELETE, &plan.queue(n, copy))?, QUEUE_DELETE_OK).await?;
        }
        if plan.fan_out > 1 {
            link.call(&delete(EXCHANGE_DELETE, &plan.name(n))?, EXCHANGE_DELETE_OK).await?;
        }
    }
    link.close(GOODBYE).await;
    Ok(())
}

/// A producer's connection.
pub(super) async fn producer(dialer: &Dialer, plan: &Plan, n: usize) -> Result<Outbound, Fault> {
    let (mut link, frame_max) = open(dialer, &plan.access).await?;
    if plan.window > 0 {
        let request = method(1, CONFIRM, |out| {
            out.push(0);
            Ok(())
        })?;
        link.call(&request, CONFIRM_OK).await?;
    }
    let mut starts = Vec::new();
    for address in plan.producer_addresses(n) {
        let name = plan.name(address);
        let (exchange, key) =
            if plan.fan_out > 1 { (name.as_str(), "") } else { ("", name.as_str()) };
        let mut start = method(1, PUBLISH, |out| {
            out.extend_from_slice(&[0, 0]);
            put_short(out, exchange)?;
            put_short(out, key)?;
            out.push(0);
            Ok(())
        })?;
        // The content header: class, weight, size (set for each message), delivery mode.
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&[0; 8]);
        header.extend_from_slice(&[0x10, 0, if plan.persistent { 2 } else { 1 }]);
        put_frame(&mut start, HEADER, 1, &header);
        starts.push(start);
    }
    let encoder = Box::new(Publisher { starts, piece: frame_max - AROUND });
    Ok(Outbound { link, encoder, settler: Box::new(Confirms) })
}

struct Publisher {
    /// For each address, everything before the body.
    starts: Vec<Vec<u8>>,
    /// The most that a frame carries.
    piece: usize,
}

/// The size's distance from the end of what comes before the body: size, flags, mode, end.
const SIZE_FROM_END: usize = 8 + 2 + 1 + 1;

impl Encoder for Publisher {
    #[inline]
    fn encode(&mut self, _: u64, slot: usize, body: &Body<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.starts[slot]);
        let len = body.len();
        let at = out.len() - SIZE_FROM_END;
        out[at..at + 8].copy_from_slice(&(len as u64).to_be_bytes());
        let before = |out: &mut Vec<u8>, len: usize| {
            out.extend_from_slice(&[BODY, 0, 1]);
            out.extend_from_slice(&(len as u32).to_be_bytes());
        };
        if len == 0 {
            // No body, no frame.
        } else if len <= self.piece {
            before(out, len);
            body.write(out);
            out.push(END);
        } else {
            body.write_pieces(out, self.piece, before, |out| out.push(END));
        }
    }
}

struct Confirms;

impl Settler for Confirms {
    fn settle(
        &mut self,
        input: &[u8],
        settled: &mut Vec<Settled>,
        _: &mut Vec<u8>,
    ) -> Result<usize, Fault> {
        let mut used = 0;
        while let Some(frame) = frame(&input[used..])? {
            used += frame.len;
            if frame.kind == HEARTBEAT {
                continue;
            }
            let (id, arguments) = id(frame.payload)?;
            if id != ACK && id != NACK {
                unasked(id, arguments)?;
                continue;
            }
            let Some((tag, rest)) = arguments.split_first_chunk::<8>() else {
                return Err(Fault::protocol("a confirmation is cut short"));
            };
            let multiple = rest.first().is_some_and(|bits| bits & 1 != 0);
            // Tags count from 1.
            let tag = u64::from_be_bytes(*tag);
            let n = tag.checked_sub(1).ok_or_else(|| Fault::protocol("confirms tag 0"))?;
            settled.push(match (id, multiple) {
                (ACK, false) => Settled::One(n),
                (ACK, true) => Settled::UpTo(n),
                (_, false) => Settled::Refused(n),
                (_, true) => Settled::RefusedUpTo(n),
            });
        }
        Ok(used)
    }
}

/// A consumer's connection.
pub(super) async fn consumer(dialer: &Dialer, plan: &Plan, n: usize) -> Result<Inbound, Fault> {
    let (mut link, _) = open(dialer, &plan.access).await?;
    if plan.prefetch > 0 && plan.ack_every > 0 {
        let request = method(1, QOS, |out| {
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&plan.prefetch.to_be_bytes());
            out.push(0);
            Ok(())
        })?;
        link.call(&request, QOS_OK).await?;
    }
    let (copy, addresses) = plan.consumer_addresses(n);
    let mut receiver = Box::new(Deliveries {
        ack_every: u64::from(plan.ack_every),
        tag: 0,
        acked: 0,
        redelivered: false,
        expected: 0,
        body: Vec::new(),
        is_consuming: 0,
    });
    for address in addresses {
        let request = method(1, CONSUME, |out| {
            out.extend_from_slice(&[0, 0]);
            put_short(out, &plan.queue(address, copy))?;
            put_short(out, &format!("c{address}"))?;
            out.push(u8::from(plan.ack_every == 0) << 1);
            put_table(out, &[])
        })?;
        link.send(&request).await?;
        receiver.is_consuming += 1;
    }
    // Deliveries of one queue may come before the answer for the next: the receiver reads those.
    Ok(Inbound { link, receiver })
}

struct Deliveries {
    ack_every: u64,
    /// The tag of the delivery that is being read or was read last.
    tag: u64,
    acked: u64,
    redelivered: bool,
    /// Bytes of its body that are still to come.
    expected: u64,
    /// What has come of a body in several frames.
    body: Vec<u8>,
    /// How many answers to basic.consume are to come.
    is_consuming: usize,
}

impl Deliveries {
    fn method(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let (id, arguments) = id(payload)?;
        if id == CONSUME_OK && self.is_consuming > 0 {
            self.is_consuming -= 1;
            return Ok(());
        }
        if id != DELIVER {
            return unasked(id, arguments);
        }
        let (_, rest) = short(arguments)?;
        let Some((tag, &[redelivered, ..])) = rest.split_first_chunk::<8>() else {
            return Err(Fault::protocol("basic.deliver is cut short"));
        };
        self.tag = u64::from_be_bytes(*tag);
        self.redelivered = redelivered & 1 != 0;
        Ok(())
    }

    #[inline]
    fn whole(&mut self, body: &[u8], sink: &mut dyn Sink, reply: &mut Vec<u8>) {
        sink.message(body, self.redelivered);
        if self.ack_every > 0 && self.tag - self.acked >= self.ack_every {
            self.finish(reply);
        }
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
            match frame.kind {
                METHOD => self.method(frame.payload)?,
                HEADER => {
                    let size = frame.payload.get(4..12).and_then(|size| size.try_into().ok());
                    let size = size.map(u64::from_be_bytes);
                    self.expected =
                        size.ok_or_else(|| Fault::protocol("a content header is cut short"))?;
                    if self.expected == 0 {
                        self.whole(&[], sink, reply);
                    }
                }
                BODY => {
                    let len = frame.payload.len() as u64;
                    self.expected = self
                        .expected
                        .checked_sub(len)
                        .ok_or_else(|| Fault::protocol("a body is longer than its header says"))?;
                    if self.expected > 0 {
                        self.body.extend_from_slice(frame.payload);
                    } else if self.body.is_empty() {
                        self.whole(frame.payload, sink, reply);
                    } else {
                        let mut body = std::mem::take(&mut self.body);
                        body.extend_from_slice(frame.payload);
                        self.whole(&body, sink, reply);
                        body.clear();
                        self.body = body;
                    }
                }
                HEARTBEAT => {}
                kind => return Err(Fault::protocol(format!("a frame of type {kind}"))),
            }
        }
        Ok(used)
    }

    fn finish(&mut self, reply: &mut Vec<u8>) {
        if self.ack_every == 0 || self.tag == self.acked {
            return;
        }
        self.acked = self.tag;
        let mut payload = [0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        payload[4..12].copy_from_slice(&self.tag.to_be_bytes());
        put_frame(reply, METHOD, 1, &payload);
    }
}
