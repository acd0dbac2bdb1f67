//! The command line.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::payload::{HEADER, PRODUCERS_MAX};
use crate::plan::{
    Access, Length, MqttVersion, Plan, Protocol, ScheduleSpec, Sizes, Target, TlsOptions, Tolerate,
    seconds,
};
use crate::report;
use crate::storm::{self, StormPlan};

/// Puts load on AMQP 0-9-1, MQTT and STOMP brokers and tells what becomes of every message.
///
/// Exit codes: 0 all is well; 1 messages were lost, repeated, changed or out of order, or there were
/// errors; 2 the command line is wrong; 3 the load could not begin.
#[derive(Debug, Parser)]
#[command(name = "isthmus-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send and receive messages
    Run(Box<RunArgs>),
    /// Open connections: a storm of logins, or many that stay idle
    Connect(Box<ConnectArgs>),
}

#[derive(Debug, Args)]
struct AccessArgs {
    /// The broker, such as amqp://USER:PASSWORD@HOST:PORT/VHOST; amqps, mqtt, mqtts, stomp and
    /// stomps are spoken too. Several are nodes of one broker, which connections are spread over.
    /// The name and password may be in ISTHMUS_BENCH_USER and ISTHMUS_BENCH_PASSWORD instead
    #[arg(value_name = "URL", required = true)]
    urls: Vec<String>,
    /// The version of MQTT: 3.1.1 or 5
    #[arg(long, value_name = "VERSION", default_value = "5", value_parser = mqtt_version)]
    mqtt: MqttVersion,
    /// Trust the authorities in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Show this certificate chain, in PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Take any certificate for the broker's
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// How long a login may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = seconds)]
    connect_timeout: Duration,
    /// Tell CPU time and memory of this process, the broker's, on this machine
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,
    /// Threads of this program; one for each processor if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// No line each second
    #[arg(long, short)]
    quiet: bool,
    /// Write the result as JSON; - is standard output, instead of the summary
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Amiss {
    Loss,
    Duplicates,
    Order,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    access: AccessArgs,
    /// Connections that send; 0 to receive what others send, with their --run-id
    #[arg(long, short, value_name = "N", default_value_t = 1)]
    producers: usize,
    /// Connections that receive; one for each address and copy if not given
    #[arg(long, short, value_name = "N")]
    consumers: Option<usize>,
    /// Queues or topics, which producers and consumers share out among themselves
    #[arg(long, short, value_name = "N", default_value_t = 1)]
    addresses: usize,
    /// Copies of each message: queues of a fanout exchange, subscribers of a topic
    #[arg(long, value_name = "N", default_value_t = 1)]
    fan_out: usize,
    /// The names of queues or topics; {n} counts them, {run} tells runs apart
    #[arg(long, value_name = "PATTERN", default_value = "isthmus-bench-{run}-{n}")]
    name: String,
    /// Bytes of a message: 1024, 16k, a range 100-4k, or a mix 16:80,1k:15,64k:5 with weights
    #[arg(long, short, value_name = "SIZE", default_value = "1024", value_parser = Sizes::parse)]
    size: Sizes,
    /// Messages a second of all producers: 5000; steps 1k:10s,5k:10s; a ramp 1k..9k:60s. As fast as
    /// it goes if not given
    #[arg(long, short, value_name = "RATE", value_parser = ScheduleSpec::parse)]
    rate: Option<ScheduleSpec>,
    /// The same of each producer
    #[arg(long, value_name = "RATE", value_parser = ScheduleSpec::parse, conflicts_with = "rate")]
    rate_each: Option<ScheduleSpec>,
    /// How long to measure; 10s, or the length of the rate's steps, if neither this nor --messages
    /// is given
    #[arg(long, short, value_name = "TIME", value_parser = seconds, conflicts_with = "messages")]
    duration: Option<Duration>,
    /// How many messages to send in all
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// How long to go before measuring; 1s with a duration and 0s with --messages if not given
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    warm_up: Option<Duration>,
    /// How long nothing may come at the end until what is missing counts as lost
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = seconds)]
    drain: Duration,
    /// How many messages producers may be ahead of consumers where no rate is given; 0 for no
    /// bound. If not given, 20000 (5000 with QoS 0) or 32 MiB of them, fewer with a fan-out
    #[arg(long, value_name = "N")]
    ahead: Option<u64>,
    /// Send persistent messages, to durable queues (AMQP, STOMP)
    #[arg(long)]
    persistent: bool,
    /// Make durable queues for transient messages as well (AMQP)
    #[arg(long)]
    durable: bool,
    /// Ask for confirmations (AMQP) or receipts (STOMP), with at most so many outstanding for each
    /// producer. With MQTT and QoS 1 and 2 it is 256 if not given
    #[arg(long, short, value_name = "N")]
    window: Option<usize>,
    /// Quality of service of messages and subscriptions (MQTT)
    #[arg(long, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// How many messages a consumer may have unacknowledged; 0 for the broker's bound
    #[arg(long, value_name = "N", default_value_t = 1000)]
    prefetch: u16,
    /// Have consumers acknowledge, each N messages at once; 0 for messages that need none (AMQP,
    /// STOMP)
    #[arg(long, value_name = "N", default_value_t = 0)]
    ack_every: u32,
    /// An argument of the queues, such as x-queue-type=quorum (AMQP)
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value)]
    queue_arg: Vec<(String, String)>,
    /// A further header of SEND and SUBSCRIBE, such as auto-delete=true (STOMP)
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value)]
    header: Vec<(String, String)>,
    /// What destinations begin with (STOMP); /queue/, or /topic/ with a fan-out, if not given
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Use queues that are there (AMQP)
    #[arg(long)]
    no_declare: bool,
    /// Leave the queues (AMQP)
    #[arg(long)]
    keep: bool,
    /// Do not compute checksums; loss, repetition and order are still looked at
    #[arg(long)]
    no_check: bool,
    /// What may be amiss without exit code 1
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    tolerate: Vec<Amiss>,
    /// Eight hexadecimal digits that several processes of one run share
    #[arg(long, value_name = "ID", value_parser = run_id)]
    run_id: Option<u32>,
    /// Write a report with plots, as one HTML file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ConnectArgs {
    #[command(flatten)]
    access: AccessArgs,
    /// How many connections
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Connections a second: 500, or steps and ramps as with `run`. As fast as it goes if not given
    #[arg(long, short, value_name = "RATE", value_parser = ScheduleSpec::parse)]
    rate: Option<ScheduleSpec>,
    /// How many logins may be under way at a time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    opening: u32,
    /// How long all of them stay once the last is open
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = seconds)]
    hold: Duration,
    /// Have each leave as soon as its login is done
    #[arg(long, conflicts_with = "hold")]
    churn: bool,
}

