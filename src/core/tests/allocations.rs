//! Routing on the common paths does not allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use isthmus_core::topology::Topology;
use isthmus_model::{BindingDef, Destination, Lifetime, QueueDef, QueueId, SharedOptions, Table};

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

#[test]
fn the_common_paths_do_not_allocate() {
    let mut topology = Topology::new();
    topology.declare_vhost("/");
    for n in 0..200 {
        let name = format!("queue-{n}");
        let def = QueueDef {
            name: name.as_str().into(),
            lifetime: Lifetime::Durable,
            auto_delete: false,
            options: SharedOptions::default(),
            arguments: Table::default(),
        };
        topology.declare_queue("/", def, QueueId(n)).expect("declared");
        for exchange in ["amq.direct", "amq.fanout", "amq.topic"] {
            let binding = BindingDef {
                source: exchange.into(),
                destination: Destination::Queue(name.as_str().into()),
                routing_key: format!("key.{n}").into(),
                arguments: Table::default(),
            };
            topology.bind("/", &binding).expect("bound");
        }
    }
    let snapshot = topology.clone();
    let mut out = Vec::with_capacity(200);
    for (exchange, key, queues) in [
        ("", "queue-7", 1),
        ("", "none", 0),
        ("amq.direct", "key.7", 1),
        ("amq.fanout", "", 200),
        ("amq.topic", "key.7", 1),
    ] {
        out.clear();
        let before = ALLOCATIONS.get();
        snapshot.route("/", exchange, &[key], &mut Table::default, &mut out).expect("routed");
        assert_eq!(ALLOCATIONS.get() - before, 0, "by '{key}' from '{exchange}'");
        assert_eq!(out.len(), queues);
    }
}
