//! A client of AMQP 0-9-1 that sends and reads bytes, and so may dawdle where libraries do not.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A method's class and number.
pub(crate) type Ids = (u16, u16);

pub(crate) const CONNECTION_CLOSE: Ids = (10, 50);
pub(crate) const CHANNEL_CLOSE: Ids = (20, 40);
pub(crate) const TUNE: Ids = (10, 30);
pub(crate) const OPEN_OK: Ids = (10, 41);
pub(crate) const BLOCKED: Ids = (10, 60);
pub(crate) const UNBLOCKED: Ids = (10, 61);
pub(crate) const DELIVER: Ids = (60, 60);

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Which method it is, if it is one.
    pub(crate) fn ids(&self) -> Option<Ids> {
        let (class, rest) = self.payload.split_first_chunk::<2>()?;
        let (method, _) = rest.split_first_chunk::<2>()?;
        (self.kind == 1).then_some((u16::from_be_bytes(*class), u16::from_be_bytes(*method)))
    }
}

impl Frame {
    /// The code and the text of connection.close or channel.close.
    pub(crate) fn reason(&self) -> String {
        let (code, text) = self.payload[4..].split_first_chunk::<2>().expect("a code");
        let text = &text[1..1 + usize::from(text[0])];
        format!("{} {}", u16::from_be_bytes(*code), String::from_utf8_lossy(text))
    }
}

/// One connection with channel 1 open.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    /// Logs in as guest and opens channel 1.
    pub(crate) fn connect(port: u16) -> io::Result<Client> {
        Self::connect_as(port, "guest", "guest")
    }

    /// Logs in and opens channel 1. Where the broker closes the connection instead, the error says
    /// with which code and text.
    pub(crate) fn connect_as(port: u16, user: &str, password: &str) -> io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut client = Client { stream };
        client.stream.write_all(b"AMQP\0\0\x09\x01")?;
        let capabilities = [
            short("connection.blocked"),
            b"t\x01".to_vec(),
            short("authentication_failure_close"),
            b"t\x01".to_vec(),
        ]
        .concat();
        let properties = [short("capabilities"), b"F".to_vec(), long(&capabilities)].concat();
        let response = long(format!("\0{user}\0{password}").as_bytes());
        let login = [long(&properties), short("PLAIN"), response, short("en_US")];
        client.send(&method(0, (10, 11), &login.concat()))?;
        client.wait_for(TUNE)?;
        client.send(&method(0, (10, 31), b"\x07\xff\0\x02\0\0\0\0"))?;
        client.send(&method(0, (10, 40), &[short("/"), short(""), vec![0]].concat()))?;
        client.wait_for(OPEN_OK)?;
        client.send(&method(1, (20, 10), &short("")))?;
        client.wait_for((20, 11))?;
        Ok(client)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads a frame.
    pub(crate) fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head)?;
        let [kind, _, _, a, b, c, d] = head;
        let mut payload = vec![0; u32::from_be_bytes([a, b, c, d]) as usize + 1];
        self.stream.read_exact(&mut payload)?;
        payload.pop();
        Ok(Frame { kind, payload })
    }

    /// Reads until this method comes.
    pub(crate) fn wait_for(&mut self, ids: Ids) -> io::Result<Frame> {
        loop {
            let frame = self.read()?;
            if frame.ids() == Some(ids) {
                return Ok(frame);
            }
            if let Some(CONNECTION_CLOSE | CHANNEL_CLOSE) = frame.ids() {
                return Err(io::Error::other(frame.reason()));
            }
        }
    }

    /// Declares a durable queue.
    pub(crate) fn declare(&mut self, queue: &str) -> io::Result<()> {
        let arguments = [vec![0, 0], short(queue), vec![2], long(b"")].concat();
        self.send(&method(1, (50, 10), &arguments))?;
        self.wait_for((50, 11)).map(drop)
    }

    /// Gives a new secret in place of the one that was logged in with.
    pub(crate) fn update_secret(&mut self, secret: &str) -> io::Result<()> {
        let arguments = [long(secret.as_bytes()), short("expires")].concat();
        self.send(&method(0, (10, 70), &arguments))?;
        self.wait_for((10, 71)).map(drop)
    }

    /// Consumes without acknowledgements.
    pub(crate) fn consume(&mut self, queue: &str) -> io::Result<()> {
        let arguments = [vec![0, 0], short(queue), short("c"), vec![2], long(b"")].concat();
        self.send(&method(1, (60, 20), &arguments))?;
        self.wait_for((60, 21)).map(drop)
    }

    /// The messages in a queue.
    pub(crate) fn purge(&mut self, queue: &str) -> io::Result<u32> {
        self.send(&method(1, (50, 30), &[vec![0, 0], short(queue), vec![0]].concat()))?;
        let purged = self.wait_for((50, 31))?;
        let count = purged.payload.last_chunk::<4>().expect("a count");
        Ok(u32::from_be_bytes(*count))
    }
}

/// The bytes of a persistent message for `queue`.
pub(crate) fn publish(queue: &str, body: &[u8]) -> Vec<u8> {
    publish_as(2, queue, body)
}

/// A publish with a delivery mode: 1 is transient, 2 persistent.
pub(crate) fn publish_as(delivery_mode: u8, queue: &str, body: &[u8]) -> Vec<u8> {
    let size = (body.len() as u64).to_be_bytes();
    // Flag 12: the delivery mode is given.
    let header = [&[0, 60, 0, 0][..], &size, &[0x10, 0, delivery_mode]].concat();
    let arguments = [vec![0, 0], short(""), short(queue), vec![0]].concat();
    [method(1, (60, 40), &arguments), frame(2, 1, &header), frame(3, 1, body)].concat()
}

fn method(channel: u16, (class, id): Ids, arguments: &[u8]) -> Vec<u8> {
    frame(1, channel, &[&class.to_be_bytes(), &id.to_be_bytes(), arguments].concat())
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&[kind], &channel.to_be_bytes()[..], &len, payload, &[0xce]].concat()
}

fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}
