//! The page reader over any bytes: no panic, no memory by a declared size, and nothing but what was
//! written is read from a page.
//!
//! Bytes alone hardly ever pass the checksums, so the input is also laid over a page file that was
//! really written.
#![no_main]

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use isthmus_storage::{
    SharedStorage, SimStorage, Storage,
    pages::{PageAddress, PageFile, PageOptions, PageWriter},
};
use libfuzzer_sys::fuzz_target;

const NUMBER: u64 = 1;
const NAME: &str = "pages-00000000000000000001.pag";

struct Written {
    bytes: Vec<u8>,
    pages: Vec<(PageAddress, Vec<u8>)>,
}

/// A file of ten pages.
fn written() -> &'static Written {
    static FILE: OnceLock<Written> = OnceLock::new();
    FILE.get_or_init(|| {
        let sim = SimStorage::new(1);
        let storage: SharedStorage = Arc::new(sim.clone());
        let mut writer = PageWriter::create(&storage, NUMBER, PageOptions::default())
            .expect("a simulated disk without faults takes a file");
        let pages = (0..10).map(|n| {
            let content = vec![n as u8; 20 * n];
            let at = writer.append(&content).expect("a simulated disk has room");
            (at, content)
        });
        let pages = pages.collect();
        writer.finish().expect("a simulated disk without faults can be synced");
        let bytes = sim.contents(NAME).expect("it was just written");
        Written { bytes, pages }
    })
}

fn read(bytes: &[u8], addresses: &[(PageAddress, Vec<u8>)]) {
    let sim = SimStorage::new(1);
    let file = sim.create(NAME).expect("a new disk is empty");
    file.write_at(bytes, 0).expect("a simulated disk has room");
    let Ok(file) = PageFile::open(&sim, NUMBER) else { return };
    for (at, content) in addresses {
        if let Ok(found) = file.read(*at) {
            assert!(found == *content, "{at:?} reads as something else");
        }
    }
    let report = file.check(|_| ControlFlow::Continue(()));
    assert!(report.content_bytes <= bytes.len() as u64);
    drop(file.verify());
}

fuzz_target!(|input: &[u8]| {
    read(input, &[]);
    let Some((at, overlay)) = input.split_first_chunk::<2>() else { return };
    let mut bytes = written().bytes.clone();
    let at = usize::from(u16::from_le_bytes(*at)) % bytes.len();
    let len = overlay.len().min(bytes.len() - at);
    bytes[at..at + len].copy_from_slice(&overlay[..len]);
    read(&bytes, &written().pages);
    // An address is stored as well, and can be anything.
    if let Some((place, _)) = overlay.split_first_chunk::<12>() {
        let [o @ .., l0, l1, l2, l3] = *place;
        let mut offset = [0; 8];
        offset.copy_from_slice(&o);
        let (offset, len) = (u64::from_le_bytes(offset), u32::from_le_bytes([l0, l1, l2, l3]));
        let sim = SimStorage::new(1);
        let file = sim.create(NAME).expect("a new disk is empty");
        file.write_at(&written().bytes, 0).expect("a simulated disk has room");
        let file = PageFile::open(&sim, NUMBER).expect("it is as it was written");
        let at = PageAddress { file: NUMBER, offset, len };
        let known = written().pages.iter().find(|(page, _)| *page == at);
        assert_eq!(file.read(at).ok().as_ref(), known.map(|(_, content)| content));
    }
});
