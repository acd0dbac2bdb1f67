//! As much of an AMQP 0-9-1 client as a load needs: blocking, one channel, frames by hand.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xCE;

/// Type, channel and length in front of a payload.
const HEAD_BYTES: usize = 7;

/// Room for what one read brings; above the largest frame on offer.
const BUFFER_BYTES: usize = 256 << 10;

/// Class and number of a method.
type MethodId = (u16, u16);

const START: MethodId = (10, 10);
const START_OK: MethodId = (10, 11);
const TUNE: MethodId = (10, 30);
const TUNE_OK: MethodId = (10, 31);
const OPEN: MethodId = (10, 40);
const OPEN_OK: MethodId = (10, 41);
const CHANNEL_OPEN: MethodId = (20, 10);
const CHANNEL_OPEN_OK: MethodId = (20, 11);
const DECLARE: MethodId = (50, 10);
const DECLARE_OK: MethodId = (50, 11);
const QOS: MethodId = (60, 10);
const QOS_OK: MethodId = (60, 11);
const CONSUME: MethodId = (60, 20);
const CONSUME_OK: MethodId = (60, 21);
const PUBLISH: MethodId = (60, 40);
const DELIVER: MethodId = (60, 60);
const ACK: MethodId = (60, 80);
const SELECT: MethodId = (85, 10);
const SELECT_OK: MethodId = (85, 11);

/// What the server sends once everything is set up.
pub(crate) enum Frame<'a> {
    /// The body of a message, which is never larger than a frame here.
    Body(&'a [u8]),
    /// Publishes are confirmed up to this tag: a publisher of durable messages to one queue gets
    /// its confirms in order.
    Ack(u64),
    /// The other frames of a delivery.
    Other,
}

/// A connection with one open channel.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What was read and not looked at yet, within the buffer.
    start: usize,
    end: usize,
}

impl Client {
    /// Connects, logs in and opens the channel.
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut client = Client { stream, buffer: vec![0; BUFFER_BYTES], start: 0, end: 0 };
        client.send(b"AMQP\0\0\x09\x01")?;
        client.expect(START)?;
        let login = Method::new(0, START_OK).long(b"").short("PLAIN").long(b"\0guest\0guest");
        client.send(&login.short("en_US").finish())?;
        let tune = client.expect(TUNE)?;
        let [channels @ .., _, _] = tune.as_slice() else { return Err(unexpected("tune")) };
        // What is offered, but for the heartbeat: none.
        client.send(&Method::new(0, TUNE_OK).bytes(channels).u16(0).finish())?;
        client.call(Method::new(0, OPEN).short("/").short("").u8(0), OPEN_OK)?;
        client.call(Method::new(1, CHANNEL_OPEN).short(""), CHANNEL_OPEN_OK)?;
        Ok(client)
    }

    /// Declares a queue.
    pub(crate) fn declare(&mut self, queue: &str, durable: bool) -> io::Result<()> {
        let method = Method::new(1, DECLARE).u16(0).short(queue).u8(u8::from(durable) << 1);
        self.call(method.long(b""), DECLARE_OK)
    }

    /// Asks for confirms.
    pub(crate) fn select(&mut self) -> io::Result<()> {
        self.call(Method::new(1, SELECT).u8(0), SELECT_OK)
    }

    /// Consumes a queue: unacknowledged up to a number of messages, or without acknowledgements.
    pub(crate) fn consume(&mut self, queue: &str, prefetch: Option<u16>) -> io::Result<()> {
        if let Some(prefetch) = prefetch {
            self.call(Method::new(1, QOS).u32(0).u16(prefetch).u8(0), QOS_OK)?;
        }
        let no_ack = u8::from(prefetch.is_none()) << 1;
        let method = Method::new(1, CONSUME).u16(0).short(queue).short("").u8(no_ack).long(b"");
        self.call(method, CONSUME_OK)
    }

    /// Acknowledges all deliveries up to a tag.
    pub(crate) fn ack(&mut self, tag: u64) -> io::Result<()> {
        self.send(&Method::new(1, ACK).u64(tag).u8(1).finish())
    }

    /// Writes encoded frames.
    pub(crate) fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.stream.write_all(frames)
    }

    /// Waits for more from the server.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        match self.stream.read(&mut self.buffer[self.end..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.end += read;
                Ok(())
            }
        }
    }

    /// The next frame of those that are here.
    pub(crate) fn next(&mut self) -> io::Result<Option<Frame<'_>>> {
        let Some((kind, payload)) = self.take()? else { return Ok(None) };
        Ok(Some(match kind {
            BODY => Frame::Body(payload),
            HEADER => Frame::Other,
            _ => match split_method(payload)? {
                (DELIVER, _) => Frame::Other,
                (ACK, [tag @ .., _]) => Frame::Ack(u64::from_be_bytes(
                    tag.try_into().map_err(|_| unexpected("an ack"))?,
                )),
                (id, _) => return Err(unexpected(&format!("method {id:?}"))),
            },
        }))
    }

    /// A second handle: to hang up with from another thread, or to read from there.
    pub(crate) fn stream(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    fn take(&mut self) -> io::Result<Option<(u8, &[u8])>> {
        let rest = &self.buffer[self.start..self.end];
        let Some(head) = rest.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [kind, _, _, length @ ..] = *head;
        let end = HEAD_BYTES + u32::from_be_bytes(length) as usize;
        if end >= BUFFER_BYTES {
            return Err(unexpected("a frame so large"));
        }
        let Some(last) = rest.get(end) else { return Ok(None) };
        if *last != END {
            return Err(unexpected("the end of a frame"));
        }
        self.start += end + 1;
        Ok(Some((kind, &rest[HEAD_BYTES..end])))
    }

    /// Waits for a method and returns its arguments.
    fn expect(&mut self, wanted: MethodId) -> io::Result<Vec<u8>> {
        loop {
            if let Some((_, payload)) = self.take()? {
                return match split_method(payload)? {
                    (id, arguments) if id == wanted => Ok(arguments.to_vec()),
                    (id, _) => Err(unexpected(&format!("method {id:?} for {wanted:?}"))),
                };
            }
            self.wait()?;
        }
    }

    fn call(&mut self, method: Method, answer: MethodId) -> io::Result<()> {
        self.send(&method.finish())?;
        self.expect(answer).map(drop)
    }
}

