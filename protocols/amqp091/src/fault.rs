//! Protocol errors with their reply codes.

use std::fmt;

use isthmus_contract::CommandError;

/// Reply codes (AMQP 0-9-1 specification section 1.2, and RabbitMQ's use of them).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyCode {
    /// 312: a mandatory message that no queue took, in `basic.return`.
    NoRoute,
    /// 320: an operator closes the connection.
    ConnectionForced,
    /// 403: the client may not do this.
    AccessRefused,
    /// 404: no such entity.
    NotFound,
    /// 405: the entity belongs to another connection.
    ResourceLocked,
    /// 406: a precondition failed.
    PreconditionFailed,
    /// 501: a frame that cannot be read.
    FrameError,
    /// 502: a field that cannot be read.
    SyntaxError,
    /// 503: a method out of its turn.
    CommandInvalid,
    /// 504: a channel that is not as it should be.
    ChannelError,
    /// 505: a content frame where none is expected, or another one is.
    UnexpectedFrame,
    /// 530: something the client must not ask for.
    NotAllowed,
    /// 540: not implemented by this server.
    NotImplemented,
}

impl ReplyCode {
    /// Every code.
    pub const ALL: [ReplyCode; 13] = [
        ReplyCode::NoRoute,
        ReplyCode::ConnectionForced,
        ReplyCode::AccessRefused,
        ReplyCode::NotFound,
        ReplyCode::ResourceLocked,
        ReplyCode::PreconditionFailed,
        ReplyCode::FrameError,
        ReplyCode::SyntaxError,
        ReplyCode::CommandInvalid,
        ReplyCode::ChannelError,
        ReplyCode::UnexpectedFrame,
        ReplyCode::NotAllowed,
        ReplyCode::NotImplemented,
    ];

    /// The number on the wire and the name that texts begin with.
    fn parts(self) -> (u16, &'static str) {
        match self {
            ReplyCode::NoRoute => (312, "NO_ROUTE"),
            ReplyCode::ConnectionForced => (320, "CONNECTION_FORCED"),
            ReplyCode::AccessRefused => (403, "ACCESS_REFUSED"),
            ReplyCode::NotFound => (404, "NOT_FOUND"),
            ReplyCode::ResourceLocked => (405, "RESOURCE_LOCKED"),
            ReplyCode::PreconditionFailed => (406, "PRECONDITION_FAILED"),
            ReplyCode::FrameError => (501, "FRAME_ERROR"),
            ReplyCode::SyntaxError => (502, "SYNTAX_ERROR"),
            ReplyCode::CommandInvalid => (503, "COMMAND_INVALID"),
            ReplyCode::ChannelError => (504, "CHANNEL_ERROR"),
            ReplyCode::UnexpectedFrame => (505, "UNEXPECTED_FRAME"),
            ReplyCode::NotAllowed => (530, "NOT_ALLOWED"),
            ReplyCode::NotImplemented => (540, "NOT_IMPLEMENTED"),
        }
    }

    /// The number on the wire.
    pub fn number(self) -> u16 {
        self.parts().0
    }

    /// The name that RabbitMQ begins reply texts with.
    pub fn name(self) -> &'static str {
        self.parts().1
    }

    /// Whether it ends the whole connection ("hard" in the specification's words).
    pub fn ends_connection(self) -> bool {
        self.number() == 320 || self.number() >= 500
    }
}

/// An error that is told to the client by closing its channel or its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The reply code.
    pub code: ReplyCode,
    /// What happened, without the code's name.
    pub text: String,
    /// Class and method id of the method that caused it; zeros if none did.
    pub method: (u16, u16),
}

impl Fault {
    /// A fault that no method caused, until [`Fault::of`] names one.
    pub fn new(code: ReplyCode, text: impl Into<String>) -> Fault {
        Fault { code, text: text.into(), method: (0, 0) }
    }

    /// The fault as caused by `method`, unless it names one already.
    #[must_use]
    pub fn of(mut self, method: (u16, u16)) -> Fault {
        if self.method == (0, 0) {
            self.method = method;
        }
        self
    }

    /// What the broker refused, in AMQP's words.
    pub fn from_refusal(error: &CommandError) -> Fault {
        let (code, text) = match error {
            CommandError::NotFound(text) => (ReplyCode::NotFound, text),
            CommandError::Precondition(text)
            | CommandError::Invalid(text)
            | CommandError::Limit(text) => (ReplyCode::PreconditionFailed, text),
            CommandError::Locked(text) => (ReplyCode::ResourceLocked, text),
            CommandError::Refused(text) => (ReplyCode::AccessRefused, text),
            CommandError::NotImplemented(text) => (ReplyCode::NotImplemented, text),
            // Clients reconnect after this code, and find whoever leads then.
            CommandError::NotLeader => {
                return Fault::new(ReplyCode::ConnectionForced, error.to_string());
            }
        };
        Fault::new(code, text.as_str())
    }

    /// The text on the wire: the code's name first, cut to what a short string holds.
    pub fn reply_text(&self) -> String {
        let mut text = format!("{} - {}", self.code.name(), self.text);
        let mut end = text.len().min(255);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code.number(), self.reply_text())
    }
}

impl std::error::Error for Fault {}
