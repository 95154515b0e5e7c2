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
use std::os::unix::fs::FileExt as _;
use std::path::Path;
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
    done(
        Command::new("mount")
            .args(["-t", "tmpfs", "modelfs-test"])
            .arg(&over),
    );
    let forged = json!({"version": "0", "pid": 1, "model": "forged", "subject": "", "signer": "anybody", "identity": "",
        "files": {"total": 1, "verified": 1, "unverified": 0, "rejected": 0, "changed": 0},
        "bytes": {"total": 1, "verified": 1, "hashed": 1, "served": 1, "held": 0},
        "refused": {"resources": 0, "changed_reads": 0, "source_errors": 0}, "problems": []});
    let forged = serde_json::to_vec(&forged).unwrap();
    let can_forge = rustix::fs::setxattr(
        &over,
        "user.modelfs.status",
        &forged,
        rustix::fs::XattrFlags::empty(),
    )
    .is_ok();
    let status = support::modelfs(["status".as_ref(), over.as_os_str()]);
    let unmount = support::modelfs(["unmount".as_ref(), over.as_os_str()]);
    let top = support::mounted::mount_entry(&over).unwrap();
    support::sys::signal(mounted.pid(), rustix::process::Signal::TERM);
    sleep(Duration::from_millis(500));
    let top_after_signal = support::mounted::mount_entry(&over);
    if top_after_signal.as_ref().is_some_and(|top| top.kind == "tmpfs") {
        done(Command::new("umount").arg(&over));
    }
    assert_eq!(
        top.kind, "tmpfs",
        "unmount took away what is not ours: {unmount:?}"
    );
    assert_ne!(unmount.code, Some(0), "{unmount:?}");
    assert_ne!(status.code, Some(0), "(forged: {can_forge}) {status:?}");
    assert_eq!(
        top_after_signal.map(|top| top.kind).as_deref(),
        Some("tmpfs"),
        "a signal took away what is not ours"
    );
    support::sys::signal(mounted.pid(), rustix::process::Signal::TERM);
    mounted.wait();
    assert_eq!(
        support::mounted::mount_entry(&over),
        None,
        "a second signal unmounts"
    );
}

#[test]
fn a_mount_that_was_moved_over_ours_is_not_taken_for_ours() {
    if !support::can_mount() || !support::is_root() {
        return;
    }
    let model = three();
    // Older than our mount, so that the mount table lists it before ours although it lies on top.
    let older = support::mounted::new_mount_point(model.dir());
    done(
        Command::new("mount")
            .args(["-t", "tmpfs", "modelfs-test"])
            .arg(&older),
    );
    let mounted = Mounted::new(&model);
    let moved = Command::new("mount")
        .arg("--move")
        .args([&older, mounted.path()])
        .status();
    if !moved.unwrap().success() {
        support::notice("no mount was moved: the one above is shared");
        support::mounted::unmount_lazily(&older);
        return;
    }
    fs::write(mounted.file("marker"), "").unwrap();
    let unmount = support::modelfs(["unmount".as_ref(), mounted.path().as_os_str()]);
    let covered = mounted.file("marker").exists();
    if covered {
        done(Command::new("umount").arg(mounted.path()));
    }
    assert!(covered, "unmount took away what is not ours: {unmount:?}");
    assert_ne!(unmount.code, Some(0), "{unmount:?}");
}

#[test]
fn a_mount_beneath_a_covered_directory_is_not_confused_with_another() {
    if !support::can_mount() || !support::is_root() {
        return;
    }
    let model = three();
    let parent = model.dir().join("parent");
    fs::create_dir(&parent).unwrap();
    let at = support::mounted::new_mount_point(&parent);
    let mut mounted = Mounted::at(support::modelfs_command(), &model, &at, &[]).unwrap();
    let tmpfs = |path: &Path| {
        done(
            Command::new("mount")
                .args(["-t", "tmpfs", "modelfs-test"])
                .arg(path),
        );
    };
    tmpfs(&parent);
    fs::create_dir(&at).unwrap();
    tmpfs(&at);
    fs::write(at.join("marker"), "").unwrap();
    let status = support::modelfs(["status".as_ref(), at.as_os_str()]);
    let unmount = support::modelfs(["unmount".as_ref(), at.as_os_str()]);
    support::sys::signal(mounted.pid(), rustix::process::Signal::TERM);
    sleep(Duration::from_millis(500));
    let untouched = at.join("marker").exists();
    if untouched {
        done(Command::new("umount").arg(&at));
    }
    done(Command::new("umount").arg(&parent));
    if mounted.ended().is_none() {
        support::sys::signal(mounted.pid(), rustix::process::Signal::TERM);
        mounted.wait();
    }
    assert!(untouched, "what is not ours was taken away: {unmount:?}");
    assert_ne!(unmount.code, Some(0), "{unmount:?}");
    assert_ne!(status.code, Some(0), "{status:?}");
}

