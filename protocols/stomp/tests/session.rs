//! The life of a session, its transactions and temporary queues, with a client and a broker in
//! memory, under virtual time.

#![allow(clippy::unwrap_used)] // a failed test may panic

#[allow(dead_code)] // each test uses its part
mod common;

use std::time::Duration;

use common::{NOW, Rig, delivery, stomp_batch, subscribed};
use isthmus_contract::{CloseReason, CommandError, DetachReason, Event, Session, Shortage};
use isthmus_model::{ConsumerId, Time};
use proptest::prelude::*;
use proptest::test_runner::Config;

#[test]
fn a_client_is_accepted_and_told_what_was_agreed_on() {
    for (frame, version) in [
        ("CONNECT\naccept-version:1.0,1.1,1.2\nhost:/\n", "1.2"),
        ("STOMP\naccept-version:1.1\nhost:/\n", "1.1"),
        ("CONNECT\n", "1.0"),
    ] {
        let mut rig = Rig::new();
        let said = rig.send(&format!("{frame}login:u\npasscode:p\n\n\0"));
        let expected = format!(
            "CONNECTED\nversion:{version}\nheart-beat:500,500\nsession:7\nserver:isthmus/{}\n\n\0",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(said, expected);
        assert_eq!(rig.asked, ["login u p", "enter /"]);
        assert_eq!(rig.session.protocol(), format!("STOMP {version}"));
        assert_eq!(rig.session.poll_timeout(), Time::NEVER);
    }
}

#[test]
fn values_of_1_0_begin_behind_their_blanks() {
    let mut rig = Rig::new();
    rig.send("CONNECT\nlogin: u\npasscode: p\nhost: v\n\n\0");
    assert_eq!(rig.asked, ["login u p", "enter v"]);
}

#[test]
fn a_certificate_takes_the_place_of_a_name() {
    let mut rig = Rig::with(|config| config.has_certificate = true);
    rig.send("CONNECT\naccept-version:1.2\nhost:\n\n\0");
    assert_eq!(rig.asked, ["login by certificate", "enter /"]);
}

#[test]
fn a_host_may_be_no_virtual_host() {
    let mut rig = Rig::with(|config| config.host_is_vhost = false);
    rig.send("CONNECT\naccept-version:1.2\nhost:broker.example\nlogin:u\npasscode:p\n\n\0");
    assert_eq!(rig.asked, ["login u p", "enter /"]);
}

#[test]
fn a_host_that_is_no_virtual_host_leads_to_the_one_of_clients_that_name_none() {
    let connect = "CONNECT\naccept-version:1.2\nhost:nowhere\nlogin:u\npasscode:p\n\n\0";
    let mut rig = Rig::new();
    let said = rig.send(connect);
    assert!(said.starts_with("CONNECTED\n"), "{said}");
    assert_eq!(rig.asked, ["login u p", "enter nowhere", "enter /"]);
    // There is not even that one.
    let mut rig = Rig::with(|config| config.vhost = "x".into());
    let said = rig.send(connect);
    assert!(said.starts_with("ERROR\nmessage:Not found\n"), "{said}");
    assert!(said.contains("virtual host 'x'"), "{said}");
    assert_eq!(rig.asked, ["login u p", "enter nowhere", "enter x"]);
    assert!(rig.session.is_closed());
}

#[test]
fn who_is_not_let_in_is_told_why() {
    for (frame, message, detail) in [
        ("CONNECT\naccept-version:1.2\nhost:/\n\n\0", "Access refused", "'login' and 'passcode'"),
        ("CONNECT\nlogin:u\n\n\0", "Access refused", "header 'passcode' is missing"),
        ("CONNECT\nlogin:u\npasscode:wrong\n\n\0", "Access refused", "login of user 'u' failed"),
        (
            "CONNECT\nlogin:u\npasscode:p\nhost:forbidden\n\n\0",
            "Access refused",
            "virtual host 'forbidden'",
        ),
        ("CONNECT\naccept-version:3.0\n\n\0", "Unsupported version", "none of '3.0'"),
        ("CONNECT\nheart-beat:1\nlogin:u\n\n\0", "Invalid header", "'heart-beat'"),
        ("SEND\ndestination:/queue/a\n\n\0", "Not connected", "before CONNECT"),
        ("MESSAGE\n\n\0", "Not connected", "before CONNECT"),
        ("GET / HTTP/1.1\r\n", "Unknown command", "no command of STOMP"),
    ] {
        let mut rig = Rig::new();
        let said = rig.send(frame);
        assert!(said.starts_with("ERROR\n") && said.ends_with('\0'), "{said}");
        assert!(said.contains(&format!("message:{message}\n")), "{frame}: {said}");
        assert!(said.contains(detail), "{frame}: {said}");
        assert!(rig.session.is_closed());
    }
    let said = Rig::new().send("CONNECT\naccept-version:3.0\n\n\0");
    assert!(said.contains("\nversion:1.0,1.1,1.2\n"), "{said}");
}

#[test]
fn who_does_not_connect_in_time_is_left() {
    let mut rig = Rig::new();
    let deadline = rig.session.poll_timeout();
    assert_eq!(deadline, NOW + Duration::from_secs(10));
    rig.session.handle_timeout(deadline);
    assert!(rig.session.is_closed());
}

#[test]
fn heart_beats_go_both_ways() {
    let mut rig = Rig::new();
    let beats = "heart-beat:1000,2000\n";
    rig.send(&format!("CONNECT\naccept-version:1.1\nlogin:u\npasscode:p\n{beats}\n\0"));
    // Ours, before the client misses it.
    let first = rig.session.poll_timeout();
    assert_eq!(first, NOW + Duration::from_millis(1500));
    rig.session.handle_timeout(first);
    assert_eq!(rig.written(), "\n");
    // The client's, twice its time later.
    let end = rig.session.poll_timeout();
    assert_eq!(end, NOW + Duration::from_millis(2000));
    rig.session.handle_timeout(end);
    let said = rig.written();
    assert!(said.contains("message:Heart-beat missing\n"), "{said}");
    assert!(said.contains("every 1000 ms"), "{said}");
    assert!(rig.session.is_closed());
}

#[test]
fn a_client_that_says_something_is_there() {
    let mut rig = Rig::new();
    rig.send("CONNECT\naccept-version:1.1\nlogin:u\npasscode:p\nheart-beat:1000,0\n\n\0");
    let later = NOW + Duration::from_millis(1900);
    rig.input.extend(b"\n");
    rig.session.handle_bytes(later, &mut rig.input);
    assert_eq!(rig.session.poll_timeout(), later + Duration::from_millis(2000));
}

#[test]
fn short_times_between_heart_beats_are_made_longer() {
    let mut rig = Rig::new();
    rig.send("CONNECT\naccept-version:1.2\nlogin:u\npasscode:p\nheart-beat:1,1\n\n\0");
    assert_eq!(rig.session.poll_timeout(), NOW + Duration::from_millis(375));
}

#[test]
fn a_transaction_takes_effect_as_one() {
    let mut rig = subscribed("1.2", "client-individual");
    let said = rig.send(
        "BEGIN\ntransaction:t\nreceipt:1\n\n\0SEND\ndestination:/topic/a\ntransaction:t\n\nm\0\
         ACK\nid:7-1-2\ntransaction:t\nreceipt:2\n\n\0SEND\ndestination:/topic/b\n\nn\0",
    );
    assert_eq!(said, "RECEIPT\nreceipt-id:1\n\n\0", "the second comes behind the message");
    assert_eq!(rig.asked, ["begin 1", "publish amq.topic a m in 1", "publish amq.topic b n"]);
    assert_eq!(rig.confirm(&[]), "RECEIPT\nreceipt-id:2\n\n\0");
    rig.confirm(&[]);
    rig.asked.clear();
    let said = rig.send("COMMIT\ntransaction:t\nreceipt:3\n\n\0");
    assert_eq!(rig.asked, ["settle 2+1 Accept in 1", "commit 1"]);
    assert_eq!(said, "RECEIPT\nreceipt-id:3\n\n\0");
    rig.asked.clear();
    rig.send(
        "BEGIN\ntransaction:t\n\n\0ACK\nid:7-1-1\ntransaction:t\n\n\0ABORT\ntransaction:t\n\n\0",
    );
    assert_eq!(rig.asked, ["begin 1", "rollback 1"]);
    rig.asked.clear();
    rig.send("ACK\nid:7-1-1\n\n\0");
    assert_eq!(rig.asked, ["settle 1+1 Accept"], "an abort leaves it unacknowledged");
}

#[test]
fn transactions_are_kept_apart() {
    let mut rig = subscribed("1.2", "client");
    rig.send("BEGIN\ntransaction:a\n\n\0BEGIN\ntransaction:b\n\n\0");
    rig.send(
        "SEND\ndestination:/topic/a\ntransaction:a\n\n1\0SEND\ndestination:/topic/a\ntransaction:b\n\n2\0",
    );
    let asked = ["begin 1", "begin 2", "publish amq.topic a 1 in 1", "publish amq.topic a 2 in 2"];
    assert_eq!(rig.asked, asked);
    rig.send("ACK\nid:7-1-2\ntransaction:a\n\n\0");
    rig.send("ACK\nid:7-1-1\ntransaction:a\n\n\0");
    rig.confirm(&[]);
    let said = rig.confirm(&[]);
    assert!(said.contains("acknowledged in transaction 'a' already"), "{said}");
}

#[test]
fn a_transaction_has_one_beginning() {
    let mut rig = Rig::accepted("1.2");
    let said = rig.send("BEGIN\ntransaction:a\n\n\0BEGIN\ntransaction:a\n\n\0");
    assert!(said.contains("'a' is open already"), "{said}");
    let mut rig = Rig::with(|config| config.transactions_max = 1);
    rig.connect("1.2");
    let said = rig.send("BEGIN\ntransaction:a\n\n\0BEGIN\ntransaction:b\n\n\0");
    assert!(said.contains("1 transactions are open"), "{said}");
}

#[test]
fn answers_come_to_a_temporary_queue() {
    let mut rig = Rig::accepted("1.2");
    rig.send("SEND\ndestination:/topic/ask\nreply-to:/temp-queue/t\nx:y\n\nq\0");
    let queue = format!("amq.rabbitmq.reply-to.stomp.{:032x}.1", 0);
    assert_eq!(
        rig.asked,
        [
            format!("own {queue}"),
            format!("attach {queue} settled alone"),
            "publish amq.topic ask q".to_owned()
        ]
    );
    let batch = &rig.published[0].1;
    let head = String::from_utf8_lossy(batch.head(&batch.records[0])).into_owned();
    assert!(head.contains(&format!("\nreply-to:/reply-queue/{queue}\nx:y\n")), "{head}");
    rig.asked.clear();
    rig.send("SEND\ndestination:/topic/ask\nreply-to:/temp-queue/t\n\nr\0SEND\ndestination:/temp-queue/t\n\ns\0");
    assert_eq!(rig.asked, ["publish amq.topic ask r".to_owned(), format!("publish  {queue} s")]);
    let said = rig.event(delivery(1, &stomp_batch("1.2", "", &queue, "", "a"), 1, false));
    let expected =
        format!("MESSAGE\nsubscription:/temp-queue/t\ndestination:/reply-queue/{queue}\n");
    assert!(said.starts_with(&expected), "{said}");
}

#[test]
fn a_queue_that_is_gone_ends_the_connection() {
    let mut rig = Rig::accepted("1.2");
    rig.send("SUBSCRIBE\nid:s\ndestination:/amq/queue/q\n\n\0");
    let reason = DetachReason::QueueDeleted;
    let said = rig.event(Event::Detached { consumer: ConsumerId(1), reason });
    assert!(said.contains("the queue of subscription 's' was deleted"), "{said}");
    assert!(rig.session.is_closed());
}

#[test]
fn a_goodbye_is_answered_behind_everything() {
    let mut rig = Rig::accepted("1.2");
    let said = rig.send(
        "SEND\ndestination:/topic/a\n\nm\0DISCONNECT\nreceipt:bye\n\n\0SEND\ndestination:/topic/b\n\n\0",
    );
    assert_eq!(said, "");
    assert_eq!(rig.asked, ["publish amq.topic a m", "look up amq.topic"], "nothing after it");
    assert!(!rig.session.is_closed());
    assert_eq!(rig.confirm(&[]), "RECEIPT\nreceipt-id:bye\n\n\0");
    assert!(rig.session.is_closed());
    let mut rig = Rig::accepted("1.2");
    assert_eq!(rig.send("DISCONNECT\n\n\0"), "");
    assert!(rig.session.is_closed());
}

#[test]
fn what_a_client_has_sent_before_it_hung_up_is_done() {
    let mut rig = Rig::new();
    rig.input.extend(
        b"CONNECT\nlogin:u\npasscode:p\n\n\0SEND\ndestination:/queue/q\n\na\0\
          SEND\ndestination:/queue/r\n\nb\0",
    );
    rig.session.handle_bytes(NOW, &mut rig.input);
    rig.session.handle_eof(NOW);
    assert!(!rig.session.is_closed(), "it is not known yet who that is");
    rig.pump();
    let asked = ["declare q Durable", "publish  q a", "declare r Durable", "publish  r b"];
    assert_eq!(rig.asked[2..], asked);
    assert!(rig.session.is_closed());
    let mut rig = Rig::new();
    rig.input.extend(b"CONNECT\nlogin:u\npasscode:p\n\n\0");
    rig.session.handle_bytes(NOW, &mut rig.input);
    rig.session.handle_eof(NOW);
    assert!(rig.session.is_closed(), "there is nothing to wait for");
    let mut rig = Rig::accepted("1.2");
    rig.send("SEND\ndestination:/topic/a\n\nhalf");
    rig.session.handle_eof(NOW);
    assert!(rig.session.is_closed(), "the other half will not come");
}

#[test]
fn publishers_are_held_while_something_is_short_and_consumers_are_not() {
    let mut rig = subscribed("1.2", "client");
    rig.event(Event::Pressure(Shortage { memory: true, ..Shortage::NONE }));
    rig.send("ACK\nid:7-1-1\n\n\0SEND\ndestination:/topic/a\n\nm\0ACK\nid:7-1-2\n\n\0");
    assert_eq!(rig.asked, ["settle 1+1 Accept"]);
    assert!(rig.session.is_holding());
    rig.event(Event::Pressure(Shortage::NONE));
    assert_eq!(rig.asked[1..], ["publish amq.topic a m", "settle 2+1 Accept"]);
    assert!(!rig.session.is_holding());
}

#[test]
fn no_more_is_published_than_is_allowed() {
    let mut rig = Rig::accepted("1.2");
    rig.session.limit_publishes(2);
    rig.send(&"SEND\ndestination:/topic/a\n\nm\0".repeat(3));
    assert_eq!(rig.asked.len(), 2);
    assert!(rig.session.is_holding());
    rig.session.limit_publishes(5);
    assert!(!rig.session.is_holding());
    rig.send("");
    assert_eq!(rig.asked.len(), 3);
}

#[test]
fn what_the_broker_refuses_is_told_in_an_error() {
    let mut rig = Rig::accepted("1.2");
    rig.refuse = Some(CommandError::Refused("access to queue 'q' refused".to_owned()));
    let said = rig.send("SUBSCRIBE\nid:s\nreceipt:r\ndestination:/amq/queue/q\n\n\0");
    assert!(said.contains("message:Access refused\nreceipt-id:r\n"), "{said}");
    assert!(said.contains("access to queue 'q' refused"), "{said}");
}

#[test]
fn the_broker_says_goodbye_in_an_error() {
    for (reason, message) in [
        (CloseReason::Shutdown, "Server shutdown"),
        (CloseReason::NotLeader, "Try again"),
        (CloseReason::Forced, "Connection closed"),
        (CloseReason::Expired, "Access refused"),
        (CloseReason::VhostDeleted, "Not found"),
    ] {
        let mut rig = Rig::accepted("1.1");
        let said = rig.event(Event::Closed(reason));
        assert!(said.starts_with(&format!("ERROR\nmessage:{message}\n")), "{said}");
        assert!(rig.session.is_closed());
    }
}

/// Frames of every kind, right and wrong ones.
const FRAMES: [&str; 22] = [
    "SEND\ndestination:/queue/q\nreceipt:1\n\none\0",
    "SEND\ndestination:/queue/r\ntransaction:t\n\ntwo\0",
    "SEND\ndestination:/topic/a,/queue/q\ncontent-length:3\n\na\0b\0",
    "SEND\ndestination:/topic/a\nreply-to:/temp-queue/t\n\n\0",
    "SEND\r\ndestination:/exchange/x/k\r\n\r\nbody\0\r\n\n",
    "SEND\ndestination:/queue/other\n\n\0",
    "SEND\nno colon\n\n\0",
    "SUBSCRIBE\nid:1\ndestination:/queue/q\nack:client\n\n\0",
    "SUBSCRIBE\nid:2\ndestination:/topic/a.>\nack:client-individual\nreceipt:2\n\n\0",
    "SUBSCRIBE\nid:3\ndestination:/temp-queue/t\n\n\0",
    "UNSUBSCRIBE\nid:1\n\n\0",
    "ACK\nid:7-1-1\n\n\0",
    "ACK\nid:7-1-1\ntransaction:t\n\n\0",
    "NACK\nid:7-2-1\nrequeue:false\nreceipt:3\n\n\0",
    "BEGIN\ntransaction:t\nreceipt:4\n\n\0",
    "COMMIT\ntransaction:t\nreceipt:5\n\n\0",
    "ABORT\ntransaction:t\n\n\0",
    "DISCONNECT\nreceipt:6\n\n\0",
    "DISCONNECT\n\n\0",
    "\n",
    "\r\n",
    "CONNECT\n\n\0",
];

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn whatever_comes_is_taken_alike_at_every_split(
        chosen in proptest::collection::vec(0..FRAMES.len(), 1..8),
        step in 1usize..40,
    ) {
        let bytes: String = chosen.iter().map(|at| FRAMES[*at]).collect();
        let mut whole = Rig::accepted("1.2");
        let mut told = whole.send(&bytes);
        let mut rig = Rig::accepted("1.2");
        let mut split = String::new();
        for part in bytes.as_bytes().chunks(step) {
            rig.input.extend(part);
            split.push_str(&rig.pump());
        }
        prop_assert_eq!(&rig.asked, &whole.asked);
        while !whole.published.is_empty() && !whole.session.is_closed() {
            told.push_str(&whole.confirm(&[]));
        }
        while !rig.published.is_empty() && !rig.session.is_closed() {
            split.push_str(&rig.confirm(&[]));
        }
        prop_assert_eq!(rig.session.is_closed(), whole.session.is_closed());
        prop_assert_eq!(split, told);
    }
}

#[test]
fn it_is_the_same_at_every_split() {
    let bytes = "\nSEND\ndestination:/queue/q\nreceipt:1\n\none\0\r\nSEND\ndestination:/topic/t\n\
                 content-length:3\n\na\0b\0\nBEGIN\ntransaction:t\n\n\0SEND\ndestination:/queue/q\n\
                 transaction:t\n\n\0COMMIT\ntransaction:t\n\n\0DISCONNECT\nreceipt:2\n\n\0";
    let mut whole = Rig::accepted("1.2");
    whole.send(bytes);
    for step in 1..bytes.len() {
        let mut rig = Rig::accepted("1.2");
        for part in bytes.as_bytes().chunks(step) {
            rig.input.extend(part);
            rig.pump();
        }
        assert_eq!(rig.asked, whole.asked, "in steps of {step}");
    }
}
