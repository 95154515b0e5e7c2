//! One signed file: its resources' states, its source, and who waits for what.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::chunk::ChunkId;
use super::chunk::Tag;
use super::chunk::Tags;
use super::workers::Gate;
use super::workers::Job;
use crate::digest::Digest;
use crate::manifest::SignedContent;
use crate::path::ModelPath;
use crate::source::ModelDir;
use crate::source::SourceError;
use crate::source::SourceFile;
use crate::trust::TrustedFile;
use crate::verify::chunk::CHUNK_BYTES;

/// A signed file that is read only through verification.
pub struct VerifiedFile {
    id: u32,
    file: TrustedFile,
    size: u64,
    source: Arc<ModelDir>,
    /// Guards one resource each, never while it is hashed.
    resources: Box<[Mutex<ResourceState>]>,
    opened: Mutex<Opened>,
    pub(super) gate: Mutex<Gate>,
}

/// How far one resource is.
pub(super) enum ResourceState {
    /// Nobody asked for it yet, or reading it failed.
    Unverified,
    /// One thread hashes it; these jobs wait.
    Verifying(Vec<Job>),
    /// The signed digest matched; later reads are held against the tags.
    Verified(Tags),
    /// As [`ResourceState::Verified`], and some later read of the source did not match its tag.
    Changed(Tags),
    /// The signed digest did not match: no byte until the model is mounted anew.
    Rejected,
}

/// The descriptor of the source, open while somebody has the file open.
#[derive(Default)]
struct Opened {
    handles: u64,
    file: Option<Arc<SourceFile>>,
}

/// How far a file is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// No resource of it was read yet, or not all of them.
    Unverified,
    /// Every resource was found equal to its signed digest.
    Verified,
    /// It was verified; later the source gave other bytes, which were refused.
    Changed,
    /// Some resource differs from its signed digest.
    Rejected,
}

impl State {
    /// One lower-case word, as `status` and the extended attribute show it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unverified => "unverified",
            Self::Verified => "verified",
            Self::Changed => "changed",
            Self::Rejected => "rejected",
        }
    }
}

/// What a job finds when it asks for a resource.
pub(super) enum Entered {
    /// It is verified.
    Ready(Job),
    /// This thread is to verify it.
    Verify(Job),
    /// It is rejected.
    Rejected(Job),
    /// Another thread verifies it and will run the job again.
    Parked,
}

impl VerifiedFile {
    /// Ties a trusted file to a source. The size is pinned from here on: the signed one of a sharded file,
    /// else `source_size`, which the digest confirms before any byte is served.
    pub(crate) fn new(id: u32, file: TrustedFile, source: Arc<ModelDir>, source_size: u64) -> Self {
        let (size, resources) = match file.content() {
            SignedContent::Whole(_) => (source_size, 1),
            SignedContent::Shards(shards) => (shards.size(), shards.count()),
        };
        Self {
            id,
            file,
            size,
            source,
            resources: (0..resources)
                .map(|_| Mutex::new(ResourceState::Unverified))
                .collect(),
            opened: Mutex::default(),
            gate: Mutex::default(),
        }
    }

    /// The signed name.
    pub fn path(&self) -> &ModelPath {
        self.file.path()
    }

    /// The signed content.
    pub fn content(&self) -> &SignedContent {
        self.file.content()
    }

    /// The pinned size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether one digest covers the whole file, so that opening it verifies it.
    pub fn is_whole(&self) -> bool {
        matches!(self.content(), SignedContent::Whole(_))
    }

    /// Whether [`VerifiedFile::size`] is signed, or confirmed by the digest.
    pub fn is_size_confirmed(&self) -> bool {
        !self.is_whole() || matches!(self.state(), State::Verified | State::Changed)
    }

    /// How far it is.
    pub fn state(&self) -> State {
        let mut state = State::Verified;
        for resource in &self.resources {
            match &*resource.lock() {
                ResourceState::Rejected => return State::Rejected,
                ResourceState::Changed(_) => state = State::Changed,
                ResourceState::Unverified | ResourceState::Verifying(_) if state == State::Verified => {
                    state = State::Unverified;
                }
                _ => {}
            }
        }
        state
    }

    /// How many of its bytes belong to resources that were verified.
    pub fn verified_bytes(&self) -> u64 {
        (0..self.resources.len())
            .filter(|&index| self.is_verified(index))
            .map(|index| self.range(index).map_or(0, |range| range.end - range.start))
            .sum()
    }

