//! Packet identifiers of deliveries.
//!
//! The identifier of a delivery follows from its lane and its sequence there, so that a message
//! which is delivered again, after a reconnect, a restart or a failover, has the identifier that it
//! had [MQTT-4.4.0-1], and nobody has had to write it down. One that is still in use by an earlier
//! message, which takes 32,767 (16,384 in the lanes of No Local) unsettled messages in between,
//! waits until that is settled.
//!
//! Deliveries of shared subscriptions have what is free of the rest: their queues' sequences are
//! shared with other clients, and a message that comes again may come to another one.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use isthmus_model::{LeaseEpoch, QueueId, Sequence};

use super::lanes::Lane;

/// Identifiers of [`Lane::Qos1`], from 1.
const MAIN: u64 = 32_767;
/// Identifiers of [`Lane::Qos1NoLocal`], behind those.
const NO_LOCAL: u64 = 16_384;
/// The first of the shared subscriptions' identifiers, which go on to 65,535.
const SHARED_FIRST: u16 = (MAIN + NO_LOCAL + 1) as u16;

/// The identifier of the message `sequence` of `lane`.
pub(super) fn of_sequence(lane: Lane, sequence: Sequence) -> u16 {
    match lane {
        Lane::Qos0 | Lane::Qos1 => 1 + (sequence % MAIN) as u16,
        Lane::Qos0NoLocal | Lane::Qos1NoLocal => (MAIN + 1 + sequence % NO_LOCAL) as u16,
    }
}

/// A map by packet identifier. Its hashes are the same in all sessions, which saves it the space of
/// a secret: of 65,535 keys not enough fall together to matter.
pub(super) type ById<V> = HashMap<u16, V, BuildHasherDefault<DefaultHasher>>;

/// What a delivery is settled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) queue: QueueId,
    pub(super) sequence: Sequence,
    pub(super) epoch: LeaseEpoch,
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// QoS 1: a PUBACK is awaited.
    Published(Held),
    /// QoS 2: a PUBREC is awaited.
    Sent(Held),
    /// QoS 2, of a group: the broker is told that the message is this client's.
    Claiming,
    /// QoS 2, of a group: a PUBREC is awaited for a message that is this client's.
    Claimed,
    /// QoS 2: the broker is told of the PUBREC.
    Recording,
    /// QoS 2: a PUBCOMP is awaited.
    Released,
}

/// A delivery that is not complete.
#[derive(Debug)]
struct Flight {
    step: Step,
    /// Whether it was sent on this connection, and so is one of the client's Receive Maximum.
    is_counted: bool,
}

/// Deliveries that are not complete, by packet identifier.
#[derive(Debug)]
pub(super) struct Flights {
    by_id: ById<Flight>,
    counted: u32,
    /// The identifier given last to a shared subscription's delivery.
    last_shared: u16,
}

impl Default for Flights {
    fn default() -> Flights {
        Flights { by_id: ById::default(), counted: 0, last_shared: u16::MAX }
    }
}

impl Flights {
    /// Deliveries of this connection that are not complete (section 4.9).
    pub(super) fn counted(&self) -> u32 {
        self.counted
    }

    /// How far the delivery `id` is; `None` if there is none.
    pub(super) fn step(&self, id: u16) -> Option<Step> {
        self.by_id.get(&id).map(|flight| flight.step)
    }

    /// Begins one [MQTT-2.2.1-4]; `is_counted` if it was sent on this connection.
    pub(super) fn begin(&mut self, id: u16, step: Step, is_counted: bool) {
        let before = self.by_id.insert(id, Flight { step, is_counted });
        debug_assert!(before.is_none(), "the packet identifier {id} is in use");
        self.counted += u32::from(is_counted);
    }

    pub(super) fn go_on(&mut self, id: u16, step: Step) {
        if let Some(flight) = self.by_id.get_mut(&id) {
            flight.step = step;
        }
    }

    pub(super) fn end(&mut self, id: u16) {
        if let Some(flight) = self.by_id.remove(&id) {
            self.counted -= u32::from(flight.is_counted);
        }
    }

    /// An identifier for a shared subscription's delivery; `None` if all are in use.
    pub(super) fn next_shared(&mut self) -> Option<u16> {
        (SHARED_FIRST..=u16::MAX).find_map(|_| {
            self.last_shared = self.last_shared.checked_add(1).unwrap_or(SHARED_FIRST);
            (!self.by_id.contains_key(&self.last_shared)).then_some(self.last_shared)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_have_identifiers_of_their_own() {
        let all = |lane, count| (0..count).map(move |sequence| of_sequence(lane, sequence));
        let mut main: Vec<u16> = all(Lane::Qos1, MAIN).collect();
        main.sort_unstable();
        assert!(main.iter().copied().eq(1..=32_767));
        let no_local: Vec<u16> = all(Lane::Qos1NoLocal, NO_LOCAL).collect();
        assert!(no_local.iter().copied().eq(32_768..=49_151));
        assert_eq!(SHARED_FIRST, 49_152);
        assert_eq!(of_sequence(Lane::Qos1, 7), of_sequence(Lane::Qos1, 7 + MAIN));
        assert!(of_sequence(Lane::Qos1, u64::MAX) > 0);
    }

    #[test]
    fn mqtt5_2_2_1_4_shared_identifiers_come_round_without_those_in_use() {
        let mut flights = Flights::default();
        assert_eq!(flights.next_shared(), Some(49_152));
        flights.begin(49_153, Step::Released, true);
        assert_eq!(flights.next_shared(), Some(49_154));
        for id in 49_155..=65_535 {
            assert_eq!(flights.next_shared(), Some(id));
        }
        assert_eq!(flights.next_shared(), Some(49_152));
        for id in (49_152..=65_535).filter(|id| *id != 49_153) {
            flights.begin(id, Step::Released, false);
        }
        assert_eq!((flights.next_shared(), flights.counted()), (None, 1));
        flights.end(49_153);
        assert_eq!((flights.next_shared(), flights.counted()), (Some(49_153), 0));
    }
}
