//! Files that an argument or a policy names, and that are none: none of them is waited for, each is told in a sentence.

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;

use crate::refused;
use crate::support;
use crate::support::MODELFS;
use crate::support::mounted::mount_entry;
use crate::support::mounted::new_mount_point;
use crate::support::run;
use crate::support::signing::Layout;
use crate::support::signing::Signed;

/// How a file is named.
struct Way {
    name: &'static str,
    /// `FILE` stands for the file, `KEY` for the key that is right.
    trust: &'static str,
    /// The codes for what is no regular file, for what cannot be read, and for what has the wrong content.
    irregular: i32,
    unreadable: i32,
    wrong: i32,
}

const WAYS: [Way; 7] = [
    Way {
        name: "a key",
        trust: "--public-key FILE",
        irregular: 2,
        unreadable: 7,
        wrong: 3,
    },
    Way {
        name: "a certificate",
        trust: "--certificate-chain FILE",
        irregular: 2,
        unreadable: 7,
        wrong: 3,
    },
    Way {
        name: "a root of timestamps",
        trust: "--public-key KEY --tsa-root FILE",
        irregular: 2,
        unreadable: 7,
        wrong: 3,
    },
    Way {
        name: "a trusted root",
        trust: "--identity a@b.example --identity-provider https://c.example --trusted-root FILE",
        irregular: 2,
        unreadable: 7,
        wrong: 3,
    },
    Way {
        name: "a policy",
        trust: "--policy FILE",
        irregular: 2,
        unreadable: 4,
        wrong: 4,
    },
    Way {
        name: "what a policy names",
        trust: "--policy POLICY",
        irregular: 4,
        unreadable: 4,
        wrong: 4,
    },
    // Whoever made the model may have put it there: that is no wrong argument.
    Way {
        name: "the bundle",
        trust: "--public-key KEY",
        irregular: 3,
        unreadable: 7,
        wrong: 3,
    },
];

/// Puts something at a path.
type Place = fn(&Path);

/// What stands where a file is expected.
struct Kind {
    name: &'static str,
    place: Place,
    code: fn(&Way) -> i32,
    said: &'static str,
}

const KINDS: [Kind; 9] = [
    Kind {
        name: "a FIFO",
        place: make_fifo,
        code: |way| way.irregular,
        said: "is not a regular file: name the ",
    },
    Kind {
        name: "a folder",
        place: |path| fs::create_dir(path).unwrap(),
        code: |way| way.irregular,
        said: "is not a regular file: name the ",
    },
    Kind {
        name: "a device without an end",
        place: |path| symlink("/dev/zero", path).unwrap(),
        code: |way| way.irregular,
        said: "is not a regular file: name the ",
    },
    Kind {
        name: "a socket",
        place: |path| drop(UnixListener::bind(path).unwrap()),
        code: |way| way.irregular,
        said: "is not a regular file: name the ",
    },
    Kind {
        name: "nothing",
        place: |_| {},
        code: |way| way.unreadable,
        said: " cannot be read: No such file or directory",
    },
    Kind {
        name: "a link to itself",
        place: |path| symlink(path, path).unwrap(),
        code: |way| way.unreadable,
        said: " cannot be read: Too many levels of symbolic links",
    },
    Kind {
        name: "a file that fails when it is read",
        place: |path| symlink("/proc/self/mem", path).unwrap(),
        code: |way| way.unreadable,
        said: " cannot be read: Input/output error",
    },
    Kind {
        name: "an empty file",
        place: |path| drop(File::create(path).unwrap()),
        code: |way| way.wrong,
        said: "",
    },
    Kind {
        name: "a file of a gigabyte",
        place: |path| File::create(path).unwrap().set_len(1 << 30).unwrap(),
        code: |way| way.wrong,
        said: " is larger than ",
    },
];

#[test]
fn what_is_no_file_is_refused_with_its_exit_code_and_never_waited_for() {
    let model = Signed::new(Layout::FILES, &[("a.bin", b"weights".to_vec())]);
    let point = new_mount_point(model.dir());
    for kind in KINDS {
        let file = model.dir().join("file");
        (kind.place)(&file);
        let policy = policy_naming(&file, model.dir());
        for way in WAYS {
            let bundle = match way.name {
                "the bundle" => &file,
                _ => &model.bundle,
            };
            let trust = arguments(way.trust, &file, &policy, &model);
            for command in ["inspect", "verify", "mount"] {
                let mut words: Vec<OsString> = vec![command.into()];
                words.extend(trust.iter().cloned());
                words.push(bundle.into());
                words.extend((command != "inspect").then(|| model.model.clone().into()));
                words.extend((command == "mount").then(|| point.clone().into()));
                let what = format!("{command} with {} as {}", kind.name, way.name);
                let outcome = support::modelfs(words);
                refused(&outcome, &[(kind.code)(&way)], &what);
                assert!(
                    outcome.stderr.contains(kind.said) && outcome.stderr.contains(named(&way)),
                    "{what}: {outcome:?}"
                );
                assert_eq!(mount_entry(&point), None, "{what}");
            }
        }
        match file.is_dir() {
            true => fs::remove_dir(&file).unwrap(),
            false => drop(fs::remove_file(&file)),
        }
    }
}

