//! The service manager, where one listens: when serving has begun, how far a check is, that the mount still answers.
//!
//! `sd_notify(3)` is a datagram to the socket that `$NOTIFY_SOCKET` names. It is connected once, before the server
//! confines itself: later it could not be. What cannot be told is not: a manager that is gone stops no mount.

use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use rustix::net::sendmsg;
use sd_notify::NotifyState;

use super::model;
use crate::fs::ModelFs;

/// Name of the device in the manager's store.
const DEVICE: &str = "FDNAME=fuse";

/// How long a check of everything may go on in silence before the manager gives up, in microseconds. Long for a chunk,
/// short for an operator who waits for a start that hangs.
const PATIENCE_MICROSECONDS: u32 = 120_000_000;

/// How long the manager may take to store a device.
const BARRIER: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// How often the status line is told anew, where no watchdog asks for more.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// A service manager that wants to be told.
#[derive(Debug)]
pub(super) struct Manager {
    socket: UnixDatagram,
    /// After how long without a word it takes us for stuck.
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that started this process, if it did and listens.
    pub(super) fn connect() -> Option<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET")?;
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name).ok()?,
            None => SocketAddr::from_pathname(Path::new(&name)).ok()?,
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect_addr(&address).ok()?;
        Some(Self {
            socket,
            watchdog: sd_notify::watchdog_enabled(),
        })
    }

    /// Tells these, in one message.
    pub(super) fn tell(&self, states: &[NotifyState<'_>]) {
        let _ = self.socket.send(message(states).as_bytes());
    }

    /// Has the manager keep a device for the process that it starts next, and returns when it does: it takes nothing
    /// from a process that has ended.
    ///
    /// # Errors
    /// When it cannot be told, or does not answer.
    pub(super) fn keep(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        self.send(
            &[NotifyState::Custom("FDSTORE=1"), NotifyState::Custom(DEVICE)],
            device,
        )?;
        // sd_notify_barrier(3): it closes this end when it has read all that came before.
        let (ours, theirs) = io::pipe()?;
        self.send(&[NotifyState::Custom("BARRIER=1")], theirs.as_fd())?;
        drop(theirs);
        let mut closed = [PollFd::new(&ours, PollFlags::empty())];
        match rustix::event::poll(&mut closed, Some(&BARRIER)) {
            Ok(1..) => Ok(()),
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Err(e) => Err(e.into()),
        }
    }

    fn send(&self, states: &[NotifyState<'_>], descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let text = message(states);
        let descriptors = [descriptor];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(
            &self.socket,
            &[IoSlice::new(text.as_bytes())],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// Has the manager let go of the device: while it has one, a server that died would be waited for.
    pub(super) fn forget(&self) {
        self.tell(&[
            NotifyState::Custom("FDSTOREREMOVE=1"),
            NotifyState::Custom(DEVICE),
        ]);
    }

    /// How far a check of everything is.
    pub(super) fn checking(&self, done: u64, total: u64) {
        let status = format!("verifying: {} of {}", model::bytes(done), model::bytes(total));
        self.tell(&[
            NotifyState::Status(&status),
            NotifyState::ExtendTimeoutUsec(PATIENCE_MICROSECONDS),
        ]);
    }

    /// Says that serving has begun, and from then on how it goes. The watchdog hears of us only as long as a question
    /// to the mount is answered: `alive` asks one.
    pub(super) fn serving(self: &Arc<Self>, fs: &Arc<ModelFs>, alive: impl Fn() -> bool + Send + 'static) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(&status(fs))]);
        let (manager, fs) = (Arc::clone(self), Arc::downgrade(fs));
        let pause = self.watchdog.map_or(STATUS_INTERVAL, |patience| {
            (patience / 3).clamp(Duration::from_millis(10), STATUS_INTERVAL)
        });
        let watch = move || {
            let mut told = String::new();
            while let Some(fs) = fs.upgrade() {
                // Hangs where the mount does, and then there is no word to the watchdog.
                if alive() && manager.watchdog.is_some() {
                    manager.tell(&[NotifyState::Watchdog]);
                }
                let now = status(&fs);
                drop(fs);
                if now != told {
                    manager.tell(&[NotifyState::Status(&now)]);
                    told = now;
                }
                thread::sleep(pause);
            }
        };
        if let Err(e) = thread::Builder::new().name("manager".to_owned()).spawn(watch) {
            ::log::warn!(
                "the service manager will hear no more of this mount, there is no thread for it: {e}"
            );
        }
    }
}

fn message(states: &[NotifyState<'_>]) -> String {
    states.iter().map(|state| format!("{state}\n")).collect()
}

fn status(fs: &ModelFs) -> String {
    let report = fs.report();
    let (files, bytes) = (report.files, report.bytes);
    let refused = match files.rejected + files.changed {
        0 => String::new(),
        refused => format!("; {refused} refused: see modelfs status"),
    };
    format!(
        "serving; verified {} of {} files, {} of {}{refused}",
        files.verified,
        files.total,
        model::bytes(bytes.verified),
        model::bytes(bytes.total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_one_a_line() {
        let states = [NotifyState::Ready, NotifyState::Status("verified 1 of 2")];
        assert_eq!(message(&states), "READY=1\nSTATUS=verified 1 of 2\n");
        let device = [
            NotifyState::Custom("FDSTOREREMOVE=1"),
            NotifyState::Custom(DEVICE),
        ];
        assert_eq!(message(&device), "FDSTOREREMOVE=1\nFDNAME=fuse\n");
    }
}
