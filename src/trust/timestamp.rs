//! RFC 3161 timestamps: somebody whom the operator trusts for it saw this signature at a time.
//!
//! A token proves a time when it is over the bytes of this very signature, when its signer's certificate is for
//! time-stamping and nothing else, was valid then and leads to a root that the operator gave, and when that
//! certificate's key signed it. Parsing is left to the crates `cms` and `x509-tsp`; what it means is checked here.
//! Nonce and serial number are for whoever asked for the token, and prove nothing to anybody else.

use std::fmt;

use aws_lc_rs::digest;
use cmpv2::status::PkiStatus;
use cms::cert::CertificateChoices;
use cms::cert::x509::attr::Attributes;
use cms::cert::x509::spki::AlgorithmIdentifierOwned;
use cms::signed_data::SignedData;
use cms::signed_data::SignerInfo;
use der::Any;
use der::Choice;
use der::Decode;
use der::DecodeValue;
use der::Encode;
use der::Sequence;
use der::Tag;
use der::Tagged as _;
use der::asn1::ObjectIdentifier;
use der::asn1::OctetString;
use x509_tsp::TimeStampResp;
use x509_tsp::TstInfo;

use crate::trust::AnchorError;
use crate::trust::CertificateAnchor;
use crate::trust::ChainError;
use crate::trust::TrustErrorKind;
use crate::trust::UnixTime;
use crate::trust::bundle::MAX_BUNDLE_CERTIFICATES;
use crate::trust::key::HashFunction;
use crate::trust::time::TimeProof;
use crate::trust::time::Witness;

/// Roots of time-stamping authorities that the operator trusts.
#[derive(Clone, Debug)]
pub struct TimestampAnchor {
    roots: CertificateAnchor,
}

impl TimestampAnchor {
    /// Takes the certificates of PEM files, as [`CertificateAnchor::from_pem`] does.
    ///
    /// # Errors
    /// Refuses what that refuses.
    pub fn from_pem(files: &[&[u8]]) -> Result<Self, AnchorError> {
        CertificateAnchor::from_pem(files).map(|roots| Self { roots })
    }

    /// Checks a DER `TimeStampResp` over a signature.
    ///
    /// # Errors
    /// Refuses what proves no time, or one that has not come.
    pub fn verify(
        &self,
        response: &[u8],
        signature: &[u8],
        now: UnixTime,
    ) -> Result<TimeProof, TimestampError> {
        let token = Token::parse(response)?;
        token.verify_imprint(signature)?;
        let at = token.time()?;
        let (leaf, others) = token.certificates(&self.roots)?;
        let authority = self.roots.verify_timestamper(&leaf, &others, at);
        let authority = authority.map_err(TimestampError::Chain)?;
        authority
            .verify(
                &token.signer.signature_algorithm.oid.to_string(),
                token.hash,
                &token.signed_bytes()?,
                token.signer.signature.as_bytes(),
            )
            .map_err(|_| TimestampError::BadSignature)?;
        if at > now {
            return Err(TimestampError::Future { at, now });
        }
        Ok(TimeProof {
            at,
            witness: Witness::Timestamp {
                name: authority.subject().to_owned(),
            },
        })
    }
}

/// A token of the right shape, whose signed parts belong together; nobody has looked at the signature yet.
struct Token {
    info: TstInfo,
    signer: SignerInfo,
    attributes: Attributes,
    hash: HashFunction,
    embedded: Vec<Vec<u8>>,
}

