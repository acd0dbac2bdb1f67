//! Packets that the specifications allow, read and written again as they were.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use common::{connect3, connect4, connect5, p, props, publish5, read, s, taken, will5};
use isthmus_mqtt::ReasonCode;
use isthmus_mqtt::codec::{
    Packet, Property, Qos, RetainHandling, Sender, Subscription, Version, announced_version, frame,
};

/// Every property that a client's CONNECT may have.
fn connect_properties() -> Vec<u8> {
    [
        &[0x11, 0, 0, 0, 9, 0x21, 0, 10, 0x27, 0, 0, 1, 0, 0x22, 0, 5, 0x19, 1, 0x17, 0][..],
        &[0x26],
        &s("a"),
        &s("1"),
        &[0x26],
        &s("a"),
        &s("1"),
        &[0x15],
        &s("SCRAM"),
        &[0x16],
        &s([0xFF, 0]),
    ]
    .concat()
}

/// Every property that a PUBLISH of either side may have.
fn publish_properties() -> Vec<u8> {
    [
        &[0x01, 1, 0x02, 0, 0, 0, 60, 0x03][..],
        &s("text/plain"),
        &[0x08],
        &s("answers/here"),
        &[0x09],
        &s([0, 0xFF]),
        &[0x26],
        &s("b"),
        &s("2"),
        &[0x26],
        &s("a"),
        &s(""),
        &[0x26],
        &s("b"),
        &s("2"),
    ]
    .concat()
}

/// Every property of a CONNACK.
fn connack_properties() -> Vec<u8> {
    [
        &[0x11, 0, 0, 0, 9, 0x21, 0, 10, 0x24, 1, 0x25, 0, 0x27, 0, 0, 1, 0, 0x12][..],
        &s("chosen"),
        &[0x22, 0, 5, 0x1F],
        &s("welcome"),
        &[0x26],
        &s("a"),
        &s("1"),
        &[0x28, 1, 0x29, 0, 0x2A, 1, 0x13, 0, 30, 0x1A],
        &s("info"),
        &[0x1C],
        &s("other:1883"),
        &[0x15],
        &s("SCRAM"),
        &[0x16],
        &s("x"),
    ]
    .concat()
}

fn reason_string() -> Vec<u8> {
    props(&[&[0x1F], &s("why"), &[0x26], &s("a"), &s("1")])
}

