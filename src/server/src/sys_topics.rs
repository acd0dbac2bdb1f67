//! The topics below `$SYS/broker`: what the broker tells MQTT clients of itself, under the names that
//! Mosquitto has for it.
//!
//! The leader's counts are looked at once an interval and handed to its dispatcher, which sends what
//! is news to whoever is bound for it, and keeps it for who comes later. Nothing of it goes through
//! the log.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use isthmus_broker::Leader;
use isthmus_contract::model::{Batch, EncodingId};
use isthmus_mqtt::codec::{Properties, Qos};
use isthmus_mqtt::convert::stored::{Message, store};

use crate::alarms;
use crate::broker::{Broker, SYSTEM_EXCHANGE};
use crate::connections::Connections;

/// What all the topics begin with.
const ROOT: &str = "$SYS/broker/";

/// Values older than this are of no use to a session whose client is away, and leave its queue.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// The averages over which loads are told, by the last level of their topics.
const SPANS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// Publishes the topics every `interval` for as long as this node leads.
pub(crate) async fn publish(
    broker: Broker,
    connections: Connections,
    exchange: String,
    interval: Duration,
    version: &'static str,
) -> Infallible {
    let mut ticks = tokio::time::interval(interval);
    // One that was missed is not made up for: it would tell the same.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let start = Instant::now();
    let mut teller = Teller::default();
    loop {
        ticks.tick().await;
        let exchange = exchange.clone();
        let counted = broker.inner().inspect(move |leader| Counts::of(leader, &exchange)).await;
        let Some(counts) = counted else {
            // Another leader counts from its own beginning.
            teller = Teller::default();
            continue;
        };
        let (received_bytes, sent_bytes) = broker.inner().traffic_bytes();
        let counts =
            Counts { received_bytes, sent_bytes, sockets: connections.opened_total(), ..counts };
        let heap = alarms::resident_bytes().unwrap_or(0);
        let told = teller.tell(&counts, heap, start.elapsed(), interval, version);
        broker.inner().announce(batch(&told));
    }
}

/// What is counted at the beginning of an interval. All but the traffic is the leader's.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    clients: u64,
    clients_away: u64,
    clients_expired: u64,
    sessions_opened: u64,
    sockets: u64,
    received: u64,
    sent: u64,
    dropped: u64,
    inflight: u64,
    stored: u64,
    stored_bytes: u64,
    subscriptions: u64,
    retained: u64,
    published_bytes: u64,
    delivered_bytes: u64,
    received_bytes: u64,
    sent_bytes: u64,
}

impl Counts {
    /// Those of a leader whose clients subscribe at `exchange`.
    fn of(leader: &Leader<'_>, exchange: &str) -> Counts {
        let dispatcher = leader.dispatcher();
        let (counters, queues) = (dispatcher.counters(), dispatcher.queue_totals());
        let retained = dispatcher.kept().size();
        let topology = dispatcher.topology();
        let bindings = |vhost: &str| {
            topology.binding_count(vhost, exchange) + topology.binding_count(vhost, SYSTEM_EXCHANGE)
        };
        Counts {
            clients: dispatcher.open_clients() as u64,
            clients_away: dispatcher.kept_clients() as u64,
            clients_expired: counters.sessions_expired,
            sessions_opened: counters.sessions_opened,
            received: counters.published,
            sent: counters.delivered,
            dropped: counters.dropped,
            inflight: queues.unacked,
            stored: queues.ready + queues.unacked + retained.messages,
            stored_bytes: queues.ready_bytes + retained.bytes,
            subscriptions: topology.vhosts().into_iter().map(|v| bindings(v) as u64).sum(),
            retained: retained.messages,
            published_bytes: counters.published_bytes,
            delivered_bytes: counters.delivered_bytes,
            ..Counts::default()
        }
    }

    /// What loads are told of, by the middle of their topics.
    fn loads(&self) -> [(&'static str, u64); 9] {
        [
            ("messages/received", self.received),
            ("messages/sent", self.sent),
            ("publish/received", self.received),
            ("publish/sent", self.sent),
            ("publish/dropped", self.dropped),
            ("bytes/received", self.received_bytes),
            ("bytes/sent", self.sent_bytes),
            ("connections", self.sessions_opened),
            ("sockets", self.sockets),
        ]
    }
}

/// What is remembered from one interval to the next.
#[derive(Debug, Default)]
struct Teller {
    before: Option<Counts>,
    clients_max: u64,
    heap_max: u64,
    /// By load and span, a minute's worth of each.
    loads: [[f64; SPANS.len()]; 9],
}

impl Teller {
    /// Topics below [`ROOT`] with their values.
    fn tell(
        &mut self,
        counts: &Counts,
        heap: u64,
        uptime: Duration,
        interval: Duration,
        version: &str,
    ) -> Vec<(String, String)> {
        self.clients_max = self.clients_max.max(counts.clients);
        self.heap_max = self.heap_max.max(heap);
        let mut told = vec![
            ("version".to_owned(), format!("isthmus version {version}")),
            ("uptime".to_owned(), format!("{} seconds", uptime.as_secs())),
        ];
        let values = [
            ("clients/connected", counts.clients),
            ("clients/disconnected", counts.clients_away),
            ("clients/total", counts.clients + counts.clients_away),
            ("clients/maximum", self.clients_max),
            ("clients/expired", counts.clients_expired),
            ("clients/active", counts.clients),
            ("clients/inactive", counts.clients_away),
            ("messages/received", counts.received),
            ("messages/sent", counts.sent),
            ("messages/stored", counts.stored),
            ("messages/inflight", counts.inflight),
            ("publish/messages/received", counts.received),
            ("publish/messages/sent", counts.sent),
            ("publish/messages/dropped", counts.dropped),
            ("publish/bytes/received", counts.published_bytes),
            ("publish/bytes/sent", counts.delivered_bytes),
            ("bytes/received", counts.received_bytes),
            ("bytes/sent", counts.sent_bytes),
            ("subscriptions/count", counts.subscriptions),
            ("retained messages/count", counts.retained),
            ("store/messages/count", counts.stored),
            ("store/messages/bytes", counts.stored_bytes),
            ("heap/current", heap),
            ("heap/maximum", self.heap_max),
        ];
        told.extend(values.map(|(topic, value)| (topic.to_owned(), value.to_string())));
        self.count_loads(counts, interval);
        for ((what, _), averages) in counts.loads().iter().zip(&self.loads) {
            for ((span, _), average) in SPANS.iter().zip(averages) {
                told.push((format!("load/{what}/{span}"), format!("{average:.2}")));
            }
        }
        told
    }

