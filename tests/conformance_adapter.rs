//! The adapter for the community's conformance suite asks the binary what the suite asks, and gives its verdicts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise"
)]

mod support;

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use support::notice;
use support::staging::Vector;
use support::staging::read_manifest;

fn adapter(args: &[OsString]) -> (Option<i32>, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/oms-conformance-adapter");
    let output = Command::new(script)
        .args(args)
        .env("MODELFS", env!("CARGO_BIN_EXE_modelfs"))
        .env("MODELFS_POLICY", "/nonexistent")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

/// A vector in the words of the suite.
fn ask(vector: &Vector, more: &[&str]) -> (Option<i32>, String) {
    let scratch = tempfile::tempdir().unwrap();
    let staged = vector.stage(scratch.path());
    let mut args: Vec<OsString> = ["verify-model", "--method", vector.text("method")]
        .iter()
        .map(OsString::from)
        .collect();
    args.extend(["--model-path".into(), staged.model.into()]);
    args.extend(["--bundle".into(), staged.bundle.into()]);
    args.extend(staged.trust.iter().map(|word| match word.to_str() {
        Some("--certificate-chain") => "--cert-chain".into(),
        _ => word.clone(),
    }));
    args.extend(staged.verify);
    args.extend(more.iter().map(OsString::from));
    adapter(&args)
}

#[test]
fn the_adapter_gives_the_verdicts_of_the_suite() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors-own");
    let mut vectors = read_manifest(&own);
    match support::vectors() {
        Some(shared) => vectors.extend(read_manifest(&shared.join("oms"))),
        None => {
            notice("the adapter was tried on the vectors of tests/ alone: ../shared/vectors is not there")
        }
    }
    let (mut accepted, mut refused) = (0, 0);
    for vector in vectors {
        let suite = ["conformance", "compat", "positive", "tree"].contains(&vector.text("category"));
        if !suite || vector.is_legacy() || vector.text("note").contains("allow_symlinks") {
            continue;
        }
        // The suite's protocol has no word for links.
        if vector.stage(tempfile::tempdir().unwrap().path()).tree != Vec::<OsString>::new() {
            continue;
        }
        let (code, text) = ask(&vector, &[]);
        let want = if vector.accepted("strict") { 0 } else { 1 };
        let open = vector.text("basis").starts_with("implementation-defined");
        if !open || !matches!(code, Some(0 | 1)) {
            assert_eq!(code, Some(want), "{}: {text}", vector.text("id"));
        }
        match code {
            Some(0) => accepted += 1,
            _ => refused += 1,
        }
    }
    notice(&format!(
        "conformance adapter: {accepted} accepted, {refused} refused, as they should be"
    ));
    assert!(accepted >= 10 && refused >= 5, "{accepted} and {refused}");
}

#[test]
fn unsigned_files_are_ignored_when_the_suite_says_so() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors-own");
    let vectors = read_manifest(&own);
    let extra = vectors
        .iter()
        .find(|v| v.text("id").contains("tree-extra-file"))
        .unwrap();
    assert_eq!(ask(extra, &[]).0, Some(1));
    assert_eq!(ask(extra, &["--ignore-unsigned-files"]).0, Some(0));
}

#[test]
fn what_cannot_be_asked_is_neither_verdict() {
    let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
    let cases = [
        ("sign-model", "does not sign"),
        ("verify", "expected verify-model"),
        ("verify-model --method key", "--model-path and --bundle"),
        (
            "verify-model --method key --model-path m --bundle b",
            "needs --public-key",
        ),
        // The other method's trust is not taken in its place.
        (
            "verify-model --method key --model-path m --bundle b --cert-chain c",
            "needs --public-key",
        ),
        (
            "verify-model --method certificate --model-path m --bundle b --public-key k",
            "needs --cert-chain",
        ),
        (
            "verify-model --method sigstore --model-path m --bundle b --identity i",
            "needs --identity and --identity-provider",
        ),
        (
            "verify-model --method pgp --model-path m --bundle b",
            "--method is",
        ),
        ("verify-model --use-staging", "MODELFS_STAGING_ROOT"),
        ("verify-model --bundle", "needs a value"),
        ("verify-model --what ever", "unknown option --what"),
        (
            "verify-model --method key --model-path /nowhere --bundle b --public-key k",
            "/nowhere",
        ),
    ];
    for (line, want) in cases {
        let (code, text) = adapter(&words(line));
        assert_eq!(code, Some(2), "{line}: {text}");
        assert!(text.contains(want), "{line}: {text}");
    }
}
