//! Queues that deliver by priority.

use isthmus_model::{Outcome, QueueDef};

use super::rig::*;

fn by_priority(name: &str, priority_max: u8) -> QueueDef {
    queue_with(name, |o| o.priority_max = Some(priority_max))
}

/// Messages whose bodies say their priority and number.
fn of_priorities(queue: &str, priorities: &[u8]) -> Vec<Message> {
    let numbered = priorities.iter().enumerate();
    numbered.map(|(n, p)| durable(queue, format!("{p}.{n}")).priority(*p)).collect()
}

#[test]
fn the_highest_goes_first_and_equals_in_order() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", by_priority("q", 10));
    rig.publish("anna", of_priorities("q", &[0, 5, 5, 9, 0, 9]));
    rig.publish("anna", [transient("q", "7 in memory").priority(7)]);
    rig.run();
    assert_eq!(rig.drain("q"), ["9.3", "9.5", "7 in memory", "5.1", "5.2", "0.0", "0.4"]);
}

#[test]
fn priorities_above_the_maximum_count_as_the_maximum() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", by_priority("q", 3));
    rig.publish("anna", of_priorities("q", &[2, 3, 200, 3]));
    rig.run();
    assert_eq!(rig.drain("q"), ["3.1", "200.2", "3.3", "2.0"]);
}

#[test]
fn a_queue_without_priorities_looks_at_none() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish("anna", of_priorities("q", &[0, 5, 9]));
    rig.run();
    assert_eq!(rig.drain("q"), ["0.0", "5.1", "9.2"]);
}

#[test]
fn what_comes_back_goes_before_the_later_ones_of_its_priority() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", by_priority("q", 10));
    rig.publish("anna", of_priorities("q", &[1, 1, 1, 4]));
    rig.attach("anna", prefetching(1, "q", 3));
    rig.run();
    let got = rig.got("anna");
    assert_eq!(bodies(&got), ["4.3", "1.0", "1.1"]);
    rig.detach("anna", 1);
    rig.settle("anna", Outcome::Requeue, &got);
    rig.publish("anna", of_priorities("q", &[4]));
    rig.run();
    assert_eq!(rig.drain("q"), ["4.3", "4.0", "1.0", "1.1", "1.2"]);
}

#[test]
fn priorities_outlast_a_restart() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", by_priority("q", 255));
    rig.publish("anna", of_priorities("q", &[0, 255, 128]));
    rig.run();
    rig.crash();
    assert_eq!(rig.drain("q"), ["255.1", "128.2", "0.0"]);
}

#[test]
fn each_priority_expires_from_a_front_of_its_own() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", by_priority("q", 9));
    rig.publish(
        "anna",
        [
            durable("q", "high and lasting").priority(9),
            durable("q", "low and short").ttl_ms(10),
            durable("q", "middling and short").priority(4).ttl_ms(20),
        ],
    );
    rig.run();
    assert_eq!(rig.timeout_ms(), Some(10));
    rig.advance_ms(10);
    rig.run();
    assert_eq!(rig.counts("q"), (2, 0));
    rig.advance_ms(10);
    rig.run();
    assert_eq!(rig.drain("q"), ["high and lasting"]);
    assert_eq!(rig.dispatcher.counters().expired, 2);
}

#[test]
fn a_full_queue_drops_its_head_which_is_the_highest() {
    let mut rig = Rig::new();
    rig.open("anna");
    let mut def = by_priority("q", 9);
    def.options.length_max = Some(2);
    rig.declare("anna", def);
    rig.publish("anna", of_priorities("q", &[1, 9, 1]));
    rig.run();
    assert_eq!(rig.drain("q"), ["1.0", "1.2"]);
}

#[test]
fn a_purge_takes_every_priority() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", by_priority("q", 9));
    rig.publish("anna", of_priorities("q", &[1, 9, 0]));
    rig.run();
    rig.heard("anna");
    let token = rig.purge("anna", "q");
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {token}: 3 messages")]);
    assert_eq!((rig.counts("q"), rig.status("q").ready_bytes), ((0, 0), 0));
}