/// Sends SIGTERM and asserts that the server ends; what is left of the mount is taken away.
fn ends_on_a_signal(mounted: &mut Mounted, left: &Path) {
    // It takes signals before it mounts, but looks at them only once it serves.
    sleep(Duration::from_millis(300));
    support::sys::signal(mounted.pid(), rustix::process::Signal::TERM);
    let began = Instant::now();
    let mut ended = None;
    while ended.is_none() && began.elapsed() < SOON {
        sleep(Duration::from_millis(20));
        ended = mounted.ended();
    }
    if ended.is_none() {
        mounted.kill();
    }
    if support::mounted::mount_entry(left).is_some() {
        support::mounted::unmount_lazily(left);
    }
    assert!(ended.is_some(), "the server does not end");
}

#[test]
fn a_signal_ends_serving_even_when_the_mount_is_seen_elsewhere_too() {
    if !support::can_mount() || !support::is_root() {
        return;
    }
    let model = three();
    let mut mounted = Mounted::new(&model);
    let other = support::mounted::new_mount_point(model.dir());
    done(Command::new("mount").arg("--bind").args([mounted.path(), &other]));
    assert!(fs::read(other.join("c.json")).unwrap() == model.content("c.json"));
    ends_on_a_signal(&mut mounted, &other);
}

#[test]
fn a_signal_ends_serving_even_when_a_directory_above_was_renamed() {
    if !support::can_mount() {
        return;
    }
    let model = three();
    let parent = model.dir().join("parent");
    fs::create_dir(&parent).unwrap();
    let at = support::mounted::new_mount_point(&parent);
    let mut mounted = Mounted::at(support::modelfs_command(), &model, &at, &[]).unwrap();
    let moved = model.dir().join("moved");
    fs::rename(&parent, &moved).unwrap();
    let at = moved.join(at.file_name().unwrap());
    let seen = support::mounted::mount_entry(&at);
    ends_on_a_signal(&mut mounted, &at);
    assert_eq!(seen.map(|entry| entry.kind).as_deref(), Some("fuse.modelfs"));
}

#[test]
fn more_files_can_be_open_than_the_soft_limit_of_descriptors() {
    if !support::can_mount() {
        return;
    }
    let names: Vec<String> = (0..400).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, Vec<u8>)> = names
        .iter()
        .map(|n| (n.as_str(), n.clone().into_bytes()))
        .collect();
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

#[test]
fn a_signal_ends_serving_even_while_the_source_hangs() {
    if !support::can_mount() {
        return;
    }
    let model = three();
    let gate = Arc::new(Gate::default());
    let closed = Arc::clone(&gate);
    let _source = Source::mount(
        &model.model,
        &model.files,
        Box::new(move |ask| {
            if ask.name == "a.bin" {
                closed.pass();
            }
            Ok(ask.truth())
        }),
    );
    let mounted = Mounted::new(&model);
    let path = mounted.file("a.bin");
    let (send, receive) = channel();
    std::thread::spawn(move || send.send(File::open(path)).ok());
    sleep(Duration::from_millis(500));
    support::sys::signal(mounted.pid(), rustix::process::Signal::TERM);
    let reader = receive.recv_timeout(SOON);
    let left = support::mounted::mount_entry(mounted.path());
    gate.open();
    let reader = reader.expect("the reader hangs on with a server that was told to end");
    assert!(reader.is_err(), "{reader:?}");
    assert_eq!(left, None);
}

