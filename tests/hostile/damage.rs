//! Bundle, key, certificates and policy, each damaged in many ways, before `inspect`, `verify` and `mount`.
//!
//! A run is done only where payload and signer are the original ones; any other ends with the exit code that the damaged
//! part has, in one sentence, without a mount. What a damaged bundle means in itself is tried, many times more often,
//! without the binary: tests/mutants, fuzz.

use std::ffi::OsString;
use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;

use data_encoding::BASE64;
use rcgen::KeyPair;
use serde_json::Value;

use crate::refused;
use crate::support;
use crate::support::Outcome;
use crate::support::mounted::MountEntry;
use crate::support::mounted::mount_entry;
use crate::support::mounted::unmount;
use crate::support::mounted::unmount_lazily;
use crate::support::random::Random;
use crate::support::signing::Layout;
use crate::support::signing::Signed;
use crate::support::signing::Signer;

/// The parts of a signed model that lie in files of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Bundle,
    Key,
    Policy,
    Root,
    CertificateBundle,
}

impl Part {
    fn file(self) -> &'static str {
        match self {
            Self::Bundle => "key.sig",
            Self::Key => "key.pub",
            Self::Policy => "policy.toml",
            Self::Root => "root.pem",
            Self::CertificateBundle => "certificate.sig",
        }
    }

    /// How a refusal of this part ends.
    fn codes(self) -> &'static [i32] {
        match self {
            Self::Policy => &[4],
            // A name of a key or signer that no longer fits is a fault of the policy, a key that was cut is one of the key.
            Self::Bundle | Self::Key | Self::Root | Self::CertificateBundle => &[3],
        }
    }

    fn bundle(self) -> &'static str {
        match self {
            Self::Root | Self::CertificateBundle => Self::CertificateBundle.file(),
            Self::Bundle | Self::Key | Self::Policy => Self::Bundle.file(),
        }
    }

    fn trust(self) -> [&'static str; 2] {
        match self {
            Self::Bundle | Self::Key => ["--public-key", Self::Key.file()],
            Self::Policy => ["--policy", Self::Policy.file()],
            Self::Root | Self::CertificateBundle => ["--certificate-chain", Self::Root.file()],
        }
    }
}

/// What may come of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum May {
    /// Nothing but a refusal.
    Refuse,
    /// Also the original, where what was damaged means nothing.
    MeanTheSame,
}

/// One part, damaged.
pub(crate) struct Damage {
    pub(crate) name: String,
    pub(crate) part: Part,
    pub(crate) bytes: Vec<u8>,
    pub(crate) may: May,
}

