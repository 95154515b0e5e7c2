//! Attacks on the read path and the mount: whoever writes the source, hangs it, reads the mount as somebody
//! else or mounts over it gets errors for himself, and nobody else gets anything wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise"
)]

mod support;

use std::fs;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;

use support::CHUNK;
use support::MODELFS;
use support::mounted::Mounted;
use support::random::Random;
use support::signing::Layout;
use support::signing::Signed;
use support::source::Gate;
use support::source::Source;

/// What has no reason to take long, and would hang for ever where the attack succeeds.
const SOON: Duration = Duration::from_secs(5);

/// The result of a call that may hang, unless it does.
fn within<T: Send + 'static>(patience: Duration, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, receive) = channel();
    std::thread::spawn(move || send.send(call()).ok());
    receive.recv_timeout(patience).ok()
}

/// Three small files of one digest each.
fn three() -> Signed {
    let mut random = Random::from_seed(7);
    Signed::new(
        Layout::FILES,
        &[
            ("a.bin", random.bytes(3 * CHUNK + 9)),
            ("b.bin", random.bytes(2 * CHUNK)),
            ("c.json", random.bytes(100)),
        ],
    )
}

/// A field of `/proc/PID/status` in KiB.
fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs a command whose failure is a fault of the test.
fn done(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// A source on which `close` waits at a gate for some files, from a moment on.
struct SlowToClose {
    hangs: Arc<AtomicBool>,
    gate: Arc<Gate>,
    _source: Source,
}

impl SlowToClose {
    fn over(model: &Signed, names: &'static [&'static str]) -> Self {
        let hangs = Arc::new(AtomicBool::new(false));
        let gate = Arc::new(Gate::default());
        let (held, closed) = (Arc::clone(&hangs), Arc::clone(&gate));
        let source = Source::mount_closing(
            &model.model,
            &model.files,
            Box::new(|ask| Ok(ask.truth())),
            Box::new(move |name| {
                if names.contains(&name) && held.load(Ordering::SeqCst) {
                    closed.pass();
                }
            }),
        );
        Self {
            hangs,
            gate,
            _source: source,
        }
    }
}

impl Drop for SlowToClose {
    fn drop(&mut self) {
        self.gate.open();
    }
}

#[test]
fn closing_files_of_a_hanging_source_does_not_stop_other_files() {
    if !support::can_mount() {
        return;
    }
    let model = three();
    let source = SlowToClose::over(&model, &["a.bin", "b.bin"]);
    let mounted = Mounted::new(&model);
    let open = ["a.bin", "b.bin"].map(|name| File::open(mounted.file(name)).unwrap());
    source.hangs.store(true, Ordering::SeqCst);
    drop(open);
    sleep(Duration::from_millis(300));
    let path = mounted.file("c.json");
    let read = within(SOON, move || fs::read(path));
    source.gate.open();
    let read = read.expect("a file that nobody touched hangs with those that were closed");
    assert!(read.unwrap() == model.content("c.json"));
}

#[test]
fn a_source_that_never_closes_costs_its_readers_eio_after_a_time() {
    if !support::can_mount() {
        return;
    }
    let model = three();
    let source = SlowToClose::over(&model, &["a.bin"]);
    source.hangs.store(true, Ordering::SeqCst);
    let mounted = Mounted::new(&model);
    let path = mounted.file("a.bin");
    let opened = within(Duration::from_secs(45), move || File::open(path));
    source.gate.open();
    match opened.expect("the reader hangs without a time-out") {
        Ok(_) => {}
        Err(why) => assert_eq!(why.raw_os_error(), Some(libc::EIO), "{why}"),
    }
}

#[test]
fn verifying_many_files_at_once_keeps_to_the_budget() {
    if !support::can_mount() {
        return;
    }
    const FILES: usize = 64;
    const BYTES: u64 = 20 << 20;
    let digest = modelfs::digest::hash(modelfs::digest::Algorithm::Sha256, &vec![0; BYTES as usize]);
    let hex = data_encoding::HEXLOWER.encode(digest.as_bytes());
    let names: Vec<String> = (0..FILES).map(|n| format!("{n:02}.bin")).collect();
    let resources = names
        .iter()
        .map(|name| json!({"name": name, "algorithm": "sha256", "digest": hex}))
        .collect();
    let model = Signed::staged(Layout::FILES, resources, |dir| {
        for name in &names {
            File::create(dir.join(name)).unwrap().set_len(BYTES).unwrap();
        }
    });
    let mounted = Mounted::with(&model, &["--memory", "64M"]);
    let before = memory(mounted.pid(), "VmRSS:");
    std::thread::scope(|scope| {
        for name in &names {
            let path = mounted.file(name);
            scope.spawn(move || File::open(path).unwrap());
        }
    });
    let grown = (memory(mounted.pid(), "VmHWM:") - before) / 1024;
    // The budget, a buffer and a stack for each thread, and room for the allocator.
    assert!(grown < 64 + 64, "64 MiB were allowed, {grown} MiB were taken");
}

