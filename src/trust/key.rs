//! Public keys of signers: ECDSA on the three NIST curves that OMS has (algorithm registry).
//!
//! A [`PublicKey`] is on its curve and its curve fixes the hash, so a bundle has no say in how its own
//! signature is checked. Nothing here trusts a key; that is the operator's doing.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::digest::Digest;
use aws_lc_rs::signature;
use aws_lc_rs::signature::EcdsaVerificationAlgorithm;
use aws_lc_rs::signature::ParsedPublicKey;
use data_encoding::HEXLOWER;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::digest::sha256;
use crate::path::Escaped;
use crate::trust::pem;
use crate::trust::pem::PemError;

/// A signer's public key.
#[derive(Clone)]
pub struct PublicKey {
    curve: Curve,
    spki: Vec<u8>,
    fingerprint: String,
}

impl PublicKey {
    /// Takes a key from a PEM file that holds one `PUBLIC KEY` block.
    ///
    /// # Errors
    /// Refuses other blocks, several keys, and every key that OMS does not have.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let blocks = pem::parse(text).map_err(KeyError::Pem)?;
        match blocks.as_slice() {
            [] => Err(KeyError::NoKey),
            [block] if block.label == SPKI_LABEL => Self::from_spki(&block.der),
            [block] => Err(KeyError::OtherBlock {
                label: block.label.clone(),
            }),
            _ => Err(KeyError::SeveralBlocks { count: blocks.len() }),
        }
    }

    /// Takes a key from a DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// Refuses every key that OMS does not have.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let (curve, point) = Curve::ALL
            .iter()
            .find_map(|&curve| Some((curve, der.strip_prefix(curve.spki_prefix())?)))
            .ok_or_else(|| KeyError::describe(der))?;
        if point.first() != Some(&UNCOMPRESSED) || point.len() != curve.point_bytes() {
            return Err(KeyError::PointForm { curve });
        }
        ParsedPublicKey::new(curve.verification(curve.hash_function()), point)
            .map_err(|_| KeyError::NotOnCurve { curve })?;
        Ok(Self {
            curve,
            spki: der.to_vec(),
            fingerprint: HEXLOWER.encode(&sha256(pem::encode(SPKI_LABEL, der).as_bytes())),
        })
    }

    /// What bundles call this key in their hint: lower-case SHA-256 of its PEM text, not of its DER.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The curve it is on.
    pub fn curve(&self) -> Curve {
        self.curve
    }

    /// SHA-256 of its DER SubjectPublicKeyInfo, in lower-case hexadecimal.
    pub fn spki_sha256(&self) -> String {
        HEXLOWER.encode(&sha256(&self.spki))
    }

    /// Checks a DER signature over a message, hashed as the curve says.
    ///
    /// # Errors
    /// Refuses what this key did not sign, and every signature that is not strict DER.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        self.verify_digest(&self.curve.hash_function().digest(message), signature)
    }

    /// Checks a DER signature over a digest.
    pub(super) fn verify_digest(&self, digest: &Digest, signature: &[u8]) -> Result<(), BadSignature> {
        let hash = HashFunction::of(digest).ok_or(BadSignature)?;
        let point = self
            .spki
            .get(self.curve.spki_prefix().len()..)
            .unwrap_or_default();
        signature::UnparsedPublicKey::new(self.curve.verification(hash), point)
            .verify_digest(digest, signature)
            .map_err(|_| BadSignature)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key {}", self.curve, self.fingerprint)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The label of a key in PEM (RFC 7468, section 13).
const SPKI_LABEL: &str = "PUBLIC KEY";

/// First byte of a point that states both coordinates (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// A curve that OMS signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// secp256r1, with SHA-256.
    P256,
    /// secp384r1, with SHA-384.
    P384,
    /// secp521r1, with SHA-512.
    P521,
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// The one hash function that OMS uses with the curve.
    pub(super) const fn hash_function(self) -> HashFunction {
        match self {
            Self::P256 => HashFunction::Sha256,
            Self::P384 => HashFunction::Sha384,
            Self::P521 => HashFunction::Sha512,
        }
    }

    /// How a signature with the curve and this hash function is checked.
    pub(super) const fn verification(self, hash: HashFunction) -> &'static EcdsaVerificationAlgorithm {
        match (self, hash) {
            (Self::P256, HashFunction::Sha256) => &signature::ECDSA_P256_SHA256_ASN1,
            (Self::P256, HashFunction::Sha384) => &signature::ECDSA_P256_SHA384_ASN1,
            (Self::P256, HashFunction::Sha512) => &signature::ECDSA_P256_SHA512_ASN1,
            (Self::P384, HashFunction::Sha256) => &signature::ECDSA_P384_SHA256_ASN1,
            (Self::P384, HashFunction::Sha384) => &signature::ECDSA_P384_SHA384_ASN1,
            (Self::P384, HashFunction::Sha512) => &signature::ECDSA_P384_SHA512_ASN1,
            (Self::P521, HashFunction::Sha256) => &signature::ECDSA_P521_SHA256_ASN1,
            (Self::P521, HashFunction::Sha384) => &signature::ECDSA_P521_SHA384_ASN1,
            (Self::P521, HashFunction::Sha512) => &signature::ECDSA_P521_SHA512_ASN1,
        }
    }

    /// Everything before the point in the DER SubjectPublicKeyInfo of an uncompressed key. DER has one
    /// spelling for it (RFC 5480, named curve), so comparing is stricter than parsing.
    const fn spki_prefix(self) -> &'static [u8] {
        match self {
            Self::P256 => {
                b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\
                  \x03\x42\x00"
            }
            Self::P384 => {
                b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00"
            }
            Self::P521 => {
                b"\x30\x81\x9b\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23\
                  \x03\x81\x86\x00"
            }
        }
    }

    /// Length of an uncompressed point in bytes.
    const fn point_bytes(self) -> usize {
        match self {
            Self::P256 => 65,
            Self::P384 => 97,
            Self::P521 => 133,
        }
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        })
    }
}

