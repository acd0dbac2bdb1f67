//! Reading publishes into a batch, and writing deliveries into an outbox.

#![allow(missing_docs)] // criterion's macros
#![allow(clippy::unwrap_used)] // a failed bench may panic

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use isthmus_contract::Outbox;
use isthmus_model::Batch;
use isthmus_mqtt::codec::publish::{Outgoing, TopicName};
use isthmus_mqtt::codec::{PropertiesBuf, Property, Publish, Qos, Sender, Version, frame};
use isthmus_mqtt::convert::stored::{Draft, Head, seal};

/// Name, version, QoS, bytes of the payload, whether it has properties.
const CASES: [(&str, Version, Qos, usize, bool); 4] = [
    ("3.1.1_qos0_16B", Version::V3_1_1, Qos::AtMostOnce, 16, false),
    ("5.0_qos1_16B", Version::V5, Qos::AtLeastOnce, 16, false),
    ("5.0_qos1_16B_properties", Version::V5, Qos::AtLeastOnce, 16, true),
    ("5.0_qos1_1KiB", Version::V5, Qos::AtLeastOnce, 1024, false),
];

/// As many publishes as a full read brings.
fn publishes(version: Version, qos: Qos, len: usize, has_properties: bool) -> (Vec<u8>, u64) {
    let mut properties = PropertiesBuf::new();
    if has_properties {
        properties.push(Property::MessageExpiryInterval(60)).unwrap();
        properties.push(Property::ContentType("application/json")).unwrap();
        properties.push(Property::UserProperty("tenant", "blue")).unwrap();
    }
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic: "sensors/kitchen/temperature",
        packet_id: 1,
        properties: properties.as_properties(),
        payload: &vec![7; len],
    };
    let mut message = Vec::new();
    publish.write(version, &mut message).unwrap();
    let count = 64 * 1024 / message.len();
    (message.repeat(count), count as u64)
}

fn drafts(bytes: &[u8], version: Version, room: usize) -> Vec<Draft> {
    let mut drafts = Vec::with_capacity(room);
    let mut at = 0;
    while let Ok(Some(frame)) = frame::next(&bytes[at..], 1 << 20) {
        let publish = Publish::read(&frame, version, Sender::Client).unwrap();
        drafts.push(Draft::new(&publish, &frame, at));
        at += frame.wire_len();
    }
    drafts
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for (name, version, qos, len, has_properties) in CASES {
        let (bytes, count) = publishes(version, qos, len, has_properties);
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{name}/read"), |b| {
            b.iter(|| black_box(drafts(black_box(&bytes), version, count as usize)));
        });
        group.bench_function(format!("{name}/batch"), |b| {
            b.iter_batched(
                || {
                    let mut chunk = Vec::with_capacity(bytes.len() + 1024);
                    chunk.extend_from_slice(&bytes);
                    Bytes::from(chunk)
                },
                |chunk| {
                    let drafts = drafts(&chunk, version, count as usize);
                    black_box(seal(chunk, "amq.topic", drafts))
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn write(batch: &Batch, version: Version, out: &mut Outbox) {
    for (i, record) in batch.records.iter().enumerate() {
        let head = Head::read(batch.head(record)).unwrap();
        let outgoing = Outgoing {
            version,
            dup: false,
            qos: head.qos,
            retain: false,
            topic: TopicName::RoutingKey(record.routing_key.of(&batch.chunk)),
            packet_id: i as u16 | 1,
            expiry_left_s: None,
            subscription_ids: &[],
            properties: head.properties,
            chunk: &batch.chunk,
            payload: record.body,
        };
        assert!(outgoing.write(out, 1 << 20));
    }
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for (name, version, qos, len, has_properties) in CASES {
        let (bytes, count) = publishes(version, qos, len, has_properties);
        let drafts = drafts(&bytes, version, count as usize);
        let batch = seal(bytes.into(), "amq.topic", drafts);
        let mut out = Outbox::new();
        group.throughput(Throughput::Elements(count));
        group.bench_function(name, |b| {
            b.iter(|| {
                write(black_box(&batch), version, &mut out);
                let written = out.len();
                out.advance(written);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
