//! Lasting sessions: who has them open, what they hold and note, and what becomes of their wills.

use isthmus_model::{
    ExchangeKind, Lifetime, NEVER_EXPIRES, NOTE_KEY_BYTES_MAX, NOTE_VALUE_BYTES_MAX, Note,
    OpenSession, QueueDef, Token, TopologyChange, TransactionId, Will,
};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::rig::*;
use crate::Fact;
use crate::clients::{Client, ClientChange, ClientKey, Clients, NOTES_MAX, Presence};
use crate::dispatcher::Output;
use crate::testing::cases;

const HOUR_MS: u64 = 3_600_000;

/// Asks for the session of a client, kept for an hour.
fn lasting(client: &str) -> OpenSession {
    OpenSession {
        token: Token::SILENT,
        client: client.into(),
        clean: false,
        expiry_ms: HOUR_MS,
        will: None,
    }
}

/// As [`lasting`], but anew.
fn clean(client: &str) -> OpenSession {
    OpenSession { clean: true, ..lasting(client) }
}

/// As [`lasting`], but for no longer than the connection.
fn passing(client: &str) -> OpenSession {
    OpenSession { expiry_ms: 0, ..lasting(client) }
}

/// With a will for the queue `wills`.
fn with_will(open: OpenSession, body: &str, delay_ms: u64) -> OpenSession {
    let batch = batch([durable("wills", body)]);
    OpenSession { will: Some(Will { batch, delay_ms }), ..open }
}

fn own_queue(name: &str) -> TopologyChange {
    TopologyChange::DeclareOwnQueue(queue(name))
}

fn note(key: &str, value: &str) -> Note {
    Note { key: key.as_bytes().into(), value: Some(value.as_bytes().into()) }
}

fn forget(key: &str) -> Note {
    Note { key: key.as_bytes().into(), value: None }
}

impl Rig {
    fn open_client(&mut self, name: &str, open: OpenSession) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.open_client(&self.ledger, id, OpenSession { token, ..open });
        token
    }

    fn goodbye(&mut self, name: &str, expiry_ms: Option<u64>, publish_will: bool) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.close_client(&self.ledger, id, token, expiry_ms, publish_will);
        token
    }

    fn note(&mut self, name: &str, tx: Option<u32>, notes: &[Note]) -> Token {
        let (id, token) = (self.session(name), self.token());
        let tx = tx.map(TransactionId);
        self.dispatcher.note(&self.ledger, id, token, notes.to_vec(), tx);
        token
    }

    /// A connection that opens the session of a client, and all that is to do; returns the answer.
    fn connect(&mut self, name: &str, open: OpenSession) -> String {
        self.open(name);
        self.open_client(name, open);
        self.run();
        let answer = self.heard(name);
        assert_eq!(answer.len(), 1, "{answer:?}");
        answer.into_iter().next().unwrap()
    }

    fn disconnect(&mut self, name: &str) {
        self.close(name);
        self.run();
    }

    /// Goes on, and does what is due then.
    fn after_ms(&mut self, ms: u64) {
        self.advance_ms(ms);
        self.run();
    }

    /// What has come into the queue `wills` since it was last looked at.
    fn wills(&mut self) -> String {
        self.drain("wills").join(" ")
    }

    fn hold(&mut self, name: &str, queue: &str) -> Token {
        self.topology(name, TopologyChange::HoldQueue { name: queue.into() })
    }

    fn release(&mut self, name: &str, queue: &str) -> Token {
        self.topology(name, TopologyChange::ReleaseQueue { name: queue.into() })
    }

    fn exists(&self, queue: &str) -> bool {
        self.find_status(queue).is_some()
    }

    /// What is in the ledger of a client, in words.
    fn recorded(&self, client: &str) -> Option<String> {
        let key = ClientKey { vhost: VHOST.into(), client: client.into() };
        let client = self.ledger.clients().get(&key)?;
        let will = client.will.as_ref().map(|will| will.delay_ms);
        let notes = client.notes.len();
        let held = client.held.len();
        Some(format!("{} {} {will:?} {notes} notes {held} held", client.user, client.expiry_ms))
    }
}

/// A rig with the queue that wills go to, and somebody who is called `anna`.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("wills"));
    rig.run();
    rig.heard("anna");
    rig
}

