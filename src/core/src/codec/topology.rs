//! Declarations in the log.

use isthmus_model::{
    BindingDef, Destination, ExchangeDef, ExchangeKind, Lifetime, Overflow, QueueDef, QueueOptions,
    SharedOptions,
};

use super::value::{put_table, table};
use super::wire::{DecodeError, Reader, put_bytes, put_opt_str, put_opt_uint};

pub(super) fn put_exchange(out: &mut Vec<u8>, def: &ExchangeDef) {
    put_bytes(out, def.name.as_bytes());
    out.push(match def.kind {
        ExchangeKind::Direct => 0,
        ExchangeKind::Fanout => 1,
        ExchangeKind::Topic => 2,
        ExchangeKind::Headers => 3,
        ExchangeKind::ConsistentHash => 4,
        ExchangeKind::Deduplication => 5,
    });
    out.extend([u8::from(def.auto_delete), u8::from(def.internal), u8::from(def.delayed)]);
    put_table(out, &def.arguments);
}

pub(super) fn exchange(r: &mut Reader<'_>) -> Result<ExchangeDef, DecodeError> {
    Ok(ExchangeDef {
        name: r.arc_str()?,
        kind: match r.u8()? {
            0 => ExchangeKind::Direct,
            1 => ExchangeKind::Fanout,
            2 => ExchangeKind::Topic,
            3 => ExchangeKind::Headers,
            4 => ExchangeKind::ConsistentHash,
            5 => ExchangeKind::Deduplication,
            _ => return Err(r.error("an unknown kind of exchange")),
        },
        // The log holds durable exchanges only.
        durable: true,
        auto_delete: r.bool()?,
        internal: r.bool()?,
        delayed: r.bool()?,
        arguments: table(r)?,
    })
}

pub(super) fn put_queue(out: &mut Vec<u8>, def: &QueueDef) {
    put_bytes(out, def.name.as_bytes());
    out.push(u8::from(def.auto_delete));
    let o = &def.options;
    put_opt_uint(out, o.message_ttl_ms);
    put_opt_uint(out, o.expires_ms);
    put_opt_uint(out, o.length_max);
    put_opt_uint(out, o.bytes_max);
    out.push(match o.overflow {
        Overflow::DropHead => 0,
        Overflow::RejectPublish => 1,
        Overflow::RejectPublishDlx => 2,
    });
    put_opt_str(out, o.dead_letter_exchange.as_deref());
    put_opt_str(out, o.dead_letter_routing_key.as_deref());
    put_opt_uint(out, o.priority_max.map(u64::from));
    out.push(u8::from(o.single_active_consumer));
    put_opt_uint(out, o.delivery_limit);
    put_table(out, &def.arguments);
}

pub(super) fn queue(r: &mut Reader<'_>) -> Result<QueueDef, DecodeError> {
    Ok(QueueDef {
        name: r.arc_str()?,
        // The log holds durable queues only.
        lifetime: Lifetime::Durable,
        auto_delete: r.bool()?,
        options: SharedOptions::from(QueueOptions {
            message_ttl_ms: r.opt_uint()?,
            expires_ms: r.opt_uint()?,
            length_max: r.opt_uint()?,
            bytes_max: r.opt_uint()?,
            overflow: match r.u8()? {
                0 => Overflow::DropHead,
                1 => Overflow::RejectPublish,
                2 => Overflow::RejectPublishDlx,
                _ => return Err(r.error("an unknown overflow behaviour")),
            },
            dead_letter_exchange: r.opt_str()?,
            dead_letter_routing_key: r.opt_str()?,
            priority_max: priority(r)?,
            single_active_consumer: r.bool()?,
            delivery_limit: r.opt_uint()?,
        }),
        arguments: table(r)?,
    })
}

fn priority(r: &mut Reader<'_>) -> Result<Option<u8>, DecodeError> {
    let number = r.opt_uint()?;
    number.map(|n| u8::try_from(n).map_err(|_| r.error("a priority above 255"))).transpose()
}

pub(super) fn put_binding(out: &mut Vec<u8>, def: &BindingDef) {
    put_bytes(out, def.source.as_bytes());
    let (kind, name) = match &def.destination {
        Destination::Queue(name) => (0, name),
        Destination::Exchange(name) => (1, name),
    };
    out.push(kind);
    put_bytes(out, name.as_bytes());
    put_bytes(out, def.routing_key.as_bytes());
    put_table(out, &def.arguments);
}

pub(super) fn binding(r: &mut Reader<'_>) -> Result<BindingDef, DecodeError> {
    Ok(BindingDef {
        source: r.arc_str()?,
        destination: match r.u8()? {
            0 => Destination::Queue(r.arc_str()?),
            1 => Destination::Exchange(r.arc_str()?),
            _ => return Err(r.error("an unknown kind of destination")),
        },
        routing_key: r.arc_str()?,
        arguments: table(r)?,
    })
}
