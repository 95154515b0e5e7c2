//! Filesystem operations in our own words: names, attributes, open, read. No FUSE types, no blocking.
//!
//! What needs the source is handed to the engine with a callback; everything else is answered at once from
//! the frozen tree. [`Error::errno`] is the one place where our errors become the kernel's.

use std::ffi::OsStr;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::manifest::SignedContent;
use crate::tree::Content;
use crate::tree::ModelTree;
use crate::tree::Node;
use crate::tree::ROOT;
use crate::verify::Asker;
use crate::verify::Pin;
use crate::verify::ReadError;
use crate::verify::State;
use crate::verify::VerifiedFile;

mod report;
pub use report::Confinement;
pub use report::Reach;
pub use report::Report;

/// The prefix of the extended attributes that every file has.
pub const XATTR_PREFIX: &str = "user.modelfs.";

/// Block size in bytes that `stat` reports. Readers that bypass the page cache align to it, so it must be
/// a power of two that every device can do.
pub const BLOCK_BYTES: u32 = 4096;

/// A filesystem over a bound tree.
#[derive(Debug)]
pub struct ModelFs {
    tree: ModelTree,
    sandbox: Confinement,
    totals_told: AtomicU64,
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory, mode 0555.
    Directory,
    /// A regular file, mode 0444.
    File,
}

/// The attributes of an inode. What is not signed is the same for all: one fixed time, one link, no owner
/// of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its number.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// Size in bytes.
    pub size: u64,
    /// Whether the size is signed or confirmed by a digest, so that the kernel may remember it.
    pub confirmed: bool,
}

/// An entry of a directory listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    /// What it is.
    pub attributes: Attributes,
    /// Position from which to go on after this entry.
    pub next: u64,
    /// Its name.
    pub name: &'a str,
}

/// Bytes for a data reply: verified ones, or those of the bundle that the mount stands on. Only this module
/// builds it.
///
/// ```compile_fail
/// let forged = modelfs::fs::Served(b"anything");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Served<'a>(&'a [u8]);

impl<'a> Served<'a> {
    /// The bytes.
    pub fn as_slice(self) -> &'a [u8] {
        self.0
    }
}

/// What the kernel may do with the bytes of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Keep them in the page cache, also across opens: what is in there was verified.
    Keep,
    /// Keep them from now on, and drop what is there: not all of it was verified.
    Afresh,
    /// Ask anew each time.
    Bypass,
    /// Read by itself the sealed, verified file that it has under this number.
    Pinned(u32),
}

/// Totals of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Size of all signed files, in blocks of [`BLOCK_BYTES`].
    pub blocks: u64,
    /// Number of inodes.
    pub inodes: u64,
}

impl ModelFs {
    /// Serves a tree.
    pub fn new(tree: ModelTree) -> Self {
        Self {
            tree,
            sandbox: Confinement::default(),
            totals_told: AtomicU64::new(0),
        }
    }

    /// Has reports say that the process which serves it is confined so far.
    pub fn in_sandbox(self, sandbox: Confinement) -> Self {
        Self { sandbox, ..self }
    }

    /// The tree behind it.
    pub fn tree(&self) -> &ModelTree {
        &self.tree
    }

    /// Whether some files are to be pinned.
    pub fn pins(&self) -> bool {
        self.tree.engine().options().pin != Pin::Off
    }

    /// Finds a name in a directory.
    ///
    /// # Errors
    /// [`Error::NoEntry`] for every name that is not signed.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attributes, Error> {
        let Content::Directory(entries) = self.node(parent)?.content() else {
            return Err(Error::NotDirectory);
        };
        // Signed names are UTF-8: another name cannot be among them.
        let name = name.to_str().ok_or(Error::NoEntry)?;
        let (inode, node) = self.tree.child(entries, name).ok_or(Error::NoEntry)?;
        Ok(attributes(inode, node))
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// [`Error::Stale`] for an inode that never was.
    pub fn attributes(&self, inode: u64) -> Result<Attributes, Error> {
        Ok(attributes(inode, self.node(inode)?))
    }

    /// Lists a directory from a position on; `each` says whether it has room for more.
    ///
    /// # Errors
    /// [`Error::NotDirectory`] for a file.
    pub fn list<'a>(
        &'a self,
        inode: u64,
        from: u64,
        mut each: impl FnMut(DirectoryEntry<'a>) -> bool,
    ) -> Result<(), Error> {
        let node = self.node(inode)?;
        let Content::Directory(entries) = node.content() else {
            return Err(Error::NotDirectory);
        };
        let own = attributes(inode, node);
        let parent = self.attributes(self.tree.parent(node))?;
        for (position, (name, attributes)) in (0..).zip([(".", own), ("..", parent)]) {
            if position >= from
                && !each(DirectoryEntry {
                    attributes,
                    next: position + 1,
                    name,
                })
            {
                return Ok(());
            }
        }
        let skip = usize::try_from(from.saturating_sub(2)).unwrap_or(usize::MAX);
        let first = from.max(2);
        for (position, (inode, node)) in (first..).zip(self.tree.children(entries, skip)) {
            let entry = DirectoryEntry {
                attributes: attributes(inode, node),
                next: position + 1,
                name: node.name(),
            };
            if !each(entry) {
                break;
            }
        }
        Ok(())
    }

