//! What a service manager is told. Under a real one: `scripts/test-systemd`.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::handed_over::Point;
use crate::handed_over::can_mount_for_others;
use crate::handed_over::handing_over;
use crate::small_model;
use crate::support;
use crate::support::modelfs_command;
use crate::support::mounted::Mounted;
use crate::support::mounted::PATIENCE;
use crate::support::mounted::mount_entry;
use crate::support::mounted::new_mount_point;
use crate::support::mounted::wait;
use crate::support::run;
use crate::support::signing::Layout;
use crate::support::signing::Signed;

/// A manager that listens.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(model: &Signed) -> Self {
        let path = model.dir().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { socket, path }
    }

    fn command(&self) -> Command {
        let mut command = modelfs_command();
        command
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", "300000");
        command
    }

    /// The next message.
    fn hears(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("there is a message in time");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn hears_until(&self, what: &str) -> Vec<String> {
        let mut heard = Vec::new();
        while !heard
            .iter()
            .any(|message: &String| message.lines().any(|line| line.starts_with(what)))
        {
            heard.push(self.hears());
            assert!(heard.len() < 100, "{heard:?}");
        }
        heard
    }
}

#[test]
fn the_service_manager_hears_of_progress_of_serving_and_of_the_end() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let manager = Manager::new(&model);
    let mounted = Mounted::start(manager.command(), &model, &["--verify", "eager"]).unwrap();
    let path = mounted.path().to_owned();
    let heard = manager.hears_until("READY=1");
    assert!(mount_entry(&path).is_some(), "ready means mounted");
    let (ready, before) = heard.split_last().unwrap();
    assert!(ready.contains("STATUS=serving; verified 4 of 4 files"), "{ready}");
    assert!(!before.is_empty(), "a check of everything is told of");
    for message in before {
        assert!(message.contains("STATUS=verifying: "), "{message}");
        assert!(message.contains("EXTEND_TIMEOUT_USEC="), "{message}");
    }
    for _ in 0..3 {
        let heard = manager.hears_until("WATCHDOG=1");
        assert!(
            heard.iter().all(|message| !message.contains("STOPPING")),
            "{heard:?}"
        );
    }
    mounted.unmount();
    manager.hears_until("STOPPING=1");
    assert_eq!(mount_entry(&path), None, "stopping means that the mount is gone");
}

#[test]
fn the_service_manager_hears_why_a_model_is_refused_and_never_that_it_is_served() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mut wrong = model.content("weights.bin").to_vec();
    wrong[1] ^= 1;
    fs::write(model.source("weights.bin"), wrong).unwrap();
    let manager = Manager::new(&model);
    let refused = Mounted::start(manager.command(), &model, &["--verify", "eager"]).unwrap_err();
    assert_eq!(refused.code, Some(5), "{refused:?}");
    let heard = manager.hears_until("STOPPING=1");
    assert!(
        heard.iter().all(|message| !message.contains("READY")),
        "{heard:?}"
    );
    let last = heard.last().unwrap();
    assert!(
        last.contains("STATUS=") && last.contains("is not what was signed"),
        "{last}"
    );
}

#[test]
fn the_watchdog_hears_of_a_mount_of_others_that_is_found_where_it_is_said_to_be() {
    if !can_mount_for_others() {
        return;
    }
    let model = small_model(Layout::FILES);
    for (elsewhere, complaints) in [(None, 0), (Some(model.dir()), 1)] {
        let manager = Manager::new(&model);
        let point = Point(new_mount_point(model.dir()));
        let place = elsewhere.unwrap_or(&point.0).to_str().unwrap();
        let log = model.dir().join("log");
        let options = [
            "--foreground",
            "--mounted-at",
            place,
            "--log-file",
            log.to_str().unwrap(),
        ];
        let mut server = handing_over(&model, &point.0, &options)
            .env("NOTIFY_SOCKET", &manager.path)
            .env("WATCHDOG_USEC", "300000")
            .spawn()
            .unwrap();
        manager.hears_until("READY=1");
        for _ in 0..3 {
            manager.hears_until("WATCHDOG=1");
        }
        assert_eq!(run(Command::new("umount").arg(&point.0)).code, Some(0));
        manager.hears_until("STOPPING=1");
        assert_eq!(wait(&mut server, PATIENCE).and_then(|s| s.code()), Some(0));
        let said = fs::read_to_string(&log).unwrap();
        assert!(said.contains(&format!(" on {place}, ")), "{said}");
        assert_eq!(said.matches("is not watched").count(), complaints, "{said}");
        fs::remove_file(&log).unwrap();
        fs::remove_file(&manager.path).unwrap();
    }
}

#[test]
fn a_mount_of_our_own_is_where_it_is_mounted() {
    let model = small_model(Layout::FILES);
    let point = new_mount_point(model.dir());
    let outcome = run(modelfs_command().args(["mount", "--mounted-at", "/mnt"]).args([
        &model.bundle,
        &model.model,
        &point,
    ]));
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("handed over"), "{outcome:?}");
}
