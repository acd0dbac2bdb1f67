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

use std::collections::{BTreeMap, HashMap};
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

impl Held {
    /// The message `n` behind it.
    fn after(self, n: u16) -> Held {
        Held { sequence: self.sequence + u64::from(n), ..self }
    }
}

impl Step {
    /// Where the delivery `n` identifiers further is, of deliveries that began as one.
    fn after(self, n: u16) -> Step {
        match self {
            Step::Published(held) => Step::Published(held.after(n)),
            step => step,
        }
    }
}

/// Deliveries that are not complete, with identifiers one after the other. More than one only with
/// [`Step::Published`], of messages one after the other.
#[derive(Clone, Copy, Debug)]
struct Flight {
    /// How far the first is.
    step: Step,
    /// How many.
    len: u16,
    /// Whether they were sent on this connection, and so are of the client's Receive Maximum.
    is_counted: bool,
}

/// Deliveries that are not complete, by packet identifier.
///
/// Most clients acknowledge in the order in which they were sent to, so what was sent as one is one
/// entry, of which acknowledgements take from the front; others split it.
#[derive(Debug)]
pub(super) struct Flights {
    /// By the first identifier.
    by_id: BTreeMap<u16, Flight>,
    counted: u32,
    /// The identifier given last to a shared subscription's delivery.
    last_shared: u16,
}

impl Default for Flights {
    fn default() -> Flights {
        Flights { by_id: BTreeMap::new(), counted: 0, last_shared: u16::MAX }
    }
}

impl Flights {
    /// Deliveries of this connection that are not complete (section 4.9).
    pub(super) fn counted(&self) -> u32 {
        self.counted
    }

    /// The entry that `id` is of, and where it begins.
    fn entry(&self, id: u16) -> Option<(u16, &Flight)> {
        let (&first, flight) = self.by_id.range(..=id).next_back()?;
        (id - first < flight.len).then_some((first, flight))
    }

    /// How far the delivery `id` is; `None` if there is none.
    pub(super) fn step(&self, id: u16) -> Option<Step> {
        self.entry(id).map(|(first, flight)| flight.step.after(id - first))
    }

    /// Whether none of the `len` identifiers from `id` on is in use.
    pub(super) fn are_free(&self, id: u16, len: u16) -> bool {
        let last = id.saturating_add(len - 1);
        let before = self.by_id.range(..=last).next_back();
        before.is_none_or(|(first, flight)| {
            u32::from(*first) + u32::from(flight.len) <= u32::from(id)
        })
    }

    /// Begins one [MQTT-2.2.1-4]; `is_counted` if it was sent on this connection.
    pub(super) fn begin(&mut self, id: u16, step: Step, is_counted: bool) {
        debug_assert!(self.step(id).is_none(), "the packet identifier {id} is in use");
        self.counted += u32::from(is_counted);
        // One more of those that were sent before it.
        if let Some((first, flight)) = self.by_id.range_mut(..id).next_back()
            && let Step::Published(_) = step
            && first.checked_add(flight.len) == Some(id)
            && (flight.step.after(flight.len), flight.is_counted) == (step, is_counted)
        {
            flight.len += 1;
            return;
        }
        self.by_id.insert(id, Flight { step, len: 1, is_counted });
    }

    /// Begins `len` of QoS 1, with identifiers from `id` on and messages from `held` on, on this
    /// connection.
    pub(super) fn begin_all(&mut self, id: u16, held: Held, len: u16) {
        debug_assert!(self.are_free(id, len), "one of {len} from {id} on is in use");
        self.counted += u32::from(len);
        let flight = Flight { step: Step::Published(held), len, is_counted: true };
        self.by_id.insert(id, flight);
    }

    pub(super) fn go_on(&mut self, id: u16, step: Step) {
        if let Some((first, flight)) = self.entry(id) {
            let is_counted = flight.is_counted;
            self.cut(first, id, 1);
            self.by_id.insert(id, Flight { step, len: 1, is_counted });
        }
    }

    pub(super) fn end(&mut self, id: u16) {
        if let Some((first, flight)) = self.entry(id) {
            self.counted -= u32::from(flight.is_counted);
            self.cut(first, id, 1);
        }
    }

