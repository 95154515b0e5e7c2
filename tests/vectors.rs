//! Conformance: every vector for keys, certificates and keyless signatures gets the verdict it should from `inspect`, `verify`,
//! `mount` and a reader of the mount.
//!
//! The large collections lie beside the project and are left out where they do not; a part of what was made
//! for this project is in `tests/vectors-own`, so that a clone alone still tests each kind of rule. Verdicts
//! that differ on purpose are argued in `tests/vectors-exceptions.json`; one that no longer differs fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise"
)]

mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use data_encoding::HEXLOWER;
use modelfs::digest;
use modelfs::digest::Algorithm;
use serde_json::Value;
use support::Outcome;
use support::modelfs;
use support::mounted::mount_entry;
use support::mounted::unmount;
use support::mounted::unmount_lazily;
use support::notice;
use support::staging::Listed;
use support::staging::Staged;
use support::staging::Vector;
use support::staging::read_manifest;

/// How many vectors are tried at once.
const WORKERS: usize = 2;

#[test]
fn vectors_that_were_made_for_this_project_get_their_verdicts() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors-own");
    let tally = run_all(read_manifest(&own));
    tally.insist_on(&["inspect", "verify", "mount", "read"]);
}

#[test]
fn every_vector_of_every_method_gets_its_verdict() {
    let Some(dir) = support::vectors() else {
        return notice("the large collection of vectors was left out: ../shared/vectors is not there");
    };
    let ours = read_manifest(&dir.join("oms"));
    let keyless = ours.iter().filter(|vector| vector.text("method") == "sigstore");
    assert_eq!(
        (ours.len(), keyless.count()),
        (525, 55),
        "the collection is complete"
    );
    for exception in exceptions() {
        let known = ours.iter().any(|vector| vector.text("id") == exception.id);
        assert!(
            known,
            "an exception for a vector that is not there: {exception:?}"
        );
    }
    let tally = run_all(ours);
    tally.insist_on(&["inspect", "verify", "mount", "read"]);
}

#[test]
fn signatures_of_every_historic_release_verify_with_their_own_trust_and_no_other() {
    let Some(dir) = support::vectors() else {
        return notice("historic signatures were left out: ../shared/vectors is not there");
    };
    let keys = dir.join("oms-historic/keys/certificate");
    let scratch = tempfile::tempdir().unwrap();
    let stranger = support::signing::Signer::p256().trust(scratch.path());
    let strange_root =
        support::signing::Signer::certificate(&rcgen::PKCS_ECDSA_P256_SHA256).trust(scratch.path());
    let issuer = "https://sigstore.verify.ibm.com/oauth2";
    let mut keyless;
    let mut seen = 0;
    for entry in fs::read_dir(dir.join("oms-historic")).unwrap() {
        let model = entry.unwrap().path();
        let name = model.file_name().unwrap().to_str().unwrap().to_owned();
        let (trust, other): (Vec<OsString>, _) = if name.ends_with("-elliptic-key") {
            let key = keys.join("signing-key-pub.pem");
            (vec!["--public-key".into(), key.into()], &stranger)
        } else if name.ends_with("-certificate") {
            let root = keys.join("ca-cert.pem");
            (vec!["--certificate-chain".into(), root.into()], &strange_root)
        } else if name.ends_with("-sigstore") {
            let stranger = ["--identity", "mallory@example.com", "--identity-provider", issuer];
            let signer = ["--identity", "stefanb@us.ibm.com", "--identity-provider", issuer];
            let production = |who: [&str; 4]| {
                let words = who.iter().chain(&["--trusted-root", "production"]);
                words.map(OsString::from).collect::<Vec<_>>()
            };
            keyless = production(stranger);
            (production(signer), &keyless)
        } else {
            continue; // Not a model.
        };
        let bundle = model.join("model.sig");
        // Two of them sign one file, which is then the model.
        let signed = match name.as_str() {
            "v0.3.1-elliptic-key" | "v1.0.0-elliptic-key" => model.join("signme-1"),
            _ => model.clone(),
        };
        let verify = |trust: &[OsString], more: &[&str]| {
            let mut args: Vec<OsString> = vec!["verify".into()];
            args.extend(trust.iter().cloned());
            args.extend(more.iter().map(OsString::from));
            if model.join("ignore-me").exists() && signed.is_dir() {
                args.extend(["--ignore-paths".into(), "ignore-me".into()]);
            }
            args.extend([bundle.clone().into(), signed.clone().into()]);
            modelfs(args)
        };
        let outcome = verify(&trust, &[]);
        if name.starts_with("v0.2.0") {
            assert_eq!(outcome.code, Some(3), "{name} needs --allow-legacy: {outcome:?}");
            let outcome = verify(&trust, &["--allow-legacy"]);
            assert_eq!(outcome.code, Some(0), "{name}: {outcome:?}");
        } else {
            assert_eq!(outcome.code, Some(0), "{name}: {outcome:?}");
        }
        let lenient: &[&str] = if name.ends_with("-sigstore") {
            &[]
        } else {
            &["--allow-legacy"]
        };
        let outcome = verify(other, lenient);
        assert_eq!(
            outcome.code,
            Some(3),
            "{name} with a stranger's trust: {outcome:?}"
        );
        seen += 1;
    }
    assert_eq!(
        seen, 13,
        "five releases, by key, by certificate and keyless, but a certificate alone in v0.2.0"
    );
}