#[test]
fn a_file_is_readable_again_once_threads_can_be_started_again() {
    if !support::can_mount() || !support::is_root() {
        return;
    }
    let model = three();
    // Address space for the heap but not for a stack stands for a container that may have no further task. Where
    // the heap grows first, the server ends for want of memory, which is not what this is about.
    let survived = (0..20).any(|_| {
        let mut mounted = Mounted::new(&model);
        let limit = |space: &str| {
            let pid = mounted.pid().to_string();
            Command::new("prlimit")
                .args(["--pid", &pid, &format!("--as={space}")])
                .status()
                .ok();
        };
        // All threads that serving itself takes are there by then.
        sleep(Duration::from_millis(300));
        let taken = memory(mounted.pid(), "VmSize:") * 1024;
        limit(&format!("{}:unlimited", taken + (240 << 10)));
        let path = mounted.file("c.json");
        let refused = within(SOON, move || {
            // More often than a file may have threads.
            (0..4).filter(|_| File::open(&path).is_err()).count()
        });
        limit("unlimited:unlimited");
        if mounted.ended().is_some() {
            support::mounted::unmount_lazily(mounted.path());
            return false;
        }
        assert_eq!(refused, Some(4), "without threads each reader gets an error");
        let path = mounted.file("c.json");
        let read = within(SOON, move || fs::read(path));
        // The reader that hangs goes with the mount.
        let read = read.expect("the file hangs for ever after threads were short");
        assert!(read.unwrap() == model.content("c.json"));
        true
    });
    assert!(survived, "the server never outlived the shortage");
}

#[test]
fn a_status_fits_its_attribute_whatever_was_signed() {
    if !support::can_mount() {
        return;
    }
    let content = b"x".to_vec();
    let resources = support::signing::resources("a", &content, Layout::FILES);
    let mut model = Signed::staged(Layout::FILES, Vec::new(), |dir| {
        fs::write(dir.join("a"), &content).unwrap()
    });
    // JSON spells each of these with six characters.
    let signer = support::signing::Signer::p256();
    let payload = support::signing::statement(&"\u{1}".repeat(20_000), Layout::FILES, resources);
    fs::write(&model.bundle, signer.bundle(&payload)).unwrap();
    model.trust = signer.trust(model.dir());
    match Mounted::start(support::modelfs_command(), &model, &[]) {
        Ok(mounted) => assert_eq!(mounted.status()["files"]["total"], 1),
        Err(refused) => assert_eq!(refused.code, Some(3), "{refused:?}"),
    }
}

#[test]
fn a_read_that_meets_a_damaged_shard_ends_before_it_and_the_next_one_fails() {
    if !support::can_mount() {
        return;
    }
    const SHARD: usize = 1 << 20;
    let truth = Random::from_seed(3).bytes(8 * SHARD);
    let model = Signed::new(Layout::shards(SHARD as u64), &[("w", truth.clone())]);
    let source = File::options().write(true).open(model.source("w")).unwrap();
    source.write_at(b"damage", 5 * SHARD as u64 + 17).unwrap();
    let mounted = Mounted::new(&model);
    let file = File::open(mounted.file("w")).unwrap();
    let mut buffer = vec![0; truth.len()];
    let mut at = 0;
    // Whatever the kernel makes of it, a reader who goes on meets the error, never an end.
    let why = loop {
        match file.read_at(&mut buffer[at..], at as u64) {
            Ok(0) => panic!("a silent end at {at}"),
            Ok(read) => at += read,
            Err(why) => break why,
        }
    };
    assert_eq!(why.raw_os_error(), Some(libc::EIO), "{why}");
    assert_eq!(at, 5 * SHARD);
    assert!(buffer[..at] == truth[..at]);
    let rest = 6 * SHARD;
    assert_eq!(
        support::sys::read_full(&file, &mut buffer[rest..], rest as u64).unwrap(),
        2 * SHARD
    );
    assert!(buffer[rest..] == truth[rest..]);
}

