//! `modelfs warm`: what it reads, in which order, and what it says of what is refused.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::small_model;
use crate::support;
use crate::support::CHUNK;
use crate::support::Outcome;
use crate::support::modelfs;
use crate::support::mounted::Mounted;
use crate::support::random::Random;
use crate::support::signing::Layout;
use crate::support::signing::Signed;

fn warm(options: &[&str], mountpoint: &Path, paths: &[&str]) -> Outcome {
    let mut args: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    args.extend([OsStr::new("warm"), mountpoint.as_os_str()]);
    args.extend(paths.iter().map(OsStr::new));
    modelfs(args)
}

#[test]
fn warm_verifies_everything_and_leaves_it_in_the_page_cache() {
    if !support::can_mount() {
        return;
    }
    let mut random = Random::from_environment("warm");
    let large = random.bytes(40 << 20);
    for layout in [Layout::FILES, Layout::shards(1 << 20)] {
        let files = [("config.json", b"{}".to_vec()), ("a/weights.bin", large.clone())];
        let model = Signed::new(layout, &files);
        let mounted = Mounted::new(&model);
        let outcome = warm(&[], mounted.path(), &[]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let line = format!("{}: warm, 2 files, 40.0 MiB\n", mounted.path().display());
        assert_eq!((outcome.stdout, outcome.stderr), (line, String::new()));
        let before = mounted.status();
        assert_eq!(before["files"]["verified"], 2);
        for (name, truth) in &model.files {
            assert!(fs::read(mounted.file(name)).unwrap() == *truth, "{name}");
        }
        // The kernel had all of it and asked for nothing.
        assert_eq!(mounted.status()["bytes"]["served"], before["bytes"]["served"]);
        let outcome = warm(&["--json"], mounted.path(), &["a"]);
        let data: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        let want = serde_json::json!({"mountpoint": mounted.path(), "files": 1, "bytes": large.len()});
        assert_eq!((outcome.code, data), (Some(0), want));
        mounted.unmount();
    }
}

#[test]
fn warm_reads_chosen_files_and_no_others() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    for (path, verified) in [
        ("config.json", 2),
        ("./tokenizer/", 2),
        ("tokenizer/vocab.txt", 2),
        (".", 4),
    ] {
        let mounted = Mounted::new(&model);
        let absolute = mounted.file(path);
        for path in [Path::new(path), &absolute] {
            let outcome = warm(&[], mounted.path(), &[path.to_str().unwrap()]);
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
        }
        // The empty file was verified when the model was mounted.
        assert_eq!(mounted.status()["files"]["verified"], verified, "{path}");
        mounted.unmount();
    }
}

#[test]
fn warm_names_the_files_that_are_refused() {
    if !support::can_mount() {
        return;
    }
    for layout in [Layout::FILES, Layout::shards(CHUNK as u64)] {
        let mut random = Random::from_environment("warm, refused");
        let files = [
            ("config.json", random.bytes(300)),
            ("weights-10.bin", random.bytes(3 * CHUNK + 17)),
            ("weights-2.bin", random.bytes(3 * CHUNK + 17)),
        ];
        let model = Signed::new(layout, &files);
        for name in ["weights-10.bin", "weights-2.bin"] {
            let mut bytes = model.content(name).to_vec();
            bytes[CHUNK + 1] ^= 1;
            fs::write(model.source(name), bytes).unwrap();
        }
        let mounted = Mounted::new(&model);
        let outcome = warm(&[], mounted.path(), &[]);
        assert_eq!(outcome.code, Some(5), "{outcome:?}");
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        assert_eq!(lines.len(), 3, "{outcome:?}");
        for (line, name) in lines.iter().zip(["weights-2.bin", "weights-10.bin"]) {
            assert!(line.starts_with(&format!("modelfs: {name}")), "{line}");
            assert!(
                line.contains("signed sha256:") && line.contains("found sha256:"),
                "{line}"
            );
        }
        let named = format!(
            "{} is not what was signed (weights-2.bin, weights-10.bin): ",
            mounted.path().display()
        );
        assert!(lines[2].contains(&named), "{}", lines[2]);
        let state = &mounted.status()["files"];
        assert_eq!((&state["verified"], &state["rejected"]), (&1.into(), &2.into()));

        let outcome = warm(&["--json"], mounted.path(), &["weights-2.bin"]);
        let data: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!((outcome.code, &data["error"]["code"]), (Some(5), &5.into()));
        assert_eq!(data["problems"][0]["path"], "weights-2.bin");
        assert_eq!(data["problems"][0]["kind"], "differs");
        assert_eq!(warm(&[], mounted.path(), &["config.json"]).code, Some(0));
        mounted.unmount();
    }
}

#[test]
fn warm_tells_a_source_that_fails_from_one_that_differs() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mounted = Mounted::new(&model);
    fs::remove_file(model.source("weights.bin")).unwrap();
    let outcome = warm(&[], mounted.path(), &[]);
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
    assert!(
        outcome.stderr.contains("weights.bin cannot be read: "),
        "{outcome:?}"
    );
    mounted.unmount();
}

#[test]
fn warm_wants_a_mount_and_paths_in_it() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mut mounted = Mounted::new(&model);
    let outside = model.source("config.json");
    let cases = [
        (model.dir(), "."),
        (Path::new("/nonexistent"), "."),
        (outside.as_path(), "."),
        (&mounted.file("tokenizer"), "."),
        (mounted.path(), ".."),
        (mounted.path(), "nothing.bin"),
        (mounted.path(), "config.json/x"),
        (mounted.path(), outside.to_str().unwrap()),
    ];
    for (mountpoint, path) in cases {
        let outcome = warm(&[], mountpoint, &[path]);
        assert_eq!(
            outcome.code,
            Some(2),
            "{} {path}: {outcome:?}",
            mountpoint.display()
        );
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
    mounted.kill();
    let outcome = warm(&[], mounted.path(), &[]);
    assert_eq!(outcome.code, Some(8), "{outcome:?}");
}
