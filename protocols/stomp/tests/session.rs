//! The session with a client and a broker in memory, under virtual time.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{NOW, Rig, delivery, stomp_batch};
use isthmus_contract::{CloseReason, CommandError, DetachReason, Event, Session, Shortage};
use isthmus_model::{
    Annotations, Candidate, ConsumerId, Encoding, NO_TTL, PublishRefusal, RecordFlags, Time,
};
use isthmus_stomp::StompEncoding;
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
fn messages_are_published_in_runs_and_answered_when_they_are_safe() {
    let mut rig = Rig::accepted("1.2");
    let said = rig.send(
        "SEND\ndestination:/topic/a.b\nreceipt:1\n\none\0\nSEND\ndestination:/topic/c\n\ntwo\0\
         SEND\ndestination:/exchange/x/k\nreceipt:3\n\nthree\0",
    );
    assert_eq!(said, "");
    let published = ["publish amq.topic a.b one", "publish amq.topic c two", "publish x k three"];
    assert_eq!(rig.asked, published);
    assert_eq!(rig.published.len(), 1, "one batch");
    assert_eq!(rig.confirm(&[]), "RECEIPT\nreceipt-id:1\n\n\0RECEIPT\nreceipt-id:3\n\n\0");
}

#[test]
fn a_queue_is_declared_once_before_what_is_sent_to_it() {
    let mut rig = Rig::accepted("1.2");
    rig.send(
        "SEND\ndestination:/queue/q\nx-message-ttl:500\n\na\0SEND\ndestination:/queue/q\n\nb\0",
    );
    assert_eq!(
        rig.asked,
        ["declare q Durable x-message-ttl=Int(500)", "publish  q a", "publish  q b"]
    );
    let record = rig.published[0].1.records[0];
    assert_eq!(record.flags, RecordFlags::MANDATORY, "persistent is false where nothing is said");
    assert_eq!((record.ttl_ms, record.priority), (NO_TTL, 0));
}

#[test]
fn a_queue_is_declared_only_for_what_its_user_may_do_with_it() {
    for (frame, uses) in [
        ("SEND\ndestination:/queue/q\n", &["write /q"][..]),
        (
            "SEND\ndestination:/queue/q,/topic/a.b,/exchange/x/k\n",
            &["write /q", "write amq.topic/a.b", "write x/k"],
        ),
        ("SUBSCRIBE\nid:1\ndestination:/queue/q\n", &["read q"]),
        (
            "SUBSCRIBE\nid:1\ndestination:/queue/q,/amq/queue/r,/topic/a\n",
            &["read q", "read r", "read amq.topic/a"],
        ),
        (
            "SUBSCRIBE\nid:s\ndestination:/topic/a\ndurable:true\n",
            &[
                "write stomp-subscription-:s:/topic/a",
                "read amq.topic/a",
                "read stomp-subscription-:s:/topic/a",
            ],
        ),
    ] {
        let mut rig = Rig::accepted("1.2");
        rig.send(&format!("{frame}\n\0"));
        assert_eq!(rig.uses, uses, "{frame}");
    }
}

#[test]
fn a_queue_that_cannot_be_declared_is_sent_nothing() {
    let mut rig = Rig::accepted("1.2");
    let said = rig.send("SEND\ndestination:/queue/other\nreceipt:r\n\na\0");
    assert!(said.contains("message:Precondition failed\nreceipt-id:r\n"), "{said}");
    assert_eq!(rig.asked, ["declare other Durable"]);
    assert!(rig.session.is_closed());
}

#[test]
fn what_a_message_asks_for_is_in_its_record() {
    let mut rig = Rig::with(|config| config.unix_ms_at_zero = 1_000_000);
    rig.connect("1.2");
    for (headers, ttl_ms, priority, flags) in [
        ("persistent:true\npriority:7\nexpiration:500", 500, 7, RecordFlags::DURABLE),
        ("persistent:false\nexpires:1002500", 500, 0, RecordFlags::default()),
        ("expires:0", NO_TTL, 0, RecordFlags::default()),
        ("expires:5", 0, 0, RecordFlags::default()),
        ("expires:1002500\nAMQ_SCHEDULED_DELAY:300", 200, 0, RecordFlags::DELAYED),
        ("expiration:500\nAMQ_SCHEDULED_DELAY:300", 500, 0, RecordFlags::DELAYED),
        ("expiration:99999999999", NO_TTL, 0, RecordFlags::default()),
        ("persistent:true\npersistent:false", NO_TTL, 0, RecordFlags::DURABLE),
    ] {
        // It is one second after the zero of the session's time, and one after that of 1970's.
        let headers = headers.replace("1002500", "1001500");
        rig.send(&format!("SEND\ndestination:/topic/a\n{headers}\n\n\0"));
        let record = rig.published.pop().unwrap().1.records[0];
        assert_eq!((record.ttl_ms, record.priority, record.flags), (ttl_ms, priority, flags));
    }
}

