//! Who is refused between peers, with which words, and that it disturbs nobody; control requests
//! and clients' connections.

mod common;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use common::peers::{CLUSTER, TestHandler, identity, listener, local, serve};
use isthmus_cluster::peer::{
    BoxedStream, ClientHeader, ClusterId, Dial, Dialer, Identity, Local, MemberId, PeerServer,
    PeerTls, Security, TcpDial, Token, Versions,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

/// The node that is dialled: member 1.
struct Node {
    address: String,
    local: Local,
    handler: Arc<TestHandler>,
    _server: PeerServer,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    async fn start(security: Security) -> Self {
        Self::of(local(identity(MemberId(1)), &security)).await
    }

    async fn of(local: Local) -> Self {
        let (listener, address) = listener().await;
        let handler = Arc::new(TestHandler::default());
        let (server, task) = serve(listener, local.clone(), Arc::clone(&handler));
        Self { address: address.to_string(), local, handler, _server: server, task }
    }

    /// A control request of `own`.
    async fn ask(&self, own: Local) -> io::Result<Bytes> {
        let dialer = Dialer::new(own, TcpDial);
        let asked = dialer.control(&self.address, Bytes::from_static(b"status")).await;
        asked.map(|(_, answer)| answer)
    }

    /// Dialled for a client, which demands what consensus demands.
    async fn client(&self, own: Local, member: MemberId) -> io::Result<()> {
        let header = ClientHeader::default();
        Dialer::new(own, TcpDial).client(&self.address, member, &header).await.map(drop)
    }

    /// That a request fails, and what both ends say.
    async fn refuses(&self, error: io::Result<impl Sized>, words: &str) {
        let error = error.map(drop).expect_err("refused").to_string();
        assert!(error.contains(words), "the caller is told {error:?}");
        assert!(error.contains(&self.address), "{error:?} says who");
        for _ in 0..200 {
            let heard = self.handler.failures.lock().pop();
            match heard {
                Some(heard) => {
                    assert!(heard.contains(words), "the node says {heard:?}");
                    return;
                }
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        panic!("the node says nothing of it");
    }
}

fn joiner(security: &Security) -> Local {
    local(Identity { node: 2, ..Identity::default() }, security)
}

fn member(id: u64) -> Local {
    local(identity(MemberId(id)), &Security::default())
}

fn token(text: &'static [u8]) -> Security {
    Security { token: Some(Token(Bytes::from_static(text))), tls: None }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
}

/// A certificate for `host` by `authority`, of a node that trusts `trusted`.
fn tls(
    authority: &CertifiedIssuer<'static, KeyPair>,
    trusted: &CertifiedIssuer<'static, KeyPair>,
    host: &str,
) -> PeerTls {
    let params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, authority).expect("signed");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    PeerTls::from_certificates(&[trusted.der().clone()], vec![certificate.der().clone()], key)
        .expect("usable")
}

fn with(tls: &PeerTls) -> Security {
    Security { tls: Some(tls.clone()), token: None }
}

#[tokio::test]
async fn a_node_that_is_no_member_may_ask() {
    let node = Node::start(token(b"a secret")).await;
    let answer = node.ask(joiner(&token(b"a secret"))).await.expect("answered");
    assert_eq!(answer.as_ref(), b"node 2: status");
    let dialer = Dialer::new(joiner(&token(b"a secret")), TcpDial);
    let (peer, _) = dialer.control(&node.address, Bytes::new()).await.expect("answered");
    assert_eq!(peer, identity(MemberId(1)));
    let large = Bytes::from(vec![0; (1 << 20) + 1]);
    let error = dialer.control(&node.address, large).await.expect_err("too large");
    assert!(error.to_string().contains("1048577 bytes"), "{error}");
    // With the node's name before it the answer would be beyond the limit.
    let large = Bytes::from(vec![0; 1 << 20]);
    let error = dialer.control(&node.address, large).await.expect_err("too large");
    assert!(error.to_string().contains("1048584 bytes"), "{error}");
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let node = Node::start(Security::default()).await;
    let mut own = identity(MemberId(2));
    own.cluster = ClusterId([8; 16]);
    let stranger = || local(own, &Security::default());
    // The one that dials notices first, and says nothing more: the other sees it go.
    let error = node.ask(stranger()).await.expect_err("refused").to_string();
    assert!(error.contains("belongs to cluster 07070707"), "{error}");
    assert!(error.contains("cluster 08080808"), "{error}");
}

#[tokio::test]
async fn who_was_replaced_is_refused() {
    let node = Node::start(Security::default()).await;
    let second_life = MemberId::new(2, 1).expect("few lives");
    node.local.directory.learn(second_life);
    let refused = node.ask(member(2)).await;
    node.refuses(refused, "member 2 has been replaced by member 2 (incarnation 1)").await;
    node.client(member(second_life.0), MemberId(1)).await.expect("the one that replaced it");
    // The other way round: the one that answers was replaced.
    let own = member(2);
    own.directory.learn(MemberId::new(1, 1).expect("few lives"));
    let error = node.ask(own).await.expect_err("refused").to_string();
    assert!(error.contains("member 1 has been replaced"), "{error}");
}

#[tokio::test]
async fn another_member_than_the_one_dialled_is_refused() {
    let node = Node::start(Security::default()).await;
    let error = node.client(member(2), MemberId(3)).await.expect_err("refused").to_string();
    assert!(error.contains("the address of member 3 is answered by member 1"), "{error}");
    let stranger = joiner(&Security::default());
    let error = node.client(stranger, MemberId(1)).await.expect_err("refused").to_string();
    assert!(error.contains("node 2, is no member of a cluster yet"), "{error}");
}

#[tokio::test]
async fn without_the_token_nobody_gets_in() {
    let node = Node::start(token(b"a secret")).await;
    let refused = node.ask(joiner(&Security::default())).await;
    node.refuses(refused, "this node has a join token, and the caller has none").await;
    let refused = node.ask(joiner(&token(b"a guess"))).await;
    node.refuses(refused, "the caller's join token is not this node's").await;
    let open = Node::start(Security::default()).await;
    let error = open.ask(joiner(&token(b"a secret"))).await.expect_err("refused").to_string();
    assert!(error.contains("it has no join token"), "{error}");
    node.ask(joiner(&token(b"a secret"))).await.expect("who has it gets in");
}

#[tokio::test]
async fn versions_without_overlap_are_refused() {
    let node = Node::start(Security::default()).await;
    let with = |protocol, log_format| {
        let mut own = joiner(&Security::default());
        own.options.versions = Versions { protocol, log_format };
        own
    };
    let log = Versions::default().log_format;
    let refused = node.ask(with(2..=3, log.clone())).await;
    node.refuses(refused, "this node knows 1 to 1, the caller 2 to 3").await;
    let refused = node.ask(with(1..=1, 100..=101)).await;
    node.refuses(refused, "no common format of the log").await;
    // A later release that still knows this one.
    node.ask(with(1..=3, 1..=101)).await.expect("the highest common one");
}

#[tokio::test]
async fn the_certificate_must_be_of_the_cluster() {
    let (ours, theirs) = (authority(), authority());
    let good = tls(&ours, &ours, "127.0.0.1");
    let node = Node::start(with(&good)).await;
    node.ask(joiner(&with(&tls(&ours, &ours, "another.test")))).await.expect("by the authority");

    // Trusts us, and has a certificate of somebody else.
    let refused = node.ask(joiner(&with(&tls(&theirs, &ours, "127.0.0.1")))).await;
    assert!(refused.is_err());
    // Does not trust us.
    let refused = node.ask(joiner(&with(&tls(&ours, &theirs, "127.0.0.1")))).await;
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("TLS: invalid peer certificate"), "{error}");
    // Plain, where TLS is spoken, and the other way round.
    let refused = node.ask(joiner(&Security::default())).await;
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("it may use TLS where this node does not"), "{error}");
    let plain = Node::start(Security::default()).await;
    let refused = plain.ask(joiner(&with(&good))).await;
    assert!(refused.is_err());
    let heard = plain.handler.failures.lock().join("\n");
    assert!(heard.contains("it speaks TLS, and this node does not"), "{heard}");

    // A certificate for another host than the one dialled.
    let elsewhere = Node::start(with(&tls(&ours, &ours, "another.test"))).await;
    let error = elsewhere.ask(joiner(&with(&good))).await.expect_err("refused").to_string();
    assert!(error.contains("certificate not valid for name"), "{error}");
    let heard = node.handler.failures.lock().join("\n");
    assert!(
        heard.contains("TLS: invalid peer certificate")
            && heard.contains("the caller does not speak TLS"),
        "{heard}"
    );

    // New certificates count for new connections.
    let own = joiner(&with(&tls(&theirs, &theirs, "127.0.0.1")));
    assert!(node.ask(own.clone()).await.is_err());
    good.replace(&tls(&theirs, &theirs, "127.0.0.1"));
    node.ask(own).await.expect("after the change");
}

