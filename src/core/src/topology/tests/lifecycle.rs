//! Declaring, deleting, and what goes with what.

use isthmus_model::SessionId;

use super::*;

fn auto_delete(name: &str) -> ExchangeDef {
    ExchangeDef { auto_delete: true, ..exchange(name, ExchangeKind::Fanout) }
}

fn names(exchanges: &[Arc<ExchangeDef>]) -> Vec<&str> {
    exchanges.iter().map(|def| &*def.name).collect()
}

#[test]
fn a_virtual_host_has_its_exchanges_and_keeps_to_itself() {
    let mut t = topology();
    assert_eq!(t.declare_vhost("/"), Declared::Existing);
    assert_eq!(t.declare_vhost("a"), Declared::New);
    let listed: Vec<_> =
        t.exchanges("a").expect("listed").iter().map(|def| def.name.to_string()).collect();
    let all = ["", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.topic"];
    assert_eq!(listed, all);
    t.declare_queue("a", queue("q2"), QueueId(2)).expect("declared");
    t.declare_queue("a", queue("q1"), QueueId(5)).expect("declared");
    t.declare_queue("/", queue("q1"), QueueId(1)).expect("declared");
    assert_eq!(t.vhosts().iter().map(|name| &***name).collect::<Vec<_>>(), ["/", "a"]);

    let before = t.clone();
    let gone = t.delete_vhost("a").expect("deleted");
    assert_eq!(gone.iter().map(|entry| entry.id.0).collect::<Vec<_>>(), [5, 2]);
    assert!(t.queue("a", "q1").is_err());
    assert_eq!(route(&t, "", "q1"), [1]);
    assert_eq!(before.queue("a", "q1").map(|entry| entry.id), Ok(QueueId(5)));
}

#[test]
fn binding_and_unbinding_may_be_repeated() {
    let mut t = topology();
    t.declare_queue("/", queue("q"), QueueId(1)).expect("declared");
    let arguments = |width| table(&[("a", width), ("b", Value::Null)]);
    let binding = |arguments| BindingDef { arguments, ..to_queue("amq.direct", "k", "q") };
    assert_eq!(t.bind("/", &binding(arguments(Value::Int(1)))), Ok(Declared::New));
    assert_eq!(t.bind("/", &binding(arguments(Value::Uint(1)))), Ok(Declared::Existing));
    assert_eq!(t.bind("/", &binding(Table::default())), Ok(Declared::New));
    assert_eq!(t.bindings("/").expect("listed").count(), 2);
    let removed = t.unbind("/", &binding(Table::default())).expect("unbound");
    assert_eq!(removed.bindings, [binding(Table::default())]);
    assert!(t.unbind("/", &binding(Table::default())).expect("unbound").is_empty());
    // The other one still leads there.
    assert_eq!(route(&t, "amq.direct", "k"), [1]);
    t.unbind("/", &binding(arguments(Value::Uint(1)))).expect("unbound");
    assert_eq!(route(&t, "amq.direct", "k"), [0; 0]);
}

#[test]
fn an_exchange_goes_with_its_last_binding_as_source() {
    let mut t = topology();
    t.declare_queue("/", queue("q"), QueueId(1)).expect("declared");
    for name in ["c", "b", "a"] {
        t.declare_exchange("/", auto_delete(name)).expect("declared");
    }
    t.bind("/", &to_exchange("a", "", "b")).expect("bound");
    t.bind("/", &to_exchange("b", "", "c")).expect("bound");
    t.bind("/", &to_queue("c", "1", "q")).expect("bound");
    t.bind("/", &to_queue("c", "2", "q")).expect("bound");
    t.bind("/", &to_exchange("amq.fanout", "", "c")).expect("bound");
    assert_eq!(route(&t, "a", ""), [1]);
    // One that never had a binding stays.
    t.declare_exchange("/", auto_delete("idle")).expect("declared");

    let first = t.unbind("/", &to_queue("c", "1", "q")).expect("unbound");
    assert!(first.exchanges.is_empty());
    let last = t.unbind("/", &to_queue("c", "2", "q")).expect("unbound");
    assert_eq!(names(&last.exchanges), ["c", "b", "a"]);
    assert_eq!(
        last.bindings,
        [
            to_queue("c", "2", "q"),
            to_exchange("amq.fanout", "", "c"),
            to_exchange("b", "", "c"),
            to_exchange("a", "", "b"),
        ]
    );
    assert!(t.exchange("/", "idle").is_ok());
    assert_eq!(t.bindings("/").expect("listed").count(), 0);
}

#[test]
fn deleting_a_queue_takes_its_bindings_and_their_spent_sources() {
    let mut t = topology();
    t.declare_queue("/", queue("q"), QueueId(1)).expect("declared");
    t.declare_queue("/", queue("r"), QueueId(2)).expect("declared");
    for name in ["z", "y", "x"] {
        t.declare_exchange("/", auto_delete(name)).expect("declared");
        t.bind("/", &to_queue(name, "", "q")).expect("bound");
    }
    t.bind("/", &to_queue("y", "", "r")).expect("bound");
    let before = t.clone();
    let removed = t.delete_queue("/", "q").expect("deleted");
    assert_eq!(removed.queue.as_ref().map(|entry| entry.id), Some(QueueId(1)));
    assert_eq!(names(&removed.exchanges), ["x", "z"]);
    assert_eq!(removed.bindings, ["x", "y", "z"].map(|name| to_queue(name, "", "q")));
    assert_eq!(route(&t, "y", ""), [2]);
    assert_eq!(route(&before, "x", ""), [1]);
    assert_eq!(route(&before, "y", ""), [1, 2]);
}

#[test]
fn an_exchange_bound_to_itself_can_be_deleted() {
    let mut t = topology();
    t.declare_exchange("/", auto_delete("x")).expect("declared");
    t.declare_exchange("/", auto_delete("y")).expect("declared");
    t.bind("/", &to_exchange("x", "", "x")).expect("bound");
    t.bind("/", &to_exchange("x", "", "y")).expect("bound");
    t.bind("/", &to_exchange("y", "", "x")).expect("bound");
    let removed = t.delete_exchange("/", "x", false).expect("deleted");
    assert_eq!(removed.bindings.len(), 3);
    assert_eq!(names(&removed.exchanges), ["x", "y"]);
}

#[test]
fn a_binding_is_as_durable_as_its_ends() {
    let mut t = topology();
    let volatile = ExchangeDef { durable: false, ..exchange("v", ExchangeKind::Direct) };
    t.declare_exchange("/", volatile).expect("declared");
    t.declare_exchange("/", exchange("d", ExchangeKind::Direct)).expect("declared");
    t.declare_queue("/", queue("dq"), QueueId(1)).expect("declared");
    let exclusive = Lifetime::Exclusive(SessionId(1));
    for (name, lifetime, id) in [("vq", Lifetime::Volatile, 2), ("eq", exclusive, 3)] {
        let def = QueueDef { lifetime, ..queue(name) };
        t.declare_queue("/", def, QueueId(id)).expect("declared");
    }
    let durable = |binding: &BindingDef| t.is_durable("/", binding).expect("its ends are there");
    assert!(durable(&to_queue("d", "", "dq")));
    assert!(!durable(&to_queue("d", "", "vq")));
    assert!(!durable(&to_queue("d", "", "eq")));
    assert!(!durable(&to_queue("v", "", "dq")));
    assert!(durable(&to_exchange("d", "", "amq.topic")));
    assert!(!durable(&to_exchange("d", "", "v")));
}

#[test]
fn a_part_loses_what_the_whole_lost_and_no_more() {
    let mut whole = topology();
    whole.declare_queue("/", queue("q"), QueueId(1)).expect("declared");
    whole.declare_exchange("/", auto_delete("x")).expect("declared");
    whole.bind("/", &to_queue("x", "1", "q")).expect("bound");
    let mut part = whole.clone();
    let volatile = QueueDef { lifetime: Lifetime::Volatile, ..queue("v") };
    whole.declare_queue("/", volatile, QueueId(2)).expect("declared");
    whole.bind("/", &to_queue("x", "", "v")).expect("bound");

    let removed = whole.unbind("/", &to_queue("x", "1", "q")).expect("unbound");
    let gone = part.retract("/", &removed).expect("retracted");
    assert_eq!(gone, removed);
    assert!(part.exchange("/", "x").is_ok(), "the whole has a binding left");
    let removed = whole.delete_queue("/", "v").expect("deleted");
    assert_eq!(names(&removed.exchanges), ["x"]);
    let gone = part.retract("/", &removed).expect("retracted");
    assert_eq!((names(&gone.exchanges), gone.queue, gone.bindings), (vec!["x"], None, vec![]));

    let removed = whole.delete_queue("/", "q").expect("deleted");
    part.retract("/", &removed).expect("retracted");
    part.declare_queue("/", queue("q"), QueueId(3)).expect("declared");
    assert!(part.retract("/", &removed).expect("retracted").is_empty());
    assert_eq!(route(&part, "", "q"), [3]);
}
