//! Verified chunks held in memory, within a budget, for the reads that follow a verification.

use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::chunk::{CHUNK_BYTES, ChunkId, VerifiedChunk};

/// The chunks that are held, least recently used first to go.
pub(super) struct Held {
    budget: u64,
    inner: Mutex<Inner>,
}

struct Inner {
    chunks: LruCache<ChunkId, Arc<VerifiedChunk>>,
    bytes: u64,
}

impl Held {
    /// Holds up to `budget` bytes; 0 holds nothing.
    pub(super) fn new(budget: u64) -> Self {
        Self {
            budget,
            inner: Mutex::new(Inner {
                chunks: LruCache::unbounded(),
                bytes: 0,
            }),
        }
    }

    /// How many chunks one verification may keep back until its digest is known.
    pub(super) fn chunks_per_pass(&self) -> usize {
        // A quarter each: several resources verify at a time, and none may drive out all others.
        usize::try_from(self.budget / CHUNK_BYTES / 4).unwrap_or(usize::MAX)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.inner.lock().bytes
    }

    pub(super) fn insert(&self, chunk: VerifiedChunk) {
        let size = bytes_of(&chunk);
        if size > self.budget {
            return;
        }
        let mut gone = Vec::new();
        let mut inner = self.inner.lock();
        let id = chunk.id();
        if let Some(old) = inner.chunks.put(id, Arc::new(chunk)) {
            inner.bytes -= bytes_of(&old);
        }
        inner.bytes += size;
        while inner.bytes > self.budget {
            let Some((_, old)) = inner.chunks.pop_lru() else {
                break;
            };
            inner.bytes -= bytes_of(&old);
            gone.push(old);
        }
        // Freed after the lock: returning memory to the system may take a while.
        drop(inner);
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
}

fn bytes_of(chunk: &VerifiedChunk) -> u64 {
    u64::try_from(chunk.len()).unwrap_or(u64::MAX)
}
