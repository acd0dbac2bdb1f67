//! The nodes of a run, and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isthmus_broker::Broker;
use isthmus_cluster::member::Role;
use isthmus_storage::SimStorage;
use isthmus_storage::fs::{Fault, OpKind, Rng};
use isthmus_storage::threads::Simulation;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::disk::{self, SlowDisk, Slowness};
use crate::net::{Farewell, Net};
use crate::node::{Life, Node, Setup};
use crate::oracle::{Broken, Oracle, Tally};

/// How long nodes that are healed may take until everybody has a vote.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often it is looked at who leads.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Those that run, by their numbers. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Running(Arc<Mutex<BTreeMap<usize, Arc<Node>>>>);

impl Running {
    pub(crate) fn get(&self, node: usize) -> Option<Arc<Node>> {
        self.0.lock().get(&node).cloned()
    }

    pub(crate) fn all(&self) -> Vec<(usize, Arc<Node>)> {
        self.0.lock().iter().map(|(number, node)| (*number, Arc::clone(node))).collect()
    }

    /// Who may act as the leader now.
    pub(crate) fn acting(&self) -> Vec<usize> {
        let acts = |broker: &Broker| {
            let may = broker.membership().is_some_and(|m| m.member().lease().holds());
            may && *broker.leads().borrow()
        };
        self.all().into_iter().filter(|(_, node)| acts(&node.broker)).map(|(n, _)| n).collect()
    }
}

