//! The keyed tags of chunks: equal only for the same bytes in the same place, under a key that is never shown.

use std::fmt;

use aws_lc_rs::aead::AES_256_GCM;
use aws_lc_rs::aead::Aad;
use aws_lc_rs::aead::LessSafeKey;
use aws_lc_rs::aead::NONCE_LEN;
use aws_lc_rs::aead::Nonce;
use aws_lc_rs::aead::UnboundKey;
use aws_lc_rs::constant_time;

use crate::sys::random_bytes;

/// Longest tag in bytes: a full BLAKE3 hash.
const MAX_TAG_BYTES: usize = 32;

/// Length of GMAC's tag in bytes, the full one. A forger guesses one with probability (blocks + 1) / 2^128 a try
/// (NIST SP 800-38D; a chunk has 8,192 blocks).
const GMAC_BYTES: usize = 16;

/// The tag of one chunk.
#[derive(Clone, Copy)]
pub(in crate::verify) struct Tag {
    bytes: [u8; MAX_TAG_BYTES],
    len: usize,
}

impl Tag {
    fn new(bytes: &[u8]) -> Option<Self> {
        let mut tag = [0; MAX_TAG_BYTES];
        tag.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self {
            bytes: tag,
            len: bytes.len(),
        })
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The tags of one resource, trusted because the signed digest matched the same bytes.
#[derive(Default)]
pub(in crate::verify) struct Tags {
    bytes: Vec<u8>,
    /// Length of each in bytes; 0 where there are none.
    each: usize,
}

impl Tags {
    /// Tags that were remembered: full BLAKE3 ones, of so many chunks.
    pub(in crate::verify) fn recalled(bytes: Vec<u8>, chunks: u64) -> Option<Self> {
        let want = usize::try_from(chunks).ok()?.checked_mul(blake3::OUT_LEN)?;
        (bytes.len() == want).then_some(Self {
            bytes,
            each: blake3::OUT_LEN,
        })
    }

    /// What to remember of them.
    pub(in crate::verify) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(in crate::verify) fn get(&self, chunk: usize) -> Option<Tag> {
        let start = chunk.checked_mul(self.each).filter(|_| self.each > 0)?;
        Tag::new(self.bytes.get(start..start.checked_add(self.each)?)?)
    }

    pub(super) fn push(&mut self, tag: &Tag) -> bool {
        self.bytes.extend_from_slice(tag.as_bytes());
        self.each == tag.len
    }
}

/// Where a chunk lies: no two chunks of a mount share one, so none share a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::verify) struct ChunkId {
    pub(in crate::verify) file: u32,
    /// Offset of the chunk's first byte in the file.
    pub(in crate::verify) offset: u64,
}

/// The key of all tags, never shown.
pub(in crate::verify) enum TagKey {
    /// Random, never stored: the fastest that there is where the processor multiplies polynomials.
    Gmac(Box<LessSafeKey>),
    /// For processors that would compute GMAC slowly, and for tags that are stored.
    Blake3(Box<[u8; 32]>),
}

impl TagKey {
    /// A key that ends with this process.
    pub(in crate::verify) fn generate() -> Result<Self, KeyUnavailable> {
        let key: [u8; 32] = random_bytes().map_err(|_| KeyUnavailable)?;
        if !has_fast_gmac() {
            return Ok(Self::Blake3(Box::new(key)));
        }
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| KeyUnavailable)?;
        Ok(Self::Gmac(Box::new(LessSafeKey::new(key))))
    }

    /// What the tags are, for people.
    pub(in crate::verify) fn name(&self) -> &'static str {
        match self {
            Self::Gmac(_) => "AES-256-GMAC",
            Self::Blake3(_) => "keyed BLAKE3",
        }
    }

    pub(super) fn no_tags(&self) -> Tags {
        Tags {
            bytes: Vec::new(),
            each: match self {
                Self::Gmac(_) => GMAC_BYTES,
                Self::Blake3(_) => blake3::OUT_LEN,
            },
        }
    }

    pub(super) fn tag(&self, id: ChunkId, bytes: &[u8]) -> Option<Tag> {
        let mut nonce = [0; NONCE_LEN];
        let (file, offset) = nonce.split_at_mut(size_of::<u32>());
        file.copy_from_slice(&id.file.to_le_bytes());
        offset.copy_from_slice(&id.offset.to_le_bytes());
        match self {
            // AES-GCM over no plaintext, the chunk being the additional data. The same nonce serves the same chunk
            // again; that is sound because tags are only ever compared, never revealed.
            Self::Gmac(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key
                    .seal_in_place_separate_tag(nonce, Aad::from(bytes), &mut [])
                    .ok()?;
                Tag::new(tag.as_ref())
            }
            Self::Blake3(key) => {
                let mut hasher = blake3::Hasher::new_keyed(key);
                hasher.update(&nonce).update(bytes);
                Tag::new(hasher.finalize().as_bytes())
            }
        }
    }

    /// Whether these bytes are the ones that were tagged. A tag that cannot be computed matches nothing.
    pub(super) fn matches(&self, id: ChunkId, bytes: &[u8], want: &Tag) -> bool {
        self.tag(id, bytes).is_some_and(|tag| {
            constant_time::verify_slices_are_equal(tag.as_bytes(), want.as_bytes()).is_ok()
        })
    }
}

/// Whether AES and the polynomial product of GMAC are instructions of this processor. Without them keyed BLAKE3 is
/// the faster one.
fn has_fast_gmac() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
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
