//! The mount: mount point, kernel session, signals, unmounting.
//!
//! A [`Session`] exists only when the kernel has been answered; it ends when somebody unmounts, or when a
//! signal makes it unmount itself. A daemon that dies leaves a mount that answers ENOTCONN, never an empty
//! directory.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;

use crate::fs::ModelFs;
use crate::fs::Report;
use crate::fs::XATTR_PREFIX;
use crate::fuse::FuseAdapter;
use crate::sys;
use crate::verify::Offer;

mod attach;
mod handed;
mod table;

use table::Entry;
use table::Table;

pub use handed::HandedOver;
pub use table::mounted;

/// The file system type that the mount table shows.
pub const TYPE: &str = "fuse.modelfs";

/// Threads that take requests from the kernel. They only decode and hand over, so two keep up; a third
/// would wait for the same device.
const KERNEL_THREADS: usize = 2;

/// How a model is mounted.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Let other users read.
    pub allow_other: bool,
    /// Let readers map files executably. Files are never executable by mode.
    pub allow_exec: bool,
    /// What the mount table shows as the source.
    pub source_name: PathBuf,
}

/// A mount that is being served.
#[derive(Debug)]
pub struct Session {
    place: Standing,
    background: fuser::BackgroundSession,
    signals: Signals,
}

/// Which mount is ours: where it was made, and the entry that tells it from any other, whatever became of the
/// names on its way.
#[derive(Clone, Debug)]
struct Mounted {
    path: PathBuf,
    entry: Option<Entry>,
}

/// Whose the mount is.
#[derive(Clone, Debug)]
enum Standing {
    Ours(Mounted),
    /// Somebody else made it and will take it away; this is what they called it.
    Theirs(PathBuf),
}

/// How long a session may take to end once its mount is gone. It goes on when the file system is seen elsewhere,
/// in another mount namespace for one; this process ends all the same.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a session waits for.
enum Event {
    Ended(io::Result<()>),
    Signal(i32),
}

impl Session {
    /// Mounts, and returns when the kernel has been answered: serving has begun.
    ///
    /// # Errors
    /// When the mount point cannot be used, or the system does not mount; nothing is left mounted then.
    pub fn start(fs: Arc<ModelFs>, mountpoint: &Path, options: &MountOptions) -> Result<Self, MountError> {
        let place = prepare(mountpoint)?;
        let failed = |error| MountError::Session {
            mountpoint: place.path.clone(),
            error,
        };
        make_ready();
        let signals = catch_signals().map_err(failed)?;
        let before = Table::read().map_err(failed)?;
        let device = attach::attach(&place, options)?;
        let mounted = Mounted {
            path: place.path.clone(),
            entry: new_entry(&before, &place.path),
        };
        let acl = match options.allow_other {
            true => fuser::SessionACL::All,
            false => fuser::SessionACL::Owner,
        };
        match converse(fs, device, acl, Queue::PerThread) {
            Ok(background) => Ok(Self {
                place: Standing::Ours(mounted),
                background,
                signals,
            }),
            Err(e) => {
                if let Err(e) = take_away(&mounted.path, attach::Detach::Lazily) {
                    log::error!("{}: could not be unmounted again: {e}", mounted.path.display());
                }
                Err(failed(e))
            }
        }
    }

    /// Serves a mount that somebody else made, and returns when the kernel has been answered. Who may read is for the
    /// kernel to say, by the options of that mount.
    ///
    /// # Errors
    /// When nothing is mounted with the device, or the kernel does not talk to us.
    pub fn take_over(fs: Arc<ModelFs>, handed: HandedOver) -> Result<Self, MountError> {
        let (device, name) = handed.into_parts();
        let failed = |error| MountError::Session {
            mountpoint: name.clone(),
            error,
        };
        make_ready();
        let signals = catch_signals().map_err(failed)?;
        // Who was handed a device may be unable to open one.
        let queue = match File::options().read(true).write(true).open("/dev/fuse") {
            Ok(_) => Queue::PerThread,
            Err(_) => Queue::Shared,
        };
        let background =
            converse(fs, device, fuser::SessionACL::All, queue).map_err(|e| match e.raw_os_error() {
                Some(libc::EPERM) => MountError::MountPoint {
                    path: name.clone(),
                    problem: Problem::NotMountedWith,
                },
                _ => failed(e),
            })?;
        Ok(Self {
            place: Standing::Theirs(name),
            background,
            signals,
        })
    }

