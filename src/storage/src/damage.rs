//! The note of damage that was met while a broker ran.
//!
//! A start reads all of the log, the state and the newest checkpoint, but only so much of the page
//! files: a large backlog must not hold it up. Damage beyond that is met later, when a page is read
//! or scrubbed, and ends the process; without a note the next start would know nothing of it, and
//! serve until it is met again. So its place is written down, durably, before the process ends. The
//! next start verifies that file first, and refuses while the damage stands.
//!
//! Detecting damage, noting it and refusing to start are apart: what a node does about damage that
//! others can repair is for its caller to say.
//!
//! ```text
//! isthmus damage note, version 1
//! pages-00000000000000000003.pag 65576 a page does not match its checksum
//! checksum 5d0c91f2
//! ```
//!
//! A line for each place: file, offset in bytes, reason. The checksum is the CRC32C of all lines
//! before it. The note is itself on a disk that is failing: one that does not read back says that
//! there is damage somewhere.

use std::io;

use crate::{
    error::{Error, Result},
    fs::{self, Storage},
    pages,
};

/// The file that holds the note.
pub const NOTE_NAME: &str = "DAMAGE";

const TITLE: &str = "isthmus damage note, version 1";
const CHECKSUM: &str = "checksum ";

/// Places that are noted; the process ends at the first one, so there are few.
const PLACES_MAX: usize = 64;
/// Characters of a reason that are noted.
const REASON_CHARS_MAX: usize = 300;
/// A note is smaller than this, in bytes.
const NOTE_BYTES_MAX: u64 = 64 << 10;

/// A place in a page file that did not read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotedPlace {
    /// Name of the page file.
    pub file: String,
    /// Its number.
    pub number: u64,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// What was found there.
    pub reason: String,
}

/// What a data directory says of damage that was met before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// There is no note.
    Nothing,
    /// Damage was met at these places.
    Places(Vec<NotedPlace>),
    /// There is a note, and it does not read back.
    Unreadable,
}

/// Reads the note.
///
/// # Errors
/// What the operating system says.
pub fn read(storage: &dyn Storage) -> Result<Note> {
    let file = match storage.open(NOTE_NAME) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Note::Nothing),
        Err(e) => return Err(Error::io("open", NOTE_NAME, e)),
    };
    if file.size().map_err(|e| Error::io("measure", NOTE_NAME, e))? > NOTE_BYTES_MAX {
        return Ok(Note::Unreadable);
    }
    let bytes = fs::read_whole(&*file, NOTE_NAME)?;
    let places = std::str::from_utf8(&bytes).ok().and_then(decode);
    Ok(places.map_or(Note::Unreadable, Note::Places))
}

/// Notes where `error` met damage, beside what is noted already; returns whether it did. Only
/// places in page files are noted: everything else is read by every start. Durable when it returns.
///
/// # Errors
/// What the operating system says.
pub fn note(storage: &dyn Storage, error: &Error) -> Result<bool> {
    let Some(place) = place_of(error) else { return Ok(false) };
    let mut places = match read(storage)? {
        Note::Nothing => Vec::new(),
        Note::Places(places) => places,
        // Says more than a place does: the next start verifies everything.
        Note::Unreadable => return Ok(true),
    };
    let is_known = places.iter().any(|p| (p.number, p.offset) == (place.number, place.offset));
    if !is_known && places.len() < PLACES_MAX {
        places.push(place);
        fs::replace(storage, NOTE_NAME, encode(&places).as_bytes())?;
    }
    Ok(true)
}

/// Removes the note. Durable when it returns.
///
/// # Errors
/// What the operating system says.
pub fn clear(storage: &dyn Storage) -> Result<()> {
    match storage.remove(NOTE_NAME) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove", NOTE_NAME, e));
        }
        _ => {}
    }
    fs::sync_dir(storage)
}

