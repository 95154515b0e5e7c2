//! The mount: mount point, kernel session, signals, unmounting.
//!
//! A [`Session`] exists only when the kernel has been answered; it ends when somebody unmounts, or when a
//! signal makes it unmount itself. A daemon that dies leaves a mount that answers ENOTCONN, never an empty
//! directory.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

use fuser::INodeNo;
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
use crate::verify::PageCache;

mod attach;
mod error;
mod handed;
pub mod privileged;
pub mod sandbox;
mod table;

use privileged::Asked;
use privileged::Helper;
use privileged::Stopped;
use sandbox::Sandbox;
use table::Entry;
use table::Table;

pub use attach::escape_option;
pub use error::MountError;
pub use error::Problem;
pub use handed::HandedOver;
pub use table::mounted;

/// The file system type that the mount table shows.
pub const TYPE: &str = "fuse.modelfs";

/// Threads that take requests from the kernel, at least and at most. They decode, hand over, and copy out what is at hand;
/// beyond these, copying is limited by the memory.
const KERNEL_THREADS: RangeInclusive<usize> = 2..=8;

/// How a model is mounted.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Let other users read.
    pub allow_other: bool,
    /// Let readers map files executably. Files are never executable by mode.
    pub allow_exec: bool,
    /// What the mount table shows as the source.
    pub source_name: PathBuf,
    /// Leave the privileged part unconfined.
    pub no_sandbox: bool,
    /// How far the kernel reads ahead, in KiB; its own default when absent. Root alone can set it.
    pub read_ahead_kib: Option<u32>,
}

/// A mount that is being served.
#[derive(Debug)]
pub struct Session {
    place: Standing,
    background: fuser::BackgroundSession,
    signals: Signals,
}

/// How a mount comes about.
#[derive(Debug)]
pub enum Attachment {
    /// The privileged part makes it.
    Ours(Arc<Helper>),
    /// Somebody else has made it. Who may read is for the kernel to say, by the options of that mount.
    Theirs(HandedOver),
}

/// Whose the mount is.
#[derive(Debug)]
enum Standing {
    /// Ours, here; the privileged part takes it away.
    Ours(PathBuf, Arc<Helper>),
    /// Somebody else made it and will take it away; what they called it, and where it is, if they said so.
    Theirs(PathBuf, Option<PathBuf>),
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
    /// Mounts, or takes a mount over, and returns when the kernel has been answered: serving has begun. That the
    /// process confined itself, or was told not to, has come before.
    ///
    /// # Errors
    /// When the mount point cannot be used, or the system does not mount; nothing is left mounted then. When nothing
    /// is mounted with a device that was handed over, or the kernel does not talk to us.
    pub fn start(fs: Arc<ModelFs>, attachment: Attachment, _: &Sandbox) -> Result<Self, MountError> {
        // From here on a signal unmounts instead of killing: a mount never stands without somebody to undo it.
        let signals =
            Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|e| MountError::Privileged(e.to_string()))?;
        #[cfg(feature = "planted-faults")]
        if let Some(file) = fs.tree().files().first() {
            sandbox::break_out::run_if_planted(&fs.tree().source_path().join(file.path().as_str()));
        }
        match attachment {
            Attachment::Ours(helper) => {
                let (mountpoint, device) = helper.mount()?;
                let acl = match helper.options().allow_other {
                    true => fuser::SessionACL::All,
                    false => fuser::SessionACL::Owner,
                };
                match converse(fs, device, acl, Some(Arc::clone(&helper))) {
                    Ok(background) => Ok(Self {
                        place: Standing::Ours(mountpoint, helper),
                        background,
                        signals,
                    }),
                    Err(error) => {
                        if let Err(e) = helper.unmount() {
                            log::error!("{}: could not be unmounted again: {e}", mountpoint.display());
                        }
                        Err(MountError::Session { mountpoint, error })
                    }
                }
            }
            Attachment::Theirs(handed) => {
                let (device, name, seen_at) = handed.into_parts();
                let background = converse(fs, device, fuser::SessionACL::All, None).map_err(|error| {
                    match error.raw_os_error() {
                        Some(libc::EPERM) => MountError::MountPoint {
                            path: name.clone(),
                            problem: Problem::NotMountedWith,
                        },
                        _ => MountError::Session {
                            mountpoint: name.clone(),
                            error,
                        },
                    }
                })?;
                Ok(Self {
                    place: Standing::Theirs(name, seen_at),
                    background,
                    signals,
                })
            }
        }
    }

    /// Serves until somebody unmounts, or until SIGTERM, SIGINT or SIGHUP does. With files open the mount then
    /// leaves the tree at once; their readers get errors when this process ends, and none waits for the others.
    /// A mount that somebody else made is theirs to take away: it stays, and answers ENOTCONN.
    ///
    /// # Errors
    /// When the connection to the kernel breaks, or the mount cannot be taken away.
    pub fn wait(self) -> Result<(), MountError> {
        let mountpoint = self.mountpoint().to_owned();
        let Self {
            place,
            background,
            mut signals,
        } = self;
        let failed = |error| MountError::Session {
            mountpoint: mountpoint.clone(),
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
                Ok(Event::Signal(signal)) => {
                    let Standing::Ours(_, helper) = &place else {
                        let name = mountpoint.display();
                        log::info!("{name}: signal {signal}, ending; the mount is not ours to undo");
                        return Ok(());
                    };
                    log::info!("{}: signal {signal}, unmounting", mountpoint.display());
                    match helper.unmount() {
                        Ok(Stopped::Idle) => stopping = true,
                        Ok(Stopped::WhileInUse) => return Ok(()),
                        // Ending now would leave a dead mount; the next signal tries again.
                        Err(Asked::Refused(e)) => log::error!("{e}"),
                        // Nobody will ever take it away for us: a dead mount is an honest one.
                        Err(gone @ Asked::Gone) => return Err(failed(gone.into())),
                    }
                }
            }
        }
    }

    /// Takes the mount away again, for a server that cannot go on.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn undo(&self) -> Result<(), MountError> {
        let Standing::Ours(mountpoint, helper) = &self.place else {
            return Ok(());
        };
        helper.unmount().map(drop).map_err(|e| MountError::Session {
            mountpoint: mountpoint.clone(),
            error: e.into(),
        })
    }

    /// Asks the kernel something that only we can answer, and returns whether there was an answer; hangs where there
    /// is none. A mount that somebody else made and that cannot be found where they said counts as answering.
    pub fn pulse(&self, fs: &ModelFs) -> impl Fn() -> bool + Send + 'static {
        let path = match &self.place {
            Standing::Ours(mountpoint, _) => Some(mountpoint.clone()),
            Standing::Theirs(_, None) => None,
            Standing::Theirs(_, Some(place)) => {
                let told = fs.totals_told();
                let ours = !is_dead(place) && fs.totals_told() != told;
                if !ours {
                    let place = place.display();
                    log::warn!("{place}: this mount is not seen here; whether it answers is not watched");
                }
                ours.then(|| place.clone())
            }
        };
        move || path.as_ref().is_none_or(|path| !is_dead(path))
    }

    /// Where it is mounted; for a mount that somebody else made and said no place of, the name it was handed over under.
    pub fn mountpoint(&self) -> &Path {
        match &self.place {
            Standing::Ours(mountpoint, _) => mountpoint,
            Standing::Theirs(name, seen_at) => seen_at.as_ref().unwrap_or(name),
        }
    }
}