    /// Opens a file for reading; a file that one digest covers is verified first. Each success wants a
    /// [`ModelFs::release`].
    pub fn open(&self, inode: u64, done: impl FnOnce(Result<Caching, Error>) + Send + 'static) {
        match self.node(inode).map(Node::content) {
            Err(e) => done(Err(e)),
            Ok(Content::Directory(_)) => done(Err(Error::IsDirectory)),
            Ok(Content::Memory(_)) => done(Ok(Caching::Keep)),
            Ok(Content::File(file)) => {
                let opened = Arc::clone(file);
                self.tree.engine().open(file, move |result| {
                    done(result.map(|()| caching(&opened)).map_err(Error::Read))
                });
            }
        }
    }

    /// Reads from an open file: all bytes asked for up to the file's end, or an error; never fewer. An asker that does not
    /// heed the error hears it late.
    pub fn read(
        &self,
        inode: u64,
        offset: u64,
        len: u32,
        asker: Asker,
        done: impl FnOnce(Result<Served<'_>, Error>) + Send + 'static,
    ) {
        match self.node(inode).map(Node::content) {
            Err(e) => done(Err(e)),
            Ok(Content::Directory(_)) => done(Err(Error::IsDirectory)),
            Ok(Content::Memory(bundle)) => done(Ok(Served(slice(&bundle.bytes, offset, len)))),
            Ok(Content::File(file)) => {
                self.tree
                    .engine()
                    .read(file, offset, len.into(), asker, move |result| match result {
                        Ok(bytes) => done(Ok(Served(bytes.as_slice()))),
                        Err(e) => done(Err(Error::Read(e))),
                    });
            }
        }
    }

    /// Notes that the kernel got to know an inode, or forgot it.
    pub fn note_met(&self, inode: u64, met: bool) {
        if let Ok(Content::File(file)) = self.node(inode).map(Node::content) {
            file.note_met(met);
        }
    }

    /// Ends what a successful [`ModelFs::open`] began.
    pub fn release(&self, inode: u64) {
        if let Ok(Content::File(file)) = self.node(inode).map(Node::content) {
            self.tree.engine().release(file);
        }
    }

    /// Totals, for `statfs`.
    pub fn totals(&self) -> Totals {
        self.totals_told.fetch_add(1, Ordering::Relaxed);
        let blocks = self.tree.model().total_bytes.div_ceil(BLOCK_BYTES.into());
        Totals {
            blocks,
            inodes: self.tree.node_count(),
        }
    }

    /// How often totals were told. The kernel remembers none, so whoever asks a mount for them and sees this grow was
    /// answered by this very server.
    pub fn totals_told(&self) -> u64 {
        self.totals_told.load(Ordering::Relaxed)
    }

    /// The names of an inode's extended attributes, each ended by a NUL.
    ///
    /// # Errors
    /// [`Error::Stale`] for an inode that never was.
    pub fn list_xattrs(&self, inode: u64) -> Result<Vec<u8>, Error> {
        let names: &[&str] = match self.node(inode)?.content() {
            Content::File(_) => &["digest", "signer", "state"],
            Content::Directory(_) if inode == ROOT => &["identity", "signer", "status"],
            Content::Directory(_) | Content::Memory(_) => &[],
        };
        Ok(names
            .iter()
            .flat_map(|name| format!("{XATTR_PREFIX}{name}\0").into_bytes())
            .collect())
    }

    /// An extended attribute of ours; all others do not exist.
    ///
    /// # Errors
    /// [`Error::NoAttribute`] for a name that is not ours.
    pub fn xattr(&self, inode: u64, name: &OsStr) -> Result<Vec<u8>, Error> {
        let node = self.node(inode)?;
        let name = name
            .to_str()
            .and_then(|name| name.strip_prefix(XATTR_PREFIX))
            .ok_or(Error::NoAttribute)?;
        match (node.content(), name) {
            (Content::File(file), "digest") => Ok(digest_text(file).into_bytes()),
            (Content::File(file), "state") => Ok(file.state().word().into()),
            (Content::File(_), "signer") => Ok(self.tree.model().signer.to_string().into_bytes()),
            (Content::Directory(_), "signer") if inode == ROOT => {
                Ok(self.tree.model().signer.to_string().into_bytes())
            }
            (Content::Directory(_), "identity") if inode == ROOT => Ok(self.report().identity.into_bytes()),
            (Content::Directory(_), "status") if inode == ROOT => {
                serde_json::to_vec(&self.report()).map_err(|_| Error::NoAttribute)
            }
            _ => Err(Error::NoAttribute),
        }
    }

    /// What `status` shows.
    pub fn report(&self) -> Report {
        Report::of(&self.tree, &self.sandbox)
    }

    fn node(&self, inode: u64) -> Result<&Node, Error> {
        self.tree.node(inode).ok_or(Error::Stale)
    }
}

fn attributes(inode: u64, node: &Node) -> Attributes {
    match node.content() {
        Content::Directory(entries) => Attributes {
            inode,
            kind: Kind::Directory,
            size: u64::try_from(entries.len()).unwrap_or(u64::MAX),
            confirmed: true,
        },
        Content::File(file) => Attributes {
            inode,
            kind: Kind::File,
            size: file.size(),
            confirmed: file.is_size_confirmed(),
        },
        Content::Memory(bundle) => Attributes {
            inode,
            kind: Kind::File,
            size: u64::try_from(bundle.bytes.len()).unwrap_or(u64::MAX),
            confirmed: true,
        },
    }
}

fn caching(file: &VerifiedFile) -> Caching {
    if !file.may_be_cached() {
        return Caching::Afresh;
    }
    match file.pinned() {
        Some(number) => Caching::Pinned(number),
        None if file.is_cacheable() => Caching::Keep,
        None => Caching::Bypass,
    }
}

fn slice(bytes: &[u8], offset: u64, len: u32) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let end = start
        .saturating_add(usize::try_from(len).unwrap_or(usize::MAX))
        .min(bytes.len());
    bytes.get(start..end).unwrap_or_default()
}

