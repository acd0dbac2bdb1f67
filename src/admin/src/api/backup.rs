//! A consistent copy of the running broker, in a directory of this machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use isthmus_broker::storage::RealStorage;
use isthmus_broker::{Backup, BackupError, Broker};
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::{Caller, Tag};
use super::{ApiError, ApiState};

/// What the name of a copy ends with until all of it is durable.
const PARTIAL: &str = ".partial";

#[derive(Debug, Deserialize)]
pub(super) struct Body {
    directory: PathBuf,
}

/// Makes a backup and says what is in it.
pub(super) async fn post(
    State(api): ApiState,
    caller: Caller,
    body: Result<Json<Body>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let Json(Body { directory }) = body.map_err(|error| {
        let form = r#"{"directory": "/absolute/path"}"#;
        ApiError::Invalid(format!("the body must be {form}, as application/json: {error}"))
    })?;
    let place = Place::of(&directory)?;
    let broker = api.broker()?.clone();
    tracing::info!(directory = %directory.display(), user = %caller.user.name(), "backup begins");
    // Goes on if the client does not wait for it: its end, good or bad, is in the log.
    let backup = tokio::spawn(async move { place.fill(&broker).await }).await;
    let backup = backup.map_err(|_| ApiError::Unavailable)??;
    Ok(Json(json!({
        "directory": directory,
        "index": backup.index,
        "page_files": backup.page_files,
        "bytes": backup.bytes,
    })))
}

/// Where a backup goes: under another name until it is whole.
struct Place {
    directory: PathBuf,
    partial: PathBuf,
    parent: PathBuf,
}

impl Place {
    /// Checks that a backup can go there.
    fn of(directory: &Path) -> Result<Place, ApiError> {
        let shown = directory.display();
        let invalid = |what: String| Err(ApiError::Invalid(what));
        let (Some(name), Some(parent), true) =
            (directory.file_name(), directory.parent(), directory.is_absolute())
        else {
            return invalid(format!("directory must be an absolute path, {shown} is none"));
        };
        if !parent.is_dir() {
            let parent = parent.display();
            return invalid(format!("directory {shown}: {parent} is no directory; make it first"));
        }
        match fs::read_dir(directory) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return invalid(format!("directory {shown} is not empty; choose another"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return invalid(format!("directory {shown}: {error}")),
        }
        let mut partial = name.to_owned();
        partial.push(PARTIAL);
        let partial = parent.join(partial);
        if partial.exists() {
            let partial = partial.display();
            return invalid(format!(
                "{partial} is there: another backup is being made, or one did not end; remove it \
                 if none is"
            ));
        }
        Ok(Place { directory: directory.to_owned(), partial, parent: parent.to_owned() })
    }

    async fn fill(self, broker: &Broker) -> Result<Backup, ApiError> {
        let result = self.write(broker).await;
        let directory = self.directory.display();
        match &result {
            Ok(backup) => {
                tracing::info!(%directory, index = backup.index, bytes = backup.bytes, "backup made");
            }
            Err(error) => tracing::error!(%directory, %error, "no backup was made"),
        }
        result
    }

    async fn write(&self, broker: &Broker) -> Result<Backup, ApiError> {
        let failed = |error: io::Error| {
            ApiError::Failed(format!("directory {}: {error}", self.directory.display()))
        };
        let target = Arc::new(RealStorage::open(&self.partial).map_err(failed)?);
        let written = broker.back_up(target).await.map_err(|error| match error {
            BackupError::Storage(error) => ApiError::Failed(error.to_string()),
            BackupError::Unavailable => ApiError::Unavailable,
            BackupError::Busy => ApiError::Invalid(error.to_string()),
        });
        let named = written.and_then(|backup| {
            fs::rename(&self.partial, &self.directory)
                .and_then(|()| fs::File::open(&self.parent)?.sync_all())
                .map(|()| backup)
                .map_err(failed)
        });
        if named.is_err() {
            // Made here, and no backup. If that fails too, the next one to this place says so.
            fs::remove_dir_all(&self.partial).ok();
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(directory: &Path) -> String {
        Place::of(directory).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn only_a_new_or_empty_directory_takes_a_backup() {
        let dir = std::env::temp_dir().join(format!("isthmus-place-{}", std::process::id()));
        fs::create_dir_all(dir.join("empty")).expect("made");
        fs::create_dir_all(dir.join("full/file")).expect("made");
        fs::create_dir_all(dir.join("begun.partial")).expect("made");
        fs::write(dir.join("file"), "").expect("written");
        assert_eq!(refused(&dir.join("empty")), "");
        assert_eq!(refused(&dir.join("new")), "");
        assert!(refused(Path::new("relative/path")).contains("absolute path"));
        assert!(refused(Path::new("/")).contains("absolute path"));
        assert!(refused(&dir.join("full")).contains("is not empty"));
        assert!(refused(&dir.join("none/new")).contains("make it first"));
        assert!(refused(&dir.join("begun")).contains("one did not end"));
        assert!(refused(&dir.join("file")).contains("file: "));
        fs::remove_dir_all(&dir).expect("removed");
    }
}
