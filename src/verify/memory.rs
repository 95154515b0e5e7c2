//! Memory for what is read: one budget for all files, buffers that are used again, and the verified bytes that
//! wait in them for their readers.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::chunk::VerifiedBlock;
use crate::sys::HUGE_PAGE_BYTES;
use crate::sys::PAGE_BYTES;
use crate::sys::Pages;
use crate::sys::Piece;
use crate::sys::Unsealed;

/// How a buffer is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// From the budget; what others left there unread goes first.
    Demand,
    /// From what is free of the budget.
    Spare,
    /// Beyond the budget, from the little that reading needs to make progress at all.
    Passing,
    /// Beyond every limit, for a reply or for the one small buffer without which a pass would stand still.
    Owed,
}

/// Bytes of all [`Claim::Passing`] buffers at most: a few large ones, so that reading and hashing overlap even where
/// the budget is spent. Part of what a mount may take beyond its budget.
const PASSING_BYTES: u64 = 20 * 1024 * 1024;

/// Bytes of idle buffers at most where the budget has no room for more of them.
const IDLE_BYTES: u64 = 8 * 1024 * 1024;

/// Bytes of idle buffers at most: as many as a few flights have under way.
const MAX_IDLE_BYTES: u64 = 64 * 1024 * 1024;

/// What holding a block takes beside its buffer, in bytes: its places in the indices, rounded up.
const HOLDING_BYTES: u64 = 256;

/// Sizes in bytes of the buffers that are used again; a larger one is a huge page or more. The odd one is for the longest read
/// (1 MiB) with what is left of the chunks at both its ends, which in a huge page would take nearly twice its bytes.
const SIZES: [usize; 6] = [
    HUGE_PAGE_BYTES / 16,
    HUGE_PAGE_BYTES / 8,
    HUGE_PAGE_BYTES / 4,
    HUGE_PAGE_BYTES / 2,
    HUGE_PAGE_BYTES / 16 * 9,
    HUGE_PAGE_BYTES,
];

/// The memory of one engine.
pub(super) struct Memory(Arc<Shared>);

struct Shared {
    /// The budget in bytes; changes with what the system has.
    limit: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Bytes of buffers that the budget pays for, and of holding blocks.
    spent: u64,
    /// Bytes of [`Claim::Passing`] buffers.
    passing: u64,
    /// Buffers to use again, by the index of their size. Given back to the system they would have to be zeroed anew.
    idle: [Vec<Pages>; SIZES.len()],
    idle_bytes: u64,
    /// By file and first byte.
    held: BTreeMap<(u32, u64), Held>,
    /// By when they came: the oldest goes first.
    ages: BTreeMap<u64, (u32, u64)>,
    next_age: u64,
}

struct Held {
    block: Arc<VerifiedBlock>,
    age: u64,
    /// How many of its bytes went to readers.
    served: u64,
}

impl Memory {
    pub(super) fn new(limit: u64) -> Self {
        Self(Arc::new(Shared {
            limit: AtomicU64::new(limit),
            inner: Mutex::default(),
        }))
    }

