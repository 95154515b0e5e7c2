//! Reads of verified resources: from memory, or from the source and held against the tags.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use crate::source::SourceError;
use crate::verify::chunk::Fetched;
use crate::verify::chunk::Tagged;
use crate::verify::chunk::VerifiedBlock;
use crate::verify::chunk::VerifiedBytes;
use crate::verify::file::SourceReader;
use crate::verify::file::VerifiedFile;
use crate::verify::memory::Buffer;
use crate::verify::memory::Claim;
use crate::verify::refusal::ReadError;
use crate::verify::workers::Slot;

impl Engine {
    /// Collects bytes of verified resources, from memory or checked against their tags right here.
    pub(super) fn bytes(
        &self,
        file: &Arc<VerifiedFile>,
        range: Range<u64>,
        slot: &Slot,
    ) -> Result<VerifiedBytes, ReadError> {
        let mut reply = VerifiedBytes::default();
        let mut reader = None;
        let mut at = range.start;
        while at < range.end {
            let held = self.memory.find(file.id(), at);
            let is_held = held.is_some();
            let block = match held {
                Some(block) => block,
                None => {
                    let reader = match &mut reader {
                        Some(reader) => reader,
                        None => reader.insert(self.reader(file, slot).map_err(|e| self.source_error(e))?),
                    };
                    let want = at..range.end.min(at.saturating_add(MAX_RECHECK_BYTES));
                    let mut block = self.recheck(file, reader, &want)?;
                    if block.range() != want {
                        // Who reads a part will want its neighbours.
                        block.keep();
                    }
                    Arc::new(block)
                }
            };
            let part = at..block.range().end.min(range.end);
            at = part.end;
            if part == range
                && let Some(bytes) = VerifiedBytes::in_place(Arc::clone(&block), part.clone())
            {
                reply = bytes;
            } else if part.is_empty() || !reply.append(&block, &part) {
                if cfg!(feature = "planted-faults") {
                    // One of them is to give less than it was asked for.
                    break;
                }
                return Err(ReadError::Abandoned);
            }
            if !is_held && part != block.range() {
                self.memory.hold(Arc::clone(&block));
            }
            self.memory.served(&block, part.end - part.start);
        }
        self.count_served(range);
        Ok(reply)
    }

    /// Reads bytes of verified resources anew and holds them against their tags, with all of the chunks they are in.
    fn recheck(
        &self,
        file: &Arc<VerifiedFile>,
        reader: &mut Reader<'_>,
        want: &Range<u64>,
    ) -> Result<VerifiedBlock, ReadError> {
        let range = file.whole_chunks(want).ok_or(ReadError::Abandoned)?;
        let (buffer, base, filled) = self.read_again(file, reader, &range)?;
        let end = base.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        if end < range.end {
            let missing = file.chunks(range.clone()).find(|chunk| chunk.end > end);
            return Err(self.changed(file, missing.unwrap_or(range)));
        }
        let fetched = Fetched::new(buffer, file.id(), base, range.clone());
        #[cfg(feature = "planted-faults")]
        let fetched = match crate::verify::faults::recheck(self, file, reader, &range, fetched) {
            Ok(served) => return Ok(served),
            Err(fetched) => fetched,
        };
        fetched
            .verify(&self.key, &**file)
            .map_err(|chunk| self.changed(file, chunk))
    }

    /// Reads a range into a buffer: the buffer, the position of its first byte, and how many bytes there were.
    pub(in crate::verify) fn read_again(
        &self,
        file: &VerifiedFile,
        reader: &mut Reader<'_>,
        range: &Range<u64>,
    ) -> Result<(Buffer, u64, usize), ReadError> {
        let no_memory = |e| self.source_error(SourceError::at(file.path(), e));
        let base = range.start - range.start % ALIGNMENT;
        let bytes = length(&(base..range.end.next_multiple_of(ALIGNMENT)));
        // Many replies at a time would else come on top of a budget that is spent on what somebody may read later.
        let mut buffer = self.memory.buffer(bytes, Claim::Demand).map_err(no_memory)?;
        if buffer.is_none() {
            buffer = self.memory.buffer(bytes, Claim::Owed).map_err(no_memory)?;
        }
        let mut buffer = buffer.ok_or(ReadError::Abandoned)?;
        let room = buffer.bytes_mut().get_mut(..bytes).unwrap_or_default();
        let filled = reader.read_pages(room, base).map_err(|e| self.source_error(e))?;
        Ok((buffer, base, filled))
    }

    pub(super) fn count_served(&self, range: Range<u64>) {
        self.totals
            .served_bytes
            .fetch_add(range.end - range.start, Ordering::Relaxed);
    }

    pub(super) fn reader<'a>(
        &'a self,
        file: &'a VerifiedFile,
        slot: &'a Slot,
    ) -> Result<Reader<'a>, SourceError> {
        let reader = slot.in_source(&self.workers, || file.reader())?;
        Ok(Reader {
            engine: self,
            slot,
            reader: Some(reader),
        })
    }

    fn changed(&self, file: &VerifiedFile, range: Range<u64>) -> ReadError {
        self.totals.changed_reads.fetch_add(1, Ordering::Relaxed);
        let first = file
            .resource_at(range.start)
            .is_some_and(|index| file.note_change(index));
        let error = ReadError::Changed {
            path: file.path().clone(),
            range,
        };
        if first {
            log::error!(event = "content-changed", path = file.path().as_str(); "{error}; reads of it are refused while that lasts");
        }
        error
    }
}

/// Reads the source on behalf of one job: whatever may hang is seen by the watch, closing included.
pub(in crate::verify) struct Reader<'a> {
    engine: &'a Engine,
    slot: &'a Slot,
    reader: Option<SourceReader<'a>>,
}

impl Reader<'_> {
    /// Fills the buffer as far as the file goes.
    pub(in crate::verify) fn read_pages(
        &mut self,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize, SourceError> {
        let Some(reader) = &mut self.reader else {
            return Ok(0);
        };
        self.slot
            .in_source(&self.engine.workers, || reader.read_pages(buffer, offset))
    }

    /// Whether the page cache had all of the last read.
    pub(super) fn was_cached(&self) -> bool {
        self.reader.as_ref().is_some_and(SourceReader::was_cached)
    }

    /// Drops these bytes from the page cache.
    pub(super) fn let_go(&self, range: &Range<u64>) {
        if let Some(reader) = &self.reader {
            self.slot.in_source(&self.engine.workers, || reader.let_go(range));
        }
    }

    /// Whether these bytes lie in the page cache.
    pub(super) fn is_cached(&self, range: &Range<u64>) -> bool {
        self.reader.as_ref().is_some_and(|reader| reader.is_cached(range))
    }

    #[cfg(feature = "planted-faults")]
    pub(in crate::verify) fn file(&self) -> Option<&crate::source::SourceFile> {
        self.reader.as_ref().map(SourceReader::file)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.engine.workers.close(reader.into_file());
        }
    }
}

/// Length of a range that is no longer than a buffer: a chunk's, or what the kernel asks for at a time.
fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}

/// Bytes that are read anew in one go: what the kernel asks for at most.
const MAX_RECHECK_BYTES: u64 = 1024 * 1024;

/// Direct reads begin and end at multiples of this.
const ALIGNMENT: u64 = 4096;
