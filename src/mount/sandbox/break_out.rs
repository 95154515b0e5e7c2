//! A planted fault: what an attacker would try who runs code in the server, each once, from a thread of it. What came
//! of it is logged, for the test that compares. Compiled only with the feature `planted-faults`.
#![allow(clippy::as_conversions, reason = "flags as a register has them")]

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::sys::attempt;

/// Tries, if `MODELFS_PLANTED_FAULT` says so. `file` is one of the model's.
pub(in super::super) fn run_if_planted(file: &Path) {
    if !std::env::var("MODELFS_PLANTED_FAULT").is_ok_and(|fault| fault == "break-out") {
        return;
    }
    let file = file.to_owned();
    let tried = std::thread::Builder::new()
        .name("break-out".to_owned())
        .spawn(move || try_all(&file));
    if let Err(e) = tried {
        log::error!("break-out: {e}");
    }
}

fn try_all(file: &Path) {
    // The log is at its place once the mount stands.
    std::thread::sleep(Duration::from_secs(1));
    try_files(Some(file), &mut |line| log::error!("{line}"));
    try_others(&[], &mut |line| log::error!("{line}"));
    log::error!("break-out ended");
}

/// The same in the privileged part, when it is about to answer: its log goes with the answer. It needs some calls, and files.
pub(in super::super) fn run_in_part_if_planted() {
    if std::env::var("MODELFS_PLANTED_FAULT").is_ok_and(|fault| fault == "break-out-of-part") {
        try_others(&["ioctl-backing", "sendmsg"], &mut |line| log::error!("{line}"));
        log::error!("break-out ended");
    }
}

/// The same in a command that has confined itself, on standard error. `file` is one that it may read, if there is any.
pub fn run_in_command_if_planted(file: Option<&Path>) {
    if std::env::var("MODELFS_PLANTED_FAULT").is_ok_and(|fault| fault == "break-out") {
        let mut tell = |line: String| drop(writeln!(io::stderr(), "{line}"));
        try_files(file, &mut tell);
        try_others(&[], &mut tell);
        tell("break-out ended".to_owned());
    }
}

fn tell_of(name: &str, outcome: io::Result<()>) -> String {
    match outcome {
        Ok(()) => format!("break-out {name}: done"),
        Err(e) => format!("break-out {name}: {}", e.raw_os_error().unwrap_or(0)),
    }
}

/// Tries what files can be used for.
fn try_files(file: Option<&Path>, tell: &mut dyn FnMut(String)) {
    let mut report = |name: &str, outcome: io::Result<()>| tell(tell_of(name, outcome));
    report("read-secret", File::open("/etc/shadow").map(drop));
    report("read-world-readable", File::open("/etc/passwd").map(drop));
    report("list-root", fs::read_dir("/").map(drop));
    report("read-process", File::open("/proc/1/environ").map(drop));
    let Some(file) = file else {
        return;
    };
    let new = file.with_file_name("planted");
    report("read-model", File::open(file).map(drop));
    report("write-model", File::options().write(true).open(file).map(drop));
    report(
        "truncate-model",
        File::options().append(true).open(file).map(drop),
    );
    report("create", File::create(&new).and_then(|_| fs::remove_file(&new)));
    report(
        "rename",
        fs::rename(file, &new).and_then(|()| fs::rename(&new, file)),
    );
    report(
        "chmod",
        fs::metadata(file).and_then(|about| {
            let mode = about.permissions().mode();
            fs::set_permissions(file, fs::Permissions::from_mode(mode))
        }),
    );
}

/// Tries all but files, and but what the process needs.
fn try_others(needed: &[&str], tell: &mut dyn FnMut(String)) {
    let mut report = |name: &str, outcome: io::Result<()>| tell(tell_of(name, outcome));
    report("exec", Command::new("/bin/true").status().map(drop));
    report(
        "connect-network",
        match TcpStream::connect("127.0.0.1:9") {
            // It was asked, and nobody listens there.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            other => other.map(drop),
        },
    );
    report("socket-unix", UnixDatagram::unbound().map(drop));
    for (name, number, arguments) in calls().into_iter().filter(|(name, ..)| !needed.contains(name)) {
        let outcome = match attempt(number, arguments) {
            // The kernel looked at the arguments, so nothing kept the call from it.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EFAULT | libc::EINVAL | libc::ESRCH | libc::EBADF | libc::ENOENT)
                ) =>
            {
                Ok(())
            }
            other => other,
        };
        report(name, outcome);
    }
}

