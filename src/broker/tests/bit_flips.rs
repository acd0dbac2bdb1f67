//! Single flipped bits anywhere in a data directory that a broker has lived in: the next start
//! refuses and names the place, or the bit carries nothing, and then everything is as it was.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::client::{Client, bodies};
use common::world::{Workers, World};
use common::{Announce, Node, VHOST, eventually, in_jumping_time, seeds};
use isthmus_broker::RecoveryError;
use isthmus_broker::cluster::StartError;
use isthmus_broker::offline::Offline;
use isthmus_broker::storage::damage::{self, NOTE_NAME};
use isthmus_broker::storage::fs::Rng;
use isthmus_broker::storage::verify::{self, VerifyOptions};
use isthmus_broker::storage::{Error, SimStorage, Storage, pages};

/// Files of a data directory, by the beginnings of their names.
const KINDS: [(&str, &str); 7] = [
    ("log segment", "log-"),
    ("page file", "pages-"),
    ("checkpoint", "checkpoint-"),
    ("state", "state"),
    ("format", "FORMAT"),
    ("spare segment", "spare-"),
    ("damage note", NOTE_NAME),
];

/// What a client finds: the messages of each queue in order, their bodies and whether they say
/// that they were delivered before.
type Content = BTreeMap<String, Vec<(Vec<u8>, bool)>>;

/// How a broker's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    /// Killed when it had nothing to do.
    Killed,
}

/// A directory in which every kind of file is there, with a note that names a page file.
fn lived_in(seed: u64, end: End) -> SimStorage {
    let sim = SimStorage::new(seed);
    let disk = in_jumping_time(async {
        let node = Node::start(&sim).unwrap();
        let mut world = World::new(seed);
        let mut workers: Workers = world.connect(&node, 2).await;
        for _ in 0..150 {
            world.step(&node, &mut workers).await.unwrap();
        }
        world.settle_down(&mut workers).await.unwrap();
        drop(workers);
        let mut client = Client::connect(&node.broker).await;
        for n in 0..30 {
            client.publish("plain", &[vec![n; 700]]).await;
        }
        eventually("a checkpoint with pages, and no round", || is_at_rest(&sim)).await;
        for n in 30..35 {
            client.publish("plain", &[vec![n; 300]]).await;
        }
        drop(client);
        // The log is sealed when it has been idle; what came before is known to be durable then.
        eventually("a seal", || is_at_rest(&sim) && is_sealed(&sim)).await;
        if end == End::Stopped {
            node.stop().await.unwrap();
            return sim.fork();
        }
        let disk = sim.fork();
        drop(node);
        disk
    });
    let needed = Offline::read(Arc::new(disk.clone())).unwrap().page_files();
    let file = pages::file_name(*needed.last().unwrap());
    let reason = "it was met, and has been mended since".to_owned();
    assert!(damage::note(&disk, &Error::Corrupt { file, offset: 32, reason }).unwrap());
    disk
}

/// Whether there are pages, and nothing half done.
fn is_at_rest(sim: &SimStorage) -> bool {
    let names = sim.fork().list().unwrap();
    let checkpoints = names.iter().filter(|name| name.starts_with("checkpoint-")).count();
    let has_pages = || Offline::read(Arc::new(sim.fork())).is_ok_and(|o| o.page_files().len() > 1);
    checkpoints == 1 && !names.iter().any(|name| name.ends_with(".tmp")) && has_pages()
}

fn is_sealed(sim: &SimStorage) -> bool {
    let report = verify::inspect(&sim.fork(), &VerifyOptions::default(), &mut |_| {}).unwrap();
    report.segments.last().is_some_and(|segment| segment.condition == verify::Condition::Sealed)
}

/// Starts a broker and takes everything that is there.
fn content(disk: &SimStorage) -> Result<Content, RecoveryError> {
    in_jumping_time(async {
        let node = Node::start(disk)?;
        let mut content = Content::new();
        let names = node
            .look(|shard| {
                let statuses = shard.leader().unwrap().dispatcher().queue_statuses();
                statuses.iter().map(|queue| queue.name.to_string()).collect::<Vec<_>>()
            })
            .await;
        let mut client = Client::connect(&node.broker).await;
        for (consumer, queue) in (1..).zip(names) {
            let deliveries = client.take_all(&queue, consumer).await;
            let messages = deliveries
                .iter()
                .flat_map(|d| bodies(d).into_iter().map(|body| (body.to_vec(), d.redelivered)))
                .collect();
            content.insert(format!("{VHOST} {queue}"), messages);
        }
        assert!(!node.has_failed(), "what was started on is damaged");
        Ok(content)
    })
}

/// Why a bit of a log segment carries nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Idle {
    /// The rest of the header's block.
    Header,
    /// What is recycled or pre-zeroed, behind the last record.
    Rest,
    /// Zeros that bring the next record to a multiple of eight.
    Padding,
}

impl Idle {
    /// Why the byte at `at` of a segment carries nothing.
    fn of(disk: &SimStorage, name: &str, at: u64) -> Idle {
        let report = verify::inspect(&disk.fork(), &VerifyOptions::default(), &mut |_| {}).unwrap();
        let segment = report.segments.iter().find(|segment| segment.file == name).unwrap();
        match at {
            0..4096 => Idle::Header,
            _ if at >= segment.end_offset => Idle::Rest,
            _ => {
                let bytes = disk.contents(name).unwrap();
                let rest = &bytes[at as usize..(at as usize).next_multiple_of(8)];
                assert!(rest.iter().all(|byte| *byte == 0), "{name} at {at} carries something");
                Idle::Padding
            }
        }
    }
}

