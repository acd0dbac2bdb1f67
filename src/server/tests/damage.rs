//! Damage in a page that a running broker meets: it says where, ends, and does not start on it again
//! before it is mended.

#[allow(dead_code)] // each test uses its part
mod program;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use program::amqp::{Client, publish};
use program::{Program, isthmus};
use rustix::process::Signal;
use tempfile::TempDir;

const MESSAGES: u32 = 4000;

/// Where the first page of a file begins, behind the file's header, and a byte within its content.
const FIRST_PAGE: u64 = 32;
const WITHIN_FIRST_PAGE: u64 = FIRST_PAGE + 40 + 100;

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("listed");
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = entries.map(|entry| name(entry.expect("entry"))).collect();
    names.sort();
    names
}

fn copy(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("directory");
    for name in names(dir) {
        std::fs::copy(dir.join(&name), copy.path().join(&name)).expect("copied");
    }
    copy
}

fn flip(dir: &Path, name: &str, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(dir.join(name)).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("written");
}

/// The data of a broker that has most of its messages in pages, and the name of the first of those.
fn with_pages() -> (TempDir, String) {
    let small = ["segment_bytes=1 MiB", "checkpoint_after_bytes=1 MiB", "body_cache_bytes=8 MiB"];
    let small = small.map(|setting| format!("storage.{setting}"));
    let options: Vec<&str> = small.iter().flat_map(|setting| ["--set", setting]).collect();
    let mut program = Program::start(&options, &[]);
    let mut client = Client::connect(program.port("amqp")).expect("connected");
    client.declare("q").expect("declared");
    for _ in 0..MESSAGES {
        client.send(&publish("q", &[7; 1000])).expect("sent");
    }
    client.declare("q").expect("declared");
    // They are in pages for good when the log has forgotten them.
    let deadline = Instant::now() + Duration::from_secs(20);
    let is_paged = |names: &[String]| {
        names.iter().any(|name| name.starts_with("pages-"))
            && !names.iter().any(|name| name == "log-0000000000000001.seg")
    };
    while !is_paged(&names(program.data_dir())) {
        assert!(Instant::now() < deadline, "{:?}", names(program.data_dir()));
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(client);
    assert_eq!(program.stop(Signal::TERM), Some(0));
    let dir = copy(program.data_dir());
    let first = names(dir.path()).into_iter().find(|name| name.starts_with("pages-"));
    (dir, first.expect("a page file"))
}

#[test]
fn damage_that_is_met_is_noted_and_refused_by_every_start_until_it_is_mended() {
    let (dir, file) = with_pages();
    // The start verifies it, so that it must come later.
    let mut program = Program::start_on(dir);
    flip(program.data_dir(), &file, WITHIN_FIRST_PAGE);
    let mut client = Client::connect(program.port("amqp")).expect("connected");
    // It may end before it has answered.
    let _ = client.consume("q");
    program.wait_for_line("noted in DAMAGE");
    let end = program.wait_for_line("the process ends");
    assert!(end.contains(&format!("{file} is damaged at offset {FIRST_PAGE}: a page")), "{end}");
    assert_eq!(program.stop(Signal::TERM), None, "it was not aborted");
    let dir = program.data_dir();
    assert!(names(dir).contains(&"DAMAGE".to_owned()));
    let output = isthmus().args(["storage", "inspect"]).arg(dir).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let noted = format!("harmless: {file} at offset {FIRST_PAGE}: damage was met while the broker");
    let found = format!("damage: {file} at offset {FIRST_PAGE}: a page does not match");
    assert!(said.contains(&noted) && said.contains(&found), "{said}");
    for _ in 0..2 {
        let mut command = isthmus();
        for listener in ["amqp", "http", "mqtt", "stomp", "any"] {
            command.args(["--set", &format!("listeners.{listener}=127.0.0.1:0")]);
        }
        let output = command.arg("--data-dir").arg(dir).output().expect("runs");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&format!("{file} is damaged at offset {FIRST_PAGE}")), "{said}");
        assert!(said.contains("is noted in DAMAGE"), "{said}");
    }
    flip(dir, &file, WITHIN_FIRST_PAGE);
    let mended = Program::start_on(copy(dir));
    assert!(!names(mended.data_dir()).contains(&"DAMAGE".to_owned()));
    let mut client = Client::connect(mended.port("amqp")).expect("connected");
    assert_eq!(client.purge("q").expect("purged"), MESSAGES);
}
