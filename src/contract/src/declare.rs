//! What the arguments of declarations mean, whatever they came by: RabbitMQ's, for queues
//! (<https://www.rabbitmq.com/docs/queues#optional-arguments>) and exchanges.

use std::sync::Arc;

use isthmus_model::{
    CommandError, ExchangeKind, Lifetime, Overflow, QueueDef, QueueOptions, Table, Value,
};

/// The type of exchanges that hold messages back.
const DELAYED_TYPE: &str = "x-delayed-message";

/// Arguments that say how RabbitMQ lays a queue out; here every queue is laid out alike.
const WITHOUT_EFFECT: [&str; 8] = [
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-quorum-target-group-size",
    "x-queue-mode",
    "x-queue-version",
    "x-queue-master-locator",
    "x-queue-leader-locator",
    "x-quorum-initial-group-size",
];

/// Arguments that change what a queue does in ways that no queue here does.
const NOT_IMPLEMENTED: [&str; 2] = ["x-max-age", "x-stream-max-segment-size-bytes"];

/// Failed deliveries that RabbitMQ's quorum queues allow where nothing else is said.
const QUORUM_DELIVERY_LIMIT: u64 = 20;

/// The largest number of milliseconds that RabbitMQ takes.
const MS_MAX: i64 = u32::MAX as i64;

/// The queue that a declaration in `vhost` asks for.
///
/// # Errors
/// [`CommandError::Precondition`] if an argument has a wrong type or value, or does not go with
/// the rest; [`CommandError::NotImplemented`]. Unknown arguments are kept and mean nothing.
pub fn queue(
    name: Arc<str>,
    lifetime: Lifetime,
    auto_delete: bool,
    arguments: Table,
    vhost: &str,
) -> Result<QueueDef, CommandError> {
    let (options, kind) = queue_options(&arguments, &name, vhost)?;
    let options = options.into();
    let def = QueueDef { name, lifetime, auto_delete, options, arguments };
    kind.check(&def, vhost)?;
    Ok(def)
}

/// How exchanges of the type `name` route, and whether they hold messages back before.
///
/// # Errors
/// [`CommandError::Invalid`] if there is no such type; [`CommandError::Precondition`] if the type
/// needs an argument that is missing or wrong.
pub fn exchange_kind(name: &str, arguments: &Table) -> Result<(ExchangeKind, bool), CommandError> {
    if name == DELAYED_TYPE {
        let kind = arguments.get("x-delayed-type").and_then(Value::as_str);
        let kind = kind.and_then(ExchangeKind::from_name).ok_or_else(|| {
            let text = "Invalid argument, 'x-delayed-type' must be an existing exchange type";
            CommandError::Precondition(text.to_owned())
        })?;
        return Ok((kind, true));
    }
    let kind = ExchangeKind::from_name(name)
        .ok_or_else(|| CommandError::Invalid(format!("unknown exchange type '{name}'")))?;
    Ok((kind, false))
}

