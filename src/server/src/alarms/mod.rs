//! Alarms: while the node is short of memory or disk, publishers are held back.
//!
//! A watcher looks at short intervals, so that what comes in between two looks is little, and
//! tells the broker of each change. Memory is what the process has resident: that is what the
//! system counts against its limits.

mod system;

pub(crate) use system::resident_bytes;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::config::{self, ByteSize, MemoryLimit};
use crate::memory;
use isthmus_admin::{Alarms as Figures, Status};
use isthmus_contract::Shortage;
use parking_lot::Mutex;

/// How often freed memory is given back while there is too little of it.
const GIVE_BACK_INTERVAL: Duration = Duration::from_millis(250);

/// How fast memory may fill, in bytes a second: twice as fast as publishers over loopback were seen
/// to (100 MiB between two looks at the ordinary interval). A pause is at most half of the time in
/// which the room that is left would be filled.
const FILLING_BYTES_PER_S: u64 = 2 << 30;

/// The shortest pause between two looks; a look costs some tens of microseconds.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// The memory that the process may have resident before its alarm is set, in bytes; `None` for any
/// amount.
pub(crate) fn memory_limit(config: &config::Alarms) -> Option<u64> {
    match config.memory {
        MemoryLimit::Off => None,
        MemoryLimit::Size(size) => Some(size.0),
        MemoryLimit::Fraction(fraction) => {
            system::memory_allowed().map(|allowed| (allowed as f64 * fraction) as u64)
        }
    }
}

/// The alarms of this process. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Alarms {
    state: Arc<Mutex<State>>,
    data_dir: PathBuf,
    check_interval: Duration,
}

impl Alarms {
    /// Alarms that are not set, for data in `data_dir`.
    pub(crate) fn new(config: &config::Alarms, data_dir: &Path) -> Self {
        let memory_limit = memory_limit(config);
        if memory_limit.is_none() && config.memory != MemoryLimit::Off {
            tracing::warn!("the system does not say how much memory there is: no memory alarm");
        }
        let state = State::new(memory_limit, config.disk_free.0);
        Self {
            state: Arc::new(Mutex::new(state)),
            data_dir: data_dir.to_owned(),
            check_interval: config.check_interval.0,
        }
    }

    /// What is reported to operators.
    pub(crate) fn figures(&self) -> Figures {
        self.state.lock().figures
    }

    /// Looks for ever, and tells the broker and the health checks.
    pub(crate) async fn watch(self, broker: Broker, status: Arc<Status>) -> Infallible {
        let mut pause = Duration::ZERO;
        let mut given_back = Instant::now();
        loop {
            tokio::time::sleep(pause).await;
            pause = self.check_interval;
            let data_dir = self.data_dir.clone();
            // Off the runtime: a file system may take its time.
            let measured = tokio::task::spawn_blocking(move || Measured {
                resident_bytes: system::resident_bytes(),
                disk_free_bytes: system::disk_free_bytes(&data_dir),
            });
            let Ok(measured) = measured.await else { continue };
            let changed = self.state.lock().look(measured);
            let figures = self.figures();
            if let Some(until_filled) = until_filled(&figures, measured) {
                pause = pause.min((until_filled / 2).max(PAUSE_MIN));
            }
            if let Some(shortage) = changed {
                broker.set_shortage(shortage);
                status.set_alarms(figures.memory, figures.disk);
            }
            if figures.memory && given_back.elapsed() >= GIVE_BACK_INTERVAL {
                given_back = Instant::now();
                give_back_everywhere();
            }
        }
    }
}

/// Has every worker give back what was freed to it: what one thread has freed for another stays
/// with that other until it next allocates, and an idle one may not for long.
fn give_back_everywhere() {
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    for _ in 0..workers * 2 {
        tokio::spawn(async { memory::give_back() });
    }
}

/// One look.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    resident_bytes: Option<u64>,
    disk_free_bytes: Option<u64>,
}

/// Which alarms are set, and why.
#[derive(Debug)]
struct State {
    figures: Figures,
}

impl State {
    fn new(memory_limit_bytes: Option<u64>, disk_free_limit_bytes: u64) -> Self {
        let figures = Figures { memory_limit_bytes, disk_free_limit_bytes, ..Figures::default() };
        Self { figures }
    }

