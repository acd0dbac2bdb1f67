//! The summary at the end.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::{number, per_second, rate, time};
use crate::run::{Outcome, Usage};
use crate::storm::StormOutcome;

const MARKS: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];

/// Above this a run measures the generator as much as the broker, in microseconds.
const LATE_US: u64 = 1000;

/// The summary of a run.
pub(crate) fn run(outcome: &Outcome) -> String {
    let (plan, measured, totals) = (&outcome.plan, &outcome.measured, &outcome.totals);
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut line =
        |name: &str, text: String| writeln!(out, "{name:<12} {text}").unwrap_or_default();
    line("broker", plan.access.target.to_string());
    line(
        "run",
        format!(
            "{:08x}: {} to {}, {} of {} B, {:.1} s measured",
            plan.run_id,
            many(plan.producers, "producer"),
            many(plan.consumers, "consumer"),
            many(plan.addresses, "address"),
            plan.sizes.as_str(),
            outcome.length.as_secs_f64(),
        ),
    );
    let rates = |count, bytes| {
        let mb = per_second(bytes, outcome.length) / 1e6;
        format!("{:>7} msg/s  {mb:>8.1} MB/s", rate(count, outcome.length))
    };
    if plan.producers > 0 {
        line(
            "sent",
            format!("{}  {} in all", rates(measured.sent, measured.sent_bytes), totals.sent),
        );
    }
    if plan.window > 0 {
        line("confirmed", format!("{:>7} msg/s", rate(measured.confirmed, outcome.length)));
    }
    if plan.consumers > 0 {
        let rates = rates(measured.received, measured.received_bytes);
        line("received", format!("{rates}  {} in all", totals.received));
    }
    for (name, histogram) in [("latency", &outcome.end_to_end), ("confirm", &outcome.confirm)] {
        if !histogram.is_empty() {
            line(name, marks(histogram));
        }
    }
    if !outcome.late.is_empty() {
        line("sent late", marks(&outcome.late));
    }
    for (name, usage) in [("broker uses", outcome.broker), ("this uses", outcome.generator)] {
        if let Some(usage) = usage {
            line(name, uses(usage, measured.received.max(measured.sent)));
        }
    }
    line(
        "checked",
        format!(
            "{} expected, {} missing, {} repeated, {} out of order, {} changed, {} refused, {} redelivered",
            outcome.expected,
            outcome.missing,
            totals.duplicates,
            totals.disordered,
            totals.corrupt,
            totals.refused,
            totals.redelivered,
        ),
    );
    if outcome.late.value_at_quantile(0.99) > LATE_US {
        line(
            "note",
            "messages were sent later than meant; latencies count from when they were \
                      meant to be sent"
                .to_owned(),
        );
    }
    out
}

/// The summary of a storm.
pub(crate) fn storm(outcome: &StormOutcome) -> String {
    let mut out = String::new();
    let mut line =
        |name: &str, text: String| writeln!(out, "{name:<12} {text}").unwrap_or_default();
    line("broker", outcome.plan.access.target.to_string());
    line(
        "connections",
        format!("{} opened, {} failed, {} broke", outcome.opened, outcome.failed, outcome.dropped),
    );
    let per_second = rate(outcome.opened, outcome.opening);
    line("opening", format!("{:.2} s, {per_second} a second", outcome.opening.as_secs_f64()));
    if !outcome.login.is_empty() {
        line("login", marks(&outcome.login));
    }
    if let Some(usage) = outcome.broker {
        line("broker uses", uses(usage, outcome.opened));
    }
    out
}

fn many(count: usize, what: &str) -> String {
    match (count, what) {
        (1, _) => format!("1 {what}"),
        (_, "address") => format!("{count} addresses"),
        _ => format!("{count} {what}s"),
    }
}

fn marks(histogram: &Histogram<u64>) -> String {
    let marks = MARKS.map(|(name, at)| format!("{name} {}", time(histogram.value_at_quantile(at))));
    marks.join("  ")
}

fn uses(usage: Usage, count: u64) -> String {
    let cpu = usage.cpu.as_secs_f64();
    let mut text = format!("{cpu:.2} CPU-s");
    if count > 0 {
        text += &format!(", {} CPU-s a million", number(cpu * 1e6 / count as f64));
    }
    if let Some(bytes) = usage.peak_bytes {
        text += &format!(", {:.0} MiB at most", bytes as f64 / (1024.0 * 1024.0));
    }
    text
}
