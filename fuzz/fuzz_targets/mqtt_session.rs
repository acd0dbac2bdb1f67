//! Whole sessions of MQTT: whatever a client says and a broker answers, nothing breaks the session,
//! what it writes is whole packets that a client may get, no more of them than was asked for, and
//! none behind a goodbye; how the bytes are split changes nothing.

#![no_main]

#[path = "../../protocols/mqtt/tests/common/mod.rs"]
mod common;

use common::rig::{NOW, Rig, delivery, recalled, redelivery};
use common::{connect4, connect5, s};
use isthmus_contract::{
    CloseReason, CommandError, DetachReason, Event, PublishRefusal, Session, Shortage,
};
use isthmus_model::ConsumerId;
use isthmus_mqtt::codec::{Packet, Qos, Sender, Version, frame};
use libfuzzer_sys::fuzz_target;

const TOPICS: [&str; 6] = ["a", "a/b", "b.c/d", "$SYS/a", "/", "ü/long/enough/for/an/alias"];
const FILTERS: [&str; 8] = ["a", "a/+", "#", "$SYS/#", "+/b", "$share/g/a", "$share/g/#", "b.c/d"];
/// What every connection may be told once: CONNACK, and DISCONNECT with a reason.
const GREETING_BYTES_MAX: usize = 1024;
/// A delivery with its topic and properties.
const DELIVERY_BYTES_MAX: usize = 128;

/// A session and what has been said in it.
struct Fuzzed {
    rig: Rig,
    /// None where the client's first packet is arbitrary as well.
    version: Option<Version>,
    is_over: bool,
    heard: usize,
    delivered: usize,
    said: usize,
}

impl Fuzzed {
    fn new(how: u8) -> Fuzzed {
        let secrets: [&[u8]; 2] = [&s("u"), &s("p")];
        let properties = [0x21, 0, how, 0x22, 0, how & 3, 0x27, 0, 0, 0, 16 | how];
        let passing = if how & 4 == 0 { 0xC2 } else { 0xC0 };
        let (version, connect) = match how & 3 {
            0 => (None, Vec::new()),
            1 => (Some(Version::V3_1_1), connect4(passing, &secrets)),
            2 => (Some(Version::V5), connect5(passing, &[&[0x11, 0, 0, 1, 0]], &secrets)),
            _ if how < 8 => (None, Vec::new()),
            _ => (Some(Version::V5), connect5(passing, &[&properties], &secrets)),
        };
        let rig = Rig::new();
        let rig = if version.is_some() { rig.connected(&connect) } else { rig };
        Fuzzed { rig, version, is_over: false, heard: 0, delivered: 0, said: 0 }
    }

