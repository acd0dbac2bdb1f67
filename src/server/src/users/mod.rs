//! Users: the file they are kept in, and the verification of their passwords.

mod file;
mod service;
mod store;

pub(crate) use file::{User, UserFile, UserFileError};
pub(crate) use service::Authenticator;
pub(crate) use store::{AuthError, HashError, Hashing, PasswordStore};
