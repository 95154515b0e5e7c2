//! Refusals: what differs from what was signed, and why a read got no bytes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::digest::Digest;
use crate::path::ModelPath;
use crate::source::SourceError;

/// A resource that differs from what was signed.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The file it belongs to.
    pub path: ModelPath,
    /// The bytes it covers.
    pub range: Range<u64>,
    /// What was signed.
    pub signed: Digest,
    /// What was found; `None` when the source ended before the resource did.
    pub found: Option<Digest>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.range;
        match &self.found {
            Some(found) => write!(
                f,
                "{} [{start}..{end}): content differs from its signed digest (signed {}, found {found})",
                self.path, self.signed
            ),
            None => write!(
                f,
                "{} [{start}..{end}): content is shorter than its signed digest needs (signed {})",
                self.path, self.signed
            ),
        }
    }
}

/// Why a read got no bytes.
#[derive(Clone, Debug)]
pub enum ReadError {
    /// A resource differs from its signed digest; it stays so until the model is mounted anew.
    Rejected {
        /// The file.
        path: ModelPath,
    },
    /// A resource was verified, and the source now gives other bytes.
    Changed {
        /// The file.
        path: ModelPath,
        /// The chunk that did not match.
        range: Range<u64>,
    },
    /// The source could not be read.
    Source(Arc<SourceError>),
    /// The source did not answer in time.
    TimedOut {
        /// The file.
        path: ModelPath,
    },
    /// A bug of ours: a job ended without a result.
    Abandoned,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected { path } => write!(f, "{path}: differs from its signed digest"),
            Self::Changed { path, range } => {
                write!(
                    f,
                    "{path} [{}..{}): changed after it was verified",
                    range.start, range.end
                )
            }
            Self::Source(e) => write!(f, "{e}"),
            Self::TimedOut { path } => write!(f, "{path}: the source did not answer in time"),
            Self::Abandoned => write!(f, "a read was abandoned; this is a bug of modelfs"),
        }
    }
}

impl std::error::Error for ReadError {}
