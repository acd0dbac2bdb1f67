//! A client that speaks in commands. On its wire every byte stands for the next command of a
//! script, so that what holds back reading holds back commands; what it hears is recorded.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use isthmus_broker::{Broker, Peer};
use isthmus_contract::{
    Attach, AttachMode, Command, CommandError, Credentials, Credit, Event, Input, Outbox, Publish,
    Reply, Secret, Session, Token, TopologyChange,
};
use isthmus_model::{
    Batch, ConsumerId, Delivery, EncodingId, Lifetime, NO_TTL, Outcome, QueueDef, QueueOptions,
    Record, RecordFlags, Settlement, Span, Table, Time, TransactionId,
};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Patience, VHOST};

/// Bytes that fit on the wire in either direction.
const WIRE_BYTES: usize = 4 << 10;

/// How a client's session behaves.
#[derive(Clone, Copy)]
pub(crate) struct Manners {
    /// Whether the bodies of deliveries are written to the client.
    pub(crate) writes_bodies: bool,
    /// Bytes in its outbox at which the session takes no more input.
    pub(crate) stops_at_bytes: usize,
    /// What it answers to each command once it is done.
    pub(crate) answer: &'static [u8],
    /// Its last words when the broker closes; nothing at all ends the session in silence.
    pub(crate) goodbye: &'static [u8],
    /// Once logged in, this many bytes stand for a command instead of one; 0 for one.
    pub(crate) pads_to_bytes: usize,
    /// Whether it goes on when the client has ended its side.
    pub(crate) goes_on_after_eof: bool,
    /// The queue that a message goes to when the session ends, whoever ends it.
    pub(crate) will: Option<&'static str>,
    /// Whether the connection is broken where the client ends it.
    pub(crate) breaks: bool,
}

impl Default for Manners {
    fn default() -> Manners {
        Manners {
            writes_bodies: false,
            stops_at_bytes: usize::MAX,
            answer: b"",
            goodbye: b"goodbye",
            pads_to_bytes: 0,
            goes_on_after_eof: false,
            will: None,
            breaks: false,
        }
    }
}

type Script = Arc<Mutex<VecDeque<Command>>>;

struct Scripted {
    manners: Manners,
    script: Script,
    commands: VecDeque<Command>,
    events: mpsc::UnboundedSender<Event>,
    outbox: Outbox,
    entered: bool,
    closed: bool,
}

impl Scripted {
    fn end(&mut self) {
        self.closed = true;
        if let Some(queue) = self.manners.will.take() {
            let batch = batch("", queue, &[b"will".to_vec()]);
            let publish = Publish { token: Token::SILENT, batch, transaction: None };
            self.commands.push_back(Command::Publish(publish));
        }
    }
}

impl Session for Scripted {
    fn handle_bytes(&mut self, _now: Time, input: &mut Input) {
        let is_padded = self.entered && self.manners.pads_to_bytes > 0;
        let len = if is_padded { self.manners.pads_to_bytes } else { 1 };
        while input.len() >= len && self.outbox.len() < self.manners.stops_at_bytes {
            input.skip(len);
            self.commands.extend(self.script.lock().pop_front());
        }
    }

    fn handle_eof(&mut self, _now: Time) {
        if !self.manners.goes_on_after_eof {
            self.end();
        }
    }

