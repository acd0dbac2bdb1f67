//! Tests of the whole topology: by example, against a model, and of single matchers.

mod errors;
mod hash;
mod lifecycle;
mod model;
mod routing;

use isthmus_model::{
    BindingDef, Destination, ExchangeDef, ExchangeKind, Lifetime, QueueDef, QueueId, SharedOptions,
    Table, Value,
};

use super::*;

/// A topology with the virtual host `/`.
fn topology() -> Topology {
    let mut topology = Topology::new();
    topology.declare_vhost("/");
    topology
}

fn exchange(name: &str, kind: ExchangeKind) -> ExchangeDef {
    ExchangeDef {
        name: name.into(),
        kind,
        durable: true,
        auto_delete: false,
        internal: false,
        delayed: false,
        arguments: Table::default(),
    }
}

fn queue(name: &str) -> QueueDef {
    QueueDef {
        name: name.into(),
        lifetime: Lifetime::Durable,
        auto_delete: false,
        options: SharedOptions::default(),
        arguments: Table::default(),
    }
}

fn table(fields: &[(&str, Value)]) -> Table {
    Table(fields.iter().map(|(name, value)| ((*name).into(), value.clone())).collect())
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}

/// A binding to a queue.
fn to_queue(source: &str, key: &str, queue: &str) -> BindingDef {
    BindingDef {
        source: source.into(),
        destination: Destination::Queue(queue.into()),
        routing_key: key.into(),
        arguments: Table::default(),
    }
}

/// A binding to an exchange.
fn to_exchange(source: &str, key: &str, exchange: &str) -> BindingDef {
    BindingDef {
        destination: Destination::Exchange(exchange.into()),
        ..to_queue(source, key, "unused")
    }
}

/// The ids of the queues that a message without headers takes.
fn route(topology: &Topology, exchange: &str, key: &str) -> Vec<u64> {
    route_with(topology, exchange, key, &Table::default())
}

fn route_with(topology: &Topology, exchange: &str, key: &str, headers: &Table) -> Vec<u64> {
    let mut out = Vec::new();
    let mut calls = 0;
    let mut headers = || {
        calls += 1;
        headers.clone()
    };
    topology.route("/", exchange, &[key], &mut headers, &mut out).expect("the exchange is there");
    assert!(calls <= 1, "headers are asked for once at the most");
    out.into_iter().map(|id| id.0).collect()
}
