//! Events on their way to a connection's task.

use std::task::Waker;

use atomic_waker::AtomicWaker;
use isthmus_contract::{Delivery, Event};
use parking_lot::Mutex;

/// Where a turn leaves what it has to say to a session. The session's task is woken when
/// something comes into an empty mailbox, not for every event.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    contents: Mutex<Contents>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Contents {
    events: Vec<Event>,
    /// What the deliveries among them count against the outbox bound, in bytes.
    bytes: u64,
}

impl Mailbox {
    /// Leaves events; returns the waker to call, outside of any lock, if the mailbox was empty.
    pub(crate) fn post(&self, post: impl FnOnce(&mut Post<'_>)) -> Option<Waker> {
        let mut contents = self.contents.lock();
        let was_empty = contents.events.is_empty();
        post(&mut Post(&mut contents));
        let wake = was_empty && !contents.events.is_empty();
        drop(contents);
        if wake { self.waker.take() } else { None }
    }

    /// Leaves one event and wakes the task.
    pub(crate) fn send(&self, event: Event) {
        if let Some(waker) = self.post(|post| post.event(event)) {
            waker.wake();
        }
    }

    /// Takes everything, into an empty `events`; returns what the deliveries count, in bytes.
    pub(crate) fn take(&self, events: &mut Vec<Event>) -> u64 {
        let mut contents = self.contents.lock();
        std::mem::swap(&mut contents.events, events);
        std::mem::take(&mut contents.bytes)
    }

    /// Gives the memory of an empty mailbox back.
    pub(crate) fn release(&self) {
        let mut contents = self.contents.lock();
        if contents.events.is_empty() {
            contents.events = Vec::new();
        }
    }

    /// Wakes the task for news that are not in the mailbox.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Sets whom to wake. To be called before looking into the mailbox.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

/// An open mailbox.
pub(crate) struct Post<'a>(&'a mut Contents);

impl Post<'_> {
    pub(crate) fn event(&mut self, event: Event) {
        self.0.events.push(event);
    }

    /// Adds a delivery, to those before it if nothing else came between.
    pub(crate) fn delivery(&mut self, delivery: Delivery, bytes: u64) {
        self.0.bytes += bytes;
        if let Some(Event::Deliveries(deliveries)) = self.0.events.last_mut() {
            deliveries.push(delivery);
        } else {
            self.0.events.push(Event::Deliveries(vec![delivery]));
        }
    }
}
