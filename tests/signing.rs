//! Signed models of every kind are accepted, and each wrong byte in them is refused: `verify` from outside.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod support;

use std::ffi::OsString;
use std::fs;

use modelfs::digest::Algorithm;
use support::Outcome;
use support::modelfs;
use support::random::Random;
use support::signing::Layout;
use support::signing::Method;
use support::signing::Signed;
use support::signing::Signer;

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Blake2b, Algorithm::Blake3];

fn verify(model: &Signed) -> Outcome {
    let mut args: Vec<OsString> = vec!["verify".into()];
    args.extend(model.trust.iter().cloned());
    args.extend([model.bundle.clone().into(), model.model.clone().into()]);
    modelfs(args)
}

fn files(random: &mut Random) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", random.bytes(300)),
        ("empty.txt", Vec::new()),
        ("tokenizer/vocab.txt", random.bytes(1)),
        ("weights.bin", random.bytes(support::CHUNK + 1)),
    ]
}

#[test]
fn every_signer_layout_and_hash_function_verifies() {
    let mut random = Random::from_environment("signers");
    let kinds = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
    ];
    for kind in kinds {
        for (method_name, signer) in [
            ("key", Signer::key(kind)),
            ("certificate", Signer::certificate(kind)),
        ] {
            for algorithm in ALGORITHMS {
                for method in [Method::Files, Method::Shards(1000), Method::ShardsMangled(65536)] {
                    let layout = Layout { method, algorithm };
                    let outcome = verify(&Signed::by(&signer, layout, &files(&mut random)));
                    assert_eq!(
                        outcome.code,
                        Some(0),
                        "{kind:?} {method_name} {layout:?}: {outcome:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_wrong_missing_or_extra_byte_is_refused_with_its_own_exit_code() {
    struct Case {
        name: &'static str,
        change: fn(&Signed),
        files: i32,
        shards: i32,
    }
    let weights = "weights.bin";
    let cases = [
        Case {
            name: "a wrong byte",
            change: |m| {
                let mut bytes = m.content("weights.bin").to_vec();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(m.source("weights.bin"), bytes).unwrap();
            },
            files: 5,
            shards: 5,
        },
        Case {
            name: "a missing byte",
            change: |m| {
                let bytes = m.content("weights.bin");
                fs::write(m.source("weights.bin"), &bytes[1..]).unwrap();
            },
            files: 5,
            shards: 6,
        },
        Case {
            name: "an extra byte",
            change: |m| {
                let bytes = [m.content("weights.bin"), b"x"].concat();
                fs::write(m.source("weights.bin"), bytes).unwrap();
            },
            files: 5,
            shards: 6,
        },
        Case {
            name: "a missing file",
            change: |m| fs::remove_file(m.source("weights.bin")).unwrap(),
            files: 6,
            shards: 6,
        },
        Case {
            name: "an extra file",
            change: |m| fs::write(m.source("extra.py"), b"import os").unwrap(),
            files: 6,
            shards: 6,
        },
        Case {
            name: "a directory in a file's place",
            change: |m| {
                fs::remove_file(m.source("weights.bin")).unwrap();
                fs::create_dir(m.source("weights.bin")).unwrap();
            },
            files: 6,
            shards: 6,
        },
        Case {
            name: "a link in a file's place",
            change: |m| {
                let away = m.dir().join("weights.bin");
                fs::rename(m.source("weights.bin"), &away).unwrap();
                std::os::unix::fs::symlink(away, m.source("weights.bin")).unwrap();
            },
            files: 6,
            shards: 6,
        },
    ];
    let mut random = Random::from_environment("refusals");
    for case in cases {
        for (layout, want) in [(Layout::FILES, case.files), (Layout::shards(50_000), case.shards)] {
            let model = Signed::new(layout, &files(&mut random));
            (case.change)(&model);
            let outcome = verify(&model);
            let what = format!("{} in {layout:?}: {outcome:?}", case.name);
            assert_eq!(outcome.code, Some(want), "{what}");
            if case.name != "an extra file" {
                assert!(
                    outcome.stderr.contains(weights),
                    "the message names the file: {what}"
                );
            }
        }
    }
}

#[test]
fn a_signature_by_another_key_is_refused_for_its_signature() {
    let mut random = Random::from_environment("other key");
    let mut model = Signed::new(Layout::FILES, &files(&mut random));
    let other = tempfile::tempdir().unwrap();
    model.trust = Signer::p256().trust(other.path());
    let outcome = verify(&model);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
}
