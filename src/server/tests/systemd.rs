//! What the service manager hears.

#[allow(dead_code)] // each test uses its part
mod program;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use program::Program;
use rustix::process::Signal;

/// Waits for the next message, apart from signs of life.
fn hear(socket: &UnixDatagram) -> String {
    loop {
        let mut buffer = [0; 1024];
        let len = socket.recv(&mut buffer).expect("a message");
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        if text != "WATCHDOG=1" {
            return text;
        }
    }
}

fn follow(socket: &UnixDatagram, address: &str) {
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let environment = [("NOTIFY_SOCKET", address), ("WATCHDOG_USEC", "150000")];
    let mut program = Program::start(&[], &environment);
    assert!(hear(socket).starts_with("READY=1\n"));
    for _ in 0..3 {
        let mut buffer = [0; 1024];
        let len = socket.recv(&mut buffer).expect("a message");
        assert_eq!(&buffer[..len], b"WATCHDOG=1");
    }
    program.signal(Signal::HUP);
    let reloading = hear(socket);
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("reloading");
    assert!(since.parse::<u64>().is_ok_and(|micros| micros > 0), "{since}");
    assert!(hear(socket).starts_with("READY=1\n"));
    assert_eq!(program.stop(Signal::TERM), Some(0));
    assert!(hear(socket).starts_with("STOPPING=1\n"));
}

#[test]
fn it_hears_of_the_whole_life() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    follow(&socket, path.to_str().expect("UTF-8"));
}

#[test]
fn abstract_sockets_are_understood() {
    let name = format!("isthmus-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("an address");
    let socket = UnixDatagram::bind_addr(&address).expect("bound");
    follow(&socket, &format!("@{name}"));
}

#[test]
fn a_socket_that_is_not_there_and_a_watchdog_for_others_do_no_harm() {
    let environment =
        [("NOTIFY_SOCKET", "/nowhere/notify"), ("WATCHDOG_USEC", "150000"), ("WATCHDOG_PID", "1")];
    let mut program = Program::start(&[], &environment);
    assert_eq!(program.stop(Signal::TERM), Some(0));
}