/// Calls with arguments that do no harm where they are allowed.
fn calls() -> Vec<(&'static str, libc::c_long, [usize; 5])> {
    let none = [0; 5];
    let nowhere = usize::MAX;
    vec![
        ("execve", libc::SYS_execve, none),
        ("execveat", libc::SYS_execveat, [nowhere, 0, 0, 0, 0]),
        (
            "fork",
            libc::SYS_clone,
            [libc::CLONE_NEWNS as usize | libc::CLONE_FS as usize, 0, 0, 0, 0],
        ),
        ("ptrace", libc::SYS_ptrace, [16, 0, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, none),
        ("kill", libc::SYS_kill, [1, 0, 0, 0, 0]),
        ("tgkill", libc::SYS_tgkill, [1, 1, 0, 0, 0]),
        ("pidfd_open", libc::SYS_pidfd_open, none),
        ("mount", libc::SYS_mount, none),
        ("umount2", libc::SYS_umount2, none),
        ("open_tree", libc::SYS_open_tree, [nowhere, 0, 0, 0, 0]),
        ("fsopen", libc::SYS_fsopen, none),
        ("pivot_root", libc::SYS_pivot_root, none),
        ("chroot", libc::SYS_chroot, none),
        ("unshare", libc::SYS_unshare, [usize::MAX >> 33, 0, 0, 0, 0]),
        ("setns", libc::SYS_setns, [nowhere, 0, 0, 0, 0]),
        ("capset", libc::SYS_capset, none),
        ("setuid", libc::SYS_setresuid, [nowhere, nowhere, nowhere, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, none),
        ("bpf", libc::SYS_bpf, [nowhere, 0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, none),
        ("userfaultfd", libc::SYS_userfaultfd, [nowhere, 0, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [nowhere, 0, 0, 0, 0]),
        (
            "open_by_handle_at",
            libc::SYS_open_by_handle_at,
            [nowhere, 0, 0, 0, 0],
        ),
        ("init_module", libc::SYS_init_module, none),
        ("memfd_create", libc::SYS_memfd_create, none),
        ("socket", libc::SYS_socket, [nowhere, 0, 0, 0, 0]),
        ("sendmsg", libc::SYS_sendmsg, [nowhere, 0, 0, 0, 0]),
        ("ftruncate", libc::SYS_ftruncate, [nowhere, 0, 0, 0, 0]),
        (
            "fcntl-flags",
            libc::SYS_fcntl,
            [nowhere, libc::F_SETFL as usize, 0, 0, 0],
        ),
        ("ioctl-tiocsti", libc::SYS_ioctl, [nowhere, 0x5412, 0, 0, 0]),
        ("ioctl-backing", libc::SYS_ioctl, [nowhere, 0x4010_e501, 0, 0, 0]),
        (
            "mprotect-exec",
            libc::SYS_mprotect,
            [4096, 4096, libc::PROT_EXEC as usize, 0, 0],
        ),
        (
            "mmap-exec",
            libc::SYS_mmap,
            [
                0,
                0,
                libc::PROT_EXEC as usize,
                libc::MAP_PRIVATE as usize | libc::MAP_ANONYMOUS as usize,
                nowhere,
            ],
        ),
        (
            "prctl-seccomp",
            libc::SYS_prctl,
            [libc::PR_SET_SECCOMP as usize, nowhere, 0, 0, 0],
        ),
        (
            "prctl-dumpable",
            libc::SYS_prctl,
            [libc::PR_SET_DUMPABLE as usize, nowhere, 0, 0, 0],
        ),
        ("acct", libc::SYS_acct, [1, 0, 0, 0, 0]),
        ("utimensat", libc::SYS_utimensat, [nowhere, 0, 0, 0, 0]),
        ("splice", libc::SYS_splice, [nowhere, 0, nowhere, 0, 0]),
        (
            "copy_file_range",
            libc::SYS_copy_file_range,
            [nowhere, 0, nowhere, 0, 0],
        ),
    ]
}
