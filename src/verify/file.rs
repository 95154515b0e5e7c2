//! One signed file: its resources' states, its source, and who waits for what.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::ahead::Ahead;
use super::chunk::Tag;
use super::chunk::Tagged;
use super::chunk::Tags;
use super::chunk::grid;
use super::pin::PinState;
use super::remembered::Remembered;
use super::remembered::Subject;
use super::seldom::Seldom;
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

/// Bytes of a page as the page cache counts, on the platforms that we know.
const CACHED_PAGE_BYTES: u64 = 4096;

/// A signed file that is read only through verification.
pub struct VerifiedFile {
    id: u32,
    file: TrustedFile,
    size: u64,
    source: Arc<ModelDir>,
    /// Guards one resource each, never while it is hashed.
    resources: Resources,
    opened: Seldom<Mutex<Opened>>,
    pub(super) gate: Seldom<Mutex<Gate>>,
    /// How many jobs somebody waits for.
    demands: AtomicU32,
    pub(super) ahead: Seldom<Mutex<Ahead>>,
    pub(super) pin: Seldom<Mutex<PinState>>,
    /// Whether it was looked for what is remembered of it.
    recalled: Once,
    /// Whether the page cache may have bytes of it that no digest has matched; see [`super::preload`].
    tainted: AtomicBool,
    /// Whether the kernel has met it, so that its page cache takes bytes.
    met: AtomicBool,
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

/// The states of a file's resources. Most files of a model of many have one, which then needs no place of its own.
enum Resources {
    One([Mutex<ResourceState>; 1]),
    Many(Box<[Mutex<ResourceState>]>),
}

impl Resources {
    fn unverified(count: usize) -> Self {
        let state = || Mutex::new(ResourceState::Unverified);
        match count {
            1 => Self::One([state()]),
            _ => Self::Many((0..count).map(|_| state()).collect()),
        }
    }
}

impl Deref for Resources {
    type Target = [Mutex<ResourceState>];

    fn deref(&self) -> &Self::Target {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
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

/// How far the resources that a job asks for are.
#[derive(Default)]
pub(super) struct Survey {
    /// Neighbours that nobody verifies yet.
    pub(super) unverified: Vec<Range<usize>>,
    /// The last one that has no verdict yet.
    pub(super) pending: Option<usize>,
    /// Whether one is rejected.
    pub(super) rejected: bool,
}

/// Says, while it exists, that somebody waits for a file: what nobody waits for comes after it.
pub(super) struct Demand(Arc<VerifiedFile>);

impl Demand {
    pub(super) fn for_file(file: &Arc<VerifiedFile>) -> Self {
        file.demands.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(file))
    }
}

impl Drop for Demand {
    fn drop(&mut self) {
        self.0.demands.fetch_sub(1, Ordering::Relaxed);
    }
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
            resources: Resources::unverified(resources),
            opened: Seldom::default(),
            gate: Seldom::default(),
            demands: AtomicU32::new(0),
            ahead: Seldom::default(),
            pin: Seldom::default(),
            recalled: Once::new(),
            tainted: AtomicBool::new(false),
            met: AtomicBool::new(false),
        }
    }

    /// Its number among the files of the model.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether a first pass over some of it is under way.
    pub(super) fn is_in_flight(&self) -> bool {
        let first = self.resources.first().map(|resource| resource.lock());
        matches!(first.as_deref(), Some(ResourceState::Verifying(_)))
    }

