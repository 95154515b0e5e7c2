//! What the outer rings share: models that are signed for real, mounts that go away by themselves, and the
//! few system calls that a reader needs to be mean.
//!
//! Nothing here reaches into the library's types of trust: a test signs with a key of its own and drives
//! the built binary, as an operator would.
#![allow(dead_code, reason = "each ring uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise, and its numbers are its own"
)]

pub(crate) mod mounted;
pub(crate) mod random;
pub(crate) mod signing;
pub(crate) mod sigstore;
pub(crate) mod source;
pub(crate) mod staging;
pub(crate) mod sys;

use std::io::Read;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// The re-check granule that the sizes below surround, in bytes. If the daemon's moves, the sizes miss its
/// edges but stay correct.
pub(crate) const CHUNK: usize = 128 << 10;

/// File sizes where an off-by-one shows.
pub(crate) const EDGE_SIZES: [usize; 14] = [
    0,
    1,
    4095,
    4096,
    4097,
    CHUNK - 1,
    CHUNK,
    CHUNK + 1,
    2 * CHUNK - 1,
    2 * CHUNK,
    2 * CHUNK + 1,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
];

/// The binary that the rings drive.
pub(crate) const MODELFS: &str = env!("CARGO_BIN_EXE_modelfs");

/// Says what a test left out and why, past the test runner's capture: nothing is skipped in silence.
pub(crate) fn notice(text: &str) {
    let mut out = std::io::stderr().lock();
    writeln!(out, "NOTICE: {text}").ok();
}

/// The folder of test vectors beside the project, where there is one.
pub(crate) fn vectors() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    dir.is_dir().then_some(dir)
}

/// Whether this machine lets these tests mount; says so when not.
pub(crate) fn can_mount() -> bool {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    if let Err(why) = &device {
        notice(&format!(
            "real mounts were left out: /dev/fuse does not open ({why})"
        ));
    }
    device.is_ok()
}

/// Whether the tests run as root, which some of the system calls need.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a run of the binary came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code; `None` after a signal or where it did not end in time.
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Both streams, for messages.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs the binary to its end.
pub(crate) fn modelfs<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Outcome {
    run(modelfs_command().args(args))
}

/// The binary with an environment that carries no policy and no planted fault.
pub(crate) fn modelfs_command() -> Command {
    let mut command = Command::new(MODELFS);
    let nowhere = "/nonexistent";
    command
        .env_remove("MODELFS_POLICY")
        .env_remove("MODELFS_PLANTED_FAULT")
        .env("XDG_CONFIG_HOME", nowhere)
        .env("HOME", nowhere);
    command
}

/// Runs a command until it has ended and closed its output, as a shell's `$(...)` does. What takes longer
/// than [`mounted::PATIENCE`] is killed and has no exit code.
pub(crate) fn run(command: &mut Command) -> Outcome {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = mounted::wait(&mut child, mounted::PATIENCE);
    if status.is_none() {
        child.kill().ok();
        child.wait().ok();
    }
    let finish = |stream: Receiver<String>| {
        let late = "\n[ended, yet its output was never closed]".to_owned();
        stream.recv_timeout(Duration::from_secs(5)).unwrap_or(late)
    };
    let mut outcome = Outcome {
        code: status.and_then(|status| status.code()),
        signal: status.and_then(|status| status.signal()),
        stdout: finish(stdout),
        stderr: finish(stderr),
    };
    if status.is_none() {
        outcome.stderr.push_str("\n[did not end in time]");
    }
    outcome
}

fn collect(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, receive) = std::sync::mpsc::channel();
    let mut stream = stream.expect("the stream is piped");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).ok();
        send.send(String::from_utf8_lossy(&bytes).into_owned()).ok();
    });
    receive
}
