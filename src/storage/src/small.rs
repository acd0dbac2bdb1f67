//! Small files that are written as a whole: who a node is, what it was about to do.
//!
//! ```text
//! u32 checksum of the rest (CRC32C), u32 length of the content, the content
//! ```
//!
//! Numbers are little-endian. A file is written beside the one that it replaces and renamed, so
//! what is under its name is whole, and damage to it is damage by the medium.

use std::io;

use crate::{
    error::{Error, Result},
    fs::{self, Storage},
};

/// The largest content, in bytes.
const BYTES_MAX: usize = 64 << 10;

const HEAD_BYTES: usize = 8;

/// Writes `content` under `name`. It is durable when this returns.
///
/// # Errors
/// [`Error::Misuse`] for more than 64 KiB, and what the operating system says.
pub fn write(storage: &dyn Storage, name: &str, content: &[u8]) -> Result<()> {
    if content.len() > BYTES_MAX {
        return Err(Error::misuse(format!("{name} would have {} bytes", content.len())));
    }
    let mut bytes = vec![0; 4];
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend(content);
    let crc = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    let temporary = format!("{name}.tmp");
    let file = fs::create_temporary(storage, &temporary)?;
    fs::write_all_at(&*file, &temporary, &bytes, 0)?;
    file.sync_data().map_err(|e| Error::io("sync", &temporary, e))?;
    storage.rename(&temporary, name).map_err(|e| Error::io("rename", &temporary, e))?;
    fs::sync_dir(storage)
}

/// The content of the file `name`; `None` if there is none.
///
/// # Errors
/// [`Error::Corrupt`] if it is not what was written, and what the operating system says.
pub fn read(storage: &dyn Storage, name: &str) -> Result<Option<Vec<u8>>> {
    let file = match storage.open(name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|e| Error::io("open", name, e))?,
    };
    let mut bytes = vec![0; HEAD_BYTES + BYTES_MAX + 1];
    let len = fs::read_full_at(&*file, name, &mut bytes, 0)?;
    bytes.truncate(len);
    let corrupt = |reason: &str| Error::corrupt(name, 0, reason);
    let (crc, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| corrupt("it is too short"))?;
    let (len, content) = rest.split_first_chunk::<4>().ok_or_else(|| corrupt("it is too short"))?;
    if crc32c::crc32c(rest).to_le_bytes() != *crc {
        return Err(corrupt("its checksum is wrong"));
    }
    if u32::from_le_bytes(*len) as usize != content.len() {
        return Err(corrupt("its length is wrong"));
    }
    Ok(Some(content.to_vec()))
}

/// Removes the file `name`, if it is there. It is durable when this returns.
///
/// # Errors
/// What the operating system says.
pub fn remove(storage: &dyn Storage, name: &str) -> Result<()> {
    match storage.remove(name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => {
            removed.map_err(|e| Error::io("remove", name, e))?;
            fs::sync_dir(storage)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed test may panic
mod tests {
    use super::*;
    use crate::SimStorage;

    #[test]
    fn what_is_written_is_read_and_every_flipped_bit_is_noticed() {
        let storage = SimStorage::new(1);
        assert_eq!(read(&storage, "who").unwrap(), None);
        write(&storage, "who", b"one").unwrap();
        write(&storage, "who", b"another").unwrap();
        assert_eq!(read(&storage, "who").unwrap().as_deref(), Some(&b"another"[..]));
        let file = storage.open("who").unwrap();
        for bit in 0..file.size().unwrap() * 8 {
            let mut byte = [0];
            file.read_at(&mut byte, bit / 8).unwrap();
            let flipped = byte[0] ^ 1 << (bit % 8);
            file.write_at(&[flipped], bit / 8).unwrap();
            assert!(read(&storage, "who").is_err(), "bit {bit}");
            file.write_at(&byte, bit / 8).unwrap();
        }
        assert!(write(&storage, "who", &vec![0; BYTES_MAX + 1]).is_err());
        remove(&storage, "who").unwrap();
        remove(&storage, "who").unwrap();
        assert_eq!(read(&storage, "who").unwrap(), None);
    }
}
