//! The path validator against x509-limbo, with code signing in place of server authentication.
//!
//! `tests/limbo-exceptions.json` lists where we differ and why; a difference that is not in it fails, and so
//! does one in it that is gone. `MODELFS_LIMBO` names another file of cases. The last line is the tally, so this
//! has no test harness around it (Cargo.toml).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a malformed vector should stop the test"
)]

#[path = "shared/chains.rs"]
#[allow(dead_code, reason = "the differential test uses the rest of it")]
mod chains;
mod shared;

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use chains::verdict;
use serde_json::Value;
use shared::read_json;
use shared::vectors;

fn main() -> ExitCode {
    let Some(path) = cases_file() else {
        return ExitCode::SUCCESS;
    };
    let other_file = std::env::var_os("MODELFS_LIMBO").is_some();
    let limbo = read_json(path);
    let exceptions = read_json(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/limbo-exceptions.json"));
    let mut unused: Vec<&Value> = exceptions.as_array().unwrap().iter().collect();
    let (mut seen, mut expected) = (0, 0);
    let (mut false_accepts, mut false_rejects, mut surprises) = (vec![], vec![], vec![]);
    for case in limbo["testcases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let want = match case["expected_result"].as_str().unwrap() {
            "SUCCESS" => "accept",
            "FAILURE" => "reject",
            other => panic!("{id}: {other}"),
        };
        let verdict = verdict(case);
        let got = match &verdict {
            Ok(()) => "accept",
            Err(_) => "reject",
        };
        seen += 1;
        match (want, got) {
            ("accept", "reject") => false_rejects.push(id),
            ("reject", "accept") => false_accepts.push(id),
            _ => expected += 1,
        }
        let argued = unused
            .iter()
            .position(|e| e["id"] == *id)
            .map(|at| unused.remove(at));
        let allowed = match argued {
            Some(exception) => {
                assert_eq!(exception["expected"], want, "{id}");
                assert!(
                    exception["reason"].as_str().is_some_and(|r| !r.is_empty()),
                    "{id}"
                );
                exception["actual"].as_str().unwrap()
            }
            None => want,
        };
        if allowed != got {
            surprises.push(format!("{id}: {allowed} expected, {verdict:?}"));
        }
    }
    if !other_file {
        surprises.extend(unused.iter().map(|e| format!("an exception without a case: {e}")));
        if seen != 104 {
            surprises.push(format!("{seen} cases, not 104"));
        }
    }
    for surprise in &surprises {
        println!("{surprise}");
    }
    println!(
        "limbo: {expected} of {seen} as expected; false accepts: [{}]; false rejects: [{}]",
        false_accepts.join(", "),
        false_rejects.join(", ")
    );
    match surprises.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn cases_file() -> Option<PathBuf> {
    match std::env::var_os("MODELFS_LIMBO") {
        Some(path) => Some(path.into()),
        None => Some(vectors("x509-limbo")?.join("limbo-codesign.json")),
    }
}
