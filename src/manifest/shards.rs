//! Shards: ranges of a file, each with a digest, that cover it without gap or overlap.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use super::ListedDigests;
use super::ManifestError;
use super::SELF_NAME;
use super::SignedContent;
use super::SignedFile;
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
    digests: SharedDigests,
}

/// The digests of one file's shards, among those of all files.
#[derive(Clone, Debug)]
struct SharedDigests {
    all: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl SharedDigests {
    fn bytes(&self) -> &[u8] {
        self.all.get(self.range.clone()).unwrap_or_default()
    }
}

impl PartialEq for SharedDigests {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for SharedDigests {}

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
        self.digests.range.len() / self.algorithm.digest_bytes()
    }

    /// The bytes of the shard with this index, end exclusive; `None` past the last shard.
    pub fn range(&self, index: usize) -> Option<Range<u64>> {
        let start = u64::try_from(index).ok()?.checked_mul(self.shard_size)?;
        (start < self.size).then(|| start..self.size.min(start.saturating_add(self.shard_size)))
    }

    /// The digest of the shard with this index; `None` past the last shard.
    pub fn digest(&self, index: usize) -> Option<Digest> {
        let width = self.algorithm.digest_bytes();
        let start = index.checked_mul(width)?;
        let bytes = self.digests.bytes().get(start..start.checked_add(width)?)?;
        Digest::from_bytes(self.algorithm, bytes)
    }

    /// Refuses shards of one file, sorted by range, that do not tile it; returns the file's size.
    fn tile(path: &ModelPath, shards: &[ListedShard], shard_size: u64) -> Result<u64, ManifestError> {
        let mut size = 0;
        for &ListedShard { start, end, .. } in shards {
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
            size = end;
        }
        Ok(size)
    }
}

/// One resource of a sharded manifest. There may be millions, so it says where its path stands and not the path.
#[derive(Clone, Copy)]
struct ListedShard {
    start: u64,
    end: u64,
    /// Its place in the list.
    index: u32,
    /// Length of its path in bytes, which its name begins with.
    path_bytes: u32,
}

impl ListedShard {
    fn parse(name: &str, index: usize) -> Result<Self, ManifestError> {
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
                start,
                end,
                index: u32::try_from(index).expect("at most MAX_RESOURCES"),
                path_bytes: u32::try_from(path.len()).expect("at most MAX_STRING_BYTES"),
            }),
            Ordering::Equal => Err(ManifestError::EmptyShard {
                name: name.to_owned(),
            }),
            Ordering::Greater => Err(ManifestError::ReversedShard {
                name: name.to_owned(),
            }),
        }
    }

    fn index(&self) -> usize {
        usize::try_from(self.index).expect("made from one")
    }

    fn path<'a>(&self, names: &'a [Cow<'_, str>]) -> &'a str {
        let path_bytes = usize::try_from(self.path_bytes).expect("made from one");
        let name = names.get(self.index()).map_or("", |name| name);
        name.get(..path_bytes).unwrap_or_default()
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
    names: &[Cow<'_, str>],
    digests: ListedDigests,
    subject: &str,
    shard_size: u64,
) -> Result<(Vec<SignedFile>, bool), ManifestError> {
    let mut shards = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        shards.push(ListedShard::parse(name, index)?);
    }
    // Numerically: as text, 1000 stands before 200.
    shards.sort_by(|a, b| (a.path(names), a.start, a.end).cmp(&(b.path(names), b.start, b.end)));

    let algorithm = digests.algorithm;
    let all = Arc::new(in_order(digests, &shards));
    let single_file = shards.iter().all(|shard| shard.path(names) == SELF_NAME);
    let mut files = Vec::new();
    let mut at = 0;
    for group in shards.chunk_by(|a, b| a.path(names) == b.path(names)) {
        let Some(first) = group.first() else { continue };
        let path = if single_file {
            super::single_file_path(subject)?
        } else {
            super::listed_path(first.path(names))?
        };
        let size = Shards::tile(&path, group, shard_size)?;
        let range = at..at + group.len() * algorithm.digest_bytes();
        at = range.end;
        let content = SignedContent::Shards(Shards {
            algorithm,
            size,
            shard_size,
            digests: SharedDigests {
                all: Arc::clone(&all),
                range,
            },
        });
        files.push(SignedFile { path, content });
    }
    Ok((files, single_file))
}

/// The digests in the order of the shards. Signers list them so, and then there is no second copy.
fn in_order(digests: ListedDigests, shards: &[ListedShard]) -> Vec<u8> {
    if shards.iter().map(ListedShard::index).eq(0..shards.len()) {
        return digests.into_bytes();
    }
    let mut sorted = Vec::with_capacity(shards.len() * digests.algorithm.digest_bytes());
    for shard in shards {
        sorted.extend_from_slice(digests.at(shard.index()).expect("every resource has a digest"));
    }
    sorted
}
