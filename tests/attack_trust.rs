//! Attempts to be trusted without a trusted signature, and to cost or say more than a refusal should.
//!
//! Certificates are put together byte by byte here, so that they can be wrong in ways no tool would write, and
//! are then signed for real by the authority that the operator trusts: what refuses them is the validator and
//! not a broken signature.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise, and its numbers are its own"
)]

mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::time::Duration;
use std::time::Instant;

use data_encoding::BASE64;
use data_encoding::HEXLOWER;
use modelfs::digest;
use modelfs::manifest::Format;
use modelfs::manifest::Manifest;
use modelfs::manifest::SignedContent;
use modelfs::trust::Bundle;
use modelfs::trust::CertificateAnchor;
use modelfs::trust::CertificateIdentity;
use modelfs::trust::CertificateTime;
use modelfs::trust::PublicKey;
use modelfs::trust::TrustAnchors;
use modelfs::trust::TrustError;
use modelfs::trust::TrustedManifest;
use modelfs::trust::UnixTime;
use rcgen::KeyPair;
use rcgen::PublicKeyData as _;
use rcgen::SigningKey as _;
use serde_json::Value;
use serde_json::json;
use support::modelfs;
use support::random::Random;

/// 2026-11-20T12:00:00Z.
const NOW: UnixTime = UnixTime(1_795_176_000);

/// What a person can be asked to read: every message below is about one bundle.
const SCREEN: usize = 16 << 10;

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// One element of DER, its length in the shortest form.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=127 => out.push(short as u8),
        long => {
            let bytes: Vec<u8> = long.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
            out.push(0x80 | bytes.len() as u8);
            out.extend(bytes);
        }
    }
    out.extend(content);
    out
}

fn seq(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, parts)
}

/// An extension; the identifier as its content bytes.
fn ext(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { b"\x01\x01\xff" } else { b"" };
    seq(&[&tlv(6, &[oid]), critical, &tlv(4, &[value])])
}

const SKI: &[u8] = b"\x55\x1d\x0e";
const KU: &[u8] = b"\x55\x1d\x0f";
const SAN: &[u8] = b"\x55\x1d\x11";
const BASIC: &[u8] = b"\x55\x1d\x13";
const NAME_CONSTRAINTS: &[u8] = b"\x55\x1d\x1e";
const AKI: &[u8] = b"\x55\x1d\x23";
const EKU: &[u8] = b"\x55\x1d\x25";
const CODE_SIGNING: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x03";
const ANY_PURPOSE: &[u8] = b"\x55\x1d\x25\x00";
const SERVER_AUTH: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x01";
const ECDSA_SHA256: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";

fn rdn(oid: &[u8], tag: u8, text: &[u8]) -> Vec<u8> {
    tlv(0x31, &[&seq(&[&tlv(6, &[oid]), &tlv(tag, &[text])])])
}

/// A distinguished name of one common name.
fn cn(text: &str) -> Vec<u8> {
    seq(&[&rdn(b"\x55\x04\x03", 12, text.as_bytes())])
}

/// A certificate in parts, each ready to be replaced by something worse.
#[derive(Clone)]
struct Parts {
    version: Vec<u8>,
    serial: Vec<u8>,
    inner_algorithm: Vec<u8>,
    outer_algorithm: Vec<u8>,
    issuer: Vec<u8>,
    validity: Vec<u8>,
    subject: Vec<u8>,
    spki: Vec<u8>,
    unique_ids: Vec<u8>,
    extensions: Vec<Vec<u8>>,
    unused_bits: u8,
}

impl Parts {
    fn new(subject: Vec<u8>, key: &KeyPair, issuer: Vec<u8>, extensions: Vec<Vec<u8>>) -> Self {
        Self {
            version: tlv(0xa0, &[b"\x02\x01\x02"]),
            serial: b"\x02\x01\x07".to_vec(),
            inner_algorithm: ECDSA_SHA256.to_vec(),
            outer_algorithm: ECDSA_SHA256.to_vec(),
            issuer,
            validity: seq(&[&tlv(0x17, &[b"250101000000Z"]), &tlv(0x17, &[b"350101000000Z"])]),
            subject,
            spki: key.subject_public_key_info(),
            unique_ids: Vec::new(),
            extensions,
            unused_bits: 0,
        }
    }

    fn sign(&self, issuer: &KeyPair) -> Vec<u8> {
        let extensions: Vec<&[u8]> = self.extensions.iter().map(Vec::as_slice).collect();
        let tbs = seq(&[
            &self.version,
            &self.serial,
            &self.inner_algorithm,
            &self.issuer,
            &self.validity,
            &self.subject,
            &self.spki,
            &self.unique_ids,
            &tlv(0xa3, &[&seq(&extensions)]),
        ]);
        let signature = issuer.sign(&tbs).unwrap();
        seq(&[
            &tbs,
            &self.outer_algorithm,
            &tlv(3, &[&[self.unused_bits], &signature]),
        ])
    }
}

/// An authority: its name, its key and the identifier it gives to the key.
struct Authority {
    name: Vec<u8>,
    key: KeyPair,
    id: Vec<u8>,
}

impl Authority {
    fn new(name: &str) -> Self {
        Self {
            name: cn(name),
            key: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
            id: name.as_bytes().to_vec(),
        }
    }

    fn ski(&self) -> Vec<u8> {
        ext(SKI, false, &tlv(4, &[&self.id]))
    }

    /// What points to this authority as the issuer.
    fn aki(&self) -> Vec<u8> {
        ext(AKI, false, &seq(&[&tlv(0x80, &[&self.id])]))
    }

    /// Its certificate by another authority, or by itself, with a limit to the path's length.
    fn certificate(&self, by: &Authority, limit: &[u8]) -> Parts {
        let extensions = vec![
            ext(BASIC, true, &seq(&[b"\x01\x01\xff", limit])),
            ext(KU, true, b"\x03\x02\x01\x06"),
            self.ski(),
            by.aki(),
        ];
        Parts::new(self.name.clone(), &self.key, by.name.clone(), extensions)
    }

    fn root(&self) -> Vec<u8> {
        self.certificate(self, b"").sign(&self.key)
    }

    /// A leaf that may sign models, with these extensions besides.
    fn leaf(&self, key: &KeyPair, subject: Vec<u8>, more: Vec<Vec<u8>>) -> Parts {
        let mut extensions = vec![
            ext(KU, true, b"\x03\x02\x07\x80"),
            ext(EKU, false, &seq(&[&tlv(6, &[CODE_SIGNING])])),
            self.aki(),
        ];
        extensions.extend(more);
        Parts::new(subject, key, self.name.clone(), extensions)
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = BASE64.encode(der);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .map(|l| std::str::from_utf8(l).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

fn anchor(roots: &[Vec<u8>]) -> CertificateAnchor {
    let text: String = roots.iter().map(|der| pem("CERTIFICATE", der)).collect();
    CertificateAnchor::from_pem(&[text.as_bytes()]).unwrap()
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn public(key: &KeyPair) -> PublicKey {
    PublicKey::from_spki(&key.subject_public_key_info()).unwrap()
}

const TYPE: &str = "application/vnd.in-toto+json";

fn pae(payload: &[u8]) -> Vec<u8> {
    [
        format!("DSSEv1 {} {TYPE} {} ", TYPE.len(), payload.len()).as_bytes(),
        payload,
    ]
    .concat()
}

/// What v0.2 signed, for payloads without backslashes, quotes or line ends that Python would escape.
fn legacy_pae(payload: &[u8]) -> Vec<u8> {
    let header = format!("DSSEV1 {} {TYPE} {} b'", TYPE.len(), payload.len());
    [header.as_bytes(), payload, b"'"].concat()
}

fn bundle(material: &Value, payload: &[u8], signature: &[u8]) -> Vec<u8> {
    serde_json::to_vec(&json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": material,
        "dsseEnvelope": {
            "payload": BASE64.encode(payload),
            "payloadType": TYPE,
            "signatures": [{"sig": BASE64.encode(signature), "keyid": ""}],
        },
    }))
    .unwrap()
}

fn chain(certificates: &[&[u8]]) -> Value {
    let raw: Vec<Value> = certificates
        .iter()
        .map(|der| json!({"rawBytes": BASE64.encode(der)}))
        .collect();
    json!({"x509CertificateChain": {"certificates": raw}})
}

/// A payload of the current format over these files.
fn payload(files: &[(&str, &[u8])]) -> Vec<u8> {
    let resources = files
        .iter()
        .map(|(name, content)| {
            json!({"name": name, "algorithm": "sha256", "digest": HEXLOWER.encode(&digest::sha256(content))})
        })
        .collect();
    statement(
        json!({"method": "files", "hash_type": "sha256", "allow_symlinks": false}),
        resources,
    )
}

fn statement(serialization: Value, resources: Vec<Value>) -> Vec<u8> {
    let mut all = Vec::new();
    for resource in &resources {
        let hex = resource["digest"].as_str().unwrap_or_default();
        all.extend(HEXLOWER.decode(hex.as_bytes()).unwrap_or_default());
    }
    serde_json::to_vec(&json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": HEXLOWER.encode(&digest::sha256(&all))}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": serialization, "resources": resources},
    }))
    .unwrap()
}

fn verify(anchors: &TrustAnchors, bundle: &[u8]) -> Result<TrustedManifest, TrustError> {
    anchors.verify(&Bundle::parse(bundle)?, NOW)
}

// ---- certificates ---------------------------------------------------------------------------------

