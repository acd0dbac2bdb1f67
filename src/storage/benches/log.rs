//! Append and sync of a thousand entries, into recycled and into fresh segments; and what the log
//! itself costs, over a file system in memory.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isthmus_storage::{EntryMeta, Log, LogId, LogOptions, RealStorage, SimStorage};
use tempfile::TempDir;

const ENTRIES: u64 = 1000;

/// A log that is purged as it grows, so that its segments come round again.
struct Bench {
    log: Log,
    index: u64,
    _dir: TempDir,
}

impl Bench {
    /// Fresh segments grow as they are written; recycled ones were filled with zeros beforehand.
    fn new(recycled: bool) -> Self {
        // On the disk, not in a temporary file system that may be memory.
        let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
        let dir = tempfile::tempdir_in(target).unwrap();
        let storage = Arc::new(RealStorage::open(dir.path()).unwrap());
        let spares = if recycled { 2 } else { 0 };
        let options = LogOptions { spares, spares_max: spares, ..LogOptions::default() };
        let (mut log, _) = Log::open(storage, options).unwrap();
        while log.prepare_spare().unwrap() {}
        // Leaves the first segment, which was made without zeros.
        log.purge_to(LogId { term: 1, index: 1 }).unwrap();
        Self { log, index: 1, _dir: dir }
    }

    /// Appends and syncs `rounds` times and returns the time that took, without purges.
    fn run(&mut self, payload: &[u8], rounds: u64) -> Duration {
        let mut spent = Duration::ZERO;
        for _ in 0..rounds {
            let started = Instant::now();
            for _ in 0..ENTRIES {
                self.index += 1;
                self.log.begin().extend_from_slice(payload);
                let meta = EntryMeta { group: 0, term: 1, index: self.index, kind: 0 };
                self.log.finish(meta).unwrap();
            }
            self.log.sync().unwrap();
            spent += started.elapsed();
            if self.index % 50_000 <= ENTRIES {
                self.log.purge_to(LogId { term: 1, index: self.index }).unwrap();
            }
        }
        spent
    }
}

fn append_and_sync(c: &mut Criterion) {
    let mut group = c.benchmark_group("append_sync_1000");
    group.sample_size(10).throughput(Throughput::Elements(ENTRIES));
    for len in [64, 1024] {
        for name in ["recycled", "fresh"] {
            let mut bench = Bench::new(name == "recycled");
            let payload = vec![7; len];
            group.bench_function(BenchmarkId::new(name, format!("{len} B")), |b| {
                b.iter_custom(|rounds| bench.run(&payload, rounds));
            });
        }
    }
    group.finish();
}

/// Appends a thousand entries, reads them and purges them, with no disk.
fn in_memory(c: &mut Criterion) {
    let mut group = c.benchmark_group("in memory: append, sync, read 1000");
    group.sample_size(10).throughput(Throughput::Elements(ENTRIES));
    for len in [64, 1024] {
        let options = LogOptions { spares: 2, spares_max: 2, ..LogOptions::default() };
        let (mut log, _) = Log::open(Arc::new(SimStorage::new(1)), options).unwrap();
        let payload = vec![7; len];
        let mut index = 0;
        group.bench_function(format!("{len} B"), |b| {
            b.iter(|| {
                let first = index + 1;
                for _ in 0..ENTRIES {
                    index += 1;
                    log.begin().extend_from_slice(&payload);
                    log.finish(EntryMeta { group: 0, term: 1, index, kind: 0 }).unwrap();
                }
                log.sync().unwrap();
                let entries = log.reader().read(first, index + 1, usize::MAX).unwrap();
                assert_eq!(entries.len() as u64, ENTRIES);
                log.purge_to(LogId { term: 1, index }).unwrap();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append_and_sync, in_memory);
criterion_main!(benches);
