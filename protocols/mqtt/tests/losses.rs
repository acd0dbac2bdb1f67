//! Connections that are lost at any time, and clients that come back: exactly once is exactly once.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::p;
use common::rig::{Rig, delivery_of};
use isthmus_contract::{Event, Session};
use isthmus_model::Delivery;
use isthmus_mqtt::codec::{AckKind, Packet, Qos, Sender, Version, frame};
use proptest::collection::vec;
use proptest::prelude::*;

/// Messages each way.
const MESSAGES: u16 = 6;

/// How far a client is with a message that it publishes.
#[derive(Clone, Copy, PartialEq)]
enum Sent {
    Published,
    Recorded,
    Complete,
}

/// A client as the specification wants it, and what it remembers.
#[derive(Default)]
struct Client {
    sent: BTreeMap<u16, Sent>,
    /// Packet identifiers of deliveries that it has recorded.
    recorded: BTreeSet<u16>,
    received: Vec<String>,
    /// What it has to say.
    out: Vec<Vec<u8>>,
}

fn ack(first: u8, id: u16) -> Vec<u8> {
    p(first, &[&id.to_be_bytes()])
}

fn publish(first: u8, id: u16) -> Vec<u8> {
    p(first, &[&common::s("mine"), &id.to_be_bytes(), &[0], id.to_string().as_bytes()])
}

impl Client {
    /// Says again what is not complete.
    fn is_back(&mut self) {
        self.out.clear();
        for (id, sent) in &self.sent {
            match sent {
                Sent::Published => self.out.push(publish(0x3C, *id)),
                Sent::Recorded => self.out.push(ack(0x62, *id)),
                Sent::Complete => {}
            }
        }
    }