#[test]
fn a_session_goes_on_where_it_was_left() {
    let mut rig = rig();
    assert_eq!(rig.connect("a", lasting("c")), "session is new:");
    let noted = rig.note("a", None, &[note("k2", "v"), note("k1", "w"), note("k3", "x")]);
    rig.dispatch();
    assert!(rig.heard("a").is_empty(), "answered when it is committed");
    rig.note("a", None, &[forget("k3"), note("k2", "u")]);
    rig.run();
    assert_eq!(rig.heard("a")[0], done(noted));
    rig.disconnect("a");
    rig.after_ms(HOUR_MS - 1);
    assert_eq!(rig.connect("b", lasting("c")), "session goes on: k1=w k2=u");
    rig.disconnect("b");
    rig.crash();
    assert_eq!(rig.connect("c", lasting("c")), "session goes on: k1=w k2=u");
    rig.disconnect("c");
    rig.after_ms(HOUR_MS);
    assert_eq!(rig.recorded("c"), None);
    assert_eq!(rig.connect("d", lasting("c")), "session is new:");
}

#[test]
fn a_session_that_ends_with_its_connection_is_not_in_the_log() {
    let mut rig = rig();
    let before = rig.entries();
    assert_eq!(rig.connect("a", passing("c")), "session is new:");
    let noted = rig.note("a", None, &[note("k", "v")]);
    rig.dispatch();
    assert_eq!(rig.heard("a"), [done(noted)]);
    rig.disconnect("a");
    assert_eq!(rig.connect("b", passing("c")), "session is new:");
    assert_eq!(rig.entries(), before);
    let closed = rig.goodbye("b", None, false);
    rig.dispatch();
    assert_eq!(rig.heard("b"), [done(closed)]);
    assert_eq!(rig.entries(), before);
}

#[test]
fn one_that_is_resumed_for_as_long_as_the_connection_lasts_ends_with_it() {
    let mut rig = rig();
    rig.connect("a", lasting("c"));
    rig.note("a", None, &[note("k", "v")]);
    rig.disconnect("a");
    assert_eq!(rig.connect("b", passing("c")), "session goes on: k=v");
    rig.disconnect("b");
    assert_eq!(rig.connect("c", lasting("c")), "session is new:");
}

#[test]
fn another_users_session_is_refused() {
    let mut rig = rig();
    for open in [lasting("kept"), passing("passing")] {
        let client = open.client.clone();
        rig.connect("a", open);
        let bert = rig.open("bert");
        rig.dispatcher.open_session(bert, &VHOST.into(), &"bert".into());
        let refused = rig.open_client("bert", clean(&client));
        rig.run();
        assert_eq!(rig.heard("bert"), [format!("refused {refused}: not allowed")]);
        assert!(rig.heard("a").is_empty(), "whoever has it open is left alone");
        rig.disconnect("a");
    }
    let bert = rig.open("bert");
    rig.dispatcher.open_session(bert, &VHOST.into(), &"bert".into());
    let refused = rig.open_client("bert", lasting("kept"));
    let open = rig.open_client("bert", lasting("passing"));
    rig.run();
    let heard = rig.heard("bert");
    assert_eq!(heard, [format!("refused {refused}: not allowed"), "session is new:".to_owned()]);
    assert!(open > refused);
}

#[test]
fn a_session_is_opened_once_in_a_connection_and_nothing_is_done_without() {
    let mut rig = rig();
    rig.open("a");
    let refused = [
        rig.goodbye("a", None, false),
        rig.note("a", None, &[note("k", "v")]),
        rig.hold("a", "wills"),
        rig.release("a", "wills"),
    ];
    rig.run();
    let expected = refused.map(|token| format!("refused {token}: precondition"));
    assert_eq!(rig.heard("a"), expected);
    rig.open_client("a", lasting("c"));
    let again = rig.open_client("a", lasting("d"));
    rig.run();
    assert_eq!(rig.heard("a")[1..], [format!("refused {again}: invalid")]);
}