taken! {
    mqtt5_connect: V5 Client
        connect5(0x02, &[], &[]),
        connect5(0x00, &[&connect_properties()], &[]),
        // A password without a user name is 5.0's own [MQTT-3.1.2-19].
        connect5(0x42, &[], &[&s("token")]),
        connect5(0xC2, &[], &[&s("user"), &s([0xFF, 0])]),
        p(0x10, &[&s("MQTT"), &[5, 0, 0, 0, 0], &s("")]);
    mqtt5_3_1_3_1_payload_order: V5 Client
        connect5(
            0xEE,
            &[],
            &[&will5(&[&[0x18, 0, 0, 0, 5], &publish_properties()]), &s("u"), &s("p")],
        );
    mqtt311_connect: V3_1_1 Client
        connect4(0x02, &[]),
        connect4(0x00, &[]),
        connect4(0xF6, &[&s("will/topic"), &s([0xFF]), &s("u"), &s([0, 0xFF])]),
        // [MQTT-3.1.3-6 of 3.1.1].
        p(0x10, &[&s("MQTT"), &[4, 2, 0, 0], &s("")]);
    mqtt31_connect: V3_1 Client
        connect3(0x02, &[]),
        connect3(0xF6, &[&s("will/topic"), &s(""), &s("u"), &s("p")]);
    mqtt5_connack: V5 Server
        [0x20, 3, 0, 0, 0], [0x20, 3, 1, 0, 0], [0x20, 3, 0, 0x9F, 0],
        p(0x20, &[&[0, 0], &props(&[&connack_properties()])]);
    mqtt311_connack: V3_1_1 Server [0x20, 2, 0, 0], [0x20, 2, 1, 0], [0x20, 2, 0, 5];
    mqtt31_connack: V3_1 Server [0x20, 2, 0, 0], [0x20, 2, 0, 2];
    mqtt5_publish_of_a_client: V5 Client
        publish5(&[]), publish5(&[&publish_properties()]), publish5(&[&[0x23, 0, 1]]),
        p(0x3D, &[&s("a/b"), &[0, 9], &props(&[]), b"m"]),
        p(0x35, &[&s("a/b"), &[0xFF, 0xFF], &props(&[])]),
        // A topic alias stands for the topic (section 3.3.2.3.4).
        p(0x30, &[&s(""), &props(&[&[0x23, 0xFF, 0xFF]]), b"m"]);
    mqtt5_3_3_4_4_subscription_identifiers_of_a_server: V5 Server
        publish5(&[&[0x0B, 1, 0x0B, 0xFF, 0xFF, 0xFF, 0x7F, 0x0B, 1]]);
    mqtt311_publish: V3_1_1 Client
        p(0x30, &[&s("t"), b"m"]), p(0x3B, &[&s("a//b/"), &[0, 1]]), p(0x34, &[&s(" "), &[1, 0]]);
    mqtt5_1_5_4_3_byte_order_mark_stays: V5 Client
        p(0x30, &[&s("\u{FEFF}a\u{FEFF}"), &[0]]);
    mqtt311_1_5_3_3_byte_order_mark_stays: V3_1_1 Client p(0x30, &[&s("\u{FEFF}a")]);
    mqtt5_4_7_3_3_topics_of_65535_bytes: V5 Client
        p(0x30, &[&s("t".repeat(65_535)), &[0]]),
        p(0x82, &[&[0, 1, 0], &s("é/".repeat(21_845)), &[0]]);
    mqtt5_acknowledgements: V5 Client
        [0x40, 2, 0, 1], [0x50, 2, 0xFF, 0xFF], [0x62, 2, 0, 1], [0x70, 2, 0, 1],
        [0x40, 3, 0, 1, 0x10], [0x50, 3, 0, 1, 0x97], [0x62, 3, 0, 1, 0x92], [0x70, 3, 0, 1, 0x92],
        p(0x40, &[&[0, 1, 0], &reason_string()]), p(0x50, &[&[0, 1, 0x80], &reason_string()]),
        p(0x62, &[&[0, 1, 0], &reason_string()]), p(0x70, &[&[0, 1, 0], &reason_string()]);
    mqtt311_acknowledgements: V3_1_1 Server
        [0x40, 2, 0, 1], [0x50, 2, 0, 1], [0x62, 2, 0, 1], [0x70, 2, 0, 1];
    mqtt5_subscribe: V5 Client
        p(0x82, &[&[0, 1, 0], &s("#"), &[0x2E], &s("$share/g/+/a"), &[0x19]]),
        p(0x82, &[&[0, 1], &props(&[&[0x0B, 0x80, 0x01, 0x26], &s("a"), &s("")]), &s("a"), &[2]]);
    mqtt311_subscribe: V3_1_1 Client
        p(0x82, &[&[0, 1], &s("a/+/#"), &[2], &s("/"), &[0]]),
        // Not yet a shared subscription.
        p(0x82, &[&[0, 1], &s("$share/g"), &[1]]);
    mqtt5_suback: V5 Server
        [0x90, 6, 0, 1, 0, 0, 1, 2], p(0x90, &[&[0, 1], &reason_string(), &[0x80, 0xA2]]);
    mqtt311_suback: V3_1_1 Server [0x90, 6, 0, 1, 0, 1, 2, 0x80];
    mqtt5_unsubscribe: V5 Client
        p(0xA2, &[&[0, 1], &props(&[&[0x26], &s("a"), &s("")]), &s("a"), &s("$share/g/b")]);
    mqtt311_unsubscribe: V3_1_1 Client p(0xA2, &[&[0, 1], &s("a"), &s("+/b")]);
    mqtt5_unsuback: V5 Server
        [0xB0, 5, 0, 1, 0, 0, 0x11], p(0xB0, &[&[0, 1], &reason_string(), &[0x8F]]);
    mqtt311_unsuback: V3_1_1 Server [0xB0, 2, 0, 1];
    pingreq: V3_1_1 Client [0xC0, 0];
    pingresp: V5 Server [0xD0, 0];
    mqtt5_disconnect_of_a_client: V5 Client
        [0xE0, 0], [0xE0, 1, 0x04], p(0xE0, &[&[0], &props(&[&[0x11, 0, 0, 0, 1]])]);
    mqtt5_disconnect_of_a_server: V5 Server
        [0xE0, 1, 0x8E],
        p(0xE0, &[&[0x9C], &props(&[&[0x1C], &s("other"), &[0x1F], &s("full")])]);
    mqtt311_disconnect: V3_1_1 Client [0xE0, 0];
    mqtt5_auth_of_a_client: V5 Client
        p(0xF0, &[&[0x18], &props(&[&[0x15], &s("m"), &[0x16], &s("d")])]),
        p(0xF0, &[&[0x19], &props(&[&[0x15], &s("m")])]);
    mqtt5_auth_of_a_server: V5 Server
        p(0xF0, &[&[0x00], &props(&[&[0x15], &s("m"), &[0x1F], &s("ok")])]), [0xF0, 0];
}

