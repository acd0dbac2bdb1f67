//! Who a client is, what he may do, and which permission each command needs.
//!
//! The table is RabbitMQ's (<https://www.rabbitmq.com/docs/access-control>): to declare or delete
//! is to configure; a binding writes to its destination and reads from its source; a publish
//! writes to its exchange; consuming and purging read from the queue. A queue that dead-letters is
//! read and its exchange written to, and so it is with an exchange and its alternate. Asking
//! whether something is there needs no permission, nor does what a session does with a queue of
//! its own. A client's will is published in its name, and so is checked when it is left.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use isthmus_contract::{Command, Credentials, ManageOp, Publish, Recall};
use isthmus_model::{
    Action, Batch, BindingDef, CommandError, Destination, Encodings, QueueDef, REPLY_QUEUE_PREFIX,
    RecordFlags, Resource, Span, Token, TopologyChange, Use, Value,
};

use crate::owned::Owned;
use crate::peer::Peer;

/// A login under way: who the client is, or why he may not come in.
pub type Login = Pin<Box<dyn Future<Output = Result<Arc<dyn User>, CommandError>> + Send>>;

/// Entering a virtual host: what the user may do there, or why he may not enter.
pub type Entering = Pin<Box<dyn Future<Output = Result<Box<dyn Access>, CommandError>> + Send>>;

/// Why something is not allowed, or not yet.
pub enum Denied {
    /// It is not allowed.
    Refused(CommandError),
    /// Somebody must be asked: once this is over, the answer is known to whoever is asked again.
    Asking(Asking),
}

/// A question to somebody who takes his time.
pub type Asking = Pin<Box<dyn Future<Output = ()> + Send>>;

impl fmt::Debug for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::Refused(error) => f.debug_tuple("Refused").field(error).finish(),
            Denied::Asking(_) => f.write_str("Asking"),
        }
    }
}

impl From<CommandError> for Denied {
    fn from(error: CommandError) -> Denied {
        Denied::Refused(error)
    }
}

/// Finds out who a client is.
pub trait Authenticate: Send + Sync + 'static {
    /// Begins to verify `credentials` of the client at `peer`. Dropping the login
    /// gives it up.
    fn login(&self, credentials: Credentials, peer: &Peer) -> Login;
}

/// Somebody who has proven who he is.
pub trait User: Send + Sync {
    /// His name.
    fn name(&self) -> &Arc<str>;

    /// What he is, such as `administrator`.
    fn tags(&self) -> Vec<String>;

    /// Begins to verify a new secret in place of the one he has logged in with; `None` if none is
    /// needed. Dropping the login gives it up.
    fn refresh(&self, secret: &str) -> Option<Login> {
        let _ = secret;
        None
    }

    /// When what he has logged in with runs out: nothing is allowed any more then.
    fn expires_at(&self) -> Option<SystemTime> {
        None
    }

    /// What he may do in `vhost`. Dropping the future gives it up.
    fn enter(&self, vhost: &Arc<str>) -> Entering;

    /// What is set for him and for `vhost`.
    fn limits(&self, vhost: &str) -> Limits;
}

/// How many may be there, and how much may be published; `None` for any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections of the user.
    pub user_connections: Option<u64>,
    /// Connections in the virtual host.
    pub vhost_connections: Option<u64>,
    /// Channels of the user, over all his connections.
    pub user_channels: Option<u64>,
    /// What the user may publish, over all his connections.
    pub user_rates: Rates,
    /// What may be published in the virtual host, over all connections.
    pub vhost_rates: Rates,
}

/// How much may be published in a second; `None` for any amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Messages.
    pub messages: Option<u64>,
    /// Bytes of their bodies.
    pub bytes: Option<u64>,
}

/// What a user may do in a virtual host; asked for every command.
pub trait Access: Send {
    /// Whether `action` may be done to `resource`.
    ///
    /// # Errors
    /// [`Denied`]
    fn check(&mut self, action: Action, resource: Resource<'_>) -> Result<(), Denied>;

    /// Whether `exchange` may be written to, or read from, with the routing key `key`.
    ///
    /// # Errors
    /// [`Denied`]
    fn check_topic(&mut self, action: Action, exchange: &str, key: &str) -> Result<(), Denied>;

    /// Whether every publish would be allowed, so that none need be looked at.
    fn writes_everything(&mut self) -> bool;

    /// The client has said which of its user's clients it is. Said again after each change of what
    /// the user may do, and for the same connection always the same.
    fn identify(&mut self, client: &str) {
        let _ = client;
    }

    /// A command has been decided on. What was asked for its sake ([`Denied::Asking`]) is needed
    /// until then, however long that takes: each time the command is looked at from its beginning.
    fn decided(&mut self) {}
}

/// May do everything.
#[derive(Clone, Copy, Debug)]
pub struct Unrestricted;

impl Access for Unrestricted {
    fn check(&mut self, _: Action, _: Resource<'_>) -> Result<(), Denied> {
        Ok(())
    }

    fn check_topic(&mut self, _: Action, _: &str, _: &str) -> Result<(), Denied> {
        Ok(())
    }

