//! A socket and a session: one task a connection.

mod entry;

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use isthmus_contract::{CloseReason, Command, Event, Input as Bytes, Session, Shortage};
use isthmus_model::{Encodings, SessionId, Time, Token};
use isthmus_storage::Threads;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::access::{Access, Asking, Authenticate, Entering, Login, User, check};
use crate::clock::monotonic;
use crate::driver::Driver;
use crate::owned::Owned;
use crate::peer::Peer;
use crate::pressure::Pressure;
use crate::quota::{Share, read_bytes_max};
use crate::registry::{Registered, Registry};
use crate::shard::Input;

/// Bytes read at a time from a client that has not logged in.
const STRANGER_READ_BYTES: usize = 4 * 1024;

/// Bytes read at a time, once a connection has shown that it fills smaller reads.
const READ_BYTES_MAX: usize = 128 * 1024;

/// Undecoded bytes at which a connection is read no further. Above every frame size that can be
/// configured (16 MiB): of a larger frame the rest would never be read.
const INPUT_BYTES_MAX: usize = 17 * 1024 * 1024;

/// Bytes that wait to be written at which nothing more is decoded: what a client asks for it must
/// also read.
const OUTBOX_BYTES_STOP: usize = 1024 * 1024;

/// Rounds of reading and writing before other tasks get their turn.
const ROUNDS_MAX: usize = 4;

/// Parts of one vectored write.
const SLICES_MAX: usize = 64;

/// How long a client gets to read what was said to it before the end.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How long a client gets to hang up then.
const GOODBYE: Duration = Duration::from_secs(2);

/// What all connections of a broker have together.
pub(crate) struct Common {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) authenticate: Arc<dyn Authenticate>,
    pub(crate) registry: Arc<Registry>,
    /// Bytes published and not confirmed at which a connection is read no further.
    pub(crate) publish_bytes_max: u64,
    /// Bytes written are reported in steps of this.
    pub(crate) report_bytes: u64,
    /// The zero of monotonic time.
    pub(crate) start: Instant,
    /// Tell the time of the wall.
    pub(crate) threads: Threads,
    /// What the node is short of.
    pub(crate) pressure: Arc<Pressure>,
    /// How the properties of messages are read.
    pub(crate) encodings: Encodings,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goodbye {
    NotYet,
    /// The last words are being written.
    Writing,
    /// The client was told that nothing more comes, and may hang up.
    Waiting,
}

/// One client.
///
/// The task is woken by its socket, its mailbox and its timer; each time it goes round until
/// nothing moves any more.
///
/// Most connections are idle most of the time, and there may be hundreds of thousands: over TCP
/// this takes 512 bytes, a size that allocators have. What is seldom there is on its own.
pub(crate) struct Connection<S, C> {
    common: Arc<Common>,
    stream: S,
    session: Box<dyn Session>,
    login: Option<Box<(Token, Login)>>,
    user: Option<Arc<dyn User>>,
    entering: Option<Box<(Token, Arc<str>, Entering)>>,
    /// What the user may do, once he has entered.
    access: Option<Box<dyn Access>>,
    /// What needs no permission.
    owned: Owned,
    /// A command that waits until it is known whether it is allowed; what comes after it waits
    /// with it.
    held: Option<Box<(Command, Asking)>>,
    /// When what the client has logged in with runs out.
    expiry: Option<Pin<Box<Sleep>>>,
    registered: Registered,
    /// What it shares with other connections, once it has entered.
    share: Option<Share>,
    /// Until then it may not publish.
    throttle: Option<Pin<Box<Sleep>>>,
    /// Where it has entered.
    vhost: Option<Arc<str>>,
    /// The session is, or was, known to the shard.
    entered: bool,
    /// Under which token the shard will say that it has; [`Token::SILENT`] once it has.
    entry: Token,
    /// The conversation is over, or was said to be: no event comes any more, no command counts,
    /// and what the session held has gone back.
    left: bool,
    input: Bytes,
    read_bytes: usize,
    eof: bool,
    events: Vec<Event>,
    commands: Vec<Command>,
    /// Publishes that are not answered, with their bytes, oldest first.
    publishing: VecDeque<(Token, u64)>,
    publishing_bytes: u64,
    /// Delivered, and not reported as written yet, in the dispatcher's bytes.
    unreported: u64,
    /// Made when it is first set; a session that has nothing to wait for has none.
    timer: Option<Pin<Box<Sleep>>>,
    timer_at: Time,
    closing: C,
    /// Something was written since the session last decoded.
    wrote: bool,
    goodbye: Goodbye,
    /// Why the connection is broken.
    broken: Option<io::Error>,
    /// What the session was told that the node is short of.
    shortage: Shortage,
}

