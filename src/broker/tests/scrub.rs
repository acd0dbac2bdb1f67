//! Damage in page files that a start does not verify: it is found behind the start, noted, and the
//! next start refuses while it stands.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::client::{Client, bodies};
use common::{Node, Setup, eventually, in_jumping_time};
use isthmus_broker::offline::Offline;
use isthmus_broker::storage::damage::{self, NOTE_NAME, Note};
use isthmus_broker::storage::{Error, SharedStorage, SimStorage, Storage, pages};
use isthmus_broker::{RecoveryError, ScrubOptions};

/// The header of the first page of a file, and a byte within its content.
const FIRST_PAGE: u64 = 32;
const WITHIN_FIRST_PAGE: u64 = FIRST_PAGE + 40 + 30;
const MESSAGES: usize = 30;

/// Nothing is verified before the start, everything behind it, as fast as it can be read.
fn scrubbing() -> Setup {
    let (at_start_bytes, bytes_per_second) = (0, 1 << 40);
    let interval = Duration::from_secs(3600);
    Setup { scrub: ScrubOptions { at_start_bytes, bytes_per_second, interval }, ..Setup::default() }
}

/// Nothing is verified that nobody asks for.
fn trusting() -> Setup {
    let scrub = ScrubOptions { bytes_per_second: 0, ..scrubbing().scrub };
    Setup { scrub, ..Setup::default() }
}

/// A disk with messages in pages.
fn with_pages() -> SimStorage {
    let sim = SimStorage::new(3);
    in_jumping_time(async {
        let node = Node::start(&sim).unwrap();
        let mut client = Client::connect(&node.broker).await;
        client.declare("q").await;
        for n in 0..MESSAGES {
            client.publish("q", &[vec![n as u8; 700]]).await;
        }
        eventually("a checkpoint with pages", || needed(&sim.fork()).len() > 1).await;
        node.stop().await.unwrap();
    });
    sim
}

/// The page files that the next start needs.
fn needed(sim: &SimStorage) -> Vec<u64> {
    let read = Offline::read(Arc::new(sim.clone())).unwrap();
    read.page_files().into_iter().collect()
}

fn start(setup: &Setup, sim: &SimStorage) -> Result<Node, RecoveryError> {
    setup.start(Arc::new(sim.clone()))
}

/// Runs a broker until it has failed, and returns why.
fn failure(setup: &Setup, sim: &SimStorage) -> Error {
    in_jumping_time(async {
        let node = start(setup, sim).unwrap();
        eventually("the failure", || node.has_failed()).await;
        node.failures.lock()[0].clone()
    })
}

/// The place of damage, by its file and offset.
fn place(error: &Error) -> (String, u64) {
    match error {
        Error::Corrupt { file, offset, .. } => (file.clone(), *offset),
        other => panic!("no damage: {other}"),
    }
}

/// The place that a start names when it refuses.
fn refused(setup: &Setup, sim: &SimStorage) -> (String, u64) {
    in_jumping_time(async {
        match start(setup, sim).err() {
            Some(RecoveryError::Noted(error)) => place(&error),
            other => panic!("not refused for what is noted, but {other:?}"),
        }
    })
}

/// How many messages a broker delivers from the queue.
fn delivered(setup: &Setup, sim: &SimStorage) -> usize {
    in_jumping_time(async {
        let node = start(setup, sim).unwrap();
        let mut client = Client::connect(&node.broker).await;
        let deliveries = client.take_all("q", 1).await;
        let count = deliveries.iter().map(|d| bodies(d).len()).sum();
        node.stop().await.unwrap();
        count
    })
}

fn has_note(sim: &SimStorage) -> bool {
    sim.list().unwrap().iter().any(|name| name == NOTE_NAME)
}

/// Damages the last page file that is needed; returns its name.
fn damaged(sim: &SimStorage) -> String {
    let name = pages::file_name(*needed(sim).last().unwrap());
    assert!(sim.flip_bit(&name, WITHIN_FIRST_PAGE, 3));
    name
}

