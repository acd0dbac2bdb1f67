//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK (section 3.8 to 3.11).

use std::fmt;

use super::connect::read_properties;
use super::frame::{self, Frame, Kind};
use super::property::{Owner, Properties};
use super::reader::{Reader, write_binary};
use super::topic::{self, Filter};
use super::{Qos, Version};
use crate::fault::{Fault, Problem, TooLong};
use crate::reason::{Place, ReasonCode};

const FILTER: &str = "Topic Filter";
const OPTIONS: &str = "Subscription Options";
const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;
const RETAIN_HANDLING_SHIFT: u32 = 4;
const RESERVED: u8 = 0xC0;

/// Whether retained messages are sent for a subscription (section 3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RetainHandling {
    /// 0: each time that it is made.
    #[default]
    Send,
    /// 1: if it did not exist before.
    SendIfNew,
    /// 2: never.
    DoNotSend,
}

/// One filter of a SUBSCRIBE, and what is wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// The topic filter as it was sent, share name included.
    pub filter: &'a str,
    /// The highest QoS that messages are to come with.
    pub qos: Qos,
    /// Whether messages of the client itself are left out; not before 5.0.
    pub no_local: bool,
    /// Whether messages keep the RETAIN flag that they were published with; not before 5.0.
    pub retain_as_published: bool,
    /// Whether retained messages are sent; always before 5.0.
    pub retain_handling: RetainHandling,
}

impl<'a> Subscription<'a> {
    /// Reads one that was validated.
    fn read(r: &mut Reader<'a>) -> Option<Subscription<'a>> {
        let filter = r.string(FILTER).ok()?;
        let options = r.u8(OPTIONS).ok()?;
        Some(Subscription {
            filter,
            qos: Qos::from_bits(options & 3)?,
            no_local: options & NO_LOCAL != 0,
            retain_as_published: options & RETAIN_AS_PUBLISHED != 0,
            retain_handling: match options >> RETAIN_HANDLING_SHIFT & 3 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                _ => RetainHandling::DoNotSend,
            },
        })
    }

    fn options(&self) -> u8 {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        self.qos.bits()
            | flag(self.no_local, NO_LOCAL)
            | flag(self.retain_as_published, RETAIN_AS_PUBLISHED)
            | (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT
    }
}

/// Subscriptions of a SUBSCRIBE. As they lie in the packet, and found to be valid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Subscriptions<'a> {
    bytes: &'a [u8],
}

impl<'a> Subscriptions<'a> {
    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Subscription<'a>> + use<'a> {
        let mut r = Reader::new(self.bytes, Kind::Subscribe);
        std::iter::from_fn(move || Subscription::read(&mut r))
    }
}

impl fmt::Debug for Subscriptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Subscriptions that are put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionsBuf {
    bytes: Vec<u8>,
}

impl SubscriptionsBuf {
    /// Adds one.
    ///
    /// # Errors
    /// If its filter is longer than 65,535 bytes; nothing is added then.
    pub fn push(&mut self, subscription: &Subscription<'_>) -> Result<(), TooLong> {
        write_binary(&mut self.bytes, subscription.filter.as_bytes(), FILTER)?;
        self.bytes.push(subscription.options());
        Ok(())
    }

    /// What was added.
    pub fn as_subscriptions(&self) -> Subscriptions<'_> {
        Subscriptions { bytes: &self.bytes }
    }
}

/// Topic filters of an UNSUBSCRIBE. As they lie in the packet, and found to be valid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Filters<'a> {
    bytes: &'a [u8],
}

impl<'a> Filters<'a> {
    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut r = Reader::new(self.bytes, Kind::Unsubscribe);
        std::iter::from_fn(move || r.string(FILTER).ok())
    }
}

impl fmt::Debug for Filters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Topic filters that are put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FiltersBuf {
    bytes: Vec<u8>,
}

