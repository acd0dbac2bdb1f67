//! `isthmus storage`: what is in a data directory, told without starting a broker on it.

mod text;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use isthmus_broker::offline::{BadPage, Offline, QueueContent};
use isthmus_broker::storage::verify::{
    self, Finding, Report, Severity, StateReport, VerifyOptions,
};
use isthmus_broker::storage::{self, RealStorage, SharedStorage};
use isthmus_broker::{RecoveryError, storage::verify::PageReport};
use serde_json::{Value, json};

use crate::cli::complain;
use crate::data_dir;

/// Something is damaged.
const EXIT_DAMAGE: u8 = 1;
/// Nothing can be said.
const EXIT_UNREADABLE: u8 = 2;

#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Read and verify everything in a data directory; exits with 0 if nothing is damaged, with 1
    /// if something is, with 2 if the directory cannot be read
    Verify(DirArgs),
    /// List what is in a data directory: the log, checkpoints, page files, queues
    Inspect(DirArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DirArgs {
    /// The data directory of a broker that does not run; nothing in it is changed
    #[arg(value_name = "DATA_DIR")]
    dir: PathBuf,
    /// Say it in JSON
    #[arg(long)]
    json: bool,
}

/// Why nothing can be said about a directory.
#[derive(Debug, thiserror::Error)]
enum StorageError {
    #[error("data directory {dir}: {source}")]
    Open { dir: String, source: io::Error },
    #[error("data directory {dir} is in use by another isthmus{holder}: stop it first")]
    Locked { dir: String, holder: String },
    #[error("{dir} is no data directory, or a new one: there is no file of the broker's in it")]
    Nothing { dir: String },
    #[error("data directory {dir}: {error}")]
    Storage { dir: String, error: storage::Error },
}

/// Runs the command.
pub(crate) fn run(command: &StorageCommand) -> ExitCode {
    let (args, content) = match command {
        StorageCommand::Verify(args) => (args, true),
        StorageCommand::Inspect(args) => (args, false),
    };
    match look(args, content) {
        Ok(report) if report.damage > 0 => ExitCode::from(EXIT_DAMAGE),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("isthmus: {error}"));
            ExitCode::from(EXIT_UNREADABLE)
        }
    }
}

/// Reads the directory and says what is in it: with `content`, what verifying it found, otherwise
/// what there is.
fn look(args: &DirArgs, content: bool) -> Result<Report, StorageError> {
    let dir = args.dir.display().to_string();
    let storage: SharedStorage = Arc::new(open(&args.dir, &dir)?);
    // Held until all is read.
    let _lock = storage.lock().map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => {
            StorageError::Locked { dir: dir.clone(), holder: data_dir::holder_of(&args.dir) }
        }
        _ => StorageError::Open { dir: dir.clone(), source },
    })?;
    let mut findings = Vec::new();
    let mut tell = |finding: &Finding| {
        // A large directory takes a while: whoever reads along sees each at once.
        if !args.json {
            text::finding(finding);
        }
        findings.push(finding.clone());
    };
    // By the rules of the start: what it needs, and whether what is there belongs together.
    let offline = Offline::read(Arc::clone(&storage));
    let options = VerifyOptions { pages_needed: offline.as_ref().ok().map(Offline::page_files) };
    let read = if content {
        verify::verify(&*storage, &options, &mut tell)
    } else {
        verify::inspect(&*storage, &options, &mut tell)
    };
    let mut report = read.map_err(|error| StorageError::Storage { dir: dir.clone(), error })?;
    if report.format.is_none() && !report.has_data {
        return Err(StorageError::Nothing { dir });
    }
    let mut damage: Vec<Finding> = missing_log(&report).into_iter().collect();
    match &offline {
        Ok(offline) if content => {
            offline.check_pages(&storage, &mut |bad| damage.push(bad_page(&report.pages, &bad)));
        }
        Ok(_) => {}
        Err(error) => damage.extend(refused(&report, &damage, error)),
    }
    report.damage += damage.len() as u64;
    damage.iter().for_each(&mut tell);
    let queues = offline.map(|offline| offline.queues()).ok();
    if args.json {
        text::line(&format_args!("{:#}", json(&dir, &report, &findings, queues.as_deref())));
    } else if content {
        text::verified(&dir, &report);
    } else {
        text::listing(&dir, &report, queues.as_deref());
    }
    Ok(report)
}

