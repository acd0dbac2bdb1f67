//! The trait that every protocol implements.

use std::sync::Arc;

use isthmus_model::Time;

use crate::{Command, Event, Input, Outbox, Places};

/// One client's connection, without its socket.
///
/// The driver calls `handle_*` when something comes in, then drains `poll_command` and the
/// outbox, and calls `handle_timeout` when `poll_timeout` has passed. None of the methods blocks.
pub trait Session: Send {
    /// Takes whole frames off `input`, in order, and leaves an incomplete one there.
    ///
    /// The session stops taking when it has more to say first (a full outbox, a handshake that
    /// waits for an answer); the driver calls again after the next event.
    fn handle_bytes(&mut self, now: Time, input: &mut Input);

    /// The client will send no more, or is gone: its connection is broken. What the session asks
    /// for then (a will) is still carried out, though nothing may reach the client any more.
    fn handle_eof(&mut self, now: Time);

    /// Takes in what the broker has to say.
    fn handle_event(&mut self, now: Time, event: Event);

    /// Called once the time of [`Session::poll_timeout`] has come, or any time after.
    fn handle_timeout(&mut self, now: Time);

    /// The next command for the broker, in order.
    fn poll_command(&mut self) -> Option<Command>;

    /// What is to be written to the client.
    fn outbox(&mut self) -> &mut Outbox;

    /// When [`Session::handle_timeout`] wants to be called; [`Time::NEVER`] for not at all.
    fn poll_timeout(&self) -> Time;

    /// Whether the conversation is over: what is in the outbox is written and the socket closed.
    fn is_closed(&self) -> bool;

    /// Whether a publish is left in the input until the shortage of [`Event::Pressure`] is over, or
    /// until [`Session::limit_publishes`] allows more: nothing more is read from the client then. What stands before the publish has been taken.
    fn is_holding(&self) -> bool {
        false
    }

    /// From now on so many messages may be taken from the input, until this is called again; the
    /// publish after the last one is left there as by a shortage ([`Session::is_holding`]), though
    /// the client is not told. There is no limit before the first call.
    fn limit_publishes(&mut self, messages: u64) {
        let _ = messages;
    }

    /// Channels, or what the protocol has in their place, take their place here from now on.
    fn set_places(&mut self, places: Arc<Places>) {
        drop(places);
    }

    /// Bytes that a client may send before it has entered a virtual host, at the least that is
    /// taken in one piece then: what it says of itself is whole within that. More are left unread.
    fn greeting_bytes_max(&self) -> usize {
        4 * 1024
    }

    /// Nothing moves for now: memory that is held for nothing goes back, the outbox's apart.
    fn rest(&mut self) {}

    /// A word for logs and the management API: protocol and version.
    fn protocol(&self) -> &'static str;
}