    fn writes_everything(&mut self) -> bool {
        true
    }
}

/// A command, as far as it is allowed.
pub(crate) struct Checked {
    /// What is to be carried out.
    pub(crate) command: Option<Command>,
    /// What is refused, to be answered after that.
    pub(crate) refused: Option<(Token, CommandError)>,
    /// What is to be checked again once somebody has answered.
    pub(crate) waiting: Option<(Command, Asking)>,
}

impl Checked {
    fn allowed(command: Command) -> Checked {
        Checked { command: Some(command), refused: None, waiting: None }
    }

    /// `rest` comes before what is denied and is allowed.
    fn denied(rest: Option<Command>, command: Command, token: Token, denied: Denied) -> Checked {
        match denied {
            Denied::Refused(error) => {
                Checked { command: rest, refused: Some((token, error)), waiting: None }
            }
            Denied::Asking(asking) => {
                Checked { command: None, refused: None, waiting: Some((command, asking)) }
            }
        }
    }
}

/// Compares a command with what its user may do.
pub(crate) fn check(
    access: &mut dyn Access,
    owned: &mut Owned,
    encodings: Encodings,
    command: Command,
) -> Checked {
    let checked = look_at(access, owned, encodings, command);
    if let Some(command) = &checked.command {
        note_owned(owned, command);
    }
    if checked.waiting.is_none() {
        access.decided();
    }
    checked
}

/// Remembers what an allowed command makes the connection's own.
fn note_owned(owned: &mut Owned, command: &Command) {
    let Command::Topology { token, change } = command else { return };
    match change {
        TopologyChange::DeclareOwnQueue(def) => owned.ask(*token, &def.name),
        TopologyChange::HoldQueue { name } => owned.ask(*token, name),
        TopologyChange::ReleaseQueue { name } | TopologyChange::DeleteQueue { name, .. } => {
            owned.give_up(name);
        }
        _ => {}
    }
}

fn look_at(
    access: &mut dyn Access,
    owned: &mut Owned,
    encodings: Encodings,
    command: Command,
) -> Checked {
    let (token, result) = match &command {
        Command::Publish(_) if access.writes_everything() => return Checked::allowed(command),
        Command::Publish(publish) => {
            let denied = (0..publish.batch.records.len()).find_map(|at| {
                check_record(access, encodings, &publish.batch, at).err().map(|denied| (at, denied))
            });
            let Some((at, denied)) = denied else { return Checked::allowed(command) };
            let at = first_of_message(&publish.batch, at);
            let (rest, token) = (up_to(publish, at), publish.token);
            return Checked::denied(rest, command, token, denied);
        }
        Command::OpenSession(open) => {
            owned.set_client(&open.client);
            if let Some(client) = owned.client() {
                access.identify(client);
            }
            let will = open.will.as_ref().filter(|_| !access.writes_everything());
            let records = will.map_or(0, |will| will.batch.records.len());
            let check = |at| check_record(access, encodings, &will?.batch, at).err();
            (open.token, (0..records).find_map(check).map_or(Ok(()), Err))
        }
        Command::Recall(recall) => (recall.token, check_recall(access, owned, recall)),
        Command::Topology { token, change } => (*token, check_change(access, owned, change)),
        Command::Attach(attach) => (attach.token, check_read(access, owned, &attach.queue)),
        Command::Manage { token, op: ManageOp::Purge { queue } } => {
            (*token, check_read(access, owned, queue))
        }
        Command::Manage { token, .. } => {
            let text = "this is for operators: use the management API";
            (*token, Err(CommandError::Refused(text.to_owned()).into()))
        }
        Command::Authenticate { .. }
        | Command::Enter { .. }
        | Command::CloseSession { .. }
        | Command::Note { .. }
        | Command::Detach { .. }
        | Command::Credit { .. }
        | Command::Window { .. }
        | Command::Settle { .. }
        | Command::Extend { .. }
        | Command::Transact { .. } => return Checked::allowed(command),
    };
    match result {
        Ok(()) => Checked::allowed(command),
        Err(denied) => Checked::denied(None, command, token, denied),
    }
}

/// The first record of the message that the one at `at` is of: what a client has sent to several
/// addresses at once is published to all of them or to none.
fn first_of_message(batch: &Batch, at: usize) -> usize {
    // Records of one message tell the same bytes.
    let body = batch.records[at].body;
    let is_of_it = |before: &usize| body != Span::default() && batch.records[*before].body == body;
    (0..at).rev().take_while(is_of_it).last().unwrap_or(at)
}

/// The messages before the one at `end`, which came before the refusal and so are published.
fn up_to(publish: &Publish, end: usize) -> Option<Command> {
    if end == 0 {
        return None;
    }
    let batch = Batch { records: publish.batch.records[..end].into(), ..(*publish.batch).clone() };
    let transaction = publish.transaction;
    // The refusal is the answer.
    Some(Command::Publish(Publish { token: Token::SILENT, batch: Arc::new(batch), transaction }))
}

fn check_record(
    access: &mut dyn Access,
    encodings: Encodings,
    batch: &Batch,
    at: usize,
) -> Result<(), Denied> {
    let record = &batch.records[at];
    let exchange = batch.exchange(record);
    access.check(Action::Write, Resource::Exchange(exchange))?;
    access.check_topic(Action::Write, exchange, batch.routing_key(record))?;
    if record.flags.has(RecordFlags::MORE_KEYS)
        && let Some(encoding) = encodings.get(batch.encoding)
    {
        for key in encoding.more_routing_keys(batch.head(record)) {
            access.check_topic(Action::Write, exchange, &key)?;
        }
    }
    Ok(())
}

/// Replies are for the session that asked for them, and for no other: the core sees to that.
fn check_read(access: &mut dyn Access, owned: &mut Owned, queue: &str) -> Result<(), Denied> {
    if queue.starts_with(REPLY_QUEUE_PREFIX) {
        return Ok(());
    }
    check_use(access, owned, Action::Read, queue)
}

/// Whether a queue may be used that may be the session's own. Where that is not known yet and the
/// user may not use it otherwise, it is waited for.
fn check_use(
    access: &mut dyn Access,
    owned: &mut Owned,
    action: Action,
    queue: &str,
) -> Result<(), Denied> {
    if owned.has(queue) {
        return Ok(());
    }
    let checked = access.check(action, Resource::Queue(queue));
    match checked {
        Err(denied) => match owned.wait_for(queue) {
            Some(asking) => Err(Denied::Asking(asking)),
            None => Err(denied),
        },
        Ok(()) => Ok(()),
    }
}

fn check_change(
    access: &mut dyn Access,
    owned: &mut Owned,
    change: &TopologyChange,
) -> Result<(), Denied> {
    match change {
        TopologyChange::LookUpExchange { .. }
        | TopologyChange::LookUpQueue { .. }
        | TopologyChange::DeclareOwnQueue(_)
        | TopologyChange::ReleaseQueue { .. } => Ok(()),
        // It is the session's own from then on.
        TopologyChange::HoldQueue { name } => check_use(access, owned, Action::Read, name),
        TopologyChange::DeclareExchange(def) => {
            let exchange = Resource::Exchange(&def.name);
            access.check(Action::Configure, exchange)?;
            if let Some(alternate) = def.arguments.get("alternate-exchange").and_then(Value::as_str)
            {
                access.check(Action::Read, exchange)?;
                access.check(Action::Write, Resource::Exchange(alternate))?;
            }
            Ok(())
        }
        TopologyChange::DeleteExchange { name, .. } => {
            access.check(Action::Configure, Resource::Exchange(name))
        }
        TopologyChange::DeclareQueue(def) => {
            // A name that the broker makes begins like this.
            let name = if def.name.is_empty() { "amq.gen-" } else { &*def.name };
            check_queue(access, name, def)
        }
        TopologyChange::DeclareQueueFor { def, uses } => {
            check_queue(access, &def.name, def)?;
            uses.iter().try_for_each(|each| check_later(access, owned, each))
        }
        TopologyChange::MakeQueue { prefix, def } => check_queue(access, prefix, def),
        TopologyChange::DeleteQueue { name, .. } => {
            access.check(Action::Configure, Resource::Queue(name))
        }
        TopologyChange::Bind(binding) | TopologyChange::Unbind(binding) => {
            check_binding(access, owned, binding)
        }
    }
}

fn check_queue(access: &mut dyn Access, name: &str, def: &QueueDef) -> Result<(), Denied> {
    let queue = Resource::Queue(name);
    access.check(Action::Configure, queue)?;
    if let Some(exchange) = &def.options.dead_letter_exchange {
        access.check(Action::Read, queue)?;
        access.check(Action::Write, Resource::Exchange(exchange))?;
    }
    Ok(())
}

/// Whether what is asked for later will be allowed.
fn check_later(access: &mut dyn Access, owned: &mut Owned, what: &Use) -> Result<(), Denied> {
    match what {
        Use::Queue(Action::Read, name) => check_read(access, owned, name),
        Use::Queue(action, name) => check_use(access, owned, *action, name),
        Use::Topic(action, exchange, key) => {
            access.check(*action, Resource::Exchange(exchange))?;
            access.check_topic(*action, exchange, key)
        }
    }
}

fn check_binding(
    access: &mut dyn Access,
    owned: &mut Owned,
    binding: &BindingDef,
) -> Result<(), Denied> {
    match &binding.destination {
        Destination::Queue(name) => check_use(access, owned, Action::Write, name)?,
        Destination::Exchange(name) => access.check(Action::Write, Resource::Exchange(name))?,
    }
    access.check(Action::Read, Resource::Exchange(&binding.source))?;
    access.check_topic(Action::Read, &binding.source, &binding.routing_key)
}

/// What an exchange keeps is read as what it will route is by a binding.
fn check_recall(access: &mut dyn Access, owned: &mut Owned, recall: &Recall) -> Result<(), Denied> {
    check_use(access, owned, Action::Write, &recall.queue)?;
    access.check(Action::Read, Resource::Exchange(&recall.exchange))?;
    access.check_topic(Action::Read, &recall.exchange, &recall.pattern)
}
