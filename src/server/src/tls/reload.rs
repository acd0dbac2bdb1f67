//! Following changes of the files.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Tls;
use crate::config::Config;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads the files of the listeners again whenever one of them has changed.
pub(crate) async fn reload_at_change(config: Arc<Config>, tls: Tls) -> Infallible {
    let files = config.tls.files().map(Path::to_owned).collect();
    at_each_change(files, || reload(&config, &tls)).await
}

/// Calls `reload` whenever one of `files` has changed and a second has passed without another
/// change: certificate and key are replaced one after the other.
pub(crate) async fn at_each_change<F: Future<Output = ()>>(
    files: Vec<PathBuf>,
    reload: impl Fn() -> F,
) -> Infallible {
    if files.is_empty() {
        return std::future::pending().await;
    }
    let files: Arc<[PathBuf]> = files.into();
    let mut loaded = stamps(&files).await;
    let mut seen = loaded.clone();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = stamps(&files).await;
        let settled = now == seen;
        seen = now;
        if settled && seen != loaded {
            loaded.clone_from(&seen);
            reload().await;
        }
    }
}

/// Reads the files again, and says how that went.
pub(crate) async fn reload(config: &Arc<Config>, tls: &Tls) {
    let (config, tls) = (Arc::clone(config), tls.clone());
    let reloaded = tokio::task::spawn_blocking(move || tls.reload(&config.tls)).await;
    match reloaded {
        Ok(Ok(())) => tracing::info!("read the TLS files again; new connections use them"),
        Ok(Err(error)) => tracing::error!(%error, "TLS goes on with what was read before"),
        Err(error) => tracing::error!(%error, "TLS goes on with what was read before"),
    }
}

/// When each file was changed, and how long it is: a copy may keep the time.
async fn stamps(files: &Arc<[PathBuf]>) -> Vec<Option<(SystemTime, u64)>> {
    let files = Arc::clone(files);
    let look = move || files.iter().map(|file| stamp(file)).collect();
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
