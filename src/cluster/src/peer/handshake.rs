//! The handshake from either end.

use std::{io, sync::Arc};

use bytes::Bytes;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    debts::Word,
    dial::BoxedStream,
    identity::{Identity, MemberId},
    options::{Local, Token, highest_common},
    preface::{Challenge, HEAD, Hello, Message, Nonce, Proof, Purpose, Refusal, RefusalCode, head},
    wire::Malformed,
};

/// Fills a buffer with random bytes.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

const DIALLER: &[u8] = b"isthmus peer dialler";
const ACCEPTOR: &[u8] = b"isthmus peer acceptor";

/// Why there is no connection to a peer, or why it ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The other end refused this node.
    #[error("the peer refuses: {0}")]
    RefusedByPeer(#[source] Refusal),
    /// This node refused the other end.
    #[error("the peer is refused: {0}")]
    Refused(#[source] Refusal),
    /// What came is not the protocol.
    #[error("the peer does not keep to the protocol between peers: {0}")]
    Malformed(String),
    /// The handshake did not end in time.
    #[error("the handshake took too long")]
    Slow,
    /// As many connections as allowed are in their handshake.
    #[error("too many connections are in their handshake")]
    Crowded,
    /// The TLS handshake failed; on the accepting side also when a peer without TLS called.
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Malformed> for PeerError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.to_string())
    }
}

impl From<PeerError> for io::Error {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Io(error) => error,
            PeerError::Refused(_) | PeerError::RefusedByPeer(_) => {
                io::Error::new(io::ErrorKind::PermissionDenied, error)
            }
            PeerError::Malformed(_) => io::Error::new(io::ErrorKind::InvalidData, error),
            PeerError::Slow => io::Error::new(io::ErrorKind::TimedOut, error),
            error => io::Error::other(error),
        }
    }
}

/// What the ends agreed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agreed {
    pub(super) peer: Identity,
    pub(super) purpose: Purpose,
}

fn refused<T>(code: RefusalCode, reason: impl Into<String>) -> Result<T, PeerError> {
    Err(PeerError::Refused(Refusal { code, reason: reason.into() }))
}

/// Receives a message, and the bytes it was.
async fn receive(stream: &mut BoxedStream) -> Result<(Message, Vec<u8>), PeerError> {
    let mut bytes = vec![0; HEAD];
    stream.read_exact(&mut bytes).await.map_err(gone)?;
    let head_bytes = bytes.first_chunk().expect("of that length");
    let (kind, len) = match head(*head_bytes) {
        Ok(head) => head,
        Err(malformed) => return refused(RefusalCode::NotAPeer, malformed.to_string()),
    };
    // A kilobyte at most.
    bytes.resize(HEAD + len, 0);
    stream.read_exact(&mut bytes[HEAD..]).await.map_err(gone)?;
    match Message::decode(kind, Bytes::copy_from_slice(&bytes[HEAD..])) {
        Ok(message) => Ok((message, bytes)),
        Err(malformed) => refused(RefusalCode::NotAPeer, malformed.to_string()),
    }
}

/// A peer that ends a handshake without a word most often speaks TLS where this node does not, or
/// the other way round.
fn gone(error: io::Error) -> PeerError {
    if error.kind() != io::ErrorKind::UnexpectedEof {
        return error.into();
    }
    let text = "the other end closed the connection during the handshake: it may use TLS where \
                this node does not, or have reached its limit of connections";
    PeerError::Io(io::Error::new(io::ErrorKind::UnexpectedEof, text))
}

async fn send(stream: &mut BoxedStream, message: &Message) -> Result<Vec<u8>, PeerError> {
    let bytes = message.encode();
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(bytes)
}

fn out_of_turn<T>(message: &Message) -> Result<T, PeerError> {
    Err(PeerError::Malformed(format!(
        "it sent {} out of turn",
        match message {
            Message::Hello(_) => "a hello",
            Message::Challenge(_) => "a challenge",
            Message::Proof(_) => "a proof",
            Message::Welcome(_) => "a welcome",
            Message::Refused(_) => "a refusal",
        }
    )))
}

fn mac(token: &Token, label: &[u8], hello: &[u8], challenge: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&token.0).expect("a key of any length will do");
    for part in [label, hello, challenge] {
        mac.update(part);
    }
    mac
}

fn prove(token: Option<&Token>, label: &[u8], hello: &[u8], challenge: &[u8]) -> Proof {
    token
        .map_or([0; 32], |token| mac(token, label, hello, challenge).finalize().into_bytes().into())
}

/// In constant time.
fn proves(token: &Token, label: &[u8], hello: &[u8], challenge: &[u8], proof: &Proof) -> bool {
    mac(token, label, hello, challenge).verify_slice(proof).is_ok()
}

impl Local {
    fn nonce(&self) -> Nonce {
        let mut nonce = [0; 32];
        (self.random)(&mut nonce);
        nonce
    }
}

