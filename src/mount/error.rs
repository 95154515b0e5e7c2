//! What goes wrong with mounting, in one sentence each with its remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::TYPE;

/// Why nothing is mounted, or something still is.
#[derive(Debug)]
pub enum MountError {
    /// The mount point does not serve.
    MountPoint {
        /// As it was given.
        path: PathBuf,
        /// What is the matter.
        problem: Problem,
    },
    /// `/dev/fuse` cannot be used.
    NoDevice(io::Error),
    /// The system refused to mount.
    Refused {
        /// Where.
        mountpoint: PathBuf,
        /// What it said.
        message: String,
    },
    /// The process that mounts refused, or could not be asked: what it said.
    Privileged(String),
    /// There is no `fusermount3`, which mounts for users other than root.
    NoHelper(io::Error),
    /// The conversation with the kernel failed.
    Session {
        /// Where.
        mountpoint: PathBuf,
        /// How.
        error: io::Error,
    },
}

/// What is the matter with a mount point.
#[derive(Debug)]
pub enum Problem {
    /// It does not exist.
    Missing,
    /// It is not a directory.
    NotDirectory,
    /// Something lies in it, which the mount would hide.
    NotEmpty,
    /// A model is mounted there.
    Mounted,
    /// Something else is mounted over the model.
    Covered,
    /// No model is mounted there.
    NotMounted,
    /// It names a descriptor that is not open.
    NoDescriptor,
    /// It names a descriptor of something else.
    NoFuseDevice,
    /// It names a device with which nothing is mounted.
    NotMountedWith,
    /// Files of the mounted model are open.
    Busy,
    /// The server of the mount is gone.
    Dead,
    /// The mount of a server that is gone cannot be taken away.
    Stale(io::Error),
    /// The file system refuses.
    Io(io::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT) => Self::Missing,
            Some(libc::ENOTDIR) => Self::NotDirectory,
            Some(libc::ENOTCONN) => Self::Dead,
            _ => Self::Io(error),
        }
    }
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MountPoint { path, problem } => {
                let path = crate::path::Escaped(path.as_os_str().as_encoded_bytes());
                match problem {
                    Problem::Missing => {
                        write!(f, "{path}: the mount point does not exist; create it with mkdir")
                    }
                    Problem::NotDirectory => {
                        write!(f, "{path}: the mount point is not a directory; name one")
                    }
                    Problem::NotEmpty => {
                        write!(f, "{path}: the mount point is not empty; name an empty directory")
                    }
                    Problem::Mounted => {
                        write!(
                            f,
                            "{path}: a model is mounted here; unmount it first with modelfs unmount"
                        )
                    }
                    Problem::Covered => write!(
                        f,
                        "{path}: something else is mounted over the model; unmount that first, then this"
                    ),
                    Problem::NotMounted => write!(
                        f,
                        "{path}: no model is mounted here; findmnt -t {TYPE} lists them"
                    ),
                    Problem::NoDescriptor => write!(
                        f,
                        "{path}: this descriptor is not open; whoever mounts must leave it open for modelfs"
                    ),
                    Problem::NoFuseDevice => {
                        write!(
                            f,
                            "{path}: this descriptor is not /dev/fuse; hand over the one that was mounted with"
                        )
                    }
                    Problem::NotMountedWith => write!(
                        f,
                        "{path}: nothing is mounted with this device; mount first, then hand it over"
                    ),
                    Problem::Busy => {
                        write!(
                            f,
                            "{path}: files of the model are in use; fuser -vm {path} shows by whom"
                        )
                    }
                    Problem::Dead => {
                        write!(
                            f,
                            "{path}: the server of this mount is gone; modelfs unmount takes it away"
                        )
                    }
                    Problem::Stale(e) => {
                        write!(
                            f,
                            "{path}: the mount of a server that is gone cannot be taken away: {e}"
                        )
                    }
                    Problem::Io(e) => write!(f, "{path}: {e}"),
                }
            }
            Self::NoDevice(e) => write!(
                f,
                "/dev/fuse: {e}; load the fuse module, or give this container the device and the right to use it"
            ),
            Self::Refused { mountpoint, message } => {
                write!(
                    f,
                    "{}: the system refused to mount: {message}",
                    mountpoint.display()
                )
            }
            Self::Privileged(message) => f.write_str(message),
            Self::NoHelper(e) => {
                write!(
                    f,
                    "fusermount3: {e}; install the package fuse3, which mounts for users other than root"
                )
            }
            Self::Session { mountpoint, error } => {
                write!(
                    f,
                    "{}: the conversation with the kernel failed: {error}",
                    mountpoint.display()
                )
            }
        }
    }
}

impl std::error::Error for MountError {}
