//! Signatures of authorities under certificates.

use std::ops::RangeInclusive;

use aws_lc_rs::signature;
use aws_lc_rs::signature::VerificationAlgorithm;
use x509_parser::signature_algorithm::SignatureAlgorithm as Parsed;
use x509_parser::x509::AlgorithmIdentifier;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::trust::chain::certificate::Flaw;
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
mod tests {
    use super::*;

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