#[test]
fn certificates_that_an_authority_signed_wrongly_are_refused() {
    let root = Authority::new("root");
    let key = p256();
    let good = root.leaf(&key, cn("signer"), vec![]);
    type Change = fn(&mut Parts);
    let cases: &[(&str, bool, Change)] = &[
        ("good", true, |_| {}),
        ("version absent", false, |p| p.version.clear()),
        ("version 1 stated", false, |p| {
            p.version = tlv(0xa0, &[b"\x02\x01\x00"])
        }),
        ("version 2", false, |p| p.version = tlv(0xa0, &[b"\x02\x01\x01"])),
        ("version 4", false, |p| p.version = tlv(0xa0, &[b"\x02\x01\x03"])),
        ("serial zero", false, |p| p.serial = b"\x02\x01\x00".to_vec()),
        ("serial negative", false, |p| p.serial = b"\x02\x01\x80".to_vec()),
        ("serial of 21 bytes", false, |p| p.serial = tlv(2, &[&[1; 21]])),
        ("serial empty", false, |p| p.serial = b"\x02\x00".to_vec()),
        ("inner SHA-1", false, |p| {
            p.inner_algorithm = b"\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01".to_vec()
        }),
        ("SHA-1 in both", false, |p| {
            p.inner_algorithm = b"\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01".to_vec();
            p.outer_algorithm = p.inner_algorithm.clone();
        }),
        ("outer SHA-384", false, |p| {
            p.outer_algorithm = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03".to_vec()
        }),
        ("ECDSA with NULL parameters", false, |p| {
            p.inner_algorithm = b"\x30\x0c\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02\x05\x00".to_vec();
            p.outer_algorithm = p.inner_algorithm.clone();
        }),
        ("outer algorithm with NULL only", false, |p| {
            p.outer_algorithm = b"\x30\x0c\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02\x05\x00".to_vec();
        }),
        ("signature with unused bits", false, |p| p.unused_bits = 1),
        ("not yet valid", false, |p| {
            p.validity = seq(&[&tlv(0x17, &[b"261120120001Z"]), &tlv(0x17, &[b"350101000000Z"])])
        }),
        ("expired by a second", false, |p| {
            p.validity = seq(&[&tlv(0x17, &[b"250101000000Z"]), &tlv(0x17, &[b"261120115959Z"])])
        }),
        ("valid to this second", true, |p| {
            p.validity = seq(&[&tlv(0x17, &[b"250101000000Z"]), &tlv(0x17, &[b"261120120000Z"])])
        }),
        ("UTCTime of 1950", false, |p| {
            p.validity = seq(&[&tlv(0x17, &[b"250101000000Z"]), &tlv(0x17, &[b"500101000000Z"])])
        }),
        ("validity reversed", false, |p| {
            p.validity = seq(&[&tlv(0x17, &[b"350101000000Z"]), &tlv(0x17, &[b"250101000000Z"])])
        }),
        ("key usage without digitalSignature", false, |p| {
            p.extensions[0] = ext(KU, true, b"\x03\x02\x06\x40")
        }),
        ("key usage empty", false, |p| {
            p.extensions[0] = ext(KU, true, b"\x03\x01\x00")
        }),
        ("key usage twice", false, |p| {
            p.extensions.push(ext(KU, true, b"\x03\x02\x07\x80"))
        }),
        ("key usage keyCertSign, no authority", false, |p| {
            p.extensions[0] = ext(KU, true, b"\x03\x02\x02\x84")
        }),
        ("key usage with bytes behind it", false, |p| {
            p.extensions[0] = ext(KU, true, b"\x03\x02\x07\x80\x00")
        }),
        ("purpose serverAuth", false, |p| {
            p.extensions[1] = ext(EKU, false, &seq(&[&tlv(6, &[SERVER_AUTH])]))
        }),
        ("purpose any", false, |p| {
            p.extensions[1] = ext(EKU, false, &seq(&[&tlv(6, &[ANY_PURPOSE])]))
        }),
        ("purpose codeSigning and any", false, |p| {
            p.extensions[1] = ext(
                EKU,
                false,
                &seq(&[&tlv(6, &[CODE_SIGNING]), &tlv(6, &[ANY_PURPOSE])]),
            )
        }),
        ("no purpose in the list", false, |p| {
            p.extensions[1] = ext(EKU, false, &seq(&[]))
        }),
        ("purposes twice, in two extensions", false, |p| {
            p.extensions
                .push(ext(EKU, true, &seq(&[&tlv(6, &[SERVER_AUTH])])))
        }),
        ("neither usage nor purpose", false, |p| {
            p.extensions.drain(..2);
        }),
        ("no key identifier of the issuer", false, |p| {
            p.extensions.remove(2);
        }),
        ("another issuer key identifier", false, |p| {
            p.extensions[2] = ext(AKI, false, &seq(&[&tlv(0x80, &[b"other"])]))
        }),
        ("an unknown critical extension", false, |p| {
            p.extensions.push(ext(b"\x2a\x03\x04", true, b"\x05\x00"))
        }),
        ("an unknown extension", true, |p| {
            p.extensions.push(ext(b"\x2a\x03\x04", false, b"\x05\x00"))
        }),
        ("an unknown extension twice", false, |p| {
            p.extensions.push(ext(b"\x2a\x03\x04", false, b"\x05\x00"));
            p.extensions.push(ext(b"\x2a\x03\x04", false, b"\x05\x00"));
        }),
        // The key usage again, its identifier padded: another one to a table, the same to a lenient reader.
        ("a critical key usage in disguise", false, |p| {
            p.extensions
                .push(ext(b"\x55\x1d\x80\x0f", true, b"\x03\x02\x06\x40"))
        }),
        ("critical name constraints", false, |p| {
            p.extensions.push(ext(NAME_CONSTRAINTS, true, &seq(&[])))
        }),
        ("name constraints", false, |p| {
            p.extensions.push(ext(
                NAME_CONSTRAINTS,
                false,
                &seq(&[&tlv(0xa0, &[&seq(&[&tlv(0x82, &[b"x"])])])]),
            ))
        }),
        ("name constraints that cannot be read", false, |p| {
            p.extensions.push(ext(NAME_CONSTRAINTS, false, b"\x04\x00"))
        }),
        ("alternative names empty", false, |p| {
            p.extensions.push(ext(SAN, false, &seq(&[])))
        }),
        ("an alternative name with a NUL", false, |p| {
            p.extensions
                .push(ext(SAN, false, &seq(&[&tlv(0x81, &[b"a@b\0.evil"])])))
        }),
        ("an alternative name that moves the cursor", false, |p| {
            p.extensions
                .push(ext(SAN, false, &seq(&[&tlv(0x86, &[b"x\x1b[2J"])])))
        }),
        ("an alternative name beyond ASCII", false, |p| {
            p.extensions.push(ext(
                SAN,
                false,
                &seq(&[&tlv(0x82, &["\u{430}.example".as_bytes()])]),
            ))
        }),
        ("an alternative name of no kind", false, |p| {
            p.extensions.push(ext(SAN, false, &seq(&[&tlv(0x89, &[b"x"])])))
        }),
        ("an alternative name of class universal", false, |p| {
            p.extensions.push(ext(SAN, false, &seq(&[&tlv(0x02, &[b"x"])])))
        }),
        ("no subject", false, |p| p.subject = seq(&[])),
        ("no subject, names not critical", false, |p| {
            p.subject = seq(&[]);
            p.extensions.push(ext(SAN, false, &seq(&[&tlv(0x81, &[b"a@b"])])));
        }),
        ("no subject, names critical", true, |p| {
            p.subject = seq(&[]);
            p.extensions.push(ext(SAN, true, &seq(&[&tlv(0x81, &[b"a@b"])])));
        }),
        ("a subject of an empty part", false, |p| {
            p.subject = seq(&[&tlv(0x31, &[])])
        }),
        ("an authority without key usage", false, |p| {
            p.extensions.remove(0);
            p.extensions.push(ext(BASIC, true, &seq(&[b"\x01\x01\xff"])));
        }),
        ("a key on secp256k1", false, |p| {
            p.spki = seq(&[
                &seq(&[
                    b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01",
                    b"\x06\x05\x2b\x81\x04\x00\x0a",
                ]),
                &tlv(3, &[b"\x00\x04", &[1; 64]]),
            ])
        }),
        ("a key off the curve", false, |p| {
            let end = p.spki.len() - 1;
            p.spki[end] ^= 1;
        }),
        ("the issuer's name in another case", false, |p| {
            p.issuer = cn("Root")
        }),
        ("the issuer's name as another string type", false, |p| {
            p.issuer = seq(&[&rdn(b"\x55\x04\x03", 19, b"root")])
        }),
    ];
    let trusted = anchor(&[root.root()]);
    for (name, want, change) in cases {
        let mut parts = good.clone();
        change(&mut parts);
        let got = trusted.verify(&parts.sign(&root.key), &[], NOW);
        assert_eq!(got.is_ok(), *want, "{name}: {got:?}");
        if let Err(refusal) = got {
            assert!(
                !refusal.to_string().contains(|c: char| c.is_control()),
                "{name}: {refusal:?}"
            );
        }
    }
}

#[test]
fn only_der_is_a_certificate() {
    let root = Authority::new("root");
    let good = root.leaf(&p256(), cn("signer"), vec![]).sign(&root.key);
    let trusted = anchor(&[root.root()]);
    assert!(trusted.verify(&good, &[], NOW).is_ok());
    let body = &good[4..];
    let length = (body.len() as u32).to_be_bytes();
    let cases: [(&str, Vec<u8>); 6] = [
        ("a byte behind it", [&good[..], b"\0"].concat()),
        ("a byte too few", good[..good.len() - 1].to_vec()),
        (
            "an element inside behind the signature",
            tlv(0x30, &[body, b"\x05\x00"]),
        ),
        (
            "a length of three bytes where two suffice",
            [b"\x30\x83", &length[1..], body].concat(),
        ),
        ("an indefinite length", [b"\x30\x80", body, b"\0\0"].concat()),
        ("a set", tlv(0x31, &[body])),
    ];
    let accepted: Vec<&str> = cases
        .iter()
        .filter(|(_, der)| trusted.verify(der, &[], NOW).is_ok())
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(accepted, [""; 0]);
}

