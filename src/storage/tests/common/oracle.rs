//! A seeded workload over a log and its checkpoints, and what must be there after a crash.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use isthmus_storage::{
    Error, HardState, Log, LogId, SimStorage, checkpoint,
    fs::{OpKind, Rng},
};

use super::{append, contents, payload, shared, tiny};

/// The entries of a log by index.
type Entries = BTreeMap<u64, (u64, Vec<u8>)>;

#[derive(Clone)]
enum Step {
    Append(LogId, Vec<u8>),
    Truncate(u64),
}

fn apply(entries: &mut Entries, step: &Step) {
    match step {
        Step::Append(id, payload) => {
            entries.insert(id.index, (id.term, payload.clone()));
        }
        Step::Truncate(index) => {
            entries.split_off(index);
        }
    }
}

/// A value that is being replaced: what was reported, and what may have become of it.
#[derive(Clone, Copy)]
struct Pending<T> {
    reported: T,
    asked: T,
}

impl<T: Copy + PartialEq + std::fmt::Debug> Pending<T> {
    fn new(value: T) -> Self {
        Self { reported: value, asked: value }
    }

    fn check(&mut self, what: &str, found: T) -> Result<(), String> {
        if found != self.reported && found != self.asked {
            return Err(format!(
                "{what}: found {found:?}, reported {:?}, asked for {:?}",
                self.reported, self.asked
            ));
        }
        *self = Self::new(found);
        Ok(())
    }
}

/// What was done to a log, and what was reported about it.
pub(crate) struct Oracle {
    rng: Rng,
    /// What was there when everything was last known.
    base: Entries,
    steps: Vec<Step>,
    /// How many steps were reported durable.
    durable: usize,
    purged: Pending<LogId>,
    vote: Pending<(u64, Option<u64>)>,
    checkpoint: Pending<u64>,
    committed: u64,
    mark: u64,
}

/// The content of a checkpoint at an index.
fn checkpoint_content(index: u64) -> Vec<u8> {
    payload(index, 99, (index as usize * 37) % 2000)
}

fn write_checkpoint(sim: &SimStorage, id: LogId) -> isthmus_storage::Result<()> {
    let content = checkpoint_content(id.index);
    checkpoint::write(sim, id.index, id.term, |out| out.write_all(&content)).map(drop)
}

