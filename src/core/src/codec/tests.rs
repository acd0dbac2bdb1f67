//! Every fact comes back as it was written, and nothing else is read: not a part of an entry, and
//! not an entry with damage, which is an error or another entry but never a panic or an allocation
//! of a size that the damage made up.

#![allow(clippy::unwrap_used)] // a failed test may panic

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_model::{
    Annotations, Batch, BindingDef, Death, DeathReason, Destination, EncodingId, ExchangeDef,
    ExchangeKind, Lifetime, NO_TTL, Note, Overflow, QueueDef, QueueOptions, Record, RecordFlags,
    SettingKey, SettingKind, Span, Table, Value, Will,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::Placement;
use crate::clients::{ClientChange, ClientKey};
use crate::dedup::{DedupKey, WindowOf};
use crate::testing::cases;

fn encoded(entry: &Entry) -> Bytes {
    let mut payload = Vec::new();
    encode(entry, &mut payload);
    payload.into()
}

// What entries are made of.

fn name() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![Just("".to_owned()), "[a-z.#*]{1,8}", "\\PC{1,3}"].prop_map(Arc::from)
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, any::<u64>(), Just(u64::MAX)]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::Uint),
        // Not NaN, which is not equal to itself.
        (-1e9f32..1e9).prop_map(Value::Float),
        (-1e99f64..1e99).prop_map(Value::Double),
        any::<(u8, u32)>().prop_map(|(scale, unscaled)| Value::Decimal { scale, unscaled }),
        any::<i64>().prop_map(Value::Timestamp),
        "\\PC{0,5}".prop_map(Value::String),
        vec(any::<u8>(), 0..5).prop_map(Value::Binary),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::List),
            vec(("[a-z]{0,3}", inner), 0..4).prop_map(|fields| Value::Map(Table(fields))),
        ]
    })
}

fn table() -> impl Strategy<Value = Table> {
    vec(("[a-z-]{0,6}", value()), 0..3).prop_map(Table)
}

fn exchange_def() -> impl Strategy<Value = ExchangeDef> {
    use ExchangeKind::{ConsistentHash, Deduplication, Direct, Fanout, Headers, Topic};
    let kinds = vec![Direct, Fanout, Topic, Headers, ConsistentHash, Deduplication];
    let kind = prop::sample::select(kinds);
    (name(), kind, any::<(bool, bool, bool)>(), table()).prop_map(
        |(name, kind, flags, arguments)| {
            let (auto_delete, internal, delayed) = flags;
            ExchangeDef { name, kind, delayed, durable: true, auto_delete, internal, arguments }
        },
    )
}

fn queue_def() -> impl Strategy<Value = QueueDef> {
    use Overflow::{DropHead, RejectPublish, RejectPublishDlx};
    let overflow = prop::sample::select(vec![DropHead, RejectPublish, RejectPublishDlx]);
    let limit = || option::of(number());
    let limits = (limit(), limit(), limit(), limit());
    let ways = (option::of(any::<u8>()), any::<bool>(), limit());
    let options = (limits, overflow, option::of(name()), option::of(name()), ways).prop_map(
        |(limits, overflow, dead_letter_exchange, dead_letter_routing_key, ways)| {
            let (message_ttl_ms, expires_ms, length_max, bytes_max) = limits;
            let (priority_max, single_active_consumer, delivery_limit) = ways;
            QueueOptions {
                message_ttl_ms,
                expires_ms,
                length_max,
                bytes_max,
                overflow,
                dead_letter_exchange,
                dead_letter_routing_key,
                priority_max,
                single_active_consumer,
                delivery_limit,
            }
        },
    );
    (name(), any::<bool>(), options, table()).prop_map(|(name, auto_delete, options, arguments)| {
        let options = options.into();
        QueueDef { name, lifetime: Lifetime::Durable, auto_delete, options, arguments }
    })
}

fn binding_def() -> impl Strategy<Value = BindingDef> {
    let destination =
        prop_oneof![name().prop_map(Destination::Queue), name().prop_map(Destination::Exchange)];
    (name(), destination, name(), table()).prop_map(|(source, destination, key, arguments)| {
        BindingDef { source, destination, routing_key: key, arguments }
    })
}

