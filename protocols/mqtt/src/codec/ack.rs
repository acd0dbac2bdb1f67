//! PUBACK, PUBREC, PUBREL and PUBCOMP (section 3.4 to 3.7).

use super::Version;
use super::frame::{self, Frame, Kind};
use super::property::{Owner, Properties};
use super::reader::Reader;
use crate::fault::{Fault, Problem, TooLong};
use crate::reason::{Place, ReasonCode};

/// Which of the four it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AckKind {
    /// A QoS 1 publish has been taken.
    PubAck,
    /// A QoS 2 publish has been taken.
    PubRec,
    /// Its packet identifier may be forgotten.
    PubRel,
    /// It has been.
    PubComp,
}

impl AckKind {
    /// The kind of packet.
    pub fn kind(self) -> Kind {
        match self {
            AckKind::PubAck => Kind::PubAck,
            AckKind::PubRec => Kind::PubRec,
            AckKind::PubRel => Kind::PubRel,
            AckKind::PubComp => Kind::PubComp,
        }
    }

    fn place(self) -> Place {
        match self {
            AckKind::PubAck => Place::PUBACK,
            AckKind::PubRec => Place::PUBREC,
            AckKind::PubRel => Place::PUBREL,
            AckKind::PubComp => Place::PUBCOMP,
        }
    }
}

/// What is said about a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The publish's packet identifier.
    pub packet_id: u16,
    /// How it went; always success before 5.0.
    pub reason: ReasonCode,
    /// None before 5.0.
    pub properties: Properties<'a>,
}

impl<'a> Ack<'a> {
    /// That all went well, and nothing more.
    pub fn success(packet_id: u16) -> Ack<'static> {
        Ack { packet_id, reason: ReasonCode::SUCCESS, properties: Properties::NONE }
    }

    pub(super) fn read(
        frame: &Frame<'a>,
        version: Version,
        kind: AckKind,
    ) -> Result<Ack<'a>, Fault> {
        let mut r = Reader::new(frame.body, kind.kind());
        let mut ack = Ack::success(r.packet_id()?);
        if version.has_properties() {
            let (reason, properties) = read_reason(&mut r, kind.place(), Owner::ACK)?;
            ack = Ack { reason, properties, ..ack };
        }
        r.finish()?;
        Ok(ack)
    }

    /// Appends it as a packet of `kind`, as short as it can be: 5.0 lets success and properties
    /// go without saying (section 3.4.2.1).
    ///
    /// # Errors
    /// If the properties are too long for it; `out` is then as it was.
    #[inline]
    pub fn write(&self, kind: AckKind, version: Version, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let first = kind.kind().first_byte();
        let [id0, id1] = self.packet_id.to_be_bytes();
        if !version.has_properties()
            || self.reason == ReasonCode::SUCCESS && self.properties.is_empty()
        {
            out.extend_from_slice(&[first, 2, id0, id1]);
            return Ok(());
        }
        frame::write(out, first, |out| {
            out.extend_from_slice(&[id0, id1]);
            write_reason(out, self.reason, self.properties)
        })
    }
}

/// Bytes of a PUBACK that says success and nothing more (section 3.4.2.1).
pub(crate) const PUB_ACK_BYTES: usize = 4;

/// The PUBACKs of [`PUB_ACK_BYTES`] that `bytes` begin with, as long as each names the packet
/// identifier after that of the one before: the first identifier, and how many.
pub(crate) fn pub_acks(bytes: &[u8]) -> Option<(u16, u16)> {
    let id_of = |packet: &[u8; PUB_ACK_BYTES]| match *packet {
        [first, 2, id0, id1] if Kind::PubAck.first_byte() == first => {
            Some(u16::from_be_bytes([id0, id1]))
        }
        _ => None,
    };
    let (packets, _) = bytes.as_chunks::<PUB_ACK_BYTES>();
    let first = id_of(packets.first()?)?;
    let ids = first..=u16::MAX;
    let len = packets.iter().zip(ids).take_while(|(packet, id)| id_of(packet) == Some(*id)).count();
    Some((first, u16::try_from(len).unwrap_or(u16::MAX)))
}

/// A reason code that may be missing, and then is success, with properties that may be, too
/// (section 3.4.2.1, 3.14.2.1, 3.15.2.1).
pub(super) fn read_reason<'a>(
    r: &mut Reader<'a>,
    place: Place,
    owner: Owner,
) -> Result<(ReasonCode, Properties<'a>), Fault> {
    const FIELD: &str = "Reason Code";
    if r.is_empty() {
        return Ok((ReasonCode::SUCCESS, Properties::NONE));
    }
    let reason = ReasonCode(r.u8(FIELD)?);
    if !reason.is_for(place) {
        return Err(r.protocol(FIELD, Problem::Value(u64::from(reason.0))));
    }
    let properties = if r.is_empty() { Properties::NONE } else { Properties::read(r, owner)? };
    Ok((reason, properties))
}

/// Appends what [`read_reason`] reads, as short as it can be.
pub(super) fn write_reason(
    out: &mut Vec<u8>,
    reason: ReasonCode,
    properties: Properties<'_>,
) -> Result<(), TooLong> {
    if properties.is_empty() {
        if reason != ReasonCode::SUCCESS {
            out.push(reason.0);
        }
        return Ok(());
    }
    out.push(reason.0);
    properties.write(out)
}