#[test]
fn links_to_what_is_no_plain_file_cost_eio_and_nothing_waits() {
    if !support::can_mount() || !support::is_root() {
        return;
    }
    let targets = [
        ("zero", "/dev/zero"),
        ("terminal", "/dev/tty"),
        ("random", "/dev/urandom"),
        ("pipe", "../pipe"),
        ("folder", "/"),
        ("itself", "itself"),
        ("magic", "/proc/self/fd/1"),
        ("thread", "/proc/thread-self/fd/1"),
        ("memory", "/proc/self/mem"),
        ("status", "/proc/self/status"),
        ("nowhere", "../../nowhere"),
    ];
    let files: Vec<(&str, Vec<u8>)> = targets
        .iter()
        .map(|(name, _)| (*name, vec![b'x'; 4096]))
        .chain([("good", b"good".to_vec())])
        .collect();
    let model = Signed::new(Layout::FILES, &files);
    done(Command::new("mkfifo").arg(model.dir().join("pipe")));
    for links in [&[][..], &["--allow-symlinks"]] {
        let mounted = Mounted::with(&model, links);
        for (name, target) in targets {
            fs::remove_file(model.source(name)).unwrap();
            std::os::unix::fs::symlink(target, model.source(name)).unwrap();
        }
        for (name, _) in targets {
            let path = mounted.file(name);
            let opened = within(SOON, move || File::open(path).map(drop));
            let why = opened.unwrap_or_else(|| panic!("{name} hangs")).unwrap_err();
            assert_eq!(why.raw_os_error(), Some(libc::EIO), "{name}: {why}");
            assert_eq!(fs::metadata(mounted.file(name)).unwrap().len(), 4096);
        }
        assert_eq!(fs::read(mounted.file("good")).unwrap(), b"good");
        mounted.unmount();
        for (name, bytes) in &files {
            fs::remove_file(model.source(name)).unwrap();
            fs::write(model.source(name), bytes).unwrap();
        }
    }
}

#[test]
fn a_mount_made_writable_by_root_still_writes_nothing() {
    if !support::can_mount() || !support::is_root() {
        return;
    }
    let model = three();
    let mounted = Mounted::new(&model);
    done(
        Command::new("mount")
            .args(["-i", "-o", "remount,rw,suid,dev,exec"])
            .arg(mounted.path()),
    );
    let a = mounted.file("a.bin");
    let new = mounted.file("new");
    let read_only = |result: std::io::Result<()>, what: &str| {
        let why = result.expect_err(what);
        assert_eq!(why.raw_os_error(), Some(libc::EROFS), "{what}: {why}");
    };
    let open = |options: &mut fs::OpenOptions| options.open(&a).map(drop);
    read_only(open(File::options().write(true)), "open for writing");
    read_only(open(File::options().append(true)), "open for appending");
    read_only(open(File::options().read(true).write(true)), "open for both");
    read_only(
        open(File::options().write(true).truncate(true)),
        "truncating open",
    );
    read_only(File::create_new(&new).map(drop), "create");
    read_only(fs::create_dir(&new), "mkdir");
    read_only(fs::remove_file(&a), "unlink");
    read_only(fs::rename(&a, &new), "rename");
    read_only(fs::rename(&a, mounted.file("b.bin")), "rename over another");
    read_only(fs::hard_link(&a, &new), "link");
    read_only(std::os::unix::fs::symlink("x", &new), "symlink");
    read_only(std::os::unix::fs::chown(&a, Some(1), Some(1)), "chown");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    read_only(fs::set_permissions(&a, mode), "chmod");
    let long = std::ffi::CString::new(a.as_os_str().as_encoded_bytes()).unwrap();
    read_only(support::sys::truncate(&long, 1), "truncate");
    let flags = rustix::fs::XattrFlags::empty();
    // Revision 2, effective, without a capability: what the kernel lets pass.
    let mut capability = [0; 20];
    (capability[0], capability[3]) = (1, 2);
    read_only(
        rustix::fs::setxattr(&a, "user.x", b"1", flags).map_err(Into::into),
        "setxattr",
    );
    read_only(
        rustix::fs::setxattr(&a, "security.capability", &capability, flags).map_err(Into::into),
        "file capabilities",
    );
    read_only(
        rustix::fs::removexattr(&a, "user.modelfs.state").map_err(Into::into),
        "removexattr",
    );
    assert!(fs::read(&a).unwrap() == model.content("a.bin"));
    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 3);
}

