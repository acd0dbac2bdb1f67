//! What one user may do in one virtual host.

use std::sync::Arc;

use isthmus_broker::Denied;
use isthmus_model::{Action, CommandError, Resource};

use crate::{Directory, Permission, SharedDirectory, TopicPermission};

/// Decisions remembered of one user's session; beyond it all are forgotten.
const REMEMBERED_MAX: usize = 64;

/// What a user may do in a virtual host, asked for every action of a session. A change of the
/// directory shows at the next question.
pub struct Access {
    directory: SharedDirectory,
    user: Arc<str>,
    vhost: Arc<str>,
    /// The directory that the rest was taken from.
    seen: Arc<Directory>,
    permission: Option<Arc<Permission>>,
    topics: Option<Arc<TopicPermission>>,
    /// Which of its user's clients it is, once it has said so.
    client: Option<Box<str>>,
    writes_everything: bool,
    /// Exchanges, or queues, that were found to be allowed.
    allowed: Vec<(Action, bool, Box<str>)>,
}

impl Access {
    /// The access of `user` to `vhost`.
    ///
    /// # Errors
    /// [`CommandError::Refused`] if he may not enter it.
    pub fn new(
        directory: SharedDirectory,
        user: Arc<str>,
        vhost: Arc<str>,
    ) -> Result<Access, CommandError> {
        let seen = directory.load_full();
        let mut access = Access {
            directory,
            user,
            vhost,
            seen: Arc::default(),
            permission: None,
            topics: None,
            client: None,
            writes_everything: false,
            allowed: Vec::new(),
        };
        access.look(seen);
        if access.permission.is_none() {
            let Access { user, vhost, .. } = access;
            return Err(crate::backend::no_entry(&user, &vhost));
        }
        Ok(access)
    }

    /// Takes over what `directory` says.
    fn look(&mut self, directory: Arc<Directory>) {
        self.permission = directory.permission(&self.user, &self.vhost).cloned();
        self.topics = directory.topics(&self.user, &self.vhost).cloned();
        if let (Some(topics), Some(client)) = (&self.topics, &self.client)
            && let Some(own) = topics.of_client(client)
        {
            self.topics = Some(Arc::new(own));
        }
        let all = self.permission.as_ref().is_some_and(|p| p.write.matches_all());
        self.writes_everything = all && self.topics.is_none();
        self.allowed.clear();
        self.seen = directory;
    }

    fn refresh(&mut self) {
        let now = self.directory.load();
        if !Arc::ptr_eq(&now, &self.seen) {
            let now = Arc::clone(&now);
            self.look(now);
        }
    }

    fn refused(&self, action: Action, what: &str) -> CommandError {
        refused_action(action, what, &self.vhost, &self.user)
    }
}

/// `user` may not do this to `what` in `vhost`, in RabbitMQ's words.
pub(crate) fn refused_action(action: Action, what: &str, vhost: &str, user: &str) -> CommandError {
    let word = action.name();
    CommandError::Refused(format!(
        "{word} access to {what} in vhost '{vhost}' refused for user '{user}'"
    ))
}

impl isthmus_broker::Access for Access {
    fn identify(&mut self, client: &str) {
        if self.client.as_deref() != Some(client) {
            self.client = Some(client.into());
            self.look(self.directory.load_full());
        }
    }

    fn writes_everything(&mut self) -> bool {
        self.refresh();
        self.writes_everything
    }

    fn check(&mut self, action: Action, resource: Resource<'_>) -> Result<(), Denied> {
        self.refresh();
        let (name, is_queue) = (resource.name(), matches!(resource, Resource::Queue(_)));
        if self.allowed.iter().any(|(a, q, n)| (*a, *q, &**n) == (action, is_queue, name)) {
            return Ok(());
        }
        let patterns = self.permission.as_ref().map(|permission| match action {
            Action::Configure => &permission.configure,
            Action::Write => &permission.write,
            Action::Read => &permission.read,
        });
        let is_simple = patterns.is_some_and(|patterns| patterns.matches_all());
        if !is_simple && !patterns.is_some_and(|patterns| patterns.matches(name)) {
            return Err(self.refused(action, &format!("{} '{name}'", resource.kind())).into());
        }
        // What is found without a look at the name is not worth remembering.
        if !is_simple {
            if self.allowed.len() >= REMEMBERED_MAX {
                self.allowed.clear();
            }
            self.allowed.push((action, is_queue, name.into()));
        }
        Ok(())
    }

