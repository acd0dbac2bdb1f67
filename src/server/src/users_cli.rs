//! `isthmus users`: editing the user file.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use clap::Subcommand;
use rustix::termios::{self, LocalModes, OptionalActions, Termios};

use crate::cli::complain;
use crate::config::Config;
use crate::data_dir::{self, DataDirError};
use crate::users::{HashError, Hashing, User, UserFile, UserFileError};

/// What to do with the users.
#[derive(Debug, Subcommand)]
pub(crate) enum UsersCommand {
    /// Add a user; the password is the first line of standard input
    Add {
        /// The user's name
        name: String,
        /// What the user is, separated by commas, e.g. administrator
        #[arg(long, value_delimiter = ',')]
        tags: Vec<String>,
        /// Let the user log in from the broker's machine alone
        #[arg(long)]
        loopback_only: bool,
    },
    /// List the users: name, tags, and whether they may log in from this machine alone
    List,
    /// Remove a user
    Remove {
        /// The user's name
        name: String,
    },
}

/// Why the users are not edited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsersError {
    /// The user file cannot be read or written, or refuses the change.
    #[error(transparent)]
    File(#[from] UserFileError),
    /// The data directory cannot be made.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The password cannot be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// Standard input or output fails.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Carries out the command.
///
/// # Errors
///
/// [`UsersError`]; the user file is then as before.
pub(crate) fn run(command: &UsersCommand, config: &Config) -> Result<(), UsersError> {
    let path = config.users_file();
    match command {
        UsersCommand::Add { name, tags, loopback_only } => {
            let password = read_password(config.auth.password_bytes_max.into())?;
            let password_hash = Hashing::new(&config.auth)?.hash(&password)?;
            let (name, tags) = (name.clone(), tags.clone());
            let user = User { name, password_hash, tags, loopback_only: *loopback_only };
            data_dir::create(config.data_dir())?;
            let first = !path.exists();
            UserFile::edit(&path, |users| users.add(user))?;
            if first && config.auth.guest {
                complain(&"guest/guest can no longer log in, now that there is a user file");
            }
            complain(&"a running broker reads the file again on SIGHUP");
        }
        UsersCommand::List => list(UserFile::load(&path)?, config.auth.guest)?,
        UsersCommand::Remove { name } => {
            UserFile::edit(&path, |users| users.remove(name))?;
            complain(&"a running broker reads the file again on SIGHUP");
        }
    }
    Ok(())
}

/// Prints the users as lines of fields separated by tabs.
fn list(file: Option<UserFile>, guest: bool) -> io::Result<()> {
    if file.is_none() && guest {
        complain(&"there is no user file: guest/guest may log in from this machine");
    }
    let mut out = io::stdout().lock();
    for user in file.unwrap_or_default().users {
        let place = if user.loopback_only { "loopback" } else { "anywhere" };
        writeln!(out, "{}\t{}\t{place}", user.name, user.tags.join(","))?;
    }
    Ok(())
}

/// The first line of standard input, without echo if a person types it.
fn read_password(bytes_max: u64) -> io::Result<Vec<u8>> {
    let stdin = io::stdin().lock();
    let _silence = if stdin.is_terminal() {
        write!(io::stderr(), "Password: ")?;
        Some(Silence::begin()?)
    } else {
        None
    };
    let mut password = Vec::new();
    // Two more for the end of the line and one to see that it is too long.
    stdin.take(bytes_max + 3).read_until(b'\n', &mut password)?;
    if password.last() == Some(&b'\n') {
        password.pop();
        if password.last() == Some(&b'\r') {
            password.pop();
        }
    }
    Ok(password)
}

/// The terminal shows nothing of what is typed until this is dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0).ok();
        writeln!(io::stderr()).ok();
    }
}
