//! `isthmus storage` from outside: what it says of the data of a real broker, and its exit codes.

#[allow(dead_code)] // each test uses its part
mod program;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use program::amqp::{Client, publish};
use program::{Program, isthmus};
use rustix::process::Signal;
use serde_json::Value;

/// Exit code, standard output and standard error.
fn storage(command: &str, dir: &Path, options: &[&str]) -> (Option<i32>, String, String) {
    let output =
        isthmus().args(["storage", command]).arg(dir).args(options).output().expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn json(command: &str, dir: &Path) -> (Option<i32>, Value) {
    let (code, stdout, stderr) = storage(command, dir, &["--json"]);
    assert_eq!(stderr, "");
    (code, serde_json::from_str(&stdout).expect("JSON"))
}

/// A broker whose log holds something.
fn broker() -> Program {
    let program = Program::start(&[], &[]);
    let mut client = Client::connect(program.port("amqp")).expect("connected");
    client.declare("q").expect("declared");
    for _ in 0..20 {
        client.send(&publish("q", &[7; 1000])).expect("sent");
    }
    // Answered behind the publishes.
    client.declare("q").expect("declared");
    program
}

/// Names, lengths and content of all files.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).expect("listed");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("entry").path())
        .map(|path| (path.clone(), std::fs::read(path).expect("read")))
        .collect();
    files.sort();
    files
}

fn segment(dir: &Path) -> String {
    let names = content(dir).into_iter().map(|(path, _)| path);
    let names = names.map(|path| path.file_name().expect("name").to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("log-")).max().expect("a segment")
}

fn flip(dir: &Path, name: &str, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(dir.join(name)).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("written");
}

#[test]
fn a_stopped_broker_left_no_damage_and_a_running_one_is_not_looked_into() {
    let mut program = broker();
    for command in ["verify", "inspect"] {
        let (code, stdout, stderr) = storage(command, program.data_dir(), &[]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""));
        let holder = format!("in use by another isthmus (process {}): stop it", program.id());
        assert!(stderr.contains(&holder), "{stderr}");
    }
    assert_eq!(program.stop(Signal::TERM), Some(0));
    let dir = program.data_dir();
    let before = content(dir);
    let (code, stdout, stderr) = storage("verify", dir, &[]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.contains(", format 2\n") && stdout.ends_with("\nno damage\n"), "{stdout}");
    let (code, stdout, stderr) = storage("inspect", dir, &[]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.contains(&format!("  {}  ", segment(dir))), "{stdout}");
    assert!(stdout.contains("  sealed   entries 1 to "), "{stdout}");
    let (code, report) = json("verify", dir);
    assert_eq!(code, Some(0));
    assert_eq!((&report["damage"], &report["findings"]), (&0.into(), &Value::Array(vec![])));
    assert_eq!(report["log"]["segments"][0]["condition"], "sealed");
    assert_eq!(report["log"]["last_index"], report["log"]["segments"][0]["last_index"]);
    let (code, report) = json("inspect", dir);
    assert_eq!(code, Some(0));
    let expected = serde_json::json!([{
        "vhost": "/",
        "name": "q",
        "messages": 20,
        "body_bytes": 20_000,
        "messages_in_pages": 0,
        "messages_in_log": 20,
        "next_sequence": 21,
    }]);
    assert_eq!(report["queues"], expected);
    assert!(content(dir) == before, "looking changed something");
}

#[test]
fn what_a_kill_left_is_harmless_and_a_flipped_bit_is_damage() {
    let mut program = broker();
    assert_eq!(program.stop(Signal::KILL), None);
    let dir = program.data_dir();
    let (code, stdout, _) = storage("verify", dir, &[]);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(stdout.contains("\nno damage"), "{stdout}");
    let name = segment(dir);
    // Within the payload of the first record, behind the segment's header and the record's.
    flip(dir, &name, 4096 + 64 + 3);
    for command in ["verify", "inspect"] {
        let (code, stdout, _) = storage(command, dir, &[]);
        assert_eq!(code, Some(1), "{stdout}");
        let expected = format!("damage: {name} at offset 4096: the payload of a record does not");
        assert!(stdout.contains(&expected), "{stdout}");
        assert!(stdout.contains("what to do: restore the data directory"), "{stdout}");
    }
    let (code, report) = json("verify", dir);
    assert_eq!((code, &report["damage"]), (Some(1), &1.into()));
    let finding = &report["findings"][0];
    assert_eq!((&finding["file"], &finding["offset"]), (&name.as_str().into(), &4096.into()));
    assert_eq!(finding["severity"], "damage");
}

#[test]
fn what_cannot_be_read_is_told_in_one_line() {
    let dir = tempfile::tempdir().expect("directory");
    let missing = dir.path().join("missing");
    let file = dir.path().join("file");
    std::fs::write(&file, "x").expect("written");
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).expect("made");
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("made");
    std::fs::write(other.join("FORMAT"), "isthmus data directory, format 9\n").expect("written");
    for (path, expected) in [
        (&missing, "No such file"),
        (&file, "not a directory"),
        (&foreign, "no data directory"),
        (&other, "has format version 9"),
    ] {
        for command in ["verify", "inspect"] {
            let (code, stdout, stderr) = storage(command, path, &[]);
            assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
            assert!(stderr.contains(expected), "{stderr}");
            assert!(stderr.contains(&path.display().to_string()), "{stderr}");
        }
    }
    assert!(!missing.exists());
}