    /// A buffer of at least so many bytes, of unspecified content; `None` when there is no room for it now.
    ///
    /// # Errors
    /// When the system has no memory.
    pub(super) fn buffer(&self, bytes: usize, claim: Claim) -> io::Result<Option<Buffer>> {
        let class = SIZES
            .iter()
            .position(|&size| bytes <= size && 2 * bytes > SIZES[0]);
        let size = match class.and_then(|class| SIZES.get(class)) {
            Some(&size) => size,
            None => bytes.max(1).next_multiple_of(PAGE_BYTES),
        };
        let cost = u64::try_from(size).unwrap_or(u64::MAX);
        let mut dropped = Vec::new();
        let mut inner = self.0.inner.lock();
        let granted = match claim {
            Claim::Demand => inner.make_room(cost, self.limit(), &mut dropped),
            Claim::Spare => inner.spent.saturating_add(cost) <= self.limit(),
            Claim::Passing => inner.passing.saturating_add(cost) <= PASSING_BYTES,
            Claim::Owed => true,
        };
        let mut idle = None;
        if granted {
            match claim {
                Claim::Demand | Claim::Spare => inner.spent += cost,
                Claim::Passing => inner.passing += cost,
                Claim::Owed => {}
            }
            idle = inner.take_idle(class);
        }
        let unused = inner.trim(self.limit());
        drop(inner);
        // Their buffers come back through the lock.
        let has_dropped = !dropped.is_empty();
        drop((dropped, unused));
        if !granted {
            return Ok(None);
        }
        if idle.is_none() && has_dropped {
            idle = self.0.inner.lock().take_idle(class);
        }
        let mut buffer = Buffer {
            room: None,
            class,
            cost,
            claim,
            memory: Arc::clone(&self.0),
        };
        buffer.room = Some(match idle {
            Some(pages) => Room::Own(pages),
            None => Room::Own(Pages::new(size)?),
        });
        Ok(Some(buffer))
    }

    /// A buffer in a file in memory, which somebody else pays for.
    pub(super) fn pinned(&self, piece: Piece) -> Buffer {
        Buffer {
            room: Some(Room::Pinned(piece)),
            class: None,
            cost: 0,
            claim: Claim::Owed,
            memory: Arc::clone(&self.0),
        }
    }

    /// Takes so many bytes of the budget for something that stays; `None` when it has no room for them.
    pub(super) fn charge(&self, bytes: u64) -> Option<Charge> {
        let mut dropped = Vec::new();
        let mut inner = self.0.inner.lock();
        let granted = inner.make_room(bytes, self.limit(), &mut dropped);
        if granted {
            inner.spent += bytes;
        }
        drop(inner);
        drop(dropped);
        granted.then(|| Charge {
            bytes,
            memory: Arc::clone(&self.0),
        })
    }

    /// Keeps verified bytes for the reads that follow, if the budget has or pays for their buffer.
    pub(super) fn hold(&self, block: Arc<VerifiedBlock>) {
        let mut dropped = Vec::new();
        let key = block.place();
        let mut inner = self.0.inner.lock();
        let age = inner.next_age;
        if !block.is_budgeted() || !inner.make_room(HOLDING_BYTES, self.limit(), &mut dropped) {
            return;
        }
        inner.next_age += 1;
        inner.spent += HOLDING_BYTES;
        inner.ages.insert(age, key);
        let held = Held {
            block,
            age,
            served: 0,
        };
        if let Some(old) = inner.held.insert(key, held) {
            inner.ages.remove(&old.age);
            inner.spent -= HOLDING_BYTES;
            dropped.push(old.block);
        }
        drop(inner);
    }

    /// The held block that has the byte at this position.
    pub(super) fn find(&self, file: u32, position: u64) -> Option<Arc<VerifiedBlock>> {
        let inner = self.0.inner.lock();
        let (_, held) = inner.held.range(..=(file, position)).next_back()?;
        let has = held.block.place().0 == file && held.block.range().contains(&position);
        has.then(|| Arc::clone(&held.block))
    }

    /// Says that a reader got bytes of a held block. When readers got as many as it has, it goes: the kernel keeps what
    /// a reader got.
    pub(super) fn served(&self, block: &Arc<VerifiedBlock>, bytes: u64) {
        let mut inner = self.0.inner.lock();
        let key = block.place();
        let Some(held) = inner
            .held
            .get_mut(&key)
            .filter(|held| Arc::ptr_eq(&held.block, block))
        else {
            return;
        };
        held.served += bytes;
        let range = block.range();
        if held.served >= range.end - range.start {
            let age = held.age;
            let gone = inner.held.remove(&key);
            inner.ages.remove(&age);
            inner.spent -= HOLDING_BYTES;
            drop(inner);
            drop(gone);
        }
    }

    /// Bytes that the budget pays for now.
    pub(super) fn spent(&self) -> u64 {
        self.0.inner.lock().spent
    }

