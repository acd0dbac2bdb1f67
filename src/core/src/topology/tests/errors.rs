//! Each refusal, and its text where clients read it.

use isthmus_model::SessionId;

use super::*;

#[test]
fn what_is_not_there_is_not_found() {
    let mut t = topology();
    t.declare_queue("/", queue("q"), QueueId(1)).expect("declared");
    let not_found = |kind, name: &str| TopologyError::not_found(kind, name, "/");
    let no_exchange = not_found(ResourceKind::Exchange, "x");
    let no_queue = not_found(ResourceKind::Queue, "nq");
    assert_eq!(t.exchange("/", "x"), Err(no_exchange.clone()));
    assert_eq!(t.delete_exchange("/", "x", false), Err(no_exchange.clone()));
    assert_eq!(t.queue("/", "nq"), Err(no_queue.clone()));
    assert_eq!(t.delete_queue("/", "nq"), Err(no_queue.clone()));
    assert_eq!(t.bind("/", &to_queue("x", "", "q")), Err(no_exchange.clone()));
    assert_eq!(t.bind("/", &to_queue("amq.direct", "", "nq")), Err(no_queue.clone()));
    assert_eq!(t.bind("/", &to_exchange("amq.direct", "", "x")), Err(no_exchange.clone()));
    assert_eq!(t.unbind("/", &to_queue("x", "", "nq")), Err(no_exchange.clone()));
    assert_eq!(t.unbind("/", &to_queue("amq.direct", "", "nq")), Err(no_queue.clone()));
    assert_eq!(t.is_durable("/", &to_queue("amq.direct", "", "nq")), Err(no_queue.clone()));
    let routed = t.route("/", "x", &[""], &mut Table::default, &mut Vec::new());
    assert_eq!(routed, Err(no_exchange.clone()));
    assert!(t.bindings_from("/", "x").is_err());
    assert!(t.bindings_to("/", &Destination::Queue("nq".into())).is_err());
    assert_eq!(no_exchange.to_string(), "no exchange 'x' in vhost '/'");

    let no_vhost = TopologyError::not_found(ResourceKind::VirtualHost, "v", "v");
    assert_eq!(t.delete_vhost("v"), Err(no_vhost.clone()));
    assert_eq!(t.declare_queue("v", queue("q"), QueueId(2)), Err(no_vhost.clone()));
    assert_eq!(no_vhost.to_string(), "vhost v not found");
}

#[test]
fn another_declaration_of_a_queue_is_inequivalent() {
    let mut t = topology();
    t.declare_queue("/", queue("q"), QueueId(1)).expect("declared");
    let volatile = QueueDef { lifetime: Lifetime::Volatile, ..queue("q") };
    let error = t.declare_queue("/", volatile, QueueId(2)).expect_err("inequivalent");
    assert_eq!(
        error.to_string(),
        "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is \
         'true'"
    );
    let auto = QueueDef { auto_delete: true, ..queue("q") };
    let error = t.declare_queue("/", auto, QueueId(2)).expect_err("inequivalent");
    assert!(error.to_string().contains("arg 'auto_delete'"), "{error}");
    let limits = table(&[("x-max-length", Value::Int(10)), ("x-expires", Value::Int(5))]);
    let limited = QueueDef { arguments: limits, ..queue("q") };
    let error = t.declare_queue("/", limited, QueueId(2)).expect_err("inequivalent");
    assert_eq!(
        error.to_string(),
        "inequivalent arg 'x-expires' for queue 'q' in vhost '/': received the value '5' of type \
         'signedint' but current is none"
    );
    assert_eq!(t.queues("/").expect("listed").len(), 1);
}

