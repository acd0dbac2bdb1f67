//! A running `isthmus`, for tests.

pub(crate) mod amqp;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The command that runs the program under test.
pub(crate) fn isthmus() -> Command {
    Command::new(env!("CARGO_BIN_EXE_isthmus"))
}

/// A broker on ports the system picked, killed when dropped.
pub(crate) struct Program {
    child: Child,
    data_dir: tempfile::TempDir,
    log: Receiver<String>,
    ready_line: String,
}

impl Program {
    /// Starts the program and waits until it is ready.
    pub(crate) fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = isthmus();
        command.args(args).envs(environment.iter().copied());
        if !environment.iter().any(|(name, _)| *name == "ISTHMUS__LISTENERS__AMQP") {
            command.args(["--set", "listeners.amqp=127.0.0.1:0"]);
        }
        Self::spawn(command)
    }

    /// Starts the program with a limit of open files.
    pub(crate) fn start_with_descriptors(count: u32) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {count}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_isthmus")]);
        command.args(["--set", "listeners.amqp=127.0.0.1:0"]);
        Self::spawn(command)
    }

    /// Starts the program on data that is there.
    pub(crate) fn start_on(data_dir: tempfile::TempDir) -> Self {
        let mut command = isthmus();
        command.args(["--set", "listeners.amqp=127.0.0.1:0"]);
        Self::spawn_on(command, data_dir)
    }

    fn spawn(command: Command) -> Self {
        Self::spawn_on(command, tempfile::tempdir().expect("directory"))
    }

    fn spawn_on(mut command: Command, data_dir: tempfile::TempDir) -> Self {
        let mut child = command
            .args(["--set", "listeners.http=127.0.0.1:0", "--set", "listeners.mqtt=127.0.0.1:0"])
            .args(["--set", "listeners.mqtts=off", "--set", "listeners.any=off"])
            .args(["--set", "listeners.stomp=off", "--set", "listeners.stomps=off"])
            .args(["--set", "listeners.anys=off", "--data-dir"])
            .arg(data_dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (lines, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        let mut program = Self { child, data_dir, log, ready_line: String::new() };
        program.ready_line = program.wait_for_line("ready");
        program
    }

    /// The next line of the log that contains `text`.
    pub(crate) fn wait_for_line(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with `{text}` in {seen:#?}")
                }
            }
        }
    }

    /// The line that said `ready`.
    pub(crate) fn ready_line(&self) -> &str {
        &self.ready_line
    }

    /// The port of a listener with one address.
    pub(crate) fn port(&self, listener: &str) -> u16 {
        let (_, rest) = self.ready_line.split_once(&format!("{listener}=")).expect("served");
        let addr = rest.split(' ').next().expect("value");
        addr.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("host:port")
    }

    /// The answer to a GET over HTTP.
    pub(crate) fn get(&self, path: &str) -> String {
        self.get_with(path, "")
    }

    /// The answer to a GET over HTTP with further headers, each ended by a line break.
    pub(crate) fn get_with(&self, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port("http"))).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n")
            .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// The id of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor time used, in hundredths of a second.
    pub(crate) fn processor_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("running");
        let (_, fields) = stat.rsplit_once(')').expect("fields");
        let times = fields.split_whitespace().skip(11).take(2);
        times.map(|ticks| ticks.parse::<u64>().expect("number")).sum()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("not reaped yet");
    }

    /// Sends a signal and waits for the process to end: its exit code, `None` if killed.
    pub(crate) fn stop(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the program does not stop")
    }

    /// What it logged since the last line waited for, up to its end.
    pub(crate) fn rest_of_log(&self) -> String {
        self.log.iter().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
