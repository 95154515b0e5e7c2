//! The source: the untrusted model directory, opened beneath its root and read at positions.
//!
//! Nothing that comes from here is believed: bytes go to [`crate::verify`], and a size only says how much
//! to hash. What this module does keep true is that no name leads out of the model or into a device, and
//! that no source is ever mapped.

use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rustix::fs::FileType;

use crate::path::Escaped;
use crate::path::ModelPath;
use crate::sys;
use crate::sys::Resolve;

mod walk;
pub use walk::Entry;
pub use walk::EntryKind;

/// Whether symbolic links in the source are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// A link is a file of the wrong type.
    Refuse,
    /// A link stands for the regular file it leads to, inside the model or not: the digest decides.
    Follow,
}

/// An untrusted model: a directory, or one regular file.
#[derive(Debug)]
pub struct ModelDir {
    path: PathBuf,
    root: Root,
    links: Links,
    traffic: Arc<Counted>,
}

/// How the source was read, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the device into our buffers, past the page cache.
    pub direct_bytes: u64,
    /// Out of the page cache, where they were already.
    pub cached_bytes: u64,
    /// Through the page cache, and dropped there again.
    pub buffered_bytes: u64,
}

#[derive(Debug, Default)]
struct Counted {
    direct: AtomicU64,
    cached: AtomicU64,
    buffered: AtomicU64,
}

/// Files smaller than this many bytes are read through the page cache: opening them once more takes longer than they
/// stay in it.
const MIN_DIRECT_BYTES: u64 = 1024 * 1024;

#[derive(Debug)]
enum Root {
    Directory(OwnedFd),
    /// The directory that holds the file, so that the file can be found anew by its name.
    File {
        parent: OwnedFd,
        name: Vec<u8>,
    },
}

