//! Page files: what was finished is there and whole, whatever happens, and nothing else is taken
//! for it.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use common::{Announce, payload, seeds, shared};
use isthmus_storage::{
    Error, RealStorage, RecordingStorage, Result, SharedStorage, SimStorage, Storage,
    fs::{Fault, Op, OpKind, Pace, Recording, Rng, SyncSite},
    pages::{self, PageAddress, PageFile, PageOptions, PageWriter},
};

const HEADER: u64 = 32;
const RECORD: u64 = 40;

/// Syncs so often that a short file has several.
fn options(sync_bytes: u64) -> PageOptions {
    PageOptions { pace: Pace { sync_bytes, rest_percent: 0 } }
}

fn name(number: u64) -> String {
    format!("pages-{number:020}.pag")
}

/// The content of page `n` of a file.
fn content(file: u64, n: u64, len: usize) -> Vec<u8> {
    payload(n, file, len)
}

type Written = Vec<(PageAddress, Vec<u8>)>;

fn write(storage: &SharedStorage, number: u64, lens: &[usize]) -> Result<Written> {
    // As many syncs as there may be pieces of a short file, and few of a long one.
    let sync_bytes = if lens.iter().sum::<usize>() < 100_000 { 1000 } else { 1 << 20 };
    let mut writer = PageWriter::create(storage, number, options(sync_bytes))?;
    let mut written = Vec::new();
    for (n, len) in (0..).zip(lens) {
        let content = content(number, n, *len);
        written.push((writer.append(&content)?, content));
    }
    let bytes = writer.bytes();
    let file = writer.finish()?;
    assert_eq!(file.bytes(), bytes + RECORD);
    Ok(written)
}

/// Opens a file and reads everything, at random places and in order.
fn read(storage: &dyn Storage, number: u64, written: &Written) -> Result<()> {
    let file = PageFile::open(storage, number)?;
    assert_eq!(file.number(), number);
    for (at, content) in written.iter().rev() {
        assert!(file.read(*at)? == *content, "{at:?} holds something else");
    }
    let report = file.verify()?;
    let content_bytes: usize = written.iter().map(|(_, content)| content.len()).sum();
    assert_eq!(report.pages, written.len() as u64);
    assert_eq!(report.pages, file.pages());
    assert_eq!(report.content_bytes, content_bytes as u64);
    assert_eq!(report.bytes, HEADER + RECORD * (report.pages + 1) + report.content_bytes);
    assert_eq!(report.bytes, file.bytes());
    Ok(())
}

/// The file and offset of what must be damage.
fn place<T: std::fmt::Debug>(result: Result<T>) -> (String, u64) {
    match result {
        Err(Error::Corrupt { file, offset, .. }) => (file, offset),
        other => panic!("not refused as damaged: {other:?}"),
    }
}

#[test]
fn pages_are_read_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let real: SharedStorage = Arc::new(RealStorage::open(dir.path()).unwrap());
    for storage in [shared(&SimStorage::new(1)), real] {
        // 3 MiB is more than is verified in one piece, and more than is written between syncs.
        let lens = [300_000, 16, 999, 1000, 1001, 3 << 20, 262_144];
        let first = write(&storage, 7, &lens).unwrap();
        let second = write(&storage, 12, &[]).unwrap();
        read(&*storage, 7, &first).unwrap();
        read(&*storage, 12, &second).unwrap();
        assert_eq!(pages::list(&*storage).unwrap(), [7, 12]);
        // A number that is taken is not taken again, and the file is as it was.
        let taken = PageWriter::create(&storage, 7, PageOptions::default()).unwrap_err();
        assert!(matches!(taken, Error::Io { action: "create", .. }), "{taken}");
        read(&*storage, 7, &first).unwrap();
        // An open file goes on being read when it is gone.
        let open = PageFile::open(&*storage, 7).unwrap();
        pages::remove(&*storage, [7, 8]).unwrap();
        assert_eq!(pages::list(&*storage).unwrap(), [12]);
        assert!(open.read(first[0].0).unwrap() == first[0].1);
        let gone = PageFile::open(&*storage, 7).unwrap_err();
        assert!(matches!(gone, Error::Io { action: "open", .. }), "{gone}");
    }
}