#[test]
fn only_der_is_an_extension() {
    let root = Authority::new("root");
    let middle = Authority::new("middle");
    let leaf = middle.leaf(&p256(), cn("signer"), vec![]).sign(&middle.key);
    let trusted = anchor(&[root.root()]);
    let usage = |value: &[u8]| ext(KU, true, value);
    let basic = |value: &[u8]| ext(BASIC, true, value);
    let with_flag = |flag: &[u8]| seq(&[&tlv(6, &[BASIC]), flag, &tlv(4, &[&seq(&[b"\x01\x01\xff"])])]);
    let cases: Vec<(&str, usize, Vec<u8>)> = vec![
        ("CA is 01", 0, basic(&seq(&[b"\x01\x01\x01"]))),
        ("CA of two bytes", 0, basic(&seq(&[b"\x01\x02\x00\xff"]))),
        ("critical is 01", 0, with_flag(b"\x01\x01\x01")),
        ("critical stated twice", 0, with_flag(b"\x01\x01\xff\x01\x01\xff")),
        (
            "a path length before CA",
            0,
            basic(&seq(&[b"\x02\x01\x05\x01\x01\xff"])),
        ),
        (
            "a path length without bytes",
            0,
            basic(&seq(&[b"\x01\x01\xff\x02\x00"])),
        ),
        (
            "a padded path length",
            0,
            basic(&seq(&[b"\x01\x01\xff\x02\x02\x00\x05"])),
        ),
        (
            "a third element",
            0,
            basic(&seq(&[b"\x01\x01\xff\x02\x01\x05\x05\x00"])),
        ),
        ("a long length", 0, basic(b"\x30\x81\x03\x01\x01\xff")),
        ("a set of constraints", 0, basic(b"\x31\x03\x01\x01\xff")),
        (
            "behind the extension's value",
            0,
            seq(&[
                &tlv(6, &[BASIC]),
                b"\x01\x01\xff",
                &tlv(4, &[&seq(&[b"\x01\x01\xff"])]),
                b"\x05\x00",
            ]),
        ),
        ("unused bits that are set", 1, usage(b"\x03\x02\x03\x06")),
        ("more unused bits than a byte has", 1, usage(b"\x03\x02\x09\x06")),
        ("trailing zero bits", 1, usage(b"\x03\x03\x00\x06\x00")),
        ("a constructed bit string", 1, usage(b"\x23\x04\x03\x02\x01\x06")),
    ];
    let accepted: Vec<&str> = cases
        .into_iter()
        .filter(|(_, at, extension)| {
            let mut parts = middle.certificate(&root, b"");
            parts.extensions[*at] = extension.clone();
            trusted.verify(&leaf, &[parts.sign(&root.key)], NOW).is_ok()
        })
        .map(|(name, ..)| name)
        .collect();
    assert_eq!(accepted, [""; 0]);
}

#[test]
fn no_flipped_bit_of_a_chain_makes_it_another() {
    let (root, middle) = (Authority::new("root"), Authority::new("middle"));
    let leaf = middle.leaf(&p256(), cn("signer"), vec![]).sign(&middle.key);
    let between = middle.certificate(&root, b"").sign(&root.key);
    let trusted = anchor(&[root.root()]);
    let signer = |leaf: &[u8], between: &[u8]| {
        let verified = trusted.verify(leaf, &[between.to_vec()], NOW);
        verified.map(|leaf| (leaf.signer().clone(), leaf.key().spki_sha256()))
    };
    let want = signer(&leaf, &between).unwrap();
    let flipped = |der: &[u8], bit: usize| {
        let mut bad = der.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        bad
    };
    let mut lax = Vec::new();
    for bit in 0..8 * leaf.len() {
        if let Ok(got) = signer(&flipped(&leaf, bit), &between) {
            assert_eq!(got, want, "bit {bit} of the leaf");
            lax.push(("leaf", bit));
        }
    }
    for bit in 0..8 * between.len() {
        if let Ok(got) = signer(&leaf, &flipped(&between, bit)) {
            assert_eq!(got, want, "bit {bit} of the intermediate");
            lax.push(("intermediate", bit));
        }
    }
    assert_eq!(lax, [], "bits that may be flipped");
}

#[test]
fn names_keys_and_limits_of_authorities_hold() {
    let root = Authority::new("root");
    let key = p256();
    let trusted = anchor(&[root.root()]);
    let check = |name: &str, want: bool, leaf: &[u8], others: &[Vec<u8>]| {
        let got = trusted.verify(leaf, others, NOW);
        assert_eq!(got.is_ok(), want, "{name}: {got:?}");
    };

    // Somebody with the root's name and key identifier and a key of their own.
    let twin = Authority {
        key: p256(),
        ..Authority::new("root")
    };
    let leaf = twin.leaf(&key, cn("signer"), vec![]).sign(&twin.key);
    check("a root's twin", false, &leaf, &[]);
    check("a root's twin, in the bundle", false, &leaf, &[twin.root()]);
    check(
        "a root's twin, with the root",
        false,
        &leaf,
        &[twin.root(), root.root()],
    );
    // The twin's certificate, said to be by the root.
    let claimed = twin.certificate(&root, b"").sign(&twin.key);
    check(
        "a root's twin that names the root as its issuer",
        false,
        &leaf,
        &[claimed],
    );

    // A leaf issues a leaf: an end entity, whatever it says, is none that issues.
    let end = Authority::new("end");
    let end_certificate = root.leaf(&end.key, cn("end"), vec![end.ski()]).sign(&root.key);
    let beneath = end.leaf(&key, cn("signer"), vec![]).sign(&end.key);
    check("beneath an end entity", false, &beneath, &[end_certificate]);
    for (name, basic, usage) in [
        (
            "basic constraints not critical",
            ext(BASIC, false, &seq(&[b"\x01\x01\xff"])),
            b"\x03\x02\x01\x06",
        ),
        (
            "basic constraints without CA",
            ext(BASIC, true, &seq(&[])),
            b"\x03\x02\x01\x06",
        ),
        (
            "key usage without keyCertSign",
            ext(BASIC, true, &seq(&[b"\x01\x01\xff"])),
            b"\x03\x02\x01\x02",
        ),
        (
            "a negative path length",
            ext(BASIC, true, &seq(&[b"\x01\x01\xff\x02\x01\xff"])),
            b"\x03\x02\x01\x06",
        ),
    ] {
        let mut parts = end.certificate(&root, b"");
        parts.extensions[0] = basic;
        parts.extensions[1] = ext(KU, true, usage);
        check(name, false, &beneath, &[parts.sign(&root.key)]);
    }
    check(
        "a proper intermediate",
        true,
        &beneath,
        &[end.certificate(&root, b"").sign(&root.key)],
    );

    // A limit of no intermediates, one that exceeds it, and a self-issued one, which RFC 5280 does not count.
    let limited = Authority::new("limited");
    let below = Authority::new("below");
    let limit = limited.certificate(&root, b"\x02\x01\x00").sign(&root.key);
    let below_certificate = below.certificate(&limited, b"").sign(&limited.key);
    let leaf = below.leaf(&key, cn("signer"), vec![]).sign(&below.key);
    check(
        "beyond the path length",
        false,
        &leaf,
        &[limit.clone(), below_certificate.clone()],
    );
    let again = Authority {
        id: b"again".to_vec(),
        ..Authority::new("limited")
    };
    let renewed = again.certificate(&limited, b"").sign(&limited.key);
    let leaf = again.leaf(&key, cn("signer"), vec![]).sign(&again.key);
    check(
        "a renewed key within the limit",
        true,
        &leaf,
        &[limit.clone(), renewed.clone()],
    );
    let below_again = below.certificate(&again, b"").sign(&again.key);
    let leaf = below.leaf(&key, cn("signer"), vec![]).sign(&below.key);
    check(
        "a renewed key does not lift the limit",
        false,
        &leaf,
        &[limit, renewed, below_again],
    );
}

