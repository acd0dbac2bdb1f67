//! Logging to standard error.

use std::io::{self, IsTerminal};

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
