//! Decoding of publishes and encoding of deliveries, through the whole session.

#![allow(missing_docs)] // criterion's macros

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use isthmus_amqp091::{Amqp091Session, SessionConfig};
use isthmus_contract::{Command, Delivery, Event, Input, Reply, Session};
use isthmus_model::{Batch, ConsumerId, LeaseEpoch, QueueId, SessionId, Time};

const NOW: Time = Time(1_000_000_000);

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let channel = u8::from(payload.starts_with(&[0, 10]));
    let mut bytes = vec![kind, 0, 1 - channel];
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes.push(0xCE);
    bytes
}

/// A message of three frames; with a headers table of three entries if `headers`.
fn message(body: &[u8], headers: bool) -> Vec<u8> {
    let mut method = vec![0, 60, 0, 40, 0, 0];
    for name in [&b"amq.topic"[..], b"sensors.kitchen"] {
        method.push(name.len() as u8);
        method.extend(name);
    }
    method.push(0);
    let mut header = vec![0, 60, 0, 0];
    header.extend((body.len() as u64).to_be_bytes());
    if headers {
        header.extend([0x30, 0]);
        let mut table = Vec::new();
        for (name, value) in [("trace", "0af7651916cd43dd"), ("tenant", "blue"), ("kind", "t")] {
            table.push(name.len() as u8);
            table.extend(name.bytes());
            table.push(b'S');
            table.extend((value.len() as u32).to_be_bytes());
            table.extend(value.bytes());
        }
        header.extend((table.len() as u32).to_be_bytes());
        header.extend(table);
    } else {
        header.extend([0x10, 0]);
    }
    header.push(2);
    [frame(1, &method), frame(2, &header), frame(3, body)].concat()
}

/// A session with channel 1 open and a consumer on it.
fn session() -> Amqp091Session {
    let mut session = Amqp091Session::new(SessionConfig::new(SessionId(1)), NOW);
    let start_ok = b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x04\0a\0b\x05en_US";
    let tune_ok = b"\0\x0a\0\x1f\x07\xff\0\x02\0\0\0\0";
    let open = b"\0\x0a\0\x28\x01/\0\0";
    let consume = b"\0\x3c\0\x14\0\0\x01q\x08consumer\0\0\0\0\0";
    let mut input = Input::new();
    input.extend(b"AMQP\0\0\x09\x01");
    for part in [&start_ok[..], tune_ok, open, b"\0\x14\0\x0a\0", consume] {
        input.extend(&frame(1, part));
    }
    loop {
        session.handle_bytes(NOW, &mut input);
        let Some(command) = session.poll_command() else { break };
        let (token, reply) = match command {
            Command::Authenticate { token, .. } => {
                (token, Reply::Authenticated { user: "a".into() })
            }
            Command::Enter { token, .. } => (token, Reply::Ok),
            Command::Attach(attach) => (attach.token, Reply::Attached),
            other => panic!("{other:?}"),
        };
        session.handle_event(NOW, Event::Done { token, result: Ok(reply) });
    }
    let written = session.outbox().len();
    session.outbox().advance(written);
    session
}

fn batch_of(bytes: &[u8]) -> Arc<Batch> {
    let mut session = session();
    let mut input = Input::new();
    input.extend(bytes);
    session.handle_bytes(NOW, &mut input);
    match session.poll_command() {
        Some(Command::Publish(publish)) => publish.batch,
        other => panic!("{other:?}"),
    }
}

fn messages(body: usize, headers: bool) -> (Vec<u8>, u64) {
    let message = message(&vec![7; body], headers);
    let count = 64 * 1024 / message.len();
    (message.repeat(count), count as u64)
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for (name, body, headers) in
        [("16B", 16, false), ("16B_headers", 16, true), ("1KiB", 1024, false)]
    {
        let (bytes, count) = messages(body, headers);
        let mut session = session();
        group.throughput(Throughput::Elements(count));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || {
                    let mut input = Input::new();
                    input.buffer(bytes.len()).extend_from_slice(&bytes);
                    input
                },
                |input| {
                    session.handle_bytes(NOW, input);
                    black_box(session.poll_command())
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for (name, body, headers) in
        [("16B", 16, false), ("16B_headers", 16, true), ("1KiB", 1024, false)]
    {
        let (bytes, count) = messages(body, headers);
        let batch = batch_of(&bytes);
        let mut session = session();
        let mut first = 1;
        group.throughput(Throughput::Elements(count));
        group.bench_function(name, |b| {
            b.iter(|| {
                let delivery = Delivery {
                    consumer: ConsumerId(1),
                    queue: QueueId(1),
                    first,
                    len: count as u32,
                    epoch: LeaseEpoch(1),
                    deadline: Time::NEVER,
                    batch: batch.clone(),
                    record: 0,
                    redelivered: false,
                    delivery_count: 0,
                    waited_ms: 0,
                    annotations: None,
                };
                first += count;
                session.handle_event(NOW, Event::Deliveries(vec![delivery]));
                let written = session.outbox().len();
                session.outbox().advance(written);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
