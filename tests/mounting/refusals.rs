//! What `mount` refuses, with which exit code, and that a refusal leaves nothing behind.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;

use crate::small_model;
use crate::support;
use crate::support::Outcome;
use crate::support::modelfs;
use crate::support::modelfs_command;
use crate::support::mounted::Mounted;
use crate::support::mounted::mount_arguments;
use crate::support::mounted::mount_entry;
use crate::support::mounted::new_mount_point;
use crate::support::signing::Layout;
use crate::support::signing::Signed;
use crate::support::signing::Signer;

fn refused(model: &Signed, options: &[&str], path: &Path, code: i32) -> Outcome {
    let before = mount_entry(path);
    let outcome = modelfs(mount_arguments(model, options, path));
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    assert_eq!(mount_entry(path), before, "a refusal leaves no mount behind");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert!(!lines.is_empty(), "a refusal says why");
    outcome
}

#[test]
fn a_mount_point_that_will_not_do_is_named_with_a_remedy() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let dir = model.dir();

    let missing = dir.join("missing");
    let outcome = refused(&model, &[], &missing, 8);
    assert!(outcome.stderr.contains("missing"), "{outcome:?}");

    let full = new_mount_point(dir);
    fs::write(full.join("something"), b"of value").unwrap();
    let outcome = refused(&model, &[], &full, 8);
    assert!(outcome.stderr.contains("empty"), "{outcome:?}");

    let file = dir.join("file");
    fs::write(&file, b"").unwrap();
    let outcome = refused(&model, &[], &file, 8);
    assert!(outcome.stderr.contains("directory"), "{outcome:?}");

    let busy = new_mount_point(dir);
    let first = Mounted::at(modelfs_command(), &model, &busy, &[]).unwrap();
    let outcome = refused(&model, &[], &busy, 8);
    assert!(outcome.stderr.contains("unmount"), "{outcome:?}");
    assert!(fs::read(busy.join("config.json")).unwrap() == model.content("config.json"));
    first.unmount();
}

#[test]
fn nothing_is_trusted_by_default() {
    if Path::new("/etc/modelfs/policy.toml").exists() {
        return support::notice("the refusal without trust was left out: this machine has a policy");
    }
    let mut model = small_model(Layout::FILES);
    model.trust.clear();
    let path = new_mount_point(model.dir());
    let outcome = refused(&model, &[], &path, 2);
    assert!(outcome.stderr.contains("--public-key"), "{outcome:?}");
}

#[test]
fn a_strangers_key_or_root_is_refused() {
    let mut model = small_model(Layout::FILES);
    let path = new_mount_point(model.dir());
    for stranger in [
        Signer::p256(),
        Signer::certificate(&rcgen::PKCS_ECDSA_P384_SHA384),
    ] {
        let other = tempfile::tempdir().unwrap();
        model.trust = stranger.trust(other.path());
        refused(&model, &[], &path, 3);
    }
}

#[test]
fn trust_that_does_not_parse_or_exist_is_refused() {
    let mut model = small_model(Layout::FILES);
    let path = new_mount_point(model.dir());
    let junk = model.dir().join("junk.pem");
    fs::write(
        &junk,
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    )
    .unwrap();
    for flag in ["--public-key", "--certificate-chain"] {
        model.trust = vec![flag.into(), junk.clone().into()];
        refused(&model, &[], &path, 3);
        model.trust = vec![flag.into(), "/nonexistent/trust.pem".into()];
        let outcome = modelfs(mount_arguments(&model, &[], &path));
        assert!(matches!(outcome.code, Some(2 | 3 | 7)), "{outcome:?}");
        assert!(outcome.stderr.contains("/nonexistent/trust.pem"), "{outcome:?}");
        assert_eq!(mount_entry(&path), None);
    }
}

#[test]
fn a_refusal_leaves_nothing_mounted() {
    struct Case {
        name: &'static str,
        place: fn(&Path),
    }
    let cases = [
        Case {
            name: "missing",
            place: |_| {},
        },
        Case {
            name: "a directory",
            place: |path| fs::create_dir(path).unwrap(),
        },
        Case {
            name: "a link to the same bytes",
            place: |path| symlink(path.with_extension("away"), path).unwrap(),
        },
        Case {
            name: "a link to a device",
            place: |path| symlink("/dev/zero", path).unwrap(),
        },
        Case {
            name: "a pipe",
            place: |path| make_node(path, FileType::Fifo),
        },
        Case {
            name: "a socket",
            place: |path| make_node(path, FileType::Socket),
        },
    ];
    for case in cases {
        for layout in [Layout::FILES, Layout::shards(4096)] {
            let model = small_model(layout);
            let place = model.source("weights.bin");
            fs::rename(&place, place.with_extension("away")).unwrap();
            (case.place)(&place);
            let path = new_mount_point(model.dir());
            let outcome = refused(&model, &[], &path, 6);
            assert!(
                outcome.stderr.contains("weights.bin"),
                "{}: {outcome:?}",
                case.name
            );
        }
    }
}

