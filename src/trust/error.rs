//! Why a bundle is not trusted, with the check that refused it.

use std::fmt;

use crate::manifest::ManifestError;
use crate::path::Escaped;
use crate::trust::BundleError;
use crate::trust::ChainError;
use crate::trust::KeylessError;
use crate::trust::Method;
use crate::trust::TimestampError;

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
    /// The bundle is signed through Sigstore, and its evidence or its signer is not trusted.
    Keyless(KeylessError),
    /// A timestamp of the bundle does not prove a time.
    Timestamp {
        /// Which one, from 0.
        index: usize,
        /// Why not.
        cause: TimestampError,
    },
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
            Self::NoAnchor { .. } | Self::UnknownKey { .. } | Self::Chain(_) => TrustErrorKind::Signer,
            Self::Keyless(cause) => cause.kind(),
            Self::Timestamp { cause, .. } => cause.kind(),
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
            Self::NoAnchor {
                method: Method::Sigstore,
            } => write!(
                f,
                "the bundle is signed through Sigstore (keyless), and nobody is trusted for it: name the signer with --identity and --identity-provider, or in the policy's rule"
            ),
            Self::NoAnchor { method } => write!(
                f,
                "the bundle is signed with a {method}, and no {method} chain is trusted for it: name one with --certificate-chain or in the policy's rule"
            ),
            Self::Keyless(cause) => write!(f, "{cause}"),
            Self::Timestamp { index, cause } => write!(f, "timestamp {index} of the bundle: {cause}"),
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