#[test]
fn a_directory_can_be_listed_from_any_position() {
    if !support::can_mount() {
        return;
    }
    let model = three();
    let mounted = Mounted::new(&model);
    let directory = File::open(mounted.path()).unwrap();
    let mut room = vec![std::mem::MaybeUninit::uninit(); 4096];
    for (at, want) in [
        (0, 5),
        (1, 4),
        (2, 3),
        (4, 1),
        (5, 0),
        (6, 0),
        (1 << 31, 0),
        (i64::MAX as u64, 0),
    ] {
        rustix::fs::seek(&directory, rustix::fs::SeekFrom::Start(at)).unwrap();
        let mut listing = rustix::fs::RawDir::new(&directory, &mut room);
        let mut count = 0;
        while let Some(entry) = listing.next() {
            entry.unwrap();
            count += 1;
        }
        assert_eq!(count, want, "from {at}");
    }
}

/// A model whose files `f0`, `f1`.. are links into a source that the test controls, and whose `good` is a plain file.
fn partly_elsewhere(files: usize) -> (Signed, PathBuf, Vec<(String, Vec<u8>)>) {
    let names: Vec<String> = (0..files).map(|n| format!("f{n}")).collect();
    let content: Vec<(&str, Vec<u8>)> = names
        .iter()
        .map(|name| (name.as_str(), name.clone().into_bytes()))
        .chain([("good", b"good".to_vec())])
        .collect();
    let model = Signed::new(Layout::FILES, &content);
    let elsewhere = model.dir().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for name in &names {
        fs::remove_file(model.source(name)).unwrap();
        std::os::unix::fs::symlink(elsewhere.join(name), model.source(name)).unwrap();
    }
    let there = model
        .files
        .iter()
        .filter(|(name, _)| name != "good")
        .cloned()
        .collect();
    (model, elsewhere, there)
}

#[test]
fn many_files_of_a_hanging_source_do_not_stop_another_file() {
    if !support::can_mount() {
        return;
    }
    const FILES: usize = 60;
    let (model, elsewhere, files) = partly_elsewhere(FILES);
    let gate = Arc::new(Gate::default());
    let closed = Arc::clone(&gate);
    let _source = Source::mount(
        &elsewhere,
        &files,
        Box::new(move |ask| {
            closed.pass();
            Ok(ask.truth())
        }),
    );
    let mounted = Mounted::with(&model, &["--allow-symlinks", "--threads", "2"]);
    let readers: Vec<_> = (0..FILES)
        .map(|n| {
            let path = mounted.file(&format!("f{n}"));
            std::thread::spawn(move || File::open(path).map(drop))
        })
        .collect();
    sleep(Duration::from_millis(300));
    let path = mounted.file("good");
    let read = within(SOON, move || fs::read(path));
    gate.open();
    for reader in readers {
        reader.join().unwrap().ok();
    }
    assert_eq!(
        read.expect("the other file waits for those that hang").unwrap(),
        b"good"
    );
}

#[test]
fn closing_many_files_of_a_hanging_source_does_not_stop_another_file() {
    if !support::can_mount() {
        return;
    }
    const FILES: usize = 60;
    let (model, elsewhere, files) = partly_elsewhere(FILES);
    let hangs = Arc::new(AtomicBool::new(false));
    let gate = Arc::new(Gate::default());
    let (held, closed) = (Arc::clone(&hangs), Arc::clone(&gate));
    let _source = Source::mount_closing(
        &elsewhere,
        &files,
        Box::new(|ask| Ok(ask.truth())),
        Box::new(move |_| {
            if held.load(Ordering::SeqCst) {
                closed.pass();
            }
        }),
    );
    let mounted = Mounted::with(&model, &["--allow-symlinks", "--threads", "2"]);
    let open: Vec<File> = (0..FILES)
        .map(|n| File::open(mounted.file(&format!("f{n}"))).unwrap())
        .collect();
    hangs.store(true, Ordering::SeqCst);
    drop(open);
    sleep(Duration::from_millis(300));
    let path = mounted.file("good");
    let read = within(SOON, move || fs::read(path));
    gate.open();
    assert_eq!(
        read.expect("the other file waits for those that are closed")
            .unwrap(),
        b"good"
    );
}

#[test]
fn a_reader_that_was_given_up_leaves_nothing_open() {
    if !support::can_mount() {
        return;
    }
    // Side by side: each takes as long as the server's patience.
    std::thread::scope(|scope| {
        for layout in [Layout::FILES, Layout::shards(CHUNK as u64)] {
            scope.spawn(move || give_up_on(layout));
        }
    });
}