/// The place in a page file that an error speaks of: damage, or something that could not be read.
fn place_of(error: &Error) -> Option<NotedPlace> {
    let (file, offset, reason) = match error {
        Error::Corrupt { file, offset, reason } => (file, *offset, reason.clone()),
        Error::Io { action: action @ ("open" | "measure" | "read"), file, offset, source } => {
            (file, offset.unwrap_or(0), format!("cannot {action} it: {source}"))
        }
        _ => return None,
    };
    let number = pages::parse_file_name(file)?;
    let is_plain = |c: char| if c.is_control() { ' ' } else { c };
    let reason = reason.chars().take(REASON_CHARS_MAX).map(is_plain).collect();
    Some(NotedPlace { file: file.clone(), number, offset, reason })
}

fn encode(places: &[NotedPlace]) -> String {
    let mut text = format!("{TITLE}\n");
    for NotedPlace { file, offset, reason, .. } in places {
        text.push_str(&format!("{file} {offset} {reason}\n"));
    }
    let checksum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("{CHECKSUM}{checksum:08x}\n"));
    text
}

fn decode(text: &str) -> Option<Vec<NotedPlace>> {
    let checked = text.rfind(CHECKSUM).filter(|&at| text[..at].ends_with('\n'))?;
    let (lines, checksum) = text.split_at(checked);
    if checksum != format!("{CHECKSUM}{:08x}\n", crc32c::crc32c(lines.as_bytes())) {
        return None;
    }
    let mut lines = lines.lines();
    if lines.next() != Some(TITLE) {
        return None;
    }
    lines.map(decode_place).collect()
}

fn decode_place(line: &str) -> Option<NotedPlace> {
    let mut words = line.splitn(3, ' ');
    let file = words.next()?.to_owned();
    let number = pages::parse_file_name(&file)?;
    let offset = words.next()?.parse().ok()?;
    Some(NotedPlace { file, number, offset, reason: words.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::SimStorage;

    fn damaged(number: u64, offset: u64) -> Error {
        Error::corrupt(&pages::file_name(number), offset, "it is\nnot what it was")
    }

    #[test]
    fn places_are_noted_once_and_durably_until_they_are_cleared() {
        let sim = SimStorage::new(1);
        assert_eq!(read(&sim).expect("read"), Note::Nothing);
        for error in [damaged(3, 100), damaged(3, 100), damaged(4, 0)] {
            assert!(note(&sim, &error).expect("noted"));
        }
        let sim = sim.crash(7);
        let Note::Places(places) = read(&sim).expect("read") else { panic!("no places") };
        let found: Vec<_> = places.iter().map(|p| (p.number, p.offset)).collect();
        assert_eq!(found, [(3, 100), (4, 0)]);
        assert_eq!(places[0].reason, "it is not what it was");
        clear(&sim).expect("cleared");
        assert_eq!(read(&sim.crash(8)).expect("read"), Note::Nothing);
    }

    #[test]
    fn what_every_start_reads_is_not_noted() {
        let sim = SimStorage::new(1);
        let full = Error::io("write", &pages::file_name(3), io::ErrorKind::StorageFull.into());
        for error in [Error::corrupt("log-0000000000000001.seg", 4096, "x"), full, Error::Stopped] {
            assert!(!note(&sim, &error).expect("looked at"));
        }
        assert_eq!(read(&sim).expect("read"), Note::Nothing);
        let unread = Error::io_at("read", &pages::file_name(3), 5, io::Error::other("bad sector"));
        assert!(note(&sim, &unread).expect("noted"));
        let Note::Places(places) = read(&sim).expect("read") else { panic!("no places") };
        assert_eq!((places[0].offset, &*places[0].reason), (5, "cannot read it: bad sector"));
    }

    #[test]
    fn a_note_with_any_bit_flipped_is_none_that_is_believed() {
        let sim = SimStorage::new(1);
        note(&sim, &damaged(3, 100)).expect("noted");
        for offset in 0..sim.contents(NOTE_NAME).expect("there").len() as u64 {
            for bit in 0..8 {
                let disk = sim.fork();
                disk.flip_bit(NOTE_NAME, offset, bit);
                assert_eq!(read(&disk).expect("read"), Note::Unreadable, "bit {bit} of {offset}");
            }
        }
        let name = NOTE_NAME;
        sim.flip_bit(name, 3, 1);
        assert!(note(&sim, &damaged(5, 1)).expect("left alone"));
        assert_eq!(read(&sim).expect("read"), Note::Unreadable);
    }
}
