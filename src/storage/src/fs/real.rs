//! Real files in a real directory.

use std::{
    collections::hash_map::RandomState,
    fs::{self, DirBuilder, OpenOptions, Permissions, TryLockError},
    hash::{BuildHasher, Hasher},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{File, Lock, Storage};

/// Zeros are written in pieces of this size, in bytes.
const ZEROS_BYTES: usize = 1 << 20;
/// The file whose lock is the directory's lock.
const LOCK_NAME: &str = "LOCK";

/// A directory of the operating system, readable by its owner only.
#[derive(Debug)]
pub struct RealStorage {
    path: PathBuf,
    /// Kept open so that a directory sync reports errors since it was opened.
    directory: fs::File,
    read_only: bool,
}

impl RealStorage {
    /// Opens the directory, creating it (and its parents) if it is not there, with mode 0700. An
    /// existing directory that others may enter is closed to them.
    ///
    /// # Errors
    /// What the operating system says about creating or opening it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            // The new name must survive a power cut as well as what will lie under it.
            if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                fs::File::open(parent)?.sync_all()?;
            }
        }
        let directory = fs::File::open(&path)?;
        if directory.metadata()?.permissions().mode() & 0o077 != 0 {
            directory.set_permissions(Permissions::from_mode(0o700))?;
        }
        Ok(Self { path, directory, read_only: false })
    }

    /// Opens an existing directory to look at it: it, its mode and its files stay as they are, and
    /// whatever would change something fails with `ReadOnlyFilesystem`.
    ///
    /// # Errors
    /// What the operating system says about opening it.
    pub fn read_only(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let directory = fs::File::open(&path)?;
        // Opening succeeds for a file as well.
        if !directory.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { path, directory, read_only: true })
    }

    fn writable(&self) -> io::Result<()> {
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    fn path_of(&self, name: &str) -> io::Result<PathBuf> {
        let flat = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(flat) {
            let reason = format!("{name:?} is no name of a storage file");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Ok(self.path.join(name))
    }
}

fn options(read_only: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(!read_only).mode(0o600);
    options
}

impl Storage for RealStorage {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.writable()?;
        let file = options(false).create_new(true).open(self.path_of(name)?)?;
        Ok(Arc::new(RealFile { file, read_only: false }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = options(self.read_only).open(self.path_of(name)?)?;
        Ok(Arc::new(RealFile { file, read_only: self.read_only }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.writable()?;
        fs::rename(self.path_of(from)?, self.path_of(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.writable()?;
        fs::remove_file(self.path_of(name)?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            // A name that is not UTF-8 is not ours.
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.writable()?;
        self.directory.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        let mut options = options(self.read_only);
        if !self.read_only {
            options.create(true).truncate(false);
        }
        let file = match options.open(self.path_of(LOCK_NAME)?) {
            // Nobody has ever held it, or it is a copy.
            Err(e) if self.read_only && e.kind() == io::ErrorKind::NotFound => {
                return Ok(Box::new(RealLock { _file: None }));
            }
            other => other?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn entropy(&self) -> u64 {
        // The standard library keys its hasher from the operating system's generator.
        RandomState::new().build_hasher().finish()
    }

    fn location(&self) -> String {
        self.path.display().to_string()
    }
}

/// The lock goes when the descriptor is closed, also when the process is killed.
#[derive(Debug)]
struct RealLock {
    _file: Option<fs::File>,
}

impl Lock for RealLock {}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    read_only: bool,
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let mut at = self.size()?;
        let zeros = vec![0; ZEROS_BYTES.min(usize::try_from(len).unwrap_or(ZEROS_BYTES))];
        while at < len {
            let piece = zeros.len().min(usize::try_from(len - at).unwrap_or(zeros.len()));
            self.file.write_all_at(&zeros[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }
}
