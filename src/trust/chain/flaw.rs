//! What may be wrong with a certificate, and in which words.

use std::fmt;

use crate::trust::chain::Shown;
use crate::trust::chain::beginning;
use crate::trust::chain::certificate::MAX_CERTIFICATE_BYTES;
use crate::trust::chain::constraints::MAX_NAME_COMPARISONS;
use crate::trust::chain::signature::RSA_BITS;
use crate::trust::key::KeyError;
use crate::trust::time::UnixTime;

/// Why a certificate may not stand where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is larger than [`MAX_CERTIFICATE_BYTES`].
    TooLarge {
        /// Its length in bytes.
        bytes: usize,
    },
    /// It is not the DER of a certificate.
    NotDer,
    /// It is not X.509 version 3.
    Version,
    /// Its serial number is not positive or too long.
    SerialNumber,
    /// What is signed names another algorithm than the signature does.
    AlgorithmMismatch,
    /// It is signed with an algorithm that is not used: SHA-1, DSA, PSS with other parameters, and so on.
    SignatureAlgorithm {
        /// The algorithm's object identifier.
        oid: String,
    },
    /// Its key is of a kind that is not used.
    Key(KeyError),
    /// Its RSA key is too short, too long or odd in length.
    RsaBits {
        /// The length in bits.
        bits: usize,
    },
    /// It has an extension twice.
    DuplicateExtension {
        /// The extension's object identifier.
        oid: String,
    },
    /// An extension cannot be read.
    UnreadableExtension {
        /// The extension's object identifier.
        oid: String,
    },
    /// A critical extension is not known, or must not be critical.
    CriticalExtension {
        /// The extension's object identifier.
        oid: String,
    },
    /// It has name constraints and is the signer's, or they are malformed or not critical.
    NameConstraints,
    /// Its name constraints forbid a name beneath it.
    ForbiddenName {
        /// The name.
        name: String,
    },
    /// There are too many names beneath it to hold against its name constraints.
    TooManyNames,
    /// It constrains policies, which is not evaluated.
    PolicyConstraints,
    /// Its time has not come.
    NotYetValid {
        /// When it begins.
        from: UnixTime,
        /// The time that was asked about.
        at: UnixTime,
    },
    /// Its time is over.
    Expired {
        /// When it ended.
        until: UnixTime,
        /// The time that was asked about.
        at: UnixTime,
    },
    /// Neither its key usage nor its extended key usage says that it signs.
    NoPurpose,
    /// Its key usage does not include digitalSignature.
    NoDigitalSignature,
    /// Its extended key usage is not codeSigning.
    NotForCodeSigning,
    /// Its extended key usage is not timeStamping alone.
    NotForTimeStamping,
    /// Its extended key usage timeStamping may be overlooked.
    TimeStampingNotCritical,
    /// It is an authority, and its key usage does not say that it signs anything but certificates.
    AuthorityAsLeaf,
    /// It may sign certificates and is no authority.
    CertSignWithoutCa,
    /// It has no subject.
    NoSubject,
    /// It is no authority.
    NotAnAuthority,
    /// It is an authority in a way that may be overlooked.
    BasicConstraintsNotCritical,
    /// Its key usage does not include keyCertSign.
    NoCertSign,
    /// There are more intermediates beneath it than it allows.
    PathLength {
        /// How many it allows.
        limit: u32,
    },
    /// It does not say which key it has.
    NoSubjectKeyId,
    /// It does not say which key issued it.
    NoAuthorityKeyId,
    /// It is a root that is limited to a purpose.
    RootWithPurpose,
    /// It is a root whose key identifiers differ.
    RootKeyIds,
    /// Its key did not sign the certificate beneath it.
    Signature,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes } => write!(f, "has {bytes} bytes, more than {MAX_CERTIFICATE_BYTES}"),
            Self::NotDer => write!(f, "is not a DER certificate"),
            Self::Version => write!(f, "is not X.509 version 3"),
            Self::SerialNumber => write!(f, "has a serial number that is not positive or has over 20 bytes"),
            Self::AlgorithmMismatch => write!(f, "names two different signature algorithms"),
            Self::SignatureAlgorithm { oid } => {
                write!(
                    f,
                    "is signed with the algorithm {}, which is not accepted",
                    Number(oid)
                )
            }
            Self::Key(cause) => write!(f, "has a key that is not accepted: {cause}"),
            Self::RsaBits { bits } => write!(
                f,
                "has an RSA key of {bits} bits: accepted are {} to {} in whole bytes",
                RSA_BITS.start(),
                RSA_BITS.end()
            ),
            Self::DuplicateExtension { oid } => write!(f, "has the extension {} twice", Number(oid)),
            Self::UnreadableExtension { oid } => write!(f, "has a malformed extension {}", Number(oid)),
            Self::CriticalExtension { oid } => {
                write!(
                    f,
                    "has the extension {}, which is not understood, as critical",
                    Number(oid)
                )
            }
            Self::NameConstraints => write!(
                f,
                "has name constraints that are malformed, not critical or not an authority's"
            ),
            Self::ForbiddenName { name } => write!(
                f,
                "has name constraints that do not allow {} beneath it",
                Shown(name)
            ),
            Self::TooManyNames => write!(
                f,
                "has more name constraints, or names beneath it, than can be compared (limit {MAX_NAME_COMPARISONS})"
            ),
            Self::PolicyConstraints => write!(f, "has policy constraints, which are not supported"),
            Self::NotYetValid { from, at } => write!(f, "is valid from {from}, and the time is {at}"),
            Self::Expired { until, at } => write!(f, "expired at {until}, and the time is {at}"),
            Self::NoPurpose => write!(f, "has neither key usage nor extended key usage"),
            Self::NoDigitalSignature => write!(f, "has a key usage without digitalSignature"),
            Self::NotForCodeSigning => write!(f, "has an extended key usage other than codeSigning"),
            Self::NotForTimeStamping => write!(f, "has an extended key usage other than timeStamping alone"),
            Self::TimeStampingNotCritical => {
                write!(f, "has an extended key usage timeStamping that is not critical")
            }
            Self::AuthorityAsLeaf => {
                write!(f, "is an authority whose key usage does not let it sign a model")
            }
            Self::CertSignWithoutCa => write!(f, "has the key usage keyCertSign and is no authority"),
            Self::NoSubject => write!(f, "has no subject, nor critical alternative names in its place"),
            Self::NotAnAuthority => write!(f, "is no authority (basic constraints without CA)"),
            Self::BasicConstraintsNotCritical => write!(f, "has basic constraints that are not critical"),
            Self::NoCertSign => write!(f, "has no key usage keyCertSign"),
            Self::PathLength { limit } => write!(f, "allows only {limit} intermediates beneath it"),
            Self::NoSubjectKeyId => write!(f, "has no subject key identifier"),
            Self::NoAuthorityKeyId => write!(f, "has no authority key identifier"),
            Self::RootWithPurpose => write!(f, "is a root with an extended key usage"),
            Self::RootKeyIds => write!(f, "is a root whose authority and subject key identifiers differ"),
            Self::Signature => write!(f, "did not sign the certificate that names it as issuer"),
        }
    }
}

impl std::error::Error for Flaw {}

/// An object identifier for a message; its numbers may be as long as the certificate.
struct Number<'a>(&'a str);

impl fmt::Display for Number<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (beginning, rest) = beginning(self.0);
        write!(f, "{beginning}{rest}")
    }
}
