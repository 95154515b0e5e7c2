//! A Sigstore instance in memory: authority, certificate log and transparency log with keys made here, which sign
//! whatever a test asks them to. Written from the specifications, not with the code under test.

use aws_lc_rs::digest::SHA256;
use aws_lc_rs::digest::digest;
use data_encoding::BASE64;
use data_encoding::HEXLOWER;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CustomExtension;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::PublicKeyData as _;
use rcgen::SanType;
use rcgen::SerialNumber;
use rcgen::SigningKey as _;
use serde_json::Value;
use serde_json::json;

/// 2026-01-01T00:05:00Z, in the middle of the ten minutes of every certificate here.
pub(crate) const SIGNED_AT: i64 = 1_767_225_900;

pub(crate) const IDENTITY: &str = "https://forge.example/acme/train/release.yml@refs/tags/v1";
pub(crate) const ISSUER: &str = "https://token.forge.example";

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Authority and logs.
#[derive(Debug)]
pub(crate) struct Instance {
    ca_params: CertificateParams,
    ca: KeyPair,
    ca_der: Vec<u8>,
    certificate_log: KeyPair,
    log: KeyPair,
}

/// What one signer asks for, and how the instance answers; everything is signed as it is written here.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) names: Vec<SanType>,
    pub(crate) issuer: Option<&'static str>,
    pub(crate) purposes: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) usages: Vec<KeyUsagePurpose>,
    pub(crate) curve: &'static rcgen::SignatureAlgorithm,
    pub(crate) sct: bool,
    pub(crate) integrated_at: i64,
    /// Entries in the log.
    pub(crate) tree_size: u64,
    /// The payload that the log entry records, if another.
    pub(crate) recorded: Option<Vec<u8>>,
    /// The payload that is signed, if another.
    pub(crate) signed: Option<Vec<u8>>,
}

