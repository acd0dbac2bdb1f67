//! The metrics the broker reports, in OpenMetrics text.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::health::Status;
use crate::process::ProcessUsage;

/// What the broker can tell about itself.
pub trait Metrics: fmt::Debug + Send + Sync + 'static {
    /// The figures of now. Called once a scrape, off the runtime.
    fn snapshot(&self) -> Snapshot;
}

/// The figures of one moment. Totals count from the start of the process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Client connections open.
    pub connections: u64,
    /// Client connections accepted.
    pub connections_opened_total: u64,
    /// Client connections refused because too many were open.
    pub connections_refused_total: u64,
    /// Queues that exist.
    pub queues: u64,
    /// Consumers attached.
    pub consumers: u64,
    /// Lasting sessions that a connection has open.
    pub sessions_open: u64,
    /// Lasting sessions that are kept for clients that are away.
    pub sessions_kept: u64,
    /// Messages published by clients.
    pub messages_published_total: u64,
    /// Messages delivered to clients.
    pub messages_delivered_total: u64,
    /// Deliveries acknowledged by clients.
    pub messages_acknowledged_total: u64,
    /// Deliveries of messages that may have been delivered before.
    pub messages_redelivered_total: u64,
    /// Messages published that no queue was bound for.
    pub messages_unroutable_total: u64,
    /// Messages that expired.
    pub messages_expired_total: u64,
    /// Messages moved to a dead-letter exchange.
    pub messages_dead_lettered_total: u64,
    /// Messages rejected, expired or over a limit, and dropped for want of a dead-letter target.
    pub messages_dropped_total: u64,
    /// Messages in queues that wait for a consumer.
    pub messages_ready: u64,
    /// Messages delivered and not yet acknowledged.
    pub messages_unacked: u64,
    /// Retained messages that exchanges keep.
    pub retained_messages: u64,
    /// About what these take in memory, in bytes.
    pub retained_bytes: u64,
    /// Bytes the log takes on disk.
    pub log_bytes: u64,
    /// Entries appended to the log.
    pub log_appends_total: u64,
    /// Groups of entries that were synced.
    pub log_syncs_total: u64,
    /// Whether publishers are held back, and what is measured for that.
    pub alarms: Alarms,
    /// The cluster, if the node is one of a cluster.
    pub cluster: Option<Cluster>,
}

/// A cluster as one of its nodes sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Whether the node leads.
    pub is_leader: bool,
    /// The consensus term.
    pub term: u64,
    /// The last entry of the node's log.
    pub last_entry: u64,
    /// The last entry that it knows to be committed.
    pub committed_entry: u64,
    /// Members that vote.
    pub voters: u64,
    /// Those that the leader has heard of lately, itself included; 0 on others.
    pub voters_heard: u64,
    /// On the leader, how many entries each member lacks, by its id.
    pub lags: Vec<(u64, u64)>,
}

/// Whether publishers are held back, and what is measured for that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Alarms {
    /// Resident memory is above its limit.
    pub memory: bool,
    /// Free disk space is below its limit.
    pub disk: bool,
    /// The limit of resident memory, in bytes, if there is one.
    pub memory_limit_bytes: Option<u64>,
    /// The limit of free disk space, in bytes; 0 if there is none.
    pub disk_free_limit_bytes: u64,
    /// Bytes free on the file system of the data directory, if the system says.
    pub disk_free_bytes: Option<u64>,
}

/// The registry of everything reported at `/metrics`, with the prefix `isthmus_`.
pub(crate) fn registry(status: Arc<Status>, metrics: Arc<dyn Metrics>) -> Registry {
    let mut registry = Registry::with_prefix("isthmus");
    registry.register_collector(Box::new(AllMetrics { status, metrics }));
    registry
}

#[derive(Debug)]
struct AllMetrics {
    status: Arc<Status>,
    metrics: Arc<dyn Metrics>,
}

impl Collector for AllMetrics {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut out = Output(encoder);
        let snapshot = self.metrics.snapshot();
        out.broker(&snapshot)?;
        out.log(&snapshot)?;
        out.alarms(&snapshot.alarms)?;
        if let Some(cluster) = &snapshot.cluster {
            out.cluster(cluster)?;
        }
        out.process(&ProcessUsage::read())?;
        out.gauge("ready", "Whether clients are served", u64::from(self.status.is_ready()))?;
        let uptime = self.status.uptime().as_secs_f64();
        out.measure("uptime", "Time since the process started", &Unit::Seconds, uptime)
    }
}

/// Writes metrics one by one. The encoder appends the unit and, to counters, `_total`.
struct Output<'a>(DescriptorEncoder<'a>);

