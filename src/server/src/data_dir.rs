//! The data directory: made for the broker alone, and held by one process at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The file whose lock says that a process uses the directory. It holds that process's id.
const LOCK_FILE: &str = "isthmus.lock";

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    /// The file system refuses.
    #[error("data directory {path}: {doing} failed: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Another process holds it.
    #[error("data directory {path} is in use by another isthmus{holder}")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, if it says.
        holder: String,
    },
}

/// The data directory, held by this process until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    /// Released by the system when the process ends, however it ends.
    _lock: File,
}

/// Makes the directory with mode 0700 if it does not exist, and its parents likewise.
///
/// # Errors
///
/// [`DataDirError::Io`]
pub(crate) fn create(path: &Path) -> Result<(), DataDirError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(io_error(path, "creating it"))
}

impl DataDir {
    /// Makes the directory if need be, and takes hold of it.
    ///
    /// # Errors
    ///
    /// If it cannot be made or written to, or another process holds it.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        create(path)?;
        let metadata = std::fs::metadata(path).map_err(io_error(path, "reading its mode"))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            // It may be a mount whose mode its owner chose; changing it is not ours to do.
            let path = path.display();
            tracing::warn!(%path, "data directory is open to other users (mode {mode:o}); 0700 is safer");
        }
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(io_error(path, "opening its lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut lock);
                return Err(DataDirError::Locked { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(io_error(path, "locking it")(error)),
        }
        let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(io_error(path, "writing to it"))?;
        Ok(Self { _lock: lock })
    }
}

/// The process that holds the directory, for a message; empty if it does not say.
pub(crate) fn holder_of(path: &Path) -> String {
    File::open(path.join(LOCK_FILE)).map(|mut lock| holder(&mut lock)).unwrap_or_default()
}

/// The process named in a lock file, for a message.
fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    // The id is for people only; a file of another size is not one.
    match lock.take(16).read_to_string(&mut text).map(|_| text.trim().parse::<u32>()) {
        Ok(Ok(pid)) => format!(" (process {pid})"),
        Ok(Err(_)) | Err(_) => String::new(),
    }
}

fn io_error(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> DataDirError {
    move |source| DataDirError::Io { path: path.to_owned(), doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_for_its_owner_and_held_once() {
        let temp = tempfile::tempdir().expect("directory");
        let path = temp.path().join("a/b");
        let held = DataDir::open(&path).expect("opened");
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let message = DataDir::open(&path).expect_err("held").to_string();
        let holder = format!("in use by another isthmus (process {})", std::process::id());
        assert!(message.ends_with(&holder), "{message}");
        drop(held);
        DataDir::open(&path).expect("free again");
    }

    #[test]
    fn a_file_in_its_place_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let message = DataDir::open(file.path()).expect_err("not a directory").to_string();
        assert!(message.contains(&file.path().display().to_string()), "{message}");
    }
}
