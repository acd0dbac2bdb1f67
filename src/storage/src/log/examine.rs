//! Reading the log without opening it, by the rules of recovery, but past what is damaged: for
//! [`crate::verify`]. Nothing is changed.

use std::{convert::Infallible, sync::Arc};

use super::{
    LogId,
    record::RecordKind,
    recovery::{self, Listing, wrong_end, wrong_jump, wrong_record, wrong_tail},
    scan::{ScanEnd, Whole, scan_on, scan_segment},
    segment::Segment,
    state::{STATE_NAME, Saved, StateFile},
};
use crate::{
    error::Result,
    fs::{self, Storage},
    verify::{Condition, Findings, SegmentReport, StateReport},
};

/// What was found of the log.
#[derive(Debug, Default)]
pub(crate) struct Examined {
    pub(crate) state: Option<StateReport>,
    pub(crate) segments: Vec<SegmentReport>,
    /// The last entry; `None` if it cannot be told.
    pub(crate) last: Option<u64>,
}

/// Reads the state file and all segments.
///
/// # Errors
/// If the directory cannot be listed.
pub(crate) fn examine(storage: &dyn Storage, findings: &mut Findings<'_>) -> Result<Examined> {
    let listing = recovery::list(storage)?;
    let saved = examine_state(storage, &listing, findings);
    let mut examined =
        Examined { state: saved.map(|s| StateReport::of(&s)), ..Examined::default() };
    let mut segments = Vec::new();
    for (name, incarnation) in &listing.segments {
        match recovery::open_segment(storage, name, *incarnation) {
            Ok(segment) => segments.push(Arc::new(segment)),
            Err(error) => {
                findings.error(&error);
                examined.segments.push(SegmentReport::unreadable(storage, name, *incarnation));
            }
        }
    }
    let all_open = segments.len() == listing.segments.len();
    // Without a state file it is not known what was purged: the log may begin anywhere.
    let begin = segments.first().map_or(0, |segment| segment.header.previous_index);
    let known =
        saved.unwrap_or(Saved { purged: LogId { term: 0, index: begin }, ..Saved::default() });
    let is_new = segments.is_empty() && !listing.has_state;
    let first = recovery::first_needed(&segments, known.purged.index).unwrap_or_else(|error| {
        // A segment that cannot be read may be the one that is missed.
        if all_open && !is_new {
            findings.error(&error);
        }
        0
    });
    let mut examiner = Examiner {
        findings,
        saved: known,
        last: segments.get(first).map(|segment| segment.header.previous_index),
        committed: known.hard.committed.max(known.purged.index),
    };
    for (at, segment) in segments.iter().enumerate() {
        let report = if at < first {
            SegmentReport::new(segment, Condition::Purged)
        } else {
            let next = Next::of(segment, segments.get(at + 1), &listing);
            examiner.segment(segment, &next)
        };
        examined.segments.push(report);
    }
    examined.last = examiner.last.map(|last| last.max(known.purged.index));
    examined.segments.sort_by_key(|report| report.incarnation);
    if let ([only], false) = (examined.segments.as_slice(), listing.has_state)
        && only.incarnation == 1
        && only.last_sequence > 0
    {
        findings.damage(STATE_NAME, 0, "the file is missing beside log entries");
    }
    Ok(examined)
}

/// What the state file says, if it can be read.
fn examine_state(
    storage: &dyn Storage,
    listing: &Listing,
    findings: &mut Findings<'_>,
) -> Option<Saved> {
    let file = match StateFile::open(storage) {
        Ok(Some(file)) => file,
        Ok(None) => {
            // A new directory has no state file yet, nor has one that lost power just then.
            let is_new = matches!(listing.segments.as_slice(), [] | [(_, 1)]);
            if !is_new {
                findings.damage(STATE_NAME, 0, "the file is missing beside log segments");
            }
            return None;
        }
        Err(error) => {
            findings.error(&error);
            return None;
        }
    };
    match file.bad_slots() {
        Ok(slots) => {
            for at in slots {
                findings.harmless(
                    STATE_NAME,
                    at,
                    "one of the two copies of the state does not match its checksum; the other is \
                     whole and holds the same, or the power went while they were written",
                    "nothing; the next start writes it again",
                );
            }
        }
        Err(error) => findings.error(&error),
    }
    Some(file.saved)
}

/// What comes behind a segment.
enum Next<'a> {
    Segment(&'a Segment),
    /// It is the last one.
    Nothing,
    /// A segment that cannot be read.
    Unreadable,
}

impl<'a> Next<'a> {
    fn of(segment: &Segment, next: Option<&'a Arc<Segment>>, listing: &Listing) -> Self {
        let behind = listing.segments.iter().skip_while(|(name, _)| *name != segment.name).nth(1);
        match (behind, next) {
            (None, _) => Self::Nothing,
            (Some((name, _)), Some(next)) if next.name == *name => Self::Segment(next),
            _ => Self::Unreadable,
        }
    }
}

