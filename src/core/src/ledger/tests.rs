//! Entries of several leaders in one log: which of them count, and that a checkpoint goes on where
//! the log was.

use std::sync::Arc;

use isthmus_model::{Lifetime, QueueDef, QueueId, SharedOptions, Table, Time};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::testing::{batch, cases};
use crate::{Placement, codec};

fn at(term: u64, number: u64) -> Place {
    Place { term, number }
}

/// The entry that begins a term.
fn begins(term: u64) -> Entry {
    Entry { time: Time(term), facts: vec![Fact::Term(term)] }
}

fn declare(term: u64, id: u64) -> Entry {
    let def = QueueDef {
        name: format!("q{id}").into(),
        lifetime: Lifetime::Durable,
        auto_delete: false,
        options: SharedOptions::default(),
        arguments: Table(Vec::new()),
    };
    let queue = Fact::DeclareQueue { vhost: "/".into(), id: QueueId(id), def: def.into() };
    Entry { time: Time(term), facts: vec![Fact::DeclareVhost("/".into()), queue] }
}

/// One message for the queue that `declare` has declared, with this sequence.
fn enqueue(term: u64, id: u64, sequence: Sequence) -> Entry {
    let placement = Placement { queue: QueueId(id), first: sequence, record: 0, len: 1 };
    let placements = vec![placement];
    let fact = Fact::Enqueue { batch: batch(1, 8), placements, annotations: None };
    Entry { time: Time(term), facts: vec![fact] }
}

/// All that a ledger holds, as a checkpoint that needs no log says it.
fn state(ledger: &Ledger) -> Vec<Entry> {
    ledger.entries_without_log(1 << 20).collect()
}

/// The ledger that the checkpoint of another one makes, by way of bytes.
fn from_checkpoint(ledger: &Ledger) -> Ledger {
    let mut read = Ledger::new();
    for entry in ledger.entries_without_log(200) {
        let mut payload = Vec::new();
        codec::encode(&entry, &mut payload);
        read.apply(&codec::decode(&payload.into()).expect("what was encoded"));
    }
    read.restored().expect("it refers to nothing outside");
    read
}

/// In term 2, whose latest entry is number 2: a queue with one message.
fn second_term() -> Ledger {
    let mut ledger = Ledger::new();
    assert!(ledger.apply_placed(1, at(1, 0), &begins(1)));
    assert!(ledger.apply_placed(2, at(2, 0), &begins(2)));
    assert!(ledger.apply_placed(3, at(2, 1), &declare(2, 1)));
    assert!(ledger.apply_placed(4, at(2, 2), &enqueue(2, 1, 1)));
    ledger
}

#[test]
fn what_does_not_follow_on_the_entry_before_is_void() {
    let mut ledger = second_term();
    let before = state(&ledger);
    let void = [
        ("a deposed leader's next", at(1, 1)),
        ("the same again", at(2, 2)),
        ("one before", at(2, 1)),
        ("one behind a gap", at(2, 4)),
        ("one of a term that has not begun", at(3, 3)),
        ("the first of a term that has not begun", at(3, 1)),
    ];
    for (index, (what, place)) in (5..).zip(void) {
        assert!(!ledger.admits(place), "{what}");
        assert!(!ledger.apply_placed(index, place, &enqueue(9, 1, 2)), "{what}");
        assert_eq!(state(&ledger), before, "{what} has changed something");
    }
    // What is void takes no number: the next one of the term still follows.
    assert!(ledger.apply_placed(20, at(2, 3), &enqueue(2, 1, 2)));
    assert_eq!(ledger.queue(QueueId(1)).map(|queue| queue.runs.len()), Some(2));
}

#[test]
fn a_term_begins_once_and_never_below_one_that_has() {
    let mut ledger = second_term();
    for term in [1, 2] {
        assert!(!ledger.apply_placed(5, at(term, 0), &begins(term)), "{term}");
    }
    assert_eq!((ledger.term(), ledger.time()), (2, Time(2)));
    // Terms in between may be missing: their leaders proposed nothing that came so far.
    assert!(ledger.apply_placed(6, at(7, 0), &begins(7)));
    assert_eq!(ledger.term(), 7);
    assert!(!ledger.admits(at(2, 3)), "the term before has ended");
    assert!(!ledger.admits(at(7, 0)));
    assert!(ledger.admits(at(7, 1)));
    let queue = ledger.queue(QueueId(1)).expect("it was declared");
    assert_eq!(queue.redelivered_below, queue.next, "what is unsettled may have been delivered");
}

