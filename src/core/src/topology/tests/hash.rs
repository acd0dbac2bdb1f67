//! Consistent hash exchanges: one target, in proportion to the weights, and as few moves as can be.

use std::collections::BTreeMap;

use super::*;

/// A topology with the consistent hash exchange `h`.
fn with_exchange(arguments: Table) -> Topology {
    let mut t = topology();
    let def = ExchangeDef { arguments, ..exchange("h", ExchangeKind::ConsistentHash) };
    t.declare_exchange("/", def).expect("declared");
    t
}

/// Declares a queue and binds it with a weight.
fn add(t: &mut Topology, id: u64, weight: &str) {
    let name = format!("q{id}");
    t.declare_queue("/", queue(&name), QueueId(id)).expect("declared");
    t.bind("/", &to_queue("h", weight, &name)).expect("bound");
}

/// Where each of `count` keys goes.
fn spread(t: &Topology, count: usize) -> Vec<u64> {
    let one = |n| match route(t, "h", &format!("key-{n}"))[..] {
        [only] => only,
        ref all => panic!("key-{n} goes to {all:?}"),
    };
    (0..count).map(one).collect()
}

fn shares(targets: &[u64]) -> BTreeMap<u64, usize> {
    let mut shares = BTreeMap::new();
    for target in targets {
        *shares.entry(*target).or_default() += 1;
    }
    shares
}

#[test]
fn every_queue_gets_what_its_weight_says() {
    let mut t = with_exchange(Table::default());
    let weights = [(1, 1), (2, 1), (3, 2), (4, 5), (5, 11)];
    for (id, weight) in weights {
        add(&mut t, id, &weight.to_string());
    }
    let count = 40_000;
    let shares = shares(&spread(&t, count));
    for (id, weight) in weights {
        let expected = count * weight / 20;
        let off = shares[&id].abs_diff(expected) as f64 / expected as f64;
        assert!(off < 0.08, "queue {id} of weight {weight} got {}, not {expected}", shares[&id]);
    }
}

#[test]
fn a_queue_that_comes_takes_messages_for_itself_only_and_gives_them_back_when_it_goes() {
    for weight in ["1", "3"] {
        let mut t = with_exchange(Table::default());
        (1..=9).for_each(|id| add(&mut t, id, ["1", "2"][id as usize % 2]));
        let before = spread(&t, 10_000);
        add(&mut t, 10, weight);
        let after = spread(&t, 10_000);
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || *after == 10));
        let moved = after.iter().filter(|target| **target == 10).count();
        let weight: usize = weight.parse().expect("a number");
        let expected = 10_000 * weight / (14 + weight);
        assert!(moved.abs_diff(expected) < expected / 5, "{moved} moved, not {expected}");
        t.delete_queue("/", "q10").expect("deleted");
        assert_eq!(spread(&t, 10_000), before);
        t.delete_queue("/", "q3").expect("deleted");
        let without = spread(&t, 10_000);
        assert!(before.iter().zip(&without).all(|(b, w)| (b == w) == (*b != 3)));
    }
}

#[test]
fn a_greater_weight_only_adds_and_of_several_bindings_the_greatest_counts() {
    let mut t = with_exchange(Table::default());
    (1..=4).for_each(|id| add(&mut t, id, "2"));
    let before = spread(&t, 5000);
    t.bind("/", &to_queue("h", "1", "q2")).expect("bound");
    assert_eq!(spread(&t, 5000), before);
    t.bind("/", &to_queue("h", "6", "q2")).expect("bound");
    let after = spread(&t, 5000);
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || *after == 2));
    let share = shares(&after)[&2];
    assert!(share.abs_diff(2500) < 200, "{share} of 5000");
    t.unbind("/", &to_queue("h", "6", "q2")).expect("unbound");
    t.unbind("/", &to_queue("h", "2", "q2")).expect("unbound");
    let share = shares(&spread(&t, 5000))[&2];
    assert!(share.abs_diff(5000 / 7) < 100, "{share} of 5000");
}

#[test]
fn where_a_message_goes_depends_on_names_and_weights_alone() {
    let mut one = with_exchange(Table::default());
    [(1, "1"), (2, "1"), (3, "4")].into_iter().for_each(|(id, w)| add(&mut one, id, w));
    let mut two = with_exchange(Table::default());
    add(&mut two, 9, "1");
    for (name, id, weight) in [("q3", 30, "4"), ("q2", 20, "1"), ("q1", 10, "1")] {
        two.declare_queue("/", queue(name), QueueId(id)).expect("declared");
        two.bind("/", &to_queue("h", weight, name)).expect("bound");
    }
    two.delete_queue("/", "q9").expect("deleted");
    let tenfold: Vec<u64> = spread(&one, 1000).iter().map(|id| id * 10).collect();
    assert_eq!(spread(&two, 1000), tenfold);
    // What every version before this one answered.
    assert_eq!(spread(&one, 12), GOLDEN);
}

