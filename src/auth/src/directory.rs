//! Users, permissions and limits as they are now.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use isthmus_model::{SettingKey, SettingKind, Table};

use crate::{FormError, Limits, Permission, TopicPermission, User};

/// What was read from a setting, with that.
type FromSetting<T> = (Arc<Table>, Arc<T>);

/// What operators have defined, arranged to be asked. It does not change; a change makes another.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    users: HashMap<Arc<str>, Arc<User>>,
    /// By virtual host and user, with the settings that they were read from: compiling patterns
    /// takes its time, so those that stay the same are taken over.
    permissions: HashMap<(Arc<str>, Arc<str>), FromSetting<Permission>>,
    topics: HashMap<(Arc<str>, Arc<str>), FromSetting<TopicPermission>>,
    user_limits: HashMap<Arc<str>, Limits>,
    vhost_limits: HashMap<Arc<str>, Limits>,
}

/// The directory of now, for everybody who asks.
pub type SharedDirectory = Arc<ArcSwap<Directory>>;

impl Directory {
    /// The directory of `settings`, which was `before`. A setting that cannot be read gives nothing
    /// to anybody; it is passed to `unreadable`.
    pub fn new<'s>(
        before: &Directory,
        settings: impl IntoIterator<Item = (&'s SettingKey, &'s Arc<Table>)>,
        mut unreadable: impl FnMut(&SettingKey, &FormError),
    ) -> Directory {
        let mut directory = Directory::default();
        for (key, table) in settings {
            if let Err(error) = directory.add(before, key, table) {
                unreadable(key, &error);
            }
        }
        directory
    }

    fn add(
        &mut self,
        before: &Directory,
        key: &SettingKey,
        table: &Arc<Table>,
    ) -> Result<(), FormError> {
        let name = || Arc::clone(&key.name);
        let place = || (Arc::clone(&key.vhost), name());
        match key.kind {
            SettingKind::User => {
                self.users.insert(name(), Arc::new(User::read(table)?));
            }
            SettingKind::Permission => {
                let read = match before.permissions.get(&place()) {
                    Some((source, read)) if Arc::ptr_eq(source, table) => Arc::clone(read),
                    _ => Arc::new(Permission::read(table)?),
                };
                self.permissions.insert(place(), (Arc::clone(table), read));
            }
            SettingKind::TopicPermission => {
                let read = match before.topics.get(&place()) {
                    Some((source, read)) if Arc::ptr_eq(source, table) => Arc::clone(read),
                    _ => Arc::new(TopicPermission::read(table, &key.name, &key.vhost)?),
                };
                self.topics.insert(place(), (Arc::clone(table), read));
            }
            SettingKind::UserLimit => {
                self.user_limits.insert(name(), Limits::read(table, &Limits::OF_USERS)?);
            }
            SettingKind::VhostLimit => {
                let limits = Limits::read(table, &Limits::OF_VHOSTS)?;
                self.vhost_limits.insert(Arc::clone(&key.vhost), limits);
            }
            SettingKind::Policy | SettingKind::OperatorPolicy | SettingKind::Parameter => {}
        }
        Ok(())
    }

    /// Checks that `table` is as a setting of `key`'s kind is to be, as far as it is one of this
    /// crate's.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(key: &SettingKey, table: &Arc<Table>) -> Result<(), FormError> {
        Directory::default().add(&Directory::default(), key, table)
    }

    /// Whether nobody can log in.
    pub fn has_no_users(&self) -> bool {
        self.users.is_empty()
    }

    /// The user called `name`.
    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// What `user` may do in `vhost`; `None` if he may not enter it.
    pub fn permission(&self, user: &Arc<str>, vhost: &Arc<str>) -> Option<&Arc<Permission>> {
        self.permissions.get(&(Arc::clone(vhost), Arc::clone(user))).map(|(_, read)| read)
    }

    /// Which routing keys `user` may use in `vhost`; `None` for all.
    pub fn topics(&self, user: &Arc<str>, vhost: &Arc<str>) -> Option<&Arc<TopicPermission>> {
        self.topics.get(&(Arc::clone(vhost), Arc::clone(user))).map(|(_, read)| read)
    }

    /// The limits of a user.
    pub fn user_limits(&self, user: &str) -> Limits {
        self.user_limits.get(user).copied().unwrap_or_default()
    }

    /// The limits of a virtual host.
    pub fn vhost_limits(&self, vhost: &str) -> Limits {
        self.vhost_limits.get(vhost).copied().unwrap_or_default()
    }
}