impl ModelDir {
    /// Opens a model for finding files in it; the root is held from now on, whatever its name comes to mean.
    ///
    /// # Errors
    /// When there is neither a directory nor a regular file.
    pub fn open(model: &Path, links: Links) -> Result<Self, SourceError> {
        let here = |what: What| SourceError {
            name: model.as_os_str().as_bytes().to_vec(),
            what,
        };
        let path = model.canonicalize().map_err(|e| here(What::from(e)))?;
        let kind = path.metadata().map_err(|e| here(What::from(e)))?;
        let open = |dir: &Path| sys::find_directory(dir).map_err(|e| here(What::from(e)));
        let root = if kind.is_dir() {
            Root::Directory(open(&path)?)
        } else if kind.is_file() {
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Root::File {
                    parent: open(parent)?,
                    name: name.as_bytes().to_vec(),
                },
                _ => return Err(here(What::NotRegular("no file name"))),
            }
        } else {
            return Err(here(What::NotRegular(kind_name(FileType::from_raw_mode(
                kind.mode(),
            )))));
        };
        Ok(Self {
            path,
            root,
            links,
            traffic: Arc::default(),
        })
    }

    /// The canonical path it was opened at, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root itself, for a process that confines itself to it: the directory, or for a model of one file that
    /// file as it is now.
    ///
    /// # Errors
    /// When the file has gone.
    pub fn root(&self) -> Result<OwnedFd, SourceError> {
        let found = match &self.root {
            Root::Directory(root) => root.try_clone(),
            Root::File { parent, name } => sys::find(parent.as_fd(), name, Resolve::Beneath),
        };
        found.map_err(|e| SourceError {
            name: self.path.as_os_str().as_bytes().to_vec(),
            what: What::from(e),
        })
    }

    /// Whether links are followed, out of the root too.
    pub fn follows_links(&self) -> bool {
        self.links == Links::Follow
    }

    /// Whether the model is one file rather than a directory.
    pub fn is_file(&self) -> bool {
        matches!(self.root, Root::File { .. })
    }

    /// Finds a regular file and tells its size, without opening it. For a model of one file the name is
    /// not used.
    ///
    /// # Errors
    /// When nothing is there, something that is no regular file, or one that this process may not read.
    pub fn size_of(&self, path: &ModelPath) -> Result<u64, SourceError> {
        let (found, size) = self.find(path)?;
        sys::may_read(&found).map_err(|e| SourceError::at(path, e))?;
        Ok(size)
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// As [`ModelDir::size_of`], and when it may not be read.
    pub fn open_file(&self, path: &ModelPath) -> Result<SourceFile, SourceError> {
        let (found, size) = self.find(path)?;
        let file = sys::reopen(&found).map_err(|e| SourceError::at(path, e))?;
        // What cannot be opened so is read through the page cache.
        let direct = if size >= MIN_DIRECT_BYTES {
            sys::reopen_direct(&found).ok()
        } else {
            None
        };
        Ok(SourceFile {
            file,
            direct,
            refuses_direct: AtomicBool::new(false),
            was_cached: AtomicBool::new(false),
            size,
            traffic: Arc::clone(&self.traffic),
        })
    }

    /// How the source was read so far.
    pub fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            direct_bytes: read(&self.traffic.direct),
            cached_bytes: read(&self.traffic.cached),
            buffered_bytes: read(&self.traffic.buffered),
        }
    }

    fn find(&self, path: &ModelPath) -> Result<(OwnedFd, u64), SourceError> {
        let (root, name) = match &self.root {
            Root::Directory(root) => (root, path.as_str().as_bytes()),
            Root::File { parent, name } => (parent, name.as_slice()),
        };
        let resolve = match self.links {
            Links::Refuse => Resolve::Beneath,
            Links::Follow => Resolve::Links,
        };
        let found = sys::find(root.as_fd(), name, resolve).map_err(|e| match e.raw_os_error() {
            Some(libc::ELOOP) if self.links == Links::Follow => SourceError {
                name: path.as_str().into(),
                what: What::NotRegular("a link that leads in a circle or into the kernel"),
            },
            _ => SourceError::at(path, e),
        })?;
        let stat = rustix::fs::fstat(&found).map_err(|e| SourceError::at(path, e.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            // Only a link can lead there: otherwise no mount point is crossed.
            FileType::RegularFile if self.links == Links::Follow && sys::is_kernel_interface(&found) => {
                return Err(SourceError {
                    name: path.as_str().into(),
                    what: What::NotRegular("an interface of the kernel"),
                });
            }
            FileType::RegularFile => {}
            other => {
                return Err(SourceError {
                    name: path.as_str().into(),
                    what: What::NotRegular(kind_name(other)),
                });
            }
        }
        let size = u64::try_from(stat.st_size).map_err(|_| SourceError {
            name: path.as_str().into(),
            what: What::Io(io::Error::other("the file system reports a negative size")),
        })?;
        Ok((found, size))
    }
}

/// An open, untrusted file.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    /// The same file, open for reads past the page cache.
    direct: Option<File>,
    /// Whether the file system took the flag and then refused such a read.
    refuses_direct: AtomicBool,
    /// Whether the page cache had all of the last read.
    was_cached: AtomicBool,
    size: u64,
    traffic: Arc<Counted>,
}

