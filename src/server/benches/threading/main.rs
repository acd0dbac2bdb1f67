//! On which thread should a turn of the shard run? Three drivers, each under the whole broker:
//! real sockets, real sessions, a real log. `docs/adr/0002-threading.md` draws the conclusion.
//!
//! For every run the program starts itself again as a child that serves AMQP 0-9-1 with one of
//! the drivers, loads it, and counts what the load cost the child. The drivers take turns within
//! each load, and everything is repeated, so that what disturbs the machine disturbs all alike;
//! the table gives medians over the half of the rounds that others on the machine disturbed least.
//! CPU time per message is the figure to compare first: other work moves it least.
//!
//! ```text
//! cargo bench -p isthmus --bench threading -- [--seconds 1] [--repeats 5] [--only TEXT] \
//!     [--dir PATH] [--workers N]
//! ```
//!
//! `--only` picks the loads whose names contain the text, `--dir` says where the logs are (a
//! folder in memory shows the drivers without the disk), `--workers` gives the broker more threads
//! than there are CPUs, which is not the same as more CPUs, but has them meet at the shard.
//! Without `--bench`, which `cargo bench` adds, every run is short and nothing is reported: a
//! smoke test.

mod amqp;
mod cpu;
mod drivers;
mod load;
mod report;
mod serve;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::drivers::Candidate;
use crate::load::Load;
use crate::report::Report;
use crate::serve::Served;

/// As in the server: what is compared shares its allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is asked for on the command line.
#[derive(Parser)]
struct Options {
    /// Seconds that one run is measured.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How often every run is repeated.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Only loads whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Where the brokers' data is kept while they run.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    dir: PathBuf,
    /// Threads of the broker's runtime; as many as there are CPUs, if it is not given.
    #[arg(long)]
    workers: Option<usize>,
    /// Added by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Every run once, and so briefly that only its success means something.
    fn smoke() -> Options {
        Options {
            seconds: 0.1,
            repeats: 1,
            only: String::new(),
            dir: env!("CARGO_TARGET_TMPDIR").into(),
            workers: None,
            bench: false,
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == serve::COMMAND) {
        return serve::child(&args[1..]);
    }
    // As criterion has it: `cargo test` passes no `--bench`, and what else it passes is meant for
    // the test harness that this program does not have.
    let is_bench =
        args.iter().any(|arg| arg == "--bench") && !args.iter().any(|arg| arg == "--test");
    let options = if is_bench { Options::parse() } else { Options::smoke() };
    let report = measure(&options)?;
    if is_bench {
        io::stdout().write_all(report.to_markdown().as_bytes())?;
    }
    Ok(())
}

/// Runs everything; the drivers are innermost, so that those that are compared are neighbours in
/// time, and each repeat begins with another one.
fn measure(options: &Options) -> Result<Report, Box<dyn Error>> {
    let measured = Duration::try_from_secs_f64(options.seconds)?;
    let warm_up = measured / 4;
    let mut report = Report::default();
    for repeat in 0..options.repeats {
        for load in load::LOADS.iter().filter(|load| load.name.contains(&options.only)) {
            let mut candidates = Candidate::ALL;
            candidates.rotate_left(repeat % Candidate::ALL.len());
            let mut round = Vec::new();
            for candidate in candidates {
                let figures = run(options, load, candidate, warm_up, measured)
                    .map_err(|error| format!("{}, {}: {error}", load.name, candidate.name()))?;
                round.push((candidate, figures));
            }
            report.add(load, round);
        }
    }
    Ok(report)
}

/// One load on one driver.
fn run(
    options: &Options,
    load: &Load,
    candidate: Candidate,
    warm_up: Duration,
    measured: Duration,
) -> Result<load::Figures, Box<dyn Error>> {
    let dir = tempfile::tempdir_in(&options.dir)?;
    let started = Instant::now();
    let served = Served::start(candidate, dir.path(), load.durable, options.workers)?;
    let figures = load.run(&served, warm_up, measured)?;
    eprintln!("{:>6.2?} {} {} {figures}", started.elapsed(), load.name, candidate.name());
    Ok(figures)
}
