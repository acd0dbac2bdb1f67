//! Lasting sessions: who has them open, and what they note.

use isthmus_model::{
    NEVER_EXPIRES, NOTE_KEY_BYTES_MAX, NOTE_VALUE_BYTES_MAX, Note, NotesOf, OpenSession, Overflow,
    Token, TopologyChange, TransactionId, Will,
};

use super::rig::*;
use crate::Fact;
use crate::clients::{ClientKey, NOTES_MAX};

pub(super) const HOUR_MS: u64 = 3_600_000;

/// Asks for the session of a client, kept for an hour.
pub(super) fn lasting(client: &str) -> OpenSession {
    OpenSession {
        token: Token::SILENT,
        client: client.into(),
        clean: false,
        expiry_ms: HOUR_MS,
        will: None,
    }
}

/// As [`lasting`], but anew.
pub(super) fn clean(client: &str) -> OpenSession {
    OpenSession { clean: true, ..lasting(client) }
}

/// As [`lasting`], but for no longer than the connection.
pub(super) fn passing(client: &str) -> OpenSession {
    OpenSession { expiry_ms: 0, ..lasting(client) }
}

/// With a will for the queue `wills`.
pub(super) fn with_will(open: OpenSession, body: &str, delay_ms: u64) -> OpenSession {
    let batch = batch([durable("wills", body)]);
    OpenSession { will: Some(Will { batch, delay_ms }), ..open }
}

pub(super) fn own_queue(name: &str) -> TopologyChange {
    TopologyChange::DeclareOwnQueue(queue(name))
}

pub(super) fn note(key: &str, value: &str) -> Note {
    Note { key: key.as_bytes().into(), value: Some(value.as_bytes().into()) }
}

pub(super) fn forget(key: &str) -> Note {
    Note { key: key.as_bytes().into(), value: None }
}

impl Rig {
    pub(super) fn open_client(&mut self, name: &str, open: OpenSession) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.open_client(&self.ledger, id, OpenSession { token, ..open });
        token
    }

    pub(super) fn goodbye(
        &mut self,
        name: &str,
        expiry_ms: Option<u64>,
        publish_will: bool,
    ) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.close_client(&self.ledger, id, token, expiry_ms, publish_will);
        token
    }

    pub(super) fn note(&mut self, name: &str, tx: Option<u32>, notes: &[Note]) -> Token {
        let (id, token) = (self.session(name), self.token());
        let tx = tx.map(TransactionId);
        self.dispatcher.note(&self.ledger, id, token, notes.to_vec(), None, tx);
        token
    }

    /// A connection that opens the session of a client, and all that is to do; returns the answer.
    pub(super) fn connect(&mut self, name: &str, open: OpenSession) -> String {
        self.open(name);
        self.open_client(name, open);
        self.run();
        let answer = self.heard(name);
        assert_eq!(answer.len(), 1, "{answer:?}");
        answer.into_iter().next().unwrap()
    }

    pub(super) fn disconnect(&mut self, name: &str) {
        self.close(name);
        self.run();
    }

    /// Goes on, and does what is due then.
    pub(super) fn after_ms(&mut self, ms: u64) {
        self.advance_ms(ms);
        self.run();
    }

    /// What has come into the queue `wills` since it was last looked at.
    pub(super) fn wills(&mut self) -> String {
        self.drain("wills").join(" ")
    }

    pub(super) fn hold(&mut self, name: &str, queue: &str) -> Token {
        self.topology(name, TopologyChange::HoldQueue { name: queue.into() })
    }

    pub(super) fn release(&mut self, name: &str, queue: &str) -> Token {
        self.topology(name, TopologyChange::ReleaseQueue { name: queue.into() })
    }

    pub(super) fn exists(&self, queue: &str) -> bool {
        self.find_status(queue).is_some()
    }

    /// What is in the ledger of a client, in words.
    pub(super) fn recorded(&self, client: &str) -> Option<String> {
        let key = ClientKey { vhost: VHOST.into(), client: client.into() };
        let client = self.ledger.clients().get(&key)?;
        let will = client.will.as_ref().map(|will| will.delay_ms);
        let notes = client.notes.len();
        let held = client.held.len();
        Some(format!("{} {} {will:?} {notes} notes {held} held", client.user, client.expiry_ms))
    }
}

