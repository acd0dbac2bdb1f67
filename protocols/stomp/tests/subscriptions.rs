//! What clients subscribe to, get and acknowledge, with a client and a broker in memory.

#![allow(clippy::unwrap_used)] // a failed test may panic

#[allow(dead_code)] // each test uses its part
mod common;

use std::sync::Arc;

use common::{Rig, delivery, stomp_batch, subscribed};
use isthmus_contract::{Event, Session};
use isthmus_model::{Annotations, Candidate, ConsumerId, Encoding};
use isthmus_stomp::StompEncoding;

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
