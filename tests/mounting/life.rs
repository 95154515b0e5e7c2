//! How a mount begins and ends.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;

use crate::assert_errno;
use crate::small_model;
use crate::support;
use crate::support::modelfs_command;
use crate::support::mounted::Mounted;
use crate::support::mounted::PATIENCE;
use crate::support::mounted::mount_arguments;
use crate::support::mounted::mount_entry;
use crate::support::mounted::new_mount_point;
use crate::support::mounted::unmount;
use crate::support::mounted::unmount_lazily;
use crate::support::random::Random;
use crate::support::run;
use crate::support::signing::Layout;
use crate::support::sys;

#[test]
fn the_mount_table_tells_type_source_and_options() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mounted = Mounted::new(&model);
    let entry = mount_entry(mounted.path()).unwrap();
    assert_eq!(entry.kind, "fuse.modelfs");
    assert_eq!(Path::new(&entry.source), model.model.canonicalize().unwrap());
    for option in ["ro", "nosuid", "nodev"] {
        assert!(
            entry.options.iter().any(|have| have == option),
            "{option}: {entry:?}"
        );
    }
    mounted.unmount();
}

#[test]
fn the_kernel_reads_further_ahead_than_by_itself_where_root_mounts() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mounted = Mounted::new(&model);
    let device = fs::metadata(mounted.path()).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    match fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb")) {
        Ok(kib) if rustix::process::geteuid().is_root() => assert_eq!(kib.trim(), "4096"),
        Ok(_) => support::notice("only root can raise the read-ahead: it was not looked at"),
        Err(e) => support::notice(&format!("no read-ahead to look at here: {e}")),
    }
    mounted.unmount();
}

#[test]
fn mount_returns_when_serving_has_begun() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let path = new_mount_point(model.dir());
    // `run` waits for the end of both streams, as $(...) in a shell does, and marks it when they stay open.
    let began = Instant::now();
    let outcome = run(modelfs_command().args(mount_arguments(&model, &[], &path)));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(!outcome.text().contains("never closed"), "{outcome:?}");
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    assert!(
        fs::read(path.join("weights.bin")).unwrap() == model.content("weights.bin"),
        "the first read after the return is served"
    );
    let outcome = unmount(&path);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(mount_entry(&path), None);
}

#[test]
fn a_mount_made_in_the_background_outlives_the_shell_it_came_from() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let path = new_mount_point(model.dir());
    let mut shell = std::process::Command::new("setsid");
    shell.arg("--wait").arg(support::MODELFS);
    shell.args(mount_arguments(&model, &[], &path));
    let outcome = run(shell.env("HOME", "/nonexistent"));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    sleep(Duration::from_millis(100));
    assert!(fs::read(path.join("config.json")).unwrap() == model.content("config.json"));
    assert_eq!(unmount(&path).code, Some(0));
}

#[test]
fn signals_unmount() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut mounted = Mounted::new(&model);
        let path = mounted.path().to_owned();
        sys::signal(mounted.pid(), signal);
        let status = mounted.wait();
        assert_eq!(
            mount_entry(&path),
            None,
            "{signal:?}: the daemon ended with {status}"
        );
    }
}

#[test]
fn a_signal_ends_serving_even_while_a_file_is_open() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mut mounted = Mounted::new(&model);
    let path = mounted.path().to_owned();
    let file = fs::File::open(mounted.file("weights.bin")).unwrap();
    sys::signal(mounted.pid(), Signal::TERM);
    let began = Instant::now();
    while mount_entry(&path).is_some() && began.elapsed() < PATIENCE {
        sleep(Duration::from_millis(10));
    }
    assert_eq!(mount_entry(&path), None);
    drop(file);
    mounted.wait();
}

#[test]
fn the_server_cannot_be_debugged_and_leaves_no_core() {
    if !support::can_mount() {
        return;
    }
    let mounted = Mounted::new(&small_model(Layout::FILES));
    let about = |what: &str| fs::read_to_string(format!("/proc/{}/{what}", mounted.pid())).unwrap();
    let limits = about("limits");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let numbers: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(numbers, ["0", "0"], "{core}");
    if support::is_root() {
        // An ordinary user's server must still execute the set-uid helper that unmounts.
        assert!(about("status").contains("NoNewPrivs:\t1"));
    }
    mounted.unmount();
}

