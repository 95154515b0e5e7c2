//! Certificates at the end of a path, as what somebody did with their keys.

use data_encoding::HEXLOWER;

use crate::trust::Signer;
use crate::trust::chain::ChainError;
use crate::trust::chain::certificate::Certificate;
use crate::trust::chain::certificate::Purpose;
use crate::trust::chain::name::AlternativeName;
use crate::trust::chain::signature::SignatureAlgorithm;
use crate::trust::chain::signature::SubjectKey;
use crate::trust::key::BadSignature;
use crate::trust::key::HashFunction;
use crate::trust::key::PublicKey;
use crate::trust::time::UnixTime;

/// A signer's certificate that a path to a trusted root vouches for.
#[derive(Clone, Debug)]
pub struct TrustedLeaf {
    key: PublicKey,
    signer: Signer,
}

impl TrustedLeaf {
    pub(super) fn new(key: PublicKey, leaf: &Certificate) -> Self {
        Self {
            key,
            signer: signer(leaf),
        }
    }

    /// The key that it is for.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Whose it is.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    pub(in crate::trust) fn into_signer(self) -> Signer {
        self.signer
    }
}

/// A time-stamping authority's certificate that a path to a trusted root vouches for.
#[derive(Debug)]
pub(in crate::trust) struct TrustedTimestamper {
    leaf: Certificate,
}

impl TrustedTimestamper {
    pub(super) fn new(leaf: Certificate) -> Self {
        Self { leaf }
    }

    /// Whose it is, as RFC 4514 writes it.
    pub(in crate::trust) fn subject(&self) -> &str {
        self.leaf.subject.as_str()
    }

    /// Checks that its key signed the message, hashed in this way, by the algorithm of this object identifier.
    pub(in crate::trust) fn verify(
        &self,
        algorithm: &str,
        hash: HashFunction,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        let named = match algorithm {
            // RFC 3370, 3.2: the key's own identifier, which leaves the hash to the other field.
            "1.2.840.113549.1.1.1" => SignatureAlgorithm::Rsa(hash),
            "1.2.840.113549.1.1.11" => SignatureAlgorithm::Rsa(HashFunction::Sha256),
            "1.2.840.113549.1.1.12" => SignatureAlgorithm::Rsa(HashFunction::Sha384),
            "1.2.840.113549.1.1.13" => SignatureAlgorithm::Rsa(HashFunction::Sha512),
            "1.2.840.10045.4.3.2" => SignatureAlgorithm::Ecdsa(HashFunction::Sha256),
            "1.2.840.10045.4.3.3" => SignatureAlgorithm::Ecdsa(HashFunction::Sha384),
            "1.2.840.10045.4.3.4" => SignatureAlgorithm::Ecdsa(HashFunction::Sha512),
            _ => return Err(BadSignature),
        };
        // Two fields name the hash; neither may be the one that nobody looked at.
        if ![SignatureAlgorithm::Rsa(hash), SignatureAlgorithm::Ecdsa(hash)].contains(&named) {
            return Err(BadSignature);
        }
        self.leaf.key.verify(named, message, signature)
    }
}

/// A signer's certificate whose chain somebody else checks. It keeps the same profile as any other, and nothing here
/// says that it may be trusted.
#[derive(Debug)]
pub(in crate::trust) struct ProfiledLeaf {
    leaf: Certificate,
    key: PublicKey,
}

impl ProfiledLeaf {
    /// Parses a certificate with a key that signs models.
    pub(in crate::trust) fn parse(der: &[u8]) -> Result<Self, ChainError> {
        let leaf = Certificate::parse(der).map_err(ChainError::unusable)?;
        let SubjectKey::Ecdsa(key) = &leaf.key else {
            return Err(ChainError::LeafKey {
                subject: leaf.subject.as_str().to_owned(),
            });
        };
        let key = key.clone();
        Ok(Self { leaf, key })
    }

    /// Checks that it may have signed a model at this time.
    pub(in crate::trust) fn check_at(&self, at: UnixTime) -> Result<(), ChainError> {
        self.leaf
            .check_leaf(at, Purpose::CodeSigning)
            .and_then(|()| self.leaf.check_issued())
            .map_err(|flaw| ChainError::flaw(&self.leaf, flaw))
    }

    /// Its key.
    pub(in crate::trust) fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The subject alternative names.
    pub(in crate::trust) fn names(&self) -> &[AlternativeName] {
        &self.leaf.alternative_names
    }

    /// The serial number in hexadecimal.
    pub(in crate::trust) fn serial(&self) -> &str {
        &self.leaf.serial
    }

    /// SHA-256 of the DER SubjectPublicKeyInfo in hexadecimal.
    pub(in crate::trust) fn spki_sha256(&self) -> String {
        HEXLOWER.encode(&self.leaf.spki_sha256)
    }
}

fn signer(leaf: &Certificate) -> Signer {
    Signer::Certificate {
        subject: leaf.subject.as_str().to_owned(),
        issuer: leaf.issuer.as_str().to_owned(),
        san: leaf.alternative_names.iter().map(ToString::to_string).collect(),
        serial: leaf.serial.clone(),
        spki_sha256: HEXLOWER.encode(&leaf.spki_sha256),
        not_before: leaf.not_before,
        not_after: leaf.not_after,
    }
}
