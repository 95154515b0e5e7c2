//! What the fuzz targets say must hold, tried on their seeds and on some mutants of each: a change that breaks it is met
//! here, and the targets compile. `scripts/fuzz` goes on from there.
//!
//! `MODELFS_SEED` says which mutants.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise"
)]

#[path = "../fuzz/fuzz_targets/bundle.rs"]
mod bundle;
#[path = "../fuzz/fuzz_targets/chain.rs"]
mod chain;
#[path = "../fuzz/fuzz_targets/common/mod.rs"]
mod common;
#[path = "../fuzz/fuzz_targets/manifest.rs"]
mod manifest;
#[path = "../fuzz/fuzz_targets/policy.rs"]
mod policy;
#[path = "support/random.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod random;
#[path = "../fuzz/fuzz_targets/shard_names.rs"]
mod shard_names;
#[path = "shared/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod shared;

use std::panic;
use std::panic::AssertUnwindSafe;

use data_encoding::HEXLOWER;
use random::Random;

#[test]
fn any_bytes_are_a_bundle_of_a_known_signer_or_refused() {
    replay("bundle", 60, bundle::check);
}

#[test]
fn any_payload_is_a_manifest_that_a_second_reader_reads_alike_or_refused() {
    replay("manifest", 60, manifest::check);
}

#[test]
fn shards_tile_their_files_or_are_refused() {
    replay("shard_names", 200, |data| {
        if let Ok(text) = std::str::from_utf8(data) {
            shard_names::check(text);
        }
    });
}

#[test]
fn any_certificates_are_a_chain_that_holds_under_every_other_view_of_it_or_refused() {
    replay("chain", 200, chain::check);
}

#[test]
fn any_text_is_a_policy_that_names_signers_and_means_the_same_twice_or_refused() {
    replay("policy", 20, policy::check);
}

/// Tries the seeds of a target and so many mutants of each.
fn replay(target: &str, mutants: usize, check: impl Fn(&[u8])) {
    shared::vectors("oms");
    let mut random = Random::from_environment(target);
    let try_it = |input: &[u8]| {
        if let Err(cause) = panic::catch_unwind(AssertUnwindSafe(|| check(input))) {
            println!("{target}: {}", HEXLOWER.encode(input));
            panic::resume_unwind(cause);
        }
    };
    let seeds = common::seeds(target);
    for seed in &seeds {
        try_it(seed);
        for _ in 0..mutants {
            let mut mutant = seed.clone();
            for _ in 0..=random.within(0..3) {
                let at = random.within(0..mutant.len() + 1);
                let byte = random.next().to_le_bytes()[0];
                match random.within(0..5) {
                    0 if at < mutant.len() => drop(mutant.remove(at)),
                    1 => mutant.insert(at, byte),
                    2 => mutant.truncate(at),
                    3 if at < mutant.len() => mutant[at] = mutant[random.within(0..mutant.len())],
                    _ if at < mutant.len() => mutant[at] ^= 1 << (byte % 8),
                    _ => {}
                }
            }
            try_it(&mutant);
        }
    }
    println!("{target}: {} seeds", seeds.len());
}