#[test]
fn damage_is_found_behind_the_start_and_refused_by_the_next_one_until_it_is_mended() {
    let sim = with_pages();
    let file = damaged(&sim);
    assert_eq!(place(&failure(&scrubbing(), &sim)), (file.clone(), FIRST_PAGE));
    // The note is durable, and says so again at every start, whatever that would verify by itself.
    let sim = sim.crash(1);
    assert!(has_note(&sim));
    for _ in 0..2 {
        assert_eq!(refused(&trusting(), &sim), (file.clone(), FIRST_PAGE));
    }
    assert!(sim.flip_bit(&file, WITHIN_FIRST_PAGE, 3));
    assert_eq!(delivered(&trusting(), &sim), MESSAGES);
    assert!(!has_note(&sim.crash(2)));
}

#[test]
fn damage_that_a_read_meets_is_noted() {
    let sim = with_pages();
    let file = damaged(&sim);
    let met = in_jumping_time(async {
        let node = start(&trusting(), &sim).unwrap();
        let mut client = Client::connect(&node.broker).await;
        client.consume("q", 1, common::client::window(100)).await;
        eventually("the failure", || node.has_failed()).await;
        node.failures.lock()[0].clone()
    });
    assert_eq!(place(&met), (file.clone(), FIRST_PAGE));
    assert_eq!(refused(&trusting(), &sim.crash(1)), (file, FIRST_PAGE));
}

#[test]
fn a_page_that_is_whole_and_of_another_broker_is_refused_when_it_is_noted() {
    let sim = with_pages();
    let number = *needed(&sim).last().unwrap();
    let (file, storage): (_, SharedStorage) = (pages::file_name(number), Arc::new(sim.clone()));
    let len = pages::PageFile::open(&sim, number).unwrap().bytes() - 32 - 40 - 40;
    sim.remove(&file).unwrap();
    let mut writer = pages::PageWriter::create(&storage, number, Default::default()).unwrap();
    writer.append(&vec![0; usize::try_from(len).unwrap()]).unwrap();
    writer.finish().unwrap();
    let reason = "it was met".to_owned();
    damage::note(&sim, &Error::Corrupt { file: file.clone(), offset: 32, reason }).unwrap();
    // Which of its pages the checkpoint expects where is not what was put there.
    let refused = in_jumping_time(async { start(&trusting(), &sim).err() });
    match refused {
        Some(RecoveryError::Noted(error)) => assert_eq!(place(&error).0, file),
        other => panic!("not refused for what is noted, but {other:?}"),
    }
}

#[test]
fn what_lies_long_is_verified_again() {
    let sim = with_pages();
    in_jumping_time(async {
        let setup = Setup {
            scrub: ScrubOptions { at_start_bytes: u64::MAX, ..scrubbing().scrub },
            ..scrubbing()
        };
        let node = start(&setup, &sim).unwrap();
        let file = damaged(&sim);
        tokio::time::sleep(Duration::from_secs(3000)).await;
        assert!(!node.has_failed(), "it was verified an hour ago at the most");
        tokio::time::sleep(Duration::from_secs(700)).await;
        eventually("the failure", || node.has_failed()).await;
        assert_eq!(place(&node.failures.lock()[0]), (file, FIRST_PAGE));
    });
}

#[test]
fn a_note_about_what_is_not_needed_any_more_is_removed() {
    let sim = with_pages();
    let (file, reason) = (pages::file_name(900), "it was met".to_owned());
    damage::note(&sim, &Error::Corrupt { file, offset: 32, reason }).unwrap();
    assert_eq!(delivered(&trusting(), &sim.fork()), MESSAGES);
    in_jumping_time(async { drop(start(&trusting(), &sim).unwrap()) });
    assert!(!has_note(&sim));
}

#[test]
fn a_note_that_does_not_read_back_has_everything_verified() {
    let sim = with_pages();
    let file = damaged(&sim);
    damage::note(&sim, &Error::Corrupt { file: file.clone(), offset: 32, reason: "?".to_owned() })
        .unwrap();
    sim.flip_bit(NOTE_NAME, 20, 0);
    assert_eq!(damage::read(&sim).unwrap(), Note::Unreadable);
    assert_eq!(refused(&trusting(), &sim), (file.clone(), FIRST_PAGE));
    sim.flip_bit(&file, WITHIN_FIRST_PAGE, 3);
    assert_eq!(delivered(&trusting(), &sim), MESSAGES);
    assert!(!has_note(&sim));
}
