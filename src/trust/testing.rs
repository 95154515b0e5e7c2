//! For tests: signers with keys and certificates made on the spot, and what they sign.

use aws_lc_rs::digest::SHA256;
use aws_lc_rs::digest::digest;
use data_encoding::BASE64;
use data_encoding::HEXLOWER;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::PublicKeyData as _;
use rcgen::SignatureAlgorithm;
use rcgen::SigningKey as _;
use serde_json::Value;
use serde_json::json;

use crate::trust::Bundle;
use crate::trust::CertificateAnchor;
use crate::trust::PAYLOAD_TYPE;
use crate::trust::PublicKey;
use crate::trust::UnixTime;
use crate::trust::pem;

/// 2026-11-20T12:00:00Z.
pub(super) const NOW: UnixTime = UnixTime(1_795_176_000);

/// Somebody with a key and, usually, a certificate for it.
pub(super) struct Holder {
    pub(super) params: CertificateParams,
    pub(super) key: KeyPair,
    pub(super) der: Vec<u8>,
}

impl Holder {
    /// A self-signed certificate.
    pub(super) fn self_signed(params: CertificateParams, algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { params, key, der }
    }

    /// An authority that signed itself, with a P-256 key.
    pub(super) fn root(name: &str) -> Self {
        Self::self_signed(authority(name), &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// Issues a certificate for a new P-256 key.
    pub(super) fn issue(&self, params: CertificateParams) -> Self {
        self.issue_for(params, KeyPair::generate().unwrap())
    }

    /// Issues a certificate for a key.
    pub(super) fn issue_for(&self, params: CertificateParams, key: KeyPair) -> Self {
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        Self { params, key, der }
    }

    pub(super) fn pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.der)
    }

    /// Trust in this certificate and nothing else.
    pub(super) fn anchor(&self) -> CertificateAnchor {
        CertificateAnchor::from_pem(&[self.pem().as_bytes()]).unwrap()
    }

    pub(super) fn public_key(&self) -> PublicKey {
        PublicKey::from_spki(&self.key.subject_public_key_info()).unwrap()
    }

    /// The text of a bundle with this payload and a signature over these bytes.
    fn bundle(&self, material: &Value, payload: &str, signed: &[u8]) -> Value {
        json!({
            "mediaType": crate::trust::bundle::MEDIA_TYPE,
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": BASE64.encode(payload.as_bytes()),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": BASE64.encode(&self.key.sign(signed).unwrap())}],
            },
        })
    }

    /// Signs with the bare key.
    pub(super) fn sign(&self, payload: &str, signed: &[u8]) -> Value {
        let hint = self.public_key().fingerprint().to_owned();
        self.bundle(&json!({"publicKey": {"hint": hint}}), payload, signed)
    }

    /// Signs with the certificate; the others go with it.
    pub(super) fn sign_certified(&self, others: &[&Self], payload: &str, signed: &[u8]) -> Value {
        let chain: Vec<_> = [self]
            .iter()
            .chain(others)
            .map(|holder| json!({"rawBytes": BASE64.encode(&holder.der)}))
            .collect();
        self.bundle(
            &json!({"x509CertificateChain": {"certificates": chain}}),
            payload,
            signed,
        )
    }
}

/// Parses what a holder signed.
pub(super) fn parse(bundle: &Value) -> Bundle {
    Bundle::parse(bundle.to_string().as_bytes()).unwrap()
}

/// What an authority asks for.
pub(super) fn authority(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// What an authority beneath another one asks for.
pub(super) fn intermediate(name: &str) -> CertificateParams {
    let mut params = authority(name);
    params.use_authority_key_identifier_extension = true;
    params
}

/// What a signer of models asks for.
pub(super) fn signer(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    params.use_authority_key_identifier_extension = true;
    params
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2035, 1, 1);
    params
}

/// A manifest of one file in the current format.
pub(super) fn statement() -> String {
    let file = digest(&SHA256, b"content");
    let root = digest(&SHA256, file.as_ref());
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": HEXLOWER.encode(root.as_ref())}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": false},
            "resources": [
                {"name": "weights", "algorithm": "sha256", "digest": HEXLOWER.encode(file.as_ref())},
            ],
        },
    })
    .to_string()
}

/// A manifest of one file in the format of v0.2.
pub(super) fn legacy_statement() -> String {
    let file = digest(&SHA256, b"content");
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{
            "name": "weights",
            "digest": {"sha256": HEXLOWER.encode(file.as_ref())},
            "annotations": {"actual_hash_algorithm": "file-sha256"},
        }],
        "predicateType": "https://model_signing/Digests/v0.1",
        "predicate": {"unused": "Unused"},
    })
    .to_string()
}

/// What DSSE v1 signs.
pub(super) fn pae(payload: &str) -> Vec<u8> {
    pae_of_type(PAYLOAD_TYPE, payload)
}

pub(super) fn pae_of_type(payload_type: &str, payload: &str) -> Vec<u8> {
    let (type_bytes, bytes) = (payload_type.len(), payload.len());
    format!("DSSEv1 {type_bytes} {payload_type} {bytes} {payload}").into_bytes()
}

/// What v0.2 signed, for a payload that Python prints as it is.
pub(super) fn legacy_pae(payload: &str) -> Vec<u8> {
    assert!(
        payload
            .bytes()
            .all(|b| (b' '..=b'~').contains(&b) && !b"'\\".contains(&b))
    );
    let (type_bytes, bytes) = (PAYLOAD_TYPE.len(), payload.len());
    format!("DSSEV1 {type_bytes} {PAYLOAD_TYPE} {bytes} b'{payload}'").into_bytes()
}

/// A line that the end of a test run shows; written past the harness, which would swallow it.
pub(super) fn notice(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "NOTICE: {text}");
}
