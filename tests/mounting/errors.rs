//! The table of errors in modelfs(1): each is brought about, and what is said and with which code is compared.

use std::ffi::OsString;
use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::pages::errors;
use crate::small_model;
use crate::support;
use crate::support::MODELFS;
use crate::support::Outcome;
use crate::support::modelfs_command;
use crate::support::mounted::Mounted;
use crate::support::mounted::mount_entry;
use crate::support::mounted::new_mount_point;
use crate::support::mounted::unmount_lazily;
use crate::support::notice;
use crate::support::run;
use crate::support::signing::Layout;
use crate::support::signing::Signed;

/// What a line of the table needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    Fuse,
    FuseAndRoot,
}

/// A mount that goes wrong.
struct Scene {
    model: Signed,
    key: PathBuf,
    point: PathBuf,
    options: Vec<(&'static str, String)>,
    /// What stands before the command, such as a program that takes rights away.
    before: Vec<OsString>,
    keep: Option<Mounted>,
}

/// In a mount namespace of its own, where /dev has no fuse.
const WITHOUT_DEVICE: &str =
    r#"mkdir "$DIR/dev" && mknod "$DIR/dev/null" c 1 3 && mount --bind "$DIR/dev" /dev && exec "$@""#;

fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.map(OsString::from).to_vec()
}

impl Scene {
    fn new(key: &str) -> (Self, Needs) {
        let model = small_model(Layout::FILES);
        let mut scene = Self {
            key: model.dir().join("signer.pem"),
            point: new_mount_point(model.dir()),
            model,
            options: Vec::new(),
            before: Vec::new(),
            keep: None,
        };
        let needs = scene.spoil(key);
        (scene, needs)
    }

    /// Makes the one thing wrong that a line of the table is about.
    fn spoil(&mut self, key: &str) -> Needs {
        let dir = self.model.dir().to_owned();
        let weights = self.model.model.join("weights.bin");
        match key {
            "wrong-option" | "wrong-mount-option" => self.options.push(("colour", "red".to_owned())),
            "no-trust" => self.key = PathBuf::new(),
            "unreadable-key" => self.key = dir.join("none.pem"),
            "no-key" => fs::write(&self.key, "no key\n").unwrap(),
            "unsafe-key" => fs::set_permissions(&self.key, Permissions::from_mode(0o666)).unwrap(),
            "unreadable-signature" => fs::remove_file(&self.model.bundle).unwrap(),
            "stranger" => {
                let stranger = small_model(Layout::FILES);
                fs::copy(stranger.dir().join("signer.pem"), &self.key).unwrap();
            }
            "no-rule" => {
                let policy = dir.join("policy.toml");
                let text = "version = 1\ndefault = \"reject\"\n[roots.key.lab]\npem = \"signer.pem\"\n\
                            [[rule]]\nscope = \"/nowhere\"\nsigners = [{ method = \"key\", key = \"lab\" }]\n";
                fs::write(&policy, text).unwrap();
                for path in [&policy, &self.key] {
                    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
                }
                self.options.push(("policy", policy.to_str().unwrap().to_owned()));
                self.key = PathBuf::new();
            }
            "missing-file" => fs::remove_file(weights).unwrap(),
            "content" => {
                let mut bytes = fs::read(&weights).unwrap();
                bytes[7] ^= 1;
                fs::write(&weights, bytes).unwrap();
                self.options.push(("verify", "eager".to_owned()));
            }
            "no-mount-point" => self.point = dir.join("none"),
            "no-directory" => {
                self.point = dir.join("file");
                fs::write(&self.point, "").unwrap();
            }
            "full-mount-point" => fs::write(self.point.join("x"), "").unwrap(),
            "in-use" => {
                if !support::can_mount() {
                    return Needs::Fuse;
                }
                let mounted = Mounted::at(modelfs_command(), &self.model, &self.point, &[]);
                self.keep = Some(mounted.unwrap_or_else(|o| panic!("{o:?}")));
                return Needs::Fuse;
            }
            "no-device" => {
                self.before = words([
                    "unshare",
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-c",
                    WITHOUT_DEVICE,
                    "sh",
                ]);
                return Needs::FuseAndRoot;
            }
            "no-permission" => {
                self.before = words([
                    "setpriv",
                    "--bounding-set=-sys_admin",
                    "--inh-caps=-sys_admin",
                    "--",
                ]);
                return Needs::FuseAndRoot;
            }
            "no-fusermount" => {
                let binary = dir.join("modelfs");
                fs::copy(MODELFS, &binary).unwrap();
                fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
                std::os::unix::fs::chown(&self.point, Some(65534), Some(65534)).unwrap();
                self.before = words([
                    "setpriv",
                    "--reuid=65534",
                    "--regid=65534",
                    "--clear-groups",
                    "env",
                    "PATH=/nonexistent",
                ]);
                return Needs::FuseAndRoot;
            }
            "no-descriptor" => self.point = PathBuf::from("/dev/fd/9"),
            other => panic!("errors.tsv has a line that no test knows: {other}"),
        }
        // All of these are met before anything is mounted, or the device is looked at.
        Needs::Nothing
    }