#[test]
fn who_opens_an_open_session_takes_it_over_with_all_that_was_done_in_it() {
    let mut rig = rig();
    rig.connect("a", lasting("c"));
    rig.topology("a", own_queue("own"));
    rig.attach("a", prefetching(1, "own", 1));
    rig.publish("anna", numbered("own", 2));
    rig.run();
    assert_eq!(bodies(&rig.got("a")), ["1"]);
    rig.note("a", None, &[note("k", "v")]);
    rig.open("b");
    rig.open_client("b", lasting("c"));
    // Commands that come behind the request are behind it.
    rig.attach("b", consuming(1, "own"));
    rig.note("b", None, &[note("l", "w")]);
    rig.dispatch();
    assert_eq!(rig.heard("a"), ["taken over"]);
    assert!(rig.heard("b").is_empty(), "nothing of it is committed");
    rig.run();
    let heard = rig.heard("b");
    assert_eq!(heard[0], "session goes on: k=v");
    for message in ["consumer 1: 1 again", "consumer 1: 2"] {
        assert!(heard.contains(&message.to_owned()), "{heard:?}");
    }
    // The connection hears of it and ends, which takes nothing from the other.
    rig.disconnect("a");
    rig.note("b", None, &[note("m", "x")]);
    rig.disconnect("b");
    assert_eq!(rig.connect("d", lasting("c")), "session goes on: k=v l=w m=x");
}

#[test]
fn who_begins_anew_finds_nothing() {
    let mut rig = rig();
    rig.connect("a", lasting("c"));
    rig.topology("a", own_queue("own"));
    rig.declare("anna", queue("shared"));
    rig.hold("a", "shared");
    rig.note("a", None, &[note("k", "v")]);
    rig.connect("other", lasting("d"));
    rig.hold("other", "shared");
    rig.disconnect("a");
    assert!(rig.exists("own") && rig.exists("shared"));
    assert_eq!(rig.connect("b", clean("c")), "session is new:");
    assert!(!rig.exists("own") && rig.exists("shared"));
    assert_eq!(rig.recorded("c").unwrap(), "guest 3600000 None 0 notes 0 held");
    // The other's, which is open, too.
    rig.open("e");
    rig.open_client("e", clean("d"));
    rig.run();
    assert_eq!(rig.heard("other").last().unwrap(), "taken over");
    assert!(!rig.exists("shared"));
}

#[test]
fn a_will_is_published_when_the_connection_ends_without_a_goodbye() {
    let mut rig = rig();
    rig.connect("a", with_will(lasting("c"), "lost", 0));
    rig.disconnect("a");
    assert_eq!(rig.wills(), "lost");
    assert_eq!(rig.connect("a", with_will(lasting("c"), "well", 0)), "session goes on:");
    rig.goodbye("a", None, false);
    rig.disconnect("a");
    assert_eq!(rig.wills(), "");
    rig.connect("a", with_will(passing("c"), "with the last word", 0));
    rig.goodbye("a", None, true);
    rig.disconnect("a");
    assert_eq!(rig.wills(), "with the last word");
    assert_eq!(rig.recorded("c"), None);
    rig.connect("a", with_will(passing("p"), "passing", 60_000));
    assert_eq!(rig.recorded("p").unwrap(), "guest 0 Some(60000) 0 notes 0 held");
    rig.disconnect("a");
    assert_eq!(rig.wills(), "passing", "its session is over");
    rig.crash();
    rig.after_ms(2 * HOUR_MS);
    assert_eq!(rig.wills(), "", "it was published once");
}

#[test]
fn a_will_waits_for_its_client_to_come_back() {
    let mut rig = rig();
    rig.connect("a", with_will(lasting("c"), "late", 10_000));
    rig.disconnect("a");
    rig.after_ms(9_999);
    assert_eq!(rig.wills(), "");
    assert_eq!(rig.connect("a", with_will(lasting("c"), "later", 10_000)), "session goes on:");
    rig.after_ms(20_000);
    assert_eq!(rig.wills(), "", "the client was back in time");
    rig.disconnect("a");
    assert_eq!(rig.timeout_ms(), Some(10_000));
    rig.after_ms(10_000);
    assert_eq!(rig.wills(), "later");
    assert_eq!(rig.timeout_ms(), Some(HOUR_MS - 10_000));
    // It is over with its session, whatever its delay.
    rig.connect("b", with_will(OpenSession { expiry_ms: 50, ..lasting("d") }, "end", HOUR_MS));
    rig.disconnect("b");
    rig.after_ms(49);
    assert_eq!(rig.wills(), "");
    rig.after_ms(1);
    assert_eq!(rig.wills(), "end");
    // And so if the client comes back and begins anew.
    rig.connect("b", with_will(lasting("d"), "anew", HOUR_MS));
    rig.disconnect("b");
    rig.connect("b", clean("d"));
    assert_eq!(rig.wills(), "anew");
}

