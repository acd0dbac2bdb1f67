//! What a producer and a consumer say to a broker, in each protocol.
//!
//! Connections are opened here, logins included; what flows afterwards is encoded and decoded by
//! machines that do no IO. They are written for this tool and share nothing with the broker's own
//! codecs: a mistake that both ends of a connection make alike would not be seen.

mod amqp;
mod input;
mod mqtt;
mod stomp;

use std::io;

use tokio::io::AsyncWriteExt;

use crate::net::Dialer;
use crate::payload::Body;
use crate::plan::{Access, Plan, Protocol};
use crate::window::Settled;

pub(crate) use input::Input;

use crate::net::{ReadHalf, WriteHalf};

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// It could not be made, or broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The broker closed it without a word.
    #[error("the broker closed the connection{0}")]
    Closed(&'static str),
    /// The broker gave a reason to refuse something or to close the connection.
    #[error("the broker says: {0}")]
    Refused(String),
    /// The broker sent what the protocol does not allow.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    /// It took too long.
    #[error("no answer to {0} in time")]
    Timeout(&'static str),
}

impl Fault {
    fn protocol(text: impl Into<String>) -> Fault {
        Fault::Protocol(text.into())
    }
}

/// How long a broker has to close a connection that said goodbye.
const GOODBYE_WITHIN: std::time::Duration = std::time::Duration::from_secs(1);

/// A connection whose login is done.
pub(crate) struct Link {
    pub(crate) input: Input,
    pub(crate) writer: WriteHalf,
}

impl Link {
    async fn connect(dialer: &Dialer) -> Result<Link, Fault> {
        let (reader, writer): (ReadHalf, WriteHalf) = dialer.connect().await?;
        Ok(Link { input: Input::new(reader), writer })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.writer.write_all(bytes).await?;
        Ok(self.writer.flush().await?)
    }

    /// Sends the protocol's goodbye, and lets go of the connection.
    pub(crate) async fn close(mut self, goodbye: &[u8]) {
        // What is to be told has been told before.
        if self.send(goodbye).await.is_err() || self.writer.flush().await.is_err() {
            return;
        }
        // The broker closes once it has read everything. To close with something unread would have
        // the kernel reset the connection, and the broker lose what it has not read.
        let gone = async {
            while self.input.read().await.is_ok() {
                let n = self.input.bytes().len();
                self.input.consume(n);
            }
        };
        tokio::time::timeout(GOODBYE_WITHIN, gone).await.ok();
    }
}

/// Writes messages.
pub(crate) trait Encoder: Send + Sync {
    /// Writes message `n` of this connection to the `slot`th of the producer's addresses.
    fn encode(&mut self, n: u64, slot: usize, body: &Body<'_>, out: &mut Vec<u8>);
}

/// Reads what comes back to a producer.
pub(crate) trait Settler: Send {
    /// Reads as much of `input` as is whole, returns how much that was. What is to be answered goes
    /// to `reply`.
    fn settle(
        &mut self,
        input: &[u8],
        settled: &mut Vec<Settled>,
        reply: &mut Vec<u8>,
    ) -> Result<usize, Fault>;
}

/// Takes messages.
pub(crate) trait Sink {
    /// One message, and whether the broker says that it may have come before.
    fn message(&mut self, body: &[u8], redelivered: bool);
}

/// Reads what comes to a consumer.
pub(crate) trait Receiver: Send {
    /// Reads as much of `input` as is whole, returns how much that was. Acknowledgements go to
    /// `reply`.
    fn receive(
        &mut self,
        input: &[u8],
        sink: &mut dyn Sink,
        reply: &mut Vec<u8>,
    ) -> Result<usize, Fault>;

    /// Acknowledges what is not acknowledged yet.
    fn finish(&mut self, reply: &mut Vec<u8>);
}

/// A producer's connection.
pub(crate) struct Outbound {
    pub(crate) link: Link,
    pub(crate) encoder: Box<dyn Encoder>,
    pub(crate) settler: Box<dyn Settler>,
}

/// A consumer's connection.
pub(crate) struct Inbound {
    pub(crate) link: Link,
    pub(crate) receiver: Box<dyn Receiver>,
}

/// Makes queues and exchanges, where the protocol has the means.
pub(crate) async fn set_up(dialer: &Dialer, plan: &Plan) -> Result<(), Fault> {
    match plan.access.target.protocol {
        Protocol::Amqp => amqp::set_up(dialer, plan).await,
        Protocol::Mqtt | Protocol::Stomp => Ok(()),
    }
}

/// Removes what `set_up` made.
pub(crate) async fn tear_down(dialer: &Dialer, plan: &Plan) -> Result<(), Fault> {
    match plan.access.target.protocol {
        Protocol::Amqp => amqp::tear_down(dialer, plan).await,
        Protocol::Mqtt | Protocol::Stomp => Ok(()),
    }
}

/// A connection for producer `n`.
pub(crate) async fn producer(dialer: &Dialer, plan: &Plan, n: usize) -> Result<Outbound, Fault> {
    within(plan.access.connect_timeout, "the login of a producer", async {
        match plan.access.target.protocol {
            Protocol::Amqp => amqp::producer(dialer, plan, n).await,
            Protocol::Mqtt => mqtt::producer(dialer, plan, n).await,
            Protocol::Stomp => stomp::producer(dialer, plan, n).await,
        }
    })
    .await
}

/// A connection for consumer `n`, which has subscribed.
pub(crate) async fn consumer(dialer: &Dialer, plan: &Plan, n: usize) -> Result<Inbound, Fault> {
    within(plan.access.connect_timeout, "the subscription of a consumer", async {
        match plan.access.target.protocol {
            Protocol::Amqp => amqp::consumer(dialer, plan, n).await,
            Protocol::Mqtt => mqtt::consumer(dialer, plan, n).await,
            Protocol::Stomp => stomp::consumer(dialer, plan, n).await,
        }
    })
    .await
}

/// A connection that has logged in and does nothing.
pub(crate) async fn idle(dialer: &Dialer, access: &Access, name: &str) -> Result<Link, Fault> {
    within(access.connect_timeout, "the login", async {
        match access.target.protocol {
            Protocol::Amqp => amqp::login(dialer, access).await,
            Protocol::Mqtt => mqtt::login(dialer, access, name).await,
            Protocol::Stomp => stomp::login(dialer, access).await,
        }
    })
    .await
}

/// How to leave.
pub(crate) fn goodbye(access: &Access) -> &'static [u8] {
    match access.target.protocol {
        Protocol::Amqp => amqp::GOODBYE,
        Protocol::Mqtt => mqtt::GOODBYE,
        Protocol::Stomp => stomp::GOODBYE,
    }
}

async fn within<T>(
    timeout: std::time::Duration,
    what: &'static str,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(Fault::Timeout(what)))
}
