use clap::CommandFactory;

use super::*;

fn plan(flags: &str) -> Result<Plan, String> {
    let words = ["isthmus-bench", "run"].into_iter().chain(flags.split_whitespace());
    match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
        Command::Run(args) => args.plan(),
        Command::Connect(_) => unreachable!("the command is run"),
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn what_is_not_given_follows_from_what_is() {
    let first = plan("amqp://h").expect("a plan");
    assert_eq!((first.producers, first.consumers, first.window), (1, 1, 0));
    assert_eq!(first.length, Length::Time(Duration::from_secs(10)));
    assert_eq!(first.ahead, Some(20_000));
    let fan = plan("mqtt://h --fan-out 100 --qos 1 --messages 5").expect("a plan");
    assert_eq!((fan.consumers, fan.window, fan.warm_up), (100, 256, Duration::ZERO));
    assert_eq!((fan.ahead, plan("mqtt://h").expect("a plan").ahead), (Some(500), Some(5000)));
    let paced = plan("stomp://h --rate 10:3s,20:4s").expect("a plan");
    assert_eq!((paced.length, paced.ahead), (Length::Time(Duration::from_secs(7)), None));
    let each = plan("amqp://h -p 4 --rate-each 100").expect("a plan").schedule.expect("paced");
    assert_eq!(each.time_of(400), Some(Duration::from_secs(1)));
}

#[test]
fn names_and_shares() {
    let plan = plan("amqp://h -a 2 --fan-out 3 --name q.{n} --run-id 0000002a").expect("a plan");
    assert_eq!((plan.name(1), plan.queue(1, 2)), ("q.1".to_owned(), "q.1.2".to_owned()));
    let mut all: Vec<(usize, Vec<usize>)> = (0..6).map(|n| plan.consumer_addresses(n)).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6, "each consumer has a queue of its own");
}

#[test]
fn errors_say_what_to_write() {
    for (flags, part) in [
        ("", "URL"),
        ("amqp://h stomp://h", "not nodes of one broker"),
        ("amqp://h nonsense", "URL 2: the URL has no scheme"),
        ("amqp://h --qos 1", "--qos is for mqtt, and the URL says amqp"),
        ("mqtt://h --persistent", "--persistent is for amqp and stomp"),
        ("mqtt://h --window 5", "--qos 1"),
        ("mqtt://h --qos 1 --window 0", "1 to 65535"),
        ("mqtt://h --qos 3", "0..=2"),
        ("amqp://h --size 8", "--no-check"),
        ("amqp://h --size big", "write bytes"),
        ("amqp://h --rate fast", "is no rate"),
        ("amqp://h -a 3 -p 2", "multiple of --producers"),
        ("amqp://h --fan-out 3 -c 2", "needs 3 consumers"),
        ("amqp://h -a 2 --name q", "put {n} in it"),
        ("amqp://h --ack-every 2000", "above --prefetch"),
        ("amqp://h -p 0", "--run-id"),
        ("amqp://h -p 0 -c 0", "nothing to do"),
        ("amqp://h --run-id 7", "eight hexadecimal digits"),
        ("amqp://h --queue-arg x", "NAME=VALUE"),
        ("amqp://h --mqtt 3.1.1", "--mqtt 3.1.1 is for mqtt"),
    ] {
        let error = plan(flags).map(|_| ()).expect_err(flags);
        assert!(error.contains(part), "{flags}: {error}");
    }
}

#[test]
fn a_password_is_in_no_error() {
    for flags in
        ["amqp://u:secret@h stomp://u:secret@h", "amqp://u:secret@h --qos 1", "amqp://u:secret@"]
    {
        let error = plan(flags).map(|_| ()).expect_err(flags);
        assert!(!error.contains("secret"), "{error}");
    }
}
