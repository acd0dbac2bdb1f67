//! That nothing is left behind between those who bring inputs, whoever runs the turns.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::client::{Client, window};
use common::disk::Gate;
use common::{Setup, eventually};
use isthmus_broker::storage::{SimStorage, Storage};
use isthmus_broker::{Combining, Driver, Input};
use isthmus_model::Outcome;

const THREADS: u64 = 8;
const INPUTS: u64 = 2_000;

fn setup() -> Setup {
    let mut setup =
        Setup { checkpoint_after_bytes: u64::MAX, unpaged_bytes_max: u64::MAX, ..Setup::default() };
    setup.log.segment_bytes = 1 << 20;
    setup
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_input_is_left_behind_and_each_thread_keeps_its_order() {
    let node = setup().start(Arc::new(SimStorage::new(1))).unwrap();
    let driver = node.driver();
    for round in 0..5 {
        let seen: Arc<Vec<AtomicU64>> = Arc::new((0..THREADS).map(|_| AtomicU64::new(0)).collect());
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (driver, seen) = (Arc::clone(&driver), Arc::clone(&seen));
                scope.spawn(move || {
                    for i in 0..INPUTS {
                        let seen = Arc::clone(&seen);
                        let count = move |_: &mut _| {
                            // Inputs of one thread come in their order.
                            let before = seen[thread as usize].fetch_add(1, Ordering::Relaxed);
                            assert_eq!(before, i);
                        };
                        let input = Input::Inspect(Box::new(count));
                        // Every other thread is like the log's and runs no turns itself.
                        if thread % 2 == 0 {
                            driver.submit(input);
                        } else {
                            driver.submit_elsewhere(input);
                        }
                    }
                });
            }
        });
        // Nobody submits anything any more: what is left now would be left for ever.
        eventually(&format!("all inputs of round {round}"), || {
            seen.iter().all(|count| count.load(Ordering::Relaxed) == INPUTS)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_is_lost_between_connections() {
    let node = setup().start(Arc::new(SimStorage::new(1))).unwrap();
    let pairs: Vec<_> = (0..8)
        .map(|pair| {
            let broker = node.broker.clone();
            tokio::spawn(async move {
                let queue = format!("q{pair}");
                let mut consumer = Client::connect(&broker).await;
                let mut publisher = Client::connect(&broker).await;
                consumer.declare(&queue).await;
                consumer.consume(&queue, 1, window(1)).await;
                // Everybody waits for somebody all the time: one wake lost, and all is still.
                for i in 0..200u32 {
                    let confirm =
                        publisher.publish_later(&queue, &[i.to_le_bytes().to_vec()], None).await;
                    let deliveries = consumer.deliveries().await;
                    publisher.answer_to(confirm).await.unwrap();
                    let settled = consumer.settle(&deliveries, Outcome::Accept).await;
                    consumer.answer_to(settled).await.unwrap();
                }
            })
        })
        .collect();
    for pair in pairs {
        pair.await.unwrap();
    }
    assert_eq!(
        node.look(|shard| shard.leader().unwrap().dispatcher().counters().acknowledged).await,
        8 * 200
    );
}

/// Keeps the log's thread behind the first commit that it reports once the gate is shut.
struct Keeping {
    combining: Arc<Combining>,
    gate: Arc<Gate>,
    /// The last entry that was reported.
    reported: AtomicU64,
}

impl Driver for Keeping {
    fn submit(&self, input: Input) {
        self.combining.submit(input);
    }

    fn submit_elsewhere(&self, input: Input) {
        let is_new = match &input {
            Input::Committed { index } => {
                self.reported.fetch_max(*index, Ordering::SeqCst) < *index
            }
            _ => false,
        };
        // Asked before the commit is reported: who is answered because of it may shut the gate
        // while this thread is still on its way out.
        let keeps = is_new && self.gate.is_shut();
        self.combining.submit_elsewhere(input);
        if keeps {
            self.gate.pass();
        }
    }
}

#[tokio::test]
async fn the_logs_own_thread_may_be_the_last_to_hold_the_broker() {
    let (sim, gate) = (SimStorage::new(1), Arc::new(Gate::default()));
    let keeps = Arc::clone(&gate);
    let storage = Arc::new(sim.clone());
    let drive = |shard| {
        let (combining, reported) = (Combining::start(shard), AtomicU64::new(0));
        Arc::new(Keeping { combining, gate: keeps, reported })
    };
    let (broker, failures) = setup().start_with(storage, drive).unwrap();
    let mut client = Client::connect(&broker).await;
    client.declare("q").await;
    gate.shut();
    client.publish("q", &[vec![1; 10]]).await;
    drop(client);
    drop(broker);
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.open();
    eventually("the log has ended", || sim.lock().is_ok()).await;
    assert!(failures.lock().is_empty(), "{:?}", failures.lock());
}
