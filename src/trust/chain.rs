//! Certificates: whether a path leads from a signer's certificate to a root that the operator gave.
//!
//! A small validator for one purpose, code signing, after the profile in SECURITY.md. It walks from the
//! leaf towards the roots, one issuer at a time, and asks each certificate whether it may stand there.
//! Roots come from the operator's files only; a root in a bundle is just another intermediate, and there
//! are no system roots. Revocation is not looked up: there is no network here.

mod certificate;
mod constraints;
mod der;
mod flaw;
mod identity;
mod leaf;
mod name;
mod signature;
#[cfg(test)]
mod tests;

use std::fmt;

use data_encoding::HEXLOWER;

use crate::path::Escaped;
use crate::trust::chain::certificate::Certificate;
use crate::trust::chain::certificate::Purpose;
use crate::trust::chain::certificate::Unusable;
#[cfg(doc)]
use crate::trust::chain::name::Name;
use crate::trust::chain::signature::SubjectKey;
use crate::trust::pem;
use crate::trust::pem::PemError;
use crate::trust::quoted;
use crate::trust::time::UnixTime;

pub use crate::trust::chain::certificate::MAX_CERTIFICATE_BYTES;
pub use crate::trust::chain::flaw::Flaw;
pub use crate::trust::chain::identity::CertificateIdentity;
pub use crate::trust::chain::identity::IdentityError;
pub(super) use crate::trust::chain::leaf::ProfiledLeaf;
pub use crate::trust::chain::leaf::TrustedLeaf;
pub(super) use crate::trust::chain::leaf::TrustedTimestamper;
pub(super) use crate::trust::chain::name::AlternativeName;

/// Most intermediates between a leaf and a root. Real chains have one or two.
pub const MAX_INTERMEDIATES: usize = 8;

/// Most signatures checked in search of one path. Authorities with the same name and no key identifiers
/// make the number of possible paths explode; a check of an 8192-bit RSA signature takes about a
/// millisecond.
pub const MAX_SIGNATURE_CHECKS: usize = 100;

/// Roots that the operator trusts, with who may sign under them and when.
#[derive(Clone, Debug)]
pub struct CertificateAnchor {
    roots: Vec<Certificate>,
    intermediates: Vec<Certificate>,
    unusable: Vec<Unusable>,
    identity: Option<CertificateIdentity>,
    time: CertificateTime,
    max_intermediates: usize,
}

impl CertificateAnchor {
    /// Takes the certificates of PEM files. The self-signed ones are roots; others only help to build
    /// a path to one.
    ///
    /// # Errors
    /// Refuses files with other things in them, and a set without a root: then no path could end.
    pub fn from_pem(files: &[&[u8]]) -> Result<Self, AnchorError> {
        let mut anchor = Self {
            roots: Vec::new(),
            intermediates: Vec::new(),
            unusable: Vec::new(),
            identity: None,
            time: CertificateTime::Now,
            max_intermediates: MAX_INTERMEDIATES,
        };
        for block in files.iter().map(|file| pem::parse(file)) {
            for block in block.map_err(AnchorError::Pem)? {
                if block.label != "CERTIFICATE" {
                    return Err(AnchorError::OtherBlock { label: block.label });
                }
                match Certificate::parse(&block.der) {
                    Ok(certificate) if certificate.is_self_signed() => anchor.roots.push(certificate),
                    Ok(certificate) => anchor.intermediates.push(certificate),
                    Err(Unusable { subject: None, flaw }) => return Err(AnchorError::Certificate { flaw }),
                    // A file of roots may hold one that is of no use; it's refused when a path needs it.
                    Err(unusable) => anchor.unusable.push(unusable),
                }
            }
        }
        if anchor.roots.is_empty() {
            return Err(match (anchor.unusable.pop(), anchor.intermediates.len()) {
                (Some(unusable), _) => AnchorError::NoUsableRoot {
                    subject: unusable
                        .subject
                        .map_or_else(String::new, |name| name.as_str().to_owned()),
                    flaw: unusable.flaw,
                },
                (None, 0) => AnchorError::NoCertificate,
                (None, count) => AnchorError::NoRoot { count },
            });
        }
        Ok(anchor)
    }

