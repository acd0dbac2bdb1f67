//! What the process says about its health.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

/// The part this process plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The only node.
    Single,
    /// It leads a cluster.
    Leader,
    /// Another node of its cluster leads, or none does.
    Standby,
}

/// The health of this process; shared between those who change it and those who report it.
#[derive(Debug)]
pub struct Status {
    is_single: bool,
    is_leader: AtomicBool,
    /// Somebody leads, this node or another one.
    is_led: AtomicBool,
    version: &'static str,
    started: Instant,
    ready: AtomicBool,
    memory_alarm: AtomicBool,
    disk_alarm: AtomicBool,
}

impl Status {
    /// A process that is live and not yet ready. Its uptime counts from here.
    #[must_use]
    pub fn new(role: Role, version: &'static str) -> Self {
        Self {
            is_single: role == Role::Single,
            is_leader: AtomicBool::new(role == Role::Leader),
            is_led: AtomicBool::new(role != Role::Standby),
            version,
            started: Instant::now(),
            ready: AtomicBool::new(false),
            memory_alarm: AtomicBool::new(false),
            disk_alarm: AtomicBool::new(false),
        }
    }

    /// Says whether clients are served: true once every listener accepts, false again when the
    /// broker begins to stop.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Says whether this node leads its cluster, and whether anybody does.
    pub fn set_cluster(&self, is_leader: bool, is_led: bool) {
        self.is_leader.store(is_leader, Ordering::Release);
        self.is_led.store(is_led, Ordering::Release);
    }

    /// Says which alarms are set. They do not make a node unready: its consumers must reach it.
    pub fn set_alarms(&self, memory: bool, disk: bool) {
        self.memory_alarm.store(memory, Ordering::Relaxed);
        self.disk_alarm.store(disk, Ordering::Relaxed);
    }

    /// Whether clients are served.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && self.is_led.load(Ordering::Acquire)
    }

    /// The part this process plays.
    #[must_use]
    pub fn role(&self) -> Role {
        match (self.is_single, self.is_leader.load(Ordering::Acquire)) {
            (true, _) => Role::Single,
            (false, true) => Role::Leader,
            (false, false) => Role::Standby,
        }
    }

    /// The version of the broker.
    #[must_use]
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// The time since the process started.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The report of `/health/ready` and `/health/live`.
    pub(crate) fn report(&self, status: &'static str) -> Report {
        let alarms = [(&self.memory_alarm, "memory"), (&self.disk_alarm, "disk")]
            .into_iter()
            .filter(|(alarm, _)| alarm.load(Ordering::Relaxed))
            .map(|(_, name)| name)
            .collect();
        Report {
            status,
            role: self.role(),
            version: self.version,
            uptime_s: self.uptime().as_secs(),
            alarms,
        }
    }
}

/// The JSON body of a health check.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    status: &'static str,
    role: Role,
    version: &'static str,
    uptime_s: u64,
    alarms: Vec<&'static str>,
}
