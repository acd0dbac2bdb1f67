//! `isthmus backup` of a process under load, and a start on what it made.

#[allow(dead_code)] // each test uses its part
mod program;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use program::amqp::{Client, publish};
use program::{Program, isthmus};

const QUEUE: &str = "kept";

/// Messages that are there before.
const BEFORE: u32 = 3000;

fn back_up(program: &Program, user: &str, password: &str, dir: &Path) -> Output {
    let url = format!("http://127.0.0.1:{}", program.port("http"));
    let mut command = isthmus();
    command.args(["backup", "--url", &url, "--user", user]).arg(dir);
    command.env("ISTHMUS_PASSWORD", password).output().expect("it runs")
}

#[test]
fn a_backup_under_load_starts_with_all_that_came_before_it() {
    let program = Program::start(&[], &[]);
    let mut client = Client::connect(program.port("amqp")).expect("connected");
    client.declare(QUEUE).expect("declared");
    let body = [b'x'; 500];
    for _ in 0..BEFORE {
        client.send(&publish(QUEUE, &body)).expect("sent");
    }
    // Answered behind the messages, on the same channel.
    client.declare("behind").expect("declared");
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(BEFORE)));
    let load = {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                sent.fetch_add(1, Ordering::Relaxed);
                client.send(&publish(QUEUE, &body)).expect("sent");
            }
        })
    };
    let copy = tempfile::tempdir().expect("directory");
    let made = back_up(&program, "guest", "guest", copy.path());
    stop.store(true, Ordering::Relaxed);
    load.join().expect("the load ends");
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(said.starts_with("backup in ") && said.contains("up to log entry"), "{said}");
    let mode = std::fs::metadata(copy.path()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let verify = isthmus().args(["storage", "verify"]).arg(copy.path()).output().expect("it runs");
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
    let restored = Program::start_on(copy);
    let mut client = Client::connect(restored.port("amqp")).expect("connected");
    let found = client.purge(QUEUE).expect("purged");
    assert!((BEFORE..=sent.load(Ordering::Relaxed)).contains(&found), "{found} messages");
}

#[test]
fn what_cannot_be_a_backup_is_refused_with_the_reason() {
    let program = Program::start(&[], &[]);
    let full = tempfile::tempdir().expect("directory");
    std::fs::write(full.path().join("mine"), "").expect("written");
    for (password, dir, expected) in [
        ("guest", full.path(), "is not empty; choose another"),
        ("guest", Path::new("relative"), "must be an absolute path"),
        ("wrong", full.path(), "(401): Login failed"),
    ] {
        let refused = back_up(&program, "guest", password, dir);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success());
        assert!(said.contains(expected), "{said}");
    }
    assert_eq!(std::fs::read_dir(full.path()).expect("there").count(), 1);
}