#[test]
fn issuers_that_lead_in_circles_end_soon() {
    // Nine certificates of one name and three keys, each of which some other signed: the most paths that a
    // bundle's certificates can make, and none leads to the root.
    let authority = |id: &str| Authority {
        name: cn("loop"),
        ..Authority::new(id)
    };
    let keys = [authority("k0"), authority("k1"), authority("k2")];
    let mut certificates = Vec::new();
    for copy in 0..3_u8 {
        for at in 0..3 {
            let (subject, issuer) = (&keys[at], &keys[(at + 1) % 3]);
            let mut parts = subject.certificate(issuer, b"");
            parts.serial = vec![2, 1, copy + 1];
            certificates.push(parts.sign(&issuer.key));
        }
    }
    let leaf = keys[0].leaf(&p256(), cn("signer"), vec![]).sign(&keys[0].key);
    let trusted = anchor(&[Authority::new("root").root()]);
    let start = Instant::now();
    assert!(trusted.verify(&leaf, &certificates, NOW).is_err());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

// ---- identities -----------------------------------------------------------------------------------

#[test]
fn pins_match_the_identity_they_name_and_no_rendering_of_another() {
    let root = Authority::new("root");
    let trusted = anchor(&[root.root()]);
    let o = |text: &[u8], tag| rdn(b"\x55\x04\x0a", tag, text);
    let c = |text: &[u8], tag| rdn(b"\x55\x04\x03", tag, text);
    let san = |names: &[Vec<u8>]| {
        vec![ext(
            SAN,
            false,
            &seq(&names.iter().map(Vec::as_slice).collect::<Vec<_>>()),
        )]
    };
    let other_name = tlv(
        0xa0,
        &[
            b"\x06\x08\x2b\x06\x01\x05\x05\x07\x08\x09",
            &tlv(0xa0, &[&tlv(12, &[b"a@b"])]),
        ],
    );
    let set_of_two = tlv(
        0x31,
        &[
            &seq(&[b"\x06\x03\x55\x04\x03", &tlv(12, &[b"A"])]),
            &seq(&[b"\x06\x03\x55\x04\x0a", &tlv(12, &[b"B"])]),
        ],
    );
    let email_attribute = rdn(b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01", 22, b"a@b");
    /// What the certificate is, its subject, its further extensions, and the pins that are its own.
    type Case<'a> = (&'a str, Vec<u8>, Vec<Vec<u8>>, Vec<&'a str>);
    let cases: Vec<Case<'_>> = vec![
        (
            "two parts",
            seq(&[&o(b"B", 12), &c(b"A", 12)]),
            vec![],
            vec!["subject:CN=A,O=B"],
        ),
        (
            "one part that looks like two",
            seq(&[&c(b"A,O=B", 12)]),
            vec![],
            vec!["subject:CN=A\\,O=B"],
        ),
        (
            "one part of two",
            seq(&[&set_of_two]),
            vec![],
            vec!["subject:CN=A+O=B"],
        ),
        (
            "one that looks like it",
            seq(&[&c(b"A+O=B", 12)]),
            vec![],
            vec!["subject:CN=A\\+O=B"],
        ),
        (
            "the other order",
            seq(&[&c(b"A", 12), &o(b"B", 12)]),
            vec![],
            vec!["subject:O=B,CN=A"],
        ),
        ("a NUL", seq(&[&c(b"A\0", 12)]), vec![], vec!["subject:CN=A\\00"]),
        (
            "an escape spelt out",
            seq(&[&c(b"A\\00", 12)]),
            vec![],
            vec!["subject:CN=A\\\\00"],
        ),
        (
            "a blank behind",
            seq(&[&c(b"A ", 12)]),
            vec![],
            vec!["subject:CN=A\\ "],
        ),
        ("another case", seq(&[&c(b"a", 12)]), vec![], vec!["subject:CN=a"]),
        (
            "UTF-16",
            seq(&[&c(b"\0A", 30)]),
            vec![],
            vec!["subject:CN=#1e020041"],
        ),
        (
            "its rendering as text",
            seq(&[&c(b"#1e020041", 12)]),
            vec![],
            vec!["subject:CN=\\#1e020041"],
        ),
        (
            "Teletex",
            seq(&[&c(b"A", 20)]),
            vec![],
            vec!["subject:CN=#140141"],
        ),
        (
            "a sequence",
            seq(&[&c(b"\x0c\x01A", 0x30)]),
            vec![],
            vec!["subject:CN=#30030c0141"],
        ),
        (
            "an e-mail attribute",
            seq(&[&email_attribute]),
            vec![],
            vec!["subject:1.2.840.113549.1.9.1=#1603614062"],
        ),
        (
            "an e-mail name",
            cn("A"),
            san(&[tlv(0x81, &[b"a@b"])]),
            vec!["subject:CN=A", "email:a@b"],
        ),
        (
            "a host that looks like one",
            cn("A"),
            san(&[tlv(0x82, &[b"a@b"])]),
            vec!["subject:CN=A", "dns:a@b"],
        ),
        (
            "a host that claims to be one",
            cn("A"),
            san(&[tlv(0x82, &[b"email:a@b"])]),
            vec!["subject:CN=A", "dns:email:a@b"],
        ),
        (
            "an address of a resource",
            cn("A"),
            san(&[tlv(0x86, &[b"a@b"])]),
            vec!["subject:CN=A", "uri:a@b"],
        ),
        (
            "a name of another kind",
            cn("A"),
            san(&[other_name]),
            vec!["subject:CN=A"],
        ),
        (
            "a directory name",
            cn("X"),
            san(&[tlv(0xa4, &[&cn("A")])]),
            vec!["subject:CN=X"],
        ),
        (
            "a wildcard",
            cn("A"),
            san(&[tlv(0x82, &[b"*.b"])]),
            vec!["subject:CN=A", "dns:*.b"],
        ),
    ];
    let pins: Vec<&str> = cases
        .iter()
        .flat_map(|(.., own)| own.iter().copied())
        .chain(["dns:a.b", "email:A@b", "uri:A", "dns:A"])
        .collect();
    for (name, subject, more, own) in &cases {
        let leaf = root.leaf(&p256(), subject.clone(), more.clone()).sign(&root.key);
        for pin in &pins {
            let pinned = trusted
                .clone()
                .with_identity(CertificateIdentity::parse(pin).unwrap());
            let got = pinned.verify(&leaf, &[], NOW);
            assert_eq!(got.is_ok(), own.contains(pin), "{name} under {pin}: {got:?}");
        }
    }
}

#[test]
fn a_signers_name_cannot_pose_as_the_rest_of_the_line() {
    let root = Authority::new("root");
    let trusted = anchor(&[root.root()]);
    let claim = "Good issued by CN=Good Root, serial number 01, key 00";
    let uri = tlv(0x86, &[claim.as_bytes()]);
    for (subject, more) in [
        (cn("Good issued by CN=Good Root"), vec![]),
        (seq(&[]), vec![ext(SAN, true, &seq(&[&uri]))]),
    ] {
        let leaf = root.leaf(&p256(), subject, more).sign(&root.key);
        let line = trusted.verify(&leaf, &[], NOW).unwrap().signer().to_string();
        assert_eq!(line.matches("\" issued by \"").count(), 1, "{line}");
    }
}

// ---- signatures -----------------------------------------------------------------------------------

#[test]
fn a_hint_chooses_among_trusted_keys_and_adds_none() {
    let (a, b, stranger) = (p256(), p256(), p256());
    let mut anchors = TrustAnchors::new();
    anchors.add_key(public(&a));
    anchors.add_key(public(&b));
    let payload = payload(&[("a", b"")]);
    let by = |key: &KeyPair, material: Value| {
        verify(
            &anchors,
            &bundle(&material, &payload, &key.sign(&pae(&payload)).unwrap()),
        )
    };
    let hint = |key: &KeyPair| json!({"publicKey": {"hint": public(key).fingerprint()}});
    let who = |result: Result<TrustedManifest, TrustError>| {
        result.map(|t| t.signer().to_string()).map_err(|e| e.to_string())
    };

    for key in [&a, &b] {
        let own = Ok(public(key).to_string());
        assert_eq!(who(by(key, hint(key))), own);
        assert_eq!(who(by(key, json!({"publicKey": {}}))), own);
        assert_eq!(who(by(key, json!({"publicKey": {"hint": null}}))), own);
        // The key in the bundle is not looked at, whosever it is.
        assert_eq!(
            who(by(
                key,
                json!({"publicKey": {"rawBytes": BASE64.encode(&stranger.subject_public_key_info())}})
            )),
            own
        );
    }
    assert!(by(&a, hint(&b)).is_err());
    assert!(
        by(
            &a,
            json!({"publicKey": {"hint": public(&a).fingerprint().to_uppercase()}})
        )
        .is_err()
    );
    assert!(by(&stranger, hint(&a)).is_err());
    assert!(by(&stranger, hint(&stranger)).is_err());
    assert!(
        by(
            &stranger,
            json!({"publicKey": {"rawBytes": BASE64.encode(&stranger.subject_public_key_info())}})
        )
        .is_err()
    );
}

#[test]
fn formats_lend_each_other_neither_signature_nor_meaning() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let root = Authority::new("root");
    let leaf = root.leaf(&key, cn("signer"), vec![]).sign(&root.key);
    let current = payload(&[("a", b"")]);
    let old = serde_json::to_vec(&json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "a", "digest": {"sha256": HEXLOWER.encode(&digest::sha256(b""))}}],
        "predicateType": "https://model_signing/Digests/v0.1",
        "predicate": {"unused": "x"},
    }))
    .unwrap();
    for legacy in [false, true] {
        let mut anchors = TrustAnchors::new();
        anchors.add_key(public(&key));
        anchors.add_certificates(anchor(&[root.root()]));
        if legacy {
            anchors.allow_legacy();
        }
        for (payload, is_old) in [(&current, false), (&old, true)] {
            for (signed, old_way) in [(pae(payload), false), (legacy_pae(payload), true)] {
                // Keys sign the old way with the curve's hash, which is what `sign` takes here.
                let signature = key.sign(&signed).unwrap();
                let got = verify(&anchors, &bundle(&json!({"publicKey": {}}), payload, &signature));
                let want = match (is_old, old_way) {
                    (false, false) => true,
                    (true, true) => legacy,
                    _ => false,
                };
                assert_eq!(
                    got.is_ok(),
                    want,
                    "old payload {is_old}, signed the old way {old_way}, allowed {legacy}: {got:?}"
                );
                // Certificates sign the old way with SHA-256: with the curve's hash only the new way counts.
                let got = verify(&anchors, &bundle(&chain(&[&leaf]), payload, &signature));
                assert_eq!(
                    got.is_ok(),
                    !is_old && !old_way,
                    "certificate: {is_old} {old_way} {legacy}: {got:?}"
                );
            }
        }
    }
}

#[test]
fn the_signature_covers_the_payload_that_is_parsed() {
    let key = p256();
    let mut anchors = TrustAnchors::new();
    anchors.add_key(public(&key));
    let (good, evil) = (payload(&[("a", b"good")]), payload(&[("a", b"evil")]));
    let signature = key.sign(&pae(&good)).unwrap();
    let text = String::from_utf8(bundle(&json!({"publicKey": {}}), &good, &signature)).unwrap();
    assert!(verify(&anchors, text.as_bytes()).is_ok());
    let (good, evil) = (BASE64.encode(&good), BASE64.encode(&evil));
    let inner = format!("\"payload\":\"{good}\"");
    let cases = [
        text.replace(&good, &evil),
        text.replace(&inner, &format!("{inner},\"payload\":\"{evil}\"")),
        text.replace(&inner, &format!("\"payload\":\"{evil}\",{inner}")),
        text.replace(&inner, &format!("{inner},\"p\\u0061yload\":\"{evil}\"")),
        text.replace(&inner, &format!("{inner},\"Payload\":\"{evil}\"")),
        text.replace(&inner, &format!("{inner},\"payload_type\":\"{TYPE}\"")),
        text.replace(&good, &format!("{good}{evil}")),
        text.replace(&good, &format!("{good}=")),
        text.replace(&good, &format!("\\n{good}")),
        text.replace(
            "\"dsseEnvelope\"",
            &format!("\"dsse_envelope\":{{\"payload\":\"{evil}\"}},\"dsseEnvelope\""),
        ),
        text.replace("\"dsseEnvelope\"", "\"messageSignature\":{},\"dsseEnvelope\""),
        text.replace(TYPE, "application/vnd.in-toto+json "),
        text.replace(TYPE, "application/json"),
        text.replace("\"signatures\":[", "\"signatures\":[{\"sig\":\"AA==\"},"),
        format!("{text}{text}"),
        format!("\u{feff}{text}"),
    ];
    for case in cases {
        assert_ne!(case, text);
        let got = verify(&anchors, case.as_bytes());
        assert!(got.is_err(), "{case}: {got:?}");
    }
}

