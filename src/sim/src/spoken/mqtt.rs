//! MQTT 5.0: one client that publishes with QoS 1 and 2, and one that has a subscription of each,
//! both with sessions that outlive their connections.
//!
//! What each remembers is what a client keeps on its disk: a publisher what is not answered to the
//! end, a subscriber the packets that it has got and that are not released.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use isthmus_broker::Broker;
use isthmus_mqtt::codec::{
    Ack, AckKind, Connect, Packet, Properties, PropertiesBuf, Property, Publish, Qos,
    RetainHandling, Sender, Subscribe, Subscription, SubscriptionsBuf, Version, frame,
};
use isthmus_storage::fs::Rng;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Line, Protocol};
use crate::client::{Over, PATIENCE, body, id_of};
use crate::oracle::Oracle;
use crate::work::{Around, MQTT, WINDOW};

/// The body of what a subscriber publishes to itself to see that nothing lies before it any more.
const SENTINEL: u64 = u64::MAX;

/// Seconds for which sessions outlive their connections: longer than a run.
const EXPIRY_S: u32 = 3600;

/// A packet, as far as these clients look at it.
#[derive(Clone, Copy, Debug)]
enum Got {
    Accepted { session_present: bool },
    Subscribed,
    Publish { packet_id: u16, qos: Qos, dup: bool, id: u64 },
    Ack { kind: AckKind, packet_id: u16, refused: bool, nobody: bool },
    Other,
}

/// A connection.
struct Connection(Line);

impl Connection {
    /// Connects as `client_id`; also returns whether the session was there.
    async fn connect(
        broker: &Broker,
        client_id: &str,
        rng: &mut Rng,
        serving: impl FnOnce(AbortHandle),
    ) -> Result<(Connection, bool), Over> {
        let mut this = Connection(Line::connect(broker, Protocol::Mqtt, rng, serving));
        let mut properties = PropertiesBuf::new();
        properties.push(Property::SessionExpiryInterval(EXPIRY_S)).map_err(|_| Over)?;
        let limit = 1 + rng.below(8) as u16;
        properties.push(Property::ReceiveMaximum(limit)).map_err(|_| Over)?;
        let connect = Connect {
            version: Version::V5,
            clean_start: false,
            keep_alive_s: 0,
            properties: properties.as_properties(),
            client_id,
            will: None,
            user_name: Some("client"),
            password: Some(b"secret"),
        };
        this.say(&Packet::Connect(connect)).await?;
        match this.got(PATIENCE).await? {
            Some(Got::Accepted { session_present }) => Ok((this, session_present)),
            _ => Err(Over),
        }
    }

    async fn say(&mut self, packet: &Packet<'_>) -> Result<(), Over> {
        let mut bytes = Vec::new();
        packet.write(Version::V5, &mut bytes).map_err(|_| Over)?;
        self.0.send(&bytes).await
    }

    async fn publish(&mut self, id: u64, qos: Qos, packet_id: u16, dup: bool) -> Result<(), Over> {
        let topic = format!("sim/{}/{}", qos.bits(), id % 3);
        let payload = body(id);
        let properties = Properties::NONE;
        let (topic, payload) = (&*topic, &*payload);
        let retain = false;
        let publish = Publish { dup, qos, retain, topic, packet_id, properties, payload };
        self.say(&Packet::Publish(publish)).await
    }

    async fn ack(&mut self, kind: AckKind, packet_id: u16) -> Result<(), Over> {
        self.say(&Packet::Ack(kind, Ack::success(packet_id))).await
    }

    /// The next packet, if it comes within `time`.
    async fn got(&mut self, time: Duration) -> Result<Option<Got>, Over> {
        loop {
            if let Some(got) = self.next()? {
                return Ok(Some(got));
            }
            if !self.0.more(time).await? {
                return Ok(None);
            }
        }
    }

    fn next(&mut self) -> Result<Option<Got>, Over> {
        let next = frame::next(&self.0.got, frame::PACKET_BYTES_MAX).map_err(|_| Over)?;
        let Some(frame) = next else { return Ok(None) };
        let packet = Packet::read(&frame, Version::V5, Sender::Server).map_err(|_| Over)?;
        let got = match packet {
            Packet::ConnAck(ack) if ack.reason.is_error() => return Err(Over),
            Packet::ConnAck(ack) => Got::Accepted { session_present: ack.session_present },
            Packet::SubAck(ack) if ack.reasons.iter().all(|code| *code < 0x80) => Got::Subscribed,
            Packet::Publish(Publish { packet_id, qos, dup, payload, .. }) => {
                Got::Publish { packet_id, qos, dup, id: id_of(payload) }
            }
            Packet::Ack(kind, Ack { packet_id, reason, .. }) => {
                // 0x10: nobody subscribes, which is no error.
                let (refused, nobody) = (reason.is_error(), reason.0 == 0x10);
                Got::Ack { kind, packet_id, refused, nobody }
            }
            Packet::Disconnect(_) => return Err(Over),
            _ => Got::Other,
        };
        let len = frame.wire_len();
        self.0.got.drain(..len);
        Ok(Some(got))
    }
}

