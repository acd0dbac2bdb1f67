//! Authentication and authorization by an LDAP directory (RFC 4511).
//!
//! [`Directory::login`] checks a user's password with a simple bind and reads the user's tags. The
//! [`Identity`] then answers what the user may do, from queries in the configuration ([`Query`]):
//!
//! ```toml
//! servers = ["ldaps://ldap1.example.com", "ldaps://ldap2.example.com"]
//! user_dn_pattern = "uid=${username},ou=people,dc=example,dc=com"
//! vhost_access_query = { in_group = "cn=${vhost}-users,ou=vhosts,dc=example,dc=com" }
//!
//! [tag_queries]
//! administrator = { in_group = "cn=admins,ou=groups,dc=example,dc=com" }
//! management = { constant = true }
//! ```

mod config;
mod connection;
mod directory;
mod error;
mod evaluate;
mod identity;
mod query;
mod secret;
mod template;

pub use config::{Bind, Config, ServiceAccount};
pub use directory::Directory;
pub use error::{ConfigError, Error};
pub use identity::{Identity, Permission, Resource};
pub use query::{AttributeOf, Case, Group, Operand, Query, Scope, Variable};
pub use secret::Secret;
