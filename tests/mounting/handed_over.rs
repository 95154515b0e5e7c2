//! Serving a mount that somebody else made: its device arrives as an open descriptor, `/dev/fd/N`.

use std::fs;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use crate::assert_errno;
use crate::small_model;
use crate::support;
use crate::support::MODELFS;
use crate::support::Outcome;
use crate::support::modelfs;
use crate::support::modelfs_command;
use crate::support::mounted::PATIENCE;
use crate::support::mounted::mount_arguments;
use crate::support::mounted::mount_entry;
use crate::support::mounted::new_mount_point;
use crate::support::mounted::unmount_lazily;
use crate::support::mounted::wait;
use crate::support::notice;
use crate::support::run;
use crate::support::signing::Layout;
use crate::support::signing::Signed;

/// Mounts writable and with everything else that ours never are, then hands the device over.
const MOUNTER: &str = r#"
exec 3<> /dev/fuse
mount -i -t fuse.modelfs -o "rw,suid,dev,exec,fd=3,rootmode=40000,user_id=$(id -u),group_id=$(id -g),allow_other" \
    theirs "$POINT" || exit 99
exec "$@"
"#;

/// A command whose descriptor 3 is a device that was mounted with at `point`.
pub(crate) fn handing_over(model: &Signed, point: &Path, options: &[&str]) -> Command {
    let mut command = modelfs_command();
    command
        .env("POINT", point)
        .args(mount_arguments(model, options, Path::new("/dev/fd/3")));
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut mounter = Command::new("sh");
    mounter
        .args(["-c", MOUNTER, "sh", MODELFS])
        .args(arguments)
        .env("POINT", point)
        .env_remove("MODELFS_POLICY");
    mounter
}

pub(crate) fn can_mount_for_others() -> bool {
    if !support::can_mount() {
        return false;
    }
    if !support::is_root() {
        notice("serving a mount that somebody else made was left out: only root can be that somebody");
    }
    support::is_root()
}

/// Takes whatever is mounted away, however the test ends.
pub(crate) struct Point(pub(crate) PathBuf);

impl Drop for Point {
    fn drop(&mut self) {
        if mount_entry(&self.0).is_some() {
            unmount_lazily(&self.0);
        }
    }
}

/// A server in the foreground, and its mount.
fn serving(model: &Signed) -> (Child, Point) {
    let point = Point(new_mount_point(model.dir()));
    let said = File::create(point.0.with_extension("said")).unwrap();
    let mut child = handing_over(model, &point.0, &["--foreground"])
        .stderr(said)
        .spawn()
        .unwrap();
    let began = Instant::now();
    // The kernel answers `statfs` only when the server has answered it.
    while mount_entry(&point.0).is_none() || rustix::fs::statfs(&point.0).is_err() {
        let said = || fs::read_to_string(point.0.with_extension("said"));
        assert!(child.try_wait().unwrap().is_none(), "it ended: {:?}", said());
        assert!(began.elapsed() < PATIENCE, "no mount: {:?}", said());
        sleep(Duration::from_millis(2));
    }
    (child, point)
}

#[test]
fn a_mount_that_somebody_else_made_is_served_and_cannot_be_written_to() {
    if !can_mount_for_others() {
        return;
    }
    let model = small_model(Layout::FILES);
    let (mut child, point) = serving(&model);
    let entry = mount_entry(&point.0).unwrap();
    assert_eq!(entry.source, "theirs");
    assert!(entry.options.contains(&"rw".to_owned()), "{entry:?}");
    for name in ["config.json", "weights.bin", "tokenizer/vocab.txt"] {
        assert_eq!(
            fs::read(point.0.join(name)).unwrap(),
            model.content(name),
            "{name}"
        );
    }
    // Where the kernel does not refuse, we do.
    for (what, result) in [
        (
            "write",
            File::options()
                .write(true)
                .open(point.0.join("config.json"))
                .map(drop),
        ),
        ("create", File::create_new(point.0.join("new")).map(drop)),
        ("remove", fs::remove_file(point.0.join("config.json"))),
        (
            "rename",
            fs::rename(point.0.join("config.json"), point.0.join("new")),
        ),
        ("mkdir", fs::create_dir(point.0.join("new"))),
    ] {
        assert_eq!(
            result.unwrap_err().kind(),
            ErrorKind::ReadOnlyFilesystem,
            "{what}"
        );
    }
    let status = modelfs(["status".as_ref(), point.0.as_os_str()]);
    assert_eq!(status.code, Some(0), "{status:?}");
    let gone = run(Command::new("umount").arg(&point.0));
    assert_eq!(gone.code, Some(0), "{gone:?}");
    assert_eq!(wait(&mut child, PATIENCE).and_then(|s| s.code()), Some(0));
}

#[test]
fn the_background_server_keeps_the_device_that_was_handed_over() {
    if !can_mount_for_others() {
        return;
    }
    let model = small_model(Layout::FILES);
    let point = Point(new_mount_point(model.dir()));
    let outcome = run(&mut handing_over(&model, &point.0, &[]));
    assert_eq!((outcome.code, outcome.text()), (Some(0), String::new()));
    assert_eq!(
        fs::read(point.0.join("config.json")).unwrap(),
        model.content("config.json")
    );
    let gone = run(Command::new("umount").arg(&point.0));
    assert_eq!(gone.code, Some(0), "{gone:?}");
}

#[test]
fn a_signal_ends_the_server_and_leaves_a_mount_of_others_with_enotconn() {
    if !can_mount_for_others() {
        return;
    }
    let model = small_model(Layout::FILES);
    let (mut child, point) = serving(&model);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(wait(&mut child, PATIENCE).and_then(|s| s.code()), Some(0));
    assert!(mount_entry(&point.0).is_some());
    assert_errno(
        fs::read(point.0.join("weights.bin")),
        libc::ENOTCONN,
        "after the server ended",
    );
}

#[test]
fn a_refused_model_leaves_a_mount_of_others_with_enotconn() {
    if !can_mount_for_others() {
        return;
    }
    let mut model = small_model(Layout::FILES);
    let stranger = small_model(Layout::FILES);
    model.trust.clone_from(&stranger.trust);
    let point = Point(new_mount_point(model.dir()));
    let outcome = run(&mut handing_over(&model, &point.0, &[]));
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert_errno(fs::read_dir(&point.0).map(drop), libc::ENOTCONN, "never served");
}

#[test]
fn a_descriptor_that_is_no_mounts_is_refused_with_a_remedy() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let cases = [
        ("exec \"$@\"", "not open"),
        ("exec 3< /dev/null; exec \"$@\"", "is not /dev/fuse"),
        ("exec 3<> /dev/fuse; exec \"$@\"", "nothing is mounted"),
    ];
    for foreground in [true, false] {
        for (script, said) in cases {
            let options: &[&str] = if foreground { &["--foreground"] } else { &[] };
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh", MODELFS]).args(mount_arguments(
                &model,
                options,
                Path::new("/dev/fd/3"),
            ));
            let outcome: Outcome = run(&mut command);
            assert_eq!(outcome.code, Some(8), "{script}: {outcome:?}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{script}: {outcome:?}");
            assert!(outcome.stderr.contains(said), "{script}: {outcome:?}");
        }
    }
}
