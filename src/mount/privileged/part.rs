//! The privileged part itself: mounts once, unmounts what it mounted, lets the kernel read further ahead there, and
//! registers memory files that nobody can change. It never sees a byte of a bundle or a model.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use log::LevelFilter;
use rustix::fs::FileType;
use rustix::fs::SealFlags;
use rustix::thread::CapabilitySet;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;

use super::super::MountError;
use super::super::MountOptions;
use super::super::Mounted;
use super::super::attach;
use super::super::prepare;
use super::super::sandbox::Sandbox;
use super::super::table::Table;
use super::REQUEST_BYTES;
use super::Refusal;
use super::Reply;
use super::Request;
use super::Stopped;
use crate::sys;

/// What mounting and unmounting take: the right to, and the right to look for a mount point in a folder that is
/// somebody's own.
const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::DAC_READ_SEARCH);

/// The device number of `/dev/fuse`, everywhere.
const FUSE_DEVICE: (u32, u32) = (10, 229);

/// Answers on standard input until nobody asks any more.
///
/// # Errors
/// When there is no socket there, or the other side says what no serving part would.
pub fn serve(mountpoint: &Path, options: &MountOptions) -> io::Result<()> {
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    // They are meant for the serving part, which asks for the unmount; this one ends when that one is gone.
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::default())?;
    }
    // It was started by a link, and is listed under that link's name otherwise.
    rustix::thread::set_name(c"modelfs")?;
    sys::harden()?;
    if rustix::process::geteuid().is_root() {
        sys::keep_capabilities(KEPT)?;
        // An ordinary user's must still execute the set-uid helper that mounts.
        rustix::thread::set_no_new_privs(true)?;
        if !options.no_sandbox {
            // The same goes for a filter, which asks for that flag.
            Sandbox::enter_part().map_err(io::Error::other)?;
        }
    }
    if log::set_logger(&NOTES).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
    let mut part = Part {
        mountpoint,
        options,
        mounted: None,
    };
    // One byte more, so that a longer one is seen to be none.
    while let Some((bytes, descriptors)) = super::receive(socket.as_fd(), REQUEST_BYTES + 1)? {
        let request = Request::parse(&bytes).ok_or(io::ErrorKind::InvalidData)?;
        #[cfg(feature = "planted-faults")]
        if request == Request::Unmount {
            super::super::sandbox::break_out::run_in_part_if_planted();
        }
        let (outcome, path, device) = match part.answer(request, descriptors) {
            Ok(Done { value, path, device }) => (Ok(value), path, device),
            Err(refusal) => (Err(refusal), PathBuf::new(), None),
        };
        let reply = Reply {
            outcome,
            path: path.as_os_str().as_bytes().to_vec(),
            notes: NOTES.take(),
        };
        let bytes = serde_json::to_vec(&reply)?;
        let device = device.as_ref().map(AsFd::as_fd);
        super::send(socket.as_fd(), &bytes, device.as_slice())?;
    }
    Ok(())
}

/// Mounts for a server that will be handed the device; the device.
///
/// # Errors
/// When the mount point cannot be used, or the system does not mount.
pub fn attach(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let mut part = Part {
        mountpoint,
        options,
        mounted: None,
    };
    Ok(part.mount()?.1)
}

struct Part<'a> {
    mountpoint: &'a Path,
    options: &'a MountOptions,
    mounted: Option<Mounted>,
}

/// What a request came to.
#[derive(Default)]
struct Done {
    value: u32,
    path: PathBuf,
    device: Option<OwnedFd>,
}

impl Part<'_> {
    fn answer(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Result<Done, Refusal> {
        let mut descriptors = descriptors.into_iter();
        match (request, descriptors.next(), descriptors.next()) {
            (Request::Mount, None, None) if self.mounted.is_none() => {
                let (path, device) = self.mount().map_err(|e| Refusal::of(&e))?;
                Ok(Done {
                    value: 0,
                    path,
                    device: Some(device),
                })
            }
            (Request::Unmount, None, None) => {
                let Some(mounted) = &self.mounted else {
                    return Ok(Done::default());
                };
                let stopped = mounted.stop().map_err(|e| Refusal::of(&e))?;
                Ok(Done {
                    value: u32::from(stopped == Stopped::WhileInUse),
                    ..Done::default()
                })
            }
            (Request::ReadAhead, None, None) => {
                self.raise_read_ahead();
                Ok(Done::default())
            }
            (Request::OpenBacking, Some(device), Some(file)) => {
                is_fuse_device(&device)?;
                is_immutable(&file)?;
                Ok(Done {
                    value: fuser::BackingId::create_raw(&device, &file)?,
                    ..Done::default()
                })
            }
            (Request::CloseBacking(id), Some(device), None) => {
                is_fuse_device(&device)?;
                sys::close_backing(device.as_fd(), id)?;
                Ok(Done::default())
            }
            _ => Err(rustix::io::Errno::INVAL.into()),
        }
    }

    fn mount(&mut self) -> Result<(PathBuf, OwnedFd), MountError> {
        let place = prepare(self.mountpoint)?;
        let failed = |error| MountError::Session {
            mountpoint: place.path.clone(),
            error,
        };
        let before = Table::read().map_err(failed)?;
        let device = attach::attach(&place, self.options)?;
        let mounted = Mounted::new(&before, &place.path);
        self.mounted = Some(mounted);
        // This process keeps no copy: when the server dies the kernel must notice.
        Ok((place.path, device))
    }

    /// Lets the kernel read further ahead than it does by itself, for all readers of the mount.
    fn raise_read_ahead(&self) {
        let device = self.mounted.as_ref().and_then(Mounted::device);
        if let (Some(kib), Some(device)) = (self.options.read_ahead_kib, device) {
            let knob = format!("/sys/class/bdi/{device}/read_ahead_kb");
            if let Err(e) = std::fs::write(&knob, kib.to_string()) {
                log::debug!("{knob}: {e}; the kernel reads ahead as far as it likes");
            }
        }
    }
}

