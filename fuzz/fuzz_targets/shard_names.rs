//! Lines as the names of shards: the first line is the shard size, each other one a resource's name. The statement
//! around them is right.
//!
//! 1. Nothing panics, and every refusal is a message that is safe to print.
//! 2. A list is accepted exactly when a second, plainer reading of the specification accepts it (OMS 6.3.2): each name
//!    ends in a range of canonical decimals, and the ranges of each file, sorted as numbers, tile it with shards of
//!    that size and a last one that may be shorter.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
#[allow(dead_code, reason = "the other targets use the rest of it")]
mod common;

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use modelfs::digest;
use modelfs::manifest::Format;
use modelfs::manifest::Manifest;
use modelfs::path::ModelPath;
use serde_json::json;

use crate::common::check_message;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(init: common::plant_seeds("shard_names"), |text: &str| check(text));

pub(crate) fn check(text: &str) {
    let mut lines = text.split('\n');
    let Some(shard_size) = lines.next().and_then(|line| line.parse::<u64>().ok()) else {
        return;
    };
    let names: Vec<&str> = lines.collect();
    let digest = digest::sha256(b"");
    let root = digest::sha256(&digest.repeat(names.len()));
    let resources: Vec<_> = names
        .iter()
        .map(|name| json!({"name": name, "algorithm": "sha256", "digest": HEXLOWER.encode(&digest)}))
        .collect();
    let payload = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": HEXLOWER.encode(&root)}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "shards", "hash_type": "sha256", "allow_symlinks": false, "shard_size": shard_size,
            },
            "resources": resources,
        },
    })
    .to_string();
    let got = Manifest::parse(payload.as_bytes(), Format::V1);
    if let Err(error) = &got {
        check_message(error);
    }
    assert_eq!(
        got.is_ok(),
        is_tiling(&names, shard_size),
        "{names:?} of {shard_size}: {got:?}"
    );
}

fn is_tiling(names: &[&str], shard_size: u64) -> bool {
    let mut files: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for name in names {
        let Some((rest, end)) = name.rsplit_once(':') else {
            return false;
        };
        let Some((path, start)) = rest.rsplit_once(':') else {
            return false;
        };
        let (Some(start), Some(end)) = (decimal(start), decimal(end)) else {
            return false;
        };
        files.entry(path).or_default().push((start, end));
    }
    if files.is_empty() || !(1..=1 << 53).contains(&shard_size) {
        return false;
    }
    let is_itself = files.len() == 1 && files.contains_key(".");
    let paths: Vec<&str> = files.keys().copied().collect();
    let conflict = |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.starts_with('/'));
    for (index, path) in paths.iter().enumerate() {
        if !is_itself && ModelPath::parse(path).is_err() {
            return false;
        }
        if paths
            .iter()
            .enumerate()
            .any(|(other, inner)| other != index && conflict(path, inner))
        {
            return false;
        }
    }
    files.into_values().all(|mut ranges| {
        ranges.sort_unstable();
        let size = ranges.last().expect("never empty").1;
        let tile = |index: usize| {
            let start = (index as u64).checked_mul(shard_size)?;
            Some((start, start.checked_add(shard_size)?.min(size)))
        };
        ranges
            .iter()
            .enumerate()
            .all(|(index, range)| range.0 < range.1 && tile(index) == Some(*range))
    })
}

fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text && number <= i64::MAX as u64).then_some(number)
}