    /// Serves until somebody unmounts, or until SIGTERM, SIGINT or SIGHUP does. With files open the mount then
    /// leaves the tree at once; their readers get errors when this process ends, and none waits for the others.
    /// A mount that somebody else made is theirs to take away: it stays, and answers ENOTCONN.
    ///
    /// # Errors
    /// When the connection to the kernel breaks, or the mount cannot be taken away.
    pub fn wait(self) -> Result<(), MountError> {
        let path = self.mountpoint().to_owned();
        let Self {
            place,
            background,
            mut signals,
        } = self;
        let failed = |error| MountError::Session {
            mountpoint: path.clone(),
            error,
        };
        let (sender, events) = channel();
        let ended = sender.clone();
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.into())
                .spawn(run)
                .map_err(failed)
        };
        // Nobody listens any more only when this process is about to end.
        spawn(
            "session",
            Box::new(move || drop(ended.send(Event::Ended(background.join())))),
        )?;
        spawn(
            "signals",
            Box::new(move || {
                for signal in signals.forever() {
                    let _ = sender.send(Event::Signal(signal));
                }
            }),
        )?;
        let mut stopping = false;
        loop {
            let event = match stopping {
                true => events.recv_timeout(FAREWELL).map_err(drop),
                false => events.recv().map_err(drop),
            };
            match event {
                Ok(Event::Ended(result)) if !stopping => return result.map_err(failed),
                Ok(Event::Ended(_)) | Err(()) => return Ok(()),
                Ok(Event::Signal(signal)) => match &place {
                    Standing::Theirs(name) => {
                        log::info!(
                            "{}: signal {signal}, ending; the mount is not ours to undo",
                            name.display()
                        );
                        return Ok(());
                    }
                    Standing::Ours(mounted) => {
                        log::info!("{}: signal {signal}, unmounting", mounted.path.display());
                        match mounted.stop() {
                            Ok(Stopped::Idle) => stopping = true,
                            Ok(Stopped::WhileInUse) => return Ok(()),
                            // Ending now would leave a dead mount; the next signal tries again.
                            Err(e) => log::error!("{e}"),
                        }
                    }
                },
            }
        }
    }

    /// Where it is mounted; for a mount that somebody else made, the name it was handed over under.
    pub fn mountpoint(&self) -> &Path {
        match &self.place {
            Standing::Ours(mounted) => &mounted.path,
            Standing::Theirs(name) => name,
        }
    }
}

/// The way to offer pinned files to the kernel.
struct Backing(OwnedFd);

impl Offer for Backing {
    fn offer(&self, sealed: BorrowedFd<'_>) -> io::Result<u32> {
        fuser::BackingId::create_raw(&self.0, sealed)
    }
}

/// Shuts this process off from others of its user, and lets it open what it may.
fn make_ready() {
    if let Err(e) = sys::harden() {
        log::warn!("this process could not be shut off from debuggers and core files: {e}");
    }
    if let Err(e) = sys::raise_descriptor_limit() {
        log::warn!("the number of files that may be open could not be raised: {e}");
    }
}

/// From here on a signal unmounts instead of killing: a mount never stands without somebody to undo it.
fn catch_signals() -> io::Result<Signals> {
    Signals::new([SIGTERM, SIGINT, SIGHUP])
}

/// How the kernel threads get at the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    /// Each has a device of its own, which it must be able to open.
    PerThread,
    /// All read the one.
    Shared,
}

/// Answers the kernel's first request, and has threads answer all others.
fn converse(
    fs: Arc<ModelFs>,
    device: OwnedFd,
    acl: fuser::SessionACL,
    queue: Queue,
) -> io::Result<fuser::BackgroundSession> {
    let mut config = fuser::Config::default();
    config.n_threads = Some(KERNEL_THREADS);
    config.clone_fd = queue == Queue::PerThread;
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    let passes_through = Arc::new(AtomicBool::new(false));
    let adapter = FuseAdapter::new(
        Arc::clone(&fs),
        uid.as_raw(),
        gid.as_raw(),
        Arc::clone(&passes_through),
    );
    let backing = Backing(device.try_clone()?);
    let session = fuser::Session::from_fd(adapter, device, acl, config)?;
    if passes_through.load(Ordering::Relaxed) {
        fs.tree().engine().pin_through(Box::new(backing));
    }
    session.spawn()
}

/// How a mount was taken away.
enum Stopped {
    Idle,
    WhileInUse,
}

impl Mounted {
    /// Unmounts because a signal says so.
    fn stop(&self) -> Result<Stopped, MountError> {
        let failed = |path: &Path, problem| MountError::MountPoint {
            path: path.to_owned(),
            problem,
        };
        let table = Table::read().map_err(|e| failed(&self.path, Problem::Io(e)))?;
        let ours = |entry: &&Entry| self.entry.as_ref().is_some_and(|own| own.is(entry));
        let Some(entry) = table.ours().find(ours) else {
            return Ok(Stopped::Idle);
        };
        let path = &entry.mountpoint;
        if !table.visible(path).is_some_and(|top| top.is(entry)) {
            return Err(failed(path, Problem::Covered));
        }
        match take_away(path, attach::Detach::WhenIdle) {
            Ok(()) => return Ok(Stopped::Idle),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            Err(e) => log::warn!("{}: {e}; unmounting it lazily", path.display()),
        }
        take_away(path, attach::Detach::Lazily).map_err(|e| failed(path, Problem::Io(e)))?;
        Ok(Stopped::WhileInUse)
    }
}

