//! A report as one HTML file, its plots drawn as SVG in place: it shows the same wherever it is
//! opened, now and later, and loads nothing.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::{number, per_second, text, time};
use crate::run::Outcome;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 260.0;
/// Room for the labels of the axes.
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 12.0;
const RIGHT: f64 = 14.0;

/// A line of so few points shows each of them: one alone would be no line at all.
const DOTS_MAX: usize = 60;

const COLOURS: [&str; 4] = ["#1f6feb", "#2da44e", "#bf3989", "#9a6700"];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;\
color:#1f2328}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}pre{background:#f6f8fa;padding:1em;\
overflow-x:auto}.bad{color:#b32d00;font-weight:bold}.good{color:#1a7f37;font-weight:bold}\
svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#57606a}";

/// The report of a run.
pub(crate) fn page(outcome: &Outcome) -> String {
    let failures = outcome.failures();
    let (class, verdict) = match failures.is_empty() {
        true => ("good", "Everything came, once, unchanged, and in order.".to_owned()),
        false => ("bad", failures.join("; ")),
    };
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut put = |part: String| writeln!(out, "{part}").unwrap_or_default();
    let title = escaped(&format!("isthmus-bench: {}", outcome.plan.access.target));
    put(format!("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>"));
    put("<meta name=\"viewport\" content=\"width=device-width\">".to_owned());
    put(format!("<style>{STYLE}</style><h1>{title}</h1>"));
    put(format!("<p class=\"{class}\">{}</p>", escaped(&verdict)));
    put(format!("<pre>{}</pre>", escaped(&text::run(outcome))));
    put(format!("<h2>Messages a second</h2>{}", rates(outcome)));
    for (name, pick) in [("Latency, end to end", 0), ("Latency of confirmations", 1)] {
        let histogram = [&outcome.end_to_end, &outcome.confirm][pick];
        if !histogram.is_empty() {
            put(format!("<h2>{name}, each second</h2>{}", latencies(outcome, pick)));
            put(format!("<h2>{name}, by percentile</h2>{}", percentiles(histogram)));
        }
    }
    if !outcome.errors.is_empty() {
        put(format!("<h2>Errors</h2><pre>{}</pre>", escaped(&outcome.errors.join("\n"))));
    }
    put("</html>".to_owned());
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

struct Line {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

fn rates(outcome: &Outcome) -> String {
    let line = |name, pick: fn(&crate::run::Sample) -> u64| {
        let point = |sample: &crate::run::Sample| {
            (sample.at.as_secs_f64(), per_second(pick(sample), sample.length))
        };
        Line { name, points: outcome.samples.iter().map(point).collect() }
    };
    let mut lines = Vec::new();
    if outcome.plan.producers > 0 {
        lines.push(line("sent", |sample| sample.sent));
    }
    if outcome.plan.consumers > 0 {
        lines.push(line("received", |sample| sample.received));
    }
    if outcome.plan.window > 0 {
        lines.push(line("confirmed", |sample| sample.confirmed));
    }
    let ticks = seconds_ticks(&lines);
    plot(&lines, &ticks, false, number)
}

fn latencies(outcome: &Outcome, pick: usize) -> String {
    let line = |name, mark: usize| {
        let points = outcome.samples.iter().filter_map(|sample| {
            let marks = [sample.latency_us, sample.confirm_us][pick]?;
            Some((sample.at.as_secs_f64(), marks[mark].max(1) as f64))
        });
        Line { name, points: points.collect() }
    };
    let lines = [line("p50", 0), line("p99", 1), line("max", 2)];
    let ticks = seconds_ticks(&lines);
    plot(&lines, &ticks, true, |us| time(us as u64))
}

/// Each further nine of the percentile is as wide as the one before.
fn percentiles(histogram: &Histogram<u64>) -> String {
    let nines = (histogram.len() as f64).log10().clamp(1.0, 6.0);
    let point = |step: u32| {
        let x = nines * f64::from(step) / 120.0;
        (x, histogram.value_at_quantile(1.0 - 10_f64.powf(-x)).max(1) as f64)
    };
    let line = Line { name: "latency", points: (0..=120).map(point).collect() };
    let names = ["0", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"];
    let ticks = names.iter().enumerate().map(|(n, name)| (n as f64, (*name).to_owned()));
    let ticks: Vec<_> = ticks.filter(|(x, _)| *x <= nines).collect();
    plot(&[line], &ticks, true, |us| time(us as u64))
}

fn seconds_ticks(lines: &[Line]) -> Vec<(f64, String)> {
    let end = lines.iter().flat_map(|line| &line.points).map(|point| point.0).fold(1e-9, f64::max);
    let step = nice(end / 8.0);
    // To a thousandth: a step such as 0.2 is not exact.
    let round = |at: f64| (at * 1000.0).round() / 1000.0;
    let all = (0..=8).map(|n| round(f64::from(n) * step));
    all.filter(|at| *at <= end).map(|at| (at, format!("{at} s"))).collect()
}

/// 1, 2 or 5 times a power of ten, not below `value`.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= value)
        .unwrap_or(value)
}

/// A plot of lines over the same axes; upwards linear from 0, or logarithmic.
fn plot(
    lines: &[Line],
    ticks: &[(f64, String)],
    logarithmic: bool,
    label: impl Fn(f64) -> String,
) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let right = all().map(|point| point.0).fold(1e-9, f64::max);
    let top = all().map(|point| point.1).fold(1.0, f64::max);
    let (low, high) = match logarithmic {
        true => {
            let least = all().map(|point| point.1).fold(top, f64::min);
            (least.log10().floor(), top.log10().ceil().max(least.log10().floor() + 1.0))
        }
        false => (0.0, nice(top / 4.0) * 4.0),
    };
    let x = |value: f64| LEFT + value / right * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| {
        let value = if logarithmic { value.log10() } else { value };
        HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)
    };
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    let mut put = |part: String| out.push_str(&part);
    let steps = if logarithmic { (high - low) as u32 } else { 4 };
    for n in 0..=steps {
        let exact = low + (high - low) * f64::from(n) / f64::from(steps);
        let value = if logarithmic { 10_f64.powf(exact) } else { exact };
        let at = y(value);
        put(format!("<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#d0d7de\"/>", WIDTH - RIGHT));
        put(format!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            label(value)
        ));
    }
    for (value, name) in ticks {
        let at = x(*value);
        put(format!(
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
            HEIGHT - BOTTOM + 18.0
        ));
    }
    for (n, line) in lines.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let points: Vec<String> = line
            .points
            .iter()
            .map(|&(at, value)| format!("{:.1},{:.1}", x(at), y(value)))
            .collect();
        let points = points.join(" ");
        put(format!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        ));
        if line.points.len() <= DOTS_MAX {
            for &(at, value) in &line.points {
                let (x, y) = (x(at), y(value));
                put(format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
            }
        }
        let at = LEFT + 10.0 + 100.0 * n as f64;
        put(format!(
            "<text x=\"{at}\" y=\"{}\" style=\"fill:{colour}\">■ {}</text>",
            HEIGHT - 2.0,
            line.name
        ));
    }
    out + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!(
            [nice(0.9), nice(1.0), nice(1.2), nice(37.0), nice(600.0)],
            [1.0, 1.0, 2.0, 50.0, 1000.0]
        );
    }

    #[test]
    fn every_point_is_within_the_plot() {
        let line = Line { name: "x", points: vec![(0.0, 1.0), (5.0, 123_456.0), (9.0, 7.0)] };
        for logarithmic in [false, true] {
            let svg = plot(std::slice::from_ref(&line), &[], logarithmic, number);
            let points = svg.split("points=\"").nth(1).and_then(|rest| rest.split('"').next());
            for point in points.expect("a line").split(' ') {
                let (x, y) = point.split_once(',').expect("two numbers");
                let (x, y): (f64, f64) = (x.parse().expect("x"), y.parse().expect("y"));
                assert!(
                    (LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y),
                    "{point}"
                );
            }
        }
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
