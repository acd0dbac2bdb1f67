//! Snapshots over the simulated disk: sent, received and installed, and cut short by the power at
//! every operation.
#![allow(clippy::unwrap_used)] // a failed test may panic

use std::collections::BTreeSet;

use isthmus_cluster::member::MemberId;
use isthmus_cluster::raft::{EntryKind, RaftLogOptions};
use isthmus_core::paging::PageKey;
use isthmus_core::{Entry, Fact, Members, Place, Placement, Wanted, codec};
use isthmus_model::{
    Batch, EncodingId, Encodings, Lifetime, NO_TTL, QueueDef, QueueId, Record, RecordFlags,
    SharedOptions, Span, Table, Time,
};
use isthmus_storage::fs::Fault;
use isthmus_storage::pages::{self, PageOptions, PageWriter};
use isthmus_storage::{AppendEntry, EntryMeta, HardState, Log, LogOptions, SimStorage};

use super::*;
use crate::recovery::recover_member;

const QUEUE: QueueId = QueueId(1);

/// The last entry of the history that a snapshot is made of.
const LAST: u64 = 30;

/// Entries from here on are of the second term.
const SECOND_TERM: u64 = 20;

/// The last entry that the node knows to be committed which is behind.
const BEHIND: u64 = 12;

/// The last entry of its own checkpoint.
const OWN_CHECKPOINT: u64 = 10;

const SENDER: MemberId = MemberId(1);
const RECEIVER: MemberId = MemberId(2);

/// An entry of the log.
struct Logged {
    id: LogId,
    kind: EntryKind,
    payload: Vec<u8>,
}

fn shared(sim: &SimStorage) -> SharedStorage {
    Arc::new(sim.clone())
}

fn log_options() -> LogOptions {
    LogOptions { segment_bytes: 8 << 10, entry_bytes_max: 8 << 20, spares: 0, spares_max: 0 }
}

/// One durable message.
fn message(sequence: u64, len: usize) -> Fact {
    let chunk: Vec<u8> = (0..len).map(|at| (at as u64 * 31 + sequence) as u8).collect();
    let record = Record {
        exchange: Span::new(0, 0),
        routing_key: Span::new(0, 0),
        head: Span::new(0, 0),
        body: Span::new(0, len),
        ttl_ms: NO_TTL,
        priority: 0,
        flags: RecordFlags::default(),
    };
    let (encoding, records) = (EncodingId::AMQP_0_9_1, vec![record]);
    let batch = Arc::new(Batch::new(encoding, chunk.into(), records));
    let placements = vec![Placement { queue: QUEUE, first: sequence, record: 0, len: 1 }];
    Fact::Enqueue { batch, placements, annotations: None }
}

/// The log of a cluster: who takes part, a queue, and a message an entry, of which every fourth is
/// settled by the next. From `second_term` on another leader goes on.
fn history(last: u64, second_term: u64, body: usize) -> Vec<Logged> {
    let members = Logged {
        id: LogId { term: 1, index: 1 },
        kind: EntryKind::Membership,
        payload: b"one, two".to_vec(),
    };
    let def = QueueDef {
        name: "q".into(),
        lifetime: Lifetime::Durable,
        auto_delete: false,
        options: SharedOptions::default(),
        arguments: Table::default(),
    };
    let rest = (2..=last).map(|index| {
        let is_second = index >= second_term;
        let (term, begun) = if is_second { (2, second_term) } else { (1, 2) };
        let place = Place { term, number: index - begun };
        let facts = match index {
            _ if place.number == 0 => vec![Fact::Term(term)],
            3 => {
                let (vhost, def) = (Arc::<str>::from("/"), Arc::new(def.clone()));
                let queue = Fact::DeclareQueue { vhost: Arc::clone(&vhost), id: QUEUE, def };
                vec![Fact::DeclareVhost(vhost), queue]
            }
            _ if index % 4 == 1 => {
                let settled = Fact::Settle { queue: QUEUE, first: index - 1, len: 1 };
                vec![settled, message(index, body)]
            }
            _ => vec![message(index, body)],
        };
        let mut payload = Vec::new();
        codec::encode_placed(place, &Entry { time: Time(index), facts }, &mut payload);
        Logged { id: LogId { term, index }, kind: EntryKind::Normal, payload }
    });
    [members].into_iter().chain(rest).collect()
}