impl Token {
    fn parse(response: &[u8]) -> Result<Self, TimestampError> {
        let malformed =
            |_: der::Error| TimestampError::Malformed("it is not the DER of a timestamp response");
        let response = TimeStampResp::from_der(response).map_err(malformed)?;
        match response.status.status {
            PkiStatus::Accepted | PkiStatus::GrantedWithMods => {}
            _ => return Err(TimestampError::NotGranted),
        }
        let token = response
            .time_stamp_token
            .ok_or(TimestampError::Malformed("it has no token"))?;
        if token.content_type != SIGNED_DATA {
            return Err(TimestampError::Malformed("its token is not signed data"));
        }
        let signed: SignedData = token.content.decode_as().map_err(malformed)?;
        let content = signed.encap_content_info;
        if content.econtent_type != TST_INFO {
            return Err(TimestampError::Malformed("its token says no time (TSTInfo)"));
        }
        let content = content.econtent.filter(|any| any.tag() == Tag::OctetString);
        let content = content.ok_or(TimestampError::Malformed("its token has no content"))?;
        let info = TstInfo::from_der(content.value()).map_err(malformed)?;
        let mut signers = signed.signer_infos.0.into_vec();
        // RFC 3161, 2.4.2: exactly one. With two, it would be whoever of the two is trusted.
        let (Some(signer), true) = (signers.pop(), signers.is_empty()) else {
            return Err(TimestampError::Malformed("its token has not exactly one signer"));
        };
        let hash = hash_of(&signer.digest_alg).ok_or(TimestampError::Hash)?;
        let attributes = signer.signed_attrs.clone();
        let attributes = attributes.ok_or(TimestampError::Malformed("its token has no signed attributes"))?;
        let token = Self {
            info,
            signer,
            attributes,
            hash,
            embedded: embedded(
                signed
                    .certificates
                    .map(|set| set.0.into_vec())
                    .unwrap_or_default(),
            )?,
        };
        token.check_attributes(content.value())?;
        Ok(token)
    }

    /// The signed attributes must speak of this content, as a timestamp (RFC 5652, 11.1 and 11.2).
    fn check_attributes(&self, content: &[u8]) -> Result<(), TimestampError> {
        let kind: ObjectIdentifier = self.attribute(CONTENT_TYPE)?;
        if kind != TST_INFO {
            return Err(TimestampError::Malformed("its signature is for other content"));
        }
        let digest: OctetString = self.attribute(MESSAGE_DIGEST)?;
        if digest.as_bytes() != self.hash.digest(content).as_ref() {
            return Err(TimestampError::Content);
        }
        // RFC 3161 lets an extension change what the token means.
        let mut extensions = self.info.extensions.iter().flatten();
        match extensions.any(|extension| extension.critical) {
            true => Err(TimestampError::Malformed(
                "it has a critical extension that is not understood",
            )),
            false => Ok(()),
        }
    }

