//! Connections and nothing else: storms of logins, and crowds of idle ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::net::Dialer;
use crate::plan::{Access, Schedule};
use crate::process::Process;
use crate::record::histogram;
use crate::report::live;
use crate::run::Usage;
use crate::wire;

/// What connections are to be made.
#[derive(Debug, Clone)]
pub(crate) struct StormPlan {
    pub(crate) access: Access,
    pub(crate) connections: usize,
    /// When each is to be opened; none as fast as it goes.
    pub(crate) schedule: Option<Schedule>,
    /// How many may be opening at a time.
    pub(crate) opening_max: usize,
    /// How long all of them stay once the last is open.
    pub(crate) hold: Duration,
    /// Whether each leaves as soon as its login is done.
    pub(crate) churn: bool,
    pub(crate) broker_pid: Option<u32>,
}

/// What came out of it.
#[derive(Debug)]
pub(crate) struct StormOutcome {
    pub(crate) plan: StormPlan,
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    /// Those that broke before they were to leave.
    pub(crate) dropped: u64,
    /// From the first attempt to the last login.
    pub(crate) opening: Duration,
    /// From the intended time of the attempt to the login.
    pub(crate) login: Histogram<u64>,
    pub(crate) broker: Option<Usage>,
    pub(crate) errors: Vec<String>,
}

#[derive(Debug)]
struct Tally {
    opened: u64,
    failed: u64,
    dropped: u64,
    login: Histogram<u64>,
    errors: Vec<String>,
}

/// Errors that are kept.
const ERRORS_KEPT: usize = 20;

impl Tally {
    fn error(&mut self, text: String) {
        if self.errors.len() < ERRORS_KEPT {
            self.errors.push(text);
        }
    }
}

/// Does what the plan says.
pub(crate) async fn run(plan: StormPlan, quiet: bool) -> Result<StormOutcome, String> {
    let dialer = Arc::new(Dialer::new(&plan.access.nodes, &plan.access.tls)?);
    let broker = plan.broker_pid.map(Process::with_id).transpose()?;
    if let Some(process) = &broker {
        process.reset_peak();
    }
    let cpu_before = broker.as_ref().and_then(Process::cpu);
    let tally = Arc::new(Mutex::new(Tally {
        opened: 0,
        failed: 0,
        dropped: 0,
        login: histogram(),
        errors: Vec::new(),
    }));
    let (over, _) = watch::channel(false);
    let mut run_id = [0; 4];
    getrandom::fill(&mut run_id).map_err(|error| error.to_string())?;
    let storm =
        Storm { plan: &plan, dialer, tally: Arc::clone(&tally), over: &over, run_id, quiet };
    let (opening, held) = storm.open().await;
    storm.hold(held).await;
    let usage = broker.and_then(|process| {
        let cpu = process.cpu()?.saturating_sub(cpu_before?);
        Some(Usage { cpu, peak_bytes: process.peak_bytes() })
    });
    let tally = tally.lock();
    Ok(StormOutcome {
        opened: tally.opened,
        failed: tally.failed,
        dropped: tally.dropped,
        opening,
        login: tally.login.clone(),
        broker: usage,
        errors: tally.errors.clone(),
        plan,
    })
}

struct Storm<'a> {
    plan: &'a StormPlan,
    dialer: Arc<Dialer>,
    tally: Arc<Mutex<Tally>>,
    over: &'a watch::Sender<bool>,
    run_id: [u8; 4],
    quiet: bool,
}

impl Storm<'_> {
    /// Opens all connections. Returns how long that took, and their tasks.
    async fn open(&self) -> (Duration, JoinSet<()>) {
        let start = Instant::now();
        let slots = Arc::new(tokio::sync::Semaphore::new(self.plan.opening_max));
        let mut held = JoinSet::new();
        let mut told = start;
        for n in 0..self.plan.connections {
            let due = match &self.plan.schedule {
                None => None,
                Some(schedule) => match schedule.time_of(n as u64) {
                    Some(time) => Some(start + time),
                    None => break,
                },
            };
            if let Some(due) = due {
                tokio::time::sleep_until(due.into()).await;
            }
            // Nobody closes the semaphore.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            held.spawn(self.connection(n, due.unwrap_or_else(Instant::now), slot));
            while held.try_join_next().is_some() {}
            if !self.quiet && told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                let tally = self.tally.lock();
                live::connections(start.elapsed(), tally.opened, tally.failed, tally.dropped);
            }
        }
        // All slots are free when the last login has ended.
        slots.acquire_many(self.plan.opening_max as u32).await.map(drop).ok();
        (start.elapsed(), held)
    }

    /// One connection from its login to its end.
    fn connection(
        &self,
        n: usize,
        due: Instant,
        slot: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> impl Future<Output = ()> + use<> {
        let (dialer, tally) = (Arc::clone(&self.dialer), Arc::clone(&self.tally));
        let (access, churn) = (self.plan.access.clone(), self.plan.churn);
        let mut over = self.over.subscribe();
        let name = format!("bench{:08x}i{n}", u32::from_le_bytes(self.run_id));
        async move {
            let login = wire::idle(&dialer, &access, &name).await;
            let us = due.elapsed().as_micros() as u64;
            let mut link = {
                let mut tally = tally.lock();
                match login {
                    Ok(link) => {
                        tally.opened += 1;
                        tally.login.saturating_record(us);
                        link
                    }
                    Err(fault) => {
                        tally.failed += 1;
                        return tally.error(format!("connection {n}: {fault}"));
                    }
                }
            };
            drop(slot);
            if !churn {
                let broken = async {
                    loop {
                        if let Err(fault) = link.input.read().await {
                            return fault;
                        }
                        let n = link.input.bytes().len();
                        link.input.consume(n);
                    }
                };
                tokio::select! {
                    fault = broken => {
                        let mut tally = tally.lock();
                        tally.dropped += 1;
                        return tally.error(format!("connection {n}: {fault}"));
                    }
                    // The sender outlives the storm.
                    _ = over.wait_for(|over| *over) => {}
                }
            }
            link.close(wire::goodbye(&access)).await;
        }
    }

    /// Keeps all connections open for as long as the plan says.
    async fn hold(&self, mut held: JoinSet<()>) {
        let start = Instant::now();
        while !self.plan.churn && start.elapsed() < self.plan.hold {
            let left = self.plan.hold - start.elapsed();
            tokio::select! {
                () = tokio::time::sleep(left.min(Duration::from_secs(1))) => {}
                _ = tokio::signal::ctrl_c() => break,
            }
            if !self.quiet {
                let tally = self.tally.lock();
                live::connections(start.elapsed(), tally.opened, tally.failed, tally.dropped);
            }
        }
        self.over.send_replace(true);
        let left = async { while held.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(5), left).await.ok();
    }
}

impl StormOutcome {
    /// What is amiss, a line each.
    pub(crate) fn failures(&self) -> Vec<String> {
        let all = [(self.failed, "connections failed"), (self.dropped, "connections broke")];
        let failed = all.iter().filter(|(count, _)| *count > 0);
        failed.map(|(count, what)| format!("{count} {what}")).collect()
    }
}
