//! Manifests: the in-toto Statement with the OMS predicate, from bytes to a [`Manifest`].
//!
//! A `Manifest` is well-formed: every name is canonical and stands once, no file lies beneath another, the
//! shards of each file tile it, every digest has its algorithm's full length, and the root digest is the one
//! that was stated. It is not trusted: who signed it is the business of `trust`, a floor above. Pure: no files, no
//! clock, no keys.

mod error;
mod names;
mod resources;
mod shards;
mod statement;

use std::borrow::Cow;

use crate::digest;
use crate::digest::Algorithm;
use crate::digest::Digest;
use crate::path::ModelPath;

pub use error::ManifestError;
pub use shards::MAX_SHARD_SIZE;
pub use shards::Shards;

use resources::FromTheEnd;
use resources::ListedDigests;
use statement::Method;

/// Most resources in one manifest. A mount keeps some hundred bytes for each as long as it serves, so this
/// bounds its memory; the largest model known to have been signed has some thousands.
pub const MAX_RESOURCES: usize = 2_000_000;

/// Most paths that a manifest may leave out. They bound no file, so a real list has some ten; each costs memory
/// as long as the mount serves.
pub const MAX_IGNORED_PATHS: usize = 10_000;

/// The name that stands for the model itself when the model is one file.
const SELF_NAME: &str = ".";

/// Which predicate a payload may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `https://model_signing/signature/v1.0`, the only one that is current.
    V1,
    /// `https://model_signing/Digests/v0.1`, written by v0.2 of the reference tool.
    LegacyV02,
}

/// What was signed: every file of a model with the digests of its content.
#[derive(Debug)]
pub struct Manifest {
    identity: [u8; 32],
    subject: String,
    root_digest: [u8; 32],
    algorithm: Algorithm,
    method: Method,
    allow_symlinks: bool,
    ignore_paths: Vec<ModelPath>,
    single_file: bool,
    resources: usize,
    files: Vec<SignedFile>,
}

impl Manifest {
    /// Parses a payload.
    ///
    /// # Errors
    /// Refuses whatever two readers could take for two different models; nothing is repaired or skipped.
    pub fn parse(payload: &[u8], format: Format) -> Result<Self, ManifestError> {
        Self::parse_within(payload, format, MAX_RESOURCES)
    }

    /// SHA-256 of the payload: names this exact manifest, for logs and pins.
    pub fn identity(&self) -> &[u8; 32] {
        &self.identity
    }

    /// What the signer called the model: the statement's subject name. Informational, and empty in the
    /// legacy format, which has no such name.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// SHA-256 over the resources' digests in listed order. It does not cover names, so it identifies
    /// nothing.
    pub fn root_digest(&self) -> &[u8; 32] {
        &self.root_digest
    }

    /// The hash function of every digest in this manifest.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Bytes in every shard but a file's last; `None` for the `files` method.
    pub fn shard_size(&self) -> Option<u64> {
        match self.method {
            Method::Files => None,
            Method::Shards { shard_size } => Some(shard_size),
        }
    }

    /// Whether the signer followed symbolic links. Informational: what is followed is the operator's choice.
    pub fn allow_symlinks(&self) -> bool {
        self.allow_symlinks
    }

    /// What the signer left out, as it is listed. No signed file is one of these or lies beneath one.
    pub fn ignore_paths(&self) -> &[ModelPath] {
        &self.ignore_paths
    }

    /// Whether the model is one file (resource `.`): then the only file bears the subject's name.
    pub fn is_single_file(&self) -> bool {
        self.single_file
    }

    /// In byte order of their paths, each once; never empty.
    pub fn files(&self) -> &[SignedFile] {
        &self.files
    }

    /// The same, for whoever keeps them; the list's memory is given back on the way.
    pub fn into_files(self) -> impl Iterator<Item = SignedFile> {
        let mut files = self.files;
        files.reverse();
        FromTheEnd(files)
    }