impl<S, C> Connection<S, C> {
    pub(crate) fn new(
        common: Arc<Common>,
        id: SessionId,
        peer: Peer,
        stream: S,
        session: Box<dyn Session>,
        closing: C,
    ) -> Connection<S, C> {
        let since = common.threads.wall_clock();
        let registered = common.registry.add(id, peer, session.protocol(), since);
        common.pressure.join(id, &registered.place.mailbox);
        Connection {
            common,
            stream,
            session,
            login: None,
            user: None,
            entering: None,
            access: None,
            owned: Owned::default(),
            held: None,
            expiry: None,
            registered,
            share: None,
            throttle: None,
            vhost: None,
            entered: false,
            entry: Token::SILENT,
            left: false,
            input: Bytes::new(),
            read_bytes: STRANGER_READ_BYTES,
            eof: false,
            events: Vec::new(),
            commands: Vec::new(),
            publishing: VecDeque::new(),
            publishing_bytes: 0,
            unreported: 0,
            timer: None,
            timer_at: Time::NEVER,
            closing,
            wrote: false,
            goodbye: Goodbye::NotYet,
            broken: None,
            shortage: Shortage::NONE,
        }
    }

    fn id(&self) -> SessionId {
        self.registered.place.id
    }

    fn now(&self) -> Time {
        monotonic(self.common.start)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, C: Future<Output = ()> + Unpin> Connection<S, C> {
    /// Takes in what is in the mailbox and what the login came to.
    fn take_events(&mut self, cx: &mut Context<'_>) -> bool {
        if self.left {
            return false;
        }
        let now = self.now();
        let mut moved = false;
        if let Some((token, login)) = self.login.as_deref_mut()
            && let Poll::Ready(result) = login.as_mut().poll(cx)
        {
            let token = *token;
            self.login = None;
            moved = true;
            let result = result.and_then(|user| self.logged_in(user));
            self.session.handle_event(now, Event::Done { token, result });
        }
        let shortage = self.common.pressure.shortage();
        if shortage != self.shortage {
            self.shortage = shortage;
            moved = true;
            self.session.handle_event(now, Event::Pressure(shortage));
        }
        if let Some((_, _, entering)) = self.entering.as_deref_mut()
            && let Poll::Ready(result) = entering.as_mut().poll(cx)
        {
            self.may_enter(result);
            moved = true;
        }
        self.unreported += self.registered.place.mailbox.take(&mut self.events);
        moved |= !self.events.is_empty();
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            if let Event::Done { token, result } = &event {
                if self.entry == *token && *token != Token::SILENT {
                    self.entry = Token::SILENT;
                    if result.is_err() {
                        self.not_entered();
                    }
                }
                self.answered(*token);
                self.owned.answered(*token, result.is_ok());
            }
            self.session.handle_event(now, event);
        }
        self.events = events;
        if let Some(expiry) = &mut self.expiry
            && expiry.as_mut().poll(cx).is_ready()
        {
            self.expiry = None;
            self.session.handle_event(now, Event::Closed(CloseReason::Expired));
            self.leave_with_last_words(cx);
            moved = true;
        }
        // Last, so that what was answered before is still told.
        if Pin::new(&mut self.closing).poll(cx).is_ready() {
            self.session.handle_event(now, Event::Closed(CloseReason::Shutdown));
            self.leave_with_last_words(cx);
            moved = true;
        }
        moved
    }

    /// The session is over for the broker, though its last words may take a while: what it holds
    /// goes back at once, to consumers that are there.
    fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        self.login = None;
        self.entering = None;
        self.held = None;
        self.expiry = None;
        self.throttle = None;
        // Nothing is answered any more, so nothing may be waited for.
        self.publishing.clear();
        self.publishing_bytes = 0;
        if self.entered {
            self.common.driver.submit(Input::Close { session: self.id() });
        }
    }

    /// Leaves, after what the session asks for as its last (a will).
    fn leave_with_last_words(&mut self, cx: &mut Context<'_>) {
        self.submit(cx);
        self.leave();
    }

    /// A publish is answered: its bytes no longer hold the connection back.
    fn answered(&mut self, token: Token) {
        // Answers to publishes come in order; another token is another command's.
        if let Some((_, bytes)) = self.publishing.pop_front_if(|(t, _)| *t == token) {
            self.publishing_bytes -= bytes;
        }
    }

    fn set_timer(&mut self, at: Instant) {
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    fn is_timer_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
    }

