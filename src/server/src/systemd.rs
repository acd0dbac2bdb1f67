//! What the service manager is told, over the socket that it names in `NOTIFY_SOCKET`
//! (sd_notify(3)). Without one nothing is told.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The service manager, if there is one that wants to know.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    socket: Option<UnixDatagram>,
}

impl ServiceManager {
    /// The one that the environment names.
    pub(crate) fn from_environment() -> Self {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Self { socket: None } };
        let socket = connect(path.as_bytes());
        if let Err(error) = &socket {
            tracing::warn!(%error, path = %path.display(), "NOTIFY_SOCKET cannot be used");
        }
        Self { socket: socket.ok() }
    }

    /// Clients are served.
    pub(crate) fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving clients");
    }

    /// The configuration is being read again; [`ServiceManager::ready`] ends it.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The process is going down.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=closing connections");
    }

    /// The process is alive.
    pub(crate) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, state: &str) {
        let sent = self.socket.as_ref().map(|socket| socket.send(state.as_bytes()));
        if let Some(Err(error)) = sent {
            tracing::debug!(%error, state, "the service manager was not told");
        }
    }
}

/// How long the service manager waits for a sign of life from this process; `None` if it does
/// not.
pub(crate) fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    // The variable may have been meant for the process that started this one.
    let is_ours = env::var_os("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0).map(Duration::from_micros)
}

/// Connects to a socket in the file system or, after an `@`, in the abstract name space.
fn connect(path: &[u8]) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A service manager that does not read must not hold up the broker.
    socket.set_nonblocking(true)?;
    let address = match path.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    socket.connect_addr(&address)?;
    Ok(socket)
}
