//! Signatures of authorities under certificates.

use std::ops::RangeInclusive;

use aws_lc_rs::signature;
use aws_lc_rs::signature::VerificationAlgorithm;
use x509_parser::signature_algorithm::SignatureAlgorithm as Parsed;
use x509_parser::x509::AlgorithmIdentifier;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::trust::chain::flaw::Flaw;
use crate::trust::key::BadSignature;
use crate::trust::key::HashFunction;
use crate::trust::key::KeyError;
use crate::trust::key::PublicKey;

/// RSA keys that are used, in bits of their modulus. Shorter ones can be factored; longer ones make a
/// check take seconds.
pub(super) const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

/// How a certificate is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignatureAlgorithm {
    Rsa(HashFunction),
    RsaPss(HashFunction),
    Ecdsa(HashFunction),
    Ed25519,
}

impl SignatureAlgorithm {
    pub(super) fn of(identifier: &AlgorithmIdentifier<'_>) -> Result<Self, Flaw> {
        let oid = identifier.algorithm.to_id_string();
        let parameters = identifier.parameters.as_ref();
        let null = parameters.is_some_and(|p| p.data.is_empty() && p.tag().0 == NULL_TAG);
        let unknown = || Flaw::SignatureAlgorithm { oid: oid.clone() };
        // RFC 4055 and 8410: RSA has NULL parameters, ECDSA and Ed25519 have none.
        match oid.as_str() {
            "1.2.840.113549.1.1.11" if null => Ok(Self::Rsa(HashFunction::Sha256)),
            "1.2.840.113549.1.1.12" if null => Ok(Self::Rsa(HashFunction::Sha384)),
            "1.2.840.113549.1.1.13" if null => Ok(Self::Rsa(HashFunction::Sha512)),
            "1.2.840.113549.1.1.10" => pss(identifier).ok_or_else(unknown),
            "1.2.840.10045.4.3.2" if parameters.is_none() => Ok(Self::Ecdsa(HashFunction::Sha256)),
            "1.2.840.10045.4.3.3" if parameters.is_none() => Ok(Self::Ecdsa(HashFunction::Sha384)),
            "1.2.840.10045.4.3.4" if parameters.is_none() => Ok(Self::Ecdsa(HashFunction::Sha512)),
            "1.3.101.112" if parameters.is_none() => Ok(Self::Ed25519),
            _ => Err(unknown()),
        }
    }
}

const NULL_TAG: u32 = 5;

/// RSASSA-PSS, only with one hash function throughout and a salt of its length, as every authority uses it.
fn pss(identifier: &AlgorithmIdentifier<'_>) -> Option<SignatureAlgorithm> {
    let Ok(Parsed::RSASSA_PSS(parameters)) = Parsed::try_from(identifier) else {
        return None;
    };
    let (oid, hash, salt) = [
        ("2.16.840.1.101.3.4.2.1", HashFunction::Sha256, 32),
        ("2.16.840.1.101.3.4.2.2", HashFunction::Sha384, 48),
        ("2.16.840.1.101.3.4.2.3", HashFunction::Sha512, 64),
    ]
    .into_iter()
    .find(|(oid, ..)| parameters.hash_algorithm_oid().to_id_string() == *oid)?;
    let mask = parameters.mask_gen_algorithm().ok()?;
    let usual = mask.mgf.to_id_string() == "1.2.840.113549.1.1.8"
        && mask.hash.to_id_string() == oid
        && parameters.salt_length() == salt
        && parameters.trailer_field() == 1;
    usual.then_some(SignatureAlgorithm::RsaPss(hash))
}

/// The key of a certificate's subject, of a kind that may sign certificates.
#[derive(Clone, Debug)]
pub(super) enum SubjectKey {
    Ecdsa(PublicKey),
    /// A DER RSAPublicKey (RFC 8017, A.1.1).
    Rsa(Vec<u8>),
    /// The 32 bytes of the key (RFC 8410).
    Ed25519(Vec<u8>),
}

