//! What is a connection's own, and so needs no permission: the queues that it has declared as its
//! own, and those that its lasting session holds.

use std::sync::Arc;

use isthmus_model::Token;
use tokio::sync::oneshot;

use crate::access::Asking;

/// See the module's documentation. A queue is one's own once the request for it is answered: one
/// that is refused may be somebody else's.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    /// How the client is called, once it has said so.
    client: Option<Arc<str>>,
    /// In order. Most have one or two.
    queues: Vec<Arc<str>>,
    asked: Vec<Asked>,
}

/// A request that is not answered.
#[derive(Debug)]
struct Asked {
    token: Token,
    queue: Arc<str>,
    /// Told by being dropped with it.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Owned {
    /// How the client is called. It says so once; what it says then is passed over.
    pub(crate) fn set_client(&mut self, client: &Arc<str>) {
        self.client.get_or_insert_with(|| Arc::clone(client));
    }

    /// How the client is called, if it has said so.
    pub(crate) fn client(&self) -> Option<&Arc<str>> {
        self.client.as_ref()
    }

    /// A queue is asked for.
    pub(crate) fn ask(&mut self, token: Token, queue: &Arc<str>) {
        // To a silent request there is no answer that could be waited for.
        if token != Token::SILENT && !self.has(queue) {
            let queue = Arc::clone(queue);
            self.asked.push(Asked { token, queue, waiting: Vec::new() });
        }
    }

    /// A queue is not to be its own any more.
    pub(crate) fn give_up(&mut self, queue: &str) {
        if let Ok(at) = self.place(queue) {
            self.queues.remove(at);
        }
        self.asked.retain(|asked| *asked.queue != *queue);
    }

    /// A request is answered: one for a queue, or any other.
    pub(crate) fn answered(&mut self, token: Token, is_good: bool) {
        if let Some(at) = self.asked.iter().position(|asked| asked.token == token) {
            let Asked { queue, .. } = self.asked.remove(at);
            if is_good && let Err(at) = self.place(&queue) {
                // Most have one: a vector that grows by itself begins with four.
                self.queues.reserve_exact(usize::from(self.queues.is_empty()));
                self.queues.insert(at, queue);
            }
        }
    }

    /// Whether a queue is its own.
    pub(crate) fn has(&self, queue: &str) -> bool {
        self.place(queue).is_ok()
    }

    /// Where a queue lies among its own, or where it would.
    fn place(&self, queue: &str) -> Result<usize, usize> {
        self.queues.binary_search_by(|own| (**own).cmp(queue))
    }

    /// Gives the memory of what is answered back.
    pub(crate) fn rest(&mut self) {
        if self.asked.is_empty() {
            self.asked = Vec::new();
        }
    }

    /// Waits for the answer about a queue; `None` if nothing was asked for.
    pub(crate) fn wait_for(&mut self, queue: &str) -> Option<Asking> {
        let asked = self.asked.iter_mut().find(|asked| *asked.queue == *queue)?;
        let (tell, told) = oneshot::channel();
        asked.waiting.push(tell);
        Some(Box::pin(async move {
            // Told by being dropped.
            drop(told.await);
        }))
    }
}