/// Batches whose records do not lie in their chunk in order, nor apart.
fn batch() -> impl Strategy<Value = Arc<Batch>> {
    let address = prop::sample::select(vec!["", "e", "a.b", "é"]);
    let record = (
        (address.clone(), address),
        vec(any::<u8>(), 0..4),
        vec(any::<u8>(), 0..20),
        prop_oneof![Just(NO_TTL), any::<u32>()],
        any::<u8>(),
        0u8..32,
    );
    (any::<u8>(), vec(record, 1..12)).prop_map(|(encoding, messages)| {
        let mut chunk = b"unused".to_vec();
        let mut put = |bytes: &[u8]| {
            let start = chunk.len();
            chunk.extend_from_slice(bytes);
            Span::new(start, bytes.len())
        };
        let mut records: Vec<Record> = messages
            .iter()
            .map(|((exchange, key), head, body, ttl_ms, priority, flags)| Record {
                exchange: put(exchange.as_bytes()),
                routing_key: put(key.as_bytes()),
                head: put(head),
                body: put(body),
                ttl_ms: *ttl_ms,
                priority: *priority,
                flags: RecordFlags::from_bits(*flags).unwrap(),
            })
            .collect();
        records.reverse();
        Arc::new(Batch::new(EncodingId(encoding), chunk.into(), records))
    })
}

fn placements(records: u32) -> impl Strategy<Value = Vec<Placement>> {
    let one = (1..5u64, 0..1_000_000u64, 0..records, 1..=records);
    vec(one, 0..6).prop_map(move |all| {
        all.into_iter()
            .map(|(queue, first, record, len)| Placement {
                queue: QueueId(queue),
                first,
                record,
                len: len.min(records - record),
            })
            .collect()
    })
}

fn annotations() -> impl Strategy<Value = Arc<Annotations>> {
    use DeathReason::{DeliveryLimit, Expired, MaxLength, Rejected};
    let reason = prop::sample::select(vec![Rejected, Expired, MaxLength, DeliveryLimit]);
    let death =
        (name(), reason, number(), number(), name(), vec(name(), 0..3), any::<Option<u32>>())
            .prop_map(|(queue, reason, count, at, exchange, routing_keys, original_ttl_ms)| {
                Death {
                    queue,
                    reason,
                    count,
                    first_at: Time(at),
                    exchange,
                    routing_keys,
                    original_ttl_ms,
                }
            });
    (option::of(name()), option::of(name()), vec(death, 0..3), any::<(bool, bool)>()).prop_map(
        |(exchange, routing_key, deaths, (delay_spent, recalled))| {
            Arc::new(Annotations { exchange, routing_key, deaths, delay_spent, recalled })
        },
    )
}

fn setting() -> impl Strategy<Value = Fact> {
    let kind = prop::sample::select(SettingKind::ALL.to_vec());
    let value = option::of(table().prop_map(Arc::new));
    (kind, name(), name(), value).prop_map(|(kind, vhost, name, value)| Fact::Setting {
        key: SettingKey { kind, vhost, name },
        value,
    })
}

