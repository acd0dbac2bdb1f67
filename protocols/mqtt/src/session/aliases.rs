//! Topic aliases, both ways (section 3.3.2.3.4). They end with the connection [MQTT-3.3.2-7].

use std::collections::HashMap;

use crate::codec::publish::TopicName;

/// Topics of the client, by the aliases that it has given them.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// From alias 1; grown as aliases are used.
    topics: Vec<Option<Box<str>>>,
}

impl Taken {
    pub(super) fn set(&mut self, alias: u16, topic: &str) {
        let Some(at) = usize::from(alias).checked_sub(1) else { return };
        if self.topics.len() <= at {
            self.topics.resize(at + 1, None);
        }
        self.topics[at] = Some(topic.into());
    }

    pub(super) fn topic(&self, alias: u16) -> Option<&str> {
        self.topics.get(usize::from(alias).checked_sub(1)?)?.as_deref()
    }
}

/// Aliases by routing key.
type Aliases = HashMap<Box<str>, u16>;

/// Aliases that the client is given: the topics that come first have them. Which will come more
/// often is not known, and to give one to another topic costs as much as it saves.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// How many there may be.
    max: u16,
    /// `None` before the first.
    by_key: Option<Box<Aliases>>,
}

impl Given {
    pub(super) fn new(max: u16) -> Given {
        Given { max, by_key: None }
    }

    /// Whether the client takes aliases at all.
    pub(super) fn may_be_told(&self) -> bool {
        self.max > 0
    }

    /// How a message with `key` tells its topic.
    pub(super) fn name<'k>(&self, key: &'k str) -> TopicName<'k> {
        if self.max == 0 {
            return TopicName::RoutingKey(key.as_bytes());
        }
        let given = self.by_key.as_ref().map_or(0, |by_key| by_key.len());
        match self.by_key.as_ref().and_then(|by_key| by_key.get(key)) {
            Some(alias) => TopicName::Alias(*alias),
            None if given < usize::from(self.max) => {
                TopicName::NewAlias(key.as_bytes(), given as u16 + 1)
            }
            None => TopicName::RoutingKey(key.as_bytes()),
        }
    }

    /// The client has been sent the `name` of `key`.
    pub(super) fn told(&mut self, key: &str, name: &TopicName<'_>) {
        if let TopicName::NewAlias(_, alias) = name {
            self.by_key.get_or_insert_default().insert(key.into(), *alias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_of_one_connection() {
        let mut given = Given::new(1);
        let name = given.name("a.b");
        assert_eq!(name, TopicName::NewAlias(b"a.b", 1));
        given.told("a.b", &name);
        assert_eq!(given.name("a.b"), TopicName::Alias(1));
        // [MQTT-3.3.2-7]: a connection begins with none.
        assert_eq!(Given::new(1).name("a.b"), TopicName::NewAlias(b"a.b", 1));
        assert_eq!(Taken::default().topic(1), None);
    }

    #[test]
    fn an_alias_stands_for_what_it_was_given_last() {
        let mut taken = Taken::default();
        taken.set(3, "a");
        assert_eq!([0, 1, 3, 4].map(|alias| taken.topic(alias)), [None, None, Some("a"), None]);
        taken.set(3, "b");
        assert_eq!(taken.topic(3), Some("b"));
    }
}
