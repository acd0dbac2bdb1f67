//! The result as JSON. `docs/bench.md` documents the fields, which keep their names and meanings
//! while `version` is the same.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::per_second;
use crate::plan::{Length, MqttVersion, Plan, Protocol};
use crate::run::{Outcome, Sample, Usage};
use crate::storm::StormOutcome;

/// The version of the format.
const VERSION: u32 = 1;

/// The result of a run.
pub(crate) fn run(outcome: &Outcome) -> Value {
    let (measured, totals) = (&outcome.measured, &outcome.totals);
    let failures = outcome.failures();
    json!({
        "version": VERSION,
        "kind": "run",
        "ok": failures.is_empty(),
        "failures": failures,
        "errors": outcome.errors,
        "error_count": outcome.error_count,
        "plan": plan(&outcome.plan),
        "measured": {
            "seconds": outcome.length.as_secs_f64(),
            "sent": measured.sent,
            "sent_per_second": per_second(measured.sent, outcome.length),
            "sent_wire_bytes": measured.sent_bytes,
            "confirmed": measured.confirmed,
            "confirmed_per_second": per_second(measured.confirmed, outcome.length),
            "received": measured.received,
            "received_per_second": per_second(measured.received, outcome.length),
            "received_body_bytes": measured.received_bytes,
        },
        "check": {
            "sent": totals.sent,
            "received": totals.received,
            "expected": outcome.expected,
            "missing": outcome.missing,
            "duplicates": totals.duplicates,
            "out_of_order": totals.disordered,
            "corrupt": totals.corrupt,
            "refused": totals.refused,
            "unconfirmed": outcome.unconfirmed,
            "redelivered": totals.redelivered,
        },
        "latency_us": marks(&outcome.end_to_end),
        "confirm_latency_us": marks(&outcome.confirm),
        "sent_late_us": marks(&outcome.late),
        "broker_process": outcome.broker.map(|usage| uses(usage, measured.received.max(measured.sent))),
        "generator_process": outcome.generator.map(|usage| uses(usage, measured.received.max(measured.sent))),
        "samples": outcome.samples.iter().map(sample).collect::<Vec<_>>(),
    })
}

fn plan(plan: &Plan) -> Value {
    let (duration, messages) = match plan.length {
        Length::Time(time) => (Some(time.as_secs_f64()), None),
        Length::Messages(messages) => (None, Some(messages)),
    };
    let version = match plan.access.mqtt_version {
        MqttVersion::V311 => "3.1.1",
        MqttVersion::V5 => "5",
    };
    let protocol = plan.access.target.protocol;
    json!({
        "url": plan.access.target.to_string(),
        "protocol": protocol.as_str(),
        "mqtt_version": (protocol == Protocol::Mqtt).then_some(version),
        "run_id": format!("{:08x}", plan.run_id),
        "producers": plan.producers,
        "consumers": plan.consumers,
        "addresses": plan.addresses,
        "fan_out": plan.fan_out,
        "name": plan.name,
        "size": plan.sizes.as_str(),
        "rate": plan.schedule.as_ref().map(|schedule| schedule.as_str()),
        "duration_seconds": duration,
        "messages": messages,
        "warm_up_seconds": plan.warm_up.as_secs_f64(),
        "persistent": plan.persistent,
        "window": plan.window,
        "qos": (protocol == Protocol::Mqtt).then_some(plan.qos),
        "prefetch": plan.prefetch,
        "ack_every": plan.ack_every,
        "ahead": plan.ahead,
        "checksums": plan.check,
    })
}

fn marks(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    json!({
        "count": histogram.len(),
        "min": histogram.min(),
        "mean": histogram.mean(),
        "p50": histogram.value_at_quantile(0.5),
        "p75": histogram.value_at_quantile(0.75),
        "p90": histogram.value_at_quantile(0.9),
        "p95": histogram.value_at_quantile(0.95),
        "p99": histogram.value_at_quantile(0.99),
        "p99_9": histogram.value_at_quantile(0.999),
        "p99_99": histogram.value_at_quantile(0.9999),
        "max": histogram.max(),
    })
}

fn uses(usage: Usage, count: u64) -> Value {
    let cpu = usage.cpu.as_secs_f64();
    json!({
        "cpu_seconds": cpu,
        "cpu_seconds_per_million": (count > 0).then(|| cpu * 1e6 / count as f64),
        "peak_rss_bytes": usage.peak_bytes,
    })
}

fn sample(sample: &Sample) -> Value {
    let marks = |marks: Option<[u64; 3]>| {
        marks.map(|[p50, p99, max]| json!({ "p50": p50, "p99": p99, "max": max }))
    };
    json!({
        "at_seconds": sample.at.as_secs_f64(),
        "seconds": sample.length.as_secs_f64(),
        "warm_up": sample.is_warm_up,
        "sent": sample.sent,
        "confirmed": sample.confirmed,
        "received": sample.received,
        "latency_us": marks(sample.latency_us),
        "confirm_latency_us": marks(sample.confirm_us),
    })
}

/// The result of a storm of connections.
pub(crate) fn storm(outcome: &StormOutcome) -> Value {
    let failures = outcome.failures();
    json!({
        "version": VERSION,
        "kind": "connect",
        "ok": failures.is_empty(),
        "failures": failures,
        "errors": outcome.errors,
        "plan": {
            "url": outcome.plan.access.target.to_string(),
            "protocol": outcome.plan.access.target.protocol.as_str(),
            "connections": outcome.plan.connections,
            "rate": outcome.plan.schedule.as_ref().map(|schedule| schedule.as_str()),
            "hold_seconds": outcome.plan.hold.as_secs_f64(),
            "churn": outcome.plan.churn,
        },
        "opened": outcome.opened,
        "failed": outcome.failed,
        "dropped": outcome.dropped,
        "opening_seconds": outcome.opening.as_secs_f64(),
        "opened_per_second": per_second(outcome.opened, outcome.opening),
        "login_us": marks(&outcome.login),
        "broker_process": outcome.broker.map(|usage| uses(usage, outcome.opened)),
    })
}
