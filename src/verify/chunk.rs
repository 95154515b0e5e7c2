//! Chunks: our own re-check granule, its keyed tags, and the bytes that may leave.
//!
//! The first pass over a resource hashes each buffer for the signed digest and tags it with a key that
//! is never shown. When the signed digest matches, the tags are as good as the signature: a later read that
//! yields the same tag yields the same bytes. Only this module can build [`VerifiedBlock`] and
//! [`VerifiedBytes`].

mod tag;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub(super) use tag::ChunkId;
pub use tag::KeyUnavailable;
pub(super) use tag::Tag;
pub(super) use tag::TagKey;
pub(super) use tag::Tags;

use super::memory::Buffer;
use super::memory::window;
use super::preload::Preload;
use crate::digest::Digest;
use crate::digest::Hasher;
use crate::sys::Unsealed;

/// Re-check granule in bytes: chunks begin at multiples of it in their file, and where a resource begins. Bigger:
/// fewer tags, more waste on small reads; the kernel asks for up to this much when it reads ahead by default.
pub const CHUNK_BYTES: u64 = 128 * 1024;

/// Bytes of a file as they came from the source, in a buffer of ours.
pub(super) struct Fetched {
    buffer: Arc<Buffer>,
    file: u32,
    /// Position in the file of the buffer's first byte.
    base: u64,
    /// The bytes that were asked for, and that the source had.
    range: Range<u64>,
    /// Whether the kernel has them already.
    preloaded: bool,
}

impl Fetched {
    pub(super) fn new(buffer: Buffer, file: u32, base: u64, range: Range<u64>) -> Self {
        Self {
            buffer: Arc::new(buffer),
            file,
            base,
            range,
            preloaded: false,
        }
    }

    /// Puts them into the page cache, before they are hashed; the buffer is not written to any more.
    pub(super) fn put_into(&mut self, preload: &Preload) {
        if let Some(bytes) = slice(&self.buffer, self.base, &self.range) {
            self.preloaded = preload.put(self.range.start, bytes);
        }
    }

    pub(super) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The part of it that lies in a range, sharing the buffer.
    pub(super) fn part(&self, range: &Range<u64>) -> Self {
        let start = self.range.start.max(range.start);
        Self {
            buffer: Arc::clone(&self.buffer),
            range: start..self.range.end.min(range.end).max(start),
            ..*self
        }
    }

    fn may_be_kept(&self) -> bool {
        !self.preloaded && (self.buffer.is_budgeted() || self.buffer.is_pinned())
    }

    /// The chunks it has, each with its place.
    fn chunks(&self) -> impl Iterator<Item = (ChunkId, &[u8])> {
        grid(self.range.clone()).filter_map(|range| {
            let id = ChunkId {
                file: self.file,
                offset: range.start,
            };
            Some((id, slice(&self.buffer, self.base, &range)?))
        })
    }

    /// Compares chunk by chunk with the tags of the first pass; a chunk that has none matches nothing.
    ///
    /// # Errors
    /// The first chunk that differs.
    pub(super) fn verify(self, key: &TagKey, tags: &impl Tagged) -> Result<VerifiedBlock, Range<u64>> {
        let mut at = self.range.start;
        for chunk in tags.chunks(self.range.clone()) {
            if chunk.start != at {
                return Err(at..chunk.start);
            }
            at = chunk.end;
            let id = ChunkId {
                file: self.file,
                offset: chunk.start,
            };
            let bytes = slice(&self.buffer, self.base, &chunk);
            let matches = match (bytes, tags.tag(chunk.start)) {
                (Some(bytes), Some(tag)) => key.matches(id, bytes, &tag),
                _ => false,
            };
            if !matches {
                return Err(chunk);
            }
        }
        if at != self.range.end {
            return Err(at..self.range.end);
        }
        Ok(VerifiedBlock(self))
    }
}

/// A file some of whose chunks have tags.
pub(super) trait Tagged {
    /// The chunks of a range, in order.
    fn chunks(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>>;

    /// The tag of the chunk that begins here, if its resource is verified.
    fn tag(&self, offset: u64) -> Option<Tag>;
}

/// Cuts a range of one resource at the positions where chunks begin.
pub(super) fn grid(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let chunk = window(at, range.end, CHUNK_BYTES);
        at = chunk.end;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn slice<'a>(buffer: &'a Buffer, base: u64, range: &Range<u64>) -> Option<&'a [u8]> {
    let at = |position: u64| usize::try_from(position.checked_sub(base)?).ok();
    buffer.bytes().get(at(range.start)?..at(range.end)?)
}

/// Bytes of a file that equal what was signed.
pub(super) struct VerifiedBlock(Fetched);

impl VerifiedBlock {
    /// Its file and first byte.
    pub(super) fn place(&self) -> (u32, u64) {
        (self.0.file, self.0.range.start)
    }

    pub(super) fn range(&self) -> Range<u64> {
        self.0.range()
    }

    /// Whether the memory budget pays for its buffer.
    pub(super) fn is_budgeted(&self) -> bool {
        self.0.buffer.is_budgeted()
    }

    /// Whether it lies in a file in memory.
    pub(super) fn is_pinned(&self) -> bool {
        self.0.buffer.is_pinned()
    }

    /// Whether it lies in this file in memory, in its own place.
    pub(super) fn is_in(&self, file: &Arc<Unsealed>) -> bool {
        self.0.buffer.is_in(file)
    }

