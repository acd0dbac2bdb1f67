//! What `isthmus storage` says to people.

use std::fmt::Display;
use std::io::{self, Write};

use isthmus_broker::offline::QueueContent;
use isthmus_broker::storage::verify::{FileReport, Finding, Report, Severity};

/// Writes a line to standard output. If that is closed, the exit code still says what was found.
pub(super) fn line(line: &dyn Display) {
    writeln!(io::stdout(), "{line}").ok();
}

/// The severity in a word.
pub(super) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Harmless => "harmless",
        Severity::Damage => "damage",
    }
}

/// A finding in two lines: what and where, and what to do.
pub(super) fn finding(finding: &Finding) {
    let at = finding.offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default();
    let (severity, file) = (severity(finding.severity), &finding.file);
    line(&format_args!("{severity}: {file}{at}: {}", finding.what));
    line(&format_args!("    what to do: {}", finding.advice));
}

/// The end of what `verify` says.
pub(super) fn verified(dir: &str, report: &Report) {
    head(dir, report);
    line(&format_args!("log         {}", log(report)));
    line(&format_args!("checkpoints {}", report.checkpoints.len()));
    line(&format_args!("page files  {}", pages(report)));
    let harmless = match report.harmless {
        0 => String::new(),
        n => format!(", {n} harmless"),
    };
    match report.damage {
        0 => line(&format_args!("no damage{harmless}")),
        1 => line(&format_args!("DAMAGED in 1 place{harmless}")),
        n => line(&format_args!("DAMAGED in {n} places{harmless}")),
    }
}

/// What `inspect` says: a section for each part. The content, if it can be told, comes behind the
/// files.
pub(super) fn listing(dir: &str, report: &Report, contents: Option<&[QueueContent]>) {
    head(dir, report);
    state(report);
    segments(report);
    checkpoints(report);
    page_files(report);
    others("spare segments", &report.spares);
    others("leftovers", &report.leftovers);
    queues(contents);
}

fn queues(contents: Option<&[QueueContent]>) {
    let Some(contents) = contents else {
        return line(&"queues      unknown");
    };
    line(&format_args!("queues      {}", contents.len()));
    for queue in contents {
        let QueueContent { vhost, name, messages, body_bytes, in_pages, in_log, next } = queue;
        line(&format_args!(
            "  {name} in {vhost}: {messages} messages, {}, {in_pages} in pages, {in_log} in the \
             log, next sequence {next}",
            size(*body_bytes)
        ));
    }
}

fn head(dir: &str, report: &Report) {
    let format = report.format.map_or_else(|| "unknown".to_owned(), |format| format.to_string());
    line(&format_args!("data directory {dir}, format {format}"));
}

fn state(report: &Report) {
    let Some(state) = &report.state else {
        return line(&"state       unknown");
    };
    let hard = &state.hard;
    let vote = hard.voted_for.map_or_else(|| "none".to_owned(), |node| format!("for node {node}"));
    line(&format_args!(
        "state       term {}, vote {vote}, committed up to {}, purged up to {}",
        hard.term, hard.committed, state.purged.index
    ));
}

fn log(report: &Report) -> String {
    let bytes = report.segments.iter().map(|segment| segment.bytes).sum();
    let last = report.last_index.map_or_else(|| "unknown".to_owned(), |last| last.to_string());
    format!("{} segments, {}, last entry {last}", report.segments.len(), size(bytes))
}

fn segments(report: &Report) {
    line(&format_args!("log         {}", log(report)));
    for segment in &report.segments {
        let entries = match (segment.first_index, segment.last_index) {
            (Some(first), Some(last)) => format!("entries {first} to {last}"),
            _ => "no entries".to_owned(),
        };
        let (file, condition) = (&segment.file, segment.condition.as_str());
        line(&format_args!("  {file}  {:>10}  {condition:<7}  {entries}", size(segment.bytes)));
    }
}

fn checkpoints(report: &Report) {
    line(&format_args!("checkpoints {}", report.checkpoints.len()));
    for checkpoint in &report.checkpoints {
        let term = checkpoint.term.map(|term| format!(", term {term}")).unwrap_or_default();
        let age = if checkpoint.newest { "" } else { ", older" };
        let (file, index) = (&checkpoint.file, checkpoint.index);
        line(&format_args!("  {file}  {:>10}  index {index}{term}{age}", size(checkpoint.bytes)));
    }
}

fn pages(report: &Report) -> String {
    let bytes = report.pages.iter().map(|file| file.bytes).sum();
    let pages: u64 = report.pages.iter().map(|file| file.pages).sum();
    format!("{}, {}, {pages} pages", report.pages.len(), size(bytes))
}

fn page_files(report: &Report) {
    line(&format_args!("page files  {}", pages(report)));
    for file in &report.pages {
        let needed = if file.needed == Some(false) { ", not needed" } else { "" };
        let (name, pages) = (&file.file, file.pages);
        line(&format_args!("  {name}  {:>10}  {pages} pages{needed}", size(file.bytes)));
    }
}

fn others(what: &str, files: &[FileReport]) {
    if !files.is_empty() {
        let bytes = files.iter().map(|file| file.bytes).sum();
        line(&format_args!("{what}: {}, {}", files.len(), size(bytes)));
    }
}

/// A size in the largest unit of which there is one.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, unit)| bytes >= *unit);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(name, unit)| format!("{:.1} {name}", bytes as f64 / *unit as f64),
    )
}
