//! QoS 2 deliveries of shared subscriptions (section 4.8.2).
//!
//! A message that was sent to a member of a group must be completed to the same member
//! [MQTT-4.8.2-4], and must not go to another one even if the member's session ends
//! [MQTT-4.8.2-5]. So it leaves the group's queue before it is sent: in one entry it is settled
//! there and noted, whole, in the session of the member, under the packet identifier that it is
//! sent with from then on. A session that ends with its connection notes nothing.
//!
//! A note takes [`NOTE_VALUE_BYTES_MAX`] bytes. What is larger stays in the group's queue until it
//! is acknowledged, as with QoS 1: if the connection is lost before, another member gets it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::{NOTE_VALUE_BYTES_MAX, Outcome, Span};

use super::MqttSession;
use super::gather::Answer;
use super::notes;
use super::outgoing::add;
use super::packet_ids::{Held, Step};
use crate::codec::publish::Outgoing;
use crate::codec::{Properties, Qos};
use crate::convert::stored::{Head, write_head_of};

/// Bytes of claims that are noted at once, about: what lasting sessions note is in memory.
const NOTED_BYTES_MAX: usize = 1 << 20;

/// Messages that the client has for itself and has not recorded.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Those that are noted, by their packet identifiers.
    noted: BTreeMap<u16, Arc<[u8]>>,
    /// Of an earlier connection: to be sent again when the client takes more.
    again: VecDeque<u16>,
    /// Bytes of those that are noted.
    bytes: usize,
}

impl Claims {
    /// Whether there is room to note so many bytes more.
    fn has_room(&self, bytes: usize) -> bool {
        self.bytes == 0 || self.bytes + bytes <= NOTED_BYTES_MAX
    }

    fn insert(&mut self, id: u16, claim: Arc<[u8]>) {
        self.bytes += claim.len();
        self.noted.insert(id, claim);
    }

    fn remove(&mut self, id: u16) {
        self.bytes -= self.noted.remove(&id).map_or(0, |claim| claim.len());
    }
}

/// In the flags of a claim: it is sent with RETAIN.
const RETAIN: u8 = 1;
/// It expires.
const EXPIRES: u8 = 2;

/// A message as it is noted: a byte of flags, how many Subscription Identifiers and these with 4
/// bytes each, 4 bytes with the seconds of its life that were left if it expires, 4 bytes of length
/// and the routing key, 4 bytes of length and the head ([`crate::convert::stored`]), the payload.
struct Claim {
    chunk: Bytes,
    retain: bool,
    expiry_left_s: Option<u32>,
    ids: Vec<u32>,
    key: Span,
    head: Span,
    payload: Span,
}

fn written(outgoing: &Outgoing<'_>, key: &str) -> Vec<u8> {
    // A group is one subscription, which has one identifier at the most.
    let ids = outgoing.subscription_ids;
    let retain = if outgoing.retain { RETAIN } else { 0 };
    let expires = if outgoing.expiry_left_s.is_some() { EXPIRES } else { 0 };
    let mut out = vec![retain | expires, ids.len() as u8];
    for number in ids.iter().chain(&outgoing.expiry_left_s) {
        out.extend_from_slice(&number.to_be_bytes());
    }
    let mut sized = |write: &dyn Fn(&mut Vec<u8>)| {
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        write(&mut out);
        let len = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    };
    sized(&|out| out.extend_from_slice(key.as_bytes()));
    sized(&|out| write_head_of(out, Qos::ExactlyOnce, outgoing.retain, outgoing.properties));
    out.extend_from_slice(outgoing.payload.of(outgoing.chunk));
    out
}

impl Claim {
    /// Reads a note; `None` for one that a later version has written.
    fn read(bytes: &[u8]) -> Option<Claim> {
        let mut at = 0_usize;
        let mut take = |len: usize| {
            let span = bytes.get(at..at.checked_add(len)?).map(|_| Span::new(at, len))?;
            at += len;
            Some(span)
        };
        let number = |span: Span| Some(u32::from_be_bytes(span.of(bytes).try_into().ok()?));
        let flags = *bytes.first()?;
        let count = *bytes.get(1)?;
        take(2)?;
        let ids = (0..count).map(|_| number(take(4)?)).collect::<Option<Vec<u32>>>()?;
        let expires = flags & EXPIRES != 0;
        let expiry_left_s = if expires { Some(number(take(4)?)?) } else { None };
        let len = number(take(4)?)?;
        let key = take(len as usize)?;
        let len = number(take(4)?)?;
        let head = take(len as usize)?;
        let payload = take(bytes.len() - head.end() as usize)?;
        std::str::from_utf8(key.of(bytes)).ok()?;
        let chunk = Bytes::copy_from_slice(bytes);
        let retain = flags & RETAIN != 0;
        Some(Claim { chunk, retain, expiry_left_s, ids, key, head, payload })
    }
}

