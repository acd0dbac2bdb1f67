//! Following changes of the files.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Tls;
use crate::config::Config;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads the files again whenever one of them has changed and a second has passed without another
/// change: certificate and key are replaced one after the other.
pub(crate) async fn reload_at_change(config: Arc<Config>, tls: Tls) -> Infallible {
    let mut loaded = stamps(&config).await;
    let mut seen = loaded.clone();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = stamps(&config).await;
        let settled = now == seen;
        seen = now;
        if settled && seen != loaded {
            loaded.clone_from(&seen);
            reload(&config, &tls).await;
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
async fn stamps(config: &Arc<Config>) -> Vec<Option<(SystemTime, u64)>> {
    let config = Arc::clone(config);
    let look = move || config.tls.files().map(stamp).collect();
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