#[test]
fn a_delay_is_for_the_broker_to_keep_whatever_the_destination_is() {
    for destination in
        ["/queue/q", "q", "/amq/queue/q", "/topic/q", "/exchange/x/q", "/queue/q,/topic/q"]
    {
        let mut rig = Rig::accepted("1.2");
        rig.send(&format!(
            "SEND\ndestination:{destination}\nAMQ_SCHEDULED_DELAY:1500\npersistent:true\n\
             receipt:r\n\nm\0"
        ));
        let batch = rig.published.pop().unwrap().1;
        for record in &batch.records {
            let asked = RecordFlags::DURABLE.with(RecordFlags::DELAYED);
            assert!(record.flags.has(asked), "{destination}");
            let headers = StompEncoding.headers(batch.head(record));
            assert_eq!(headers.get("x-delay").and_then(|v| v.held_for_ms()), Some(1500));
        }
    }
    for none in ["0", "-5"] {
        let mut rig = Rig::accepted("1.2");
        rig.send(&format!("SEND\ndestination:/topic/q\nAMQ_SCHEDULED_DELAY:{none}\n\nm\0"));
        assert_eq!(rig.published.pop().unwrap().1.records[0].flags, RecordFlags::default());
    }
    // RabbitMQ's header is for exchanges that delay.
    let mut rig = Rig::accepted("1.2");
    rig.send("SEND\ndestination:/topic/q\nx-delay:5\n\nm\0");
    assert_eq!(rig.published.pop().unwrap().1.records[0].flags, RecordFlags::default());
}

#[test]
fn several_destinations_get_a_message_each() {
    let mut rig = Rig::accepted("1.1");
    rig.send("SEND\ndestination:/topic/a,/exchange/x/k,/amq/queue/q\nreceipt:r\n\nm\0");
    assert_eq!(rig.asked, ["publish amq.topic a m", "publish x k m", "publish  q m"]);
    let said = rig.confirm(&[(2, PublishRefusal::Unroutable)]);
    assert!(said.contains("message:Not found\nreceipt-id:r\n"), "{said}");
    assert!(said.contains("no queue takes messages for '/queue/q'"), "{said}");
}

#[test]
fn what_is_not_taken_ends_the_connection_behind_what_is() {
    let mut rig = Rig::accepted("1.2");
    rig.send(
        "SEND\ndestination:/topic/a\nreceipt:1\n\n\0SEND\ndestination:/exchange/gone\nreceipt:2\n\n\0",
    );
    let said = rig.confirm(&[(1, PublishRefusal::NoExchange)]);
    assert!(said.starts_with("RECEIPT\nreceipt-id:1\n\n\0ERROR\n"), "{said}");
    assert!(said.contains("receipt-id:2\n"), "{said}");
    assert!(said.contains("there is no exchange 'gone'"), "{said}");
    assert!(rig.session.is_closed());
}

#[test]
fn what_came_before_a_fault_is_published() {
    let mut rig = Rig::accepted("1.2");
    let said = rig.send("SEND\ndestination:/topic/a\n\nm\0SEND\nreceipt:r\n\nm\0");
    assert_eq!((&*said, &rig.asked[..]), ("", &["publish amq.topic a m".to_owned()][..]));
    assert!(!rig.session.is_closed(), "what is not answered yet comes first");
    let said = rig.confirm(&[]);
    assert!(rig.session.is_closed());
    assert!(said.contains("receipt-id:r\n"), "{said}");
    assert!(said.contains("header 'destination': it is missing"), "{said}");
}

