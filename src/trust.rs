//! Trust: from a bundle and what the operator trusts to a manifest that may be served.
//!
//! [`TrustAnchors::verify`] is the only way to a [`TrustedManifest`], so holding one proves that a key or
//! a certificate that the operator named signed these very bytes. Nothing is trusted by default, no clock is
//! read and no file is opened here. Sigstore's keyless method is recognised and refused.

mod base64;
pub mod bundle;
pub mod chain;
mod dsse;
pub mod key;
mod pem;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod time;

use std::fmt;

use crate::manifest::Format;
use crate::manifest::Manifest;
use crate::manifest::ManifestError;
use crate::manifest::SignedContent;
use crate::manifest::SignedFile;
use crate::path::Escaped;
use crate::path::ModelPath;
use crate::trust::bundle::Material;
use crate::trust::dsse::Digests;
use crate::trust::dsse::Envelope;
use crate::trust::dsse::Scheme;

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
pub use crate::trust::key::Curve;
pub use crate::trust::key::KeyError;
pub use crate::trust::key::PublicKey;
pub use crate::trust::pem::MAX_PEM_BYTES;
pub use crate::trust::pem::PemError;
pub use crate::trust::time::UnixTime;

/// What the operator trusts. Nothing is trusted by default: an empty one refuses every bundle.
#[derive(Clone, Debug, Default)]
pub struct TrustAnchors {
    keys: Vec<PublicKey>,
    certificates: Vec<CertificateAnchor>,
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

    /// Accepts the format of v0.2 of the reference tool too.
    pub fn allow_legacy(&mut self) {
        self.legacy = true;
    }

    /// Whether nothing at all is trusted.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.certificates.is_empty()
    }

    /// Checks who signed a bundle, and takes its manifest.
    ///
    /// # Errors
    /// Refuses what no trusted signer signed, and a signed manifest that is malformed.
    pub fn verify(&self, bundle: &Bundle, now: UnixTime) -> Result<TrustedManifest, TrustError> {
        let envelope = bundle.envelope();
        let (signer, format) = match bundle.material() {
            Material::Key { hint } => self.verify_key(envelope, hint.as_deref())?,
            Material::Certificate { leaf, rest } => self.verify_certificate(envelope, leaf, rest, now)?,
            Material::Sigstore { .. } => return Err(TrustError::Keyless),
        };
        // The bytes that the signature was checked over, not the bundle's text again.
        let manifest = Manifest::parse(envelope.payload(), format).map_err(TrustError::Manifest)?;
        Ok(TrustedManifest { manifest, signer })
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
        now: UnixTime,
    ) -> Result<(Signer, Format), TrustError> {
        if self.certificates.is_empty() {
            return Err(TrustError::NoAnchor {
                method: Method::Certificate,
            });
        }
        let mut refusals = Vec::new();
        for anchor in &self.certificates {
            match anchor.verify(leaf, rest, now) {
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
/// use modelfs::trust::TrustedManifest;
///
/// fn forge(manifest: Manifest, signer: Signer) -> TrustedManifest {
///     TrustedManifest { manifest, signer }
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

/// Who signed, and by which method. Names are written as RFC 4514 says, with everything escaped that is not
/// safe to print; other texts are printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The holder of a key.
    Key {
        /// See [`PublicKey::fingerprint`].
        fingerprint: String,
        /// The curve it is on.
        curve: Curve,
    },
    /// The holder of a certificate.
    Certificate {
        /// The subject, as RFC 4514 writes it.
        subject: String,
        /// The issuer, as RFC 4514 writes it.
        issuer: String,
        /// The subject alternative names, each with its kind: `email:a@example.com`.
        san: Vec<String>,
        /// The serial number in hexadecimal.
        serial: String,
        /// SHA-256 of the DER SubjectPublicKeyInfo in hexadecimal.
        spki_sha256: String,
        /// When the certificate's validity begins.
        not_before: UnixTime,
        /// When it ends.
        not_after: UnixTime,
    },
}

impl Signer {
    /// How it was signed.
    pub fn method(&self) -> Method {
        match self {
            Self::Key { .. } => Method::Key,
            Self::Certificate { .. } => Method::Certificate,
        }
    }
}

/// A printable text in quotes, with its own quotes and backslashes escaped.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { fingerprint, curve } => write!(f, "{curve} key {fingerprint}"),
            Self::Certificate {
                subject,
                issuer,
                san,
                serial,
                spki_sha256,
                ..
            } => {
                // Quoted, so that no name can pose as the rest of the line. RFC 4514 escapes quotes already.
                let names = match subject.is_empty() {
                    true => san.iter().map(|san| quoted(san)).collect::<Vec<_>>().join(" "),
                    false => format!("\"{subject}\""),
                };
                write!(
                    f,
                    "certificate {names} issued by \"{issuer}\", serial number {serial}, key {spki_sha256}"
                )
            }
        }
    }
}

