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

mod shared;

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use modelfs::trust::CertificateAnchor;
use modelfs::trust::CertificateIdentity;
use modelfs::trust::UnixTime;
use serde_json::Value;
use shared::read_json;
use shared::vectors;
use shared::with_causes;

/// 2026-11-20T12:00:00Z, for the cases that leave the time open.
const NOW: i64 = 1_795_176_000;

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

/// Runs one case as an operator would state it: the trusted certificates are the anchor, the peer's name is
/// the identity that is pinned.
fn verdict(case: &Value) -> Result<(), String> {
    // There is no way to give a revocation list, so a case that needs one cannot be put to us: a check that
    // cannot run has failed.
    if !case["crls"].as_array().unwrap().is_empty() {
        return Err("revocation lists are not supported".into());
    }
    let texts = |field: &str| -> Vec<String> {
        let list = case[field].as_array().unwrap();
        list.iter().map(|pem| pem.as_str().unwrap().to_owned()).collect()
    };
    let trusted = texts("trusted_certs");
    let trusted: Vec<&[u8]> = trusted.iter().map(String::as_bytes).collect();
    let mut anchor = CertificateAnchor::from_pem(&trusted).map_err(|e| with_causes(&e))?;
    if let Some(depth) = case["max_chain_depth"].as_u64() {
        anchor = anchor.with_max_intermediates(depth.try_into().unwrap());
    }
    let name = &case["expected_peer_name"];
    if let (Some(kind), Some(value)) = (name["kind"].as_str(), name["value"].as_str()) {
        let kind = match kind {
            "DNS" => "dns",
            "RFC822" => "email",
            // Nobody signs a model as an IP address; there is no such pin.
            "IP" => return Err("an IP address is no identity".into()),
            other => panic!("kind {other}"),
        };
        let identity = CertificateIdentity::parse(&format!("{kind}:{value}")).unwrap();
        anchor = anchor.with_identity(identity);
    }
    let leaf = der(case["peer_certificate"].as_str().unwrap());
    let others: Vec<Vec<u8>> = texts("untrusted_intermediates")
        .iter()
        .map(|pem| der(pem))
        .collect();
    let now = case["validation_time"].as_str().map_or(NOW, unix_seconds);
    match anchor.verify(&leaf, &others, UnixTime(now)) {
        Ok(_) => Ok(()),
        Err(error) => Err(with_causes(&error)),
    }
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    data_encoding::BASE64.decode(body.as_bytes()).unwrap()
}

/// Reads `2024-03-01T00:00:00+00:00`, the only form in which the cases state times.
fn unix_seconds(text: &str) -> i64 {
    let number = |at: std::ops::Range<usize>| text[at].parse::<i64>().unwrap();
    assert!(text.ends_with("+00:00") && text.len() == 25, "{text}");
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let days_of_year = |y| if leap(y) { 366 } else { 365 };
    let february = if leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before: i64 = (1970..year).map(days_of_year).sum();
    let in_year: i64 = months.iter().take(usize::try_from(month - 1).unwrap()).sum();
    let days = before + in_year + day - 1;
    ((days * 24 + number(11..13)) * 60 + number(14..16)) * 60 + number(17..19)
}
