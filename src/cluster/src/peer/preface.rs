//! The messages of the handshake.

use bytes::{BufMut, Bytes};

use super::{
    debts::Word,
    identity::{Identity, MemberId},
    options::Versions,
    wire::{Malformed, Reader, Writer, cut},
};

const MAGIC: [u8; 8] = *b"ISTHPEER";
/// Magic, kind and length.
pub(super) const HEAD: usize = 8 + 1 + 2;
const BODY_MAX: usize = 1024;
const REASON_MAX: usize = 900;
const HAS_TOKEN: u8 = 1;

pub(super) type Nonce = [u8; 32];
pub(super) type Proof = [u8; 32];

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Messages of consensus.
    Raft = 1,
    /// One snapshot.
    Snapshot = 2,
    /// Requests that the embedder understands.
    Control = 3,
    /// A client's connection that is passed through.
    Client = 4,
}

/// Why a node refuses another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// For machines.
    pub code: RefusalCode,
    /// For whoever runs the nodes.
    pub reason: String,
}

/// The kind of a refusal, as a number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
#[non_exhaustive]
pub enum RefusalCode {
    /// One this version does not know.
    Other = 0,
    /// What was sent is not this protocol.
    NotAPeer = 1,
    /// No version of the protocol is known to both.
    Protocol = 2,
    /// No format of the log is known to both.
    LogFormat = 3,
    /// The join tokens differ, or only one of the nodes has one.
    Token = 4,
    /// It belongs to another cluster.
    Cluster = 5,
    /// It is not the member that was dialled, or its ids contradict each other.
    Member = 6,
    /// One of the two is no member of a cluster yet.
    NoMember = 7,
    /// A later incarnation of the node is known.
    Replaced = 8,
}

impl RefusalCode {
    fn from_number(number: u16) -> Self {
        const KNOWN: [RefusalCode; 8] = [
            RefusalCode::NotAPeer,
            RefusalCode::Protocol,
            RefusalCode::LogFormat,
            RefusalCode::Token,
            RefusalCode::Cluster,
            RefusalCode::Member,
            RefusalCode::NoMember,
            RefusalCode::Replaced,
        ];
        KNOWN.into_iter().find(|code| *code as u16 == number).unwrap_or(Self::Other)
    }
}

/// The dialler's first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) versions: Versions,
    pub(super) purpose: Purpose,
    pub(super) identity: Identity,
    /// Who is dialled, or [`MemberId::NONE`].
    pub(super) target: MemberId,
    pub(super) nonce: Nonce,
    /// What the target had, as the dialler knows it.
    pub(super) word: Word,
}

/// The acceptor's answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) protocol: u16,
    pub(super) log_format: u16,
    pub(super) identity: Identity,
    pub(super) has_token: bool,
    pub(super) nonce: Nonce,
    /// What the dialler had, as the acceptor knows it.
    pub(super) word: Word,
}

/// A message of the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Hello(Hello),
    Challenge(Challenge),
    Proof(Proof),
    Welcome(Proof),
    Refused(Refusal),
}

