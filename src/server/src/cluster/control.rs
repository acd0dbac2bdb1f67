//! What nodes ask each other beside consensus, as JSON: few questions, asked rarely, which later
//! versions add fields to.

use bytes::Bytes;
use isthmus_broker::cluster::peer::{Dialer, Identity};
use serde::{Deserialize, Serialize};

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Question {
    /// Who are you, and what do you know?
    Hello,
    /// Be one of those that begin this cluster.
    Found {
        /// Its id, as 32 hexadecimal digits.
        cluster: String,
    },
    /// Take me in.
    Join {
        /// The number of the node that asks.
        node: u16,
        /// Where its peers reach it.
        addr: String,
        /// Who it is, if it was taken in already and does not vote yet.
        member: Option<u64>,
    },
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// To [`Question::Hello`].
    Hello(Hello),
    /// To [`Question::Found`]: it is, from now on.
    Founding,
    /// To [`Question::Join`]: it is taken in.
    Joined {
        /// The cluster, as 32 hexadecimal digits.
        cluster: String,
        /// Who it is from now on.
        member: u64,
    },
    /// No.
    Refused {
        /// Why.
        reason: String,
        /// Whom to ask instead.
        leader: Option<String>,
    },
}

/// What a node knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The cluster it belongs to, as 32 hexadecimal digits.
    pub(super) cluster: Option<String>,
    /// Whether that cluster has begun, as far as the node knows.
    pub(super) has_begun: bool,
    /// Where peers reach the leader.
    pub(super) leader: Option<String>,
}

/// Asks whoever answers at `addr`.
///
/// # Errors
/// Why there is no answer, in words.
pub(super) async fn ask(
    dialer: &Dialer,
    addr: &str,
    question: &Question,
) -> Result<(Identity, Answer), String> {
    let request = serde_json::to_vec(question).map_err(|error| error.to_string())?;
    let answered = dialer.control(addr, Bytes::from(request)).await;
    let (peer, answer) = answered.map_err(|error| error.to_string())?;
    let answer = serde_json::from_slice(&answer)
        .map_err(|error| format!("peer {addr}: an answer that cannot be read: {error}"))?;
    Ok((peer, answer))
}