    /// Bytes of the budget that nothing uses.
    pub(super) fn free(&self) -> u64 {
        self.limit().saturating_sub(self.spent())
    }

    /// The budget in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// Changes the budget; what is held beyond it goes.
    pub(super) fn set_limit(&self, limit: u64) {
        let before = self.0.limit.swap(limit, Ordering::Relaxed);
        if limit >= before {
            return;
        }
        let mut dropped = Vec::new();
        let mut inner = self.0.inner.lock();
        let _ = inner.make_room(0, limit, &mut dropped);
        let idle = std::mem::take(&mut inner.idle);
        inner.idle_bytes = 0;
        drop(inner);
        drop((dropped, idle));
    }
}

impl Inner {
    fn take_idle(&mut self, class: Option<usize>) -> Option<Pages> {
        let pages = self.idle.get_mut(class?)?.pop()?;
        self.idle_bytes -= u64::try_from(pages.len()).unwrap_or(0);
        Some(pages)
    }

    /// Whether so many more bytes may lie idle.
    fn may_idle(&self, bytes: u64, limit: u64) -> bool {
        let idle = self.idle_bytes.saturating_add(bytes);
        idle <= IDLE_BYTES || (idle <= MAX_IDLE_BYTES && self.spent.saturating_add(idle) <= limit)
    }

    /// Takes out idle buffers that are too many by now, for the caller to drop.
    fn trim(&mut self, limit: u64) -> Vec<Pages> {
        let mut unused = Vec::new();
        while !self.may_idle(0, limit)
            && let Some(pages) = self.idle.iter_mut().find_map(Vec::pop)
        {
            self.idle_bytes -= u64::try_from(pages.len()).unwrap_or(0);
            unused.push(pages);
        }
        unused
    }

    /// Takes out idle buffers of other sizes, for the caller to drop, until one more of this size may lie idle: what is wanted
    /// now is wanted again, and what a first pass has left is not.
    fn make_idle_room(&mut self, class: usize, bytes: u64, limit: u64) -> Vec<Pages> {
        let mut unused = Vec::new();
        while !self.may_idle(bytes, limit) {
            let others = self
                .idle
                .iter_mut()
                .enumerate()
                .filter(|(other, _)| *other != class);
            let Some(pages) = others.rev().find_map(|(_, idle)| idle.pop()) else {
                break;
            };
            self.idle_bytes -= u64::try_from(pages.len()).unwrap_or(0);
            unused.push(pages);
        }
        unused
    }

    /// Lets the oldest blocks go until so many bytes are free; `false` when what is in use leaves no such room.
    fn make_room(&mut self, wanted: u64, limit: u64, dropped: &mut Vec<Arc<VerifiedBlock>>) -> bool {
        let mut freed = 0;
        // How many of a buffer's blocks leave, by its address.
        let mut leaving: HashMap<usize, usize> = HashMap::new();
        while self.spent.saturating_add(wanted) > limit.saturating_add(freed) {
            let Some((_, key)) = self.ages.pop_first() else {
                return false;
            };
            if let Some(old) = self.held.remove(&key) {
                self.spent -= HOLDING_BYTES;
                // A buffer is freed with the last block in it, and then by its own drop, after this lock.
                if Arc::strong_count(&old.block) == 1 {
                    let (buffer, blocks) = old.block.shares();
                    let left = leaving.entry(buffer).or_default();
                    *left += 1;
                    if *left == blocks {
                        freed += old.block.cost();
                    }
                }
                dropped.push(old.block);
            }
        }
        true
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("limit", &self.limit())
            .finish_non_exhaustive()
    }
}

/// A part of the budget that is taken until this is dropped.
pub(super) struct Charge {
    bytes: u64,
    memory: Arc<Shared>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.inner.lock().spent -= self.bytes;
    }
}

enum Room {
    Own(Pages),
    Pinned(Piece),
}

/// A buffer of ours that the source is read into.
pub(super) struct Buffer {
    room: Option<Room>,
    class: Option<usize>,
    cost: u64,
    claim: Claim,
    memory: Arc<Shared>,
}

