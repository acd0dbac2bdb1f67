//! Where clients go: to this node while it leads, through to the leader while it does not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use isthmus_broker::cluster::member::{Role, Standing};
use isthmus_broker::cluster::peer::{BoxedStream, ClientHeader, Dialer, MemberId, PeerStream};
use isthmus_broker::{Broker, CertificateIdentity, Peer, TlsPeer};
use serde::{Deserialize, Serialize};
use tokio::io::copy_bidirectional;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::StandbyClients;

/// Serves a client that a peer has passed through, by the name of the listener it came to.
pub(crate) type Serve =
    Arc<dyn Fn(&str, BoxedStream, Peer) -> BoxFuture<'static, ()> + Send + Sync>;

/// How long to wait before a leader is dialled again that could not be reached.
const RETRY: Duration = Duration::from_millis(50);

/// Takes clients to where they are served. Clones share it.
#[derive(Clone)]
pub(crate) struct Clients(Option<Arc<Way>>);

struct Way {
    /// Whether this node serves clients: it leads, and has all that a new broker begins with.
    serves: watch::Receiver<bool>,
    dialer: Dialer,
    standing: watch::Receiver<Standing>,
    hold: Duration,
    standby: StandbyClients,
}

/// Where a client is to be served.
enum Place {
    Here,
    There(MemberId, String),
    Nowhere,
}

/// What became of a client.
pub(crate) enum Taken<S> {
    /// It is to be served here; if nobody leads, it is told so in its protocol's words.
    Here(S, Peer),
    /// It was served elsewhere, to its end.
    Elsewhere,
    /// It is to go to the node that leads by itself.
    Refused(S, Peer, MemberId),
}

impl Clients {
    /// Of a node that is alone: all are served here.
    pub(crate) fn alone() -> Clients {
        Clients(None)
    }

    /// Of a member of a cluster.
    pub(crate) fn of_member(
        broker: &Broker,
        serves: watch::Receiver<bool>,
        dialer: Dialer,
        hold: Duration,
        standby: StandbyClients,
    ) -> Clients {
        let standing = broker.membership().map(|membership| membership.member().standing());
        Clients(standing.map(|standing| Arc::new(Way { serves, dialer, standing, hold, standby })))
    }

    /// A connection to the leader for a client of `listener`; none if this node is to serve it.
    pub(super) async fn leader(
        &self,
        listener: &str,
        peer: &Peer,
    ) -> Option<std::io::Result<impl PeerStream + use<>>> {
        let way = self.0.as_ref()?;
        match way.place() {
            Place::There(member, addr) => Some(way.dial(listener, member, &addr, peer).await),
            Place::Here | Place::Nowhere => None,
        }
    }

    /// Takes a client of `listener` to where it is served. While nobody leads it waits.
    pub(crate) async fn take<S>(&self, listener: &str, stream: S, peer: Peer) -> Taken<S>
    where
        S: PeerStream,
    {
        match &self.0 {
            None => Taken::Here(stream, peer),
            Some(way) => way.take(listener, stream, peer).await,
        }
    }
}

impl Way {
    fn place(&self) -> Place {
        if *self.serves.borrow() {
            return Place::Here;
        }
        let standing = self.standing.borrow();
        match &standing.leader {
            Some((id, addr)) if standing.role != Role::Leader => Place::There(*id, addr.clone()),
            _ => Place::Nowhere,
        }
    }

