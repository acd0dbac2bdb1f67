//! What there is beside the log.

use super::{CheckpointReport, FileReport, Findings, PageReport, VerifyOptions, report::size_of};
use crate::{
    checkpoint::{self, CheckpointReader},
    damage::{self, Note, NotedPlace},
    error::Result,
    fs::Storage,
    log::{STATE_NAME, is_spare_name, parse_segment_name},
    pages,
};

/// Whether a file of this name is data, which does not stand without a format file.
pub(super) fn is_data(name: &str) -> bool {
    name == STATE_NAME
        || parse_segment_name(name).is_some()
        || checkpoint::parse_name(name).is_some()
        || pages::parse_file_name(name).is_some()
}

/// Reads the newest checkpoint, and lists older ones.
pub(super) fn checkpoints(
    storage: &dyn Storage,
    content: bool,
    findings: &mut Findings<'_>,
) -> Result<Vec<CheckpointReport>> {
    let found = checkpoint::checkpoints(storage)?;
    let newest = found.last().map(|&(index, _)| index);
    let mut reports = Vec::new();
    for (index, file) in found {
        let mut report = CheckpointReport {
            bytes: size_of(storage, &file),
            file: file.clone(),
            index,
            term: None,
            newest: newest == Some(index),
            damaged: false,
        };
        match CheckpointReader::open(storage, file, index) {
            Ok(mut reader) => {
                report.term = Some(reader.meta().term);
                if content && report.newest {
                    report.damaged = !verify_checkpoint(&mut reader, findings);
                }
            }
            // An older one was to be removed when the power went.
            Err(_) if !report.newest => report.damaged = true,
            Err(error) => {
                findings.error(&error);
                report.damaged = true;
            }
        }
        reports.push(report);
    }
    Ok(reports)
}

/// Reads all blocks; returns whether they are whole.
fn verify_checkpoint(reader: &mut CheckpointReader, findings: &mut Findings<'_>) -> bool {
    let mut whole = true;
    loop {
        match reader.next_block() {
            Ok(true) => {}
            Ok(false) => return whole,
            Err(error) => {
                findings.error(&error);
                whole = false;
                match reader.skip_block() {
                    Ok(true) => {}
                    // What it says of the file's size has been said of its content.
                    Ok(false) | Err(_) => return false,
                }
            }
        }
    }
}

/// Tells of damage that was met while a broker ran. Whether it stands is found by reading the file.
pub(super) fn noted(storage: &dyn Storage, findings: &mut Findings<'_>) -> Result<Vec<NotedPlace>> {
    let advice = "nothing about the note: the next start verifies the file first, refuses while it \
                  is damaged, and removes the note once it is whole";
    match damage::read(storage)? {
        Note::Nothing => Ok(Vec::new()),
        Note::Places(places) => {
            for NotedPlace { file, offset, reason, .. } in &places {
                let what = format!("damage was met while the broker ran: {reason}");
                findings.harmless(file, *offset, what, advice);
            }
            Ok(places)
        }
        Note::Unreadable => {
            let what = "the note of damage that was met while the broker ran does not read back";
            let advice = "nothing; the next start verifies all page files and removes the note";
            findings.harmless(damage::NOTE_NAME, 0, what, advice);
            Ok(Vec::new())
        }
    }
}

/// Reads the page files; with `content`, and those that damage is noted in, all of them.
pub(super) fn pages(
    storage: &dyn Storage,
    options: &VerifyOptions,
    content: bool,
    noted: &[NotedPlace],
    findings: &mut Findings<'_>,
) -> Result<Vec<PageReport>> {
    let found = pages::list(storage)?;
    let needed = options.pages_needed.as_ref();
    for missing in needed.into_iter().flatten().filter(|number| !found.contains(number)) {
        let what = "the file is missing, and the newest checkpoint names it";
        findings.damage(&pages::file_name(*missing), 0, what);
    }
    let mut reports = Vec::new();
    for number in found {
        let file = pages::file_name(number);
        let mut report = PageReport {
            bytes: size_of(storage, &file),
            number,
            pages: 0,
            needed: needed.map(|needed| needed.contains(&number)),
            damaged: false,
            file,
        };
        if report.needed == Some(false) {
            let what = "the newest checkpoint does not name this page file";
            findings.harmless(&report.file, 0, what, "nothing; the next start removes it");
        } else {
            let content = content || noted.iter().any(|place| place.number == number);
            let examined = pages::examine(storage, number, content, &mut |error| {
                findings.error(&error);
                report.damaged = true;
            });
            report.pages = examined.pages;
        }
        reports.push(report);
    }
    Ok(reports)
}

/// Spare segments, and temporary files.
pub(super) fn others(
    storage: &dyn Storage,
    names: &[String],
) -> (Vec<FileReport>, Vec<FileReport>) {
    let report = |name: &String| FileReport { file: name.clone(), bytes: size_of(storage, name) };
    let is_temporary = |name: &&String| name.ends_with(".tmp");
    let spares = names.iter().filter(|name| is_spare_name(name) && !is_temporary(name));
    (spares.map(report).collect(), names.iter().filter(is_temporary).map(report).collect())
}