#[tokio::test]
async fn garbage_and_silence_end_and_disturb_nobody() {
    let node = Node::start(Security::default()).await;
    for garbage in [&b"AMQP\0\0\x09\x01AMQP"[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 5000]] {
        let mut stream = TcpStream::connect(&node.address).await.expect("listens");
        stream.write_all(garbage).await.expect("open");
        let mut answer = Vec::new();
        // The rest of the garbage may be answered with a reset.
        drop(stream.read_to_end(&mut answer).await);
        assert!(answer.is_empty() || answer.starts_with(b"ISTHPEER\x05"), "{answer:?}");
        node.ask(joiner(&Security::default())).await.expect("goes on");
    }
    // Somebody who says nothing is let go when the handshake takes too long, 2 s here.
    let mut silent = TcpStream::connect(&node.address).await.expect("listens");
    let begun = tokio::time::Instant::now();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).await.expect("closed in order");
    assert!(answer.is_empty() && begun.elapsed() >= Duration::from_millis(1900));
    let heard = node.handler.failures.lock().join("\n");
    assert!(heard.contains("the handshake took too long"), "{heard}");
}

#[tokio::test]
async fn only_so_many_strangers_at_once() {
    let mut own = local(identity(MemberId(1)), &Security::default());
    own.options.strangers_max = 2;
    let node = Node::of(own).await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(&node.address).await.expect("listens"));
    }
    let refused = async {
        loop {
            // Until both have been accepted.
            match node.ask(joiner(&Security::default())).await {
                Err(_) => return,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(1), refused).await.expect("crowded");
    let heard = node.handler.failures.lock().join("\n");
    assert!(heard.contains("too many connections"), "{heard}");
    drop(silent);
    let served = async {
        while node.ask(joiner(&Security::default())).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), served).await.expect("there is room again");
}

