//! The command line.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::backup_cli::{self, BackupArgs};
use crate::certs_cli::{self, CertsCommand};
use crate::cluster_cli::{self, ClusterArgs};
use crate::config::{Config, Problem, Sources};
use crate::storage_cli::{self, StorageCommand};
use crate::{logging, run};

/// The Isthmus message broker. Without a command, it serves.
#[derive(Debug, Parser)]
#[command(name = "isthmus", version)]
struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file; without one, the defaults hold
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Where the broker keeps its data
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// Sets a key of the configuration, e.g. listeners.amqp=127.0.0.1:25672
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT
    Serve,
    /// Check what serving with a configuration file would make of it, and report every problem
    Check {
        /// The configuration file
        file: PathBuf,
    },
    /// Make certificates
    Certs {
        #[command(subcommand)]
        command: CertsCommand,
    },
    /// Have a running broker make a consistent copy of its data, while it goes on
    Backup(BackupArgs),
    /// Ask a node of a cluster, or have it do something
    Cluster(ClusterArgs),
    /// Look into the data directory of a broker that does not run
    Storage {
        #[command(subcommand)]
        command: StorageCommand,
    },
}

/// Runs the command that the command line gives.
pub(crate) fn main() -> ExitCode {
    let Cli { config, command } = Cli::parse();
    match command.unwrap_or(Command::Serve) {
        Command::Serve => with_config(&config.sources(), |config| {
            logging::init(&config.log).map_err(|error| error.to_string())?;
            run::run(config).map_err(|error| error.to_string())
        }),
        Command::Check { file } => check(file, config),
        Command::Certs { command } => match certs_cli::run(&command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format_args!("isthmus: {error}"));
                ExitCode::FAILURE
            }
        },
        Command::Backup(args) => backup_cli::run(&args),
        Command::Cluster(args) => with_config(&config.sources(), |config| {
            cluster_cli::run(&args, &config).map_err(|error| error.to_string())
        }),
        Command::Storage { command } => storage_cli::run(&command),
    }
}

impl ConfigArgs {
    fn sources(self) -> Sources {
        Sources {
            file: self.config,
            environment: std::env::vars_os().collect(),
            data_dir: self.data_dir,
            set: self.set,
        }
    }
}

fn with_config(sources: &Sources, run: impl FnOnce(Config) -> Result<(), String>) -> ExitCode {
    match Config::load(sources).map_err(|problems| summary(&problems)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("isthmus: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The first problem, in one line that says how to see the others.
fn summary(problems: &[Problem]) -> String {
    match problems {
        [] => String::new(),
        [only] => only.to_string(),
        [first, others @ ..] => {
            format!("{first} (and {} more, which `isthmus check FILE` lists)", others.len())
        }
    }
}

fn check(file: PathBuf, config: ConfigArgs) -> ExitCode {
    let name = file.display().to_string();
    let sources = ConfigArgs { config: Some(file), ..config }.sources();
    match Config::load(&sources) {
        Ok(_) => {
            writeln!(io::stdout(), "{name}: ok").ok();
            ExitCode::SUCCESS
        }
        Err(problems) => {
            problems.iter().for_each(|problem| complain(problem));
            ExitCode::FAILURE
        }
    }
}

/// Writes a line to standard error. Unlike `eprintln!` it does not panic when that is closed;
/// there is nowhere left to say so.
pub(crate) fn complain(line: &dyn Display) {
    writeln!(io::stderr(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        for args in [["isthmus", "--set", "a=b", "serve"], ["isthmus", "serve", "--set", "a=b"]] {
            let cli = Cli::try_parse_from(args).expect("parses");
            assert_eq!(cli.config.set, ["a=b"]);
        }
        assert!(Cli::try_parse_from(["isthmus"]).expect("parses").command.is_none());
    }
}