#[test]
fn the_specifications_own_bundles_are_told_apart() {
    let Some(dir) = support::vectors() else {
        return notice("the specification's vectors were left out: ../shared/vectors is not there");
    };
    let keys = dir.join("oms-historic/keys/certificate");
    let spec = dir.join("oms-spec/test-vectors/v1.0");
    let key = ["--public-key".into(), keys.join("signing-key-pub.pem").into()];
    let root = ["--certificate-chain".into(), keys.join("ca-cert.pem").into()];
    let mut seen = 0;
    for group in ["valid", "invalid", "invalid-payload"] {
        for entry in fs::read_dir(spec.join(group)).unwrap() {
            let bundle = entry.unwrap().path();
            let name = bundle.file_name().unwrap().to_str().unwrap();
            let trust: &[OsString; 2] = if name.starts_with("certificate") {
                &root
            } else {
                &key
            };
            // The keyless one is valid, but a key does not vouch for it.
            let want = if group == "valid" && !name.starts_with("sigstore") {
                0
            } else {
                3
            };
            let mut args: Vec<OsString> = vec!["inspect".into()];
            args.extend(trust.iter().cloned());
            args.push(bundle.clone().into());
            let outcome = modelfs(args);
            assert_eq!(outcome.code, Some(want), "{group}/{name}: {outcome:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 8);
}

/// How the verdicts compared.
#[derive(Debug, Default)]
struct Tally {
    right: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
    excepted: BTreeSet<usize>,
}

impl Tally {
    /// Fails unless each of these was compared at least once and nothing was wrong.
    fn insist_on(&self, kinds: &[&str]) {
        notice(&format!("vectors with the right verdict: {:?}", self.right));
        assert!(
            self.wrong.is_empty(),
            "{} wrong:\n{}",
            self.wrong.len(),
            self.wrong.join("\n")
        );
        for kind in kinds {
            assert!(self.right.contains_key(kind), "no vector was put to {kind}");
        }
    }
}

/// One verdict that differs on purpose.
#[derive(Debug)]
struct Exception {
    id: String,
    what: String,
    actual: String,
}

fn exceptions() -> Vec<Exception> {
    let list: Value = serde_json::from_str(include_str!("vectors-exceptions.json")).unwrap();
    let list = list.as_array().unwrap().iter().map(|line| {
        for field in ["id", "what", "expected", "actual", "reason"] {
            let text = line[field].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "an exception says its {field}: {line}");
        }
        let text = |field: &str| line[field].as_str().unwrap().to_owned();
        Exception {
            id: text("id"),
            what: text("what"),
            actual: text("actual"),
        }
    });
    list.collect()
}

/// What is compared with, and where the comparison is noted.
struct Judge {
    exceptions: Vec<Exception>,
    tally: Mutex<Tally>,
}

impl Judge {
    fn compare(&self, vector: &Vector, what: &'static str, want: &str, actual: &str, detail: &str) {
        let id = vector.text("id");
        let excepted = self
            .exceptions
            .iter()
            .position(|e| e.id == id && e.what == what && e.actual == actual);
        let mut tally = self.tally.lock().unwrap();
        if let Some(index) = excepted {
            if want != actual {
                tally.excepted.insert(index);
            }
        } else if want == actual {
            *tally.right.entry(what).or_default() += 1;
        } else {
            let basis = vector.text("basis");
            tally.wrong.push(format!(
                "{id} {what}: want {want}, got {actual} ({basis}): {detail}"
            ));
        }
    }
}

fn run_all(vectors: Vec<Vector>) -> Tally {
    let mount = support::can_mount();
    let judge = Judge {
        exceptions: exceptions(),
        tally: Mutex::default(),
    };
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(vector) = vectors.get(next.fetch_add(1, Ordering::Relaxed)) {
                    judge_vector(vector, mount, &judge);
                }
            });
        }
    });
    let mut tally = judge.tally.into_inner().unwrap();
    for (index, exception) in judge.exceptions.iter().enumerate() {
        let met = vectors.iter().any(|vector| vector.text("id") == exception.id);
        if met && !tally.excepted.contains(&index) {
            tally
                .wrong
                .push(format!("the exception no longer holds: {exception:?}"));
        }
    }
    tally
}