    fn handle_event(&mut self, _now: Time, event: Event) {
        match &event {
            Event::Done { result, .. } => {
                self.entered |= matches!(result, Ok(Reply::Ok));
                self.outbox.buf().extend_from_slice(self.manners.answer);
            }
            Event::Deliveries(deliveries) if self.manners.writes_bodies => {
                for (batch, record) in deliveries.iter().flat_map(messages) {
                    self.outbox.push_slice(&batch.chunk, record.body);
                }
            }
            Event::Closed(_) => {
                self.outbox.buf().extend_from_slice(self.manners.goodbye);
                self.end();
            }
            _ => {}
        }
        // A client that is gone hears nothing.
        drop(self.events.send(event));
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

/// The messages of a delivery.
pub(crate) fn messages(delivery: &Delivery) -> impl Iterator<Item = (&Batch, &Record)> {
    let batch = &*delivery.batch;
    let first = delivery.record as usize;
    batch.records[first..first + delivery.len as usize].iter().map(move |record| (batch, record))
}

/// The bodies of a delivery.
pub(crate) fn bodies(delivery: &Delivery) -> Vec<&[u8]> {
    messages(delivery).map(|(batch, record)| batch.body(record)).collect()
}

/// What settles a delivery, or `len` messages of it from `offset` on.
pub(crate) fn settlement(d: &Delivery, offset: u32, len: u32, outcome: Outcome) -> Settlement {
    let first = d.first + u64::from(offset);
    Settlement { queue: d.queue, first, len, epoch: d.epoch, outcome }
}

/// Durable messages with one address.
pub(crate) fn batch(exchange: &str, key: &str, bodies: &[Vec<u8>]) -> Arc<Batch> {
    batch_of(RecordFlags::DURABLE, exchange, key, bodies)
}

/// Messages with one address.
pub(crate) fn batch_of(
    flags: RecordFlags,
    exchange: &str,
    key: &str,
    bodies: &[Vec<u8>],
) -> Arc<Batch> {
    let mut chunk: Vec<u8> = [exchange, key].concat().into_bytes();
    let records = bodies.iter().map(|body| {
        let start = chunk.len();
        chunk.extend_from_slice(body);
        Record {
            exchange: Span::new(0, exchange.len()),
            routing_key: Span::new(exchange.len(), key.len()),
            head: Span::default(),
            body: Span::new(start, body.len()),
            ttl_ms: NO_TTL,
            priority: 0,
            flags,
        }
    });
    let records = records.collect();
    Arc::new(Batch::new(EncodingId::AMQP_0_9_1, Bytes::from(chunk), records))
}

/// A durable queue.
pub(crate) fn durable_queue(name: &str, options: QueueOptions) -> TopologyChange {
    TopologyChange::DeclareQueue(QueueDef {
        name: name.into(),
        lifetime: Lifetime::Durable,
        auto_delete: false,
        options: options.into(),
        arguments: Table::default(),
    })
}

/// The broker's end of a connection; one that breaks is reset where it would end.
struct Wire {
    stream: DuplexStream,
    breaks: bool,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.breaks && read.is_ready() && buf.filled().len() == before {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The test's end of a connection.
pub(crate) struct Client {
    pub(crate) wire: DuplexStream,
    script: Script,
    events: mpsc::UnboundedReceiver<Event>,
    /// Deliveries that came before an answer that was waited for.
    passed: VecDeque<Event>,
    tokens: u64,
    close: Option<oneshot::Sender<()>>,
    serving: JoinHandle<io::Result<()>>,
}

impl Client {
    /// Connects and enters the virtual host.
    pub(crate) async fn connect(broker: &Broker) -> Client {
        Client::with(broker, Manners::default()).await
    }

    /// Connects with `manners` and enters the virtual host.
    pub(crate) async fn with(broker: &Broker, manners: Manners) -> Client {
        let (wire, stream) = tokio::io::duplex(WIRE_BYTES);
        let far = Wire { stream, breaks: manners.breaks };
        let script = Script::default();
        let (tell, events) = mpsc::unbounded_channel();
        let session = Scripted {
            manners,
            script: Arc::clone(&script),
            commands: VecDeque::new(),
            events: tell,
            outbox: Outbox::new(),
            entered: false,
            closed: false,
        };
        let (close, closing) = oneshot::channel::<()>();
        let broker = broker.clone();
        let serving = tokio::spawn(async move {
            let closing = Box::pin(async move {
                if closing.await.is_err() {
                    std::future::pending::<()>().await;
                }
            });
            let peer = Peer::plain(([127, 0, 0, 1], 1).into());
            broker.serve(far, peer, |_, _| Box::new(session), closing).await
        });
        let mut client = Client {
            wire,
            script,
            events,
            passed: VecDeque::new(),
            tokens: 0,
            close: Some(close),
            serving,
        };
        let credentials =
            Credentials::Password { user: "tester".to_owned(), password: Secret(String::new()) };
        client.ask(|token| Command::Authenticate { token, credentials }).await.unwrap();
        client.ask(|token| Command::Enter { token, vhost: VHOST.into() }).await.unwrap();
        client
    }

    /// A token that was not given before.
    pub(crate) fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    /// Puts a command on the wire. Waits while the wire is full.
    pub(crate) async fn send(&mut self, command: Command) {
        self.script.lock().push_back(command);
        // A connection that has ended takes no more.
        drop(self.wire.write_all(b".").await);
    }

    /// Sends a command with a token of its own.
    pub(crate) async fn request(&mut self, command: impl FnOnce(Token) -> Command) -> Token {
        let token = self.token();
        self.send(command(token)).await;
        token
    }

    /// Sends a command and waits for its answer; other events on the way are dropped, but for
    /// deliveries.
    pub(crate) async fn ask(
        &mut self,
        command: impl FnOnce(Token) -> Command,
    ) -> Result<Reply, CommandError> {
        let token = self.request(command).await;
        self.answer_to(token).await
    }

    /// Waits for an answer; other events on the way are dropped, but for deliveries.
    pub(crate) async fn answer_to(&mut self, wanted: Token) -> Result<Reply, CommandError> {
        let mut passed = Vec::new();
        loop {
            match self.event().await {
                Event::Done { token, result } if token == wanted => {
                    for deliveries in passed.into_iter().rev() {
                        self.passed.push_front(deliveries);
                    }
                    return result;
                }
                // They may come at any time, and are asked for by themselves.
                Event::Deliveries(deliveries) => passed.push(Event::Deliveries(deliveries)),
                _ => {}
            }
        }
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Event {
        if let Some(event) = self.passed.pop_front() {
            return event;
        }
        let patience = Patience::begin();
        while !patience.is_over() {
            let soon = Duration::from_millis(10);
            if let Ok(event) = tokio::time::timeout(soon, self.events.recv()).await {
                return event.expect("the connection is over");
            }
        }
        panic!("no event comes")
    }

    /// The next event, if it is there.
    pub(crate) fn try_event(&mut self) -> Option<Event> {
        self.passed.pop_front().or_else(|| self.events.try_recv().ok())
    }

    /// The next deliveries; other events on the way are dropped.
    pub(crate) async fn deliveries(&mut self) -> Vec<Delivery> {
        loop {
            if let Event::Deliveries(deliveries) = self.event().await {
                return deliveries;
            }
        }
    }

    /// Declares a durable queue and does not wait.
    pub(crate) async fn request_declare(&mut self, name: &str) {
        let change = durable_queue(name, QueueOptions::default());
        self.request(|token| Command::Topology { token, change }).await;
    }

    /// Declares a durable queue.
    pub(crate) async fn declare(&mut self, name: &str) {
        let change = durable_queue(name, QueueOptions::default());
        self.ask(|token| Command::Topology { token, change }).await.unwrap();
    }

    /// Publishes through the default exchange and waits until it is confirmed.
    pub(crate) async fn publish(&mut self, queue: &str, bodies: &[Vec<u8>]) {
        let batch = batch("", queue, bodies);
        let publish = |token| Command::Publish(Publish { token, batch, transaction: None });
        self.ask(publish).await.unwrap();
    }

    /// Publishes through the default exchange and does not wait.
    pub(crate) async fn publish_later(
        &mut self,
        queue: &str,
        bodies: &[Vec<u8>],
        transaction: Option<TransactionId>,
    ) -> Token {
        let batch = batch("", queue, bodies);
        self.request(|token| Command::Publish(Publish { token, batch, transaction })).await
    }

    /// Begins to consume; the answer is not waited for.
    pub(crate) async fn consume(&mut self, queue: &str, consumer: u64, credit: Credit) -> Token {
        let queue = queue.into();
        self.request(|token| {
            Command::Attach(Attach {
                token,
                consumer: ConsumerId(consumer),
                queue,
                mode: AttachMode::Consume,
                credit,
                lease_ms: None,
                exclusive: false,
                look: false,
                no_local: false,
                filter: None,
                arguments: Table::default(),
                tag: "test".into(),
            })
        })
        .await
    }

    /// Takes what is in `queue` now, without settling it.
    pub(crate) async fn take_all(&mut self, queue: &str, consumer: u64) -> Vec<Delivery> {
        let credit = Credit::Explicit { credit: u32::MAX, drain: true, deadline: Time(0) };
        self.consume(queue, consumer, credit).await;
        let mut taken = Vec::new();
        loop {
            match self.event().await {
                Event::Deliveries(deliveries) => taken.extend(deliveries),
                Event::CreditState { .. } => return taken,
                _ => {}
            }
        }
    }

    /// Settles whole deliveries; the answer is not waited for.
    pub(crate) async fn settle(&mut self, deliveries: &[Delivery], outcome: Outcome) -> Token {
        let settlements = deliveries.iter().map(|d| settlement(d, 0, d.len, outcome)).collect();
        self.request(|token| Command::Settle { token, settlements, transaction: None }).await
    }

    /// Has the broker close the connection.
    pub(crate) fn close(&mut self) {
        if let Some(close) = self.close.take() {
            close.send(()).unwrap();
        }
    }

    /// Commands that the session has not taken off the wire.
    pub(crate) fn unheard(&self) -> usize {
        self.script.lock().len()
    }

    /// Whether the broker's side has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.serving.is_finished()
    }
}

/// A window of a consumer's own.
pub(crate) fn window(limit: u32) -> Credit {
    Credit::Window { limit: Some(limit), shared: None }
}