fn fact() -> impl Strategy<Value = Fact> {
    let id = || number().prop_map(QueueId);
    let enqueue = batch().prop_flat_map(|batch| {
        let records = batch.records.len() as u32;
        (Just(batch), placements(records), option::of(annotations())).prop_map(
            |(batch, placements, annotations)| Fact::Enqueue { batch, placements, annotations },
        )
    });
    let restore = (id(), number(), batch(), number(), any::<u32>(), option::of(annotations()))
        .prop_map(|(queue, first, batch, at, delivery_count, annotations)| Fact::Restore {
            queue,
            first,
            batch,
            enqueued_at: Time(at),
            delivery_count,
            annotations,
        });
    let moved = (id(), number(), vec((id(), number()), 0..4), annotations()).prop_map(
        |(queue, sequence, to, annotations)| Fact::Move { queue, sequence, to, annotations },
    );
    let topology = prop_oneof![
        name().prop_map(Fact::DeclareVhost),
        (name(), exchange_def()).prop_map(|(vhost, def)| Fact::DeclareExchange { vhost, def }),
        (name(), name()).prop_map(|(vhost, name)| Fact::DeleteExchange { vhost, name }),
        (name(), id(), queue_def()).prop_map(|(vhost, id, def)| Fact::DeclareQueue {
            vhost,
            id,
            def: Arc::new(def),
        }),
        id().prop_map(|id| Fact::DeleteQueue { id }),
        (name(), binding_def()).prop_map(|(vhost, def)| Fact::Bind { vhost, def }),
        (name(), binding_def()).prop_map(|(vhost, def)| Fact::Unbind { vhost, def }),
        name().prop_map(Fact::DeleteVhost),
        setting(),
    ]
    .boxed();
    let numbers = prop_oneof![
        number().prop_map(Fact::Term),
        id().prop_map(Fact::NextQueue),
        number().prop_map(Fact::EntryNumber),
        (number(), number(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(index, term, members)| {
                Fact::Members(Arc::new(Members { index, term, members: members.into() }))
            }
        ),
        (id(), number(), number()).prop_map(|(queue, first, len)| Fact::Settle {
            queue,
            first,
            len
        }),
        (id(), number(), number()).prop_map(|(queue, first, len)| Fact::Count {
            queue,
            first,
            len
        }),
        (id(), number(), number()).prop_map(|(id, next, redelivered_below)| Fact::QueueState {
            id,
            next,
            redelivered_below
        }),
    ];
    prop_oneof![
        topology,
        numbers.boxed(),
        enqueue.boxed(),
        restore.boxed(),
        moved.boxed(),
        remembering().boxed(),
        client().boxed(),
        keeping().boxed()
    ]
}

fn client() -> impl Strategy<Value = Fact> {
    let will = (batch(), number()).prop_map(|(batch, delay_ms)| {
        let batch = Arc::new(batch.compacted(0, 1));
        Will { batch, delay_ms }
    });
    let bytes = || vec(any::<u8>(), 0..20).prop_map(Arc::from);
    let note = (bytes(), option::of(bytes())).prop_map(|(key, value)| Note { key, value });
    let change = prop_oneof![
        (name(), number(), option::of(will))
            .prop_map(|(user, expiry_ms, will)| ClientChange::Opened { user, expiry_ms, will }),
        (number(), any::<(bool, bool)>(), number()).prop_map(
            |(at, (lost, keeps_will), expiry_ms)| {
                ClientChange::Closed { at: Time(at), lost, expiry_ms, keeps_will }
            }
        ),
        Just(ClientChange::Ended),
        vec(note, 0..4).prop_map(ClientChange::Noted),
        number().prop_map(|id| ClientChange::Held(QueueId(id))),
        number().prop_map(|id| ClientChange::Released(QueueId(id))),
    ];
    (name(), name(), change).prop_map(|(vhost, client, change)| Fact::Client {
        key: ClientKey { vhost, client },
        change,
    })
}

/// What is kept, written in full.
fn keeping() -> impl Strategy<Value = Fact> {
    let address = || (name(), name(), name());
    let kept = (address(), batch(), number(), option::of(annotations())).prop_map(
        |((vhost, exchange, key), batch, since, annotations)| {
            let (batch, since) = (Arc::new(batch.compacted(0, 1)), Time(since));
            Fact::Kept { vhost, exchange, key, batch, record: None, since, annotations }
        },
    );
    let unkept = address().prop_map(|(vhost, exchange, key)| Fact::Unkept { vhost, exchange, key });
    prop_oneof![kept, unkept]
}

fn remembering() -> impl Strategy<Value = Fact> {
    let window = || {
        prop_oneof![
            number().prop_map(|id| WindowOf::Queue(QueueId(id))),
            (name(), name()).prop_map(|(vhost, name)| WindowOf::Exchange { vhost, name }),
        ]
    };
    let key = || any::<[u8; 16]>().prop_map(DedupKey);
    prop_oneof![
        (window(), vec((key(), number().prop_map(Time)), 0..4))
            .prop_map(|(window, keys)| Fact::Remember { window, keys }),
        (window(), vec(key(), 0..4)).prop_map(|(window, keys)| Fact::Forget { window, keys }),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    (number(), vec(fact(), 0..5)).prop_map(|(time, facts)| Entry { time: Time(time), facts })
}

// What entries say.

/// All that a message says.
fn message(batch: &Batch, record: u32) -> impl PartialEq + std::fmt::Debug + use<> {
    let r = &batch.records[record as usize];
    let address = (batch.exchange(r).to_owned(), batch.routing_key(r).to_owned());
    let payload = (batch.head(r).to_vec(), batch.body(r).to_vec());
    (batch.encoding, address, payload, r.ttl_ms, r.priority, r.flags)
}

/// The messages that came into queues, as (queue, sequence) sees them, in the order of the
/// placements.
fn placed(
    batch: &Batch,
    placements: &[Placement],
) -> Vec<((QueueId, u64), impl PartialEq + std::fmt::Debug + use<>)> {
    let each = |p: &Placement| {
        let p = *p;
        (0..p.len).map(move |i| ((p.queue, p.first + u64::from(i)), p.record + i))
    };
    let records = placements.iter().flat_map(each);
    records.map(|(place, record)| (place, message(batch, record))).collect()
}

fn same(read: &Fact, written: &Fact) -> Result<(), TestCaseError> {
    match (read, written) {
        (
            Fact::Enqueue { batch: a, placements: p, annotations: x },
            Fact::Enqueue { batch: b, placements: q, annotations: y },
        ) => {
            prop_assert_eq!(placed(a, p), placed(b, q));
            prop_assert_eq!(x, y);
            let kept: std::collections::BTreeSet<u32> =
                q.iter().flat_map(|p| p.record..p.record + p.len).collect();
            prop_assert_eq!(a.records.len(), kept.len(), "what went nowhere is not written");
        }
        (Fact::Restore { batch: a, .. }, Fact::Restore { batch: b, .. }) => {
            let all = |batch: &Batch| -> Vec<_> {
                (0..batch.records.len() as u32).map(|i| message(batch, i)).collect()
            };
            prop_assert_eq!(all(a), all(b));
            let without_batch = |fact: &Fact| match fact.clone() {
                Fact::Restore {
                    queue, first, enqueued_at, delivery_count, annotations, ..
                } => (queue, first, enqueued_at, delivery_count, annotations),
                _ => unreachable!(),
            };
            prop_assert_eq!(without_batch(read), without_batch(written));
        }
        (
            Fact::Client { key: k, change: ClientChange::Opened { user, expiry_ms, will } },
            Fact::Client {
                key: l,
                change: ClientChange::Opened { user: u, expiry_ms: e, will: w },
            },
        ) => {
            prop_assert_eq!((k, user, expiry_ms), (l, u, e));
            let said = |will: &Option<Will>| {
                will.as_ref().map(|will| (message(&will.batch, 0), will.delay_ms))
            };
            prop_assert_eq!(said(will), said(w));
        }
        (
            Fact::Kept { batch: a, record: None, .. },
            Fact::Kept { vhost, exchange, key, batch: b, record: None, since, annotations },
        ) => {
            prop_assert_eq!(message(a, 0), message(b, 0));
            let written = Fact::Kept {
                vhost: Arc::clone(vhost),
                exchange: Arc::clone(exchange),
                key: Arc::clone(key),
                batch: Arc::clone(a),
                record: None,
                since: *since,
                annotations: annotations.clone(),
            };
            prop_assert_eq!(read, &written);
        }
        _ => prop_assert_eq!(read, written),
    }
    Ok(())
}

/// A fact of one record of a batch, that is of the messages that are enqueued if `enqueued` says
/// so.
fn kept_of(batch: &Batch, record: u32, enqueued: bool) -> Fact {
    Fact::Kept {
        vhost: "v".into(),
        exchange: "e".into(),
        key: format!("{record}").into(),
        batch: Arc::new(batch.compacted(record, 1)),
        record: enqueued.then_some(record),
        since: Time(7),
        annotations: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(192)))]

    #[test]
    fn an_entry_comes_back_as_it_was_written(entry in entry()) {
        let payload = encoded(&entry);
        let read = decode(&payload).unwrap();
        prop_assert_eq!(read.time, entry.time);
        prop_assert_eq!(read.facts.len(), entry.facts.len());
        for (read, written) in read.facts.iter().zip(&entry.facts) {
            same(read, written)?;
        }
        // What was read is written the same again: a replica may pass it on.
        prop_assert_eq!(encoded(&read), payload);
    }

    #[test]
    fn what_is_kept_of_an_entrys_own_messages_is_not_written_again(
        (batch, placements) in batch().prop_flat_map(|batch| {
            let records = batch.records.len() as u32;
            (Just(batch), placements(records))
        }),
    ) {
        let placed = |at: u32| placements.iter().any(|p| (p.record..p.record + p.len).contains(&at));
        let records = 0..batch.records.len() as u32;
        let enqueue = Fact::Enqueue {
            batch: Arc::clone(&batch),
            placements: placements.clone(),
            annotations: None,
        };
        let without = Entry { time: Time(7), facts: vec![enqueue.clone()] };
        let kept = records.clone().map(|record| kept_of(&batch, record, true));
        let entry = Entry { time: Time(7), facts: [enqueue].into_iter().chain(kept).collect() };
        let payload = encoded(&entry);
        let read = decode(&payload).unwrap();
        for (record, fact) in records.clone().zip(&read.facts[1..]) {
            let Fact::Kept { batch: one, record: number, .. } = fact else { unreachable!() };
            prop_assert_eq!(message(one, 0), message(&batch, record));
            prop_assert_eq!(number.is_some(), placed(record));
        }
        // Beside what is placed, only addresses: 20 bytes and none of a body's.
        let in_full = |record: u32| 60 + u64::from(batch.records[record as usize].body.len);
        let expected: u64 = records.map(|r| if placed(r) { 20 } else { in_full(r) }).sum();
        let more = (payload.len() - encoded(&without).len()) as u64;
        prop_assert!(more <= expected, "{} bytes, not {}", more, expected);
        prop_assert_eq!(encoded(&read), payload);
    }

    #[test]
    fn a_part_of_an_entry_is_not_an_entry(entry in entry()) {
        let payload = encoded(&entry);
        for len in 0..payload.len() {
            prop_assert!(decode(&payload.slice(..len)).is_err(), "{} of {}", len, payload.len());
        }
    }

    #[test]
    fn a_place_comes_back_and_is_found_without_the_rest(
        entry in entry(), term: u64, number: u64, len in 0usize..20,
    ) {
        let place = Place { term, number };
        let mut payload = Vec::new();
        encode_placed(place, &entry, &mut payload);
        let payload = Bytes::from(payload);
        prop_assert_eq!(place_of(&payload).unwrap(), Some(place));
        let (read, decoded) = decode_placed(&payload).unwrap();
        prop_assert_eq!(read, Some(place));
        prop_assert_eq!(encoded(&decoded), encoded(&entry));
        prop_assert_eq!(place_of(&encoded(&entry)).unwrap(), None);
        let part = payload.slice(..len.min(payload.len()));
        prop_assert_eq!(place_of(&part).is_ok(), part.len() >= 17);
    }

    #[test]
    fn an_entry_with_something_behind_it_is_not_an_entry(entry in entry(), byte: u8) {
        let mut payload = encoded(&entry).to_vec();
        payload.push(byte);
        prop_assert!(decode(&payload.into()).is_err());
    }

    #[test]
    fn damage_is_an_error_or_another_entry(
        entry in entry(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
    ) {
        let mut payload = encoded(&entry).to_vec();
        for (at, byte, kind) in damage {
            if payload.is_empty() {
                break;
            }
            let at = at.index(payload.len());
            match kind {
                0 => payload[at] = byte,
                1 => payload.insert(at, byte),
                _ => drop(payload.remove(at)),
            }
        }
        read_and_use(&payload.into());
    }

    #[test]
    fn noise_is_an_error_or_an_entry(noise in vec(any::<u8>(), 0..300)) {
        let mut payload = vec![VERSION];
        payload.extend(noise);
        read_and_use(&payload.into());
    }
}

/// Decodes, and if that gives an entry, looks at all of it.
fn read_and_use(payload: &Bytes) {
    let Ok(entry) = decode(payload) else { return };
    for fact in &entry.facts {
        match fact {
            Fact::Enqueue { batch, placements, .. } => {
                let mut seen = BTreeMap::new();
                for p in placements {
                    for i in 0..p.len {
                        seen.insert(i, message(batch, p.record + i));
                    }
                }
            }
            Fact::Restore { batch, .. } => {
                let last = batch.records.len() as u32;
                (0..last).for_each(|i| drop(message(batch, i)));
            }
            _ => {}
        }
    }
    assert!(format!("{entry:?}").len() > 10);
    encoded(&entry);
}

/// An entry of one fact that says there is more to come than any memory holds.
fn boast(fact: &[u8]) -> Bytes {
    let mut payload = vec![VERSION, 0, 1];
    payload.extend_from_slice(fact);
    payload.into()
}

#[test]
fn a_size_that_is_not_there_is_refused_before_anything_is_allocated() {
    const HUGE: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    for tag in (2..=14u8).chain(16..=19).chain([kept::KEPT, kept::UNKEPT]) {
        for zeros in 0..12 {
            let mut fact = vec![tag];
            fact.extend(vec![0; zeros]);
            fact.extend(HUGE);
            fact.extend([1; 20]);
            // Some are sequences of such size, which is no reason to refuse: none may allocate.
            let _ = decode(&boast(&fact));
        }
    }
    let vhost = boast(&[&[2][..], &HUGE].concat());
    assert_eq!(decode(&vhost).unwrap_err().what, "a length past the end");
    let moves = boast(&[&[12, 1, 1][..], &HUGE].concat());
    assert_eq!(decode(&moves).unwrap_err().what, "more elements than bytes");
}

#[test]
fn a_message_to_keep_that_the_entry_does_not_have_is_refused() {
    // No address; the first, then the fourth message of what is enqueued.
    let kept = |number: u8| vec![kept::KEPT, 0, 0, 0, number];
    let nothing = decode(&boast(&kept(1))).unwrap_err();
    assert_eq!(nothing.what, "a message to keep that is not in the entry");
    let batch = crate::testing::batch(3, 1);
    let placement = Placement { queue: QueueId(1), first: 1, record: 0, len: 3 };
    let facts = vec![Fact::Enqueue { batch, placements: vec![placement], annotations: None }];
    let mut payload = encoded(&Entry { time: Time(0), facts }).to_vec();
    payload[2] = 2; // facts
    payload.extend([&kept(4)[..], &[0, 0]].concat());
    let fourth = decode(&payload.clone().into()).unwrap_err();
    assert_eq!(fourth.what, "a message to keep that is not in the entry");
    let number = payload.len() - 3;
    payload[number] = 3;
    assert!(decode(&payload.into()).is_ok());
}

#[test]
fn numbers_of_more_than_64_bits_are_refused() {
    let term = |digits: &[u8]| decode(&boast(&[&[1], digits].concat()));
    let nines = [0xff; 9];
    assert!(term(&[&nines[..], &[0x01]].concat()).is_ok());
    assert!(term(&[&nines[..], &[0x02]].concat()).is_err());
    assert!(term(&[&nines[..], &[0x81, 0x00]].concat()).is_err());
}

#[test]
fn values_that_nest_as_deep_as_a_client_may_send_them_are_read_and_deeper_ones_refused() {
    let nested = |depth: usize| {
        let inner = (0..depth).fold(Value::Null, |v, _| Value::List(vec![v]));
        let def = BindingDef {
            source: "e".into(),
            destination: Destination::Queue("q".into()),
            routing_key: "k".into(),
            arguments: Table(vec![("deep".into(), inner)]),
        };
        Entry { time: Time(0), facts: vec![Fact::Bind { vhost: "/".into(), def }] }
    };
    let deep = nested(200);
    assert_eq!(decode(&encoded(&deep)).unwrap(), deep);
    assert!(decode(&encoded(&nested(300))).is_err());
    // What is asked about a table before it is let in is what is found when it is read.
    for depth in [LEVELS_MAX, LEVELS_MAX + 1] {
        let entry = nested(depth);
        let [Fact::Bind { def, .. }] = &entry.facts[..] else { unreachable!() };
        let too_deep = def.arguments.nests_deeper_than(LEVELS_MAX);
        assert_eq!(decode(&encoded(&entry)).is_err(), too_deep, "{depth}");
        assert_eq!(too_deep, depth > LEVELS_MAX);
    }
}

#[test]
fn another_version_is_refused() {
    for version in (0..=u8::MAX).filter(|v| ![VERSION, VERSION_PLACED].contains(v)) {
        let mut payload = encoded(&Entry::default()).to_vec();
        payload[0] = version;
        assert_eq!(decode(&payload.into()).unwrap_err().offset, 0, "{version}");
    }
}

#[test]
fn a_fact_of_an_unknown_kind_is_refused() {
    assert!(decode(&boast(&[0])).is_err());
    assert!(decode(&boast(&[200, 1, 1, 1])).is_err());
}