#[test]
fn what_cannot_be_done_is_refused_and_says_what_can() {
    for (frame, said) in [
        ("SEND\ndestination:/queue/a\nAMQ_SCHEDULED_DELAY:soon\n\n\0", "'soon' is no number"),
        ("SEND\ndestination:/topic/a\nAMQ_SCHEDULED_DELAY:4294967296\n\n\0", "are too long"),
        ("SEND\ndestination:/exchange/x\nAMQ_SCHEDULED_CRON:1\n\n\0", "AMQ_SCHEDULED_CRON"),
        (
            "SEND\ndestination:/queue/a\nAMQ_SCHEDULED_DELAY:1\nAMQ_SCHEDULED_REPEAT:2\n\n\0",
            "header 'AMQ_SCHEDULED_REPEAT': a message is delivered once",
        ),
        ("SEND\ndestination:/queue/a\nAMQ_SCHEDULED_PERIOD:9\n\n\0", "AMQ_SCHEDULED_PERIOD"),
        ("SEND\ndestination:/temp-queue/a\n\n\0", "/temp-queue/a is a queue of the connection"),
        ("SEND\ndestination:/nowhere\n\n\0", "destinations begin with /queue/"),
        ("SEND\ndestination:/topic/a\npriority:x\n\n\0", "'x' is no number"),
        ("SEND\ndestination:/topic/a\ntransaction:t\n\n\0", "'t' is not open"),
        ("SUBSCRIBE\ndestination:/queue/a\n\n\0", "header 'id': it is missing"),
        ("SUBSCRIBE\nid:1\n\n\0", "header 'destination': it is missing"),
        ("SUBSCRIBE\nid:1\ndestination:/queue/a\nack:never\n\n\0", "'never' is no ack mode"),
        ("SUBSCRIBE\nid:1\ndestination:/topic/a\nbrowser:true\n\n\0", "only queues are browsed"),
        ("SUBSCRIBE\nid:1\ndestination:/queue/a,/queue/b\nbrowser:true\n\n\0", "one at a time"),
        ("SUBSCRIBE\nid:1\ndestination:/queue/a\nbrowser-end:false\n\n\0", "is told the end"),
        ("SUBSCRIBE\nid:1\ndestination:/queue/a\nselector:x >\n\n\0", "at character 4"),
        ("SUBSCRIBE\nid:1\ndestination:/queue/a\nactivemq.noLocal:true\n\n\0", "topics only"),
        ("SUBSCRIBE\nid:1\ndestination:/queue/a\nactivemq.retroactive:true\n\n\0", "topics only"),
        (
            "SUBSCRIBE\nid:1\ndestination:/queue/a\nactivemq.maximumPendingMessageLimit:9\n\n\0",
            "header 'activemq.maximumPendingMessageLimit': it is not known",
        ),
        ("SUBSCRIBE\nid:1\ndestination:/temp-topic/a\ndurable:true\n\n\0", "cannot be durable"),
        ("SUBSCRIBE\nid:1\ndestination:/topic/a\nselector:x =\n\n\0", "at character 4"),
        ("SUBSCRIBE\nid:1\ndestination:/queue/a,/amq/queue/a\n\n\0", "names '/amq/queue/a' twice"),
        ("SUBSCRIBE\nid:1\ndestination:/queue/a\nexclusive:maybe\n\n\0", "neither true nor false"),
        ("SUBSCRIBE\nid:1\ndestination:/queue/a\nx-queue-type:stream\n\n\0", "not implemented"),
        ("SUBSCRIBE\nid:1\ndestination:/topic/a\nactivemq.subscriptionName:s\n\n\0", "'client-id'"),
        ("UNSUBSCRIBE\nid:9\n\n\0", "there is no subscription '9'"),
        ("ACK\nid:7-1-1\n\n\0", "no message '7-1-1'"),
        ("ACK\n\n\0", "header 'id': it is missing: it is the header 'ack'"),
        ("BEGIN\n\n\0", "BEGIN names its transaction"),
        ("COMMIT\ntransaction:t\n\n\0", "'t' is not open"),
        ("ABORT\ntransaction:t\n\n\0", "'t' is not open"),
        ("CONNECT\n\n\0", "a second CONNECT frame"),
        ("RECEIPT\n\n\0", "RECEIPT frames are a server's"),
    ] {
        let mut rig = Rig::accepted("1.2");
        let frame = frame.replacen('\n', "\nreceipt:r\n", 1);
        let answer = rig.send(&frame);
        assert!(answer.starts_with("ERROR\nmessage:"), "{frame}: {answer}");
        assert!(answer.contains("\nreceipt-id:r\n"), "{frame}: {answer}");
        assert!(answer.contains(said), "{frame}: {answer}");
        assert!(rig.session.is_closed());
        assert_eq!(rig.asked, [""; 0], "{frame}");
    }
}

