//! Torn tails are cut, damage is refused with file and offset.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::io::Read;

use common::{Announce, append, contents, payload, seeds, shared, tiny};
use isthmus_storage::{
    Error, HardState, Log, LogId, LogOptions, Recovered, SimStorage, Storage, checkpoint,
    fs::{OpKind, Rng},
    reader,
};

const FIRST_RECORD: usize = 4096;

fn id(index: u64) -> LogId {
    LogId { term: 1, index }
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: 16 << 10, ..tiny() }
}

/// Where records of entries with these payload lengths begin and end in a segment.
fn places(lens: &[usize]) -> Vec<(usize, usize)> {
    let mut at = FIRST_RECORD;
    lens.iter()
        .map(|len| {
            let place = (at, at + 64 + len);
            at = place.1.next_multiple_of(8);
            place
        })
        .collect()
}

fn last_segment(sim: &SimStorage) -> String {
    sim.list().unwrap().into_iter().rfind(|name| name.starts_with("log-")).unwrap()
}

/// A payload that does not end in zeros, so that a cut in it shows against a tail of zeros.
fn body(index: u64, len: usize) -> Vec<u8> {
    let mut bytes = payload(index, 1, len);
    bytes[len - 1] |= 1;
    bytes
}

/// Payload lengths of 64 records with every remainder of the alignment.
fn lens() -> Vec<usize> {
    (0..64).map(|n| 16 + (n * 7) % 31).collect()
}

/// A disk whose last segment is a recycled one with 64 records, written and synced at once or one
/// by one; and what the segment held before.
fn recycled(one_by_one: bool) -> (SimStorage, Log, String, Vec<u8>, u64) {
    let sim = SimStorage::new(5);
    let (mut log, _) = Log::open(shared(&sim), options()).unwrap();
    log.prepare_spare().unwrap();
    let mut index = 0;
    let mut fill = |log: &mut Log, len: usize| {
        index += 1;
        append(log, id(index), &body(index, len)).unwrap();
        index
    };
    // Fills the first segment and the prepared one with short records, and leaves both.
    for _ in 0..400 {
        fill(&mut log, 40);
    }
    let last = log.last_log_id();
    log.purge_to(last).unwrap();
    assert_eq!(log.spares().ready(), 1);
    let spare = sim.list().unwrap().into_iter().find(|name| name.starts_with("spare-")).unwrap();
    let stale = sim.contents(&spare).unwrap();
    // A purge beyond the end opens a new segment, which is the recycled one.
    let base = last.index + 10;
    log.purge_to(id(base)).unwrap();
    let name = last_segment(&sim);
    assert_eq!(sim.contents(&name).unwrap()[8192..], stale[8192..], "it was recycled");
    for (n, len) in (1..).zip(lens()) {
        append(&mut log, id(base + n), &body(base + n, len)).unwrap();
        if one_by_one {
            log.sync().unwrap();
        }
    }
    log.sync().unwrap();
    (sim, log, name, stale, base)
}

fn open(sim: &SimStorage) -> Result<(Log, Recovered), Error> {
    Log::open(shared(sim), options())
}

/// Opens a damaged disk, which must be refused without a change to it.
fn refused(sim: &SimStorage, what: &str) -> (String, u64) {
    let before = sim.operations();
    match open(sim) {
        Err(Error::Corrupt { file, offset, .. }) => {
            let changes = sim.trace().into_iter().skip(before as usize);
            assert!(changes.clone().all(|op| op.kind == OpKind::SyncDir), "{what}: it was changed");
            (file, offset)
        }
        other => panic!("{what}: not refused as damaged, but {:?}", other.map(|(_, r)| r)),
    }
}

#[test]
fn a_log_cut_at_every_byte_recovers_to_the_last_whole_entry() {
    let (sim, log, name, stale, base) = recycled(false);
    drop(log);
    let whole = sim.contents(&name).unwrap();
    let places = places(&lens());
    let end = places.last().unwrap().1;
    let mut rng = Rng::new(1);
    let garbage: Vec<u8> = (0..whole.len()).map(|_| rng.next_u64() as u8).collect();
    let zeros = vec![0; whole.len()];
    for cut in FIRST_RECORD..=end {
        // A stale record exactly where the next one would begin.
        let next = cut.next_multiple_of(8);
        let record = FIRST_RECORD + 104 * (cut % 50);
        let mut shifted = stale.clone();
        let len = (whole.len() - next).min(stale.len() - record);
        shifted[next..next + len].copy_from_slice(&stale[record..record + len]);
        for (what, tail) in
            [("zeros", &zeros), ("garbage", &garbage), ("stale", &stale), ("shifted", &shifted)]
        {
            let disk = sim.fork();
            disk.overwrite(&name, cut as u64, &tail[cut..]);
            let (log, recovered) = open(&disk).unwrap();
            // A tail may happen to be the byte that was there.
            let same = (cut..end).take_while(|&at| tail[at] == whole[at]).count();
            let expected = places.iter().filter(|(_, to)| *to <= cut + same).count() as u64;
            assert_eq!(recovered.last.index, base + expected, "cut at {cut}, tail of {what}");
            let found = contents(&log.reader());
            for (n, (at, bytes)) in found.iter().enumerate() {
                assert_eq!((at.index, bytes), (base + 1 + n as u64, &body(at.index, bytes.len())));
            }
        }
    }
}

