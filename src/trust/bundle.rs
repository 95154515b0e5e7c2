//! Sigstore bundles, version 0.3: from bytes to a [`Bundle`] of the right shape.
//!
//! A `Bundle` has exactly one kind of verification material, one DSSE envelope and one signature; fields
//! that we do not know are refused, because what another program would read from them is unknown too.
//! Nothing in a `Bundle` is trusted: that takes [`crate::trust::TrustAnchors::verify`].

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json;
use crate::json::AtMost;
use crate::json::Ignored;
use crate::json::JsonError;
use crate::json::Object;
use crate::manifest::Format;
use crate::manifest::Manifest;
use crate::manifest::ManifestError;
use crate::path::Escaped;
use crate::trust::base64;
use crate::trust::base64::Base64Error;
use crate::trust::dsse::Envelope;
use crate::trust::dsse::EnvelopeError;
use crate::trust::dsse::PAYLOAD_TYPE;
use crate::trust::evidence;
use crate::trust::evidence::EvidenceError;
use crate::trust::evidence::LogEntry;

/// Largest bundle in bytes. A million shards as the reference tool writes them take 283 MiB; parsing takes memory in
/// proportion, about twice the bundle, so the limit is what an attacker's bundle can cost.
pub const MAX_BUNDLE_BYTES: usize = 384 << 20;

/// Most certificates in a bundle: a leaf, eight intermediates and a root.
pub const MAX_BUNDLE_CERTIFICATES: usize = 10;

/// Longest hint in bytes. A real one has 64; it is repeated in a message.
pub const MAX_HINT_BYTES: usize = 256;

/// The only media type that OMS has.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// A Sigstore bundle whose shape is right; nothing in it is trusted yet.
#[derive(Debug)]
pub struct Bundle {
    material: Material,
    envelope: Envelope,
    /// The text of `timestampVerificationData`.
    timestamps: Option<Box<str>>,
}

impl Bundle {
    /// Parses a bundle.
    ///
    /// # Errors
    /// Refuses what is not strict JSON or not of the one shape that OMS has.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLarge { bytes: bytes.len() });
        }
        let Object(text) = json::parse::<Object<BundleText>>(bytes).map_err(BundleError::Json)?;
        match text.media_type {
            Some(found) if found == MEDIA_TYPE => {}
            found => {
                return Err(BundleError::MediaType {
                    found: found.map(|found| excerpt(&found)),
                });
            }
        }
        if text.message_signature.is_some() {
            return Err(BundleError::MessageSignature);
        }
        let Object(material) = text.verification_material.ok_or(BundleError::NoMaterial)?;
        let timestamps = material.timestamps.map(|text| text.get().into());
        let material = material.parse()?;
        let envelope = text.dsse_envelope.ok_or(BundleError::NoEnvelope)?.0.parse()?;
        Ok(Self {
            material,
            envelope,
            timestamps,
        })
    }

    /// How it is signed.
    pub fn method(&self) -> Method {
        match self.material {
            Material::Key { .. } => Method::Key,
            Material::Certificate { .. } => Method::Certificate,
            Material::Sigstore { .. } => Method::Sigstore,
        }
    }

    /// The manifest as the bundle states it, to be reported and never to be served: as far as this says, anybody
    /// may have written it.
    ///
    /// # Errors
    /// Refuses what is a manifest in neither the current format nor that of v0.2.
    pub fn untrusted_manifest(&self) -> Result<Manifest, ManifestError> {
        let payload = self.envelope.payload();
        Manifest::parse(payload, Format::V1)
            .or_else(|error| Manifest::parse(payload, Format::LegacyV02).map_err(|_| error))
    }

    pub(super) fn material(&self) -> &Material {
        &self.material
    }

    pub(super) fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The RFC 3161 responses. Those of a key or a certificate are looked at only when somebody asks: without an
    /// authority that the operator trusts they say nothing.
    pub(super) fn timestamps(&self) -> Result<Vec<Vec<u8>>, BundleError> {
        let timestamps = self.timestamps.as_deref();
        timestamps
            .map_or(Ok(Vec::new()), evidence::parse_timestamps)
            .map_err(BundleError::Evidence)
    }
}

/// The OMS signing methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// With a bare key.
    Key,
    /// With a certificate under the operator's own roots.
    Certificate,
    /// With a short-lived certificate from a Sigstore instance ("keyless").
    Sigstore,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Certificate => "certificate",
            Self::Sigstore => "sigstore",
        })
    }
}

/// What the bundle offers to verify it with.
pub(super) enum Material {
    /// A key, which it does not carry; at most it says which.
    Key { hint: Option<String> },
    /// DER certificates, the signer's first; never empty.
    Certificate { leaf: Vec<u8>, rest: Vec<Vec<u8>> },
    /// A Sigstore instance's certificate, and the log entry that records what it signed.
    Sigstore { leaf: Vec<u8>, entry: Box<LogEntry> },
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { hint } => f.debug_struct("Key").field("hint", hint).finish(),
            Self::Certificate { rest, .. } => {
                write!(f, "Certificate {{ {} certificates }}", 1 + rest.len())
            }
            Self::Sigstore { entry, .. } => write!(f, "Sigstore {{ entry {} }}", entry.index),
        }
    }
}