    /// The address of its buffer, and how many share that.
    pub(super) fn shares(&self) -> (usize, usize) {
        let buffer = &self.0.buffer;
        (Arc::as_ptr(buffer).addr(), Arc::strong_count(buffer))
    }

    /// What the budget gets back with the last block in its buffer, in bytes.
    pub(super) fn cost(&self) -> u64 {
        self.0.buffer.cost()
    }

    /// Lets the budget pay for its buffer, if it can, so that it may be held.
    pub(super) fn keep(&mut self) {
        if let Some(buffer) = Arc::get_mut(&mut self.0.buffer) {
            buffer.keep();
        }
    }

    fn bytes(&self, range: &Range<u64>) -> Option<&[u8]> {
        let inside = self.0.range.start <= range.start && range.end <= self.0.range.end;
        if inside {
            slice(&self.0.buffer, self.0.base, range)
        } else {
            None
        }
    }

    #[cfg(feature = "planted-faults")]
    pub(super) fn planted(fetched: Fetched) -> Self {
        Self(fetched)
    }
}

/// The first pass over one resource: hashes and tags the same buffers.
pub(super) struct FirstPass {
    hasher: Hasher,
    /// None where nobody will read what is verified here.
    tags: Option<Tags>,
    kept: Vec<Fetched>,
    untagged: bool,
}

impl FirstPass {
    /// With `tagged`, what matches can be read again later.
    pub(super) fn new(key: &TagKey, want: &Digest, tagged: bool) -> Self {
        Self {
            hasher: Hasher::new(want.algorithm()),
            tags: tagged.then(|| key.no_tags()),
            kept: Vec::new(),
            untagged: false,
        }
    }

    /// Takes the next bytes of several resources, hashing them side by side; keeps those whose buffers may be
    /// kept. Each resource must get its bytes in order, without a gap.
    pub(super) fn take(key: &TagKey, mut streams: Vec<(&mut Self, Vec<Fetched>)>) {
        let mut rest: Vec<_> = streams
            .iter_mut()
            .map(|(pass, parts)| (pass, parts.iter().flat_map(Fetched::chunks)))
            .collect();
        loop {
            // A chunk of each, so that it is still in the core's cache when it is tagged.
            let mut round: Vec<_> = rest
                .iter_mut()
                .filter_map(|(pass, chunks)| Some((pass, chunks.next()?)))
                .collect();
            if round.is_empty() {
                break;
            }
            Hasher::update_many(
                round
                    .iter_mut()
                    .map(|(pass, (_, bytes))| (&mut pass.hasher, &**bytes)),
            );
            for (pass, (id, bytes)) in &mut round {
                let tagged = match &mut pass.tags {
                    Some(tags) => key.tag(*id, bytes).is_some_and(|tag| tags.push(&tag)),
                    None => true,
                };
                pass.untagged |= !tagged;
            }
        }
        drop(rest);
        for (pass, parts) in streams {
            if pass.tags.is_some() {
                pass.kept.extend(parts.into_iter().filter(Fetched::may_be_kept));
            }
        }
    }

    /// Ends the pass.
    ///
    /// # Errors
    /// The digest of what was found, when it is not the one wanted.
    pub(super) fn finish(self, want: &Digest) -> Result<(Tags, Vec<VerifiedBlock>), Digest> {
        let found = self.hasher.finish();
        if found != *want || self.untagged {
            return Err(found);
        }
        let kept = self.kept.into_iter().map(VerifiedBlock).collect();
        Ok((self.tags.unwrap_or_default(), kept))
    }
}

/// Bytes that equal what was signed, on their way to a reader: the only thing that may be put into a data
/// reply. There is no constructor outside of this module's checks:
///
/// ```compile_fail
/// let forged = modelfs::verify::VerifiedBytes { bytes: b"anything".to_vec() };
/// ```
///
/// ```compile_fail
/// let forged = modelfs::verify::VerifiedBytes::from(b"anything".to_vec());
/// ```
#[derive(Default)]
pub struct VerifiedBytes(Verified);

#[derive(Default)]
enum Verified {
    #[default]
    Nothing,
    /// Where they were verified.
    InPlace(Arc<VerifiedBlock>, Range<u64>),
    /// From more than one block.
    Joined(Vec<u8>),
}

impl VerifiedBytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Verified::Nothing => &[],
            Verified::InPlace(block, range) => block.bytes(range).unwrap_or_default(),
            Verified::Joined(bytes) => bytes,
        }
    }

    /// Bytes of one block, where they lie; `None` when it does not have them all.
    pub(super) fn in_place(block: Arc<VerifiedBlock>, range: Range<u64>) -> Option<Self> {
        block.bytes(&range)?;
        Some(Self(Verified::InPlace(block, range)))
    }

    /// Appends bytes of a block; `false` when it does not have them all.
    pub(super) fn append(&mut self, block: &VerifiedBlock, range: &Range<u64>) -> bool {
        let Some(bytes) = block.bytes(range) else {
            return false;
        };
        if let Verified::Joined(joined) = &mut self.0 {
            joined.extend_from_slice(bytes);
        } else {
            let mut joined = self.as_slice().to_vec();
            joined.extend_from_slice(bytes);
            self.0 = Verified::Joined(joined);
        }
        true
    }
}

impl fmt::Debug for VerifiedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifiedBytes({} bytes)", self.as_slice().len())
    }
}

#[cfg(test)]
mod tests;