/// Why a bundle is not trusted.
#[derive(Debug)]
pub enum TrustError {
    /// The bundle is malformed.
    Bundle(BundleError),
    /// Nobody is trusted to sign in the way that the bundle is signed.
    NoAnchor {
        /// How the bundle is signed.
        method: Method,
    },
    /// The bundle is signed through Sigstore, which is not supported.
    Keyless,
    /// The bundle names a key that is not trusted.
    UnknownKey {
        /// What the bundle calls it.
        hint: String,
    },
    /// None of the keys that could have signed did.
    BadSignature {
        /// How many keys that were.
        keys: usize,
    },
    /// A trusted signer signed the bundle in the format of v0.2, which was not allowed.
    LegacyFormat,
    /// No set of trusted roots vouches for the signer's certificate: why not, for each set.
    Chain(Vec<ChainError>),
    /// A trusted signer signed a malformed manifest.
    Manifest(ManifestError),
}

impl TrustError {
    /// What kind of refusal it is.
    pub fn kind(&self) -> TrustErrorKind {
        match self {
            Self::Bundle(_) => TrustErrorKind::Bundle,
            Self::BadSignature { .. } | Self::LegacyFormat => TrustErrorKind::Signature,
            Self::NoAnchor { .. } | Self::Keyless | Self::UnknownKey { .. } | Self::Chain(_) => {
                TrustErrorKind::Signer
            }
            Self::Manifest(_) => TrustErrorKind::Manifest,
        }
    }
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustErrorKind {
    /// The bundle is malformed.
    Bundle,
    /// The signature does not match, or is of a format that is not allowed.
    Signature,
    /// The signer is not trusted.
    Signer,
    /// The manifest is malformed.
    Manifest,
}

impl From<BundleError> for TrustError {
    fn from(cause: BundleError) -> Self {
        Self::Bundle(cause)
    }
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(_) => write!(f, "the bundle is malformed"),
            Self::NoAnchor { method: Method::Key } => {
                write!(
                    f,
                    "the bundle is signed with a key, and no key is trusted for it: name one with --public-key or in the policy's rule"
                )
            }
            Self::NoAnchor { method } => write!(
                f,
                "the bundle is signed with a {method}, and no {method} chain is trusted for it: name one with --certificate-chain or in the policy's rule"
            ),
            Self::Keyless => write!(
                f,
                "the bundle is signed through Sigstore (keyless), which is not supported: it needs a key or a certificate"
            ),
            Self::UnknownKey { hint } => write!(
                f,
                "the bundle names the key {}: none of the trusted keys is it",
                Escaped(hint.as_bytes())
            ),
            Self::BadSignature { keys: 1 } => write!(
                f,
                "the signature does not match: the bundle was changed or signed with another key"
            ),
            Self::BadSignature { keys } => write!(
                f,
                "the signature matches none of the {keys} trusted keys: the bundle was changed or signed with another key"
            ),
            Self::LegacyFormat => write!(
                f,
                "the bundle is signed in the format of model-signing v0.2, which is accepted only with --allow-legacy"
            ),
            Self::Chain(refusals) => match refusals.as_slice() {
                [refusal] => write!(f, "the signer's certificate is not trusted: {refusal}"),
                refusals => {
                    write!(
                        f,
                        "the signer's certificate is trusted by none of {} chains",
                        refusals.len()
                    )?;
                    for refusal in refusals {
                        write!(f, "; {refusal}")?;
                    }
                    Ok(())
                }
            },
            Self::Manifest(_) => write!(f, "the signed manifest is malformed"),
        }
    }
}

impl std::error::Error for TrustError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bundle(cause) => Some(cause),
            Self::Manifest(cause) => Some(cause),
            _ => None,
        }
    }
}
