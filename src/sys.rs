//! The operating system: the calls whose exact flags matter, and the only place where `unsafe` may stand.
//!
//! Everything here is a thin, safe wrapper.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::path::Path;

use rustix::fs::Access;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Dir;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::fs::accessat;
use rustix::fs::openat;
use rustix::fs::openat2;
use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;
use rustix::thread::capabilities;
use rustix::thread::clear_ambient_capability_set;
use rustix::thread::remove_capability_from_bounding_set;
use rustix::thread::set_capabilities;

mod available;
mod cache;
mod pages;
mod random;
mod sealed;
pub mod sha256;

pub use available::MemoryGauge;
pub use cache::cached_bytes;
pub use pages::HUGE_PAGE_BYTES;
pub use pages::PAGE_BYTES;
pub use pages::Pages;
pub use random::random_bytes;
pub use sealed::Piece;
pub use sealed::Sealed;
pub use sealed::Unsealed;
pub use sealed::has_huge_memory_files;

#[cfg(feature = "planted-faults")]
mod attempt;
mod backing;
#[cfg(feature = "planted-faults")]
mod fault_map;
#[cfg(feature = "planted-faults")]
pub use attempt::attempt;
pub use backing::close_backing;
#[cfg(feature = "planted-faults")]
pub use fault_map::mapped_copy;

/// What resolving a name beneath a root may do on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolve {
    /// Stay beneath the root, follow no link of any kind, cross no mount point.
    Beneath,
    /// Follow symbolic links, also out of the root; never the kernel's magic links.
    Links,
}

/// Finds a name beneath `root` without opening what it leads to: no driver runs, no FIFO blocks.
///
/// # Errors
/// `ELOOP` for a link, `EXDEV` for a way out of the root or another mount, and what `openat2` says.
pub fn find(root: BorrowedFd<'_>, name: &[u8], resolve: Resolve) -> io::Result<OwnedFd> {
    let resolve = match resolve {
        // No O_NOFOLLOW: together with O_PATH it would open a link at the end instead of refusing it.
        Resolve::Beneath => {
            ResolveFlags::BENEATH
                | ResolveFlags::NO_SYMLINKS
                | ResolveFlags::NO_MAGICLINKS
                | ResolveFlags::NO_XDEV
        }
        Resolve::Links => ResolveFlags::NO_MAGICLINKS,
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // EAGAIN: something was renamed while the kernel checked that it stays beneath; asking again is right.
    for _ in 0..MAX_RESOLVE_RETRIES {
        match openat2(root, name, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN) => {}
            other => return other.map_err(io::Error::from),
        }
    }
    Err(rustix::io::Errno::AGAIN.into())
}

/// How often a lookup that raced with a rename is tried again. Whoever renames faster than this only
/// costs availability.
const MAX_RESOLVE_RETRIES: u32 = 128;

/// Opens a directory by a canonical path, for finding names beneath it: a link that was put anywhere on the
/// way since the path was made canonical refuses.
///
/// # Errors
/// `ELOOP` for a link, and what `openat2` says.
pub fn find_directory(canonical: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(CWD, canonical, flags, Mode::empty(), resolve)?)
}

/// The number of the mount that a name leads to, as the mount table has it. Nothing is asked of the file system
/// there, whose server may be gone.
///
/// # Errors
/// What `open` says; `/proc` must be mounted.
pub fn mount_id(path: &Path) -> io::Result<String> {
    let found = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", found.as_raw_fd()))?;
    let id = about.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    Ok(id.ok_or(io::ErrorKind::InvalidData)?.trim().to_owned())
}

/// Opens a directory that was found, for reading its entries.
///
/// # Errors
/// What `open` says.
pub fn list(found: &OwnedFd) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Dir::new(openat(found, ".", flags, Mode::empty())?)?)
}

/// Whether something that was found lies on a file system in which reading may do something, or tell what the
/// kernel knows, rather than give what somebody stored. What cannot be asked is taken for one.
pub fn is_kernel_interface(found: &OwnedFd) -> bool {
    const INTERFACES: [u32; 12] = [
        0x0000_9fa0, // proc
        0x6265_6572, // sysfs
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
        0x0027_e0eb, // cgroup
        0x6367_7270, // cgroup2
        0x7363_6673, // securityfs
        0x6265_6570, // configfs
        0x6165_676c, // pstore
        0xcafe_4a11, // bpf
        0xde5e_81e4, // efivarfs
        0x0000_1cd1, // devpts
    ];
    let kind = rustix::fs::fstatfs(found).map(|stat| stat.f_type & 0xffff_ffff);
    kind.map_or(true, |kind| {
        INTERFACES.iter().any(|&interface| kind == i64::from(interface))
    })
}