#[test]
fn an_empty_page_is_a_page() {
    let storage = shared(&SimStorage::new(1));
    let mut writer = PageWriter::create(&storage, 1, PageOptions::default()).unwrap();
    let at = [writer.append(b"").unwrap(), writer.append(b"x").unwrap()];
    let file = writer.finish().unwrap();
    assert_eq!((file.read(at[0]).unwrap(), file.read(at[1]).unwrap()), (vec![], b"x".to_vec()));
    assert_eq!(file.verify().unwrap().pages, 2);
}

#[test]
fn an_abandoned_or_dropped_file_is_gone() {
    let sim = SimStorage::new(1);
    let storage = shared(&sim);
    let mut writer = PageWriter::create(&storage, 1, PageOptions::default()).unwrap();
    writer.append(&[1; 5000]).unwrap();
    writer.abandon();
    drop(PageWriter::create(&storage, 2, PageOptions::default()).unwrap());
    assert_eq!(sim.list().unwrap(), [""; 0]);
}

#[test]
fn it_syncs_as_often_as_it_was_told() {
    let sim = SimStorage::new(1);
    let storage = shared(&sim);
    let mut writer = PageWriter::create(&storage, 1, options(1000)).unwrap();
    for _ in 0..10 {
        writer.append(&[1; 460]).unwrap();
    }
    // 5,032 bytes, and a large page in pieces.
    writer.append(&[2; 5000]).unwrap();
    let syncs = || sim.trace().iter().filter(|op| op.kind == OpKind::Sync).count();
    assert_eq!(syncs(), 10);
    writer.finish().unwrap();
    assert_eq!(syncs(), 12, "before the end record and behind it");
}

#[test]
fn every_flipped_bit_is_detected_with_its_place() {
    let sim = SimStorage::new(3);
    let written = write(&shared(&sim), 5, &[16, 1, 70, 33]).unwrap();
    let size = sim.contents(&name(5)).unwrap().len() as u64;
    // The beginning of what a byte belongs to.
    let begins = |at: u64| {
        let end = size - RECORD;
        let pages = written.iter().map(|(page, _)| page.offset);
        pages.chain([0, end]).filter(|&begin| begin <= at).max().unwrap()
    };
    for at in 0..size {
        for bit in 0..8 {
            let disk = sim.fork();
            assert!(disk.flip_bit(&name(5), at, bit));
            let opened = PageFile::open(&disk, 5);
            if at < HEADER || at >= size - RECORD {
                assert_eq!(place(opened), (name(5), begins(at)), "bit {bit} at {at}");
                continue;
            }
            let file = opened.unwrap();
            assert_eq!(place(file.verify()), (name(5), begins(at)), "bit {bit} at {at}");
            for (page, content) in &written {
                if page.offset == begins(at) {
                    assert_eq!(place(file.read(*page)), (name(5), page.offset));
                } else {
                    assert!(file.read(*page).unwrap() == *content);
                }
            }
            // The others are found whole, whichever is damaged.
            let mut damages = Vec::new();
            let report = file.check(|error| {
                damages.push(place::<()>(Err(error)));
                std::ops::ControlFlow::Continue(())
            });
            assert_eq!((report.pages, damages), (3, vec![(name(5), begins(at))]));
        }
    }
}