#[test]
fn a_will_of_a_session_that_is_taken_over_is_published_unless_it_may_wait() {
    for (delay_ms, next, published) in [
        (0, lasting("c"), "will"),
        (1000, lasting("c"), ""),
        (0, clean("c"), "will"),
        (1000, clean("c"), "will"),
    ] {
        let mut rig = rig();
        rig.connect("a", with_will(lasting("c"), "will", delay_ms));
        let case = format!("{delay_ms} {}", next.clean);
        rig.connect("b", next);
        rig.after_ms(2000);
        assert_eq!(rig.wills(), published, "{case}");
        rig.disconnect("a");
        assert_eq!(rig.wills(), "", "{case}");
    }
}

#[test]
fn a_will_goes_where_a_publish_would_in_one_entry_with_its_end() {
    let mut rig = rig();
    rig.declare_exchange("anna", exchange("x", ExchangeKind::Topic));
    rig.bind("anna", "x", "a.*", "wills");
    rig.declare("anna", volatile_queue("v"));
    rig.bind("anna", "x", "#", "v");
    rig.run();
    let will = batch([durable("a.b", "will").through("x")]);
    let open = OpenSession { will: Some(Will { batch: will, delay_ms: 0 }), ..passing("c") };
    rig.connect("a", open);
    rig.close("a");
    rig.dispatch();
    assert_eq!(rig.counts("v"), (0, 0), "it may come again from the next leader");
    rig.propose();
    rig.commit();
    rig.dispatch();
    assert_eq!((rig.wills(), rig.drain("v").join(" ")), ("will".to_owned(), "will".to_owned()));
    let facts = rig.facts();
    let at = facts
        .iter()
        .position(|fact| matches!(fact, Fact::Client { change: ClientChange::Ended, .. }));
    assert!(matches!(facts[at.unwrap() - 1], Fact::Enqueue { .. }));
}

#[test]
fn connections_lost_with_their_leader_have_some_time_to_come_back() {
    let mut rig = rig();
    rig.connect("a", with_will(lasting("a"), "a", 0));
    rig.connect("b", with_will(passing("b"), "b", 0));
    rig.connect("c", with_will(lasting("c"), "c", 60_000));
    rig.connect("d", with_will(passing("d"), "d", 0));
    rig.crash();
    rig.run();
    rig.after_ms(4_999);
    assert_eq!(rig.wills(), "");
    assert_eq!(rig.connect("a", lasting("a")), "session goes on:");
    assert_eq!(rig.connect("d", clean("d")), "session is new:");
    rig.after_ms(1);
    assert_eq!(rig.wills(), "b");
    assert_eq!(rig.recorded("b"), None);
    rig.after_ms(54_999);
    assert_eq!(rig.wills(), "");
    rig.after_ms(1);
    assert_eq!(rig.wills(), "c");
    assert_eq!(rig.recorded("c").unwrap(), "guest 3600000 None 0 notes 0 held");
    rig.crash();
    rig.run();
    rig.after_ms(HOUR_MS - 60_000);
    assert_eq!(rig.recorded("c"), None, "a leader more does not prolong it");
    assert!(rig.recorded("a").is_some());
}

#[test]
fn another_expiry_holds_from_the_goodbye_on() {
    let mut rig = rig();
    rig.connect("a", lasting("c"));
    rig.goodbye("a", Some(1000), false);
    rig.disconnect("a");
    rig.after_ms(1000);
    assert_eq!(rig.recorded("c"), None);
    rig.connect("a", lasting("c"));
    rig.goodbye("a", Some(NEVER_EXPIRES), false);
    rig.disconnect("a");
    assert_eq!(rig.timeout_ms(), None);
    rig.after_ms(100 * 365 * 24 * HOUR_MS);
    assert!(rig.recorded("c").is_some());
    rig.connect("a", lasting("c"));
    rig.goodbye("a", Some(0), false);
    rig.run();
    assert_eq!(rig.recorded("c"), None);
    rig.disconnect("a");
    rig.connect("a", passing("c"));
    let refused = rig.goodbye("a", Some(1000), false);
    rig.run();
    assert_eq!(rig.heard("a"), [format!("refused {refused}: invalid")]);
}

