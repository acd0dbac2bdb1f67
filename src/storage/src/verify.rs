//! Reading everything in a data directory without changing anything: what there is, what of it is
//! damaged, and what to do about it.
//!
//! Where recovery stops at the first damage, because nothing may be cut or repaired behind it, this
//! goes on and names every place. It judges by recovery's own rules: a torn tail is harmless here
//! because recovery cuts it off, and what is told as damage is what recovery refuses, or what would
//! be refused when it is read later.
//!
//! The caller holds the lock of the directory; beside a log that is being written, half-written
//! records would look like a torn tail.

mod parts;
mod report;

use std::{cmp::Ordering, collections::BTreeSet};

pub use self::report::{
    CheckpointReport, Condition, FileReport, Finding, PageReport, Report, SegmentReport, Severity,
    StateReport,
};
use crate::{
    error::{Error, Result},
    format::{self, Stated},
    fs::Storage,
    log::{self, STATE_NAME},
};

/// How much is read.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// The page files that the newest checkpoint names. The others are leftovers of a crash, which
    /// the next start removes: they are not verified. `None` if it is not known: then all are.
    pub pages_needed: Option<BTreeSet<u64>>,
}

/// Damaged places of one file that are told one by one: a disk that cannot be read at all has no end
/// of them.
const PLACES_MAX: u64 = 100;

/// Where findings go, and how many there were.
pub(crate) struct Findings<'a> {
    tell: &'a mut dyn FnMut(&Finding),
    damage: u64,
    harmless: u64,
    /// The file of the last damage, and how many places of it were told.
    places: (String, u64),
}

/// Reads and verifies everything, and tells `on_finding` of every finding as it is found.
///
/// # Errors
/// If the directory cannot be listed or is of a format this build does not know: then nothing can
/// be said about its content. Files that cannot be read are findings.
pub fn verify(
    storage: &dyn Storage,
    options: &VerifyOptions,
    on_finding: &mut dyn FnMut(&Finding),
) -> Result<Report> {
    read(storage, options, true, on_finding)
}

/// Lists what there is. The log is read as in [`verify`], of checkpoints and page files no more
/// than what says how large they are; `on_finding` is told what is found damaged on the way.
///
/// # Errors
/// As [`verify`].
pub fn inspect(
    storage: &dyn Storage,
    options: &VerifyOptions,
    on_finding: &mut dyn FnMut(&Finding),
) -> Result<Report> {
    read(storage, options, false, on_finding)
}

fn read(
    storage: &dyn Storage,
    options: &VerifyOptions,
    content: bool,
    tell: &mut dyn FnMut(&Finding),
) -> Result<Report> {
    let mut findings = Findings { tell, damage: 0, harmless: 0, places: (String::new(), 0) };
    let names = storage.list().map_err(|e| Error::io("list", &storage.location(), e))?;
    let has_data = names.iter().any(|name| parts::is_data(name));
    let format = match format::check(storage, has_data) {
        Ok(Stated::Version(version)) => Some(version),
        Ok(Stated::Nothing) => None,
        // What stands beside it is read as this build would write it.
        Err(error @ Error::Corrupt { .. }) => {
            findings.error(&error);
            None
        }
        Err(error) => return Err(error),
    };
    let log = log::examine(storage, &mut findings)?;
    let checkpoints = parts::checkpoints(storage, content, &mut findings)?;
    let purged = log.state.map_or(0, |state| state.purged.index);
    let newest = checkpoints.last().map_or(0, |checkpoint| checkpoint.index);
    if purged > newest {
        let what = format!(
            "entries up to {purged} were purged, but the newest checkpoint ends at {newest}: a \
             checkpoint file is missing"
        );
        findings.damage(STATE_NAME, 0, what);
    }
    let noted = parts::noted(storage, &mut findings)?;
    let pages = parts::pages(storage, options, content, &noted, &mut findings)?;
    let (spares, leftovers) = parts::others(storage, &names);
    let Findings { damage, harmless, .. } = findings;
    Ok(Report {
        format,
        has_data,
        state: log.state,
        segments: log.segments,
        last_index: log.last,
        checkpoints,
        pages,
        noted,
        spares,
        leftovers,
        damage,
        harmless,
    })
}

impl Findings<'_> {
    /// Something that was durable is missing or does not read back.
    pub(crate) fn damage(&mut self, file: &str, offset: u64, what: impl Into<String>) {
        let advice = "restore the data directory from a backup, or move it away and let this node \
                      rejoin its cluster under a new id";
        self.push(Severity::Damage, file, Some(offset), what.into(), advice);
    }

    /// Something the next start puts right.
    pub(crate) fn harmless(
        &mut self,
        file: &str,
        offset: u64,
        what: impl Into<String>,
        advice: &'static str,
    ) {
        self.push(Severity::Harmless, file, Some(offset), what.into(), advice);
    }

    /// What an error says, as damage.
    pub(crate) fn error(&mut self, error: &Error) {
        match error {
            Error::Corrupt { file, offset, reason } => self.damage(file, *offset, reason.clone()),
            Error::UnknownVersion { file, found, supported } => {
                let what = format!("it has format version {found}, this build knows {supported}");
                let advice = "verify with the release that wrote it, or a newer one";
                self.push(Severity::Damage, file, Some(0), what, advice);
            }
            Error::Io { action, file, offset, source } => {
                let what = format!("cannot {action} it: {source}");
                let advice = "see what the system's log says of the disk, and whether the file may \
                              be read; copy the directory to a good disk and verify the copy";
                self.push(Severity::Damage, file, *offset, what, advice);
            }
            other => {
                self.push(Severity::Damage, "", None, other.to_string(), "see what the error says");
            }
        }
    }

    fn push(
        &mut self,
        severity: Severity,
        file: &str,
        offset: Option<u64>,
        mut what: String,
        advice: &'static str,
    ) {
        *match severity {
            Severity::Damage => &mut self.damage,
            Severity::Harmless => &mut self.harmless,
        } += 1;
        let file = file.to_owned();
        if severity == Severity::Damage {
            if self.places.0 != file {
                self.places = (file.clone(), 0);
            }
            self.places.1 += 1;
            match self.places.1.cmp(&PLACES_MAX) {
                Ordering::Less => {}
                Ordering::Equal => what.push_str("; more places in this file are counted only"),
                Ordering::Greater => return,
            }
        }
        (self.tell)(&Finding { severity, file, offset, what, advice });
    }
}
