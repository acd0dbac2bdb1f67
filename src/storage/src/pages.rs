//! Page files: what survives the log, in pieces that are read at random.
//!
//! A *page* is an opaque blob, some 256 KiB as a rule; a *page file* holds the pages that one round
//! of paging out wrote, one behind the other. It is written once, made durable, and never changed
//! afterwards. A checkpoint names the files it needs, so a file may be removed once a checkpoint
//! that does not name it is durable, and files that the newest one does not name are leftovers.
//!
//! ```text
//! header, 32 bytes           before each page, 40 bytes, and at the end of the file
//! offset size                offset size
//!      0    8  "ISTHPAG\0"        0    4  checksum of bytes 4..40
//!      8    4  format version     4    4  "PAGE", or "PEND" at the end
//!     12    4  checksum of        8    4  length of the content in bytes; 0 at the end
//!              the rest          12    4  checksum of the content
//!     16    8  number            16    8  offset in the file of this header
//!     24    8  salt              24    8  pages before this
//!                                32    8  salt of the file
//! ```
//!
//! All numbers are little-endian. Checksums are CRC32C; those of a page are seeded with the file's
//! number, its salt, which is drawn at random, and the offset, so that a page from elsewhere, or
//! from an earlier file whose blocks the file system gave to this one, does not pass.
//!
//! The end record is written only when a sync of everything before it has returned: a file that
//! has one is whole, whatever the disk does with the order of writes, and any damage in it is
//! damage by the medium. A file without one was never finished, or was cut short.

mod copy;
mod file;
mod record;
mod walk;
mod writer;

use std::io;

pub(crate) use self::file::examine;
pub use self::{
    copy::PageReceiver,
    file::{Held, PageFile},
    writer::PageWriter,
};
use crate::{
    error::{Error, Result},
    fs::{Pace, Storage},
};

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageAddress {
    /// The number of the page file.
    pub file: u64,
    /// Offset of the page's header in the file, in bytes.
    pub offset: u64,
    /// Length of the content in bytes.
    pub len: u32,
}

/// How to write a page file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageOptions {
    /// How often to sync, and how long to rest.
    pub pace: Pace,
}

/// What is in a page file, all of it verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageFileReport {
    /// The number of the file.
    pub number: u64,
    /// Whole pages.
    pub pages: u64,
    /// Their content in bytes.
    pub content_bytes: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// The name of the page file with this number.
#[must_use]
pub fn file_name(number: u64) -> String {
    format!("pages-{number:020}.pag")
}

/// The number in the name of a page file.
pub(crate) fn parse_file_name(name: &str) -> Option<u64> {
    let number = name.strip_prefix("pages-")?.strip_suffix(".pag")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// The numbers of the page files, ascending, the unfinished ones that a crash left included.
///
/// # Errors
/// What the operating system says.
pub fn list(storage: &dyn Storage) -> Result<Vec<u64>> {
    let names = storage.list().map_err(|e| Error::io("list", &storage.location(), e))?;
    let mut numbers: Vec<_> = names.iter().filter_map(|name| parse_file_name(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes page files; one that is not there counts as removed. Pages of open files can still be
/// read. It is not durable when this returns, and need not be: a file that comes back is one that
/// the newest checkpoint does not name.
///
/// # Errors
/// What the operating system says; files behind the one it was about are still there.
pub fn remove(storage: &dyn Storage, files: impl IntoIterator<Item = u64>) -> Result<()> {
    for number in files {
        let name = file_name(number);
        match storage.remove(&name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &name, e));
            }
            _ => {}
        }
    }
    Ok(())
}
