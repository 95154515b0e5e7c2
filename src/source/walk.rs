//! Enumerates what lies in the source, so that what nobody signed can be named.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;

use super::Links;
use super::ModelDir;
use super::Root;
use super::SourceError;
use super::What;
use super::kind_name;
use crate::path::MAX_PATH_BYTES;
use crate::sys;
use crate::sys::Resolve;

/// Something in the source that is not a directory to descend into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the model's root, in whatever bytes the file system has.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
}

/// What an [`Entry`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, or a link to one where links are followed.
    File {
        /// Whether it has no bytes.
        empty: bool,
    },
    /// Anything else.
    Other(&'static str),
}

impl ModelDir {
    /// Everything beneath the root but directories, except names for which `skip` holds and all beneath
    /// those. A directory that is linked to is not descended into; it is left out when what it leads to
    /// is walked anyway. A model of one file has no other entries.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn walk(&self, skip: &dyn Fn(&[u8]) -> bool) -> Result<Vec<Entry>, SourceError> {
        let Root::Directory(root) = &self.root else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        let mut pending = vec![Vec::new()];
        while let Some(directory) = pending.pop() {
            let here = |error: std::io::Error| SourceError {
                name: if directory.is_empty() {
                    b".".to_vec()
                } else {
                    directory.clone()
                },
                what: What::from(error),
            };
            let opened = match directory.is_empty() {
                true => sys::list(root),
                false => match sys::find(root.as_fd(), &directory, Resolve::Beneath) {
                    Ok(found) => sys::list(&found),
                    Err(e) if e.raw_os_error() == Some(libc::EXDEV) => {
                        entries.push(Entry {
                            name: directory,
                            kind: EntryKind::Other("a mount point"),
                        });
                        continue;
                    }
                    Err(e) => {
                        return Err(SourceError {
                            name: directory,
                            what: What::from(e),
                        });
                    }
                },
            };
            for entry in opened.map_err(here)? {
                let entry = entry.map_err(|e| here(e.into()))?;
                let component = entry.file_name().to_bytes();
                if component == b"." || component == b".." {
                    continue;
                }
                let mut name = directory.clone();
                if !name.is_empty() {
                    name.push(b'/');
                }
                name.extend_from_slice(component);
                if skip(&name) {
                    continue;
                }
                match self.classify(&name, skip) {
                    Class::Directory if name.len() < MAX_PATH_BYTES => pending.push(name),
                    Class::Directory => {
                        entries.push(Entry {
                            name,
                            kind: EntryKind::Other("a path too long to open"),
                        });
                    }
                    Class::Covered => {}
                    Class::Entry(kind) => entries.push(Entry { name, kind }),
                }
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn classify(&self, name: &[u8], skip: &dyn Fn(&[u8]) -> bool) -> Class {
        let Root::Directory(root) = &self.root else {
            return Class::Covered;
        };
        let (found, linked) = match sys::find(root.as_fd(), name, Resolve::Beneath) {
            Ok(found) => (found, false),
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => match self.links {
                Links::Refuse => return Class::Entry(EntryKind::Other(kind_name(FileType::Symlink))),
                Links::Follow => match sys::find(root.as_fd(), name, Resolve::Links) {
                    Ok(found) => (found, true),
                    Err(_) => return Class::Entry(EntryKind::Other("a symbolic link that leads nowhere")),
                },
            },
            Err(e) if e.raw_os_error() == Some(libc::EXDEV) => {
                return Class::Entry(EntryKind::Other("a mount point"));
            }
            Err(_) => return Class::Entry(EntryKind::Other("something that cannot be looked at")),
        };
        let Ok(stat) = rustix::fs::fstat(&found) else {
            return Class::Entry(EntryKind::Other("something that cannot be looked at"));
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Class::Entry(EntryKind::File {
                empty: stat.st_size == 0,
            }),
            FileType::Directory if !linked => Class::Directory,
            FileType::Directory if self.walks(&found, skip) => Class::Covered,
            FileType::Directory => Class::Entry(EntryKind::Other("a symbolic link to a directory")),
            other => Class::Entry(EntryKind::Other(kind_name(other))),
        }
    }

    /// Whether this directory is one that [`ModelDir::walk`] descends into by its own name.
    fn walks(&self, directory: &OwnedFd, skip: &dyn Fn(&[u8]) -> bool) -> bool {
        let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let Ok(target) = std::fs::read_link(link) else {
            return false;
        };
        let Ok(relative) = target.strip_prefix(&self.path) else {
            return false;
        };
        relative
            .ancestors()
            .all(|above| above.as_os_str().is_empty() || !skip(above.as_os_str().as_bytes()))
    }
}

enum Class {
    Directory,
    /// Its content is walked elsewhere.
    Covered,
    Entry(EntryKind),
}
