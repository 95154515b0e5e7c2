//! Runs [`Manifest::parse`] over the payloads of the vectors in `../shared/vectors`.
//!
//! A vector's verdict is about its whole bundle; this test has the payload alone. So a payload whose bundle
//! is refused for its signature, envelope or certificate must parse here: [`REFUSED_ELSEWHERE`] lists those
//! kinds with what refuses them, and [`WITHOUT_PAYLOAD`] those that have nothing to parse. A kind that
//! behaves otherwise than its list says fails the test, and so does a listed kind that no vector has.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a malformed vector should stop the test"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use data_encoding::BASE64;
use data_encoding::BASE64URL_NOPAD;
use modelfs::digest;
use modelfs::manifest::Format;
use modelfs::manifest::Manifest;
use modelfs::manifest::SignedContent;
use serde_json::Value;

#[test]
fn every_payload_of_the_vectors_gets_its_verdict() {
    let Some(vectors) = vectors() else { return };
    let index: Value = serde_json::from_slice(&fs::read(vectors.join("oms/manifest.json")).unwrap()).unwrap();
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    let (mut parsed, mut for_others, mut compared, mut refused, mut without) = (0, 0, 0, 0, 0);
    for vector in index["vectors"].as_array().unwrap() {
        let kind = vector["kind"].as_str().unwrap();
        let dir = vectors.join("oms").join(vector["dir"].as_str().unwrap());
        let bundle = dir.join(vector["bundle"].as_str().unwrap());
        let legacy = vector["expected"]["legacy"] == true;
        let format = if legacy { Format::LegacyV02 } else { Format::V1 };
        let id = vector["id"].as_str().unwrap();

        let listed_without = lists(WITHOUT_PAYLOAD, kind);
        let Some(payload) = payload(&bundle) else {
            seen.insert(kind);
            without += 1;
            if !listed_without {
                wrong.push(format!("{id}: no payload"));
            }
            continue;
        };
        let elsewhere = lists(REFUSED_ELSEWHERE, kind);
        let accept = vector["expected"]["bundle"] == "accept";
        if listed_without || (accept && elsewhere) {
            wrong.push(format!("{id}: is listed and should not be"));
        }
        seen.insert(kind);
        match Manifest::parse(&payload, format) {
            Ok(manifest) => {
                parsed += 1;
                for_others += usize::from(elsewhere);
                if !accept && !elsewhere {
                    wrong.push(format!("{id}: parsed, and should be refused"));
                }
                if vector["expected"]["strict"] == "accept" && vector["materialize"] == Value::Array(vec![]) {
                    compared += 1;
                    let model = dir.join(vector["model"].as_str().unwrap());
                    wrong.extend(
                        mismatches(&manifest, &model)
                            .into_iter()
                            .map(|m| format!("{id}: {m}")),
                    );
                }
            }
            Err(error) => {
                refused += 1;
                if accept || elsewhere {
                    wrong.push(format!("{id}: {}", chain(&error)));
                }
            }
        }
    }
    for kind in WITHOUT_PAYLOAD
        .iter()
        .chain(REFUSED_ELSEWHERE)
        .flat_map(|(_, kinds)| *kinds)
    {
        if !seen.contains(kind) {
            wrong.push(format!("{kind}: listed here, and no vector has it"));
        }
    }
    println!(
        "{parsed} parsed ({compared} compared with their files, {for_others} for other floors to refuse), \
         {refused} refused, {without} without payload"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 0);
}

