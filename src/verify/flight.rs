//! Flights: resources whose first pass is under way.
//!
//! A flight covers neighbouring resources of one file. Threads fetch its blocks in order into private buffers, several
//! at a time; whoever has time hashes what lies ready, one thread per flight. So reading and hashing overlap, and a
//! thread that waits for the source holds up no hash. However a flight ends, its resources are settled and those who
//! wait for them hear of it.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::chunk::CHUNK_BYTES;
use super::chunk::Fetched;
use super::chunk::FirstPass;
use super::file::ResourceState;
use super::file::VerifiedFile;
use super::memory::Buffer;
use super::memory::Claim;
use super::memory::Memory;
use super::memory::window;
use super::pin::Filling;
use super::pin::PinState;
use super::preload::Preload;
use super::refusal::ReadError;

/// Bytes that are fetched at a time: a huge page. Smaller: more calls and hand-overs; bigger: later first byte.
const BLOCK_BYTES: u64 = 2 * 1024 * 1024;

/// Blocks that are being fetched or wait to be hashed, at most. Enough for the source to be busy while one core hashes;
/// more only takes memory.
const MAX_AHEAD: usize = 8;

/// Threads that fetch for one flight: devices need about four reads under way to be fast.
const MAX_FETCHERS: usize = 4;

/// Direct reads begin and end at multiples of this.
const ALIGNMENT: u64 = 4096;

/// Resources of one file whose first pass is under way.
pub(super) struct Flight {
    pub(super) file: Arc<VerifiedFile>,
    pub(super) resources: Range<usize>,
    range: Range<u64>,
    claim: Claim,
    /// Where its bytes go, if the file is to be pinned.
    pub(super) filling: Option<Arc<Filling>>,
    /// Its way into the page cache, while nobody can have its file open.
    pub(super) preload: Option<Preload>,
    state: Mutex<State>,
}

struct State {
    /// Where the next block begins that nobody fetches yet.
    next: u64,
    fetchers: usize,
    /// How many threads may fetch at a time.
    most_fetchers: usize,
    blocks: VecDeque<Block>,
    /// The running hashes; with the thread that hashes while one does.
    passes: Option<Passes>,
    /// Resources before this one are settled.
    settled: usize,
    failed: Option<ReadError>,
}

enum Block {
    Awaited { start: u64 },
    Ready { fetched: Fetched, wanted: Range<u64> },
}

/// The hashes of a flight, in the hands of the thread that hashes.
pub(super) struct Passes {
    pub(super) next: usize,
    /// The pass over the resource at `next`, where a block ended within it.
    pub(super) begun: Option<FirstPass>,
    pub(super) hashed_to: u64,
}

/// What a thread hashes next.
pub(super) struct Work {
    pub(super) flight: Arc<Flight>,
    pub(super) passes: Passes,
    pub(super) parts: Vec<Fetched>,
    /// Where the source ended too early.
    pub(super) cut: Option<u64>,
}

/// A block to fetch.
pub(super) struct Fetch {
    pub(super) buffer: Buffer,
    /// Where the buffer begins in the file, for a direct read.
    pub(super) base: u64,
    /// How many bytes of the buffer to fill.
    pub(super) bytes: usize,
    wanted: Range<u64>,
}

impl Flight {
    /// A flight over resources that were marked for it.
    pub(super) fn new(
        file: Arc<VerifiedFile>,
        resources: Range<usize>,
        claim: Claim,
        preload: Option<Preload>,
    ) -> Arc<Self> {
        let start = file.range(resources.start).map_or(0, |range| range.start);
        let last = resources.end.saturating_sub(1);
        let end = file.range(last).map_or(start, |range| range.end);
        let passes = Passes {
            next: resources.start,
            begun: None,
            hashed_to: start,
        };
        let state = State {
            next: start,
            fetchers: 0,
            most_fetchers: MAX_FETCHERS,
            blocks: VecDeque::new(),
            passes: Some(passes),
            settled: resources.start,
            failed: None,
        };
        let filling = match &*file.pin.lock() {
            PinState::Filling(filling) => Some(Arc::clone(filling)),
            _ => None,
        };
        Arc::new(Self {
            file,
            resources,
            range: start..end,
            claim,
            filling,
            preload,
            state: Mutex::new(state),
        })
    }

    /// Whether somebody waits for it, or for something else in its file.
    pub(super) fn is_urgent(&self) -> bool {
        self.file.is_demanded()
    }

