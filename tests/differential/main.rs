//! The same bundles and chains, judged by others: the reference tool and webpki. `docs/DIFFERENCES.md` names each
//! difference with who is right and why; one that it does not name fails, and so does one that is gone.
//!
//! `MODELFS_PYTHON` names a Python that has the packages of `scripts/requirements/reference.txt`, as `scripts/test`
//! sets it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise"
)]

#[path = "../shared/chains.rs"]
mod chains;
mod oracle;
#[path = "../shared/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod shared;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use serde_json::Value;
use support::modelfs;
use support::notice;
use support::staging::Vector;
use support::staging::read_manifest;

/// Kinds of vectors, or cases, that two judges differ about: our verdict and the other's.
type Differences = BTreeMap<String, BTreeSet<(String, String)>>;

const WORKERS: usize = 2;

#[test]
fn every_difference_from_the_reference_tool_is_explained() {
    let (Some(dir), Some(python)) = (support::vectors(), std::env::var_os("MODELFS_PYTHON")) else {
        return notice(
            "the comparison with the reference tool was left out: MODELFS_PYTHON or ../shared/vectors is not there",
        );
    };
    let vectors: Vec<Vector> = read_manifest(&dir.join("oms"))
        .into_iter()
        .filter(|vector| vector.text("method") != "sigstore")
        .collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Differences::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let mut reference = Reference::start(&python);
                while let Some(vector) = vectors.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let scratch = tempfile::tempdir().unwrap();
                    let (ours, theirs) = judge(vector, scratch.path(), &mut reference);
                    if ours != theirs {
                        let mut found = found.lock().unwrap();
                        let verdicts = found.entry(vector.text("kind").to_owned()).or_default();
                        verdicts.insert((ours.into(), theirs.into()));
                    }
                }
            });
        }
    });
    assert!(
        vectors.len() >= 470,
        "the collection is complete: {}",
        vectors.len()
    );
    compare(&found.into_inner().unwrap(), "The reference tool");
}

fn judge(
    vector: &Vector,
    scratch: &std::path::Path,
    reference: &mut Reference,
) -> (&'static str, &'static str) {
    let staged = vector.stage(scratch);
    let mut args: Vec<OsString> = vec!["verify".into()];
    args.extend(
        staged
            .trust
            .iter()
            .chain(&staged.tree)
            .chain(&staged.verify)
            .cloned(),
    );
    if vector.is_legacy() {
        args.push("--allow-legacy".into());
    }
    args.extend([staged.bundle.clone().into(), staged.model.clone().into()]);
    let ours = match modelfs(args).code {
        Some(0) => "accept",
        _ => "reject",
    };
    let mut args: Vec<OsString> = vec!["verify".into(), vector.text("method").into()];
    args.extend(["--signature".into(), staged.bundle.into()]);
    let spelled = |arg: &OsString| match arg.to_str() {
        Some("--public-key") => "--public_key".into(),
        Some("--certificate-chain") => "--certificate_chain".into(),
        Some("--allow-symlinks") => "--allow_symlinks".into(),
        _ => arg.clone(),
    };
    args.extend(staged.trust.iter().chain(&staged.tree).map(spelled));
    let mut names = staged.verify.iter();
    while let (Some(flag), Some(name)) = (names.next(), names.next()) {
        args.extend([flag.clone(), staged.model.join(name).into()]);
    }
    args.push(staged.model.into());
    (ours, reference.verdict(&args))
}

/// The reference tool, waiting for arguments.
struct Reference {
    process: std::process::Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Reference {
    fn start(python: &OsString) -> Self {
        let mut process = Command::new(python)
            .args(["-c", include_str!("reference.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { process, answers }
    }

    fn verdict(&mut self, args: &[OsString]) -> &'static str {
        let args: Vec<&str> = args
            .iter()
            .map(|arg| arg.to_str().expect("the vectors' paths are UTF-8"))
            .collect();
        let mut line = serde_json::to_string(&args).unwrap();
        line.push('\n');
        self.process
            .stdin
            .as_mut()
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        match answer.trim_end() {
            "accept" => "accept",
            "reject" => "reject",
            other => panic!("the reference tool answered {other:?} to {line}"),
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().ok();
    }
}

#[test]
fn every_difference_from_webpki_is_explained() {
    let (Some(limbo), Some(oms)) = (shared::vectors("x509-limbo"), shared::vectors("oms")) else {
        return;
    };
    let verdict = |accepted: bool| if accepted { "accept" } else { "reject" }.to_owned();
    let mut found = Differences::new();
    let mut seen = 0;
    let cases = shared::read_json(limbo.join("limbo-codesign.json"));
    for case in cases["testcases"].as_array().unwrap() {
        let Some(theirs) = oracle::of_limbo(case) else {
            continue;
        };
        let ours = chains::verdict(case).is_ok();
        seen += 1;
        if ours != theirs {
            let id = case["id"].as_str().unwrap().to_owned();
            found
                .entry(id)
                .or_default()
                .insert((verdict(ours), verdict(theirs)));
        }
    }
    assert!(seen >= 89, "{seen} cases");
    let manifest = shared::read_json(oms.join("manifest.json"));
    let certified = |entry: &&Value| entry["method"] == "certificate";
    for entry in manifest["vectors"].as_array().unwrap().iter().filter(certified) {
        let Some((ours, theirs)) = oracle::of_vector(&oms, entry) else {
            continue;
        };
        seen += 1;
        if ours != theirs {
            let kind = entry["kind"].as_str().unwrap().to_owned();
            found
                .entry(kind)
                .or_default()
                .insert((verdict(ours), verdict(theirs)));
        }
    }
    assert!(seen >= 130, "{seen} chains");
    compare(&found, "webpki");
}

/// Holds what was found against the table beneath a heading of `docs/DIFFERENCES.md`.
fn compare(found: &Differences, heading: &str) {
    let document = include_str!("../../docs/DIFFERENCES.md");
    let section = document
        .split("\n## ")
        .find(|section| section.starts_with(heading))
        .unwrap_or_else(|| panic!("docs/DIFFERENCES.md has no heading {heading}"));
    let mut written = Differences::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [names, ours, theirs, right, why] = cells[..] else {
            panic!("{line} has no five cells");
        };
        assert!(["modelfs", "the other", "both"].contains(&right), "{line}");
        assert!(why.trim_end_matches(['|', ' ']).len() > 15, "{line}");
        for name in names.split(", ") {
            let name = name.trim_matches('`').to_owned();
            written
                .entry(name)
                .or_default()
                .insert((ours.into(), theirs.into()));
        }
    }
    let list = |differences: &Differences| -> BTreeSet<String> {
        let lines = differences.iter().flat_map(|(name, verdicts)| {
            verdicts
                .iter()
                .map(move |(ours, theirs)| format!("{name}: modelfs {ours}, {heading} {theirs}"))
        });
        lines.collect()
    };
    let (found, written) = (list(found), list(&written));
    let new: Vec<_> = found.difference(&written).collect();
    let gone: Vec<_> = written.difference(&found).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "not in the table: {new:#?}\nno longer so: {gone:#?}"
    );
}