    /// Ends deliveries of QoS 1 with identifiers from `id` on, `len` at the most; returns what the
    /// first is settled by, and how many they are. They are fewer where their messages are not one
    /// after the other; `None` if the first is none that awaits a PUBACK.
    pub(super) fn end_all(&mut self, id: u16, len: u16) -> Option<(Held, u16)> {
        let (first, flight) = self.entry(id)?;
        let at = id - first;
        let Step::Published(held) = flight.step.after(at) else { return None };
        let len = len.min(flight.len - at);
        self.counted -= if flight.is_counted { u32::from(len) } else { 0 };
        self.cut(first, id, len);
        Some((held, len))
    }

    /// Takes `len` identifiers from `id` on out of the entry at `first`, which has them.
    fn cut(&mut self, first: u16, id: u16, len: u16) {
        let Some(flight) = self.by_id.remove(&first) else { return };
        let (before, behind) = (id - first, id - first + len);
        if before > 0 {
            self.by_id.insert(first, Flight { len: before, ..flight });
        }
        if behind < flight.len {
            let (step, len) = (flight.step.after(behind), flight.len - behind);
            self.by_id.insert(first + behind, Flight { step, len, ..flight });
        }
    }

    /// An identifier for a shared subscription's delivery; `None` if all are in use.
    pub(super) fn next_shared(&mut self) -> Option<u16> {
        (SHARED_FIRST..=u16::MAX).find_map(|_| {
            self.last_shared = self.last_shared.checked_add(1).unwrap_or(SHARED_FIRST);
            self.entry(self.last_shared).is_none().then_some(self.last_shared)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

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

    fn held(sequence: Sequence) -> Held {
        Held { queue: QueueId(1), sequence, epoch: LeaseEpoch(2) }
    }

    proptest! {
        /// Deliveries that are kept together are what each would be alone, whatever comes in which
        /// order.
        #[test]
        fn runs_are_what_their_deliveries_are(
            does in vec((0..6u8, 1..40u16, 1..12u16, any::<bool>()), 0..200),
        ) {
            let mut flights = Flights::default();
            let mut each = BTreeMap::<u16, (Step, bool)>::new();
            for (what, id, len, flag) in does {
                let id = if flag { id } else { u16::MAX - 40 + id };
                let len = len.min(u16::MAX - id);
                let sequence = u64::from(id) + 100;
                match what {
                    0 => {
                        let is_free = (id..id + len).all(|id| !each.contains_key(&id));
                        prop_assert_eq!(flights.are_free(id, len), is_free);
                        if is_free {
                            flights.begin_all(id, held(sequence), len);
                            for n in 0..len {
                                each.insert(id + n, (Step::Published(held(sequence).after(n)), true));
                            }
                        }
                    }
                    1 | 2 if flights.step(id).is_none() => {
                        let step = if what == 1 { Step::Published(held(sequence)) } else { Step::Released };
                        flights.begin(id, step, flag);
                        each.insert(id, (step, flag));
                    }
                    3 => {
                        flights.go_on(id, Step::Recording);
                        each.entry(id).and_modify(|(step, _)| *step = Step::Recording);
                    }
                    4 => {
                        flights.end(id);
                        each.remove(&id);
                    }
                    5 => match flights.end_all(id, len) {
                        Some((held, ended)) => {
                            prop_assert!((1..=len).contains(&ended));
                            for n in 0..ended {
                                let was = each.remove(&(id + n)).map(|(step, _)| step);
                                prop_assert_eq!(was, Some(Step::Published(held.after(n))));
                            }
                        }
                        None => prop_assert!(
                            !matches!(each.get(&id), Some((Step::Published(_), _)))
                        ),
                    },
                    _ => {}
                }
                for id in (0..60).chain(u16::MAX - 40..=u16::MAX) {
                    prop_assert_eq!(flights.step(id), each.get(&id).map(|(step, _)| *step));
                }
                let counted = each.values().filter(|(_, is_counted)| *is_counted).count();
                prop_assert_eq!(flights.counted() as usize, counted);
            }
        }
    }

    #[test]
    fn what_is_acknowledged_in_order_is_one_entry() {
        let mut flights = Flights::default();
        for n in 0..100 {
            flights.begin(7 + n, Step::Published(held(50 + u64::from(n))), true);
        }
        assert_eq!(flights.by_id.len(), 1);
        assert_eq!(flights.end_all(7, 200), Some((held(50), 100)));
        assert!(flights.by_id.is_empty());
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