/// The entry that a mount of ours has brought into the table: the one at its place, or, where the names above it
/// were changed meanwhile, the only new one.
fn new_entry(before: &Table, path: &Path) -> Option<Entry> {
    let after = Table::read().ok()?;
    let new: Vec<_> = after
        .ours()
        .filter(|entry| !before.ours().any(|old| old.is(entry)))
        .collect();
    let here = new.iter().find(|entry| entry.mountpoint == path);
    here.or(if new.len() == 1 { new.first() } else { None })
        .map(|&entry| entry.clone())
}

/// A place that something can be mounted at.
struct Place {
    path: PathBuf,
    /// The directory that was looked at, held so that its name cannot be made to mean another one.
    directory: Option<OwnedFd>,
}

/// Checks that something can be mounted here.
fn prepare(mountpoint: &Path) -> Result<Place, MountError> {
    let failed = |problem| MountError::MountPoint {
        path: mountpoint.to_owned(),
        problem,
    };
    let at = absolute(mountpoint);
    if table::find(&at).is_some() && is_dead(&at) {
        log::info!(
            "{}: the mount of a server that is gone is replaced",
            mountpoint.display()
        );
        if rustix::process::geteuid().is_root() {
            // Over it, so that no reader ever sees the bare directory in between; see `take_away`.
            return Ok(Place {
                path: at,
                directory: None,
            });
        }
        attach::detach(&at, attach::Detach::Lazily).map_err(|e| failed(Problem::Stale(e)))?;
    }
    let path = mountpoint.canonicalize().map_err(|e| failed(Problem::from(e)))?;
    if table::find(&path).is_some() {
        return Err(failed(Problem::Mounted));
    }
    let directory = sys::find_directory(&path).map_err(|e| failed(Problem::from(e)))?;
    let mut entries = sys::list(&directory).map_err(|e| failed(Problem::from(e)))?;
    if entries.any(|entry| entry.is_ok_and(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))) {
        return Err(failed(Problem::NotEmpty));
    }
    Ok(Place {
        path,
        directory: Some(directory),
    })
}

/// Whether nobody serves this mount any more. The kernel answers `stat` from what it remembers, `statfs` never.
fn is_dead(mountpoint: &Path) -> bool {
    rustix::fs::statfs(mountpoint).is_err_and(|e| e == rustix::io::Errno::NOTCONN)
}

/// Takes a mount away, and with it what dead servers left beneath it.
fn take_away(mountpoint: &Path, when: attach::Detach) -> io::Result<()> {
    attach::detach(mountpoint, when)?;
    while table::find(mountpoint).is_some() && is_dead(mountpoint) {
        attach::detach(mountpoint, attach::Detach::Lazily)?;
    }
    Ok(())
}

/// Unmounts what is mounted here.
///
/// # Errors
/// When no model is mounted here, or files of it are in use.
pub fn unmount(mountpoint: &Path) -> Result<(), MountError> {
    let path = absolute(mountpoint);
    let failed = |problem| MountError::MountPoint {
        path: mountpoint.to_owned(),
        problem,
    };
    let table = Table::read().map_err(|e| failed(Problem::Io(e)))?;
    match table.visible(&path) {
        Some(entry) if entry.ours => {}
        _ if table.ours().any(|entry| entry.mountpoint == path) => {
            return Err(failed(Problem::Covered));
        }
        _ => return Err(failed(Problem::NotMounted)),
    }
    take_away(&path, attach::Detach::WhenIdle).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => failed(Problem::Busy),
        _ => failed(Problem::Io(e)),
    })
}

/// Asks a mount for its report.
///
/// # Errors
/// When no model is mounted here, or its server is gone.
pub fn status(mountpoint: &Path) -> Result<Report, MountError> {
    let failed = |problem| MountError::MountPoint {
        path: mountpoint.to_owned(),
        problem,
    };
    let mut value = vec![0; MAX_XATTR_BYTES];
    let name = format!("{XATTR_PREFIX}status");
    let path = absolute(mountpoint);
    // The attribute alone proves nothing: any file system can carry one of that name.
    if table::find(&path).is_none() {
        return Err(failed(Problem::NotMounted));
    }
    let size = rustix::fs::lgetxattr(&path, name.as_str(), value.as_mut_slice()).map_err(|e| match e {
        rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP => failed(Problem::NotMounted),
        rustix::io::Errno::NOTCONN => failed(Problem::Dead),
        e => failed(Problem::from(io::Error::from(e))),
    })?;
    value.truncate(size);
    serde_json::from_slice(&value).map_err(|_| failed(Problem::NotMounted))
}

/// Largest value of an extended attribute in bytes (xattr(7)).
const MAX_XATTR_BYTES: usize = 64 * 1024;

/// Makes a path absolute without asking the file system about its last component, which may be a mount whose
/// server is gone.
fn absolute(path: &Path) -> PathBuf {
    let canonical = || path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if path.is_symlink() {
        return canonical();
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            parent
                .canonicalize()
                .map_or_else(|_| path.to_owned(), |parent| parent.join(name))
        }
        _ => canonical(),
    }
}

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