fn give_up_on(layout: Layout) {
    let model = Signed::new(layout, &[("a.bin", Random::from_seed(1).bytes(3 * CHUNK + 9))]);
    let gate = Arc::new(Gate::default());
    let closed = Arc::clone(&gate);
    let _source = Source::mount(
        &model.model,
        &model.files,
        Box::new(move |ask| {
            closed.pass();
            Ok(ask.truth())
        }),
    );
    let mounted = Mounted::new(&model);
    let readers: Vec<_> = (0..6)
        .map(|_| {
            let path = mounted.file("a.bin");
            std::thread::spawn(move || fs::read(path))
        })
        .collect();
    for reader in readers {
        let why = reader.join().unwrap().expect_err("the source does not answer");
        assert_eq!(why.raw_os_error(), Some(libc::EIO), "{layout:?}: {why}");
    }
    // The threads that hung go on now, and find that nobody waits for them.
    gate.open();
    let path = mounted.file("a.bin");
    let read = within(SOON, move || fs::read(path)).expect("the file stays hung");
    assert!(read.unwrap() == model.content("a.bin"));
    let held = || {
        fs::read_dir(format!("/proc/{}/fd", mounted.pid()))
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
            .filter(|target| target.ends_with("model/a.bin"))
            .count()
    };
    let began = Instant::now();
    while held() > 0 && began.elapsed() < SOON {
        sleep(Duration::from_millis(20));
    }
    assert_eq!(held(), 0, "{layout:?}: descriptors of the source stay open");
    mounted.unmount();
}

#[test]
fn whatever_is_planted_in_a_model_is_named_by_verify() {
    type Plant = fn(&Path);
    let model = Signed::new(Layout::FILES, &[("a", b"x".to_vec()), ("s/b", b"y".to_vec())]);
    let outside = model.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    fn raw(dir: &Path, name: &[u8]) -> PathBuf {
        dir.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(
            name,
        ))
    }
    fn link(target: &str, path: PathBuf) {
        std::os::unix::fs::symlink(target, path).unwrap();
    }
    fn file(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "planted").unwrap();
    }
    // What it is, how it gets there, which of the two ways to treat links finds it.
    let cases: [(&str, Plant, [bool; 2]); 19] = [
        ("nothing", |_| {}, [false, false]),
        (
            "a name that is no text",
            |m| file(raw(m, b"\xff\xfe")),
            [true, true],
        ),
        (
            "a file in such a directory",
            |m| file(raw(m, b"\xff/x")),
            [true, true],
        ),
        ("a line end", |m| file(m.join("\n")), [true, true]),
        ("three dots", |m| file(m.join("...")), [true, true]),
        ("beside a signed file", |m| file(m.join("s/c")), [true, true]),
        (
            "an empty file",
            |m| fs::write(m.join("e"), "").unwrap(),
            [true, true],
        ),
        (
            "a pipe",
            |m| done(Command::new("mkfifo").arg(m.join("p"))),
            [true, true],
        ),
        (
            "a socket",
            |m| drop(std::os::unix::net::UnixListener::bind(m.join("k")).unwrap()),
            [true, true],
        ),
        (
            "a second name",
            |m| fs::hard_link(m.join("a"), m.join("h")).unwrap(),
            [true, true],
        ),
        (
            "a link to a signed file",
            |m| link("a", m.join("l")),
            [true, true],
        ),
        ("a link to nowhere", |m| link("gone", m.join("l")), [true, true]),
        ("a link out", |m| link("../outside", m.join("l")), [true, true]),
        ("a link up", |m| link("..", m.join("l")), [true, true]),
        // What it leads to is looked at anyway.
        (
            "a link to a signed directory",
            |m| link("s", m.join("l")),
            [true, false],
        ),
        (
            "a link to what is ignored",
            |m| {
                file(m.join(".git/u/x"));
                link(".git/u", m.join("l"));
            },
            [true, true],
        ),
        (
            "git's files further down",
            |m| file(m.join("s/.git/x")),
            [true, true],
        ),
        ("almost git's files", |m| file(m.join(".GIT/x")), [true, true]),
        ("a name longer than a path", plant_deep, [true, true]),
    ];
    for (what, plant, found) in cases {
        let copy = model.dir().join("copy");
        fs::create_dir_all(copy.join("s")).unwrap();
        fs::write(copy.join("a"), "x").unwrap();
        fs::write(copy.join("s/b"), "y").unwrap();
        plant(&copy);
        for (links, found) in [None, Some("--allow-symlinks")].into_iter().zip(found) {
            let mut arguments: Vec<std::ffi::OsString> = vec!["verify".into()];
            arguments.extend(links.map(Into::into));
            arguments.extend(model.trust.iter().cloned());
            arguments.extend([model.bundle.clone().into(), copy.clone().into()]);
            let outcome = support::modelfs(arguments);
            assert_eq!(
                outcome.code,
                Some(if found { 6 } else { 0 }),
                "{what} {links:?}: {outcome:?}"
            );
        }
        fs::remove_dir_all(&copy).unwrap();
    }
}

