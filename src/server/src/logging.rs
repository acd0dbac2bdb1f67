//! Logging to standard error.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

use crate::config::{Log, LogFormat};

/// Sends events to standard error from here on.
///
/// # Errors
///
/// If something logs already.
pub(crate) fn init(log: &Log) -> Result<(), TryInitError> {
    // Were a failed write reported, it would be to the same standard error, by a macro that
    // panics when that fails too.
    let layer = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    let layer = match log.format {
        LogFormat::Text => {
            let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            layer.with_ansi(colours).boxed()
        }
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    registry().with(layer.with_filter(log.level.0.clone())).try_init()
}

/// What happens often when it happens, and is of interest once: a flood must not become a flood of
/// log lines.
#[derive(Debug, Default)]
pub(crate) struct Doublings(AtomicU64);

impl Doublings {
    /// Nothing has happened.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// It has happened again; how often that is, at each doubling.
    pub(crate) fn count(&self) -> Option<u64> {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        count.is_power_of_two().then_some(count)
    }
}