    /// How many resources were signed: files, or the shards of all files.
    pub fn resources(&self) -> u64 {
        u64::try_from(self.resources).expect("at most MAX_RESOURCES")
    }

    fn parse_within(payload: &[u8], format: Format, max_resources: usize) -> Result<Self, ManifestError> {
        let (listing, stated_root) = match format {
            Format::V1 => statement::read_v1(payload)?,
            Format::LegacyV02 => statement::read_legacy(payload)?,
        };
        let resources = listing.resources.len();
        if resources == 0 {
            return Err(ManifestError::NoResources);
        }
        if resources > max_resources {
            return Err(ManifestError::TooManyResources {
                found: resources,
                limit: max_resources,
            });
        }
        let is_itself = listing.resources.is_only(SELF_NAME);
        let (names, digests) = listing.resources.split(listing.algorithm, listing.method)?;
        let root_digest = digests.root();
        stated_root.compare(root_digest)?;
        let subject = listing.subject.into_owned();
        let (files, single_file) = match listing.method {
            Method::Files => (
                whole_files(names, digests, is_itself.then_some(&subject))?,
                is_itself,
            ),
            Method::Shards { shard_size } => shards::sharded_files(&names, digests, &subject, shard_size)?,
        };
        names::refuse_conflicts(&files)?;
        names::refuse_ignored(&files, &listing.ignore_paths)?;
        Ok(Self {
            identity: digest::sha256(payload),
            subject,
            root_digest,
            algorithm: listing.algorithm,
            method: listing.method,
            allow_symlinks: listing.allow_symlinks,
            ignore_paths: listing.ignore_paths,
            single_file,
            resources,
            files,
        })
    }
}

/// One signed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedFile {
    path: ModelPath,
    content: SignedContent,
}

impl SignedFile {
    /// Where it stands in the model.
    pub fn path(&self) -> &ModelPath {
        &self.path
    }

    /// What its content must be.
    pub fn content(&self) -> &SignedContent {
        &self.content
    }
}

/// How a file's content was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedContent {
    /// One digest over all of it. The size is not signed (OMS 6.3.1).
    Whole(Digest),
    /// One digest per consecutive range; the size is signed.
    Shards(Shards),
}

/// A manifest's files, each with one digest, in byte order of their paths. With `itself`, the model is one file of
/// that name.
fn whole_files(
    names: Vec<Cow<'_, str>>,
    mut digests: ListedDigests,
    itself: Option<&String>,
) -> Result<Vec<SignedFile>, ManifestError> {
    let mut files = Vec::with_capacity(names.len());
    let mut refusal = None;
    for name in FromTheEnd(names) {
        let digest = digests.pop().expect("every resource has a digest");
        let path = match itself {
            Some(subject) => single_file_path(subject),
            None => listed_path(&name),
        };
        let content = SignedContent::Whole(digest);
        match path {
            Ok(path) => files.push(SignedFile { path, content }),
            // What is said is what stands first in the list.
            Err(error) => refusal = Some(error),
        }
    }
    if let Some(error) = refusal {
        return Err(error);
    }
    // Signers list in order, so that now there is nothing to sort.
    files.reverse();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// The path of a file in a model that is a directory.
fn listed_path(name: &str) -> Result<ModelPath, ManifestError> {
    if name == SELF_NAME {
        return Err(ManifestError::SelfAmongOthers);
    }
    ModelPath::parse(name).map_err(|cause| ManifestError::Name {
        name: name.to_owned(),
        cause,
    })
}

/// The path of the only file in a model that is a file: `.` has no name of its own, the subject has.
fn single_file_path(subject: &str) -> Result<ModelPath, ManifestError> {
    let path = ModelPath::parse(subject).map_err(|cause| ManifestError::SingleFileName {
        subject: subject.to_owned(),
        cause,
    })?;
    if path.components().count() != 1 {
        return Err(ManifestError::SingleFileInDirectory {
            subject: subject.to_owned(),
        });
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
