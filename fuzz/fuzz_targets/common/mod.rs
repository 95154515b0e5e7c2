//! What the targets share: a signer whose key nobody else has, and what must hold of every message.

use std::error::Error;
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair as _;
use data_encoding::BASE64;
use modelfs::trust::PublicKey;
use modelfs::trust::TrustAnchors;
use modelfs::trust::UnixTime;
use serde_json::json;

/// 2026-11-20T12:00:00Z, within the validity of the seeds' certificates.
#[allow(dead_code)]
pub const NOW: UnixTime = UnixTime(1_795_176_000);

/// Longest message that anything may cause: it goes to a terminal and a log.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// A refusal is text that moves no cursor, begins no line of its own and does not flood a log.
#[allow(dead_code)]
pub fn check_message(error: &dyn Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(!text.is_empty() && text.len() <= MAX_MESSAGE_BYTES, "{} bytes", text.len());
}

/// A key made in this process, and trust in it and nobody else.
#[allow(dead_code)]
pub struct Signer {
    key: EcdsaKeyPair,
    pub anchors: TrustAnchors,
}

#[allow(dead_code)]
pub static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    // RFC 5480: the point of a P-256 key behind its fixed header.
    let header = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
        0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let spki = [&header, key.public_key().as_ref()].concat();
    let mut anchors = TrustAnchors::new();
    anchors.add_key(PublicKey::from_spki(&spki).expect("a P-256 key"));
    Signer { key, anchors }
});

impl Signer {
    /// The bundle of a payload that this signer signed.
    #[allow(dead_code)]
    pub fn sign(&self, payload: &[u8]) -> Vec<u8> {
        let kind = "application/vnd.in-toto+json";
        let header = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
        let pae = [header.as_bytes(), payload].concat();
        let signature = self.key.sign(&SystemRandom::new(), &pae).expect("a signature");
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": { "publicKey": {} },
            "dsseEnvelope": {
                "payload": BASE64.encode(payload),
                "payloadType": kind,
                "signatures": [{ "sig": BASE64.encode(signature.as_ref()), "keyid": "" }],
            },
        })
        .to_string()
        .into_bytes()
    }
}
