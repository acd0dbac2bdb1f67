//! The log's reader over any bytes: no panic, no memory by a declared size.
//!
//! Bytes alone hardly ever pass the checksums, so the input is also laid over the records of a
//! segment that the log itself wrote.
#![no_main]

use std::sync::{Arc, OnceLock};

use isthmus_storage::{AppendEntry, EntryMeta, Log, LogOptions, SimStorage, Storage, reader};
use libfuzzer_sys::fuzz_target;

/// A segment with twenty entries and a seal.
fn written() -> &'static [u8] {
    static SEGMENT: OnceLock<Vec<u8>> = OnceLock::new();
    SEGMENT.get_or_init(|| {
        let sim = SimStorage::new(1);
        let (mut log, _) =
            Log::open(Arc::new(sim.clone()), LogOptions::default()).expect("an empty disk opens");
        for index in 1..=20 {
            let meta = EntryMeta { group: 0, term: 1, index, kind: 0 };
            log.append(&[AppendEntry { meta, payload: &[&[index as u8; 50]] }])
                .expect("a simulated disk without faults can be written");
        }
        log.close().expect("a simulated disk without faults can be synced");
        let names = sim.list().expect("a simulated disk can be listed");
        let name = names.iter().find(|name| name.starts_with("log-")).expect("a log has segments");
        sim.contents(name).expect("it was listed")
    })
}

fuzz_target!(|input: &[u8]| {
    drop(reader::scan(input));
    let Some((at, overlay)) = input.split_first_chunk::<2>() else { return };
    let mut segment = written().to_vec();
    let at = usize::from(u16::from_le_bytes(*at)) % segment.len();
    let len = overlay.len().min(segment.len() - at);
    segment[at..at + len].copy_from_slice(&overlay[..len]);
    if let Ok(summary) = reader::scan(&segment) {
        assert!(summary.payload_bytes <= segment.len() as u64);
    }
});