#[test]
#[should_panic(expected = "an entry of another term than its place says")]
fn a_first_entry_that_begins_another_term_ends_the_process() {
    second_term().apply_placed(5, at(3, 0), &begins(4));
}

#[test]
fn a_checkpoint_keeps_the_term_the_number_and_the_members() {
    let mut ledger = second_term();
    let members = Arc::new(Members { index: 5, term: 2, members: [1, 2, 3].as_slice().into() });
    let facts = vec![Fact::Members(Arc::clone(&members))];
    // Who takes part stands between the entries of leaders, and is in no one's place.
    ledger.apply_at(5, &Entry { time: Time(2), facts });
    let read = from_checkpoint(&ledger);
    assert_eq!(read.term(), 2);
    assert_eq!(read.members(), Some(&members));
    for place in [at(1, 1), at(2, 2), at(2, 3), at(2, 4), at(2, 0), at(3, 0), at(3, 1)] {
        assert_eq!(read.admits(place), ledger.admits(place), "{place:?}");
    }
    assert!(read.admits(at(2, 3)));
    assert_eq!(state(&read), state(&ledger));
    // Also where the term has nothing but its first entry, and where nothing has begun.
    let mut begun = Ledger::new();
    begun.apply_placed(1, at(4, 0), &begins(4));
    let read = from_checkpoint(&begun);
    assert!(read.admits(at(4, 1)) && !read.admits(at(4, 0)) && !read.admits(at(4, 2)));
    let read = from_checkpoint(&Ledger::new());
    assert!(read.admits(at(1, 0)) && !read.admits(at(1, 1)) && read.members().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(128)))]

    /// Several leaders, each of which goes on from what it proposed last, whatever became of it:
    /// what counts is what each of them decided on top of what counts.
    #[test]
    fn every_replica_has_what_counts_and_nothing_else(
        steps in vec((0usize..3, 0u8..8), 1..60), cut in any::<prop::sample::Index>(),
    ) {
        // Of each leader: its term, the number of its next entry, the next queue that it declares.
        let mut leaders = [(0u64, 0u64); 3];
        let (mut newest, mut log) = (0, Vec::new());
        for (index, (leader, what)) in (1u64..).zip(steps) {
            let (term, next) = &mut leaders[leader];
            if what == 0 || *next == 0 {
                newest += 1;
                (*term, *next) = (newest, 0);
            }
            let place = at(*term, *next);
            *next += 1;
            // Some of what it proposes never gets into the log.
            if what == 1 {
                continue;
            }
            let mut entry = if place.number == 0 { begins(place.term) } else { declare(0, index) };
            entry.time = Time(index);
            log.push((index, place, entry));
        }
        let mut ledger = Ledger::new();
        let mut counted: Vec<(Place, u64)> = Vec::new();
        let cut = cut.index(log.len() + 1);
        for (done, (index, place, entry)) in log.iter().enumerate() {
            if done == cut {
                ledger = from_checkpoint(&ledger);
            }
            if ledger.apply_placed(*index, *place, entry) {
                counted.push((*place, *index));
            }
        }
        for pair in counted.windows(2) {
            let [(before, _), (after, _)] = pair else { unreachable!() };
            let follows = after.term == before.term && after.number == before.number + 1;
            let begins = after.term > before.term && after.number == 0;
            prop_assert!(follows || begins, "{:?} after {:?}", after, before);
        }
        let declared = counted.iter().filter(|(place, _)| place.number > 0).map(|(_, id)| *id);
        let declared: Vec<u64> = declared.collect();
        let there = |index: &u64| ledger.queue(QueueId(*index)).is_some();
        let all: Vec<u64> = log.iter().map(|(index, ..)| *index).filter(there).collect();
        prop_assert_eq!(all, declared);
    }
}

#[test]
#[should_panic(expected = "queue id 1 is given out a second time")]
fn a_queue_id_is_given_out_once() {
    let mut ledger = Ledger::new();
    ledger.apply(&begins(1));
    ledger.apply(&declare(1, 1));
    let mut again = declare(1, 2);
    for fact in &mut again.facts {
        if let Fact::DeclareQueue { id, .. } = fact {
            *id = QueueId(1);
        }
    }
    ledger.apply(&again);
}
