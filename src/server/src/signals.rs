//! Signals to the process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal to stop is called, and what the process exits with if it exits by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StopSignal {
    /// The signal's name.
    pub(crate) name: &'static str,
    /// 128 and the signal's number, as shells have it.
    pub(crate) exit_code: i32,
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Catches the signals from here on.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.terminate.recv() => StopSignal { name: "SIGTERM", exit_code: 128 + 15 },
            _ = self.interrupt.recv() => StopSignal { name: "SIGINT", exit_code: 128 + 2 },
        }
    }

    /// Exits the process at the next signal, whatever else it is doing.
    pub(crate) fn exit_at_next(mut self) {
        tokio::spawn(async move {
            let StopSignal { name, exit_code } = self.next().await;
            tracing::warn!("{name} again: exiting at once");
            std::process::exit(exit_code);
        });
    }
}

/// SIGHUP, which asks for the users to be read again.
///
/// # Errors
///
/// If the system refuses.
pub(crate) fn reloads() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}
