//! Chunks: our own re-check granule, its keyed tags, and the bytes that may leave.
//!
//! The first pass over a resource hashes each buffer for the signed digest and tags it with a key that
//! never leaves the process. When the signed digest matches, the tags are as good as the signature: a
//! later read that yields the same tag yields the same bytes. Only this module can build
//! [`VerifiedChunk`] and [`VerifiedBytes`].

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead::AES_256_GCM;
use aws_lc_rs::aead::Aad;
use aws_lc_rs::aead::LessSafeKey;
use aws_lc_rs::aead::NONCE_LEN;
use aws_lc_rs::aead::Nonce;
use aws_lc_rs::aead::UnboundKey;
use aws_lc_rs::constant_time;

use super::held::Reservation;
use crate::digest::Digest;
use crate::digest::Hasher;

/// Re-check granule in bytes. Bigger: fewer tags, more waste on small reads; the kernel asks for up to this
/// much when it reads ahead by default. In memory only, so free to change.
pub const CHUNK_BYTES: u64 = 128 * 1024;

/// Length of a tag in bytes: GMAC's full length. A forger guesses one with probability (blocks + 1) / 2^128
/// a try (NIST SP 800-38D; a chunk has 8,192 blocks).
const TAG_BYTES: usize = 16;

/// The tag of one chunk.
#[derive(Clone, Copy)]
pub(super) struct Tag([u8; TAG_BYTES]);

/// The tags of one resource, trusted because the signed digest matched the same bytes.
pub(super) struct Tags(Box<[Tag]>);

impl Tags {
    pub(super) fn get(&self, chunk: usize) -> Option<Tag> {
        self.0.get(chunk).copied()
    }
}

/// What holding a chunk takes beside its buffer, in bytes: its place in the list and in the index, rounded up.
pub(super) const HOLDING_BYTES: u64 = 256;

/// Where a chunk lies: no two chunks of a mount share one, so none share a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ChunkId {
    pub(super) file: u32,
    /// Offset of the chunk's first byte in the file.
    pub(super) offset: u64,
}

/// The key of all tags: random, never stored, never shown.
pub(super) struct TagKey(LessSafeKey);

impl TagKey {
    pub(super) fn generate() -> Result<Self, KeyUnavailable> {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| KeyUnavailable)?;
        Ok(Self(LessSafeKey::new(
            UnboundKey::new(&AES_256_GCM, &key).map_err(|_| KeyUnavailable)?,
        )))
    }

    /// GMAC: AES-GCM over no plaintext, the chunk being the additional data. The same nonce serves the same
    /// chunk again; that is sound because tags are only ever compared, never revealed.
    fn tag(&self, id: ChunkId, bytes: &[u8]) -> Option<Tag> {
        let mut nonce = [0; NONCE_LEN];
        let (file, offset) = nonce.split_at_mut(size_of::<u32>());
        file.copy_from_slice(&id.file.to_le_bytes());
        offset.copy_from_slice(&id.offset.to_le_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(bytes), &mut [])
            .ok()?;
        Some(Tag(tag.as_ref().try_into().ok()?))
    }

    /// Whether these bytes are the ones that were tagged. A tag that cannot be computed matches nothing.
    fn matches(&self, id: ChunkId, bytes: &[u8], want: Tag) -> bool {
        self.tag(id, bytes)
            .is_some_and(|tag| constant_time::verify_slices_are_equal(&tag.0, &want.0).is_ok())
    }
}

/// The system gave no random bytes for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUnavailable;

impl fmt::Display for KeyUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the system gave no random bytes for the chunk tags' key")
    }
}

impl std::error::Error for KeyUnavailable {}

/// Bytes of a chunk as they came from the source, in a buffer of ours.
pub(super) struct UntrustedChunk {
    id: ChunkId,
    bytes: Vec<u8>,
}

impl UntrustedChunk {
    pub(super) fn new(id: ChunkId, bytes: Vec<u8>) -> Self {
        Self { id, bytes }
    }

    /// Compares with the tag of the first pass.
    pub(super) fn verify(self, key: &TagKey, tag: Tag) -> Option<VerifiedChunk> {
        key.matches(self.id, &self.bytes, tag)
            .then_some(VerifiedChunk(self))
    }

    /// The buffer, to be filled anew.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

/// Bytes of a chunk that equal what was signed.
pub(super) struct VerifiedChunk(UntrustedChunk);

impl VerifiedChunk {
    pub(super) fn id(&self) -> ChunkId {
        self.0.id
    }

    /// What holding it takes, in bytes.
    pub(super) fn footprint(&self) -> u64 {
        u64::try_from(self.0.bytes.capacity())
            .unwrap_or(u64::MAX)
            .saturating_add(HOLDING_BYTES)
    }

    /// The buffer, to be filled anew.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.0.into_buffer()
    }

    #[cfg(feature = "planted-faults")]
    pub(super) fn planted(id: ChunkId, bytes: Vec<u8>) -> Self {
        Self(UntrustedChunk { id, bytes })
    }
}

/// The first pass over one resource: hashes and tags the same buffers.
pub(super) struct FirstPass<'a> {
    key: &'a TagKey,
    hasher: Hasher,
    tags: Vec<Tag>,
    kept: Vec<(UntrustedChunk, Reservation)>,
    untagged: bool,
}

impl<'a> FirstPass<'a> {
    pub(super) fn new(key: &'a TagKey, want: &Digest) -> Self {
        Self {
            key,
            hasher: Hasher::new(want.algorithm()),
            tags: Vec::new(),
            kept: Vec::new(),
            untagged: false,
        }
    }

