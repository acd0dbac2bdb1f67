//! Work that blocks, beside the tasks of the runtime.

use isthmus_storage::threads::Threads;

/// Does `work`, which may block, and waits for it. It is not given up before it has ended, also if
/// whoever waits is. `None` if it has panicked, or could not begin.
///
/// It runs on one of the runtime's blocking threads, or on a simulated thread called `name`.
pub async fn blocking<T: Send + 'static>(
    threads: &Threads,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if !threads.is_simulated() {
        return tokio::task::spawn_blocking(work).await.ok();
    }
    let (tell, told) = tokio::sync::oneshot::channel();
    // Whoever waits may have gone.
    threads.spawn(name, move || drop(tell.send(work()))).ok()?;
    told.await.ok()
}
