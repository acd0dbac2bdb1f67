//! DISCONNECT (section 3.14) and AUTH (section 3.15).

use super::ack::{read_reason, write_reason};
use super::frame::{self, Frame, Kind};
use super::property::{Owner, Properties, Property};
use super::reader::Reader;
use super::{Sender, Version};
use crate::fault::{Fault, Problem, TooLong};
use crate::reason::{Place, ReasonCode};

/// The last packet of a connection; before 5.0 clients alone send it, and nothing is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Why.
    pub reason: ReasonCode,
    /// None before 5.0.
    pub properties: Properties<'a>,
}

impl<'a> Disconnect<'a> {
    pub(super) fn read(
        frame: &Frame<'a>,
        version: Version,
        sender: Sender,
    ) -> Result<Disconnect<'a>, Fault> {
        let mut r = Reader::new(frame.body, Kind::Disconnect);
        let (place, owner) = match sender {
            Sender::Client => (Place::DISCONNECT_CLIENT, Owner::disconnect(sender)),
            Sender::Server => (Place::DISCONNECT_SERVER, Owner::disconnect(sender)),
        };
        let mut packet = Disconnect { reason: ReasonCode::SUCCESS, properties: Properties::NONE };
        if version.has_properties() {
            (packet.reason, packet.properties) = read_reason(&mut r, place, owner)?;
        }
        r.finish()?;
        Ok(packet)
    }

    /// Appends it.
    ///
    /// # Errors
    /// If the properties are too long for it; `out` is then as it was.
    pub fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), TooLong> {
        frame::write(out, Kind::Disconnect.first_byte(), |out| match version {
            Version::V5 => write_reason(out, self.reason, self.properties),
            _ => Ok(()),
        })
    }
}

/// A step of an authentication that takes more than one; 5.0 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Whether it begins, goes on or has succeeded.
    pub reason: ReasonCode,
    /// The method, its data, and whatever else is said.
    pub properties: Properties<'a>,
}

impl<'a> Auth<'a> {
    pub(super) fn read(frame: &Frame<'a>, sender: Sender) -> Result<Auth<'a>, Fault> {
        let mut r = Reader::new(frame.body, Kind::Auth);
        let place = match sender {
            Sender::Client => Place::AUTH_CLIENT,
            Sender::Server => Place::AUTH_SERVER,
        };
        // Without anything in it it says success, which is the server's to say.
        if r.is_empty() && sender == Sender::Client {
            return Err(r.protocol("Reason Code", Problem::Value(0)));
        }
        let (reason, properties) = read_reason(&mut r, place, Owner::AUTH)?;
        r.finish()?;
        let method =
            properties.find(|p| matches!(p, Property::AuthenticationMethod(_)).then_some(()));
        // Only success without any property may go without it (section 3.15.2.1, 3.15.2.2.2).
        let is_bare = reason == ReasonCode::SUCCESS && properties.is_empty();
        if method.is_none() && !is_bare {
            return Err(r.protocol("Authentication Method", Problem::Empty));
        }
        Ok(Auth { reason, properties })
    }

    /// Appends it.
    ///
    /// # Errors
    /// If the properties are too long for it; `out` is then as it was.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        frame::write(out, Kind::Auth.first_byte(), |out| {
            write_reason(out, self.reason, self.properties)
        })
    }
}
