//! Clients that speak bytes of real protocols to the production sessions.
//!
//! A simulated node serves them as the server does: [`Broker::serve`] over a stream, with a session
//! of the protocol. What a client makes of the answers is its own, with nothing of the sessions in it.

mod amqp;
pub(crate) mod mqtt;
mod stomp;

use std::time::Duration;

use isthmus_amqp091::{Amqp091Encoding, Amqp091Session};
use isthmus_broker::{Broker, Peer};
use isthmus_contract::Session;
use isthmus_model::{EncodingId, Encodings, SessionId, Time};
use isthmus_mqtt::{MqttEncoding, MqttSession};
use isthmus_stomp::{StompEncoding, StompSession};
use isthmus_storage::fs::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::client::{Over, PATIENCE};

/// How the heads of messages are read, as the server has it.
pub(crate) const ENCODINGS: Encodings = Encodings(&[
    (EncodingId::AMQP_0_9_1, &Amqp091Encoding),
    (EncodingId::MQTT, &MqttEncoding),
    (EncodingId::STOMP, &StompEncoding),
]);

/// Bytes that fit on the wire in either direction: less than a client may have under way, so that
/// frames are cut anywhere.
const WIRE_BYTES: usize = 2 << 10;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Amqp,
    Mqtt,
    Stomp,
}

impl Protocol {
    fn session(self, id: SessionId, now: Time, name_secret: u128) -> Box<dyn Session> {
        let encodings = ENCODINGS;
        match self {
            Protocol::Amqp => {
                let config = isthmus_amqp091::SessionConfig::new(id);
                let config = isthmus_amqp091::SessionConfig { name_secret, encodings, ..config };
                Box::new(Amqp091Session::new(config, now))
            }
            Protocol::Mqtt => {
                let config = isthmus_mqtt::SessionConfig::new(id);
                let config = isthmus_mqtt::SessionConfig { name_secret, encodings, ..config };
                Box::new(MqttSession::new(config, now))
            }
            Protocol::Stomp => {
                let config = isthmus_stomp::SessionConfig::new(id);
                let config = isthmus_stomp::SessionConfig { name_secret, encodings, ..config };
                Box::new(StompSession::new(config, now))
            }
        }
    }
}

/// A connection, and what has come and not been read.
pub(crate) struct Line {
    wire: DuplexStream,
    got: Vec<u8>,
}

impl Line {
    /// Connects to a broker. What ends the broker's side is handed to `serving`.
    fn connect(
        broker: &Broker,
        protocol: Protocol,
        rng: &mut Rng,
        serving: impl FnOnce(AbortHandle),
    ) -> Line {
        let (wire, far) = tokio::io::duplex(WIRE_BYTES);
        let name_secret = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
        let broker = broker.clone();
        let task = tokio::spawn(async move {
            let peer = Peer::plain(([127, 0, 0, 1], 1).into());
            let session = move |id, now| protocol.session(id, now, name_secret);
            broker.serve(far, peer, session, std::future::pending()).await
        });
        serving(task.abort_handle());
        Line { wire, got: Vec::new() }
    }

    /// Sends `bytes`, and reads what comes meanwhile, for the other end may wait for that.
    async fn send(&mut self, mut bytes: &[u8]) -> Result<(), Over> {
        let mut piece = [0; WIRE_BYTES];
        let (mut from, mut to) = tokio::io::split(&mut self.wire);
        let got = &mut self.got;
        let sending = async {
            while !bytes.is_empty() {
                tokio::select! {
                    biased;
                    sent = to.write(bytes) => match sent {
                        Ok(sent) if sent > 0 => bytes = &bytes[sent..],
                        _ => return Err(Over),
                    },
                    read = from.read(&mut piece) => match read {
                        Ok(read) if read > 0 => got.extend_from_slice(&piece[..read]),
                        _ => return Err(Over),
                    },
                }
            }
            Ok(())
        };
        timeout(PATIENCE, sending).await.map_err(|_| Over)?
    }

    /// Waits for `time` until more has come; whether it has.
    async fn more(&mut self, time: Duration) -> Result<bool, Over> {
        let mut piece = [0; WIRE_BYTES];
        match timeout(time, self.wire.read(&mut piece)).await {
            Ok(Ok(read)) if read > 0 => self.got.extend_from_slice(&piece[..read]),
            Ok(_) => return Err(Over),
            Err(_) => return Ok(false),
        }
        Ok(true)
    }
}

/// What a client of queues has heard.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Messages with these numbers are stored.
    Stored(Vec<u64>),
    /// They are refused.
    Refused(Vec<u64>),
    /// A message has come from the queue with this index; `handle` is what settles it.
    Got { queue: usize, id: u64, redelivered: bool, handle: u64 },
    /// These are settled.
    Settled(Vec<u64>),
}

/// A client of queues that speaks a protocol.
pub(crate) enum Speaker {
    Amqp(amqp::Amqp),
    Stomp(stomp::Stomp),
}

impl Speaker {
    /// Connects, and declares the queues where that is the client's to do.
    pub(crate) async fn connect(
        broker: &Broker,
        protocol: Protocol,
        rng: &mut Rng,
        serving: impl FnOnce(AbortHandle),
    ) -> Result<Speaker, Over> {
        let line = Line::connect(broker, protocol, rng, serving);
        match protocol {
            Protocol::Stomp => stomp::Stomp::connect(line).await.map(Speaker::Stomp),
            _ => amqp::Amqp::connect(line).await.map(Speaker::Amqp),
        }
    }

    /// From now on publishes are answered.
    pub(crate) async fn publishes(&mut self) -> Result<(), Over> {
        match self {
            Speaker::Amqp(amqp) => amqp.confirm().await,
            Speaker::Stomp(_) => Ok(()),
        }
    }

    /// Publishes a message to a queue.
    pub(crate) async fn publish(&mut self, queue: usize, id: u64) -> Result<(), Over> {
        match self {
            Speaker::Amqp(amqp) => amqp.publish(queue, id).await,
            Speaker::Stomp(stomp) => stomp.publish(queue, id).await,
        }
    }

    /// Begins to consume from all queues.
    pub(crate) async fn consume(&mut self, rng: &mut Rng) -> Result<(), Over> {
        let limit = 1 + rng.below(8) as u16;
        match self {
            Speaker::Amqp(amqp) => amqp.consume(limit, rng.chance(50)).await,
            Speaker::Stomp(stomp) => stomp.consume(limit).await,
        }
    }

    /// Settles the message `id`, or gives it back.
    pub(crate) async fn settle(
        &mut self,
        handle: u64,
        id: u64,
        gives_back: bool,
    ) -> Result<(), Over> {
        match self {
            Speaker::Amqp(amqp) => amqp.settle(handle, id, gives_back).await,
            Speaker::Stomp(stomp) => stomp.settle(handle, id, gives_back).await,
        }
    }

    /// What comes next, if it comes within `time`.
    pub(crate) async fn hear(&mut self, time: Duration) -> Result<Option<Heard>, Over> {
        match self {
            Speaker::Amqp(amqp) => amqp.hear(time).await,
            Speaker::Stomp(stomp) => stomp.hear(time).await,
        }
    }
}