#[test]
fn a_queue_lasts_as_long_as_a_session_holds_it() {
    let mut rig = rig();
    rig.connect("a", lasting("a"));
    rig.connect("b", lasting("b"));
    let def = QueueDef { auto_delete: true, ..queue_with("q", |o| o.expires_ms = Some(100)) };
    rig.topology("a", TopologyChange::DeclareOwnQueue(def.clone()));
    rig.topology("b", TopologyChange::DeclareOwnQueue(def));
    rig.attach("a", consuming(1, "q"));
    rig.run();
    rig.disconnect("a");
    rig.after_ms(1000);
    assert!(rig.exists("q"), "it is in use, and neither its last consumer nor time ends it");
    rig.crash();
    rig.run();
    rig.after_ms(1000);
    rig.connect("a", lasting("a"));
    rig.connect("b", lasting("b"));
    rig.release("a", "q");
    rig.run();
    assert!(rig.exists("q"));
    rig.release("b", "q");
    rig.run();
    assert!(!rig.exists("q"));
    // Once more, and neither what is not there nor what is not held.
    let released = [rig.release("b", "q"), rig.release("b", "wills")];
    rig.run();
    assert_eq!(rig.heard("b")[1..], released.map(done));
    assert!(rig.exists("wills"));
}

#[test]
fn a_queue_that_somebody_consumes_outlives_who_held_it() {
    let mut rig = rig();
    rig.declare("anna", queue("q"));
    rig.attach("anna", consuming(1, "q"));
    rig.connect("a", OpenSession { expiry_ms: 100, ..lasting("a") });
    rig.hold("a", "q");
    rig.disconnect("a");
    rig.after_ms(100);
    assert!(rig.recorded("a").is_none() && rig.exists("q"));
    rig.detach("anna", 1);
    rig.run();
    assert!(!rig.exists("q"));
}

#[test]
fn a_session_that_ends_with_its_connection_holds_nothing() {
    let mut rig = rig();
    rig.connect("a", with_will(passing("a"), "will", 0));
    let held = rig.hold("a", "wills");
    rig.topology("a", own_queue("own"));
    rig.run();
    assert!(rig.heard("a").contains(&done(held)));
    assert_eq!(rig.recorded("a").unwrap(), "guest 0 Some(0) 0 notes 0 held");
    rig.disconnect("a");
    assert!(rig.exists("own"));
}

#[test]
fn a_queue_that_ends_is_held_by_nobody() {
    let mut rig = rig();
    let anna = rig.session("anna");
    rig.connect("a", lasting("a"));
    rig.topology("a", own_queue("q"));
    rig.delete("anna", "q");
    rig.declare("anna", volatile_queue("v"));
    rig.declare("anna", QueueDef { lifetime: Lifetime::Exclusive(anna), ..queue("x") });
    rig.run();
    assert_eq!(rig.recorded("a").unwrap(), "guest 3600000 None 0 notes 0 held");
    rig.heard("a");
    let refused = [rig.hold("a", "v"), rig.hold("a", "x"), rig.hold("a", "q")];
    rig.run();
    let kinds = ["precondition", "locked", "not found"];
    let expected =
        refused.iter().zip(kinds).map(|(token, kind)| format!("refused {token}: {kind}"));
    assert_eq!(rig.heard("a"), expected.collect::<Vec<_>>());
    rig.crash();
}

#[test]
fn an_own_queue_is_declared_again_and_holds_once() {
    let mut rig = rig();
    rig.connect("a", lasting("a"));
    let name = "mqtt-subscription-aqos1";
    let first = rig.topology("a", own_queue(name));
    rig.topology("a", own_queue(name));
    let other = QueueDef { auto_delete: true, ..queue(name) };
    let other = TopologyChange::DeclareOwnQueue(other);
    let refused = rig.topology("a", other);
    rig.run();
    let heard = rig.heard("a");
    assert_eq!(heard[0], format!("done {first}: {name} has 0 ready, 0 consumers"));
    assert_eq!(heard[2], format!("refused {refused}: precondition"));
    assert_eq!(rig.recorded("a").unwrap(), "guest 3600000 None 0 notes 1 held");
}

