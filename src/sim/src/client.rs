//! A client that speaks in commands. On its wire every byte stands for the next command of a
//! script; what it hears comes out of a channel.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_broker::{Broker, Peer};
use isthmus_contract::{
    Attach, AttachMode, Command, CommandError, Credentials, Credit, Event, Input, Outbox, Publish,
    Reply, Secret, Session, Token, TopologyChange,
};
use isthmus_model::{
    Batch, ConsumerId, Delivery, EncodingId, Lifetime, NO_TTL, Outcome, QueueDef, Record,
    RecordFlags, Settlement, SharedOptions, Span, Table, Time,
};
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::node::VHOST;

/// Bytes that fit on the wire in either direction.
const WIRE_BYTES: usize = 4 << 10;

/// How long a client waits for an answer that it cannot do without.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// How much is added to every body.
const PADDING: usize = 40;

type Script = Arc<Mutex<VecDeque<Command>>>;

struct Scripted {
    script: Script,
    commands: VecDeque<Command>,
    events: mpsc::UnboundedSender<Event>,
    outbox: Outbox,
    closed: bool,
}

impl Session for Scripted {
    fn handle_bytes(&mut self, _now: Time, input: &mut Input) {
        while !input.is_empty() {
            input.skip(1);
            self.commands.extend(self.script.lock().pop_front());
        }
    }

    fn handle_eof(&mut self, _now: Time) {
        self.closed = true;
    }

    fn handle_event(&mut self, _now: Time, event: Event) {
        self.closed |= matches!(event, Event::Closed(_));
        // A client that is gone hears nothing.
        self.events.send(event).ok();
    }

    fn handle_timeout(&mut self, _now: Time) {}

    fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn poll_timeout(&self) -> Time {
        Time::NEVER
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn protocol(&self) -> &'static str {
        "script"
    }
}

/// One connection of a client.
pub(crate) struct Client {
    wire: DuplexStream,
    script: Script,
    events: mpsc::UnboundedReceiver<Event>,
    tokens: u64,
}

/// The connection is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Over;

impl Client {
    /// Connects to a broker and enters the virtual host, if that leads. What ends the broker's side
    /// is handed to `serving`.
    pub(crate) async fn connect(
        broker: &Broker,
        serving: impl FnOnce(AbortHandle),
    ) -> Result<Client, Over> {
        let (wire, far) = tokio::io::duplex(WIRE_BYTES);
        let script = Script::default();
        let (tell, events) = mpsc::unbounded_channel();
        let session = Scripted {
            script: Arc::clone(&script),
            commands: VecDeque::new(),
            events: tell,
            outbox: Outbox::new(),
            closed: false,
        };
        let broker = broker.clone();
        let task = tokio::spawn(async move {
            let peer = Peer::plain(([127, 0, 0, 1], 1).into());
            broker.serve(far, peer, |_, _| Box::new(session), std::future::pending()).await
        });
        serving(task.abort_handle());
        let mut client = Client { wire, script, events, tokens: 0 };
        let credentials =
            Credentials::Password { user: "client".to_owned(), password: Secret(String::new()) };
        client.ask(|token| Command::Authenticate { token, credentials }).await?;
        client.ask(|token| Command::Enter { token, vhost: VHOST.into() }).await?;
        Ok(client)
    }

    /// A token that was not given before.
    pub(crate) fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    /// Puts a command on the wire. Waits while the wire is full.
    pub(crate) async fn send(&mut self, command: Command) {
        self.script.lock().push_back(command);
        // A connection that has ended takes no more, which its events tell.
        self.wire.write_all(b".").await.unwrap_or_default();
    }

    /// Sends a command and waits for its answer. Other events are passed over: nothing else may be
    /// under way.
    async fn ask(&mut self, command: impl FnOnce(Token) -> Command) -> Result<Reply, Over> {
        let wanted = self.token();
        self.send(command(wanted)).await;
        loop {
            match self.event(PATIENCE).await? {
                Some(Event::Done { token, result }) if token == wanted => {
                    return result.map_err(|_: CommandError| Over);
                }
                Some(_) => {}
                None => return Err(Over),
            }
        }
    }