/// The fold over the records of all segments, as in recovery.
struct Examiner<'a, 'f> {
    findings: &'a mut Findings<'f>,
    saved: Saved,
    /// The last entry so far; `None` behind damage.
    last: Option<u64>,
    committed: u64,
}

impl Examiner<'_, '_> {
    fn segment(&mut self, segment: &Segment, next: &Next<'_>) -> SegmentReport {
        let mut report = SegmentReport::new(segment, Condition::Damaged);
        let head = &segment.header;
        let jump = self.last.and_then(|last| wrong_jump(head, last, self.saved.purged.index));
        if let Some(reason) = jump {
            self.findings.damage(&segment.name, 0, reason);
        }
        if self.last.is_none_or(|last| head.previous_index > last) {
            self.last = Some(head.previous_index);
        }
        let bytes = match fs::read_whole(&*segment.file, &segment.name) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.findings.error(&error);
                self.last = None;
                return report;
            }
        };
        let until = match next {
            Next::Segment(next) => Some(next.header.first_sequence.saturating_sub(1)),
            Next::Nothing | Next::Unreadable => None,
        };
        let mut seal = None;
        let scanned = scan_segment(&bytes, until, |whole| {
            self.record(segment, &whole, &mut report, &mut seal);
            Ok::<_, Infallible>(())
        });
        let mut end = match scanned {
            Ok(Ok((_, end))) => end,
            Err(error) => {
                self.findings.error(&error.at(&segment.name));
                self.last = None;
                return report;
            }
        };
        if matches!(next, Next::Nothing) {
            end.durable = end.durable.max(self.saved.durable);
        }
        let mut damaged = false;
        while let Some(reason) = self.wrong(&end, next) {
            damaged = true;
            self.findings.damage(&segment.name, end.offset, reason);
            if until == Some(end.last_sequence) {
                break;
            }
            self.last = None;
            let on = scan_on(segment.seed, &bytes, end, until, |whole| {
                self.record(segment, &whole, &mut report, &mut seal);
            });
            let Some(on) = on else { break };
            end = on;
        }
        report.last_sequence = end.last_sequence;
        report.end_offset = end.offset;
        if damaged || matches!(next, Next::Unreadable) {
            // What cannot be read may have been entries.
            self.last = None;
        }
        if !damaged {
            report.condition = match next {
                Next::Nothing => self.tail(segment, &end, seal),
                Next::Segment(_) | Next::Unreadable => Condition::Full,
            };
        }
        report
    }

    fn wrong(&self, end: &ScanEnd, next: &Next<'_>) -> Option<String> {
        match next {
            Next::Segment(next) => wrong_end(end, &next.header, &next.name),
            Next::Nothing => {
                // An index that is not known is not complained about.
                let last = self.last.map_or(u64::MAX, |last| last.max(self.saved.purged.index));
                wrong_tail(end, last, self.committed)
            }
            // Nothing but the segment itself can testify.
            Next::Unreadable => wrong_tail(end, u64::MAX, 0),
        }
    }

    fn record(
        &mut self,
        segment: &Segment,
        whole: &Whole<'_>,
        report: &mut SegmentReport,
        seal: &mut Option<RecordKind>,
    ) {
        let header = &whole.header;
        self.committed = self.committed.max(header.committed);
        if let Some(reason) = self.last.and_then(|last| wrong_record(header, last)) {
            self.findings.damage(&segment.name, whole.offset, reason);
        }
        *seal = None;
        match header.record {
            RecordKind::Entry => {
                report.entries += 1;
                report.first_index.get_or_insert(header.index);
                report.last_index = Some(header.index);
                self.last = Some(header.index);
            }
            RecordKind::Truncate => self.last = Some(header.index.saturating_sub(1)),
            RecordKind::IdleSeal | RecordKind::CleanSeal => *seal = Some(header.record),
        }
    }

    /// How the log ends, and what is to be said of it.
    fn tail(&mut self, segment: &Segment, end: &ScanEnd, seal: Option<RecordKind>) -> Condition {
        let torn = end.beyond > 0 || end.payload_damaged;
        if !torn && seal.is_some() {
            return Condition::Sealed;
        }
        if !torn && end.last_sequence + 1 == segment.header.first_sequence {
            return Condition::Empty;
        }
        let (what, condition) = if torn {
            let what = "the log was not closed and ends here in a torn tail: what was being \
                        written when the power went or the process died, and was never reported \
                        durable";
            (format!("{what} (whole records behind it: {})", end.beyond), Condition::Torn)
        } else {
            let what = "the log was not closed; it ends here, and what may have been written \
                        behind it was never reported durable";
            (what.to_owned(), Condition::Open)
        };
        self.findings.harmless(
            &segment.name,
            end.offset,
            what,
            "nothing; the next start cuts it off",
        );
        condition
    }
}
