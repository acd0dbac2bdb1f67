//! The Isthmus message broker.

mod broker;
mod cli;
mod config;
mod connections;
mod data_dir;
mod logging;
mod net;
mod run;
mod signals;
mod users;
mod users_cli;

use std::process::ExitCode;

/// Messages are allocated on one thread and freed on another all day long, which mimalloc does at
/// a fraction of the system allocator's cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