/// Connects to some node until it is accepted; whether the session was there.
async fn connect(around: &Around, client_id: &str, rng: &mut Rng) -> (Connection, bool) {
    loop {
        if let Some(node) = around.some_node(rng) {
            let serving = |task| node.serves(task);
            if let Ok(it) = Connection::connect(&node.broker, client_id, rng, serving).await {
                return it;
            }
        }
        tokio::time::sleep(Duration::from_millis(20 + rng.below(60))).await;
    }
}

/// What comes next for a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Answer,
    /// It was received, and has been or is to be released.
    Complete,
}

/// A publish that is not answered to the end.
#[derive(Clone, Copy, Debug)]
struct Asked {
    packet_id: u16,
    id: u64,
    qos: Qos,
    step: Step,
}

struct Publisher {
    number: usize,
    around: Around,
    rng: Rng,
    asked: VecDeque<Asked>,
    last_packet_id: u16,
}

/// Publishes until it is time to stop, and on until each message of QoS 2 is answered to the end.
pub(crate) async fn publisher(
    number: usize,
    around: Around,
    rng: Rng,
    mut subscribed: watch::Receiver<bool>,
) {
    if subscribed.wait_for(|is_so| *is_so).await.is_err() {
        return;
    }
    let mut this = Publisher { number, around, rng, asked: VecDeque::new(), last_packet_id: 0 };
    let name = format!("publisher-{number}");
    let mut is_known = false;
    while !this.around.stops() || this.asked.iter().any(|asked| asked.qos == Qos::ExactlyOnce) {
        let (connection, present) = connect(&this.around, &name, &mut this.rng).await;
        if is_known && !present {
            this.around.oracle.break_with(format!("the session of {name} is gone"));
        }
        is_known = true;
        this.converse(connection).await.unwrap_or_default();
    }
}

impl Publisher {
    /// Until the connection ends.
    async fn converse(&mut self, mut connection: Connection) -> Result<(), Over> {
        // What was asked with QoS 1 remains in doubt.
        self.asked.retain(|asked| asked.qos == Qos::ExactlyOnce);
        for asked in self.asked.iter().copied().collect::<Vec<_>>() {
            match asked.step {
                Step::Answer => {
                    connection.publish(asked.id, asked.qos, asked.packet_id, true).await?;
                }
                Step::Complete => connection.ack(AckKind::PubRel, asked.packet_id).await?,
            }
        }
        let mut left = 5 + self.rng.below(60);
        loop {
            let stops = self.around.stops() || left == 0;
            if stops && self.asked.is_empty() {
                return Ok(());
            }
            if !stops && self.asked.len() < WINDOW {
                left -= 1;
                self.publish(&mut connection).await?;
                if self.rng.chance(80) {
                    tokio::time::sleep(Duration::from_millis(self.rng.below(120))).await;
                }
            }
            let waits = self.asked.len() >= WINDOW || stops;
            let time = Duration::from_millis(if waits { 4000 } else { 1 + self.rng.below(120) });
            match connection.got(time).await? {
                Some(got) => self.answered(&mut connection, got).await?,
                None if waits => return Err(Over),
                None => {}
            }
        }
    }