// ---- manifests ------------------------------------------------------------------------------------

/// What a manifest says, read again without the code under test: files by name, each as its digests in the
/// order of their ranges, and the ranges.
type Reading = BTreeMap<String, Vec<(u64, u64, String)>>;

fn read_again(payload: &[u8]) -> Reading {
    let value: Value = serde_json::from_slice(payload).unwrap();
    let predicate = &value["predicate"];
    let sharded = predicate["serialization"]["method"] == "shards";
    let mut files = Reading::new();
    for resource in predicate["resources"].as_array().unwrap() {
        let (name, digest) = (
            resource["name"].as_str().unwrap(),
            resource["digest"].as_str().unwrap(),
        );
        let (name, start, end) = if sharded {
            let mut fields = name.rsplitn(3, ':');
            let (end, start) = (fields.next().unwrap(), fields.next().unwrap());
            (
                fields.next().unwrap(),
                start.parse().unwrap(),
                end.parse().unwrap(),
            )
        } else {
            (name, 0, 0)
        };
        let name = if name == "." {
            value["subject"][0]["name"].as_str().unwrap()
        } else {
            name
        };
        files
            .entry(name.to_owned())
            .or_default()
            .push((start, end, digest.to_owned()));
    }
    for shards in files.values_mut() {
        shards.sort();
    }
    files
}

fn read_parsed(manifest: &Manifest) -> Reading {
    let hex = |digest: digest::Digest| HEXLOWER.encode(digest.as_bytes());
    let read = |content: &SignedContent| match content {
        SignedContent::Whole(digest) => vec![(0, 0, hex(*digest))],
        SignedContent::Shards(shards) => (0..shards.count())
            .map(|at| {
                let range = shards.range(at).unwrap();
                (range.start, range.end, hex(shards.digest(at).unwrap()))
            })
            .collect(),
    };
    manifest
        .files()
        .iter()
        .map(|f| (f.path().as_str().to_owned(), read(f.content())))
        .collect()
}

/// Names and numbers that have broken something somewhere.
const HOSTILE: [&str; 34] = [
    "",
    ".",
    "..",
    "/",
    "a/",
    "/a",
    "./a",
    "a/.",
    "a//b",
    "a/../b",
    "a",
    "a/b",
    "a-b",
    "a\0",
    "A",
    "\u{e9}",
    "e\u{301}",
    "a:0:4",
    "a:4:8",
    "a:0:8",
    "a:8:4",
    "a:+0:4",
    "a:00:4",
    "a:0:-4",
    "a:\u{664}:8",
    "a:0:4:0:4",
    ":0:4",
    "a:0:18446744073709551616",
    "a:9223372036854775804:9223372036854775808",
    "a:9223372036854775803:9223372036854775807",
    ".:0:4",
    "sha256",
    "sha256-sharded-4",
    "blake2b",
];

fn hostile(random: &mut Random) -> Value {
    match random.within(0..9) {
        0 => json!(null),
        1 => json!(true),
        2 => json!([0, 1, 4, -1][random.within(0..4)]),
        3 => json!(
            [
                0.0,
                4.0,
                4.5,
                1e300,
                9_007_199_254_740_992.0,
                9_007_199_254_740_994.0
            ][random.within(0..6)]
        ),
        4 => json!(u64::MAX),
        5 => json!([]),
        6 => json!({}),
        _ => json!(HOSTILE[random.within(0..HOSTILE.len())]),
    }
}

/// Replaces, removes or repeats something somewhere.
fn mutate(value: &mut Value, random: &mut Random) {
    let deeper = random.within(0..6) > 0;
    match value {
        Value::Array(items) if !items.is_empty() && deeper => {
            let at = random.within(0..items.len());
            match random.within(0..8) {
                0 => drop(items.remove(at)),
                1 => {
                    let again = items[at].clone();
                    items.push(again);
                }
                2 => items.reverse(),
                _ => mutate(&mut items[at], random),
            }
        }
        Value::Object(fields) if !fields.is_empty() && deeper => {
            let at = random.within(0..fields.len());
            let key = fields.keys().nth(at).unwrap().clone();
            match random.within(0..12) {
                0 => drop(fields.remove(&key)),
                1 => {
                    let value = fields[&key].clone();
                    fields.insert(key.to_uppercase(), value);
                }
                _ => mutate(fields.get_mut(&key).unwrap(), random),
            }
        }
        other => *other = hostile(random),
    }
}

/// Gives a statement the root digest of its resources, so that what is wrong elsewhere is reached.
fn set_root(value: &mut Value) {
    let mut all = Vec::new();
    for resource in value["predicate"]["resources"].as_array().unwrap_or(&Vec::new()) {
        let hex = resource["digest"].as_str().unwrap_or_default();
        all.extend(HEXLOWER.decode(hex.as_bytes()).unwrap_or_default());
    }
    if let Some(root) = value.pointer_mut("/subject/0/digest/sha256") {
        *root = json!(HEXLOWER.encode(&digest::sha256(&all)));
    }
}

#[test]
fn whatever_is_accepted_reads_the_same_to_a_second_reader() {
    let mut random = Random::from_environment("attack-trust manifests");
    let hex = |byte: u8| HEXLOWER.encode(&[byte; 32]);
    let resource = |name: &str, byte: u8| json!({"name": name, "algorithm": "sha256", "digest": hex(byte)});
    let files =
        json!({"method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": ["x"]});
    let shards = json!({"method": "shards", "hash_type": "sha256", "allow_symlinks": false, "shard_size": 4});
    let seeds: Vec<Value> = [
        statement(
            files.clone(),
            vec![resource("b", 1), resource("a/b", 2), resource("a-b", 3)],
        ),
        statement(files, vec![resource(".", 1)]),
        statement(
            shards.clone(),
            vec![
                resource("a:4:8", 1),
                resource("a:0:4", 2),
                resource("a:8:9", 3),
                resource("b:0:1", 4),
            ],
        ),
        statement(shards, vec![resource(".:0:4", 1), resource(".:4:5", 2)]),
    ]
    .iter()
    .map(|payload| serde_json::from_slice(payload).unwrap())
    .collect();
    let mut accepted = 0;
    for _ in 0..60_000 {
        let mut value = seeds[random.within(0..seeds.len())].clone();
        for _ in 0..=random.within(0..3) {
            mutate(&mut value, &mut random);
        }
        if random.within(0..8) > 0 {
            set_root(&mut value);
        }
        let payload = serde_json::to_vec(&value).unwrap();
        for format in [Format::V1, Format::LegacyV02] {
            match Manifest::parse(&payload, format) {
                Ok(manifest) if format == Format::V1 => {
                    accepted += 1;
                    let reading = read_parsed(&manifest);
                    assert_eq!(reading, read_again(&payload), "{value}");
                    for (name, shards) in &reading {
                        assert!(
                            name.split('/').all(|c| !matches!(c, "" | "." | "..")) && !name.contains('\0'),
                            "{value}"
                        );
                        let mut end = 0;
                        for (start, next, _) in shards.iter().filter(|s| s.1 > 0) {
                            assert_eq!(*start, end, "{value}");
                            end = *next;
                        }
                        assert!(i64::try_from(end).is_ok(), "{value}");
                    }
                }
                Ok(_) => {}
                Err(e) => assert!(!with_causes(&e).contains(|c: char| c.is_control()), "{e:?}"),
            }
        }
    }
    assert!(
        accepted > 1000,
        "only {accepted} of the mutants were accepted: they prove little"
    );
}

#[test]
fn mutated_historic_payloads_signed_anew_are_read_or_refused() {
    let Some(dir) = support::vectors().map(|v| v.join("oms-historic")) else {
        support::notice("the historic bundles are not here: their mutants were left out");
        return;
    };
    let mut random = Random::from_environment("attack-trust historic");
    let key = p256();
    let mut anchors = TrustAnchors::new();
    anchors.add_key(public(&key));
    let mut read = 0;
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path().join("model.sig"))
        .collect();
    names.sort();
    for path in names {
        let Ok(value) = serde_json::from_slice::<Value>(&fs::read(&path).unwrap_or_default()) else {
            continue;
        };
        let Some(payload) = value["dsseEnvelope"]["payload"].as_str() else {
            continue;
        };
        let payload = BASE64.decode(payload.as_bytes()).unwrap();
        for _ in 0..300 {
            let mut mutant = payload.clone();
            for _ in 0..=random.within(0..2) {
                let at = random.within(0..mutant.len());
                match random.within(0..3) {
                    0 => mutant[at] ^= 1 << random.within(0..8),
                    1 => mutant.truncate(at.max(1)),
                    _ => mutant.insert(at, b"0/.\":,{}[]\\\x00\xff-e"[random.within(0..15)]),
                }
            }
            let signature = key.sign(&pae(&mutant)).unwrap();
            match verify(&anchors, &bundle(&json!({"publicKey": {}}), &mutant, &signature)) {
                Ok(trusted) => assert_eq!(read_parsed(trusted.manifest()), read_again(&mutant), "{path:?}"),
                Err(e) => assert!(!with_causes(&e).contains(|c: char| c.is_control()), "{e:?}"),
            }
            read += 1;
        }
    }
    assert!(read > 0, "no bundle was found");
}

// ---- what a refusal costs and says ----------------------------------------------------------------