/// What a log up to entry `last` comes to.
fn fold(log: &[Logged], last: u64) -> Ledger {
    let mut ledger = Ledger::new();
    for Logged { id, kind, payload } in log.iter().filter(|entry| entry.id.index <= last) {
        if *kind == EntryKind::Membership {
            let members = Members { index: id.index, term: id.term, members: payload[..].into() };
            let facts = vec![Fact::Members(Arc::new(members))];
            ledger.apply(&Entry { time: ledger.time(), facts });
            continue;
        }
        let (place, entry) = codec::decode_placed(&payload.clone().into()).unwrap();
        assert!(ledger.apply_placed(id.index, place.unwrap(), &entry));
    }
    ledger
}

/// Writes messages of entries up to `upto` to the page file `number`, to which the ledger then
/// refers.
fn page_out(storage: &SharedStorage, ledger: &mut Ledger, number: u64, upto: u64) -> Arc<PageFile> {
    let wanted = Wanted { logged_upto: upto, page_bytes: 500, ..Wanted::default() };
    let options = PageOptions { pace: Pace { rest_percent: 0, ..Pace::default() } };
    let mut writer = PageWriter::create(storage, number, options).unwrap();
    let (mut placed, mut from) = (Vec::new(), 0);
    while let Some((gathered, next)) = ledger.gather(QUEUE, from, &wanted) {
        from = next;
        let page = gathered.write(Encodings(&[]), |_| None).unwrap().unwrap();
        let at = writer.append(&page.content).unwrap();
        placed.push(page.placed(PageKey { file: at.file, offset: at.offset, len: at.len }));
    }
    let file = writer.finish().unwrap();
    assert!(placed.len() > 1, "pages of one file");
    for (page, written) in placed {
        ledger.page_out(&page, &written);
    }
    file
}

/// The number of a page file that a member has written.
fn file_of(member: MemberId, n: u64) -> u64 {
    (member.0 << 32) + n
}

/// What the sender sends: half of the messages are in pages, the bodies of the others in the log.
fn source(body: usize) -> Source {
    let storage = shared(&SimStorage::new(99));
    let mut ledger = fold(&history(LAST, SECOND_TERM, body), LAST);
    let files = [(1, 9), (2, 18)]
        .map(|(n, upto)| page_out(&storage, &mut ledger, file_of(SENDER, n), upto))
        .to_vec();
    assert_eq!(ledger.page_files().len(), 2);
    assert!(ledger.logged_from().is_some(), "some bodies are in the log alone");
    Source { snapshot: Snapshot { ledger, index: LAST, term: 2 }, files }
}

/// All that a source sends.
fn sent(source: Source) -> Vec<Chunk> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (_stop, stopped) = watch::channel(false);
        let mut chunks = source.send(Threads::real(), stopped);
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.push(chunk.unwrap());
        }
        all
    })
}

fn arriving(chunks: &[Chunk]) -> ChunkReader {
    let (sender, handed) = Threads::real().channel();
    chunks.iter().for_each(|chunk| sender.send(Ok(chunk.clone())).unwrap());
    ChunkReader {
        chunks: handed,
        wanted: mpsc::unbounded_channel().0,
        rest: Bytes::new(),
        ended: false,
    }
}

