//! Trust: from a bundle and what the operator trusts to a manifest that may be served.
//!
//! [`TrustAnchors::verify`] is the only way to a [`TrustedManifest`], so holding one proves that a key, a
//! certificate or an identity that the operator named signed these very bytes. Nothing is trusted by default, no
//! file is opened here and no clock is read (but for the one that [`keyless`] tells of).

mod base64;
pub mod bundle;
pub mod chain;
mod dsse;
mod error;
mod evidence;
pub mod key;
pub mod keyless;
mod pem;
mod signer;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod time;
pub mod timestamp;

use crate::manifest::Format;
use crate::manifest::Manifest;
use crate::manifest::SignedContent;
use crate::manifest::SignedFile;
use crate::path::ModelPath;
use crate::trust::bundle::Material;
use crate::trust::chain::ProfiledLeaf;
use crate::trust::dsse::Digests;
use crate::trust::dsse::Envelope;
use crate::trust::dsse::Scheme;
use crate::trust::evidence::LogEntry;
use crate::trust::keyless::Brought;
use crate::trust::signer::quoted;

pub use crate::trust::base64::Base64Error;
pub use crate::trust::bundle::Bundle;
pub use crate::trust::bundle::BundleError;
pub use crate::trust::bundle::Method;
pub use crate::trust::chain::AnchorError;
pub use crate::trust::chain::CertificateAnchor;
pub use crate::trust::chain::CertificateIdentity;
pub use crate::trust::chain::CertificateTime;
pub use crate::trust::chain::ChainError;
pub use crate::trust::dsse::EnvelopeError;
pub use crate::trust::dsse::PAYLOAD_TYPE;
pub use crate::trust::error::TrustError;
pub use crate::trust::error::TrustErrorKind;
pub use crate::trust::evidence::EvidenceError;
pub use crate::trust::key::Curve;
pub use crate::trust::key::KeyError;
pub use crate::trust::key::PublicKey;
pub use crate::trust::keyless::KeylessAnchor;
pub use crate::trust::keyless::KeylessError;
pub use crate::trust::keyless::KeylessIdentity;
pub use crate::trust::keyless::RootDate;
pub use crate::trust::keyless::SigstoreRoot;
pub use crate::trust::pem::MAX_PEM_BYTES;
pub use crate::trust::pem::PemError;
pub use crate::trust::signer::Signer;
pub use crate::trust::time::SigningTime;
pub use crate::trust::time::TimeProof;
pub use crate::trust::time::UnixTime;
pub use crate::trust::time::Witness;
pub use crate::trust::timestamp::TimestampAnchor;
pub use crate::trust::timestamp::TimestampError;

/// What the operator trusts. Nothing is trusted by default: an empty one refuses every bundle.
#[derive(Clone, Debug, Default)]
pub struct TrustAnchors {
    keys: Vec<PublicKey>,
    certificates: Vec<CertificateAnchor>,
    keyless: Vec<KeylessAnchor>,
    timestamps: Option<TimestampAnchor>,
    legacy: bool,
}

impl TrustAnchors {
    /// Trusts nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts what this key signs.
    pub fn add_key(&mut self, key: PublicKey) {
        self.keys.push(key);
    }

    /// Trusts what is signed with a certificate under these roots.
    pub fn add_certificates(&mut self, anchor: CertificateAnchor) {
        self.certificates.push(anchor);
    }

    /// Trusts what this identity signs through Sigstore.
    pub fn add_keyless(&mut self, anchor: KeylessAnchor) {
        self.keyless.push(anchor);
    }

    /// Takes the word of these time-stamping authorities for when a key or a certificate signed. Timestamps alone
    /// vouch for nobody.
    pub fn set_timestamps(&mut self, anchor: TimestampAnchor) {
        self.timestamps = Some(anchor);
    }

    /// Accepts the format of v0.2 of the reference tool too.
    pub fn allow_legacy(&mut self) {
        self.legacy = true;
    }

