//! Who a certificate must be for: an operator's pin on the leaf.

use std::fmt;

use data_encoding::HEXLOWER;

use crate::path::Escaped;
use crate::trust::chain::certificate::Certificate;
use crate::trust::chain::name::AlternativeName;

/// The identity that a signer's certificate must have. Compared as a whole and byte for byte: a pattern
/// that is a little too wide trusts a stranger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateIdentity {
    /// The subject, as RFC 4514 writes it: `CN=Signer,O=Example,C=US`.
    Subject(String),
    /// An `rfc822Name` among the subject alternative names.
    Email(String),
    /// A `uniformResourceIdentifier` among the subject alternative names.
    Uri(String),
    /// A `dNSName` among the subject alternative names.
    Dns(String),
    /// SHA-256 of the DER SubjectPublicKeyInfo.
    Spki([u8; 32]),
}

impl CertificateIdentity {
    /// Takes an identity as an operator writes it: `subject:`, `email:`, `uri:`, `dns:` or `spki:`, then the
    /// value.
    ///
    /// # Errors
    /// Refuses other kinds, empty values and digests that are not 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let (kind, value) = text.split_once(':').ok_or(IdentityError::NoKind)?;
        if value.is_empty() {
            return Err(IdentityError::NoValue);
        }
        Ok(match kind {
            "subject" => Self::Subject(value.to_owned()),
            "email" => Self::Email(value.to_owned()),
            "uri" => Self::Uri(value.to_owned()),
            "dns" => Self::Dns(value.to_owned()),
            "spki" => {
                let digest = HEXLOWER.decode(value.as_bytes()).ok();
                let digest = digest.and_then(|digest| digest.try_into().ok());
                Self::Spki(digest.ok_or(IdentityError::SpkiDigest)?)
            }
            _ => {
                return Err(IdentityError::UnknownKind {
                    kind: kind.to_owned(),
                });
            }
        })
    }

    pub(super) fn is_of(&self, leaf: &Certificate) -> bool {
        let mut names = leaf.alternative_names.iter();
        match self {
            Self::Subject(subject) => leaf.subject.as_str() == subject,
            Self::Email(email) => names.any(|name| matches!(name, AlternativeName::Email(n) if n == email)),
            Self::Uri(uri) => names.any(|name| matches!(name, AlternativeName::Uri(n) if n == uri)),
            Self::Dns(dns) => names.any(|name| matches!(name, AlternativeName::Dns(n) if n == dns)),
            Self::Spki(digest) => leaf.spki_sha256 == *digest,
        }
    }
}

impl fmt::Display for CertificateIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, value) = match self {
            Self::Subject(value) => ("subject", value),
            Self::Email(value) => ("email", value),
            Self::Uri(value) => ("uri", value),
            Self::Dns(value) => ("dns", value),
            Self::Spki(digest) => return write!(f, "spki:{}", HEXLOWER.encode(digest)),
        };
        write!(f, "{kind}:{}", Escaped(value.as_bytes()))
    }
}

/// Why text is not an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// It does not begin with a kind and a colon.
    NoKind,
    /// Nothing follows the colon.
    NoValue,
    /// The kind is not one that certificates have.
    UnknownKind {
        /// What stands before the colon.
        kind: String,
    },
    /// The digest of a key is not 64 lower-case hexadecimal digits.
    SpkiDigest,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KINDS: &str = "subject:, email:, uri:, dns: or spki:";
        match self {
            Self::NoKind => write!(f, "the identity does not begin with {KINDS}"),
            Self::NoValue => write!(f, "the identity has no value"),
            Self::UnknownKind { kind } => {
                let kind = Escaped(kind.as_bytes());
                write!(f, "the identity begins with {kind}:, not with {KINDS}")
            }
            Self::SpkiDigest => write!(
                f,
                "spki: needs the SHA-256 of a key, 64 lower-case hexadecimal digits"
            ),
        }
    }
}

impl std::error::Error for IdentityError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_a_known_kind_and_a_value() {
        let hex = "00ff".repeat(16);
        let mut digest = [0; 32];
        digest.iter_mut().skip(1).step_by(2).for_each(|b| *b = 0xff);
        let spki = format!("spki:{hex}");
        let upper = format!("spki:{}", hex.to_uppercase());
        let cases: &[(&str, Result<CertificateIdentity, IdentityError>)] = &[
            (
                "subject:CN=a:b",
                Ok(CertificateIdentity::Subject("CN=a:b".into())),
            ),
            (
                "email:a@b.example",
                Ok(CertificateIdentity::Email("a@b.example".into())),
            ),
            (
                "uri:https://a.example/b",
                Ok(CertificateIdentity::Uri("https://a.example/b".into())),
            ),
            ("dns:a.example", Ok(CertificateIdentity::Dns("a.example".into()))),
            (&spki, Ok(CertificateIdentity::Spki(digest))),
            (&upper, Err(IdentityError::SpkiDigest)),
            ("spki:00ff", Err(IdentityError::SpkiDigest)),
            ("a@b.example", Err(IdentityError::NoKind)),
            ("", Err(IdentityError::NoKind)),
            ("email:", Err(IdentityError::NoValue)),
            (
                "https://a.example",
                Err(IdentityError::UnknownKind { kind: "https".into() }),
            ),
            (
                "Email:a@b",
                Err(IdentityError::UnknownKind { kind: "Email".into() }),
            ),
        ];
        for (text, want) in cases {
            let got = CertificateIdentity::parse(text);
            assert_eq!(&got, want, "{text}");
            if let Ok(identity) = got {
                assert_eq!(identity.to_string(), *text);
            }
        }
    }
}