    fn is_verified(&self, index: usize) -> bool {
        self.resources
            .get(index)
            .is_some_and(|r| matches!(&*r.lock(), ResourceState::Verified(_) | ResourceState::Changed(_)))
    }

    /// The bytes that a resource covers.
    pub(super) fn range(&self, index: usize) -> Option<Range<u64>> {
        match self.content() {
            SignedContent::Whole(_) => (index == 0).then_some(0..self.size),
            SignedContent::Shards(shards) => shards.range(index),
        }
    }

    pub(super) fn digest(&self, index: usize) -> Option<Digest> {
        match self.content() {
            SignedContent::Whole(digest) => (index == 0).then_some(*digest),
            SignedContent::Shards(shards) => shards.digest(index),
        }
    }

    /// The resources that these bytes belong to. A whole file has its one resource even where it is empty.
    pub(super) fn resources_of(&self, bytes: &Range<u64>) -> Range<usize> {
        match self.content() {
            SignedContent::Whole(_) => 0..1,
            SignedContent::Shards(_) if bytes.is_empty() => 0..0,
            SignedContent::Shards(shards) => {
                let index = |at: u64| usize::try_from(at / shards.shard_size()).unwrap_or(usize::MAX);
                index(bytes.start)..index(bytes.end - 1).saturating_add(1).min(shards.count())
            }
        }
    }

    /// Asks for a resource on behalf of a job; the caller that gets [`Entered::Verify`] must end with
    /// [`VerifiedFile::settle`].
    pub(super) fn enter(&self, index: usize, job: Job) -> Entered {
        let Some(resource) = self.resources.get(index) else {
            return Entered::Rejected(job);
        };
        let mut state = resource.lock();
        match &mut *state {
            ResourceState::Verified(_) | ResourceState::Changed(_) => Entered::Ready(job),
            ResourceState::Rejected => Entered::Rejected(job),
            ResourceState::Verifying(waiting) => {
                waiting.push(job);
                Entered::Parked
            }
            ResourceState::Unverified => {
                *state = ResourceState::Verifying(Vec::new());
                Entered::Verify(job)
            }
        }
    }

    /// Ends the verification of a resource; the jobs that waited are the caller's to run or to fail.
    pub(super) fn settle(&self, index: usize, outcome: ResourceState) -> Vec<Job> {
        let Some(resource) = self.resources.get(index) else {
            return Vec::new();
        };
        match std::mem::replace(&mut *resource.lock(), outcome) {
            ResourceState::Verifying(waiting) => waiting,
            _ => Vec::new(),
        }
    }

    /// Takes away the jobs that wait for a verification which makes no progress.
    pub(super) fn give_up(&self, index: usize) -> Vec<Job> {
        match self
            .resources
            .get(index)
            .map(|resource| resource.lock())
            .as_deref_mut()
        {
            Some(ResourceState::Verifying(waiting)) => std::mem::take(waiting),
            _ => Vec::new(),
        }
    }

    /// The tag of a chunk of a verified resource.
    pub(super) fn tag(&self, index: usize, chunk: usize) -> Option<Tag> {
        match &*self.resources.get(index)?.lock() {
            ResourceState::Verified(tags) | ResourceState::Changed(tags) => tags.get(chunk),
            _ => None,
        }
    }

    /// Notes that the source no longer gives what was verified; `true` the first time.
    pub(super) fn note_change(&self, index: usize) -> bool {
        let Some(resource) = self.resources.get(index) else {
            return false;
        };
        let mut state = resource.lock();
        match std::mem::replace(&mut *state, ResourceState::Unverified) {
            ResourceState::Verified(tags) => {
                *state = ResourceState::Changed(tags);
                true
            }
            other => {
                *state = other;
                false
            }
        }
    }

    /// The chunks of a resource that these bytes touch: the chunk's index in the resource, its place, and its
    /// bytes in the file.
    pub(super) fn chunks(
        &self,
        index: usize,
        bytes: Range<u64>,
    ) -> impl Iterator<Item = (usize, ChunkId, Range<u64>)> + use<> {
        let resource = self.range(index).unwrap_or(0..0);
        let start = bytes.start.max(resource.start);
        let end = bytes.end.min(resource.end).max(start);
        let first = (start - resource.start) / CHUNK_BYTES;
        let last = (end - resource.start).div_ceil(CHUNK_BYTES).max(first);
        let file = self.id;
        (if start < end { first..last } else { 0..0 }).filter_map(move |chunk| {
            let offset = resource.start + chunk * CHUNK_BYTES;
            let id = ChunkId { file, offset };
            let end = resource.end.min(offset.saturating_add(CHUNK_BYTES));
            Some((usize::try_from(chunk).ok()?, id, offset..end))
        })
    }

