//! What is a connection's own, and so needs no permission: the queues that it has declared as its
//! own, and those that its lasting session holds.

use std::collections::HashSet;
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
    queues: HashSet<Arc<str>>,
    /// Requests that are not answered.
    asked: Vec<(Token, Arc<str>)>,
    /// Told when one of them is.
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
            self.asked.push((token, Arc::clone(queue)));
        }
    }

    /// A queue is not to be its own any more.
    pub(crate) fn give_up(&mut self, queue: &str) {
        self.queues.remove(queue);
        self.asked.retain(|(_, asked)| **asked != *queue);
    }

    /// A request is answered: one for a queue, or any other.
    pub(crate) fn answered(&mut self, token: Token, is_good: bool) {
        if let Some(at) = self.asked.iter().position(|(asked, _)| *asked == token) {
            let (_, queue) = self.asked.remove(at);
            if is_good {
                self.queues.insert(queue);
            }
            self.waiting.clear();
        }
    }

    /// Whether a queue is its own.
    pub(crate) fn has(&self, queue: &str) -> bool {
        self.queues.contains(queue)
    }

    /// Waits for the answer about a queue; `None` if nothing was asked for.
    pub(crate) fn wait_for(&mut self, queue: &str) -> Option<Asking> {
        self.asked.iter().find(|(_, asked)| **asked == *queue)?;
        let (tell, told) = oneshot::channel();
        self.waiting.push(tell);
        Some(Box::pin(async move {
            // Told by being dropped.
            drop(told.await);
        }))
    }
}
