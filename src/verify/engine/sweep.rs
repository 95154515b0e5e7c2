//! Sweeps: resources that lie in the page cache already, hashed where nothing is kept of them, as `modelfs verify` does.
//!
//! There is nothing to wait for then, so one thread does all for some resources: it copies a piece of each into a buffer
//! that stays in its core's cache, hashes the pieces side by side, and goes on with the next ones. Fetching them by other
//! threads, as a flight otherwise is, would send every byte from one core's cache to another's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use super::reads::Reader;
use crate::digest::Digest;
use crate::digest::Hasher;
use crate::source::SourceError;
use crate::sys::PAGE_BYTES;
use crate::verify::chunk::Tags;
use crate::verify::flight::Flight;
use crate::verify::flight::Passes;
use crate::verify::memory::Claim;
use crate::verify::workers::Slot;

/// Resources that one thread hashes side by side: the lanes of the widest processors.
const LANES: usize = 16;

/// Bytes of each that are copied at a time: those of all lanes fit a core's own cache.
const PIECE_BYTES: usize = 64 * 1024;

/// Pieces after which a thread looks for more resources to take in.
const ROUNDS: usize = 16;

/// Direct reads begin and end at multiples of this, and a piece may turn out to have left the page cache.
const ALIGNMENT: u64 = 4096;

/// The sweeps of an engine.
#[derive(Default)]
pub(super) struct Sweeps {
    waiting: VecDeque<(Arc<Flight>, Passes)>,
    /// Flights that are swept.
    swept: usize,
    /// Threads that sweep.
    sweeping: usize,
}

/// A flight that is swept.
struct Swept {
    flight: Arc<Flight>,
    passes: Passes,
    streams: Vec<Stream>,
    failed: Option<SourceError>,
}

/// A resource that is swept.
struct Stream {
    index: usize,
    signed: Digest,
    hasher: Hasher,
    at: u64,
    end: u64,
    /// Whether the source has no more, though the resource has.
    cut: bool,
}

/// A thread that sweeps, for the case that it ends before it has found nothing left to do: what waits then ends without
/// a verdict, unless other threads sweep.
struct Sweeper<'a>(&'a Engine);

impl Drop for Sweeper<'_> {
    fn drop(&mut self) {
        let mut sweeps = self.0.sweeps.lock();
        sweeps.sweeping -= 1;
        let left = match sweeps.sweeping {
            0 => std::mem::take(&mut sweeps.waiting),
            _ => VecDeque::new(),
        };
        drop(sweeps);
        drop(left);
    }
}

impl Engine {
    /// Whether a flight is for a sweep; then it is swept by this thread or another when this returns, or will be.
    pub(super) fn sweeps(&self, flight: &Arc<Flight>, slot: &Slot) -> bool {
        let file = &flight.file;
        let starts = |index| file.range(index).map_or(1, |range| range.start);
        let aligned = || {
            flight
                .resources
                .clone()
                .map(starts)
                .all(|start| start % ALIGNMENT == 0)
        };
        let bytes = flight.range();
        // Of a single large file another core can at least do the copying.
        let alone =
            || flight.resources.len() == 1 && self.order.get().is_some_and(|order| order.files.len() == 1);
        if self.options.keep_tags || !aligned() || alone() {
            return false;
        }
        // Open until the sweep is over.
        if slot.in_source(&self.workers, || file.acquire()).is_err() {
            return false;
        }
        let at_hand = self
            .reader(file, slot)
            .is_ok_and(|reader| reader.is_cached(&bytes));
        let passes = if at_hand { flight.take_whole() } else { None };
        let Some(passes) = passes else {
            self.release(file);
            return false;
        };
        let mut sweeps = self.sweeps.lock();
        sweeps.waiting.push_back((Arc::clone(flight), passes));
        if sweeps.sweeping < self.options.cores {
            sweeps.sweeping += 1;
            drop(sweeps);
            self.sweep(Sweeper(self), slot);
        }
        true
    }

    fn sweep(&self, sweeper: Sweeper<'_>, slot: &Slot) {
        let Ok(Some(mut buffer)) = self.memory.buffer(LANES * PIECE_BYTES, Claim::Owed) else {
            return;
        };
        let mut swept: Vec<Swept> = Vec::new();
        loop {
            let mut sweeps = self.sweeps.lock();
            // No more than a fair share of all, so that no core runs dry.
            let share = (sweeps.swept + sweeps.waiting.len()).div_ceil(self.options.cores.max(1));
            while swept.len() < share
                && swept.iter().map(Swept::lanes).sum::<usize>() < LANES
                && let Some((flight, passes)) = sweeps.waiting.pop_front()
            {
                sweeps.swept += 1;
                swept.push(Swept {
                    flight,
                    passes,
                    streams: Vec::new(),
                    failed: None,
                });
            }
            if swept.is_empty() {
                // Under the same lock: what is put up from now on finds this thread gone.
                sweeps.sweeping -= 1;
                std::mem::forget(sweeper);
                return;
            }
            drop(sweeps);
            self.sweep_on(&mut swept, buffer.bytes_mut(), slot);
            for mut over in swept.extract_if(.., |swept| swept.is_over()) {
                self.sweeps.lock().swept -= 1;
                if let Some(error) = over.failed {
                    over.flight.fail(self.source_error(error));
                    // All that have no verdict yet end without one.
                    over.passes.next = over.flight.resources.start;
                }
                over.flight.give_back(over.passes);
                self.release(&over.flight.file);
            }
        }
    }