fn judge_vector(vector: &Vector, mount: bool, judge: &Judge) {
    let scratch = tempfile::tempdir().unwrap();
    let staged = vector.stage(scratch.path());
    let call = |command: &str, flags: &[&[OsString]], places: &[&Path]| {
        let mut args: Vec<OsString> = vec![command.into()];
        args.extend(staged.trust.iter().cloned());
        if vector.is_legacy() {
            args.push("--allow-legacy".into());
        }
        args.extend(flags.iter().flat_map(|flags| flags.iter().cloned()));
        args.extend(places.iter().map(|place| place.as_os_str().to_owned()));
        modelfs(args)
    };
    let Staged {
        bundle,
        model,
        trust,
        tree,
        verify,
    } = &staged;

    let outcome = call("inspect", &[], &[bundle]);
    judge.verdict(vector, "inspect", &[3], &outcome);
    if vector.is_legacy() && vector.accepted("bundle") {
        let mut args: Vec<OsString> = vec!["inspect".into()];
        args.extend(trust.iter().cloned());
        args.push(bundle.into());
        let outcome = modelfs(args);
        judge.compare(
            vector,
            "inspect without the legacy switch",
            "reject(3)",
            &word(&outcome),
            &outcome.text(),
        );
    }
    if vector.text("category") == "spec" {
        return; // Its models were never published.
    }
    let outcome = call("verify", &[tree, verify], &[bundle, model]);
    judge.verdict(vector, "verify", &codes_of_a_refused_tree(vector), &outcome);
    if vector.text("note").contains("expected_with_options=accept") {
        let lenient = [OsString::from("--ignore-unsigned-files")];
        let outcome = call("verify", &[tree, verify, &lenient], &[bundle, model]);
        judge.compare(vector, "verify", "accept", &word(&outcome), &outcome.text());
    }
    if !mount {
        return;
    }
    let point = scratch.path().join("mnt");
    fs::create_dir(&point).unwrap();
    let outcome = call("mount", &[tree], &[bundle, model, &point]);
    let refused = if vector.accepted("bundle") { 6 } else { 3 };
    judge.verdict(vector, "mount", &[refused], &outcome);
    if outcome.code == Some(0) {
        for (name, want) in vector.reads() {
            let actual = read_outcome(&point.join(name));
            judge.compare(vector, "read", want, &actual, name);
        }
        judge_tree(vector, &point, judge);
        let outcome = unmount(&point);
        judge.compare(vector, "unmount", "accept", &word(&outcome), &outcome.text());
    }
    let left = if mount_entry(&point).is_some() {
        "mounted"
    } else {
        "nothing"
    };
    judge.compare(vector, "what is left", "nothing", left, "");
    if left == "mounted" {
        unmount_lazily(&point);
    }
}