#[test]
fn a_file_of_any_other_length_is_refused() {
    let sim = SimStorage::new(3);
    write(&shared(&sim), 5, &[16, 1, 70, 33]).unwrap();
    let whole = sim.contents(&name(5)).unwrap();
    let put = |bytes: &[u8]| {
        let disk = SimStorage::new(1);
        let file = disk.create(&name(5)).unwrap();
        if !bytes.is_empty() {
            file.write_at(bytes, 0).unwrap();
        }
        disk
    };
    for cut in 0..whole.len() {
        let (file, offset) = place(PageFile::open(&put(&whole[..cut]), 5));
        assert_eq!(file, name(5));
        assert!(offset <= cut as u64);
    }
    PageFile::open(&put(&whole), 5).unwrap();
    let end = &whole[whole.len() - RECORD as usize..];
    for more in [&[0][..], &[0; 4096], end, &whole] {
        let longer = [&whole, more].concat();
        let expected = (name(5), (longer.len() as u64) - RECORD);
        assert_eq!(place(PageFile::open(&put(&longer), 5)), expected);
    }
}

#[test]
fn a_page_from_elsewhere_does_not_pass() {
    let sim = SimStorage::new(3);
    let storage = shared(&sim);
    // All pages have the same content.
    let mut addresses = Vec::new();
    for number in [1, 2] {
        let mut writer = PageWriter::create(&storage, number, PageOptions::default()).unwrap();
        let pages = [(); 3].map(|()| writer.append(&[9; 100]).unwrap());
        writer.finish().unwrap();
        addresses.push(pages);
    }
    let first = sim.contents(&name(1)).unwrap();
    let page = |n: usize| {
        let from = addresses[0][n].offset as usize;
        first[from..from + 140].to_vec()
    };
    // A page over another one of its file, and over the one at its own place in another file.
    for (file, from, to) in [(1, 0, 1), (1, 2, 0), (2, 1, 1)] {
        let disk = sim.fork();
        let at = addresses[file as usize - 1][to];
        assert!(disk.overwrite(&name(file), at.offset, &page(from)));
        let open = PageFile::open(&disk, file).unwrap();
        assert_eq!(place(open.read(at)), (name(file), at.offset));
        assert_eq!(place(open.verify()), (name(file), at.offset));
    }
    // The content alone of the same page in another file, under the header that was there.
    let disk = sim.fork();
    let at = addresses[1][1];
    assert!(disk.overwrite(&name(2), at.offset + RECORD, &page(1)[RECORD as usize..]));
    PageFile::open(&disk, 2).unwrap().read(at).unwrap();
    // A whole file under another name.
    let disk = sim.fork();
    disk.rename(&name(1), &name(3)).unwrap();
    assert_eq!(place(PageFile::open(&disk, 3)), (name(3), 16));
}

#[test]
fn an_address_is_not_trusted() {
    let sim = SimStorage::new(3);
    let written = write(&shared(&sim), 5, &[100, 50]).unwrap();
    let file = PageFile::open(&sim, 5).unwrap();
    let at = written[0].0;
    let reads = sim.reads();
    for (offset, len) in [
        (at.offset, u32::MAX),
        (u64::MAX, 10),
        (u64::MAX - RECORD, 10),
        (file.bytes(), 0),
        (file.bytes() - RECORD, 0),
        (at.offset, (file.bytes() - at.offset - 2 * RECORD + 1) as u32),
    ] {
        let refused = file.read(PageAddress { offset, len, ..at });
        assert_eq!(place(refused), (name(5), offset));
    }
    assert_eq!(sim.reads(), reads, "what cannot be there is not looked for");
    for (offset, len) in [(at.offset, 99), (at.offset, 101), (0, 8), (at.offset + 1, 100)] {
        let refused = file.read(PageAddress { offset, len, ..at });
        assert_eq!(place(refused), (name(5), offset));
    }
    let other = file.read(PageAddress { file: 6, ..at }).unwrap_err();
    assert!(matches!(other, Error::Misuse { .. }), "{other}");
}

/// Two rounds, the older one removed: what is known of each file afterwards.
#[derive(Default)]
struct Rounds {
    /// Finished and reported so, by number.
    finished: BTreeMap<u64, Written>,
    /// Removed by us, durable or not.
    removed: Vec<u64>,
}