    /// Whether it has no byte, so that there is nothing to fetch.
    pub(super) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Whether nothing of it is fetched yet, or all that was is hashed.
    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().blocks.is_empty()
    }

    /// How many more threads should fetch for it; they count as fetching from now on.
    pub(super) fn recruit(&self) -> usize {
        let mut state = self.state.lock();
        if state.failed.is_some() {
            return 0;
        }
        let left = (self.range.end - state.next).div_ceil(BLOCK_BYTES);
        let wanted = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(state.most_fetchers);
        let recruits = wanted
            .min(MAX_AHEAD.saturating_sub(state.blocks.len()))
            .saturating_sub(state.fetchers);
        state.fetchers += recruits;
        recruits
    }

    /// Lets no more threads fetch for it than this from now on, but one; those that do already go when they have one block more.
    pub(super) fn bound_fetchers(&self, most: usize) {
        self.state.lock().most_fetchers = most.clamp(1, MAX_FETCHERS);
    }

    /// Whether these bytes stay with us until the kernel has them, or go there at once, so that nobody has to read them again.
    pub(super) fn keeps(&self, fetch: &Fetch) -> bool {
        let stays = self.preload.is_some() || fetch.buffer.is_budgeted() || fetch.buffer.is_pinned();
        stays && self.file.is_cacheable()
    }

    /// One thread less fetches for it.
    pub(super) fn dismiss(&self) {
        self.state.lock().fetchers -= 1;
    }

    /// The bytes that it covers.
    pub(super) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Takes all of it, for a thread that fetches and hashes by itself; `None` when others have begun.
    pub(super) fn take_whole(&self) -> Option<Passes> {
        let mut state = self.state.lock();
        if state.failed.is_some() || state.next != self.range.start || !state.blocks.is_empty() {
            return None;
        }
        let passes = state.passes.take()?;
        state.next = self.range.end;
        Some(passes)
    }

    /// The next block to fetch, with a buffer for it; `None` when there is none, or no room for it before others are
    /// hashed.
    ///
    /// # Errors
    /// When the system has no memory.
    pub(super) fn claim(&self, memory: &Memory) -> io::Result<Option<Fetch>> {
        let mut state = self.state.lock();
        if state.failed.is_some()
            || state.next >= self.range.end
            || state.blocks.len() >= MAX_AHEAD
            || state.fetchers > state.most_fetchers
        {
            return Ok(None);
        }
        let fetch = |wanted: Range<u64>, claim| {
            let base = wanted.start - wanted.start % ALIGNMENT;
            let bytes = wanted.end.next_multiple_of(ALIGNMENT) - base;
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            let buffer = memory.buffer(bytes, claim)?;
            io::Result::Ok(buffer.map(|buffer| Fetch {
                buffer,
                base,
                bytes,
                wanted,
            }))
        };
        let large = window(state.next, self.range.end, BLOCK_BYTES);
        let mut found = self.pinned(&large, memory);
        if found.is_none() {
            found = fetch(large.clone(), self.claim)?;
        }
        if found.is_none() {
            found = fetch(large, Claim::Passing)?;
        }
        if found.is_none() && state.blocks.is_empty() {
            found = fetch(window(state.next, self.range.end, CHUNK_BYTES), Claim::Owed)?;
        }
        if let Some(fetch) = &found {
            state.blocks.push_back(Block::Awaited {
                start: fetch.wanted.start,
            });
            state.next = fetch.wanted.end;
        }
        Ok(found)
    }

    /// A block that goes where readers will see it.
    fn pinned(&self, wanted: &Range<u64>, memory: &Memory) -> Option<Fetch> {
        let base = wanted.start;
        let bytes = usize::try_from(wanted.end.next_multiple_of(ALIGNMENT) - base).ok()?;
        let piece = self.filling.as_ref()?.piece(base, bytes)?;
        Some(Fetch {
            buffer: memory.pinned(piece),
            base,
            bytes,
            wanted: wanted.clone(),
        })
    }

    /// Takes a block of which the source gave so many bytes; `true` when there is something to hash now, and nobody
    /// knows yet.
    pub(super) fn deposit(&self, fetch: Fetch, filled: usize) -> bool {
        let Fetch {
            mut buffer,
            base,
            wanted,
            ..
        } = fetch;
        let end = base.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        let range = wanted.start..wanted.end.min(end).max(wanted.start);
        if buffer.is_pinned() {
            // A mapping shows the rest of a file's last page too, and a source that has grown has bytes there.
            let signed = usize::try_from(range.end - base).unwrap_or(0);
            buffer.bytes_mut().get_mut(signed..).unwrap_or_default().fill(0);
        }
        let mut fetched = Fetched::new(buffer, self.file.id(), base, range);
        if let Some(preload) = &self.preload
            && fetched.range() == wanted
        {
            fetched.put_into(preload);
        }
        let mut state = self.state.lock();
        let was_ready = state.is_ready();
        let place = state
            .blocks
            .iter_mut()
            .find(|block| matches!(block, Block::Awaited { start } if *start == wanted.start));
        if let Some(place) = place {
            *place = Block::Ready { fetched, wanted };
        }
        !was_ready && state.is_ready()
    }

    /// What lies ready to hash, `most` blocks of it at most; `None` while another thread hashes.
    pub(super) fn take(self: &Arc<Self>, most: usize) -> Option<Work> {
        let mut state = self.state.lock();
        let mut passes = state.passes.take()?;
        let mut parts = Vec::new();
        let mut cut = None;
        while cut.is_none()
            && parts.len() < most
            && matches!(state.blocks.front(), Some(Block::Ready { .. }))
            && let Some(Block::Ready { fetched, wanted }) = state.blocks.pop_front()
        {
            if fetched.range().end < wanted.end {
                cut = Some(fetched.range().end);
            }
            passes.hashed_to = wanted.end;
            parts.push(fetched);
        }
        Some(Work {
            flight: Arc::clone(self),
            passes,
            parts,
            cut,
        })
    }

    /// Takes the hashes back after some resources were settled; `true` when there is more to hash already.
    pub(super) fn give_back(&self, passes: Passes) -> bool {
        let mut state = self.state.lock();
        // Never backwards: a flight that failed meanwhile has settled the rest, and others may be at it again.
        state.settled = state.settled.max(passes.next);
        if passes.next >= self.resources.end {
            // Over, maybe before the end of a source that was cut short.
            state.next = self.range.end;
            state.blocks.clear();
        }
        state.passes = Some(passes);
        if state.failed.is_some() {
            drop(state);
            self.end();
            return false;
        }
        state.is_ready()
    }

    /// Ends the flight because the source cannot be read; what is settled stays so.
    pub(super) fn fail(&self, error: ReadError) {
        let mut state = self.state.lock();
        state.failed.get_or_insert(error);
        state.next = self.range.end;
        let blocks = std::mem::take(&mut state.blocks);
        let hashing = state.passes.is_none();
        drop(state);
        drop(blocks);
        if !hashing {
            self.end();
        }
    }

    /// Settles what is left without a verdict.
    fn end(&self) {
        let mut state = self.state.lock();
        let left = state.settled..self.resources.end;
        state.settled = self.resources.end;
        let error = state.failed.clone().unwrap_or(ReadError::Abandoned);
        drop(state);
        if let Some(preload) = &self.preload {
            preload.end(false);
        }
        for index in left {
            for job in self.file.settle(index, ResourceState::Unverified) {
                job.answer(Err(error.clone()));
            }
        }
    }
}

