//! CONNECT (section 3.1; section 3.1 of 3.1.1 and of 3.1).

use super::frame::{self, Frame, Kind};
use super::property::{Owner, Properties};
use super::reader::{Reader, write_binary};
use super::{Qos, Version, topic};
use crate::ReasonCode;
use crate::fault::{Fault, Problem, TooLong};

const USER_NAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL_QOS_SHIFT: u32 = 3;
const WILL: u8 = 0x04;
const CLEAN_START: u8 = 0x02;
const RESERVED: u8 = 0x01;

const FLAGS: &str = "Connect Flags";

/// A client's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// What it speaks from here on.
    pub version: Version,
    /// Whether an earlier session is forgotten: Clean Start of 5.0, Clean Session of the others
    /// (where the session also ends with the connection).
    pub clean_start: bool,
    /// Seconds without a packet after one and a half of which the client counts as gone; 0 for
    /// any number.
    pub keep_alive_s: u16,
    /// None before 5.0.
    pub properties: Properties<'a>,
    /// Empty if the server is to choose one.
    pub client_id: &'a str,
    /// What is published when the connection ends badly.
    pub will: Option<Will<'a>>,
    /// The user's name.
    pub user_name: Option<&'a str>,
    /// The password, or whatever else proves it.
    pub password: Option<&'a [u8]>,
}

/// A message that is published for a client that is gone (section 3.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// Its QoS.
    pub qos: Qos,
    /// Whether it is retained.
    pub retain: bool,
    /// None before 5.0.
    pub properties: Properties<'a>,
    /// Its topic's name.
    pub topic: &'a str,
    /// What it says.
    pub payload: &'a [u8],
}

/// The version that a CONNECT announces, whatever else is wrong with it: what an answer to it is
/// written in. `None` if it is none that is known.
pub fn announced_version(frame: &Frame<'_>) -> Option<Version> {
    read_version(&mut Reader::new(frame.body, Kind::Connect)).ok()
}

fn read_version(r: &mut Reader<'_>) -> Result<Version, Fault> {
    let name = r.binary("Protocol Name")?;
    let level = r.u8("Protocol Level")?;
    match (name, level) {
        (b"MQTT", 5) => Ok(Version::V5),
        (b"MQTT", 4) => Ok(Version::V3_1_1),
        (b"MQIsdp", 3) => Ok(Version::V3_1),
        _ => {
            let reason = ReasonCode::UNSUPPORTED_PROTOCOL_VERSION;
            let field = "Protocol Name and Level";
            Err(Fault::because(reason, Kind::Connect, field, Problem::UnknownProtocol))
        }
    }
}

impl<'a> Connect<'a> {
    /// Reads a CONNECT.
    ///
    /// # Errors
    /// If it does not follow the version that it announces. The reason is the one for the
    /// CONNACK.
    pub fn read(frame: &Frame<'a>) -> Result<Connect<'a>, Fault> {
        let mut r = Reader::new(frame.body, Kind::Connect);
        if frame.first != Kind::Connect.first_byte() {
            let problem = Problem::ReservedBits { found: frame.first & 0x0F, expected: 0 };
            return Err(r.malformed("fixed header flags", problem));
        }
        let version = read_version(&mut r)?;
        if version == Version::V5 && !frame.is_minimal() {
            return Err(r.malformed("Remaining Length", Problem::NotMinimal));
        }
        let flags = r.u8(FLAGS)?;
        check_flags(&r, version, flags)?;
        let keep_alive_s = r.u16("Keep Alive")?;
        let properties = read_properties(&mut r, version, Owner::CONNECT)?;
        let client_id = r.string("Client Identifier")?;
        let clean_start = flags & CLEAN_START != 0;
        check_client_id(version, client_id, clean_start)?;
        let will = if flags & WILL != 0 { Some(read_will(&mut r, version, flags)?) } else { None };
        // 3.1 lets the length have the last word: user name and password may be missing although
        // their flags are set (its section 3.1, "User name and password flags").
        let is_there =
            |r: &Reader<'_>, flag| flags & flag != 0 && !(version == Version::V3_1 && r.is_empty());
        let user_name = if is_there(&r, USER_NAME) { Some(r.string("User Name")?) } else { None };
        let password = if is_there(&r, PASSWORD) { Some(r.binary("Password")?) } else { None };
        r.finish()?;
        Ok(Connect {
            version,
            clean_start,
            keep_alive_s,
            properties,
            client_id,
            will,
            user_name,
            password,
        })
    }

    /// Appends it.
    ///
    /// # Errors
    /// If a field is too long for it; `out` is then as it was.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        frame::write(out, Kind::Connect.first_byte(), |out| {
            let (name, level) = self.version.name_and_level();
            write_binary(out, name.as_bytes(), "Protocol Name")?;
            out.extend_from_slice(&[level, self.flags()]);
            out.extend_from_slice(&self.keep_alive_s.to_be_bytes());
            if self.version.has_properties() {
                self.properties.write(out)?;
            }
            write_binary(out, self.client_id.as_bytes(), "Client Identifier")?;
            if let Some(will) = &self.will {
                if self.version.has_properties() {
                    will.properties.write(out)?;
                }
                write_binary(out, will.topic.as_bytes(), "Will Topic")?;
                write_binary(out, will.payload, "Will Payload")?;
            }
            if let Some(name) = self.user_name {
                write_binary(out, name.as_bytes(), "User Name")?;
            }
            self.password.map_or(Ok(()), |password| write_binary(out, password, "Password"))
        })
    }

    fn flags(&self) -> u8 {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let will = self.will.as_ref().map_or(0, |will| {
            WILL | will.qos.bits() << WILL_QOS_SHIFT | flag(will.retain, WILL_RETAIN)
        });
        flag(self.user_name.is_some(), USER_NAME)
            | flag(self.password.is_some(), PASSWORD)
            | flag(self.clean_start, CLEAN_START)
            | will
    }
}