#[test]
fn every_historic_payload_parses() {
    let Some(vectors) = vectors() else { return };
    let mut count = 0;
    for entry in fs::read_dir(vectors.join("oms-historic")).unwrap() {
        let dir = entry.unwrap().path();
        let bundle = dir.join("model.sig");
        if !bundle.exists() {
            continue;
        }
        let legacy = dir.ends_with("v0.2.0-certificate");
        let format = if legacy { Format::LegacyV02 } else { Format::V1 };
        let other = if legacy { Format::V1 } else { Format::LegacyV02 };
        let payload = payload(&bundle).unwrap();
        let manifest = Manifest::parse(&payload, format).unwrap();
        assert_eq!(
            mismatches(&manifest, &dir),
            Vec::<String>::new(),
            "{}",
            dir.display()
        );
        assert!(Manifest::parse(&payload, other).is_err(), "{}", dir.display());
        count += 1;
    }
    println!("{count} historic payloads");
    assert!(count > 0);
}

#[test]
fn every_payload_of_the_specification_gets_its_verdict() {
    let Some(vectors) = vectors() else { return };
    let root = vectors.join("oms-spec/test-vectors/v1.0");
    for (name, want) in [
        ("valid/key.bundle.json", true),
        ("valid/certificate.bundle.json", true),
        ("valid/sigstore.bundle.json", true),
        ("invalid-payload/wrong-predicate.bundle.json", false),
    ] {
        let got = Manifest::parse(&payload(&root.join(name)).unwrap(), Format::V1);
        assert_eq!(got.is_ok(), want, "{name}: {got:?}");
    }
}

/// The vectors, which are not part of this project and may not be there.
fn vectors() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    if root.is_dir() {
        return Some(root);
    }
    println!("left out: {} does not exist", root.display());
    None
}

fn lists(list: &[(&str, &[&str])], kind: &str) -> bool {
    list.iter().any(|(_, kinds)| kinds.contains(&kind))
}

/// The payload of a bundle, read leniently: this test is not about the bundle.
fn payload(bundle: &Path) -> Option<Vec<u8>> {
    let bundle: Value = serde_json::from_slice(&fs::read(bundle).ok()?).ok()?;
    let text = bundle["dsseEnvelope"]["payload"].as_str()?;
    let decoded = BASE64.decode(text.as_bytes());
    decoded
        .or_else(|_| BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes()))
        .ok()
}

