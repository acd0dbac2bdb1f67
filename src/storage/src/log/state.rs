//! The hard state: the vote and what else must survive although the log is cut or purged.
//!
//! It is a file of its own with two slots of 4 KiB, not records in the log. A vote in the log would
//! need no sync of its own, but the last sync of a log that was not sealed cannot be told from a
//! torn tail when a bit of it rots, and a vote that is cut off with the tail lets the node vote
//! twice in a term; it would also have to be carried over whenever a segment is purged. Votes are
//! rare, so two more syncs for each are cheap.
//!
//! Saving writes the same state to one slot, syncs, then to the other, and syncs. Whichever slot a
//! power cut tears, the other is whole and holds the old state or the new. And when saving has
//! returned both slots hold it, so damage to either is repaired from the other, at the next start;
//! damage to both is refused. The slot written first is never the only whole one: after a start
//! it is the one that was not read from.
//!
//! ```text
//! offset size (within a slot)
//!      0    8  magic "ISTHSTA\0"
//!      8    4  format version
//!     12    4  flags: 1 voted for someone, 2 the vote is granted by a quorum
//!     16    8  save count: the higher one of the slots is newer
//!     24    8  term
//!     32    8  voted for
//!     40    8  committed index
//!     48    8  purged index
//!     56    8  purged term
//!     64    8  durable sequence of the log
//!   4092    4  checksum of bytes 0..4092
//! ```

use std::{io, sync::Arc};

use super::{LogId, record::checksum};
use crate::{
    error::{Error, Result},
    fs::{self, File, Storage},
};

/// Name of the file.
pub(crate) const STATE_NAME: &str = "state";
const SLOT_BYTES: usize = 4096;
/// Where the slots are, by offset in bytes.
const SLOTS: [u64; 2] = [0, SLOT_BYTES as u64];
const CRC_AT: usize = SLOT_BYTES - 4;
const MAGIC: [u8; 8] = *b"ISTHSTA\0";
const VERSION: u32 = 1;
const FLAG_VOTED: u32 = 1;
const FLAG_VOTE_COMMITTED: u32 = 2;

/// What a node must remember to vote once a term and to know what is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    /// The highest term seen.
    pub term: u64,
    /// The node voted for in that term.
    pub voted_for: Option<u64>,
    /// Whether a quorum granted that vote, so that the node voted for leads the term.
    pub vote_committed: bool,
    /// The last index known to be committed; 0 for none. It is stored clamped to what is durable,
    /// and may be older than what was saved last (the leader says it again).
    pub committed: u64,
}

impl HardState {
    /// Whether only the committed index differs, which needs no write of its own.
    pub(crate) fn same_vote(&self, other: &Self) -> bool {
        (self.term, self.voted_for, self.vote_committed)
            == (other.term, other.voted_for, other.vote_committed)
    }
}

/// Everything in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Saved {
    pub(crate) hard: HardState,
    pub(crate) purged: LogId,
    /// Last sequence of the log known to be durable.
    pub(crate) durable: u64,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct StateFile {
    file: Arc<dyn File>,
    count: u64,
    /// The slots in the order in which they are to be written, by offset.
    order: [u64; 2],
    pub(crate) saved: Saved,
}

fn number(slot: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&slot[at..at + 8]);
    u64::from_le_bytes(out)
}

fn encode(saved: &Saved, count: u64) -> Vec<u8> {
    let mut slot = vec![0; SLOT_BYTES];
    let hard = &saved.hard;
    let voted = if hard.voted_for.is_some() { FLAG_VOTED } else { 0 };
    let committed = if hard.vote_committed { FLAG_VOTE_COMMITTED } else { 0 };
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..12].copy_from_slice(&VERSION.to_le_bytes());
    slot[12..16].copy_from_slice(&(voted | committed).to_le_bytes());
    let numbers = [
        count,
        hard.term,
        hard.voted_for.unwrap_or(0),
        hard.committed,
        saved.purged.index,
        saved.purged.term,
        saved.durable,
    ];
    for (i, n) in numbers.iter().enumerate() {
        slot[16 + i * 8..24 + i * 8].copy_from_slice(&n.to_le_bytes());
    }
    let crc = checksum(0, &slot[..CRC_AT]);
    slot[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    slot
}

