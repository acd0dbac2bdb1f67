//! A data directory of every released format must open for ever.
#![allow(clippy::unwrap_used)] // a failed test may panic

use std::{fs, io::Read, path::Path, sync::Arc};

use isthmus_storage::{
    FORMAT_VERSION, HardState, Log, LogId, LogOptions, RealStorage, SharedStorage, checkpoint,
};

#[test]
fn version_1_opens() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let storage: SharedStorage = Arc::new(RealStorage::open(dir.path()).unwrap());
    let (log, recovered) = Log::open(Arc::clone(&storage), LogOptions::default()).unwrap();
    let hard = HardState { term: 4, voted_for: Some(2), vote_committed: true, committed: 35 };
    assert_eq!(recovered.hard_state, hard);
    assert_eq!(recovered.purged, LogId { term: 1, index: 10 });
    assert_eq!(recovered.last, LogId { term: 4, index: 39 });
    assert!(recovered.clean);
    let entries = log.reader().read(11, u64::MAX, usize::MAX).unwrap();
    assert_eq!(entries.len(), 29);
    for (index, entry) in (11..39).zip(&entries) {
        let text = format!("entry {index} of the fixture; ").repeat(index as usize % 7 + 1);
        assert_eq!((entry.meta.index, entry.meta.term), (index, 1 + index / 20));
        assert_eq!(u64::from(entry.meta.kind), index % 3);
        assert_eq!(entry.payload, text.as_bytes());
    }
    assert_eq!(entries[28].payload, b"in place of what was truncated");
    let mut reader = checkpoint::open_latest(&*storage).unwrap().unwrap();
    assert_eq!((reader.meta().index, reader.meta().term), (10, 1));
    let mut content = String::new();
    reader.read_to_string(&mut content).unwrap();
    assert_eq!(content, "the state at entry 10");
    let format = fs::read_to_string(dir.path().join("FORMAT")).unwrap();
    assert_eq!(format, format!("isthmus data directory, format {FORMAT_VERSION}\n"));
}