/// Whether this process may open for reading what [`find`] found. What everybody may read is not asked about.
///
/// # Errors
/// `EACCES` when it may not, and what `fstat` says.
pub fn may_read(found: &OwnedFd) -> io::Result<()> {
    const EVERYBODY: u32 = 0o444;
    if rustix::fs::fstat(found)?.st_mode & EVERYBODY == EVERYBODY {
        return Ok(());
    }
    let name = format!("/proc/self/fd/{}", found.as_raw_fd());
    match accessat(CWD, name, Access::READ_OK, AtFlags::EACCESS) {
        // Before Linux 5.8 opening it will tell.
        Err(rustix::io::Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}

/// Opens for reading what [`find`] found: the same inode, whatever its name leads to by now.
///
/// # Errors
/// What `open` says; `/proc` must be mounted.
pub fn reopen(found: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let name = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    Ok(File::from(openat(CWD, name, flags, Mode::empty())?))
}

/// As [`reopen`], for reads that go past the page cache.
///
/// # Errors
/// What `open` says; `EINVAL` where the file system cannot.
pub fn reopen_direct(found: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::DIRECT;
    let name = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    Ok(File::from(openat(CWD, name, flags, Mode::empty())?))
}

/// Answers an open with a file that the kernel has under this number, for it to read from instead of asking.
pub fn reply_with_backing(reply: fuser::ReplyOpen, flags: fuser::FopenFlags, number: u32) {
    // SAFETY: numbers come from the kernel's answer to an offer on this session, and none is ever taken back.
    #[allow(
        unsafe_code,
        reason = "the library wants to close what it wraps; it never does here"
    )]
    let backing = unsafe { reply.wrap_backing(number) };
    reply.opened_passthrough(fuser::FileHandle(0), flags, &backing);
    // Dropping it would take the file away from the kernel.
    let _ = backing.into_raw();
}

/// Makes this process hard to tamper with for others of its user: no debugger and no core file.
///
/// # Errors
/// What the system says.
pub fn harden() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let none = rustix::process::Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    Ok(rustix::process::setrlimit(rustix::process::Resource::Core, none)?)
}

/// Gives up all capabilities but these, now and for whatever this thread may execute. One that it does not have
/// it does not get.
///
/// # Errors
/// What the system says.
pub fn keep_capabilities(keep: CapabilitySet) -> io::Result<()> {
    let have = capabilities(None)?;
    // Kernels before 4.3 have no ambient set, and nothing in it.
    let _ = clear_ambient_capability_set();
    if have.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(keep).iter() {
            // EINVAL: a capability that this kernel does not know yet.
            match remove_capability_from_bounding_set(capability) {
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    let kept = have.permitted & keep;
    let wanted = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    if wanted == have {
        // Whoever started us may have taken the call away too.
        return Ok(());
    }
    Ok(set_capabilities(None, wanted)?)
}

/// How many threads this process has.
///
/// # Errors
/// What `open` says; `/proc` must be mounted.
pub fn count_threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Allows this process as many open files as it may have: each file that some reader has open is one. The
/// soft limit is low for the sake of programs that use select(2).
///
/// # Errors
/// What the system says.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        raised,
    )?)
}

/// Takes over a descriptor that this process was started with, and keeps it from programs started later.
///
/// # Errors
/// `EBADF` when it is not open.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only the one caller in `mount` comes here, which has seen that the number is an open FUSE device, before
    // this process has opened one itself; so nothing else here owns the descriptor. A number that is not open makes
    // the call below fail, and closing it then fails as well and touches nothing.
    #[allow(unsafe_code, reason = "a number from the command line is all there is")]
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

/// Keeps all descriptors but the standard streams from programs that this one starts: what the caller of a
/// command happened to have open, such as a lock, must not stay open with a server in the background.
///
/// # Errors
/// What the system says; `ENOSYS` before Linux 5.11.
pub fn keep_descriptors_from_children() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: the call takes three numbers and changes a flag of descriptors; no memory is involved, and a
    // descriptor stays open and valid for whoever owns it.
    #[allow(unsafe_code, reason = "no crate wraps close_range")]
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
