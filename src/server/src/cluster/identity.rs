//! Who this node is, as its data directory says.
//!
//! ```text
//! u8 version, 1; 16 cluster id; u64 member id
//! ```

use isthmus_broker::cluster::peer::{ClusterId, Identity, MemberId};
use isthmus_broker::storage::{Error, Storage, small};

/// The file.
const NAME: &str = "MEMBER";

const VERSION: u8 = 1;

/// Reads it; `None` in a directory that never was a member's.
///
/// # Errors
/// If it is damaged or of a later version, and what the operating system says.
pub(super) fn load(storage: &dyn Storage) -> Result<Option<Identity>, Error> {
    let Some(content) = small::read(storage, NAME)? else { return Ok(None) };
    let invalid = |reason: &str| Error::Corrupt {
        file: NAME.to_owned(),
        offset: 0,
        reason: reason.to_owned(),
    };
    let (version, rest) = content.split_first().ok_or_else(|| invalid("it is empty"))?;
    if *version != VERSION {
        return Err(invalid("a newer Isthmus wrote it"));
    }
    let (cluster, rest) =
        rest.split_first_chunk::<16>().ok_or_else(|| invalid("it is too short"))?;
    let (member, rest) = rest.split_first_chunk::<8>().ok_or_else(|| invalid("it is too short"))?;
    if !rest.is_empty() {
        return Err(invalid("it is too long"));
    }
    let member = MemberId(u64::from_le_bytes(*member));
    Ok(Some(Identity { cluster: ClusterId(*cluster), member, node: member.node() }))
}

/// Writes it. It is durable when this returns.
///
/// # Errors
/// What the operating system says.
pub(super) fn save(storage: &dyn Storage, identity: &Identity) -> Result<(), Error> {
    let mut content = vec![VERSION];
    content.extend(identity.cluster.0);
    content.extend(identity.member.0.to_le_bytes());
    small::write(storage, NAME, &content)
}

#[cfg(test)]
mod tests {
    use isthmus_broker::storage::SimStorage;

    use super::*;

    #[test]
    fn it_comes_back() {
        let storage = SimStorage::new(1);
        assert_eq!(load(&storage).expect("read"), None);
        let member = MemberId::new(3, 7).expect("few lives");
        let identity = Identity { cluster: ClusterId([9; 16]), member, node: 3 };
        save(&storage, &identity).expect("written");
        assert_eq!(load(&storage).expect("read"), Some(identity));
        small::write(&storage, NAME, &[2; 25]).expect("written");
        assert!(load(&storage).expect_err("refused").to_string().contains("newer"));
    }
}
