//! What clients publish, with a client and a broker in memory.

#![allow(clippy::unwrap_used)] // a failed test may panic

#[allow(dead_code)] // each test uses its part
mod common;

use common::Rig;
use isthmus_contract::Session;
use isthmus_model::{Encoding, NO_TTL, PublishRefusal, RecordFlags};
use isthmus_stomp::StompEncoding;

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
