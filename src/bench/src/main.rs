//! A load generator for AMQP 0-9-1, MQTT and STOMP brokers, which checks what becomes of every
//! message. `docs/bench.md` tells how it is used and what its figures mean.

mod cli;
mod net;
mod payload;
mod plan;
mod process;
mod record;
mod report;
mod run;
mod seen;
mod storm;
mod timer;
mod window;
mod wire;
mod worker;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
