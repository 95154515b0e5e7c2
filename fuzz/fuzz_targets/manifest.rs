//! Bytes as a payload that a trusted signer signed.
//!
//! 1. Nothing panics, and every refusal is a message that is safe to print.
//! 2. What is trusted is what the payload parses to: the same identity, and no manifest where it parses to none.
//! 3. A payload is a manifest of at most one format.
//! 4. Names are canonical, in order, none twice, none beneath another or beneath an ignored path.
//! 5. The shards of a file tile it, each with a digest; there are as many resources as a plain reader of JSON counts,
//!    and their names are the same.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
#[allow(dead_code, reason = "the other targets use the rest of it")]
mod common;

use std::collections::BTreeSet;

use modelfs::digest;
use modelfs::manifest::Format;
use modelfs::manifest::Manifest;
use modelfs::manifest::SignedContent;
use modelfs::path::ModelPath;
use modelfs::trust::Bundle;
use serde_json::Value;

use crate::common::NOW;
use crate::common::SIGNER;
use crate::common::check_message;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(init: common::plant_seeds("manifest"), |payload: &[u8]| check(payload));

pub(crate) fn check(payload: &[u8]) {
    let legacy = Manifest::parse(payload, Format::LegacyV02);
    let current = Manifest::parse(payload, Format::V1);
    assert!(legacy.is_err() || current.is_err());
    for parsed in [&legacy, &current] {
        match parsed {
            Ok(manifest) => check_manifest(manifest, payload),
            Err(error) => check_message(error),
        }
    }
    let bundle = Bundle::parse(&SIGNER.sign(payload)).expect("a bundle of any payload");
    match (SIGNER.anchors.verify(&bundle, NOW), current) {
        (Ok(trusted), Ok(manifest)) => assert_eq!(trusted.manifest().identity(), manifest.identity()),
        (Err(error), Err(_)) => check_message(&error),
        (got, want) => panic!("{got:?} and not {want:?}"),
    }
}

fn check_manifest(manifest: &Manifest, payload: &[u8]) {
    assert_eq!(manifest.identity(), &digest::sha256(payload));
    let paths: Vec<&ModelPath> = manifest.files().iter().map(|file| file.path()).collect();
    assert!(!paths.is_empty());
    for path in &paths {
        assert_eq!(ModelPath::parse(path.as_str()).as_ref(), Ok(*path));
        assert!(
            !manifest
                .ignore_paths()
                .iter()
                .any(|ignored| path.is_within(ignored))
        );
        // Every proper ancestor; with the order this is every pair.
        let mut above = path.as_str();
        while let Some((parent, _)) = above.rsplit_once('/') {
            above = parent;
            assert!(
                paths
                    .binary_search_by(|other| other.as_str().cmp(parent))
                    .is_err()
            );
        }
    }
    assert!(paths.is_sorted_by(|a, b| a < b));

    let mut names = BTreeSet::new();
    for file in manifest.files() {
        let name = match manifest.is_single_file() {
            true => ".",
            false => file.path().as_str(),
        };
        match file.content() {
            SignedContent::Whole(digest) => {
                assert_eq!(digest.algorithm(), manifest.algorithm());
                names.insert(name.to_owned());
            }
            SignedContent::Shards(shards) => {
                let mut end = 0;
                for index in 0..shards.count() {
                    let range = shards.range(index).expect("a range");
                    assert_eq!(range.start, end);
                    assert!(range.end > range.start && range.end - range.start <= shards.shard_size());
                    assert!(range.end - range.start == shards.shard_size() || index + 1 == shards.count());
                    assert_eq!(
                        shards.digest(index).expect("a digest").algorithm(),
                        manifest.algorithm()
                    );
                    names.insert(format!("{name}:{}:{}", range.start, range.end));
                    end = range.end;
                }
                assert_eq!((shards.size(), shards.digest(shards.count())), (end, None));
            }
        }
    }
    let plain: Value = serde_json::from_slice(payload).expect("strict JSON is JSON");
    let listed = match plain["predicateType"].as_str() {
        Some("https://model_signing/Digests/v0.1") => &plain["subject"],
        _ => &plain["predicate"]["resources"],
    };
    let listed = listed.as_array().expect("a list");
    assert_eq!(manifest.resources(), listed.len() as u64);
    let listed: BTreeSet<String> = listed
        .iter()
        .map(|r| r["name"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names, listed);
}
