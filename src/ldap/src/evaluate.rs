//! Answers to queries.

use std::collections::BTreeSet;
use std::pin::Pin;

use ldap3::ldap_escape;
use regex::Regex;

use crate::config::Config;
use crate::connection::{Connection, Connector, Credentials, OpenError};
use crate::error::Error;
use crate::query::{Group, Operand, Query, Scope};
use crate::template::{Place, Values, fill};

/// More than anyone is a member of; ends searches that lead nowhere.
const MAX_GROUPS: usize = 1000;

/// Evaluates queries with one connection, opened when the first query needs it.
pub(crate) struct Evaluator<'a> {
    config: &'a Config,
    connector: &'a Connector,
    credentials: Credentials,
    connection: Option<Connection>,
}

impl<'a> Evaluator<'a> {
    pub(crate) fn new(
        config: &'a Config,
        connector: &'a Connector,
        credentials: Credentials,
        connection: Option<Connection>,
    ) -> Self {
        Self { config, connector, credentials, connection }
    }

    /// Closes the connection, if there is one.
    pub(crate) async fn close(self) {
        if let Some(connection) = self.connection {
            connection.close().await;
        }
    }

    /// Answers a query.
    pub(crate) fn ask<'b>(
        &'b mut self,
        query: &'b Query,
        values: &'b Values<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<bool, Error>> + Send + 'b>> {
        Box::pin(async move {
            match query {
                Query::Constant(answer) => Ok(*answer),
                Query::InGroup(group) => {
                    let dn = fill(&group.dn, values, Place::Dn);
                    let filter = member_filter(&group.attribute, values.user_dn);
                    Ok(!self.search(&dn, ldap3::Scope::Base, &filter, "1.1").await?.is_empty())
                }
                Query::InGroupNested(group) => self.in_group_nested(group, values).await,
                Query::Exists(dn) => {
                    let dn = fill(dn, values, Place::Dn);
                    let found = self.search(&dn, ldap3::Scope::Base, "(objectClass=*)", "1.1");
                    Ok(!found.await?.is_empty())
                }
                Query::Equals([left, right]) => {
                    let left = self.operand(left, values, Place::Plain).await?;
                    let right = self.operand(right, values, Place::Plain).await?;
                    Ok(left.iter().any(|value| right.contains(value)))
                }
                Query::Match([subject, expression]) => {
                    let subjects = self.operand(subject, values, Place::Plain).await?;
                    for expression in self.operand(expression, values, Place::Regex).await? {
                        let regex = Regex::new(&expression)
                            .map_err(|error| Error::Regex(error.to_string()))?;
                        if subjects.iter().any(|subject| regex.is_match(subject)) {
                            return Ok(true);
                        }
                    }
                    Ok(false)
                }
                Query::Not(query) => Ok(!self.ask(query, values).await?),
                Query::And(queries) => {
                    for query in queries {
                        if !self.ask(query, values).await? {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                }
                Query::Or(queries) => {
                    for query in queries {
                        if self.ask(query, values).await? {
                            return Ok(true);
                        }
                    }
                    Ok(false)
                }
                Query::For(cases) => {
                    let case = cases.iter().find(|case| case.variable.of(values) == case.value);
                    self.ask(&case.ok_or(Error::NoCase)?.query, values).await
                }
            }
        })
    }

    /// Goes from group to group, each once.
    async fn in_group_nested(&mut self, group: &Group, values: &Values<'_>) -> Result<bool, Error> {
        let base = self.config.group_base().unwrap_or_default();
        let scope = match group.scope {
            Scope::Subtree => ldap3::Scope::Subtree,
            Scope::OneLevel => ldap3::Scope::OneLevel,
        };
        let wanted = fill(&group.dn, values, Place::Dn).to_lowercase();
        let mut seen = BTreeSet::new();
        let mut members = vec![values.user_dn.to_owned()];
        while let Some(member) = members.pop() {
            let filter = member_filter(&group.attribute, &member);
            for found in self.search(base, scope, &filter, "1.1").await? {
                let name = found.dn.to_lowercase();
                if name == wanted {
                    return Ok(true);
                }
                if seen.insert(name) {
                    members.push(found.dn);
                }
            }
            if seen.len() > MAX_GROUPS {
                return Err(Error::TooManyGroups(MAX_GROUPS));
            }
        }
        Ok(false)
    }

    async fn operand(
        &mut self,
        operand: &Operand,
        values: &Values<'_>,
        place: Place,
    ) -> Result<Vec<String>, Error> {
        let of = match operand {
            Operand::Text(text) => return Ok(vec![fill(text, values, place)]),
            Operand::Attribute(of) => of,
        };
        let dn = fill(&of.dn, values, Place::Dn);
        let entries =
            self.search(&dn, ldap3::Scope::Base, "(objectClass=*)", &of.attribute).await?;
        let attributes = entries.into_iter().flat_map(|entry| entry.attrs);
        Ok(attributes
            .filter(|(name, _)| name.eq_ignore_ascii_case(&of.attribute))
            .flat_map(|(_, values)| values)
            .collect())
    }

    async fn search(
        &mut self,
        base: &str,
        scope: ldap3::Scope,
        filter: &str,
        attribute: &str,
    ) -> Result<Vec<ldap3::SearchEntry>, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connector.open(&self.credentials).await.map_err(|error| match error {
                OpenError::Refused => Error::ServiceAccount(match &self.credentials {
                    Credentials::Anonymous => String::new(),
                    Credentials::Account { dn, .. } => dn.clone(),
                }),
                OpenError::Unavailable(reason) => Error::Unavailable(reason),
            })?,
        };
        // After an error the connection is not kept.
        let entries = connection.search(base, scope, filter, attribute).await?;
        self.connection = Some(connection);
        Ok(entries)
    }
}

/// A filter (RFC 4515) for groups that name the member.
fn member_filter(attribute: &str, dn: &str) -> String {
    format!("({attribute}={})", ldap_escape(dn))
}
