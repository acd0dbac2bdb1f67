//! Where settings come from, and what is wrong with them.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys;
use super::value::Value;

/// The prefix of environment variables that set keys.
const ENVIRONMENT_PREFIX: &str = "ISTHMUS__";

/// Everything a configuration is loaded from, beside the defaults.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The configuration file, if one was named.
    pub(crate) file: Option<PathBuf>,
    /// The environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// `--data-dir`
    pub(crate) data_dir: Option<PathBuf>,
    /// Each `--set KEY=VALUE`.
    pub(crate) set: Vec<String>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// A file, and the line in it if the problem has one.
    File(PathBuf, Option<usize>),
    /// An environment variable.
    Environment(String),
    /// An option of the command line.
    Option(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, Some(line)) => write!(f, "{}:{line}", path.display()),
            Self::File(path, None) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Option(name) => f.write_str(name),
        }
    }
}

/// Something wrong with the configuration: where, with which key, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Problem {
    /// Where the value came from.
    pub(crate) origin: Origin,
    /// The key; empty if the source cannot be read at all.
    pub(crate) key: String,
    /// What is wrong.
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.origin, self.message)
        } else {
            write!(f, "{}: {}: {}", self.origin, self.key, self.message)
        }
    }
}

/// A key with a value from one source.
#[derive(Debug)]
pub(super) struct Entry {
    /// The key's path; not necessarily a known one.
    pub(super) key: String,
    /// Its value.
    pub(super) value: Value,
    /// Where it came from.
    pub(super) origin: Origin,
}

impl Entry {
    /// A problem with this entry.
    pub(super) fn problem(&self, message: String) -> Problem {
        Problem { origin: self.origin.clone(), key: self.key.clone(), message }
    }
}

impl Sources {
    /// Reads every source: the entries in the order in which later ones win, and what could not
    /// be read.
    pub(super) fn read(&self) -> (Vec<Entry>, Vec<Problem>) {
        let mut entries = Vec::new();
        let mut problems = Vec::new();
        if let Some(path) = &self.file {
            read_file(path, &mut entries, &mut problems);
        }
        self.read_environment(&mut entries, &mut problems);
        self.read_options(&mut entries, &mut problems);
        (entries, problems)
    }

    fn read_environment(&self, entries: &mut Vec<Entry>, problems: &mut Vec<Problem>) {
        let mut ours: Vec<_> = self
            .environment
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value)))
            .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
            .collect();
        // The environment has no order of its own; problems should come in the same one each time.
        ours.sort_unstable();
        for (name, value) in ours {
            let key = name[ENVIRONMENT_PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
            let origin = Origin::Environment(name.to_owned());
            match value.to_str() {
                Some(text) => {
                    entries.push(Entry { key, value: Value::Given(text.to_owned()), origin })
                }
                None => problems.push(Problem { origin, key, message: "must be UTF-8".to_owned() }),
            }
        }
    }

    fn read_options(&self, entries: &mut Vec<Entry>, problems: &mut Vec<Problem>) {
        if let Some(path) = &self.data_dir {
            let origin = Origin::Option("--data-dir");
            let key = "data_dir".to_owned();
            match path.to_str() {
                Some(text) => {
                    entries.push(Entry { key, value: Value::Given(text.to_owned()), origin })
                }
                None => problems.push(Problem { origin, key, message: "must be UTF-8".to_owned() }),
            }
        }
        for pair in &self.set {
            let origin = Origin::Option("--set");
            match pair.split_once('=') {
                Some((key, text)) => entries.push(Entry {
                    key: key.trim().to_owned(),
                    value: Value::Given(text.trim().to_owned()),
                    origin,
                }),
                None => problems.push(Problem {
                    origin,
                    key: pair.clone(),
                    message: "has no value; write KEY=VALUE".to_owned(),
                }),
            }
        }
    }
}

fn read_file(path: &Path, entries: &mut Vec<Entry>, problems: &mut Vec<Problem>) {
    let mut fail = |line, message| {
        let origin = Origin::File(path.to_owned(), line);
        problems.push(Problem { origin, key: String::new(), message });
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return fail(None, format!("cannot be read: {error}")),
    };
    match DeTable::parse(&text) {
        Ok(table) => {
            let mut walk = Walk { path, text: &text, entries, problems };
            walk.table(table.get_ref(), "");
        }
        Err(error) => {
            let line = error.span().map(|span| line_of(&text, span.start));
            // Only the message: the error's own display would quote the line.
            fail(line, error.message().replace('\n', "; "));
        }
    }
}

/// Flattens the tables of a file into entries with key paths.
struct Walk<'a> {
    path: &'a Path,
    text: &'a str,
    entries: &'a mut Vec<Entry>,
    problems: &'a mut Vec<Problem>,
}

impl Walk<'_> {
    /// Flattens `table`, which stands at `prefix`: empty, or a section followed by a dot.
    /// Recursion is bounded: only known sections are entered.
    fn table(&mut self, table: &DeTable<'_>, prefix: &str) {
        // The parser's map is sorted by name; problems read better in the order of the file.
        let mut items: Vec<_> = table.iter().collect();
        items.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in items {
            let key = format!("{prefix}{}", name.get_ref());
            let line = line_of(self.text, name.span().start);
            let origin = Origin::File(self.path.to_owned(), Some(line));
            match value.get_ref() {
                DeValue::Table(inner) if keys::is_section(&key) => {
                    self.table(inner, &format!("{key}."));
                }
                DeValue::Table(_) if !keys::is_key(&key) => {
                    let message = keys::unknown_section(&key);
                    self.problems.push(Problem { origin, key, message });
                }
                _ if keys::is_section(&key) => {
                    let message = format!("is a section; write [{key}] with its keys below");
                    self.problems.push(Problem { origin, key, message });
                }
                value => self.entries.push(Entry { key, value: Value::from_toml(value), origin }),
            }
        }
    }
}

/// The line, counted from 1, of the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