#[test]
fn an_unsigned_bundle_cannot_make_a_message_longer_than_a_screen() {
    let long = "\u{7f}".repeat(1 << 20);
    let around = |payload: &str| format!("{{\"dsseEnvelope\":{payload}}}");
    let cases = [
        ("an unknown field", format!("{{\"{long}\":1}}")),
        ("a field twice", format!("{{\"{long}\":1,\"{long}\":1}}")),
        ("a string for an object", around(&format!("\"{long}\""))),
        (
            "a string for a list",
            around(&format!("{{\"signatures\":\"{long}\"}}")),
        ),
        ("a field of the envelope", around(&format!("{{\"{long}\":1}}"))),
        ("another media type", format!("{{\"mediaType\":\"{long}\"}}")),
        (
            "another payload type",
            format!(
                "{{\"mediaType\":\"application/vnd.dev.sigstore.bundle.v0.3+json\",\"verificationMaterial\":{{\"publicKey\":{{}}}},\"dsseEnvelope\":{{\"payload\":\"\",\"payloadType\":\"{long}\"}}}}"
            ),
        ),
        (
            "a hint",
            format!(
                "{{\"mediaType\":\"application/vnd.dev.sigstore.bundle.v0.3+json\",\"verificationMaterial\":{{\"publicKey\":{{\"hint\":\"{long}\"}}}}}}"
            ),
        ),
    ];
    let mut long_messages = Vec::new();
    for (name, text) in cases {
        let message = with_causes(&Bundle::parse(text.as_bytes()).unwrap_err());
        if message.len() > SCREEN {
            long_messages.push((name, message.len()));
        }
    }
    assert_eq!(long_messages, []);
    let payload = format!("{{\"_type\":1,\"{long}\":2,\"{long}\":3}}");
    let message = with_causes(&Manifest::parse(payload.as_bytes(), Format::V1).unwrap_err());
    assert!(message.len() <= SCREEN, "a payload: {} bytes", message.len());
}

#[test]
fn a_hostile_certificate_is_refused_in_few_words_and_soon() {
    let root = Authority::new("root");
    // As much name as a certificate holds, of characters that are written longest when they are escaped.
    let long = cn(&"\u{202e}".repeat(20_000));
    // An identifier whose one number has hundreds of thousands of bits.
    let number = [b"\x2a", [0xff; 60_000].as_slice(), b"\x01"].concat();
    let odd = seq(&[&rdn(&number, 12, b"x")]);
    let extension = ext(&number, true, b"\x05\x00");
    let certificates: Vec<Vec<u8>> = [
        root.leaf(&p256(), long, vec![]),
        root.leaf(&p256(), odd, vec![]),
        root.leaf(&p256(), cn("x"), vec![extension]),
    ]
    .iter()
    .map(|parts| parts.sign(&root.key))
    .collect();
    let trusted = anchor(&[root.root()]).with_identity(CertificateIdentity::parse("email:a@b").unwrap());
    let mut lengths = Vec::new();
    for leaf in &certificates {
        let others: Vec<Vec<u8>> = (0..9).map(|at| certificates[at % 3].clone()).collect();
        let start = Instant::now();
        let refusal = trusted.verify(leaf, &others, NOW).unwrap_err().to_string();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        lengths.push(refusal.len());
    }
    assert!(
        lengths.iter().all(|length| *length <= SCREEN),
        "{lengths:?} bytes"
    );
}

#[test]
fn names_that_begin_alike_take_no_more_than_their_length() {
    // Each name begins with the one before, none lies beneath it: the longest stack of candidates.
    let names: Vec<String> = (1..3000_usize)
        .map(|n| {
            "x".repeat(n)
                .as_bytes()
                .chunks(255)
                .map(|c| std::str::from_utf8(c).unwrap())
                .collect::<Vec<_>>()
                .join("y/z")
        })
        .filter(|name| !name.ends_with('/'))
        .collect();
    let resources = names
        .iter()
        .filter(|name| name.split('/').all(|c| c.len() <= 255))
        .map(|name| json!({"name": name, "algorithm": "sha256", "digest": HEXLOWER.encode(&[0; 32])}))
        .collect();
    let payload = statement(
        json!({"method": "files", "hash_type": "sha256", "allow_symlinks": false}),
        resources,
    );
    let start = Instant::now();
    drop(Manifest::parse(&payload, Format::V1));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn json_output_carries_no_control_characters_that_others_chose() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    let signed = "signed\u{9b}31m";
    fs::write(model.join(signed), "x").unwrap();
    let key = p256();
    let payload = payload(&[(signed, b"x")]);
    let sig = dir.path().join("model.sig");
    fs::write(
        &sig,
        bundle(
            &json!({"publicKey": {}}),
            &payload,
            &key.sign(&pae(&payload)).unwrap(),
        ),
    )
    .unwrap();
    let public = dir.path().join("key.pem");
    fs::write(&public, pem("PUBLIC KEY", &key.subject_public_key_info())).unwrap();
    let inspected = modelfs([
        "--json".as_ref(),
        "inspect".as_ref(),
        "--public-key".as_ref(),
        public.as_os_str(),
        sig.as_os_str(),
    ]);
    assert_eq!(inspected.code, Some(0), "{inspected:?}");
    // A name that nobody signed: whoever may write the model's folder chooses what the terminal does.
    fs::write(model.join("planted\u{9b}2J\u{7f}"), "x").unwrap();
    let verified = modelfs([
        "--json".as_ref(),
        "verify".as_ref(),
        "--public-key".as_ref(),
        public.as_os_str(),
        sig.as_os_str(),
        model.as_os_str(),
    ]);
    assert_ne!(verified.code, Some(0), "{verified:?}");
    for outcome in [verified, inspected] {
        let odd: Vec<char> = outcome
            .text()
            .chars()
            .filter(|c| c.is_control() && *c != '\n')
            .collect();
        assert!(odd.is_empty(), "{odd:?} in {outcome:?}");
    }
}

// ---- what the operator says -----------------------------------------------------------------------

#[test]
fn key_files_hold_one_public_key_and_nothing_else() {
    let (a, b) = (p256(), p256());
    let block = |key: &KeyPair| pem("PUBLIC KEY", &key.subject_public_key_info());
    let root = Authority::new("root");
    let spki = a.subject_public_key_info();
    let trailing = pem("PUBLIC KEY", &[&spki[..], b"\0"].concat());
    let compressed = {
        let mut der = spki.clone();
        der.truncate(26 + 33);
        der[1] = 0x39;
        der[24] = 0x22;
        der[26] = 2;
        pem("PUBLIC KEY", &der)
    };
    let cases = [
        ("one", block(&a), true),
        (
            "one with words around",
            format!("words\n{}words\n", block(&a)),
            true,
        ),
        ("two", block(&a) + &block(&b), false),
        ("the same twice", block(&a) + &block(&a), false),
        ("with a private key", a.serialize_pem() + &block(&a), false),
        ("a private key", a.serialize_pem(), false),
        ("a certificate", pem("CERTIFICATE", &root.root()), false),
        (
            "a certificate called a key",
            pem("PUBLIC KEY", &root.root()),
            false,
        ),
        (
            "a private key called a public one",
            pem("PUBLIC KEY", &a.serialize_der()),
            false,
        ),
        (
            "another label's end",
            block(&a).replace("END PUBLIC", "END RSA PUBLIC"),
            false,
        ),
        ("no end", block(&a).replace("-----END PUBLIC KEY-----", ""), false),
        ("bytes behind the key", trailing, false),
        ("a compressed point", compressed, false),
        (
            "a block within a block",
            block(&a).replace("-----END", &format!("{}-----END", block(&b))),
            false,
        ),
        ("empty", String::new(), false),
        ("DER", "\0".into(), false),
    ];
    for (name, text, want) in cases {
        let got = PublicKey::from_pem(text.as_bytes());
        assert_eq!(got.is_ok(), want, "{name}: {got:?}");
        if let Ok(key) = got {
            assert_eq!(key.fingerprint(), public(&a).fingerprint(), "{name}");
        }
    }
}

#[test]
fn certificates_are_no_roots_unless_they_signed_themselves() {
    let (root, middle) = (Authority::new("root"), Authority::new("middle"));
    let twin = Authority {
        key: p256(),
        ..Authority::new("root")
    };
    let between = middle.certificate(&root, b"").sign(&root.key);
    // Names itself as its issuer, and somebody else signed it.
    let pretender = root.certificate(&root, b"").sign(&twin.key);
    let leaf = middle.leaf(&p256(), cn("signer"), vec![]).sign(&middle.key);
    let text = |ders: &[&Vec<u8>]| ders.iter().map(|der| pem("CERTIFICATE", der)).collect::<String>();
    assert!(CertificateAnchor::from_pem(&[text(&[&between]).as_bytes()]).is_err());
    assert!(CertificateAnchor::from_pem(&[text(&[&pretender]).as_bytes()]).is_err());
    let stranger = Authority::new("stranger");
    let with_stranger =
        CertificateAnchor::from_pem(&[text(&[&between, &pretender, &stranger.root()]).as_bytes()]).unwrap();
    assert!(with_stranger.verify(&leaf, &[], NOW).is_err());
    assert!(with_stranger.verify(&leaf, &[root.root()], NOW).is_err());
    let with_root = CertificateAnchor::from_pem(&[text(&[&between, &root.root()]).as_bytes()]).unwrap();
    assert!(with_root.verify(&leaf, &[], NOW).is_ok());
    // The intermediate helps the chain it is in and no other set of roots.
    assert!(anchor(&[root.root()]).verify(&leaf, &[], NOW).is_err());
    assert!(
        with_root
            .with_time(CertificateTime::NotBefore)
            .verify(&leaf, &[], UnixTime(0))
            .is_ok()
    );
}

