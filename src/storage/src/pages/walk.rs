//! Going over all pages of a file, past what is damaged.

use std::ops::ControlFlow;

use super::{
    PageFileReport,
    file::read_record,
    record::{FILE_HEADER_BYTES, FileHeader, RECORD_BYTES, Record, RecordKind},
};
use crate::{
    error::{Error, Result},
    fs::{self, File},
};

/// Read in one piece, in bytes: pages may be larger than one would like to hold.
const CHUNK_BYTES: usize = 1 << 20;

/// Verifies the pages between the header of the file and `end`. Returns what is whole, and how many
/// pages were met, whole or not. Behind damaged content it goes on with the next page; behind a
/// damaged header of a page, at the next place that has one.
pub(super) fn walk(
    file: &dyn File,
    name: &str,
    header: &FileHeader,
    end: u64,
    on_damage: &mut dyn FnMut(Error) -> ControlFlow<()>,
) -> (PageFileReport, u64) {
    let mut report = PageFileReport { number: header.number, ..PageFileReport::default() };
    let mut seen = 0;
    let mut at = FILE_HEADER_BYTES as u64;
    while at < end {
        let content = at + RECORD_BYTES as u64;
        let found = read_record(file, name, header, at);
        let place = found.map(|record| {
            let page = record.filter(|record| record.kind == RecordKind::Page)?;
            let behind = content.checked_add(u64::from(page.len)).filter(|&b| b <= end)?;
            Some((page, behind))
        });
        let (damage, next) = match place {
            Ok(Some((page, behind))) => {
                let checked = if page.pages == seen {
                    check_content(file, name, header, at, &page)
                } else {
                    let reason = format!("page {} stands where page {seen} should", page.pages);
                    Err(Error::corrupt(name, at, reason))
                };
                seen = page.pages.saturating_add(1);
                if checked.is_ok() {
                    report.pages += 1;
                    report.content_bytes += u64::from(page.len);
                }
                (checked.err(), Ok(Some(behind)))
            }
            Ok(None) => {
                let reason = "a page's header does not match its checksum or its place";
                let next = search(file, name, header, at + 1, end);
                // Which page it was is not known: the next one says how many were before it.
                if let Ok(Some(next)) = next
                    && let Ok(Some(record)) = read_record(file, name, header, next)
                {
                    seen = record.pages;
                }
                (Some(Error::corrupt(name, at, reason)), next)
            }
            Err(error) => (None, Err(error)),
        };
        if let Some(error) = damage
            && on_damage(error).is_break()
        {
            break;
        }
        match next {
            Ok(Some(next)) => at = next,
            Ok(None) => break,
            Err(error) => {
                // Nothing is left to break off from.
                let _ = on_damage(error);
                break;
            }
        }
    }
    (report, seen)
}

fn check_content(
    file: &dyn File,
    name: &str,
    header: &FileHeader,
    at: u64,
    page: &Record,
) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES.min(page.len as usize)];
    let mut crc = header.seed(at);
    let mut offset = at + RECORD_BYTES as u64;
    let mut left = page.len as usize;
    while left > 0 {
        let piece = &mut buffer[..left.min(CHUNK_BYTES)];
        if fs::read_full_at(file, name, piece, offset)? < piece.len() {
            return Err(Error::corrupt(name, at, "the file ends within a page"));
        }
        crc = crc32c::crc32c_append(crc, piece);
        offset += piece.len() as u64;
        left -= piece.len();
    }
    if crc != page.content_crc {
        return Err(Error::corrupt(name, at, "a page does not match its checksum"));
    }
    Ok(())
}

/// The offset of the first header of a page at or behind `from`.
fn search(
    file: &dyn File,
    name: &str,
    header: &FileHeader,
    from: u64,
    end: u64,
) -> Result<Option<u64>> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = from;
    while at + RECORD_BYTES as u64 <= end {
        let read = fs::read_full_at(file, name, &mut buffer, at)?;
        if let Some(within) = Record::search(&buffer[..read], header, at) {
            return Ok(Some(at + within as u64).filter(|&found| found < end));
        }
        if read < CHUNK_BYTES {
            break;
        }
        // A header may lie across two pieces.
        at += (CHUNK_BYTES - RECORD_BYTES + 1) as u64;
    }
    Ok(None)
}