/// The undamaged parts, and who made them.
pub(crate) struct Scene {
    model: Signed,
    pub(crate) signer: KeyPair,
    parts: Vec<(Part, Vec<u8>)>,
    can_mount: bool,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let files: [(&str, Vec<u8>); 3] = [
            ("config.json", b"{}".to_vec()),
            ("model.safetensors", vec![7; 5000]),
            ("tokenizer/vocab.txt", b"a b c".to_vec()),
        ];
        let signer = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let der = signer.serialize_der();
        let model = Signed::by(&Signer::Key(signer), Layout::FILES, &files);
        let signer = KeyPair::try_from(der.as_slice()).unwrap();
        let authority = Signer::certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        let payload = payload_of(&fs::read(&model.bundle).unwrap());
        let root = authority.trust(model.dir())[1].clone();
        let policy = format!(
            "version = 1\ndefault = \"reject\"\n\n[roots.key.lab]\npem = \"key.pub\"\n\n[[rule]]\nscope = \"{}/**\"\n\
             signers = [{{ method = \"key\", key = \"lab\" }}]\n",
            fs::canonicalize(model.dir()).unwrap().display()
        );
        let parts = vec![
            (Part::Bundle, fs::read(&model.bundle).unwrap()),
            (Part::Key, fs::read(&model.trust[1]).unwrap()),
            (Part::Policy, policy.into_bytes()),
            (Part::Root, fs::read(root).unwrap()),
            (Part::CertificateBundle, authority.bundle(&payload)),
        ];
        Self {
            model,
            signer,
            parts,
            can_mount: support::can_mount(),
        }
    }

    pub(crate) fn part(&self, wanted: Part) -> &[u8] {
        let (_, bytes) = self.parts.iter().find(|(part, _)| *part == wanted).unwrap();
        bytes
    }

    /// A folder with all parts, undamaged, and a mount point.
    fn bench(&self, name: &str) -> Bench {
        let dir = self.model.dir().join(name);
        fs::create_dir(&dir).unwrap();
        for (part, bytes) in &self.parts {
            fs::write(dir.join(part.file()), bytes).unwrap();
            // Whatever the umask is, nobody else may write it.
            fs::set_permissions(dir.join(part.file()), Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        let point = dir.join("mnt");
        fs::create_dir(&point).unwrap();
        Bench {
            model: self.model.model.clone(),
            dir,
            point,
            can_mount: self.can_mount,
        }
    }

    /// A bundle by the scene's own signer.
    pub(crate) fn signed(&self, payload: &[u8]) -> Vec<u8> {
        let again = KeyPair::try_from(self.signer.serialize_der().as_slice()).unwrap();
        Signer::Key(again).bundle(payload)
    }
}

pub(crate) fn payload_of(bundle: &[u8]) -> Vec<u8> {
    let bundle: Value = serde_json::from_slice(bundle).unwrap();
    let text = bundle["dsseEnvelope"]["payload"].as_str().unwrap();
    BASE64.decode(text.as_bytes()).unwrap()
}

/// A place to try one damage after another.
struct Bench {
    model: PathBuf,
    dir: PathBuf,
    point: PathBuf,
    can_mount: bool,
}

/// What the three commands said of the undamaged parts.
struct Original {
    inspected: Value,
    verified: Value,
}

impl Bench {
    fn run(&self, command: &str, json: bool, part: Part) -> Outcome {
        let [flag, file] = part.trust();
        let mut words: Vec<OsString> = vec![command.into()];
        words.extend(json.then(|| "--json".into()));
        words.extend([flag.into(), self.dir.join(file).into()]);
        if command == "mount" {
            words.extend(["--verify", "eager", "--log-file", "/dev/null"].map(OsString::from));
        }
        words.push(self.dir.join(part.bundle()).into());
        words.extend((command != "inspect").then(|| self.model.clone().into()));
        words.extend((command == "mount").then(|| self.point.clone().into()));
        support::modelfs(words)
    }

    /// What is said of the undamaged parts; they mount, too.
    fn original(&self, part: Part) -> Original {
        let json = |command| {
            let outcome = self.run(command, true, part);
            assert_eq!(outcome.code, Some(0), "{command} {part:?}: {outcome:?}");
            serde_json::from_str(&outcome.stdout).unwrap()
        };
        let original = Original {
            inspected: json("inspect"),
            verified: json("verify"),
        };
        self.mounts(part, &original, "undamaged");
        original
    }

    /// Tries one damage; whether it means the same as the original.
    fn try_one(&self, damage: &Damage, original: &Original, scene: &Scene) -> bool {
        let file = self.dir.join(damage.part.file());
        fs::write(&file, &damage.bytes).unwrap();
        let (part, codes) = (damage.part, damage.part.codes());
        let what = format!("{}: {}", part.file(), damage.name);
        let verdicts =
            [("inspect", &original.inspected), ("verify", &original.verified)].map(|(command, want)| {
                let outcome = self.run(command, false, part);
                let same = outcome.code == Some(0) && damage.may == May::MeanTheSame;
                match same {
                    true => {
                        let found: Value =
                            serde_json::from_str(&self.run(command, true, part).stdout).unwrap();
                        assert_eq!(found, *want, "{command} {what}");
                    }
                    false => refused(&outcome, codes, &format!("{command} {what}")),
                }
                same
            });
        assert_eq!(verdicts[0], verdicts[1], "inspect and verify differ: {what}");
        match verdicts[1] {
            true => self.mounts(part, original, &what),
            false => {
                let outcome = self.run("mount", false, part);
                let entry = self.end_mount();
                refused(&outcome, codes, &format!("mount {what}"));
                assert_eq!(entry, None, "mount {what}");
            }
        }
        fs::write(&file, scene.part(part)).unwrap();
        verdicts[1]
    }

    /// Mounts, which must go well, and reads.
    fn mounts(&self, part: Part, original: &Original, what: &str) {
        if !self.can_mount {
            return;
        }
        let outcome = self.run("mount", false, part);
        let status = support::modelfs(["status".as_ref(), "--json".as_ref(), self.point.as_os_str()]);
        let read = fs::read(self.point.join("config.json"));
        let entry = self.end_mount();
        assert_eq!(
            (outcome.code, entry.is_some()),
            (Some(0), true),
            "mount {what}: {outcome:?}"
        );
        let status: Value = serde_json::from_str(&status.stdout).unwrap();
        for field in ["identity", "signer"] {
            assert_eq!(status[field], original.verified[field], "mount {what}");
        }
        assert_eq!(read.unwrap(), b"{}", "mount {what}");
    }

    /// Takes away what is mounted, if anything is.
    fn end_mount(&self) -> Option<MountEntry> {
        let entry = mount_entry(&self.point)?;
        let outcome = unmount(&self.point);
        unmount_lazily_if(&self.point);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        Some(entry)
    }
}

/// Tries all of them, on all cores.
pub(crate) fn try_all(scene: &Scene, damages: Vec<Damage>) {
    let all = damages.len();
    let work = Mutex::new(damages.into_iter());
    let accepted = Mutex::new(Vec::new());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for core in 0..cores {
            let (work, accepted) = (&work, &accepted);
            scope.spawn(move || {
                let bench = scene.bench(&format!("bench{core}"));
                let mut known: Vec<(Part, Original)> = Vec::new();
                while let Some(damage) = { work.lock().unwrap().next() } {
                    if !known.iter().any(|(part, _)| *part == damage.part) {
                        known.push((damage.part, bench.original(damage.part)));
                    }
                    let (_, original) = known.iter().find(|(part, _)| *part == damage.part).unwrap();
                    if bench.try_one(&damage, original, scene) {
                        accepted.lock().unwrap().push(damage.name);
                    }
                }
            });
        }
    });
    let accepted = accepted.into_inner().unwrap();
    println!(
        "{all} damages, {} of them mean the same: {accepted:?}",
        accepted.len()
    );
    // Where most means the same, nothing was tried.
    assert!(
        accepted.len() * 4 < all,
        "{} of {all}: {accepted:?}",
        accepted.len()
    );
}

