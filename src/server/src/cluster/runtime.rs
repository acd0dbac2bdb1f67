//! The thread that consensus runs on: nothing else keeps it from a heartbeat.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A runtime of one thread.
pub(super) struct Runtime {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has none.
    pub(super) fn start() -> io::Result<Runtime> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            // Dropped without a word, it ends as well.
            runtime.block_on(stopped).unwrap_or_default();
        };
        let thread = std::thread::Builder::new().name("consensus".to_owned()).spawn(run)?;
        Ok(Runtime { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Where to spawn.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends the thread. What is still spawned is dropped.
    pub(super) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of consensus has panicked");
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop();
    }
}
