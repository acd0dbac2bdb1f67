//! What clients publish (1.2, "SEND"): runs of whole frames, where they lie.

use std::borrow::Cow;
use std::sync::Arc;

use isthmus_contract::{Command as Ask, Input, Publish};
use isthmus_model::{Action, NO_TTL, RecordFlags, TopologyChange, TransactionId, Use};

use super::StompSession;
use super::pending::{Purpose, Receipt};
use super::queues::number;
use crate::codec::{Frame, Headers, frame, header};
use crate::convert::properties::DELAY;
use crate::convert::stored::{Draft, Drafts, place_of};
use crate::destination::{Destination, TOPIC_EXCHANGE, listed, written};
use crate::fault::Fault;

/// Bytes of input that become one chunk at the most: offsets into it have 32 bits.
const CHUNK_BYTES_MAX: usize = 1 << 30;

/// What all of ActiveMQ's headers begin with that say when a message is to be delivered.
const SCHEDULED: &str = "AMQ_SCHEDULED_";

/// The longest delay, in milliseconds: 49 days.
const DELAY_MS_MAX: i64 = u32::MAX as i64;

/// A run of SENDs in the making.
#[derive(Default)]
struct Run {
    drafts: Drafts,
    receipts: Vec<Receipt>,
    /// The transaction that all of them belong to, or that none does; `None` before the first.
    transaction: Option<Option<TransactionId>>,
}

/// What became of a SEND.
enum Looked {
    /// It is in the run.
    Taken,
    /// The run ends before it.
    NotNow,
    /// It needs a queue that is not known to be there, and goes to these.
    Needs(String, Vec<Use>),
}

/// What the broker acts on.
#[derive(Default)]
struct Wanted<'a> {
    destination: Option<&'a str>,
    transaction: Option<&'a str>,
    receipt: Option<&'a str>,
    reply_to: Option<&'a str>,
    persistent: bool,
    has_priority: bool,
    expires: bool,
    scheduled: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// Of several headers the first counts.
    fn of(headers: Headers<'a>) -> Wanted<'a> {
        let mut wanted = Wanted::default();
        let mut persistent = None;
        for raw in headers.raw() {
            let field = match raw.name {
                "destination" => &mut wanted.destination,
                "transaction" => &mut wanted.transaction,
                "receipt" => &mut wanted.receipt,
                "reply-to" => &mut wanted.reply_to,
                "persistent" => &mut persistent,
                "priority" => {
                    wanted.has_priority = true;
                    continue;
                }
                "expiration" | "expires" => {
                    wanted.expires = true;
                    continue;
                }
                name if name.starts_with(SCHEDULED) => {
                    // What cannot be done is told of before what can.
                    if wanted.scheduled.is_none_or(|known| known == DELAY) {
                        wanted.scheduled = Some(name);
                    }
                    continue;
                }
                _ => continue,
            };
            field.get_or_insert(raw.value);
        }
        wanted.persistent = persistent == Some("true");
        wanted
    }
}

