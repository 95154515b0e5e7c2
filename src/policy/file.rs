//! Files that say what is trusted: policies, keys and certificates.
//!
//! Whoever writes such a file decides what is served, so a [`TrustFile`] exists only for a file that
//! nobody but root and the caller could have written or put in its place. The path is walked component by
//! component through open directories, and what was examined is what is read: there is no moment between
//! the check and the read in which a name could be given to something else.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use super::location::ModelLocation;
use crate::path::Escaped;

/// Largest file in bytes. A policy of a thousand rules and a bundle of a hundred certificates have less;
/// more would let a wrong name (a disk, a model) fill the memory.
pub const MAX_TRUST_FILE_BYTES: u64 = 1 << 20;

/// Most symbolic links followed on the way to one file, as in the kernel (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// The content of a file that may say what is trusted.
#[derive(Debug)]
pub struct TrustFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl TrustFile {
    /// Reads a policy file, or a file that a policy names.
    ///
    /// # Errors
    /// The file must be regular, belong to root or to the caller and be writable by nobody else; so must
    /// each folder and link on the way to it, where a sticky folder may be written by others. None of them
    /// may be the model or lie inside it.
    pub fn read_protected(path: &Path, model: &ModelLocation) -> Result<Self, FileError> {
        Self::read(path, model, Care::Protected)
    }

    /// Reads a file that the caller named on the command line. They chose it there and then, so it may
    /// belong to anybody: `sudo` is used on one's own files.
    ///
    /// # Errors
    /// The file must be regular, not writable by everybody and not inside the model; nor may everybody be able to
    /// replace it in a folder on the way.
    pub fn read_named(path: &Path, model: &ModelLocation) -> Result<Self, FileError> {
        Self::read(path, model, Care::Named)
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn read(path: &Path, model: &ModelLocation, care: Care) -> Result<Self, FileError> {
        let walk = Walk {
            file: path,
            model,
            care,
            euid: rustix::process::geteuid().as_raw(),
        };
        let mut bytes = Vec::new();
        // One byte more than allowed, for a file that grew after its size was looked at.
        walk.open()?
            .take(MAX_TRUST_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| walk.io(source))?;
        if u64::try_from(bytes.len()).is_ok_and(|size| size > MAX_TRUST_FILE_BYTES) {
            return Err(FileError::TooLarge { path: path.into() });
        }
        Ok(Self {
            path: path.into(),
            bytes,
        })
    }
}

/// How much is asked of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    Protected,
    Named,
}

/// One walk from the root to a file.
struct Walk<'a> {
    file: &'a Path,
    model: &'a ModelLocation,
    care: Care,
    euid: u32,
}

impl Walk<'_> {
    fn open(&self) -> Result<File, FileError> {
        let absolute = std::path::absolute(self.file).map_err(|source| self.io(source))?;
        let mut ahead = reversed_components(&absolute);
        let (mut folder, mut at) = self.root()?;
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            let entry = self.open_at(&folder, &name, OFlags::PATH)?;
            let metadata = entry.metadata().map_err(|source| self.io(source))?;
            let kind = metadata.file_type();
            if kind.is_dir() {
                step(&mut at, &name);
                self.admit_folder(&at, &metadata)?;
                folder = entry;
            } else if kind.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(self.io(io::Error::from(rustix::io::Errno::LOOP)));
                }
                self.admit_link(&at.join(&name), &metadata)?;
                let target = rustix::fs::readlinkat(&entry, "", Vec::new())
                    .map_err(|errno| self.io(io::Error::from(errno)))?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    (folder, at) = self.root()?;
                }
                ahead.extend(reversed_components(&target));
            } else if !ahead.is_empty() {
                return Err(self.io(io::Error::from(rustix::io::Errno::NOTDIR)));
            } else if kind.is_file() {
                return self.open_last(&folder, &name);
            } else {
                return Err(FileError::NotRegular {
                    path: self.file.into(),
                });
            }
        }
        Err(FileError::NotRegular {
            path: self.file.into(),
        })
    }

    /// Opens the file for reading and examines what was opened, not what was seen before.
    fn open_last(&self, folder: &File, name: &OsStr) -> Result<File, FileError> {
        let path = || self.file.to_path_buf();
        // Never waits for a writer of a FIFO that has just taken the file's place.
        let file = self.open_at(folder, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let metadata = file.metadata().map_err(|source| self.io(source))?;
        if !metadata.is_file() {
            return Err(FileError::NotRegular { path: path() });
        }
        if self.model.is(&metadata) {
            return Err(self.inside_model());
        }
        if metadata.len() > MAX_TRUST_FILE_BYTES {
            return Err(FileError::TooLarge { path: path() });
        }
        if self.care == Care::Protected {
            self.admit_owner(self.file, &metadata)?;
        }
        let forbidden = match self.care {
            Care::Protected => GROUP_OR_OTHERS_WRITE,
            Care::Named => OTHERS_WRITE,
        };
        if metadata.mode() & forbidden != 0 {
            return Err(FileError::Writable {
                path: path(),
                mode: metadata.mode() & MODE_BITS,
            });
        }
        Ok(file)
    }

    fn root(&self) -> Result<(File, PathBuf), FileError> {
        let root = rustix::fs::openat(
            CWD,
            "/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| self.io(io::Error::from(errno)))?;
        let root = File::from(root);
        let metadata = root.metadata().map_err(|source| self.io(source))?;
        self.admit_folder(Path::new("/"), &metadata)?;
        Ok((root, PathBuf::from("/")))
    }

    fn open_at(&self, folder: &File, name: &OsStr, flags: OFlags) -> Result<File, FileError> {
        rustix::fs::openat(
            folder,
            name,
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map(|fd: OwnedFd| File::from(fd))
        .map_err(|errno| self.io(io::Error::from(errno)))
    }

    fn admit_folder(&self, folder: &Path, metadata: &Metadata) -> Result<(), FileError> {
        if self.model.is(metadata) {
            return Err(self.inside_model());
        }
        let forbidden = match self.care {
            Care::Protected => {
                self.admit_owner(folder, metadata)?;
                GROUP_OR_OTHERS_WRITE
            }
            // A group is often one user's own, or those who keep the keys together: the caller named the file.
            Care::Named => OTHERS_WRITE,
        };
        let sticky = metadata.mode() & STICKY != 0;
        if metadata.mode() & forbidden != 0 && !sticky {
            return Err(FileError::FolderWritable {
                path: self.file.into(),
                folder: folder.into(),
                mode: metadata.mode() & MODE_BITS,
            });
        }
        Ok(())
    }

    /// In a sticky folder anybody may leave a link that leads elsewhere.
    fn admit_link(&self, link: &Path, metadata: &Metadata) -> Result<(), FileError> {
        match self.care {
            Care::Protected => self.admit_owner(link, metadata),
            Care::Named => Ok(()),
        }
    }

    fn admit_owner(&self, at: &Path, metadata: &Metadata) -> Result<(), FileError> {
        let uid = metadata.uid();
        if uid == 0 || uid == self.euid {
            return Ok(());
        }
        Err(FileError::ForeignOwner {
            path: self.file.into(),
            at: at.into(),
            uid,
        })
    }

    fn inside_model(&self) -> FileError {
        FileError::InsideModel {
            path: self.file.into(),
            model: self.model.path().into(),
        }
    }

    fn io(&self, source: io::Error) -> FileError {
        FileError::Io {
            path: self.file.into(),
            source,
        }
    }
}

const OTHERS_WRITE: u32 = 0o002;
const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;
const MODE_BITS: u32 = 0o7777;

/// The components of a path, the first last.
fn reversed_components(path: &Path) -> Vec<OsString> {
    path.components()
        .filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir))
        .map(|c| c.as_os_str().to_owned())
        .rev()
        .collect()
}

