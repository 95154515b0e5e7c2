//! Shards: ranges of a file, each with a digest, that cover it without gap or overlap.

use std::cmp::Ordering;
use std::ops::Range;

use super::ListedDigests;
use super::ManifestError;
use super::SELF_NAME;
use super::SignedContent;
use super::SignedFile;
use super::statement::Listing;
use crate::digest::Algorithm;
use crate::digest::Digest;
use crate::path::ModelPath;

/// Largest shard size in bytes: 2^53, up to where a JSON number that another tool keeps as a double is still
/// exact. Beyond it two readers could read two sizes.
pub const MAX_SHARD_SIZE: u64 = 1 << 53;

/// Largest offset in bytes: what the kernel's signed file offsets can reach.
const MAX_OFFSET: u64 = i64::MAX.unsigned_abs();

/// The shards of one file: they tile `[0, size)`, all of `shard_size` bytes but the last. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    algorithm: Algorithm,
    size: u64,
    shard_size: u64,
    digests: Box<[u8]>,
}

impl Shards {
    /// The file's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes in every shard but the last, which may have fewer.
    pub fn shard_size(&self) -> u64 {
        self.shard_size
    }

    /// How many shards there are.
    pub fn count(&self) -> usize {
        self.digests.len() / self.algorithm.digest_bytes()
    }

    /// The bytes of the shard with this index, end exclusive; `None` past the last shard.
    pub fn range(&self, index: usize) -> Option<Range<u64>> {
        let start = u64::try_from(index).ok()?.checked_mul(self.shard_size)?;
        (start < self.size).then(|| start..self.size.min(start.saturating_add(self.shard_size)))
    }

    /// The digest of the shard with this index; `None` past the last shard.
    pub fn digest(&self, index: usize) -> Option<Digest> {
        let bytes = self
            .digests
            .chunks_exact(self.algorithm.digest_bytes())
            .nth(index)?;
        Digest::from_bytes(self.algorithm, bytes)
    }

    /// Takes the shards of one file, sorted by range.
    fn tile(
        path: &ModelPath,
        shards: &[ListedShard<'_>],
        digests: &ListedDigests,
        shard_size: u64,
    ) -> Result<Self, ManifestError> {
        let mut size = 0;
        let mut bytes = Vec::with_capacity(shards.len() * digests.algorithm.digest_bytes());
        for shard in shards {
            let Range { start, end } = shard.range;
            if start > size {
                return Err(ManifestError::ShardGap {
                    path: path.clone(),
                    expected: size,
                    found: start,
                });
            }
            if start < size {
                return Err(ManifestError::ShardOverlap {
                    path: path.clone(),
                    expected: size,
                    found: start,
                });
            }
            if !size.is_multiple_of(shard_size) {
                return Err(ManifestError::ShortShard {
                    path: path.clone(),
                    end: size,
                    shard_size,
                });
            }
            if end.saturating_sub(start) > shard_size {
                return Err(ManifestError::LongShard {
                    path: path.clone(),
                    start,
                    end,
                    shard_size,
                });
            }
            bytes.extend_from_slice(digests.at(shard.index).expect("every resource has a digest"));
            size = end;
        }
        Ok(Self {
            algorithm: digests.algorithm,
            size,
            shard_size,
            digests: bytes.into(),
        })
    }
}

/// One resource of a sharded manifest.
struct ListedShard<'a> {
    path: &'a str,
    range: Range<u64>,
    /// Its place in the list.
    index: usize,
}

impl<'a> ListedShard<'a> {
    fn parse(name: &'a str, index: usize) -> Result<Self, ManifestError> {
        // OMS 6.3.2: the last two colons delimit the range, for a file's name may hold colons too.
        let mut fields = name.rsplitn(3, ':');
        let (Some(end), Some(start), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(ManifestError::ShardWithoutRange {
                name: name.to_owned(),
            });
        };
        let (Some(start), Some(end)) = (parse_offset(start), parse_offset(end)) else {
            return Err(ManifestError::ShardOffset {
                name: name.to_owned(),
            });
        };
        match start.cmp(&end) {
            Ordering::Less => Ok(Self {
                path,
                range: start..end,
                index,
            }),
            Ordering::Equal => Err(ManifestError::EmptyShard {
                name: name.to_owned(),
            }),
            Ordering::Greater => Err(ManifestError::ReversedShard {
                name: name.to_owned(),
            }),
        }
    }
}

/// Reads an offset in its one spelling: `0`, or digits that do not begin with `0`.
fn parse_offset(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if !canonical {
        return None;
    }
    text.parse().ok().filter(|offset| *offset <= MAX_OFFSET)
}

/// Gathers a manifest's shards into files, in byte order of their paths; and whether the model is one file.
pub(super) fn sharded_files(
    listing: &Listing<'_>,
    digests: &ListedDigests,
    shard_size: u64,
) -> Result<(Vec<SignedFile>, bool), ManifestError> {
    let mut shards = Vec::with_capacity(listing.resources.len());
    for (index, resource) in listing.resources.iter().enumerate() {
        shards.push(ListedShard::parse(&resource.name, index)?);
    }
    // Numerically: as text, 1000 stands before 200.
    shards.sort_by(|a, b| (a.path, a.range.start, a.range.end).cmp(&(b.path, b.range.start, b.range.end)));

    let single_file = shards.iter().all(|shard| shard.path == SELF_NAME);
    let mut files = Vec::new();
    for group in shards.chunk_by(|a, b| a.path == b.path) {
        let Some(first) = group.first() else { continue };
        let path = if single_file {
            super::single_file_path(&listing.subject)?
        } else {
            super::listed_path(first.path)?
        };
        let content = SignedContent::Shards(Shards::tile(&path, group, digests, shard_size)?);
        files.push(SignedFile { path, content });
    }
    super::names::refuse_conflicts(&files)?;
    Ok((files, single_file))
}
