//! Going into the background: the command runs itself again and returns when that one serves.
//!
//! The second process does all the work, so that it can say on the caller's own standard error what is
//! wrong. It was not forked from a process with threads. Its standard input is a pipe to the first: one byte
//! says that serving has begun, an end without one that it never will.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::process::Command;
use std::process::ExitStatus;

use super::log::Destination;
use crate::mount::HandedOver;

/// How the background process began.
#[derive(Debug)]
pub(super) enum Start {
    /// It serves.
    Serving,
    /// It ended instead, and has said why.
    Ended(ExitStatus),
}

/// The hidden option that makes a process the background one.
pub(super) const READY_ON_STDIN: &str = "--ready-on-stdin";

/// Runs this program again with the same arguments and waits until it serves or ends.
pub(super) fn start(arguments: &[OsString], handed: Option<&HandedOver>) -> io::Result<Start> {
    // Linux before 5.11 cannot; then the server keeps what the caller had open, as any child would.
    let _ = crate::sys::keep_descriptors_from_children();
    if let Some(handed) = handed {
        handed.share()?;
    }
    let (mut reader, writer) = io::pipe()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(READY_ON_STDIN).args(arguments).stdin(writer);
    let mut child = command.spawn()?;
    // The writing end that we hold would keep the pipe open for ever.
    drop(command);
    let mut byte = [0];
    loop {
        match reader.read(&mut byte) {
            Ok(1..) => return Ok(Start::Serving),
            Ok(0) => return child.wait().map(Start::Ended),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// What it takes to go into the background, opened while that can be done.
#[derive(Debug)]
pub(super) struct Background {
    null: File,
    log: Destination,
}

impl Background {
    /// Prepares to log there from now on.
    ///
    /// # Errors
    /// When there is no `/dev/null`.
    pub(super) fn prepare(log: Destination) -> io::Result<Self> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        Ok(Self { null, log })
    }

    /// Tells the first process that serving has begun, and lets go of all that is the caller's: the standard
    /// streams, the session and the working folder.
    ///
    /// # Errors
    /// When the first process is gone nobody knows of this one, and it should end.
    pub(super) fn detach(self) -> io::Result<()> {
        let Self { null, log } = self;
        std::env::set_current_dir("/")?;
        super::log::redirect(log);
        // Before the byte: a caller that reads our output to its end must not wait for us once it is sent.
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        let ready = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
        rustix::stdio::dup2_stdin(&null)?;
        // Before the byte, too: the caller's terminal may close as soon as the caller returns.
        rustix::process::setsid()?;
        rustix::io::write(ready, b"1")?;
        Ok(())
    }
}