#[test]
fn subscriptions_to_every_kind_of_destination() {
    for (headers, asked) in [
        ("destination:/queue/q", "declare q Durable; attach q settled"),
        ("destination:q", "declare q Durable; attach q settled"),
        (
            "destination:/queue/q\nack:client\nprefetch-count:5\ndurable:false\nauto-delete:true",
            "declare q Volatile auto-delete; attach q 5",
        ),
        ("destination:/amq/queue/q\nack:client", "attach q all"),
        (
            "destination:/amq/queue/q\nack:client-individual\nactivemq.prefetchSize:1\n\
             activemq.exclusive:true\nactivemq.priority:3",
            "attach q 1 alone x-priority=Int(3)",
        ),
        (
            "destination:/topic/a.>\nx-max-length:9",
            "own stomp-subscription-S.1 auto-delete x-max-length=Int(9); \
             bind amq.topic a.# stomp-subscription-S.1; \
             attach stomp-subscription-S.1 settled alone",
        ),
        (
            "destination:/topic/a\nx-dead-letter-exchange:x",
            "declare stomp-subscription-S.1 auto-delete x-dead-letter-exchange=String(\"x\"); \
             bind amq.topic a stomp-subscription-S.1; \
             attach stomp-subscription-S.1 settled alone",
        ),
        (
            "destination:/exchange/x/k",
            "own stomp-subscription-S.1 auto-delete; bind x k stomp-subscription-S.1; \
             attach stomp-subscription-S.1 settled alone",
        ),
        (
            "destination:/topic/a\ndurable:true\nauto-delete:false",
            "declare stomp-subscription-:s:/topic/a Durable; \
             bind amq.topic a stomp-subscription-:s:/topic/a; \
             attach stomp-subscription-:s:/topic/a settled",
        ),
        (
            "destination:/topic/a\nactivemq.noLocal:true\nactivemq.retroactive:true\n\
             activemq.dispatchAsync:true",
            "own stomp-subscription-S.1 auto-delete; \
             bind amq.topic a stomp-subscription-S.1; \
             attach stomp-subscription-S.1 settled alone no-local; \
             recall amq.topic a stomp-subscription-S.1",
        ),
        (
            "destination:/topic/a\nx-queue-name:mine",
            "declare mine Volatile auto-delete; bind amq.topic a mine; attach mine settled",
        ),
        (
            "destination:/temp-queue/t",
            "own amq.rabbitmq.reply-to.stomp.S.1; attach amq.rabbitmq.reply-to.stomp.S.1 settled",
        ),
    ] {
        let mut rig = Rig::accepted("1.2");
        let said = rig.send(&format!("SUBSCRIBE\nid:s\nreceipt:r\n{headers}\n\n\0"));
        assert_eq!(rig.asked.join("; ").replace(&format!("{:032x}", 0), "S"), asked, "{headers}");
        assert_eq!(said, "RECEIPT\nreceipt-id:r\n\n\0");
    }
}

#[test]
fn a_durable_subscription_of_a_named_client_is_found_again_and_ended() {
    let mut rig = Rig::new();
    rig.send("CONNECT\naccept-version:1.2\nlogin:u\npasscode:p\nclient-id:c:1\n\n\0");
    rig.asked.clear();
    let headers = "destination:/topic/a\nactivemq.subscriptionName:n";
    rig.send(&format!("SUBSCRIBE\nid:1\n{headers}\n\n\0"));
    assert_eq!(rig.asked[0], "declare stomp-subscription-c%3A1:n:/topic/a Durable");
    rig.asked.clear();
    let said = rig.send(&format!("UNSUBSCRIBE\nid:1\nreceipt:r\n{headers}\n\n\0"));
    assert_eq!(rig.asked, ["detach 1", "delete stomp-subscription-c%3A1:n:/topic/a"]);
    assert_eq!(said, "RECEIPT\nreceipt-id:r\n\n\0");
    rig.asked.clear();
    rig.send(&format!("UNSUBSCRIBE\nid:2\n{headers}\n\n\0"));
    assert_eq!(rig.asked, ["delete stomp-subscription-c%3A1:n:/topic/a"], "without one");
}