/// Hangs up; whoever reads or writes is told so.
pub(crate) fn hang_up(stream: &TcpStream) {
    // It fails only if the connection is gone already.
    drop(stream.shutdown(Shutdown::Both));
}

/// The frames of a message to a queue by way of the default exchange. The body is at the end, in
/// front of one octet.
pub(crate) fn message(queue: &str, body: &[u8], durable: bool) -> Vec<u8> {
    let mut frames = Method::new(1, PUBLISH).u16(0).short("").short(queue).u8(0).finish();
    // Class, weight, body size; delivery-mode is the only property.
    let header = Method::new(1, (60, 0)).u64(body.len() as u64).u16(1 << 12);
    let mut header = header.u8(if durable { 2 } else { 1 }).finish();
    header[0] = HEADER;
    frames.extend(header);
    frames.extend([BODY, 0, 1]);
    frames.extend((body.len() as u32).to_be_bytes());
    frames.extend(body);
    frames.push(END);
    frames
}

fn split_method(payload: &[u8]) -> io::Result<(MethodId, &[u8])> {
    let [c0, c1, m0, m1, arguments @ ..] = payload else { return Err(unexpected("no method")) };
    Ok(((u16::from_be_bytes([*c0, *c1]), u16::from_be_bytes([*m0, *m1])), arguments))
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected: {what}"))
}

/// A method's frame, being written.
struct Method(Vec<u8>);

impl Method {
    fn new(channel: u16, (class, method): MethodId) -> Method {
        let frame = Method(vec![METHOD]).u16(channel);
        // The length is filled in at the end.
        frame.u32(0).u16(class).u16(method)
    }

    fn bytes(mut self, bytes: &[u8]) -> Method {
        self.0.extend(bytes);
        self
    }

    fn u8(self, value: u8) -> Method {
        self.bytes(&[value])
    }

    fn u16(self, value: u16) -> Method {
        self.bytes(&value.to_be_bytes())
    }

    fn u32(self, value: u32) -> Method {
        self.bytes(&value.to_be_bytes())
    }

    fn u64(self, value: u64) -> Method {
        self.bytes(&value.to_be_bytes())
    }

    /// A short string; those of a benchmark are.
    fn short(self, text: &str) -> Method {
        self.u8(text.len() as u8).bytes(text.as_bytes())
    }

    /// A long string, or, if it is empty, an empty table.
    fn long(self, bytes: &[u8]) -> Method {
        self.u32(bytes.len() as u32).bytes(bytes)
    }

    fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() - HEAD_BYTES) as u32;
        self.0[3..HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        self.0.push(END);
        self.0
    }
}