#[test]
fn arguments_are_compared_by_meaning() {
    let mut t = topology();
    let one = table(&[("x-max-length", Value::Int(10)), ("x-overflow", text("drop-head"))]);
    let two = table(&[
        ("x-overflow", Value::Binary(b"drop-head".to_vec())),
        ("x-max-length", Value::Uint(10)),
    ]);
    let first = QueueDef { arguments: one, ..queue("q") };
    let again = QueueDef { arguments: two, ..queue("q") };
    assert_eq!(t.declare_queue("/", first, QueueId(7)), Ok(DeclaredQueue::New));
    let existing = DeclaredQueue::Existing(QueueId(7));
    assert_eq!(t.declare_queue("/", again, QueueId(8)), Ok(existing));
}

#[test]
fn another_declaration_of_an_exchange_is_inequivalent() {
    let mut t = topology();
    let def = exchange("x", ExchangeKind::Topic);
    assert_eq!(t.declare_exchange("/", def.clone()), Ok(Declared::New));
    assert_eq!(t.declare_exchange("/", def.clone()), Ok(Declared::Existing));
    let argument = |def: ExchangeDef, t: &mut Topology| match t.declare_exchange("/", def) {
        Err(TopologyError::Inequivalent { argument, existing, given, .. }) => {
            format!("{argument}: {existing}, {given}")
        }
        other => panic!("{other:?}"),
    };
    let kind = ExchangeDef { kind: ExchangeKind::Fanout, durable: false, ..def.clone() };
    assert_eq!(argument(kind, &mut t), "type: 'topic', 'fanout'");
    let durable = ExchangeDef { durable: false, auto_delete: true, ..def.clone() };
    assert_eq!(argument(durable, &mut t), "durable: 'true', 'false'");
    let auto_delete = ExchangeDef { auto_delete: true, internal: true, ..def.clone() };
    assert_eq!(argument(auto_delete, &mut t), "auto_delete: 'false', 'true'");
    let internal = ExchangeDef { internal: true, ..def.clone() };
    assert_eq!(argument(internal, &mut t), "internal: 'false', 'true'");
    let arguments = table(&[("alternate-exchange", text("y"))]);
    let alternate = ExchangeDef { arguments, ..def };
    assert_eq!(
        argument(alternate, &mut t),
        "alternate-exchange: none, the value 'y' of type 'longstr'"
    );
}

#[test]
fn reserved_names_are_the_brokers() {
    let mut t = topology();
    let error = t.declare_exchange("/", exchange("amq.mine", ExchangeKind::Direct));
    assert!(matches!(error, Err(TopologyError::Reserved { kind: ResourceKind::Exchange, .. })));
    let error = t.declare_queue("/", queue("amq.gen-1"), QueueId(1)).expect_err("reserved");
    assert_eq!(error.to_string(), "queue name 'amq.gen-1' contains reserved prefix 'amq.*'");
    let error = t.delete_exchange("/", "amq.topic", false);
    assert!(matches!(error, Err(TopologyError::Reserved { .. })));

    let event = exchange("amq.isthmus.event", ExchangeKind::Topic);
    assert_eq!(t.declare_system_exchange("/", event.clone()), Ok(Declared::New));
    assert_eq!(t.declare_exchange("/", event), Ok(Declared::Existing));
    let again = exchange("amq.topic", ExchangeKind::Topic);
    assert_eq!(t.declare_exchange("/", again), Ok(Declared::Existing));
    let generated = queue("amq.gen-1");
    let declared = t.declare_system_queue("/", generated.clone(), QueueId(1));
    assert_eq!(declared, Ok(DeclaredQueue::New));
    let existing = DeclaredQueue::Existing(QueueId(1));
    assert_eq!(t.declare_queue("/", generated, QueueId(2)), Ok(existing));
    assert!(t.delete_queue("/", "amq.gen-1").is_ok());
}