#[test]
fn notes_of_a_transaction_come_with_its_messages_or_not_at_all() {
    let mut rig = rig();
    rig.connect("a", lasting("c"));
    rig.begin("a", 1);
    rig.note("a", Some(1), &[note("k", "v")]);
    rig.publish_in("a", 1, [durable("wills", "m")]);
    rig.run();
    assert_eq!(rig.recorded("c").unwrap(), "guest 3600000 None 0 notes 0 held");
    rig.commit_tx("a", 1);
    rig.run();
    assert_eq!(rig.recorded("c").unwrap(), "guest 3600000 None 1 notes 0 held");
    let facts = rig.facts();
    let [.., Fact::Enqueue { .. }, Fact::Client { .. }] = &facts[..] else {
        panic!("not in one: {facts:?}");
    };
    rig.note("a", Some(1), &[note("l", "w")]);
    rig.rollback("a", 1);
    rig.commit_tx("a", 1);
    rig.run();
    assert_eq!(rig.recorded("c").unwrap(), "guest 3600000 None 1 notes 0 held");
    // What does not reach the log is lost as a whole.
    rig.note("a", Some(1), &[note("l", "w")]);
    rig.publish_in("a", 1, [durable("wills", "n")]);
    rig.commit_tx("a", 1);
    rig.propose();
    rig.crash();
    assert_eq!(rig.wills(), "m");
    assert_eq!(rig.connect("a", lasting("c")), "session goes on: k=v");
}

#[test]
fn notes_have_limits() {
    for open in [lasting("c"), passing("c")] {
        let mut rig = rig();
        rig.connect("a", open);
        let key = |len: usize| Note { key: vec![b'k'; len].into(), value: Some([].into()) };
        let value = |len: usize| Note { key: b"v"[..].into(), value: Some(vec![0; len].into()) };
        let good = rig.note("a", None, &[key(NOTE_KEY_BYTES_MAX), value(NOTE_VALUE_BYTES_MAX)]);
        let refused = [
            rig.note("a", None, &[key(NOTE_KEY_BYTES_MAX + 1)]),
            rig.note("a", None, &[value(NOTE_VALUE_BYTES_MAX + 1)]),
        ];
        rig.run();
        let mut expected = vec![done(good)];
        expected.extend(refused.map(|token| format!("refused {token}: limit")));
        assert_eq!(rig.heard("a"), expected);
        let numbered = |n: usize| note(&n.to_string(), "");
        let all: Vec<Note> = (2..NOTES_MAX).map(numbered).collect();
        let good = rig.note("a", None, &all);
        let refused = rig.note("a", None, &[numbered(0)]);
        let replaced = rig.note("a", None, &[numbered(2), forget("v"), numbered(0)]);
        rig.begin("a", 1);
        rig.note("a", Some(1), &[numbered(1)]);
        rig.publish_in("a", 1, [durable("wills", "m")]);
        rig.heard("a");
        let too_many = rig.commit_tx("a", 1);
        rig.run();
        let heard = rig.heard("a");
        assert!(heard.contains(&format!("refused {refused}: limit")), "{heard:?}");
        assert!(heard.contains(&done(good)) && heard.contains(&done(replaced)), "{heard:?}");
        assert!(heard.contains(&format!("refused {too_many}: limit")), "{heard:?}");
        assert_eq!(rig.wills(), "", "nothing of a transaction that is refused");
        let large = |n: u8| Note { key: [n].into(), value: Some(vec![0; 64 << 10].into()) };
        rig.rollback("a", 1);
        rig.note("a", None, &(2..NOTES_MAX).map(|n| forget(&n.to_string())).collect::<Vec<_>>());
        let large: Vec<Note> = (0..=255).map(large).collect();
        for _ in 0..4 {
            // The same keys again take nothing more.
            rig.note("a", None, &large);
        }
        rig.run();
        assert!(rig.heard("a").iter().all(|heard| heard.starts_with("done")));
    }
}

#[test]
fn what_a_session_publishes_passes_its_own_queue_by() {
    let mut rig = rig();
    rig.declare_exchange("anna", exchange("x", ExchangeKind::Fanout));
    for name in ["a", "b"] {
        rig.connect(name, lasting(name));
        rig.topology(name, own_queue(name));
        rig.bind(name, "x", "", name);
        rig.attach(name, isthmus_model::Attach { no_local: true, ..taking(1, name) });
    }
    rig.run();
    let message = |body: &str| durable("k", body).through("x");
    rig.publish("a", [message("1"), message("2")]);
    rig.begin("b", 1);
    rig.publish_in("b", 1, [message("3")]);
    rig.commit_tx("b", 1);
    rig.run();
    assert_eq!(bodies(&rig.got("a")), ["3"]);
    assert_eq!(bodies(&rig.got("b")), ["1", "2"]);
    // With another that wants them not, and with none.
    let no_local = isthmus_model::Attach { no_local: true, ..taking(2, "a") };
    rig.attach("a", no_local);
    rig.detach("a", 1);
    rig.publish("a", [message("4")]);
    rig.run();
    assert!(rig.got("a").is_empty());
    rig.attach("a", taking(1, "a"));
    rig.detach("a", 2);
    rig.publish("a", [message("5").mandatory()]);
    rig.run();
    assert_eq!(bodies(&rig.got("a")), ["5"]);
}

