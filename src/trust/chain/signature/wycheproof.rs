//! The vectors of Wycheproof for every signature that an authority may make under a certificate. They lie beside the
//! repository; where they are absent, that is said.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use data_encoding::HEXLOWER;
use serde_json::Value;
use x509_parser::prelude::FromDer as _;

use super::*;

/// A file, how many signatures it has, and how they are made.
struct Suite {
    name: &'static str,
    tests: usize,
    algorithm: SignatureAlgorithm,
}

const fn suite(name: &'static str, tests: usize, algorithm: SignatureAlgorithm) -> Suite {
    Suite {
        name,
        tests,
        algorithm,
    }
}

const SHA_256: HashFunction = HashFunction::Sha256;
const SHA_384: HashFunction = HashFunction::Sha384;
const SHA_512: HashFunction = HashFunction::Sha512;

const SUITES: [Suite; 17] = [
    suite("ecdsa_secp256r1_sha256", 484, SignatureAlgorithm::Ecdsa(SHA_256)),
    suite("ecdsa_secp256r1_sha512", 554, SignatureAlgorithm::Ecdsa(SHA_512)),
    suite("ecdsa_secp384r1_sha256", 472, SignatureAlgorithm::Ecdsa(SHA_256)),
    suite("ecdsa_secp384r1_sha384", 504, SignatureAlgorithm::Ecdsa(SHA_384)),
    suite("ecdsa_secp521r1_sha512", 542, SignatureAlgorithm::Ecdsa(SHA_512)),
    suite("ed25519", 151, SignatureAlgorithm::Ed25519),
    suite(
        "rsa_pss_2048_sha256_mgf1_32",
        108,
        SignatureAlgorithm::RsaPss(SHA_256),
    ),
    suite(
        "rsa_pss_2048_sha384_mgf1_48",
        141,
        SignatureAlgorithm::RsaPss(SHA_384),
    ),
    suite(
        "rsa_pss_3072_sha256_mgf1_32",
        108,
        SignatureAlgorithm::RsaPss(SHA_256),
    ),
    suite(
        "rsa_pss_4096_sha256_mgf1_32",
        108,
        SignatureAlgorithm::RsaPss(SHA_256),
    ),
    suite(
        "rsa_pss_4096_sha384_mgf1_48",
        141,
        SignatureAlgorithm::RsaPss(SHA_384),
    ),
    suite(
        "rsa_pss_4096_sha512_mgf1_64",
        179,
        SignatureAlgorithm::RsaPss(SHA_512),
    ),
    suite("rsa_signature_2048_sha256", 259, SignatureAlgorithm::Rsa(SHA_256)),
    suite("rsa_signature_2048_sha384", 258, SignatureAlgorithm::Rsa(SHA_384)),
    suite("rsa_signature_2048_sha512", 259, SignatureAlgorithm::Rsa(SHA_512)),
    suite("rsa_signature_3072_sha256", 259, SignatureAlgorithm::Rsa(SHA_256)),
    suite("rsa_signature_4096_sha256", 258, SignatureAlgorithm::Rsa(SHA_256)),
];

fn read(name: &str) -> Option<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/wycheproof");
    if !folder.is_dir() {
        // Past the capture of the test runner.
        let notice =
            "NOTICE: the vectors of wycheproof were left out: ../shared/vectors/wycheproof is not there";
        writeln!(std::io::stderr(), "{notice}").ok();
        return None;
    }
    let text = fs::read(folder.join(format!("{name}_test.json"))).unwrap();
    Some(serde_json::from_slice(&text).unwrap())
}

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn key_of(group: &Value) -> SubjectKey {
    let der = hex(&group["publicKeyDer"]);
    let (rest, spki) = SubjectPublicKeyInfo::from_der(&der).unwrap();
    assert!(rest.is_empty());
    SubjectKey::of(&spki).unwrap()
}

#[test]
fn every_algorithm_of_chains_accepts_what_is_valid_and_nothing_else() {
    for Suite {
        name,
        tests,
        algorithm,
    } in SUITES
    {
        let Some(file) = read(name) else { return };
        let (mut seen, mut wrong) = (0, Vec::new());
        for group in file["testGroups"].as_array().unwrap() {
            let key = key_of(group);
            for test in group["tests"].as_array().unwrap() {
                let want = match (test["result"].as_str().unwrap(), test["flags"][0].as_str()) {
                    ("valid", _) => true,
                    // A DigestInfo without NULL: some verifiers take it. There is one spelling here.
                    ("invalid", _) | ("acceptable", Some("MissingNull")) => false,
                    other => panic!("{name}: {other:?}"),
                };
                let got = key
                    .verify(algorithm, &hex(&test["msg"]), &hex(&test["sig"]))
                    .is_ok();
                seen += 1;
                if got != want {
                    wrong.push(&test["tcId"]);
                }
            }
        }
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
        assert_eq!(seen, tests, "{name}");
    }
}

/// Valid signatures with every mixture of hash functions and salts: only the three mixtures that are used pass.
#[test]
fn pss_with_other_parameters_is_no_algorithm_of_chains() {
    let Some(file) = read("rsa_pss_misc") else { return };
    let hash = |name: &Value| match name.as_str().unwrap() {
        "SHA-1" => tests::SHA1,
        "SHA-224" => b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x04",
        "SHA-256" => tests::SHA256,
        "SHA-384" => tests::SHA384,
        "SHA-512" => tests::SHA512,
        other => panic!("{other}"),
    };
    let (mut used, mut unused) = (0, 0);
    for group in file["testGroups"].as_array().unwrap() {
        let salt: u8 = group["sLen"].as_u64().unwrap().try_into().unwrap();
        let profile = [("SHA-256", 32), ("SHA-384", 48), ("SHA-512", 64)];
        let is_used = group["sha"] == group["mgfSha"]
            && profile.iter().any(|(sha, s)| group["sha"] == *sha && salt == *s);
        let algorithm = tests::pss_with(hash(&group["sha"]), hash(&group["mgfSha"]), salt);
        assert_eq!(algorithm.is_ok(), is_used, "{group}");
        let key = key_of(group);
        for test in group["tests"].as_array().unwrap() {
            let (message, signature) = (hex(&test["msg"]), hex(&test["sig"]));
            match &algorithm {
                Ok(algorithm) => assert_eq!(key.verify(*algorithm, &message, &signature), Ok(())),
                // Nor does it pass for one that is used.
                Err(_) => {
                    for other in [SHA_256, SHA_384, SHA_512].map(SignatureAlgorithm::RsaPss) {
                        assert_eq!(
                            key.verify(other, &message, &signature),
                            Err(BadSignature),
                            "{group}"
                        );
                    }
                }
            }
        }
        *if is_used { &mut used } else { &mut unused } += 1;
    }
    assert_eq!((used, unused), (3, 147));
}
