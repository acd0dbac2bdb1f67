//! Whose turn it is to write page files and checkpoints, and what came of it last.

use std::sync::Arc;

use isthmus_cluster::member::Point;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// One at a time writes page files and checkpoints: a round removes files that it does not know to
/// be needed, among them those that another would just have written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds(Arc<tokio::sync::Mutex<()>>);

/// The right to write, until it is dropped.
pub(crate) type Turn = OwnedMutexGuard<()>;

impl Rounds {
    /// Waits until nobody else writes.
    pub(crate) async fn turn(&self) -> Turn {
        Arc::clone(&self.0).lock_owned().await
    }
}

/// Where the newest durable checkpoint stands in the log, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Latest(Mutex<Option<Point>>);

impl Latest {
    pub(crate) fn set(&self, point: Point) {
        *self.0.lock() = Some(point);
    }

    pub(crate) fn get(&self) -> Option<Point> {
        self.0.lock().clone()
    }
}