/// Plants a file beneath more directories than a path can name.
fn plant_deep(model: &Path) {
    let name = "x".repeat(200);
    let mut at = File::open(model).unwrap();
    for _ in 0..22 {
        rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        at = rustix::fs::openat(&at, &name, flags, rustix::fs::Mode::empty())
            .unwrap()
            .into();
    }
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE;
    rustix::fs::openat(&at, "planted", flags, rustix::fs::Mode::RUSR).unwrap();
}

#[test]
fn many_small_files_keep_to_the_budget() {
    if !support::can_mount() {
        return;
    }
    let names: Vec<String> = (0..4000).map(|n| format!("{}/f{n}", n % 50)).collect();
    let files: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), b"x".to_vec())).collect();
    let model = Signed::new(Layout::FILES, &files);
    let mounted = Mounted::with(&model, &["--memory", "8M"]);
    let before = memory(mounted.pid(), "VmData:");
    // Opened, so verified and held, and never read.
    for name in &names {
        File::open(mounted.file(name)).unwrap();
    }
    let grown = memory(mounted.pid(), "VmData:").saturating_sub(before) / 1024;
    assert!(
        grown < 100,
        "8 MiB were allowed for {} bytes, {grown} MiB were taken",
        names.len()
    );
}

#[test]
fn reading_ahead_in_a_hanging_file_does_not_stop_another_file() {
    if !support::can_mount() {
        return;
    }
    const READERS: u64 = 128;
    let mut random = Random::from_seed(9);
    let model = Signed::new(
        Layout::shards(1 << 20),
        &[("good", random.bytes(300_000)), ("hangs", random.bytes(64 << 20))],
    );
    let elsewhere = model.dir().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::remove_file(model.source("hangs")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("hangs"), model.source("hangs")).unwrap();
    let gate = Arc::new(Gate::default());
    let hangs = Arc::new(AtomicBool::new(false));
    let (held, closed) = (Arc::clone(&hangs), Arc::clone(&gate));
    let hanging: Vec<_> = model
        .files
        .iter()
        .filter(|(name, _)| name == "hangs")
        .cloned()
        .collect();
    let _source = Source::mount(
        &elsewhere,
        &hanging,
        Box::new(move |ask| {
            if held.load(Ordering::SeqCst) {
                closed.pass();
            }
            Ok(ask.truth())
        }),
    );
    let mounted = Mounted::with(&model, &["--allow-symlinks"]);
    // More readers than there may be requests that the kernel makes on its own account, each elsewhere.
    let open: Vec<File> = (0..READERS)
        .map(|_| File::open(mounted.file("hangs")).unwrap())
        .collect();
    hangs.store(true, Ordering::SeqCst);
    let readers: Vec<_> = (0..)
        .zip(open)
        .map(|(n, file)| std::thread::spawn(move || file.read_at(&mut [0; 100], n << 19)))
        .collect();
    sleep(Duration::from_millis(500));
    let path = mounted.file("good");
    let read = within(SOON, move || fs::read(path));
    gate.open();
    for reader in readers {
        reader.join().unwrap().ok();
    }
    let read = read.expect("another file waits for what is read ahead in the one that hangs");
    assert!(read.unwrap() == model.content("good"));
}
