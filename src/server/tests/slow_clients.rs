//! Clients that connect and dawdle, many at once: they are closed in time, and nobody waits for
//! them.

#[allow(dead_code)] // each test uses its part
mod program;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use program::Program;
use rustix::process::{Resource, getrlimit, setrlimit};

const COUNT: usize = 2000;
const TIMEOUT: Duration = Duration::from_secs(3);

fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("set");
}

fn resident_bytes(program: &Program) -> u64 {
    let path = format!("/proc/{}/statm", program.id());
    let statm = std::fs::read_to_string(path).expect("running");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number") * 4096
}

/// Whether the other side has closed; what it says before is read and dropped.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// How long the broker takes to answer somebody new. Without a login: whoever dawdles comes to no
/// password, and how long it takes to verify one says how busy the machine is.
fn time_to_first_frame(port: u16) -> Duration {
    let asked = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    stream.write_all(b"AMQP\0\0\x09\x01").expect("sent");
    let mut head = [0; 11];
    stream.read_exact(&mut head).expect("answered");
    // A method frame of channel 0: connection.start.
    assert_eq!((&head[..3], &head[7..]), (&[1, 0, 0][..], &[0, 10, 0, 10][..]));
    asked.elapsed()
}

fn besiege(program: &Program, port: u16, drip: &[u8]) {
    allow_descriptors();
    let before = resident_bytes(program);
    let begun = Instant::now();
    let mut slow: Vec<TcpStream> = (0..COUNT)
        .map(|_| {
            let stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
            stream.set_nonblocking(true).expect("set");
            stream
        })
        .collect();
    let connected = Instant::now();
    let mut sent = 0;
    let mut was_quick = 0;
    let mut most = before;
    while connected.elapsed() < TIMEOUT + Duration::from_secs(2) && !slow.is_empty() {
        // Half of them send a byte now and then, the others nothing.
        if let Some(byte) = drip.get(sent..=sent) {
            for stream in slow.iter_mut().step_by(2) {
                stream.write_all(byte).ok();
            }
            sent += 1;
        }
        most = most.max(resident_bytes(program));
        if begun.elapsed() < TIMEOUT {
            let took = time_to_first_frame(program.port("amqp"));
            assert!(took < Duration::from_secs(1), "{took:?}");
            was_quick += 1;
        }
        slow.retain_mut(|stream| !is_closed(stream));
        std::thread::sleep(Duration::from_millis(400));
    }
    assert!(slow.is_empty(), "{} are still open", slow.len());
    assert!(begun.elapsed() >= TIMEOUT, "closed too early");
    assert!(was_quick > 0);
    let each = (most - before) / COUNT as u64;
    assert!(each < 32 << 10, "{each} bytes each");
}

#[test]
fn slow_logins_are_closed_and_hold_nobody_up() {
    let program = Program::start(&["--set", "limits.handshake_timeout=3s"], &[]);
    // A header, and the beginning of a frame.
    besiege(&program, program.port("amqp"), b"AMQP\0\0\x09\x01\x01\0\0\0\0\0\xff");
}

#[test]
fn slow_tls_handshakes_are_closed_and_hold_nobody_up() {
    let dir = tempfile::tempdir().expect("directory");
    let output = program::isthmus()
        .args(["certs", "dev", "--force", "--out"])
        .arg(dir.path())
        .output()
        .expect("runs");
    assert!(output.status.success(), "{output:?}");
    let (certificate, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
    let certificate = format!("tls.certificate={}", certificate.display());
    let key = format!("tls.key={}", key.display());
    let arguments = [
        "--set",
        &certificate,
        "--set",
        &key,
        "--set",
        "tls.handshake_timeout=3s",
        "--set",
        "listeners.amqps=127.0.0.1:0",
        "--set",
        "listeners.https=off",
    ];
    let program = Program::start(&arguments, &[]);
    besiege(&program, program.port("amqps"), b"\x16\x03\x01\x01\x00\x01\0\0\xfc\x03\x03");
}

#[test]
fn strangers_who_say_nothing_do_not_keep_health_checks_out() {
    allow_descriptors();
    let program = Program::start(&[], &[]);
    let port = program.port("http");
    // Half of them send the beginning of a request, the others nothing.
    let connect = |i| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        if i % 2 == 0 {
            stream.write_all(b"GET /health/live HT").expect("sent");
        }
        stream
    };
    let begun = Instant::now();
    let strangers: Vec<TcpStream> = (0..COUNT).map(connect).collect();
    for _ in 0..5 {
        let asked = Instant::now();
        let answer = program.get("/health/live");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
    // Before any of them is closed for being slow.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    drop(strangers);
}
