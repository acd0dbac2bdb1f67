//! MQTT 3.1.1 and 5.0.

use super::{Encoder, Fault, Inbound, Link, Outbound, Receiver, Settler, Sink};
use crate::net::Dialer;
use crate::payload::Body;
use crate::plan::{Access, MqttVersion, Plan};
use crate::window::{PACKET_IDS, Settled};

/// A DISCONNECT.
pub(super) const GOODBYE: &[u8] = &[0xe0, 0];

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBACK: u8 = 9;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;

/// From here on a reason code is a failure.
const FAILURE: u8 = 0x80;

struct Packet<'a> {
    first: u8,
    rest: &'a [u8],
    len: usize,
}

impl Packet<'_> {
    fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The packet identifier at its start.
    fn id(&self) -> Result<u16, Fault> {
        let id = self.rest.first_chunk().map(|&id| u16::from_be_bytes(id));
        id.ok_or_else(|| Fault::protocol("a packet without an identifier"))
    }

    /// The reason behind the packet identifier; success where none is given.
    fn reason(&self) -> u8 {
        self.rest.get(2).copied().unwrap_or(0)
    }
}

/// The first packet in `bytes`, if it is whole.
#[inline]
fn packet(bytes: &[u8]) -> Result<Option<Packet<'_>>, Fault> {
    let Some((&first, after)) = bytes.split_first() else {
        return Ok(None);
    };
    let Some((len, width)) = varint(after)? else {
        return Ok(None);
    };
    match after.get(width..width + len) {
        None => Ok(None),
        Some(rest) => Ok(Some(Packet { first, rest, len: 1 + width + len })),
    }
}

