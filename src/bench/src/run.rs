//! A run from its first connection to its last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::net::Dialer;
use crate::payload::Bodies;
use crate::plan::{Length, Plan};
use crate::process::Process;
use crate::record::{Counts, Record, histogram};
use crate::report::live;
use crate::window::Gate;
use crate::wire::{self, Fault};
use crate::worker::{self, Phase, Shared};

/// What happened between two looks, about a second apart.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// When the sample ends, since the start of the load.
    pub(crate) at: Duration,
    pub(crate) length: Duration,
    pub(crate) sent: u64,
    pub(crate) confirmed: u64,
    pub(crate) received: u64,
    /// p50, p99 and maximum of the end-to-end latency; none where nothing was measured.
    pub(crate) latency_us: Option<[u64; 3]>,
    /// The same of confirmations.
    pub(crate) confirm_us: Option<[u64; 3]>,
    pub(crate) is_warm_up: bool,
}

/// What a process used while it was measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) peak_bytes: Option<u64>,
}

/// What came out of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) plan: Plan,
    pub(crate) samples: Vec<Sample>,
    /// All that was counted, warm-up and drain included.
    pub(crate) totals: Counts,
    /// What was counted while it was measured, and how long that was.
    pub(crate) measured: Counts,
    pub(crate) length: Duration,
    pub(crate) expected: u64,
    pub(crate) missing: u64,
    pub(crate) unconfirmed: u64,
    pub(crate) end_to_end: Histogram<u64>,
    pub(crate) confirm: Histogram<u64>,
    pub(crate) late: Histogram<u64>,
    pub(crate) generator: Option<Usage>,
    pub(crate) broker: Option<Usage>,
    pub(crate) errors: Vec<String>,
    pub(crate) error_count: u64,
}

/// Connections that are being opened at a time.
const OPENING_MAX: usize = 64;

/// How long connections have to leave at the end.
const LEAVING_WITHIN: Duration = Duration::from_secs(3);

/// Does what the plan says. An error is one that kept it from beginning.
pub(crate) async fn run(plan: Plan, quiet: bool) -> Result<Outcome, String> {
    let dialer = Arc::new(Dialer::new(&plan.access.nodes, &plan.access.tls)?);
    let broker = plan.broker_pid.map(Process::with_id).transpose()?;
    let target = plan.access.target.to_string();
    let failed = |what: &str, fault: Fault| format!("{what} at {target}: {fault}");
    if plan.declare {
        let setting_up = wire::set_up(&dialer, &plan);
        let done = tokio::time::timeout(plan.access.connect_timeout, setting_up).await;
        done.unwrap_or(Err(Fault::Timeout("the declaration of queues")))
            .map_err(|fault| failed("cannot make the queues", fault))?;
    }
    let (phase, phase_seen) = watch::channel(Phase::Running);
    let shared = Arc::new(Shared {
        record: Record::new(&plan),
        bodies: Bodies::new(plan.run_id, &plan.sizes),
        gate: plan
            .ahead
            .filter(|_| plan.consumers > 0)
            .map(|ahead| Gate::new(ahead * plan.copies())),
        phase: phase_seen,
        sending: watch::channel(plan.producers).0,
        plan,
    });
    let mut consumers = JoinSet::new();
    let begun = begin(&shared, &dialer, &mut consumers).await;
    let producers = match begun {
        Ok(producers) => producers,
        Err(fault) => {
            let text = failed("cannot connect", fault);
            phase.send_replace(Phase::Over);
            leave(&shared, &dialer, consumers).await;
            return Err(text);
        }
    };
    let mut load = Load { shared: &shared, phase: &phase, quiet, watcher: Watcher::new(&shared) };
    let (measured, length, usage) = load.run(producers, &mut consumers, broker.as_ref()).await;
    let watcher = load.watcher;
    leave(&shared, &dialer, consumers).await;
    Ok(outcome(&shared, watcher, measured, length, usage))
}

type Producers = Vec<wire::Outbound>;

/// Opens all connections: consumers first, which begin at once.
async fn begin(
    shared: &Arc<Shared>,
    dialer: &Arc<Dialer>,
    consumers: &mut JoinSet<()>,
) -> Result<Producers, Fault> {
    let plan = &shared.plan;
    let inbound = open(plan.consumers, |n| {
        let (shared, dialer) = (Arc::clone(shared), Arc::clone(dialer));
        async move { wire::consumer(&dialer, &shared.plan, n).await }
    });
    for (n, inbound) in inbound.await?.into_iter().enumerate() {
        consumers.spawn(worker::consume(Arc::clone(shared), n, inbound));
    }
    open(plan.producers, |n| {
        let (shared, dialer) = (Arc::clone(shared), Arc::clone(dialer));
        async move { wire::producer(&dialer, &shared.plan, n).await }
    })
    .await
}

