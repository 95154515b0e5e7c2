//! Who signed, as it is reported.

use std::fmt;

use crate::trust::Curve;
use crate::trust::Method;
use crate::trust::RootDate;
use crate::trust::UnixTime;
use crate::trust::keyless::Staleness;

/// Who signed, and by which method. Names are written as RFC 4514 says, with everything escaped that is not
/// safe to print; other texts are printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The holder of a key.
    Key {
        /// See [`crate::trust::PublicKey::fingerprint`].
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
    /// Somebody for whom an identity provider vouched to a Sigstore instance.
    Sigstore {
        /// The certificate's one name with its kind: `email:a@example.com` or `uri:https://..`.
        identity: String,
        /// The identity provider.
        issuer: String,
        /// SHA-256 of the DER SubjectPublicKeyInfo in hexadecimal.
        spki_sha256: String,
        /// The certificate's serial number in hexadecimal.
        serial: String,
        /// What the operator called the instance's trusted root.
        root: String,
        /// Of when that is.
        root_date: RootDate,
        /// Why it should be replaced, if it should.
        stale: Option<Staleness>,
    },
}

impl Signer {
    /// How it was signed.
    pub fn method(&self) -> Method {
        match self {
            Self::Key { .. } => Method::Key,
            Self::Certificate { .. } => Method::Certificate,
            Self::Sigstore { .. } => Method::Sigstore,
        }
    }
}

/// A printable text in quotes, with its own quotes and backslashes escaped.
pub(super) fn quoted(text: &str) -> String {
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
            Self::Sigstore {
                identity,
                issuer,
                serial,
                spki_sha256,
                ..
            } => write!(
                f,
                "sigstore identity {} for whom {} vouches, serial number {serial}, key {spki_sha256}",
                quoted(identity),
                quoted(issuer)
            ),
        }
    }
}
