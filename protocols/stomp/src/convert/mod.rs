//! STOMP messages as the broker and other protocols see them.
//!
//! [`stored`] is how a message lies in a batch, [`properties`] what its headers mean elsewhere and
//! how the properties of other protocols' messages are told to STOMP clients; [`StompEncoding`]
//! lets the broker read them.

mod encoding;
pub mod properties;
pub mod stored;

pub use encoding::StompEncoding;