fn mqtt_version(text: &str) -> Result<MqttVersion, String> {
    match text {
        "3.1.1" | "3" | "4" => Ok(MqttVersion::V311),
        "5" | "5.0" => Ok(MqttVersion::V5),
        _ => Err("write 3.1.1 or 5".to_owned()),
    }
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("write NAME=VALUE, not '{text}'")),
    }
}

fn run_id(text: &str) -> Result<u32, String> {
    let id = u32::from_str_radix(text, 16).ok().filter(|_| text.len() == 8);
    id.ok_or_else(|| "write eight hexadecimal digits, such as 0badcafe".to_owned())
}

impl AccessArgs {
    fn access(&self) -> Result<Access, String> {
        let mut nodes = Vec::with_capacity(self.urls.len());
        for (n, url) in self.urls.iter().enumerate() {
            nodes.push(Target::parse(url).map_err(|error| match self.urls.len() {
                1 => error.to_string(),
                _ => format!("URL {}: {error}", n + 1),
            })?);
        }
        let Some(mut target) = nodes.first().cloned() else {
            return Err("name a broker by its URL".to_owned());
        };
        if let Some(other) = nodes.iter().find(|node| node.protocol != target.protocol) {
            return Err(format!(
                "{target} and {other} are not nodes of one broker: give both in one \
                                protocol, or run one after the other"
            ));
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        target.user = target.user.or_else(|| variable("ISTHMUS_BENCH_USER"));
        target.password = target.password.or_else(|| variable("ISTHMUS_BENCH_PASSWORD"));
        if target.password.is_some() && target.user.is_none() && target.protocol == Protocol::Mqtt {
            let text = "there is a password but no user: write mqtt://USER:PASSWORD@HOST, or set \
                        ISTHMUS_BENCH_USER";
            return Err(text.to_owned());
        }
        let tls = TlsOptions {
            ca: self.ca.clone(),
            identity: self.cert.clone().zip(self.key.clone()),
            insecure: self.insecure,
        };
        Ok(Access {
            target,
            nodes,
            tls,
            mqtt_version: self.mqtt,
            connect_timeout: self.connect_timeout,
        })
    }

    fn runtime(&self) -> Result<tokio::runtime::Runtime, String> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if let Some(threads) = self.threads {
            builder.worker_threads(threads.into());
        }
        builder.enable_all().build().map_err(|error| format!("cannot start threads: {error}"))
    }
}

