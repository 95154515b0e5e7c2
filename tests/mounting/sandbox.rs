//! How far the server confines itself, and what its privileged part does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;

use crate::assert_errno;
use crate::small_model;
use crate::support;
use crate::support::modelfs;
use crate::support::modelfs_command;
use crate::support::mounted::Mounted;
use crate::support::mounted::PATIENCE;
use crate::support::mounted::mount_entry;
use crate::support::notice;
use crate::support::run;
use crate::support::signing::Layout;
use crate::support::sys;

/// A field of `/proc/PID/.../status`.
fn field(process: &str, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")))?;
    Some(line.split_whitespace().nth(1)?.to_owned())
}

/// The one child of a server: its privileged part.
fn privileged_part(server: u32) -> Option<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.find(|pid| {
        field(&pid.to_string(), "PPid") == Some(server.to_string())
            && field(&pid.to_string(), "State").as_deref() != Some("Z")
    })
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_thread_of_the_server_is_confined_and_status_says_so() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::shards(100_000));
    let mounted = Mounted::with(&model, &["--verify", "background"]);
    for name in ["weights.bin", "config.json"] {
        assert!(fs::read(mounted.file(name)).unwrap() == model.content(name));
    }
    let threads: Vec<_> = fs::read_dir(format!("/proc/{}/task", mounted.pid()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(threads.len() > 4, "the threads that serve and hash: {threads:?}");
    for thread in &threads {
        let about = |name: &str| field(&format!("{}/task/{thread}", mounted.pid()), name);
        // One that has ended meanwhile has no fields.
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(
                about(set).is_none_or(|set| set == "0000000000000000"),
                "{thread} {set}"
            );
        }
        if support::is_root() {
            assert!(
                about("CapBnd").is_none_or(|set| set == "0000000000000000"),
                "{thread}"
            );
        }
        assert!(about("NoNewPrivs").is_none_or(|flag| flag == "1"), "{thread}");
        assert!(about("Seccomp").is_none_or(|mode| mode == "2"), "{thread}");
    }
    let sandbox = &mounted.status()["sandbox"];
    assert_eq!(sandbox["on"], true, "{sandbox}");
    assert_eq!(sandbox["privileges"], false, "{sandbox}");
    assert_eq!(sandbox["seccomp"], true, "{sandbox}");
    let text = modelfs(["status", mounted.path().to_str().unwrap()]).stdout;
    if sandbox["landlock"] == 0 {
        notice("this kernel has no Landlock: which files a server can reach was not tried");
        assert!(text.contains("no Landlock in this kernel"), "{text}");
    } else {
        assert_eq!(sandbox["reads"], "model", "{sandbox}");
        assert!(
            text.contains("sandbox   no privileges; reads the model and nothing else"),
            "{text}"
        );
    }
    mounted.unmount();
}

#[test]
fn what_is_not_confined_is_said() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mounted = Mounted::with(&model, &["--no-sandbox"]);
    assert!(fs::read(mounted.file("config.json")).unwrap() == model.content("config.json"));
    assert_eq!(field(&mounted.pid().to_string(), "Seccomp").as_deref(), Some("0"));
    assert_eq!(mounted.status()["sandbox"]["on"], false);
    let text = modelfs(["status", mounted.path().to_str().unwrap()]).stdout;
    assert!(text.contains("sandbox   none"), "{text}");
    mounted.unmount();

    let mounted = Mounted::with(&model, &["--allow-symlinks"]);
    let sandbox = &mounted.status()["sandbox"];
    assert_eq!(
        (&sandbox["on"], &sandbox["reads"]),
        (&true.into(), &"anything".into()),
        "{sandbox}"
    );
    mounted.unmount();
}

#[test]
fn the_privileged_part_keeps_two_capabilities_and_ends_with_its_server() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mut mounted = Mounted::new(&model);
    let part = privileged_part(mounted.pid()).expect("there is a privileged part");
    if support::is_root() {
        // CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH of linux/capability.h.
        assert_eq!(
            field(&part.to_string(), "CapPrm").as_deref(),
            Some("0000000000200004")
        );
        assert_eq!(field(&part.to_string(), "NoNewPrivs").as_deref(), Some("1"));
        assert_eq!(field(&part.to_string(), "Seccomp").as_deref(), Some("2"));
    }
    let open: Vec<_> = fs::read_dir(format!("/proc/{part}/fd"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .collect();
    // It would keep the connection to the kernel alive when the server dies.
    assert!(
        open.iter().all(|file| file.to_str() != Some("/dev/fuse")),
        "{open:?}"
    );
    // A terminal's Ctrl-C reaches both; the server decides.
    sys::signal(part, Signal::INT);
    sys::signal(part, Signal::TERM);
    assert!(fs::read(mounted.file("config.json")).unwrap() == model.content("config.json"));
    mounted.kill();
    wait_until("the privileged part ends", || {
        field(&part.to_string(), "State").is_none_or(|s| s == "Z")
    });
    assert!(mount_entry(mounted.path()).is_some(), "it takes nothing away");
    assert_errno(fs::read_dir(mounted.path()).map(drop), libc::ENOTCONN, "readdir");
}

#[test]
fn a_server_without_its_privileged_part_serves_on_and_ends_honestly() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mut mounted = Mounted::new(&model);
    let part = privileged_part(mounted.pid()).expect("there is a privileged part");
    sys::signal(part, Signal::KILL);
    wait_until("it ends", || {
        field(&part.to_string(), "State").is_none_or(|s| s == "Z")
    });
    assert!(fs::read(mounted.file("weights.bin")).unwrap() == model.content("weights.bin"));
    sys::signal(mounted.pid(), Signal::TERM);
    let status = mounted.wait();
    assert_eq!(status.code(), Some(8), "{status}");
    assert!(
        mounted.log().contains("modelfs unmount takes the mount away"),
        "{}",
        mounted.log()
    );
    assert_errno(fs::read_dir(mounted.path()).map(drop), libc::ENOTCONN, "readdir");
}

#[test]
fn a_file_that_root_could_read_only_by_privilege_is_refused_before_the_mount() {
    if !support::can_mount() {
        return;
    }
    if !support::is_root() {
        return notice("what only root's privilege can read was not tried: this is not root");
    }
    let model = small_model(Layout::FILES);
    let private = model.source("weights.bin");
    std::os::unix::fs::chown(&private, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
    let refused = Mounted::start(modelfs_command(), &model, &[]).unwrap_err();
    assert_eq!(refused.code, Some(7), "{refused:?}");
    assert!(refused.stderr.contains("weights.bin"), "{refused:?}");
    assert!(refused.stderr.contains("permissions"), "{refused:?}");
    let mounted = Mounted::with(&model, &["--no-sandbox"]);
    assert!(fs::read(mounted.file("weights.bin")).unwrap() == model.content("weights.bin"));
    mounted.unmount();
    // A check that root makes is of whatever root may read.
    let checked = run(modelfs_command()
        .arg("verify")
        .args(&model.trust)
        .args([&model.bundle, &model.model]));
    assert_eq!(checked.code, Some(0), "{checked:?}");
}