impl Oracle {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed ^ 0x6f72_6163),
            base: Entries::new(),
            steps: Vec::new(),
            durable: 0,
            purged: Pending::new(LogId::ZERO),
            vote: Pending::new((0, None)),
            checkpoint: Pending::new(0),
            committed: 0,
            mark: 0,
        }
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    /// Opens the log and compares. `Ok(None)` if the power went again meanwhile.
    pub(crate) fn recover(&mut self, sim: &SimStorage) -> Result<Option<Log>, String> {
        let opened = Log::open(shared(sim), tiny());
        let (log, recovered) = match opened {
            Ok(opened) => opened,
            Err(_) if sim.is_cut() => return Ok(None),
            Err(e) => return Err(format!("it does not start: {e}")),
        };
        self.purged.check("purged", recovered.purged)?;
        let hard = recovered.hard_state;
        self.vote.check("vote", (hard.term, hard.voted_for))?;
        if hard.committed > recovered.last.index {
            return Err(format!("{} is committed beyond {:?}", hard.committed, recovered.last));
        }
        let purged = recovered.purged.index;
        let found: Entries = contents(&log.reader())
            .into_iter()
            .map(|(id, payload)| (id.index, (id.term, payload)))
            .collect();
        self.match_entries(&found, purged)?;
        let latest = match checkpoint::open_latest(sim) {
            Ok(latest) => latest,
            Err(_) if sim.is_cut() => return Ok(None),
            Err(e) => return Err(format!("the checkpoint does not open: {e}")),
        };
        let mut at = 0;
        if let Some(mut reader) = latest {
            at = reader.meta().index;
            let mut content = Vec::new();
            reader.read_to_end(&mut content).map_err(|e| e.to_string())?;
            if content != checkpoint_content(at) {
                return Err(format!("the checkpoint at {at} has other content"));
            }
        }
        self.checkpoint.check("checkpoint", at)?;
        if purged > at {
            return Err(format!("purged to {purged}, but the checkpoint is at {at}"));
        }
        self.base = found;
        self.steps.clear();
        self.durable = 0;
        self.committed = hard.committed;
        Ok(Some(log))
    }

    /// The entries must be those after some step that is not before the last one reported durable.
    fn match_entries(&self, found: &Entries, purged: u64) -> Result<(), String> {
        let mut entries = self.base.clone();
        self.steps[..self.durable].iter().for_each(|step| apply(&mut entries, step));
        let live = |entries: &Entries| {
            entries.range(purged + 1..).map(|(i, e)| (*i, e.clone())).collect::<Entries>()
        };
        let least = live(&entries);
        for step in &self.steps[self.durable..] {
            if live(&entries) == *found {
                return Ok(());
            }
            apply(&mut entries, step);
        }
        if live(&entries) == *found {
            return Ok(());
        }
        Err(format!(
            "the log ends with {:?}; durable was {:?}, written {:?} ({} steps behind the durable)",
            found.last_key_value().map(|(i, e)| (i, e.0)),
            least.last_key_value().map(|(i, e)| (i, e.0)),
            entries.last_key_value().map(|(i, e)| (i, e.0)),
            self.steps.len() - self.durable,
        ))
    }

    /// Does something to the log. An error is the end of the process.
    pub(crate) fn step(&mut self, sim: &SimStorage, log: &mut Log) -> isthmus_storage::Result<()> {
        let last = log.last_log_id();
        match self.rng.below(100) {
            0..=49 => {
                for n in 1..=1 + self.rng.below(4) {
                    self.mark += 1;
                    let id =
                        LogId { term: self.vote.reported.0.max(last.term), index: last.index + n };
                    let len = 16 + self.rng.below(1200) as usize;
                    let payload = payload(id.index, self.mark, len);
                    self.steps.push(Step::Append(id, payload.clone()));
                    append(log, id, &payload)?;
                }
            }
            50..=71 => self.sync(log)?,
            72..=77 => {
                let least = self.committed.max(self.purged.reported.index) + 1;
                if least <= last.index {
                    let index = least + self.rng.below(last.index - least + 1);
                    self.steps.push(Step::Truncate(index));
                    log.truncate_from(index)?;
                }
            }
            78..=82 => {
                self.sync(log)?;
                // Not always all of it, so that segments are purged in part.
                let behind = self.purged.reported.index;
                let index = last.index - self.rng.below((last.index - behind) / 2 + 1);
                let Some(term) = log.reader().term_of(index) else { return Ok(()) };
                self.check_point_and_purge(sim, log, LogId { term, index })?;
            }
            83 => {
                let id = LogId { term: last.term + 1, index: last.index + 1 + self.rng.below(20) };
                self.check_point_and_purge(sim, log, id)?;
            }
            84..=88 => {
                let term = self.vote.reported.0 + 1;
                let voted_for = Some(self.rng.below(3));
                self.vote.asked = (term, voted_for);
                let committed = self.committed;
                let hard = HardState { term, voted_for, vote_committed: false, committed };
                log.save_hard_state(hard)?;
                self.vote = Pending::new(self.vote.asked);
            }
            89..=92 => {
                self.committed = self.committed.max(log.durable_index());
                let hard = HardState { committed: self.committed, ..log.hard_state() };
                log.save_hard_state(hard)?;
            }
            93..=95 => match log.prepare_spare() {
                Err(_) if !sim.is_cut() => {}
                other => drop(other?),
            },
            _ => {
                let steps = self.steps.len();
                log.seal()?;
                self.durable = steps;
            }
        }
        Ok(())
    }

    fn sync(&mut self, log: &mut Log) -> isthmus_storage::Result<()> {
        let steps = self.steps.len();
        log.sync()?;
        self.durable = steps;
        Ok(())
    }

    fn check_point_and_purge(
        &mut self,
        sim: &SimStorage,
        log: &mut Log,
        id: LogId,
    ) -> isthmus_storage::Result<()> {
        if id.index <= self.checkpoint.reported {
            return Ok(());
        }
        self.checkpoint.asked = id.index;
        match write_checkpoint(sim, id) {
            // A full disk ends the checkpoint, not the process.
            Err(Error::Io { action: "create" | "write", source, .. })
                if source.raw_os_error() == Some(28) =>
            {
                self.checkpoint.asked = self.checkpoint.reported;
                return Ok(());
            }
            other => other?,
        }
        self.checkpoint = Pending::new(id.index);
        self.purged.asked = id;
        log.purge_to(id)?;
        self.purged = Pending::new(id);
        self.committed = self.committed.max(id.index);
        self.durable = self.steps.len();
        Ok(())
    }

    /// Closes the log cleanly.
    pub(crate) fn close(&mut self, log: Log) -> isthmus_storage::Result<()> {
        let steps = self.steps.len();
        log.close()?;
        self.durable = steps;
        Ok(())
    }
}