impl StompSession {
    /// Takes the SENDs that `input` begins with into one batch; returns whether there were any.
    pub(super) fn send_run(&mut self, input: &mut Input) -> Result<bool, Fault> {
        let (mut end, mut run) = (0, Run::default());
        let mut failed = Ok(());
        while end < CHUNK_BYTES_MAX {
            let rest = &input.bytes()[end..];
            let at = end + frame::line_ends(rest);
            let bytes = &input.bytes()[at..];
            if !(bytes.starts_with(b"SEND\n") || bytes.starts_with(b"SEND\r\n")) {
                break;
            }
            if self.holds_publishes() {
                self.holding = true;
                break;
            }
            let version = Some(self.peer.version);
            let frame = match self.decoder.next(bytes, version, &self.config.limits) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(fault) => {
                    failed = Err(fault);
                    break;
                }
            };
            match self.look_at(&frame, at, &mut run) {
                Ok(Looked::Taken) => {}
                Ok(Looked::NotNow) => break,
                Ok(Looked::Needs(queue, uses)) => {
                    if run.drafts.is_empty() {
                        failed = self.declare_for(&queue, uses, frame.headers);
                    }
                    break;
                }
                Err(fault) => {
                    failed = Err(fault.with_receipt(frame.headers.get("receipt").as_deref()));
                    break;
                }
            }
            self.allowance = self.allowance.saturating_sub(1);
            self.decoder = frame::Decoder::default();
            end = at + frame.wire_len;
        }
        // What came before a fault has been published.
        let any = !run.drafts.is_empty();
        if any {
            self.publish(input, end, run);
        }
        failed.map(|()| any)
    }

    fn publish(&mut self, input: &mut Input, end: usize, run: Run) {
        let batch = Arc::new(run.drafts.seal(input.take(end), self.peer.version));
        let frame = self.pending.add(run.receipts);
        let transaction = run.transaction.flatten();
        self.ask(frame, |token| Ask::Publish(Publish { token, batch, transaction }));
    }

    /// Declares the queue that a SEND needs; what comes from the client waits for that.
    fn declare_for(
        &mut self,
        name: &str,
        uses: Vec<Use>,
        headers: Headers<'_>,
    ) -> Result<(), Fault> {
        let receipt = headers.get("receipt").map(Cow::into_owned);
        let def = self
            .queue_def(name.into(), headers, true, false)
            .map_err(|fault| fault.with_receipt(receipt.as_deref()))?;
        self.queues.declare(name);
        let frame = self.pending.add_before(receipt);
        let change = TopologyChange::DeclareQueueFor { def, uses };
        self.ask_for(frame, Purpose::Declared, |token| Ask::Topology { token, change });
        Ok(())
    }

    /// Takes the SEND that begins at `at` into the run, if it belongs there.
    fn look_at(&mut self, frame: &Frame<'_>, at: usize, run: &mut Run) -> Result<Looked, Fault> {
        let headers = frame.headers;
        let wanted = Wanted::of(headers);
        let transaction = match wanted.transaction {
            Some(name) => Some(self.transactions.id_of(&headers.unescaped(name))?),
            None => None,
        };
        if run.transaction.is_some_and(|of_run| of_run != transaction) {
            return Ok(Looked::NotNow);
        }
        let Some(destination) = wanted.destination else {
            let detail = "it is missing: where the message goes, '/queue/NAME' or '/topic/NAME'";
            return Err(Fault::header("destination", detail));
        };
        let text = headers.unescaped(destination);
        let delay_ms = delay_ms(headers, wanted.scheduled)?;
        let ttl_ms = self.ttl_ms(headers, wanted.expires, delay_ms)?;
        let priority = match wanted.has_priority {
            true => number(headers, "priority")?.unwrap_or_default(),
            false => 0,
        };
        for one in listed(&text) {
            let destination = Destination::parse(one)?;
            if let Destination::Queue(name) = destination
                && !self.queues.knows(&name)
            {
                return Ok(Looked::Needs(name.into_owned(), uses(&text)?));
            }
        }
        let lines = match wanted.reply_to.map(|at| headers.unescaped(at)) {
            Some(address) if address.starts_with("/temp-topic/") => {
                let Destination::TemporaryTopic(name) = Destination::parse(&address)? else {
                    return Ok(Looked::NotNow);
                };
                let key = self.temporary_key(&name)?;
                Some(with_reply_to(headers, &written(TOPIC_EXCHANGE, &key)))
            }
            Some(address) if address.starts_with("/temp-queue/") => {
                if !run.drafts.is_empty() && !self.knows_temporary(&address) {
                    // What came before is published before its queue is made.
                    return Ok(Looked::NotNow);
                }
                let queue = self.temporary(&address)?;
                Some(with_reply_to(headers, &written("", &queue)))
            }
            _ => None,
        };
        let mut flags = RecordFlags::default();
        for (is_asked, flag) in
            [(wanted.persistent, RecordFlags::DURABLE), (delay_ms > 0, RecordFlags::DELAYED)]
        {
            flags = if is_asked { flags.with(flag) } else { flags };
        }
        let first = run.drafts.len() as u32;
        for one in listed(&text) {
            let draft = Draft { lines: lines.clone(), ttl_ms, priority, flags, ..Draft::default() };
            self.draft(frame, at, &Destination::parse(one)?, draft, &mut run.drafts)?;
        }
        run.transaction = Some(transaction);
        if let Some(receipt) = wanted.receipt {
            let (last, id) = (run.drafts.len() as u32 - 1, headers.unescaped(receipt).into_owned());
            run.receipts.push(Receipt { first, last, id });
        }
        Ok(Looked::Taken)
    }

    /// Adds the SEND that begins at `at` to `drafts`, as a message to one of its destinations.
    fn draft(
        &self,
        frame: &Frame<'_>,
        at: usize,
        destination: &Destination<'_>,
        draft: Draft<'_>,
        drafts: &mut Drafts,
    ) -> Result<(), Fault> {
        // A queue that was declared and is gone must not swallow what is sent to it.
        let flags = match destination {
            Destination::Queue(_) | Destination::Existing(_) => {
                draft.flags.with(RecordFlags::MANDATORY)
            }
            _ => draft.flags,
        };
        let (draft, version) = (Draft { flags, ..draft }, self.peer.version);
        if let Some((exchange, key)) = destination.route() {
            let draft = Draft { exchange, routing_key: key, ..draft };
            drafts.push(frame, at, version, draft, place_of(frame.headers, key));
        } else if let Destination::TemporaryTopic(name) = destination {
            let key = self.temporary_key(name)?;
            let draft = Draft { exchange: TOPIC_EXCHANGE, routing_key: &key, ..draft };
            drafts.push(frame, at, version, draft, None);
        } else {
            let queue = self.temporary_of(destination)?;
            drafts.push(frame, at, version, Draft { routing_key: &queue, ..draft }, None);
        }
        Ok(())
    }

    fn temporary_of(&self, destination: &Destination<'_>) -> Result<Arc<str>, Fault> {
        let Destination::Temporary(name) = destination else { return Ok("".into()) };
        self.queues.temporary.get(&**name).cloned().ok_or_else(|| {
            let detail = format!(
                "header 'destination': /temp-queue/{name} is a queue of the connection that \
                 subscribed to it or gave it as 'reply-to', which this one has not; others answer \
                 to the 'reply-to' of the message that they got"
            );
            Fault::new("Not found", detail)
        })
    }

    /// Milliseconds that a message lives once it is in its queue: RabbitMQ's `expiration` says so,
    /// ActiveMQ's `expires` when it ends, also of one that is held back for `delay_ms` before.
    fn ttl_ms(&self, headers: Headers<'_>, is_said: bool, delay_ms: u32) -> Result<u32, Fault> {
        if !is_said {
            return Ok(NO_TTL);
        }
        if let Some(ms) = number::<u64>(headers, "expiration")? {
            // What does not fit, above 49 days, never ends: to keep a message too long loses
            // nothing.
            return Ok(u32::try_from(ms).unwrap_or(NO_TTL));
        }
        let expires = number::<i64>(headers, "expires")?.unwrap_or_default();
        if expires <= 0 {
            return Ok(NO_TTL);
        }
        let now = self.config.unix_ms_at_zero.saturating_add_unsigned(self.now.as_millis());
        let left = expires.saturating_sub(now).saturating_sub(i64::from(delay_ms)).max(0);
        Ok(u32::try_from(left).unwrap_or(NO_TTL))
    }
}