impl SourceFile {
    /// The size in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads into a page-aligned buffer of ours until it is full or the file ends; returns how much it read. The length
    /// and the offset are multiples of [`sys::PAGE_BYTES`]. What the page cache does not have is read past it, or
    /// dropped from it behind us: every byte of a model is read once, and lies in the mount's own page cache then. What
    /// it has already is for the caller to [let go](Self::let_go).
    ///
    /// # Errors
    /// What the file system says.
    pub fn read_pages(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let range = offset..offset.saturating_add(bytes).min(self.size);
        let wanted = range.end.saturating_sub(range.start);
        let is_cached = self.is_cached(&range);
        self.was_cached.store(is_cached, Ordering::Relaxed);
        if is_cached {
            return counted(&self.traffic.cached, fill(&self.file, buffer, offset));
        }
        if let Some(direct) = &self.direct
            && !self.refuses_direct.load(Ordering::Relaxed)
        {
            match counted(&self.traffic.direct, fill(direct, buffer, offset)) {
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                    self.refuses_direct.store(true, Ordering::Relaxed);
                }
                Ok(read) if u64::try_from(read).is_ok_and(|read| read < wanted) => {
                    // It may stop early for reasons of its own; only the page cache knows where a file ends.
                    let at = offset.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
                    let rest = buffer.get_mut(read..).unwrap_or_default();
                    return Ok(read + fill(&self.file, rest, at)?);
                }
                read => return read,
            }
        }
        let read = counted(&self.traffic.buffered, fill(&self.file, buffer, offset));
        self.let_go(&range);
        read
    }

    /// Whether the page cache had all of the last read.
    pub fn was_cached(&self) -> bool {
        self.was_cached.load(Ordering::Relaxed)
    }

    /// Drops these bytes from the page cache; not those of a small file, and not what somebody has mapped.
    pub fn let_go(&self, range: &Range<u64>) {
        let len = NonZeroU64::new(range.end.saturating_sub(range.start));
        if self.size >= MIN_DIRECT_BYTES && len.is_some() {
            // Only a hint: what stays in the cache costs memory and nothing else.
            let _ = rustix::fs::fadvise(&self.file, range.start, len, rustix::fs::Advice::DontNeed);
        }
    }

    /// Whether these bytes lie in the page cache, as far as the kernel tells.
    pub(crate) fn is_cached(&self, range: &Range<u64>) -> bool {
        sys::cached_bytes(&self.file, range)
            .is_some_and(|cached| cached >= range.end.saturating_sub(range.start))
    }

    #[cfg(feature = "planted-faults")]
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

fn counted(counter: &AtomicU64, read: io::Result<usize>) -> io::Result<usize> {
    if let Ok(bytes) = read {
        counter.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
    }
    read
}

/// Reads until the buffer is full or the file ends. A direct read that ends in the middle of a page has met the end.
fn fill(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::InvalidInput && filled % sys::PAGE_BYTES != 0 => break,
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Why a name in the source could not be used.
#[derive(Debug)]
pub struct SourceError {
    name: Vec<u8>,
    what: What,
}

/// What was found instead of a readable regular file.
#[derive(Debug)]
pub enum What {
    /// Nothing has this name.
    Missing,
    /// A symbolic link, which may not be followed.
    Link,
    /// The name leads across a mount point or out of the model.
    Outside,
    /// Something else than a regular file.
    NotRegular(&'static str),
    /// The file system refused.
    Io(io::Error),
}

impl SourceError {
    pub(crate) fn at(path: &ModelPath, error: io::Error) -> Self {
        Self {
            name: path.as_str().into(),
            what: What::from(error),
        }
    }

    /// What was found.
    pub fn what(&self) -> &What {
        &self.what
    }
}

impl From<io::Error> for What {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT) => Self::Missing,
            // A file stands where the manifest needs a directory: the file we want is not there.
            Some(libc::ENOTDIR) => Self::NotRegular("beneath something that is not a directory"),
            Some(libc::ELOOP) => Self::Link,
            Some(libc::EXDEV) => Self::Outside,
            _ => Self::Io(error),
        }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", Escaped(&self.name))?;
        match &self.what {
            What::Missing => write!(f, "missing"),
            What::Link => write!(f, "a symbolic link, which is followed only with --allow-symlinks"),
            What::Outside => write!(f, "leads across a mount point or out of the model"),
            What::NotRegular(found) => write!(f, "not a regular file but {found}"),
            What::Io(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.what {
            What::Io(e) => e.source(),
            _ => None,
        }
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "something unknown",
    }
}
