//! Reading a page file.

use std::{
    fmt, io,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    PageAddress, PageFileReport, file_name,
    record::{FILE_HEADER_BYTES, FileHeader, RECORD_BYTES, Record, RecordKind},
    walk::walk,
};
use crate::{
    error::{Error, Result},
    fs::{self, File, Pace, PacedWriter, Storage},
};

/// A file is copied in pieces of this size, in bytes.
const COPY_BYTES: usize = 1 << 20;

/// An open page file, for reading from any thread. Removing it meanwhile is fine.
#[derive(Debug)]
pub struct PageFile {
    pub(super) file: Arc<dyn File>,
    pub(super) name: String,
    pub(super) header: FileHeader,
    /// Offset of the end record: pages lie before it.
    pub(super) end: u64,
    /// Pages in the file.
    pages: u64,
}

impl PageFile {
    /// A file that was just written.
    pub(super) fn written(
        file: Arc<dyn File>,
        name: String,
        header: FileHeader,
        end: u64,
        pages: u64,
    ) -> Self {
        Self { file, name, header, end, pages }
    }

    /// Opens the page file `file`, and verifies that it is finished and as long as it was; the
    /// pages are verified as they are read.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with file and offset, [`Error::UnknownVersion`], and what the operating
    /// system says.
    pub fn open(storage: &dyn Storage, file: u64) -> Result<Arc<Self>> {
        open_header(storage, file)?.finished().map(Arc::new)
    }

    /// The number of the file.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.header.number
    }

    /// The name of the file, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size of the file in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end + RECORD_BYTES as u64
    }

    /// How many pages it holds.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Reads the content of a page.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with file and offset if it is damaged or not what is at that place,
    /// [`Error::Misuse`] for the address of a page in another file, and what the operating system
    /// says.
    pub fn read(&self, at: PageAddress) -> Result<Vec<u8>> {
        if at.file != self.number() {
            let reason = format!("a page of file {} is asked of {}", at.file, self.name);
            return Err(Error::misuse(reason));
        }
        let damaged = |reason: &str| Err(Error::corrupt(&self.name, at.offset, reason));
        // The address was stored too: nothing is allocated by it before it is known to fit.
        let content = at.offset.checked_add(RECORD_BYTES as u64);
        let behind = content.and_then(|content| content.checked_add(u64::from(at.len)));
        let (Some(content), true) = (content, behind.is_some_and(|behind| behind <= self.end))
        else {
            return damaged("a page is expected there that would reach beyond the end of the file");
        };
        let record = read_record(&*self.file, &self.name, &self.header, at.offset)?;
        let Some(record) = record.filter(|record| record.kind == RecordKind::Page) else {
            return damaged("a page's header does not match its checksum or its place");
        };
        if record.len != at.len {
            let reason = format!("the page has {} bytes, {} are expected", record.len, at.len);
            return damaged(&reason);
        }
        let mut bytes = vec![0; at.len as usize];
        let read = fs::read_full_at(&*self.file, &self.name, &mut bytes, content)?;
        let crc = crc32c::crc32c_append(self.header.seed(at.offset), &bytes);
        if read < bytes.len() || crc != record.content_crc {
            return damaged("a page does not match its checksum");
        }
        Ok(bytes)
    }

    /// Copies the file into another directory, under the same number. It is durable when this
    /// returns, and its name once that directory is synced. Pages are not verified on the way:
    /// whoever reads them does.
    ///
    /// # Errors
    /// What the operating system says; what was written so far is left to the caller.
    pub fn copy_to(&self, target: &dyn Storage, pace: Pace) -> Result<()> {
        let created = target.create(&self.name).map_err(|e| Error::io("create", &self.name, e))?;
        let mut writer = PacedWriter::new(created, self.name.clone(), pace);
        let mut piece = vec![0; COPY_BYTES];
        while writer.offset() < self.bytes() {
            let left = usize::try_from(self.bytes() - writer.offset()).unwrap_or(COPY_BYTES);
            let piece = &mut piece[..left.min(COPY_BYTES)];
            let read = fs::read_full_at(&*self.file, &self.name, piece, writer.offset())?;
            if read < piece.len() {
                let reason = "the file is shorter than it was";
                return Err(Error::corrupt(&self.name, writer.offset() + read as u64, reason));
            }
            writer.append(piece)?;
        }
        writer.sync()
    }

    /// Reads and verifies every page, in order.
    ///
    /// # Errors
    /// The first [`Error::Corrupt`], and what the operating system says.
    pub fn verify(&self) -> Result<PageFileReport> {
        let mut first = None;
        let report = self.check(|error| {
            first = Some(error);
            ControlFlow::Break(())
        });
        first.map_or(Ok(report), Err)
    }

    /// [`PageFile::verify`] beside a broker that works: `pace` is called before each read with its
    /// bytes, to hold it up, and ends it by breaking; then `None` is returned.
    ///
    /// # Errors
    /// As [`PageFile::verify`].
    pub fn verify_at(&self, pace: &Held<'_>) -> Result<Option<PageFileReport>> {
        let file = HeldFile { file: &*self.file, pace, is_over: AtomicBool::new(false) };
        let mut first = None;
        let report = self.check_in(&file, |error| {
            first = Some(error);
            ControlFlow::Break(())
        });
        match first {
            _ if file.is_over.load(Ordering::Relaxed) => Ok(None),
            Some(error) => Err(error),
            None => Ok(Some(report)),
        }
    }

    /// Reads and verifies every page and tells `on_damage` what is wrong, until it breaks. Reports
    /// what is whole.
    pub fn check(&self, on_damage: impl FnMut(Error) -> ControlFlow<()>) -> PageFileReport {
        self.check_in(&*self.file, on_damage)
    }

    fn check_in(
        &self,
        file: &dyn File,
        mut on_damage: impl FnMut(Error) -> ControlFlow<()>,
    ) -> PageFileReport {
        let mut clean = true;
        let (report, seen) = walk(file, &self.name, &self.header, self.end, &mut |error| {
            clean = false;
            on_damage(error)
        });
        // Where something is damaged the count says no more than that.
        if clean && seen != self.pages {
            let reason = format!("the file holds {seen} pages, its end says {}", self.pages);
            // There is nothing behind this to break off from.
            let _ = on_damage(Error::corrupt(&self.name, self.end, reason));
        }
        PageFileReport { bytes: self.bytes(), ..report }
    }
}