/// What the sentence names: the file, or the name that a policy has for it.
fn named(way: &Way) -> &'static str {
    match way.name {
        "what a policy names" => "policy.toml",
        _ => "/file",
    }
}

fn make_fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
}

fn policy_naming(file: &Path, dir: &Path) -> OsString {
    let policy = dir.join("policy.toml");
    let text = format!(
        "version = 1\ndefault = \"reject\"\nroots.key.lab = {{ pem = \"{}\" }}\n[[rule]]\nscope = \"/**\"\n\
         signers = [{{ method = \"key\", key = \"lab\" }}]\n",
        file.display()
    );
    fs::write(&policy, text).unwrap();
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).unwrap();
    policy.into()
}

fn arguments(trust: &str, file: &Path, policy: &OsString, model: &Signed) -> Vec<OsString> {
    trust
        .split(' ')
        .map(|word| match word {
            "FILE" => file.into(),
            "POLICY" => policy.clone(),
            "KEY" => model.trust[1].clone(),
            word => word.into(),
        })
        .collect()
}

#[test]
fn what_its_user_may_not_read_is_told() {
    let model = Signed::new(Layout::FILES, &[("a.bin", b"weights".to_vec())]);
    // Nothing is forbidden to root, so somebody else asks; they may not be able to reach where cargo put the binary.
    let binary = model.dir().join("modelfs");
    fs::copy(MODELFS, &binary).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(model.dir(), 0o755);
    let secret = model.dir().join("file");
    fs::write(&secret, "secret").unwrap();
    mode(&secret, 0o000);
    for way in WAYS {
        let policy = policy_naming(&secret, model.dir());
        let bundle = match way.name {
            "the bundle" => &secret,
            _ => &model.bundle,
        };
        let mut command = Command::new(&binary);
        command
            .arg("verify")
            .args(arguments(way.trust, &secret, &policy, &model))
            .args([bundle, &model.model]);
        if support::is_root() {
            command.uid(65534).gid(65534);
        }
        let outcome = run(&mut command);
        refused(&outcome, &[way.unreadable], way.name);
        assert!(
            outcome.stderr.contains(" cannot be read: Permission denied"),
            "{}: {outcome:?}",
            way.name
        );
    }
}

#[test]
fn a_model_that_is_no_folder_and_no_file_is_named() {
    let model = Signed::new(Layout::FILES, &[("a.bin", b"weights".to_vec())]);
    let point = new_mount_point(model.dir());
    let cases: [(&str, Place, i32, &str); 4] = [
        ("fifo", make_fifo, 6, "/fifo: not a regular file but a FIFO"),
        (
            "device",
            |path| symlink("/dev/zero", path).unwrap(),
            6,
            "not a regular file but a character device",
        ),
        (
            "socket",
            |path| drop(UnixListener::bind(path).unwrap()),
            6,
            "/socket: not a regular file but a socket",
        ),
        (
            "gone",
            |_| {},
            7,
            "/gone cannot be read: No such file or directory",
        ),
    ];
    for (name, place, code, said) in cases {
        let path = model.dir().join(name);
        place(&path);
        for command in ["verify", "mount"] {
            let mut words: Vec<OsString> = vec![command.into()];
            words.extend(model.trust.iter().cloned());
            words.extend([model.bundle.clone().into(), path.clone().into()]);
            words.extend((command == "mount").then(|| point.clone().into()));
            let outcome = support::modelfs(words);
            refused(&outcome, &[code], name);
            assert!(outcome.stderr.contains(said), "{name}: {outcome:?}");
            assert_eq!(mount_entry(&point), None, "{name}");
        }
    }
}

#[test]
fn a_log_that_is_no_file_and_that_nobody_reads_refuses_the_mount() {
    let model = Signed::new(Layout::FILES, &[("a.bin", b"weights".to_vec())]);
    let point = new_mount_point(model.dir());
    let cases: [(&str, Place, &str); 3] = [
        ("fifo", make_fifo, "nobody reads it: start its reader first"),
        ("folder", |path| fs::create_dir(path).unwrap(), "Is a directory"),
        (
            "socket",
            |path| drop(UnixListener::bind(path).unwrap()),
            "nobody reads it",
        ),
    ];
    for (name, place, said) in cases {
        let path = model.dir().join(name);
        place(&path);
        let mut words: Vec<OsString> = vec!["mount".into(), "--log-file".into(), path.into()];
        words.extend(model.trust.iter().cloned());
        words.extend([&model.bundle, &model.model, &point].map(OsString::from));
        let outcome = support::modelfs(words);
        refused(&outcome, &[7], name);
        assert!(
            outcome
                .stderr
                .contains(&format!("/{name} cannot be written: {said}")),
            "{outcome:?}"
        );
        assert_eq!(mount_entry(&point), None, "{name}");
    }
}