impl State {
    fn is_ready(&self) -> bool {
        self.passes.is_some() && matches!(self.blocks.front(), Some(Block::Ready { .. }))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.end();
    }
}

/// Flights that have something to hash, and the threads that do.
pub(super) struct Board {
    inner: Mutex<Ready>,
    /// Threads that hash at a time, at most: more than cores only take turns.
    limit: usize,
}

#[derive(Default)]
struct Ready {
    flights: VecDeque<Arc<Flight>>,
    hashing: usize,
}

/// Most flights that one thread hashes side by side: the lanes of the widest processors.
const MAX_SIDE_BY_SIDE: usize = 16;

impl Board {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            inner: Mutex::default(),
            limit: limit.max(1),
        }
    }

    /// Puts up a flight that has become ready.
    pub(super) fn offer(&self, flight: Arc<Flight>) {
        self.inner.lock().flights.push_back(flight);
    }

    /// How many flights wait.
    pub(super) fn backlog(&self) -> usize {
        self.inner.lock().flights.len()
    }

    /// Whether another thread may hash and there is something for it.
    pub(super) fn wants_help(&self) -> bool {
        let inner = self.inner.lock();
        inner.hashing < self.limit && !inner.flights.is_empty()
    }

    /// Makes the calling thread one of those that hash, if it is needed.
    pub(super) fn join(&self) -> Option<Member<'_>> {
        let mut inner = self.inner.lock();
        if inner.hashing >= self.limit || inner.flights.is_empty() {
            return None;
        }
        inner.hashing += 1;
        Some(Member(self))
    }
}

/// A thread that hashes.
pub(super) struct Member<'a>(&'a Board);

impl Member<'_> {
    /// The flights to hash next, those that somebody waits for first; none when there is nothing left to do. More than
    /// one only when all other threads are busy: then hashing them side by side is faster.
    pub(super) fn next(&self) -> Vec<Arc<Flight>> {
        let mut inner = self.0.inner.lock();
        let others = self.0.limit.saturating_sub(inner.hashing);
        let share = inner.flights.len().div_ceil(others + 1).min(MAX_SIDE_BY_SIDE);
        let mut taken = Vec::with_capacity(share);
        for _ in 0..share {
            let first = inner.flights.iter().position(|flight| flight.is_urgent());
            taken.extend(inner.flights.remove(first.unwrap_or(0)));
        }
        taken
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.0.inner.lock().hashing -= 1;
    }
}