#[test]
fn policies_that_say_too_much_or_too_little_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| fs::canonicalize(dir.path()).unwrap().join(name);
    let key = p256();
    let root = Authority::new("root");
    fs::write(at("k.pub"), pem("PUBLIC KEY", &key.subject_public_key_info())).unwrap();
    fs::write(at("ca.pem"), pem("CERTIFICATE", &root.root())).unwrap();
    let payload = payload(&[("a", b"x")]);
    fs::create_dir(at("m")).unwrap();
    fs::write(
        at("m/model.sig"),
        bundle(
            &json!({"publicKey": {}}),
            &payload,
            &key.sign(&pae(&payload)).unwrap(),
        ),
    )
    .unwrap();
    let head = "version = 1\ndefault = \"reject\"\n[roots.key.k]\npem = \"k.pub\"\n[roots.ca.c]\ncerts = [\"ca.pem\"]\n";
    let rule = |scope: &str, signers: &str| format!("[[rule]]\nscope = \"{scope}\"\nsigners = [{signers}]\n");
    let here = at("m").display().to_string();
    let by_key = "{ method = \"key\", key = \"k\" }";
    let cases: Vec<(&str, String, bool)> = vec![
        ("good", format!("{head}{}", rule(&here, by_key)), true),
        (
            "a signer with a demand that keys do not have",
            format!(
                "{head}{}",
                rule(
                    &here,
                    "{ method = \"key\", key = \"k\", identity = \"email:a@b\" }"
                )
            ),
            false,
        ),
        (
            "a signer with a misspelt demand",
            format!(
                "{head}{}",
                rule(&here, "{ method = \"key\", key = \"k\", expires = 1 }")
            ),
            false,
        ),
        (
            "no method",
            format!("{head}{}", rule(&here, "{ key = \"k\" }")),
            false,
        ),
        (
            "another method",
            format!("{head}{}", rule(&here, "{ method = \"Key\", key = \"k\" }")),
            false,
        ),
        (
            "a certificate without identity",
            format!(
                "{head}{}",
                rule(&here, "{ method = \"certificate\", ca = \"c\" }")
            ),
            false,
        ),
        (
            "a certificate of any identity",
            format!(
                "{head}{}",
                rule(&here, "{ method = \"certificate\", ca = \"c\", identity = \"\" }")
            ),
            false,
        ),
        (
            "a key's name for a ca",
            format!(
                "{head}{}",
                rule(
                    &here,
                    "{ method = \"certificate\", ca = \"k\", identity = \"email:a@b\" }"
                )
            ),
            false,
        ),
        ("no signers", format!("{head}{}", rule(&here, "")), false),
        (
            "signers as one",
            format!("{head}[[rule]]\nscope = \"{here}\"\nsigners = {by_key}\n"),
            false,
        ),
        (
            "another default",
            format!("{}{}", head.replace("reject", "accept"), rule(&here, by_key)),
            false,
        ),
        (
            "no default",
            format!(
                "{}{}",
                head.replace("default = \"reject\"", ""),
                rule(&here, by_key)
            ),
            false,
        ),
        (
            "another version",
            format!(
                "{}{}",
                head.replace("version = 1", "version = 2"),
                rule(&here, by_key)
            ),
            false,
        ),
        (
            "a version that is a float",
            format!(
                "{}{}",
                head.replace("version = 1", "version = 1.0"),
                rule(&here, by_key)
            ),
            false,
        ),
        (
            "a key twice",
            format!("{head}[roots.key.k]\npem = \"k.pub\"\n{}", rule(&here, by_key)),
            false,
        ),
        (
            "a rule twice",
            format!("{head}{}{}", rule(&here, by_key), rule(&here, by_key)),
            false,
        ),
        (
            "a rule of the folder above",
            format!(
                "{head}{}",
                rule(at("").display().to_string().trim_end_matches('/'), by_key)
            ),
            false,
        ),
        (
            "a rule of a name that begins alike",
            format!("{head}{}", rule(&format!("{here}x/**"), by_key)),
            false,
        ),
        (
            "a rule of everything",
            format!("{head}{}", rule("/**", by_key)),
            true,
        ),
        // The narrower rule decides even where it is the one that refuses.
        (
            "a narrower rule with other signers",
            format!(
                "{head}{}{}",
                rule("/**", by_key),
                rule(
                    &here,
                    "{ method = \"certificate\", ca = \"c\", identity = \"email:a@b\" }"
                )
            ),
            false,
        ),
        (
            "the same the other way round",
            format!(
                "{head}{}{}",
                rule(
                    &here,
                    "{ method = \"certificate\", ca = \"c\", identity = \"email:a@b\" }"
                ),
                rule("/**", by_key)
            ),
            false,
        ),
        (
            "rules as a table",
            format!("{head}[rule]\nscope = \"{here}\"\nsigners = [{by_key}]\n"),
            false,
        ),
        (
            "a key that is a ca's file",
            format!("{}{}", head.replace("k.pub", "ca.pem"), rule(&here, by_key)),
            false,
        ),
        (
            "legacy spelt otherwise",
            format!("{head}{}allow-legacy = true\n", rule(&here, by_key)),
            false,
        ),
    ];
    fs::create_dir(at("p")).unwrap();
    for name in ["k.pub", "ca.pem"] {
        fs::copy(at(name), at("p").join(name)).unwrap();
    }
    for (name, text, want) in cases {
        fs::write(at("p/policy.toml"), text).unwrap();
        let policy = at("p/policy.toml");
        let outcome = modelfs([
            "inspect".as_ref(),
            "--policy".as_ref(),
            policy.as_os_str(),
            at("m/model.sig").as_os_str(),
        ]);
        assert_eq!(outcome.code == Some(0), want, "{name}: {outcome:?}");
    }
}

#[test]
fn the_rule_that_a_refusal_proposes_covers_that_model_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| fs::canonicalize(dir.path()).unwrap().join(name);
    let key = p256();
    fs::write(at("k.pub"), pem("PUBLIC KEY", &key.subject_public_key_info())).unwrap();
    fs::write(
        at("policy.toml"),
        "version = 1\ndefault = \"reject\"\n[roots.key.k]\npem = \"k.pub\"\n",
    )
    .unwrap();
    for name in ["**", "a*"] {
        fs::create_dir(at(name)).unwrap();
        let outcome = modelfs([
            "verify".as_ref(),
            "--policy".as_ref(),
            at("policy.toml").as_os_str(),
            at("k.pub").as_os_str(),
            at(name).as_os_str(),
        ]);
        assert_ne!(outcome.code, Some(0));
        let proposed = format!("scope = \"{}\"", at(name).display());
        assert!(
            !outcome.text().contains(&proposed),
            "copied into a policy it covers other models: {outcome:?}"
        );
    }
}

#[test]
fn a_link_in_the_models_place_does_not_choose_another_rule() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| fs::canonicalize(dir.path()).unwrap().join(name);
    let (release, draft) = (p256(), p256());
    for folder in ["trust", "release", "drafts/model"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    for (name, key) in [("release.pem", &release), ("draft.pem", &draft)] {
        fs::write(
            at("trust").join(name),
            pem("PUBLIC KEY", &key.subject_public_key_info()),
        )
        .unwrap();
    }
    let rule = |folder: &str, key: &str| {
        format!(
            "[[rule]]\nscope = \"{}/**\"\nsigners = [{{ method = \"key\", key = \"{key}\" }}]\n",
            at(folder).display()
        )
    };
    fs::write(
        at("trust/policy.toml"),
        format!(
            "version = 1\ndefault = \"reject\"\n[roots.key.release]\npem = \"release.pem\"\n[roots.key.draft]\npem = \"draft.pem\"\n{}{}",
            rule("release", "release"),
            rule("drafts", "draft")
        ),
    )
    .unwrap();
    fs::write(at("drafts/model/a"), "x").unwrap();
    let payload = payload(&[("a", b"x")]);
    let signature = draft.sign(&pae(&payload)).unwrap();
    fs::write(
        at("drafts/model/model.sig"),
        bundle(&json!({"publicKey": {}}), &payload, &signature),
    )
    .unwrap();
    let verify = |model: &str| {
        let sig = at(model).join("model.sig");
        let policy = at("trust/policy.toml");
        modelfs([
            "verify".as_ref(),
            "--ignore-paths".as_ref(),
            "model.sig".as_ref(),
            "--policy".as_ref(),
            policy.as_os_str(),
            sig.as_os_str(),
            at(model).as_os_str(),
        ])
    };
    assert_eq!(verify("drafts/model").code, Some(0));
    // Whoever may write the folder of released models puts a link there in place of one.
    std::os::unix::fs::symlink(at("drafts/model"), at("release/model")).unwrap();
    let outcome = verify("release/model");
    assert_ne!(outcome.code, Some(0), "a draft passed for a release: {outcome:?}");
}