/// What a message to all destinations that `text` lists needs. Those of the connection's own need
/// nothing.
fn uses(text: &str) -> Result<Vec<Use>, Fault> {
    let mut uses = Vec::new();
    for one in listed(text) {
        if let Some((exchange, key)) = Destination::parse(one)?.route() {
            uses.push(Use::Topic(Action::Write, exchange.into(), (&**key).into()));
        }
    }
    Ok(uses)
}

/// The header lines with another address in place of the client's own name for where answers go.
fn with_reply_to(headers: Headers<'_>, address: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(headers.block().len() + address.len());
    for raw in headers.raw() {
        if raw.name == "reply-to" {
            header::write(&mut out, headers.rules(), raw.name, address);
        } else {
            out.extend_from_slice(raw.name.as_bytes());
            out.push(b':');
            out.extend_from_slice(raw.value.as_bytes());
            out.push(b'\n');
        }
    }
    out
}

/// For how long a message is to be held back, in milliseconds; `header` is the one that says so.
fn delay_ms(headers: Headers<'_>, header: Option<&str>) -> Result<u32, Fault> {
    match header {
        None => Ok(0),
        Some(DELAY) => {
            let ms = number::<i64>(headers, DELAY)?.unwrap_or_default();
            if ms > DELAY_MS_MAX {
                let detail = format!("{ms} ms are too long: {DELAY_MS_MAX} (49 days) at the most");
                return Err(Fault::header(DELAY, detail));
            }
            // As with ActiveMQ, nothing else is held.
            Ok(u32::try_from(ms).unwrap_or(0))
        }
        Some(other) => Err(Fault::new(
            "Not implemented",
            format!(
                "header '{other}': a message is delivered once, after {DELAY} milliseconds; SEND it \
                 again for every other time"
            ),
        )),
    }
}