/// The digest that covers a file; of a sharded one, what shards there are.
fn digest_text(file: &Arc<VerifiedFile>) -> String {
    match file.content() {
        SignedContent::Whole(digest) => digest.to_string(),
        SignedContent::Shards(shards) => {
            let algorithm = shards.digest(0).map_or("", |digest| digest.algorithm().id());
            format!(
                "{algorithm}:{} shards of {} bytes",
                shards.count(),
                shards.shard_size()
            )
        }
    }
}

/// Why an operation failed.
#[derive(Clone, Debug)]
pub enum Error {
    /// No signed file or directory has this name.
    NoEntry,
    /// The inode is not one of ours.
    Stale,
    /// A directory was needed.
    NotDirectory,
    /// A file was needed.
    IsDirectory,
    /// Something would be written.
    ReadOnly,
    /// There is no such extended attribute.
    NoAttribute,
    /// The buffer is too small for the attribute.
    AttributeTooLong,
    /// There is no such operation.
    Unsupported,
    /// There is no such control command.
    NoCommand,
    /// No verified bytes could be had.
    Read(ReadError),
    /// A bug of ours, contained.
    Panicked,
}

impl Error {
    /// The errno for the kernel.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NoEntry => libc::ENOENT,
            Self::Stale => libc::ESTALE,
            Self::NotDirectory => libc::ENOTDIR,
            Self::IsDirectory => libc::EISDIR,
            Self::ReadOnly => libc::EROFS,
            Self::NoAttribute => libc::ENODATA,
            Self::AttributeTooLong => libc::ERANGE,
            Self::Unsupported => libc::ENOSYS,
            Self::NoCommand => libc::ENOTTY,
            // One errno for every way in which bytes cannot be had: a missing file that is signed is not
            // "no such file", it is a model that cannot be trusted to be whole.
            Self::Read(
                ReadError::Rejected { .. }
                | ReadError::Changed { .. }
                | ReadError::Source(_)
                | ReadError::TimedOut { .. }
                | ReadError::Abandoned,
            )
            | Self::Panicked => libc::EIO,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEntry => write!(f, "no signed file has this name"),
            Self::Stale => write!(f, "no such inode"),
            Self::NotDirectory => write!(f, "not a directory"),
            Self::IsDirectory => write!(f, "a directory"),
            Self::ReadOnly => write!(f, "the model is read-only"),
            Self::NoAttribute => write!(f, "no such extended attribute"),
            Self::AttributeTooLong => write!(f, "the buffer is too small for the extended attribute"),
            Self::Unsupported => write!(f, "no such operation"),
            Self::NoCommand => write!(f, "no such control command"),
            Self::Read(e) => write!(f, "{e}"),
            Self::Panicked => write!(f, "an operation panicked; this is a bug of modelfs"),
        }
    }
}

impl std::error::Error for Error {}

/// How a [`State`] is shown in reports.
impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}
