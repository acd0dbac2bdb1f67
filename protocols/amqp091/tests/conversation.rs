//! Whole conversations, at every split of their bytes.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, basic, channel, connection, queue, tx};
use amq_protocol::types::{AMQPValue, FieldTable};
use common::*;

/// A typical conversation: what a client sends before it waits, step by step.
fn script() -> Vec<Vec<u8>> {
    let mut steps = handshake();
    let headers = table(&[
        ("trace", AMQPValue::LongString("a-b".into())),
        ("n", AMQPValue::LongInt(7)),
        ("nested", AMQPValue::FieldTable(table(&[("x", AMQPValue::Boolean(true))]))),
    ]);
    let rich = persistent()
        .with_headers(headers)
        .with_content_type("text/plain".into())
        .with_expiration("60000".into())
        .with_priority(4)
        .with_user_id("guest".into())
        .with_message_id("m-1".into());
    let qos = basic::Qos { prefetch_count: 10, global: false };
    let mandatory = basic::Publish { mandatory: true, ..to("nowhere", "k") };
    let unbind = queue::Unbind {
        queue: "q".into(),
        exchange: "amq.topic".into(),
        routing_key: "a.#".into(),
        arguments: FieldTable::default(),
    };
    steps.extend([
        [channel_open(1), channel_open(2)].concat(),
        [confirm_select(1), declare_queue(1, "q", FieldTable::default())].concat(),
        queue_method(1, queue::AMQPMethod::Unbind(unbind)),
        basic_method(2, basic::AMQPMethod::Qos(qos)),
        [
            publish(1, "", "q", b"one"),
            publish(1, "", "q", b""),
            publish_with(1, to("", "q"), rich, &[b'x'; 700], 300),
            publish(2, "", "q", b"of another channel"),
            publish_with(1, mandatory, persistent(), b"returned", 100),
            publish(1, "full", "k", b"refused"),
            publish(1, "", "q", b"last"),
        ]
        .concat(),
        [get(2, "q"), get(2, "q")].concat(),
        consume(2, "q", "tag", false),
        [publish(1, "", "q", b"straight through"), publish(1, "", "q", &[b'y'; 100])].concat(),
        [ack(2, 1, false), ack(2, 2, false), nack(2, 3, false, true), ack(2, 0, true)].concat(),
        [
            basic_method(
                2,
                basic::AMQPMethod::Cancel(basic::Cancel {
                    consumer_tag: "tag".into(),
                    nowait: false,
                }),
            ),
            get(2, "q"),
        ]
        .concat(),
        channel_method(2, close_channel()),
        connection_method(0, close_connection()),
    ]);
    steps
}

fn close_channel() -> channel::AMQPMethod {
    channel::AMQPMethod::Close(channel::Close {
        reply_code: 200,
        reply_text: "bye".into(),
        class_id: 0,
        method_id: 0,
    })
}

fn close_connection() -> connection::AMQPMethod {
    connection::AMQPMethod::Close(connection::Close {
        reply_code: 200,
        reply_text: "bye".into(),
        class_id: 0,
        method_id: 0,
    })
}

/// Confirms by tag, and every other frame in order of its channel: what batches cannot change.
fn digest(output: &[u8]) -> (Vec<(u64, bool)>, Vec<Vec<AMQPFrame>>) {
    let mut confirms = Vec::new();
    let mut told = 0;
    let mut frames = vec![Vec::new(); 3];
    for frame in parse(output) {
        let run = match &frame {
            AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Ack(a))) => {
                Some((a.delivery_tag, a.multiple, true))
            }
            AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Nack(n))) => {
                Some((n.delivery_tag, n.multiple, false))
            }
            _ => None,
        };
        if let Some((last, multiple, taken)) = run {
            let first = if multiple { told + 1 } else { last };
            confirms.extend((first..=last).map(|tag| (tag, taken)));
            told = last;
            continue;
        }
        let channel = match &frame {
            AMQPFrame::Method(c, _) | AMQPFrame::Header(c, _) | AMQPFrame::Body(c, _) => *c,
            other => panic!("unexpected {other:?}"),
        };
        frames[usize::from(channel)].push(frame);
    }
    (confirms, frames)
}

fn run(steps: &[Vec<u8>], split: impl Fn(usize, &[u8]) -> Vec<Vec<u8>>) -> Rig {
    let mut rig = Rig::new();
    for (i, step) in steps.iter().enumerate() {
        for piece in split(i, step) {
            rig.send(&piece);
        }
    }
    rig
}

