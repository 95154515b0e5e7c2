//! The ECDSA vectors of Wycheproof, through the one function that checks a signature of a model.
//!
//! `acceptable` is not a verdict in these files: every signature is valid or it is not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a malformed vector should stop the test"
)]

mod shared;

use data_encoding::HEXLOWER;
use modelfs::trust::Curve;
use modelfs::trust::PublicKey;
use serde_json::Value;
use shared::read_json;
use shared::vectors;

#[test]
fn every_curve_accepts_what_is_valid_and_nothing_else() {
    let Some(folder) = vectors("wycheproof") else {
        return;
    };
    for (name, curve, count) in [
        ("ecdsa_secp256r1_sha256_test.json", Curve::P256, 484),
        ("ecdsa_secp384r1_sha384_test.json", Curve::P384, 504),
        ("ecdsa_secp521r1_sha512_test.json", Curve::P521, 542),
    ] {
        let (seen, wrong) = run(&read_json(folder.join(name)), Some(curve));
        println!("{name}: {} of {seen} as expected", seen - wrong.len());
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
        assert_eq!(seen, count, "{name}");
    }
}

/// The curve fixes the hash, so a valid signature over another hash is as bad as any.
#[test]
fn no_curve_accepts_another_hash_or_encoding() {
    let Some(folder) = vectors("wycheproof") else {
        return;
    };
    for (name, count) in [
        ("ecdsa_secp256r1_sha512_test.json", 554),
        ("ecdsa_secp384r1_sha256_test.json", 472),
        // Two numbers side by side, as IEEE P1363 has them, are no DER.
        ("ecdsa_secp256r1_sha256_p1363_test.json", 262),
    ] {
        let (seen, wrong) = run(&read_json(folder.join(name)), None);
        assert!(wrong.is_empty(), "{name}: accepted {wrong:?}");
        assert_eq!(seen, count, "{name}");
    }
}

/// Runs a file; the tests whose verdict differs. Without a curve, all are expected to be refused.
fn run(file: &Value, curve: Option<Curve>) -> (usize, Vec<u64>) {
    let hex = |value: &Value| HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
    let (mut seen, mut wrong) = (0, Vec::new());
    for group in file["testGroups"].as_array().unwrap() {
        let key = PublicKey::from_spki(&hex(&group["publicKeyDer"])).unwrap();
        if let Some(curve) = curve {
            assert_eq!(key.curve(), curve);
            let pem = group["publicKeyPem"].as_str().unwrap();
            let same = PublicKey::from_pem(pem.as_bytes()).unwrap();
            assert_eq!(same.fingerprint(), key.fingerprint());
        }
        for test in group["tests"].as_array().unwrap() {
            let valid = match test["result"].as_str().unwrap() {
                "valid" => curve.is_some(),
                "invalid" => false,
                other => panic!("result {other}"),
            };
            let got = key.verify(&hex(&test["msg"]), &hex(&test["sig"])).is_ok();
            seen += 1;
            if got != valid {
                wrong.push(test["tcId"].as_u64().unwrap());
            }
        }
    }
    (seen, wrong)
}