impl Buffer {
    /// Whether the budget pays for it, so that it may be kept.
    pub(super) fn is_budgeted(&self) -> bool {
        matches!(self.claim, Claim::Demand | Claim::Spare)
    }

    /// What the budget gets back when it is dropped, in bytes.
    pub(super) fn cost(&self) -> u64 {
        if self.is_budgeted() { self.cost } else { 0 }
    }

    /// Whether it lies in a file in memory.
    pub(super) fn is_pinned(&self) -> bool {
        matches!(self.room, Some(Room::Pinned(_)))
    }

    /// Whether it lies in this file in memory.
    pub(super) fn is_in(&self, file: &Arc<Unsealed>) -> bool {
        matches!(&self.room, Some(Room::Pinned(piece)) if piece.is_of(file))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.room {
            Some(Room::Own(pages)) => pages,
            Some(Room::Pinned(piece)) => piece,
            None => &[],
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.room {
            Some(Room::Own(pages)) => pages,
            Some(Room::Pinned(piece)) => piece,
            None => &mut [],
        }
    }

    /// Lets the budget pay for it from now on, if it can.
    pub(super) fn keep(&mut self) {
        if self.is_budgeted() || self.is_pinned() {
            return;
        }
        let mut dropped = Vec::new();
        let mut inner = self.memory.inner.lock();
        if inner.make_room(self.cost, self.memory.limit.load(Ordering::Relaxed), &mut dropped) {
            inner.spent += self.cost;
            if self.claim == Claim::Passing {
                inner.passing -= self.cost;
            }
            self.claim = Claim::Demand;
        }
        drop(inner);
        drop(dropped);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut pages = match self.room.take() {
            Some(Room::Own(pages)) => Some(pages),
            Some(Room::Pinned(_)) | None => None,
        };
        let mut inner = self.memory.inner.lock();
        match self.claim {
            Claim::Demand | Claim::Spare => inner.spent -= self.cost,
            Claim::Passing => inner.passing -= self.cost,
            Claim::Owed => {}
        }
        let bytes = pages
            .as_ref()
            .map_or(0, |pages| u64::try_from(pages.len()).unwrap_or(0));
        let limit = self.memory.limit.load(Ordering::Relaxed);
        let mut unused = Vec::new();
        if let Some(class) = self.class
            && pages.is_some()
        {
            unused = inner.make_idle_room(class, bytes, limit);
            if inner.may_idle(bytes, limit)
                && let Some(idle) = inner.idle.get_mut(class)
            {
                idle.extend(pages.take());
                inner.idle_bytes += bytes;
            }
        }
        // Giving memory back to the system takes its time.
        drop(inner);
        drop((pages, unused));
    }
}

/// The part of a position's file that one buffer takes at most: `size` bytes, a power of two, from a multiple of it.
pub(super) fn window(position: u64, end: u64, size: u64) -> Range<u64> {
    let next = (position / size + 1).saturating_mul(size);
    position..end.min(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_a_size_that_is_wanted_now_lie_idle_in_place_of_others() {
        let memory = Memory::new(0);
        let take = |bytes| memory.buffer(bytes, Claim::Owed).unwrap().unwrap();
        let idle = |class: usize| memory.0.inner.lock().idle.get(class).map(Vec::len);
        let many: Vec<_> = (0..8).map(|_| take(HUGE_PAGE_BYTES)).collect();
        drop(many);
        assert_eq!(
            idle(5),
            Some(4),
            "8 MiB may lie idle beside a budget that is spent"
        );
        drop(take(HUGE_PAGE_BYTES / 2));
        assert_eq!((idle(3), idle(5)), (Some(1), Some(3)));
        drop(take(HUGE_PAGE_BYTES / 2));
        assert_eq!((idle(3), idle(5)), (Some(1), Some(3)), "it was used again");
        assert_eq!(memory.0.inner.lock().idle_bytes, 7 * 1024 * 1024);
    }
}