    /// Moves the averages on by what has come since the last interval: one that is a span ago
    /// weighs 1/e of the latest.
    fn count_loads(&mut self, counts: &Counts, interval: Duration) {
        let seconds = interval.as_secs_f64();
        // What came before the first is of no known time.
        let before = self.before.replace(*counts).unwrap_or(*counts);
        let latest = counts.loads().into_iter().zip(before.loads());
        for (((_, now), (_, before)), averages) in latest.zip(&mut self.loads) {
            let a_minute = now.saturating_sub(before) as f64 * 60.0 / seconds;
            for ((_, span), average) in SPANS.iter().zip(averages) {
                let weight = (-seconds / span).exp();
                *average = a_minute + weight * (*average - a_minute);
            }
        }
    }
}

/// The values as retained messages of QoS 0.
fn batch(told: &[(String, String)]) -> Batch {
    let stored: Vec<_> = told.iter().map(|(topic, value)| message(topic, value)).collect();
    let mut batch = Batch::joined(EncodingId::MQTT, stored.iter().map(|alone| (&**alone, 0, 1)));
    for record in &mut batch.records {
        record.ttl_ms = STALE_AFTER.as_millis() as u32;
        record.flags = record.flags.with(isthmus_contract::model::RecordFlags::RETAIN);
    }
    batch
}

fn message(topic: &str, value: &str) -> std::sync::Arc<Batch> {
    let message = Message {
        qos: Qos::AtMostOnce,
        retain: true,
        topic: &format!("{ROOT}{topic}"),
        properties: Properties::NONE,
        payload: value.as_bytes(),
    };
    store(&message, SYSTEM_EXCHANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn value<'t>(told: &'t [(String, String)], topic: &str) -> &'t str {
        &told.iter().find(|(t, _)| t == topic).expect("it is told").1
    }

    #[test]
    fn loads_come_to_what_a_minute_brings_and_are_forgotten_by_their_span() {
        let mut teller = Teller::default();
        let mut counts = Counts { received: 5_000, ..Counts::default() };
        let mut told = teller.tell(&counts, 0, INTERVAL, INTERVAL, "1");
        assert_eq!(value(&told, "load/messages/received/1min"), "0.00", "since when is not known");
        // A hundred in ten seconds, for an hour.
        for _ in 0..360 {
            counts.received += 100;
            told = teller.tell(&counts, 0, INTERVAL, INTERVAL, "1");
        }
        assert_eq!(value(&told, "load/messages/received/1min"), "600.00");
        let slow: f64 = value(&told, "load/publish/received/15min").parse().expect("a number");
        assert!((585.0..600.0).contains(&slow), "{slow}");
        // Nothing, for a minute: 1/e of it is left.
        for _ in 0..6 {
            told = teller.tell(&counts, 0, INTERVAL, INTERVAL, "1");
        }
        assert_eq!(value(&told, "load/messages/received/1min"), "220.73");
        assert_eq!(value(&told, "load/messages/sent/1min"), "0.00");
    }

    #[test]
    fn the_most_that_there_was_stays() {
        let mut teller = Teller::default();
        let counts = |clients| Counts { clients, clients_away: 2, ..Counts::default() };
        teller.tell(&counts(7), 900, INTERVAL, INTERVAL, "1");
        let told = teller.tell(&counts(3), 500, INTERVAL, INTERVAL, "1");
        let all = ["connected", "disconnected", "total", "maximum"];
        assert_eq!(all.map(|t| value(&told, &format!("clients/{t}"))), ["3", "2", "5", "7"]);
        assert_eq!((value(&told, "heap/current"), value(&told, "heap/maximum")), ("500", "900"));
    }

    #[test]
    fn what_is_told_is_transient_and_retained() {
        let batch = batch(&[("uptime".to_owned(), "1 seconds".to_owned())]);
        let record = &batch.records[0];
        assert_eq!(batch.routing_key(record), "$SYS.broker.uptime");
        assert_eq!(batch.body(record), b"1 seconds");
        assert!(record.flags.has(isthmus_contract::model::RecordFlags::RETAIN));
        assert!(!record.flags.has(isthmus_contract::model::RecordFlags::DURABLE));
    }
}