#[test]
fn damage_below_the_durable_position_is_refused_with_its_place() {
    let (sim, log, name, _, base) = recycled(true);
    let places = places(&lens());
    let last = places.len() - 1;
    for (n, (from, to)) in places.iter().enumerate() {
        for at in [*from, from + 9, from + 30, from + 64, to - 1] {
            let disk = sim.fork();
            assert!(disk.flip_bit(&name, at as u64, 3));
            if n < last {
                let place = refused(&disk, &format!("record {n} at {at}"));
                assert_eq!(place, (name.clone(), *from as u64));
            } else {
                // The last sync, and nothing written since: no different from a torn tail.
                let (_, recovered) = open(&disk).unwrap();
                assert_eq!(recovered.last.index, base + last as u64);
            }
        }
    }
    // With a seal behind it the last record is known to be durable as well.
    let mut log = log;
    log.seal().unwrap();
    drop(log);
    assert!(sim.flip_bit(&name, places[last].0 as u64 + 70, 1));
    assert_eq!(refused(&sim, "sealed"), (name, places[last].0 as u64));
}

#[test]
fn damage_in_a_segment_with_a_successor_is_refused() {
    let sim = SimStorage::new(5);
    let (mut log, _) = Log::open(shared(&sim), options()).unwrap();
    for index in 1..=300 {
        append(&mut log, id(index), &body(index, 100)).unwrap();
    }
    drop(log);
    let segments: Vec<_> =
        sim.list().unwrap().into_iter().filter(|name| name.starts_with("log-")).collect();
    assert!(segments.len() > 2);
    let disk = sim.fork();
    disk.flip_bit(&segments[0], 4096 + 168 * 5 + 80, 0);
    assert_eq!(refused(&disk, "record 5"), (segments[0].clone(), 4096 + 168 * 5));
    let disk = sim.fork();
    disk.flip_bit(&segments[1], 20, 0);
    assert_eq!(refused(&disk, "header"), (segments[1].clone(), 0));
    let disk = sim.fork();
    disk.remove(&segments[1]).unwrap();
    assert_eq!(refused(&disk, "missing in the middle").0, segments[0]);
    let disk = sim.fork();
    disk.remove(&segments[0]).unwrap();
    assert_eq!(refused(&disk, "missing at the beginning").0, segments[1]);
    let disk = sim.fork();
    disk.remove("state").unwrap();
    assert_eq!(refused(&disk, "state missing").0, "state");
    let disk = sim.fork();
    disk.remove("FORMAT").unwrap();
    assert_eq!(refused(&disk, "format missing").0, "FORMAT");
    for segment in &segments {
        sim.remove(segment).unwrap();
    }
    assert_eq!(refused(&sim, "all segments missing").0, "state");
}

/// A directory with everything in it, closed cleanly.
fn full(sim: &SimStorage) -> u64 {
    let (mut log, _) = Log::open(shared(sim), tiny()).unwrap();
    for index in 1..=40 {
        append(&mut log, id(index), &body(index, 500)).unwrap();
    }
    log.sync().unwrap();
    checkpoint::write(sim, 20, 1, |out| out.write_all(&body(20, 5000))).unwrap();
    log.purge_to(id(20)).unwrap();
    log.truncate_from(38).unwrap();
    append(&mut log, LogId { term: 3, index: 38 }, &body(38, 100)).unwrap();
    let hard = HardState { term: 3, voted_for: Some(2), vote_committed: true, committed: 37 };
    log.save_hard_state(hard).unwrap();
    log.close().unwrap();
    38
}