#[test]
fn paths_ignored_many_times_cost_no_more_than_once() {
    const MANY: usize = 100_000;
    let digest = HEXLOWER.encode(&[0; 32]);
    let resources = (0..MANY)
        .map(|at| json!({"name": format!("ab{at}"), "algorithm": "sha256", "digest": digest}))
        .collect();
    let payload = statement(
        json!({"method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": vec!["a"; MANY]}),
        resources,
    );
    let start = Instant::now();
    drop(Manifest::parse(&payload, Format::V1));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_key_that_is_not_at_the_beginning_of_its_line_is_not_passed_over() {
    let (a, b) = (p256(), p256());
    let block = |key: &KeyPair| pem("PUBLIC KEY", &key.subject_public_key_info());
    for (name, text) in [
        (
            "behind a byte order mark",
            format!("\u{feff}{}{}", block(&a), block(&b)),
        ),
        ("indented", format!(" {}{}", block(&a), block(&b))),
        ("behind a word", format!("key: {}{}", block(&a), block(&b))),
        (
            "in lines that only carriage returns end",
            format!("{}{}", block(&a).replace('\n', "\r"), block(&b)),
        ),
    ] {
        let got = PublicKey::from_pem(text.as_bytes());
        assert!(got.is_err(), "{name}: {got:?}");
    }
}

#[test]
fn many_keys_or_objects_in_a_bundle_are_refused_before_they_are_kept() {
    // Not a figure of memory, only of time and words: what they cost is in proportion to the bundle.
    let envelope = |signatures: &str| {
        format!(
            "{{\"mediaType\":\"application/vnd.dev.sigstore.bundle.v0.3+json\",\"verificationMaterial\":{{\"publicKey\":{{}}}},\
             \"dsseEnvelope\":{{\"payload\":\"\",\"payloadType\":\"{TYPE}\",\"signatures\":[{signatures}]}}}}"
        )
    };
    let many = |one: &str, count: usize| vec![one; count].join(",");
    let keys: Vec<String> = (0..300_000).map(|at| format!("\"{at:x}\":0")).collect();
    let deep = "[".repeat(5_000_000);
    let cases = [
        ("signatures", envelope(&many("{\"sig\":\"\"}", 300_000))),
        ("keys", format!("{{{}}}", keys.join(","))),
        (
            "keys in a part that is ignored",
            envelope("").replace(
                "\"publicKey\":{}",
                &format!("\"publicKey\":{{\"rawBytes\":{{{}}}}}", keys.join(",")),
            ),
        ),
        ("brackets", deep),
        ("objects", "{\"a\":".repeat(1_000_000)),
    ];
    for (name, text) in cases {
        let start = Instant::now();
        let message = with_causes(&Bundle::parse(text.as_bytes()).unwrap_err());
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "{name}: {:?}",
            start.elapsed()
        );
        assert!(message.len() <= SCREEN, "{name}: {message}");
    }
}

#[test]
fn mutated_certificates_signed_anew_are_read_or_refused() {
    let mut random = Random::from_environment("attack-trust certificates");
    let rounds: usize = std::env::var("MODELFS_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(4000);
    let root = Authority::new("root");
    let trusted = anchor(&[root.root()]);
    let names = seq(&[
        &tlv(0x81, &[b"a@b"]),
        &tlv(0x82, &[b"a.b"]),
        &tlv(0x86, &[b"spiffe://a/b"]),
        &tlv(0x87, &[b"\x7f\0\0\x01"]),
        &tlv(0x88, &[b"\x2a\x03\x04"]),
        &tlv(0xa4, &[&cn("dir")]),
        &tlv(0xa0, &[b"\x06\x03\x2a\x03\x04", &tlv(0xa0, &[b"\x05\x00"])]),
    ]);
    let subject = seq(&[
        &rdn(b"\x55\x04\x0a", 19, b"org"),
        &rdn(b"\x2a\x03\x04", 30, b"\0x"),
        &rdn(b"\x55\x04\x03", 12, b"signer"),
    ]);
    let good = root
        .leaf(
            &p256(),
            subject,
            vec![ext(SAN, false, &names), root.ski(), ext(BASIC, true, &seq(&[]))],
        )
        .sign(&root.key);
    assert!(trusted.verify(&good, &[], NOW).is_ok());
    // The outer sequence and the signed part both have a length of two bytes.
    let length = 4 + usize::from(good[6]) * 256 + usize::from(good[7]);
    let tbs = &good[4..4 + length];
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..rounds {
        let mut mutant = tbs.to_vec();
        for _ in 0..=random.within(0..2) {
            let at = random.within(4..mutant.len());
            match random.within(0..4) {
                0 => mutant[at] ^= 1 << random.within(0..8),
                1 => mutant[at] = [0, 1, 0x7f, 0x80, 0xff, 0x30, 0x06, 0x0c, 0x1e][random.within(0..9)],
                2 => drop(mutant.remove(at)),
                _ => mutant.insert(at, [0, 0x80, 0xff, 0x30, 0x05][random.within(0..5)]),
            }
        }
        let content = mutant.len() - 4;
        mutant[2] = (content >> 8) as u8;
        mutant[3] = (content & 0xff) as u8;
        let signature = root.key.sign(&mutant).unwrap();
        let der = seq(&[&mutant, ECDSA_SHA256, &tlv(3, &[b"\0", &signature])]);
        let said = match trusted.verify(&der, &[], NOW) {
            Ok(leaf) => {
                accepted += 1;
                format!("{} {:?}", leaf.signer(), leaf.signer())
            }
            Err(refusal) => {
                refused += 1;
                refusal.to_string()
            }
        };
        assert!(
            !said.contains(|c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}')),
            "{said:?}"
        );
    }
    assert!(
        accepted > rounds / 100 && refused > rounds / 100,
        "{accepted} accepted, {refused} refused"
    );
}

#[test]
fn a_pinned_subject_is_the_whole_subject() {
    let root = Authority::new("root");
    let pinned = anchor(&[root.root()]).with_identity(CertificateIdentity::parse("subject:CN=A").unwrap());
    let part = |text: &[u8]| rdn(b"\x55\x04\x03", 12, text);
    let attribute = |text: &[u8]| seq(&[b"\x06\x03\x55\x04\x03", &tlv(12, &[text])]);
    let cases: Vec<(&str, bool, Vec<u8>)> = vec![
        ("alone", true, seq(&[&part(b"A")])),
        ("with another part", false, seq(&[&part(b"A"), &part(b"B")])),
        // Of these, others read the rest too: OpenSSL and Go take an empty set for a part without attributes.
        (
            "with another part behind an empty one",
            false,
            seq(&[&part(b"A"), &tlv(0x31, &[]), &part(b"B")]),
        ),
        ("with an empty part", false, seq(&[&part(b"A"), &tlv(0x31, &[])])),
        (
            "with something that is no part",
            false,
            seq(&[&part(b"A"), b"\x05\x00", &part(b"B")]),
        ),
        ("with bytes that are nothing", false, seq(&[&part(b"A"), b"\xff"])),
        (
            "with an attribute that is none",
            false,
            seq(&[&tlv(0x31, &[&attribute(b"A"), b"\x05\x00"])]),
        ),
        (
            "with an attribute without value",
            false,
            seq(&[&tlv(0x31, &[&attribute(b"A"), &seq(&[b"\x06\x03\x55\x04\x03"])])]),
        ),
        (
            "with two values",
            false,
            seq(&[&tlv(
                0x31,
                &[&seq(&[
                    b"\x06\x03\x55\x04\x03",
                    &tlv(12, &[b"A"]),
                    &tlv(12, &[b"B"]),
                ])],
            )]),
        ),
        (
            "in a sequence for a set",
            false,
            seq(&[&seq(&[&attribute(b"A")])]),
        ),
        (
            "with a padded identifier",
            false,
            seq(&[&tlv(
                0x31,
                &[&seq(&[b"\x06\x04\x55\x04\x80\x03", &tlv(12, &[b"A"])])],
            )]),
        ),
        (
            "with another class of identifier",
            false,
            seq(&[&tlv(0x31, &[&seq(&[b"\x86\x03\x55\x04\x03", &tlv(12, &[b"A"])])])]),
        ),
        (
            "with another class of text",
            false,
            seq(&[&tlv(
                0x31,
                &[&seq(&[b"\x06\x03\x55\x04\x03", &tlv(0x8c, &[b"A"])])],
            )]),
        ),
        (
            "in parts of text",
            false,
            seq(&[&tlv(
                0x31,
                &[&seq(&[b"\x06\x03\x55\x04\x03", &tlv(0x2c, &[b"A"])])],
            )]),
        ),
    ];
    let wrong: Vec<&str> = cases
        .into_iter()
        .filter(|(_, want, subject)| {
            let leaf = root.leaf(&p256(), subject.clone(), vec![]).sign(&root.key);
            pinned.verify(&leaf, &[], NOW).is_ok() != *want
        })
        .map(|(name, ..)| name)
        .collect();
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn purposes_are_read_to_their_end() {
    let root = Authority::new("root");
    let trusted = anchor(&[root.root()]);
    let (sign, any) = (tlv(6, &[CODE_SIGNING]), tlv(6, &[ANY_PURPOSE]));
    let san = |names: &[&[u8]]| ext(SAN, false, &seq(names));
    let email = tlv(0x81, &[b"a@b"]);
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        (
            "any purpose behind something else",
            vec![ext(EKU, false, &seq(&[&sign, b"\x05\x00", &any]))],
        ),
        (
            "any purpose behind nothing",
            vec![ext(EKU, false, &seq(&[&sign, b"\xff", &any]))],
        ),
        (
            "a purpose that is no identifier",
            vec![ext(EKU, false, &seq(&[&tlv(4, &[CODE_SIGNING])]))],
        ),
        (
            "a name behind nothing",
            vec![ext(EKU, false, &seq(&[&sign])), san(&[&email, b"\xff"])],
        ),
        (
            "a name behind something else",
            vec![
                ext(EKU, false, &seq(&[&sign])),
                san(&[&email, b"\x05\x00", &email]),
            ],
        ),
        (
            "a constraint that is critical in no way that DER has",
            vec![
                ext(EKU, false, &seq(&[&sign])),
                seq(&[b"\x06\x03\x2a\x03\x04", b"\x01\x01\x01", b"\x04\x02\x05\x00"]),
            ],
        ),
        (
            "a constraint that is critical twice",
            vec![
                ext(EKU, false, &seq(&[&sign])),
                seq(&[
                    b"\x06\x03\x2a\x03\x04",
                    b"\x01\x01\x00\x01\x01\xff",
                    b"\x04\x02\x05\x00",
                ]),
            ],
        ),
        (
            "a constraint whose value is text",
            vec![
                ext(EKU, false, &seq(&[&sign])),
                seq(&[b"\x06\x03\x2a\x03\x04", b"\x0c\x01A"]),
            ],
        ),
    ];
    let accepted: Vec<&str> = cases
        .into_iter()
        .filter(|(_, extensions)| {
            let mut parts = root.leaf(&p256(), cn("A"), vec![]);
            parts.extensions.remove(1);
            parts.extensions.extend(extensions.iter().cloned());
            trusted.verify(&parts.sign(&root.key), &[], NOW).is_ok()
        })
        .map(|(name, _)| name)
        .collect();
    assert_eq!(accepted, [""; 0]);
}