    fn publish_next(&mut self) {
        let id = self.sent.len() as u16 + 1;
        if id <= MESSAGES {
            self.sent.insert(id, Sent::Published);
            self.out.push(publish(0x34, id));
        }
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = frame::next(bytes, frame::PACKET_BYTES_MAX).unwrap() {
            bytes = &bytes[frame.wire_len()..];
            match Packet::read(&frame, Version::V5, Sender::Server).unwrap() {
                Packet::Publish(publish) => {
                    assert_eq!(publish.qos, Qos::ExactlyOnce);
                    if self.recorded.insert(publish.packet_id) {
                        self.received.push(publish.topic.to_owned());
                    }
                    self.out.push(ack(0x50, publish.packet_id));
                }
                Packet::Ack(AckKind::PubRel, release) => {
                    self.recorded.remove(&release.packet_id);
                    self.out.push(ack(0x70, release.packet_id));
                }
                Packet::Ack(AckKind::PubRec, record) => {
                    assert!(!record.reason.is_error());
                    self.sent.insert(record.packet_id, Sent::Recorded);
                    self.out.push(ack(0x62, record.packet_id));
                }
                Packet::Ack(AckKind::PubComp, complete) => {
                    self.sent.insert(complete.packet_id, Sent::Complete);
                }
                Packet::ConnAck(ack) => assert!(!ack.reason.is_error()),
                Packet::SubAck(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn is_done(&self) -> bool {
        self.out.is_empty()
            && self.sent.len() == usize::from(MESSAGES)
            && self.sent.values().all(|sent| *sent == Sent::Complete)
    }
}

/// The client's connection, and what the broker has sent on it.
struct Line {
    rig: Rig,
    delivered: BTreeSet<u64>,
}

impl Line {
    /// The first connection, subscribed to everything.
    fn first() -> Line {
        let mut rig = Rig::lasting();
        rig.send(&p(0x82, &[&[0, 99, 0], &common::s("#"), &[0x22]]));
        rig.answers = false;
        Line { rig, delivered: BTreeSet::new() }
    }

    /// Another one, on which the client goes on.
    fn again(&self, client: &mut Client) -> Line {
        let mut rig = self.rig.again();
        let written = rig.send(&Rig::lasting_connect());
        client.is_back();
        client.hear(&written);
        rig.answers = false;
        Line { rig, delivered: BTreeSet::new() }
    }

    /// Delivers the next message that is in the queue.
    fn deliver(&mut self) -> Vec<u8> {
        let next = (1..=u64::from(MESSAGES))
            .find(|n| !self.rig.world.settled.contains(n) && !self.delivered.contains(n));
        let Some(sequence) = next else { return Vec::new() };
        self.delivered.insert(sequence);
        let delivery = delivery_of(1, Qos::ExactlyOnce, &format!("m/{sequence}"), sequence);
        self.rig.event(Event::Deliveries(vec![Delivery { redelivered: true, ..delivery }]))
    }

    fn say(&mut self, client: &mut Client) {
        if !client.out.is_empty() {
            let bytes = client.out.remove(0);
            let written = self.rig.send(&bytes);
            client.hear(&written);
        }
    }

    fn confirm(&mut self) -> Vec<u8> {
        if self.rig.unanswered.is_empty() { Vec::new() } else { self.rig.confirm(&[]) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn mqtt5_4_4_0_1_exactly_once_survives_every_loss(steps in vec(0u8..24, 0..120)) {
        let (mut client, mut line) = (Client::default(), Line::first());
        for step in steps {
            match step {
                0..4 => client.publish_next(),
                4..12 => line.say(&mut client),
                12..16 => {
                    let written = line.deliver();
                    client.hear(&written);
                }
                16..21 => {
                    let written = line.confirm();
                    client.hear(&written);
                }
                // The connection is lost: with what the client has just said, before the broker
                // hears of it; with what the client would have heard; or with nothing.
                21 => {
                    line.rig.is_deaf = true;
                    line.rig.send(&client.out.concat());
                    line = line.again(&mut client);
                }
                22 => {
                    line.rig.send(&client.out.concat());
                    line.rig.confirm_all();
                    line = line.again(&mut client);
                }
                _ => line = line.again(&mut client),
            }
            prop_assert!(!line.rig.session.is_closed());
        }
        // Now nothing is lost any more.
        line = line.again(&mut client);
        line.rig.answers = true;
        for _ in 0..200 {
            client.publish_next();
            let written = line.deliver();
            client.hear(&written);
            line.say(&mut client);
        }
        prop_assert!(client.is_done());
        let mut published = line.rig.world.published.clone();
        published.sort_unstable();
        let expected: Vec<String> =
            (1..=MESSAGES).map(|n| format!("amq.topic mine {n} durable")).collect();
        prop_assert_eq!(published, expected);
        client.received.sort_unstable();
        let expected: Vec<String> = (1..=MESSAGES).map(|n| format!("m/{n}")).collect();
        prop_assert_eq!(client.received, expected);
        prop_assert!(line.rig.world.notes.keys().all(|key| matches!(key[0], b's' | b'q')));
    }

    /// Packets in any order, with whatever the broker says to them: the session never panics, and
    /// what it writes is well-formed.
    #[test]
    fn whatever_comes_is_answered_in_order(
        lasts in any::<bool>(),
        steps in vec((0u8..16, 1u8..4), 0..80),
    ) {
        let mut rig = if lasts { Rig::lasting() } else { Rig::accepted() };
        rig.answers = false;
        let (mut sequence, mut is_over) = (0, false);
        for (step, id) in steps {
            let filter = ["#", "a/+", "$share/g/a"][usize::from(id - 1)];
            let id16 = u16::from(id);
            let written = match step {
                0 => rig.send(&publish(0x34, id16)),
                1 => rig.send(&publish(0x3C, id16)),
                2 => rig.send(&publish(0x32, id16)),
                3 => rig.send(&ack(0x62, id16)),
                4 => rig.send(&ack(0x50, id16)),
                5 => rig.send(&ack(0x40, id16)),
                6 => rig.send(&ack(0x70, id16)),
                7 => rig.send(&p(0x82, &[&[0, id, 0], &common::s(filter), &[id - 1]])),
                8 => rig.send(&p(0xA2, &[&[0, id, 0], &common::s(filter)])),
                9..12 => {
                    sequence += 1;
                    let consumer = [0, 1, 4][usize::from(id - 1)];
                    let qos = Qos::from_bits(step - 9).unwrap();
                    rig.event(Event::Deliveries(vec![delivery_of(consumer, qos, "a", sequence)]))
                }
                12 | 13 if !rig.unanswered.is_empty() => rig.confirm(&[]),
                14 if !rig.unanswered.is_empty() => {
                    rig.fail(isthmus_contract::CommandError::Refused("no".to_owned()))
                }
                _ => rig.confirm_all(),
            };
            let mut bytes = &written[..];
            while let Some(frame) = frame::next(bytes, frame::PACKET_BYTES_MAX).unwrap() {
                prop_assert!(!is_over, "nothing follows a DISCONNECT");
                let packet = Packet::read(&frame, Version::V5, Sender::Server).unwrap();
                is_over = matches!(packet, Packet::Disconnect(_));
                bytes = &bytes[frame.wire_len()..];
            }
            prop_assert_eq!(is_over, rig.session.is_closed());
            prop_assert!(bytes.is_empty());
        }
    }
}