/// Why a start would refuse the directory, unless something that was found says it already.
fn refused(report: &Report, found: &[Finding], error: &RecoveryError) -> Option<Finding> {
    (report.damage == 0 && found.is_empty()).then(|| Finding {
        severity: Severity::Damage,
        file: String::new(),
        offset: None,
        what: format!("the broker would not start: {error}"),
        advice: "restore the whole data directory from a backup",
    })
}

/// A page that is whole and does not hold what the checkpoint and the log say.
fn bad_page(files: &[PageReport], bad: &BadPage) -> Finding {
    let file = files.iter().find(|file| file.number == bad.file);
    Finding {
        severity: Severity::Damage,
        file: file.map_or_else(|| format!("page file {}", bad.file), |file| file.file.clone()),
        offset: Some(bad.offset),
        what: format!("the page does not belong to the checkpoint: {}", bad.what),
        advice: "restore the whole data directory from a backup",
    }
}

fn open(path: &Path, dir: &str) -> Result<RealStorage, StorageError> {
    let opened = RealStorage::read_only(path);
    opened.map_err(|source| StorageError::Open { dir: dir.to_owned(), source })
}

/// A broker writes a checkpoint of entries that are durable in its log, and goes on behind it.
fn missing_log(report: &Report) -> Option<Finding> {
    let newest = report.checkpoints.last()?;
    let last = report.last_index.filter(|last| *last < newest.index)?;
    Some(Finding {
        severity: Severity::Damage,
        file: newest.file.clone(),
        offset: None,
        what: format!(
            "the checkpoint holds entries up to {}, but the log ends at entry {last}: files of the \
             log are missing",
            newest.index
        ),
        advice: "restore the whole data directory from a backup",
    })
}

/// The report as a value: names and numbers as they are, sizes in bytes.
fn json(
    dir: &str,
    report: &Report,
    findings: &[Finding],
    queues: Option<&[QueueContent]>,
) -> Value {
    let findings = findings.iter().map(|finding| {
        json!({
            "severity": text::severity(finding.severity),
            "file": finding.file,
            "offset": finding.offset,
            "what": finding.what,
            "advice": finding.advice,
        })
    });
    let segments = report.segments.iter().map(|segment| {
        json!({
            "file": segment.file,
            "bytes": segment.bytes,
            "condition": segment.condition.as_str(),
            "entries": segment.entries,
            "first_index": segment.first_index,
            "last_index": segment.last_index,
            "end_offset": segment.end_offset,
        })
    });
    let checkpoints = report.checkpoints.iter().map(|checkpoint| {
        json!({
            "file": checkpoint.file,
            "bytes": checkpoint.bytes,
            "index": checkpoint.index,
            "term": checkpoint.term,
            "newest": checkpoint.newest,
            "damaged": checkpoint.damaged,
        })
    });
    let pages = report.pages.iter().map(|pages| {
        json!({
            "file": pages.file,
            "bytes": pages.bytes,
            "number": pages.number,
            "pages": pages.pages,
            "needed": pages.needed,
            "damaged": pages.damaged,
        })
    });
    let noted = report
        .noted
        .iter()
        .map(|place| json!({ "file": place.file, "offset": place.offset, "reason": place.reason }));
    let queues = queues.map(|queues| queues.iter().map(queue).collect::<Vec<Value>>());
    let others = |files: &[verify::FileReport]| -> Vec<Value> {
        files.iter().map(|file| json!({ "file": file.file, "bytes": file.bytes })).collect()
    };
    json!({
        "data_dir": dir,
        "format": report.format,
        "damage": report.damage,
        "harmless": report.harmless,
        "findings": findings.collect::<Vec<_>>(),
        "state": report.state.as_ref().map(state),
        "log": { "last_index": report.last_index, "segments": segments.collect::<Vec<_>>() },
        "checkpoints": checkpoints.collect::<Vec<_>>(),
        "pages": pages.collect::<Vec<_>>(),
        "noted": noted.collect::<Vec<_>>(),
        "spares": others(&report.spares),
        "leftovers": others(&report.leftovers),
        "queues": queues,
    })
}

fn queue(queue: &QueueContent) -> Value {
    json!({
        "vhost": &*queue.vhost,
        "name": &*queue.name,
        "messages": queue.messages,
        "body_bytes": queue.body_bytes,
        "messages_in_pages": queue.in_pages,
        "messages_in_log": queue.in_log,
        "next_sequence": queue.next,
    })
}

fn state(state: &StateReport) -> Value {
    json!({
        "term": state.hard.term,
        "voted_for": state.hard.voted_for,
        "vote_committed": state.hard.vote_committed,
        "committed_index": state.hard.committed,
        "purged_index": state.purged.index,
        "purged_term": state.purged.term,
    })
}
