//! A message's way through the core: published, routed, its entry encoded, decoded and applied,
//! delivered, settled. No IO: what the log would write is committed at once.
//!
//! `cargo bench -p isthmus-core --bench dispatcher`, or with `-- --test` to run each once.
#![allow(missing_docs, reason = "criterion's macros make a public function")]

use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use isthmus_core::{Clock, Dispatcher, DispatcherOptions, Entry, Fact, Ledger, Output, codec};
use isthmus_model::{
    Attach, AttachMode, Batch, ConsumerId, Credit, EncodingId, Encodings, Lifetime, NO_TTL,
    Outcome, QueueDef, Record, RecordFlags, SessionId, Settlement, SharedOptions, Span, Table,
    Time, Token, TopologyChange,
};

const SESSION: SessionId = SessionId(1);
const QUEUE: &str = "orders";

/// A broker's core with one queue and one consumer.
struct Core {
    ledger: Ledger,
    dispatcher: Dispatcher,
    payload: Vec<u8>,
    next_token: u64,
    index: u64,
}

impl Core {
    fn new() -> Core {
        let options = DispatcherOptions {
            encodings: Encodings(&[]),
            outbox_bytes_max: u64::MAX,
            page_bytes_max: u64::MAX,
            retained_bytes_max: 0,
            name_seed: [7; 32],
            own_exchange: None,
        };
        let clock = Clock { monotonic: Time::from_millis(5), log: Time::from_millis(1_000_000) };
        let mut ledger = Ledger::new();
        ledger.apply_at(1, &Entry { time: clock.log, facts: vec![Fact::Term(1)] });
        let dispatcher = Dispatcher::new(options, &ledger, clock);
        let mut core = Core { ledger, dispatcher, payload: Vec::new(), next_token: 1, index: 1 };
        core.dispatcher.declare_vhost("/");
        core.turn();
        core.dispatcher.open_session(SESSION, &"/".into(), &"guest".into());
        let def = QueueDef {
            name: QUEUE.into(),
            lifetime: Lifetime::Durable,
            auto_delete: false,
            options: SharedOptions::default(),
            arguments: Table::default(),
        };
        let token = core.token();
        let declare = TopologyChange::DeclareQueue(def);
        core.dispatcher.change_topology(&core.ledger, SESSION, token, declare);
        core.turn();
        let attach = Attach {
            token: core.token(),
            consumer: ConsumerId(1),
            queue: QUEUE.into(),
            mode: AttachMode::Consume,
            credit: Credit::Window { limit: Some(10_000), shared: None },
            lease_ms: None,
            exclusive: false,
            look: false,
            no_local: false,
            filter: None,
            arguments: Table::default(),
            tag: "c".into(),
        };
        core.dispatcher.attach(&core.ledger, SESSION, attach);
        core.turn();
        core
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    /// Goes on until nothing is left to do; what the session hears.
    fn turn(&mut self) -> Vec<Output> {
        let mut heard = Vec::new();
        loop {
            self.dispatcher.dispatch(&self.ledger);
            let mut outputs = self.dispatcher.take_outputs();
            heard.extend(outputs.drain(..).map(|(_, output)| output));
            self.dispatcher.give_back(outputs);
            let Some(entry) = self.dispatcher.take_entry() else { return heard };
            self.payload.clear();
            codec::encode(&entry, &mut self.payload);
            let entry = codec::decode(&Bytes::copy_from_slice(&self.payload)).expect("decoded");
            self.index += 1;
            self.ledger.apply_at(self.index, &entry);
            self.dispatcher.committed(&self.ledger);
        }
    }

    /// Publishes a batch, takes its deliveries and accepts them; how many came.
    fn pass(&mut self, batch: &Arc<Batch>) -> u32 {
        let token = self.token();
        self.dispatcher.publish(&self.ledger, SESSION, token, Arc::clone(batch), None);
        let mut settlements = Vec::new();
        for output in self.turn() {
            if let Output::Deliver { delivery, bytes } = output {
                self.dispatcher.written(SESSION, bytes);
                settlements.push(Settlement {
                    queue: delivery.queue,
                    first: delivery.first,
                    len: delivery.len,
                    epoch: delivery.epoch,
                    outcome: Outcome::Accept,
                });
            }
        }
        let count = settlements.iter().map(|settlement| settlement.len).sum();
        let token = self.token();
        self.dispatcher.settle(&self.ledger, SESSION, token, settlements, None);
        self.turn();
        count
    }
}

/// Messages for the default exchange, with the queue's name as their key.
fn batch(count: usize, size: usize, flags: RecordFlags) -> Arc<Batch> {
    let mut chunk = Vec::new();
    let mut records = Vec::new();
    for _ in 0..count {
        let key = Span::new(chunk.len(), QUEUE.len());
        chunk.extend_from_slice(QUEUE.as_bytes());
        let body = Span::new(chunk.len(), size);
        chunk.resize(chunk.len() + size, 7);
        records.push(Record {
            exchange: Span::new(0, 0),
            routing_key: key,
            head: Span::new(0, 0),
            body,
            ttl_ms: NO_TTL,
            priority: 0,
            flags,
        });
    }
    Arc::new(Batch::new(EncodingId::AMQP_0_9_1, Bytes::from(chunk), records))
}

fn pass(c: &mut Criterion) {
    let kinds = [("transient", RecordFlags::default()), ("durable", RecordFlags::DURABLE)];
    for (kind, flags) in kinds {
        let mut group = c.benchmark_group(format!("publish, deliver, settle: {kind}"));
        for (count, size) in [(1, 16), (100, 16), (100, 1024), (1000, 16)] {
            let batch = batch(count, size, flags);
            let mut core = Core::new();
            assert_eq!(core.pass(&batch) as usize, count);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("{count} x {size} B"), |b| b.iter(|| core.pass(&batch)));
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = pass
}
criterion_main!(benches);
