//! Why a payload is not a manifest. Each message names the place: the resource, the path, the offset.

use std::error::Error;
use std::fmt;

use super::MAX_IGNORED_PATHS;
use super::MAX_SHARD_SIZE;
use crate::digest::Algorithm;
use crate::digest::Digest;
use crate::digest::DigestError;
use crate::json::JsonError;
use crate::path::Escaped;
use crate::path::ModelPath;
use crate::path::PathError;

/// Why a payload is not a manifest.
#[derive(Debug)]
pub enum ManifestError {
    /// The payload is not strict JSON, or lacks a field, or has a field of another type.
    Json(JsonError),
    /// The statement is of another `_type`.
    WrongStatementType {
        /// The type it states.
        found: String,
    },
    /// The statement's predicate is of another type than the format has.
    WrongPredicateType {
        /// The type of the format.
        expected: &'static str,
        /// The type it states.
        found: String,
    },
    /// The statement is not about exactly one subject (OMS 6.5).
    SubjectCount {
        /// How many it has.
        found: usize,
    },
    /// The subject has no name.
    EmptySubjectName,
    /// The subject's digest is not a SHA-256 digest.
    SubjectDigest(DigestError),
    /// The subject's digest is not that of the resources in listed order.
    RootDigestMismatch {
        /// The digest in the subject.
        stated: Box<Digest>,
        /// The digest over the resources.
        computed: Box<Digest>,
    },
    /// The serialization method is neither `files` nor `shards`.
    UnknownMethod {
        /// The method it states.
        found: String,
    },
    /// The hash function is none that OMS names.
    UnknownHashType {
        /// The hash function it states.
        found: String,
    },
    /// The method is `shards` and no `shard_size` is there.
    MissingShardSize,
    /// The method is `files` and a `shard_size` is there (OMS 5.2.2).
    UnexpectedShardSize,
    /// The `shard_size` is no integer from 1 to [`MAX_SHARD_SIZE`].
    ShardSize {
        /// The number it states.
        found: String,
    },
    /// An ignored path is not canonical.
    IgnorePath {
        /// The path as it stands.
        name: String,
        /// What is wrong with it.
        cause: PathError,
    },
    /// A file is signed and ignored at once.
    IgnoredFile {
        /// The signed file.
        path: ModelPath,
        /// The ignored path that covers it.
        ignored: ModelPath,
    },
    /// Nothing is signed (OMS 5.2.1).
    NoResources,
    /// More resources than the limit.
    TooManyResources {
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// More ignored paths than [`MAX_IGNORED_PATHS`].
    TooManyIgnoredPaths {
        /// How many there are.
        found: usize,
    },
    /// A resource's algorithm is not that of the manifest.
    AlgorithmMismatch {
        /// The resource.
        name: String,
        /// The manifest's algorithm.
        expected: Algorithm,
        /// What the resource states.
        found: String,
    },
    /// A resource's digest is not a digest.
    Digest {
        /// The resource.
        name: String,
        /// What is wrong with it.
        cause: DigestError,
    },
    /// A file's name is not canonical.
    Name {
        /// The name as it stands.
        name: String,
        /// What is wrong with it.
        cause: PathError,
    },
    /// The name `.` says that the model is one file, and there are others.
    SelfAmongOthers,
    /// The model is one file and the subject's name, which is its name, is not canonical.
    SingleFileName {
        /// The subject's name.
        subject: String,
        /// What is wrong with it.
        cause: PathError,
    },
    /// The model is one file and the subject's name has directories in it.
    SingleFileInDirectory {
        /// The subject's name.
        subject: String,
    },
    /// Two resources have the same path.
    DuplicatePath {
        /// The path.
        path: ModelPath,
    },
    /// One file's path leads through another file.
    FileBeneathFile {
        /// The file that would have to be a directory.
        outer: ModelPath,
        /// The file beneath it.
        inner: ModelPath,
    },
    /// A shard's name does not end in `:start:end` (OMS 6.3.2).
    ShardWithoutRange {
        /// The resource.
        name: String,
    },
    /// A shard's start or end is not a canonical decimal number of at most `i64::MAX`.
    ShardOffset {
        /// The resource.
        name: String,
    },
    /// A shard ends where it begins.
    EmptyShard {
        /// The resource.
        name: String,
    },
    /// A shard ends before it begins.
    ReversedShard {
        /// The resource.
        name: String,
    },
    /// Between two shards, or before the first, bytes are not signed.
    ShardGap {
        /// The file.
        path: ModelPath,
        /// Where the next shard must begin.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// Two shards cover the same bytes.
    ShardOverlap {
        /// The file.
        path: ModelPath,
        /// Where the next shard must begin.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// A shard that is not its file's last has fewer bytes than the shard size.
    ShortShard {
        /// The file.
        path: ModelPath,
        /// Where the shard ends.
        end: u64,
        /// The shard size.
        shard_size: u64,
    },
    /// A shard has more bytes than the shard size.
    LongShard {
        /// The file.
        path: ModelPath,
        /// Where the shard begins.
        start: u64,
        /// Where the shard ends.
        end: u64,
        /// The shard size.
        shard_size: u64,
    },
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(_) => write!(f, "the payload is not a statement"),
            Self::WrongStatementType { found } => {
                write!(f, "the statement has the unknown type {}", shown(found))
            }
            Self::WrongPredicateType { expected, found } => {
                write!(f, "the predicate has the type {}, not {expected}", shown(found))
            }
            Self::SubjectCount { found } => {
                write!(f, "the statement has {found} subjects instead of one")
            }
            Self::EmptySubjectName => write!(f, "the statement's subject has an empty name"),
            Self::SubjectDigest(_) => write!(f, "the subject's sha256 is not a digest"),
            Self::RootDigestMismatch { stated, computed } => write!(
                f,
                "the subject's digest is {stated}, that of the resources {computed}"
            ),
            Self::UnknownMethod { found } => {
                write!(f, "unknown serialization method {}", shown(found))
            }
            Self::UnknownHashType { found } => write!(f, "unknown hash type {}", shown(found)),
            Self::MissingShardSize => write!(f, "the method is shards and no shard_size is stated"),
            Self::UnexpectedShardSize => write!(f, "the method is files and a shard_size is stated"),
            Self::ShardSize { found } => {
                write!(
                    f,
                    "the shard_size {found} is no integer from 1 to {MAX_SHARD_SIZE}"
                )
            }
            Self::IgnorePath { name, .. } => {
                write!(f, "the ignored path \"{}\" is not canonical", shown(name))
            }
            Self::IgnoredFile { path, ignored } => {
                write!(f, "{path} is signed and also ignored, by {ignored}")
            }
            Self::NoResources => write!(f, "the manifest lists no resources"),
            Self::TooManyResources { found, limit } => {
                write!(f, "the manifest lists {found} resources, more than {limit}")
            }
            Self::TooManyIgnoredPaths { found } => {
                write!(
                    f,
                    "the manifest ignores {found} paths, more than {MAX_IGNORED_PATHS}"
                )
            }
            Self::AlgorithmMismatch {
                name,
                expected,
                found,
            } => write!(
                f,
                "resource {} has a digest of {}, the manifest is of {expected}",
                shown(name),
                shown(found)
            ),
            Self::Digest { name, .. } => write!(f, "resource {} has a malformed digest", shown(name)),
            Self::Name { name, .. } => write!(f, "the name \"{}\" is not canonical", shown(name)),
            Self::SelfAmongOthers => write!(
                f,
                "a resource is named . as if the model were one file, and it is not the only one"
            ),
            Self::SingleFileName { subject, .. } => write!(
                f,
                "the model is one file and its name, the subject \"{}\", is not canonical",
                shown(subject)
            ),
            Self::SingleFileInDirectory { subject } => write!(
                f,
                "the model is one file and its name, the subject {}, has directories in it",
                shown(subject)
            ),
            Self::DuplicatePath { path } => write!(f, "{path} is listed twice"),
            Self::FileBeneathFile { outer, inner } => {
                write!(f, "{inner} lies beneath {outer}, which is a file")
            }
            Self::ShardWithoutRange { name } => {
                write!(f, "the shard {} has no range :start:end in its name", shown(name))
            }
            Self::ShardOffset { name } => write!(
                f,
                "the range of the shard {} is not two canonical decimal offsets",
                shown(name)
            ),
            Self::EmptyShard { name } => write!(f, "the shard {} ends where it begins", shown(name)),
            Self::ReversedShard { name } => write!(f, "the shard {} ends before it begins", shown(name)),
            Self::ShardGap {
                path,
                expected,
                found,
            } => write!(
                f,
                "shard gap in {path}: expected offset {expected}, found {found}"
            ),
            Self::ShardOverlap {
                path,
                expected,
                found,
            } => write!(
                f,
                "shard overlap in {path}: expected offset {expected}, found {found}"
            ),
            Self::ShortShard {
                path,
                end,
                shard_size,
            } => write!(
                f,
                "the shard of {path} that ends at offset {end} has fewer than {shard_size} bytes and is not the last"
            ),
            Self::LongShard {
                path,
                start,
                end,
                shard_size,
            } => write!(
                f,
                "the shard {start}:{end} of {path} has more than {shard_size} bytes"
            ),
        }
    }
}

/// Most characters of a stranger's text in one message: a name may be as long as the payload, a log line
/// should not.
const MAX_SHOWN_CHARS: usize = 512;

fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((at, _)) => format!(
            "{}... ({} bytes)",
            Escaped(text.as_bytes().get(..at).unwrap_or_default()),
            text.len()
        ),
        None => Escaped(text.as_bytes()).to_string(),
    }
}

impl Error for ManifestError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Json(cause) => Some(cause),
            Self::SubjectDigest(cause) | Self::Digest { cause, .. } => Some(cause),
            Self::IgnorePath { cause, .. }
            | Self::Name { cause, .. }
            | Self::SingleFileName { cause, .. } => Some(cause),
            _ => None,
        }
    }
}
