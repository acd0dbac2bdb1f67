//! How the nodes of a cluster speak to each other.
//!
//! # For the embedder
//!
//! Both directions share a [`Local`]: who this node is ([`Directory`]), what protects the
//! connections ([`Security`]), the limits ([`PeerOptions`]) and where nonces come from
//! ([`Random`]). A [`Dialer`] makes connections; its [`Network`] is what openraft is run with. A
//! [`PeerServer`] serves what was accepted: it gives the messages of consensus to the openraft it
//! was handed ([`PeerServer::set_raft`]), and the rest to a [`Handler`]. Sockets are below a seam,
//! [`Dial`] and [`Listen`], of which [`TcpDial`] and [`TcpListen`] are the real ones.
//!
//! Without [`PeerTls`] the connections are plain, which the embedder allows on loopback only.
//!
//! # The protocol
//!
//! All numbers are little-endian. A connection serves one [`Purpose`], begins with a handshake, and
//! carries frames after it.
//!
//! ## Handshake
//!
//! With TLS its handshake comes first, version 1.3, both sides with a certificate. Then messages of
//! this form, which no version of the protocol changes:
//!
//! ```text
//! 8   "ISTHPEER"
//! u8  kind: 1 hello, 2 challenge, 3 proof, 4 welcome, 5 refused
//! u16 length of the rest, at most 1024
//! ```
//!
//! A later version may add to the end of a message; what is not known is passed over.
//!
//! ```text
//! dialler   1 hello      u16 u16 protocol versions, first and last; u16 u16 log formats, first and
//!                        last; u8 purpose; identity; u64 member that is dialled, 0 for whoever
//!                        answers; 32 nonce; word
//! acceptor  2 challenge  u16 protocol version and u16 log format for this connection, the highest
//!                        that both know; identity; u8 flags, bit 0: I have a join token; 32 nonce;
//!                        word
//! dialler   3 proof      32 HMAC-SHA256, or zeros without a join token
//! acceptor  4 welcome    32 HMAC-SHA256, or zeros
//!        or 5 refused    u16 code, see RefusalCode; u16 length, the reason in UTF-8
//! ```
//!
//! An identity is `16` cluster id, `u64` member id, `u16` node number; zeros for what the sender
//! does not have yet. A word is two positions in the log: up to where the other end has acknowledged
//! entries to this one, and up to where it has sent some that this one acknowledged; so a node that has
//! lost them hears of it. Earlier releases leave it out. A refusal may take the place of the challenge too. The HMAC's key is the join
//! token; its message is `isthmus peer dialler` or `isthmus peer acceptor`, then the hello and the
//! challenge as they were sent, so both nonces, both identities and the versions. The dialler
//! proves first: who only knocks gets nothing that a token could be guessed from. Both ends check
//! the other's identity, the acceptor after the proof.
//!
//! ## Frames
//!
//! ```text
//! u32 length of what follows, checked against the limit of the kind
//! u8  kind
//! u64 request id, the same in its answers; 0 in a failure that is no answer to one
//! ```
//!
//! ```text
//! purpose    kind                     limit     body
//! raft        1 append                72 MiB    u8 flags, bit 0: begins a run; vote; position before;
//!                                               committed position; u32 entries; each: u64 term,
//!                                               u64 index, u8 kind, u32 length, payload
//!             2 appended              256       u8 0, matching position | u8 1, conflicting position |
//!                                               u8 2, the vote that is higher
//!             3 vote, 5 pre-vote      256       vote; last position; u8 1 in a transfer of leadership
//!             4 voted, 6 pre-voted    256       vote; u8 granted; last position
//!             7 transfer              256       vote; u64 to; last position
//!             8 transferred           256       u8 0 | u8 1, vote expected, vote found |
//!                                               u8 2, position expected, position found
//! snapshot    9 begin                 1 MiB     vote; last position; position of the membership;
//!                                               u32 length, the membership as in the log
//!            10 data                  1 MiB     bytes of the snapshot
//!            11 end                   0
//!            12 abort                 4 KiB     the reason in UTF-8
//!            13 installed             256       vote
//!            14 at work               0         sent while nothing else can be said
//! control    15 request               1 MiB     opaque
//!            16 answer                1 MiB     opaque
//! client     17 header                64 KiB    see ClientHeader
//!            18 accepted              0         from here on the client's bytes, without frames
//! all        19 failed                4 KiB     the reason in UTF-8; the connection ends
//! ```
//!
//! A position is `u64` term, `u64` index, counted from 1; index 0 is before the first entry. A vote
//! is `u64` term, `u64` member voted for, `u8` 1 if a quorum granted it; in a pre-voted it is 1 only
//! where who answers leads. An entry's kind and payload
//! are those of the log, see [`EntryKind`](crate::raft::EntryKind).
//!
//! Appends are a pipeline: the sender does not wait, the answers come in order. A run of appends
//! ends with the first answer that is not 0; what was sent behind it gets no answer and no effect,
//! and the next append that begins a run is the next that counts. A dialler has one run, or one
//! other request, under way on a connection, and more connections when it needs them: so heartbeats
//! and votes never queue behind entries.

mod append;
mod begun;
mod client;
mod conn;
mod control;
mod debts;
mod dial;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod identity;
mod network;
mod options;
mod pool;
mod preface;
mod returning;
mod rpc;
mod serve_raft;
mod server;
mod snapshot;
mod tls;
mod wire;

pub use self::{
    begun::Begun,
    client::{ClientHeader, ClientStream},
    dial::{BoxedStream, Dial, Dialer, Listen, PeerStream, TcpDial, TcpListen},
    handshake::{PeerError, Random},
    identity::{ClusterId, Directory, Identity, MemberId},
    network::{Link, Network},
    options::{Local, PeerOptions, Security, Token, Versions},
    preface::{Purpose, Refusal, RefusalCode},
    server::{Handler, PeerServer},
    snapshot::SnapshotMeta,
    tls::{PeerTls, TlsError},
};