    /// Looks at what was written.
    fn check(&mut self, written: &[u8]) {
        self.said += written.len();
        let most = 2 * self.heard + DELIVERY_BYTES_MAX * self.delivered + GREETING_BYTES_MAX;
        assert!(self.said <= most, "{} bytes said of {} heard", self.said, self.heard);
        let Some(version) = self.version else { return };
        let mut rest = written;
        while let Some(frame) = frame::next(rest, frame::PACKET_BYTES_MAX).expect("well-formed") {
            assert!(!self.is_over, "nothing follows a DISCONNECT");
            let packet = Packet::read(&frame, version, Sender::Server).expect("a server's packet");
            self.is_over = matches!(packet, Packet::Disconnect(_));
            rest = &rest[frame.wire_len()..];
        }
        assert!(rest.is_empty(), "a packet is cut");
        if self.is_over {
            assert!(self.rig.session.is_closed());
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.heard += bytes.len();
        let written = self.rig.send(bytes);
        self.check(&written);
    }

    fn event(&mut self, event: Event) {
        let written = self.rig.event(event);
        self.check(&written);
    }

    /// The broker's next word.
    fn answer(&mut self, how: u8) {
        if self.rig.unanswered.is_empty() {
            return;
        }
        let batch = self.rig.unanswered.front().and_then(|(.., batch)| batch.as_ref());
        let records = batch.map_or(0, |batch| batch.records.len() as u32);
        let refusals = [PublishRefusal::Full, PublishRefusal::NoExchange];
        let refusal = refusals[usize::from(how >> 4) % 2];
        let written = match how & 3 {
            0 => self.rig.fail(CommandError::Refused("no".to_owned())),
            1 if records > 0 => self.rig.confirm(&[(u32::from(how >> 2) % records, refusal)]),
            2 => self.rig.confirm_all(),
            _ => self.rig.confirm(&[]),
        };
        self.check(&written);
    }

    fn deliver(&mut self, how: u8, sequence: u64) {
        self.delivered += 1;
        let consumer = u64::from(how & 7);
        let topic = TOPICS[usize::from(how >> 3) % TOPICS.len()];
        let qos = Qos::from_bits(how % 3).expect("up to 2");
        let make = [delivery, redelivery, recalled][usize::from(how >> 6) % 3];
        self.event(make(consumer, qos, topic, sequence));
    }

    /// What else a broker may tell.
    fn tell(&mut self, what: u8) {
        match what & 15 {
            0 => self.event(Event::Closed(CloseReason::TakenOver)),
            1 => self.event(Event::Closed(CloseReason::Shutdown)),
            2 => {
                let consumer = ConsumerId(u64::from(what >> 4));
                self.event(Event::Detached { consumer, reason: DetachReason::QueueDeleted });
            }
            3 => self.event(Event::Pressure(Shortage { memory: true, ..Shortage::NONE })),
            4 => self.event(Event::Pressure(Shortage::NONE)),
            5 => {
                self.rig.session.handle_timeout(NOW);
                let written = self.rig.pump();
                self.check(&written);
            }
            6 => {
                self.rig.session.handle_eof(NOW);
                let written = self.rig.pump();
                self.check(&written);
            }
            7 => self.rig.is_deaf = !self.rig.is_deaf,
            8 => self.rig.refused.push(("bind", CommandError::NotFound("none".to_owned()))),
            9 => self.rig.refused.push(("attach", CommandError::Refused("no".to_owned()))),
            10 => self.rig.refused.clear(),
            _ => self.rig.answers = !self.rig.answers,
        }
    }
}

/// A packet that is mostly right.
fn likely(version: Version, kind: u8, id: u8, what: u8) -> Vec<u8> {
    let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    let topic = TOPICS[usize::from(what) % TOPICS.len()];
    let filter = FILTERS[usize::from(what) % FILTERS.len()];
    match kind & 15 {
        0 => common::p(0x82, &[&[0, id], none, &s(filter), &[what >> 6 & 3]]),
        1 => common::p(0xA2, &[&[0, id], none, &s(filter)]),
        2 | 3 => {
            let qos = what % 3;
            let identifier: &[u8] = if qos == 0 { &[] } else { &[0, id] };
            let first = 0x30 | qos << 1 | what >> 7;
            common::p(first, &[&s(topic), identifier, none, b"m"])
        }
        4 => vec![0x40, 2, 0, id],
        5 => vec![0x50, 2, 0, id],
        6 => vec![0x62, 2, 0, id],
        7 => vec![0x70, 2, 0, id],
        8 => vec![0x50, 3, 0, id, 0x80],
        9 => vec![0xC0, 0],
        10 => vec![0xE0, 0],
        11 => vec![0x3C, 0],
        _ => vec![kind, what],
    }
}

/// Anything in any order.
fn anything(how: u8, mut data: &[u8]) {
    let mut fuzzed = Fuzzed::new(how);
    let mut sequence = 0;
    while let Some(([step, what], rest)) = data.split_first_chunk() {
        data = rest;
        match step & 7 {
            0 => {
                let (bytes, rest) = data.split_at(usize::from(*what).min(data.len()));
                data = rest;
                for piece in bytes.chunks(1 + usize::from(step >> 3)) {
                    fuzzed.hear(piece);
                }
            }
            1 | 2 => {
                let version = fuzzed.version.unwrap_or(Version::V5);
                let Some((kind, rest)) = data.split_first() else { break };
                data = rest;
                fuzzed.hear(&likely(version, *kind, step >> 3, *what));
            }
            3 => fuzzed.answer(*what),
            4 | 5 => {
                sequence += 1 + u64::from(step >> 3);
                fuzzed.deliver(*what, sequence);
            }
            6 => fuzzed.tell(*what),
            _ => fuzzed.answer(3),
        }
    }
    let written = fuzzed.rig.confirm_all();
    fuzzed.check(&written);
}

/// The same conversation, with a broker that does what it is asked, whole and in pieces.
fn split(how: u8, piece: usize, data: &[u8]) {
    let run = |piece: usize| {
        let mut fuzzed = Fuzzed::new(how);
        let mut written = Vec::new();
        for part in data.chunks(piece) {
            fuzzed.heard += part.len();
            let said = fuzzed.rig.send(part);
            fuzzed.check(&said);
            written.extend(said);
        }
        // What each read brought is answered together: the order among those differs.
        written.sort_unstable();
        (fuzzed.rig.session.is_closed(), fuzzed.rig.world, written)
    };
    let (whole, pieces) = (run(data.len().max(1)), run(piece));
    assert_eq!((whole.0, &whole.1), (pieces.0, &pieces.1));
    // An acknowledgement that was due at the end of the read in which the connection ends is lost.
    if !whole.0 {
        assert_eq!(whole.2, pieces.2);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(([mode, how], data)) = data.split_first_chunk() else { return };
    if mode & 1 == 0 {
        anything(*how, data);
    } else if data.len() <= 4096 {
        // More would reach limits of what may be under way, which are of a read.
        split(*how, 1 + usize::from(mode >> 1), data);
    }
});