/// The dialling end. `target` is who is dialled, or [`MemberId::NONE`].
pub(super) async fn dial(
    local: &Local,
    stream: &mut BoxedStream,
    purpose: Purpose,
    target: MemberId,
) -> Result<Agreed, PeerError> {
    let versions = &local.options.versions;
    let hello = Message::Hello(Hello {
        versions: versions.clone(),
        purpose,
        identity: local.directory.own(),
        target,
        nonce: local.nonce(),
        word: local.directory.debts().word_for(target),
    });
    let hello = send(stream, &hello).await?;
    let (challenge, challenge_bytes) = match receive(stream).await? {
        (Message::Challenge(challenge), bytes) => (challenge, bytes),
        (Message::Refused(refusal), _) => return Err(PeerError::RefusedByPeer(refusal)),
        (message, _) => return out_of_turn(&message),
    };
    if !versions.protocol.contains(&challenge.protocol)
        || !versions.log_format.contains(&challenge.log_format)
    {
        return Err(PeerError::Malformed("it chose a version that was not offered".to_owned()));
    }
    let token = local.security.token.as_ref();
    if token.is_some() && !challenge.has_token {
        return refused(RefusalCode::Token, "it has no join token, and this node has one");
    }
    let peer = challenge.identity;
    local.directory.check(&peer, purpose).map_err(PeerError::Refused)?;
    if target != MemberId::NONE && peer.member != target {
        let reason = format!("the address of member {target} is answered by {}", name(&peer));
        return refused(RefusalCode::Member, reason);
    }
    let proof = prove(token, DIALLER, &hello, &challenge_bytes);
    send(stream, &Message::Proof(proof)).await?;
    match receive(stream).await? {
        (Message::Welcome(proof), _) => match token {
            Some(token) if !proves(token, ACCEPTOR, &hello, &challenge_bytes, &proof) => {
                refused(RefusalCode::Token, "its join token is not this node's")
            }
            _ => {
                hear(local, purpose, &peer, challenge.word);
                Ok(Agreed { peer, purpose })
            }
        },
        (Message::Refused(refusal), _) => Err(PeerError::RefusedByPeer(refusal)),
        (message, _) => out_of_turn(&message),
    }
}

/// Takes a member's word, as its peers in consensus do, whom [`Directory::check`] has let in.
///
/// [`Directory::check`]: super::Directory::check
fn hear(local: &Local, purpose: Purpose, peer: &Identity, word: Word) {
    if matches!(purpose, Purpose::Raft | Purpose::Snapshot) {
        local.directory.debts().told(peer.member, word);
    }
}

fn name(identity: &Identity) -> String {
    match identity.member {
        MemberId::NONE => format!("node {}, which is no member yet", identity.node),
        member => format!("member {member}"),
    }
}

/// The accepting end. If it refuses, it says so to the other end.
pub(super) async fn accept(local: &Local, stream: &mut BoxedStream) -> Result<Agreed, PeerError> {
    let result = try_accept(local, stream).await;
    if let Err(PeerError::Refused(refusal)) = &result {
        // It may not listen any more, and what it is told is in the error too.
        drop(send(stream, &Message::Refused(refusal.clone())).await);
        drop(stream.shutdown().await);
    }
    result
}

async fn try_accept(local: &Local, stream: &mut BoxedStream) -> Result<Agreed, PeerError> {
    let (hello, hello_bytes) = match receive(stream).await? {
        (Message::Hello(hello), bytes) => (hello, bytes),
        (message, _) => return out_of_turn(&message),
    };
    let own = &local.options.versions;
    let (protocol, log_format) = choose(own, &hello)?;
    let identity = local.directory.own();
    let token = local.security.token.as_ref();
    let challenge = Message::Challenge(Challenge {
        protocol,
        log_format,
        identity,
        has_token: token.is_some(),
        nonce: local.nonce(),
        word: local.directory.debts().word_for(hello.identity.member),
    });
    let challenge = send(stream, &challenge).await?;
    let proof = match receive(stream).await? {
        (Message::Proof(proof), _) => proof,
        (message, _) => return out_of_turn(&message),
    };
    if let Some(token) = token
        && !proves(token, DIALLER, &hello_bytes, &challenge, &proof)
    {
        let reason = if proof == [0; 32] {
            "this node has a join token, and the caller has none"
        } else {
            "the caller's join token is not this node's"
        };
        return refused(RefusalCode::Token, reason);
    }
    local.directory.check(&hello.identity, hello.purpose).map_err(PeerError::Refused)?;
    if hello.target != MemberId::NONE && hello.target != identity.member {
        let reason = format!("member {} was dialled, this is {}", hello.target, name(&identity));
        return refused(RefusalCode::Member, reason);
    }
    hear(local, hello.purpose, &hello.identity, hello.word);
    let proof = prove(token, ACCEPTOR, &hello_bytes, &challenge);
    send(stream, &Message::Welcome(proof)).await?;
    Ok(Agreed { peer: hello.identity, purpose: hello.purpose })
}

fn choose(own: &super::Versions, hello: &Hello) -> Result<(u16, u16), PeerError> {
    let theirs = &hello.versions;
    let none = |what: &str,
                own: &std::ops::RangeInclusive<u16>,
                theirs: &std::ops::RangeInclusive<u16>| {
        format!(
            "no common {what}: this node knows {} to {}, the caller {} to {}; upgrade in steps of \
             one release",
            own.start(),
            own.end(),
            theirs.start(),
            theirs.end()
        )
    };
    let Some(protocol) = highest_common(&own.protocol, &theirs.protocol) else {
        let reason = none("version of the protocol between peers", &own.protocol, &theirs.protocol);
        return refused(RefusalCode::Protocol, reason);
    };
    let Some(log_format) = highest_common(&own.log_format, &theirs.log_format) else {
        let reason = none("format of the log", &own.log_format, &theirs.log_format);
        return refused(RefusalCode::LogFormat, reason);
    };
    Ok((protocol, log_format))
}