    /// Accepts only leaves with this identity.
    #[must_use]
    pub fn with_identity(mut self, identity: CertificateIdentity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Says at which time certificates must be valid.
    #[must_use]
    pub fn with_time(mut self, time: CertificateTime) -> Self {
        self.time = time;
        self
    }

    /// Allows fewer intermediates than [`MAX_INTERMEDIATES`], self-issued ones not counted.
    #[must_use]
    pub fn with_max_intermediates(mut self, most: usize) -> Self {
        self.max_intermediates = most.min(MAX_INTERMEDIATES);
        self
    }

    /// Looks for a path from a leaf to one of the roots.
    ///
    /// # Errors
    /// Refuses a leaf that no path vouches for, that may not sign models or that is not of the identity.
    /// The error is about the path that came furthest.
    pub fn verify(&self, leaf: &[u8], others: &[Vec<u8>], now: UnixTime) -> Result<TrustedLeaf, ChainError> {
        let leaf = Certificate::parse(leaf).map_err(ChainError::unusable)?;
        let at = match self.time {
            CertificateTime::Now => now,
            CertificateTime::NotBefore => leaf.not_before,
        };
        self.verify_signer(&leaf, others, at)
    }

    /// The same at a moment at which the signature is known to have existed, whatever [`Self::with_time`] said.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_at(
        &self,
        leaf: &[u8],
        others: &[Vec<u8>],
        at: UnixTime,
    ) -> Result<TrustedLeaf, ChainError> {
        let leaf = Certificate::parse(leaf).map_err(ChainError::unusable)?;
        self.verify_signer(&leaf, others, at)
    }

    fn verify_signer(
        &self,
        leaf: &Certificate,
        others: &[Vec<u8>],
        at: UnixTime,
    ) -> Result<TrustedLeaf, ChainError> {
        self.verify_path(leaf, others, at, Purpose::CodeSigning)?;
        let SubjectKey::Ecdsa(key) = &leaf.key else {
            return Err(ChainError::LeafKey {
                subject: leaf.subject.as_str().to_owned(),
            });
        };
        match &self.identity {
            Some(wanted) if !wanted.is_of(leaf) => Err(ChainError::OtherIdentity {
                wanted: wanted.clone(),
                found: identities(leaf),
            }),
            _ => Ok(TrustedLeaf::new(key.clone(), leaf)),
        }
    }

    /// Looks for a path from a time-stamping authority's certificate to one of the roots.
    pub(super) fn verify_timestamper(
        &self,
        leaf: &[u8],
        others: &[Vec<u8>],
        at: UnixTime,
    ) -> Result<TrustedTimestamper, ChainError> {
        let leaf = Certificate::parse(leaf).map_err(ChainError::unusable)?;
        self.verify_path(&leaf, others, at, Purpose::TimeStamping)?;
        Ok(TrustedTimestamper::new(leaf))
    }

    /// The DER of every certificate that the operator gave.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        let all = self.roots.iter().chain(&self.intermediates);
        all.map(|certificate| certificate.der.as_slice())
    }

    fn verify_path(
        &self,
        leaf: &Certificate,
        others: &[Vec<u8>],
        at: UnixTime,
        purpose: Purpose,
    ) -> Result<(), ChainError> {
        let mut bundled = Vec::new();
        let mut unusable = self.unusable.clone();
        for der in others {
            match Certificate::parse(der) {
                Ok(certificate) => bundled.push(certificate),
                Err(other) if other.subject.is_none() => return Err(ChainError::unusable(other)),
                Err(other) => unusable.push(other),
            }
        }
        leaf.check_leaf(at, purpose)
            .map_err(|flaw| ChainError::flaw(leaf, flaw))?;
        if self.roots.iter().any(|root| root.der == leaf.der) {
            return Ok(());
        }
        let mut search = Search {
            anchor: self,
            purpose,
            intermediates: self.intermediates.iter().chain(&bundled).collect(),
            unusable: &unusable,
            at,
            checks_left: MAX_SIGNATURE_CHECKS,
            refusal: None,
        };
        leaf.check_issued().map_err(|flaw| ChainError::flaw(leaf, flaw))?;
        match search.extend(&mut vec![leaf])? {
            true => Ok(()),
            false => Err(search.refusal(leaf)),
        }
    }
}

