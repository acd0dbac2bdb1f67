//! Messages that were seen before.

use isthmus_model::{Batch, Record, RecordFlags, Time};

use super::Dispatcher;
use super::publish::headers_of;
use crate::Fact;
use crate::dedup::{DedupKey, DedupOptions, WindowOf};

/// What a key costs in the log, about.
const KEY_BYTES: u64 = 26;

/// Keys that are forgotten for one that is remembered, so that no message has to pay for a window
/// full of keys whose time was over long ago.
const FORGET_MAX: usize = 16;

impl Dispatcher {
    /// A message's key in a window, and until when it would be remembered; `None` for a message
    /// that is not compared with others.
    pub(super) fn dedup_key(
        &self,
        options: &DedupOptions,
        batch: &Batch,
        record: &Record,
    ) -> Option<(DedupKey, Time)> {
        options.key_of(&headers_of(self.options.encodings, batch, record), self.clock.log)
    }

    /// Whether a key is remembered. One whose remembering is on its way through the log counts.
    pub(super) fn has_seen(&self, window: &WindowOf, key: &DedupKey) -> bool {
        self.windows.get(window).is_some_and(|window| window.has(key, self.clock.log))
    }

    /// Remembers the key of a message that was taken. The log holds it if it holds the message:
    /// a key that outlives its message would keep the publisher from sending it again.
    pub(super) fn remember(
        &mut self,
        of: &WindowOf,
        size: u32,
        (key, until): (DedupKey, Time),
        record: &Record,
        durable: bool,
    ) {
        let logged = durable && record.flags.has(RecordFlags::DURABLE);
        let now = self.clock.log;
        let window = self.windows.entry(of.clone()).or_default();
        let mut forgotten = Vec::new();
        if window.forget(&key) && !logged {
            forgotten.push(key);
        }
        for _ in 0..FORGET_MAX {
            let Some(old) = window.surplus(size, now) else { break };
            if window.forget(&old) {
                forgotten.push(old);
            }
        }
        window.remember(key, until, logged);
        if !forgotten.is_empty() {
            self.log_forgotten(of, forgotten);
        }
        if logged {
            self.log_remembered(of, key, until);
        }
    }

    fn log_remembered(&mut self, of: &WindowOf, key: DedupKey, until: Time) {
        match self.gather.facts.last_mut() {
            Some(Fact::Remember { window, keys }) if window == of => {
                keys.push((key, until));
                self.gather.written += 1;
                self.gather.bytes += KEY_BYTES;
            }
            _ => {
                let keys = vec![(key, until)];
                self.propose(Fact::Remember { window: of.clone(), keys }, 64 + KEY_BYTES);
            }
        }
    }

    fn log_forgotten(&mut self, of: &WindowOf, forgotten: Vec<DedupKey>) {
        let bytes = KEY_BYTES * forgotten.len() as u64;
        self.propose(Fact::Forget { window: of.clone(), keys: forgotten }, 64 + bytes);
    }

    /// Forgets the windows of exchanges of a virtual host that is gone.
    pub(super) fn forget_windows_of(&mut self, vhost: &str) {
        self.windows.retain(|of, _| !of.is_exchange_in(vhost));
    }
}
