//! STOMP 1.2, as far as SEND with receipts, and consuming and settling with receipts need it.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_stomp::codec::frame::line_ends;
use isthmus_stomp::codec::{Command, Decoder, Limits, Rules, Version, write_frame};

use super::{Heard, Line};
use crate::client::{Over, PATIENCE, body, id_of};
use crate::work::QUEUES;

/// A connection.
pub(crate) struct Stomp {
    line: Line,
    /// What settles each message that has come: the header `ack`.
    handles: BTreeMap<u64, String>,
    last_handle: u64,
}

impl Stomp {
    pub(super) async fn connect(line: Line) -> Result<Stomp, Over> {
        let mut this = Stomp { line, handles: BTreeMap::new(), last_handle: 0 };
        let headers =
            [("accept-version", "1.2"), ("host", "/"), ("login", "client"), ("passcode", "secret")];
        this.say(Command::Connect, &headers, b"").await?;
        loop {
            match this.frame()? {
                Some((Command::Connected, _)) => return Ok(this),
                Some(_) => return Err(Over),
                None if !this.line.more(PATIENCE).await? => return Err(Over),
                None => {}
            }
        }
    }

    pub(super) async fn publish(&mut self, queue: usize, id: u64) -> Result<(), Over> {
        let (destination, receipt) = (destination(queue), format!("p{id}"));
        let headers =
            [("destination", &*destination), ("persistent", "true"), ("receipt", &*receipt)];
        self.say(Command::Send, &headers, &body(id)).await
    }

    pub(super) async fn consume(&mut self, limit: u16) -> Result<(), Over> {
        for number in 0..QUEUES.len() {
            let (id, limit) = (number.to_string(), limit.to_string());
            let headers = [
                ("id", &*id),
                ("destination", &*destination(number)),
                ("ack", "client-individual"),
                ("prefetch-count", &*limit),
            ];
            self.say(Command::Subscribe, &headers, b"").await?;
        }
        Ok(())
    }

    pub(super) async fn settle(
        &mut self,
        handle: u64,
        id: u64,
        gives_back: bool,
    ) -> Result<(), Over> {
        let ack = self.handles.remove(&handle).ok_or(Over)?;
        let (command, letter) = if gives_back { (Command::Nack, 'n') } else { (Command::Ack, 'a') };
        let receipt = format!("{letter}{id}");
        self.say(command, &[("id", &*ack), ("receipt", &*receipt)], b"").await
    }

    pub(super) async fn hear(&mut self, time: Duration) -> Result<Option<Heard>, Over> {
        loop {
            match self.frame()? {
                Some((Command::Error, _)) => return Err(Over),
                Some((_, Some(heard))) => return Ok(Some(heard)),
                Some(_) => {}
                None if !self.line.more(time).await? => return Ok(None),
                None => {}
            }
        }
    }

    /// What the next frame is that has come as a whole, and what it tells.
    fn frame(&mut self) -> Result<Option<(Command, Option<Heard>)>, Over> {
        let ends = line_ends(&self.line.got);
        self.line.got.drain(..ends);
        let mut decoder = Decoder::default();
        let limits = Limits::default();
        let next = decoder.next(&self.line.got, Some(Version::V1_2), &limits);
        let Some(frame) = next.map_err(|_| Over)? else { return Ok(None) };
        let header = |name| frame.headers.get(name);
        let heard = match frame.command {
            Command::Receipt => {
                let receipt = header("receipt-id").ok_or(Over)?;
                let (letter, id) = receipt.split_at_checked(1).ok_or(Over)?;
                let ids = vec![id.parse::<u64>().map_err(|_| Over)?];
                match letter {
                    "p" => Some(Heard::Stored(ids)),
                    "a" => Some(Heard::Settled(ids)),
                    _ => None,
                }
            }
            Command::Message => {
                let queue =
                    header("subscription").and_then(|id| id.parse::<usize>().ok()).ok_or(Over)?;
                let redelivered = header("redelivered").as_deref() == Some("true");
                self.last_handle += 1;
                self.handles.insert(self.last_handle, header("ack").ok_or(Over)?.into_owned());
                let (id, handle) = (id_of(frame.body), self.last_handle);
                Some(Heard::Got { queue, id, redelivered, handle })
            }
            _ => None,
        };
        let (command, wire_len) = (frame.command, frame.wire_len);
        self.line.got.drain(..wire_len);
        Ok(Some((command, heard)))
    }

    async fn say(
        &mut self,
        command: Command,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<(), Over> {
        let rules = match command {
            Command::Connect => Rules::Verbatim,
            _ => Rules::of(Version::V1_2),
        };
        let mut bytes = Vec::new();
        write_frame(&mut bytes, command, rules, headers, body);
        self.line.send(&bytes).await
    }
}

fn destination(queue: usize) -> String {
    format!("/queue/{}", QUEUES[queue])
}