impl Order {
    /// A good one.
    pub(crate) fn good() -> Self {
        Self {
            names: vec![uri(IDENTITY)],
            issuer: Some(ISSUER),
            purposes: vec![ExtendedKeyUsagePurpose::CodeSigning],
            usages: vec![KeyUsagePurpose::DigitalSignature],
            curve: &rcgen::PKCS_ECDSA_P256_SHA256,
            sct: true,
            integrated_at: SIGNED_AT,
            tree_size: 2,
            recorded: None,
            signed: None,
        }
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn email(text: &str) -> SanType {
    SanType::Rfc822Name(text.try_into().unwrap())
}

impl Instance {
    pub(crate) fn new() -> Self {
        let mut ca_params = CertificateParams::new(Vec::new()).unwrap();
        ca_params
            .distinguished_name
            .push(DnType::CommonName, "ring fulcio");
        ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = key();
        let ca_der = ca_params.self_signed(&ca).unwrap().der().to_vec();
        Self {
            ca_params,
            ca,
            ca_der,
            certificate_log: key(),
            log: key(),
        }
    }

    /// The instance's `trusted_root.json`.
    pub(crate) fn trusted_root(&self) -> Value {
        let since = json!({"start": "2025-01-01T00:00:00Z"});
        let log = |name: &str, key: &KeyPair| {
            json!({
                "baseUrl": format!("https://{name}.example"),
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": BASE64.encode(&key.subject_public_key_info()),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": since,
                },
                "logId": {"keyId": BASE64.encode(&log_id(key))},
            })
        };
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log("rekor", &self.log)],
            "certificateAuthorities": [{
                "subject": {"organization": "ring", "commonName": "ring fulcio"},
                "uri": "https://fulcio.example",
                "certChain": {"certificates": [{"rawBytes": BASE64.encode(&self.ca_der)}]},
                "validFor": since,
            }],
            "ctlogs": [log("ctfe", &self.certificate_log)],
            "timestampAuthorities": [],
        })
    }

    /// A bundle over a payload.
    pub(crate) fn sign(&self, order: &Order, payload: &[u8]) -> Value {
        let signer = KeyPair::generate_for(order.curve).unwrap();
        let leaf = self.certify(order, &signer);
        let signature = signer
            .sign(&pae(order.signed.as_deref().unwrap_or(payload)))
            .unwrap();
        let recorded = order.recorded.as_deref().unwrap_or(payload);
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": BASE64.encode(&leaf)},
                "tlogEntries": [self.record(order, &leaf, recorded, &signature)],
            },
            "dsseEnvelope": {
                "payload": BASE64.encode(payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": BASE64.encode(&signature)}],
            },
        })
    }

    /// A certificate with an embedded SCT (RFC 6962, 3.2 and 3.3).
    fn certify(&self, order: &Order, signer: &KeyPair) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "ring keyless");
        params.serial_number = Some(SerialNumber::from(4711_u64));
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = params.not_before + std::time::Duration::from_secs(600);
        params.subject_alt_names = order.names.clone();
        params.key_usages = order.usages.clone();
        params.extended_key_usages = order.purposes.clone();
        params.use_authority_key_identifier_extension = true;
        if let Some(issuer) = order.issuer {
            // Fulcio's extension for the identity provider, a UTF8String.
            let content = der(0x0c, issuer.as_bytes());
            let oid = [1, 3, 6, 1, 4, 1, 57264, 1, 8];
            params
                .custom_extensions
                .push(CustomExtension::from_oid_content(&oid, content));
        }
        let issuer = Issuer::from_params(&self.ca_params, &self.ca);
        let without = params.signed_by(signer, &issuer).unwrap().der().to_vec();
        if !order.sct {
            return without;
        }
        let issued_at: u64 = (order.integrated_at as u64).saturating_mul(1000);
        let issuer_key_hash = digest(&SHA256, &self.ca.subject_public_key_info());
        let tbs = tbs_of(&without);
        let mut signed = vec![0, 0];
        signed.extend(issued_at.to_be_bytes());
        signed.extend([0, 1]);
        signed.extend(issuer_key_hash.as_ref());
        signed.extend(&(tbs.len() as u32).to_be_bytes()[1..]);
        signed.extend(tbs);
        signed.extend([0, 0]);
        let signature = self.certificate_log.sign(&signed).unwrap();
        let mut sct = vec![0];
        sct.extend(log_id(&self.certificate_log));
        sct.extend(issued_at.to_be_bytes());
        sct.extend([0, 0, 4, 3]);
        sct.extend(with_length(&signature));
        let content = der(4, &with_length(&with_length(&sct)));
        let oid = [1, 3, 6, 1, 4, 1, 11129, 2, 4, 2];
        params
            .custom_extensions
            .push(CustomExtension::from_oid_content(&oid, content));
        params.signed_by(signer, &issuer).unwrap().der().to_vec()
    }

    /// An entry of kind `dsse` 0.0.1, first of the log's tree.
    fn record(&self, order: &Order, leaf: &[u8], payload: &[u8], signature: &[u8]) -> Value {
        let hash = |bytes: &[u8]| json!({"algorithm": "sha256", "value": HEXLOWER.encode(&sha256(bytes))});
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": hash(b"of no concern"),
                "payloadHash": hash(payload),
                "signatures": [{
                    "signature": BASE64.encode(signature),
                    "verifier": BASE64.encode(pem(leaf).as_bytes()),
                }],
            },
        })
        .to_string();
        let sibling = sha256(b"another entry");
        let root = sha256(&[&[1][..], &sha256(&[&[0], body.as_bytes()].concat()), &sibling].concat());
        let root = BASE64.encode(&root);
        let note = format!("rekor.example - 1\n{}\n{root}\n", order.tree_size);
        let signed = self.log.sign(note.as_bytes()).unwrap();
        let keyed = [&log_id(&self.log)[..4], &signed].concat();
        let checkpoint = format!("{note}\n\u{2014} rekor.example {}\n", BASE64.encode(&keyed));
        let log_id = log_id(&self.log);
        // In the order of RFC 8785, as the log signs it.
        let promised = format!(
            r#"{{"body":"{}","integratedTime":{},"logID":"{}","logIndex":4711}}"#,
            BASE64.encode(body.as_bytes()),
            order.integrated_at,
            HEXLOWER.encode(&log_id)
        );
        let promise = self.log.sign(promised.as_bytes()).unwrap();
        json!({
            "logIndex": "4711",
            "logId": {"keyId": BASE64.encode(&log_id)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": order.integrated_at.to_string(),
            "inclusionPromise": {"signedEntryTimestamp": BASE64.encode(&promise)},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": root,
                "treeSize": "2",
                "hashes": [BASE64.encode(&sibling)],
                "checkpoint": {"envelope": checkpoint},
            },
            "canonicalizedBody": BASE64.encode(body.as_bytes()),
        })
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

fn log_id(key: &KeyPair) -> Vec<u8> {
    sha256(&key.subject_public_key_info())
}

fn pae(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// With its length in two bytes before it, as TLS writes a list.
fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head, content.to_vec()].concat()
}

/// The signed part of a certificate, which is its first element.
fn tbs_of(certificate: &[u8]) -> &[u8] {
    assert_eq!(
        certificate[..2],
        [0x30, 0x82],
        "a certificate has some hundred bytes"
    );
    let tbs = &certificate[4..];
    assert_eq!(tbs[..2], [0x30, 0x82]);
    &tbs[..4 + usize::from(u16::from_be_bytes([tbs[2], tbs[3]]))]
}
