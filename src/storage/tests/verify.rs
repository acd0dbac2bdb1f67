//! Verifying names every damaged place, agrees with recovery about what is damage, and changes
//! nothing.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::io::Read;

use common::{Announce, append, oracle, payload, seeds, shared, tiny};
use isthmus_storage::{
    Error, Log, LogId, RealStorage, SimStorage, Storage, checkpoint,
    damage::{self, NOTE_NAME},
    fs::Rng,
    pages::{self, PageAddress, PageFile, PageOptions, PageWriter},
    verify::{Condition, Finding, Report, Severity, VerifyOptions, inspect, verify},
};

const CHECKPOINT: &str = "checkpoint-00000000000000000020.ckp";

fn page_file(number: u64) -> String {
    format!("pages-{number:020}.pag")
}

fn id(index: u64) -> LogId {
    LogId { term: 1, index }
}

/// A directory with everything in it: several segments, a checkpoint of three blocks at entry 20,
/// page files 3 and 4 with five pages each; closed cleanly.
fn full(sim: &SimStorage) -> Vec<PageAddress> {
    let (mut log, _) = Log::open(shared(sim), tiny()).unwrap();
    log.prepare_spare().unwrap();
    fill(&mut log, 1..=60);
    let mut addresses = Vec::new();
    for number in [3, 4] {
        let mut writer = PageWriter::create(&shared(sim), number, PageOptions::default()).unwrap();
        for n in 0..5 {
            addresses.push(writer.append(&payload(n, number, 200)).unwrap());
        }
        writer.finish().unwrap();
    }
    checkpoint::write(sim, 20, 1, |out| out.write_all(&payload(20, 1, 600_000))).unwrap();
    log.purge_to(id(20)).unwrap();
    log.truncate_from(58).unwrap();
    append(&mut log, LogId { term: 3, index: 58 }, &payload(58, 1, 100)).unwrap();
    log.close().unwrap();
    addresses
}

fn fill(log: &mut Log, indexes: std::ops::RangeInclusive<u64>) {
    for index in indexes {
        append(log, id(index), &payload(index, 1, 500)).unwrap();
        log.sync().unwrap();
    }
}

/// Verifies, and checks that nothing was changed.
fn run(sim: &SimStorage, options: &VerifyOptions) -> (Report, Vec<Finding>) {
    let before = sim.operations();
    let mut findings = Vec::new();
    let report = verify(sim, options, &mut |finding| findings.push(finding.clone())).unwrap();
    assert_eq!(sim.operations(), before, "verifying changed something");
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count() as u64;
    assert_eq!(report.damage, count(Severity::Damage));
    assert_eq!(report.harmless, count(Severity::Harmless));
    (report, findings)
}

/// The places of all findings of a severity.
fn places(findings: &[Finding], severity: Severity) -> Vec<(String, u64)> {
    let of_it = findings.iter().filter(|finding| finding.severity == severity);
    let mut places: Vec<_> = of_it.map(|f| (f.file.clone(), f.offset.unwrap())).collect();
    places.sort();
    places
}

fn segments(sim: &SimStorage) -> Vec<String> {
    sim.list().unwrap().into_iter().filter(|name| name.starts_with("log-")).collect()
}