    async fn take<S>(&self, listener: &str, mut stream: S, peer: Peer) -> Taken<S>
    where
        S: PeerStream,
    {
        let until = Instant::now() + self.hold;
        let (mut serves, mut standing) = (self.serves.clone(), self.standing.clone());
        loop {
            serves.borrow_and_update();
            standing.borrow_and_update();
            match self.place() {
                Place::Here => return Taken::Here(stream, peer),
                Place::There(member, _) if self.standby == StandbyClients::Refuse => {
                    return Taken::Refused(stream, peer, member);
                }
                Place::There(member, addr) => {
                    match self.dial(listener, member, &addr, &peer).await {
                        Ok(mut there) => {
                            self.pass(member, &mut stream, &mut there).await;
                            return Taken::Elsewhere;
                        }
                        Err(error) => {
                            tracing::debug!(leader = %member, %error, "a client waits");
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                }
                Place::Nowhere => {
                    tokio::select! {
                        biased;
                        // Both last as long as the broker.
                        _ = serves.changed() => {}
                        _ = standing.changed() => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
            }
            if Instant::now() >= until {
                return Taken::Here(stream, peer);
            }
        }
    }

    async fn dial(
        &self,
        listener: &str,
        member: MemberId,
        addr: &str,
        peer: &Peer,
    ) -> std::io::Result<impl PeerStream + use<>> {
        let header = ClientHeader {
            listener: listener.to_owned(),
            client: peer.address.to_string(),
            local: String::new(),
            tls: encode_tls(peer.tls.as_deref()),
        };
        self.dialer.client(addr, member, &header).await
    }

    /// Passes bytes in both directions until both ends have closed, or another node leads.
    async fn pass<S, T>(&self, member: MemberId, stream: &mut S, there: &mut T)
    where
        S: PeerStream,
        T: PeerStream,
    {
        let mut standing = self.standing.clone();
        let leads = |standing: &Standing| {
            standing.leader.as_ref().is_some_and(|(leader, _)| *leader == member)
        };
        tokio::select! {
            biased;
            // What it was told there counts; whoever leads now has it.
            _ = standing.wait_for(|standing| !leads(standing)) => {}
            // How it ended is between the two.
            _ = copy_bidirectional(stream, there) => {}
        }
    }
}

/// What is known of a client by its TLS, on its way to another node.
#[derive(Serialize, Deserialize)]
struct Tls {
    version: String,
    cipher: String,
    certificate: Option<Certificate>,
}

#[derive(Serialize, Deserialize)]
struct Certificate {
    subject: String,
    common_name: Option<String>,
    dns_names: Vec<String>,
    emails: Vec<String>,
    uris: Vec<String>,
}

fn encode_tls(tls: Option<&TlsPeer>) -> Bytes {
    let Some(tls) = tls else { return Bytes::new() };
    let certificate = tls.certificate.clone().map(|identity| {
        let CertificateIdentity { subject, common_name, dns_names, emails, uris } = identity;
        Certificate { subject, common_name, dns_names, emails, uris }
    });
    let tls = Tls { version: tls.version.clone(), cipher: tls.cipher.clone(), certificate };
    // What it is made of can always be written.
    serde_json::to_vec(&tls).unwrap_or_default().into()
}

/// A client that a peer has passed through. What the peer says of it is believed: it has shown that
/// it belongs to the cluster.
pub(super) fn peer_of(address: SocketAddr, tls: &[u8]) -> Peer {
    let tls = serde_json::from_slice::<Tls>(tls).ok().map(|tls| {
        let certificate = tls.certificate.map(|identity| {
            let Certificate { subject, common_name, dns_names, emails, uris } = identity;
            CertificateIdentity { subject, common_name, dns_names, emails, uris }
        });
        Arc::new(TlsPeer { version: tls.version, cipher: tls.cipher, certificate })
    });
    Peer { address, tls }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tls_says_of_a_client_reaches_the_leader() {
        let identity = CertificateIdentity {
            subject: "CN=a".to_owned(),
            common_name: Some("a".to_owned()),
            dns_names: vec!["a.example".to_owned()],
            ..CertificateIdentity::default()
        };
        let tls = TlsPeer {
            version: "TLSv1.3".to_owned(),
            cipher: "TLS_AES_128_GCM_SHA256".to_owned(),
            certificate: Some(identity),
        };
        let address = SocketAddr::from(([192, 0, 2, 1], 5));
        let peer = peer_of(address, &encode_tls(Some(&tls)));
        assert_eq!((peer.address, peer.tls.as_deref()), (address, Some(&tls)));
        assert_eq!(peer_of(address, &encode_tls(None)).tls, None);
    }
}
