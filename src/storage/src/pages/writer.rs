//! Writing a page file.

use std::sync::Arc;

use super::{
    PageAddress, PageFile, PageOptions, file_name,
    record::{FileHeader, RECORD_BYTES, Record, RecordKind},
};
use crate::{
    error::{Error, Result},
    fs::{self, PacedWriter, SharedStorage},
};

/// Writes one page file. Unless it is finished, dropping it gives the space back.
pub struct PageWriter {
    storage: SharedStorage,
    writer: PacedWriter,
    header: FileHeader,
    pages: u64,
    /// Why it failed; every later call fails alike.
    failed: Option<Error>,
    finished: bool,
}

impl std::fmt::Debug for PageWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageWriter")
            .field("file", &self.writer.name())
            .field("pages", &self.pages)
            .field("bytes", &self.bytes())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl PageWriter {
    /// Creates the page file `file`, a number that no page file has.
    ///
    /// # Errors
    /// What the operating system says, also if there is such a file; it leaves no trace.
    pub fn create(storage: &SharedStorage, file: u64, options: PageOptions) -> Result<Self> {
        let name = file_name(file);
        let created = storage.create(&name).map_err(|e| Error::io("create", &name, e))?;
        let header = FileHeader { number: file, salt: storage.entropy() };
        let mut writer = Self {
            storage: Arc::clone(storage),
            writer: PacedWriter::new(created, name, options.pace),
            header,
            pages: 0,
            failed: None,
            finished: false,
        };
        writer.writer.append(&header.encode())?;
        Ok(writer)
    }

    /// Appends a page. It is not durable before [`PageWriter::finish`] has returned.
    ///
    /// # Errors
    /// [`Error::Misuse`] for content of 4 GiB or more: nothing is written and the writer goes on.
    /// Otherwise what the operating system says; then nothing can be added any more, and all that
    /// is left is to drop the writer. After [`Error::Io`] from a sync, unless the disk was full,
    /// the process should stop.
    pub fn append(&mut self, content: &[u8]) -> Result<PageAddress> {
        let len = u32::try_from(content.len()).map_err(|_| {
            Error::misuse(format!(
                "a page has {} bytes, fewer than 4 GiB are allowed",
                content.len()
            ))
        })?;
        let offset = self.writer.offset();
        let content_crc = crc32c::crc32c_append(self.header.seed(offset), content);
        let record = Record { kind: RecordKind::Page, len, content_crc, pages: self.pages };
        let head = record.encode(&self.header, offset);
        self.attempt(|writer| {
            writer.append(&head)?;
            writer.append(content)
        })?;
        self.pages += 1;
        Ok(PageAddress { file: self.header.number, offset, len })
    }

    /// Size of the file so far in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.writer.offset()
    }

    /// Ends the file. It is durable when this returns, name and content.
    ///
    /// # Errors
    /// As [`PageWriter::append`]; the space is given back.
    pub fn finish(mut self) -> Result<Arc<PageFile>> {
        // All pages are durable before the end record is written, so the record proves it.
        self.attempt(PacedWriter::sync)?;
        let end = Record { kind: RecordKind::End, len: 0, content_crc: 0, pages: self.pages };
        let end = end.encode(&self.header, self.writer.offset());
        self.attempt(|writer| {
            writer.append(&end)?;
            writer.sync()
        })?;
        fs::sync_dir(&*self.storage)?;
        self.finished = true;
        Ok(Arc::new(PageFile::written(
            Arc::clone(self.writer.file()),
            self.writer.name().to_owned(),
            self.header,
            self.writer.offset() - RECORD_BYTES as u64,
            self.pages,
        )))
    }

    /// Gives the space back, as dropping the writer does.
    pub fn abandon(self) {
        drop(self);
    }

    fn attempt(&mut self, write: impl FnOnce(&mut PacedWriter) -> Result<()>) -> Result<()> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let result = write(&mut self.writer);
        if let Err(e) = &result {
            self.failed = Some(e.clone());
        }
        result
    }
}

impl Drop for PageWriter {
    fn drop(&mut self) {
        if !self.finished {
            // If that fails too, the next start removes it: no checkpoint names it.
            drop(self.storage.remove(self.writer.name()));
        }
    }
}
