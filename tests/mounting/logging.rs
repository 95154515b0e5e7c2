//! What the log says, where it goes, and that it has the same fields whoever reads it.

use std::fs;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support;
use crate::support::MODELFS;
use crate::support::modelfs_command;
use crate::support::mounted::Mounted;
use crate::support::mounted::mount_arguments;
use crate::support::mounted::new_mount_point;
use crate::support::notice;
use crate::support::run;
use crate::support::signing::Layout;
use crate::support::signing::Signed;

/// Stands in the model's files and in no log.
const SECRET: &str = "the-content-of-the-file";

/// A model of which one file is no longer what was signed.
fn damaged_model() -> Signed {
    let text = SECRET.repeat(100).into_bytes();
    let model = Signed::new(Layout::FILES, &[("good.txt", text.clone()), ("bad.txt", text)]);
    fs::write(model.model.join("bad.txt"), SECRET.repeat(101)).unwrap();
    model
}

const FIELDS: [&str; 9] = [
    "event",
    "identifier",
    "level",
    "message",
    "mountpoint",
    "path",
    "pid",
    "priority",
    "time",
];

#[test]
fn lines_of_json_always_have_the_same_fields_and_never_content() {
    if !support::can_mount() {
        return;
    }
    let model = damaged_model();
    let mounted = Mounted::with(&model, &["--log-format", "json"]);
    assert!(fs::read(mounted.file("bad.txt")).is_err());
    assert!(fs::read(mounted.file("good.txt")).is_ok());
    let point = mounted.path().to_str().unwrap().to_owned();
    let pid = mounted.pid();
    let log = mounted.path().with_extension("log");
    mounted.unmount();
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains(SECRET), "{log}");
    let mut events = Vec::new();
    for line in log.lines() {
        let Value::Object(fields) = serde_json::from_str(line).unwrap() else {
            panic!("{line}");
        };
        let mut names: Vec<&str> = fields.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, FIELDS, "{line}");
        assert_eq!(fields["identifier"], "modelfs");
        assert_eq!(fields["pid"], pid);
        assert_eq!(fields["mountpoint"], point.as_str());
        let text = |name: &str| fields[name].as_str().unwrap_or("-").to_owned();
        events.push((text("level"), text("event"), text("path")));
    }
    let want = [
        ("info", "mounted", "-"),
        ("error", "content-differs", "bad.txt"),
        ("info", "unmounted", "-"),
    ];
    let want = want.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
    assert_eq!(events, want, "{log}");
}

#[test]
fn lines_to_a_stream_of_the_journal_begin_with_their_priority() {
    if !support::can_mount() {
        return;
    }
    for (format, begins) in [
        ("text", ["<6>mounted ", "<3>bad.txt ", "<6>unmounted "]),
        ("json", ["<6>{", "<3>{", "<6>{"]),
    ] {
        let model = damaged_model();
        let point = new_mount_point(model.dir());
        let stream = point.with_extension("stream");
        let file = File::create(&stream).unwrap();
        let about = file.metadata().unwrap();
        let mut command = modelfs_command();
        command
            .env("JOURNAL_STREAM", format!("{}:{}", about.dev(), about.ino()))
            .args(mount_arguments(
                &model,
                &["--foreground", "--log-format", format],
                &point,
            ))
            .stderr(file);
        let mut child = command.spawn().unwrap();
        let began = std::time::Instant::now();
        while fs::read_to_string(&stream).unwrap().is_empty() {
            assert!(began.elapsed() < support::mounted::PATIENCE);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(fs::read(point.join("bad.txt")).is_err());
        support::mounted::unmount(&point);
        support::mounted::wait(&mut child, support::mounted::PATIENCE).unwrap();
        let said = fs::read_to_string(&stream).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), begins.len(), "{said}");
        for (line, begin) in lines.iter().zip(begins) {
            assert!(line.starts_with(begin), "{begin}: {said}");
            if let Some(json) = line.get(3..).filter(|_| format == "json") {
                assert!(serde_json::from_str::<Value>(json).unwrap().is_object());
            }
        }
    }
}

/// A system with a log of its own: /dev and /run hold what the test has put there.
const SYSTEM: &str = r#"
set -eu
mknod "$DIR/dev/null" c 1 3; mknod "$DIR/dev/fuse" c 10 229
mount --bind "$DIR/dev" /dev
mount --bind "$DIR/run" /run
"$MODELFS" "$@"
cat "$POINT/bad.txt" > /dev/null 2>&1 && exit 9
umount "$POINT"
"#;

#[test]
fn in_the_background_the_journal_gets_fields_and_without_it_syslog_gets_lines() {
    if !support::can_mount() {
        return;
    }
    if !support::is_root() {
        return notice(
            "the log of a background mount was left out: only root can put another in the system's place",
        );
    }
    for journal in [true, false] {
        let model = damaged_model();
        let dir = model.dir();
        let point = new_mount_point(dir);
        fs::create_dir_all(dir.join("run/systemd/journal")).unwrap();
        fs::create_dir(dir.join("dev")).unwrap();
        let syslog = UnixDatagram::bind(dir.join("dev/log")).unwrap();
        let native = journal.then(|| UnixDatagram::bind(dir.join("run/systemd/journal/socket")).unwrap());
        let outcome = run(Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", SYSTEM, "sh"])
            .args(mount_arguments(&model, &[], &point))
            .env("DIR", dir)
            .env("POINT", &point)
            .env("MODELFS", MODELFS));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let socket = native.as_ref().unwrap_or(&syslog);
        socket.set_read_timeout(Some(support::mounted::PATIENCE)).unwrap();
        let mut buffer = [0; 8192];
        let mut entries = Vec::new();
        for _ in 0..3 {
            let length = socket.recv(&mut buffer).unwrap();
            entries.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        let all = entries.concat();
        assert!(!all.contains(SECRET), "{all}");
        let (mounted, refused) = (&entries[0], &entries[1]);
        if journal {
            let point = format!("\nMODELFS_MOUNTPOINT={}\n", point.display());
            for part in [
                "MESSAGE=mounted ",
                "\nPRIORITY=6\n",
                "\nSYSLOG_IDENTIFIER=modelfs\n",
                "\nMESSAGE_ID=",
                &point,
            ] {
                assert!(mounted.contains(part), "{part}: {mounted}");
            }
            for part in [
                "MESSAGE=bad.txt [",
                "\nPRIORITY=3\n",
                "\nMODELFS_EVENT=content-differs\n",
                "\nMODELFS_PATH=bad.txt\n",
            ] {
                assert!(refused.contains(part), "{part}: {refused}");
            }
        } else {
            assert!(mounted.starts_with("<30>modelfs["), "{mounted}");
            assert!(
                refused.starts_with("<27>modelfs[") && refused.contains("]: bad.txt ["),
                "{refused}"
            );
        }
    }
}