fn make_node(path: &Path, kind: FileType) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), 0).unwrap();
}

#[test]
fn a_directory_that_became_a_link_is_refused() {
    let model = small_model(Layout::FILES);
    let away = model.dir().join("away");
    fs::rename(model.source("tokenizer"), &away).unwrap();
    symlink(&away, model.source("tokenizer")).unwrap();
    let path = new_mount_point(model.dir());
    refused(&model, &[], &path, 6);
}

#[test]
fn a_shard_of_another_size_is_refused_before_the_mount() {
    for change in [-1, 1] {
        let model = small_model(Layout::shards(4096));
        let size = model.content("weights.bin").len() as i64 + change;
        let file = fs::File::options()
            .write(true)
            .open(model.source("weights.bin"))
            .unwrap();
        file.set_len(size as u64).unwrap();
        let path = new_mount_point(model.dir());
        let outcome = refused(&model, &[], &path, 6);
        assert!(outcome.stderr.contains("weights.bin"), "{outcome:?}");
    }
}

#[test]
fn a_signed_empty_file_that_has_grown_is_not_served() {
    if !support::can_mount() {
        return;
    }
    // Nothing is read of an empty file, so its emptiness is checked when it is bound.
    let model = small_model(Layout::FILES);
    fs::write(model.source("empty.txt"), b"not empty").unwrap();
    match Mounted::start(modelfs_command(), &model, &[]) {
        Err(outcome) => assert!(matches!(outcome.code, Some(5 | 6)), "{outcome:?}"),
        Ok(mounted) => {
            let read = fs::read(mounted.file("empty.txt"));
            crate::assert_errno(read, libc::EIO, "reading a file that was signed empty");
        }
    }
}

#[test]
fn a_file_that_became_empty_is_never_read_as_empty() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    fs::write(model.source("config.json"), b"").unwrap();
    match Mounted::start(modelfs_command(), &model, &[]) {
        Err(outcome) => assert!(matches!(outcome.code, Some(5 | 6)), "{outcome:?}"),
        Ok(mounted) => {
            let read = fs::read(mounted.file("config.json"));
            crate::assert_errno(read, libc::EIO, "reading a file that became empty");
        }
    }
}

#[test]
fn unsigned_files_are_refused_on_request() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    fs::create_dir(model.source(".git")).unwrap();
    fs::write(model.source(".git/HEAD"), b"ignored when it was signed").unwrap();
    let path = new_mount_point(model.dir());
    Mounted::at(modelfs_command(), &model, &path, &["--unsigned", "refuse"])
        .unwrap_or_else(|o| panic!("an intact model: {o:?}"))
        .unmount();
    fs::write(model.source("tokenizer/evil.py"), b"import os").unwrap();
    let outcome = refused(&model, &["--unsigned", "refuse"], &path, 6);
    assert!(outcome.stderr.contains("evil.py"), "{outcome:?}");
    let hidden = Mounted::at(modelfs_command(), &model, &path, &["--unsigned", "hide"]).unwrap();
    assert!(!hidden.file("tokenizer/evil.py").exists());
}

#[test]
fn a_name_from_the_manifest_cannot_drive_the_terminal() {
    let name = "a\u{1b}[31m\nred\u{202e}.bin";
    let model = Signed::new(Layout::FILES, &[(name, vec![1, 2, 3])]);
    fs::remove_file(model.source(name)).unwrap();
    let path = new_mount_point(model.dir());
    let outcome = modelfs(mount_arguments(&model, &[], &path));
    // Control characters may be refused with the bundle, or escaped in the message that it is missing.
    assert!(matches!(outcome.code, Some(3 | 6)), "{outcome:?}");
    let forbidden = ['\u{1b}', '\u{202e}'];
    assert!(!outcome.text().contains(forbidden), "{outcome:?}");
}

#[test]
fn wrong_usage_is_told_apart_from_a_refusal() {
    let model = small_model(Layout::FILES);
    let path = new_mount_point(model.dir());
    let cases: [&[&str]; 4] = [
        &["--no-such-flag"],
        &["--memory", "a lot"],
        &["--verify", "never"],
        &["--unsigned", "show"],
    ];
    for options in cases {
        refused(&model, options, &path, 2);
    }
    let none: [OsString; 0] = [];
    assert_eq!(modelfs(none).code, Some(2));
    assert_eq!(modelfs(["mount"]).code, Some(2));
}
