//! Alarms from outside: publishers are held back, consumers are not, and it ends.

#[allow(dead_code)] // each test uses its part
mod program;

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use program::Program;
use program::amqp::{BLOCKED, Client, DELIVER, UNBLOCKED, publish, publish_as};

const PATIENCE: Duration = Duration::from_secs(20);

const MEMORY_LIMIT: u64 = 96 << 20;

/// The body of the message that the consumer stops at.
const LAST: &[u8] = b"last";

/// Publishes to `queue` until nothing has been taken for a second.
fn publish_until_stopped(client: &mut Client, queue: &str) {
    // Transient ones: others would go to pages.
    let message = publish_as(1, queue, &[7; 4096]);
    let messages = message.repeat(16);
    client.stream.set_write_timeout(Some(Duration::from_secs(1))).expect("set");
    let deadline = Instant::now() + PATIENCE * 3;
    while Instant::now() < deadline {
        match client.stream.write_all(&messages) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("never stopped");
}

fn resident_bytes(program: &Program) -> u64 {
    let path = format!("/proc/{}/statm", program.id());
    let statm = std::fs::read_to_string(path).expect("running");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number") * 4096
}

fn metric(program: &Program, name: &str) -> String {
    let metrics = program.get("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).trim().to_owned()
}

#[test]
fn memory_holds_publishers_back_until_consumers_have_freed_it() {
    let program = Program::start(&["--set", "alarms.memory=96 MiB"], &[]);
    assert_eq!(metric(&program, r#"isthmus_alarm{kind="memory"}"#), "0");
    assert_eq!(metric(&program, "isthmus_memory_limit_bytes "), "100663296.0");
    let mut consumer = Client::connect(program.port("amqp")).expect("connected");
    consumer.declare("q").expect("declared");
    let mut publisher = Client::connect(program.port("amqp")).expect("connected");
    publish_until_stopped(&mut publisher, "q");
    program.wait_for_line("memory alarm set");
    let blocked = publisher.wait_for(BLOCKED).expect("told");
    assert!(blocked.payload.ends_with(b"low on memory"), "{blocked:?}");
    assert_eq!(metric(&program, r#"isthmus_alarm{kind="memory"}"#), "1");
    let health = program.get("/health/ready");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(health.contains(r#""alarms":["memory"]"#), "{health}");
    let resident = resident_bytes(&program);
    assert!(resident <= MEMORY_LIMIT / 10 * 11, "{resident} resident");

    // New clients come in, and what does not publish goes on.
    let mut other = Client::connect(program.port("amqp")).expect("connected");
    other.declare("other").expect("declared");
    consumer.consume("q").expect("consuming");
    let drained = std::thread::spawn(move || {
        let mut delivered = 0_u64;
        loop {
            match consumer.read() {
                Ok(frame) if frame.payload == LAST => return consumer,
                Ok(frame) => delivered += u64::from(frame.ids() == Some(DELIVER)),
                Err(error) => panic!("the consumer was cut off after {delivered}: {error}"),
            }
        }
    });
    program.wait_for_line("memory alarm cleared");
    let cleared = Instant::now();
    publisher.wait_for(UNBLOCKED).expect("told");
    assert!(cleared.elapsed() < Duration::from_secs(1), "{:?}", cleared.elapsed());
    // The publisher stopped in the middle of a frame, so another one says that this was all.
    other.send(&publish("q", LAST)).expect("sent");
    drop(drained.join().expect("drained"));
}

#[test]
fn a_full_disk_holds_publishers_back_and_nobody_else() {
    let program = Program::start(&["--set", "alarms.disk_free=1000 TiB"], &[]);
    program.wait_for_line("disk alarm set");
    assert_eq!(metric(&program, r#"isthmus_alarm{kind="disk"}"#), "1");
    let mut publisher = Client::connect(program.port("amqp")).expect("connected");
    publisher.declare("q").expect("declared");
    publisher.send(&publish("q", b"held")).expect("sent");
    let blocked = publisher.wait_for(BLOCKED).expect("told");
    assert!(blocked.payload.ends_with(b"low on disk"), "{blocked:?}");
    let mut other = Client::connect(program.port("amqp")).expect("connected");
    assert_eq!(other.purge("q").expect("purged"), 0);
}

#[test]
fn a_stop_does_not_wait_for_the_end_of_an_alarm() {
    let mut program = Program::start(&["--set", "alarms.disk_free=1000 TiB"], &[]);
    program.wait_for_line("disk alarm set");
    let mut publisher = Client::connect(program.port("amqp")).expect("connected");
    publisher.send(&publish("q", b"held")).expect("sent");
    publisher.wait_for(BLOCKED).expect("told");
    let close_ok = std::thread::spawn(move || {
        publisher.wait_for((10, 50)).expect("closed");
        publisher.send(b"\x01\0\0\0\0\0\x04\0\x0a\0\x33\xce").expect("sent");
        publisher
    });
    let started = Instant::now();
    assert_eq!(program.stop(rustix::process::Signal::TERM), Some(0));
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(close_ok.join().expect("closed"));
}
