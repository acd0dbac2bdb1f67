//! How far producers may go: unconfirmed messages of one, and all of them ahead of consumers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What a broker says of messages that were sent to it. Messages of a connection are counted from
/// 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It has this one.
    One(u64),
    /// It has this one and all before.
    UpTo(u64),
    /// It refuses this one.
    Refused(u64),
    /// It refuses this one and all before that it has not confirmed.
    RefusedUpTo(u64),
    /// It has what went under this MQTT packet identifier; message `n` went under
    /// `n % 65535 + 1`.
    Packet(u16),
    /// It refuses what went under this packet identifier.
    RefusedPacket(u16),
}

/// What MQTT packet identifiers there are: 1 to 65535.
pub(crate) const PACKET_IDS: u64 = 65_535;

/// The messages of one producer that the broker has not confirmed.
#[derive(Debug)]
pub(crate) struct Window {
    state: Mutex<State>,
    changed: Notify,
    max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// The message that is first in `slots`.
    base: u64,
    /// When each was meant to be sent; none once it is settled.
    slots: VecDeque<Option<u32>>,
}

impl Window {
    pub(crate) fn new(max: usize) -> Window {
        Window { state: Mutex::default(), changed: Notify::new(), max }
    }

    /// How many more may be sent.
    pub(crate) fn room(&self) -> usize {
        self.max.saturating_sub(self.state.lock().slots.len())
    }

    /// Returns when `room` or `is_empty` may have changed since the last call.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether all is settled.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().slots.is_empty()
    }

    /// How many are not settled.
    pub(crate) fn len(&self) -> u64 {
        self.state.lock().slots.iter().flatten().count() as u64
    }

    /// Notes what is about to be sent.
    pub(crate) fn push(&self, stamps: &[u32]) {
        self.state.lock().slots.extend(stamps.iter().copied().map(Some));
    }

    /// Takes what the broker said; tells `confirmed` when each was meant to be sent. Returns how
    /// many it refused, or what is wrong with what it said.
    pub(crate) fn settle(
        &self,
        settled: &[Settled],
        mut confirmed: impl FnMut(u32),
    ) -> Result<u64, &'static str> {
        let mut state = self.state.lock();
        let mut refused = 0;
        for &each in settled {
            let (n, all_before, is_refusal) = match each {
                Settled::One(n) => (n, false, false),
                Settled::UpTo(n) => (n, true, false),
                Settled::Refused(n) => (n, false, true),
                Settled::RefusedUpTo(n) => (n, true, true),
                Settled::Packet(id) => (state.of_packet(id), false, false),
                Settled::RefusedPacket(id) => (state.of_packet(id), false, true),
            };
            let Some(at) = n.checked_sub(state.base).filter(|&at| at < state.slots.len() as u64)
            else {
                return Err("it confirmed a message that is not waiting for it");
            };
            let from = if all_before { 0 } else { at as usize };
            for slot in state.slots.range_mut(from..=at as usize) {
                match slot.take() {
                    Some(_) if is_refusal => refused += 1,
                    Some(stamp) => confirmed(stamp),
                    None if all_before => {}
                    None => return Err("it confirmed a message twice"),
                }
            }
            while state.slots.front() == Some(&None) {
                state.slots.pop_front();
                state.base += 1;
            }
        }
        drop(state);
        self.changed.notify_one();
        Ok(refused)
    }
}

impl State {
    /// The message that went under a packet identifier. The window is no larger than there are
    /// identifiers, so that it is the only one.
    fn of_packet(&self, id: u16) -> u64 {
        let at = (u64::from(id) + PACKET_IDS - 1) % PACKET_IDS;
        self.base + (at + PACKET_IDS - self.base % PACKET_IDS) % PACKET_IDS
    }
}

/// Keeps producers from running ahead of consumers, where no rate is given: what is measured then
/// is what the broker passes on, not how fast its backlog grows.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Deliveries that may be under way.
    max: u64,
    expected: AtomicU64,
    received: AtomicU64,
    is_waited_for: AtomicBool,
    notify: Notify,
}