/// A variable byte integer and how many bytes it has.
#[inline]
fn varint(bytes: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    match bytes.len() {
        0..4 => Ok(None),
        _ => Err(Fault::protocol("a length of more than four bytes")),
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) -> Result<(), Fault> {
    let len = u16::try_from(text.len())
        .map_err(|_| Fault::Refused("a text is longer than 65535 bytes".to_owned()))?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn whole(first: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    put_varint(&mut out, rest.len());
    out.extend_from_slice(rest);
    out
}

/// The meaning of a reason code that refuses a connection.
fn refusal(version: MqttVersion, code: u8) -> String {
    let text = match (version, code) {
        (MqttVersion::V311, 1) | (MqttVersion::V5, 0x84) => {
            "this version of MQTT is not spoken; see --mqtt"
        }
        (MqttVersion::V311, 2) | (MqttVersion::V5, 0x85) => "the client identifier is refused",
        (MqttVersion::V311, 3) | (MqttVersion::V5, 0x88) => "the server is unavailable",
        (MqttVersion::V311, 4) | (MqttVersion::V5, 0x86) => "bad user name or password",
        (MqttVersion::V311, 5) | (MqttVersion::V5, 0x87) => "not authorized",
        (MqttVersion::V5, 0x97) => "quota exceeded",
        (MqttVersion::V5, 0x9f) => "connection rate exceeded",
        _ => "the connection is refused",
    };
    format!("{text} (code {code:#04x})")
}

fn connect(access: &Access, client: &str, receive_max: u16) -> Result<Vec<u8>, Fault> {
    let version = access.mqtt_version;
    let mut rest = Vec::new();
    put_text(&mut rest, "MQTT")?;
    rest.push(if version == MqttVersion::V5 { 5 } else { 4 });
    let (user, password) = (&access.target.user, &access.target.password);
    // A clean start, and no keep-alive.
    rest.push(2 | u8::from(user.is_some()) << 7 | u8::from(password.is_some()) << 6);
    rest.extend_from_slice(&[0, 0]);
    if version == MqttVersion::V5 {
        match receive_max {
            0 => rest.push(0),
            max => {
                rest.extend_from_slice(&[3, 0x21]);
                rest.extend_from_slice(&max.to_be_bytes());
            }
        }
    }
    put_text(&mut rest, client)?;
    for text in [user, password].into_iter().flatten() {
        put_text(&mut rest, text)?;
    }
    Ok(whole(0x10, &rest))
}

async fn open(
    dialer: &Dialer,
    access: &Access,
    client: &str,
    receive_max: u16,
) -> Result<Link, Fault> {
    let mut link = Link::connect(dialer).await?;
    link.send(&connect(access, client, receive_max)?).await?;
    let code = link.input.until(|bytes| {
        let Some(packet) = packet(bytes)? else { return Ok(None) };
        match (packet.kind(), packet.rest) {
            (CONNACK, &[_, code, ..]) => Ok(Some((code, packet.len))),
            _ => Err(Fault::protocol("something other than a CONNACK comes first")),
        }
    });
    match code.await {
        Ok(0) => Ok(link),
        Ok(code) => Err(Fault::Refused(refusal(access.mqtt_version, code))),
        Err(Fault::Closed(_)) => Err(Fault::Closed(" before it accepted the login")),
        Err(other) => Err(other),
    }
}

/// A connection that does nothing further.
pub(super) async fn login(dialer: &Dialer, access: &Access, name: &str) -> Result<Link, Fault> {
    open(dialer, access, name, 0).await
}

/// A producer's connection.
pub(super) async fn producer(dialer: &Dialer, plan: &Plan, n: usize) -> Result<Outbound, Fault> {
    let client = format!("bench{:08x}p{n}", plan.run_id);
    let link = open(dialer, &plan.access, &client, 0).await?;
    let mut topics = Vec::new();
    for address in plan.producer_addresses(n) {
        let mut topic = Vec::new();
        put_text(&mut topic, &plan.name(address))?;
        topics.push(topic);
    }
    let encoder =
        Publisher { topics, qos: plan.qos, is_v5: plan.access.mqtt_version == MqttVersion::V5 };
    Ok(Outbound { link, encoder: Box::new(encoder), settler: Box::new(Acks { qos: plan.qos }) })
}

struct Publisher {
    /// Each with its length before it.
    topics: Vec<Vec<u8>>,
    qos: u8,
    is_v5: bool,
}

impl Encoder for Publisher {
    #[inline]
    fn encode(&mut self, n: u64, slot: usize, body: &Body<'_>, out: &mut Vec<u8>) {
        let topic = &self.topics[slot];
        let id_len = if self.qos > 0 { 2 } else { 0 };
        out.push(PUBLISH << 4 | self.qos << 1);
        put_varint(out, topic.len() + id_len + usize::from(self.is_v5) + body.len());
        out.extend_from_slice(topic);
        if self.qos > 0 {
            let id = (n % PACKET_IDS + 1) as u16;
            out.extend_from_slice(&id.to_be_bytes());
        }
        if self.is_v5 {
            out.push(0);
        }
        body.write(out);
    }
}

fn unasked(packet: &Packet<'_>) -> Result<(), Fault> {
    match packet.kind() {
        PINGRESP => Ok(()),
        DISCONNECT => {
            let code = packet.rest.first().copied().unwrap_or(0);
            Err(Fault::Refused(format!("DISCONNECT with reason {code:#04x}")))
        }
        kind => Err(Fault::protocol(format!("unexpected packet of type {kind}"))),
    }
}

struct Acks {
    qos: u8,
}

impl Settler for Acks {
    fn settle(
        &mut self,
        input: &[u8],
        settled: &mut Vec<Settled>,
        reply: &mut Vec<u8>,
    ) -> Result<usize, Fault> {
        let mut used = 0;
        while let Some(packet) = packet(&input[used..])? {
            used += packet.len;
            match (packet.kind(), self.qos) {
                (PUBACK, 1) | (PUBREC, 2) if packet.reason() >= FAILURE => {
                    settled.push(Settled::RefusedPacket(packet.id()?));
                }
                (PUBREC, 2) => put_ack(reply, PUBREL << 4 | 2, packet.id()?),
                (PUBACK, 1) | (PUBCOMP, 2) => settled.push(Settled::Packet(packet.id()?)),
                _ => unasked(&packet)?,
            }
        }
        Ok(used)
    }
}

fn put_ack(out: &mut Vec<u8>, first: u8, id: u16) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

/// A consumer's connection.
pub(super) async fn consumer(dialer: &Dialer, plan: &Plan, n: usize) -> Result<Inbound, Fault> {
    let client = format!("bench{:08x}c{n}", plan.run_id);
    let mut link = open(dialer, &plan.access, &client, plan.prefetch).await?;
    let is_v5 = plan.access.mqtt_version == MqttVersion::V5;
    let mut rest = vec![0, 1];
    if is_v5 {
        rest.push(0);
    }
    for address in plan.consumer_addresses(n).1 {
        let name = plan.name(address);
        match plan.is_shared() {
            true => put_text(&mut rest, &format!("$share/bench{:08x}/{name}", plan.run_id))?,
            false => put_text(&mut rest, &name)?,
        }
        rest.push(plan.qos);
    }
    link.send(&whole(0x82, &rest)).await?;
    // Where messages come first, the subscription is there, and the SUBACK follows.
    let answered = link.input.until(|bytes| {
        let Some(packet) = packet(bytes)? else { return Ok(None) };
        match packet.kind() {
            SUBACK => granted(&packet, is_v5).map(|()| Some(((), packet.len))),
            PUBLISH => Ok(Some(((), 0))),
            _ => unasked(&packet).map(|()| Some(((), packet.len))),
        }
    });
    answered.await?;
    Ok(Inbound { link, receiver: Box::new(Deliveries { is_v5 }) })
}

fn granted(suback: &Packet<'_>, is_v5: bool) -> Result<(), Fault> {
    let mut codes = suback.rest.get(2..).unwrap_or_default();
    if is_v5 {
        let (len, width) = varint(codes)?.unwrap_or((0, 0));
        codes = codes.get(len + width..).unwrap_or_default();
    }
    match codes.iter().find(|&&code| code >= FAILURE) {
        Some(code) => {
            Err(Fault::Refused(format!("the subscription is refused (code {code:#04x})")))
        }
        None => Ok(()),
    }
}

struct Deliveries {
    is_v5: bool,
}

impl Deliveries {
    #[inline]
    fn publish(
        &self,
        packet: &Packet<'_>,
        sink: &mut dyn Sink,
        reply: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let cut = || Fault::protocol("a PUBLISH is cut short");
        let (&len, rest) = packet.rest.split_first_chunk().ok_or_else(cut)?;
        let mut rest = rest.get(usize::from(u16::from_be_bytes(len))..).ok_or_else(cut)?;
        let qos = packet.first >> 1 & 3;
        if qos > 0 {
            let (&id, after) = rest.split_first_chunk().ok_or_else(cut)?;
            let kind = if qos == 1 { PUBACK } else { PUBREC };
            put_ack(reply, kind << 4, u16::from_be_bytes(id));
            rest = after;
        }
        if self.is_v5 {
            let (len, width) = varint(rest)?.ok_or_else(cut)?;
            rest = rest.get(len + width..).ok_or_else(cut)?;
        }
        sink.message(rest, packet.first & 8 != 0);
        Ok(())
    }
}

impl Receiver for Deliveries {
    fn receive(
        &mut self,
        input: &[u8],
        sink: &mut dyn Sink,
        reply: &mut Vec<u8>,
    ) -> Result<usize, Fault> {
        let mut used = 0;
        while let Some(packet) = packet(&input[used..])? {
            used += packet.len;
            match packet.kind() {
                PUBLISH => self.publish(&packet, sink, reply)?,
                PUBREL => put_ack(reply, PUBCOMP << 4, packet.id()?),
                SUBACK => granted(&packet, self.is_v5)?,
                _ => unasked(&packet)?,
            }
        }
        Ok(used)
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}
}
