//! The user file: its format, reading it, and replacing it atomically.
//!
//! ```toml
//! [[user]]
//! name = "alice"
//! password_hash = "$argon2id$v=19$m=19456,t=2,p=1$…"
//! tags = ["administrator"]
//! loopback_only = false
//! ```

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::store::check_hash;
use crate::config::line_of;

/// The longest name of a user, in bytes: AMQP carries it in a short string.
const NAME_BYTES_MAX: usize = 128;

/// Comment at the head of every file this program writes.
const HEADER: &str = "# Written by `isthmus users`, which keeps no comments.\n";

/// One user, as kept in the file.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub(crate) struct User {
    /// The name, unique in the file.
    pub(crate) name: String,
    /// The argon2id hash of the password as a PHC string.
    pub(crate) password_hash: String,
    /// What the user is, such as `administrator`.
    pub(crate) tags: Vec<String>,
    /// Whether the user may log in from this machine alone.
    pub(crate) loopback_only: bool,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("tags", &self.tags)
            .field("loopback_only", &self.loopback_only)
            .finish_non_exhaustive()
    }
}

/// The users of a file, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct UserFile {
    /// The users; names are unique.
    #[serde(rename = "user")]
    pub(crate) users: Vec<User>,
}

/// Why a user file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserFileError {
    /// The file system refuses.
    #[error("{path}: {doing} failed: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The file's content is wrong.
    #[error("{path}:{line}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong; never quotes a hash.
        message: String,
    },
    /// A change cannot be made.
    #[error("{0}")]
    Refused(String),
}

/// The file as parsed, with the places of what may be wrong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default, rename = "user")]
    users: Vec<RawUser>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUser {
    name: Spanned<String>,
    password_hash: Spanned<String>,
    #[serde(default)]
    tags: Vec<Spanned<String>>,
    #[serde(default)]
    loopback_only: bool,
}

impl UserFile {
    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or its content is wrong: the first line that is.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, UserFileError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(path, "reading")(error)),
        }
    }

    /// Parses the content of the file at `path`.
    fn parse(text: &str, path: &Path) -> Result<Self, UserFileError> {
        let wrong = |offset: usize, message: String| UserFileError::Content {
            path: path.to_owned(),
            line: line_of(text, offset),
            message,
        };
        // Only the message: the error's own display would quote the line, which may be a hash.
        let raw: RawFile = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            wrong(offset, error.message().replace('\n', "; "))
        })?;
        let mut users: Vec<User> = Vec::with_capacity(raw.users.len());
        for user in raw.users {
            let name = user.name.get_ref();
            check_name(name).map_err(|message| wrong(user.name.span().start, message))?;
            if users.iter().any(|other| other.name == *name) {
                let message = format!("user `{name}` is here twice; remove one");
                return Err(wrong(user.name.span().start, message));
            }
            check_hash(user.password_hash.get_ref()).map_err(|message| {
                let message = format!("the password_hash of `{name}` {message}");
                wrong(user.password_hash.span().start, message)
            })?;
            for tag in &user.tags {
                check_tag(tag.get_ref()).map_err(|message| wrong(tag.span().start, message))?;
            }
            users.push(User {
                name: user.name.into_inner(),
                password_hash: user.password_hash.into_inner(),
                tags: user.tags.into_iter().map(Spanned::into_inner).collect(),
                loopback_only: user.loopback_only,
            });
        }
        Ok(Self { users })
    }

    /// Changes the file at `path`, which need not exist yet, so that a crash leaves either the
    /// old or the new content, and readers see one of them. Changes at the same time take turns.
    ///
    /// # Errors
    ///
    /// What `change` refuses, or what fails in reading or writing; the file is then as before.
    pub(crate) fn edit(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<(), UserFileError>,
    ) -> Result<(), UserFileError> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let failed = |doing| io_error(path, doing);
        let dir_handle = File::open(dir).map_err(failed("opening its directory"))?;
        // The lock is on the directory: the file itself is replaced, and its lock with it.
        dir_handle.lock().map_err(failed("locking its directory"))?;
        let mut users = Self::load(path)?.unwrap_or_default();
        change(&mut users)?;
        let text = toml::to_string(&users)
            .map_err(|error| UserFileError::Refused(format!("cannot write users: {error}")))?;
        // tempfile creates with mode 0600.
        let mut temp = tempfile::Builder::new()
            .prefix(".users-")
            .tempfile_in(dir)
            .map_err(failed("creating a temporary file beside it"))?;
        temp.write_all(HEADER.as_bytes()).map_err(failed("writing"))?;
        temp.write_all(text.as_bytes()).map_err(failed("writing"))?;
        temp.as_file().sync_all().map_err(failed("syncing"))?;
        temp.persist(path).map_err(|error| failed("replacing")(error.error))?;
        dir_handle.sync_all().map_err(failed("syncing its directory"))
    }

    /// Adds a user.
    ///
    /// # Errors
    ///
    /// If the name or a tag is malformed, or a user has that name already.
    pub(crate) fn add(&mut self, user: User) -> Result<(), UserFileError> {
        check_name(&user.name).map_err(UserFileError::Refused)?;
        for tag in &user.tags {
            check_tag(tag).map_err(UserFileError::Refused)?;
        }
        if self.users.iter().any(|other| other.name == user.name) {
            let message = format!("user `{}` exists already; remove it first", user.name);
            return Err(UserFileError::Refused(message));
        }
        self.users.push(user);
        Ok(())
    }

    /// Removes the user called `name`.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), UserFileError> {
        let before = self.users.len();
        self.users.retain(|user| user.name != name);
        if self.users.len() == before {
            return Err(UserFileError::Refused(format!("there is no user `{name}`")));
        }
        Ok(())
    }
}

