//! `[cluster]`: the nodes that are one broker together.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use isthmus_ldap::Secret;

use super::backends::Password;
use super::listen::{ListenAddr, ListenAddrs};
use super::units::{ByteSize, TimeSpan};
use super::value::{Setting, Value, read_word};

/// The nodes of a cluster, and which of them this is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cluster {
    /// This node's number; 0 where it is alone.
    pub(crate) node: u32,
    /// The nodes that begin the cluster, or the ones that a later node knows.
    pub(crate) nodes: Nodes,
    /// Where this node listens for its peers, if that is not where they reach it.
    pub(crate) listen: ListenAddrs,
    /// Whether nodes speak TLS to each other.
    pub(crate) tls: PeerTls,
    /// The certificate that this node shows its peers; with its key and their authorities it is read
    /// again when it changes.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// The authorities that nodes' certificates are from.
    pub(crate) ca: PathBuf,
    /// What every node must know to be let in.
    pub(crate) token: Password,
    /// How often a leader says that it is there.
    pub(crate) heartbeat: TimeSpan,
    /// A leader that has not been heard of for 1.3 to 1.6 times this is replaced.
    pub(crate) election_timeout: TimeSpan,
    /// How long what clients say is held while nobody leads.
    pub(crate) hold: TimeSpan,
    /// Whether standbys pass clients through to the leader.
    pub(crate) standby_clients: StandbyClients,
    /// Log that is kept for nodes that lag.
    pub(crate) log_kept_bytes: ByteSize,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            node: 0,
            nodes: Nodes::default(),
            listen: ListenAddrs::default(),
            tls: PeerTls::On,
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            ca: PathBuf::new(),
            token: Password(Secret::new("")),
            heartbeat: TimeSpan(Duration::from_millis(100)),
            election_timeout: TimeSpan(Duration::from_millis(500)),
            hold: TimeSpan::secs(5),
            standby_clients: StandbyClients::PassThrough,
            log_kept_bytes: ByteSize::mib(256),
        }
    }
}

impl Cluster {
    /// Whether this node is one of several, or may become one.
    pub(crate) fn is_on(&self) -> bool {
        self.node != 0
    }

    /// Where this node's peers reach it.
    pub(crate) fn own(&self) -> Option<&ListenAddr> {
        self.nodes.0.iter().find(|node| u32::from(node.number) == self.node).map(|node| &node.addr)
    }

    /// Where this node listens for its peers: what `cluster.listen` says, or where they reach it.
    pub(crate) fn listened(&self) -> ListenAddrs {
        if self.listen.0.is_empty() {
            ListenAddrs(self.own().cloned().into_iter().collect())
        } else {
            self.listen.clone()
        }
    }

    /// What contradicts itself, by key.
    pub(super) fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if !self.is_on() {
            if !self.nodes.0.is_empty() {
                let message = "must say which of cluster.nodes this one is, 1 to 65535";
                problems.push(("cluster.node", message.to_owned()));
            }
            return problems;
        }
        if self.own().is_none() {
            let node = self.node;
            let message = format!("must have this node, as \"{node}@host:port\", and its peers");
            problems.push(("cluster.nodes", message));
        }
        match self.tls {
            PeerTls::On => {
                let files = [
                    ("cluster.certificate", &self.certificate),
                    ("cluster.key", &self.key),
                    ("cluster.ca", &self.ca),
                ];
                for (key, _) in files.into_iter().filter(|(_, file)| file.as_os_str().is_empty()) {
                    let message = "must name a file (`isthmus certs dev` makes one to try), or \
                                   cluster.tls be \"off\", which is for loopback alone";
                    problems.push((key, message.to_owned()));
                }
            }
            PeerTls::Off => {
                let is_loopback = |addr: &ListenAddr| {
                    let ip = addr.host.parse::<IpAddr>();
                    ip.map_or(addr.host == "localhost", |ip| ip.to_canonical().is_loopback())
                };
                let mut addrs = self.nodes.0.iter().map(|node| &node.addr).chain(&self.listen.0);
                if let Some(addr) = addrs.find(|addr| !is_loopback(addr)) {
                    let message = format!(
                        "may be \"off\" on loopback alone, and {addr} is not: what nodes say to \
                         each other would be read, and changed, by whoever is between them"
                    );
                    problems.push(("cluster.tls", message));
                }
            }
        }
        let (heartbeat, election) = (self.heartbeat.0, self.election_timeout.0);
        if heartbeat * 3 > election {
            let message = "must be at least three times cluster.heartbeat, or a word that is late \
                           costs a leader";
            problems.push(("cluster.election_timeout", message.to_owned()));
        }
        problems
    }
}

/// A node of a cluster, and where its peers reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its number.
    pub(crate) number: u16,
    /// Host and port.
    pub(crate) addr: ListenAddr,
}

/// Nodes, in the order of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nodes(pub(crate) Vec<Node>);

impl Setting for Nodes {
    fn read(value: &Value) -> Result<Self, String> {
        let mut nodes = Vec::<String>::read(value)?
            .iter()
            .map(|text| parse_node(text))
            .collect::<Result<Vec<_>, _>>()?;
        nodes.sort_by_key(|node| node.number);
        if let Some([node, _]) = nodes.array_windows().find(|[a, b]| a.number == b.number) {
            return Err(format!("has node {} twice", node.number));
        }
        for (at, node) in nodes.iter().enumerate() {
            if let Some(other) = nodes[..at].iter().find(|other| other.addr == node.addr) {
                let (a, b) = (other.number, node.number);
                return Err(format!("has nodes {a} and {b} both at {}", node.addr));
            }
        }
        Ok(Self(nodes))
    }
}

fn parse_node(text: &str) -> Result<Node, String> {
    let malformed = || format!("`{text}` is not a node; write \"1@host:port\"");
    let (number, addr) = text.split_once('@').ok_or_else(malformed)?;
    let number = number.parse().ok().filter(|number| *number > 0).ok_or_else(malformed)?;
    let addr = ListenAddr::parse(addr)?;
    if addr.port == 0 {
        return Err(format!("`{text}`: peers must know the port"));
    }
    Ok(Node { number, addr })
}

/// Whether nodes speak TLS to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerTls {
    /// Both ends show a certificate.
    On,
    /// Plain text, on loopback alone.
    Off,
}

impl FromStr for PeerTls {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(()),
        }
    }
}

impl Setting for PeerTls {
    fn read(value: &Value) -> Result<Self, String> {
        read_word(value, "\"on\" or \"off\"")
    }
}

/// What standbys do with clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StandbyClients {
    /// They pass them through to the leader.
    PassThrough,
    /// They close their connections.
    Refuse,
}

impl FromStr for StandbyClients {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "pass_through" => Ok(Self::PassThrough),
            "refuse" => Ok(Self::Refuse),
            _ => Err(()),
        }
    }
}

impl Setting for StandbyClients {
    fn read(value: &Value) -> Result<Self, String> {
        read_word(value, "\"pass_through\" or \"refuse\"")
    }
}