/// Any other device might take the request for one of its own.
fn is_fuse_device(device: &OwnedFd) -> Result<(), Refusal> {
    let stat = rustix::fs::fstat(device)?;
    let numbers = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && numbers == FUSE_DEVICE {
        return Ok(());
    }
    Err(rustix::io::Errno::INVAL.into())
}

/// A memory file that neither we nor anybody else can change: what was verified when it was sealed stays so.
/// Files on disk have no seals to tell, and those of a tmpfs none against writing.
fn is_immutable(file: &OwnedFd) -> Result<(), Refusal> {
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    match rustix::fs::fcntl_get_seals(file) {
        Ok(have) if have.contains(seals) => Ok(()),
        _ => Err(rustix::io::Errno::INVAL.into()),
    }
}

impl Refusal {
    fn of(error: &MountError) -> Self {
        Self {
            errno: 0,
            message: error.to_string(),
        }
    }
}

impl From<rustix::io::Errno> for Refusal {
    fn from(errno: rustix::io::Errno) -> Self {
        Self {
            errno: errno.raw_os_error(),
            message: errno.to_string(),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self {
            errno: error.raw_os_error().unwrap_or(0),
            message: error.to_string(),
        }
    }
}

/// What is to be logged travels with the next reply: the log is the serving part's.
struct Notes(Mutex<Vec<(u8, String)>>);

static NOTES: Notes = Notes(Mutex::new(Vec::new()));

/// Most lines of one request. A fault that is planted has more to tell.
const MAX_NOTES: usize = if cfg!(feature = "planted-faults") { 100 } else { 8 };

impl Notes {
    fn take(&self) -> Vec<(u8, String)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl log::Log for Notes {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.enabled(record.metadata()) && notes.len() < MAX_NOTES {
            let level = match record.level() {
                log::Level::Error => 1,
                log::Level::Warn => 2,
                log::Level::Info => 3,
                log::Level::Debug | log::Level::Trace => 4,
            };
            notes.push((level, record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;
    use rustix::fs::fcntl_add_seals;
    use rustix::fs::memfd_create;

    const ALL: SealFlags = SealFlags::WRITE
        .union(SealFlags::SHRINK)
        .union(SealFlags::GROW)
        .union(SealFlags::SEAL);

    fn memory_file(seals: SealFlags) -> OwnedFd {
        let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&file, b"bytes").unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file
    }

    #[test]
    fn only_a_memory_file_that_nobody_can_change_is_registered() {
        assert!(is_immutable(&memory_file(ALL)).is_ok());
        for missing in [
            SealFlags::WRITE,
            SealFlags::SHRINK,
            SealFlags::GROW,
            SealFlags::SEAL,
        ] {
            let file = memory_file(ALL.difference(missing));
            assert_eq!(
                is_immutable(&file).unwrap_err().errno,
                libc::EINVAL,
                "{missing:?}"
            );
        }
        // Future writes only: what is mapped already can still be written.
        let file = memory_file(ALL.difference(SealFlags::WRITE) | SealFlags::FUTURE_WRITE);
        assert!(is_immutable(&file).is_err());
        let (on_disk, null) = (
            tempfile::tempfile().unwrap(),
            std::fs::File::open("/dev/null").unwrap(),
        );
        for other in [OwnedFd::from(on_disk), OwnedFd::from(null)] {
            assert!(is_immutable(&other).is_err());
        }
    }

    #[test]
    fn only_the_fuse_device_is_asked() {
        let null = std::fs::File::open("/dev/null").unwrap();
        for other in [OwnedFd::from(null), memory_file(ALL)] {
            assert_eq!(is_fuse_device(&other).unwrap_err().errno, libc::EINVAL);
        }
    }

    #[test]
    fn requests_without_what_they_are_about_are_refused() {
        let options = MountOptions::default();
        let mut part = Part {
            mountpoint: Path::new("/nonexistent"),
            options: &options,
            mounted: None,
        };
        let file = || memory_file(ALL);
        for (request, descriptors) in [
            (Request::OpenBacking, vec![]),
            (Request::OpenBacking, vec![file()]),
            (Request::OpenBacking, vec![file(), file()]),
            (Request::CloseBacking(1), vec![]),
            (Request::CloseBacking(1), vec![file()]),
            (Request::Mount, vec![file()]),
            (Request::Unmount, vec![file()]),
        ] {
            let refusal = part.answer(request, descriptors).err().unwrap();
            assert_eq!(refusal.errno, libc::EINVAL, "{request:?}");
        }
        // Nothing was mounted, so nothing is taken away.
        assert_eq!(part.answer(Request::Unmount, vec![]).ok().unwrap().value, 0);
        let refusal = part.answer(Request::Mount, vec![]).err().unwrap();
        assert!(refusal.message.contains("does not exist"), "{refusal:?}");
    }
}
