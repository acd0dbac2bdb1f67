//! What operators define beside queues and exchanges, replicated like them.

use std::fmt;
use std::sync::Arc;

/// Kinds of settings. Their numbers are in the log: never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SettingKind {
    /// A user: password hash and tags.
    User = 1,
    /// What a user may do in a virtual host; named by the user.
    Permission = 2,
    /// Which routing keys a user may use with which exchanges of a virtual host; named by the
    /// user.
    TopicPermission = 3,
    /// How many connections and channels a user may have, and how much he may publish.
    UserLimit = 4,
    /// How many connections and queues a virtual host may have, and how much may be published
    /// there; its name is empty.
    VhostLimit = 5,
    /// Options of the queues and exchanges whose names match.
    Policy = 6,
    /// As a policy, set by who runs the broker: it tightens, and cannot be overridden.
    OperatorPolicy = 7,
    /// Anything else that is to be kept for tools.
    Parameter = 8,
}

impl SettingKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [SettingKind; 8] = [
        SettingKind::User,
        SettingKind::Permission,
        SettingKind::TopicPermission,
        SettingKind::UserLimit,
        SettingKind::VhostLimit,
        SettingKind::Policy,
        SettingKind::OperatorPolicy,
        SettingKind::Parameter,
    ];

    /// The kind of a stored number.
    pub fn from_number(number: u8) -> Option<SettingKind> {
        SettingKind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Whether settings of this kind belong to a virtual host, and go with it.
    pub fn is_of_vhost(self) -> bool {
        !matches!(self, SettingKind::User | SettingKind::UserLimit | SettingKind::Parameter)
    }
}

/// Names a setting.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SettingKey {
    /// Which kind.
    pub kind: SettingKind,
    /// Its virtual host; empty if the kind belongs to none.
    pub vhost: Arc<str>,
    /// Its name, unique in its kind and virtual host.
    pub name: Arc<str>,
}

impl SettingKey {
    /// The setting `name` of a kind that belongs to no virtual host.
    pub fn global(kind: SettingKind, name: &str) -> SettingKey {
        SettingKey { kind, vhost: "".into(), name: name.into() }
    }

    /// The setting `name` of virtual host `vhost`.
    pub fn of_vhost(kind: SettingKind, vhost: &str, name: &str) -> SettingKey {
        SettingKey { kind, vhost: vhost.into(), name: name.into() }
    }
}

impl fmt::Display for SettingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} '{}'", self.kind, self.name)?;
        if self.kind.is_of_vhost() {
            write!(f, " of vhost '{}'", self.vhost)?;
        }
        Ok(())
    }
}