impl Judge {
    /// Compares acceptance, and the exit code of a refusal where the vector is not one of those that the
    /// specification leaves open.
    fn verdict(&self, vector: &Vector, what: &'static str, codes: &[i32], outcome: &Outcome) {
        let expected = match what {
            "inspect" => "bundle",
            "verify" => "strict",
            _ => what,
        };
        let open = vector.text("basis").starts_with("implementation-defined");
        let actual = word(outcome);
        let want = match vector.accepted(expected) {
            _ if open && matches!(outcome.code, Some(0 | 3..=7)) => actual.clone(),
            true => "accept".to_owned(),
            false if codes.iter().any(|code| outcome.code == Some(*code)) => actual.clone(),
            false => format!("reject({})", codes[0]),
        };
        self.compare(vector, what, &want, &actual, &outcome.text());
    }
}

/// The exit codes that `verify` may give when it refuses this vector.
fn codes_of_a_refused_tree(vector: &Vector) -> Vec<i32> {
    let differs = |(_, want): &(&str, &str)| matches!(*want, "eio" | "partial");
    if !vector.accepted("bundle") {
        vec![3]
    } else if !vector.accepted("mount") {
        vec![6]
    } else if vector.text("category") == "conformance" {
        vec![5, 6] // Which of the two is in their descriptions only.
    } else if vector.reads().iter().any(differs) {
        vec![5]
    } else {
        vec![6]
    }
}

fn word(outcome: &Outcome) -> String {
    match outcome.code {
        Some(0) => "accept".to_owned(),
        Some(code @ 3..=7) => format!("reject({code})"),
        Some(code) => format!("broken({code})"),
        None => "broken(no exit code)".to_owned(),
    }
}

/// What one read per byte meets, in the words of the vectors.
fn read_outcome(path: &Path) -> String {
    if fs::symlink_metadata(path).is_err() {
        return "hidden".to_owned();
    }
    let word = |why: std::io::Error| match why.raw_os_error() {
        Some(libc::EIO) => "eio".to_owned(),
        _ => format!("{why}"),
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(why) => return word(why),
    };
    let len = file.metadata().unwrap().len();
    let (mut good, mut bad) = (0, 0);
    for at in 0..len.max(1) {
        let mut byte = [0];
        match file.read_at(&mut byte, at) {
            Ok(n) if n == usize::from(len > 0) => good += 1,
            Ok(n) => return format!("{n} bytes at {at} of {len}"),
            Err(why) if why.raw_os_error() == Some(libc::EIO) => bad += 1,
            Err(why) => return word(why),
        }
    }
    match (good, bad) {
        (_, 0) => "ok",
        (0, _) => "eio",
        _ => "partial",
    }
    .to_owned()
}

/// Holds the mounted tree against the list in the bundle: the same names, and no byte that the list does
/// not vouch for.
fn judge_tree(vector: &Vector, point: &Path, judge: &Judge) {
    let Some(resources) = vector.resources() else {
        return; // The old format lists its files elsewhere.
    };
    let mut found = Vec::new();
    walk(point, point, &mut found);
    let mut signed: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
    for listed in &resources {
        signed.entry(&listed.path).or_default().push(listed);
    }
    for name in &found {
        // A model that is one file may be signed as `.` and is shown under its own name.
        let Some(parts) = signed.get(name.as_str()).or_else(|| signed.get(".")) else {
            if vector.text("bundle_in_model") != name {
                judge.compare(vector, "names", "only signed ones", name, "");
            }
            continue;
        };
        let Ok(file) = File::open(point.join(name)) else {
            continue; // Judged by `read`; here only what is given out counts.
        };
        let len = file.metadata().unwrap().len() as usize;
        for part in parts {
            let (start, end) = part.range.unwrap_or((0, len));
            let mut bytes = vec![0; end - start];
            if support::sys::read_full(&file, &mut bytes, start as u64).is_ok_and(|n| n == bytes.len()) {
                let vouched = [Algorithm::Sha256, Algorithm::Blake2b, Algorithm::Blake3]
                    .iter()
                    .any(|a| HEXLOWER.encode(digest::hash(*a, &bytes).as_bytes()) == part.digest);
                let actual = if vouched { "signed" } else { "other" };
                judge.compare(vector, "bytes", "signed", actual, name);
            }
        }
    }
    for name in signed.keys().filter(|name| **name != ".") {
        let shown = found.iter().any(|have| have == name);
        let actual = if shown { "shown" } else { "absent" };
        judge.compare(vector, "names", "shown", actual, name);
    }
}

fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, found);
        } else {
            found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}