#[test]
fn a_killed_server_leaves_enotconn() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mut mounted = Mounted::new(&model);
    let path = mounted.path().to_owned();
    let again = path.join("weights.bin");
    assert!(fs::read(&again).unwrap() == model.content("weights.bin"));
    mounted.kill();
    assert_errno(fs::read_dir(&path).map(drop), libc::ENOTCONN, "readdir");
    assert_errno(fs::read(path.join("config.json")), libc::ENOTCONN, "open");
    assert!(
        mount_entry(&path).is_some(),
        "the dead mount covers the directory"
    );

    // Directly over the dead one.
    let fresh = Mounted::at(modelfs_command(), &model, &path, &[]).unwrap_or_else(|o| panic!("{o:?}"));
    assert!(fs::read(&again).unwrap() == model.content("weights.bin"));
    drop(fresh);

    // And after the dead one has been taken away.
    let mut mounted = Mounted::new(&model);
    let path = mounted.path().to_owned();
    mounted.kill();
    let outcome = unmount(&path);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(mount_entry(&path), None);
    let fresh = Mounted::at(modelfs_command(), &model, &path, &[]).unwrap_or_else(|o| panic!("{o:?}"));
    assert!(fs::read(path.join("config.json")).unwrap() == model.content("config.json"));
    fresh.unmount();
    while mount_entry(&path).is_some() {
        unmount_lazily(&path);
    }
}

#[test]
fn killing_the_daemon_while_readers_wait_fails_them_at_once() {
    if !support::can_mount() {
        return;
    }
    let mut random = Random::from_environment("kill");
    let model = small_model(Layout::shards(100_000));
    for round in 0..20 {
        let mut mounted = Mounted::new(&model);
        let path = mounted.file("weights.bin");
        let truth = model.content("weights.bin");
        let done = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                loop {
                    sys::drop_cache_at(&path);
                    match fs::read(&path) {
                        Ok(bytes) => assert!(bytes == truth, "a wrong byte while being killed"),
                        Err(why) => return (why, Instant::now()),
                    }
                }
            });
            sleep(Duration::from_micros(random.next() % 5000));
            let killed = Instant::now();
            mounted.kill();
            let (why, ended) = reader.join().unwrap();
            let allowed = [Some(libc::ENOTCONN), Some(libc::ECONNABORTED)];
            assert!(
                allowed.contains(&why.raw_os_error()) || why.kind() == io::ErrorKind::NotConnected,
                "round {round}: {why}"
            );
            ended.saturating_duration_since(killed)
        });
        assert!(
            done < Duration::from_secs(1),
            "the reader waited {done:?} for a dead daemon"
        );
        let path = mounted.path().to_owned();
        drop(mounted);
        assert_eq!(mount_entry(&path), None);
    }
}

#[test]
fn unmount_refuses_what_is_not_ours_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path(), Path::new("/proc"), Path::new("/nonexistent/mount")] {
        let outcome = unmount(path);
        assert_eq!(outcome.code, Some(8), "{}: {outcome:?}", path.display());
        assert!(!outcome.stderr.is_empty());
    }
    assert!(Path::new("/proc/self/stat").exists(), "/proc is still mounted");
}

#[test]
fn a_busy_mount_is_not_torn_away_in_silence() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mounted = Mounted::new(&model);
    let file = fs::File::open(mounted.file("weights.bin")).unwrap();
    let outcome = unmount(mounted.path());
    if outcome.code == Some(0) {
        // Detaching is an answer too, so long as the open file goes on being right.
        let mut bytes = vec![0; model.content("weights.bin").len()];
        let n = sys::read_full(&file, &mut bytes, 0).unwrap();
        assert!(bytes[..n] == *model.content("weights.bin"));
    } else {
        assert_eq!(outcome.code, Some(8), "{outcome:?}");
        assert!(mount_entry(mounted.path()).is_some());
    }
}

#[test]
fn two_models_can_be_mounted_at_once() {
    if !support::can_mount() {
        return;
    }
    let (a, b) = (small_model(Layout::FILES), small_model(Layout::shards(1000)));
    let (at_a, at_b) = (Mounted::new(&a), Mounted::new(&b));
    let again = Mounted::new(&a);
    for (model, mounted) in [(&a, &at_a), (&b, &at_b), (&a, &again)] {
        for (name, bytes) in &model.files {
            assert!(fs::read(mounted.file(name)).unwrap() == *bytes, "{name}");
        }
    }
    at_a.unmount();
    assert!(fs::read(again.file("weights.bin")).unwrap() == a.content("weights.bin"));
    again.unmount();
    at_b.unmount();
}

#[test]
fn a_closed_standard_output_does_not_stop_a_mount() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let path = new_mount_point(model.dir());
    let status = modelfs_command()
        .args(mount_arguments(&model, &[], &path))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(fs::read(path.join("config.json")).unwrap() == model.content("config.json"));
    assert_eq!(unmount(&path).code, Some(0));
}