    /// Takes the resource's next chunk; gives its buffer back unless there is room to keep it for the reads
    /// that follow.
    pub(super) fn take(&mut self, mut chunk: UntrustedChunk, room: Option<Reservation>) -> Option<Vec<u8>> {
        self.hasher.update(&chunk.bytes);
        match self.key.tag(chunk.id, &chunk.bytes) {
            Some(tag) => self.tags.push(tag),
            None => self.untagged = true,
        }
        match room {
            Some(room) => {
                // A file of a few bytes must not hold a whole chunk's buffer.
                chunk.bytes.shrink_to_fit();
                self.kept.push((chunk, room));
                None
            }
            None => Some(chunk.into_buffer()),
        }
    }

    /// Ends the pass.
    ///
    /// # Errors
    /// The digest of what was found, when it is not the one wanted.
    pub(super) fn finish(self, want: &Digest) -> Result<(Tags, Vec<(VerifiedChunk, Reservation)>), Digest> {
        let found = self.hasher.finish();
        if found != *want || self.untagged {
            return Err(found);
        }
        let verified = |(chunk, room)| (VerifiedChunk(chunk), room);
        Ok((
            Tags(self.tags.into()),
            self.kept.into_iter().map(verified).collect(),
        ))
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
#[derive(Debug, Default)]
pub struct VerifiedBytes {
    bytes: Vec<u8>,
}

impl VerifiedBytes {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends a range, counted from the chunk's first byte; `false` when the chunk does not have it.
    pub(super) fn append(&mut self, chunk: &VerifiedChunk, range: Range<usize>) -> bool {
        match chunk.0.bytes.get(range) {
            Some(bytes) => {
                self.bytes.extend_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    /// Appends a whole chunk that `read` fills in, checked where it lies: what does not match is cut off
    /// again.
    pub(super) fn append_read<E>(
        &mut self,
        key: &TagKey,
        id: ChunkId,
        tag: Tag,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<bool, E> {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        let verdict = match self.bytes.get_mut(start..) {
            Some(room) => read(room).map(|filled| filled == len && key.matches(id, room, tag)),
            None => Ok(false),
        };
        if !matches!(verdict, Ok(true)) {
            self.bytes.truncate(start);
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;
    use crate::digest::hash;
    use crate::verify::held::Held;

    const ID: ChunkId = ChunkId { file: 1, offset: 7 };

    fn tagged(key: &TagKey, bytes: &[u8]) -> Tag {
        let want = hash(Algorithm::Sha256, bytes);
        let mut pass = FirstPass::new(key, &want);
        pass.take(UntrustedChunk::new(ID, bytes.to_vec()), None);
        pass.finish(&want)
            .ok()
            .and_then(|(tags, _)| tags.get(0))
            .expect("the digest is right")
    }

    #[test]
    fn every_flipped_bit_and_every_other_place_misses_the_tag() {
        let key = TagKey::generate().unwrap();
        let bytes = b"weights and biases".to_vec();
        let tag = tagged(&key, &bytes);
        assert!(UntrustedChunk::new(ID, bytes.clone()).verify(&key, tag).is_some());
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(
                UntrustedChunk::new(ID, other).verify(&key, tag).is_none(),
                "bit {bit}"
            );
        }
        for id in [ChunkId { file: 2, ..ID }, ChunkId { offset: 8, ..ID }] {
            assert!(
                UntrustedChunk::new(id, bytes.clone()).verify(&key, tag).is_none(),
                "{id:?}"
            );
        }
        assert!(
            UntrustedChunk::new(ID, bytes[1..].to_vec())
                .verify(&key, tag)
                .is_none()
        );
        let other_key = TagKey::generate().unwrap();
        assert!(UntrustedChunk::new(ID, bytes).verify(&other_key, tag).is_none());
    }

    #[test]
    fn kept_chunks_are_verified_only_when_the_digest_matches() {
        let key = TagKey::generate().unwrap();
        let want = hash(Algorithm::Sha256, b"signed");
        for (bytes, ok) in [(b"signed", true), (b"sigmed", false)] {
            let mut pass = FirstPass::new(&key, &want);
            let held = Held::new(CHUNK_BYTES + HOLDING_BYTES);
            assert!(
                pass.take(UntrustedChunk::new(ID, bytes.to_vec()), held.reserve())
                    .is_none()
            );
            assert_eq!(
                pass.finish(&want).map(|(_, kept)| kept.len()).ok(),
                ok.then_some(1)
            );
        }
    }

    #[test]
    fn bytes_that_miss_their_tag_do_not_stay_in_the_reply() {
        let key = TagKey::generate().unwrap();
        let tag = tagged(&key, b"abc");
        let fill = |with: &'static [u8]| {
            move |room: &mut [u8]| {
                room[..with.len()].copy_from_slice(with);
                Ok::<usize, ()>(with.len())
            }
        };
        let mut reply = VerifiedBytes::default();
        assert_eq!(reply.append_read(&key, ID, tag, 3, fill(b"abd")), Ok(false));
        assert_eq!(reply.append_read(&key, ID, tag, 3, fill(b"ab")), Ok(false));
        assert_eq!(reply.append_read(&key, ID, tag, 3, |_| Err(())), Err(()));
        assert_eq!(reply.as_slice(), b"");
        assert_eq!(reply.append_read(&key, ID, tag, 3, fill(b"abc")), Ok(true));
        assert_eq!(reply.as_slice(), b"abc");
    }
}
