//! The public conformance suite, through the verifier and the evidence that we demand of it, and our reading of the
//! evidence beside the crate's. Signers and bundles with one thing wrong are in `tests/keyless.rs`.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use sigstore_verify::IdentityMatcher;
use sigstore_verify::PublicKeyVerificationPolicy;
use sigstore_verify::types::DerPublicKey;
use sigstore_verify::types::SignatureContent;

use super::*;
use crate::json;
use crate::json::Ignored;
use crate::trust::evidence;

/// The suite's own defaults.
const IDENTITY: &str = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main";
const ISSUER: &str = "https://token.actions.githubusercontent.com";

/// Where the public vectors lie; a notice where they do not.
fn suite() -> Option<PathBuf> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/sigstore-conformance/bundle-verify");
    if folder.is_dir() {
        return Some(folder);
    }
    crate::trust::testing::notice("sigstore-conformance was left out: ../shared/vectors is not there");
    None
}

fn cases(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut cases: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path))
        .collect();
    cases.sort();
    assert_eq!(cases.len(), 70, "the suite is complete");
    cases
}

/// How a case brings its artifact.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Path,
    Digest,
}

fn verdict(folder: &Path, case: &Path, mode: Mode) -> Result<(), String> {
    let text = |name: &str, default: &str| {
        fs::read_to_string(case.join(name)).map_or_else(|_| default.to_owned(), |text| text.trim().to_owned())
    };
    let root = match fs::read(case.join("trusted_root.json")) {
        Ok(bytes) => SigstoreRoot::parse(&bytes, "the case's"),
        Err(_) => SigstoreRoot::production(),
    };
    let root = root.map_err(|e| e.to_string())?;
    let bytes = fs::read(case.join("bundle.sigstore.json")).unwrap();
    json::parse::<Ignored>(&bytes).map_err(|e| e.to_string())?;
    let bundle = std::str::from_utf8(&bytes).unwrap();
    let bundle = Bundle::from_json(bundle).map_err(|e| e.to_string())?;
    let artifact = fs::read(case.join("artifact")).or_else(|_| fs::read(folder.join("a.txt")));
    let artifact = artifact.unwrap();
    let digest = types::Sha256Hash::from(crate::digest::sha256(&artifact));
    let artifact = match mode {
        Mode::Path => types::Artifact::from(artifact.as_slice()),
        Mode::Digest => types::Artifact::from(digest),
    };
    if let Ok(pem) = fs::read_to_string(case.join("key.pub")) {
        let key = DerPublicKey::from_pem(&pem).map_err(|e| e.to_string())?;
        let verified = root
            .verifier()
            .verify(artifact, &bundle, &PublicKeyVerificationPolicy::new(key));
        return verified.map(|_| ()).map_err(|e| e.to_string());
    }
    let identity = IdentityMatcher::Uri(text("identity", IDENTITY));
    let policy = VerificationPolicy::any_identity()
        .require_identity(identity)
        .require_issuer(text("issuer", ISSUER));
    let result = root.verifier().verify(artifact, &bundle, &policy);
    let result = result.map_err(|e| e.to_string())?;
    proven(&result).map_err(|e| e.to_string())
}

#[test]
fn the_public_conformance_suite_gets_its_verdicts() {
    let Some(folder) = suite() else { return };
    let (mut right, mut wrong) = (0, Vec::new());
    for (name, case) in cases(&folder) {
        for mode in [Mode::Path, Mode::Digest] {
            let got = verdict(&folder, &case, mode);
            match got.is_err() == name.ends_with("_fail") {
                true => right += 1,
                false => wrong.push(format!("{name} {mode:?}: {got:?}")),
            }
        }
    }
    crate::trust::testing::notice(&format!("sigstore-conformance: {right} of 140"));
    assert_eq!((right, wrong), (140, vec![]));
}