#[test]
fn what_may_be_left_out_means_the_same_when_it_is_there() {
    let cases: [(Sender, &[u8], &[u8]); 5] = [
        (Sender::Client, &[0x40, 2, 0, 1], &[0x40, 4, 0, 1, 0, 0]),
        (Sender::Client, &[0x40, 3, 0, 1, 0x10], &[0x40, 4, 0, 1, 0x10, 0]),
        (Sender::Client, &[0xE0, 0], &[0xE0, 2, 0, 0]),
        (Sender::Client, &[0xE0, 0], &[0xE0, 1, 0]),
        (Sender::Server, &[0xF0, 0], &[0xF0, 2, 0, 0]),
    ];
    for (sender, short, long) in cases {
        let [short, long] = [short, long].map(|bytes| read(bytes, Version::V5, sender).unwrap());
        assert_eq!(short, long);
    }
}

#[test]
fn section_2_2_3_of_3_1_1_does_not_ask_for_the_shortest_length() {
    for (bytes, version) in [
        (&[0xC0, 0x80, 0x00][..], Version::V3_1_1),
        (&[0x30, 0x83, 0x80, 0x00, 0, 1, b't'], Version::V3_1_1),
        (&[0xC0, 0x80, 0x80, 0x80, 0x00], Version::V3_1),
    ] {
        assert!(read(bytes, version, Sender::Client).is_ok());
    }
    let bytes = [&[0x10, 0x8C, 0x00][..], &s("MQTT"), &[4, 2, 0, 0], &s("")].concat();
    assert!(read(&bytes, Version::V3_1_1, Sender::Client).is_ok());
}

#[test]
fn mqtt31_lets_user_name_and_password_be_missing() {
    for (flags, payload, user_name) in
        [(0x82, vec![], None), (0xC2, vec![], None), (0xC2, s("u"), Some("u"))]
    {
        let bytes = connect3(flags, &[&payload]);
        let Packet::Connect(connect) = read(&bytes, Version::V3_1, Sender::Client).unwrap() else {
            panic!()
        };
        assert_eq!((connect.user_name, connect.password), (user_name, None));
    }
}

#[test]
fn mqtt31_may_send_requests_again() {
    for bytes in [
        vec![0x6A, 2, 0, 1],
        p(0x8A, &[&[0, 1], &s("a"), &[0]]),
        p(0xAA, &[&[0, 1], &s("a")]),
        connect3(0x03, &[]),
        // What means nothing without a will.
        connect3(0x2A, &[]),
    ] {
        assert!(read(&bytes, Version::V3_1, Sender::Client).is_ok(), "{bytes:?}");
    }
}

