//! `isthmus cluster`: asks any node of a cluster, by its HTTP listener.

use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::config::Config;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Where the node serves HTTP; without it, what the configuration says
    #[arg(long, value_name = "URL", global = true)]
    url: Option<String>,
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Show the members, who leads, and how far each is behind
    Status {
        /// Print what the node answers, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Begin a cluster with this node alone, which others can join
    Init,
    /// Have this node, which is no member yet, join a cluster
    Join {
        /// Where the peers of one of its nodes reach it, like a.example:7001
        address: String,
    },
    /// Take a member out for good
    Remove {
        /// Its id, as `status` shows it
        member: u64,
    },
    /// Have the leader hand over
    Transfer {
        /// To which member; without it, to the one that lacks least
        member: Option<u64>,
    },
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterCliError {
    /// It is not known where the node is.
    #[error("listeners.http is off: say where the node serves HTTP with --url")]
    NoUrl,
    /// The node cannot be reached, or did not answer.
    #[error("{url}: {what}")]
    Unreached {
        /// Where it was asked.
        url: String,
        /// What went wrong.
        what: String,
    },
    /// The node refuses.
    #[error("{0}")]
    Refused(String),
}

/// Runs the command.
///
/// # Errors
/// [`ClusterCliError`]
pub(crate) fn run(args: &ClusterArgs, config: &Config) -> Result<(), ClusterCliError> {
    let base = match &args.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => {
            let addr = config.listeners.http.0.first().ok_or(ClusterCliError::NoUrl)?;
            format!("http://{addr}")
        }
    };
    let node = Node { base, token: config.cluster.token.0.reveal().to_owned() };
    match &args.command {
        ClusterCommand::Status { json } => {
            let status = node.ask("", None)?;
            if *json { say(&format!("{status:#}")) } else { show(&status) }
        }
        ClusterCommand::Init => {
            node.ask("/init", Some(json!({})))?;
            say("the cluster begins with this node");
        }
        ClusterCommand::Join { address } => {
            node.ask("/join", Some(json!({ "address": address })))?;
            say("this node asks to be taken in; `isthmus cluster status` shows when it is");
        }
        ClusterCommand::Remove { member } => {
            node.ask("/remove", Some(json!({ "member": member })))?;
            say(&format!("member {member} is removed"));
        }
        ClusterCommand::Transfer { member } => {
            node.ask("/transfer", Some(json!({ "member": member })))?;
            say("another node leads");
        }
    }
    Ok(())
}

/// The node that is asked.
struct Node {
    base: String,
    token: String,
}

impl Node {
    fn ask(&self, path: &str, body: Option<Value>) -> Result<Value, ClusterCliError> {
        let url = format!("{}/api/cluster{path}", self.base);
        let unreached = |what: String| ClusterCliError::Unreached { url: self.base.clone(), what };
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .build()
            .into();
        let authorization = format!("Bearer {}", self.token);
        let answer = match body {
            None => agent.get(&url).header("authorization", &authorization).call(),
            Some(body) => agent
                .post(&url)
                .header("authorization", &authorization)
                .header("content-type", "application/json")
                .send(body.to_string()),
        };
        let mut answer = answer.map_err(|error| unreached(error.to_string()))?;
        let text = answer.body_mut().read_to_string();
        let text = text.map_err(|error| unreached(error.to_string()))?;
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if answer.status().is_success() {
            return Ok(value);
        }
        // A standby whose leader does not answer gives both.
        let why = value.get("reason").or_else(|| value.get("error")).and_then(Value::as_str);
        let why = why.unwrap_or("it has no cluster");
        Err(ClusterCliError::Refused(format!("{}: {why}", answer.status())))
    }
}

fn show(status: &Value) {
    let text = |key: &str| status.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
    let number = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_u64).map_or_else(|| "-".to_owned(), |n| n.to_string())
    };
    if text("state") != "member" {
        return say(&format!("this node is no member yet: it is {}", text("state")));
    }
    say(&format!(
        "cluster {}, term {}, this is member {} ({}), log {} committed {}",
        text("cluster"),
        number(status, "term"),
        number(status, "member"),
        text("role"),
        number(status, "last"),
        number(status, "committed"),
    ));
    let members = status.get("members").and_then(Value::as_array).cloned().unwrap_or_default();
    say(&format!(
        "{:>12} {:>6}  {:<24} {:<8} {:>10} {:>10}",
        "member", "node", "address", "role", "lag", "silent ms"
    ));
    for member in &members {
        let is = |key: &str| member.get(key).and_then(Value::as_bool).unwrap_or(false);
        let role = match (is("leader"), is("voter")) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        say(&format!(
            "{:>12} {:>6}  {:<24} {:<8} {:>10} {:>10}",
            number(member, "member"),
            number(member, "node"),
            member.get("address").and_then(Value::as_str).unwrap_or("-"),
            role,
            number(member, "lag"),
            number(member, "silent_ms"),
        ));
    }
}

fn say(text: &str) {
    // Nobody listens any more if the pipe is closed.
    writeln!(io::stdout(), "{text}").ok();
}