    /// The one value of an attribute that stands there once.
    fn attribute<'a, T: DecodeValue<'a> + Choice<'a>>(
        &'a self,
        kind: ObjectIdentifier,
    ) -> Result<T, TimestampError> {
        self.attribute_if_any(kind)?
            .ok_or(TimestampError::Attribute { kind: name_of(kind) })
    }

    fn attribute_if_any<'a, T: DecodeValue<'a> + Choice<'a>>(
        &'a self,
        kind: ObjectIdentifier,
    ) -> Result<Option<T>, TimestampError> {
        let wrong = || TimestampError::Attribute { kind: name_of(kind) };
        let mut found = self.attributes.iter().filter(|attribute| attribute.oid == kind);
        let (attribute, others) = (found.next(), found.next());
        match (attribute, others) {
            (None, _) => Ok(None),
            (Some(attribute), None) if attribute.values.len() == 1 => {
                let value = attribute.values.get(0).ok_or_else(wrong)?;
                value.decode_as().map(Some).map_err(|_| wrong())
            }
            _ => Err(wrong()),
        }
    }

    /// What the authority signed: the attributes as a SET (RFC 5652, 5.4).
    fn signed_bytes(&self) -> Result<Vec<u8>, TimestampError> {
        let encoded = self.attributes.to_der();
        encoded.map_err(|_| TimestampError::Malformed("its signed attributes cannot be encoded"))
    }

    fn verify_imprint(&self, signature: &[u8]) -> Result<(), TimestampError> {
        let imprint = &self.info.message_imprint;
        let hash = hash_of(&imprint.hash_algorithm).ok_or(TimestampError::Hash)?;
        match imprint.hashed_message.as_bytes() == hash.digest(signature).as_ref() {
            true => Ok(()),
            false => Err(TimestampError::OtherSignature),
        }
    }

    fn time(&self) -> Result<UnixTime, TimestampError> {
        let seconds = self.info.gen_time.to_unix_duration().as_secs();
        let seconds = i64::try_from(seconds).map_err(|_| TimestampError::Malformed("its time is no time"))?;
        Ok(UnixTime(seconds))
    }

    /// The signer's certificate, which the signature itself names by its hash (RFC 3161, 2.4.1 and RFC 5816), and the
    /// others of the token. The name in the signer's identifier is not signed, so it is not asked.
    fn certificates(&self, roots: &CertificateAnchor) -> Result<(Vec<u8>, Vec<Vec<u8>>), TimestampError> {
        let is_signer = self.signing_certificate()?;
        let known = self
            .embedded
            .iter()
            .map(Vec::as_slice)
            .chain(roots.certificates());
        let leaf = known.into_iter().find(|der| is_signer(der));
        let leaf = leaf.ok_or(TimestampError::NoCertificate)?.to_vec();
        let others = self
            .embedded
            .iter()
            .filter(|der| **der != leaf)
            .cloned()
            .collect();
        Ok((leaf, others))
    }

    fn signing_certificate(&self) -> Result<impl Fn(&[u8]) -> bool, TimestampError> {
        let wrong = |kind| TimestampError::Attribute { kind: name_of(kind) };
        let (algorithm, want) = match self.attribute_if_any::<SigningCertificateV2>(SIGNING_CERTIFICATE_V2)? {
            Some(named) => {
                let first = named
                    .certs
                    .into_iter()
                    .next()
                    .ok_or_else(|| wrong(SIGNING_CERTIFICATE_V2))?;
                let hash = first.hash_algorithm.as_ref();
                let hash = hash.map_or(Some(HashFunction::Sha256), hash_of);
                let hash = hash.ok_or(TimestampError::Hash)?;
                (hash.algorithm(), first.cert_hash)
            }
            None => {
                let named: SigningCertificate = self.attribute(SIGNING_CERTIFICATE)?;
                let first = named
                    .certs
                    .into_iter()
                    .next()
                    .ok_or_else(|| wrong(SIGNING_CERTIFICATE))?;
                // Which certificate is meant, among those that lead to a trusted root: no more hangs on it.
                (&digest::SHA1_FOR_LEGACY_USE_ONLY, first.cert_hash)
            }
        };
        Ok(move |der: &[u8]| digest::digest(algorithm, der).as_ref() == want.as_bytes())
    }
}

/// The certificates of a token; other kinds of certificates are passed over.
fn embedded(set: Vec<CertificateChoices>) -> Result<Vec<Vec<u8>>, TimestampError> {
    if set.len() > MAX_BUNDLE_CERTIFICATES {
        return Err(TimestampError::TooManyCertificates { count: set.len() });
    }
    let certificates = set.into_iter().filter_map(|choice| match choice {
        CertificateChoices::Certificate(certificate) => certificate.to_der().ok(),
        CertificateChoices::Other(_) => None,
    });
    Ok(certificates.collect())
}

/// `SigningCertificate` of RFC 2634, 5.4.
#[derive(Sequence)]
struct SigningCertificate {
    certs: Vec<EssCertId>,
    #[asn1(optional = "true")]
    policies: Option<Any>,
}

#[derive(Sequence)]
struct EssCertId {
    cert_hash: OctetString,
    #[asn1(optional = "true")]
    issuer_serial: Option<Any>,
}

/// `SigningCertificateV2` of RFC 5035, 3.
#[derive(Sequence)]
struct SigningCertificateV2 {
    certs: Vec<EssCertIdV2>,
    #[asn1(optional = "true")]
    policies: Option<Any>,
}

