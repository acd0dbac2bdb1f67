//! Message selectors of JMS (Jakarta Messaging 3.1, section 3.8.1): conditions on the headers of a
//! message, in a part of SQL-92's syntax.
//!
//! ```
//! use isthmus_selector::{Selector, Value};
//!
//! let selector = Selector::parse("kind IN ('car', 'bike') AND price BETWEEN 10 AND 20").unwrap();
//! let header = |name: &str| match name {
//!     "kind" => Some(Value::String("car".to_owned())),
//!     "price" => Some(Value::Int(15)),
//!     _ => None,
//! };
//! assert!(selector.matches(&header));
//! ```
//!
//! What a message does not have is NULL, and what is compared with NULL is neither true nor false:
//! only what is true matches. Values of different types are not equal, and not unequal either.
//!
//! Beside the specification, a name may stand in double quotes (`"content-type" = 'a/b'`), as in
//! SQL-92, for names that are no identifiers.

mod eval;
mod like;
mod parse;
mod token;
mod value;

use thiserror::Error;

pub use value::Value;

/// Bytes of a selector at the most.
pub const BYTES_MAX: usize = 16 * 1024;

/// Parentheses, NOTs and signs within each other at the most.
pub const DEPTH_MAX: usize = 64;

/// A condition on the headers of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Selector(parse::Expr);

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SelectorError {
    /// Something else was expected.
    #[error("at character {at}: found {found}, expected {expected}")]
    Syntax {
        /// Where, in characters, counted from 1.
        at: usize,
        /// What is there.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// It is too long.
    #[error("it has {bytes} bytes, and {BYTES_MAX} are taken at the most")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Too much stands within each other.
    #[error(
        "at character {at}: more than {DEPTH_MAX} parentheses, NOTs and signs within each other"
    )]
    TooDeep {
        /// Where, in characters, counted from 1.
        at: usize,
    },
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// If it is none, and where and why not.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        if text.len() > BYTES_MAX {
            return Err(SelectorError::TooLong { bytes: text.len() });
        }
        parse::parse(text).map(Selector)
    }

    /// Whether a message matches whose header of a name `header` tells.
    pub fn matches(&self, header: &dyn Fn(&str) -> Option<Value>) -> bool {
        eval::truth(&self.0, header) == Some(true)
    }
}

#[cfg(test)]
mod tests;