    /// Whether somebody waits for something in it.
    pub(super) fn is_demanded(&self) -> bool {
        self.demands.load(Ordering::Relaxed) > 0
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

    /// Takes what is remembered of its resources, the first time; gives how many there were.
    pub(super) fn recall(&self, from: &Remembered) -> usize {
        let mut found = 0;
        self.recalled.call_once(|| {
            for (index, bytes) in from.recall(&self.subject()).unwrap_or_default() {
                found += usize::from(self.recall_resource(index, bytes).is_some());
            }
        });
        found
    }

    fn recall_resource(&self, index: u64, bytes: Vec<u8>) -> Option<()> {
        let index = usize::try_from(index).ok()?;
        let range = self.range(index)?;
        let tags = Tags::recalled(bytes, u64::try_from(grid(range).count()).ok()?)?;
        let mut state = self.resources.get(index)?.lock();
        if matches!(*state, ResourceState::Unverified) {
            *state = ResourceState::Verified(tags);
        }
        Some(())
    }

    /// Stores the tags of what is verified.
    pub(super) fn remember(&self, in_store: &Remembered) -> io::Result<()> {
        let tags_of = |(index, resource): (u64, &Mutex<ResourceState>)| match &*resource.lock() {
            ResourceState::Verified(tags) | ResourceState::Changed(tags) => {
                Some((index, tags.as_bytes().to_vec()))
            }
            _ => None,
        };
        let entries: Vec<_> = (0..).zip(self.resources.iter()).filter_map(tags_of).collect();
        if entries.is_empty() {
            return Ok(());
        }
        in_store.remember(&self.subject(), &entries)
    }

    fn subject(&self) -> Subject {
        Subject {
            file: self.id,
            size: self.size,
            resources: u64::try_from(self.resources.len()).unwrap_or(u64::MAX),
            chunk_bytes: CHUNK_BYTES,
        }
    }

    /// Whether its first pass goes into a file in memory.
    pub(super) fn is_filled(&self) -> bool {
        matches!(&*self.pin.lock(), PinState::Filling(_))
    }

    /// The number under which the kernel has it, if it is pinned.
    pub fn pinned(&self) -> Option<u32> {
        match &*self.pin.lock() {
            PinState::Pinned { number, .. } => Some(*number),
            _ => None,
        }
    }

    /// Whether a first pass over it can fill pages in place: none has begun, and no two resources share a page.
    pub(super) fn may_be_filled(&self) -> bool {
        let aligned = match self.content() {
            SignedContent::Whole(_) => true,
            SignedContent::Shards(shards) => {
                shards.count() == 1 || shards.shard_size() % CACHED_PAGE_BYTES == 0
            }
        };
        let untouched =
            |resource: &Mutex<ResourceState>| matches!(&*resource.lock(), ResourceState::Unverified);
        self.size > 0 && aligned && self.resources.iter().all(untouched)
    }

    pub(super) fn taint(&self, tainted: bool) {
        self.tainted.store(tainted, Ordering::SeqCst);
    }

    /// Whether the page cache can have it at all. A page there is filled whole or not at all: where shards are smaller than a page,
    /// one that differs would take its neighbours' bytes with it.
    pub fn is_cacheable(&self) -> bool {
        match self.content() {
            SignedContent::Shards(shards) => shards.shard_size() >= CACHED_PAGE_BYTES,
            SignedContent::Whole(_) => true,
        }
    }

    /// Whether the page cache has nothing of it but what was verified, so that it may keep it across opens.
    pub fn may_be_cached(&self) -> bool {
        !self.tainted.load(Ordering::SeqCst)
    }

    /// Notes whether the kernel knows this file, as far as we know. A wrong guess costs time only.
    pub fn note_met(&self, met: bool) {
        self.met.store(met, Ordering::Relaxed);
    }

    /// Whether the kernel knows this file, as far as we know.
    pub(super) fn is_met(&self) -> bool {
        self.met.load(Ordering::Relaxed)
    }

    /// All of its resources.
    pub(super) fn all_resources(&self) -> Range<usize> {
        0..self.resources.len()
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
        for resource in self.resources.iter() {
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

    /// Looks at resources on behalf of a job.
    pub(super) fn survey(&self, range: Range<usize>) -> Survey {
        let mut survey = Survey::default();
        for index in range {
            match self
                .resources
                .get(index)
                .map(|resource| resource.lock())
                .as_deref()
            {
                Some(ResourceState::Verified(_) | ResourceState::Changed(_)) => {}
                Some(ResourceState::Rejected) | None => survey.rejected = true,
                Some(ResourceState::Verifying(_)) => survey.pending = Some(index),
                Some(ResourceState::Unverified) => {
                    survey.pending = Some(index);
                    match survey.unverified.last_mut() {
                        Some(run) if run.end == index => run.end += 1,
                        _ => survey.unverified.push(index..index + 1),
                    }
                }
            }
        }
        survey
    }

    /// Marks resources as being verified, up to the first that already is or was; the caller verifies them, and ends
    /// with [`VerifiedFile::settle`] for each.
    pub(super) fn mark(&self, range: Range<usize>) -> Range<usize> {
        let mut end = range.start;
        while end < range.end
            && let Some(resource) = self.resources.get(end)
            && let state = &mut *resource.lock()
            && matches!(state, ResourceState::Unverified)
        {
            *state = ResourceState::Verifying(Vec::new());
            end += 1;
        }
        range.start..end
    }

    /// Lets a job wait for a resource that is being verified; gives it back when that has ended.
    pub(super) fn park(&self, index: usize, job: Job) -> Result<(), Job> {
        match self
            .resources
            .get(index)
            .map(|resource| resource.lock())
            .as_deref_mut()
        {
            Some(ResourceState::Verifying(waiting)) => {
                waiting.push(job);
                Ok(())
            }
            _ => Err(job),
        }
    }

    /// Ends the verification of a resource; the jobs that waited are the caller's to run or to fail.
    pub(super) fn settle(&self, index: usize, outcome: ResourceState) -> Vec<Job> {
        let Some(resource) = self.resources.get(index) else {
            return Vec::new();
        };
        let mut state = resource.lock();
        match std::mem::replace(&mut *state, outcome) {
            ResourceState::Verifying(waiting) => waiting,
            verdict => {
                // A verdict stands.
                *state = verdict;
                Vec::new()
            }
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

    /// The resource that has the byte at this position.
    pub(super) fn resource_at(&self, offset: u64) -> Option<usize> {
        let index = match self.content() {
            SignedContent::Whole(_) => 0,
            SignedContent::Shards(shards) => usize::try_from(offset / shards.shard_size()).ok()?,
        };
        (offset < self.size).then_some(index)
    }

    /// These bytes and what else is in the chunks that they touch.
    pub(super) fn whole_chunks(&self, bytes: &Range<u64>) -> Option<Range<u64>> {
        let first = self.range(self.resource_at(bytes.start)?)?;
        let last = self.range(self.resource_at(bytes.end.checked_sub(1)?)?)?;
        let start = bytes.start - bytes.start % CHUNK_BYTES;
        let end = bytes
            .end
            .checked_next_multiple_of(CHUNK_BYTES)
            .unwrap_or(u64::MAX);
        Some(start.max(first.start)..end.min(last.end))
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
    /// Fills a page-aligned buffer as far as the file goes; its length and the offset are whole pages.
    pub(super) fn read_pages(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, SourceError> {
        match self.file.read_pages(buffer, offset) {
            Ok(read) => Ok(read),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESTALE | libc::EIO)) => {
                let stale = self.of.opened.lock().file.take();
                drop(stale);
                self.file = self.of.source_file()?;
                self.file.read_pages(buffer, offset).map_err(|e| self.error(e))
            }
            Err(e) => Err(self.error(e)),
        }
    }

    /// Whether the page cache had all of the last read.
    pub(super) fn was_cached(&self) -> bool {
        self.file.was_cached()
    }

    /// Drops these bytes from the page cache.
    pub(super) fn let_go(&self, range: &Range<u64>) {
        self.file.let_go(range);
    }

    /// Whether these bytes lie in the page cache.
    pub(super) fn is_cached(&self, range: &Range<u64>) -> bool {
        self.file.is_cached(range)
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

impl Tagged for VerifiedFile {
    fn chunks(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        self.resources_of(&range).flat_map(move |index| {
            let resource = self.range(index).unwrap_or(0..0);
            grid(range.start.max(resource.start)..range.end.min(resource.end))
        })
    }

    fn tag(&self, offset: u64) -> Option<Tag> {
        let index = self.resource_at(offset)?;
        let start = self.range(index)?.start;
        let chunk = usize::try_from(offset / CHUNK_BYTES - start / CHUNK_BYTES).ok()?;
        match &*self.resources.get(index)?.lock() {
            ResourceState::Verified(tags) | ResourceState::Changed(tags) => tags.get(chunk),
            _ => None,
        }
    }
}
