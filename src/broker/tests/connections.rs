//! How a connection behaves: what holds it back and what does not, and how it ends.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::client::{Client, Manners, bodies, window};
use common::disk::{Gate, Watched};
use common::{Node, Setup, eventually, in_jumping_time, patiently};
use isthmus_broker::storage::SimStorage;
use isthmus_contract::{CloseReason, Credit, Event};
use isthmus_model::{Outcome, Time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A broker whose log's syncs can be held up.
fn gated(setup: &Setup) -> (Node, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let node = setup.start(Arc::new(Watched::gated(&SimStorage::new(1), &gate))).unwrap();
    (node, gate)
}

fn roomy() -> Setup {
    let mut setup = Setup::default();
    setup.log.segment_bytes = 1 << 20;
    setup.log.entry_bytes_max = 8 << 20;
    setup.checkpoint_after_bytes = u64::MAX;
    setup.unpaged_bytes_max = u64::MAX;
    setup
}

/// Lets everything happen that can happen without a commit.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

#[tokio::test]
async fn a_publisher_waits_for_confirms_and_nobody_else_waits_for_it() {
    let (node, gate) = gated(&Setup { publish_bytes_max: 4 << 10, ..roomy() });
    let mut publisher = Client::connect(&node.broker).await;
    let mut consumer = Client::connect(&node.broker).await;
    publisher.declare("q").await;
    publisher.publish("q", &[vec![1; 10]]).await;
    consumer.consume("q", 1, window(10)).await;
    let delivered = consumer.deliveries().await;
    gate.shut();
    for _ in 0..20 {
        publisher.publish_later("q", &[vec![0; 1000]], None).await;
        // Each is read by itself, as larger ones would be.
        a_moment().await;
    }
    let waiting = publisher.unheard();
    assert!((10..20).contains(&waiting), "{waiting} of 20 commands are not taken");
    // What frees is not held up by what waits.
    let settled = consumer.settle(&delivered, Outcome::Accept).await;
    a_moment().await;
    assert_eq!(consumer.unheard(), 0);
    gate.open();
    consumer.answer_to(settled).await.unwrap();
    eventually("the rest is taken", || publisher.unheard() == 0).await;
    let mut received = 0;
    while received < 20 {
        let deliveries = consumer.deliveries().await;
        received += deliveries.iter().map(|d| d.len).sum::<u32>();
        consumer.settle(&deliveries, Outcome::Accept).await;
    }
}

#[tokio::test]
async fn an_entry_does_not_grow_for_as_long_as_the_disk_is_slow() {
    let (node, gate) = gated(&Setup { publish_bytes_max: 64 << 20, ..roomy() });
    let mut client = Client::connect(&node.broker).await;
    client.declare("q").await;
    gate.shut();
    // More entries than may be on their way, and then more than fits into one.
    for _ in 0..80 {
        client.publish_later("q", &[vec![0; 10]], None).await;
        a_moment().await;
    }
    let mut last = None;
    for _ in 0..5 {
        last = Some(client.publish_later("q", &[vec![0; 3 << 20]], None).await);
        a_moment().await;
    }
    gate.open();
    client.answer_to(last.unwrap()).await.unwrap();
    assert!(!node.has_failed(), "{:?}", node.failures.lock());
}

#[tokio::test]
async fn who_does_not_read_gets_no_more_than_its_outbox_holds_and_holds_up_nobody() {
    let node = Setup { outbox_bytes_max: 16 << 10, ..roomy() }
        .start(Arc::new(SimStorage::new(1)))
        .unwrap();
    let manners = Manners { writes_bodies: true, ..Manners::default() };
    let mut slow = Client::with(&node.broker, manners).await;
    let mut quick = Client::connect(&node.broker).await;
    quick.declare("q").await;
    let messages: Vec<Vec<u8>> = (0..200).map(|_| vec![7; 1000]).collect();
    slow.consume("q", 1, Credit::Unlimited).await;
    quick.publish("q", &messages).await;
    a_moment().await;
    let mut received = 0;
    while let Some(event) = slow.try_event() {
        if let Event::Deliveries(deliveries) = event {
            received += deliveries.iter().map(|d| d.len).sum::<u32>();
        }
    }
    // What lies in the outbox, and what fits on the wire and was written.
    assert!((10..40).contains(&received), "{received} messages for who does not read");
    let credit = 200 - received;
    quick.consume("q", 1, Credit::Explicit { credit, drain: false, deadline: Time::NEVER }).await;
    let mut others = 0;
    while others + received < 200 {
        others += quick.deliveries().await.iter().map(|d| d.len).sum::<u32>();
    }
    // It goes on when it reads again.
    quick.publish("q", &messages).await;
    let mut wire = vec![0; 1000 * received as usize];
    patiently(slow.wire.read_exact(&mut wire)).await.unwrap();
    assert!(wire.iter().all(|byte| *byte == 7));
    let more = slow.deliveries().await;
    patiently(slow.wire.read_exact(&mut vec![0; bodies(&more[0]).concat().len()])).await.unwrap();
}

#[tokio::test]
async fn what_a_full_outbox_left_lying_is_taken_once_it_is_written() {
    let node = roomy().start(Arc::new(SimStorage::new(1))).unwrap();
    // After every answer this session takes nothing before all is written.
    let manners = Manners { answer: &[1; 3000], stops_at_bytes: 1, ..Manners::default() };
    let mut client = Client::with(&node.broker, manners).await;
    for _ in 0..20 {
        client.publish_later("nowhere", &[vec![0; 10]], None).await;
    }
    // Two answers come before the first publish is answered: to the login and to the entry.
    patiently(client.wire.read_exact(&mut vec![0; 3000 * 22])).await.unwrap();
    assert_eq!(client.unheard(), 0);
}

#[tokio::test]
async fn a_frame_may_be_as_large_as_can_be_configured() {
    let node = roomy().start(Arc::new(SimStorage::new(1))).unwrap();
    let large = 16 << 20;
    let manners = Manners { pads_to_bytes: large, ..Manners::default() };
    let mut client = Client::with(&node.broker, manners).await;
    patiently(client.wire.write_all(&vec![0; large - 1])).await.unwrap();
    client.declare("q").await;
}

#[tokio::test]
async fn the_broker_closes_after_its_last_words() {
    let node = roomy().start(Arc::new(SimStorage::new(1))).unwrap();
    let mut client = Client::connect(&node.broker).await;
    // What it says meanwhile does not take the goodbye from it.
    client.close();
    patiently(client.wire.write_all(&[b'.'; 3000])).await.unwrap();
    let mut heard = Vec::new();
    patiently(client.wire.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"goodbye");
    assert!(matches!(client.event().await, Event::Closed(CloseReason::Shutdown)));
    assert!(!client.is_over(), "a client gets time to hear it");
    client.wire.shutdown().await.unwrap();
    eventually("it is over", || client.is_over()).await;
}

#[tokio::test]
async fn a_session_that_ends_without_a_word_ends() {
    let node = roomy().start(Arc::new(SimStorage::new(1))).unwrap();
    let manners = Manners { goodbye: b"", ..Manners::default() };
    let mut client = Client::with(&node.broker, manners).await;
    a_moment().await;
    client.close();
    assert_eq!(patiently(client.wire.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn closed_is_the_last_event_and_what_was_held_goes_back_at_once() {
    let node = roomy().start(Arc::new(SimStorage::new(1))).unwrap();
    let mut leaving = Client::connect(&node.broker).await;
    let mut staying = Client::connect(&node.broker).await;
    staying.declare("q").await;
    leaving.consume("q", 1, window(10)).await;
    staying.publish("q", &[vec![1; 10]]).await;
    leaving.deliveries().await;
    // It neither reads nor hangs up.
    leaving.close();
    assert!(matches!(leaving.event().await, Event::Closed(_)));
    staying.consume("q", 1, window(10)).await;
    let again = staying.deliveries().await;
    assert!(again[0].redelivered);
    staying.publish("q", &[vec![2; 10]]).await;
    staying.deliveries().await;
    assert!(leaving.try_event().is_none());
    assert!(!leaving.is_over());
}

#[test]
fn who_reads_no_last_words_is_not_waited_for_for_ever() {
    in_jumping_time(async {
        let node = roomy().start(Arc::new(SimStorage::new(1))).unwrap();
        let manners = Manners { goodbye: &[1; 100_000], ..Manners::default() };
        let mut silent = Client::with(&node.broker, manners).await;
        silent.close();
        eventually("it is over", || silent.is_over()).await;
    });
}

#[tokio::test]
async fn a_connection_that_breaks_off_leaves_what_it_held_to_others() {
    let node = roomy().start(Arc::new(SimStorage::new(1))).unwrap();
    let mut broken = Client::connect(&node.broker).await;
    let mut other = Client::connect(&node.broker).await;
    other.declare("q").await;
    other.publish("q", &[vec![1; 10], vec![2; 10]]).await;
    broken.consume("q", 1, window(10)).await;
    broken.deliveries().await;
    other.consume("q", 1, window(10)).await;
    drop(broken);
    let deliveries = other.deliveries().await;
    assert!(deliveries.iter().all(|d| d.redelivered && d.delivery_count == 1));
    assert_eq!(deliveries.iter().flat_map(bodies).collect::<Vec<_>>(), [[1; 10], [2; 10]]);
}

#[tokio::test]
async fn who_has_ended_its_side_may_still_be_answered() {
    let node = roomy().start(Arc::new(SimStorage::new(1))).unwrap();
    let manners = Manners { answer: b"!", goes_on_after_eof: true, ..Manners::default() };
    let mut client = Client::with(&node.broker, manners).await;
    client.declare("q").await;
    client.publish_later("q", &[vec![1; 10]], None).await;
    client.wire.shutdown().await.unwrap();
    // To the login, the entry, the declaration and the publish.
    let mut answers = [0; 4];
    patiently(client.wire.read_exact(&mut answers)).await.unwrap();
    assert_eq!(&answers, b"!!!!");
    client.close();
    let mut rest = Vec::new();
    patiently(client.wire.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"goodbye");
    eventually("it is over", || client.is_over()).await;
}

#[tokio::test]
async fn what_a_session_asks_for_at_its_end_is_done_however_it_ends() {
    let node = roomy().start(Arc::new(SimStorage::new(1))).unwrap();
    let mut heir = Client::connect(&node.broker).await;
    heir.declare("wills").await;
    heir.consume("wills", 1, window(10)).await;
    for end in ["hangs up", "breaks", "stops with the broker", "is closed by an operator"] {
        let breaks = end == "breaks";
        let manners = Manners { will: Some("wills"), breaks, ..Manners::default() };
        let mut client = Client::with(&node.broker, manners).await;
        match end {
            "stops with the broker" => client.close(),
            "is closed by an operator" => {
                let id = node.broker.connections().last().unwrap().id;
                assert!(node.broker.close_connection(id));
            }
            _ => client.wire = tokio::io::duplex(1).0,
        }
        let deliveries = heir.deliveries().await;
        assert_eq!(bodies(&deliveries[0]), [b"will"], "{end}");
        heir.settle(&deliveries, Outcome::Accept).await;
    }
}