/// A node that is behind: its log ends at `last`, and what comes after [`BEHIND`] is not known to
/// be committed. It has a checkpoint of its own that refers to a page file.
fn behind(seed: u64, last: u64, body: usize) -> SimStorage {
    let sim = SimStorage::new(seed);
    let storage = shared(&sim);
    // Of the first term to its end: a leader goes on in it who does not know that he is none.
    let history = history(last, u64::MAX, body);
    let (mut log, _) = Log::open(Arc::clone(&storage), log_options()).unwrap();
    for Logged { id, kind, payload } in &history {
        let meta = EntryMeta { group: 0, term: id.term, index: id.index, kind: *kind as u8 };
        log.append(&[AppendEntry { meta, payload: &[payload] }]).unwrap();
    }
    log.sync().unwrap();
    let hard =
        HardState { term: 2, voted_for: Some(SENDER.0), vote_committed: true, committed: BEHIND };
    log.save_hard_state(hard).unwrap();
    let mut ledger = fold(&history, OWN_CHECKPOINT);
    page_out(&storage, &mut ledger, file_of(RECEIVER, 1), OWN_CHECKPOINT);
    let (_stop, stopped) = watch::channel(false);
    let entries = ledger.entries(ENTRY_BYTES);
    checkpoint::write(&sim, OWN_CHECKPOINT, 1, |out| write_entries(entries, out, &stopped))
        .unwrap();
    log.close().unwrap();
    sim
}

/// What a ledger holds, without regard to what of it the log has.
fn state(ledger: &Ledger) -> Vec<Entry> {
    ledger.entries_without_log(ENTRY_BYTES).collect()
}

/// What a start finds: the ledger and its last entry. All pages are verified.
fn start(sim: &SimStorage) -> Result<(Vec<Entry>, LogId), RecoveryError> {
    let options = RaftLogOptions { log: log_options(), ..RaftLogOptions::default() };
    let recovered = recover_member(&shared(sim), options, RECEIVER, u64::MAX, |_| {});
    let (recovered, log) = recovered?;
    log.close()?;
    let needed: Vec<u64> = recovered.ledger.page_files().into_keys().collect();
    assert_eq!(pages::list(sim)?, needed, "page files that nobody needs");
    assert_eq!(recovered.verified, BTreeSet::from_iter(needed));
    Ok((state(&recovered.ledger), recovered.applied))
}

fn receive_and_install(sim: &SimStorage, chunks: &[Chunk]) -> Result<(), String> {
    let received = receive(&shared(sim), arriving(chunks)).map_err(|e| e.to_string())?;
    let installed = received.install(LogId { index: LAST, term: 2 });
    installed.map(drop).map_err(|e| e.to_string())
}

#[test]
fn what_is_sent_is_what_is_installed() {
    // So large that there are many pieces.
    let body = 150_000;
    let source = source(body);
    let (expected, files) = (state(&source.snapshot.ledger), source.files.clone());
    let chunks = sent(source);
    assert_eq!(chunks.last(), Some(&Chunk::End));
    assert!(chunks.len() > 8, "{} pieces", chunks.len());
    let sim = behind(1, BEHIND, 200);
    let before = start(&sim.fork()).unwrap();
    let received = receive(&shared(&sim), arriving(&chunks)).unwrap();
    // Up to here nothing but what the next start removes.
    assert!(start(&sim.fork()).unwrap() == before);
    let (snapshot, arrived) = received.install(LogId { index: LAST, term: 2 }).unwrap();
    assert_eq!((snapshot.index, snapshot.term), (LAST, 2));
    assert!(state(&snapshot.ledger) == expected);
    let numbers = |files: &[Arc<PageFile>]| -> Vec<(u64, u64)> {
        files.iter().map(|file| (file.number(), file.bytes())).collect()
    };
    assert_eq!(numbers(&arrived), numbers(&files));
    // Who takes part, and whose entry comes next, are part of it.
    assert_eq!(snapshot.ledger.members().map(|members| members.index), Some(1));
    assert!(snapshot.ledger.admits(Place { term: 2, number: LAST - SECOND_TERM + 1 }));
    let (found, applied) = start(&sim.crash(1)).unwrap();
    assert!(found == expected);
    assert_eq!(applied, LogId { index: LAST, term: 2 });
}

