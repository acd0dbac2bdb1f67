//! CONNACK (section 3.2).

use super::Version;
use super::connect::read_properties;
use super::frame::{self, Frame, Kind};
use super::property::{Owner, Properties};
use super::reader::Reader;
use crate::fault::{Fault, Problem, TooLong};
use crate::reason::{Place, ReasonCode};

/// The server's answer to a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Whether the server has gone on with an earlier session; never in 3.1, which cannot say it.
    pub session_present: bool,
    /// How it went. Before 5.0 it is written as the return code that it corresponds to.
    pub reason: ReasonCode,
    /// None before 5.0.
    pub properties: Properties<'a>,
}

/// Return codes of 3.1 and 3.1.1 by their number (3.1.1 section 3.2.2.3).
const RETURN_CODES: [ReasonCode; 6] = [
    ReasonCode::SUCCESS,
    ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
    ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
    ReasonCode::SERVER_UNAVAILABLE,
    ReasonCode::BAD_USER_NAME_OR_PASSWORD,
    ReasonCode::NOT_AUTHORIZED,
];

impl<'a> ConnAck<'a> {
    pub(super) fn read(frame: &Frame<'a>, version: Version) -> Result<ConnAck<'a>, Fault> {
        const FLAGS: &str = "Connect Acknowledge Flags";
        const CODE: &str = "Reason Code";
        let mut r = Reader::new(frame.body, Kind::ConnAck);
        let flags = r.u8(FLAGS)?;
        let expected = if version == Version::V3_1 { 0 } else { flags & 1 };
        if flags != expected {
            return Err(r.malformed(FLAGS, Problem::ReservedBits { found: flags, expected }));
        }
        let code = r.u8(CODE)?;
        let reason = if version == Version::V5 {
            Some(ReasonCode(code)).filter(|code| code.is_for(Place::CONNACK))
        } else {
            RETURN_CODES.get(usize::from(code)).copied()
        };
        let reason = reason.ok_or_else(|| r.protocol(CODE, Problem::Value(u64::from(code))))?;
        let session_present = flags != 0;
        if session_present && reason != ReasonCode::SUCCESS {
            return Err(r.protocol("Session Present", Problem::Conflict("beside a failure")));
        }
        let properties = read_properties(&mut r, version, Owner::CONNACK)?;
        r.finish()?;
        Ok(ConnAck { session_present, reason, properties })
    }

    /// Appends it. A reason that has no return code before 5.0 is not told: nothing is written
    /// then, and the connection is just closed [MQTT-3.2.2-6 of 3.1.1].
    ///
    /// # Errors
    /// If the properties are too long for it; `out` is then as it was.
    pub fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let code = match version {
            Version::V5 => self.reason.0,
            _ => match self.reason.return_code() {
                Some(code) => code,
                None => return Ok(()),
            },
        };
        // A session is present only where it is taken up ([MQTT-3.2.2-6], [MQTT-3.2.2-4 of
        // 3.1.1]).
        let tells_session = version != Version::V3_1 && self.reason == ReasonCode::SUCCESS;
        frame::write(out, Kind::ConnAck.first_byte(), |out| {
            out.extend_from_slice(&[u8::from(self.session_present && tells_session), code]);
            if version.has_properties() { self.properties.write(out) } else { Ok(()) }
        })
    }
}
