//! What the node is short of, as every connection sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use isthmus_contract::Shortage;
use isthmus_model::SessionId;
use parking_lot::Mutex;

use crate::mailbox::Mailbox;

const MEMORY: u8 = 1;
const DISK: u8 = 2;
const PAGING: u8 = 4;

/// The shortage of now, and the connections to wake when it changes. A connection looks each time
/// it is polled, for the price of one load.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    shortage: AtomicU8,
    /// In the order in which they are woken, so that a simulation replays.
    connections: Mutex<BTreeMap<SessionId, Arc<Mailbox>>>,
}

impl Pressure {
    /// What the node is short of.
    pub(crate) fn shortage(&self) -> Shortage {
        let bits = self.shortage.load(Ordering::Acquire);
        Shortage { memory: bits & MEMORY != 0, disk: bits & DISK != 0, paging: bits & PAGING != 0 }
    }

    /// Says what lasting shortages there are from now on, and wakes every connection if that is
    /// news.
    pub(crate) fn set(&self, shortage: Shortage) {
        let bits = u8::from(shortage.memory) * MEMORY + u8::from(shortage.disk) * DISK;
        self.change(MEMORY | DISK, bits);
    }

    /// Says whether messages come in faster than they go to pages, and wakes every connection if
    /// that is news.
    pub(crate) fn set_paging(&self, is_behind: bool) {
        self.change(PAGING, u8::from(is_behind) * PAGING);
    }

    /// Gives the bits in `mask` another value; the others are somebody else's.
    fn change(&self, mask: u8, bits: u8) {
        let changed = self
            .shortage
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                (old & mask != bits).then_some(old & !mask | bits)
            })
            .is_ok();
        if !changed {
            return;
        }
        // Woken outside of the lock: waking may run other code.
        let connections: Vec<_> = self.connections.lock().values().cloned().collect();
        for mailbox in connections {
            mailbox.wake();
        }
    }

    /// From now on `mailbox` is woken.
    pub(crate) fn join(&self, id: SessionId, mailbox: &Arc<Mailbox>) {
        self.connections.lock().insert(id, Arc::clone(mailbox));
    }

    /// The connection has ended.
    pub(crate) fn leave(&self, id: SessionId) {
        self.connections.lock().remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_what_was_said_last() {
        let pressure = Pressure::default();
        assert_eq!(pressure.shortage(), Shortage::NONE);
        for (memory, disk) in [(true, false), (true, true), (false, true), (false, false)] {
            pressure.set(Shortage { memory, disk, paging: false });
            assert_eq!(pressure.shortage(), Shortage { memory, disk, paging: false });
        }
    }

    #[test]
    fn being_behind_with_pages_is_a_shortage_of_its_own() {
        let pressure = Pressure::default();
        pressure.set_paging(true);
        pressure.set(Shortage { disk: true, ..Shortage::NONE });
        assert_eq!(pressure.shortage(), Shortage { disk: true, paging: true, memory: false });
        pressure.set_paging(false);
        assert_eq!(pressure.shortage(), Shortage { disk: true, ..Shortage::NONE });
    }

    #[test]
    fn changes_wake_those_who_are_there_and_nothing_else_does() {
        let pressure = Pressure::default();
        let (stays, leaves) = (Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        pressure.join(SessionId(1), &stays);
        pressure.join(SessionId(2), &leaves);
        pressure.leave(SessionId(2));
        let (count, waker) = counting_waker();
        stays.register(&waker);
        leaves.register(&waker);
        pressure.set(Shortage::NONE);
        assert_eq!(count.count(), 0);
        pressure.set(Shortage { memory: true, ..Shortage::NONE });
        assert_eq!(count.count(), 1);
    }

    #[derive(Default)]
    struct Count(AtomicU8);

    impl Count {
        fn count(&self) -> u8 {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counting_waker() -> (Arc<Count>, std::task::Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), count.into())
    }
}