#[test]
fn a_power_cut_anywhere_leaves_all_of_it_or_nothing() {
    let source = source(200);
    let new = state(&source.snapshot.ledger);
    let chunks = sent(source);
    // The log ends before the snapshot does, or behind it with entries that contradict it.
    for last in [BEHIND, LAST + 10] {
        let old = start(&behind(1, last, 200)).unwrap();
        assert_eq!(old.1, LogId { index: BEHIND, term: 1 });
        let (mut nothing, mut all) = (0, 0);
        for cut in 0.. {
            let sim = behind(1, last, 200);
            sim.inject(sim.operations() + cut, Fault::PowerCut);
            let result = receive_and_install(&sim, &chunks);
            // The power goes; or the process alone, and what it wrote is there.
            let ends = (0..4).map(|seed| sim.crash(seed)).chain([sim.fork()]);
            for (end, disk) in ends.enumerate() {
                let found = start(&disk);
                let (found, applied) = found.unwrap_or_else(|e| panic!("{last} {cut} {end}: {e}"));
                if applied.index == LAST {
                    assert!(found == new, "{last} {cut} {end}: not all of it");
                    assert_eq!(applied.term, 2);
                    all += 1;
                } else {
                    assert!(found == old.0, "{last} {cut} {end}: not what there was");
                    assert_eq!(applied, old.1);
                    assert!(result.is_err(), "{last} {cut} {end}: it was installed");
                    nothing += 1;
                }
                // Nothing of what was going on is left, and a second start finds the same.
                let left = disk.list().unwrap();
                assert!(left.iter().all(|name| name != SPOOL && name != NOTE), "{left:?}");
                let (again, at) = start(&disk.crash(cut)).unwrap();
                assert!(again == found && at == applied, "{last} {cut} {end}: a second start");
            }
            if result.is_ok() {
                break;
            }
        }
        assert!(all > 10 && nothing > 10, "{all} times all, {nothing} times nothing");
    }
}

#[test]
fn a_start_that_finishes_an_installation_may_be_cut_short_as_well() {
    let source = source(200);
    let new = state(&source.snapshot.ledger);
    let chunks = sent(source);
    for last in [BEHIND, LAST + 10] {
        let installed = behind(1, last, 200);
        receive_and_install(&installed, &chunks).unwrap();
        let mut cuts = 0;
        for cut in 0..1000 {
            let disk = installed.crash(cut);
            disk.inject(cut, Fault::PowerCut);
            // Its log may be closed by a thread of its own: whether it was cut is what counts.
            drop(start(&disk));
            for end in [disk.crash(cut), disk.crash(cut + 1), disk.fork()] {
                let (found, applied) = start(&end).unwrap_or_else(|e| panic!("{last} {cut}: {e}"));
                assert!(found == new, "{last} {cut}");
                assert_eq!(applied, LogId { index: LAST, term: 2 });
            }
            cuts += u64::from(disk.is_cut());
            if !disk.is_cut() {
                break;
            }
        }
        assert!(cuts > 5, "{cuts} cuts");
    }
}

#[test]
fn what_is_damaged_or_cut_on_its_way_changes_nothing() {
    let source = source(200);
    // Each behind a byte that says what it is, its number and its length.
    let files_len: u64 = source.files.iter().map(|file| 17 + file.bytes()).sum();
    let chunks = sent(source);
    let bytes: Vec<u8> = chunks
        .iter()
        .flat_map(|chunk| match chunk {
            Chunk::Data(data) => data.to_vec(),
            Chunk::End => Vec::new(),
        })
        .collect();
    let sim = behind(1, BEHIND, 200);
    let old = start(&sim.fork()).unwrap();
    let refused = |what: &str, chunks: &[Chunk]| {
        let disk = sim.fork();
        let result = receive_and_install(&disk, chunks);
        assert!(result.is_err(), "{what} was installed");
        assert!(start(&disk).unwrap() == old, "{what} has changed something");
    };
    // Without its end it is not whole, wherever it ends.
    for len in (0..=bytes.len()).step_by(97).chain([bytes.len()]) {
        refused(&format!("{len} bytes"), &[Chunk::Data(bytes[..len].to_vec().into())]);
    }
    // Page files carry checksums; the entries behind them are guarded by the connection.
    for at in (0..files_len as usize).step_by(53) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        refused(&format!("damage at {at}"), &[Chunk::Data(damaged.into()), Chunk::End]);
    }
    refused("an unknown part", &[Chunk::Data(vec![9].into()), Chunk::End]);
    refused("nothing", &[Chunk::End]);
}
