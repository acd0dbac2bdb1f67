//! The format version of a data directory: a file that says which release may open it.

use std::io;

use crate::{
    error::{Error, Result},
    fs::{self, Storage},
};

/// The version of the data directory this build reads and writes.
pub const FORMAT_VERSION: u32 = 2;
/// The oldest version this build reads. What came since: 2 has page files.
const FORMAT_VERSION_MIN: u32 = 1;
/// The file that states it.
pub(crate) const FORMAT_NAME: &str = "FORMAT";

const PREFIX: &str = "isthmus data directory, format ";
/// The file is one short line; more than this is not ours, in bytes.
const SIZE_MAX: u64 = 128;

/// What the format file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stated {
    /// There is none yet, and no data either.
    Nothing,
    /// A version this build reads.
    Version(u32),
}

/// Checks that this build knows the directory's format, and changes nothing.
///
/// # Errors
/// [`Error::UnknownVersion`] for a directory of another release, [`Error::Corrupt`] if the file is
/// unreadable or missing although there is data, and what the operating system says.
pub(crate) fn check(storage: &dyn Storage, has_data: bool) -> Result<Stated> {
    let file = match storage.open(FORMAT_NAME) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if has_data {
                return Err(Error::corrupt(FORMAT_NAME, 0, "the file is missing beside data"));
            }
            return Ok(Stated::Nothing);
        }
        Err(e) => return Err(Error::io("open", FORMAT_NAME, e)),
    };
    let size = file.size().map_err(|e| Error::io("measure", FORMAT_NAME, e))?;
    if size > SIZE_MAX {
        return Err(Error::corrupt(FORMAT_NAME, 0, "it is too long to be a format line"));
    }
    let bytes = fs::read_whole(&*file, FORMAT_NAME)?;
    let version = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|line| line.strip_prefix(PREFIX)?.strip_suffix('\n')?.parse::<u32>().ok());
    match version {
        Some(found @ FORMAT_VERSION_MIN..=FORMAT_VERSION) => Ok(Stated::Version(found)),
        Some(found) => Err(Error::UnknownVersion {
            file: FORMAT_NAME.to_owned(),
            found: found.to_string(),
            supported: FORMAT_VERSION,
        }),
        None => Err(Error::corrupt(FORMAT_NAME, 0, "it does not hold a format line")),
    }
}

/// States this build's format, unless that is what is stated. Durable when it returns, so nothing
/// is ever written that a release which knows only the older format would not understand.
///
/// # Errors
/// What the operating system says.
pub(crate) fn state(storage: &dyn Storage, stated: Stated) -> Result<()> {
    if stated == Stated::Version(FORMAT_VERSION) {
        return Ok(());
    }
    let line = format!("{PREFIX}{FORMAT_VERSION}\n");
    fs::replace(storage, FORMAT_NAME, line.as_bytes())
}