// Fields are optional here and required above, so that what is missing gets a sentence of its own; `null`
// means absent, as in protobuf's JSON.

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct BundleText<'a> {
    #[serde(borrow)]
    media_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    verification_material: Option<Object<MaterialText<'a>>>,
    #[serde(borrow)]
    dsse_envelope: Option<Object<EnvelopeText<'a>>>,
    message_signature: Option<Ignored>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct MaterialText<'a> {
    #[serde(borrow)]
    public_key: Option<Object<PublicKeyText<'a>>>,
    #[serde(borrow, rename = "x509CertificateChain")]
    x509_certificate_chain: Option<Object<ChainText<'a>>>,
    #[serde(borrow)]
    certificate: Option<Object<CertificateText<'a>>>,
    // Evidence, whose shape matters where it is asked for.
    #[serde(borrow)]
    tlog_entries: Option<&'a RawValue>,
    #[serde(borrow, rename = "timestampVerificationData")]
    timestamps: Option<&'a RawValue>,
}

impl MaterialText<'_> {
    fn parse(self) -> Result<Material, BundleError> {
        match (self.public_key, self.x509_certificate_chain, self.certificate) {
            (Some(Object(key)), None, None) => key.parse(),
            (None, Some(Object(chain)), None) => chain.parse(),
            (None, None, Some(Object(leaf))) => {
                let entry = self.tlog_entries.ok_or(BundleError::NoTlogEntries)?;
                let entry = LogEntry::parse(entry.get()).map_err(BundleError::Evidence)?;
                let timestamps = self.timestamps.map(|text| evidence::parse_timestamps(text.get()));
                let timestamps = timestamps.transpose().map_err(BundleError::Evidence)?;
                // The certificate is valid for minutes, and nothing else says that it was used in these.
                if entry.promise.is_none() && timestamps.unwrap_or_default().is_empty() {
                    return Err(BundleError::Evidence(EvidenceError::NoTime));
                }
                Ok(Material::Sigstore {
                    leaf: leaf.parse(0)?,
                    entry: Box::new(entry),
                })
            }
            (None, None, None) => Err(BundleError::NoMaterial),
            _ => Err(BundleError::SeveralMaterials),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PublicKeyText<'a> {
    #[serde(borrow)]
    hint: Option<Cow<'a, str>>,
    // v0.3.1 to v1.0.1 of the reference tool put the signer's key here. A key from the bundle proves
    // nothing, so it is not even looked at.
    #[serde(rename = "rawBytes")]
    _raw_bytes: Option<Ignored>,
    #[serde(rename = "keyDetails")]
    _key_details: Option<Ignored>,
    #[serde(rename = "validFor")]
    _valid_for: Option<Ignored>,
}

impl PublicKeyText<'_> {
    fn parse(self) -> Result<Material, BundleError> {
        // Protobuf's JSON does not tell an empty string from an absent one.
        let hint = self.hint.filter(|hint| !hint.is_empty());
        match hint {
            Some(hint) if hint.len() > MAX_HINT_BYTES => Err(BundleError::HintTooLong { bytes: hint.len() }),
            hint => Ok(Material::Key {
                hint: hint.map(Cow::into_owned),
            }),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChainText<'a> {
    #[serde(borrow, default)]
    certificates: AtMost<Object<CertificateText<'a>>, MAX_BUNDLE_CERTIFICATES>,
}

impl ChainText<'_> {
    fn parse(self) -> Result<Material, BundleError> {
        let certificates = self.certificates.all();
        let certificates = certificates.map_err(|count| BundleError::TooManyCertificates { count })?;
        let mut certificates = certificates.into_iter().enumerate();
        let Some((_, leaf)) = certificates.next() else {
            return Err(BundleError::EmptyChain);
        };
        Ok(Material::Certificate {
            leaf: leaf.0.parse(0)?,
            rest: certificates
                .map(|(index, Object(certificate))| certificate.parse(index))
                .collect::<Result<_, _>>()?,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CertificateText<'a> {
    #[serde(borrow)]
    raw_bytes: Cow<'a, str>,
}

impl CertificateText<'_> {
    fn parse(self, index: usize) -> Result<Vec<u8>, BundleError> {
        base64::decode(&self.raw_bytes).map_err(|cause| BundleError::Certificate { index, cause })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct EnvelopeText<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(borrow)]
    payload_type: Cow<'a, str>,
    #[serde(borrow, default)]
    signatures: AtMost<Object<SignatureText<'a>>, 1>,
}

impl EnvelopeText<'_> {
    fn parse(self) -> Result<Envelope, BundleError> {
        if self.payload_type != PAYLOAD_TYPE {
            return Err(BundleError::PayloadType {
                found: excerpt(&self.payload_type),
            });
        }
        // The bundle's own definition: a client must reject any other number. With two, programs would
        // differ about which one counts.
        let signature = match self.signatures.all().map(|mut only| only.pop()) {
            Ok(Some(Object(signature))) => signature,
            Ok(None) => return Err(BundleError::SignatureCount { count: 0 }),
            Err(count) => return Err(BundleError::SignatureCount { count }),
        };
        Envelope::parse(&self.payload, &signature.sig).map_err(BundleError::Envelope)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureText<'a> {
    #[serde(borrow)]
    sig: Cow<'a, str>,
    // "", null or absent, depending on the signer's version; unsigned, so never used.
    #[serde(borrow, rename = "keyid")]
    _keyid: Option<Cow<'a, str>>,
}

/// The beginning of a text from the bundle, for a message.
fn excerpt(text: &str) -> String {
    let shown: String = text.chars().take(EXCERPT_CHARS).collect();
    match shown.len() == text.len() {
        true => shown,
        false => shown + "...",
    }
}

/// Characters of the bundle's text that a message repeats: enough for a media type.
const EXCERPT_CHARS: usize = 80;

/// Why bytes are not a bundle.
#[derive(Debug)]
pub enum BundleError {
    /// It is larger than [`MAX_BUNDLE_BYTES`].
    TooLarge {
        /// Its length in bytes.
        bytes: usize,
    },
    /// It is not strict JSON, or has a field or type that a bundle has not.
    Json(JsonError),
    /// Its media type is not [`MEDIA_TYPE`].
    MediaType {
        /// The beginning of what it has instead, if anything.
        found: Option<String>,
    },
    /// It has no verification material.
    NoMaterial,
    /// It has more than one kind of verification material.
    SeveralMaterials,
    /// It has a Sigstore certificate and no transparency log entries, which are the proof of its time.
    NoTlogEntries,
    /// Its evidence is not of the shape that it must have.
    Evidence(EvidenceError),
    /// Its hint is longer than [`MAX_HINT_BYTES`].
    HintTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// Its certificate chain has no certificate.
    EmptyChain,
    /// Its certificate chain has more than [`MAX_BUNDLE_CERTIFICATES`].
    TooManyCertificates {
        /// How many it has.
        count: usize,
    },
    /// A certificate is not base64.
    Certificate {
        /// Which one, from 0, the signer's.
        index: usize,
        /// What is wrong with it.
        cause: Base64Error,
    },
    /// It has no DSSE envelope.
    NoEnvelope,
    /// It has a message signature, which says nothing about what the message is.
    MessageSignature,
    /// Its payload is not of type [`PAYLOAD_TYPE`].
    PayloadType {
        /// The beginning of what it is of.
        found: String,
    },
    /// It has not exactly one signature.
    SignatureCount {
        /// How many it has.
        count: usize,
    },
    /// Its envelope cannot be decoded.
    Envelope(EnvelopeError),
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes } => {
                write!(f, "the bundle has {bytes} bytes, more than {MAX_BUNDLE_BYTES}")
            }
            Self::Json(_) => write!(f, "the bundle is not the JSON of a Sigstore bundle"),
            Self::MediaType { found: None } => {
                write!(f, "the bundle has no mediaType: expected {MEDIA_TYPE}")
            }
            Self::MediaType { found: Some(found) } => write!(
                f,
                "the bundle's mediaType is {}: expected {MEDIA_TYPE}",
                Escaped(found.as_bytes())
            ),
            Self::NoMaterial => write!(
                f,
                "the bundle's verificationMaterial has none of publicKey, x509CertificateChain and certificate"
            ),
            Self::SeveralMaterials => write!(
                f,
                "the bundle's verificationMaterial has more than one of publicKey, x509CertificateChain and certificate"
            ),
            Self::NoTlogEntries => write!(f, "the bundle has a Sigstore certificate and no tlogEntries"),
            Self::Evidence(_) => write!(f, "the bundle's verificationMaterial is malformed"),
            Self::HintTooLong { bytes } => {
                write!(
                    f,
                    "the bundle's public key hint has {bytes} bytes, more than {MAX_HINT_BYTES}"
                )
            }
            Self::EmptyChain => write!(f, "the bundle's x509CertificateChain has no certificates"),
            Self::TooManyCertificates { count } => write!(
                f,
                "the bundle has {count} certificates, more than {MAX_BUNDLE_CERTIFICATES}"
            ),
            Self::Certificate { index, .. } => {
                write!(f, "certificate {index} of the bundle is not base64")
            }
            Self::NoEnvelope => write!(f, "the bundle has no dsseEnvelope"),
            Self::MessageSignature => write!(
                f,
                "the bundle has a messageSignature: a model is signed with a dsseEnvelope"
            ),
            Self::PayloadType { found } => write!(
                f,
                "the envelope's payloadType is {}: expected {PAYLOAD_TYPE}",
                Escaped(found.as_bytes())
            ),
            Self::SignatureCount { count } => {
                write!(f, "the envelope has {count} signatures: expected exactly one")
            }
            Self::Envelope(_) => write!(f, "the bundle's dsseEnvelope cannot be decoded"),
        }
    }
}

impl std::error::Error for BundleError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(cause) => Some(cause),
            Self::Evidence(cause) => Some(cause),
            Self::Certificate { cause, .. } => Some(cause),
            Self::Envelope(cause) => Some(cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