/// At which time the certificates of a path must be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateTime {
    /// Now.
    Now,
    /// When the leaf's own validity began. The leaf is then valid for ever, as for the reference tool:
    /// nobody says when it signed.
    NotBefore,
}

/// A depth-first walk from the leaf towards the roots.
struct Search<'a> {
    anchor: &'a CertificateAnchor,
    purpose: Purpose,
    intermediates: Vec<&'a Certificate>,
    unusable: &'a [Unusable],
    at: UnixTime,
    checks_left: usize,
    /// Why the longest path so far ended, and how long it was.
    refusal: Option<(usize, ChainError)>,
}

impl<'a> Search<'a> {
    /// Looks for a way from the end of this path to a root; at most [`MAX_INTERMEDIATES`] deep.
    ///
    /// # Errors
    /// Gives up when too many signatures were checked.
    fn extend(&mut self, path: &mut Vec<&'a Certificate>) -> Result<bool, ChainError> {
        let Some(&child) = path.last() else {
            return Ok(false);
        };
        let length = path.len();
        // As in RFC 5280, 6.1.4 (l): neither the leaf nor self-issued certificates count.
        let beneath = path.iter().skip(1).filter(|c| !c.is_self_issued()).count();
        for root in &self.anchor.roots {
            if child.names_as_issuer(root) {
                let checked = root
                    .check_issuer(self.at, beneath)
                    .and_then(|()| root.check_root())
                    .and_then(|()| root.check_names(path));
                if self.issued(child, root, length, checked)? {
                    return Ok(true);
                }
            }
        }
        for issuer in self.intermediates.clone() {
            if !child.names_as_issuer(issuer) {
                continue;
            }
            if issuer.names_as_issuer(issuer) {
                // It would lead back to itself, and it is none of the roots.
                let subject = issuer.subject.as_str().to_owned();
                self.note(length + 1, ChainError::UntrustedRoot { subject });
                continue;
            }
            if path.iter().any(|c| c.is_same_entity(issuer)) {
                continue;
            }
            let checked = issuer
                .check_issuer(self.at, beneath)
                .and_then(|()| issuer.check_intermediate(self.purpose))
                .and_then(|()| issuer.check_names(path));
            let longest = self.anchor.max_intermediates;
            if beneath + usize::from(!issuer.is_self_issued()) > longest || length > MAX_INTERMEDIATES {
                self.note(length, ChainError::TooLong { limit: longest });
            } else if self.issued(child, issuer, length, checked)? {
                path.push(issuer);
                let found = self.extend(path)?;
                path.pop();
                if found {
                    return Ok(true);
                }
            }
        }
        for issuer in self.unusable {
            if issuer.subject.as_ref() == Some(&child.issuer) {
                self.note(length, ChainError::unusable(issuer.clone()));
            }
        }
        let mut known = self.anchor.roots.iter().chain(self.intermediates.iter().copied());
        let other_key = known.any(|other| other.subject == child.issuer && !child.names_as_issuer(other));
        let issuer = child.issuer.as_str().to_owned();
        let subject = child.subject.as_str().to_owned();
        self.note(
            length,
            match other_key {
                true => ChainError::OtherIssuerKey { subject, issuer },
                false => ChainError::NoIssuer { subject, issuer },
            },
        );
        Ok(false)
    }

