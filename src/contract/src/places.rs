//! How many channels may be open at once, over several connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Places for what a protocol divides connections into (channels, sessions), shared by all
/// connections of a user.
#[derive(Debug)]
pub struct Places {
    taken: AtomicU64,
    /// `u64::MAX` for no limit.
    max: AtomicU64,
}

/// A place that is taken; given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Default for Places {
    fn default() -> Places {
        Places { taken: AtomicU64::new(0), max: AtomicU64::new(u64::MAX) }
    }
}

impl Places {
    /// From now on there are so many; `None` for any number. Places that are taken stay so.
    pub fn set_max(&self, max: Option<u64>) {
        self.max.store(max.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Takes a place.
    ///
    /// # Errors
    /// How many there are, if all are taken.
    pub fn take(self: &Arc<Places>) -> Result<Place, u64> {
        let max = self.max.load(Ordering::Relaxed);
        let one_more = |taken| (taken < max).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Place(Arc::clone(self))),
            Err(_) => Err(max),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_were_said_last_and_they_come_back() {
        let places = Arc::new(Places::default());
        let first = places.take().expect("no limit");
        places.set_max(Some(2));
        let second = places.take().expect("the second");
        assert_eq!(places.take().expect_err("full"), 2);
        drop(first);
        let third = places.take().expect("room again");
        places.set_max(Some(0));
        drop((second, third));
        assert_eq!(places.take().expect_err("none at all"), 0);
        places.set_max(None);
        assert!(places.take().is_ok());
    }
}