/// What became of flips in one kind of file.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    refused: u64,
    harmless: u64,
}

/// Where the flip was found, if the start says so.
fn named(error: &RecoveryError) -> Option<(&str, u64)> {
    let error = match error {
        RecoveryError::Storage(error)
        | RecoveryError::Noted(error)
        | RecoveryError::Start(StartError::Storage(error)) => error,
        _ => return None,
    };
    match error {
        Error::Corrupt { file, offset, .. } => Some((file, *offset)),
        // It stands at the beginning of a file.
        Error::UnknownVersion { file, .. } => Some((file, 0)),
        _ => None,
    }
}

/// Flips one bit and starts; says whether the start refused.
fn is_refused(disk: &SimStorage, expected: &Content, name: &str, at: u64, bit: u8) -> bool {
    assert!(disk.flip_bit(name, at, bit));
    let what = format!("bit {bit} of {name} at {at}");
    match content(disk) {
        Ok(found) => {
            assert!(found == *expected, "{what} has changed what is there");
            false
        }
        Err(error) => {
            let Some((file, offset)) = named(&error) else { panic!("{what}: {error}") };
            assert_eq!(file, name, "{what}: {error}");
            assert!(offset <= at, "{what}: {error}");
            // Often enough to notice a start that refuses and has changed something.
            if bit == 0 {
                let mended = disk.flip_bit(name, at, bit) && content(disk).unwrap() == *expected;
                assert!(mended, "{what}: a start that refused has changed something");
            }
            true
        }
    }
}

/// Bytes of `name` that a flip may hit: half of the flips hit the first 8 KiB, where more is than
/// in the pre-zeroed rest of a segment.
fn choose(rng: &mut Rng, size: u64) -> u64 {
    let most = if rng.chance(50) { size.min(8 << 10) } else { size };
    rng.below(most)
}

#[test]
fn a_flipped_bit_is_refused_with_its_place_or_harmless() {
    let disks = [(7, End::Stopped), (8, End::Killed), (9, End::Stopped), (10, End::Killed)].map(
        |(seed, end)| {
            let disk = lived_in(seed, end);
            let expected = content(&disk.fork()).unwrap();
            assert!(expected.values().map(Vec::len).sum::<usize>() > 20);
            (disk, expected)
        },
    );
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut idle: BTreeMap<Idle, u64> = BTreeMap::new();
    let flips = seeds(500);
    let begun = std::time::Instant::now();
    for seed in flips.clone() {
        let _announce = Announce(seed);
        let mut rng = Rng::new(seed);
        let (disk, expected) = &disks[rng.below(disks.len() as u64) as usize];
        // Half of them in the log, pages and checkpoints.
        let most = if rng.chance(50) { 3 } else { KINDS.len() as u64 };
        let (kind, beginning) = KINDS[rng.below(most) as usize];
        let names = disk.list().unwrap();
        let names: Vec<_> = names.iter().filter(|name| name.starts_with(beginning)).collect();
        assert!(!names.is_empty(), "there is no {kind}");
        let name = names[rng.below(names.len() as u64) as usize];
        let size = disk.contents(name).unwrap().len() as u64;
        let (at, bit) = (choose(&mut rng, size), rng.below(8) as u8);
        let tally = tallies.entry(kind).or_default();
        let harmless = tally.harmless;
        match is_refused(&disk.fork(), expected, name, at, bit) {
            true => tally.refused += 1,
            false => tally.harmless += 1,
        }
        if kind == "log segment" && tally.harmless > harmless {
            *idle.entry(Idle::of(disk, name, at)).or_default() += 1;
        }
    }
    let count = flips.end - flips.start;
    eprintln!("{count} flipped bits in {:?}, none lost or changed anything:", begun.elapsed());
    for (kind, Tally { refused, harmless }) in &tallies {
        eprintln!("  {kind:<14} {refused:>6} refused  {harmless:>6} harmless");
    }
    eprintln!("  harmless ones in log segments: {idle:?}");
    if count >= 500 {
        let always = |kind: &str| tallies[kind].refused > 0 && tallies[kind].harmless == 0;
        assert!(always("checkpoint") && always("format"), "every bit of these counts");
        assert!(tallies["log segment"].refused > 0 && tallies["page file"].refused > 0);
        // They carry nothing, or everything twice.
        let never = |kind: &str| tallies[kind].refused == 0 && tallies[kind].harmless > 0;
        assert!(never("spare segment") && never("damage note") && never("state"));
    }
}

/// What the disk did between a kill and the start: a file is shorter than it was.
#[test]
fn a_page_file_or_checkpoint_that_is_cut_short_is_refused() {
    let disk = lived_in(7, End::Stopped);
    let expected = content(&disk.fork()).unwrap();
    for name in disk.list().unwrap() {
        if !name.starts_with("pages-") && !name.starts_with("checkpoint-") {
            continue;
        }
        let bytes = disk.contents(&name).unwrap();
        for left in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            let disk = disk.fork();
            disk.remove(&name).unwrap();
            let file = disk.create(&name).unwrap();
            assert_eq!(file.write_at(&bytes[..left], 0).unwrap(), left);
            match content(&disk) {
                Err(error) => assert_eq!(named(&error).unwrap().0, name, "{error}"),
                // Nothing needs it.
                Ok(found) => assert!(found == expected, "{name} with {left} bytes"),
            }
        }
    }
}
