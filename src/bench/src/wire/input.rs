//! What has been read from a connection and is not used up.

use std::io;

use tokio::io::AsyncReadExt;

use super::Fault;
use crate::net::ReadHalf;

/// The buffer that an idle connection has.
const SMALL: usize = 1024;

/// The buffer of one that is read in earnest.
const LARGE: usize = 256 * 1024;

/// The reading half of a connection and its buffer.
pub(crate) struct Input {
    reader: ReadHalf,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(crate) fn new(reader: ReadHalf) -> Input {
        Input { reader, buffer: vec![0; SMALL], start: 0, end: 0 }
    }

    /// Reads once. Cancelling it loses nothing.
    pub(crate) async fn read(&mut self) -> Result<(), Fault> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        // What is left over is part of a message that is larger than the buffer: bytes that came,
        // not a length that was announced, make it grow.
        if self.end * 2 > self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 4, 0);
        }
        match self.reader.read(&mut self.buffer[self.end..]).await {
            Ok(0) => Err(Fault::Closed("")),
            Ok(n) => {
                self.end += n;
                // A full buffer says that more comes.
                if self.end == self.buffer.len() && self.end < LARGE {
                    self.buffer.resize((self.buffer.len() * 4).min(LARGE), 0);
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Fault::Closed("")),
            Err(error) => Err(error.into()),
        }
    }

    /// What is there.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Uses up the first `n` bytes of it.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start += n;
    }

    /// Reads until `find` finds something in what has come, and uses up what it says.
    pub(crate) async fn until<T>(
        &mut self,
        mut find: impl FnMut(&[u8]) -> Result<Option<(T, usize)>, Fault>,
    ) -> Result<T, Fault> {
        loop {
            if let Some((found, used)) = find(self.bytes())? {
                self.consume(used);
                return Ok(found);
            }
            self.read().await?;
        }
    }
}