impl SubjectKey {
    pub(super) fn of(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, Flaw> {
        let bits = &spki.subject_public_key;
        let parameters = spki.algorithm.parameters.as_ref();
        let whole_bytes = bits.unused_bits == 0;
        match spki.algorithm.algorithm.to_id_string().as_str() {
            "1.2.840.113549.1.1.1" if whole_bytes => {
                let null = parameters.is_some_and(|p| p.data.is_empty() && p.tag().0 == NULL_TAG);
                let Ok(x509_parser::public_key::PublicKey::RSA(rsa)) = spki.parsed() else {
                    return Err(Flaw::Key(KeyError::NotAKey));
                };
                if !null {
                    return Err(Flaw::Key(KeyError::NotAKey));
                }
                let bits_of_modulus = significant_bits(rsa.modulus);
                if !RSA_BITS.contains(&bits_of_modulus) || !bits_of_modulus.is_multiple_of(8) {
                    return Err(Flaw::RsaBits {
                        bits: bits_of_modulus,
                    });
                }
                Ok(Self::Rsa(bits.data.to_vec()))
            }
            "1.3.101.112" if whole_bytes && parameters.is_none() && bits.data.len() == 32 => {
                Ok(Self::Ed25519(bits.data.to_vec()))
            }
            _ => PublicKey::from_spki(spki.raw).map(Self::Ecdsa).map_err(Flaw::Key),
        }
    }

    /// Checks that this key signed the message in this way.
    pub(super) fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        let (key, algorithm): (_, &'static dyn VerificationAlgorithm) = match (self, algorithm) {
            (Self::Ecdsa(key), SignatureAlgorithm::Ecdsa(hash)) => {
                return key.verify_digest(&hash.digest(message), signature);
            }
            (Self::Rsa(key), SignatureAlgorithm::Rsa(hash)) => (
                key,
                match hash {
                    HashFunction::Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    HashFunction::Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    HashFunction::Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                },
            ),
            (Self::Rsa(key), SignatureAlgorithm::RsaPss(hash)) => (
                key,
                match hash {
                    HashFunction::Sha256 => &signature::RSA_PSS_2048_8192_SHA256,
                    HashFunction::Sha384 => &signature::RSA_PSS_2048_8192_SHA384,
                    HashFunction::Sha512 => &signature::RSA_PSS_2048_8192_SHA512,
                },
            ),
            (Self::Ed25519(key), SignatureAlgorithm::Ed25519) => (key, &signature::ED25519),
            // A key of one kind signs nothing of another, whatever the certificate says.
            (Self::Ecdsa(_) | Self::Rsa(_) | Self::Ed25519(_), _) => return Err(BadSignature),
        };
        signature::UnparsedPublicKey::new(algorithm, key)
            .verify(message, signature)
            .map_err(|_| BadSignature)
    }
}

fn significant_bits(big_endian: &[u8]) -> usize {
    let mut bytes = big_endian.iter().skip_while(|&&b| b == 0);
    match bytes.next() {
        None => 0,
        Some(first) => {
            let leading: usize = first.leading_zeros().try_into().unwrap_or(0);
            8 - leading + 8 * bytes.count()
        }
    }
}

