//! A mount that the test owns: the daemon is its child, and both are gone when it is dropped.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use super::Outcome;
use super::modelfs;
use super::modelfs_command;
use super::signing::Signed;

/// How long anything may take that has no reason to take long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a line of `/proc/self/mountinfo` says of one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    pub(crate) options: Vec<String>,
    pub(crate) kind: String,
    pub(crate) source: String,
}

/// The topmost mount at a path, if there is one.
pub(crate) fn mount_entry(path: &Path) -> Option<MountEntry> {
    let path = path.to_str().expect("test paths are text");
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let line = table
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some(path))?;
    let (mount, rest) = line.split_once(" - ")?;
    let mut rest = rest.split(' ');
    Some(MountEntry {
        options: mount.split(' ').nth(5)?.split(',').map(str::to_owned).collect(),
        kind: rest.next()?.to_owned(),
        source: rest.next()?.to_owned(),
    })
}

/// A running `modelfs mount --foreground`.
#[derive(Debug)]
pub(crate) struct Mounted {
    path: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Mounted {
    /// Mounts a model at a new directory beside it, with no further options.
    pub(crate) fn new(model: &Signed) -> Self {
        Self::with(model, &[])
    }

    /// Mounts a model at a new directory beside it.
    pub(crate) fn with(model: &Signed, options: &[&str]) -> Self {
        Self::start(modelfs_command(), model, options).unwrap_or_else(|o| panic!("no mount: {o:?}"))
    }

    /// Mounts with a command of the caller's: what it printed and exited with, where it refused.
    pub(crate) fn start(command: Command, model: &Signed, options: &[&str]) -> Result<Self, Outcome> {
        let path = new_mount_point(model.dir());
        let result = Self::at(command, model, &path, options);
        if result.is_err() {
            assert_eq!(mount_entry(&path), None, "a refusal leaves no mount behind");
        }
        result
    }

    /// Mounts over a directory of the caller's.
    pub(crate) fn at(
        mut command: Command,
        model: &Signed,
        path: &Path,
        options: &[&str],
    ) -> Result<Self, Outcome> {
        let log = path.with_extension("log");
        let said = path.with_extension("said");
        let before = mount_entry(path);
        let was_dead = rustix::fs::statfs(path).is_err();
        command
            .args(["mount", "--foreground", "--log-file"])
            .arg(&log)
            .args(&model.trust)
            .args(options)
            .args([&model.bundle, &model.model])
            .arg(path)
            .stdout(File::create(&said).unwrap())
            .stderr(File::options().append(true).open(&said).unwrap());
        let mut child = command.spawn().expect("the binary starts");
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("the child can be waited for") {
                return Err(Outcome {
                    code: status.code(),
                    signal: status.signal(),
                    stdout: String::new(),
                    stderr: fs::read_to_string(&said).unwrap_or_default(),
                });
            }
            // A mount over a dead one looks the same in the table; only a live one answers `statfs`.
            if (was_dead || mount_entry(path) != before) && rustix::fs::statfs(path).is_ok() {
                break;
            }
            if began.elapsed() > PATIENCE {
                child.kill().ok();
                child.wait().ok();
                panic!(
                    "no mount after {PATIENCE:?}: {}",
                    fs::read_to_string(&said).unwrap_or_default()
                );
            }
            sleep(Duration::from_millis(2));
        }
        Ok(Self {
            path: path.to_owned(),
            log,
            child,
        })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the mounted tree.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the daemon has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The status as the command line gives it.
    pub(crate) fn status(&self) -> serde_json::Value {
        let outcome = modelfs([OsStr::new("status"), OsStr::new("--json"), self.path.as_os_str()]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|why| panic!("{why}: {}", outcome.stdout))
    }

    /// Kills the daemon without a chance to clean up.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the child can be killed");
        self.child.wait().expect("the child can be waited for");
    }

    /// Whether the daemon has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be waited for")
    }

    /// Waits for the daemon to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child, PATIENCE).unwrap_or_else(|| panic!("the daemon runs on after {PATIENCE:?}"))
    }

    /// Unmounts, and insists that this goes well.
    pub(crate) fn unmount(mut self) {
        let outcome = unmount(&self.path);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let status = self.wait();
        assert!(status.success(), "the daemon ended with {status}");
        assert_eq!(mount_entry(&self.path), None);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if mount_entry(&self.path).is_some() {
            // Lazily, and not with the binary under test: whatever state a failed test left must go.
            unmount_lazily(&self.path);
        }
        if wait(&mut self.child, Duration::from_secs(5)).is_none() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// Unmounts with the binary. Where it finds files in use it is asked again for a while: a process that
/// another test just forked holds a copy of every descriptor until it has started its program.
pub(crate) fn unmount(path: &Path) -> Outcome {
    let began = Instant::now();
    loop {
        let outcome = modelfs([OsStr::new("unmount"), path.as_os_str()]);
        let busy = outcome.code == Some(8) && outcome.stderr.contains("in use");
        if !busy || began.elapsed() > Duration::from_secs(5) {
            return outcome;
        }
        sleep(Duration::from_millis(20));
    }
}

/// A new, empty directory to mount over.
pub(crate) fn new_mount_point(dir: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = dir.join(format!("mnt{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&path).unwrap();
    path
}

/// Detaches whatever is mounted at a path, busy or not.
pub(crate) fn unmount_lazily(path: &Path) {
    let root = super::is_root();
    let mut command = Command::new(if root { "umount" } else { "fusermount3" });
    command.args(if root { ["-l"].iter() } else { ["-uz"].iter() });
    command.arg(path).status().ok();
}

/// The arguments of a mount, for tests that run the command themselves.
pub(crate) fn mount_arguments(model: &Signed, options: &[&str], path: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["mount".into()];
    args.extend(model.trust.iter().cloned());
    args.extend(options.iter().map(OsString::from));
    args.extend([
        model.bundle.clone().into(),
        model.model.clone().into(),
        path.into(),
    ]);
    args
}

/// Waits for a child to end, for so long.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < patience {
        match child.try_wait() {
            Ok(None) => sleep(Duration::from_millis(2)),
            Ok(status) => return status,
            Err(_) => return None,
        }
    }
    None
}