/// A hash function that signatures are made over. The digests of a model's files are another matter:
/// [`crate::digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HashFunction {
    Sha256,
    Sha384,
    Sha512,
}

impl HashFunction {
    pub(super) fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    pub(super) fn digest(self, message: &[u8]) -> Digest {
        digest::digest(self.algorithm(), message)
    }

    fn of(digest: &Digest) -> Option<Self> {
        [Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|hash| hash.algorithm() == digest.algorithm())
    }
}

/// A signature that this key did not make over these bytes. Why not is nobody's business: telling the
/// reasons apart helps only those who forge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSignature;

impl fmt::Display for BadSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the signature does not match")
    }
}

impl std::error::Error for BadSignature {}

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The file is not PEM.
    Pem(PemError),
    /// The file has no PEM block.
    NoKey,
    /// The file's block is not a public key.
    OtherBlock {
        /// What its first line calls it.
        label: String,
    },
    /// The file holds more than one block.
    SeveralBlocks {
        /// How many.
        count: usize,
    },
    /// The bytes are not a SubjectPublicKeyInfo.
    NotAKey,
    /// The key is of a kind that OMS does not sign with.
    OtherKind {
        /// The object identifiers of its algorithm and, for elliptic curves, of its curve.
        kind: String,
    },
    /// The key is not stated as an uncompressed point of full length.
    PointForm {
        /// The curve it is said to be on.
        curve: Curve,
    },
    /// The point is not on the curve.
    NotOnCurve {
        /// The curve it is said to be on.
        curve: Curve,
    },
}