/// Where the files of a model differ from its manifest.
fn mismatches(manifest: &Manifest, model: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in manifest.files() {
        let path = if model.is_file() {
            model.to_owned()
        } else {
            model.join(file.path().as_str())
        };
        let Ok(bytes) = fs::read(&path) else {
            wrong.push(format!("{} is missing", file.path()));
            continue;
        };
        match file.content() {
            SignedContent::Whole(want) => {
                if digest::hash(manifest.algorithm(), &bytes) != *want {
                    wrong.push(format!("{} has another digest", file.path()));
                }
            }
            SignedContent::Shards(shards) => {
                if shards.size() != u64::try_from(bytes.len()).unwrap() {
                    wrong.push(format!("{} has another size", file.path()));
                    continue;
                }
                for index in 0..shards.count() {
                    let range = shards.range(index).unwrap();
                    let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                    if Some(digest::hash(manifest.algorithm(), &bytes[range])) != shards.digest(index) {
                        wrong.push(format!("shard {index} of {} has another digest", file.path()));
                    }
                }
            }
        }
    }
    wrong
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

/// Kinds whose bundle is refused although its payload is a manifest, by what refuses them.
const REFUSED_ELSEWHERE: &[(&str, &[&str])] = &[
    (
        "the signature or the key",
        &[
            "bad-sig-bitflip",
            "digests-v01-with-normal-pae",
            "hint-der-sha256",
            "hint-mismatch-right-key",
            "legacy-pae-with-v1-predicate",
            "payload-swapped",
            "payload-whitespace-changed",
            "pubkey-ed25519",
            "pubkey-rsa",
            "pubkey-secp256k1",
            "sig-der-trailing-bytes",
            "sig-empty",
            "sig-over-payload-not-pae",
            "sig-p1363-format",
            "sig-wrong-hash-for-curve",
            "sig-zero-r-s",
            "wrong-key",
            "wrong-key-forged-hint",
        ],
    ),
    (
        "the bundle or the envelope",
        &[
            "bundle-duplicate-json-keys",
            "bundle-unknown-top-field",
            "mediatype-garbage",
            "mediatype-missing",
            "mediatype-other-bundle-version",
            "no-verification-material",
            "payloadtype-swapped-after-signing",
            "payloadtype-wrong-signed",
            "two-sigs-first-valid",
            "two-sigs-second-valid",
            "two-verification-materials",
            "zero-signatures",
            "invalid-missing-verification-material.bundle",
            "key-simple-wrong-mediatype_fail",
            "malformed-wrong-payload-type_fail",
        ],
    ),
    (
        "the certificate or its chain",
        &[
            "cert-attacker-root-in-bundle",
            "cert-brainpoolP256r1-leaf",
            "cert-chain-misordered",
            "cert-empty-chain",
            "cert-expired-leaf",
            "cert-garbage-der",
            "cert-intermediate-expired-before-leaf",
            "cert-intermediate-not-ca",
            "cert-key-bundle-as-certificate",
            "cert-ku-keyagreement-only",
            "cert-ku-no-digsig-eku-codesign",
            "cert-legacy-pae-with-v1-predicate",
            "cert-missing-intermediate",
            "cert-no-ku-no-eku",
            "cert-not-yet-valid",
            "cert-root-pathlen0",
            "cert-rsa-leaf",
            "cert-secp256k1-leaf",
            "cert-self-signed-untrusted",
            "cert-sig-by-intermediate-key",
            "cert-trust-intermediate-only",
            "cert-wrong-digest-sha256-on-p384",
            "cert-wrong-eku-no-ku",
            "cert-wrong-eku-with-ku-digsig",
            "cert-wrong-root-same-name",
            "certificate-expired_fail",
            "certificate-simple-wrong-ca_fail",
            "key-verify-as-certificate_fail",
        ],
    ),
    (
        "the keyless verification material",
        &[
            "sigstore-body-from-other-entry",
            "sigstore-certificate-from-other-bundle",
            "sigstore-certificate-garbage",
            "sigstore-certificate-tampered-tbs",
            "sigstore-checkpoint-missing",
            "sigstore-checkpoint-signature-changed",
            "sigstore-envelope-from-other-bundle",
            "sigstore-identity-case",
            "sigstore-identity-prefix",
            "sigstore-inclusion-proof-hash-changed",
            "sigstore-inclusion-proof-missing",
            "sigstore-integrated-time-after-cert-expiry",
            "sigstore-integrated-time-changed",
            "sigstore-issuer-trailing-slash",
            "sigstore-log-id-changed",
            "sigstore-payload-changed",
            "sigstore-set-changed",
            "sigstore-sig-changed",
            "sigstore-staging-trust-root",
            "sigstore-tlog-absent-field",
            "sigstore-tlog-duplicated",
            "sigstore-tlog-entry-from-other-bundle",
            "sigstore-tlog-missing",
            "sigstore-wrong-identity",
            "sigstore-wrong-issuer",
            "sigstore-x509chain-instead-of-certificate",
            "sigstore-bundle-as-certificate",
            "sigstore-bundle-as-key",
            "valid-sigstore.bundle",
        ],
    ),
];

/// Kinds of which no payload can be had, by why.
const WITHOUT_PAYLOAD: &[(&str, &[&str])] = &[
    (
        "the bundle has no envelope",
        &[
            "invalid-empty.bundle",
            "invalid-missing-envelope.bundle",
            "malformed-missing-envelope_fail",
            "message-signature-instead-of-dsse",
        ],
    ),
    (
        "the bundle is not one JSON text",
        &[
            "bundle-empty-file",
            "bundle-jsonl-two-bundles",
            "bundle-not-utf8",
            "bundle-trailing-garbage",
            "bundle-truncated",
            "bundle-utf8-bom",
            "key-simple-truncated-bundle_fail",
        ],
    ),
    (
        "the base64 of the payload is malformed",
        &["payload-base64-garbage", "payload-base64-whitespace"],
    ),
];