impl MqttSession {
    /// Claims a message of a group's queue for this client, to be sent as `outgoing` says; false if
    /// it must wait. `None` if it cannot be claimed.
    pub(super) fn claim(&mut self, held: Held, outgoing: &Outgoing<'_>, key: &str) -> Option<bool> {
        let id = outgoing.packet_id;
        if !self.client.lasts {
            return None;
        }
        let claim = written(outgoing, key);
        if claim.len() > NOTE_VALUE_BYTES_MAX {
            return None;
        }
        if !self.claims.get_or_insert_default().has_room(claim.len()) {
            return Some(false);
        }
        let claim: Arc<[u8]> = claim.into();
        self.flights.begin(id, Step::Claiming, true);
        let gathered = self.gathered.get_or_insert_default();
        add(&mut gathered.settlements, held, 1, Outcome::Accept);
        gathered.notes.push(notes::claimed(id, Some(Arc::clone(&claim))));
        gathered.answers.push(Answer::Claimed(id));
        self.claims.get_or_insert_default().insert(id, claim);
        Some(true)
    }

    /// The client has a message for itself, and is sent it.
    pub(super) fn send_claimed(&mut self, id: u16, dup: bool) {
        let noted = self.claims.as_ref().and_then(|claims| claims.noted.get(&id));
        let Some(claim) = noted.and_then(|bytes| Claim::read(bytes)) else { return };
        let Claim { chunk, retain, expiry_left_s, ids, key, head, payload } = claim;
        let key = String::from_utf8_lossy(key.of(&chunk));
        let properties = Head::read(head.of(&chunk)).map_or(Properties::NONE, |h| h.properties);
        let outgoing = Outgoing {
            version: self.peer.version,
            dup,
            qos: Qos::ExactlyOnce,
            retain,
            topic: self.given.name(&key),
            packet_id: id,
            expiry_left_s,
            subscription_ids: &ids,
            properties,
            chunk: &chunk,
            payload,
        };
        if self.write(outgoing, &key) {
            self.flights.go_on(id, Step::Claimed);
        } else {
            // It does not take one that large, and so will not acknowledge it.
            self.flights.end(id);
            self.unclaim(id);
        }
    }

    /// The client has recorded a message that it has for itself, or will have none of it.
    pub(super) fn unclaim(&mut self, id: u16) {
        if self.client.lasts {
            self.claims.get_or_insert_default().remove(id);
            self.gathered.get_or_insert_default().notes.push(notes::claimed(id, None));
        }
    }

    /// A message that an earlier connection has claimed, and perhaps sent, is sent again
    /// [MQTT-4.4.0-1].
    pub(super) fn claimed_before(&mut self, id: u16, claim: &[u8]) {
        let claims = self.claims.get_or_insert_default();
        claims.insert(id, claim.into());
        claims.again.push_back(id);
        self.flights.begin(id, Step::Claiming, false);
    }

    /// Sends what earlier connections have claimed, as far as the client takes it.
    pub(super) fn send_claimed_again(&mut self) {
        while self.has_quota()
            && let Some(id) = self.claims.as_mut().and_then(|claims| claims.again.pop_front())
        {
            self.flights.end(id);
            self.flights.begin(id, Step::Claiming, true);
            self.send_claimed(id, true);
        }
    }

    /// Whether there are messages of earlier connections to be sent before others.
    pub(super) fn has_claims_to_send(&self) -> bool {
        self.claims.as_ref().is_some_and(|claims| !claims.again.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::publish::TopicName;
    use crate::codec::{PropertiesBuf, Property, Version};

    #[test]
    fn what_is_claimed_is_read_again_and_nothing_else_is() {
        let mut properties = PropertiesBuf::new();
        properties.push(Property::ContentType("text")).expect("short");
        let chunk = Bytes::from_static(b"..body");
        let outgoing = Outgoing {
            version: Version::V5,
            dup: false,
            qos: Qos::ExactlyOnce,
            retain: true,
            topic: TopicName::Alias(1),
            packet_id: 7,
            expiry_left_s: Some(9),
            subscription_ids: &[5, 268_435_455],
            properties: properties.as_properties(),
            chunk: &chunk,
            payload: Span::new(2, 4),
        };
        let bytes = written(&outgoing, "a.b");
        let claim = Claim::read(&bytes).expect("it was written so");
        assert_eq!((claim.retain, &claim.ids[..]), (true, &[5, 268_435_455][..]));
        assert_eq!(claim.expiry_left_s, Some(9));
        assert_eq!(claim.key.of(&claim.chunk), b"a.b");
        assert_eq!(claim.payload.of(&claim.chunk), b"body");
        let head = Head::read(claim.head.of(&claim.chunk)).expect("a head");
        assert_eq!(head.properties.as_bytes(), properties.as_properties().as_bytes());
        let head_ends = bytes.len() - 4;
        for len in 0..head_ends {
            assert!(Claim::read(&bytes[..len]).is_none(), "{len} bytes");
        }
        assert!(Claim::read(&[0, 0, 0xFF, 0xFF, 0xFF, 0xFF]).is_none());
        assert!(Claim::read(&[0, 0, 0, 0, 0, 1, 0xFF, 0, 0, 0, 0]).is_none(), "not UTF-8");
    }
}
