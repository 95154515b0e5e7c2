//! Models that are signed for real, for the unit tests: there is no other way to a trusted manifest.

use std::path::Path;
use std::path::PathBuf;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair;
use data_encoding::BASE64;
use data_encoding::HEXLOWER;
use tempfile::TempDir;

use crate::digest::Algorithm;
use crate::digest::Digest;
use crate::digest::hash;
use crate::digest::sha256;
use crate::trust::Bundle;
use crate::trust::PublicKey;
use crate::trust::TrustAnchors;
use crate::trust::TrustedManifest;
use crate::trust::UnixTime;

/// A model in a directory of its own, with a bundle that a key made for it.
pub(crate) struct SignedModel {
    dir: TempDir,
    bundle: Vec<u8>,
    anchors: TrustAnchors,
}

/// How to sign.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Method {
    Files,
    Shards(usize),
}

impl SignedModel {
    /// Writes files and signs them.
    pub(crate) fn new(files: &[(&str, Vec<u8>)], algorithm: Algorithm, method: Method) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let mut resources = Vec::new();
        for (name, content) in files {
            let path = dir.path().join("model").join(name);
            std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
            std::fs::write(&path, content).expect("a file");
            match method {
                Method::Files => resources.push(((*name).to_owned(), hash(algorithm, content))),
                Method::Shards(size) => {
                    for (index, shard) in content.chunks(size).enumerate() {
                        let start = index * size;
                        let name = format!("{name}:{start}:{}", start + shard.len());
                        resources.push((name, hash(algorithm, shard)));
                    }
                }
            }
        }
        let (bundle, anchors) = sign(&statement(&resources, algorithm, method));
        Self { dir, bundle, anchors }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(Path::new(name))
    }

    pub(crate) fn trusted(&self) -> TrustedManifest {
        let bundle = Bundle::parse(&self.bundle).expect("a bundle");
        self.anchors
            .verify(&bundle, now())
            .expect("our own key signed it")
    }
}

/// Nothing that a key signs depends on the time.
fn now() -> UnixTime {
    UnixTime(0)
}

fn statement(resources: &[(String, Digest)], algorithm: Algorithm, method: Method) -> String {
    let raw: Vec<u8> = resources
        .iter()
        .flat_map(|(_, digest)| digest.as_bytes().to_vec())
        .collect();
    let resources: Vec<_> = resources
        .iter()
        .map(|(name, digest)| {
            let digest = HEXLOWER.encode(digest.as_bytes());
            serde_json::json!({ "name": name, "algorithm": algorithm.id(), "digest": digest })
        })
        .collect();
    let mut serialization = serde_json::json!({
        "method": "files", "hash_type": algorithm.id(), "allow_symlinks": false, "ignore_paths": [".git"]
    });
    if let Method::Shards(size) = method {
        serialization["method"] = "shards".into();
        serialization["shard_size"] = size.into();
    }
    serde_json::json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": "model", "digest": { "sha256": HEXLOWER.encode(&sha256(&raw)) } }],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": { "serialization": serialization, "resources": resources },
    })
    .to_string()
}

fn sign(payload: &str) -> (Vec<u8>, TrustAnchors) {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let kind = "application/vnd.in-toto+json";
    let pae = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
    let signature = key
        .sign(&SystemRandom::new(), pae.as_bytes())
        .expect("a signature");
    let bundle = serde_json::json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": { "publicKey": {} },
        "dsseEnvelope": {
            "payload": BASE64.encode(payload.as_bytes()),
            "payloadType": kind,
            "signatures": [{ "sig": BASE64.encode(signature.as_ref()), "keyid": "" }],
        },
    });
    // RFC 5480: the point of a P-256 key behind its fixed header.
    let header = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let spki = [&header, key.public_key().as_ref()].concat();
    let mut anchors = TrustAnchors::new();
    anchors.add_key(PublicKey::from_spki(&spki).expect("a P-256 key"));
    (bundle.to_string().into_bytes(), anchors)
}