impl RunArgs {
    /// The plan, or what is wrong with the flags.
    fn plan(&self) -> Result<Plan, String> {
        let access = self.access.access()?;
        let protocol = access.target.protocol;
        self.check_protocol(protocol)?;
        let endpoints = self.addresses.saturating_mul(self.fan_out);
        let consumers = self.consumers.unwrap_or(endpoints);
        self.check_numbers(consumers, endpoints)?;
        let window = match (protocol, self.qos, self.window) {
            (Protocol::Mqtt, 0, Some(1..)) => {
                return Err(
                    "MQTT confirms nothing with QoS 0: give --qos 1 beside --window".to_owned()
                );
            }
            (Protocol::Mqtt, 1 | 2, None) => 256,
            (Protocol::Mqtt, 1 | 2, Some(0)) => {
                return Err(
                    "with QoS 1 and 2 MQTT always confirms: --window must be 1 to 65535".to_owned()
                );
            }
            (_, _, window) => window.unwrap_or(0),
        };
        if window > 65_535 {
            return Err(format!("a window of {window} is above 65535"));
        }
        let producers = self.producers.max(1) as f64;
        let schedule = match (&self.rate, &self.rate_each) {
            (Some(rate), _) => Some(rate.times(1.0)),
            (None, Some(rate)) => Some(rate.times(producers)),
            (None, None) => None,
        };
        let length = match (self.messages, self.duration) {
            (Some(messages), _) => Length::Messages(messages),
            (None, Some(duration)) => Length::Time(duration),
            (None, None) => {
                let whole = schedule.as_ref().and_then(|schedule| schedule.length());
                Length::Time(whole.unwrap_or(Duration::from_secs(10)))
            }
        };
        let warm_up = self.warm_up.unwrap_or(match length {
            Length::Time(_) => Duration::from_secs(1),
            Length::Messages(_) => Duration::ZERO,
        });
        let ahead = match (self.ahead, &schedule) {
            (Some(0), _) | (None, Some(_)) => None,
            (Some(ahead), _) => Some(ahead),
            (None, None) => {
                let drops = protocol == Protocol::Mqtt && self.qos == 0;
                Some(ahead_of(&self.size, self.fan_out, drops))
            }
        };
        let prefix = if self.fan_out > 1 { "/topic/" } else { "/queue/" };
        Ok(Plan {
            run_id: match self.run_id {
                Some(id) => id,
                None => random().map_err(|error| format!("no random number: {error}"))?,
            },
            producers: self.producers,
            consumers,
            addresses: self.addresses,
            fan_out: self.fan_out,
            name: self.name.clone(),
            sizes: self.size.clone(),
            persistent: self.persistent,
            durable: self.durable || self.persistent || !self.queue_arg.is_empty(),
            window,
            qos: self.qos,
            prefetch: self.prefetch,
            ack_every: self.ack_every,
            schedule,
            length,
            warm_up,
            drain: self.drain,
            ahead,
            check: !self.no_check,
            tolerate: Tolerate {
                loss: self.tolerate.contains(&Amiss::Loss),
                duplicates: self.tolerate.contains(&Amiss::Duplicates),
                order: self.tolerate.contains(&Amiss::Order),
            },
            queue_args: self.queue_arg.clone(),
            headers: self.header.clone(),
            prefix: self.prefix.clone().unwrap_or_else(|| prefix.to_owned()),
            declare: protocol == Protocol::Amqp && !self.no_declare,
            keep: self.keep,
            broker_pid: self.access.broker_pid,
            access,
        })
    }

