//! Attaching to the kernel: mount(2) for root, fusermount3 for everybody else, and the way back.
//!
//! We mount ourselves, because the type that the mount table shows (`fuse.modelfs`) is what operators and
//! loaders look at, and the FUSE library's own call leaves the subtype out for root.

use std::ffi::CString;
use std::ffi::OsStr;
use std::io;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::openat;
use rustix::mount::MountFlags;
use rustix::mount::UnmountFlags;
use rustix::net::AddressFamily;
use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::recvmsg;
use rustix::net::socketpair;

use super::MountError;
use super::MountOptions;
use super::Place;
use super::TYPE;

/// The helper that mounts for users other than root.
const HELPER: &str = "fusermount3";

/// Mounts, and returns the device on which the kernel asks.
pub(super) fn attach(place: &Place, options: &MountOptions) -> Result<OwnedFd, MountError> {
    if rustix::process::geteuid().is_root() {
        by_ourselves(place, options)
    } else {
        by_helper(&place.path, options)
    }
}

fn by_ourselves(place: &Place, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let mountpoint = &place.path;
    // By its descriptor: a name could have been given to another directory since it was looked at.
    let target = match &place.directory {
        Some(directory) => PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())),
        None => mountpoint.clone(),
    };
    let device = openat(CWD, "/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| MountError::NoDevice(e.into()))?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let refused = |message: String| MountError::Refused {
        mountpoint: mountpoint.to_owned(),
        message,
    };
    let data = CString::new(data).map_err(|e| refused(e.to_string()))?;
    let mut flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::NOEXEC, !options.allow_exec);
    rustix::mount::mount(&options.source_name, &target, TYPE, flags, data.as_c_str()).map_err(|e| {
        let hint = match e {
            rustix::io::Errno::PERM => "; mounting needs CAP_SYS_ADMIN",
            rustix::io::Errno::NODEV => "; this kernel has no FUSE",
            _ => "",
        };
        refused(format!("{}{hint}", io::Error::from(e)))
    })?;
    Ok(device)
}

/// Lets fusermount3 mount; it sends the device over a socket whose number it finds in its environment.
fn by_helper(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let refused = |message: String| MountError::Refused {
        mountpoint: mountpoint.to_owned(),
        message,
    };
    let system = |e: rustix::io::Errno| refused(io::Error::from(e).to_string());
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(system)?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).map_err(system)?;
    let mut flags = b"ro,nosuid,nodev,default_permissions,subtype=modelfs,fsname=".to_vec();
    flags.extend(escape_option(options.source_name.as_os_str().as_bytes()));
    if !options.allow_exec {
        flags.extend_from_slice(b",noexec");
    }
    if options.allow_other {
        flags.extend_from_slice(b",allow_other");
    }
    let mut child = Command::new(HELPER)
        .arg("-o")
        .arg(OsStr::from_bytes(&flags))
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(MountError::NoHelper)?;
    drop(theirs);
    let device = receive(&ours);
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What it says is for the message only.
        let _ = io::Read::read_to_end(&mut stderr, &mut said);
    }
    let status = child.wait().map_err(|e| refused(e.to_string()))?;
    let said = String::from_utf8_lossy(&said);
    match device {
        Some(device) if status.success() => Ok(device),
        _ if said.contains("/dev/fuse") => {
            Err(MountError::NoDevice(io::Error::other(said.trim().to_owned())))
        }
        _ if said.trim().is_empty() => Err(refused(format!("{HELPER} ended with {status}"))),
        _ => Err(refused(said.trim().to_owned())),
    }
}

/// The value of a mount option as libfuse reads it: commas and backslashes would end it.
pub fn escape_option(value: &[u8]) -> impl Iterator<Item = u8> {
    value.iter().flat_map(|&byte| match byte {
        b',' | b'\\' => vec![b'\\', byte],
        _ => vec![byte],
    })
}

fn receive(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    loop {
        let flags = RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
            Ok(_) => break,
        }
    }
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

/// When a mount may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detach {
    /// Only when no file of it is open.
    WhenIdle,
    /// At once. Who waits for an answer gets an error now: a server that is stuck in its source cannot even
    /// die, and its readers would wait with it.
    Lazily,
}

/// Takes a mount away.
pub(super) fn detach(mountpoint: &Path, when: Detach) -> io::Result<()> {
    let flags = match when {
        Detach::WhenIdle => UnmountFlags::NOFOLLOW,
        Detach::Lazily => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH | UnmountFlags::FORCE,
    };
    match rustix::mount::unmount(mountpoint, flags) {
        Err(rustix::io::Errno::PERM) => detach_by_helper(mountpoint, when),
        other => other.map_err(io::Error::from),
    }
}

fn detach_by_helper(mountpoint: &Path, when: Detach) -> io::Result<()> {
    let mut command = Command::new(HELPER);
    command.arg("-u").stdin(Stdio::null());
    if when == Detach::Lazily {
        command.arg("-z");
    }
    let output = command.arg("--").arg(mountpoint).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Err(io::Error::other(said.trim().to_owned()))
}