    /// Whether this issuer may issue and did issue the child.
    fn issued(
        &mut self,
        child: &Certificate,
        issuer: &Certificate,
        length: usize,
        checked: Result<(), Flaw>,
    ) -> Result<bool, ChainError> {
        let verdict = match checked {
            Ok(()) => {
                let limit = MAX_SIGNATURE_CHECKS;
                self.checks_left = self
                    .checks_left
                    .checked_sub(1)
                    .ok_or(ChainError::TooManySignatures { limit })?;
                child.verify_issued_by(issuer).map_err(|_| Flaw::Signature)
            }
            flawed => flawed,
        };
        match verdict {
            Ok(()) => Ok(true),
            Err(flaw) => {
                self.note(length, ChainError::flaw(issuer, flaw));
                Ok(false)
            }
        }
    }

    /// Remembers why a path of this length ended; the first reason of the longest path is told.
    fn note(&mut self, length: usize, error: ChainError) {
        if self.refusal.as_ref().is_none_or(|(longest, _)| length > *longest) {
            self.refusal = Some((length, error));
        }
    }

    fn refusal(self, leaf: &Certificate) -> ChainError {
        match self.refusal {
            Some((_, error)) => error,
            None => ChainError::NoIssuer {
                subject: leaf.subject.as_str().to_owned(),
                issuer: leaf.issuer.as_str().to_owned(),
            },
        }
    }
}

/// All that a leaf could have been pinned by, as [`CertificateIdentity::parse`] takes it.
fn identities(leaf: &Certificate) -> Vec<String> {
    let subject = (!leaf.subject.is_empty()).then(|| format!("subject:{}", leaf.subject.as_str()));
    let names = leaf.alternative_names.iter().map(ToString::to_string);
    let spki = format!("spki:{}", HEXLOWER.encode(&leaf.spki_sha256));
    subject.into_iter().chain(names).chain([spki]).collect()
}

/// Why no path vouches for a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainError {
    /// A certificate of the bundle is none, or not one that is used.
    Unusable {
        /// Its subject, if it could be read.
        subject: Option<String>,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// A certificate may not stand where it stands in the path.
    Certificate {
        /// Its subject.
        subject: String,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// The leaf's key is not one that signs models.
    LeafKey {
        /// The leaf's subject.
        subject: String,
    },
    /// No certificate at hand is the issuer.
    NoIssuer {
        /// Whose issuer is wanted.
        subject: String,
        /// The issuer's name.
        issuer: String,
    },
    /// The issuer at hand has the right name and another key.
    OtherIssuerKey {
        /// Whose issuer is wanted.
        subject: String,
        /// The issuer's name.
        issuer: String,
    },
    /// The chain ends at a root that the operator did not give.
    UntrustedRoot {
        /// The root's subject.
        subject: String,
    },
    /// There would be too many intermediates.
    TooLong {
        /// How many are allowed.
        limit: usize,
    },
    /// Too many signatures would have to be checked.
    TooManySignatures {
        /// How many are allowed.
        limit: usize,
    },
    /// The leaf is trusted, for somebody else.
    OtherIdentity {
        /// Who it should be for.
        wanted: CertificateIdentity,
        /// Who it is for.
        found: Vec<String>,
    },
}

impl ChainError {
    fn flaw(certificate: &Certificate, flaw: Flaw) -> Self {
        Self::Certificate {
            subject: certificate.subject.as_str().to_owned(),
            flaw,
        }
    }

    fn unusable(unusable: Unusable) -> Self {
        Self::Unusable {
            subject: unusable.subject.map(|name| name.as_str().to_owned()),
            flaw: unusable.flaw,
        }
    }
}

/// Most characters of a certificate's text in one message. A name may have tens of thousands, and nobody
/// need have signed it.
const MAX_SHOWN_CHARS: usize = 512;

/// Most names of a certificate in one message.
const MAX_SHOWN_NAMES: usize = 16;

/// A text's beginning, and how long the whole is where that is not all.
pub(super) fn beginning(text: &str) -> (&str, String) {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((at, _)) => (
            // An escape that is cut in two must not swallow the quote behind it.
            text.get(..at).unwrap_or_default().trim_end_matches('\\'),
            format!("... ({} bytes)", text.len()),
        ),
        None => (text, String::new()),
    }
}