    /// Flags that mean nothing in the protocol.
    fn check_protocol(&self, protocol: Protocol) -> Result<(), String> {
        use Protocol::{Amqp, Mqtt, Stomp};
        let flags: [(&str, bool, &[Protocol]); 10] = [
            ("--persistent", self.persistent, &[Amqp, Stomp]),
            ("--durable", self.durable, &[Amqp]),
            ("--qos", self.qos > 0, &[Mqtt]),
            ("--ack-every", self.ack_every > 0, &[Amqp, Stomp]),
            ("--queue-arg", !self.queue_arg.is_empty(), &[Amqp]),
            ("--header", !self.header.is_empty(), &[Stomp]),
            ("--prefix", self.prefix.is_some(), &[Stomp]),
            ("--no-declare", self.no_declare, &[Amqp]),
            ("--keep", self.keep, &[Amqp]),
            ("--mqtt 3.1.1", self.access.mqtt == MqttVersion::V311, &[Mqtt]),
        ];
        for (flag, is_given, protocols) in flags {
            if is_given && !protocols.contains(&protocol) {
                let names: Vec<&str> = protocols.iter().map(|each| each.as_str()).collect();
                let spoken = protocol.as_str();
                return Err(format!(
                    "{flag} is for {}, and the URL says {spoken}",
                    names.join(" and ")
                ));
            }
        }
        Ok(())
    }

    fn check_numbers(&self, consumers: usize, endpoints: usize) -> Result<(), String> {
        let (producers, addresses) = (self.producers, self.addresses);
        if producers == 0 && consumers == 0 {
            return Err(
                "with no producers and no consumers there is nothing to do; see `connect`".into()
            );
        }
        if addresses == 0 || self.fan_out == 0 {
            return Err("--addresses and --fan-out must be 1 or more".to_owned());
        }
        if producers > PRODUCERS_MAX {
            return Err(format!("--producers must be {PRODUCERS_MAX} or less"));
        }
        if !self.name.contains("{n}") && addresses > 1 {
            return Err(format!(
                "--name '{}' names {addresses} addresses alike: put {{n}} in it",
                self.name
            ));
        }
        if producers > 0 && addresses > producers && !addresses.is_multiple_of(producers) {
            return Err(format!(
                "{addresses} addresses cannot be shared out evenly among {producers} \
                                producers: make --addresses a multiple of --producers"
            ));
        }
        if self.fan_out > 1 && !consumers.is_multiple_of(endpoints) {
            return Err(format!(
                "a fan-out of {} from {addresses} addresses needs {endpoints} consumers, \
                                or a multiple of it",
                self.fan_out
            ));
        }
        if self.ack_every > 0 && self.prefetch > 0 && self.ack_every > u32::from(self.prefetch) {
            return Err(format!(
                "--ack-every {} is above --prefetch {}: the broker would wait for ever",
                self.ack_every, self.prefetch
            ));
        }
        if producers == 0 && self.run_id.is_none() {
            let text = "without producers, --run-id must be that of the process that sends";
            return Err(text.to_owned());
        }
        if self.size.min() < HEADER && !self.no_check {
            return Err(format!(
                "messages of fewer than {HEADER} bytes cannot be checked: make --size \
                                {HEADER} or more, or give --no-check, which also leaves out latencies \
                                and order"
            ));
        }
        Ok(())
    }
}