#[test]
fn a_subscription_ends_and_its_name_is_free() {
    let mut rig = Rig::accepted("1.2");
    let subscribe = "SUBSCRIBE\nid:s\ndestination:/amq/queue/q\n\n\0";
    rig.send(subscribe);
    rig.send("UNSUBSCRIBE\nid:s\n\n\0");
    rig.send(subscribe);
    assert_eq!(rig.asked, ["attach q settled", "detach 1", "attach q settled"]);
    let said = rig.send(subscribe);
    assert!(said.contains("subscription 's' is there already"), "{said}");
}

#[test]
fn in_1_0_a_destination_names_its_subscription() {
    let mut rig = Rig::accepted("1.0");
    rig.send("SUBSCRIBE\ndestination:/amq/queue/q\n\n\0");
    let said = rig.event(delivery(1, &stomp_batch("1.0", "", "q", "", "m"), 1, false));
    assert!(said.starts_with("MESSAGE\nsubscription:/amq/queue/q\n"), "{said}");
    rig.send("UNSUBSCRIBE\ndestination:/amq/queue/q\n\n\0");
    assert_eq!(rig.asked, ["attach q settled", "detach 1"]);
}

#[test]
fn a_message_tells_all_that_its_sender_did() {
    let headers = "destination:/queue/q\\cx\nreceipt:r\ntransaction:t\na\\cb:c\\nd\nfoo:1\nfoo:2\n\
                   message-id:theirs\nack:theirs\ncontent-length:1\n";
    let batch = stomp_batch("1.2", "", "q:x", headers, "m");
    for (version, mode, expected) in [
        (
            "1.2",
            "client",
            "MESSAGE\nsubscription:s\\cs\ndestination:/queue/q\\cx\nmessage-id:7-1-1\nack:7-1-1\n\
             redelivered:true\na\\cb:c\\nd\nfoo:1\nfoo:2\ncontent-length:1\n\nm\0",
        ),
        (
            "1.1",
            "client",
            "MESSAGE\nsubscription:s\\cs\ndestination:/queue/q\\cx\nmessage-id:7-1-1\n\
             redelivered:true\na\\cb:c\\nd\nfoo:1\nfoo:2\ncontent-length:1\n\nm\0",
        ),
        (
            "1.0",
            "client",
            "MESSAGE\nsubscription:s:s\ndestination:/queue/q:x\nmessage-id:7-1-1\n\
             redelivered:true\nfoo:1\nfoo:2\ncontent-length:1\n\nm\0",
        ),
        (
            "1.2",
            "auto",
            "MESSAGE\nsubscription:s\\cs\ndestination:/queue/q\\cx\nmessage-id:7-1-1\n\
             redelivered:true\na\\cb:c\\nd\nfoo:1\nfoo:2\ncontent-length:1\n\nm\0",
        ),
    ] {
        let mut rig = Rig::accepted(version);
        let id = if version == "1.0" { "s:s" } else { "s\\cs" };
        rig.send(&format!("SUBSCRIBE\nid:{id}\ndestination:/amq/queue/q\nack:{mode}\n\n\0"));
        assert_eq!(rig.event(delivery(1, &batch, 1, true)), expected, "{version}");
    }
}

#[test]
fn what_has_been_held_back_says_so_and_is_not_held_again() {
    let annotations = Annotations { delay_spent: true, ..Annotations::default() };
    for (line, told) in [
        ("AMQ_SCHEDULED_DELAY:1500\n", "x-delay:-1500\n"),
        ("x-delay:5\n", "x-delay:-5\n"),
        ("x-delay:-5\n", "x-delay:-5\n"),
        ("x-delay:soon\n", "x-delay:soon\n"),
    ] {
        let batch = stomp_batch("1.2", "", "q", line, "m");
        for is_spent in [true, false] {
            let mut rig = Rig::accepted("1.2");
            rig.send("SUBSCRIBE\nid:s\ndestination:/amq/queue/q\n\n\0");
            let Event::Deliveries(mut deliveries) = delivery(1, &batch, 1, false) else {
                panic!("no delivery")
            };
            deliveries[0].annotations = is_spent.then(|| Arc::new(annotations.clone()));
            let said = rig.event(Event::Deliveries(deliveries));
            assert!(said.contains(if is_spent { told } else { line }), "{said}");
        }
        // To others it says the same.
        let mut properties = StompEncoding.properties(batch.head(&batch.records[0]));
        properties.spend_delay();
        let delay = properties.headers.get("x-delay").unwrap();
        assert_eq!(delay.held_for_ms(), None, "{delay:?}");
    }
}