#[test]
fn a_clean_directory_has_no_findings_and_is_listed() {
    let sim = SimStorage::new(1);
    full(&sim);
    let (report, findings) = run(&sim, &VerifyOptions::default());
    assert_eq!(findings, []);
    assert_eq!(report.format, Some(2));
    assert_eq!(report.state.unwrap().purged, id(20));
    assert_eq!(report.last_index, Some(58));
    let names: Vec<_> = report.segments.iter().map(|segment| segment.file.clone()).collect();
    assert_eq!(names, segments(&sim));
    let (last, others) = report.segments.split_last().unwrap();
    assert!(others.len() >= 2);
    assert!(others.iter().all(|segment| segment.condition == Condition::Full));
    assert_eq!((last.condition, last.last_index), (Condition::Sealed, Some(58)));
    // Each goes on where the one before it ended, from before what was purged.
    assert!(report.segments[0].first_index.unwrap() <= 21);
    for pair in others.windows(2) {
        assert_eq!(pair[1].first_index, pair[0].last_index.map(|last| last + 1));
        let entries = pair[0].last_index.unwrap() - pair[0].first_index.unwrap() + 1;
        let bytes = sim.contents(&pair[0].file).unwrap().len() as u64;
        assert_eq!((pair[0].entries, pair[0].bytes), (entries, bytes));
    }
    let [found] = report.checkpoints.as_slice() else { panic!("{:?}", report.checkpoints) };
    assert_eq!((found.file.as_str(), found.index, found.term), (CHECKPOINT, 20, Some(1)));
    assert_eq!(found.bytes, sim.contents(CHECKPOINT).unwrap().len() as u64);
    let pages: Vec<_> = report.pages.iter().map(|file| (file.number, file.pages)).collect();
    assert_eq!(pages, [(3, 5), (4, 5)]);
    assert_eq!(report.spares.len(), 1);
    let listed =
        inspect(&sim, &VerifyOptions::default(), &mut |finding| panic!("{finding:?}")).unwrap();
    assert_eq!(listed, report);
}

#[test]
fn an_empty_directory_holds_nothing() {
    let (report, findings) = run(&SimStorage::new(1), &VerifyOptions::default());
    assert_eq!((report.format, report.has_data, findings.len()), (None, false, 0));
    assert_eq!(report, Report { last_index: None, ..Report::default() });
}

/// A record of `full`'s entries is 64 + 500 bytes, 568 with its padding.
fn record(n: u64) -> u64 {
    4096 + n * 568
}