impl Output<'_> {
    fn broker(&mut self, now: &Snapshot) -> fmt::Result {
        self.gauge("connections", "Client connections open", now.connections)?;
        self.counter(
            "connections_opened",
            "Client connections accepted",
            now.connections_opened_total,
        )?;
        self.counter(
            "connections_refused",
            "Client connections refused because too many were open",
            now.connections_refused_total,
        )?;
        self.gauge("queues", "Queues that exist", now.queues)?;
        self.gauge("consumers", "Consumers attached", now.consumers)?;
        self.sessions(now)?;
        let total = now.messages_published_total;
        self.counter("messages_published", "Messages published by clients", total)?;
        let total = now.messages_delivered_total;
        self.counter("messages_delivered", "Messages delivered to clients", total)?;
        let total = now.messages_acknowledged_total;
        self.counter("messages_acknowledged", "Deliveries acknowledged by clients", total)?;
        let total = now.messages_redelivered_total;
        self.counter("messages_redelivered", "Deliveries that were not the first", total)?;
        let total = now.messages_unroutable_total;
        self.counter("messages_unroutable", "Messages that no queue was bound for", total)?;
        let total = now.messages_expired_total;
        self.counter("messages_expired", "Messages that expired", total)?;
        let total = now.messages_dead_lettered_total;
        self.counter("messages_dead_lettered", "Messages moved to dead-letter exchanges", total)?;
        let total = now.messages_dropped_total;
        self.counter("messages_dropped", "Messages dropped for want of such an exchange", total)?;
        self.gauge("messages_ready", "Messages waiting for a consumer", now.messages_ready)?;
        self.gauge(
            "messages_unacked",
            "Messages delivered and not yet acknowledged",
            now.messages_unacked,
        )?;
        let help = "Retained messages that exchanges keep";
        self.gauge("retained_messages", help, now.retained_messages)?;
        let help = "What the retained messages take in memory, about";
        self.measure("retained", help, &Unit::Bytes, now.retained_bytes as f64)
    }

    fn sessions(&mut self, now: &Snapshot) -> fmt::Result {
        let help = "Lasting sessions, by whether their clients are there";
        let mut family = self.0.encode_descriptor("sessions", help, None, MetricType::Gauge)?;
        for (connected, count) in [("true", now.sessions_open), ("false", now.sessions_kept)] {
            let metric = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            metric.encode(family.encode_family(&[("connected", connected)])?)?;
        }
        Ok(())
    }

    fn log(&mut self, now: &Snapshot) -> fmt::Result {
        let bytes = now.log_bytes as f64;
        self.measure("log_size", "What the log takes on disk", &Unit::Bytes, bytes)?;
        self.counter("log_appends", "Entries appended to the log", now.log_appends_total)?;
        self.counter("log_syncs", "Groups of entries synced", now.log_syncs_total)
    }

    fn alarms(&mut self, now: &Alarms) -> fmt::Result {
        let help = "Whether publishers are held back for want of it";
        let mut family = self.0.encode_descriptor("alarm", help, None, MetricType::Gauge)?;
        for (kind, is_set) in [("memory", now.memory), ("disk", now.disk)] {
            let metric = ConstGauge::new(i64::from(is_set));
            metric.encode(family.encode_family(&[("kind", kind)])?)?;
        }
        if let Some(bytes) = now.memory_limit_bytes {
            let help = "Resident memory above which publishers are held back";
            self.measure("memory_limit", help, &Unit::Bytes, bytes as f64)?;
        }
        let help = "Free disk space below which publishers are held back";
        let bytes = now.disk_free_limit_bytes as f64;
        self.measure("disk_free_limit", help, &Unit::Bytes, bytes)?;
        if let Some(bytes) = now.disk_free_bytes {
            let help = "Free on the file system of the data directory";
            self.measure("disk_free", help, &Unit::Bytes, bytes as f64)?;
        }
        Ok(())
    }

    fn cluster(&mut self, now: &Cluster) -> fmt::Result {
        self.gauge("cluster_leader", "Whether this node leads", u64::from(now.is_leader))?;
        self.gauge("cluster_term", "The consensus term", now.term)?;
        self.gauge("cluster_last_entry", "The last entry of this node's log", now.last_entry)?;
        let help = "The last entry that this node knows a majority to have";
        self.gauge("cluster_committed_entry", help, now.committed_entry)?;
        self.gauge("cluster_voters", "Members that vote", now.voters)?;
        let help = "Voters that the leader has heard of lately, itself included; 0 on others";
        self.gauge("cluster_voters_heard", help, now.voters_heard)?;
        let help = "Entries that a member lacks, as the leader knows";
        let mut family =
            self.0.encode_descriptor("cluster_lag_entries", help, None, MetricType::Gauge)?;
        for (member, entries) in &now.lags {
            let metric = ConstGauge::new(i64::try_from(*entries).unwrap_or(i64::MAX));
            metric.encode(family.encode_family(&[("member", member.to_string())])?)?;
        }
        Ok(())
    }

    fn process(&mut self, usage: &ProcessUsage) -> fmt::Result {
        if let Some(bytes) = usage.resident_bytes {
            let help = "Memory the process has resident";
            self.measure("process_resident_memory", help, &Unit::Bytes, bytes as f64)?;
        }
        if let Some(seconds) = usage.cpu_seconds {
            let help = "Processor time the process has used";
            self.sum("process_cpu", help, &Unit::Seconds, seconds)?;
        }
        if let Some(count) = usage.open_fds {
            self.gauge("process_open_fds", "File descriptors the process has open", count)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.metric(name, help, None, &ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.metric(name, help, None, &ConstCounter::new(value))
    }

    fn measure(&mut self, name: &str, help: &str, unit: &Unit, value: f64) -> fmt::Result {
        self.metric(name, help, Some(unit), &ConstGauge::new(value))
    }

    fn sum(&mut self, name: &str, help: &str, unit: &Unit, value: f64) -> fmt::Result {
        self.metric(name, help, Some(unit), &ConstCounter::new(value))
    }

    fn metric(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        metric: &impl EncodeMetric,
    ) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, unit, metric.metric_type())?;
        metric.encode(encoder)
    }
}