impl FiltersBuf {
    /// Adds one.
    ///
    /// # Errors
    /// If it is longer than 65,535 bytes; nothing is added then.
    pub fn push(&mut self, filter: &str) -> Result<(), TooLong> {
        write_binary(&mut self.bytes, filter.as_bytes(), FILTER)
    }

    /// What was added.
    pub fn as_filters(&self) -> Filters<'_> {
        Filters { bytes: &self.bytes }
    }
}

/// A request for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Names the answer.
    pub packet_id: u16,
    /// None before 5.0.
    pub properties: Properties<'a>,
    /// At least one.
    pub subscriptions: Subscriptions<'a>,
}

impl<'a> Subscribe<'a> {
    pub(super) fn read(frame: &Frame<'a>, version: Version) -> Result<Subscribe<'a>, Fault> {
        let mut r = Reader::new(frame.body, Kind::Subscribe);
        let packet_id = r.packet_id()?;
        let properties = read_properties(&mut r, version, Owner::SUBSCRIBE)?;
        let subscriptions = Subscriptions { bytes: r.rest() };
        if r.is_empty() {
            return Err(r.protocol("payload", Problem::Empty));
        }
        while !r.is_empty() {
            let is_shared = read_filter(&mut r, version)?;
            let options = r.u8(OPTIONS)?;
            check_options(&r, version, options, is_shared)?;
        }
        Ok(Subscribe { packet_id, properties, subscriptions })
    }

    /// Appends it.
    ///
    /// # Errors
    /// If it is too long for a packet; `out` is then as it was.
    pub fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), TooLong> {
        write(out, Kind::Subscribe, version, self.packet_id, self.properties, |out| {
            out.extend_from_slice(self.subscriptions.bytes);
        })
    }
}

/// Reads a topic filter, and whether it is of a shared subscription.
fn read_filter(r: &mut Reader<'_>, version: Version) -> Result<bool, Fault> {
    let text = r.string(FILTER)?;
    let checked = if version == Version::V5 {
        Filter::parse(text).map(|filter| filter.group.is_some())
    } else {
        topic::check_filter(text).map(|()| false)
    };
    checked.map_err(|problem| {
        Fault::because(ReasonCode::TOPIC_FILTER_INVALID, r.packet(), FILTER, problem)
    })
}

fn check_options(
    r: &Reader<'_>,
    version: Version,
    options: u8,
    is_shared: bool,
) -> Result<(), Fault> {
    let reserved = if version == Version::V5 { RESERVED } else { !3 };
    if options & reserved != 0 {
        let expected = options & !reserved;
        return Err(r.malformed(OPTIONS, Problem::ReservedBits { found: options, expected }));
    }
    if options & 3 == 3 {
        return Err(r.protocol("Maximum QoS", Problem::Value(3)));
    }
    if options >> RETAIN_HANDLING_SHIFT & 3 == 3 {
        return Err(r.protocol("Retain Handling", Problem::Value(3)));
    }
    if is_shared && options & NO_LOCAL != 0 {
        return Err(r.protocol("No Local", Problem::Conflict("for a shared subscription")));
    }
    Ok(())
}

/// A request for messages no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Names the answer.
    pub packet_id: u16,
    /// None before 5.0.
    pub properties: Properties<'a>,
    /// At least one.
    pub filters: Filters<'a>,
}

impl<'a> Unsubscribe<'a> {
    pub(super) fn read(frame: &Frame<'a>, version: Version) -> Result<Unsubscribe<'a>, Fault> {
        let mut r = Reader::new(frame.body, Kind::Unsubscribe);
        let packet_id = r.packet_id()?;
        let properties = read_properties(&mut r, version, Owner::UNSUBSCRIBE)?;
        let filters = Filters { bytes: r.rest() };
        if r.is_empty() {
            return Err(r.protocol("payload", Problem::Empty));
        }
        while !r.is_empty() {
            read_filter(&mut r, version)?;
        }
        Ok(Unsubscribe { packet_id, properties, filters })
    }

    /// Appends it.
    ///
    /// # Errors
    /// If it is too long for a packet; `out` is then as it was.
    pub fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), TooLong> {
        write(out, Kind::Unsubscribe, version, self.packet_id, self.properties, |out| {
            out.extend_from_slice(self.filters.bytes);
        })
    }
}