    /// The next event, if it comes within `time`.
    pub(crate) async fn event(&mut self, time: Duration) -> Result<Option<Event>, Over> {
        match timeout(time, self.events.recv()).await {
            Ok(Some(Event::Closed(_)) | None) => Err(Over),
            Ok(event) => Ok(event),
            Err(_) => Ok(None),
        }
    }

    /// Declares a durable queue.
    pub(crate) async fn declare(&mut self, name: &str) -> Result<(), Over> {
        let change = TopologyChange::DeclareQueue(QueueDef {
            name: name.into(),
            lifetime: Lifetime::Durable,
            auto_delete: false,
            options: SharedOptions::default(),
            arguments: Table::default(),
        });
        self.ask(|token| Command::Topology { token, change }).await.map(drop)
    }

    /// Publishes messages with these numbers to a queue; what comes of it is said for `token`.
    pub(crate) async fn publish(&mut self, token: Token, queue: &str, ids: &[u64]) {
        let batch = batch(queue, ids);
        self.send(Command::Publish(Publish { token, batch, transaction: None })).await;
    }

    /// Begins to consume; the answer is not waited for.
    pub(crate) async fn consume(&mut self, queue: &str, consumer: u64, credit: Credit) {
        let token = self.token();
        let attach = Attach {
            token,
            consumer: ConsumerId(consumer),
            queue: queue.into(),
            mode: AttachMode::Consume,
            credit,
            lease_ms: None,
            exclusive: false,
            look: false,
            no_local: false,
            filter: None,
            arguments: Table::default(),
            tag: "sim".into(),
        };
        self.send(Command::Attach(attach)).await;
    }

    /// Settles one message of a delivery; what comes of it is said for `token`.
    pub(crate) async fn settle(&mut self, token: Token, settlement: Settlement) {
        let settlements = vec![settlement];
        self.send(Command::Settle { token, settlements, transaction: None }).await;
    }
}

/// What settles message `offset` of a delivery.
pub(crate) fn settlement(delivery: &Delivery, offset: u64, outcome: Outcome) -> Settlement {
    let Delivery { queue, first, epoch, .. } = *delivery;
    Settlement { queue, first: first + offset, len: 1, epoch, outcome }
}

/// The numbers of the messages of a delivery.
pub(crate) fn ids(delivery: &Delivery) -> Vec<u64> {
    let first = delivery.record as usize;
    let records = &delivery.batch.records[first..first + delivery.len as usize];
    records.iter().map(|record| id_of(delivery.batch.body(record))).collect()
}

/// The body of the message with this number.
pub(crate) fn body(id: u64) -> Vec<u8> {
    let mut body = id.to_le_bytes().to_vec();
    // Now and then one that fills a good part of a segment.
    let padding = if id.is_multiple_of(17) { 40 * PADDING } else { PADDING };
    body.resize(body.len() + padding, id as u8);
    body
}

/// The number of the message with this body.
pub(crate) fn id_of(body: &[u8]) -> u64 {
    body.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A window of a consumer's own.
pub(crate) fn window(limit: u32) -> Credit {
    Credit::Window { limit: Some(limit), shared: None }
}

fn batch(queue: &str, ids: &[u64]) -> Arc<Batch> {
    let mut chunk = queue.as_bytes().to_vec();
    let mut records = Vec::new();
    for id in ids {
        let start = chunk.len();
        chunk.extend_from_slice(&body(*id));
        records.push(Record {
            exchange: Span::new(0, 0),
            routing_key: Span::new(0, queue.len()),
            head: Span::default(),
            body: Span::new(start, chunk.len() - start),
            ttl_ms: NO_TTL,
            priority: 0,
            flags: RecordFlags::DURABLE,
        });
    }
    Arc::new(Batch::new(EncodingId::AMQP_0_9_1, Bytes::from(chunk), records.into_iter().collect()))
}