#[test]
fn a_body_of_no_told_length_stays_one() {
    let mut rig = Rig::accepted("1.2");
    rig.send("SUBSCRIBE\nid:s\ndestination:/amq/queue/q\n\n\0");
    let said = rig.event(delivery(1, &stomp_batch("1.2", "x", "k", "", "text"), 1, false));
    let expected = "MESSAGE\nsubscription:s\ndestination:/exchange/x/k\nmessage-id:7-1-1\n\
                    redelivered:false\n\ntext\0";
    assert_eq!(said, expected);
}

#[test]
fn large_bodies_are_not_copied() {
    let mut rig = Rig::accepted("1.2");
    rig.send("SUBSCRIBE\nid:s\ndestination:/amq/queue/q\n\n\0");
    let body = "x".repeat(100_000);
    let said = rig.event(delivery(1, &stomp_batch("1.2", "", "q", "", &body), 1, false));
    assert!(said.ends_with(&format!("\n\n{body}\0")));
}

fn subscribed(version: &str, mode: &str) -> Rig {
    let mut rig = Rig::accepted(version);
    rig.send(&format!("SUBSCRIBE\nid:s\ndestination:/amq/queue/q\nack:{mode}\n\n\0"));
    for first in 1..=4 {
        rig.event(delivery(1, &stomp_batch("1.2", "", "q", "", "m"), first, false));
    }
    rig.asked.clear();
    rig
}

#[test]
fn acknowledgements_of_each_version_and_mode() {
    for (version, mode, frame, settled) in [
        ("1.2", "client", "ACK\nid:7-1-3\n", "settle 1+3 Accept"),
        ("1.2", "client-individual", "ACK\nid:7-1-3\n", "settle 3+1 Accept"),
        ("1.1", "client", "ACK\nsubscription:s\nmessage-id:7-1-2\n", "settle 1+2 Accept"),
        (
            "1.1",
            "client-individual",
            "ACK\nsubscription:s\nmessage-id:7-1-2\n",
            "settle 2+1 Accept",
        ),
        ("1.0", "client", "ACK\nmessage-id:7-1-2\n", "settle 1+2 Accept"),
        ("1.2", "client", "NACK\nid:7-1-2\n", "settle 1+2 Requeue"),
        ("1.2", "client-individual", "NACK\nid:7-1-2\nrequeue:true\n", "settle 2+1 Requeue"),
        ("1.2", "client-individual", "NACK\nid:7-1-2\nrequeue:false\n", "settle 2+1 Reject"),
        ("1.1", "client", "NACK\nsubscription:s\nmessage-id:7-1-1\n", "settle 1+1 Requeue"),
    ] {
        let mut rig = subscribed(version, mode);
        assert_eq!(rig.send(&format!("{frame}\n\0")), "");
        assert_eq!(rig.asked, [settled], "{version} {mode} {frame}");
        let again = rig.send(&format!("{frame}\n\0"));
        assert!(again.contains("message:Unknown message\n"), "{again}");
    }
}

#[test]
fn acknowledgements_that_mean_nothing_are_refused() {
    for (version, mode, frame, said) in [
        ("1.2", "auto", "ACK\nid:7-1-1\n", "has the ack mode 'auto'"),
        ("1.2", "client", "ACK\nid:7-1-9\n", "no message '7-1-9'"),
        ("1.2", "client", "ACK\nid:8-1-1\n", "no message '8-1-1'"),
        ("1.2", "client", "ACK\nid:x\n", "no message 'x'"),
        ("1.2", "client", "ACK\nmessage-id:7-1-1\n", "header 'id': it is missing"),
        ("1.1", "client", "ACK\nid:7-1-1\n", "header 'message-id': it is missing"),
        ("1.1", "client", "ACK\nmessage-id:7-1-1\n", "header 'subscription': it is missing"),
        (
            "1.1",
            "client",
            "ACK\nmessage-id:7-1-1\nsubscription:t\n",
            "of subscription 's', not 't'",
        ),
        ("1.0", "client", "NACK\nmessage-id:7-1-1\n", "NACK came with STOMP 1.1"),
        ("1.0", "client", "ACK\nmessage-id:7-1-1\ntransaction:t\n", "'t' is not open"),
    ] {
        let mut rig = subscribed(version, mode);
        let answer = rig.send(&format!("{frame}\n\0"));
        assert!(answer.contains(said), "{version} {frame}: {answer}");
        assert_eq!(rig.asked, [""; 0]);
    }
}

