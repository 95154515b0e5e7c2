//! The privileged part of a mount, as the serving part sees it.
//!
//! Mounting, unmounting and registering backing files need a privilege that a process which reads untrusted bytes
//! must not have. So they are done by a second, small process, `part`, and this is the way to ask it. What it is
//! to mount, and where, it was told when it was started, before a byte of the bundle or the model was looked at:
//! a request says only *now*. It ends when this process does, and takes nothing away then: a mount whose server
//! died stays, and answers ENOTCONN.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use parking_lot::Mutex;
use rustix::net::AddressFamily;
use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::recvmsg;
use rustix::net::sendmsg;
use rustix::net::socketpair;
use serde::Deserialize;
use serde::Serialize;

use super::MountError;
use super::MountOptions;
use crate::sys;

mod part;
pub use part::attach;
pub use part::serve;

/// The hidden command that makes a process the privileged part.
pub const COMMAND: &str = "privileged";

/// Largest reply in bytes: a sentence with a path or two, each byte of which may be written as four.
const MAX_REPLY_BYTES: usize = 64 * 1024;

/// The connection to the privileged part of a mount.
pub struct Helper {
    /// One question at a time; each has one answer.
    socket: Mutex<OwnedFd>,
    mountpoint: PathBuf,
    options: MountOptions,
}

impl Helper {
    /// Starts the privileged part: this program once more, so that nothing of this process is in it. It shares
    /// the working folder, and so knows a relative mount point.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(mountpoint: &Path, options: MountOptions) -> Result<Self, MountError> {
        let start = || -> io::Result<OwnedFd> {
            let (ours, theirs) = socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )?;
            // Linux before 5.11 cannot; then it keeps what our caller had open, as any child would.
            let _ = sys::keep_descriptors_from_children();
            // By this link, because the file that we were started from may have been replaced since.
            let mut command = Command::new("/proc/self/exe");
            command.arg0(env!("CARGO_PKG_NAME")).arg(COMMAND);
            command.args(part_arguments(&options)).arg(mountpoint);
            // What it has to say it says in its replies.
            command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn()?;
            Ok(ours)
        };
        let socket = start().map_err(|e| {
            MountError::Privileged(format!(
                "{}: the process that mounts cannot be started: {e}",
                crate::path::Escaped(mountpoint.as_os_str().as_encoded_bytes())
            ))
        })?;
        Ok(Self {
            socket: Mutex::new(socket),
            mountpoint: mountpoint.to_owned(),
            options,
        })
    }

    /// How it mounts.
    pub fn options(&self) -> &MountOptions {
        &self.options
    }

    /// Mounts; where, and the device on which the kernel asks.
    pub(super) fn mount(&self) -> Result<(PathBuf, OwnedFd), MountError> {
        let failed = |e: Asked| MountError::Privileged(e.to_string());
        let answer = self.ask(Request::Mount, &[]).map_err(failed)?;
        let device = answer
            .descriptor
            .ok_or_else(|| failed(Asked::Refused(nonsense())))?;
        Ok((PathBuf::from(OsString::from_vec(answer.path)), device))
    }

    /// Unmounts what [`Helper::mount`] has mounted.
    pub(super) fn unmount(&self) -> Result<Stopped, Asked> {
        let answer = self.ask(Request::Unmount, &[])?;
        match answer.value {
            0 => Ok(Stopped::Idle),
            _ => Ok(Stopped::WhileInUse),
        }
    }

    /// Has the kernel read as far ahead as the options say, where root can tell it; what [`Helper::mount`] has
    /// mounted must have answered the kernel's first request.
    pub(super) fn raise_read_ahead(&self) {
        if let Err(e) = self.ask(Request::ReadAhead, &[]) {
            log::debug!("the kernel reads ahead as far as it likes: {e}");
        }
    }

    /// Makes a sealed memory file one that the kernel may read in our place, and returns its number for an open
    /// reply. Whoever opens a file that is answered so reads the memory file without asking us.
    ///
    /// # Errors
    /// `EINVAL` when it is not a memory file (`memfd_create`) that nobody can change any more: sealed against
    /// writing, shrinking, growing and further seals. `EPERM` for a server that root has not started. What else
    /// `FUSE_DEV_IOC_BACKING_OPEN` says.
    pub fn open_backing(&self, device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<u32> {
        Ok(self.ask(Request::OpenBacking, &[device, file])?.value)
    }

    /// Takes a memory file back. What is open stays so.
    ///
    /// # Errors
    /// `ENOENT` when there is none of this number.
    pub fn close_backing(&self, device: BorrowedFd<'_>, id: u32) -> io::Result<()> {
        self.ask(Request::CloseBacking(id), &[device])?;
        Ok(())
    }

    fn ask(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Answer, Asked> {
        let socket = self.socket.lock();
        let reply = send(socket.as_fd(), &request.to_bytes(), descriptors)
            .and_then(|()| receive(socket.as_fd(), MAX_REPLY_BYTES))
            .map_err(|_| Asked::Gone)?;
        drop(socket);
        let (bytes, mut descriptors) = reply.ok_or(Asked::Gone)?;
        let reply: Reply = serde_json::from_slice(&bytes).map_err(|_| Asked::Refused(nonsense()))?;
        for (level, note) in reply.notes {
            match level {
                1 => log::error!("{note}"),
                2 => log::warn!("{note}"),
                3 => log::info!("{note}"),
                _ => log::debug!("{note}"),
            }
        }
        match reply.outcome {
            Ok(value) => Ok(Answer {
                value,
                path: reply.path,
                descriptor: descriptors.pop(),
            }),
            Err(Refusal { errno, .. }) if errno > 0 => {
                Err(Asked::Refused(io::Error::from_raw_os_error(errno)))
            }
            Err(Refusal { message, .. }) => Err(Asked::Refused(io::Error::other(message))),
        }
    }
}

impl fmt::Debug for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Helper")
            .field("mountpoint", &self.mountpoint)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// How a mount was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    Idle,
    WhileInUse,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Asked {
    /// It was refused.
    Refused(io::Error),
    /// Nobody is there to answer.
    Gone,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(e) => write!(f, "{e}"),
            Self::Gone => f.write_str(
                "the process that mounts and unmounts is gone; modelfs unmount takes the mount away",
            ),
        }
    }
}