#[test]
fn a_mount_that_lies_over_ours_is_not_taken_for_ours() {
    if !support::can_mount() || !support::is_root() {
        return;
    }
    let model = three();
    let mut mounted = Mounted::new(&model);
    let over = mounted.path().to_owned();
    done(Command::new("mount").args(["-t", "tmpfs", "modelfs-test"]).arg(&over));
    let forged = json!({"version": "0", "pid": 1, "model": "forged", "subject": "", "signer": "anybody", "identity": "",
        "files": {"total": 1, "verified": 1, "unverified": 0, "rejected": 0, "changed": 0},
        "bytes": {"total": 1, "verified": 1, "hashed": 1, "served": 1, "held": 0},
        "refused": {"resources": 0, "changed_reads": 0, "source_errors": 0}, "problems": []});
    let forged = serde_json::to_vec(&forged).unwrap();
    let can_forge =
        rustix::fs::setxattr(&over, "user.modelfs.status", &forged, rustix::fs::XattrFlags::empty()).is_ok();
    let status = support::modelfs(["status".as_ref(), over.as_os_str()]);
    let unmount = support::modelfs(["unmount".as_ref(), over.as_os_str()]);
    let top = support::mounted::mount_entry(&over).unwrap();
    support::sys::signal(mounted.pid(), rustix::process::Signal::TERM);
    sleep(Duration::from_millis(300));
    let top_after_signal = support::mounted::mount_entry(&over);
    if top_after_signal.as_ref().is_some_and(|top| top.kind == "tmpfs") {
        done(Command::new("umount").arg(&over));
    }
    assert_eq!(top.kind, "tmpfs", "unmount took away what is not ours: {unmount:?}");
    assert_ne!(unmount.code, Some(0), "{unmount:?}");
    assert_ne!(status.code, Some(0), "(forged: {can_forge}) {status:?}");
    assert_eq!(
        top_after_signal.map(|top| top.kind).as_deref(),
        Some("tmpfs"),
        "a signal took away what is not ours"
    );
    support::sys::signal(mounted.pid(), rustix::process::Signal::TERM);
    mounted.wait();
    assert_eq!(support::mounted::mount_entry(&over), None, "a second signal unmounts");
}

#[test]
fn more_files_can_be_open_than_the_soft_limit_of_descriptors() {
    if !support::can_mount() {
        return;
    }
    let names: Vec<String> = (0..400).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, Vec<u8>)> = names.iter().map(|n| (n.as_str(), n.clone().into_bytes())).collect();
    let model = Signed::new(Layout::FILES, &files);
    let mut command = Command::new("prlimit");
    command.args(["--nofile=128:4096", MODELFS]);
    let mounted = Mounted::start(command, &model, &[]).unwrap();
    let mut open = Vec::new();
    for name in &names {
        match File::open(mounted.file(name)) {
            Ok(file) => open.push(file),
            Err(why) => panic!("with {} files open, {name}: {why}", open.len()),
        }
    }
}

#[test]
fn the_server_keeps_nothing_of_its_caller_open() {
    if !support::can_mount() {
        return;
    }
    let model = three();
    let at = support::mounted::new_mount_point(model.dir());
    let lock = model.dir().join("lock");
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec 9>\"$1\"; shift; exec \"$@\"", "sh"])
        .arg(&lock)
        .arg(MODELFS)
        .args(support::mounted::mount_arguments(&model, &[], &at));
    let outcome = support::run(&mut command);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let status = support::modelfs(["status".as_ref(), "--json".as_ref(), at.as_os_str()]);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    let pid = status["pid"].as_u64().unwrap();
    let held: Vec<PathBuf> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter(|target| *target == lock)
        .collect();
    let unmounted = support::modelfs(["unmount".as_ref(), at.as_os_str()]);
    assert_eq!(unmounted.code, Some(0), "{unmounted:?}");
    assert!(held.is_empty(), "the server holds its caller's {held:?} open");
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_up_readers() {
    if !support::can_mount() {
        return;
    }
    let deep = vec!["x".repeat(200); 15].join("/");
    let names: Vec<String> = (0..60).map(|n| format!("{deep}/bad{n}")).collect();
    let mut files: Vec<(&str, Vec<u8>)> = names.iter().map(|n| (n.as_str(), vec![1; 10])).collect();
    files.push(("good", vec![2; 10]));
    let model = Signed::new(Layout::FILES, &files);
    for name in &names {
        fs::write(model.source(name), [3; 10]).unwrap();
    }
    let at = support::mounted::new_mount_point(model.dir());
    let mut arguments = support::mounted::mount_arguments(&model, &["--foreground", "--threads", "4"], &at);
    arguments.retain(|argument| argument != "--log-file");
    let mut child = support::modelfs_command()
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while support::mounted::mount_entry(&at).is_none() && began.elapsed() < SOON {
        sleep(Duration::from_millis(5));
    }
    let paths: Vec<PathBuf> = names.iter().map(|name| at.join(name)).collect();
    let good = at.join("good");
    let opened = within(SOON, move || {
        let refused = paths.iter().filter(|path| File::open(path).is_err()).count();
        (refused, fs::read(good))
    });
    // Reading the log lets whoever waits for it go on.
    let mut stderr = child.stderr.take().unwrap();
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    support::sys::signal(child.id(), rustix::process::Signal::TERM);
    support::mounted::wait(&mut child, SOON);
    support::mounted::unmount_lazily(&at);
    child.kill().ok();
    child.wait().ok();
    let (refused, good) = opened.expect("readers wait for the log");
    assert_eq!(refused, names.len());
    assert_eq!(good.unwrap(), [2; 10]);
}