    fn binary(&self) -> PathBuf {
        let own = self.model.dir().join("modelfs");
        if own.exists() { own } else { PathBuf::from(MODELFS) }
    }

    fn run(&self, arguments: Vec<OsString>) -> Outcome {
        let mut words = self.before.clone();
        words.push(self.binary().into());
        words.extend(arguments);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env("DIR", self.model.dir())
            .env("HOME", "/nonexistent")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("MODELFS_POLICY");
        let outcome = run(&mut command);
        fs::remove_dir_all(self.model.dir().join("dev")).ok();
        outcome
    }

    fn as_command(&self) -> Outcome {
        let mut words: Vec<OsString> = vec!["mount".into()];
        if !self.key.as_os_str().is_empty() {
            words.extend(["--public-key".into(), self.key.clone().into()]);
        }
        for (name, value) in &self.options {
            words.extend([format!("--{name}").into(), value.into()]);
        }
        words.extend([&self.model.bundle, &self.model.model, &self.point].map(Into::into));
        self.run(words)
    }

    fn as_helper(&self) -> Outcome {
        let mut options = format!("rw,bundle={}", self.model.bundle.display());
        if !self.key.as_os_str().is_empty() {
            options.push_str(&format!(",public_key={}", self.key.display()));
        }
        for (name, value) in &self.options {
            options.push_str(&format!(",{name}={value}"));
        }
        let mut words: Vec<OsString> = [&self.model.model, &self.point].map(Into::into).to_vec();
        words.extend(["-o".into(), options.into()]);
        self.run(words)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // What should have been refused and was mounted must not outlive the test that finds it out.
        self.keep = None;
        if mount_entry(&self.point).is_some() {
            unmount_lazily(&self.point);
        }
    }
}

/// Whether a sentence is what the table says, `...` standing for anything.
fn fits(pattern: &str, sentence: &str) -> bool {
    let mut rest = sentence;
    for (at, part) in pattern.split("...").enumerate() {
        match rest.find(part) {
            Some(0) => rest = &rest[part.len()..],
            Some(found) if at > 0 => rest = &rest[found + part.len()..],
            _ => return false,
        }
    }
    rest.is_empty() || pattern.ends_with("...")
}

#[test]
fn each_error_in_the_manual_is_said_so_and_ends_with_its_code() {
    let table = errors().unwrap();
    assert!(table.len() > 15, "{table:?}");
    for line in table {
        if line.key == "no-trust" && Path::new("/etc/modelfs/policy.toml").exists() {
            notice("the error without trust was left out: this machine has a policy");
            continue;
        }
        let (scene, needs) = Scene::new(&line.key);
        if needs != Needs::Nothing && !support::can_mount() {
            continue;
        }
        if needs == Needs::FuseAndRoot && !support::is_root() {
            notice(&format!(
                "the error {} was left out: only root can bring it about",
                line.key
            ));
            continue;
        }
        let mut outcomes = Vec::new();
        if let Some(code) = line.exit {
            outcomes.push((code, scene.as_command()));
        }
        if let Some(code) = line.mount_exit {
            outcomes.push((code, scene.as_helper()));
        }
        for (code, outcome) in outcomes {
            assert_eq!(outcome.code, Some(code), "{}: {outcome:?}", line.key);
            let said = outcome.stderr.lines().last().unwrap_or_default();
            assert!(
                fits(&line.sentence, said),
                "{}:\n{}\n{said}",
                line.key,
                line.sentence
            );
        }
    }
}

#[test]
fn a_pattern_fits_what_it_says_and_nothing_else() {
    assert!(fits("a ... b ....", "a x b y."));
    assert!(fits("a: ...", "a: b"));
    assert!(!fits("a ... b.", "a x b. c"));
    assert!(!fits("a b", "x a b"));
}