#[test]
fn sessions_go_with_their_virtual_host() {
    let mut rig = rig();
    rig.dispatcher.declare_vhost("v");
    rig.run();
    for (name, vhost) in [("a", "v"), ("b", "v"), ("c", VHOST)] {
        rig.open_in(name, vhost);
        rig.open_client(name, with_will(lasting("same"), "will", 1000));
        rig.topology(name, own_queue("own"));
    }
    rig.run();
    let heard = rig.heard("a");
    assert!(heard.contains(&"taken over".to_owned()), "one of a name in a virtual host: {heard:?}");
    assert!(!rig.heard("c").contains(&"taken over".to_owned()));
    rig.delete_vhost("anna", "v");
    rig.run();
    rig.disconnect("b");
    let keys: Vec<String> =
        rig.ledger.clients().iter().map(|(key, _)| key.vhost.to_string()).collect();
    assert_eq!(keys, [VHOST]);
    assert_eq!(rig.dispatcher.clients().len(), 1);
    rig.after_ms(10 * HOUR_MS);
    assert_eq!(rig.wills(), "");
    rig.crash();
}

#[test]
fn a_session_that_is_over_in_the_same_moment_is_not_gone_on_with() {
    let mut rig = rig();
    rig.connect("a", with_will(OpenSession { expiry_ms: 10, ..lasting("c") }, "will", 20));
    rig.disconnect("a");
    rig.advance_ms(10);
    // Its time has come, and nobody has looked since.
    rig.open("b");
    rig.open_client("b", lasting("c"));
    rig.run();
    assert_eq!(rig.heard("b"), ["session is new:"]);
    assert_eq!(rig.wills(), "will");
}

/// Something that happens to one of a few clients.
#[derive(Clone, Debug)]
enum Step {
    Connect { client: u8, clean: bool, expiry_ms: u64, will_ms: Option<u64> },
    Note { client: u8, key: u8, remove: bool },
    Hold { client: u8, queue: u8, release: bool },
    Disconnect { client: u8 },
    Goodbye { client: u8, expiry_ms: Option<u64>, publish_will: bool },
    Pass { ms: u64 },
    Propose,
    Commit,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..3u8;
    let ms = || prop::sample::select(vec![0, 0, 5, 50, 10_000, NEVER_EXPIRES]);
    prop_oneof![
        4 => (client.clone(), any::<bool>(), ms(), option::of(ms())).prop_map(
            |(client, clean, expiry_ms, will_ms)| Step::Connect { client, clean, expiry_ms, will_ms }
        ),
        2 => (client.clone(), 0..3u8, any::<bool>())
            .prop_map(|(client, key, remove)| Step::Note { client, key, remove }),
        2 => (client.clone(), 0..2u8, any::<bool>())
            .prop_map(|(client, queue, release)| Step::Hold { client, queue, release }),
        2 => client.clone().prop_map(|client| Step::Disconnect { client }),
        1 => (client, option::of(ms()), any::<bool>()).prop_map(
            |(client, expiry_ms, publish_will)| Step::Goodbye { client, expiry_ms, publish_will }
        ),
        2 => prop::sample::select(vec![1, 5, 45, 6_000, 20_000]).prop_map(|ms| Step::Pass { ms }),
        2 => Just(Step::Propose),
        2 => Just(Step::Commit),
        1 => Just(Step::Crash),
    ]
}

