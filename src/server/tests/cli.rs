//! The program from outside: its command line, its log, its signals and exit codes.

#[allow(dead_code)] // each test uses its part
mod program;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use program::{Program, isthmus};
use rustix::process::Signal;

#[test]
fn it_says_ready_with_the_ports_it_serves() {
    let program = Program::start(&[], &[]);
    assert_ne!(program.port("amqp"), 0);
    let answer = program.get("/health/ready");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#""status":"ready","role":"single""#), "{answer}");
    assert!(program.get("/metrics").contains("\nisthmus_ready 1\n"));
    TcpStream::connect(("127.0.0.1", program.port("amqp"))).expect("accepts");
}

#[test]
fn signals_stop_it_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut program = Program::start(&[], &[]);
        let http = program.port("http");
        assert_eq!(program.stop(signal), Some(0));
        assert!(program.rest_of_log().contains("stopped"));
        TcpStream::connect(("127.0.0.1", http)).expect_err("closed");
    }
}

#[test]
fn operators_may_ask_for_sessions() {
    let program = Program::start(&[], &[]);
    // guest:guest
    let login = "authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n";
    for path in ["/api/sessions", "/api/sessions/%2F"] {
        let answer = program.get_with(path, login);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("[]"), "{path}: {answer}");
        let stranger = program.get(path);
        assert!(stranger.starts_with("HTTP/1.1 401"), "{path}: {stranger}");
    }
    for path in ["/api/sessions/nowhere", "/api/sessions/%2F/nobody"] {
        let answer = program.get_with(path, login);
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}

#[test]
fn idle_http_connections_do_not_hold_up_the_stop() {
    let mut program = Program::start(&[], &[]);
    let _idle = TcpStream::connect(("127.0.0.1", program.port("http"))).expect("connected");
    program.get("/health/live");
    let started = Instant::now();
    assert_eq!(program.stop(Signal::TERM), Some(0));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_address_in_use_is_named_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("address").to_string();
    let dir = tempfile::tempdir().expect("directory");
    let output = isthmus()
        .args(["--data-dir".as_ref(), dir.path().as_os_str()])
        .args(["--set", &format!("listeners.amqp={address}"), "--set", "listeners.http=off"])
        .args(["--set", "log.level=error"])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let expected = format!("isthmus: listeners.amqp: cannot listen on {address}: ");
    assert!(stderr.starts_with(&expected), "{stderr}");
}

#[test]
fn a_data_directory_serves_one_process() {
    let program = Program::start(&[], &[]);
    let output = isthmus()
        .args(["--data-dir".as_ref(), program.data_dir().as_os_str()])
        .args(["--set", "listeners.amqp=127.0.0.1:0", "--set", "listeners.http=off"])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    let holder = format!("in use by another isthmus (process {})", program.id());
    assert!(stderr.contains(&holder), "{stderr}");
}

#[test]
fn the_environment_overrides_the_file_and_options_override_both() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("isthmus.toml");
    std::fs::write(&file, "[listeners]\namqp = \"off\"\n[log]\nformat = \"json\"\n")
        .expect("written");
    let file = file.to_str().expect("UTF-8");
    let program = Program::start(
        &["serve", "--config", file],
        &[
            ("ISTHMUS__LISTENERS__AMQP", "127.0.0.1:0,127.0.0.1:0"),
            ("ISTHMUS__LOG__FORMAT", "text"),
        ],
    );
    // Two addresses, from the environment; the helper sets listeners.http by an option.
    let line = program.ready_line();
    let amqp = line.split_once("amqp=").expect("served").1.split(' ').next().expect("value");
    assert_eq!(amqp.split(',').count(), 2, "{line}");
}

#[test]
fn logs_can_be_json() {
    let program = Program::start(&["--set", "log.format=json"], &[]);
    let event: serde_json::Value = serde_json::from_str(program.ready_line()).expect("JSON");
    assert_eq!(event["message"], "ready");
    assert!(event["amqp"].as_str().is_some_and(|addr| addr.starts_with("127.0.0.1:")));
}

#[test]
fn check_prints_ok_or_every_problem() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("isthmus.toml");
    let name = file.display();
    let check = |text: &str| {
        std::fs::write(&file, text).expect("written");
        isthmus().arg("check").arg(&file).output().expect("runs")
    };
    let good = check("[limits]\nchannels_max = 8\n");
    assert_eq!(good.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&good.stdout), format!("{name}: ok\n"));

    let bad = check("[limits]\nchanels_max = 8\n[listeners]\naws = \"127.0.0.1:9324\"\n");
    assert_eq!(bad.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&bad.stderr),
        format!(
            "{name}:2: limits.chanels_max: unknown key; did you mean `limits.channels_max`?\n\
             {name}:4: listeners.aws: the AWS API is not served by this version; \
             set it to \"off\" or remove it\n"
        )
    );
}

#[test]
fn a_wrong_configuration_is_one_line() {
    let output = isthmus().args(["--set", "a=1", "--set", "b=2"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("isthmus: --set: a: unknown key"), "{stderr}");
    assert!(stderr.contains("and 1 more"), "{stderr}");
}

#[test]
fn version_and_misuse() {
    let output = isthmus().arg("--version").output().expect("runs");
    let version = concat!("isthmus ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), version);
    let output = isthmus().arg("serv").output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn running_out_of_descriptors_pauses_accepting() {
    let program = Program::start_with_descriptors(48);
    let http = ("127.0.0.1", program.port("http"));
    let clients: Vec<_> = (0..48).map(|_| TcpStream::connect(http).expect("queued")).collect();
    program.wait_for_line("cannot accept connections");
    let before = program.processor_ticks();
    std::thread::sleep(Duration::from_millis(600));
    let used = program.processor_ticks() - before;
    // A loop that spins would use all of the time, 60 ticks.
    assert!(used < 20, "{used} ticks of processor time while short of descriptors");
    drop(clients);
    program.wait_for_line("accepting connections again");
    assert!(program.get("/health/live").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_second_signal_exits_at_once() {
    let mut program = Program::start(&[], &[]);
    // Stopping gives HTTP a second to finish what it was asked, which leaves time for the signal.
    let mut slow = TcpStream::connect(("127.0.0.1", program.port("http"))).expect("connected");
    slow.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n").expect("written");
    // An answer on a later connection shows that this one was accepted.
    program.get("/health/live");
    program.signal(Signal::TERM);
    program.wait_for_line("closing connections");
    assert_eq!(program.stop(Signal::TERM), Some(143));
    assert!(program.rest_of_log().contains("exiting at once"));
}
