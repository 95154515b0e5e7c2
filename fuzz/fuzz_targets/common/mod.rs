//! What the targets share: signers, what must hold of every message, and the inputs to begin with.

mod seeds;

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair as _;
use data_encoding::BASE64;
use modelfs::trust::Bundle;
use modelfs::trust::CertificateAnchor;
use modelfs::trust::KeylessAnchor;
use modelfs::trust::KeylessIdentity;
use modelfs::trust::PublicKey;
use modelfs::trust::SigstoreRoot;
use modelfs::trust::TrustAnchors;
use modelfs::trust::UnixTime;
use serde_json::json;

#[cfg(fuzzing)]
pub(crate) use seeds::plant_seeds;
#[cfg(not(fuzzing))]
pub(crate) use seeds::seeds;

/// 2026-11-20T12:00:00Z, within the validity of the seeds' certificates.
pub(crate) const NOW: UnixTime = UnixTime(1_795_176_000);

/// Longest message that anything may cause: it goes to a terminal and a log.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// A refusal is text that moves no cursor, begins no line of its own and does not flood a log.
pub(crate) fn check_message(error: &dyn Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(
        !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES,
        "{} bytes",
        text.len()
    );
}

/// A key made in this process, and trust in it and nobody else.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    pub(crate) anchors: TrustAnchors,
}

pub(crate) static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let mut signer = Signer {
        key,
        anchors: TrustAnchors::new(),
    };
    let public = PublicKey::from_spki(&signer.spki()).expect("a P-256 key");
    signer.anchors.add_key(public);
    signer
});

impl Signer {
    /// DER SubjectPublicKeyInfo.
    pub(crate) fn spki(&self) -> Vec<u8> {
        // RFC 5480: the point of a P-256 key behind its fixed header.
        let header = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        [&header, self.key.public_key().as_ref()].concat()
    }

    pub(crate) fn sign_bytes(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.key.sign(&SystemRandom::new(), message).expect("a signature");
        signature.as_ref().to_vec()
    }

    /// The bundle of a payload that this signer signed.
    pub(crate) fn sign(&self, payload: &[u8]) -> Vec<u8> {
        let kind = "application/vnd.in-toto+json";
        let header = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
        let signature = self.sign_bytes(&[header.as_bytes(), payload].concat());
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": { "publicKey": {} },
            "dsseEnvelope": {
                "payload": BASE64.encode(payload),
                "payloadType": kind,
                "signatures": [{ "sig": BASE64.encode(&signature), "keyid": "" }],
            },
        })
        .to_string()
        .into_bytes()
    }
}

/// Who signed the seeds, and all that they signed.
pub(crate) struct Known {
    pub(crate) anchors: TrustAnchors,
    /// The payload's SHA-256 and the signer.
    pub(crate) statements: HashSet<([u8; 32], String)>,
}

pub(crate) static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let mut anchors = TrustAnchors::new();
    anchors.allow_legacy();
    let tests = root().join("tests");
    let mut keys = vec![tests.join("sample/model.pub")];
    keys.extend(files(&tests.join("vectors-own/positive"), "public_key.pem"));
    let mut chains = vec![tests.join("vectors-own/certificate/cert-good-cli-leaf-int-1/trust/ca0.pem")];
    let historic = root().join("../shared/vectors/oms-historic");
    if historic.is_dir() {
        keys.push(historic.join("keys/certificate/signing-key-pub.pem"));
        chains.push(historic.join("keys/certificate/ca-cert.pem"));
        let production = Arc::new(SigstoreRoot::production().expect("the root inside"));
        let identity = KeylessIdentity::parse("email:stefanb@us.ibm.com").expect("an address");
        let issuer = "https://sigstore.verify.ibm.com/oauth2";
        anchors.add_keyless(KeylessAnchor::new(production, identity, issuer));
    }
    for key in keys {
        anchors.add_key(PublicKey::from_pem(&fs::read(&key).expect("a key")).expect("a key"));
    }
    for chain in chains {
        let chain = fs::read(chain).expect("a chain");
        anchors.add_certificates(CertificateAnchor::from_pem(&[&chain]).expect("a chain"));
    }
    let mut statements = HashSet::new();
    // Whether these are judged rightly, the tests of the vectors say.
    for bundle in seeds::bundles() {
        let Ok(bundle) = Bundle::parse(&bundle) else {
            continue;
        };
        if let Ok(trusted) = anchors.verify(&bundle, NOW) {
            statements.insert((*trusted.manifest().identity(), trusted.signer().to_string()));
        }
    }
    // More would mean that somebody is trusted for what they never signed, fewer that nothing is proved.
    assert_eq!(
        statements.len(),
        if historic.is_dir() { 42 } else { 19 },
        "trusted seeds"
    );
    Known { anchors, statements }
});

/// The repository's folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    match here.ends_with("fuzz") {
        true => here.join(".."),
        false => here.to_owned(),
    }
}

/// The files beneath a folder whose names end so, in an order that does not change; none where it does not exist.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            found.append(&mut files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}