/// How long nothing has to come until what is missing counts as lost, for the gate.
const PATIENCE: Duration = Duration::from_millis(500);

impl Gate {
    pub(crate) fn new(max: u64) -> Gate {
        Gate {
            max,
            expected: AtomicU64::new(0),
            received: AtomicU64::new(0),
            is_waited_for: AtomicBool::new(false),
            notify: Notify::new(),
        }
    }

    fn room(&self) -> u64 {
        let received = self.received.load(Ordering::SeqCst);
        (received + self.max).saturating_sub(self.expected.load(Ordering::SeqCst))
    }

    /// Waits until something may be sent; how many deliveries there is room for.
    pub(crate) async fn open(&self) -> u64 {
        loop {
            let room = self.room();
            if room > 0 {
                return room;
            }
            let notified = self.notify.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            self.is_waited_for.store(true, Ordering::SeqCst);
            if self.room() > 0 {
                continue;
            }
            let before = self.received.load(Ordering::SeqCst);
            let is_silent = tokio::time::timeout(PATIENCE, notified).await.is_err();
            if is_silent && self.received.load(Ordering::SeqCst) == before {
                // Whatever was under way is gone. Several producers may say so at once; that the
                // figure then is a little off lets them go ahead a little more.
                self.expected.store(before, Ordering::SeqCst);
            }
        }
    }

    /// Notes what is about to be sent, in deliveries.
    pub(crate) fn sent(&self, deliveries: u64) {
        self.expected.fetch_add(deliveries, Ordering::SeqCst);
    }

    /// Notes what came.
    pub(crate) fn received(&self, deliveries: u64) {
        self.received.fetch_add(deliveries, Ordering::SeqCst);
        if self.is_waited_for.load(Ordering::Relaxed)
            && self.room() >= self.max / 2
            && self.is_waited_for.swap(false, Ordering::SeqCst)
        {
            self.notify.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(max: usize, stamps: &[u32]) -> Window {
        let window = Window::new(max);
        window.push(stamps);
        window
    }

    fn settle(window: &Window, settled: &[Settled]) -> (Result<u64, &'static str>, Vec<u32>) {
        let mut stamps = Vec::new();
        let refused = window.settle(settled, |stamp| stamps.push(stamp));
        (refused, stamps)
    }

    #[test]
    fn confirms_come_in_any_order_and_in_heaps() {
        let window = window(5, &[10, 11, 12, 13]);
        assert_eq!(window.room(), 1);
        assert_eq!(settle(&window, &[Settled::One(2)]), (Ok(0), vec![12]));
        assert_eq!(window.room(), 1, "the first two still wait");
        assert_eq!(settle(&window, &[Settled::UpTo(2)]), (Ok(0), vec![10, 11]));
        assert_eq!(settle(&window, &[Settled::Refused(3)]), (Ok(1), vec![]));
        assert!(window.is_empty());
    }

    #[test]
    fn what_was_never_sent_or_is_settled_is_an_error() {
        let window = window(5, &[10, 11]);
        assert!(settle(&window, &[Settled::One(2)]).0.is_err());
        assert!(settle(&window, &[Settled::One(1)]).0.is_ok());
        assert!(settle(&window, &[Settled::One(1)]).0.is_err());
    }

    #[test]
    fn packet_identifiers_come_round() {
        let window = Window::new(100);
        for n in 0..2 * PACKET_IDS + 10 {
            window.push(&[n as u32]);
            let id = (n % PACKET_IDS + 1) as u16;
            assert_eq!(settle(&window, &[Settled::Packet(id)]), (Ok(0), vec![n as u32]));
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_gate_opens_as_messages_come_and_when_none_come_any_more() {
        let gate = Gate::new(10);
        assert_eq!(gate.open().await, 10);
        gate.sent(10);
        let wait = gate.open();
        tokio::pin!(wait);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut wait).await.is_err());
        gate.received(6);
        assert_eq!(wait.await, 6);
        gate.sent(6);
        assert_eq!(gate.open().await, 10, "what was lost is written off");
    }
}
