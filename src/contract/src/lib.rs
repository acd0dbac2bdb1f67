//! What a protocol and the broker say to each other.
//!
//! A protocol is a [`Session`]: bytes and [`Event`]s in, [`Command`]s and bytes out, time as an
//! argument. It opens no socket, reads no clock and knows neither queues nor files, so it is
//! tested in memory, at every split of its input and under virtual time.
//!
//! The rules, which hold for every protocol:
//!
//! - **Every mutating command carries a [`Token`] and gets one [`Event::Done`] with it, after
//!   commit**: when a client is told that something happened, it is on stable storage (or
//!   promised nothing by its own kind: a transient message, an exclusive queue).
//!   [`Token::SILENT`] asks for failures only.
//! - Commands of one session take effect in the order in which they were polled, and so do the
//!   deliveries and completions that they cause. A session need not wait for `Done` before the
//!   next command.
//! - What cannot be done is a result ([`CommandError`]), in broker terms; each protocol says it
//!   in its own words.
//! - A settlement names (queue, sequence, epoch), never the connection.
//! - [`Event::Closed`] is the last event. After it, or once [`Session::is_closed`] is true, the
//!   broker detaches and requeues whatever the session held.
//!
//! The bookkeeping that protocols share is here once: [`Unacked`] deliveries by tag, and
//! [`Confirms`] of pending publishes; what the arguments of declarations mean ([`declare`]);
//! and values of any type as text ([`typed`]).

mod command;
mod confirms;
pub mod declare;
mod event;
mod input;
mod outbox;
mod places;
mod session;
pub mod typed;
mod unacked;

pub use command::{Command, Credentials, ManageOp, Publish, Secret, TransactOp};
pub use confirms::{ConfirmRun, Confirms};
pub use event::{CloseReason, Event, Shortage};
pub use input::Input;
pub use isthmus_model as model;
pub use isthmus_model::{
    Attach, AttachMode, CommandError, Credit, Delivery, DetachReason, Note, NotesOf, OpenSession,
    PublishException, PublishRefusal, Recall, Reply, Token, TopologyChange,
};
pub use outbox::Outbox;
pub use places::{Place, Places};
pub use session::Session;
pub use unacked::{Unacked, UnackedTag};
