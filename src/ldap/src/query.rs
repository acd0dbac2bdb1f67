//! Questions to the directory, as an operator writes them.

use serde::Deserialize;

use crate::config::check_attribute;
use crate::error::ConfigError;
use crate::template::{self, Values};

/// A question with the answer yes or no, such as `{ in_group = "cn=admins,dc=example,dc=com" }`.
///
/// Names and texts may contain `${username}`, `${user_dn}`, `${vhost}`, `${resource}` (`queue` or
/// `exchange`), `${name}`, `${permission}` (`configure`, `write` or `read`), `${routing_key}`,
/// `${client_id}`, `${ad_domain}` and `${ad_user}`, as far as the question has them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Query {
    /// Always this answer.
    Constant(bool),
    /// Whether the user is a member of the group; no if there is no such group.
    InGroup(Group),
    /// Whether the user is a member of the group, or of a group that is, and so on.
    InGroupNested(Group),
    /// Whether an entry exists.
    Exists(String),
    /// Whether two texts are equal. An attribute with several values equals any of them.
    Equals([Operand; 2]),
    /// Whether a text matches a regular expression, the second operand, anywhere. `^` and `$`
    /// anchor it.
    Match([Operand; 2]),
    /// The opposite.
    Not(Box<Query>),
    /// Whether all answers are yes.
    And(Vec<Query>),
    /// Whether any answer is yes.
    Or(Vec<Query>),
    /// The query of the first case that concerns the question. That there is none is an error,
    /// and access is refused.
    For(Vec<Case>),
}

/// A group: its name, or a table with more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawGroup")]
pub struct Group {
    /// The distinguished name.
    pub dn: String,
    /// The attribute that names members; `member` where not set.
    pub attribute: String,
    /// How far below the base nested groups are looked for.
    pub scope: Scope,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a group is its distinguished name, or a table of dn, attribute and scope"
)]
enum RawGroup {
    Name(String),
    Table(GroupTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupTable {
    dn: String,
    #[serde(default = "member")]
    attribute: String,
    #[serde(default)]
    scope: Scope,
}

fn member() -> String {
    "member".to_owned()
}

impl From<RawGroup> for Group {
    fn from(raw: RawGroup) -> Self {
        match raw {
            RawGroup::Name(dn) => Self { dn, attribute: member(), scope: Scope::default() },
            RawGroup::Table(GroupTable { dn, attribute, scope }) => Self { dn, attribute, scope },
        }
    }
}

/// How far a search goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything below the base.
    #[default]
    Subtree,
    /// What is directly below the base.
    OneLevel,
}

/// Something to compare.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "an operand is a text, or a table of dn and attribute")]
pub enum Operand {
    /// A text.
    Text(String),
    /// The values of an entry's attribute: `{ dn = "${user_dn}", attribute = "department" }`.
    Attribute(AttributeOf),
}

/// An attribute of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeOf {
    /// The entry.
    pub dn: String,
    /// The attribute.
    pub attribute: String,
}

/// A case of a `for` query: `{ variable = "permission", value = "write", query = … }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What is looked at.
    pub variable: Variable,
    /// What it has to be.
    pub value: String,
    /// What is asked then.
    pub query: Query,
}

/// What tells cases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variable {
    /// The user's name.
    Username,
    /// The virtual host.
    Vhost,
    /// `queue` or `exchange`.
    Resource,
    /// The name of the queue or exchange.
    Name,
    /// `configure`, `write` or `read`.
    Permission,
}

impl Variable {
    pub(crate) fn of<'a>(self, values: &Values<'a>) -> &'a str {
        match self {
            Self::Username => values.username,
            Self::Vhost => values.vhost,
            Self::Resource => values.resource,
            Self::Name => values.name,
            Self::Permission => values.permission,
        }
    }
}

impl Query {
    /// The answer, if it is always the same.
    pub(crate) fn constant(&self) -> Option<bool> {
        match self {
            Self::Constant(answer) => Some(*answer),
            _ => None,
        }
    }

    /// Finds mistakes before they matter.
    pub(crate) fn check(&self, has_group_base: bool) -> Result<(), ConfigError> {
        match self {
            Self::Constant(_) => Ok(()),
            Self::InGroupNested(_) if !has_group_base => Err(ConfigError::GroupBase),
            Self::InGroup(group) | Self::InGroupNested(group) => {
                check_attribute(&group.attribute)?;
                template::check(&group.dn)
            }
            Self::Exists(dn) => template::check(dn),
            Self::Equals(operands) => operands.iter().try_for_each(Operand::check),
            Self::Match([subject, expression]) => {
                subject.check()?;
                expression.check()?;
                let Operand::Text(text) = expression else { return Ok(()) };
                let filled = template::fill(text, &Values::default(), template::Place::Regex);
                regex::Regex::new(&filled).map(|_| ()).map_err(|error| ConfigError::Regex {
                    pattern: text.clone(),
                    reason: error.to_string(),
                })
            }
            Self::Not(query) => query.check(has_group_base),
            Self::And(queries) | Self::Or(queries) => {
                queries.iter().try_for_each(|query| query.check(has_group_base))
            }
            Self::For(cases) => cases.iter().try_for_each(|case| case.query.check(has_group_base)),
        }
    }
}

impl Operand {
    fn check(&self) -> Result<(), ConfigError> {
        match self {
            Self::Text(text) => template::check(text),
            Self::Attribute(of) => {
                check_attribute(&of.attribute)?;
                template::check(&of.dn)
            }
        }
    }
}