#[test]
fn the_default_exchange_stays_as_it_is() {
    let mut t = topology();
    t.declare_queue("/", queue("q"), QueueId(1)).expect("declared");
    let refused = TopologyError::DefaultExchange;
    let def = exchange("", ExchangeKind::Direct);
    assert_eq!(t.declare_exchange("/", def), Err(refused.clone()));
    assert_eq!(t.delete_exchange("/", "", false), Err(refused.clone()));
    assert_eq!(t.bind("/", &to_queue("", "k", "q")), Err(refused.clone()));
    assert_eq!(t.unbind("/", &to_queue("", "q", "q")), Err(refused.clone()));
    assert_eq!(t.bind("/", &to_exchange("amq.direct", "k", "")), Err(refused));
    assert!(t.exchange("/", "").expect("it is there").durable);
    assert_eq!(route(&t, "", "q"), [1]);
    assert_eq!(route(&t, "", "k"), [0; 0]);
}

#[test]
fn an_exchange_in_use_stays_if_only_unused_was_asked_for() {
    let mut t = topology();
    t.declare_exchange("/", exchange("x", ExchangeKind::Fanout)).expect("declared");
    t.bind("/", &to_exchange("amq.fanout", "", "x")).expect("bound");
    t.bind("/", &to_exchange("x", "", "amq.direct")).expect("bound");
    let error = t.delete_exchange("/", "x", true).expect_err("in use");
    assert_eq!(error.to_string(), "exchange 'x' in vhost '/' in use");
    t.unbind("/", &to_exchange("x", "", "amq.direct")).expect("unbound");
    // What leads to it does not use it.
    assert!(t.delete_exchange("/", "x", true).is_ok());
}

#[test]
fn an_exclusive_queue_is_its_sessions() {
    let mut t = topology();
    let exclusive =
        |session| QueueDef { lifetime: Lifetime::Exclusive(SessionId(session)), ..queue("q") };
    t.declare_queue("/", exclusive(1), QueueId(1)).expect("declared");
    let existing = DeclaredQueue::Existing(QueueId(1));
    assert_eq!(t.declare_queue("/", exclusive(1), QueueId(2)), Ok(existing));
    let locked = TopologyError::Locked { queue: "q".into(), vhost: "/".into() };
    assert_eq!(t.declare_queue("/", exclusive(2), QueueId(2)), Err(locked.clone()));
    assert_eq!(t.declare_queue("/", queue("q"), QueueId(2)), Err(locked.clone()));
    assert_eq!(t.queue_for("/", "q", SessionId(2)), Err(locked.clone()));
    assert!(t.queue_for("/", "q", SessionId(1)).is_ok());
    assert!(locked.to_string().starts_with(
        "cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally"
    ));
    t.delete_queue("/", "q").expect("deleted");
    t.declare_queue("/", queue("q"), QueueId(3)).expect("declared");
    assert_eq!(t.declare_queue("/", exclusive(1), QueueId(4)), Err(locked));
}

#[test]
fn bindings_that_an_exchange_cannot_route_by_are_refused() {
    let mut t = topology();
    t.declare_queue("/", queue("q"), QueueId(1)).expect("declared");
    for value in [text("some"), Value::Int(1)] {
        let arguments = table(&[("x-match", value)]);
        let binding = BindingDef { arguments, ..to_queue("amq.headers", "", "q") };
        let error = t.bind("/", &binding);
        assert!(matches!(error, Err(TopologyError::InvalidMatch { .. })), "{error:?}");
        let elsewhere = BindingDef { source: "amq.direct".into(), ..binding };
        assert_eq!(t.bind("/", &elsewhere), Ok(Declared::New));
    }
    let most = vec!["w"; WORDS_MAX].join(".");
    assert_eq!(t.bind("/", &to_queue("amq.topic", &most, "q")), Ok(Declared::New));
    let error = t.bind("/", &to_queue("amq.topic", &format!("{most}.w"), "q"));
    assert_eq!(error, Err(TopologyError::TooManyWords { words: WORDS_MAX + 1 }));
    assert_eq!(route(&t, "amq.topic", &most), [1]);
}