#[tokio::test]
async fn a_client_is_passed_through_with_its_ends() {
    let ours = authority();
    for security in [Security::default(), with(&tls(&ours, &ours, "127.0.0.1"))] {
        let node = Node::start(security.clone()).await;
        let dialer = Dialer::new(local(identity(MemberId(2)), &security), TcpDial);
        let header = ClientHeader {
            listener: "amqp".to_owned(),
            client: "192.0.2.7:5000".to_owned(),
            ..ClientHeader::default()
        };
        let mut stream =
            dialer.client(&node.address, MemberId(1), &header).await.expect("accepted");
        // More than the buffers in between, and then the end in this direction.
        let said = vec![7; 300_000];
        stream.write_all(&said).await.expect("open");
        stream.shutdown().await.expect("open");
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.expect("to the end");
        let (greeting, echo) = heard.split_at(header.client.len());
        assert_eq!(greeting, header.client.as_bytes());
        assert!(echo == said, "{} bytes came back", echo.len());

        let closed = ClientHeader { listener: "closed".to_owned(), ..header };
        let refused = dialer.client(&node.address, MemberId(1), &closed).await;
        let error = refused.map(drop).expect_err("refused").to_string();
        assert!(error.contains("this node does not lead"), "{error}");
    }
}

/// A network that lives in memory.
struct Memory(tokio::sync::mpsc::UnboundedSender<BoxedStream>);

impl Dial for Memory {
    fn dial<'a>(
        &'a self,
        _address: &'a str,
    ) -> futures_util::future::BoxFuture<'a, io::Result<BoxedStream>> {
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(64);
            self.0
                .send(Box::new(far))
                .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(Box::new(near) as BoxedStream)
        })
    }
}

/// No socket, no clock of the system's: what a simulation runs.
#[tokio::test(start_paused = true)]
async fn a_network_in_memory_under_virtual_time() {
    let server = PeerServer::new(
        local(identity(MemberId(1)), &token(b"a secret")),
        Arc::new(TestHandler::default()),
    );
    let (sender, mut accepted) = tokio::sync::mpsc::unbounded_channel();
    let serving = tokio::spawn(async move {
        while let Some(stream) = accepted.recv().await {
            server.serve(stream, "memory").await;
        }
    });
    let dialer = Dialer::new(joiner(&token(b"a secret")), Memory(sender));
    let (peer, answer) =
        dialer.control("anywhere:1", Bytes::from_static(b"?")).await.expect("served");
    assert_eq!((peer.cluster, answer.as_ref()), (CLUSTER, b"node 2: ?".as_slice()));
    serving.abort();
}
