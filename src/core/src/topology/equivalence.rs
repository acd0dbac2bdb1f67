//! Whether a thing declared again is the thing that is there.

use std::sync::Arc;

use isthmus_model::{ExchangeDef, Lifetime, QueueDef, Table, Value};

use super::values::{describe, same};
use super::{ResourceKind, TopologyError};

/// A property that differs: its name, and the two values in words.
struct Difference {
    argument: Arc<str>,
    existing: Arc<str>,
    given: Arc<str>,
}

impl Difference {
    fn error(self, kind: ResourceKind, name: &Arc<str>, vhost: &Arc<str>) -> TopologyError {
        TopologyError::Inequivalent {
            kind,
            name: name.clone(),
            vhost: vhost.clone(),
            argument: self.argument,
            existing: self.existing,
            given: self.given,
        }
    }
}

/// Compares a property that is told in quotes.
fn compare<T: PartialEq + ToString>(
    argument: &str,
    existing: &T,
    given: &T,
) -> Result<(), Difference> {
    if existing == given {
        return Ok(());
    }
    let quoted = |value: &T| format!("'{}'", value.to_string()).into();
    Err(Difference { argument: argument.into(), existing: quoted(existing), given: quoted(given) })
}

/// Compares arguments by meaning; of several differences, the first by name is told.
fn compare_arguments(existing: &Table, given: &Table) -> Result<(), Difference> {
    let mut names: Vec<&str> = existing.0.iter().chain(&given.0).map(|(n, _)| &**n).collect();
    names.sort_unstable();
    names.dedup();
    let equal = |a: Option<&Value>, b: Option<&Value>| match (a, b) {
        (Some(a), Some(b)) => same(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    match names.into_iter().find(|name| !equal(existing.get(name), given.get(name))) {
        None => Ok(()),
        Some(name) => Err(Difference {
            argument: name.into(),
            existing: describe(existing.get(name)),
            given: describe(given.get(name)),
        }),
    }
}

/// The type of an exchange as it was declared. What it routes by once messages are due is among the
/// arguments of one that delays.
fn type_name(def: &ExchangeDef) -> &'static str {
    if def.delayed { "x-delayed-message" } else { def.kind.name() }
}

/// Refuses to take `given` for the exchange `existing`, unless it is. Properties are looked at in
/// RabbitMQ's order, so that of several differences the same one is told.
pub(super) fn check_exchange(
    vhost: &Arc<str>,
    existing: &ExchangeDef,
    given: &ExchangeDef,
) -> Result<(), TopologyError> {
    let compared = || {
        compare("type", &type_name(existing), &type_name(given))?;
        compare("durable", &existing.durable, &given.durable)?;
        compare("auto_delete", &existing.auto_delete, &given.auto_delete)?;
        compare("internal", &existing.internal, &given.internal)?;
        compare_arguments(&existing.arguments, &given.arguments)
    };
    compared().map_err(|d| d.error(ResourceKind::Exchange, &existing.name, vhost))
}

/// Refuses to take `given` for the queue `existing`, unless it is.
pub(super) fn check_queue(
    vhost: &Arc<str>,
    existing: &QueueDef,
    given: &QueueDef,
) -> Result<(), TopologyError> {
    match (existing.lifetime, given.lifetime) {
        (Lifetime::Exclusive(owner), Lifetime::Exclusive(asker)) if owner == asker => {}
        (Lifetime::Exclusive(_), _) | (_, Lifetime::Exclusive(_)) => {
            return Err(TopologyError::Locked {
                queue: existing.name.clone(),
                vhost: vhost.clone(),
            });
        }
        _ => {}
    }
    let durable = |def: &QueueDef| def.lifetime == Lifetime::Durable;
    let compared = || {
        compare("durable", &durable(existing), &durable(given))?;
        compare("auto_delete", &existing.auto_delete, &given.auto_delete)?;
        compare_arguments(&existing.arguments, &given.arguments)
    };
    compared().map_err(|d| d.error(ResourceKind::Queue, &existing.name, vhost))
}
