//! Consumers that choose: with a filter, or to browse.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isthmus_model::{Attach, AttachMode, Candidate, Credit, Filter, Outcome, SharedFilter, Time};

use super::rig::*;

/// Wants bodies that begin with a letter, and counts how many it was asked about.
#[derive(Debug)]
struct Beginning {
    letter: u8,
    asked: AtomicU64,
}

impl Beginning {
    fn of(letter: char) -> Arc<Beginning> {
        Arc::new(Beginning { letter: letter as u8, asked: AtomicU64::new(0) })
    }

    fn asked(&self) -> u64 {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

impl Filter for Beginning {
    fn wants(&self, candidate: &Candidate<'_>) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        candidate.batch.body(candidate.record).first() == Some(&self.letter)
    }
}

fn wanting(filter: &Arc<Beginning>, attach: Attach) -> Attach {
    let filter: Arc<dyn Filter> = Arc::<Beginning>::clone(filter);
    Attach { filter: Some(SharedFilter(filter)), ..attach }
}

fn browsing(consumer: u64, queue: &str) -> Attach {
    let credit = Credit::Explicit { credit: u32::MAX, drain: true, deadline: Time(0) };
    Attach { mode: AttachMode::Browse, credit, look: true, ..consuming(consumer, queue) }
}

/// What a session was told beside answers.
fn said(rig: &mut Rig, name: &str) -> Vec<String> {
    rig.heard(name).into_iter().filter(|text| !text.starts_with("done ")).collect()
}

fn named(queue: &str, names: &str) -> Vec<Message> {
    names.split(' ').map(|name| durable(queue, name)).collect()
}

fn with_queue(messages: &str) -> Rig {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("ben");
    rig.declare("anna", queue("q"));
    rig.publish("anna", named("q", messages));
    rig.run();
    rig.heard("anna");
    rig
}

#[test]
fn each_takes_what_it_wants_and_the_rest_stays_in_order() {
    let mut rig = with_queue("x1 a1 x2 b1 a2 x3");
    rig.attach("anna", wanting(&Beginning::of('a'), consuming(1, "q")));
    rig.attach("anna", wanting(&Beginning::of('b'), consuming(2, "q")));
    rig.run();
    assert_eq!(said(&mut rig, "anna"), ["consumer 1: a1", "consumer 1: a2", "consumer 2: b1"]);
    assert_eq!(rig.counts("q"), (3, 3));
    rig.publish("ben", named("q", "b2 x4 a3"));
    rig.run();
    assert_eq!(rig.counts("q"), (4, 5));
    rig.attach("ben", consuming(1, "q"));
    rig.run();
    let rest = rig.got("ben");
    assert_eq!(bodies(&rest), ["x1", "x2", "x3", "x4"]);
    assert!(rest.iter().all(|got| !got.redelivered), "looked at is not delivered");
}

#[test]
fn a_message_is_looked_at_once_and_again_when_it_comes_back() {
    let mut rig = with_queue("x");
    rig.publish("anna", (0..3000).map(|n| durable("q", format!("x{n}"))));
    let filter = Beginning::of('a');
    rig.attach("anna", wanting(&filter, consuming(1, "q")));
    rig.run();
    while rig.timeout_ms() == Some(0) {
        rig.run();
    }
    assert_eq!(filter.asked(), 3001);
    // Whatever comes and goes now, what was looked at is left alone.
    rig.publish("anna", named("q", "a1"));
    rig.run();
    assert_eq!(filter.asked(), 1);
    rig.attach("ben", prefetching(1, "q", 2));
    rig.run();
    let got = rig.got("ben");
    assert_eq!(bodies(&got), ["x", "x0"]);
    rig.detach("ben", 1);
    rig.settle("ben", Outcome::Requeue, &got[..1]);
    rig.run();
    assert_eq!(filter.asked(), 1, "what came back is looked at anew");
    assert_eq!(rig.status("q").ready, 3000);
}

#[test]
fn a_deep_queue_is_looked_through_in_turns_that_let_others_pass() {
    let mut rig = with_queue("x");
    rig.declare("anna", queue("other"));
    rig.publish("anna", (0..2000).map(|n| durable("q", format!("x{n}"))));
    rig.publish("anna", named("q", "a"));
    rig.run();
    let filter = Beginning::of('a');
    rig.attach("anna", wanting(&filter, consuming(1, "q")));
    rig.attach("ben", consuming(1, "other"));
    rig.dispatch();
    assert_eq!(filter.asked(), 500);
    assert_eq!(rig.timeout_ms(), Some(0), "it goes on at once");
    rig.publish("ben", [transient("other", "quick")]);
    rig.dispatch();
    assert_eq!(said(&mut rig, "ben"), ["consumer 1: quick"]);
    assert_eq!(filter.asked(), 500);
    rig.dispatch();
    rig.dispatch();
    assert_eq!(said(&mut rig, "anna"), Vec::<String>::new());
    rig.dispatch();
    assert_eq!(said(&mut rig, "anna"), ["consumer 1: a"]);
}

#[test]
fn what_nobody_wants_is_read_page_by_page_and_forgotten() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish("anna", (0..4000).map(|n| durable("q", format!("x{n:0100}"))));
    rig.publish("anna", named("q", "a"));
    rig.run();
    rig.page_out(4 << 10, 0, |_, _| false);
    rig.limit_pages(64 << 10);
    rig.open("anna");
    let filter = Beginning::of('a');
    rig.attach("anna", wanting(&filter, consuming(1, "q")));
    let mut most = 0;
    while rig.status("q").unacked == 0 {
        rig.run();
        most = most.max(rig.dispatcher.page_bytes());
    }
    assert_eq!(
        (said(&mut rig, "anna"), filter.asked()),
        (vec!["consumer 1: a again".into()], 4001)
    );
    assert!(most <= 64 << 10, "{most} bytes of pages");
}

#[test]
fn what_expires_before_it_is_come_to_is_not_delivered() {
    let mut rig = with_queue("x1");
    let expiring = |body: &str, ms| durable("q", body).ttl_ms(ms);
    rig.publish("anna", [expiring("a1", 10), expiring("a2", 100), expiring("x2", 10)]);
    rig.run();
    rig.advance_ms(50);
    rig.attach("anna", wanting(&Beginning::of('a'), consuming(1, "q")));
    rig.run();
    assert_eq!(said(&mut rig, "anna"), ["consumer 1: a2"]);
    assert_eq!(rig.counts("q"), (1, 1));
    assert_eq!(rig.dispatcher.counters().expired, 2);
}

#[test]
fn credit_is_given_up_when_everything_was_looked_at() {
    let mut rig = with_queue("x1 a1 x2");
    let credit = Credit::Explicit { credit: 5, drain: true, deadline: Time(0) };
    let drains = Attach { credit, ..consuming(1, "q") };
    rig.attach("anna", wanting(&Beginning::of('a'), drains));
    rig.run();
    assert_eq!(
        said(&mut rig, "anna"),
        ["consumer 1: a1", "consumer 1: credit 0, drained, 2 ready"]
    );
}

#[test]
fn a_lease_that_ends_brings_a_message_to_whoever_wants_it() {
    let mut rig = with_queue("x1 a1");
    let leased = Attach { lease_ms: Some(10), ..prefetching(1, "q", 1) };
    rig.attach("anna", wanting(&Beginning::of('a'), leased));
    rig.run();
    rig.attach("ben", wanting(&Beginning::of('a'), consuming(1, "q")));
    rig.run();
    assert_eq!(said(&mut rig, "anna"), ["consumer 1: a1"]);
    rig.detach("anna", 1);
    rig.advance_ms(20);
    rig.run();
    let got = rig.got("ben");
    assert_eq!((bodies(&got), got[0].redelivered), (vec!["a1".to_owned()], true));
}

#[test]
fn of_one_active_consumer_the_filter_holds_until_the_next_takes_over() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("ben");
    rig.declare("anna", queue_with("q", |o| o.single_active_consumer = true));
    rig.attach("anna", wanting(&Beginning::of('a'), consuming(1, "q")));
    rig.run();
    rig.attach("ben", consuming(1, "q"));
    rig.publish("anna", named("q", "x1 a1 x2"));
    rig.run();
    assert_eq!((rig.got("anna").len(), rig.got("ben").len()), (1, 0));
    rig.close("anna");
    rig.run();
    assert_eq!(bodies(&rig.got("ben")), ["x1", "a1", "x2"]);
}