const GOLDEN: [u64; 12] = [3, 3, 3, 3, 2, 3, 3, 3, 1, 3, 2, 3];

#[test]
fn exchanges_can_be_destinations_and_several_keys_go_to_one_place() {
    let mut t = with_exchange(Table::default());
    t.declare_exchange("/", exchange("f", ExchangeKind::Fanout)).expect("declared");
    add(&mut t, 1, "1");
    t.declare_queue("/", queue("behind"), QueueId(2)).expect("declared");
    t.bind("/", &to_exchange("h", "1", "f")).expect("bound");
    t.bind("/", &to_queue("f", "", "behind")).expect("bound");
    let shares = shares(&spread(&t, 2000));
    assert!(shares[&1].abs_diff(1000) < 150 && shares[&1] + shares[&2] == 2000, "{shares:?}");
    for n in 0..50 {
        let key = format!("key-{n}");
        let mut out = Vec::new();
        let keys = [&*key, "key-0", "key-1", "key-2", "key-3"];
        t.route("/", "h", &keys, &mut Table::default, &mut out).expect("routed");
        assert_eq!(out.iter().map(|id| id.0).collect::<Vec<_>>(), route(&t, "h", &key));
    }
}

/// Answers with headers and properties of the same names and values.
struct Named<'a>(&'a str, &'a str);

impl Properties for Named<'_> {
    fn headers(&mut self) -> Table {
        table(&[(self.0, text(self.1))])
    }

    fn property(&mut self, name: &str) -> Option<String> {
        (name == self.0).then(|| self.1.into())
    }
}

#[test]
fn a_header_or_a_property_is_hashed_instead_of_the_key_where_the_exchange_says_so() {
    let by_key = |t: &mut Topology| {
        (1..=8).for_each(|id| add(t, id, "1"));
        spread(t, 50)
    };
    let expected = by_key(&mut with_exchange(Table::default()));
    for (argument, name) in [("hash-header", "who"), ("hash-property", "message_id")] {
        let mut t = with_exchange(table(&[(argument, text(name))]));
        (1..=8).for_each(|id| add(&mut t, id, "1"));
        let routed = |named: &str, value: &str, key: &str| {
            let mut out = Vec::new();
            t.route("/", "h", &[key], &mut Named(named, value), &mut out).expect("routed");
            assert_eq!(out.len(), 1);
            out[0].0
        };
        let same = (0..50).map(|n| routed(name, &format!("key-{n}"), "ignored"));
        assert_eq!(same.collect::<Vec<_>>(), expected, "by {argument}");
        // Messages without it go to one place.
        assert_eq!(routed("other", "a", "b"), routed("another", "c", "d"));
    }
}

#[test]
fn senseless_arguments_and_weights_are_refused() {
    let declare = |fields: &[(&str, Value)]| {
        let def =
            ExchangeDef { arguments: table(fields), ..exchange("x", ExchangeKind::ConsistentHash) };
        topology().declare_exchange("/", def).map_err(|error| error.to_string())
    };
    let (header, property) =
        (("hash-header", text("a")), ("hash-property", text("correlation_id")));
    assert!(declare(std::slice::from_ref(&header)).is_ok());
    assert!(declare(std::slice::from_ref(&property)).is_ok());
    let both = "hash-header and hash-property are mutually exclusive";
    assert_eq!(declare(&[header, property]), Err(both.into()));
    let unknown = declare(&[("hash-property", text("priority"))]);
    assert_eq!(unknown, Err("Unsupported property: priority".into()));
    assert!(declare(&[("hash-header", Value::Int(1))]).is_err());

    let mut t = with_exchange(Table::default());
    t.declare_queue("/", queue("q"), QueueId(1)).expect("declared");
    for key in ["", "0", "-1", "often"] {
        assert!(t.bind("/", &to_queue("h", key, "q")).is_err(), "'{key}'");
    }
    assert_eq!(route(&t, "h", "k"), [0; 0]);
}

#[test]
fn without_bindings_a_message_goes_to_the_alternate() {
    let mut t = with_exchange(table(&[("alternate-exchange", text("amq.fanout"))]));
    t.declare_queue("/", queue("spare"), QueueId(7)).expect("declared");
    t.bind("/", &to_queue("amq.fanout", "", "spare")).expect("bound");
    assert_eq!(route(&t, "h", "k"), [7]);
    add(&mut t, 1, "1");
    assert_eq!(route(&t, "h", "k"), [1]);
}