#[test]
fn every_planted_damage_is_named_with_its_place() {
    let sim = SimStorage::new(1);
    let addresses = full(&sim);
    let names = segments(&sim);
    let block = 32 + (256 << 10);
    let (three, four) = (page_file(3), page_file(4));
    let planted = [
        // Two payloads and a header in one segment, and a header in the next.
        (names[0].clone(), record(1) + 70, record(1)),
        (names[0].clone(), record(3) + 10, record(3)),
        (names[0].clone(), record(5) + 563, record(5)),
        (names[1].clone(), record(0) + 30, record(0)),
        // Two blocks of the checkpoint.
        (CHECKPOINT.to_owned(), 40 + 100, 40),
        (CHECKPOINT.to_owned(), 40 + block + 4, 40 + block),
        // A page's content and a page's header in one file, the end in the other.
        (three.clone(), addresses[1].offset + 41, addresses[1].offset),
        (three, addresses[3].offset + 9, addresses[3].offset),
        (four.clone(), addresses[9].offset + 240 + 5, addresses[9].offset + 240),
        (four, addresses[6].offset + 50, addresses[6].offset),
        // Both copies of the state, which is refused as a whole.
        ("state".to_owned(), 4096 + 24, 0),
    ];
    for (file, at, _) in &planted {
        assert!(sim.flip_bit(file, *at, 2), "{file} at {at}");
    }
    assert!(sim.flip_bit("state", 24, 2));
    assert!(sim.flip_bit("FORMAT", 3, 2));
    let (report, findings) = run(&sim, &VerifyOptions::default());
    let mut expected: Vec<_> = planted.iter().map(|(file, _, at)| (file.clone(), *at)).collect();
    expected.push(("FORMAT".to_owned(), 0));
    expected.sort();
    assert_eq!(places(&findings, Severity::Damage), expected, "{findings:#?}");
    assert_eq!(places(&findings, Severity::Harmless), []);
    assert!(findings.iter().all(|f| f.advice.contains("restore") && !f.what.is_empty()));
    let damaged =
        |segment: &&isthmus_storage::verify::SegmentReport| segment.condition == Condition::Damaged;
    assert_eq!(report.segments.iter().filter(damaged).count(), 2);
    assert!(report.checkpoints[0].damaged && report.pages.iter().all(|file| file.damaged));
    assert_eq!(report.pages.iter().map(|file| file.pages).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn missing_files_are_damage() {
    let sim = SimStorage::new(1);
    full(&sim);
    let names = segments(&sim);
    let gone = |name: &str| {
        let disk = sim.fork();
        disk.remove(name).unwrap();
        places(&run(&disk, &VerifyOptions::default()).1, Severity::Damage)
    };
    let at = |file: &str, offset: u64| vec![(file.to_owned(), offset)];
    assert_eq!(gone("state"), at("state", 0));
    assert_eq!(gone("FORMAT"), at("FORMAT", 0));
    // Entries were purged that nothing else holds.
    assert_eq!(gone(CHECKPOINT), at("state", 0));
    assert_eq!(gone(&names[0]), at(&names[1], 0));
    let before = gone(&names[1]);
    assert_eq!(before[0].0, names[0], "{before:?}");
    let disk = sim.fork();
    names.iter().for_each(|name| disk.remove(name).unwrap());
    let (_, findings) = run(&disk, &VerifyOptions::default());
    assert_eq!(places(&findings, Severity::Damage), at("state", 0));
    // A header that is gone hides what is in the segment, and accuses no other.
    for name in &names {
        let disk = sim.fork();
        disk.flip_bit(name, 40, 0);
        let (report, findings) = run(&disk, &VerifyOptions::default());
        assert_eq!(places(&findings, Severity::Damage), at(name, 0));
        assert_eq!(report.segments.len(), names.len());
    }
}

#[test]
fn a_torn_tail_is_harmless_and_damage_before_it_is_not() {
    let sim = SimStorage::new(1);
    let (mut log, _) = Log::open(shared(&sim), tiny()).unwrap();
    fill(&mut log, 1..=5);
    drop(log);
    let name = segments(&sim).pop().unwrap();
    let (report, findings) = run(&sim, &VerifyOptions::default());
    assert_eq!(places(&findings, Severity::Harmless), [(name.clone(), record(5))]);
    assert_eq!(report.segments[0].condition, Condition::Open);
    // The last record was the last sync's: as recovery does, it is taken for a torn tail.
    for at in [record(4) + 8, record(4) + 100] {
        let disk = sim.fork();
        disk.flip_bit(&name, at, 1);
        let (report, findings) = run(&disk, &VerifyOptions::default());
        assert_eq!(places(&findings, Severity::Damage), []);
        assert_eq!(places(&findings, Severity::Harmless), [(name.clone(), record(4))]);
        assert_eq!(report.last_index, Some(4));
        Log::open(shared(&disk), tiny()).unwrap();
    }
    let disk = sim.fork();
    disk.flip_bit(&name, record(2) + 100, 1);
    let (report, findings) = run(&disk, &VerifyOptions::default());
    assert_eq!(places(&findings, Severity::Damage), [(name.clone(), record(2))]);
    assert_eq!((report.last_index, report.segments[0].entries), (None, 4));
    // A seal behind them: now the last one is known to be durable.
    let (mut log, _) = Log::open(shared(&sim), tiny()).unwrap();
    fill(&mut log, 6..=7);
    log.seal().unwrap();
    drop(log);
    let (report, findings) = run(&sim, &VerifyOptions::default());
    assert_eq!(findings, [], "an idle log is killed without a trace");
    assert_eq!(report.segments.last().unwrap().condition, Condition::Sealed);
    let last = segments(&sim).pop().unwrap();
    sim.flip_bit(&last, record(1) + 100, 1);
    let (_, findings) = run(&sim, &VerifyOptions::default());
    assert_eq!(places(&findings, Severity::Damage), [(last, record(1))]);
}

#[test]
fn noted_damage_is_told_and_its_file_read_even_by_a_look() {
    let sim = SimStorage::new(1);
    full(&sim);
    let (file, offset) = (page_file(3), 32);
    let met = Error::Corrupt { file: file.clone(), offset, reason: "it was met".to_owned() };
    assert!(damage::note(&sim, &met).unwrap());
    let (report, findings) = run(&sim, &VerifyOptions::default());
    assert_eq!(places(&findings, Severity::Harmless), [(file.clone(), offset)]);
    assert_eq!((report.damage, report.noted[0].number), (0, 3));
    let damaged = sim.fork();
    for number in [3, 4] {
        damaged.flip_bit(&page_file(number), offset + 60, 0);
    }
    let mut findings = Vec::new();
    let options = VerifyOptions::default();
    inspect(&damaged, &options, &mut |finding| findings.push(finding.clone())).unwrap();
    assert_eq!(places(&findings, Severity::Damage), [(file, offset)]);
    sim.flip_bit(NOTE_NAME, 0, 0);
    let (_, findings) = run(&sim, &options);
    assert_eq!(places(&findings, Severity::Harmless), [(NOTE_NAME.to_owned(), 0)]);
}

#[test]
fn one_bad_copy_of_the_state_is_harmless() {
    let sim = SimStorage::new(1);
    full(&sim);
    for (at, slot) in [(30, 0), (4096 + 30, 4096)] {
        let disk = sim.fork();
        disk.flip_bit("state", at, 0);
        let (report, findings) = run(&disk, &VerifyOptions::default());
        assert_eq!(places(&findings, Severity::Damage), []);
        assert_eq!(places(&findings, Severity::Harmless), [("state".to_owned(), slot)]);
        assert_eq!(report.state.unwrap().purged, id(20));
    }
}

#[test]
fn the_checkpoint_decides_which_page_files_count() {
    let sim = SimStorage::new(1);
    full(&sim);
    // A round that the power cut short.
    let mut writer = PageWriter::create(&shared(&sim), 9, PageOptions::default()).unwrap();
    writer.append(&[1; 3000]).unwrap();
    std::mem::forget(writer);
    let nine = (page_file(9), sim.contents(&page_file(9)).unwrap().len() as u64 - 40);
    let (_, findings) = run(&sim, &VerifyOptions::default());
    assert_eq!(places(&findings, Severity::Damage), [nine], "all count if it is not known");
    let only =
        |numbers: &[u64]| VerifyOptions { pages_needed: Some(numbers.iter().copied().collect()) };
    let (report, findings) = run(&sim, &only(&[3, 4]));
    assert_eq!(places(&findings, Severity::Damage), []);
    assert_eq!(places(&findings, Severity::Harmless), [(page_file(9), 0)]);
    let needed: Vec<_> = report.pages.iter().map(|file| (file.number, file.needed)).collect();
    assert_eq!(needed, [(3, Some(true)), (4, Some(true)), (9, Some(false))]);
    let (_, findings) = run(&sim, &only(&[3, 4, 7]));
    assert_eq!(places(&findings, Severity::Damage), [(page_file(7), 0)]);
}

/// Whether a start, and reading everything behind it, refuses; by the same calls a broker makes.
fn refuses(disk: &SimStorage) -> bool {
    let read = || -> Result<(), Error> {
        let (log, recovered) = Log::open(shared(disk), tiny())?;
        let first = recovered.purged.index + 1;
        log.reader().read(first, u64::MAX, usize::MAX)?;
        let newest = checkpoint::open_latest(disk)?;
        let index = newest.as_ref().map_or(0, |reader| reader.meta().index);
        if let Some(mut reader) = newest {
            reader.read_to_end(&mut Vec::new()).unwrap();
        }
        for number in pages::list(disk)? {
            PageFile::open(disk, number)?.verify()?;
        }
        if recovered.purged.index > index {
            return Err(Error::Misuse { reason: "the checkpoint is missing".to_owned() });
        }
        Ok(())
    };
    match read() {
        Ok(()) => false,
        Err(Error::Io { .. }) => panic!("a simulated disk without faults fails"),
        Err(_) => true,
    }
}

/// Damages a disk at some places, or removes a file.
fn plant(disk: &SimStorage, rng: &mut Rng) {
    let names = disk.list().unwrap();
    for _ in 0..=rng.below(3) {
        // Often where the log ends: there it takes judgement.
        let last = names.iter().rfind(|name| name.starts_with("log-") && rng.chance(40));
        let name = last.unwrap_or_else(|| &names[rng.below(names.len() as u64) as usize]);
        let Some(size) = disk.contents(name).map(|bytes| bytes.len() as u64) else { continue };
        let at = rng.below(size);
        match rng.below(20) {
            0 => drop(disk.remove(name)),
            1..=4 => {
                let len = rng.below(2000) as usize;
                assert!(disk.overwrite(name, at, &vec![0; len]));
            }
            _ => assert!(disk.flip_bit(name, at, rng.below(8) as u8)),
        }
    }
}

#[test]
fn verifying_and_starting_agree_about_damage() {
    let closed = SimStorage::new(1);
    full(&closed);
    // Killed while writing, with three records that no sync covers yet.
    let killed = closed.fork();
    let (mut log, _) = Log::open(shared(&killed), tiny()).unwrap();
    for index in 59..=66 {
        append(&mut log, LogId { term: 3, index }, &payload(index, 1, 400)).unwrap();
        if index <= 63 {
            log.sync().unwrap();
        }
    }
    drop(log);
    let mut counts = [0; 2];
    for seed in seeds(1500) {
        let _announce = Announce(seed);
        let mut rng = Rng::new(seed);
        let disk = if rng.chance(50) { closed.fork() } else { killed.crash(seed) };
        plant(&disk, &mut rng);
        let mut findings = Vec::new();
        let verified = verify(&disk, &VerifyOptions::default(), &mut |finding| {
            findings.push(finding.clone());
        });
        let damaged = verified.map_or(true, |report| report.damage > 0);
        assert_eq!(damaged, refuses(&disk.fork()), "{findings:#?}");
        counts[usize::from(damaged)] += 1;
    }
    assert!(counts.iter().sum::<i32>() < 1000 || counts.iter().all(|n| *n > 100), "{counts:?}");
}

#[test]
fn no_power_cut_leaves_what_verifying_calls_damage() {
    for seed in seeds(150) {
        let _announce = Announce(seed);
        // Sees each disk as a power cut left it, before it is recovered.
        let prepare = |sim: &SimStorage| {
            let (_, findings) = run(sim, &VerifyOptions::default());
            assert_eq!(places(&findings, Severity::Damage), [], "{findings:#?}");
        };
        oracle::run_power_cuts(seed, &prepare).unwrap();
    }
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_read() {
    let sim = SimStorage::new(1);
    full(&sim);
    let reads = {
        let counted = sim.fork();
        run(&counted, &VerifyOptions::default());
        counted.reads()
    };
    let mut told = 0;
    for number in 0..reads {
        let disk = sim.fork();
        disk.inject_read_error(number);
        let mut findings = Vec::new();
        let result = verify(&disk, &VerifyOptions::default(), &mut |f| findings.push(f.clone()));
        match result {
            // Nothing can be said without a list of files and their format.
            Err(error) => assert!(matches!(error, Error::Io { .. })),
            Ok(report) => {
                assert!(report.damage <= 1, "read {number}: {findings:#?}");
                told += report.damage;
            }
        }
    }
    assert!(told > reads / 2, "{told} of {reads} reads are told of");
}

#[test]
fn a_directory_of_an_older_format_is_verified_as_it_is() {
    let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
    let storage = RealStorage::read_only(fixture).unwrap();
    let _lock = storage.lock().unwrap();
    let report = verify(&storage, &VerifyOptions::default(), &mut |f| panic!("{f:?}")).unwrap();
    assert_eq!((report.format, report.last_index), (Some(1), Some(39)));
    assert_eq!(report.segments.len(), 2);
}

#[test]
fn storage_opened_for_reading_only_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = RealStorage::read_only(dir.path().join("missing")).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    let writable = RealStorage::open(dir.path()).unwrap();
    writable.create("a").unwrap().write_at(b"content", 0).unwrap();
    let storage = RealStorage::read_only(dir.path()).unwrap();
    let file = storage.open("a").unwrap();
    let refused = [
        storage.create("b").map(drop),
        storage.rename("a", "b"),
        storage.remove("a"),
        storage.sync_dir(),
        file.preallocate(100),
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    file.write_at(b"x", 0).unwrap_err();
    assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"content");
    // Nobody ever held the directory; then somebody does.
    drop(storage.lock().unwrap());
    assert_eq!(storage.list().unwrap(), ["a"]);
    let held = writable.lock().unwrap();
    assert_eq!(storage.lock().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(held);
    let held = storage.lock().unwrap();
    assert_eq!(writable.lock().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(held);
    writable.lock().unwrap();
}
