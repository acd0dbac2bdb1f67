//! CPU time, as Linux counts it.

use std::fs;
use std::io;
use std::time::Duration;

/// Ticks per second in `/proc/stat`: a constant of the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time of the threads that a process has now. Taken from the scheduler's statistics, which
/// count nanoseconds: at a low load the 10 ms ticks of `/proc/PID/stat` are too coarse. Threads
/// that have ended are missed, so a difference says something only while none ends.
pub(crate) fn of_process(pid: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let statistics = fs::read_to_string(task?.path().join("schedstat"))?;
        nanos += number(statistics.split_whitespace().next())?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Seconds of CPU that everybody on the machine has used together, and that the host has kept
/// from it.
pub(crate) fn of_machine_s() -> io::Result<f64> {
    let statistics = fs::read_to_string("/proc/stat")?;
    let mut fields = statistics.lines().next().unwrap_or_default().split_whitespace();
    // cpu user nice system idle iowait irq softirq steal
    let mut ticks = 0;
    for (name, field) in ["", "user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"]
        .into_iter()
        .zip(&mut fields)
    {
        if matches!(name, "user" | "nice" | "system" | "steal") {
            ticks += number(Some(field))?;
        }
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

fn number(field: Option<&str>) -> io::Result<u64> {
    field
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other("the kernel's statistics are not as expected"))
}
