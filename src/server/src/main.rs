//! The Isthmus message broker.

mod alarms;
mod any;
mod backup_cli;
mod broker;
mod certs_cli;
mod cli;
mod cluster;
mod cluster_cli;
mod config;
mod connections;
mod data_dir;
mod listeners;
mod logging;
mod memory;
mod net;
mod run;
mod signals;
mod storage_cli;
mod sys_topics;
mod systemd;
mod tls;
mod users;

use std::process::ExitCode;

fn main() -> ExitCode {
    memory::prefer_small_pages();
    cli::main()
}
