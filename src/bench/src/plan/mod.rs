//! What a run is to do: the command line, checked and resolved.

mod pace;
mod size;
mod target;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use pace::{Schedule, ScheduleSpec, seconds};
pub(crate) use size::Sizes;
pub(crate) use target::{Protocol, Target};

/// How TLS connections are made.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsOptions {
    /// Authorities in PEM that are trusted instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    /// Certificate chain and key in PEM, shown to brokers that ask for one.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    /// Whether any certificate will do.
    pub(crate) insecure: bool,
}

/// Which MQTT is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MqttVersion {
    V311,
    V5,
}

/// Where the broker is and how it is spoken to.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// As whom to log in, and the first node.
    pub(crate) target: Target,
    /// All nodes.
    pub(crate) nodes: Vec<Target>,
    pub(crate) tls: TlsOptions,
    pub(crate) mqtt_version: MqttVersion,
    /// How long a connection has until the broker has accepted its login.
    pub(crate) connect_timeout: Duration,
}

/// What may be amiss without the run having failed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tolerate {
    pub(crate) loss: bool,
    pub(crate) duplicates: bool,
    pub(crate) order: bool,
}

/// When a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// So long after the warm-up.
    Time(Duration),
    /// When so many messages are sent, warm-up included.
    Messages(u64),
}

/// A run of producers and consumers.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) access: Access,
    /// Seeds the checksums: messages of another run are told apart by it.
    pub(crate) run_id: u32,
    pub(crate) producers: usize,
    pub(crate) consumers: usize,
    pub(crate) addresses: usize,
    /// How many copies of each message consumers get.
    pub(crate) fan_out: usize,
    /// The names of queues or topics, with `{n}` and `{run}`.
    pub(crate) name: String,
    pub(crate) sizes: Sizes,
    pub(crate) persistent: bool,
    pub(crate) durable: bool,
    /// How many messages of a producer may be without confirmation; 0 asks for none.
    pub(crate) window: usize,
    pub(crate) qos: u8,
    pub(crate) prefetch: u16,
    /// A consumer acknowledges each so many messages; 0 leaves it to the broker.
    pub(crate) ack_every: u32,
    pub(crate) schedule: Option<Schedule>,
    pub(crate) length: Length,
    pub(crate) warm_up: Duration,
    /// How long what is under way may stand still at the end before it counts as lost.
    pub(crate) drain: Duration,
    /// How many messages producers may be ahead of consumers; none at a rate that is given.
    pub(crate) ahead: Option<u64>,
    pub(crate) check: bool,
    pub(crate) tolerate: Tolerate,
    /// Arguments of queues (AMQP).
    pub(crate) queue_args: Vec<(String, String)>,
    /// Further headers of SEND and SUBSCRIBE (STOMP).
    pub(crate) headers: Vec<(String, String)>,
    /// What STOMP destinations begin with.
    pub(crate) prefix: String,
    pub(crate) declare: bool,
    pub(crate) keep: bool,
    /// The broker's process on this machine, whose CPU time and memory are to be told.
    pub(crate) broker_pid: Option<u32>,
}

/// The addresses of one of `many` workers among `addresses`: a share of them, or, where there are
/// more workers than addresses, one.
pub(crate) fn share(worker: usize, many: usize, addresses: usize) -> Vec<usize> {
    if many > addresses {
        vec![worker % addresses]
    } else {
        (worker..addresses).step_by(many).collect()
    }
}

impl Plan {
    /// The name of address `n`.
    pub(crate) fn name(&self, n: usize) -> String {
        self.name.replace("{run}", &format!("{:08x}", self.run_id)).replace("{n}", &n.to_string())
    }

    /// The queue of one copy of what is published to address `n` (AMQP).
    pub(crate) fn queue(&self, n: usize, copy: usize) -> String {
        match self.fan_out {
            1 => self.name(n),
            _ => format!("{}.{copy}", self.name(n)),
        }
    }

    /// Where the messages of a producer go, in turns.
    pub(crate) fn producer_addresses(&self, producer: usize) -> Vec<usize> {
        share(producer, self.producers, self.addresses)
    }

    /// How many addresses each producer has; each is a stream with an order of its own. 0 where
    /// that is not known, as producers are elsewhere.
    pub(crate) fn streams(&self) -> u64 {
        match self.producers {
            0 if self.addresses > 1 => 0,
            0 => 1,
            many => share(0, many, self.addresses).len() as u64,
        }
    }

    /// Which copy a consumer gets, and of which addresses. With a fan-out each consumer has one
    /// address.
    pub(crate) fn consumer_addresses(&self, consumer: usize) -> (usize, Vec<usize>) {
        if self.fan_out == 1 {
            return (0, share(consumer, self.consumers, self.addresses));
        }
        let endpoint = consumer % (self.addresses * self.fan_out);
        (endpoint / self.addresses, vec![endpoint % self.addresses])
    }

    /// Whether several consumers divide the messages of one address between them.
    pub(crate) fn is_shared(&self) -> bool {
        self.consumers > self.addresses * self.fan_out
    }

    /// How many deliveries one message makes.
    pub(crate) fn copies(&self) -> u64 {
        if self.consumers == 0 { 0 } else { self.fan_out as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn every_address_has_a_worker_and_every_worker_an_address() {
        for (many, addresses) in [(1, 1), (1, 5), (2, 5), (5, 5), (7, 3)] {
            let mut seen = vec![0; addresses];
            for worker in 0..many {
                let mine = share(worker, many, addresses);
                assert!(!mine.is_empty());
                mine.into_iter().for_each(|n| seen[n] += 1);
            }
            assert!(seen.iter().all(|&n| n >= 1), "{many} {addresses}: {seen:?}");
        }
    }
}