#[test]
fn every_flipped_bit_is_detected_or_harmless() {
    let sim = SimStorage::new(9);
    full(&sim);
    let read = |disk: &SimStorage| -> Result<_, Error> {
        let (log, recovered) = Log::open(shared(disk), tiny())?;
        let mut content = Vec::new();
        if let Some(mut reader) = checkpoint::open_latest(disk)? {
            reader.read_to_end(&mut content).unwrap();
        }
        let first = recovered.purged.index + 1;
        let entries = log.reader().read(first, u64::MAX, usize::MAX)?;
        Ok((recovered.hard_state, recovered.last, recovered.purged, entries, content))
    };
    let expected = read(&sim.fork()).unwrap();
    let names = sim.list().unwrap();
    let mut detected = 0;
    let flips = seeds(10_000);
    for seed in flips.clone() {
        let _announce = Announce(seed);
        let mut rng = Rng::new(seed);
        let name = &names[rng.below(names.len() as u64) as usize];
        let size = sim.contents(name).unwrap().len() as u64;
        let (at, bit) = (rng.below(size), rng.below(8) as u8);
        let disk = sim.fork();
        assert!(disk.flip_bit(name, at, bit));
        match read(&disk) {
            Err(Error::Corrupt { .. } | Error::UnknownVersion { .. }) => detected += 1,
            Err(e) => panic!("bit {bit} of {name} at {at}: {e}"),
            Ok(found) => {
                assert!(found == expected, "bit {bit} of {name} at {at} changed something")
            }
        }
    }
    assert!(flips.end - flips.start < 1000 || detected > 1000, "{detected} detected");
}

#[test]
fn a_damaged_checkpoint_names_the_place() {
    let sim = SimStorage::new(9);
    let content = body(1, 600_000);
    checkpoint::write(&sim, 7, 2, |out| out.write_all(&content)).unwrap();
    let name = "checkpoint-00000000000000000007.ckp";
    let mut reader = checkpoint::open_latest(&sim).unwrap().unwrap();
    assert_eq!((reader.meta().index, reader.meta().term, reader.meta().bytes), (7, 2, 600_000));
    let mut found = Vec::new();
    reader.read_to_end(&mut found).unwrap();
    assert!(found == content);
    let block = 32 + (256 << 10);
    for (at, offset) in [
        (3, 0),
        (40, 40),
        (5000, 40),
        (40 + block, 40 + block),
        (40 + 2 * block + 99, 40 + 2 * block),
    ] {
        let disk = sim.fork();
        disk.flip_bit(name, at, 1);
        match checkpoint::open_latest(&disk) {
            Err(Error::Corrupt { file, offset: found, .. }) => {
                assert_eq!((file.as_str(), found), (name, offset));
            }
            other => panic!("a flip at {at} gives {other:?}"),
        }
    }
    let older = checkpoint::write(&sim, 6, 2, |_| Ok(()));
    assert!(matches!(older, Err(Error::Misuse { .. })));
    checkpoint::write(&sim, 8, 2, |_| Ok(())).unwrap();
    assert_eq!(sim.list().unwrap(), ["checkpoint-00000000000000000008.ckp"]);
    let failed = checkpoint::write(&sim, 9, 2, |out| {
        out.write_all(&content)?;
        Err(std::io::Error::other("no more"))
    });
    assert!(failed.unwrap_err().to_string().contains("no more"));
    assert_eq!(sim.list().unwrap(), ["checkpoint-00000000000000000008.ckp"]);
}

#[test]
fn the_reader_takes_any_bytes() {
    let (sim, log, name, stale, _) = recycled(false);
    drop(log);
    let whole = sim.contents(&name).unwrap();
    let summary = reader::scan(&whole).unwrap();
    assert_eq!((summary.entries, summary.beyond, summary.is_damaged()), (64, 0, false));
    for seed in seeds(4000) {
        let _announce = Announce(seed);
        let mut rng = Rng::new(seed);
        let mut bytes = if rng.chance(50) { whole.clone() } else { stale.clone() };
        for _ in 0..=rng.below(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(4) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes.truncate(at.max(1)),
                2 => {
                    // A length, a sequence or anything else that is out of all bounds.
                    let len = (bytes.len() - at).min(8);
                    bytes[at..at + len].fill(0xff);
                }
                _ => {
                    let from = rng.below(bytes.len() as u64) as usize;
                    let len = (bytes.len() - at.max(from)).min(rng.below(300) as usize);
                    bytes.copy_within(from..from + len, at);
                }
            }
        }
        if let Ok(summary) = reader::scan(&bytes) {
            assert!(summary.payload_bytes <= bytes.len() as u64);
        }
    }
}
