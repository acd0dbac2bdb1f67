//! Headers that the broker adds on delivery: `x-death` and its companions
//! (<https://www.rabbitmq.com/docs/dlx#effects>), `x-delivery-count`.

use isthmus_model::{Annotations, Death, DeathReason, Table, Value};

use super::head::Head;
use super::table::{self, Entries};

/// Names that only the broker writes: what a publisher put under them is not passed on beside
/// the broker's own.
const DEATH_NAMES: [&str; 7] = [
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
];
const DELIVERY_COUNT: &str = "x-delivery-count";

/// For how long a message was to be held; negative once it was, as RabbitMQ's plugin has it.
const DELAY: &str = "x-delay";

/// The name of a reason in `x-death`.
pub fn reason_name(reason: DeathReason) -> &'static str {
    match reason {
        DeathReason::Rejected => "rejected",
        DeathReason::Expired => "expired",
        DeathReason::MaxLength => "maxlen",
        DeathReason::DeliveryLimit => "delivery_limit",
    }
}

/// `head` with the broker's headers added; `None` if there are none to add.
///
/// The publisher's own headers keep their order and their bytes. A dead-lettered message loses
/// its expiration: it would expire again where it went.
pub fn annotated(
    head: &[u8],
    annotations: Option<&Annotations>,
    delivery_count: u32,
) -> Option<Vec<u8>> {
    let deaths = annotations.map_or(&[][..], |a| &a.deaths);
    let delay_spent = annotations.is_some_and(|a| a.delay_spent);
    if deaths.is_empty() && delivery_count == 0 && !delay_spent {
        return None;
    }
    // A head that cannot be read is delivered as it is: it was checked when it was published.
    let known = Head::read(head).ok()?;
    let replaced = |name: &[u8]| {
        (!deaths.is_empty() && DEATH_NAMES.iter().any(|n| n.as_bytes() == name))
            || (delivery_count > 0 && name == DELIVERY_COUNT.as_bytes())
    };
    let mut headers = Vec::new();
    let own = known.headers.clone().map_or(&[][..], |range| &head[range]);
    for entry in Entries::new(own).map_while(Result::ok) {
        let delay =
            if delay_spent && entry.name == DELAY.as_bytes() { delay(entry.raw) } else { None };
        if let Some(ms) = delay {
            table::write_entry(&mut headers, DELAY, &Value::Int(-ms));
        } else if !replaced(entry.name) {
            headers.extend_from_slice(entry.raw);
        }
    }
    write_deaths(&mut headers, deaths);
    if delivery_count > 0 {
        let count = Value::Int(i64::from(delivery_count));
        table::write_entry(&mut headers, DELIVERY_COUNT, &count);
    }
    Some(known.rewritten(head, &headers, deaths.is_empty()))
}

/// How many milliseconds an entry of headers says that the message was to be held.
fn delay(raw: &[u8]) -> Option<i64> {
    table::read(raw).ok()?.get(DELAY)?.held_for_ms().map(i64::from)
}

fn write_deaths(headers: &mut Vec<u8>, deaths: &[Death]) {
    let (Some(latest), Some(first)) = (deaths.first(), deaths.last()) else { return };
    let list = deaths.iter().map(|d| Value::Map(describe(d))).collect();
    table::write_entry(headers, "x-death", &Value::List(list));
    for (which, death) in [("first", first), ("last", latest)] {
        for (what, text) in [
            ("exchange", &*death.exchange),
            ("queue", &*death.queue),
            ("reason", reason_name(death.reason)),
        ] {
            let name = format!("x-{which}-death-{what}");
            table::write_entry(headers, &name, &Value::String(text.to_owned()));
        }
    }
}

fn describe(death: &Death) -> Table {
    let text = |s: &str| Value::String(s.to_owned());
    let mut entries = vec![
        ("count".to_owned(), Value::Int(i64::try_from(death.count).unwrap_or(i64::MAX))),
        ("reason".to_owned(), text(reason_name(death.reason))),
        ("queue".to_owned(), text(&death.queue)),
        (
            "time".to_owned(),
            Value::Timestamp(i64::try_from(death.first_at.as_millis()).unwrap_or(i64::MAX)),
        ),
        ("exchange".to_owned(), text(&death.exchange)),
        (
            "routing-keys".to_owned(),
            Value::List(death.routing_keys.iter().map(|k| text(k)).collect()),
        ),
    ];
    if let Some(ms) = death.original_ttl_ms {
        entries.push(("original-expiration".to_owned(), Value::String(ms.to_string())));
    }
    Table(entries)
}