    async fn publish(&mut self, connection: &mut Connection) -> Result<(), Over> {
        let qos = if self.rng.chance(60) { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
        // Order is promised for each QoS by itself: each counts as a publisher of its own.
        let publisher = 10 * (1 + self.number) + usize::from(qos.bits());
        let ids = self.around.oracle.publishing(publisher, MQTT, 1);
        let Some(id) = ids.first().copied() else { return Ok(()) };
        if qos == Qos::ExactlyOnce {
            self.around.oracle.exactly_once(id);
        }
        // Those that are under way are far fewer than there are.
        self.last_packet_id = self.last_packet_id % 60_000 + 1;
        let packet_id = self.last_packet_id;
        self.asked.push_back(Asked { packet_id, id, qos, step: Step::Answer });
        connection.publish(id, qos, packet_id, false).await
    }

    async fn answered(&mut self, connection: &mut Connection, got: Got) -> Result<(), Over> {
        let Got::Ack { kind, packet_id, refused, nobody } = got else { return Ok(()) };
        let Some(at) = self.asked.iter().position(|asked| asked.packet_id == packet_id) else {
            return Ok(());
        };
        let oracle: &Oracle = &self.around.oracle;
        let id = self.asked[at].id;
        if nobody {
            oracle.break_with(format!("{id} has met no subscription"));
        }
        if kind == AckKind::PubComp {
            self.asked.remove(at);
            return Ok(());
        }
        if self.asked[at].step == Step::Answer {
            oracle.told(&[id], !refused);
        }
        if kind == AckKind::PubAck || refused {
            self.asked.remove(at);
            return Ok(());
        }
        self.asked[at].step = Step::Complete;
        connection.ack(AckKind::PubRel, packet_id).await
    }
}

struct Subscriber {
    around: Around,
    rng: Rng,
    /// Packet identifiers of QoS 2 that were delivered and are not released.
    received: BTreeSet<u16>,
    /// Whether all publishers have ended.
    publishers_ended: watch::Receiver<bool>,
    last_packet_id: u16,
    /// Which of the sentinels have come back, by QoS.
    came_back: [bool; 3],
}

/// Consumes until the publishers have ended and nothing is left.
pub(crate) async fn subscriber(
    around: Around,
    rng: Rng,
    subscribed: watch::Sender<bool>,
    publishers_ended: watch::Receiver<bool>,
) {
    let mut this = Subscriber {
        around,
        rng,
        received: BTreeSet::new(),
        publishers_ended,
        last_packet_id: 0,
        came_back: [false; 3],
    };
    while !(this.came_back[1] && this.came_back[2]) {
        let (mut connection, present) = connect(&this.around, "subscriber", &mut this.rng).await;
        if *subscribed.borrow() && !present {
            this.around.oracle.break_with("the session of the subscriber is gone".to_owned());
        }
        if !present {
            this.received.clear();
        }
        if !*subscribed.borrow() {
            if this.subscribe(&mut connection).await.is_err() {
                continue;
            }
            subscribed.send_replace(true);
        }
        this.converse(connection).await.unwrap_or_default();
    }
}

impl Subscriber {
    fn packet_id(&mut self) -> u16 {
        self.last_packet_id = self.last_packet_id % 60_000 + 1;
        self.last_packet_id
    }

    async fn subscribe(&mut self, connection: &mut Connection) -> Result<(), Over> {
        let mut list = SubscriptionsBuf::default();
        for (filter, qos) in [("sim/1/#", Qos::AtLeastOnce), ("sim/2/+", Qos::ExactlyOnce)] {
            list.push(&Subscription {
                filter,
                qos,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::Send,
            })
            .map_err(|_| Over)?;
        }
        let subscribe = Subscribe {
            packet_id: self.packet_id(),
            properties: Properties::NONE,
            subscriptions: list.as_subscriptions(),
        };
        connection.say(&Packet::Subscribe(subscribe)).await?;
        match connection.got(PATIENCE).await? {
            Some(Got::Subscribed) => Ok(()),
            _ => Err(Over),
        }
    }

    /// Until the connection ends, or all has come.
    async fn converse(&mut self, mut connection: Connection) -> Result<(), Over> {
        let number = self.around.oracle.connected();
        // In the order of what they answer [MQTT-4.6.0-2].
        let mut answers: VecDeque<(AckKind, u16)> = VecDeque::new();
        let mut left = 20 + self.rng.below(150);
        let mut asked = false;
        while !(self.came_back[1] && self.came_back[2]) {
            let ending = *self.publishers_ended.borrow();
            if ending && !asked {
                for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
                    let packet_id = self.packet_id();
                    connection.publish(SENTINEL, qos, packet_id, false).await?;
                }
                asked = true;
            }
            if !ending {
                left = left.checked_sub(1).ok_or(Over)?;
            }
            let time = Duration::from_millis(if ending { 4000 } else { 1 + self.rng.below(120) });
            let got =
                if ending && !answers.is_empty() { None } else { connection.got(time).await? };
            match got {
                Some(Got::Publish { packet_id, qos, dup, id }) => {
                    self.take(number, packet_id, qos, dup, id);
                    let kind =
                        if qos == Qos::ExactlyOnce { AckKind::PubRec } else { AckKind::PubAck };
                    answers.push_back((kind, packet_id));
                }
                Some(Got::Ack { kind: AckKind::PubRel, packet_id, .. }) => {
                    self.received.remove(&packet_id);
                    answers.push_back((AckKind::PubComp, packet_id));
                }
                // Of a sentinel.
                Some(Got::Ack { kind: AckKind::PubRec, packet_id, .. }) => {
                    answers.push_back((AckKind::PubRel, packet_id));
                }
                Some(_) => {}
                None if ending && answers.is_empty() => return Err(Over),
                None => {}
            }
            while !answers.is_empty() && (ending || self.rng.chance(70)) {
                if let Some((kind, packet_id)) = answers.pop_front() {
                    connection.ack(kind, packet_id).await?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, connection: u64, packet_id: u16, qos: Qos, dup: bool, id: u64) {
        if qos == Qos::ExactlyOnce && !self.received.insert(packet_id) {
            // It was delivered before.
            return;
        }
        if id == SENTINEL {
            self.came_back[usize::from(qos.bits())] = true;
        } else {
            // What is not to be dropped here is as good as new.
            let redelivered = dup && qos == Qos::AtLeastOnce;
            self.around.oracle.delivered(connection, id, MQTT, redelivered);
        }
    }
}