/// A name from a certificate, for a message; see [`Name::as_str`] for why it is safe to print.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str("without a subject"),
            name => {
                let (beginning, rest) = beginning(name);
                write!(f, "{beginning}{rest}")
            }
        }
    }
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable { subject: None, flaw } => write!(f, "a certificate of the bundle {flaw}"),
            Self::Unusable {
                subject: Some(subject),
                flaw,
            }
            | Self::Certificate { subject, flaw } => {
                write!(f, "the certificate {} {flaw}", Shown(subject))
            }
            Self::LeafKey { subject } => write!(
                f,
                "the certificate {} has a key that signs no models: only ECDSA on P-256, P-384 and P-521 does",
                Shown(subject)
            ),
            Self::NoIssuer { subject, issuer } => write!(
                f,
                "the certificate {} was issued by {}, which is neither trusted nor in the bundle",
                Shown(subject),
                Shown(issuer)
            ),
            Self::OtherIssuerKey { subject, issuer } => write!(
                f,
                "the certificate {} was issued by {} with another key than the certificates of that name have",
                Shown(subject),
                Shown(issuer)
            ),
            Self::UntrustedRoot { subject } => {
                write!(
                    f,
                    "the certificate chain ends at {}, which is not trusted",
                    Shown(subject)
                )
            }
            Self::TooLong { limit } => {
                write!(f, "the certificate chain has more than {limit} intermediates")
            }
            Self::TooManySignatures { limit } => write!(
                f,
                "no certificate chain to a trusted root was found within {limit} signature checks"
            ),
            Self::OtherIdentity { wanted, found } => {
                write!(f, "the signer's certificate is not for {wanted} but for ")?;
                for (at, name) in found.iter().take(MAX_SHOWN_NAMES).enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    // RFC 4514 escapes quotes in a subject already; it stays as a policy would have it.
                    let (beginning, rest) = beginning(name);
                    match name.starts_with("subject:") {
                        true => write!(f, "{comma}\"{beginning}\"{rest}")?,
                        false => write!(f, "{comma}{}{rest}", quoted(beginning))?,
                    }
                }
                match found.len().checked_sub(MAX_SHOWN_NAMES) {
                    None | Some(0) => Ok(()),
                    Some(more) => write!(f, " and {more} more"),
                }
            }
        }
    }
}

impl std::error::Error for ChainError {}

/// Why certificates cannot be anchors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnchorError {
    /// A file is not PEM.
    Pem(PemError),
    /// A block is not a certificate.
    OtherBlock {
        /// What its first line calls it.
        label: String,
    },
    /// A certificate cannot be read.
    Certificate {
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// The files hold no certificate.
    NoCertificate,
    /// The files hold certificates, and none is self-signed.
    NoRoot {
        /// How many certificates there are.
        count: usize,
    },
    /// What could have been a root is of no use.
    NoUsableRoot {
        /// Its subject.
        subject: String,
        /// What is wrong with it.
        flaw: Flaw,
    },
}

impl fmt::Display for AnchorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(_) => write!(f, "the certificates are not PEM"),
            Self::OtherBlock { label } => write!(
                f,
                "expected PEM blocks CERTIFICATE, found {}",
                Escaped(label.as_bytes())
            ),
            Self::Certificate { flaw } => write!(f, "a certificate {flaw}"),
            Self::NoCertificate => write!(f, "no PEM block: expected -----BEGIN CERTIFICATE-----"),
            Self::NoRoot { count } => write!(
                f,
                "none of the {count} certificates is self-signed: give the root, an intermediate alone is not trusted"
            ),
            Self::NoUsableRoot { subject, flaw } => {
                write!(f, "no usable root: the certificate {} {flaw}", Shown(subject))
            }
        }
    }
}

impl std::error::Error for AnchorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Pem(cause) => Some(cause),
            _ => None,
        }
    }
}
