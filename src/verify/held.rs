//! Verified chunks held in memory, within a budget, for the reads that follow a verification.

use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::chunk::CHUNK_BYTES;
use super::chunk::ChunkId;
use super::chunk::HOLDING_BYTES;
use super::chunk::VerifiedChunk;

/// The chunks that are held, least recently used first to go.
pub(super) struct Held {
    budget: u64,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    chunks: LruCache<ChunkId, Arc<VerifiedChunk>>,
    bytes: u64,
    /// Room for chunks that first passes keep until their digests are known.
    reserved: u64,
    /// Buffers for the next chunks. Given back to the allocator they would lie scattered over its arenas, one
    /// for each few threads, and stay with the process.
    spare: Vec<Vec<u8>>,
}

impl Inner {
    /// Lets chunks go until so many bytes are free; `false` when what is reserved leaves no such room.
    fn make_room(&mut self, wanted: u64, budget: u64) -> bool {
        if self.reserved.saturating_add(wanted) > budget {
            return false;
        }
        while self.bytes + self.reserved + wanted > budget {
            let Some((_, old)) = self.chunks.pop_lru() else {
                return false;
            };
            self.bytes -= bytes_of(&old);
            self.recycle(old);
        }
        true
    }

    /// Keeps the buffer of a chunk that nobody reads any more.
    fn recycle(&mut self, chunk: Arc<VerifiedChunk>) {
        if let Some(chunk) = Arc::into_inner(chunk)
            && self.spare.len() < MAX_SPARE
        {
            let buffer = chunk.into_buffer();
            if u64::try_from(buffer.capacity()).is_ok_and(|bytes| bytes >= CHUNK_BYTES) {
                self.spare.push(buffer);
            }
        }
    }
}

/// Most buffers that wait for their next chunk: one for each thread that may be at work.
const MAX_SPARE: usize = 64;

/// What a chunk takes at most.
const RESERVED_BYTES: u64 = CHUNK_BYTES + HOLDING_BYTES;

/// Room for one chunk in the budget, free again when this is dropped.
pub(super) struct Reservation(Arc<Mutex<Inner>>);

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.lock().reserved -= RESERVED_BYTES;
    }
}

impl Held {
    /// Holds up to `budget` bytes; 0 holds nothing.
    pub(super) fn new(budget: u64) -> Self {
        let inner = Inner {
            chunks: LruCache::unbounded(),
            bytes: 0,
            reserved: 0,
            spare: Vec::new(),
        };
        Self {
            budget,
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Room for a chunk that is not verified yet, if the budget has any: all passes share it.
    pub(super) fn reserve(&self) -> Option<Reservation> {
        let mut inner = self.inner.lock();
        if !inner.make_room(RESERVED_BYTES, self.budget) {
            return None;
        }
        inner.reserved += RESERVED_BYTES;
        drop(inner);
        Some(Reservation(Arc::clone(&self.inner)))
    }

    /// A buffer that has room for a chunk.
    pub(super) fn buffer(&self) -> Vec<u8> {
        let spare = self.inner.lock().spare.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(usize::try_from(CHUNK_BYTES).unwrap_or(0)))
    }

    pub(super) fn bytes(&self) -> u64 {
        let inner = self.inner.lock();
        inner.bytes + inner.reserved
    }

    pub(super) fn insert(&self, chunk: VerifiedChunk) {
        let size = bytes_of(&chunk);
        let mut inner = self.inner.lock();
        if let Some(old) = inner.chunks.pop(&chunk.id()) {
            inner.bytes -= bytes_of(&old);
            inner.recycle(old);
        }
        if inner.make_room(size, self.budget) {
            inner.bytes += size;
            inner.chunks.put(chunk.id(), Arc::new(chunk));
        }
    }

    pub(super) fn get(&self, id: ChunkId) -> Option<Arc<VerifiedChunk>> {
        self.inner.lock().chunks.get(&id).cloned()
    }

    /// Takes a chunk out: its reader gets all of it, and the kernel keeps what a reader got.
    pub(super) fn take(&self, id: ChunkId) -> Option<Arc<VerifiedChunk>> {
        let mut inner = self.inner.lock();
        let chunk = inner.chunks.pop(&id)?;
        inner.bytes -= bytes_of(&chunk);
        Some(chunk)
    }

    /// Ends the use of a chunk.
    pub(super) fn give_back(&self, chunk: Arc<VerifiedChunk>) {
        self.inner.lock().recycle(chunk);
    }
}

fn bytes_of(chunk: &VerifiedChunk) -> u64 {
    chunk.footprint()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_passes_share_one_budget() {
        let held = Held::new(3 * RESERVED_BYTES + 1);
        let mut rooms: Vec<_> = (0..5).map(|_| held.reserve()).collect();
        assert_eq!(
            rooms.iter().map(Option::is_some).collect::<Vec<_>>(),
            [true, true, true, false, false]
        );
        assert_eq!(held.bytes(), 3 * RESERVED_BYTES);
        rooms.remove(0);
        assert!(held.reserve().is_some());
        drop(rooms);
        assert_eq!(held.bytes(), 0);
    }
}
