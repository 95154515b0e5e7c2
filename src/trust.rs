//! Trust: from a bundle and what the operator trusts to a manifest that may be served.

mod base64;
pub mod bundle;
pub mod dsse;
pub mod key;
mod pem;

pub use base64::Base64Error;
pub use bundle::Bundle;
pub use bundle::BundleError;
pub use bundle::Method;
pub use key::Curve;
pub use key::PublicKey;
pub use pem::PemError;

use std::fmt;

use crate::manifest::{Format, Manifest, ManifestError, SignedContent, SignedFile};
use crate::path::ModelPath;

/// What the operator trusts. Nothing is trusted by default: an empty one refuses every bundle.
#[derive(Debug, Default)]
pub struct TrustAnchors {
    keys: Vec<PublicKey>,
}

impl TrustAnchors {
    /// Trusts nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts a key.
    pub fn add_key(&mut self, key: PublicKey) {
        self.keys.push(key);
    }

    /// Checks who signed, then what.
    ///
    /// # Errors
    /// When no trusted key signed the payload, or the payload is not a manifest.
    pub fn verify(&self, bundle: &Bundle, _now: i64) -> Result<TrustedManifest, TrustError> {
        let bundle::Material::Key { hint } = bundle.material() else {
            return Err(TrustError::Untrusted);
        };
        let trusted = self
            .keys
            .iter()
            .filter(|key| hint.as_ref().is_none_or(|hint| hint == key.fingerprint()));
        let mut trusted = trusted.filter(|key| bundle.envelope().verify(key, dsse::Scheme::V1).is_ok());
        let key = trusted.next().ok_or(TrustError::Untrusted)?;
        let manifest =
            Manifest::parse(bundle.envelope().payload(), Format::V1).map_err(TrustError::Manifest)?;
        Ok(TrustedManifest {
            manifest,
            signer: Signer(format!("key {}", key.fingerprint())),
        })
    }
}

/// The manifest of a bundle whose signature a trust anchor vouches for.
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
        self.manifest.into_files().into_iter().map(TrustedFile)
    }
}

/// A signed file of a [`TrustedManifest`].
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

/// Who signed, in one line.
#[derive(Clone, Debug)]
pub struct Signer(String);

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a bundle is not trusted.
#[derive(Debug)]
pub enum TrustError {
    /// No trusted key signed it.
    Untrusted,
    /// What was signed is not a manifest.
    Manifest(ManifestError),
}
