//! What clients do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_contract::{CommandError, Credit, Event, Token};
use isthmus_model::{Delivery, Outcome, Time};
use isthmus_storage::fs::Rng;
use tokio::sync::watch;

use crate::client::{Client, Over, ids, settlement, window};
use crate::cluster::Running;
use crate::oracle::Oracle;

/// Queues that clients use.
pub(crate) const QUEUES: [&str; 3] = ["work", "plain", "other"];

/// Publishes without an answer on one connection at the most.
const WINDOW: usize = 6;

/// What every client has.
#[derive(Clone)]
pub(crate) struct Around {
    pub(crate) running: Running,
    pub(crate) oracle: Oracle,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Around {
    fn stops(&self) -> bool {
        *self.stop.borrow()
    }

    /// Connects to whoever leads; `None` if it is time to stop.
    async fn connect(&self, rng: &mut Rng) -> Option<Client> {
        while !self.stops() {
            let running = self.running.all();
            if !running.is_empty() {
                let (_, node) = &running[rng.below(running.len() as u64) as usize];
                let serving = |task| node.serves(task);
                if let Ok(mut client) = Client::connect(&node.broker, serving).await
                    && declare(&mut client).await.is_ok()
                {
                    return Some(client);
                }
            }
            tokio::time::sleep(Duration::from_millis(20 + rng.below(60))).await;
        }
        None
    }
}

async fn declare(client: &mut Client) -> Result<(), Over> {
    for queue in QUEUES {
        client.declare(queue).await?;
    }
    Ok(())
}

/// Publishes until it is time to stop.
pub(crate) async fn publisher(number: usize, around: Around, mut rng: Rng) {
    while let Some(mut client) = around.connect(&mut rng).await {
        let mut asked: BTreeMap<Token, Vec<u64>> = BTreeMap::new();
        // What has no answer when the connection ends is in doubt.
        publish(number, &around, &mut rng, &mut client, &mut asked).await.unwrap_or_default();
    }
}

async fn publish(
    number: usize,
    around: &Around,
    rng: &mut Rng,
    client: &mut Client,
    asked: &mut BTreeMap<Token, Vec<u64>>,
) -> Result<(), Over> {
    // Connections end from time to time.
    let mut left = 5 + rng.below(60);
    loop {
        let stops = around.stops() || left == 0;
        if stops && asked.is_empty() {
            return Ok(());
        }
        if !stops && asked.len() < WINDOW {
            left -= 1;
            let queue = rng.below(QUEUES.len() as u64) as usize;
            let token = client.token();
            let ids = around.oracle.publishing(number, queue, 1 + rng.below(4));
            asked.insert(token, ids.clone());
            client.publish(token, QUEUES[queue], &ids).await;
            if rng.chance(80) {
                tokio::time::sleep(Duration::from_millis(rng.below(120))).await;
            }
        }
        let time = Duration::from_millis(1 + rng.below(120));
        // A connection that says nothing is given up.
        let time = if asked.len() >= WINDOW || stops { Duration::from_secs(4) } else { time };
        match client.event(time).await? {
            Some(Event::Done { token, result }) => {
                let Some(ids) = asked.remove(&token) else { continue };
                match result {
                    Ok(_) => around.oracle.told(&ids, true),
                    Err(CommandError::NotLeader) => around.oracle.told(&ids, false),
                    Err(error) => {
                        around.oracle.break_with(format!("a publish was answered with {error}"));
                    }
                }
            }
            Some(_) => {}
            None if time >= Duration::from_secs(4) => return Err(Over),
            None => {}
        }
    }
}

/// A message that a consumer has and has not settled.
struct Has {
    id: u64,
    delivery: Arc<Delivery>,
    offset: u64,
}

/// Consumes until it is time to stop.
pub(crate) async fn consumer(around: Around, mut rng: Rng) {
    while let Some(mut client) = around.connect(&mut rng).await {
        consume(&around, &mut rng, &mut client).await.unwrap_or_default();
    }
}

async fn consume(around: &Around, rng: &mut Rng, client: &mut Client) -> Result<(), Over> {
    for (consumer, queue) in QUEUES.iter().enumerate() {
        client.consume(queue, consumer as u64, window(1 + rng.below(8) as u32)).await;
    }
    let connection = around.oracle.connected();
    let mut has: Vec<Has> = Vec::new();
    let mut asked: BTreeMap<Token, u64> = BTreeMap::new();
    let mut left = 20 + rng.below(150);
    while left > 0 && !around.stops() {
        left -= 1;
        match client.event(Duration::from_millis(1 + rng.below(120))).await? {
            Some(Event::Deliveries(deliveries)) => {
                for delivery in deliveries {
                    take(around, connection, &mut has, delivery);
                }
            }
            Some(Event::Done { token, result }) => {
                if let Some(id) = asked.remove(&token)
                    && result.is_ok()
                {
                    around.oracle.settled(id);
                }
            }
            _ => {}
        }
        if !has.is_empty() && rng.chance(70) {
            let chosen = rng.below(has.len() as u64) as usize;
            let Has { id, delivery, offset } = has.swap_remove(chosen);
            let outcome = if rng.chance(15) { Outcome::Requeue } else { Outcome::Accept };
            let token = client.token();
            if outcome == Outcome::Accept {
                around.oracle.settling(id);
                asked.insert(token, id);
            }
            client.settle(token, settlement(&delivery, offset, outcome)).await;
        }
    }
    Ok(())
}

fn take(around: &Around, connection: u64, has: &mut Vec<Has>, delivery: Delivery) {
    let queue = delivery.consumer.0 as usize;
    let delivery = Arc::new(delivery);
    for (offset, id) in ids(&delivery).into_iter().enumerate() {
        around.oracle.delivered(connection, id, queue, delivery.redelivered);
        has.push(Has { id, delivery: Arc::clone(&delivery), offset: offset as u64 });
    }
}

/// What each queue holds, in its order; nothing is settled.
pub(crate) async fn holdings(around: &Around, rng: &mut Rng) -> Result<Vec<Vec<u64>>, Over> {
    let mut client = around.connect(rng).await.ok_or(Over)?;
    let mut held = Vec::new();
    for (consumer, queue) in QUEUES.iter().enumerate() {
        let credit = Credit::Explicit { credit: u32::MAX, drain: true, deadline: Time(0) };
        client.consume(queue, consumer as u64, credit).await;
        let mut taken = Vec::new();
        loop {
            match client.event(Duration::from_secs(5)).await? {
                Some(Event::Deliveries(deliveries)) => {
                    taken.extend(deliveries.iter().map(|delivery| (delivery.first, ids(delivery))));
                }
                Some(Event::CreditState { .. }) => break,
                Some(_) => {}
                None => return Err(Over),
            }
        }
        taken.sort();
        held.push(taken.into_iter().flat_map(|(_, ids)| ids).collect());
    }
    Ok(held)
}