/// Some bits flipped, some lengths cut, something put before and after, and other encodings.
fn bytes_damaged(part: Part, bytes: &[u8], flips: usize, random: &mut Random) -> Vec<Damage> {
    let damage = |name: String, bytes: Vec<u8>, may| Damage {
        name,
        part,
        bytes,
        may,
    };
    let mut damages = Vec::new();
    for nth in 0..flips {
        // Evenly over the whole, so that no field is passed over.
        let (from, to) = (nth * bytes.len() / flips, (nth + 1) * bytes.len() / flips);
        let at = random.within(from..to.max(from + 1));
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << random.within(0..8);
        damages.push(damage(format!("a bit of byte {at}"), flipped, May::MeanTheSame));
    }
    for nth in 0..6 {
        let length = nth * bytes.len() / 6;
        let cut = bytes[..length].to_vec();
        damages.push(damage(format!("the first {length} bytes"), cut, May::Refuse));
    }
    let utf16 = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect()
    };
    // What stands around a PEM block, and a comment of TOML, means nothing.
    let around = match part {
        Part::Bundle | Part::CertificateBundle => May::Refuse,
        Part::Key | Part::Root | Part::Policy => May::MeanTheSame,
    };
    let others: [(&str, Vec<u8>, May); 9] = [
        (
            "one byte less",
            bytes[..bytes.len() - 1].to_vec(),
            May::MeanTheSame,
        ),
        ("twice", [bytes, bytes].concat(), around),
        (
            "a byte order mark before it",
            [b"\xef\xbb\xbf", bytes].concat(),
            around,
        ),
        ("a zero after it", [bytes, b"\0"].concat(), around),
        ("text after it", [bytes, b"text"].concat(), around),
        (
            "white space around it",
            [b"\n \n", bytes, b" \n"].concat(),
            May::MeanTheSame,
        ),
        ("UTF-16", utf16(bytes), May::Refuse),
        ("zeros", vec![0; bytes.len()], May::Refuse),
        ("brackets without an end", vec![b'['; 100_000], May::Refuse),
    ];
    damages.extend(others.map(|(name, bytes, may)| damage(name.to_owned(), bytes, may)));
    damages
}

#[test]
fn a_damaged_part_is_refused_or_means_the_same() {
    let scene = Scene::new();
    let mut random = Random::from_environment("damaged parts");
    let mut damages = Vec::new();
    for (part, flips) in [
        (Part::Bundle, 60),
        (Part::CertificateBundle, 60),
        (Part::Key, 40),
        (Part::Root, 40),
        (Part::Policy, 60),
    ] {
        damages.extend(bytes_damaged(part, scene.part(part), flips, &mut random));
    }
    try_all(&scene, damages);
}

pub(crate) fn unmount_lazily_if(point: &Path) {
    if mount_entry(point).is_some() {
        unmount_lazily(point);
    }
}
