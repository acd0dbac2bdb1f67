//! Reading allocates nothing, whatever comes; writing a delivery does not either.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use bytes::Bytes;
use common::{connect4, connect5, p, props, publish5, s, will5};
use isthmus_contract::Outbox;
use isthmus_model::Span;
use isthmus_mqtt::codec::publish::{Outgoing, TopicName};
use isthmus_mqtt::codec::{Packet, Properties, Qos, Sender, Version, frame};

thread_local! {
    /// Of this thread only: the test's harness allocates in its own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came; the count beside it is a
// thread-local `Cell` with a constant initialiser and no destructor, which does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc`'s contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` above, so from the system's allocator, with `layout`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Reads whatever `bytes` begin with in every way; what it says is looked at and dropped.
fn read(bytes: &[u8]) {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        for sender in [Sender::Client, Sender::Server] {
            let Ok(Some(frame)) = black_box(frame::next(bytes, 100_000)) else { continue };
            let items = match black_box(Packet::read(&frame, version, sender)) {
                Ok(Packet::Publish(packet)) => packet.properties.iter().count(),
                Ok(Packet::Subscribe(packet)) => packet.subscriptions.iter().count(),
                Ok(Packet::Unsubscribe(packet)) => packet.filters.iter().count(),
                _ => 0,
            };
            black_box(items);
        }
    }
}

fn allocations(run: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

#[test]
fn reading_allocates_nothing() {
    let user = [&[0x26][..], &s("name"), &s("value")].concat();
    let packets = [
        connect5(0xEE, &[&user], &[&will5(&[&user]), &s("u"), &s("p")]),
        connect4(0xC2, &[&s("u"), &s("p")]),
        publish5(&[&user, &[0x23, 0, 1], &user]),
        p(0x32, &[&s("a/b"), &[0, 1, 0], &[7; 100]]),
        p(0x82, &[&[0, 1, 0], &s("a/+"), &[0x2E], &s("$share/g/#"), &[1]]),
        p(0xA2, &[&[0, 1, 0], &s("a/+")]),
        p(0x20, &[&[0, 0], &props(&[&[0x12], &s("id"), &user])]),
        p(0x90, &[&[0, 1, 0], &[0; 50]]),
        p(0xE0, &[&[0x8B], &props(&[&[0x1F], &s("why")])]),
        p(0xF0, &[&[0x18], &props(&[&[0x15], &s("m")])]),
        vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF],
        vec![0x10, 0xFF, 0xFF, 0xFF, 0xFF],
    ];
    for packet in &packets {
        assert_eq!(allocations(|| read(packet)), 0, "{packet:02X?}");
        // Every byte of it as every other.
        let mut damaged = packet.clone();
        let count = allocations(|| {
            for at in 0..damaged.len() {
                let byte = damaged[at];
                for other in 0..=255 {
                    damaged[at] = other;
                    read(&damaged);
                }
                damaged[at] = byte;
            }
        });
        assert_eq!(count, 0, "{packet:02X?}");
    }
}

#[test]
fn writing_into_an_outbox_that_has_room_allocates_nothing() {
    let chunk = Bytes::from_static(&[7; 64]);
    let mut out = Outbox::new();
    let packet = Outgoing {
        version: Version::V5,
        dup: false,
        qos: Qos::AtLeastOnce,
        retain: false,
        topic: TopicName::RoutingKey(b"sensors.kitchen"),
        packet_id: 1,
        expiry_left_s: Some(9),
        subscription_ids: &[1, 200],
        properties: Properties::NONE,
        chunk: &chunk,
        payload: Span::new(0, 16),
    };
    assert!(packet.write(&mut out, 1000));
    out.advance(out.len());
    let count = allocations(|| assert!(packet.write(&mut out, 1000)));
    assert_eq!(count, 0);
}