/// Opens `many` connections, several at a time; in order.
async fn open<T, F>(many: usize, connect: impl Fn(usize) -> F) -> Result<Vec<T>, Fault>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Fault>> + Send + 'static,
{
    let mut opened: Vec<Option<T>> = (0..many).map(|_| None).collect();
    let mut opening = JoinSet::new();
    let mut next = 0;
    loop {
        while next < many && opening.len() < OPENING_MAX {
            let (n, connecting) = (next, connect(next));
            opening.spawn(async move { (n, connecting.await) });
            next += 1;
        }
        let Some(done) = opening.join_next().await else { break };
        // A panic of a task is a mistake here, and goes on.
        let (n, result) =
            done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        opened[n] = Some(result?);
    }
    Ok(opened.into_iter().flatten().collect())
}

/// Lets consumers leave, then removes the queues.
async fn leave(shared: &Shared, dialer: &Dialer, mut workers: JoinSet<()>) {
    let left = async { while workers.join_next().await.is_some() {} };
    tokio::time::timeout(LEAVING_WITHIN, left).await.ok();
    workers.abort_all();
    let plan = &shared.plan;
    if !plan.declare || plan.keep {
        return;
    }
    let tearing_down = wire::tear_down(dialer, plan);
    let result = tokio::time::timeout(plan.access.connect_timeout, tearing_down).await;
    if let Err(fault) = result.unwrap_or(Err(Fault::Timeout("the deletion of queues"))) {
        shared.record.error(format!("the queues stay: {fault}"));
    }
}

/// What the generator and the broker used.
type Usages = (Option<Usage>, Option<Usage>);

struct Load<'a> {
    shared: &'a Arc<Shared>,
    phase: &'a watch::Sender<Phase>,
    quiet: bool,
    watcher: Watcher,
}

