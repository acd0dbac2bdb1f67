//! Random changes of a topology and of a model that keeps lists and searches them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;

use super::routing::naive_match;
use super::*;

#[derive(Clone, Debug)]
enum Op {
    DeclareExchange(ExchangeDef),
    DeleteExchange(&'static str, bool),
    DeclareQueue(QueueDef),
    DeleteQueue(&'static str),
    Bind(BindingDef),
    Unbind(BindingDef),
}

const QUEUES: &[&str] = &["q0", "q1", "q2", "q3", "q4"];
const EXCHANGES: &[&str] =
    &["d0", "d1", "f0", "f1", "t0", "t1", "h0", "h1", "amq.direct", "amq.match", ""];
const KEYS: &[&str] = &["", "a", "b", "q0", "a.b", "a.*", "#", "#.b", "#.a.#", "*.#"];
const ROUTED: &[&str] = &["", "a", "b", "q0", "q1", "a.b", "a.b.b", "b.a.b", "."];

/// The kind of the exchanges called so: redeclarations mostly agree.
fn kind_of(name: &str) -> ExchangeKind {
    match name.as_bytes().first() {
        Some(b'f') => ExchangeKind::Fanout,
        Some(b't') => ExchangeKind::Topic,
        Some(b'h') => ExchangeKind::Headers,
        Some(b'a') if name == "amq.match" => ExchangeKind::Headers,
        _ => ExchangeKind::Direct,
    }
}

/// Arguments in their one form: no two of them mean the same.
fn arguments() -> impl Strategy<Value = Table> {
    let value = select(vec![Value::Null, Value::Int(1), Value::Int(2), text("t")]);
    let how = select(vec!["", "all", "any", "all-with-x", "any-with-x"]);
    let fields = prop::collection::btree_map(select(vec!["a", "b", "x-c"]), value, 0..4);
    (how, fields).prop_map(|(how, fields)| {
        let mut table = table(&fields.into_iter().collect::<Vec<_>>());
        if !how.is_empty() {
            table.0.push(("x-match".into(), text(how)));
        }
        table
    })
}

fn binding() -> impl Strategy<Value = BindingDef> {
    let destination = prop_oneof![
        2 => select(QUEUES).prop_map(|name| Destination::Queue(name.into())),
        1 => select(EXCHANGES).prop_map(|name| Destination::Exchange(name.into())),
    ];
    let arguments = prop_oneof![Just(Table::default()), arguments()];
    (select(EXCHANGES), destination, select(KEYS), arguments).prop_map(
        |(source, destination, key, arguments)| BindingDef {
            source: source.into(),
            destination,
            routing_key: key.into(),
            arguments,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let exchange = (select(EXCHANGES), prop::bool::weighted(0.5), select(EXCHANGES)).prop_map(
        |(name, auto_delete, alternate)| {
            let mut def = ExchangeDef { auto_delete, ..exchange(name, kind_of(name)) };
            if alternate.ends_with('1') && alternate < name {
                def.arguments = table(&[("alternate-exchange", text(alternate))]);
            }
            Op::DeclareExchange(def)
        },
    );
    let queue = (select(QUEUES), prop::bool::weighted(0.1))
        .prop_map(|(name, auto_delete)| Op::DeclareQueue(QueueDef { auto_delete, ..queue(name) }));
    prop_oneof![
        3 => exchange,
        1 => (select(EXCHANGES), any::<bool>()).prop_map(|(n, unused)| Op::DeleteExchange(n, unused)),
        3 => queue,
        1 => select(QUEUES).prop_map(Op::DeleteQueue),
        12 => binding().prop_map(Op::Bind),
        4 => binding().prop_map(Op::Unbind),
    ]
}

/// What a topology is, said as plainly as can be.
#[derive(Clone, Debug, Default)]
struct Model {
    exchanges: BTreeMap<Arc<str>, ExchangeDef>,
    queues: BTreeMap<Arc<str>, QueueId>,
    auto_delete_queues: BTreeSet<Arc<str>>,
    bindings: Vec<BindingDef>,
}

impl Model {
    fn new() -> Model {
        let mut model = Model::default();
        for def in topology().exchanges("/").expect("listed") {
            model.exchanges.insert(def.name.clone(), (**def).clone());
        }
        model
    }

    fn has_ends(&self, binding: &BindingDef) -> bool {
        let destination = match &binding.destination {
            Destination::Queue(name) => self.queues.contains_key(name),
            Destination::Exchange(name) => !name.is_empty() && self.exchanges.contains_key(name),
        };
        !binding.source.is_empty() && self.exchanges.contains_key(&binding.source) && destination
    }

    /// Removes bindings, and what goes with them, until nothing more does.
    fn remove(&mut self, gone: &dyn Fn(&BindingDef) -> bool) {
        let (removed, kept) = self.bindings.drain(..).partition(gone);
        self.bindings = kept;
        let removed: Vec<BindingDef> = removed;
        for BindingDef { source, .. } in removed {
            let spent = self.exchanges.get(&source).is_some_and(|def| def.auto_delete)
                && self.bindings.iter().all(|def| def.source != source);
            if spent {
                self.exchanges.remove(&source);
                self.remove(&|def| def.destination == Destination::Exchange(source.clone()));
            }
        }
    }

    /// Whether `op` succeeds, and its effect if it does.
    fn apply(&mut self, op: &Op, id: QueueId) -> bool {
        match op {
            Op::DeclareExchange(def) if def.name.is_empty() => false,
            Op::DeclareExchange(def) => match self.exchanges.get(&def.name) {
                Some(existing) => existing == def,
                None => self.exchanges.insert(def.name.clone(), def.clone()).is_none(),
            },
            Op::DeleteExchange(name, if_unused) => {
                let used = self.bindings.iter().any(|def| *def.source == **name);
                let there = self.exchanges.contains_key(*name);
                if !there || name.is_empty() || name.starts_with("amq.") || (*if_unused && used) {
                    return false;
                }
                self.exchanges.remove(*name);
                let destination = Destination::Exchange((*name).into());
                self.remove(&|def| *def.source == **name || def.destination == destination);
                true
            }
            Op::DeclareQueue(def) => {
                if self.queues.contains_key(&def.name) {
                    return self.auto_delete_queues.contains(&def.name) == def.auto_delete;
                }
                self.queues.insert(def.name.clone(), id);
                if def.auto_delete {
                    self.auto_delete_queues.insert(def.name.clone());
                }
                true
            }
            Op::DeleteQueue(name) => {
                let there = self.queues.remove(*name).is_some();
                self.auto_delete_queues.remove(*name);
                self.remove(&|def| def.destination == Destination::Queue((*name).into()));
                there
            }
            Op::Bind(def) => {
                let can = self.has_ends(def);
                if can && !self.bindings.contains(def) {
                    self.bindings.push(def.clone());
                }
                can
            }
            Op::Unbind(def) => {
                let can = self.has_ends(def);
                if can {
                    self.remove(&|other| other == def);
                }
                can
            }
        }
    }

    fn follows(&self, binding: &BindingDef, key: &str, headers: &Table) -> bool {
        match self.exchanges[&binding.source].kind {
            ExchangeKind::Direct => *binding.routing_key == *key,
            ExchangeKind::Fanout | ExchangeKind::Deduplication => true,
            ExchangeKind::ConsistentHash => unreachable!("it is tested in a file of its own"),
            ExchangeKind::Topic => naive_match(&binding.routing_key, key),
            ExchangeKind::Headers => {
                let how = binding.arguments.get("x-match").and_then(Value::as_str);
                let how = how.unwrap_or("all");
                let with_x = how.ends_with("-with-x");
                let mut asked =
                    binding.arguments.0.iter().filter(|(name, _)| {
                        name != "x-match" && (with_x || !name.starts_with("x-"))
                    });
                let holds = |(name, value): &(String, Value)| match headers.get(name) {
                    None => false,
                    Some(header) => *value == Value::Null || header == value,
                };
                if how.starts_with("any") { asked.any(holds) } else { asked.all(holds) }
            }
        }
    }

    fn route(&self, exchange: &str, key: &str, headers: &Table) -> Option<Vec<u64>> {
        self.exchanges.get(exchange)?;
        let (mut found, mut visited) = (BTreeSet::new(), BTreeSet::new());
        let mut pending: Vec<Arc<str>> = vec![exchange.into()];
        while let Some(name) = pending.pop() {
            let Some(def) = self.exchanges.get(&name) else { continue };
            if !visited.insert(name.clone()) {
                continue;
            }
            if name.is_empty() {
                found.extend(self.queues.get(key));
                continue;
            }
            let mut any = false;
            for binding in self.bindings.iter().filter(|def| def.source == name) {
                if !self.follows(binding, key, headers) {
                    continue;
                }
                any = true;
                match &binding.destination {
                    Destination::Queue(name) => drop(found.insert(self.queues[name])),
                    Destination::Exchange(name) => pending.push(name.clone()),
                }
            }
            if !any && let Some(alternate) = def.arguments.get("alternate-exchange") {
                pending.push(alternate.as_str().expect("it is text").into());
            }
        }
        Some(found.into_iter().map(|id| id.0).collect())
    }
}

fn apply(topology: &mut Topology, op: &Op, id: QueueId) -> Result<(), TopologyError> {
    match op.clone() {
        Op::DeclareExchange(def) => topology.declare_exchange("/", def).map(drop),
        Op::DeleteExchange(name, unused) => topology.delete_exchange("/", name, unused).map(drop),
        Op::DeclareQueue(def) => topology.declare_queue("/", def, id).map(drop),
        Op::DeleteQueue(name) => topology.delete_queue("/", name).map(drop),
        Op::Bind(def) => topology.bind("/", &def).map(drop),
        Op::Unbind(def) => topology.unbind("/", &def).map(drop),
    }
}

/// All that can be seen of a topology, bindings as a set.
fn check(topology: &Topology, model: &Model, headers: &Table) -> Result<(), TestCaseError> {
    let exchanges: Vec<ExchangeDef> =
        topology.exchanges("/").expect("listed").into_iter().map(|def| (**def).clone()).collect();
    prop_assert_eq!(&exchanges, &model.exchanges.values().cloned().collect::<Vec<_>>());
    let queues = topology.queues("/").expect("listed");
    let listed: BTreeMap<_, _> = queues.iter().map(|q| (q.def.name.clone(), q.id)).collect();
    prop_assert_eq!(&listed, &model.queues);
    prop_assert!(queues.is_sorted_by(|a, b| a.def.name < b.def.name));
    for entry in &queues {
        prop_assert_eq!(topology.queue("/", &entry.def.name), Ok(*entry));
    }

    let bindings: Vec<&BindingDef> = topology.bindings("/").expect("listed").collect();
    prop_assert_eq!(bindings.len(), model.bindings.len());
    prop_assert!(bindings.iter().all(|def| model.bindings.contains(def)));
    prop_assert!(bindings.is_sorted_by_key(|d| (&d.source, &d.destination, &d.routing_key)));
    for name in model.exchanges.keys() {
        let from = topology.bindings_from("/", name).expect("listed").count();
        prop_assert_eq!(from, bindings.iter().filter(|def| def.source == *name).count());
    }
    let queues = model.queues.keys().cloned().map(Destination::Queue);
    for end in queues.chain(model.exchanges.keys().cloned().map(Destination::Exchange)) {
        let to: Vec<_> = topology.bindings_to("/", &end).expect("listed").collect();
        let expected: Vec<_> =
            bindings.iter().filter(|def| def.destination == end).copied().collect();
        prop_assert_eq!(to, expected);
    }

    for exchange in EXCHANGES {
        for key in ROUTED {
            let Some(expected) = model.route(exchange, key, headers) else {
                prop_assert!(topology.exchange("/", exchange).is_err());
                continue;
            };
            prop_assert_eq!(
                route_with(topology, exchange, key, headers),
                expected,
                "from '{}' by '{}'",
                exchange,
                key
            );
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_topology_is_what_the_model_is(
        ops in prop::collection::vec(op(), 0..200),
        headers in arguments(),
    ) {
        let (mut topology, mut model) = (topology(), Model::new());
        let mut earlier = Vec::new();
        for (i, op) in ops.iter().enumerate() {
            if i % 40 == 0 {
                earlier.push((topology.clone(), model.clone()));
            }
            let id = QueueId(1000 - i as u64);
            let applied = apply(&mut topology, op, id);
            prop_assert_eq!(applied.is_ok(), model.apply(op, id), "{:?}: {:?}", op, applied);
        }
        earlier.push((topology, model));
        for (topology, model) in &earlier {
            check(topology, model, &headers)?;
        }
    }

    /// Removals are told in an order that does not depend on how a hasher was seeded.
    #[test]
    fn replicas_agree_on_every_answer(ops in prop::collection::vec(op(), 0..150)) {
        let (mut one, mut two) = (topology(), topology());
        for (i, op) in ops.iter().enumerate() {
            let id = QueueId(i as u64);
            match op {
                Op::DeleteQueue(name) => {
                    prop_assert_eq!(one.delete_queue("/", name), two.delete_queue("/", name));
                }
                Op::DeleteExchange(name, unused) => prop_assert_eq!(
                    one.delete_exchange("/", name, *unused),
                    two.delete_exchange("/", name, *unused)
                ),
                Op::Unbind(def) => prop_assert_eq!(one.unbind("/", def), two.unbind("/", def)),
                op => prop_assert_eq!(apply(&mut one, op, id), apply(&mut two, op, id)),
            }
        }
    }
}