/// Should the policy ever leave something out, what comes back must not pass for proof.
#[test]
fn a_result_without_one_of_the_proofs_proves_nothing() {
    let Some(folder) = suite() else { return };
    let bytes = fs::read(folder.join("happy-path-v0.3/bundle.sigstore.json")).unwrap();
    let bundle = Bundle::from_json(std::str::from_utf8(&bytes).unwrap()).unwrap();
    let artifact = fs::read(folder.join("a.txt")).unwrap();
    let root = SigstoreRoot::production().unwrap();
    let whole = VerificationPolicy::any_identity;
    for (policy, want) in [
        (whole(), None),
        (whole().skip_sct(), Some("the certificate's SCT is not proven")),
        (
            whole().skip_certificate_chain(),
            Some("the certificate is not proven"),
        ),
        (whole().skip_tlog_unsafe(), Some("the log entry is not proven")),
    ] {
        let result = root
            .verifier()
            .verify(artifact.as_slice(), &bundle, &policy)
            .unwrap();
        let got = proven(&result).err().map(|e| e.to_string());
        assert_eq!(got.as_deref(), want);
    }
}

/// The crate reads bundles in its own way, which we do not use: where both accept an entry, they read the same.
#[test]
fn an_entry_means_to_us_what_it_means_to_the_crate() {
    let Some(folder) = suite() else { return };
    let mut compared = 0;
    for (name, case) in cases(&folder) {
        let bytes = fs::read(case.join("bundle.sigstore.json")).unwrap();
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
            continue;
        };
        let material = &value["verificationMaterial"];
        let ours = LogEntry::parse(&material["tlogEntries"].to_string());
        let timestamps = match &material["timestampVerificationData"] {
            serde_json::Value::Null => Ok(vec![]),
            data => evidence::parse_timestamps(&data.to_string()),
        };
        let theirs = std::str::from_utf8(&bytes).ok().map(Bundle::from_json);
        let (Ok(ours), Ok(timestamps), Some(Ok(theirs))) = (ours, timestamps, theirs) else {
            assert!(
                // Old bundles without inclusion proof: v0.1 needs only a promise.
                name.ends_with("_fail") || name == "happy-path-v0.1",
                "{name} is good, and its evidence is refused"
            );
            continue;
        };
        let theirs = theirs.verification_material;
        match entry(&ours) {
            Ok(ours) => assert_eq!(vec![ours], theirs.tlog_entries, "{name}"),
            Err(e) => assert!(name.ends_with("_fail"), "{name}: {e}"),
        }
        let stamps = theirs.timestamp_verification_data.rfc3161_timestamps;
        let stamps: Vec<&[u8]> = stamps
            .iter()
            .map(|stamp| stamp.signed_timestamp.as_bytes())
            .collect();
        assert_eq!(timestamps, stamps, "{name}");
        compared += 1;
    }
    assert!(compared > 50, "only {compared} compared");
}

/// No bundle of the suite is a model's, so each is refused by the whole path, whoever signed it.
#[test]
fn no_bundle_of_the_suite_is_taken_for_a_model() {
    let Some(folder) = suite() else { return };
    let mut anchors = crate::trust::TrustAnchors::new();
    let root = Arc::new(SigstoreRoot::production().unwrap());
    let identity = KeylessIdentity::parse(IDENTITY).unwrap();
    anchors.add_keyless(KeylessAnchor::new(root, identity, ISSUER));
    for (name, case) in cases(&folder) {
        let bytes = fs::read(case.join("bundle.sigstore.json")).unwrap();
        let Ok(bundle) = crate::trust::Bundle::parse(&bytes) else {
            continue;
        };
        let verdict = anchors.verify(&bundle, crate::trust::testing::NOW);
        assert!(verdict.is_err(), "{name}");
        // It is a statement, signed, and about something else.
        if name == "happy-path-intoto-in-dsse-v3" {
            let kind = verdict.unwrap_err().kind();
            assert_eq!(kind, TrustErrorKind::Manifest);
            assert!(matches!(
                Bundle::from_json(std::str::from_utf8(&bytes).unwrap())
                    .unwrap()
                    .content,
                SignatureContent::DsseEnvelope(_)
            ));
        }
    }
}
