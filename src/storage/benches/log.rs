//! Append and sync of a thousand entries, into recycled and into fresh segments.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{sync::Arc, time::Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isthmus_storage::{EntryMeta, Log, LogId, LogOptions, RealStorage};

const ENTRIES: u64 = 1000;

/// Appends and syncs `rounds` times and returns the time that took. Spares are made outside of it,
/// as another thread would make them.
fn run(dir: &std::path::Path, len: usize, recycled: bool, rounds: u64) -> std::time::Duration {
    let storage = Arc::new(RealStorage::open(dir).unwrap());
    let spares = if recycled { 2 } else { 0 };
    let options = LogOptions { spares, spares_max: spares, ..LogOptions::default() };
    let (mut log, _) = Log::open(storage, options).unwrap();
    while log.prepare_spare().unwrap() {}
    let payload = vec![7; len];
    let mut spent = std::time::Duration::ZERO;
    // Leaves the first segment, which was made without zeros.
    let mut index = 0;
    log.purge_to(LogId { term: 1, index: 1 }).unwrap();
    index += 1;
    for _ in 0..rounds {
        let started = Instant::now();
        for _ in 0..ENTRIES {
            index += 1;
            log.begin().extend_from_slice(&payload);
            log.finish(EntryMeta { group: 0, term: 1, index, kind: 0 }).unwrap();
        }
        log.sync().unwrap();
        spent += started.elapsed();
        if index % 20_000 < ENTRIES {
            log.purge_to(LogId { term: 1, index }).unwrap();
            while log.prepare_spare().unwrap() {}
        }
    }
    spent
}

fn append_and_sync(c: &mut Criterion) {
    let mut group = c.benchmark_group("append_sync_1000");
    group.sample_size(20);
    for len in [64, 1024] {
        for recycled in [true, false] {
            let name = if recycled { "recycled" } else { "fresh" };
            group.throughput(Throughput::Elements(ENTRIES));
            group.bench_function(BenchmarkId::new(name, format!("{len} B")), |b| {
                // On the disk, not in a temporary file system that may be memory.
                let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
                b.iter_custom(|rounds| {
                    let dir = tempfile::tempdir_in(&target).unwrap();
                    run(dir.path(), len, recycled, rounds)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, append_and_sync);
criterion_main!(benches);