impl Rig {
    /// Takes a step; `n` tells it from all others.
    fn take(&mut self, n: usize, step: &Step) {
        let name = |client: &u8| format!("c{client}");
        match step {
            Step::Connect { client, clean, expiry_ms, will_ms } => {
                let open =
                    OpenSession { clean: *clean, expiry_ms: *expiry_ms, ..lasting(&name(client)) };
                let open = match will_ms {
                    Some(ms) => with_will(open, &n.to_string(), *ms),
                    None => open,
                };
                // Whoever was connected before hears that he is not any more, or never does.
                self.open(&name(client));
                self.open_client(&name(client), open);
            }
            Step::Note { client, key, remove } if self.knows(&name(client)) => {
                let key = key.to_string();
                let noted = if *remove { forget(&key) } else { note(&key, &n.to_string()) };
                self.note(&name(client), None, &[noted]);
            }
            Step::Hold { client, queue, release } if self.knows(&name(client)) => {
                let queue = format!("q{queue}");
                if *release {
                    self.release(&name(client), &queue);
                } else {
                    self.topology(&name(client), own_queue(&queue));
                }
            }
            Step::Disconnect { client } if self.knows(&name(client)) => self.close(&name(client)),
            Step::Goodbye { client, expiry_ms, publish_will } if self.knows(&name(client)) => {
                self.goodbye(&name(client), *expiry_ms, *publish_will);
            }
            Step::Pass { ms } => self.advance_ms(*ms),
            Step::Propose => drop(self.propose()),
            Step::Commit => drop(self.commit()),
            Step::Crash => self.crash(),
            _ => {}
        }
        self.dispatch();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    /// Every replay of the log says the same (which [`Rig::crash`] checks), the leader's copy is
    /// the ledger's once all is committed, and no will is published twice.
    #[test]
    fn leader_and_ledger_agree_on_sessions(steps in vec(step(), 1..60)) {
        let mut rig = rig();
        for (n, step) in steps.iter().enumerate() {
            rig.take(n, step);
        }
        rig.run();
        let words = |clients: &Clients| -> Vec<String> {
            clients.iter().map(|(key, client)| format!("{key:?}: {client:?}")).collect()
        };
        prop_assert_eq!(words(rig.dispatcher.clients()), words(rig.ledger.clients()));
        let there: Vec<_> = rig.dispatcher.queue_statuses().iter().map(|s| s.id).collect();
        let held: Vec<_> = rig.ledger.clients().iter().flat_map(|(_, c)| c.held.clone()).collect();
        prop_assert!(held.iter().all(|id| there.contains(id)), "held and gone: {:?}", held);
        let open = rig.dispatcher.open_clients();
        let connected = |client: &Client| client.presence == Presence::Connected;
        let lasting = rig.ledger.clients().iter().filter(|(_, c)| connected(c)).count();
        prop_assert!(open >= lasting, "{open} connections have {lasting} sessions open");
        rig.crash();
        rig.after_ms(HOUR_MS);
        let wills = rig.drain("wills");
        let mut once = wills.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(wills.len(), once.len(), "published twice: {:?}", wills);
        rig.crash();
    }
}

#[test]
fn what_a_checkpoint_says_of_sessions_is_what_was_there() {
    let mut rig = rig();
    for n in 0..20u64 {
        let client = format!("c{n}");
        let expiry_ms = [0, 10, HOUR_MS, NEVER_EXPIRES][n as usize % 4];
        let open = OpenSession { expiry_ms, ..lasting(&client) };
        rig.connect(&client, with_will(open, "will", n * 100));
        rig.topology(&client, own_queue(&format!("q{}", n % 7)));
        let notes: Vec<Note> = (0..n * 150).map(|k| note(&k.to_string(), "value")).collect();
        rig.note(&client, None, &notes);
        if n % 3 == 0 {
            rig.disconnect(&client);
        }
        if n % 5 == 0 {
            rig.crash();
        }
    }
    rig.run();
    rig.page_out(1000, 0, |_, _| false);
    rig.after_ms(1_000);
    rig.crash();
    rig.run();
    assert_eq!(rig.dispatcher.clients().len(), rig.ledger.clients().len());
    rig.after_ms(HOUR_MS);
    let left: Vec<u64> = rig.ledger.clients().iter().map(|(_, c)| c.expiry_ms).collect();
    assert!(left.len() >= 4 && left.iter().all(|ms| *ms == NEVER_EXPIRES), "{left:?}");
    assert!(rig.outputs_are_silent());
}

impl Rig {
    /// Whether nobody is told anything now.
    fn outputs_are_silent(&mut self) -> bool {
        self.turn().iter().all(|(_, output)| matches!(output, Output::Deliver { .. }))
    }
}
