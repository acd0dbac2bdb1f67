//! AMQP 0-9-1, as far as publishing with confirms, consuming and transactions of settlements need
//! it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, queue, tx};
use amq_protocol::types::FieldTable;

use super::{Heard, Line};
use crate::client::{Over, PATIENCE, body, id_of};
use crate::work::QUEUES;

/// The only channel that is used.
const CHANNEL: u16 = 1;

/// The largest frame, in octets: the least that the protocol allows, so that bodies are cut.
const FRAME_MAX: u32 = 4096;

/// A message of which not all has come.
struct Coming {
    deliver: basic::Deliver,
    left: u64,
    body: Vec<u8>,
}

/// A connection with one channel.
pub(crate) struct Amqp {
    line: Line,
    heard: VecDeque<Heard>,
    coming: Option<Coming>,
    /// Tag of the latest publish.
    published: u64,
    /// What has no answer, by tag.
    asked: BTreeMap<u64, u64>,
    /// Settlements are in transactions of their own.
    is_transacting: bool,
    /// What was settled by each commit that is not answered.
    committing: VecDeque<Option<u64>>,
}

impl Amqp {
    pub(super) async fn connect(line: Line) -> Result<Amqp, Over> {
        let mut this = Amqp {
            line,
            heard: VecDeque::new(),
            coming: None,
            published: 0,
            asked: BTreeMap::new(),
            is_transacting: false,
            committing: VecDeque::new(),
        };
        this.line.send(b"AMQP\0\0\x09\x01").await?;
        this.answered(|class| {
            matches!(class, AMQPClass::Connection(connection::AMQPMethod::Start(_)))
        })
        .await?;
        let start_ok = connection::StartOk {
            client_properties: FieldTable::default(),
            mechanism: "PLAIN".into(),
            response: "\0client\0secret".into(),
            locale: "en_US".into(),
        };
        this.say(0, AMQPClass::Connection(connection::AMQPMethod::StartOk(start_ok))).await?;
        this.answered(|class| {
            matches!(class, AMQPClass::Connection(connection::AMQPMethod::Tune(_)))
        })
        .await?;
        let tune_ok = connection::TuneOk { channel_max: 10, frame_max: FRAME_MAX, heartbeat: 0 };
        this.say(0, AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune_ok))).await?;
        let open = connection::Open { virtual_host: "/".into() };
        this.say(0, AMQPClass::Connection(connection::AMQPMethod::Open(open))).await?;
        this.answered(|class| {
            matches!(class, AMQPClass::Connection(connection::AMQPMethod::OpenOk(_)))
        })
        .await?;
        let open = channel::AMQPMethod::Open(channel::Open {});
        this.say(CHANNEL, AMQPClass::Channel(open)).await?;
        for name in QUEUES {
            let declare = queue::Declare {
                queue: name.into(),
                passive: false,
                durable: true,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: FieldTable::default(),
            };
            this.say(CHANNEL, AMQPClass::Queue(queue::AMQPMethod::Declare(declare))).await?;
            this.answered(|class| {
                matches!(class, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(_)))
            })
            .await?;
        }
        Ok(this)
    }

    pub(super) async fn confirm(&mut self) -> Result<(), Over> {
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
        self.say(CHANNEL, AMQPClass::Confirm(select)).await?;
        self.answered(|class| matches!(class, AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(_))))
            .await
    }

    pub(super) async fn publish(&mut self, queue: usize, id: u64) -> Result<(), Over> {
        self.published += 1;
        self.asked.insert(self.published, id);
        let publish = basic::Publish {
            exchange: "".into(),
            routing_key: QUEUES[queue].into(),
            mandatory: false,
            immediate: false,
        };
        let body = body(id);
        let header = AMQPContentHeader {
            class_id: 60,
            body_size: body.len() as u64,
            properties: basic::AMQPProperties::default().with_delivery_mode(2),
        };
        let class = AMQPClass::Basic(basic::AMQPMethod::Publish(publish));
        let mut bytes = frame(&AMQPFrame::Method(CHANNEL, class))?;
        bytes.extend(frame(&AMQPFrame::Header(CHANNEL, header))?);
        // As many frames as it takes, some of them shorter than they need be.
        for piece in body.chunks(if id.is_multiple_of(3) { 30 } else { 4000 }) {
            bytes.extend(frame(&AMQPFrame::Body(CHANNEL, piece.to_vec()))?);
        }
        self.line.send(&bytes).await
    }

    pub(super) async fn consume(&mut self, limit: u16, transacts: bool) -> Result<(), Over> {
        if transacts {
            self.say(CHANNEL, AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {}))).await?;
            self.answered(|class| matches!(class, AMQPClass::Tx(tx::AMQPMethod::SelectOk(_))))
                .await?;
            self.is_transacting = true;
        }
        let qos = basic::Qos { prefetch_count: limit, global: false };
        self.say(CHANNEL, AMQPClass::Basic(basic::AMQPMethod::Qos(qos))).await?;
        for (number, name) in QUEUES.iter().enumerate() {
            let consume = basic::Consume {
                queue: (*name).into(),
                consumer_tag: number.to_string().as_str().into(),
                no_local: false,
                no_ack: false,
                exclusive: false,
                nowait: false,
                arguments: FieldTable::default(),
            };
            self.say(CHANNEL, AMQPClass::Basic(basic::AMQPMethod::Consume(consume))).await?;
        }
        Ok(())
    }

    pub(super) async fn settle(
        &mut self,
        delivery_tag: u64,
        id: u64,
        gives_back: bool,
    ) -> Result<(), Over> {
        let method = if gives_back {
            basic::AMQPMethod::Nack(basic::Nack { delivery_tag, multiple: false, requeue: true })
        } else {
            basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple: false })
        };
        self.say(CHANNEL, AMQPClass::Basic(method)).await?;
        if self.is_transacting {
            self.committing.push_back((!gives_back).then_some(id));
            self.say(CHANNEL, AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {}))).await?;
        }
        Ok(())
    }

    pub(super) async fn hear(&mut self, time: Duration) -> Result<Option<Heard>, Over> {
        loop {
            while let Some(frame) = self.frame()? {
                self.take(frame)?;
            }
            if let Some(heard) = self.heard.pop_front() {
                return Ok(Some(heard));
            }
            if !self.line.more(time).await? {
                return Ok(None);
            }
        }
    }

    /// Waits for an answer. What else comes is kept.
    async fn answered(&mut self, is_it: impl Fn(&AMQPClass) -> bool) -> Result<(), Over> {
        loop {
            match self.frame()? {
                Some(AMQPFrame::Method(_, class)) if is_it(&class) => return Ok(()),
                Some(frame) => self.take(frame)?,
                None if !self.line.more(PATIENCE).await? => return Err(Over),
                None => {}
            }
        }
    }

    /// The next frame that has come as a whole.
    fn frame(&mut self) -> Result<Option<AMQPFrame>, Over> {
        // Type, channel, size, payload, end (section 2.3.5).
        let Some(size) = self.line.got.get(3..7) else { return Ok(None) };
        let size = u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize;
        if self.line.got.len() < size + 8 {
            return Ok(None);
        }
        let (_, frame) = parse_frame(&self.line.got[..size + 8]).map_err(|_| Over)?;
        self.line.got.drain(..size + 8);
        Ok(Some(frame))
    }

    fn take(&mut self, frame: AMQPFrame) -> Result<(), Over> {
        match frame {
            AMQPFrame::Method(_, AMQPClass::Basic(method)) => self.take_basic(method),
            AMQPFrame::Method(_, AMQPClass::Tx(tx::AMQPMethod::CommitOk(_))) => {
                let settled = self.committing.pop_front().ok_or(Over)?;
                self.heard.extend(settled.map(|id| Heard::Settled(vec![id])));
            }
            AMQPFrame::Method(
                _,
                AMQPClass::Channel(channel::AMQPMethod::Close(_))
                | AMQPClass::Connection(connection::AMQPMethod::Close(_)),
            ) => return Err(Over),
            AMQPFrame::Header(_, header) => {
                if let Some(coming) = &mut self.coming {
                    coming.left = header.body_size;
                }
            }
            AMQPFrame::Body(_, piece) => {
                if let Some(coming) = &mut self.coming {
                    coming.left = coming.left.saturating_sub(piece.len() as u64);
                    coming.body.extend(piece);
                }
                if let Some(coming) = self.coming.take_if(|coming| coming.left == 0) {
                    let queue =
                        coming.deliver.consumer_tag.as_str().parse::<usize>().map_err(|_| Over)?;
                    self.heard.push_back(Heard::Got {
                        queue,
                        id: id_of(&coming.body),
                        redelivered: coming.deliver.redelivered,
                        handle: coming.deliver.delivery_tag,
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn take_basic(&mut self, method: basic::AMQPMethod) {
        let (is_stored, tag, multiple) = match method {
            basic::AMQPMethod::Deliver(deliver) => {
                self.coming = Some(Coming { deliver, left: 0, body: Vec::new() });
                return;
            }
            basic::AMQPMethod::Ack(ack) => (true, ack.delivery_tag, ack.multiple),
            basic::AMQPMethod::Nack(nack) => (false, nack.delivery_tag, nack.multiple),
            _ => return,
        };
        let first = if multiple { 0 } else { tag };
        let tags: Vec<u64> = self.asked.range(first..=tag).map(|(tag, _)| *tag).collect();
        let ids = tags.iter().filter_map(|tag| self.asked.remove(tag)).collect();
        self.heard.push_back(if is_stored { Heard::Stored(ids) } else { Heard::Refused(ids) });
    }

    async fn say(&mut self, channel: u16, class: AMQPClass) -> Result<(), Over> {
        self.line.send(&frame(&AMQPFrame::Method(channel, class))?).await
    }
}

fn frame(frame: &AMQPFrame) -> Result<Vec<u8>, Over> {
    gen_frame(frame)(Vec::new().into()).map(|out| out.write).map_err(|_| Over)
}
