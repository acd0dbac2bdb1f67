//! What clients do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isthmus_contract::{CommandError, Credit, Event, Token};
use isthmus_model::{Delivery, Outcome, Time};
use isthmus_storage::fs::Rng;
use tokio::sync::watch;

use crate::client::{Client, Over, ids, settlement, window};
use crate::cluster::Running;
use crate::node::Node;
use crate::oracle::Oracle;
use crate::spoken::{Heard, Protocol, Speaker};

/// Queues that clients use.
pub(crate) const QUEUES: [&str; 3] = ["work", "plain", "other"];

/// What is published to MQTT's topics counts as one more queue.
pub(crate) const MQTT: usize = QUEUES.len();

/// Publishes without an answer on one connection at the most.
pub(crate) const WINDOW: usize = 6;

/// What every client has.
#[derive(Clone)]
pub(crate) struct Around {
    pub(crate) running: Running,
    pub(crate) oracle: Oracle,
    pub(crate) stop: watch::Receiver<bool>,
    /// Whether clients of queues speak protocols; else they speak commands.
    pub(crate) speaks: bool,
}

impl Around {
    pub(crate) fn stops(&self) -> bool {
        *self.stop.borrow()
    }

    /// Some node that runs.
    pub(crate) fn some_node(&self, rng: &mut Rng) -> Option<Arc<Node>> {
        let mut running = self.running.all();
        if running.is_empty() {
            return None;
        }
        let chosen = rng.below(running.len() as u64) as usize;
        Some(running.swap_remove(chosen).1)
    }

    /// Connects to whoever leads, in one of the protocols of the run, if it has any; `None` if it is
    /// time to stop.
    async fn connect_speaker(&self, rng: &mut Rng) -> Option<Speaker> {
        let protocol = if rng.chance(50) { Protocol::Amqp } else { Protocol::Stomp };
        while !self.stops() {
            if let Some(node) = self.some_node(rng) {
                let serving = |task| node.serves(task);
                let connected = Speaker::connect(&node.broker, protocol, rng, serving).await;
                if let Ok(speaker) = connected {
                    return Some(speaker);
                }
            }
            tokio::time::sleep(Duration::from_millis(20 + rng.below(60))).await;
        }
        None
    }

    /// Connects to whoever leads; `None` if it is time to stop.
    async fn connect(&self, rng: &mut Rng) -> Option<Client> {
        while !self.stops() {
            if let Some(node) = self.some_node(rng) {
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
    while around.speaks && !around.stops() {
        let Some(speaker) = around.connect_speaker(&mut rng).await else { return };
        publish_spoken(number, &around, &mut rng, speaker).await.unwrap_or_default();
    }
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

async fn publish_spoken(
    number: usize,
    around: &Around,
    rng: &mut Rng,
    mut speaker: Speaker,
) -> Result<(), Over> {
    speaker.publishes().await?;
    // Connections end from time to time.
    let mut left = 5 + rng.below(60);
    let mut asked: BTreeSet<u64> = BTreeSet::new();
    loop {
        let stops = around.stops() || left == 0;
        if stops && asked.is_empty() {
            return Ok(());
        }
        if !stops && asked.len() < WINDOW {
            left -= 1;
            let queue = rng.below(QUEUES.len() as u64) as usize;
            for id in around.oracle.publishing(number, queue, 1 + rng.below(3)) {
                asked.insert(id);
                speaker.publish(queue, id).await?;
            }
            if rng.chance(80) {
                tokio::time::sleep(Duration::from_millis(rng.below(120))).await;
            }
        }
        // A connection that says nothing is given up.
        let waits = asked.len() >= WINDOW || stops;
        let time = Duration::from_millis(if waits { 4000 } else { 1 + rng.below(120) });
        let (ids, is_stored) = match speaker.hear(time).await? {
            Some(Heard::Stored(ids)) => (ids, true),
            Some(Heard::Refused(ids)) => (ids, false),
            Some(_) => continue,
            None if waits => return Err(Over),
            None => continue,
        };
        asked.retain(|id| !ids.contains(id));
        if is_stored {
            around.oracle.spoken(ids.len());
        }
        around.oracle.told(&ids, is_stored);
    }
}

async fn consume_spoken(around: &Around, rng: &mut Rng, mut speaker: Speaker) -> Result<(), Over> {
    speaker.consume(rng).await?;
    let connection = around.oracle.connected();
    let mut has: Vec<(u64, u64)> = Vec::new();
    let mut left = 20 + rng.below(150);
    while left > 0 && !around.stops() {
        left -= 1;
        match speaker.hear(Duration::from_millis(1 + rng.below(120))).await? {
            Some(Heard::Got { queue, id, redelivered, handle }) => {
                around.oracle.delivered(connection, id, queue, redelivered);
                has.push((handle, id));
            }
            Some(Heard::Settled(ids)) => ids.into_iter().for_each(|id| around.oracle.settled(id)),
            _ => {}
        }
        if !has.is_empty() && rng.chance(70) {
            let chosen = rng.below(has.len() as u64) as usize;
            let (handle, id) = has.swap_remove(chosen);
            let gives_back = rng.chance(15);
            if !gives_back {
                around.oracle.settling(id);
            }
            speaker.settle(handle, id, gives_back).await?;
        }
    }
    Ok(())
}

/// A message that a consumer has and has not settled.
struct Has {
    id: u64,
    delivery: Arc<Delivery>,
    offset: u64,
}

/// Consumes until it is time to stop.
pub(crate) async fn consumer(around: Around, mut rng: Rng) {
    while around.speaks && !around.stops() {
        let Some(speaker) = around.connect_speaker(&mut rng).await else { return };
        consume_spoken(&around, &mut rng, speaker).await.unwrap_or_default();
    }
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