    /// Whether nothing at all is trusted.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.certificates.is_empty() && self.keyless.is_empty()
    }

    /// Checks who signed a bundle, and takes its manifest.
    ///
    /// # Errors
    /// Refuses what no trusted signer signed, and a signed manifest that is malformed.
    pub fn verify(&self, bundle: &Bundle, now: UnixTime) -> Result<TrustedManifest, TrustError> {
        let envelope = bundle.envelope();
        let (signer, signed_at, format) = match bundle.material() {
            Material::Key { hint } => {
                let signed_at = self.signing_time(bundle, now)?;
                let (signer, format) = self.verify_key(envelope, hint.as_deref())?;
                (signer, signed_at, format)
            }
            Material::Certificate { leaf, rest } => {
                let signed_at = self.signing_time(bundle, now)?;
                let (signer, format) = self.verify_certificate(envelope, leaf, rest, &signed_at, now)?;
                (signer, signed_at, format)
            }
            Material::Sigstore { leaf, entry } => return self.verify_keyless(bundle, leaf, entry, now),
        };
        // The bytes that the signature was checked over, not the bundle's text again.
        let manifest = Manifest::parse(envelope.payload(), format).map_err(TrustError::Manifest)?;
        Ok(TrustedManifest {
            manifest,
            signer,
            signed_at,
        })
    }

    /// When a key or a certificate signed: what the bundle's timestamps prove, if the operator trusts an authority
    /// for that. Then each of them must hold; a bundle without any proves nothing and is as good as before.
    fn signing_time(&self, bundle: &Bundle, now: UnixTime) -> Result<SigningTime, TrustError> {
        let Some(anchor) = &self.timestamps else {
            return Ok(SigningTime::default());
        };
        let tokens = bundle.timestamps()?;
        let signature = bundle.envelope().signature();
        let proofs = tokens.iter().enumerate().map(|(index, token)| {
            let proof = anchor.verify(token, signature, now);
            proof.map_err(|cause| TrustError::Timestamp { index, cause })
        });
        Ok(SigningTime::proven_by(proofs.collect::<Result<_, _>>()?))
    }

    fn verify_keyless(
        &self,
        bundle: &Bundle,
        leaf: &[u8],
        entry: &LogEntry,
        now: UnixTime,
    ) -> Result<TrustedManifest, TrustError> {
        if self.keyless.is_empty() {
            return Err(TrustError::NoAnchor {
                method: Method::Sigstore,
            });
        }
        let envelope = bundle.envelope();
        let profiled = ProfiledLeaf::parse(leaf).map_err(|e| TrustError::Keyless(KeylessError::Leaf(e)))?;
        // The very object whose payload is parsed; the legacy encodings are older than this method.
        Digests::of(envelope)
            .verify(profiled.key(), Scheme::V1)
            .map_err(|_| TrustError::BadSignature { keys: 1 })?;
        let manifest = Manifest::parse(envelope.payload(), Format::V1).map_err(TrustError::Manifest)?;
        let brought = Brought {
            envelope,
            leaf,
            entry,
            timestamps: &bundle.timestamps()?,
        };
        let (signer, signed_at) =
            keyless::verify(&self.keyless, brought, &profiled, *manifest.root_digest(), now)
                .map_err(TrustError::Keyless)?;
        Ok(TrustedManifest {
            manifest,
            signer,
            signed_at,
        })
    }

    fn verify_key(&self, envelope: &Envelope, hint: Option<&str>) -> Result<(Signer, Format), TrustError> {
        if self.keys.is_empty() {
            return Err(TrustError::NoAnchor { method: Method::Key });
        }
        let keys: Vec<_> = self
            .keys
            .iter()
            .filter(|key| hint.is_none_or(|hint| hint == key.fingerprint()))
            .collect();
        if let (Some(hint), true) = (hint, keys.is_empty()) {
            return Err(TrustError::UnknownKey {
                hint: hint.to_owned(),
            });
        }
        let mut digests = Digests::of(envelope);
        let mut refusal = TrustError::BadSignature { keys: keys.len() };
        for key in keys {
            match self.verify_envelope(&mut digests, key, Scheme::LegacyKey) {
                Ok(format) => {
                    let signer = Signer::Key {
                        fingerprint: key.fingerprint().to_owned(),
                        curve: key.curve(),
                    };
                    return Ok((signer, format));
                }
                Err(TrustError::LegacyFormat) => refusal = TrustError::LegacyFormat,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    fn verify_certificate(
        &self,
        envelope: &Envelope,
        leaf: &[u8],
        rest: &[Vec<u8>],
        signed_at: &SigningTime,
        now: UnixTime,
    ) -> Result<(Signer, Format), TrustError> {
        if self.certificates.is_empty() {
            return Err(TrustError::NoAnchor {
                method: Method::Certificate,
            });
        }
        let mut refusals = Vec::new();
        for anchor in &self.certificates {
            // With proof of the time, valid then, at each proven time; without, valid now.
            let verdict = match signed_at.proofs() {
                [] => anchor.verify(leaf, rest, now),
                [first, others @ ..] => others
                    .iter()
                    .fold(anchor.verify_at(leaf, rest, first.at), |verdict, proof| {
                        verdict.and_then(|_| anchor.verify_at(leaf, rest, proof.at))
                    }),
            };
            match verdict {
                Ok(leaf) => {
                    let mut digests = Digests::of(envelope);
                    let format = self.verify_envelope(&mut digests, leaf.key(), Scheme::LegacyCertificate)?;
                    return Ok((leaf.into_signer(), format));
                }
                Err(refusal) => refusals.push(refusal),
            }
        }
        Err(TrustError::Chain(refusals))
    }

    /// Checks the signature; how it was made says which format the payload must be of, so that neither can
    /// borrow the other's meaning.
    fn verify_envelope(
        &self,
        digests: &mut Digests<'_>,
        key: &PublicKey,
        legacy: Scheme,
    ) -> Result<Format, TrustError> {
        if digests.verify(key, Scheme::V1).is_ok() {
            return Ok(Format::V1);
        }
        match digests.verify(key, legacy) {
            Ok(()) if self.legacy => Ok(Format::LegacyV02),
            Ok(()) => Err(TrustError::LegacyFormat),
            Err(_) => Err(TrustError::BadSignature { keys: 1 }),
        }
    }
}

/// The manifest of a bundle whose signature a trust anchor vouches for.
///
/// There is one way to get one, [`TrustAnchors::verify`]. It cannot be put together from parts:
///
/// ```compile_fail,E0451
/// use modelfs::manifest::Manifest;
/// use modelfs::trust::Signer;
/// use modelfs::trust::SigningTime;
/// use modelfs::trust::TrustedManifest;
///
/// fn forge(manifest: Manifest, signer: Signer, signed_at: SigningTime) -> TrustedManifest {
///     TrustedManifest { manifest, signer, signed_at }
/// }
/// ```
///
/// nor made from a manifest that nobody signed:
///
/// ```compile_fail,E0277
/// use modelfs::manifest::Manifest;
/// use modelfs::trust::TrustedManifest;
///
/// fn forge(manifest: Manifest) -> TrustedManifest {
///     manifest.into()
/// }
/// ```
#[derive(Debug)]
pub struct TrustedManifest {
    manifest: Manifest,
    signer: Signer,
    signed_at: SigningTime,
}

impl TrustedManifest {
    /// What was signed.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Who signed it.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// When they signed, as far as that is proven.
    pub fn signed_at(&self) -> &SigningTime {
        &self.signed_at
    }

    /// The signed files, each with the evidence that it is trusted.
    pub fn into_files(self) -> impl Iterator<Item = TrustedFile> {
        self.manifest.into_files().map(TrustedFile)
    }
}

/// A signed file of a [`TrustedManifest`]; there is no other way to one.
///
/// ```compile_fail
/// fn forge(file: modelfs::manifest::SignedFile) -> modelfs::trust::TrustedFile {
///     modelfs::trust::TrustedFile(file)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct TrustedFile(SignedFile);

impl TrustedFile {
    /// The signed name.
    pub fn path(&self) -> &ModelPath {
        self.0.path()
    }

    /// The signed content.
    pub fn content(&self) -> &SignedContent {
        self.0.content()
    }
}