impl Load<'_> {
    /// Runs all phases. Returns what was counted while it was measured.
    async fn run(
        &mut self,
        producers: Producers,
        workers: &mut JoinSet<()>,
        broker: Option<&Process>,
    ) -> (Counts, Duration, Usages) {
        let shared = self.shared;
        let plan = &shared.plan;
        let start_all = |workers: &mut JoinSet<()>| {
            let begin_us = shared.record.clock.now_us();
            for (n, outbound) in producers.into_iter().enumerate() {
                workers.spawn(worker::produce(Arc::clone(shared), n, outbound, begin_us));
            }
        };
        self.watcher.begin();
        let mut waiting = Some(start_all);
        if !plan.warm_up.is_zero() {
            waiting.take().into_iter().for_each(|start_all| start_all(workers));
            if self.watch(tokio::time::sleep(plan.warm_up), true).await {
                self.phase.send_replace(Phase::Draining);
            }
        }
        shared.record.end_warm_up();
        let this = Process::this();
        let all = [Some(&this), broker];
        all.iter().flatten().for_each(|process| process.reset_peak());
        let cpu_before = all.map(|process| process.and_then(Process::cpu));
        let (before, start) = (shared.record.counts(), Instant::now());
        waiting.into_iter().for_each(|start_all| start_all(workers));

        let end = self.end();
        self.watch(end, false).await;
        // A run of so many messages is measured until the last has come, one of so long is not.
        if let Length::Messages(_) = plan.length {
            self.watch(shared.record.drained(plan, plan.drain), false).await;
        }
        let (measured, length) = (difference(shared.record.counts(), before), start.elapsed());
        let usage = |at: usize| {
            let process = all[at]?;
            let cpu = process.cpu()?.saturating_sub(cpu_before[at]?);
            Some(Usage { cpu, peak_bytes: process.peak_bytes() })
        };
        let usages = (usage(0), usage(1));
        self.watcher.look(false, true, self.quiet);
        self.phase.send_replace(Phase::Draining);
        // Producers that are in the middle of a batch finish it.
        let mut sending = shared.sending.subscribe();
        let quiet = sending.wait_for(|sending| *sending == 0);
        tokio::time::timeout(plan.drain, quiet).await.ok();
        if plan.producers > 0 {
            shared.record.drained(plan, plan.drain).await;
        }
        self.phase.send_replace(Phase::Over);
        self.watcher.take();
        (measured, length, usages)
    }

    /// Returns when what is to be measured is over.
    fn end(&self) -> impl Future<Output = ()> + use<> {
        let shared = Arc::clone(self.shared);
        async move {
            let plan = &shared.plan;
            let mut sending = shared.sending.subscribe();
            let all_sent = async {
                match plan.producers {
                    0 => std::future::pending().await,
                    // The sender is in `shared`.
                    _ => sending.wait_for(|sending| *sending == 0).await.map(drop).unwrap_or(()),
                }
            };
            let time_or_count = async {
                match plan.length {
                    Length::Time(time) => tokio::time::sleep(time).await,
                    Length::Messages(_) if plan.producers > 0 => std::future::pending().await,
                    Length::Messages(all) => {
                        while shared.record.counts().received < all {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
            };
            tokio::select! {
                () = all_sent => {}
                () = time_or_count => {}
            }
        }
    }

    /// Waits for something and looks at the load each second meanwhile. Returns whether the user
    /// has had enough.
    async fn watch(&mut self, wait: impl Future<Output = ()>, is_warm_up: bool) -> bool {
        tokio::pin!(wait);
        loop {
            let next = self.watcher.last.1 + Duration::from_secs(1);
            tokio::select! {
                () = &mut wait => return false,
                () = tokio::time::sleep_until(next.into()) => {
                    self.watcher.look(is_warm_up, false, self.quiet);
                }
                signal = tokio::signal::ctrl_c() => return signal.is_ok(),
            }
        }
    }
}

/// Looks at the load from time to time.
struct Watcher {
    shared: Arc<Shared>,
    begun: Instant,
    last: (Counts, Instant),
    samples: Vec<Sample>,
    end_to_end: Histogram<u64>,
    confirm: Histogram<u64>,
    late: Histogram<u64>,
}

impl Watcher {
    fn new(shared: &Arc<Shared>) -> Watcher {
        Watcher {
            shared: Arc::clone(shared),
            begun: Instant::now(),
            last: (Counts::default(), Instant::now()),
            samples: Vec::new(),
            end_to_end: histogram(),
            confirm: histogram(),
            late: histogram(),
        }
    }

    fn begin(&mut self) {
        self.begun = Instant::now();
        self.last = (Counts::default(), self.begun);
    }

    /// Adds the latencies since the last look to those of the run; their p50, p99 and maximum.
    fn take(&mut self) -> [Option<[u64; 3]>; 2] {
        let new = self.shared.record.take_latencies();
        // Of the same bounds: adding cannot fail.
        self.late.add(&new.late).ok();
        [(&mut self.end_to_end, new.end_to_end), (&mut self.confirm, new.confirm)].map(
            |(all, new)| {
                all.add(&new).ok();
                let marks = [new.value_at_quantile(0.5), new.value_at_quantile(0.99), new.max()];
                (!new.is_empty()).then_some(marks)
            },
        )
    }

    /// Takes a sample. A last one that is too short to tell a rate is left out.
    fn look(&mut self, is_warm_up: bool, is_last: bool, quiet: bool) {
        let (counts, now) = (self.shared.record.counts(), Instant::now());
        let (before, then) = std::mem::replace(&mut self.last, (counts, now));
        let [latency_us, confirm_us] = self.take();
        let length = now - then;
        if is_last && length < Duration::from_millis(200) && !self.samples.is_empty() {
            return;
        }
        let new = difference(counts, before);
        let sample = Sample {
            at: now - self.begun,
            length,
            sent: new.sent,
            confirmed: new.confirmed,
            received: new.received,
            latency_us,
            confirm_us,
            is_warm_up,
        };
        if !quiet {
            live::line(&sample, &self.shared.plan, new.refused, self.shared.record.errors().1);
        }
        self.samples.push(sample);
    }
}

fn difference(now: Counts, before: Counts) -> Counts {
    Counts {
        sent: now.sent - before.sent,
        sent_bytes: now.sent_bytes - before.sent_bytes,
        confirmed: now.confirmed - before.confirmed,
        refused: now.refused - before.refused,
        received: now.received - before.received,
        received_bytes: now.received_bytes - before.received_bytes,
        redelivered: now.redelivered - before.redelivered,
        duplicates: now.duplicates - before.duplicates,
        disordered: now.disordered - before.disordered,
        corrupt: now.corrupt - before.corrupt,
    }
}

fn outcome(
    shared: &Shared,
    watcher: Watcher,
    measured: Counts,
    length: Duration,
    (generator, broker): Usages,
) -> Outcome {
    let (expected, missing) = shared.record.missing(&shared.plan);
    let totals = shared.record.counts();
    let (errors, error_count) = shared.record.errors();
    let unconfirmed = match shared.plan.window {
        0 => 0,
        _ => totals.sent.saturating_sub(totals.confirmed + totals.refused),
    };
    Outcome {
        plan: shared.plan.clone(),
        samples: watcher.samples,
        totals,
        measured,
        length,
        expected,
        missing,
        unconfirmed,
        end_to_end: watcher.end_to_end,
        confirm: watcher.confirm,
        late: watcher.late,
        generator,
        broker,
        errors,
        error_count,
    }
}

impl Outcome {
    /// What is amiss and not tolerated, a line each.
    pub(crate) fn failures(&self) -> Vec<String> {
        let tolerate = self.plan.tolerate;
        let totals = self.totals;
        let all = [
            (self.missing, !tolerate.loss, "deliveries are missing"),
            (totals.duplicates, !tolerate.duplicates, "messages came more than once"),
            (totals.disordered, !tolerate.order, "messages came out of order"),
            (totals.corrupt, true, "messages are changed, or of another run"),
            (totals.refused, true, "messages were refused by the broker"),
            (self.unconfirmed, true, "messages stay unconfirmed"),
            (self.error_count, true, "errors"),
        ];
        let failed = all.iter().filter(|(count, counts, _)| *count > 0 && *counts);
        failed.map(|(count, _, what)| format!("{count} {what}")).collect()
    }
}