#[test]
fn every_split_of_the_input_gives_the_same() {
    let steps = script();
    let whole = run(&steps, |_, step| vec![step.to_vec()]);
    let (confirms, frames) = digest(&whole.output);
    let expected: Vec<(u64, bool)> = (1..=8).map(|tag| (tag, tag != 5)).collect();
    assert_eq!(confirms, expected);
    let check = |rig: &Rig, what: &str| {
        assert!(isthmus_contract::Session::is_closed(&rig.session), "{what}");
        // When the broker's answer makes a get detach depends on what else was read by then.
        let detached = |l: &&String| l.starts_with("Detach");
        let asked = |rig: &Rig| -> Vec<String> {
            rig.broker.log.iter().filter(|l| !detached(l)).cloned().collect()
        };
        same(&asked(rig), &asked(&whole), what);
        let detaches = |rig: &Rig| rig.broker.log.iter().filter(detached).count();
        assert_eq!(detaches(rig), detaches(&whole), "{what}");
        let (c, f) = digest(&rig.output);
        same(&c, &confirms, what);
        for (f, frames) in f.iter().zip(&frames) {
            same(f, frames, what);
        }
    };
    check(&whole, "whole");
    for (n, step) in steps.iter().enumerate() {
        for at in 1..step.len() {
            let rig = run(&steps, |i, step| {
                if i == n {
                    vec![step[..at].to_vec(), step[at..].to_vec()]
                } else {
                    vec![step.to_vec()]
                }
            });
            check(&rig, &format!("step {n} split at {at}"));
        }
    }
    for piece in [1, 2, 7, 8, 64] {
        let rig = run(&steps, |_, step| step.chunks(piece).map(<[u8]>::to_vec).collect());
        check(&rig, &format!("pieces of {piece}"));
    }
}

/// Fails with the first difference only.
fn same<T: PartialEq + std::fmt::Debug>(got: &[T], expected: &[T], what: &str) {
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got, expected, "{what}, entry {i}");
    }
    assert_eq!(got.len(), expected.len(), "{what}");
}

fn bodies(frames: &[AMQPFrame]) -> Vec<Vec<u8>> {
    let body = |f: &AMQPFrame| match f {
        AMQPFrame::Body(_, body) => Some(body.clone()),
        _ => None,
    };
    frames.iter().filter_map(body).collect()
}

#[test]
fn a_large_message_is_split_at_the_negotiated_frame_size() {
    let mut rig = Rig::new();
    for step in
        [b"AMQP\0\0\x09\x01".to_vec(), start_ok("guest", "guest"), tune_ok(4096, 0), open("/")]
    {
        rig.send(&step);
    }
    rig.send(&[channel_open(1), declare_queue(1, "q", FieldTable::default())].concat());
    rig.send(&consume(1, "q", "t", true));
    rig.take();
    let body: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    rig.send(&publish_with(1, to("", "q"), persistent(), &body, 4088));
    let frames = rig.take();
    let pieces = bodies(&frames);
    assert!(pieces.iter().all(|p| p.len() <= 4088));
    assert_eq!(pieces.concat(), body);
}

#[test]
fn a_rollback_leaves_acknowledgements_to_be_given_again() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    rig.send(&publish(1, "", "q", b"a"));
    rig.send(&publish(1, "", "q", b"b"));
    rig.send(&consume(1, "q", "t", false));
    rig.send(&tx_method(1, tx::AMQPMethod::Select(tx::Select {})));
    rig.send(&[ack(1, 1, false), publish(1, "nowhere", "k", b"c")].concat());
    rig.send(&tx_method(1, tx::AMQPMethod::Rollback(tx::Rollback {})));
    assert!(!rig.broker.log.iter().any(|l| l.starts_with("settle")));
    rig.send(&ack(1, 0, true));
    rig.take();
    rig.send(&tx_method(1, tx::AMQPMethod::Commit(tx::Commit {})));
    assert!(matches!(rig.method(), AMQPClass::Tx(tx::AMQPMethod::CommitOk(_))));
    let settled: Vec<_> = rig.broker.log.iter().filter(|l| l.starts_with("settle")).collect();
    assert_eq!(settled.len(), 2, "{settled:?}");
    assert!(settled.iter().all(|l| l.ends_with("Accept Some(TransactionId(1))")));
}

#[test]
fn acknowledgements_in_one_read_are_one_command() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    rig.send(&consume(1, "q", "t", false));
    let messages: Vec<u8> = (0..10).flat_map(|_| publish(1, "", "q", b"m")).collect();
    rig.send(&messages);
    let acks: Vec<u8> = (1..=10).flat_map(|tag| ack(1, tag, false)).collect();
    rig.input.extend(&acks);
    let Rig { session, input, now, .. } = &mut rig;
    let session: &mut dyn isthmus_contract::Session = session;
    session.handle_bytes(*now, input);
    let Some(isthmus_contract::Command::Settle { settlements, .. }) = session.poll_command() else {
        panic!("no settlement");
    };
    assert_eq!((settlements.len(), settlements[0].len), (1, 10));
    assert!(session.poll_command().is_none());
}

#[test]
fn what_a_closed_channel_holds_goes_back() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    rig.send(&[publish(1, "", "q", b"a"), publish(1, "", "q", b"b")].concat());
    rig.send(&consume(1, "q", "t", false));
    rig.broker.log.clear();
    rig.take();
    rig.send(&channel_method(1, close_channel()));
    assert!(rig.broker.log[0].starts_with("Detach"), "{:?}", rig.broker.log);
    assert!(rig.broker.log[1].ends_with("2 Requeue None"), "{:?}", rig.broker.log);
    assert!(rig.broker.log[2].ends_with("1 Requeue None"), "{:?}", rig.broker.log);
    assert!(matches!(rig.method(), AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))));
    rig.send(&channel_open(1));
    assert!(matches!(rig.method(), AMQPClass::Channel(channel::AMQPMethod::OpenOk(_))));
}