/// `None` if the slot is damaged or torn.
fn decode(slot: &[u8]) -> Result<Option<(Saved, u64)>> {
    if slot.len() != SLOT_BYTES || slot[..8] != MAGIC {
        return Ok(None);
    }
    if checksum(0, &slot[..CRC_AT]).to_le_bytes() != slot[CRC_AT..] {
        return Ok(None);
    }
    let word = number(slot, 8);
    let (version, flags) = (word as u32, (word >> 32) as u32);
    if version != VERSION {
        return Err(Error::UnknownVersion {
            file: STATE_NAME.to_owned(),
            found: version.to_string(),
            supported: VERSION,
        });
    }
    let hard = HardState {
        term: number(slot, 24),
        voted_for: (flags & FLAG_VOTED != 0).then(|| number(slot, 32)),
        vote_committed: flags & FLAG_VOTE_COMMITTED != 0,
        committed: number(slot, 40),
    };
    let purged = LogId { index: number(slot, 48), term: number(slot, 56) };
    Ok(Some((Saved { hard, purged, durable: number(slot, 64) }, number(slot, 16))))
}

/// What the slots hold; `None` for one that is damaged or torn.
fn read_slots(file: &dyn File) -> Result<[Option<(Saved, u64)>; 2]> {
    let bytes = fs::read_whole(file, STATE_NAME)?;
    let slot = |at: usize| decode(bytes.get(at..at + SLOT_BYTES).unwrap_or_default());
    Ok([slot(0)?, slot(SLOT_BYTES)?])
}

impl StateFile {
    /// Which slots are damaged or torn, by offset.
    pub(crate) fn bad_slots(&self) -> Result<Vec<u64>> {
        let slots = read_slots(&*self.file)?;
        Ok(SLOTS
            .into_iter()
            .zip(slots)
            .filter_map(|(at, slot)| slot.is_none().then_some(at))
            .collect())
    }

    /// Creates the file with an empty state.
    pub(crate) fn create(storage: &dyn Storage) -> Result<Self> {
        let slot = encode(&Saved::default(), 1);
        fs::replace(storage, STATE_NAME, &[slot.as_slice(), slot.as_slice()].concat())?;
        let file = storage.open(STATE_NAME).map_err(|e| Error::io("open", STATE_NAME, e))?;
        Ok(Self { file, count: 1, order: SLOTS, saved: Saved::default() })
    }

    /// Opens the file; `None` if there is none.
    pub(crate) fn open(storage: &dyn Storage) -> Result<Option<Self>> {
        let file = match storage.open(STATE_NAME) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| Error::io("open", STATE_NAME, e))?,
        };
        let [first, second] = read_slots(&*file)?;
        let count = |found: &Option<(Saved, u64)>| found.map_or(0, |(_, count)| count);
        let (newest, order) = if count(&first) > count(&second) {
            (first, [SLOTS[1], SLOTS[0]])
        } else {
            (second, SLOTS)
        };
        let Some((saved, count)) = newest else {
            return Err(Error::corrupt(STATE_NAME, 0, "both slots fail their checksums"));
        };
        Ok(Some(Self { file, count, order, saved }))
    }

    /// Makes `saved` durable in both slots.
    pub(crate) fn save(&mut self, saved: Saved) -> Result<()> {
        assert!(saved.hard.term >= self.saved.hard.term, "a saved term goes back");
        assert!(saved.purged.index >= self.saved.purged.index, "a purge goes back");
        self.count += 1;
        let slot = encode(&saved, self.count);
        for at in self.order {
            fs::write_all_at(&*self.file, STATE_NAME, &slot, at)?;
            self.file.sync_data().map_err(|e| Error::io("sync", STATE_NAME, e))?;
        }
        self.saved = saved;
        Ok(())
    }
}