fn io_error(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> UserFileError {
    move |source| UserFileError::Io { path: path.to_owned(), doing, source }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err(format!(
            "a user's name must be 1 to {NAME_BYTES_MAX} bytes without control characters"
        ));
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), String> {
    let well_formed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if tag.is_empty() || !tag.chars().all(well_formed) {
        return Err(format!("tag `{}` must be letters, digits, - _ . :", tag.escape_debug()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::users::store::test_hashing;

    fn user(name: &str) -> User {
        User {
            name: name.to_owned(),
            password_hash: test_hashing().hash(b"secret").expect("hashed"),
            tags: vec!["administrator".to_owned()],
            loopback_only: false,
        }
    }

    fn parse(text: &str) -> Result<UserFile, String> {
        UserFile::parse(text, Path::new("users.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_saved_loads_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("users.toml");
        assert_eq!(UserFile::load(&path).expect("no error"), None);
        let alice = user("al\"ice\\ é");
        UserFile::edit(&path, |users| users.add(alice.clone())).expect("saved");
        let loaded = UserFile::load(&path).expect("loads").expect("exists");
        assert_eq!(loaded.users, [alice]);
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_refused_change_leaves_the_file_and_no_other() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("users.toml");
        UserFile::edit(&path, |users| users.add(user("alice"))).expect("saved");
        let before = std::fs::read(&path).expect("read");
        UserFile::edit(&path, |users| users.add(user("alice"))).expect_err("exists");
        UserFile::edit(&path, |users| users.remove("bob")).expect_err("does not exist");
        assert_eq!(std::fs::read(&path).expect("read"), before);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn changes_at_the_same_time_are_all_kept() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("users.toml");
        std::thread::scope(|scope| {
            for index in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    UserFile::edit(path, |users| users.add(user(&format!("user{index}"))))
                });
            }
        });
        let users = UserFile::load(&path).expect("loads").expect("exists").users;
        assert_eq!(users.len(), 8);
    }

    #[test]
    fn errors_name_the_line_and_never_the_hash() {
        let hash = user("x").password_hash;
        let twice = format!(
            "[[user]]\nname = \"a\"\npassword_hash = \"{hash}\"\n\
             [[user]]\nname = \"a\"\npassword_hash = \"{hash}\"\n"
        );
        assert_eq!(parse(&twice), Err("users.toml:5: user `a` is here twice; remove one".into()));
        let unknown = format!("[[user]]\nname = \"a\"\npassword_hash = \"{hash}\"\ntag = []\n");
        assert!(
            parse(&unknown).expect_err("refused").starts_with("users.toml:4: unknown field `tag`")
        );
        let plain =
            parse("[[user]]\nname = \"a\"\npassword_hash = \"hunter2\"\n").expect_err("refused");
        assert!(plain.starts_with("users.toml:3: the password_hash of `a`"), "{plain}");
        assert!(!plain.contains("hunter2"));
        let unclosed =
            parse("[[user]]\nname = \"a\"\npassword_hash = \"hunter2\n").expect_err("refused");
        assert!(unclosed.starts_with("users.toml:3: "), "{unclosed}");
        assert!(!unclosed.contains("hunter2"));
    }

    #[test]
    fn names_and_tags_are_checked() {
        let mut users = UserFile::default();
        users.add(User { name: "a\nb".to_owned(), ..user("x") }).expect_err("control character");
        users.add(User { name: String::new(), ..user("x") }).expect_err("empty");
        users.add(User { tags: vec!["a b".to_owned()], ..user("x") }).expect_err("space");
    }

    #[test]
    fn debug_output_hides_the_hash() {
        assert!(!format!("{:?}", user("x")).contains("argon2"));
    }
}