/// Holds up whoever reads, before each read of so many bytes; ends it by breaking.
pub type Held<'a> = dyn Fn(u64) -> ControlFlow<()> + Sync + 'a;

/// A file that is read no faster than its pace allows.
struct HeldFile<'a> {
    file: &'a dyn File,
    pace: &'a Held<'a>,
    /// Whether the pace has broken off.
    is_over: AtomicBool,
}

impl fmt::Debug for HeldFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl File for HeldFile<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if (self.pace)(buf.len() as u64).is_break() {
            self.is_over.store(true, Ordering::Relaxed);
        }
        if self.is_over.load(Ordering::Relaxed) {
            return Err(io::Error::other("reading was broken off"));
        }
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.file.preallocate(len)
    }
}

/// A page file whose header is good.
struct Opened {
    file: Arc<dyn File>,
    name: String,
    header: FileHeader,
    size: u64,
}

fn open_header(storage: &dyn Storage, number: u64) -> Result<Opened> {
    let name = file_name(number);
    let file = storage.open(&name).map_err(|e| Error::io("open", &name, e))?;
    let size = file.size().map_err(|e| Error::io("measure", &name, e))?;
    let mut bytes = [0; FILE_HEADER_BYTES];
    if fs::read_full_at(&*file, &name, &mut bytes, 0)? < FILE_HEADER_BYTES {
        return Err(Error::corrupt(&name, size, "the file ends within its header"));
    }
    let header = FileHeader::decode(&bytes, &name, number)?;
    Ok(Opened { file, name, header, size })
}

impl Opened {
    /// Reads the end record.
    fn finished(self) -> Result<PageFile> {
        let Self { file, name, header, size } = self;
        let least = (FILE_HEADER_BYTES + RECORD_BYTES) as u64;
        let Some(end) = size.checked_sub(RECORD_BYTES as u64).filter(|_| size >= least) else {
            return Err(Error::corrupt(&name, size, "the file ends behind its header"));
        };
        match read_record(&*file, &name, &header, end)? {
            Some(record) if record.kind == RecordKind::End && record.len == 0 => {
                Ok(PageFile { file, name, header, end, pages: record.pages })
            }
            _ => Err(Error::corrupt(
                &name,
                end,
                "the file does not end with an end record: it is cut short, was never finished, or \
                 has data behind its end",
            )),
        }
    }
}

/// Reads a page file, finished or not, and tells `on_damage` all that is wrong with it; with
/// `content`, the content of its pages too. Reports what is whole, as far as it was read.
pub(crate) fn examine(
    storage: &dyn Storage,
    number: u64,
    content: bool,
    on_damage: &mut dyn FnMut(Error),
) -> PageFileReport {
    let nothing = PageFileReport { number, ..PageFileReport::default() };
    let (file, name, header, size) = match open_header(storage, number) {
        Ok(Opened { file, name, header, size }) => (file, name, header, size),
        Err(error) => {
            on_damage(error);
            return nothing;
        }
    };
    let opened = Opened { file: Arc::clone(&file), name: name.clone(), header, size };
    match opened.finished() {
        Ok(file) if content => file.check(|error| {
            on_damage(error);
            ControlFlow::Continue(())
        }),
        Ok(file) => PageFileReport { pages: file.pages, bytes: size, ..nothing },
        Err(error) => {
            on_damage(error);
            if !content {
                return PageFileReport { bytes: size, ..nothing };
            }
            // Where the end record should be there is no page: that has been told.
            let end = size.saturating_sub(RECORD_BYTES as u64);
            let mut tell = |error: Error| {
                if !matches!(error, Error::Corrupt { offset, .. } if offset == end) {
                    on_damage(error);
                }
                ControlFlow::Continue(())
            };
            let (report, _) = walk(&*file, &name, &header, size, &mut tell);
            PageFileReport { bytes: size, ..report }
        }
    }
}

/// The record at `offset`, if a good one is there.
pub(super) fn read_record(
    file: &dyn File,
    name: &str,
    header: &FileHeader,
    offset: u64,
) -> Result<Option<Record>> {
    let mut bytes = [0; RECORD_BYTES];
    let read = fs::read_full_at(file, name, &mut bytes, offset)?;
    Ok((read == RECORD_BYTES).then(|| Record::decode(&bytes, header, offset)).flatten())
}