/// The answer to a [`Subscribe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// That of the request.
    pub packet_id: u16,
    /// None before 5.0.
    pub properties: Properties<'a>,
    /// A reason code for each subscription, in their order.
    pub reasons: &'a [u8],
}

impl<'a> SubAck<'a> {
    pub(super) fn read(frame: &Frame<'a>, version: Version) -> Result<SubAck<'a>, Fault> {
        let mut r = Reader::new(frame.body, Kind::SubAck);
        let packet_id = r.packet_id()?;
        let properties = read_properties(&mut r, version, Owner::SUBACK)?;
        let reasons = read_reasons(&mut r, |code| match version {
            Version::V5 => code.is_for(Place::SUBACK),
            // 3.1 knows no failure, but servers have always told it so.
            _ => matches!(code.0, 0..=2 | 0x80),
        })?;
        Ok(SubAck { packet_id, properties, reasons })
    }

    /// Appends it; before 5.0 every failure is 0x80.
    ///
    /// # Errors
    /// If it is too long for a packet; `out` is then as it was.
    pub fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), TooLong> {
        write(out, Kind::SubAck, version, self.packet_id, self.properties, |out| {
            let code = |code: &u8| match version {
                Version::V5 => *code,
                _ => (*code).min(0x80),
            };
            out.extend(self.reasons.iter().map(code));
        })
    }
}

/// The answer to an [`Unsubscribe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// That of the request.
    pub packet_id: u16,
    /// None before 5.0.
    pub properties: Properties<'a>,
    /// A reason code for each filter, in their order; none before 5.0.
    pub reasons: &'a [u8],
}

impl<'a> UnsubAck<'a> {
    pub(super) fn read(frame: &Frame<'a>, version: Version) -> Result<UnsubAck<'a>, Fault> {
        let mut r = Reader::new(frame.body, Kind::UnsubAck);
        let packet_id = r.packet_id()?;
        let properties = read_properties(&mut r, version, Owner::UNSUBACK)?;
        let reasons = if version.has_properties() {
            read_reasons(&mut r, |code| code.is_for(Place::UNSUBACK))?
        } else {
            r.finish()?;
            &[]
        };
        Ok(UnsubAck { packet_id, properties, reasons })
    }

    /// Appends it.
    ///
    /// # Errors
    /// If it is too long for a packet; `out` is then as it was.
    pub fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), TooLong> {
        write(out, Kind::UnsubAck, version, self.packet_id, self.properties, |out| {
            if version.has_properties() {
                out.extend_from_slice(self.reasons);
            }
        })
    }
}

/// The reason codes that the rest of a packet consists of: at least one, each of which
/// `is_allowed`.
fn read_reasons<'a>(
    r: &mut Reader<'a>,
    is_allowed: impl Fn(ReasonCode) -> bool,
) -> Result<&'a [u8], Fault> {
    const FIELD: &str = "Reason Codes";
    let reasons = r.take(r.rest().len(), FIELD)?;
    if reasons.is_empty() {
        return Err(r.protocol(FIELD, Problem::Empty));
    }
    match reasons.iter().find(|code| !is_allowed(ReasonCode(**code))) {
        Some(code) => Err(r.protocol(FIELD, Problem::Value(u64::from(*code)))),
        None => Ok(reasons),
    }
}

fn write(
    out: &mut Vec<u8>,
    kind: Kind,
    version: Version,
    packet_id: u16,
    properties: Properties<'_>,
    payload: impl FnOnce(&mut Vec<u8>),
) -> Result<(), TooLong> {
    frame::write(out, kind.first_byte(), |out| {
        out.extend_from_slice(&packet_id.to_be_bytes());
        if version.has_properties() {
            properties.write(out)?;
        }
        payload(out);
        Ok(())
    })
}