#[derive(Sequence)]
struct EssCertIdV2 {
    /// SHA-256 when left out.
    #[asn1(optional = "true")]
    hash_algorithm: Option<AlgorithmIdentifierOwned>,
    cert_hash: OctetString,
    #[asn1(optional = "true")]
    issuer_serial: Option<Any>,
}

/// SHA-2 at three lengths; with NULL as parameters or none (RFC 5754, 2).
fn hash_of(algorithm: &AlgorithmIdentifierOwned) -> Option<HashFunction> {
    match &algorithm.parameters {
        None => {}
        Some(any) if any.is_null() => {}
        Some(_) => return None,
    }
    [
        (SHA256, HashFunction::Sha256),
        (SHA384, HashFunction::Sha384),
        (SHA512, HashFunction::Sha512),
    ]
    .into_iter()
    .find_map(|(oid, hash)| (oid == algorithm.oid).then_some(hash))
}

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SIGNING_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.12");
const SIGNING_CERTIFICATE_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");

fn name_of(kind: ObjectIdentifier) -> &'static str {
    match kind {
        CONTENT_TYPE => "content-type",
        MESSAGE_DIGEST => "message-digest",
        SIGNING_CERTIFICATE_V2 => "signing-certificate-v2",
        _ => "signing-certificate",
    }
}

/// Why a timestamp proves no time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimestampError {
    /// It is not of the shape that it must have.
    Malformed(&'static str),
    /// The authority did not grant it.
    NotGranted,
    /// It names another hash function than SHA-256, SHA-384 and SHA-512.
    Hash,
    /// A signed attribute is missing, stands there twice, or cannot be read.
    Attribute {
        /// Which one.
        kind: &'static str,
    },
    /// It is over other bytes than this signature.
    OtherSignature,
    /// What it says is not what the authority signed.
    Content,
    /// It carries more certificates than any chain has.
    TooManyCertificates {
        /// How many.
        count: usize,
    },
    /// The certificate that it is signed with is neither in it nor among those that the operator gave.
    NoCertificate,
    /// No path leads from the authority's certificate to a root that the operator gave.
    Chain(ChainError),
    /// The authority's key did not sign it.
    BadSignature,
    /// It is from after now.
    Future {
        /// When.
        at: UnixTime,
        /// Now.
        now: UnixTime,
    },
}

impl TimestampError {
    pub(super) fn kind(&self) -> TrustErrorKind {
        match self {
            Self::Malformed(_)
            | Self::NotGranted
            | Self::Hash
            | Self::Attribute { .. }
            | Self::TooManyCertificates { .. } => TrustErrorKind::Bundle,
            Self::OtherSignature | Self::Content | Self::BadSignature => TrustErrorKind::Signature,
            Self::NoCertificate | Self::Chain(_) | Self::Future { .. } => TrustErrorKind::Signer,
        }
    }
}

impl fmt::Display for TimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "it is malformed: {what}"),
            Self::NotGranted => write!(f, "the authority did not grant it"),
            Self::Hash => write!(
                f,
                "it uses a hash function other than SHA-256, SHA-384 and SHA-512"
            ),
            Self::Attribute { kind } => {
                write!(f, "its attribute {kind} is missing, malformed or there twice")
            }
            Self::OtherSignature => write!(f, "it is over another signature than the bundle's"),
            Self::Content => write!(f, "what it says is not what its authority signed"),
            Self::TooManyCertificates { count } => {
                write!(
                    f,
                    "it has {count} certificates, more than {MAX_BUNDLE_CERTIFICATES}"
                )
            }
            Self::NoCertificate => write!(
                f,
                "its authority's certificate is neither in it nor among the --tsa-root files"
            ),
            Self::Chain(cause) => write!(f, "its authority is not trusted: {cause}"),
            Self::BadSignature => write!(f, "its signature does not match"),
            Self::Future { at, now } => write!(f, "it is from {at}, and the time is {now}"),
        }
    }
}

impl std::error::Error for TimestampError {}

#[cfg(test)]
pub(super) mod tests;