/// A rig with the queue that wills go to, and somebody who is called `anna`.
pub(super) fn rig() -> Rig {
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
fn operators_see_sessions_and_end_them() {
    let mut rig = rig();
    rig.connect("a", with_will(lasting("kept"), "will", 1000));
    rig.topology("a", own_queue("own"));
    rig.note("a", None, &[note("k", "v")]);
    rig.connect("b", passing("passing"));
    rig.note("b", None, &[note("k", "v"), note("l", "v")]);
    rig.run();
    let seen: Vec<_> = rig
        .dispatcher
        .client_statuses()
        .into_iter()
        .map(|s| (s.key.client.to_string(), s.connection, s.expiry_ms, s.notes, s.queues.len()))
        .collect();
    let (a, b) = (rig.session("a"), rig.session("b"));
    let expected =
        [("kept".to_owned(), Some(a), HOUR_MS, 1, 1), ("passing".to_owned(), Some(b), 0, 2, 0)];
    assert_eq!(seen, expected);
    assert_eq!((rig.dispatcher.open_clients(), rig.dispatcher.kept_clients()), (2, 0));
    rig.disconnect("a");
    assert_eq!((rig.dispatcher.open_clients(), rig.dispatcher.kept_clients()), (1, 1));

    let anna = rig.session("anna");
    let mut end = |client: &str| {
        let token = rig.token();
        let key = ClientKey { vhost: VHOST.into(), client: client.into() };
        rig.dispatcher.end_session_of(&rig.ledger, anna, token, &key);
        rig.run();
        (token, rig.heard("anna"))
    };
    for client in ["kept", "passing"] {
        let (token, heard) = end(client);
        assert_eq!(heard, [done(token)]);
        let (token, heard) = end(client);
        assert_eq!(heard, [format!("refused {token}: not found")]);
    }
    assert_eq!(rig.heard("b").last().unwrap(), "session ended");
    assert!(rig.dispatcher.client_statuses().is_empty() && !rig.exists("own"));
    assert_eq!(rig.wills(), "will");
    rig.disconnect("b");
    assert_eq!(rig.connect("a", lasting("kept")), "session is new:");
}

#[test]
fn what_is_noted_of_messages_is_noted_of_those_that_are_taken() {
    let mut rig = rig();
    rig.connect("a", lasting("c"));
    rig.declare(
        "a",
        queue_with("full", |options| {
            options.length_max = Some(1);
            options.overflow = Overflow::RejectPublish;
        }),
    );
    rig.begin("a", 1);
    let publish = rig.publish_in("a", 1, [durable("full", "1"), durable("full", "2")]);
    let (id, tx) = (rig.session("a"), Some(TransactionId(1)));
    let about = |rig: &mut Rig, publish, names: [&str; 2], tx| {
        let token = rig.token();
        let notes = names.map(|name| note(name, "v")).to_vec();
        let of = Some(NotesOf { publish, records: vec![0, 1] });
        rig.dispatcher.note(&rig.ledger, id, token, notes, of, tx);
        token
    };
    about(&mut rig, publish, ["taken", "refused"], tx);
    // Refused before it came here, as where its user may not publish.
    about(&mut rig, Token(u64::MAX), ["unknown", "too"], tx);
    rig.note("a", Some(1), &[note("always", "v")]);
    rig.commit_tx("a", 1);
    rig.run();
    rig.heard("a");
    let alone = about(&mut rig, publish, ["never", "either"], None);
    rig.run();
    assert!(rig.heard("a")[0].starts_with(&format!("refused {alone}")));
    rig.disconnect("a");
    assert_eq!(rig.connect("b", lasting("c")), "session goes on: always=v taken=v");
}