impl KeyError {
    /// Says what a key that is none of ours is.
    fn describe(der: &[u8]) -> Self {
        let Ok((rest, spki)) = SubjectPublicKeyInfo::from_der(der) else {
            return Self::NotAKey;
        };
        if !rest.is_empty() {
            return Self::NotAKey;
        }
        let curve = spki.algorithm.parameters.and_then(|p| p.oid().ok());
        let algorithm = spki.algorithm.algorithm.to_id_string();
        let curve = curve.map(|oid| oid.to_id_string());
        let name = match (algorithm.as_str(), curve.as_deref()) {
            ("1.2.840.113549.1.1.1", _) => "RSA",
            ("1.3.101.112", _) => "Ed25519",
            ("1.2.840.10045.2.1", Some("1.3.132.0.10")) => "elliptic curve secp256k1",
            ("1.2.840.10045.2.1", None) => "elliptic curve with explicit parameters",
            ("1.2.840.10045.2.1", Some(curve)) => {
                return Self::OtherKind {
                    kind: format!("elliptic curve {curve}"),
                };
            }
            (algorithm, _) => {
                return Self::OtherKind {
                    kind: format!("algorithm {algorithm}"),
                };
            }
        };
        Self::OtherKind { kind: name.into() }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(_) => write!(f, "the public key is not PEM"),
            Self::NoKey => write!(f, "no PEM block: expected -----BEGIN {SPKI_LABEL}-----"),
            Self::OtherBlock { label } if label.ends_with("PRIVATE KEY") => {
                write!(
                    f,
                    "this is a private key: give the public one (openssl pkey -pubout)"
                )
            }
            Self::OtherBlock { label } => {
                write!(
                    f,
                    "expected a PEM block {SPKI_LABEL}, found {}",
                    Escaped(label.as_bytes())
                )
            }
            Self::SeveralBlocks { count } => {
                write!(f, "{count} PEM blocks: expected one public key in a file")
            }
            Self::NotAKey => write!(f, "the public key is not a SubjectPublicKeyInfo"),
            Self::OtherKind { kind } => {
                write!(
                    f,
                    "the key is {kind}: only ECDSA on P-256, P-384 and P-521 is used"
                )
            }
            Self::PointForm { curve } => {
                write!(f, "the {curve} key is not an uncompressed point of full length")
            }
            Self::NotOnCurve { curve } => write!(f, "the key is not a point on {curve}"),
        }
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Pem(cause) => Some(cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::EcdsaKeyPair;
    use aws_lc_rs::signature::EcdsaSigningAlgorithm;
    use aws_lc_rs::signature::Ed25519KeyPair;
    use aws_lc_rs::signature::KeyPair as _;

    const SIGNERS: [(Curve, &EcdsaSigningAlgorithm); 3] = [
        (Curve::P256, &signature::ECDSA_P256_SHA256_ASN1_SIGNING),
        (Curve::P384, &signature::ECDSA_P384_SHA384_ASN1_SIGNING),
        (Curve::P521, &signature::ECDSA_P521_SHA512_ASN1_SIGNING),
    ];

    fn spki(pair: &EcdsaKeyPair) -> Vec<u8> {
        pair.public_key().as_der().unwrap().as_ref().to_vec()
    }

    #[test]
    fn a_key_checks_what_its_owner_signed_and_nothing_else() {
        for (curve, algorithm) in SIGNERS {
            let pair = EcdsaKeyPair::generate(algorithm).unwrap();
            let other = EcdsaKeyPair::generate(algorithm).unwrap();
            let key = PublicKey::from_pem(pem::encode("PUBLIC KEY", &spki(&pair)).as_bytes()).unwrap();
            let other = PublicKey::from_spki(&spki(&other)).unwrap();
            assert_eq!(key.curve(), curve);
            let signature = pair.sign(&SystemRandom::new(), b"message").unwrap();
            let signature = signature.as_ref();
            assert_eq!(key.verify(b"message", signature), Ok(()));
            assert_eq!(other.verify(b"message", signature), Err(BadSignature));
            assert_eq!(key.verify(b"massage", signature), Err(BadSignature));
            let longer = [signature, b"\0"].concat();
            let shorter = signature.split_last().unwrap().1;
            let negative = b"\x30\x06\x02\x01\x00\x02\x01\x00".as_slice();
            for bad in [&longer, shorter, negative, b""] {
                assert_eq!(key.verify(b"message", bad), Err(BadSignature), "{bad:02x?}");
            }
        }
    }

    #[test]
    fn a_signature_over_another_hash_is_refused() {
        let mistaken: [(&EcdsaSigningAlgorithm, Curve); 2] = [
            (&signature::ECDSA_P384_SHA3_384_ASN1_SIGNING, Curve::P384),
            (&signature::ECDSA_P521_SHA256_ASN1_SIGNING, Curve::P521),
        ];
        for (algorithm, curve) in mistaken {
            let pair = EcdsaKeyPair::generate(algorithm).unwrap();
            let key = PublicKey::from_spki(&spki(&pair)).unwrap();
            assert_eq!(key.curve(), curve);
            let signature = pair.sign(&SystemRandom::new(), b"message").unwrap();
            assert_eq!(key.verify(b"message", signature.as_ref()), Err(BadSignature));
        }
    }

    #[test]
    fn keys_that_oms_does_not_have_are_refused_by_name() {
        let mut good = spki(&EcdsaKeyPair::generate(SIGNERS[0].1).unwrap());
        let ed25519 = Ed25519KeyPair::generate().unwrap();
        let ed25519 = ed25519.public_key().as_der().unwrap();
        let k1 = spki(&EcdsaKeyPair::generate(&signature::ECDSA_P256K1_SHA256_ASN1_SIGNING).unwrap());
        let other_kind = |kind: &str| KeyError::OtherKind { kind: kind.into() };
        let point_form = KeyError::PointForm { curve: Curve::P256 };
        let longer = [good.as_slice(), b"\0"].concat();
        let shorter = good.split_last().unwrap().1.to_vec();
        assert!(PublicKey::from_spki(&good).is_ok());
        let last = good.len() - 1;
        good[last] ^= 1;
        let cases: &[(&[u8], KeyError)] = &[
            (b"", KeyError::NotAKey),
            (b"\x30\x00", KeyError::NotAKey),
            (&longer, point_form.clone()),
            (&shorter, point_form),
            (&good, KeyError::NotOnCurve { curve: Curve::P256 }),
            (ed25519.as_ref(), other_kind("Ed25519")),
            (&k1, other_kind("elliptic curve secp256k1")),
        ];
        for (der, want) in cases {
            assert_eq!(PublicKey::from_spki(der).unwrap_err(), *want);
        }
    }

    #[test]
    fn a_file_holds_one_public_key() {
        let key = pem::encode(
            "PUBLIC KEY",
            &spki(&EcdsaKeyPair::generate(SIGNERS[0].1).unwrap()),
        );
        let private = pem::encode("EC PRIVATE KEY", b"x");
        let cases = [
            (String::new(), "no PEM block"),
            (private, "this is a private key"),
            (pem::encode("CERTIFICATE", b"x"), "found CERTIFICATE"),
            (key.repeat(2), "2 PEM blocks"),
        ];
        for (text, want) in cases {
            let error = PublicKey::from_pem(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    /// A key made by `openssl genpkey`, and the hint that version 1.1.1 of the reference tool wrote for it.
    #[test]
    fn the_fingerprint_is_the_hint_of_the_reference_tool() {
        let pem = "-----BEGIN PUBLIC KEY-----\n\
                   MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEF0TchthCRvhQokssZRFS+PbBnaeU\n\
                   CuKn6VUfp63vg2XcvRN0zz/quNNUhe+sqv42/k/Zo2IQaD3dD92Xf/wsBA==\n\
                   -----END PUBLIC KEY-----\n";
        let hint = "32e08d4efb080a3fd0dc236d2379ce1c558e8acc3e443be12a056dc0fa126b9c";
        for text in [pem.to_owned(), pem.replace('\n', "\r\n"), format!("words\n{pem}")] {
            let key = PublicKey::from_pem(text.as_bytes()).unwrap();
            assert_eq!(key.fingerprint(), hint);
        }
    }
}