/// Follows a component; links are resolved before, so `..` leads where it seems to.
fn step(at: &mut PathBuf, name: &OsStr) {
    if name == ".." {
        at.pop();
    } else {
        at.push(name);
    }
}

/// Why a file may not say what is trusted.
#[derive(Debug)]
pub enum FileError {
    /// It could not be reached or read.
    Io {
        /// The file as it was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a folder, a pipe or a device.
    NotRegular {
        /// The file as it was named.
        path: PathBuf,
    },
    /// It, or a folder or link on the way to it, belongs to neither root nor the caller.
    ForeignOwner {
        /// The file as it was named.
        path: PathBuf,
        /// What has the foreign owner.
        at: PathBuf,
        /// That owner.
        uid: u32,
    },
    /// Others may write to it.
    Writable {
        /// The file as it was named.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Others may put another file in its place.
    FolderWritable {
        /// The file as it was named.
        path: PathBuf,
        /// The folder that others may write.
        folder: PathBuf,
        /// That folder's permissions.
        mode: u32,
    },
    /// It is part of the model, or reached through it.
    InsideModel {
        /// The file as it was named.
        path: PathBuf,
        /// The model.
        model: PathBuf,
    },
    /// It is larger than [`MAX_TRUST_FILE_BYTES`].
    TooLarge {
        /// The file as it was named.
        path: PathBuf,
    },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, .. } => write!(f, "{} cannot be read", shown(path)),
            Self::NotRegular { path } => {
                write!(f, "{} is not a regular file: name the file itself", shown(path))
            }
            Self::ForeignOwner { path, at, uid } => {
                write!(f, "{} is not safe to trust: ", shown(path))?;
                if at == path {
                    write!(f, "it belongs to user {uid}")?;
                } else {
                    write!(f, "{} belongs to user {uid}", shown(at))?;
                }
                write!(f, ", let it belong to root or to you")
            }
            Self::Writable { path, mode } => {
                let path = shown(path);
                write!(
                    f,
                    "{path} is not safe to trust: others may write to it (mode {mode:04o}), run chmod go-w {path}"
                )
            }
            Self::FolderWritable { path, folder, mode } => {
                let folder = shown(folder);
                write!(
                    f,
                    "{} is not safe to trust: others may write to {folder} (mode {mode:04o}), run chmod go-w {folder}",
                    shown(path)
                )
            }
            Self::InsideModel { path, model } => write!(
                f,
                "{} lies inside the model {}, whose writer would choose what to trust: keep it elsewhere",
                shown(path),
                shown(model)
            ),
            Self::TooLarge { path } => {
                write!(f, "{} is larger than {MAX_TRUST_FILE_BYTES} bytes", shown(path))
            }
        }
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::NotRegular { .. }
            | Self::ForeignOwner { .. }
            | Self::Writable { .. }
            | Self::FolderWritable { .. }
            | Self::InsideModel { .. }
            | Self::TooLarge { .. } => None,
        }
    }
}

/// A path that is safe to print.
pub(super) fn shown(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests;
