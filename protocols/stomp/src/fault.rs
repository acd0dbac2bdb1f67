//! What a client is told when something is wrong: an ERROR frame, after which the connection ends
//! (1.2, "ERROR").

use std::borrow::Cow;

use isthmus_model::CommandError;
use thiserror::Error;

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}: {detail}")]
pub struct Fault {
    /// A few words, for the header `message`.
    pub message: Cow<'static, str>,
    /// What is wrong, where, and how to mend it.
    pub detail: String,
    /// The receipt that was asked for with the frame that is wrong.
    pub receipt: Option<String>,
    /// The versions that are spoken here are to be told.
    pub tells_versions: bool,
}

impl Fault {
    /// A fault of which `message` says a few words and `detail` all.
    pub fn new(message: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Fault {
        let (message, detail) = (message.into(), detail.into());
        Fault { message, detail, receipt: None, tells_versions: false }
    }

    /// A frame that cannot be read.
    pub fn malformed(detail: impl Into<String>) -> Fault {
        Fault::new("Malformed frame", detail)
    }

    /// A header that is missing or wrong.
    pub fn header(name: &str, detail: impl AsRef<str>) -> Fault {
        Fault::new("Invalid header", format!("header '{name}': {}", detail.as_ref()))
    }

    /// What the broker refused.
    pub fn refused(error: &CommandError) -> Fault {
        let message = match error {
            CommandError::NotFound(_) => "Not found",
            CommandError::Precondition(_) => "Precondition failed",
            CommandError::Locked(_) => "Resource locked",
            CommandError::Refused(_) => "Access refused",
            CommandError::Invalid(_) => "Invalid request",
            CommandError::NotImplemented(_) => "Not implemented",
            CommandError::Limit(_) => "Limit reached",
            CommandError::NotLeader => "Try again",
        };
        Fault::new(message, error.to_string())
    }

    /// The fault with the receipt that was asked for, unless it has one.
    #[must_use]
    pub fn with_receipt(mut self, receipt: Option<&str>) -> Fault {
        if self.receipt.is_none() {
            self.receipt = receipt.map(str::to_owned);
        }
        self
    }

    /// The fault as one that tells the versions that are spoken here.
    #[must_use]
    pub fn telling_versions(mut self) -> Fault {
        self.tells_versions = true;
        self
    }
}
