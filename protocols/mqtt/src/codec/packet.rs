//! Any packet.

use super::ack::{Ack, AckKind};
use super::connack::ConnAck;
use super::connect::Connect;
use super::control::{Auth, Disconnect};
use super::frame::{Frame, Kind};
use super::publish::Publish;
use super::subscribe::{SubAck, Subscribe, UnsubAck, Unsubscribe};
use super::{Sender, Version};
use crate::fault::{Fault, Problem, TooLong};

/// A packet; it refers to the bytes that it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Section 3.1.
    Connect(Connect<'a>),
    /// Section 3.2.
    ConnAck(ConnAck<'a>),
    /// Section 3.3.
    Publish(Publish<'a>),
    /// Sections 3.4 to 3.7.
    Ack(AckKind, Ack<'a>),
    /// Section 3.8.
    Subscribe(Subscribe<'a>),
    /// Section 3.9.
    SubAck(SubAck<'a>),
    /// Section 3.10.
    Unsubscribe(Unsubscribe<'a>),
    /// Section 3.11.
    UnsubAck(UnsubAck<'a>),
    /// Section 3.12.
    PingReq,
    /// Section 3.13.
    PingResp,
    /// Section 3.14.
    Disconnect(Disconnect<'a>),
    /// Section 3.15.
    Auth(Auth<'a>),
}

impl<'a> Packet<'a> {
    /// Reads the packet of `frame`, which `sender` has sent in `version`; a CONNECT tells its
    /// version itself.
    ///
    /// # Errors
    /// If it breaks the specification in a way that can be seen in it alone.
    pub fn read(frame: &Frame<'a>, version: Version, sender: Sender) -> Result<Packet<'a>, Fault> {
        let kind = frame.kind();
        check_sender(kind, version, sender)?;
        match kind {
            Kind::Connect => return Connect::read(frame).map(Packet::Connect),
            Kind::Publish => return Publish::read(frame, version, sender).map(Packet::Publish),
            _ => check_header(frame, version)?,
        }
        let ack = |kind| Ok(Packet::Ack(kind, Ack::read(frame, version, kind)?));
        let empty = |packet| match frame.body.len() {
            0 => Ok(packet),
            len => Err(Fault::malformed(kind, "end", Problem::Trailing(len))),
        };
        match kind {
            Kind::ConnAck => ConnAck::read(frame, version).map(Packet::ConnAck),
            Kind::PubAck => ack(AckKind::PubAck),
            Kind::PubRec => ack(AckKind::PubRec),
            Kind::PubRel => ack(AckKind::PubRel),
            Kind::PubComp => ack(AckKind::PubComp),
            Kind::Subscribe => Subscribe::read(frame, version).map(Packet::Subscribe),
            Kind::SubAck => SubAck::read(frame, version).map(Packet::SubAck),
            Kind::Unsubscribe => Unsubscribe::read(frame, version).map(Packet::Unsubscribe),
            Kind::UnsubAck => UnsubAck::read(frame, version).map(Packet::UnsubAck),
            Kind::PingReq => empty(Packet::PingReq),
            Kind::PingResp => empty(Packet::PingResp),
            Kind::Disconnect => Disconnect::read(frame, version, sender).map(Packet::Disconnect),
            Kind::Auth => Auth::read(frame, sender).map(Packet::Auth),
            Kind::Reserved | Kind::Connect | Kind::Publish => {
                Err(Fault::malformed(kind, "packet type", Problem::Value(kind as u64)))
            }
        }
    }

    /// Appends it.
    ///
    /// # Errors
    /// If a field is too long for it; `out` is then as it was.
    pub fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), TooLong> {
        match self {
            Packet::Connect(packet) => packet.write(out),
            Packet::ConnAck(packet) => packet.write(version, out),
            Packet::Publish(packet) => packet.write(version, out),
            Packet::Ack(kind, packet) => packet.write(*kind, version, out),
            Packet::Subscribe(packet) => packet.write(version, out),
            Packet::SubAck(packet) => packet.write(version, out),
            Packet::Unsubscribe(packet) => packet.write(version, out),
            Packet::UnsubAck(packet) => packet.write(version, out),
            Packet::PingReq => {
                out.extend_from_slice(&[Kind::PingReq.first_byte(), 0]);
                Ok(())
            }
            Packet::PingResp => {
                out.extend_from_slice(&[Kind::PingResp.first_byte(), 0]);
                Ok(())
            }
            Packet::Disconnect(packet) => packet.write(version, out),
            Packet::Auth(packet) => packet.write(out),
        }
    }
}

/// Refuses what `sender` never sends in `version` (table 2-1).
fn check_sender(kind: Kind, version: Version, sender: Sender) -> Result<(), Fault> {
    let is_sent = match kind {
        Kind::Connect | Kind::Subscribe | Kind::Unsubscribe | Kind::PingReq => {
            sender == Sender::Client
        }
        Kind::ConnAck | Kind::SubAck | Kind::UnsubAck | Kind::PingResp => sender == Sender::Server,
        Kind::Disconnect => sender == Sender::Client || version == Version::V5,
        Kind::Auth => version == Version::V5,
        _ => true,
    };
    if is_sent {
        return Ok(());
    }
    Err(Fault::protocol(kind, "packet type", Problem::NotHere(version.as_str())))
}

/// Checks the fixed header of a packet other than CONNECT and PUBLISH: flags ([MQTT-2.1.3-1],
/// [MQTT-2.2.2-1 of 3.1.1]) and how its length is written [MQTT-1.5.5-1].
fn check_header(frame: &Frame<'_>, version: Version) -> Result<(), Fault> {
    /// In 3.1 requests and releases may be sent again, and say so (its section 2.1).
    const DUP: u8 = 0x08;
    let kind = frame.kind();
    let expected = kind.first_byte() & 0x0F;
    let found = frame.first & 0x0F;
    let may_differ = if version == Version::V3_1 && expected != 0 { DUP } else { 0 };
    if found & !may_differ != expected {
        let problem = Problem::ReservedBits { found, expected };
        return Err(Fault::malformed(kind, "fixed header flags", problem));
    }
    if version == Version::V5 && !frame.is_minimal() {
        return Err(Fault::malformed(kind, "Remaining Length", Problem::NotMinimal));
    }
    Ok(())
}
