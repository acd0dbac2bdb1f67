//! Page files on their way to another node: what has arrived as a whole is what was sent, and
//! nothing else is taken for a page file or left behind.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;

use common::{payload, shared};
use isthmus_storage::{
    Error, Result, SharedStorage, SimStorage, Storage,
    fs::{Fault, Pace},
    pages::{self, PageAddress, PageFile, PageOptions, PageReceiver, PageWriter},
};

const NUMBER: u64 = 5;

type Written = Vec<(PageAddress, Vec<u8>)>;

fn pace() -> Pace {
    Pace { sync_bytes: 500, rest_percent: 0 }
}

/// A page file, what is in it, and its bytes as another node is sent them.
fn sent(lens: &[usize]) -> (Written, Vec<u8>) {
    let storage = shared(&SimStorage::new(7));
    let options = PageOptions { pace: pace() };
    let mut writer = PageWriter::create(&storage, NUMBER, options).unwrap();
    let mut written = Vec::new();
    for (n, len) in (0..).zip(lens) {
        let content = payload(n, NUMBER, *len);
        written.push((writer.append(&content).unwrap(), content));
    }
    let file = writer.finish().unwrap();
    let mut bytes = vec![0; file.bytes() as usize + 10];
    let mut offset = 0;
    // In pieces, the last of which is shorter than asked for.
    loop {
        let most = bytes.len().min(offset + 333);
        match file.read_raw(&mut bytes[offset..most], offset as u64).unwrap() {
            0 => break,
            read => offset += read,
        }
    }
    assert_eq!(offset as u64, file.bytes());
    bytes.truncate(offset);
    (written, bytes)
}

fn receive(
    storage: &SharedStorage,
    number: u64,
    bytes: &[u8],
    piece: usize,
) -> Result<Arc<PageFile>> {
    let mut receiver = PageReceiver::create(storage, number, pace())?;
    for piece in bytes.chunks(piece) {
        receiver.append(piece)?;
    }
    receiver.finish()
}

fn read(file: &PageFile, written: &Written) {
    for (at, content) in written {
        assert!(file.read(*at).unwrap() == *content, "{at:?} holds something else");
    }
    assert_eq!(file.verify().unwrap().pages, written.len() as u64);
}

#[test]
fn a_file_that_was_copied_is_whole_and_survives_a_power_cut() {
    let (written, bytes) = sent(&[700, 0, 16, 2000]);
    for piece in [1, 7, 333, bytes.len()] {
        let sim = SimStorage::new(piece as u64);
        let storage = shared(&sim);
        let file = receive(&storage, NUMBER, &bytes, piece).unwrap();
        assert_eq!((file.number(), file.bytes()), (NUMBER, bytes.len() as u64));
        read(&file, &written);
        assert_eq!(sim.contents(&pages::file_name(NUMBER)).unwrap(), bytes);
        // As the checkpoint does that names it.
        sim.sync_dir().unwrap();
        for seed in 0..8 {
            read(&PageFile::open(&sim.crash(seed), NUMBER).unwrap(), &written);
        }
    }
}

#[test]
fn what_an_earlier_transfer_has_left_gives_way() {
    let (written, bytes) = sent(&[700, 16]);
    let sim = SimStorage::new(1);
    let storage = shared(&sim);
    // Longer than the file that comes now, as a process leaves it that is killed.
    let left = sim.create(&pages::file_name(NUMBER)).unwrap();
    left.write_at(&[9; 4096], 0).unwrap();
    read(&receive(&storage, NUMBER, &bytes, 100).unwrap(), &written);
    // Also in the place of a whole one that is open, which goes on being read.
    let open = PageFile::open(&*storage, NUMBER).unwrap();
    read(&receive(&storage, NUMBER, &bytes, 100).unwrap(), &written);
    read(&open, &written);
    assert_eq!(pages::list(&*storage).unwrap(), [NUMBER]);
}

/// Receives what is not a whole page file.
fn must_refuse(what: &str, number: u64, bytes: &[u8]) {
    let sim = SimStorage::new(1);
    let refused = receive(&shared(&sim), number, bytes, 200).map(drop);
    let name = pages::file_name(number);
    match refused {
        Err(Error::Corrupt { file, .. }) => assert_eq!(file, name, "{what}"),
        other => panic!("{what} is not refused as damaged: {other:?}"),
    }
    assert_eq!(sim.list().unwrap(), [""; 0], "{what} has left something");
}

#[test]
fn a_file_with_any_bit_flipped_is_refused_and_leaves_nothing() {
    let (_, bytes) = sent(&[40, 1, 70]);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            must_refuse(&format!("bit {bit} at {at}"), NUMBER, &damaged);
        }
    }
}

#[test]
fn a_file_of_any_other_length_or_number_is_refused_and_leaves_nothing() {
    let (_, bytes) = sent(&[40, 1, 70]);
    for len in 0..bytes.len() {
        must_refuse(&format!("{len} bytes"), NUMBER, &bytes[..len]);
    }
    let more = [&bytes[..], &[0; 100]].concat();
    must_refuse("more bytes", NUMBER, &more);
    must_refuse("another number", NUMBER + 1, &bytes);
}

#[test]
fn a_transfer_that_is_broken_off_leaves_nothing() {
    let (_, bytes) = sent(&[700, 16]);
    let sim = SimStorage::new(1);
    let mut receiver = PageReceiver::create(&shared(&sim), NUMBER, pace()).unwrap();
    receiver.append(&bytes[..600]).unwrap();
    assert_eq!(sim.list().unwrap(), [pages::file_name(NUMBER)]);
    drop(receiver);
    assert_eq!(sim.list().unwrap(), [""; 0]);
}

#[test]
fn a_failure_of_the_disk_anywhere_is_an_error_and_gives_the_space_back() {
    let (written, bytes) = sent(&[700, 16, 900]);
    let sim = SimStorage::new(1);
    receive(&shared(&sim), NUMBER, &bytes, 200).unwrap();
    let operations = sim.operations();
    assert!(operations > 5);
    for number in 0..operations {
        for fault in [Fault::Eio, Fault::Enospc] {
            let sim = SimStorage::new(1);
            sim.inject(number, fault);
            match receive(&shared(&sim), NUMBER, &bytes, 200) {
                // Nothing was there to be removed, and a full disk syncs.
                Ok(file) => read(&file, &written),
                Err(error) => {
                    assert!(matches!(error, Error::Io { .. }), "{error}");
                    assert_eq!(sim.list().unwrap(), [""; 0], "{fault:?} at {number}");
                }
            }
        }
    }
    // A file that cannot be read again is not known to be whole.
    let reads = sim.reads();
    assert!(reads > 0);
    for number in 0..reads {
        let sim = SimStorage::new(1);
        sim.inject_read_error(number);
        let refused = receive(&shared(&sim), NUMBER, &bytes, 200).map(drop).unwrap_err();
        assert!(matches!(refused, Error::Io { .. }), "{refused}");
        assert_eq!(sim.list().unwrap(), [""; 0]);
    }
}