    /// Counts one more open handle and makes sure that the source can be opened.
    pub(super) fn acquire(&self) -> Result<(), SourceError> {
        self.opened.lock().handles += 1;
        self.source_file().map(drop).inspect_err(|_| drop(self.release()))
    }

    /// Counts one open handle less; with the last one the source is the caller's to close.
    #[must_use]
    pub(super) fn release(&self) -> Option<Arc<SourceFile>> {
        let mut opened = self.opened.lock();
        opened.handles = opened.handles.saturating_sub(1);
        if opened.handles == 0 {
            opened.file.take()
        } else {
            None
        }
    }

    /// The open source; opened now when it was not, and kept while the file is open.
    fn source_file(&self) -> Result<Arc<SourceFile>, SourceError> {
        if let Some(file) = &self.opened.lock().file {
            return Ok(Arc::clone(file));
        }
        // Not under the lock: opening may hang.
        let file = Arc::new(self.source.open_file(self.path())?);
        let mut opened = self.opened.lock();
        if opened.handles > 0 {
            let before = opened.file.replace(Arc::clone(&file));
            drop(opened);
            // Closing may hang as well.
            drop(before);
        }
        Ok(file)
    }

    /// A reader of the source for one job.
    pub(super) fn reader(&self) -> Result<SourceReader<'_>, SourceError> {
        Ok(SourceReader {
            of: self,
            file: self.source_file()?,
        })
    }
}

impl fmt::Debug for VerifiedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedFile")
            .field("path", self.path())
            .field("size", &self.size)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Reads a source, opening it anew once when its descriptor went bad (a restarted file server).
pub(super) struct SourceReader<'a> {
    of: &'a VerifiedFile,
    file: Arc<SourceFile>,
}

impl SourceReader<'_> {
    /// Fills the buffer as far as the file goes.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, SourceError> {
        match self.file.read_at(buffer, offset) {
            Ok(read) => Ok(read),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESTALE | libc::EIO)) => {
                let stale = self.of.opened.lock().file.take();
                drop(stale);
                self.file = self.of.source_file()?;
                self.file.read_at(buffer, offset).map_err(|e| self.error(e))
            }
            Err(e) => Err(self.error(e)),
        }
    }

    /// The descriptor, for whoever may close it.
    pub(super) fn into_file(self) -> Arc<SourceFile> {
        self.file
    }

    fn error(&self, error: io::Error) -> SourceError {
        SourceError::at(self.of.path(), error)
    }

    #[cfg(feature = "planted-faults")]
    pub(super) fn file(&self) -> &SourceFile {
        &self.file
    }
}

/// A resource that differs from what was signed.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The file it belongs to.
    pub path: ModelPath,
    /// The bytes it covers.
    pub range: Range<u64>,
    /// What was signed.
    pub signed: Digest,
    /// What was found; `None` when the source ended before the resource did.
    pub found: Option<Digest>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.range;
        match &self.found {
            Some(found) => write!(
                f,
                "{} [{start}..{end}): content differs from its signed digest (signed {}, found {found})",
                self.path, self.signed
            ),
            None => write!(
                f,
                "{} [{start}..{end}): content is shorter than its signed digest needs (signed {})",
                self.path, self.signed
            ),
        }
    }
}

/// Why a read got no bytes.
#[derive(Clone, Debug)]
pub enum ReadError {
    /// A resource differs from its signed digest; it stays so until the model is mounted anew.
    Rejected {
        /// The file.
        path: ModelPath,
    },
    /// A resource was verified, and the source now gives other bytes.
    Changed {
        /// The file.
        path: ModelPath,
        /// The chunk that did not match.
        range: Range<u64>,
    },
    /// The source could not be read.
    Source(Arc<SourceError>),
    /// The source did not answer in time.
    TimedOut {
        /// The file.
        path: ModelPath,
    },
    /// A bug of ours: a job ended without a result.
    Abandoned,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected { path } => write!(f, "{path}: differs from its signed digest"),
            Self::Changed { path, range } => {
                write!(
                    f,
                    "{path} [{}..{}): changed after it was verified",
                    range.start, range.end
                )
            }
            Self::Source(e) => write!(f, "{e}"),
            Self::TimedOut { path } => write!(f, "{path}: the source did not answer in time"),
            Self::Abandoned => write!(f, "a read was abandoned; this is a bug of modelfs"),
        }
    }
}

impl std::error::Error for ReadError {}
