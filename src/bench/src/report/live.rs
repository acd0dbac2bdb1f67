//! A line each second, on standard error.

use std::io::{self, Write};
use std::time::Duration;

use super::{rate, time};
use crate::plan::Plan;
use crate::run::Sample;

/// How a run goes.
pub(crate) fn line(sample: &Sample, plan: &Plan, refused: u64, errors: u64) {
    let mut parts = vec![format!("{:5.1} s", sample.at.as_secs_f64())];
    if plan.producers > 0 {
        parts.push(format!("sent {:>6}/s", rate(sample.sent, sample.length)));
    }
    if plan.window > 0 {
        parts.push(format!("confirmed {:>6}/s", rate(sample.confirmed, sample.length)));
    }
    if plan.consumers > 0 {
        parts.push(format!("received {:>6}/s", rate(sample.received, sample.length)));
    }
    for (name, marks) in [("latency", sample.latency_us), ("confirm", sample.confirm_us)] {
        if let Some([p50, p99, max]) = marks {
            let [p50, p99, max] = [time(p50), time(p99), time(max)];
            parts.push(format!("{name} p50 {p50} p99 {p99} max {max}"));
        }
    }
    if refused > 0 {
        parts.push(format!("refused {refused}"));
    }
    if errors > 0 {
        parts.push(format!("errors {errors}"));
    }
    if sample.is_warm_up {
        parts.push("warm-up".to_owned());
    }
    tell(&parts.join("  "));
}

/// How a storm of connections goes.
pub(crate) fn connections(at: Duration, opened: u64, failed: u64, dropped: u64) {
    let at = at.as_secs_f64();
    tell(&format!("{at:5.1} s  opened {opened}  failed {failed}  broken {dropped}"));
}

fn tell(line: &str) {
    // To a closed pipe there is nothing to say.
    writeln!(io::stderr(), "{line}").ok();
}