/// Reads the head of a message: its kind, and the length of the rest.
pub(super) fn head(bytes: [u8; HEAD]) -> Result<(u8, usize), Malformed> {
    let [magic @ .., kind, low, high] = bytes;
    if let [0x14..=0x17, 3, ..] = magic {
        let text = "it speaks TLS, and this node does not: peers use TLS all or none";
        return Err(Malformed::Content(text.to_owned()));
    }
    if magic != MAGIC {
        return Err(Malformed::Content("it does not begin as a message between peers does".into()));
    }
    let len = usize::from(u16::from_le_bytes([low, high]));
    if len > BODY_MAX {
        return Err(Malformed::TooLong { kind, len, max: BODY_MAX });
    }
    Ok((kind, len))
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let kind = match self {
            Message::Hello(_) => 1,
            Message::Challenge(_) => 2,
            Message::Proof(_) => 3,
            Message::Welcome(_) => 4,
            Message::Refused(_) => 5,
        };
        out.extend_from_slice(&[kind, 0, 0]);
        match self {
            Message::Hello(hello) => {
                for range in [&hello.versions.protocol, &hello.versions.log_format] {
                    out.put_u16_le(*range.start());
                    out.put_u16_le(*range.end());
                }
                out.put_u8(hello.purpose as u8);
                hello.identity.encode(&mut out);
                out.put_u64_le(hello.target.0);
                out.put_slice(&hello.nonce);
                hello.word.encode(&mut out);
            }
            Message::Challenge(challenge) => {
                out.put_u16_le(challenge.protocol);
                out.put_u16_le(challenge.log_format);
                challenge.identity.encode(&mut out);
                out.put_u8(if challenge.has_token { HAS_TOKEN } else { 0 });
                out.put_slice(&challenge.nonce);
                challenge.word.encode(&mut out);
            }
            Message::Proof(proof) | Message::Welcome(proof) => out.put_slice(proof),
            Message::Refused(refusal) => {
                out.put_u16_le(refusal.code as u16);
                out.put_text(cut(&refusal.reason, REASON_MAX));
            }
        }
        let len = (out.len() - HEAD) as u16;
        out[HEAD - 2..HEAD].copy_from_slice(&len.to_le_bytes());
        out
    }

    /// Reads what follows on a head. More than this version knows is passed over.
    pub(super) fn decode(kind: u8, body: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        Ok(match kind {
            1 => Message::Hello(Hello {
                versions: Versions {
                    protocol: reader.u16()?..=reader.u16()?,
                    log_format: reader.u16()?..=reader.u16()?,
                },
                purpose: match reader.u8()? {
                    1 => Purpose::Raft,
                    2 => Purpose::Snapshot,
                    3 => Purpose::Control,
                    4 => Purpose::Client,
                    value => {
                        return Err(Malformed::Unknown {
                            what: "the purpose of a connection",
                            value,
                        });
                    }
                },
                identity: Identity::decode(&mut reader)?,
                target: MemberId(reader.u64()?),
                nonce: reader.array()?,
                word: Word::decode(&mut reader)?,
            }),
            2 => Message::Challenge(Challenge {
                protocol: reader.u16()?,
                log_format: reader.u16()?,
                identity: Identity::decode(&mut reader)?,
                has_token: reader.u8()? & HAS_TOKEN != 0,
                nonce: reader.array()?,
                word: Word::decode(&mut reader)?,
            }),
            3 => Message::Proof(reader.array()?),
            4 => Message::Welcome(reader.array()?),
            5 => Message::Refused(Refusal {
                code: RefusalCode::from_number(reader.u16()?),
                reason: reader.text()?,
            }),
            value => {
                return Err(Malformed::Unknown { what: "the kind of a handshake message", value });
            }
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use isthmus_storage::LogId;

    use super::*;
    use crate::peer::ClusterId;

    fn identity() -> impl Strategy<Value = Identity> {
        any::<([u8; 16], u64, u16)>().prop_map(|(cluster, member, node)| Identity {
            cluster: ClusterId(cluster),
            member: MemberId(member),
            node,
        })
    }

    fn word() -> impl Strategy<Value = Word> {
        any::<[u64; 4]>().prop_map(|[a, b, c, d]| Word {
            acknowledged: LogId { term: a, index: b },
            sent: LogId { term: c, index: d },
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        let purposes = [Purpose::Raft, Purpose::Snapshot, Purpose::Control, Purpose::Client];
        let hello =
            (any::<[u16; 4]>(), 0..4usize, identity(), any::<u64>(), any::<Nonce>(), word());
        let challenge = (any::<(u16, u16)>(), identity(), any::<bool>(), any::<Nonce>(), word());
        prop_oneof![
            hello.prop_map(move |([a, b, c, d], purpose, identity, target, nonce, word)| {
                Message::Hello(Hello {
                    versions: Versions { protocol: a..=b, log_format: c..=d },
                    purpose: purposes[purpose],
                    identity,
                    target: MemberId(target),
                    nonce,
                    word,
                })
            }),
            challenge.prop_map(|((protocol, log_format), identity, has_token, nonce, word)| {
                let challenge =
                    Challenge { protocol, log_format, identity, has_token, nonce, word };
                Message::Challenge(challenge)
            }),
            any::<Proof>().prop_map(Message::Proof),
            any::<Proof>().prop_map(Message::Welcome),
            (0..9u16, ".{0,200}").prop_map(|(code, reason)| {
                Message::Refused(Refusal { code: RefusalCode::from_number(code), reason })
            }),
        ]
    }

    /// What a release sends that knows of no words.
    fn without_word(message: &Message) -> Option<Message> {
        let word = Word::default();
        match message.clone() {
            Message::Hello(hello) => Some(Message::Hello(Hello { word, ..hello })),
            Message::Challenge(challenge) => {
                Some(Message::Challenge(Challenge { word, ..challenge }))
            }
            _ => None,
        }
    }

    fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
        let (head_bytes, body) = bytes.split_first_chunk().ok_or(Malformed::Short)?;
        let (kind, len) = head(*head_bytes)?;
        let body = body.get(..len).ok_or(Malformed::Short)?;
        Message::decode(kind, Bytes::copy_from_slice(body))
    }

    proptest! {
        #[test]
        fn messages_pass_whole_or_not_at_all(message in message()) {
            let bytes = message.encode();
            prop_assert_eq!(decode(&bytes), Ok(message.clone()));
            for end in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..end]), Err(Malformed::Short));
                // The same, if the length says so too.
                if let Some(len) = end.checked_sub(HEAD) {
                    let mut cut = bytes[..end].to_vec();
                    cut[HEAD - 2..HEAD].copy_from_slice(&(len as u16).to_le_bytes());
                    let earlier = without_word(&message).filter(|_| end + 32 == bytes.len());
                    prop_assert_eq!(decode(&cut), earlier.ok_or(Malformed::Short));
                }
            }
            // What a later version adds is passed over.
            let mut longer = bytes;
            longer.extend_from_slice(b"more");
            let len = (longer.len() - HEAD) as u16;
            longer[HEAD - 2..HEAD].copy_from_slice(&len.to_le_bytes());
            prop_assert_eq!(decode(&longer), Ok(message));
        }
    }

    #[test]
    fn the_encoding_does_not_change() {
        let hello = Message::Hello(Hello {
            versions: Versions { protocol: 1..=2, log_format: 3..=4 },
            purpose: Purpose::Raft,
            identity: Identity { cluster: ClusterId([7; 16]), member: MemberId(65538), node: 2 },
            target: MemberId(1),
            nonce: [9; 32],
            word: Word {
                acknowledged: LogId { term: 3, index: 4 },
                sent: LogId { term: 5, index: 6 },
            },
        });
        let mut expected = b"ISTHPEER\x01\x6b\0\x01\0\x02\0\x03\0\x04\0\x01".to_vec();
        expected.extend_from_slice(&[7; 16]);
        expected.extend_from_slice(b"\x02\0\x01\0\0\0\0\0\x02\0\x01\0\0\0\0\0\0\0");
        expected.extend_from_slice(&[9; 32]);
        for number in 3_u64..7 {
            expected.extend_from_slice(&number.to_le_bytes());
        }
        assert_eq!(hello.encode(), expected);
        let refused =
            Message::Refused(Refusal { code: RefusalCode::Token, reason: "no".to_owned() });
        assert_eq!(refused.encode(), b"ISTHPEER\x05\x06\0\x04\0\x02\0no");
    }

    #[test]
    fn other_protocols_are_told_apart_at_once() {
        assert!(head(*b"AMQP\0\0\x09\x01\0\0\0").is_err());
        assert!(head(*b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03").is_err());
        assert!(head(*b"ISTHPEER\x01\x01\x04").is_err(), "longer than allowed");
        assert!(head(*b"ISTHPEER\x01\0\x04").is_ok());
    }
}
