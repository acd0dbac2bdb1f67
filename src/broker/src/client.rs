//! The broker's own way to speak to itself: a session without a socket.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use isthmus_contract::{Command, Event};
use isthmus_model::{CommandError, Encodings, Reply, SessionId, Token};

use crate::access::{Access, Checked, check};
use crate::driver::Driver;
use crate::mailbox::Mailbox;
use crate::owned::Owned;
use crate::shard::{Input, MailboxHandle};

/// A session for management, bridges and whatever else acts within the process. Its requests are
/// those of any protocol; what it holds goes back when it is dropped.
pub struct Client {
    driver: Arc<dyn Driver>,
    mailbox: Arc<Mailbox>,
    id: SessionId,
    access: Option<Box<dyn Access>>,
    owned: Owned,
    encodings: Encodings,
    last_token: u64,
    events: VecDeque<Event>,
    taken: Vec<Event>,
}

impl Client {
    /// A session in `vhost` that may do what `access` says. Without access it is the broker's
    /// own: it may change settings, and is in no virtual host.
    pub(crate) async fn open(
        driver: Arc<dyn Driver>,
        id: SessionId,
        encodings: Encodings,
        place: Option<(Arc<str>, Box<dyn Access>)>,
    ) -> Result<Client, CommandError> {
        let mailbox = Arc::new(Mailbox::default());
        let handle = MailboxHandle(Arc::clone(&mailbox));
        let (vhost, access) = match place {
            Some((vhost, access)) => (Some(vhost), Some(access)),
            None => (None, None),
        };
        let mut client = Client {
            driver,
            mailbox,
            id,
            access,
            owned: Owned::default(),
            encodings,
            last_token: 0,
            events: VecDeque::new(),
            taken: Vec::new(),
        };
        let token = client.next_token();
        // Nobody's: what it does has been allowed to it by whoever made it.
        let user = Arc::from("");
        let open = Input::Open { session: id, token, user, vhost, refusal: None, mailbox: handle };
        client.driver.submit(open);
        client.answer(token).await.map(|_| client)
    }

    fn next_token(&mut self) -> Token {
        self.last_token += 1;
        Token(self.last_token)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the broker refuses.
    pub async fn ask(
        &mut self,
        command: impl FnOnce(Token) -> Command,
    ) -> Result<Reply, CommandError> {
        let token = self.next_token();
        let mut command = command(token);
        let checked = loop {
            let checked = match &mut self.access {
                Some(access) => check(&mut **access, &mut self.owned, self.encodings, command),
                None => Checked { command: Some(command), refused: None, waiting: None },
            };
            match checked.waiting {
                Some((again, asking)) => {
                    asking.await;
                    command = again;
                }
                None => break checked,
            }
        };
        let session = self.id;
        if let Some(command) = checked.command {
            self.driver.submit(Input::Commands { session, commands: vec![command] });
        }
        if let Some((token, error)) = checked.refused {
            self.driver.submit(Input::Refuse { session, token, error });
        }
        self.answer(token).await
    }

    /// The answer to what was asked under `token`; other events wait.
    async fn answer(&mut self, token: Token) -> Result<Reply, CommandError> {
        loop {
            let is_it =
                |event: &Event| matches!(event, Event::Done { token: t, .. } if *t == token);
            if let Some(at) = self.events.iter().position(is_it)
                && let Some(Event::Done { result, .. }) = self.events.remove(at)
            {
                self.owned.answered(token, result.is_ok());
                return result;
            }
            self.more().await;
        }
    }

    /// Waits until something has come.
    async fn more(&mut self) {
        let Client { mailbox, taken, driver, id, events, .. } = self;
        poll_fn(|cx| {
            mailbox.register(cx.waker());
            let bytes = mailbox.take(taken);
            if bytes > 0 {
                driver.submit(Input::Written { session: *id, bytes });
            }
            if taken.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        events.extend(taken.drain(..));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.submit(Input::Close { session: self.id });
    }
}