    fn check_topic(&mut self, action: Action, exchange: &str, key: &str) -> Result<(), Denied> {
        self.refresh();
        let patterns = self.topics.as_ref().and_then(|topics| topics.of(exchange));
        let allowed = patterns.is_none_or(|patterns| match action {
            Action::Write => patterns.write.matches(key),
            Action::Read => patterns.read.matches(key),
            Action::Configure => true,
        });
        if allowed {
            return Ok(());
        }
        Err(self.refused(action, &format!("topic '{key}' in exchange '{exchange}'")).into())
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use isthmus_broker::Access as _;
    use isthmus_model::{SettingKey, SettingKind, Table};

    use super::*;

    fn directory(configure: &str, write: &str, read: &str, topics: Option<Table>) -> Directory {
        let key = SettingKey::of_vhost(SettingKind::Permission, "/", "anna");
        let mut settings = vec![(key, Arc::new(Permission::table(configure, write, read)))];
        if let Some(topics) = topics {
            let key = SettingKey::of_vhost(SettingKind::TopicPermission, "/", "anna");
            settings.push((key, Arc::new(topics)));
        }
        let settings = settings.iter().map(|(key, table)| (key, table));
        Directory::new(&Directory::default(), settings, |key, error| panic!("{key}: {error}"))
    }

    fn access(directory: Directory) -> (Access, SharedDirectory) {
        let shared = SharedDirectory::new(ArcSwap::new(Arc::new(directory)));
        let access = Access::new(Arc::clone(&shared), "anna".into(), "/".into());
        (access.expect("a permission"), shared)
    }

    /// Why it was refused.
    fn said(result: Result<(), Denied>) -> String {
        match result {
            Err(Denied::Refused(error)) => error.to_string(),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn each_action_has_its_pattern() {
        let (mut access, _) = access(directory("^c", "^w", "^r", None));
        for (action, good) in
            [(Action::Configure, "c1"), (Action::Write, "w1"), (Action::Read, "r1")]
        {
            for _ in 0..2 {
                assert!(access.check(action, Resource::Queue(good)).is_ok());
                assert!(access.check(action, Resource::Exchange("x")).is_err());
            }
        }
        let refused = said(access.check(Action::Write, Resource::Exchange("")));
        assert_eq!(
            refused,
            "write access to exchange 'amq.default' in vhost '/' refused for user 'anna'"
        );
    }

    #[test]
    fn what_was_allowed_to_a_queue_is_not_allowed_to_an_exchange_by_memory() {
        let (mut access, shared) = access(directory("", ".*", "", None));
        assert!(access.writes_everything());
        assert!(access.check(Action::Write, Resource::Queue("a")).is_ok());
        shared.store(Arc::new(directory("", "^b$", "", None)));
        assert!(access.check(Action::Write, Resource::Queue("a")).is_err(), "changes show at once");
        assert!(!access.writes_everything());
        shared.store(Arc::new(Directory::default()));
        assert!(access.check(Action::Write, Resource::Queue("b")).is_err());
    }

    #[test]
    fn topics_are_restricted_where_they_are_named() {
        let topics = Table(vec![TopicPermission::entry("amq.topic", "^{username}\\.", "^all$")]);
        let (mut access, _) = access(directory(".*", ".*", ".*", Some(topics)));
        assert!(!access.writes_everything());
        assert!(access.check_topic(Action::Write, "amq.topic", "anna.temp").is_ok());
        let refused = access.check_topic(Action::Write, "amq.topic", "bert.temp");
        assert!(said(refused).contains("topic 'bert.temp'"));
        assert!(access.check_topic(Action::Read, "amq.topic", "all").is_ok());
        assert!(access.check_topic(Action::Read, "amq.topic", "anna.temp").is_err());
        assert!(access.check_topic(Action::Write, "other", "bert.temp").is_ok());
    }

    #[test]
    fn topics_may_depend_on_which_client_it_is() {
        let entry = TopicPermission::entry("amq.topic", "^c\\.{client_id}$", "^%u\\.%c$|^all$");
        let topics = || Some(Table(vec![entry.clone()]));
        let (mut access, shared) = access(directory(".*", ".*", ".*", topics()));
        let write = |access: &mut Access, key| access.check_topic(Action::Write, "amq.topic", key);
        let read = |access: &mut Access, key| access.check_topic(Action::Read, "amq.topic", key);
        // A client without an identifier is none of those that patterns speak of.
        assert!(read(&mut access, "all").is_ok());
        for key in ["c.", "c.{client_id}", "c.x.1", "c.%c"] {
            assert!(write(&mut access, key).is_err(), "{key}");
        }
        access.identify("x.1");
        for _ in 0..2 {
            assert!(write(&mut access, "c.x.1").is_ok());
            assert!(write(&mut access, "c.x21").is_err(), "it stands for itself");
            assert!(read(&mut access, "anna.x.1").is_ok() && read(&mut access, "all").is_ok());
            assert!(read(&mut access, "bert.x.1").is_err());
            shared.store(Arc::new(directory(".*", ".*", ".*", topics())));
        }
    }

    #[test]
    fn nobody_enters_without_a_permission() {
        let shared = SharedDirectory::new(ArcSwap::new(Arc::new(directory("", "", "", None))));
        for (user, vhost, enters) in
            [("anna", "/", true), ("anna", "v", false), ("bert", "/", false)]
        {
            let access = Access::new(Arc::clone(&shared), user.into(), vhost.into());
            assert_eq!(access.is_ok(), enters, "{user} {vhost}");
        }
    }
}