/// Runs a seed: some lives of a process, each ended by a power cut at a random operation, the
/// recovery included. `prepare` sees each new disk first.
pub(crate) fn run_power_cuts(seed: u64, prepare: &dyn Fn(&SimStorage)) -> Result<(), String> {
    let mut oracle = Oracle::new(seed);
    let mut sim = SimStorage::new(seed);
    for _ in 0..5 {
        prepare(&sim);
        sim.inject(sim.operations() + oracle.below(150), isthmus_storage::fs::Fault::PowerCut);
        let mut log = oracle.recover(&sim)?;
        while let Some(mut open) = log.take() {
            if oracle.step(&sim, &mut open).is_err() {
                if !sim.is_cut() {
                    return Err("it failed with the power on".to_owned());
                }
            } else if oracle.below(100) == 0 {
                log = match oracle.close(open) {
                    Ok(()) => oracle.recover(&sim)?,
                    Err(_) => None,
                };
            } else {
                log = Some(open);
            }
        }
        sim = sim.crash(oracle.rng.next_u64());
    }
    prepare(&sim);
    oracle.recover(&sim)?.map(drop).ok_or_else(|| "the power is off".to_owned())
}

/// The operations of a run of `steps` steps that ends without a cut.
pub(crate) fn undisturbed(seed: u64, steps: usize) -> Vec<(u64, OpKind)> {
    let (sim, _) = disturbed(seed, steps, None);
    sim.trace().iter().map(|op| (op.number, op.kind)).collect()
}

/// The same run with a fault at one operation: the disk it leaves, and what must be on it.
pub(crate) fn disturbed(
    seed: u64,
    steps: usize,
    fault: Option<(u64, isthmus_storage::fs::Fault)>,
) -> (SimStorage, Oracle) {
    let mut oracle = Oracle::new(seed);
    let sim = SimStorage::new(seed);
    if let Some((number, fault)) = fault {
        sim.inject(number, fault);
    }
    let Ok((mut log, _)) = Log::open(shared(&sim), tiny()) else { return (sim, oracle) };
    for _ in 0..steps {
        if let Err(failed) = oracle.step(&sim, &mut log) {
            // The first error is the end: nothing may be reported durable by this log again, unless
            // it was the checkpoint that failed, which ends the process all the same.
            let again = log.sync();
            if let (Err(again), false) = (again, sim.is_cut()) {
                assert_eq!(again.to_string(), failed.to_string());
            }
            break;
        }
    }
    (sim, oracle)
}