fn queue_options(
    arguments: &Table,
    name: &str,
    vhost: &str,
) -> Result<(QueueOptions, QueueKind), CommandError> {
    let mut options = QueueOptions::default();
    let (mut kind, mut limit) = (QueueKind::Classic, None);
    for (argument, value) in &arguments.0 {
        let invalid = |why: String| {
            CommandError::Precondition(format!(
                "invalid arg '{argument}' for queue '{name}' in vhost '{vhost}': {why}"
            ))
        };
        match argument.as_str() {
            "x-message-ttl" => {
                options.message_ttl_ms = Some(number(value, MS_MAX).map_err(invalid)?);
            }
            "x-expires" => {
                let ms = number(value, MS_MAX).map_err(invalid)?;
                if ms == 0 {
                    return Err(invalid("{value_zero,0}".to_owned()));
                }
                options.expires_ms = Some(ms);
            }
            "x-max-length" => options.length_max = Some(number(value, i64::MAX).map_err(invalid)?),
            "x-max-length-bytes" => {
                options.bytes_max = Some(number(value, i64::MAX).map_err(invalid)?);
            }
            "x-overflow" => options.overflow = overflow(value).map_err(invalid)?,
            "x-dead-letter-exchange" => {
                options.dead_letter_exchange = Some(text(value).map_err(invalid)?);
            }
            "x-dead-letter-routing-key" => {
                options.dead_letter_routing_key = Some(text(value).map_err(invalid)?);
            }
            "x-max-priority" => {
                let n = number(value, i64::MAX).map_err(invalid)?;
                let max =
                    u8::try_from(n).map_err(|_| invalid("{max_value_exceeded,255}".into()))?;
                options.priority_max = (max > 0).then_some(max);
            }
            "x-single-active-consumer" => match value {
                Value::Bool(single) => options.single_active_consumer = *single,
                other => return Err(invalid(unacceptable(other))),
            },
            // A negative limit is none.
            "x-delivery-limit" => {
                let n = value.as_i64().ok_or_else(|| invalid(unacceptable(value)))?;
                limit = Some(u64::try_from(n).ok());
            }
            "x-queue-type" => kind = queue_type(&text(value).map_err(invalid)?)?,
            other if NOT_IMPLEMENTED.contains(&other) => {
                return Err(not_implemented(&format!("queue argument '{other}'")));
            }
            other if WITHOUT_EFFECT.contains(&other) => {}
            _ => {}
        }
    }
    if options.dead_letter_routing_key.is_some() && options.dead_letter_exchange.is_none() {
        return Err(CommandError::Precondition(format!(
            "invalid arg 'x-dead-letter-routing-key' for queue '{name}' in vhost '{vhost}': \
             routing_key_but_no_dlx_defined"
        )));
    }
    options.delivery_limit = limit.unwrap_or(match kind {
        QueueKind::Classic => None,
        QueueKind::Quorum => Some(QUORUM_DELIVERY_LIMIT),
    });
    Ok((options, kind))
}

/// What RabbitMQ's users choose by `x-queue-type`. Here both are the same queue; what they promise
/// beside that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueKind {
    Classic,
    Quorum,
}

impl QueueKind {
    /// Refuses what RabbitMQ does not let such a queue be, naming the property.
    fn check(self, def: &QueueDef, vhost: &str) -> Result<(), CommandError> {
        if self == QueueKind::Classic {
            return Ok(());
        }
        let refused = match def.lifetime {
            _ if def.auto_delete => "auto-delete",
            Lifetime::Exclusive(_) => "exclusive-owner",
            Lifetime::Volatile => "non-durable",
            Lifetime::Durable => return Ok(()),
        };
        let name = &def.name;
        let text = format!("invalid property '{refused}' for queue '{name}' in vhost '{vhost}'");
        Err(CommandError::Precondition(text))
    }
}

fn not_implemented(what: &str) -> CommandError {
    CommandError::NotImplemented(format!("{what} is not implemented"))
}

fn queue_type(kind: &str) -> Result<QueueKind, CommandError> {
    match kind {
        "classic" => Ok(QueueKind::Classic),
        "quorum" => Ok(QueueKind::Quorum),
        "stream" => Err(not_implemented(
            "queue type 'stream' (declare it as 'classic' or 'quorum', which both are kept on disk)",
        )),
        other => Err(CommandError::Precondition(format!("invalid queue type '{other}'"))),
    }
}

fn number(value: &Value, max: i64) -> Result<u64, String> {
    let n = value.as_i64().ok_or_else(|| unacceptable(value))?;
    if n > max {
        return Err(format!("{{value_too_large,{n}}}"));
    }
    u64::try_from(n).map_err(|_| format!("{{value_negative,{n}}}"))
}

fn text(value: &Value) -> Result<Arc<str>, String> {
    value.as_str().map(Arc::from).ok_or_else(|| unacceptable(value))
}

fn overflow(value: &Value) -> Result<Overflow, String> {
    match &*text(value)? {
        "drop-head" => Ok(Overflow::DropHead),
        "reject-publish" => Ok(Overflow::RejectPublish),
        "reject-publish-dlx" => Ok(Overflow::RejectPublishDlx),
        other => Err(format!("{{invalid_overflow,<<\"{other}\">>}}")),
    }
}

fn unacceptable(value: &Value) -> String {
    let kind = match value {
        Value::Null => "void",
        Value::Bool(_) => "bool",
        Value::Int(_) => "signedint",
        Value::Uint(_) => "unsignedint",
        Value::Float(_) => "float",
        Value::Double(_) => "double",
        Value::Decimal { .. } => "decimal",
        Value::Timestamp(_) => "timestamp",
        Value::String(_) => "longstr",
        Value::Binary(_) => "binary",
        Value::List(_) => "array",
        Value::Map(_) => "table",
    };
    format!("{{unacceptable_type,{kind}}}")
}