fn rounds(storage: &SharedStorage, known: &mut Rounds) -> Result<()> {
    for (number, lens) in [(1, &[700, 20, 1300][..]), (2, &[16; 40]), (3, &[2500])] {
        let written = write(storage, number, lens)?;
        known.finished.insert(number, written);
        if number == 2 {
            known.removed.push(1);
            known.finished.remove(&1);
            pages::remove(&**storage, [1])?;
        }
    }
    Ok(())
}

/// Whether the disk holds what it must and nothing else passes for finished.
fn check(disk: &SimStorage, known: &Rounds) -> Result<(), String> {
    for (number, written) in &known.finished {
        read(disk, *number, written).map_err(|e| format!("finished file {number}: {e}"))?;
    }
    for number in pages::list(disk).map_err(|e| e.to_string())? {
        if known.finished.contains_key(&number) {
            continue;
        }
        // An end record proves that all pages are there, also if nobody was told.
        if let Ok(file) = PageFile::open(disk, number) {
            file.verify().map_err(|e| format!("{number} passes for finished: {e}"))?;
        }
    }
    Ok(())
}

fn cut_power(seed: u64, prepare: &dyn Fn(&SimStorage)) -> Result<(), String> {
    let count = {
        let sim = SimStorage::new(seed);
        rounds(&shared(&sim), &mut Rounds::default()).unwrap();
        sim.operations()
    };
    for cut in 0..=count {
        let sim = SimStorage::new(seed);
        prepare(&sim);
        sim.inject(cut, Fault::PowerCut);
        let mut known = Rounds::default();
        let result = rounds(&shared(&sim), &mut known);
        assert_eq!(result.is_ok(), cut == count);
        for crash in 0..4 {
            check(&sim.crash(seed * 4 + crash), &known).map_err(|e| format!("cut {cut}: {e}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_finished_file_survives_any_power_cut_and_no_other_passes_for_one() {
    for seed in seeds(25) {
        let _announce = Announce(seed);
        cut_power(seed, &|_| {}).unwrap();
    }
}

#[test]
fn a_recording_of_real_files_survives_any_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Arc::new(RecordingStorage::new(RealStorage::open(dir.path()).unwrap()));
    let recording = recorder.recording();
    let storage: SharedStorage = recorder;
    let mut finished = Vec::new();
    for number in 1..=3 {
        finished.push(write(&storage, number, &[700, 20, 1300]).unwrap());
        recording.note(number);
    }
    let ops = recording.ops();
    for cut in 0..=ops.len() {
        let sim = SimStorage::new(1);
        Recording::replay(&ops[..cut], &sim).unwrap();
        let noted = ops[..cut].iter().filter(|op| matches!(op, Op::Note(_))).count();
        let known = Rounds {
            finished: (1..).zip(finished.iter().take(noted).cloned()).collect(),
            removed: Vec::new(),
        };
        for seed in 0..8 {
            check(&sim.crash(seed), &known).unwrap();
        }
    }
}

#[test]
fn a_failure_anywhere_is_an_error_and_gives_the_space_back() {
    let count = {
        let sim = SimStorage::new(1);
        rounds(&shared(&sim), &mut Rounds::default()).unwrap();
        sim.trace()
    };
    for op in count {
        for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::ShortWriteThenFull] {
            let what = format!("{fault:?} at {op:?}");
            let sim = SimStorage::new(1);
            sim.inject(op.number, fault);
            let mut known = Rounds::default();
            let result = rounds(&shared(&sim), &mut known);
            let full = matches!(fault, Fault::Enospc | Fault::ShortWriteThenFull);
            match &result {
                Ok(()) => {
                    // A short write is continued; a fault of writing does nothing elsewhere.
                    assert!(
                        matches!(fault, Fault::ShortWrite | Fault::ShortWriteThenFull),
                        "{what}"
                    );
                }
                Err(e) => {
                    assert_eq!(e.is_disk_full(), full, "{what}: {e}");
                    let action = match op.kind {
                        OpKind::Create => "create",
                        OpKind::Write => "write",
                        OpKind::Sync => "sync",
                        OpKind::SyncDir => "sync directory",
                        OpKind::Remove => "remove",
                        other => panic!("{other:?} has no place here"),
                    };
                    assert!(
                        matches!(e, Error::Io { action: a, .. } if *a == action),
                        "{what}: {e}"
                    );
                }
            }
            // Nothing of the file that failed is left, on this disk or behind a power cut.
            let left = pages::list(&sim).unwrap();
            let left: Vec<_> = left.into_iter().filter(|n| !known.removed.contains(n)).collect();
            assert_eq!(left, known.finished.keys().copied().collect::<Vec<_>>(), "{what}");
            check(&sim, &known).unwrap();
            check(&sim.crash(op.number), &known).unwrap();
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_is_added_or_finished() {
    let sim = SimStorage::new(1);
    let storage = shared(&sim);
    let mut writer = PageWriter::create(&storage, 1, options(1000)).unwrap();
    writer.append(&[1; 500]).unwrap();
    sim.inject(sim.operations() + 2, Fault::Eio);
    let failed = writer.append(&[1; 500]).unwrap_err().to_string();
    assert!(failed.contains("cannot sync"), "{failed}");
    let operations = sim.operations();
    assert_eq!(writer.append(b"x").unwrap_err().to_string(), failed);
    assert_eq!(sim.operations(), operations, "it was not tried again");
    assert_eq!(writer.finish().unwrap_err().to_string(), failed);
    assert_eq!(sim.list().unwrap(), [""; 0]);
}

#[test]
fn a_read_error_is_an_error_of_that_read_only() {
    let sim = SimStorage::new(1);
    let written = write(&shared(&sim), 1, &[100, 200]).unwrap();
    let disk = sim.fork();
    read(&disk, 1, &written).unwrap();
    for number in 0..disk.reads() {
        let disk = sim.fork();
        disk.inject_read_error(number);
        let failed = read(&disk, 1, &written).unwrap_err();
        assert!(matches!(failed, Error::Io { .. }), "read {number}: {failed}");
        read(&disk, 1, &written).unwrap();
    }
}

type Lie = (&'static str, fn(&SyncSite<'_>) -> bool);

#[test]
fn an_ignored_sync_is_noticed() {
    let lies: [Lie; 2] = [
        ("page files", |site| matches!(site, SyncSite::File(name) if name.starts_with("pages-"))),
        ("their names", |site| matches!(site, SyncSite::Directory(_))),
    ];
    for (what, lie) in lies {
        let noticed = (0..100).find(|&seed| {
            let prepare = |sim: &SimStorage| sim.ignore_syncs(lie);
            // A panic while reading what is not there counts as noticed.
            !matches!(catch_unwind(AssertUnwindSafe(|| cut_power(seed, &prepare))), Ok(Ok(())))
        });
        assert!(noticed.is_some(), "100 seeds pass without syncs of {what}");
    }
}

#[test]
fn the_reader_takes_any_bytes() {
    let sim = SimStorage::new(3);
    let written = write(&shared(&sim), 5, &[16, 1, 700, 33]).unwrap();
    let whole = sim.contents(&name(5)).unwrap();
    for seed in seeds(2000) {
        let _announce = Announce(seed);
        let mut rng = Rng::new(seed);
        let mut bytes = whole.clone();
        for _ in 0..=rng.below(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(4) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes.truncate(at.max(1)),
                2 => {
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
        let disk = SimStorage::new(1);
        disk.create(&name(5)).unwrap().write_at(&bytes, 0).unwrap();
        let Ok(file) = PageFile::open(&disk, 5) else { continue };
        for (at, content) in &written {
            if let Ok(found) = file.read(*at) {
                assert!(found == *content);
            }
        }
        let report = file.check(|_| std::ops::ControlFlow::Continue(()));
        assert!(report.content_bytes <= bytes.len() as u64);
        assert_eq!(file.verify().is_ok(), bytes == whole);
    }
}