/// Checks what flags say by themselves (section 3.1.2.3 to 3.1.2.9).
fn check_flags(r: &Reader<'_>, version: Version, flags: u8) -> Result<(), Fault> {
    // 3.1 reserves the bit without saying what it must be.
    if flags & RESERVED != 0 && version != Version::V3_1 {
        let expected = flags & !RESERVED;
        return Err(r.malformed(FLAGS, Problem::ReservedBits { found: flags, expected }));
    }
    let will_qos = flags >> WILL_QOS_SHIFT & 3;
    if Qos::from_bits(will_qos).is_none() {
        return Err(r.malformed("Will QoS", Problem::Value(3)));
    }
    // In 3.1 they mean nothing without a will.
    if flags & WILL == 0 && version != Version::V3_1 {
        if will_qos != 0 {
            return Err(r.malformed("Will QoS", Problem::Without("Will Flag")));
        }
        if flags & WILL_RETAIN != 0 {
            return Err(r.malformed("Will Retain", Problem::Without("Will Flag")));
        }
    }
    if flags & PASSWORD != 0 && flags & USER_NAME == 0 && version != Version::V5 {
        return Err(r.malformed("Password Flag", Problem::Without("User Name Flag")));
    }
    Ok(())
}

/// Checks what a version says of client identifiers; servers may be stricter. 3.1 limits them to
/// 23 characters, which no server does: longer ones are taken.
fn check_client_id(version: Version, id: &str, clean_start: bool) -> Result<(), Fault> {
    let problem = match version {
        Version::V3_1 if id.is_empty() => Problem::Empty,
        Version::V3_1_1 if id.is_empty() && !clean_start => Problem::Without("Clean Session"),
        _ => return Ok(()),
    };
    let reason = ReasonCode::CLIENT_IDENTIFIER_NOT_VALID;
    Err(Fault::because(reason, Kind::Connect, "Client Identifier", problem))
}

fn read_will<'a>(r: &mut Reader<'a>, version: Version, flags: u8) -> Result<Will<'a>, Fault> {
    const TOPIC: &str = "Will Topic";
    let properties = read_properties(r, version, Owner::WILL)?;
    let topic = r.string(TOPIC)?;
    topic::check_name(topic, Kind::Connect, TOPIC)?;
    let payload = r.binary("Will Payload")?;
    Ok(Will {
        qos: Qos::from_bits(flags >> WILL_QOS_SHIFT & 3).unwrap_or_default(),
        retain: flags & WILL_RETAIN != 0,
        properties,
        topic,
        payload,
    })
}

/// The properties of a packet in `version`: none before 5.0.
#[inline]
pub(super) fn read_properties<'a>(
    r: &mut Reader<'a>,
    version: Version,
    owner: Owner,
) -> Result<Properties<'a>, Fault> {
    if version.has_properties() { Properties::read(r, owner) } else { Ok(Properties::NONE) }
}