    /// Takes a look in; returns the shortage if it is another than before. What the system does
    /// not say leaves its alarm as it was.
    fn look(&mut self, measured: Measured) -> Option<Shortage> {
        let figures = &mut self.figures;
        let before = (figures.memory, figures.disk);
        if let (Some(resident), Some(limit)) = (measured.resident_bytes, figures.memory_limit_bytes)
        {
            // Set a tenth below the limit, for what publishers have underway comes in still, and
            // cleared a little further below: what is resident goes up and down all the time.
            let bound = if figures.memory { limit - limit / 20 * 3 } else { set_above(limit) };
            figures.memory = resident > bound;
            if figures.memory != before.0 {
                let (resident, limit) = (mib(resident), mib(limit));
                if figures.memory {
                    tracing::warn!(%resident, %limit, "memory alarm set: publishers are held back");
                } else {
                    tracing::info!(%resident, %limit, "memory alarm cleared");
                }
            }
        }
        if let Some(free) = measured.disk_free_bytes {
            let limit = figures.disk_free_limit_bytes;
            figures.disk = free < limit;
            if figures.disk != before.1 {
                let (free, limit) = (mib(free), ByteSize(limit));
                if figures.disk {
                    tracing::warn!(%free, %limit, "disk alarm set: publishers are held back");
                } else {
                    tracing::info!(%free, %limit, "disk alarm cleared");
                }
            }
        }
        figures.disk_free_bytes = measured.disk_free_bytes;
        let now = (figures.memory, figures.disk);
        (now != before).then_some(Shortage { memory: now.0, disk: now.1, paging: false })
    }
}

/// What may be resident, in bytes, before the memory alarm is set.
fn set_above(limit: u64) -> u64 {
    limit - limit / 10
}

/// How soon the memory alarm can be due, while it is not set.
fn until_filled(figures: &Figures, measured: Measured) -> Option<Duration> {
    let (resident, limit) = measured.resident_bytes.zip(figures.memory_limit_bytes)?;
    let room = set_above(limit).saturating_sub(resident);
    (!figures.memory).then(|| Duration::from_secs_f64(room as f64 / FILLING_BYTES_PER_S as f64))
}

/// In whole mebibytes, for people.
fn mib(bytes: u64) -> ByteSize {
    ByteSize::mib(bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(bytes: u64) -> Measured {
        Measured { resident_bytes: Some(bytes), disk_free_bytes: Some(1 << 40) }
    }

    fn disk(bytes: u64) -> Measured {
        Measured { resident_bytes: Some(0), disk_free_bytes: Some(bytes) }
    }

    #[test]
    fn the_memory_alarm_is_set_a_little_below_its_limit_and_cleared_further_below() {
        let mut state = State::new(Some(1000), 0);
        assert_eq!(state.look(memory(900)), None);
        let short = Shortage { memory: true, ..Shortage::NONE };
        assert_eq!(state.look(memory(901)), Some(short));
        assert_eq!(state.look(memory(5000)), None);
        assert_eq!(state.look(memory(851)), None);
        assert!(state.figures.memory);
        assert_eq!(state.look(memory(850)), Some(Shortage::NONE));
        assert_eq!(state.look(memory(899)), None);
    }

    #[test]
    fn looks_come_as_quickly_as_memory_can_fill() {
        let mut state = State::new(Some(4 << 30), 0);
        let mut until = |bytes| {
            state.look(memory(bytes));
            until_filled(&state.figures, memory(bytes))
        };
        let set_above = set_above(4 << 30);
        let in_ms = |until: Option<Duration>| until.map(|until| until.as_millis());
        assert_eq!(in_ms(until(0)), Some(1800));
        assert_eq!(in_ms(until(3 << 30)), Some(300));
        assert_eq!(until(set_above), Some(Duration::ZERO));
        assert_eq!(until(set_above + 1), None, "it is set, and only ends from here");
    }

    #[test]
    fn the_disk_alarm_is_set_below_its_limit() {
        let mut state = State::new(None, 1000);
        assert_eq!(state.look(disk(1000)), None);
        assert_eq!(state.look(disk(999)), Some(Shortage { disk: true, ..Shortage::NONE }));
        assert_eq!(state.figures.disk_free_bytes, Some(999));
        assert_eq!(state.look(disk(1000)), Some(Shortage::NONE));
    }

    #[test]
    fn both_may_be_set_and_each_ends_by_itself() {
        let mut state = State::new(Some(1000), 1000);
        let look = |resident, free| Measured {
            resident_bytes: Some(resident),
            disk_free_bytes: Some(free),
        };
        assert_eq!(
            state.look(look(2000, 0)),
            Some(Shortage { memory: true, disk: true, paging: false })
        );
        assert_eq!(state.look(look(0, 0)), Some(Shortage { disk: true, ..Shortage::NONE }));
        assert_eq!(state.look(look(0, 2000)), Some(Shortage::NONE));
    }

    #[test]
    fn without_limits_or_figures_nothing_changes() {
        let mut state = State::new(None, 0);
        assert_eq!(
            state.look(Measured { resident_bytes: Some(u64::MAX), disk_free_bytes: Some(0) }),
            None
        );
        let mut state = State::new(Some(1000), 1000);
        assert_eq!(state.look(Measured::default()), None);
        state.look(memory(2000));
        assert_eq!(state.look(Measured::default()), None);
        assert!(state.figures.memory);
    }
}