/// Watches that never two may act at once.
pub(crate) async fn watch_leaders(running: Running, oracle: Oracle) {
    loop {
        let acting = running.acting();
        if acting.len() > 1 {
            oracle.break_with(format!("nodes {acting:?} may all act as the leader"));
        }
        for (_, node) in running.all() {
            let Some(membership) = node.broker.membership() else { continue };
            let standing = membership.member().standing().borrow().clone();
            if standing.role == Role::Leader {
                oracle.leads(standing.term, membership.member().id().0);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Which lives nodes are in. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Members(Arc<Mutex<Lives>>);

#[derive(Default)]
struct Lives {
    all: Vec<Life>,
    /// Those that are not known to have a vote.
    joining: Vec<Life>,
    /// How many were taken in.
    joined: u64,
}

impl Members {
    fn add(&self, life: Life) {
        let mut lives = self.0.lock();
        match lives.all.get_mut(life.node) {
            Some(earlier) => *earlier = life,
            // Nodes come one after the other.
            None => lives.all.push(life),
        }
        if !life.founds {
            lives.joining.push(life);
        }
    }

    /// How many were taken in.
    pub(crate) fn joined(&self) -> u64 {
        self.0.lock().joined
    }

    fn of(&self, node: usize) -> Life {
        self.0.lock().all[node]
    }
}

/// Has nodes taken in by whoever leads, one at a time.
pub(crate) async fn take_in(running: Running, members: Members) {
    loop {
        let next = members.0.lock().joining.first().copied();
        let leader = running.acting().first().and_then(|node| running.get(*node));
        if let (Some(life), Some(leader)) = (next, leader)
            && let Some(membership) = leader.broker.membership()
        {
            // Once it is said to have worked, it is committed; until then it is asked again.
            let (member, peer) = (membership.member(), life.peer());
            let joined = tokio::time::timeout(Duration::from_secs(3), member.join(&peer)).await;
            tracing::info!(?life, ?joined, "is taken in");
            if matches!(joined, Ok(Ok(()))) {
                let mut lives = members.0.lock();
                lives.joining.retain(|joining| *joining != life);
                lives.joined += 1;
            }
        }
        tokio::time::sleep(5 * LOOK_EVERY).await;
    }
}

/// All nodes of a run.
pub(crate) struct Cluster<'a> {
    pub(crate) setup: Setup,
    pub(crate) simulation: Simulation,
    pub(crate) net: Net,
    pub(crate) running: Running,
    rng: Rng,
    disks: Vec<SlowDisk>,
    pub(crate) members: Members,
    /// Those whose disk is to fail without the power.
    failing: BTreeSet<usize>,
    prepare: &'a dyn Fn(&SimStorage),
    /// Those whose disk has lost what it had synced.
    torn: BTreeSet<usize>,
    /// No disk is to fail any more.
    is_healed: bool,
    /// Nodes that are down, and until when.
    down: BTreeMap<usize, Instant>,
    failed: mpsc::UnboundedReceiver<(usize, u64)>,
    fail: mpsc::UnboundedSender<(usize, u64)>,
    /// Which life of each node this is.
    lives: Vec<u64>,
    /// Numbers for all that was asked of disks that are no more.
    pub(crate) digests: Vec<u64>,
    /// What was written by nodes on those.
    pub(crate) written: Tally,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(
        setup: Setup,
        simulation: Simulation,
        rng: &mut Rng,
        prepare: &'a dyn Fn(&SimStorage),
    ) -> Cluster<'a> {
        let net = Net::new(rng.next_u64());
        let (fail, failed) = mpsc::unbounded_channel();
        let mut this = Cluster {
            setup,
            simulation,
            net,
            running: Running::default(),
            rng: Rng::new(rng.next_u64()),
            disks: Vec::new(),
            members: Members::default(),
            failing: BTreeSet::new(),
            prepare,
            torn: BTreeSet::new(),
            is_healed: false,
            down: BTreeMap::new(),
            failed,
            fail,
            lives: Vec::new(),
            digests: Vec::new(),
            written: Tally::default(),
        };
        for _ in 0..setup.nodes {
            this.add(rng.next_u64(), true);
        }
        this
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.disks.len()
    }

    /// Whether all nodes have a vote: nobody is being taken in.
    pub(crate) fn is_settled(&self) -> bool {
        self.members.0.lock().joining.is_empty()
    }

    fn new_disk(&self, seed: u64) -> SlowDisk {
        let disk = SimStorage::new(seed);
        (self.prepare)(&disk);
        let simulation = self.simulation.clone();
        SlowDisk { disk, slowness: Slowness::default(), simulation }
    }

    fn add(&mut self, seed: u64, founds: bool) {
        let node = self.nodes();
        self.disks.push(self.new_disk(seed));
        self.lives.push(0);
        self.members.add(Life { node, incarnation: 0, founds });
        self.down.insert(node, Instant::now());
    }

    /// Another node comes, and is taken in.
    pub(crate) fn grow(&mut self) {
        let seed = self.rng.next_u64();
        tracing::info!(node = self.nodes(), "joins");
        self.add(seed, false);
    }

    /// A node loses all that it has, and comes back as another member. The others have what it had,
    /// so only if everybody has a vote: two that lose their data are more than is promised.
    pub(crate) fn wipe(&mut self, node: usize, back_in: Duration) {
        if !self.is_settled() || !self.running.0.lock().contains_key(&node) {
            return;
        }
        self.end(node, true, back_in);
        self.empty(node);
    }

    /// A node has nothing any more, and is another member.
    fn empty(&mut self, node: usize) {
        tracing::info!(node, "has lost its data");
        self.digests.push(self.disks[node].disk.digest());
        let seed = self.rng.next_u64();
        self.disks[node] = self.new_disk(seed);
        let Life { incarnation, .. } = self.members.of(node);
        self.members.add(Life { node, incarnation: incarnation + 1, founds: false });
    }

    /// A node ends, and comes back after some time: with what its disk has after a power cut, or
    /// with all that it wrote.
    pub(crate) fn end(&mut self, node: usize, is_power_cut: bool, back_in: Duration) {
        let Some(ended) = self.running.0.lock().remove(&node) else { return };
        let farewell =
            if is_power_cut && self.rng.chance(70) { Farewell::Silence } else { Farewell::Reset };
        self.net.end(node, farewell);
        self.exchange_disk(node, is_power_cut);
        ended.kill(&self.simulation);
        tracing::info!(node, is_power_cut, ?back_in, "ended");
        self.down.insert(node, Instant::now() + back_in);
    }

    /// A node ends, and its disk loses up to `bytes` of the end of the log, whether it had synced them
    /// or not.
    pub(crate) fn lose_tail(&mut self, node: usize, bytes: u64, back_in: Duration) {
        if self.running.get(node).is_none() {
            return;
        }
        self.end(node, true, back_in);
        let lost = disk::lose_tail(&self.disks[node].disk, bytes);
        tracing::info!(node, ?lost, "has lost the tail of its log");
        self.written.tails_lost += u64::from(lost.is_some());
        self.torn.insert(node);
    }

    /// Whether `node` runs, and has heard from `other` what it had.
    pub(crate) fn has_heard(&self, node: usize, other: usize) -> bool {
        let other = self.members.of(other).member();
        self.running.get(node).is_some_and(|node| node.has_heard(other))
    }

    /// Waits until all run and have a vote, and somebody leads whose log everybody has; who leads, or
    /// `None` if that takes longer than `patience`.
    pub(crate) async fn whole(&mut self, patience: Duration) -> Result<Option<usize>, Broken> {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            self.go_on(Instant::now() + LOOK_EVERY).await?;
            let leader = self.running.acting().first().copied();
            if let Some(leader) = leader.filter(|_| self.down.is_empty() && self.is_settled())
                && let Some(node) = self.running.get(leader)
                && let Some(membership) = node.broker.membership()
            {
                let status = membership.status();
                let has_all = |matched: Option<u64>| matched >= Some(status.committed);
                if status.peers.iter().all(|peer| peer.is_voter && has_all(peer.matched)) {
                    self.torn.clear();
                    return Ok(Some(leader));
                }
            }
        }
        Ok(None)
    }

    fn exchange_disk(&mut self, node: usize, is_power_cut: bool) {
        self.lives[node] += 1;
        let slow = &mut self.disks[node];
        self.digests.push(slow.disk.digest());
        self.written = self.written.and(written(&slow.disk));
        slow.disk =
            if is_power_cut { slow.disk.crash(self.rng.next_u64()) } else { slow.disk.fork() };
        slow.slowness = Slowness::default();
        (self.prepare)(&slow.disk);
    }

    /// Until `until`, starts nodes whose time has come and ends those whose disk has failed.
    pub(crate) async fn go_on(&mut self, until: Instant) -> Result<(), Broken> {
        loop {
            let due = self.down.iter().min_by_key(|(node, at)| (**at, **node));
            let due = due.map(|(node, at)| (*at, *node)).filter(|(at, _)| *at <= until);
            let next = due.map_or(until, |(at, _)| at).min(Instant::now() + LOOK_EVERY);
            tokio::select! {
                biased;
                Some((node, life)) = self.failed.recv() => {
                    if self.lives[node] == life {
                        let back_in = Duration::from_millis(self.rng.below(500));
                        // What a sync has lost that failed may still read back, until the power goes.
                        let is_power_cut = !self.failing.remove(&node) || self.rng.chance(50);
                        self.end(node, is_power_cut, back_in);
                    }
                    continue;
                }
                () = tokio::time::sleep_until(next) => {}
            }
            let is_cut = |(node, _): &(usize, Arc<Node>)| self.disks[*node].disk.is_cut();
            if let Some((node, _)) = self.running.all().into_iter().find(is_cut) {
                let back_in = Duration::from_millis(self.rng.below(500));
                self.end(node, true, back_in);
                continue;
            }
            match due {
                Some((at, node)) if at <= Instant::now() => self.start(node).await?,
                _ if Instant::now() >= until => return Ok(()),
                _ => {}
            }
        }
    }

    async fn start(&mut self, node: usize) -> Result<(), Broken> {
        let power_fails = self.setup.power_fails && !self.is_healed && self.lives[node] > 0;
        if power_fails && self.rng.chance(10) {
            let disk = &self.disks[node].disk;
            disk.inject(disk.operations() + self.rng.below(60), Fault::PowerCut);
        }
        self.failing.remove(&node);
        if !self.is_healed && self.setup.disks_fail && self.rng.chance(15) {
            let faults = [Fault::Eio, Fault::Eio, Fault::Enospc, Fault::ShortWriteThenFull];
            let fault = faults[self.rng.below(4) as usize];
            let disk = &self.disks[node].disk;
            disk.inject(disk.operations() + self.rng.below(150), fault);
            self.failing.insert(node);
        }
        // Jumps are both ways.
        let jumped = if self.setup.clocks_jump { self.rng.below(60_000) } else { 0 };
        let ahead = self.setup.clocks_apart * node as u32 + Duration::from_millis(jumped);
        loop {
            let (fail, life) = (self.fail.clone(), self.lives[node]);
            let on_failure = Box::new(move |_| fail.send((node, life)).unwrap_or_default());
            let around = (&self.net, &self.disks[node], self.rng.next_u64());
            let (who, setup) = (self.members.of(node), (self.setup, ahead));
            let started = Node::start(who, setup, around, &self.simulation, on_failure).await;
            match started {
                Ok(started) => {
                    tracing::info!(node, "started");
                    self.down.remove(&node);
                    self.running.0.lock().insert(node, Arc::new(started));
                    return Ok(());
                }
                Err(_) if self.disks[node].disk.is_cut() => self.exchange_disk(node, true),
                Err(_) if self.failing.remove(&node) => {
                    let is_power_cut = self.rng.chance(50);
                    self.exchange_disk(node, is_power_cut);
                }
                // What it has lost is noticed at once, and the operator does as the error says.
                Err(_) if self.torn.remove(&node) => self.empty(node),
                Err(error) => return Err(format!("node {node} does not start: {error}")),
            }
        }
    }

    /// Nothing goes wrong any more, and every node is up.
    pub(crate) async fn heal(&mut self) -> Result<(), Broken> {
        self.is_healed = true;
        self.failing.clear();
        self.net.block(Vec::new());
        for disk in &self.disks {
            disk.slowness.set(Duration::ZERO);
            disk.disk.forget_faults();
        }
        // Those whose disk has failed end.
        self.go_on(Instant::now() + 2 * LOOK_EVERY).await?;
        while let Some(node) = self.down.keys().next().copied() {
            self.start(node).await?;
        }
        let begun = Instant::now();
        while !self.is_settled() {
            if begun.elapsed() > PATIENCE {
                let joining = self.members.0.lock().joining.clone();
                return Err(format!("{joining:?} are not taken in"));
            }
            self.go_on(Instant::now() + LOOK_EVERY).await?;
        }
        Ok(())
    }

    /// A disk gets nothing done for some time.
    pub(crate) fn slow_down(&mut self, node: usize, time: Duration) {
        tracing::info!(node, ?time, "slow disk");
        self.disks[node].slowness.set(self.simulation.now() + time);
    }

    /// Ends every node for good; returns the numbers for all that was asked of disks.
    pub(crate) async fn end_all(&mut self) -> Vec<u64> {
        for node in 0..self.nodes() {
            self.end(node, false, Duration::from_secs(3600));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        for slow in &self.disks {
            self.digests.push(slow.disk.digest());
            self.written = self.written.and(written(&slow.disk));
        }
        std::mem::take(&mut self.digests)
    }
}

/// What was written to a disk beside the log.
fn written(disk: &SimStorage) -> Tally {
    let trace = disk.trace();
    let synced = |is_it: fn(&str) -> bool| {
        trace.iter().filter(|op| op.kind == OpKind::Sync && is_it(&op.file)).count() as u64
    };
    Tally {
        snapshots: synced(|name| name == "snapshot.tmp"),
        checkpoints: synced(|name| name.ends_with(".ckp.tmp")),
        page_files: synced(|name| name.starts_with("pages-")),
        ..Tally::default()
    }
}