    fn sweep_on(&self, swept: &mut [Swept], buffer: &mut [u8], slot: &Slot) {
        let flights: Vec<_> = swept.iter().map(|swept| Arc::clone(&swept.flight)).collect();
        let mut readers = Vec::with_capacity(flights.len());
        for (one, flight) in swept.iter_mut().zip(&flights) {
            match self.reader(&flight.file, slot) {
                Ok(reader) => readers.push(Some(reader)),
                Err(error) => {
                    one.failed = Some(error);
                    readers.push(None);
                }
            }
        }
        for _ in 0..ROUNDS {
            let mut free = LANES.saturating_sub(swept.iter().map(|swept| swept.streams.len()).sum());
            for one in swept.iter_mut() {
                free -= one.begin(free);
            }
            let mut pieces = buffer.chunks_mut(PIECE_BYTES);
            let mut round: Vec<(&mut Hasher, &[u8])> = Vec::with_capacity(LANES);
            for (one, reader) in swept.iter_mut().zip(&mut readers) {
                let Some(reader) = reader.as_mut().filter(|_| one.failed.is_none()) else {
                    continue;
                };
                for (stream, piece) in one.streams.iter_mut().zip(&mut pieces) {
                    slot.works_for(&one.flight.file, stream.index);
                    match stream.fill(reader, piece) {
                        Ok(bytes) => round.push((&mut stream.hasher, bytes)),
                        Err(error) => {
                            one.failed = Some(error);
                            break;
                        }
                    }
                }
            }
            if round.is_empty() {
                break;
            }
            let bytes: usize = round.iter().map(|(_, bytes)| bytes.len()).sum();
            Hasher::update_many(round);
            let bytes = u64::try_from(bytes).unwrap_or(0);
            self.totals.hashed_bytes.fetch_add(bytes, Ordering::Relaxed);
            for one in swept.iter_mut() {
                for stream in one
                    .streams
                    .extract_if(.., |stream| stream.cut || stream.at >= stream.end)
                {
                    let found = stream.hasher.finish();
                    let outcome = match stream.cut {
                        true => Err(None),
                        false if found == stream.signed => Ok((Tags::default(), Vec::new())),
                        false => Err(Some(found)),
                    };
                    self.settle(&one.flight, stream.index, outcome);
                }
            }
        }
    }
}

impl Swept {
    /// How many resources of it could be hashed side by side now.
    fn lanes(&self) -> usize {
        self.streams.len() + (self.flight.resources.end - self.passes.next)
    }

    fn is_over(&self) -> bool {
        self.failed.is_some() || self.lanes() == 0
    }

    /// Begins so many of its resources, if it has them; how many it began.
    fn begin(&mut self, most: usize) -> usize {
        let before = self.streams.len();
        let file = &self.flight.file;
        while self.streams.len() - before < most
            && self.failed.is_none()
            && self.passes.next < self.flight.resources.end
        {
            let index = self.passes.next;
            self.passes.next += 1;
            if let (Some(range), Some(signed)) = (file.range(index), file.digest(index)) {
                self.streams.push(Stream {
                    index,
                    signed,
                    hasher: Hasher::new(signed.algorithm()),
                    at: range.start,
                    end: range.end,
                    cut: false,
                });
            }
        }
        self.streams.len() - before
    }
}

impl Stream {
    /// Copies its next bytes.
    fn fill<'a>(&mut self, reader: &mut Reader<'_>, piece: &'a mut [u8]) -> Result<&'a [u8], SourceError> {
        let wanted = usize::try_from(self.end - self.at)
            .unwrap_or(usize::MAX)
            .min(piece.len());
        let room = piece
            .get_mut(..wanted.next_multiple_of(PAGE_BYTES))
            .unwrap_or_default();
        let filled = reader.read_pages(room, self.at)?;
        self.cut = filled < wanted;
        self.at += u64::try_from(wanted).unwrap_or(0);
        Ok(piece.get(..wanted.min(filled)).unwrap_or_default())
    }
}
