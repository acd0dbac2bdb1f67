//! Packets as bytes, and what the tables of packets are made of.

#![allow(clippy::unwrap_used)] // a failed test may panic
#![allow(dead_code, unused_macros, unused_imports, unreachable_pub)] // each file takes its part

pub mod faults;
pub mod rig;

use isthmus_mqtt::codec::{Packet, Sender, Version, frame};
use isthmus_mqtt::{Fault, ReasonCode};

/// A packet of `parts` behind `first` and a length.
pub fn p(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut packet = vec![first];
    frame::write_varint(&mut packet, body.len() as u32);
    packet.extend(body);
    packet
}

/// A string, or binary data, behind its length.
pub fn s(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u16).to_be_bytes(), text].concat()
}

/// Properties behind their length.
pub fn props(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = Vec::new();
    frame::write_varint(&mut out, body.len() as u32);
    out.extend(body);
    out
}

/// A CONNECT of 5.0 with `flags`, `properties` and `payload`, which does not begin with a client
/// identifier.
pub fn connect5(flags: u8, properties: &[&[u8]], payload: &[&[u8]]) -> Vec<u8> {
    let payload = payload.concat();
    p(0x10, &[&s("MQTT"), &[5, flags, 0, 60], &props(properties), &s("id"), &payload])
}

/// A CONNECT of 3.1.1 likewise.
pub fn connect4(flags: u8, payload: &[&[u8]]) -> Vec<u8> {
    p(0x10, &[&s("MQTT"), &[4, flags, 0, 60], &s("id"), &payload.concat()])
}

/// A CONNECT of 3.1 likewise.
pub fn connect3(flags: u8, payload: &[&[u8]]) -> Vec<u8> {
    p(0x10, &[&s("MQIsdp"), &[3, flags, 0, 60], &s("id"), &payload.concat()])
}

/// A QoS 0 PUBLISH of 5.0 to `t` with `properties`.
pub fn publish5(properties: &[&[u8]]) -> Vec<u8> {
    p(0x30, &[&s("t"), &props(properties), b"payload"])
}

/// A will's property list, topic and payload, of 5.0.
pub fn will5(properties: &[&[u8]]) -> Vec<u8> {
    [props(properties), s("will/topic"), s("gone")].concat()
}

/// The first packet of `bytes`, which must be whole.
pub fn read(bytes: &[u8], version: Version, sender: Sender) -> Result<Packet<'_>, Fault> {
    let frame = frame::next(bytes, frame::PACKET_BYTES_MAX)?.expect("a whole packet");
    assert_eq!(frame.wire_len(), bytes.len());
    Packet::read(&frame, version, sender)
}

/// Refuses `bytes` for `reason`, and says `text`.
#[track_caller]
pub fn refuses(version: Version, sender: Sender, bytes: &[u8], reason: ReasonCode, text: &str) {
    let fault = match read(bytes, version, sender) {
        Ok(packet) => panic!("taken as {packet:?}"),
        Err(fault) => fault,
    };
    assert_eq!((fault.to_string().as_str(), fault.reason), (text, reason));
}

/// Takes `bytes`, and writes them again as they were.
#[track_caller]
pub fn takes(version: Version, sender: Sender, bytes: &[u8]) {
    let packet = read(bytes, version, sender).unwrap_or_else(|fault| panic!("{fault}"));
    let mut written = Vec::new();
    packet.write(version, &mut written).unwrap();
    assert_eq!(written, bytes, "{packet:?}");
}

/// Tests that packets are refused.
macro_rules! refused {
    ($($name:ident: $version:ident $sender:ident $bytes:expr => $reason:ident $text:literal;)*) => {
        $(#[test]
        fn $name() {
            use isthmus_mqtt::{ReasonCode, codec::{Sender, Version}};
            let bytes: &[u8] = &$bytes;
            common::refuses(Version::$version, Sender::$sender, bytes, ReasonCode::$reason, $text);
        })*
    };
}

/// Tests that packets are taken, and written as they were.
macro_rules! taken {
    ($($name:ident: $version:ident $sender:ident $($bytes:expr),+;)*) => {
        $(#[test]
        fn $name() {
            use isthmus_mqtt::codec::{Sender, Version};
            $(
                let bytes: &[u8] = &$bytes;
                common::takes(Version::$version, Sender::$sender, bytes);
            )+
        })*
    };
}

pub(crate) use {refused, taken};