impl From<Asked> for io::Error {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Refused(e) => e,
            Asked::Gone => io::Error::new(io::ErrorKind::BrokenPipe, asked.to_string()),
        }
    }
}

fn nonsense() -> io::Error {
    io::Error::other("the process that mounts gave an answer that makes no sense")
}

/// What may be asked. Five bytes, of which no value can make the privileged part do anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Mount,
    Unmount,
    /// With the device and the file.
    OpenBacking,
    /// With the device.
    CloseBacking(u32),
    /// Once the kernel's first request was answered: before, the answer would undo it.
    ReadAhead,
}

/// Length of a request in bytes.
const REQUEST_BYTES: usize = 5;

impl Request {
    fn to_bytes(self) -> [u8; REQUEST_BYTES] {
        let (kind, number) = match self {
            Self::Mount => (1, 0),
            Self::Unmount => (2, 0),
            Self::OpenBacking => (3, 0),
            Self::CloseBacking(id) => (4, id),
            Self::ReadAhead => (5, 0),
        };
        let [a, b, c, d] = number.to_le_bytes();
        [kind, a, b, c, d]
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (&kind, number) = bytes.split_first()?;
        let number = u32::from_le_bytes(number.try_into().ok()?);
        match (kind, number) {
            (1, 0) => Some(Self::Mount),
            (2, 0) => Some(Self::Unmount),
            (3, 0) => Some(Self::OpenBacking),
            (4, id) => Some(Self::CloseBacking(id)),
            (5, 0) => Some(Self::ReadAhead),
            _ => None,
        }
    }
}

struct Answer {
    value: u32,
    path: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    outcome: Result<u32, Refusal>,
    /// Where it was mounted.
    path: Vec<u8>,
    /// Lines for the log: level (1 for an error) and text.
    notes: Vec<(u8, String)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    /// 0 where only the message says what it was.
    errno: i32,
    message: String,
}

/// The arguments behind [`COMMAND`], the mount point excepted.
fn part_arguments(options: &MountOptions) -> Vec<OsString> {
    let mut arguments = Vec::new();
    if options.allow_other {
        arguments.push("--allow-other".into());
    }
    if options.allow_exec {
        arguments.push("--allow-exec".into());
    }
    if options.no_sandbox {
        arguments.push("--no-sandbox".into());
    }
    if let Some(kib) = options.read_ahead_kib {
        arguments.push(format!("--read-ahead={kib}").into());
    }
    arguments.push("--".into());
    arguments.push(options.source_name.clone().into());
    arguments
}

/// Sends one message.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.is_empty() {
        // A server that never sends one may not call sendmsg: that takes an address where no filter sees it.
        rustix::io::retry_on_intr(|| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL))?;
        return Ok(());
    }
    let bytes = [IoSlice::new(bytes)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::io::retry_on_intr(|| sendmsg(socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one message and the descriptors with it; `None` when the other side is gone.
fn receive(socket: BorrowedFd<'_>, max: usize) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; max];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut into = [IoSliceMut::new(&mut bytes)];
        match recvmsg(socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let descriptors: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    bytes.truncate(received.bytes);
    Ok((received.bytes > 0).then_some((bytes, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_five_bytes_and_nothing_else_is_one() {
        let all = [
            Request::Mount,
            Request::Unmount,
            Request::OpenBacking,
            Request::CloseBacking(0),
            Request::CloseBacking(u32::MAX),
            Request::ReadAhead,
        ];
        for request in all {
            assert_eq!(Request::parse(&request.to_bytes()), Some(request));
        }
        for bytes in [
            &[][..],
            &[1],
            &[1, 0, 0, 0, 1],
            &[1, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0],
            &[5, 0, 0, 0, 1],
            &[6, 0, 0, 0, 0],
        ] {
            assert_eq!(Request::parse(bytes), None, "{bytes:?}");
        }
    }
}
