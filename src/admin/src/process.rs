//! What the system knows about this process, from `/proc`.

/// Resources this process uses. A figure the system does not give is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ProcessUsage {
    /// Memory resident, in bytes.
    pub(crate) resident_bytes: Option<u64>,
    /// Processor time used, user and system, in seconds.
    pub(crate) cpu_seconds: Option<f64>,
    /// File descriptors open.
    pub(crate) open_fds: Option<u64>,
}

impl ProcessUsage {
    /// Reads the figures of now. Blocks for the system calls.
    pub(crate) fn read() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        let fds = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
        Self {
            resident_bytes: resident_pages(&stat)
                .map(|pages| pages * rustix::param::page_size() as u64),
            cpu_seconds: cpu_ticks(&stat).map(|ticks| ticks as f64 / ticks_per_second as f64),
            // One of those counted is the directory being read.
            open_fds: fds.map(|count| count.saturating_sub(1)),
        }
    }
}

/// The fields of `/proc/self/stat` after the name of the program, which may itself hold spaces and
/// parentheses. The first of them is the third in proc(5).
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace()
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // utime and stime are the fields 14 and 15.
    let mut times = fields(stat).skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

fn resident_pages(stat: &str) -> Option<u64> {
    // rss is field 24.
    fields(stat).nth(21)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 \
                        200000000 1234 18446744073709551615 1 1 0";

    #[test]
    fn fields_are_counted_after_the_programs_name() {
        assert_eq!(cpu_ticks(STAT), Some(300));
        assert_eq!(resident_pages(STAT), Some(1234));
        assert_eq!(cpu_ticks(""), None);
        assert_eq!(resident_pages("42 (a) S 1"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = ProcessUsage::read();
        assert!(usage.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(usage.cpu_seconds.is_some());
        assert!(usage.open_fds.is_some_and(|count| count >= 3));
    }
}
