//! Replies without a queue of one's own: a channel consumes from `amq.rabbitmq.reply-to`, its
//! requests carry an address made for it, and answers published to that address come straight
//! back (RabbitMQ's extension, <https://www.rabbitmq.com/docs/direct-reply-to>).
//!
//! The address is the name of a queue that the session keeps for the channel: volatile, exclusive,
//! and gone with its only consumer. Nobody finds it by guessing: 128 bits of it are random.

use std::sync::Arc;

use amq_protocol::protocol::basic;
use isthmus_contract::{Command, TopologyChange};
use isthmus_model::{Lifetime, QueueDef, SharedOptions, Table, Token};

use crate::codec::head::Head;
use crate::codec::publish::REPLY_TO;
use crate::fault::{Fault, ReplyCode};

use super::Amqp091Session;

impl Amqp091Session {
    /// Makes the queue of a channel that is to consume its replies; returns the queue's name.
    ///
    /// # Errors
    /// If the consumer would acknowledge, or the channel has one already (406).
    pub(super) fn begin_replies(
        &mut self,
        number: u16,
        consume: &basic::Consume,
        tag: &Arc<str>,
    ) -> Result<Arc<str>, Fault> {
        let refused = |text| Err(Fault::new(ReplyCode::PreconditionFailed, text));
        if !consume.no_ack {
            return refused("reply consumer cannot acknowledge");
        }
        self.reply_queues += 1;
        let (secret, count) = (self.config.name_secret, self.reply_queues);
        let queue: Arc<str> = format!("{REPLY_TO}.{secret:032x}.{number:x}.{count:x}").into();
        let Some(channel) = self.open_channel(number) else { return Ok(queue) };
        if channel.replies.is_some() {
            return refused("reply consumer already set");
        }
        channel.replies = Some(Replies { tag: Arc::clone(tag), queue: Arc::clone(&queue) });
        let def = QueueDef {
            name: Arc::clone(&queue),
            lifetime: Lifetime::Exclusive(self.config.id),
            auto_delete: true,
            options: SharedOptions::default(),
            arguments: Table::default(),
        };
        let change = TopologyChange::DeclareOwnQueue(def);
        self.command(Command::Topology { token: Token::SILENT, change });
        Ok(queue)
    }

    /// Forgets where replies went if `tag` is the consumer that got them.
    pub(super) fn end_replies(&mut self, number: u16, tag: &str) {
        if let Some(channel) = self.open_channel(number) {
            channel.replies.take_if(|replies| *replies.tag == *tag);
        }
    }

    /// `bytes`, the head of a message, with the channel's own address in it, if it asks for
    /// replies to the channel.
    ///
    /// # Errors
    /// If the channel does not consume its replies (406).
    pub(super) fn reply_address(
        &mut self,
        number: u16,
        head: &Head,
        bytes: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault> {
        if head.reply_to.clone().is_none_or(|at| bytes[at] != *REPLY_TO.as_bytes()) {
            return Ok(None);
        }
        let replies = self.open_channel(number).and_then(|channel| channel.replies.as_ref());
        let replies = replies.ok_or_else(|| {
            Fault::new(ReplyCode::PreconditionFailed, "fast reply consumer does not exist")
        })?;
        Ok(head.with_reply_to(bytes, &replies.queue))
    }
}

/// Where the replies to a channel's requests go.
#[derive(Debug)]
pub(super) struct Replies {
    /// The consumer that gets them.
    pub(super) tag: Arc<str>,
    /// The queue that they go through.
    queue: Arc<str>,
}
