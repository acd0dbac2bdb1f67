//! How long it takes to bind and to route among 10,000 queues.
//!
//! `cargo bench -p isthmus-core --bench routing`, or with `-- --test` to run each once.
//!
//! Measured on a two-core machine that compiled other things meanwhile; the medians of three runs,
//! and beside them the spread where it is wide:
//!
//! | | direct | fanout | topic | headers |
//! |---|---|---|---|---|
//! | first 10,000 binds, a snapshot after each: a second | 170,000 to 220,000 | 117,000 to 250,000 | 164,000 to 184,000 | 140,000 to 165,000 |
//! | bind, snapshot, unbind, snapshot among 10,000 | 7.9 µs | 7.5 µs | 9.4 µs | 12 µs |
//!
//! | route among 10,000 | |
//! |---|---|
//! | default exchange | 129 ns |
//! | direct, one match | 120 ns |
//! | direct, no match | 95 ns |
//! | topic, one match | 286 ns |
//! | topic, one match of `#` in a key of six words | 327 ns |
//! | headers, one match of two headers, of a message with three | 0.87 µs (0.85 to 1.3) |
//! | fanout, 10,000 matches | 15 µs (12 to 20) |
#![allow(missing_docs, reason = "criterion's macros make a public function")]

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use isthmus_core::topology::Topology;
use isthmus_model::{
    BindingDef, Destination, Lifetime, QueueDef, QueueId, SharedOptions, Table, Value,
};

const QUEUES: u64 = 10_000;

/// The least that this code may be worth: binds a second into an exchange of 10,000 bindings with
/// a fresh snapshot after each.
const BINDS_PER_SECOND_MIN: f64 = 10_000.0;

fn queue_name(n: u64) -> String {
    format!("queue-{n}")
}

/// A topology with 10,000 queues and no bindings.
fn queues() -> Topology {
    let mut topology = Topology::new();
    topology.declare_vhost("/");
    for n in 0..QUEUES {
        let def = QueueDef {
            name: queue_name(n).into(),
            lifetime: Lifetime::Durable,
            auto_delete: false,
            options: SharedOptions::default(),
            arguments: Table::default(),
        };
        topology.declare_queue("/", def, QueueId(n)).expect("declared");
    }
    topology
}

/// The binding of queue `n` to `exchange`: by a key of three words, and one header.
fn binding(exchange: &str, n: u64) -> BindingDef {
    BindingDef {
        source: exchange.into(),
        destination: Destination::Queue(queue_name(n).into()),
        routing_key: key(exchange, n).into(),
        arguments: match exchange {
            "amq.headers" => Table(vec![
                ("customer".into(), Value::Uint(n)),
                ("kind".into(), Value::String("order".into())),
            ]),
            _ => Table::default(),
        },
    }
}

fn key(exchange: &str, n: u64) -> String {
    match (exchange, n % 100) {
        // One of a hundred with a wildcard, some of them in one place.
        ("amq.topic", 0) => format!("*.{n}.created"),
        ("amq.topic", 1) => format!("orders.#.{n}"),
        _ => format!("orders.{n}.created"),
    }
}

fn bound(exchange: &str) -> Topology {
    let mut topology = queues();
    for n in 0..QUEUES {
        topology.bind("/", &binding(exchange, n)).expect("bound");
    }
    topology
}

fn bind(c: &mut Criterion) {
    for exchange in ["amq.direct", "amq.fanout", "amq.topic", "amq.headers"] {
        // The first 10,000, as in a start of many consumers.
        let empty = queues();
        let bindings: Vec<BindingDef> = (0..QUEUES).map(|n| binding(exchange, n)).collect();
        let mut topology = empty.clone();
        let mut snapshot = topology.clone();
        let start = Instant::now();
        for binding in &bindings {
            topology.bind("/", binding).expect("bound");
            snapshot = topology.clone();
        }
        let rate = QUEUES as f64 / start.elapsed().as_secs_f64();
        drop(snapshot);
        eprintln!("{exchange}: {rate:.0} binds a second, each with a snapshot");
        assert!(
            rate >= BINDS_PER_SECOND_MIN,
            "{rate:.0} binds a second into {exchange}, fewer than {BINDS_PER_SECOND_MIN}"
        );

        // One more and one less, among 10,000.
        let extra = BindingDef { routing_key: "orders.9999.more".into(), ..binding(exchange, 5) };
        let mut snapshot = topology.clone();
        c.bench_function(&format!("{exchange}: bind, snapshot, unbind, snapshot"), |b| {
            b.iter(|| {
                topology.bind("/", &extra).expect("bound");
                snapshot = topology.clone();
                topology.unbind("/", &extra).expect("unbound");
                snapshot = topology.clone();
            });
        });
        drop(snapshot);
    }
}

fn route(c: &mut Criterion) {
    let mut out = Vec::with_capacity(QUEUES as usize);
    let mut measure = |name: &str, topology: &Topology, exchange: &str, key: &str, queues| {
        let headers = Table(vec![
            ("customer".into(), Value::Int(4242)),
            ("kind".into(), Value::String("order".into())),
            ("trace".into(), Value::String("0123456789abcdef".into())),
        ]);
        let mut headers = || headers.clone();
        c.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                topology
                    .route("/", black_box(exchange), &[black_box(key)], &mut headers, &mut out)
                    .expect("routed");
                black_box(&out);
            });
        });
        assert_eq!(out.len(), queues, "{name}");
    };
    measure("route: default exchange", &queues(), "", "queue-4242", 1);
    let direct = bound("amq.direct");
    measure("route: direct, one match", &direct, "amq.direct", "orders.4242.created", 1);
    measure("route: direct, no match", &direct, "amq.direct", "orders.none", 0);
    let topic = bound("amq.topic");
    measure("route: topic, one match", &topic, "amq.topic", "orders.4242.created", 1);
    measure("route: topic, one match of #", &topic, "amq.topic", "orders.a.b.c.d.4201", 1);
    let headers = bound("amq.headers");
    measure("route: headers, one match", &headers, "amq.headers", "", 1);
    let fanout = bound("amq.fanout");
    measure("route: fanout, 10,000 matches", &fanout, "amq.fanout", "", QUEUES as usize);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(50)
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = bind, route
}
criterion_main!(benches);
