//! Reading SEND frames, and writing MESSAGE frames.
#![allow(missing_docs, reason = "criterion's macros make a public function")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use isthmus_stomp::codec::{Command, Decoder, Limits, Rules, Version, write_frame};

/// As many SEND frames as a full read brings.
fn sends(size: usize, headers: &[(&str, &str)]) -> (Vec<u8>, u64) {
    let mut frame = Vec::new();
    let rules = Rules::of(Version::V1_2);
    write_frame(&mut frame, Command::Send, rules, headers, &vec![7; size]);
    let count = 64 * 1024 / frame.len();
    (frame.repeat(count), count as u64)
}

/// Reads all frames; the bytes of their bodies.
fn read(bytes: &[u8]) -> usize {
    let (mut at, mut sum) = (0, 0);
    let limits = Limits::default();
    while at < bytes.len() {
        let frame = Decoder::default()
            .next(&bytes[at..], Some(Version::V1_2), &limits)
            .expect("well-formed")
            .expect("whole");
        sum += frame.body.len() + frame.headers.get("destination").map_or(0, |name| name.len());
        at += frame.wire_len;
    }
    sum
}

fn codec(c: &mut Criterion) {
    let few = [("destination", "/queue/orders")];
    let many = [
        ("destination", "/queue/orders"),
        ("persistent", "true"),
        ("receipt", "12345"),
        ("content-type", "application/json"),
        ("tenant", "blue"),
    ];
    let mut group = c.benchmark_group("decode SEND");
    for (name, size, headers) in
        [("16 B", 16, &few[..]), ("16 B, five headers", 16, &many), ("1 KiB", 1024, &few)]
    {
        let (bytes, count) = sends(size, headers);
        assert_eq!(read(&bytes), count as usize * (size + "/queue/orders".len()));
        group.throughput(Throughput::Elements(count));
        group.bench_function(name, |b| b.iter(|| read(black_box(&bytes))));
    }
    group.finish();
    let mut group = c.benchmark_group("encode MESSAGE");
    let headers = [
        ("subscription", "0"),
        ("message-id", "0-12345"),
        ("destination", "/queue/orders"),
        ("ack", "12345"),
    ];
    for (name, size) in [("16 B", 16), ("1 KiB", 1024)] {
        let (body, mut out) = (vec![7; size], Vec::with_capacity(64 * 1024));
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                let rules = Rules::of(Version::V1_2);
                write_frame(&mut out, Command::Message, rules, black_box(&headers), &body);
                black_box(out.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
