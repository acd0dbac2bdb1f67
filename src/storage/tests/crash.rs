//! Power cuts, failing disks, and whether the tests would notice.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{
    Announce, contents,
    oracle::{disturbed, run_power_cuts, undisturbed},
    seeds, shared, tiny,
};
use isthmus_storage::{
    Error, HardState, Log, SimStorage,
    fs::{Fault, OpKind, SyncSite},
};

#[test]
fn nothing_durable_is_lost_in_power_cuts() {
    for seed in seeds(500) {
        let _announce = Announce(seed);
        run_power_cuts(seed, &|_| {}).unwrap();
    }
}

#[test]
fn a_vote_survives_a_cut_in_the_recovery_from_a_cut() {
    let vote = |term| HardState { term, voted_for: Some(term), ..HardState::default() };
    // Saving writes slot, sync, slot, sync; and so does opening, among other things.
    for first in 0..4 {
        for second in 0..12 {
            for seed in 0..8 {
                let sim = SimStorage::new(seed);
                let (mut log, _) = Log::open(shared(&sim), tiny()).unwrap();
                log.save_hard_state(vote(5)).unwrap();
                sim.inject(sim.operations() + first, Fault::PowerCut);
                log.save_hard_state(vote(6)).unwrap_err();
                let sim = sim.crash(seed);
                sim.inject(second, Fault::PowerCut);
                drop(Log::open(shared(&sim), tiny()));
                let (_, recovered) = Log::open(shared(&sim.crash(seed)), tiny()).unwrap();
                let found = recovered.hard_state;
                assert!(found == vote(5) || found == vote(6), "{first} {second} {seed}: {found:?}");
            }
        }
    }
}

#[test]
fn a_cut_before_and_after_each_sync_and_rename() {
    for seed in [3, 4] {
        let _announce = Announce(seed);
        for (number, kind) in undisturbed(seed, 120) {
            if !matches!(kind, OpKind::Sync | OpKind::SyncDir | OpKind::Rename | OpKind::Remove) {
                continue;
            }
            for at in [number, number + 1] {
                for crash in 0..4 {
                    let (sim, mut oracle) = disturbed(seed, 120, Some((at, Fault::PowerCut)));
                    let after = oracle.recover(&sim.crash(crash));
                    assert!(matches!(after, Ok(Some(_))), "cut at {at}, crash {crash}: {after:?}");
                }
            }
        }
    }
}

#[test]
fn after_a_failure_nothing_is_reported_durable_and_nothing_is_lost() {
    let seed = 11;
    for (number, _) in undisturbed(seed, 150) {
        for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::ShortWriteThenFull] {
            // The process starts again on the same machine, or the power goes.
            for restart in [true, false] {
                let (sim, mut oracle) = disturbed(seed, 150, Some((number, fault)));
                let disk = if restart { sim.fork() } else { sim.crash(number) };
                let after = oracle.recover(&disk);
                assert!(matches!(after, Ok(Some(_))), "{fault:?} at {number}: {after:?}");
                // What was found after a restart is durable: a power cut does not change it.
                drop(after);
                let later = disk.crash(number + 1);
                let after = oracle.recover(&later);
                assert!(matches!(after, Ok(Some(_))), "{fault:?} at {number}, later: {after:?}");
            }
        }
    }
}

#[test]
fn a_read_error_refuses_and_changes_nothing() {
    let (sim, _) = disturbed(21, 150, None);
    let before = {
        let (log, _) = Log::open(shared(&sim.fork()), tiny()).unwrap();
        contents(&log.reader())
    };
    let reads = {
        let counted = sim.fork();
        drop(Log::open(shared(&counted), tiny()).unwrap());
        counted.reads()
    };
    for number in 0..reads {
        let disk = sim.fork();
        disk.inject_read_error(number);
        let refused = Log::open(shared(&disk), tiny()).unwrap_err();
        assert!(matches!(refused, Error::Io { .. }), "read {number}: {refused}");
        let (log, _) = Log::open(shared(&disk), tiny()).unwrap();
        assert_eq!(contents(&log.reader()), before, "read {number}");
    }
}

type Lie = (&'static str, fn(&SyncSite<'_>) -> bool);

/// Syncs that matter, each ignored by itself. The tests above must notice every one.
const LIES: [Lie; 9] = [
    ("log segments", |site| matches!(site, SyncSite::File(name) if name.starts_with("log-"))),
    ("segment headers", |site| matches!(site, SyncSite::File(name) if name.starts_with("spare-"))),
    ("the state file", |site| matches!(site, SyncSite::File("state"))),
    ("the new state file", |site| matches!(site, SyncSite::File("state.tmp"))),
    ("the format file", |site| matches!(site, SyncSite::File("FORMAT.tmp"))),
    ("checkpoints", |site| matches!(site, SyncSite::File(name) if name.ends_with(".ckp.tmp"))),
    ("names of segments", |site| touches(site, "log-")),
    ("names of checkpoints", |site| touches(site, "checkpoint-")),
    ("names of spares", |site| touches(site, "spare-") && !touches(site, "log-")),
];

fn touches(site: &SyncSite<'_>, prefix: &str) -> bool {
    matches!(site, SyncSite::Directory(names) if names.iter().any(|n| n.starts_with(prefix)))
}

#[test]
fn an_ignored_sync_is_noticed() {
    for (what, lie) in LIES {
        let noticed = (0..1000).find(|&seed| {
            let prepare = |sim: &SimStorage| sim.ignore_syncs(lie);
            // A panic while reading what is not there counts as noticed.
            !matches!(catch_unwind(AssertUnwindSafe(|| run_power_cuts(seed, &prepare))), Ok(Ok(())))
        });
        assert!(noticed.is_some(), "1,000 seeds pass without syncs of {what}");
        eprintln!("{what}: noticed by seed {noticed:?}");
    }
}
