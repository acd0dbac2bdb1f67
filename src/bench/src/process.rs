//! What a process on this machine uses.

use std::fs;
use std::time::Duration;

/// A process, or this one.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    folder: String,
}

impl Process {
    pub(crate) fn this() -> Process {
        Process { folder: "/proc/self".to_owned() }
    }

    /// The process with this id; an error if it cannot be looked at.
    pub(crate) fn with_id(id: u32) -> Result<Process, String> {
        let process = Process { folder: format!("/proc/{id}") };
        match process.cpu() {
            Some(_) => Ok(process),
            None => Err(format!("there is no process {id} on this machine; see --broker-pid")),
        }
    }

    /// Processor time of all its threads, in user and kernel.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("{}/stat", self.folder)).ok()?;
        // The name, in parentheses, may hold anything.
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        let per_second = rustix::param::clock_ticks_per_second();
        Some(Duration::from_secs_f64((user + system) as f64 / per_second as f64))
    }

    /// Begins to look for a new peak of resident memory; only its own user and root may.
    pub(crate) fn reset_peak(&self) {
        // Where it is not allowed the peak is that of the process's life.
        fs::write(format!("{}/clear_refs", self.folder), "5").ok();
    }

    /// The peak of its resident memory, in bytes.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("{}/status", self.folder)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let this = Process::with_id(std::process::id()).expect("it is there");
        assert!(this.peak_bytes().expect("some") > 100_000);
        assert!(this.cpu().is_some());
        assert!(Process::with_id(u32::MAX).is_err());
    }
}