    fn check_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let wanted = self.session.poll_timeout();
        if wanted != self.timer_at {
            self.timer_at = wanted;
            if wanted != Time::NEVER {
                self.set_timer(self.common.start + Duration::from_nanos(wanted.0));
            }
        }
        if self.timer_at == Time::NEVER || !self.is_timer_over(cx) {
            return false;
        }
        // The sleep is over and must not be polled again before it is set anew.
        self.timer_at = Time::NEVER;
        let now = self.now();
        self.session.handle_timeout(now);
        true
    }

    /// Whether more may be taken from the client now.
    fn is_taking(&mut self) -> bool {
        self.held.is_none()
            && self.publishing_bytes < self.common.publish_bytes_max
            && self.session.outbox().len() < OUTBOX_BYTES_STOP
    }

    /// Tells the session how much it may publish, and sees to it that it is told again when that
    /// is nothing. Returns how many bytes to read at a time, and whether the session goes on with
    /// a publish that it has held.
    fn renew_allowance(&mut self, cx: &mut Context<'_>) -> (usize, bool) {
        let (Some(share), Some(user), Some(vhost)) = (&self.share, &self.user, &self.vhost) else {
            return (usize::MAX, false);
        };
        let limits = user.limits(vhost);
        share.places.set_max(limits.user_channels);
        let was_holding = self.session.is_holding();
        match share.allowance(&limits) {
            Ok(messages) => {
                self.throttle = None;
                self.session.limit_publishes(messages);
            }
            Err(wait) => {
                self.session.limit_publishes(0);
                let mut sleep = Box::pin(tokio::time::sleep(wait));
                if sleep.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
                self.throttle = Some(sleep);
            }
        }
        (read_bytes_max(&limits), was_holding && !self.session.is_holding())
    }

    /// Reads once, and lets the session decode what is there.
    fn read(&mut self, cx: &mut Context<'_>, news: bool) -> io::Result<bool> {
        if !self.is_taking() {
            return Ok(false);
        }
        let (room_max, resumed) = self.renew_allowance(cx);
        let limit = if self.entered { INPUT_BYTES_MAX } else { self.session.greeting_bytes_max() };
        let mut arrived = false;
        if !self.eof && self.input.len() < limit && !self.session.is_holding() {
            let room = self.read_bytes.min(room_max);
            let buffer = self.input.buffer(room);
            let before = buffer.len();
            let read = tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), cx, buffer);
            if let Poll::Ready(read) = read {
                let read = read?;
                debug_assert_eq!(buffer.len(), before + read);
                self.registered.place.traffic.received.fetch_add(read as u64, Ordering::Relaxed);
                arrived = true;
                if read == 0 {
                    self.eof = true;
                    let now = self.now();
                    self.session.handle_eof(now);
                } else if read >= room && self.entered {
                    self.read_bytes = (room * 2).min(READ_BYTES_MAX);
                }
            }
        }
        // After an event, or with room in its outbox again, the session may go on with bytes that
        // it has left lying.
        let news = std::mem::take(&mut self.wrote) || news || resumed;
        if (arrived || news) && !self.input.is_empty() {
            let now = self.now();
            self.session.handle_bytes(now, &mut self.input);
        }
        Ok(arrived || resumed)
    }

    /// Hands the session's commands on.
    fn submit(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        if let Some(held) = &mut self.held {
            if held.1.as_mut().poll(cx).is_pending() {
                return false;
            }
            moved = true;
            if let Some(held) = self.held.take() {
                self.check(held.0, true);
            }
        }
        while self.held.is_none()
            && let Some(command) = self.session.poll_command()
        {
            moved = true;
            match command {
                _ if self.left => {}
                Command::Authenticate { token, credentials } => {
                    self.authenticate(token, credentials);
                }
                Command::Enter { token, vhost } => self.enter(token, vhost),
                // Settlements name no session: what has not entered may not speak at all.
                command => self.check(command, false),
            }
        }
        self.submit_commands();
        moved
    }

    fn submit_commands(&mut self) {
        if !self.commands.is_empty() {
            let commands = std::mem::take(&mut self.commands);
            self.common.driver.submit(Input::Commands { session: self.id(), commands });
        }
    }

    /// Hands a command on as far as it is allowed.
    /// `again` if it was looked at before.
    fn check(&mut self, command: Command, again: bool) {
        if !self.entered {
            return;
        }
        let Some(access) = &mut self.access else { return };
        if let (Command::Publish(publish), Some(share)) = (&command, &self.share)
            && !again
        {
            share.charge(&publish.batch);
        }
        if let Command::Publish(publish) = &command
            && publish.token != Token::SILENT
            && self.publishing.back().is_none_or(|(token, _)| *token != publish.token)
        {
            let bytes = publish.batch.chunk.len() as u64;
            self.publishing.push_back((publish.token, bytes));
            self.publishing_bytes += bytes;
        }
        let encodings = self.common.encodings;
        let checked = check(&mut **access, &mut self.owned, encodings, command);
        self.held = checked.waiting.map(Box::new);
        self.commands.extend(checked.command);
        if let Some((token, error)) = checked.refused {
            // In its turn: what was asked for before is answered before.
            self.submit_commands();
            self.common.driver.submit(Input::Refuse { session: self.id(), token, error });
        }
    }

    /// Writes what waits, once.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let outbox = self.session.outbox();
        let mut moved = false;
        if !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = outbox.slices(&mut slices);
            let stream = Pin::new(&mut self.stream);
            if let Poll::Ready(written) = stream.poll_write_vectored(cx, &slices[..filled]) {
                let written = written?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                outbox.advance(written);
                self.registered.place.traffic.sent.fetch_add(written as u64, Ordering::Relaxed);
                moved = true;
                self.wrote = true;
            }
        }
        // Once a good part is written, the dispatcher may hand over more.
        if self.unreported >= self.common.report_bytes
            && (outbox.len() as u64) < self.common.report_bytes
        {
            let bytes = std::mem::take(&mut self.unreported);
            self.common.driver.submit(Input::Written { session: self.id(), bytes });
        }
        Ok(moved)
    }

    /// Says goodbye: once everything is written, the client is told that nothing more comes, and
    /// is given time to hear it. Closing at once would throw away what is on its way to the client
    /// if the client has sent anything that nobody reads. A client that does not read, or does not
    /// hang up, is not waited for longer than a while.
    fn finish(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        if self.goodbye == Goodbye::NotYet {
            self.leave();
            self.goodbye = Goodbye::Writing;
            self.set_timer(Instant::now() + LAST_WORDS);
        }
        if self.is_timer_over(cx) {
            return Ok(Poll::Ready(()));
        }
        if self.goodbye == Goodbye::Writing {
            while !self.session.outbox().is_empty() {
                if !self.write(cx)? {
                    return Ok(Poll::Pending);
                }
            }
            // If it cannot be told, it has hung up.
            if Pin::new(&mut self.stream).poll_shutdown(cx).is_pending() {
                return Ok(Poll::Pending);
            }
            self.goodbye = Goodbye::Waiting;
            self.set_timer(Instant::now() + GOODBYE);
            if self.is_timer_over(cx) {
                return Ok(Poll::Ready(()));
            }
        }
        Ok(self.wait_for_end(cx))
    }

    /// Reads, and throws away, until the client hangs up.
    fn wait_for_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.eof {
            return Poll::Ready(());
        }
        let mut waste = [0; 4096];
        for _ in 0..ROUNDS_MAX {
            let mut buffer = ReadBuf::new(&mut waste);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands on what the session has asked for as its last; whether some of it waits until it is
    /// known to be allowed.
    fn has_last_words(&mut self, cx: &mut Context<'_>) -> bool {
        if self.left {
            return false;
        }
        self.submit(cx);
        self.held.is_some()
    }

    fn go_round(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        for _ in 0..ROUNDS_MAX {
            if self.session.is_closed() {
                if self.has_last_words(cx) {
                    return Ok(Poll::Pending);
                }
                return self.finish(cx);
            }
            let mut moved = self.take_events(cx);
            moved |= self.check_timer(cx);
            moved |= self.read(cx, moved)?;
            moved |= self.submit(cx);
            moved |= self.write(cx)?;
            if !moved {
                // Idle: give the buffers back, so that a quiet connection costs next to nothing.
                self.events = Vec::new();
                self.commands = Vec::new();
                self.registered.place.mailbox.release();
                self.owned.rest();
                if self.timer_at == Time::NEVER {
                    self.timer = None;
                }
                self.input.release();
                self.session.outbox().release();
                self.session.rest();
                return Ok(Poll::Pending);
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }
}

impl<S, C> Future for Connection<S, C>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Future<Output = ()> + Unpin,
{
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.registered.place.mailbox.register(cx.waker());
        if this.broken.is_none() {
            match this.go_round(cx) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(())) => return Poll::Ready(Ok(())),
                Err(error) => {
                    let now = this.now();
                    this.session.handle_eof(now);
                    this.broken = Some(error);
                }
            }
        }
        if this.has_last_words(cx) {
            return Poll::Pending;
        }
        Poll::Ready(this.broken.take().map_or(Ok(()), |error| {
            tracing::debug!(peer = %this.registered.place.peer.address, %error, "connection lost");
            Err(error)
        }))
    }
}

impl<S, C> Drop for Connection<S, C> {
    fn drop(&mut self) {
        self.common.pressure.leave(self.id());
        if self.entered && !self.left {
            self.common.driver.submit(Input::Close { session: self.id() });
        }
    }
}