/// How far producers may be ahead, in messages: enough to keep everybody busy, and no more than
/// brokers hold for a slow subscriber where they may drop what is more.
fn ahead_of(sizes: &Sizes, fan_out: usize, drops: bool) -> u64 {
    let by_bytes = (32 * 1024 * 1024 / sizes.max().max(1)).max(16);
    let by_count = (if drops { 5_000 } else { 20_000 } / fan_out).max(500);
    by_bytes.min(by_count) as u64
}

fn random() -> Result<u32, getrandom::Error> {
    getrandom::u32()
}

/// Runs the command that the command line gives.
pub(crate) fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => match args.plan() {
            Ok(plan) => run(&args, plan),
            Err(text) => wrong(&text),
        },
        Command::Connect(args) => connect(&args),
    }
}

fn wrong(text: &str) -> ExitCode {
    complain(&format_args!("isthmus-bench: {text}"));
    ExitCode::from(2)
}

fn could_not(text: &str) -> ExitCode {
    complain(&format_args!("isthmus-bench: {text}"));
    ExitCode::from(3)
}

fn run(args: &RunArgs, plan: Plan) -> ExitCode {
    let result = args
        .access
        .runtime()
        .and_then(|runtime| runtime.block_on(crate::run::run(plan, args.access.quiet)));
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(text) => return could_not(&text),
    };
    let failures = outcome.failures();
    if let Err(text) =
        write(&args.access.json, &report::json::run(&outcome), || report::text::run(&outcome))
    {
        return could_not(&text);
    }
    if let Some(path) = &args.html
        && let Err(error) = std::fs::write(path, report::html::page(&outcome))
    {
        return could_not(&format!("{}: {error}", path.display()));
    }
    verdict(&failures, &outcome.errors)
}

fn connect(args: &ConnectArgs) -> ExitCode {
    let access = match args.access.access() {
        Ok(access) => access,
        Err(text) => return wrong(&text),
    };
    let plan = StormPlan {
        access,
        connections: args.connections as usize,
        schedule: args.rate.as_ref().map(|rate| rate.times(1.0)),
        opening_max: args.opening as usize,
        hold: args.hold,
        churn: args.churn,
        broker_pid: args.access.broker_pid,
    };
    let result = args
        .access
        .runtime()
        .and_then(|runtime| runtime.block_on(storm::run(plan, args.access.quiet)));
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(text) => return could_not(&text),
    };
    if let Err(text) =
        write(&args.access.json, &report::json::storm(&outcome), || report::text::storm(&outcome))
    {
        return could_not(&text);
    }
    verdict(&outcome.failures(), &outcome.errors)
}

/// Writes the result where it is to go.
fn write(
    json: &Option<PathBuf>,
    value: &serde_json::Value,
    summary: impl FnOnce() -> String,
) -> Result<(), String> {
    let is_stdout = json.as_ref().is_some_and(|path| path.as_os_str() == "-");
    if !is_stdout {
        // To a closed pipe there is nothing to say.
        io::stdout().write_all(summary().as_bytes()).ok();
    }
    let Some(path) = json else { return Ok(()) };
    let text = format!("{value:#}\n");
    match is_stdout {
        true => io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string()),
        false => std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display())),
    }
}

fn verdict(failures: &[String], errors: &[String]) -> ExitCode {
    errors.iter().for_each(|error| complain(&format_args!("isthmus-bench: {error}")));
    if failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    complain(&format_args!("isthmus-bench: FAILED: {}", failures.join("; ")));
    ExitCode::FAILURE
}

/// Writes a line to standard error, closed or not.
fn complain(line: &dyn Display) {
    writeln!(io::stderr(), "{line}").ok();
}

#[cfg(test)]
mod tests;