/// Who sends a packet, its bytes before and behind the code, and the codes that it may have.
type Reasons = (Sender, &'static [u8], &'static [u8], &'static [u8]);

/// Codes by packet as sections 3.2.2.2 to 3.15.2.1 list them.
const REASONS: [Reasons; 11] = [
    (
        Sender::Server,
        &[0x20, 3, 0],
        &[0],
        &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90,
            0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
    ),
    (Sender::Client, &[0x40, 3, 0, 1], &[], &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
    (Sender::Server, &[0x50, 3, 0, 1], &[], &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
    (Sender::Client, &[0x62, 3, 0, 1], &[], &[0, 0x92]),
    (Sender::Server, &[0x70, 3, 0, 1], &[], &[0, 0x92]),
    (
        Sender::Server,
        &[0x90, 4, 0, 1, 0],
        &[],
        &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2],
    ),
    (Sender::Server, &[0xB0, 4, 0, 1, 0], &[], &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]),
    (
        Sender::Client,
        &[0xE0, 1],
        &[],
        &[0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99],
    ),
    (
        Sender::Server,
        &[0xE0, 1],
        &[],
        &[
            0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95,
            0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
        ],
    ),
    (Sender::Client, &[0xF0, 6], &[4, 0x15, 0, 1, b'm'], &[0x18, 0x19]),
    (Sender::Server, &[0xF0, 6], &[4, 0x15, 0, 1, b'm'], &[0, 0x18]),
];

#[test]
fn every_packet_takes_its_reason_codes_and_no_others() {
    for (sender, before, after, codes) in REASONS {
        for code in 0..=255 {
            let bytes = [before, &[code], after].concat();
            let result = read(&bytes, Version::V5, sender);
            assert_eq!(result.is_ok(), codes.contains(&code), "{bytes:02X?}: {result:?}");
            if let Err(fault) = result {
                assert_eq!(fault.reason, ReasonCode::PROTOCOL_ERROR, "{bytes:02X?}");
            }
        }
    }
    let named = (0..=255).filter(|code| ReasonCode(*code).name().is_some()).count();
    let mut all: Vec<u8> = REASONS.iter().flat_map(|(.., codes)| codes.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(named, all.len());
}

#[test]
fn return_codes_of_3_1_1_are_read_and_written() {
    for code in 0..=5 {
        let bytes = [0x20, 2, 0, code];
        let Packet::ConnAck(ack) = read(&bytes, Version::V3_1_1, Sender::Server).unwrap() else {
            panic!()
        };
        assert_eq!(ack.reason.return_code(), Some(code));
        let mut written = Vec::new();
        ack.write(Version::V3_1_1, &mut written).unwrap();
        assert_eq!(written, bytes);
    }
}

#[test]
fn mqtt311_3_2_2_6_what_has_no_return_code_is_not_told() {
    let bytes = [0x20, 3, 0, 0x81, 0];
    let packet = read(&bytes, Version::V5, Sender::Server).unwrap();
    let mut written = Vec::new();
    packet.write(Version::V3_1_1, &mut written).unwrap();
    assert!(written.is_empty());
}

#[test]
fn fields_are_what_the_bytes_say() {
    let bytes = connect5(0xEE, &[], &[&will5(&[&[0x18, 0, 0, 0, 5]]), &s("u"), &s("p")]);
    let Packet::Connect(connect) = read(&bytes, Version::V5, Sender::Client).unwrap() else {
        panic!()
    };
    let will = connect.will.unwrap();
    assert_eq!((connect.client_id, connect.keep_alive_s, connect.clean_start), ("id", 60, true));
    assert_eq!((connect.user_name, connect.password), (Some("u"), Some(&b"p"[..])));
    assert_eq!(
        (will.topic, will.payload, will.qos),
        ("will/topic", &b"gone"[..], Qos::AtLeastOnce)
    );
    assert!(will.retain);
    assert_eq!(will.properties.iter().collect::<Vec<_>>(), [Property::WillDelayInterval(5)]);

    let bytes = p(0x82, &[&[0, 7, 0], &s("$share/g/a"), &[0x29], &s("b"), &[0x16]]);
    let Packet::Subscribe(packet) = read(&bytes, Version::V5, Sender::Client).unwrap() else {
        panic!()
    };
    let expected = [
        Subscription {
            filter: "$share/g/a",
            qos: Qos::AtLeastOnce,
            no_local: false,
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
        },
        Subscription {
            filter: "b",
            qos: Qos::ExactlyOnce,
            no_local: true,
            retain_as_published: false,
            retain_handling: RetainHandling::SendIfNew,
        },
    ];
    assert_eq!(packet.subscriptions.iter().collect::<Vec<_>>(), expected);
    assert_eq!(packet.packet_id, 7);
}

#[test]
fn a_connect_that_is_refused_still_tells_its_version() {
    for (bytes, version) in [
        (connect5(3, &[], &[]), Some(Version::V5)),
        (connect4(3, &[]), Some(Version::V3_1_1)),
        (connect3(0x42, &[&s("p")]), Some(Version::V3_1)),
        (p(0x10, &[&s("MQTT"), &[9]]), None),
        (p(0x10, &[]), None),
    ] {
        let frame = frame::next(&bytes, 1000).unwrap().unwrap();
        assert_eq!(announced_version(&frame), version);
    }
}

#[test]
fn section_3_1_2_11_4_too_large_is_told_before_it_has_come() {
    for bytes in [&[0x30, 0xFF, 0xFF, 0xFF, 0x7F][..], &[0x10, 100], &[0x30, 0x80, 0x01, 0, 1]] {
        let fault = frame::next(bytes, 99).unwrap_err();
        assert_eq!(fault.reason, ReasonCode::PACKET_TOO_LARGE, "{bytes:02X?}");
    }
    let fault = frame::next(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], frame::PACKET_BYTES_MAX).unwrap_err();
    assert_eq!(fault.reason, ReasonCode::MALFORMED_PACKET);
    let text = "PUBLISH: Remaining Length: a variable byte integer has four bytes at the most";
    assert_eq!(fault.to_string(), text);
    // Its size is that of the whole packet.
    assert!(frame::next(&[0x30, 97], 99).unwrap().is_none());
    assert!(frame::next(&[0x30, 98], 99).is_err());
}