#[cfg(test)]
mod wycheproof;

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::KeyPair as _;
    use aws_lc_rs::signature::RsaKeyPair;
    use x509_parser::prelude::FromDer as _;

    /// One DER element.
    fn der(tag: u8, content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        let length = u16::try_from(content.len()).unwrap();
        let [high, low] = length.to_be_bytes();
        let header = match length {
            0..0x80 => vec![tag, low],
            0x80..0x100 => vec![tag, 0x81, low],
            _ => vec![tag, 0x82, high, low],
        };
        [header, content].concat()
    }

    const SEQUENCE: u8 = 0x30;
    const INTEGER: u8 = 2;
    const NULL: &[u8] = b"\x05\x00";
    const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
    const PSS: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";
    const MGF1: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08";
    pub(super) const SHA1: &[u8] = b"\x06\x05\x2b\x0e\x03\x02\x1a";
    pub(super) const SHA256: &[u8] = b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01";
    pub(super) const SHA384: &[u8] = b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02";
    pub(super) const SHA512: &[u8] = b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03";

    fn algorithm(parts: &[&[u8]]) -> Result<SignatureAlgorithm, Flaw> {
        let text = der(SEQUENCE, parts);
        let (rest, identifier) = AlgorithmIdentifier::from_der(&text).unwrap();
        assert!(rest.is_empty());
        SignatureAlgorithm::of(&identifier)
    }

    pub(super) fn pss_with(hash: &[u8], mask_hash: &[u8], salt: u8) -> Result<SignatureAlgorithm, Flaw> {
        let hash = der(SEQUENCE, &[hash, NULL]);
        let mask = der(SEQUENCE, &[MGF1, &der(SEQUENCE, &[mask_hash, NULL])]);
        let salt = der(INTEGER, &[&[salt]]);
        let parameters = [der(0xa0, &[&hash]), der(0xa1, &[&mask]), der(0xa2, &[&salt])].concat();
        algorithm(&[PSS, &der(SEQUENCE, &[&parameters])])
    }

    #[test]
    fn weak_and_unusual_algorithms_are_refused_by_number() {
        let rsa = |last: u8| [b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01".as_slice(), &[last]].concat();
        let ecdsa = |last: u8| [b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03".as_slice(), &[last]].concat();
        let refused = |oid: &str| Err(Flaw::SignatureAlgorithm { oid: oid.into() });
        let ed25519 = b"\x06\x03\x2b\x65\x70".as_slice();
        let cases: Vec<(&str, Vec<u8>, Result<SignatureAlgorithm, Flaw>)> = vec![
            (
                "MD5 with RSA",
                [rsa(4).as_slice(), NULL].concat(),
                refused("1.2.840.113549.1.1.4"),
            ),
            (
                "SHA-1 with RSA",
                [rsa(5).as_slice(), NULL].concat(),
                refused("1.2.840.113549.1.1.5"),
            ),
            (
                "SHA-256 with RSA",
                [rsa(11).as_slice(), NULL].concat(),
                Ok(SignatureAlgorithm::Rsa(HashFunction::Sha256)),
            ),
            (
                "SHA-384 with RSA",
                [rsa(12).as_slice(), NULL].concat(),
                Ok(SignatureAlgorithm::Rsa(HashFunction::Sha384)),
            ),
            (
                "SHA-512 with RSA",
                [rsa(13).as_slice(), NULL].concat(),
                Ok(SignatureAlgorithm::Rsa(HashFunction::Sha512)),
            ),
            ("without NULL", rsa(11), refused("1.2.840.113549.1.1.11")),
            (
                "with a number for NULL",
                [rsa(11).as_slice(), b"\x02\x01\x00"].concat(),
                refused("1.2.840.113549.1.1.11"),
            ),
            (
                "SHA-224 with RSA",
                [rsa(14).as_slice(), NULL].concat(),
                refused("1.2.840.113549.1.1.14"),
            ),
            (
                "SHA-1 with ECDSA",
                b"\x06\x07\x2a\x86\x48\xce\x3d\x04\x01".to_vec(),
                refused("1.2.840.10045.4.1"),
            ),
            ("SHA-224 with ECDSA", ecdsa(1), refused("1.2.840.10045.4.3.1")),
            (
                "SHA-256 with ECDSA",
                ecdsa(2),
                Ok(SignatureAlgorithm::Ecdsa(HashFunction::Sha256)),
            ),
            (
                "SHA-256 with ECDSA and NULL",
                [ecdsa(2).as_slice(), NULL].concat(),
                refused("1.2.840.10045.4.3.2"),
            ),
            ("Ed25519", ed25519.to_vec(), Ok(SignatureAlgorithm::Ed25519)),
            (
                "Ed25519 and NULL",
                [ed25519, NULL].concat(),
                refused("1.3.101.112"),
            ),
            (
                "PSS without parameters",
                PSS.to_vec(),
                refused("1.2.840.113549.1.1.10"),
            ),
            (
                // Defaults: SHA-1 throughout.
                "PSS with empty parameters",
                [PSS, b"\x30\x00"].concat(),
                refused("1.2.840.113549.1.1.10"),
            ),
        ];
        for (name, content, want) in cases {
            assert_eq!(algorithm(&[&content]), want, "{name}");
        }
    }

    #[test]
    fn pss_has_one_hash_and_a_salt_of_its_length() {
        for (hash, function, salt) in [
            (SHA256, HashFunction::Sha256, 32),
            (SHA384, HashFunction::Sha384, 48),
            (SHA512, HashFunction::Sha512, 64),
        ] {
            assert_eq!(
                pss_with(hash, hash, salt),
                Ok(SignatureAlgorithm::RsaPss(function))
            );
            for (other_hash, other_salt) in [
                (hash, salt - 1),
                (hash, salt + 1),
                (hash, 0),
                (hash, 20),
                (SHA1, salt),
            ] {
                assert!(
                    pss_with(hash, other_hash, other_salt).is_err(),
                    "{function:?} {other_salt}"
                );
            }
        }
        assert!(pss_with(SHA1, SHA1, 20).is_err());
        assert!(pss_with(SHA256, SHA384, 32).is_err());
    }

    /// A SubjectPublicKeyInfo for an RSA modulus of so many bits.
    fn rsa_spki(bits: usize) -> Vec<u8> {
        let mut modulus = vec![0xff; bits.div_ceil(8)];
        let spare = 8 * modulus.len() - bits;
        modulus[0] >>= spare;
        if spare == 0 {
            modulus.insert(0, 0);
        }
        let key = der(SEQUENCE, &[&der(INTEGER, &[&modulus]), b"\x02\x03\x01\x00\x01"]);
        der(SEQUENCE, &[&der(SEQUENCE, &[RSA, NULL]), &der(3, &[b"\0", &key])])
    }

    fn subject_key(spki: &[u8]) -> Result<SubjectKey, Flaw> {
        let (rest, spki) = SubjectPublicKeyInfo::from_der(spki).unwrap();
        assert!(rest.is_empty());
        SubjectKey::of(&spki)
    }

    #[test]
    fn rsa_keys_have_a_length_that_is_neither_weak_nor_slow() {
        for (bits, want) in [
            (512, false),
            (1024, false),
            (2040, false),
            (2047, false),
            (2048, true),
            (2049, false),
            (2052, false),
            (3072, true),
            (4096, true),
            (8184, true),
            (8192, true),
            (8193, false),
            (8200, false),
            (16384, false),
        ] {
            let got = subject_key(&rsa_spki(bits)).map(drop);
            match want {
                true => assert_eq!(got, Ok(()), "{bits}"),
                false => assert_eq!(got, Err(Flaw::RsaBits { bits })),
            }
        }
    }

    #[test]
    fn a_key_checks_only_the_algorithm_that_is_named() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = pair.public_key().as_ref().to_vec();
        let key = SubjectKey::Rsa(public);
        let sign = |encoding: &'static dyn signature::RsaEncoding| {
            let mut bytes = vec![0; 256];
            pair.sign(encoding, &SystemRandom::new(), b"message", &mut bytes)
                .unwrap();
            bytes
        };
        let made: [(&'static dyn signature::RsaEncoding, SignatureAlgorithm); 6] = [
            (
                &signature::RSA_PKCS1_SHA256,
                SignatureAlgorithm::Rsa(HashFunction::Sha256),
            ),
            (
                &signature::RSA_PKCS1_SHA384,
                SignatureAlgorithm::Rsa(HashFunction::Sha384),
            ),
            (
                &signature::RSA_PKCS1_SHA512,
                SignatureAlgorithm::Rsa(HashFunction::Sha512),
            ),
            (
                &signature::RSA_PSS_SHA256,
                SignatureAlgorithm::RsaPss(HashFunction::Sha256),
            ),
            (
                &signature::RSA_PSS_SHA384,
                SignatureAlgorithm::RsaPss(HashFunction::Sha384),
            ),
            (
                &signature::RSA_PSS_SHA512,
                SignatureAlgorithm::RsaPss(HashFunction::Sha512),
            ),
        ];
        let others = [
            SignatureAlgorithm::Ecdsa(HashFunction::Sha256),
            SignatureAlgorithm::Ed25519,
        ];
        for (encoding, as_made) in made {
            let bytes = sign(encoding);
            for algorithm in made.iter().map(|(_, algorithm)| *algorithm).chain(others) {
                let got = key.verify(algorithm, b"message", &bytes);
                assert_eq!(got.is_ok(), algorithm == as_made, "{as_made:?} as {algorithm:?}");
            }
            assert_eq!(key.verify(as_made, b"massage", &bytes), Err(BadSignature));
        }
    }

    #[test]
    fn the_length_of_a_modulus_is_that_of_its_number() {
        for (bytes, want) in [
            (b"".as_slice(), 0),
            (b"\0\0", 0),
            (b"\x01", 1),
            (b"\0\x80", 8),
            (b"\x01\0", 9),
            (b"\0\xff\xff", 16),
        ] {
            assert_eq!(significant_bits(bytes), want);
        }
    }
}