#[test]
fn neighbours_are_settled_as_one_and_receipts_wait_for_the_broker() {
    let mut rig = subscribed("1.2", "client-individual");
    let said = rig.send(
        "ACK\nid:7-1-1\n\n\0ACK\nid:7-1-2\n\n\0NACK\nid:7-1-3\n\n\0ACK\nid:7-1-4\nreceipt:r\n\n\0",
    );
    let settled = ["settle 1+2 Accept", "settle 3+1 Requeue", "settle 4+1 Accept"];
    assert_eq!(rig.asked, settled);
    assert_eq!(said, "RECEIPT\nreceipt-id:r\n\n\0");
}

#[test]
fn what_was_got_can_be_acknowledged_after_the_subscription() {
    let mut rig = subscribed("1.2", "client");
    rig.send("UNSUBSCRIBE\nid:s\n\n\0ACK\nid:7-1-4\n\n\0");
    assert_eq!(rig.asked, ["detach 1", "settle 1+4 Accept"]);
    let said = rig.send("ACK\nid:7-1-4\n\n\0");
    assert!(said.contains("message:Unknown message\n"), "{said}");
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
fn a_selector_lets_through_what_it_wants_and_drops_the_rest() {
    let mut rig = Rig::accepted("1.2");
    rig.send(
        "SUBSCRIBE\nid:s\ndestination:/topic/a\nack:client\nselector:n > 5 AND JMSType = 'x'\n\n\0",
    );
    rig.asked.clear();
    for (headers, wanted) in
        [("n:6\ntype:x\n", true), ("n:5\ntype:x\n", false), ("n:7\n", false), ("type:x\n", false)]
    {
        let said =
            rig.event(delivery(1, &stomp_batch("1.2", "amq.topic", "a", headers, ""), 1, false));
        assert_eq!(said.starts_with("MESSAGE\n"), wanted, "{headers}: {said}");
        assert_eq!(rig.asked.is_empty(), wanted, "{headers}");
        rig.asked.clear();
    }
}

#[test]
fn a_selector_of_a_queue_leaves_the_rest_to_others() {
    let mut rig = Rig::accepted("1.2");
    rig.send(
        "SUBSCRIBE\nid:s\ndestination:/queue/a\nack:client\n\
         selector:n > 5 AND NOT JMSRedelivered\n\n\0",
    );
    assert_eq!(rig.asked, ["declare a Durable", "attach a all filtered"]);
    let filter = rig.filter.take().expect("a filter");
    for (headers, redelivered, wanted) in
        [("n:6\n", false, true), ("n:6\n", true, false), ("n:5\n", false, false)]
    {
        let batch = stomp_batch("1.2", "", "a", headers, "");
        let record = &batch.records[0];
        let candidate =
            Candidate { batch: &batch, record, redelivered, delivery_count: 0, annotations: None };
        assert_eq!(filter.0.wants(&candidate), wanted, "{headers} {redelivered}");
    }
    // What comes is wanted, and the session drops nothing.
    rig.asked.clear();
    let said = rig.event(delivery(1, &stomp_batch("1.2", "", "a", "n:1\n", "m"), 1, false));
    assert!(said.starts_with("MESSAGE\n"), "{said}");
    assert_eq!(rig.asked, [""; 0]);
}

#[test]
fn who_browses_is_told_the_end_and_settles_nothing() {
    let mut rig = Rig::accepted("1.2");
    rig.send("SUBSCRIBE\nid:b\ndestination:/queue/a\nack:client\nbrowser:true\n\n\0");
    assert_eq!(rig.asked, ["declare a Durable", "attach a browse"]);
    rig.asked.clear();
    let said = rig.event(delivery(1, &stomp_batch("1.2", "", "a", "", "m"), 1, false));
    assert!(said.starts_with("MESSAGE\nsubscription:b\n") && !said.contains("\nack:"), "{said}");
    let consumer = ConsumerId(1);
    let end = Event::CreditState { consumer, credit: 0, drained: true, ready: 1 };
    let said = rig.event(end);
    let expected = "MESSAGE\nsubscription:b\ndestination:/queue/a\nmessage-id:7-1-2\n\
                    browser:end\ncontent-length:0\n\n\0";
    assert_eq!(said, expected);
    assert_eq!(rig.asked, ["detach 1"]);
    rig.asked.clear();
    assert_eq!(rig.send("ACK\nid:7-1-1\nreceipt:r\n\n\0"), "RECEIPT\nreceipt-id:r\n\n\0");
    assert_eq!(rig.send("UNSUBSCRIBE\nid:b\nreceipt:u\n\n\0"), "RECEIPT\nreceipt-id:u\n\n\0");
    assert_eq!(rig.asked, ["detach 1"]);
    let said = rig.send("SUBSCRIBE\nid:b\ndestination:/queue/a\nreceipt:s\n\n\0");
    assert_eq!(said, "RECEIPT\nreceipt-id:s\n\n\0", "its name is free");
}

#[test]
fn a_subscription_to_several_destinations_is_one() {
    let mut rig = Rig::accepted("1.2");
    rig.send(
        "SUBSCRIBE\nid:s\ndestination:/queue/a,/topic/t,/amq/queue/b\nack:client\nselector:n > 5\n\n\0",
    );
    let own = "stomp-subscription-00000000000000000000000000000000.1";
    assert_eq!(
        rig.asked,
        [
            "declare a Durable".to_owned(),
            format!("own {own} auto-delete"),
            format!("bind amq.topic t {own}"),
            "attach a all filtered".to_owned(),
            format!("attach {own} all alone"),
            "attach b all filtered".to_owned(),
        ]
    );
    rig.asked.clear();
    let batch = stomp_batch("1.2", "", "a", "n:6\n", "m");
    for (consumer, first) in [(1, 10), (3, 20), (2, 30), (1, 11)] {
        let said = rig.event(delivery(consumer, &batch, first, false));
        assert!(said.contains("subscription:s\n"), "{said}");
    }
    // Everything up to a message, from wherever it came.
    rig.send("ACK\nid:7-1-3\n\n\0");
    assert_eq!(rig.asked, ["settle 10+1 Accept", "settle 20+1 Accept", "settle 30+1 Accept"]);
    rig.asked.clear();
    rig.send("UNSUBSCRIBE\nid:s\n\n\0");
    assert_eq!(rig.asked, ["detach 1", "detach 2", "detach 3"]);
    rig.asked.clear();
    rig.send("ACK\nid:7-1-4\n\n\0");
    assert_eq!(rig.asked, ["settle 11+1 Accept"], "what it got can still be acknowledged");
    let said = rig.send("ACK\nid:7-1-4\n\n\0");
    assert!(said.contains("no message '7-1-4'"), "{said}");
}

#[test]
fn each_destination_of_a_subscription_counts() {
    let mut rig = Rig::with(|config| config.subscriptions_max = 2);
    rig.connect("1.2");
    rig.send("SUBSCRIBE\nid:a\ndestination:/queue/a,/queue/b\n\n\0");
    rig.send("UNSUBSCRIBE\nid:a\n\n\0");
    rig.send("SUBSCRIBE\nid:b\ndestination:/queue/a\n\n\0");
    let said = rig.send("SUBSCRIBE\nid:c\ndestination:/queue/c,/queue/d\n\n\0");
    assert!(said.contains("may have 2 subscriptions"), "{said}");
    assert!(rig.session.is_closed());
}

#[test]
fn a_temporary_topic_is_the_connections_own() {
    let mut rig = Rig::with(|config| config.name_secret = 0xabc);
    rig.connect("1.2");
    let key = "stomp-temp-topic.00000000000000000000000000000abc.t";
    let own = "stomp-subscription-00000000000000000000000000000abc.1";
    rig.send("SUBSCRIBE\nid:s\ndestination:/temp-topic/t\n\n\0");
    assert_eq!(
        rig.asked,
        [
            format!("own {own} auto-delete"),
            format!("bind amq.topic {key} {own}"),
            format!("attach {own} settled alone"),
        ]
    );
    rig.asked.clear();
    rig.send("SEND\ndestination:/temp-topic/t\n\nm\0");
    rig.send("SEND\ndestination:/topic/a\nreply-to:/temp-topic/t\n\n?\0");
    assert_eq!(
        rig.asked,
        [format!("publish amq.topic {key} m"), "publish amq.topic a ?".to_owned()]
    );
    let (_, asking) = rig.published.last().expect("published");
    let told = StompEncoding.properties(asking.head(&asking.records[0])).reply_to;
    assert_eq!(told.as_deref(), Some(&*format!("/topic/{key}")));
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