/// The way to offer pinned files to the kernel: through the privileged part.
struct Backing {
    device: OwnedFd,
    helper: Arc<Helper>,
}

impl Offer for Backing {
    fn offer(&self, sealed: BorrowedFd<'_>) -> io::Result<u32> {
        self.helper.open_backing(self.device.as_fd(), sealed)
    }
}

/// The kernel's page cache, by notifications on the device (fuse.h, `FUSE_NOTIFY_STORE` and `FUSE_NOTIFY_INVAL_INODE`).
struct KernelCache {
    notifier: fuser::Notifier,
    /// Each file's number and inode, in the order of the numbers. There may be a million, so no map of them.
    inodes: Vec<(u32, INodeNo)>,
}

impl KernelCache {
    fn inode(&self, file: u32) -> io::Result<INodeNo> {
        let at = self.inodes.binary_search_by_key(&file, |(number, _)| *number);
        let found = at.ok().and_then(|at| self.inodes.get(at));
        found
            .map(|(_, inode)| *inode)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl PageCache for KernelCache {
    fn put(&self, file: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.notifier.store(self.inode(file)?, offset, bytes)
    }

    fn empty(&self, file: u32) -> io::Result<()> {
        // From the first byte to the last, however many there are.
        self.notifier.inval_inode(self.inode(file)?, 0, 0)
    }
}

/// Answers the kernel's first request, and has threads answer all others.
fn converse(
    fs: Arc<ModelFs>,
    device: OwnedFd,
    acl: fuser::SessionACL,
    helper: Option<Arc<Helper>>,
) -> io::Result<fuser::BackgroundSession> {
    let mut config = fuser::Config::default();
    let cores = fs.tree().engine().options().cores;
    config.n_threads = Some(cores.clamp(*KERNEL_THREADS.start(), *KERNEL_THREADS.end()));
    // Each thread has a device of its own, unless this process was handed one and cannot open others.
    config.clone_fd = File::options().read(true).write(true).open("/dev/fuse").is_ok();
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    let passes_through = Arc::new(AtomicBool::new(false));
    let adapter = FuseAdapter::new(
        Arc::clone(&fs),
        uid.as_raw(),
        gid.as_raw(),
        Arc::clone(&passes_through),
    );
    let backing = match helper {
        Some(helper) => Some(Backing {
            device: device.try_clone()?,
            helper,
        }),
        None => None,
    };
    let session = fuser::Session::from_fd(adapter, device, acl, config)?;
    if let Some(backing) = &backing {
        backing.helper.raise_read_ahead();
    }
    let offer = backing.filter(|_| passes_through.load(Ordering::Relaxed));
    let offer = offer.map(|backing| -> Box<dyn Offer> { Box::new(backing) });
    fs.tree().engine().pin_through(offer);
    let whole = fs.tree().inodes().filter(|(_, file)| file.is_whole());
    let mut inodes: Vec<_> = whole.map(|(inode, file)| (file.id(), INodeNo(inode))).collect();
    inodes.sort_unstable_by_key(|(number, _)| *number);
    inodes.shrink_to_fit();
    fs.tree().engine().preload_through(Arc::new(KernelCache {
        notifier: session.notifier(),
        inodes,
    }));
    session.spawn()
}

/// Which mount is ours: where it was made, and the entry that tells it from any other, whatever became of the
/// names on its way.
#[derive(Clone, Debug)]
struct Mounted {
    path: PathBuf,
    entry: Option<Entry>,
}

impl Mounted {
    /// What has just been mounted at `path`, given the table from before.
    fn new(before: &Table, path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            entry: new_entry(before, path),
        }
    }

    /// Device number of the file system, as `major:minor`.
    fn device(&self) -> Option<&str> {
        self.entry.as_ref().map(Entry::device)
    }

    /// Unmounts because the server ends.
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