#[test]
fn who_wants_all_and_who_chooses_take_turns() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("ben");
    rig.declare("anna", queue("q"));
    rig.attach("anna", wanting(&Beginning::of('a'), consuming(1, "q")));
    rig.run();
    rig.attach("ben", consuming(1, "q"));
    rig.publish("anna", named("q", "a1 a2 a3 a4 x1 a5"));
    rig.run();
    let (anna, ben) = (bodies(&rig.got("anna")), bodies(&rig.got("ben")));
    assert_eq!((anna, ben.len()), (vec!["a1".into(), "a3".into(), "a5".to_owned()], 3), "{ben:?}");
}

#[test]
fn browsing_shows_what_is_ready_and_changes_nothing() {
    let mut rig = with_queue("a1 x1 a2");
    rig.attach("ben", prefetching(1, "q", 1));
    rig.run();
    assert_eq!(bodies(&rig.got("ben")), ["a1"]);
    rig.attach("anna", browsing(1, "q"));
    rig.attach("anna", wanting(&Beginning::of('a'), browsing(2, "q")));
    rig.run();
    rig.publish("anna", named("q", "a3"));
    rig.run();
    assert_eq!(
        said(&mut rig, "anna"),
        [
            "consumer 1: x1 a2",
            "consumer 2: a2",
            "consumer 1: credit 0, drained, 2 ready",
            "consumer 2: credit 0, drained, 2 ready"
        ]
    );
    assert_eq!(rig.counts("q"), (3, 1));
    let counted = rig.dispatcher.counters();
    assert_eq!((counted.delivered, counted.redelivered, counted.acknowledged), (1, 0, 0));
    rig.close("ben");
    rig.run();
    rig.open("carl");
    rig.attach("carl", consuming(1, "q"));
    rig.run();
    let seen: Vec<_> = rig.got("carl").iter().map(|g| (g.body.clone(), g.redelivered)).collect();
    let expected = [("a1", true), ("x1", false), ("a2", false), ("a3", false)];
    assert_eq!(seen, expected.map(|(body, redelivered)| (body.to_owned(), redelivered)));
}

#[test]
fn who_browses_is_no_consumer() {
    let mut rig = with_queue("a1");
    rig.attach("ben", Attach { exclusive: true, ..prefetching(1, "q", 0) });
    rig.attach("anna", browsing(1, "q"));
    rig.run();
    assert_eq!(
        said(&mut rig, "anna"),
        ["consumer 1: a1", "consumer 1: credit 0, drained, 1 ready"]
    );
    assert_eq!(rig.status("q").consumers, 1);
}

#[test]
fn a_browser_of_a_deep_queue_holds_what_its_outbox_takes() {
    let mut rig = Rig::with_outbox(1000);
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish("anna", (0..100).map(|n| durable("q", format!("x{n:0100}"))));
    rig.run();
    rig.heard("anna");
    rig.attach("anna", browsing(1, "q"));
    rig.run();
    let first = rig.got("anna").len();
    assert!((1..10).contains(&first), "{first} at once");
    let mut seen = first;
    let id = rig.session("anna");
    while seen < 100 {
        rig.dispatcher.written(id, u64::MAX);
        rig.run();
        let next = rig.got("anna").len();
        assert!((1..10).contains(&next), "{next} at once");
        seen += next;
    }
    assert_eq!(seen, 100);
}
