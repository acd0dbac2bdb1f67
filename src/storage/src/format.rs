//! The format version of a data directory: a file that says which release may open it.

use std::io;

use crate::{
    error::{Error, Result},
    fs::{self, Storage},
};

/// The version of the data directory this build reads and writes.
pub const FORMAT_VERSION: u32 = 1;
/// The file that states it.
pub(crate) const FORMAT_NAME: &str = "FORMAT";

const PREFIX: &str = "isthmus data directory, format ";
/// The file is one short line; more than this is not ours, in bytes.
const SIZE_MAX: u64 = 128;

/// Checks that this build knows the directory's format, or states it in an empty directory.
///
/// # Errors
/// [`Error::UnknownVersion`] for a directory of another release, [`Error::Corrupt`] if the file is
/// unreadable or missing although there is data, and what the operating system says.
pub(crate) fn check_or_create(storage: &dyn Storage, has_data: bool) -> Result<()> {
    let file = match storage.open(FORMAT_NAME) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if has_data {
                return Err(Error::corrupt(FORMAT_NAME, 0, "the file is missing beside data"));
            }
            let line = format!("{PREFIX}{FORMAT_VERSION}\n");
            return fs::replace(storage, FORMAT_NAME, line.as_bytes());
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
        Some(FORMAT_VERSION) => Ok(()),
        Some(found) => Err(Error::UnknownVersion {
            file: FORMAT_NAME.to_owned(),
            found: found.to_string(),
            supported: FORMAT_VERSION,
        }),
        None => Err(Error::corrupt(FORMAT_NAME, 0, "it does not hold a format line")),
    }
}
