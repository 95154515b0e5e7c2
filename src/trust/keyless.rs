//! Sigstore's keyless method, offline: a certificate that lived for minutes, and proof that it was used then.
//!
//! The one module that knows `sigstore-verify`. That crate checks the certificate's chain at every proven time, its
//! SCT, the log entry's inclusion proof, checkpoint and promise, timestamps, and that the entry records this very
//! signature; none of it can be skipped from here. It never sees the bundle's text: it is handed what our own
//! parsers made of it, so there is no second reading. What we check ourselves: the shape of everything
//! (`trust::evidence`), the envelope's signature (with the same code as for other certificates), the
//! certificate's profile, that it has one name, and whose name it is. There is no network here. The crate reads the
//! system's clock to refuse log entries from the future; we hold every proven time against the caller's clock too.

mod identity;
mod root;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use sigstore_verify::Error;
use sigstore_verify::TransparencyLogError;
use sigstore_verify::VerificationPolicy;
use sigstore_verify::VerificationResult;
use sigstore_verify::types;
use sigstore_verify::types::Bundle;

use crate::path::Escaped;
use crate::trust::PAYLOAD_TYPE;
use crate::trust::Signer;
use crate::trust::TrustErrorKind;
use crate::trust::UnixTime;
use crate::trust::chain::AlternativeName;
use crate::trust::chain::ChainError;
use crate::trust::chain::ProfiledLeaf;
use crate::trust::dsse::Envelope;
use crate::trust::evidence::EntryKind;
use crate::trust::evidence::LogEntry;
use crate::trust::key::Curve;
use crate::trust::quoted;
use crate::trust::time::SigningTime;
use crate::trust::time::TimeProof;
use crate::trust::time::Witness;

pub use identity::KeylessIdentity;
pub use identity::KeylessIdentityError;
pub use root::PRODUCTION;
pub use root::RootDate;
pub use root::RootError;
pub use root::SigstoreRoot;
pub use root::Staleness;

/// Largest payload of a keyless bundle in bytes, enough for 400,000 files. The crate that checks the evidence builds
/// a tree of it before any signature is checked, at some ten times its size in memory.
pub const MAX_KEYLESS_PAYLOAD_BYTES: usize = 64 << 20;

/// One signer whose keyless signatures are trusted: an identity, who vouches for it, and the instance's keys.
#[derive(Clone, Debug)]
pub struct KeylessAnchor {
    root: Arc<SigstoreRoot>,
    identity: KeylessIdentity,
    issuer: String,
}

impl KeylessAnchor {
    /// Trusts this identity, when this identity provider vouched for it to this instance.
    pub fn new(root: Arc<SigstoreRoot>, identity: KeylessIdentity, issuer: impl Into<String>) -> Self {
        Self {
            root,
            identity,
            issuer: issuer.into(),
        }
    }

    /// The keys of the instance.
    pub fn root(&self) -> &SigstoreRoot {
        &self.root
    }
}

/// What a bundle brings.
#[derive(Clone, Copy)]
pub(super) struct Brought<'a> {
    pub(super) envelope: &'a Envelope,
    pub(super) leaf: &'a [u8],
    pub(super) entry: &'a LogEntry,
    pub(super) timestamps: &'a [Vec<u8>],
}

/// Looks for an anchor that trusts whoever signed.
///
/// The envelope's signature was checked with the key of `leaf`, and `root_digest` is what its payload says.
///
/// # Errors
/// Refuses evidence that no root of the anchors accepts, and signers whom none of the anchors means.
pub(super) fn verify(
    anchors: &[KeylessAnchor],
    brought: Brought<'_>,
    leaf: &ProfiledLeaf,
    root_digest: [u8; 32],
    now: UnixTime,
) -> Result<(Signer, SigningTime), KeylessError> {
    // The crate cannot check such a signature, and says of the certificate that it is malformed.
    if leaf.key().curve() == Curve::P521 {
        return Err(KeylessError::P521);
    }
    let name = only_name(leaf)?;
    let bundle = brought.bundle()?;
    let mut refusal = None;
    let mut last: Option<(&Arc<SigstoreRoot>, Option<Vouched>)> = None;
    for anchor in anchors {
        // Several signers usually share one root, and stand beside each other.
        let known = last.take().filter(|(root, _)| Arc::ptr_eq(root, &anchor.root));
        let (root, vouched) = match known {
            Some(known) => known,
            None => match Vouched::by(&anchor.root, &bundle, brought.entry, leaf, root_digest, now) {
                Ok(vouched) => (&anchor.root, Some(vouched)),
                Err(error) => {
                    refusal.get_or_insert(error);
                    (&anchor.root, None)
                }
            },
        };
        if let Some(vouched) = &vouched {
            if vouched.issuer == anchor.issuer && anchor.identity.is(name) {
                let signer = Signer::Sigstore {
                    identity: name.to_string(),
                    issuer: vouched.issuer.clone(),
                    spki_sha256: leaf.spki_sha256(),
                    serial: leaf.serial().to_owned(),
                    root: root.name().to_owned(),
                    root_date: root.date(),
                    stale: root.staleness(now),
                };
                return Ok((signer, vouched.time.clone()));
            }
            // Somebody whom a root vouches for is the better thing to tell.
            refusal = Some(KeylessError::OtherSigner {
                found: name.to_string(),
                issuer: printable(&vouched.issuer),
                wanted: anchors.iter().map(Wanted::of).collect(),
            });
        }
        last = Some((root, vouched));
    }
    Err(refusal.unwrap_or(KeylessError::NoAnchor))
}

/// The name of a certificate that has exactly one, as every Sigstore instance issues them: with two, it would be
/// whoever of the two is trusted.
fn only_name(leaf: &ProfiledLeaf) -> Result<&AlternativeName, KeylessError> {
    match leaf.names() {
        [name @ (AlternativeName::Email(_) | AlternativeName::Uri(_))] => Ok(name),
        names => Err(KeylessError::Names {
            found: names.iter().map(ToString::to_string).collect(),
        }),
    }
}

impl Brought<'_> {
    /// The same in the crate's types.
    fn bundle(&self) -> Result<Bundle, KeylessError> {
        let payload = self.envelope.payload();
        if payload.len() > MAX_KEYLESS_PAYLOAD_BYTES {
            return Err(KeylessError::TooLarge { bytes: payload.len() });
        }
        let certificate = types::CertificateContent::new(types::DerCertificate::from_bytes(self.leaf));
        let timestamps = self
            .timestamps
            .iter()
            .map(|der| types::Rfc3161Timestamp::new(types::TimestampToken::from_bytes(der)))
            .collect();
        let material =
            types::VerificationMaterial::new(types::VerificationMaterialContent::Certificate(certificate))
                .with_tlog_entries(vec![entry(self.entry)?])
                .with_timestamp_verification_data(types::TimestampVerificationData::new(timestamps));
        let signature = types::DsseSignature::new(
            types::SignatureBytes::from_bytes(self.envelope.signature()),
            types::KeyId::default(),
        );
        let envelope =
            types::DsseEnvelope::new(PAYLOAD_TYPE, types::PayloadBytes::from_bytes(payload), signature);
        Ok(Bundle::new(
            types::MediaType::Bundle0_3,
            material,
            types::SignatureContent::DsseEnvelope(envelope),
        ))
    }
}

fn entry(entry: &LogEntry) -> Result<types::TransparencyLogEntry, KeylessError> {
    let types_error = |e: types::Error| KeylessError::Evidence(Box::new(Error::Types(e)));
    let proof = &entry.proof;
    let checkpoint = types::CheckpointData::new(proof.checkpoint.clone()).map_err(types_error)?;
    // The crate compares the root alone, and the proof is only as good as the tree that was signed.
    let signed_size = checkpoint
        .checkpoint()
        .map(sigstore_verify::types::Checkpoint::tree_size);
    if signed_size != Some(proof.tree_size) {
        return Err(KeylessError::TreeSize {
            proof: proof.tree_size,
            checkpoint: signed_size,
        });
    }
    let proof = types::InclusionProof::new(
        types::LogIndex::new(proof.index).map_err(types_error)?,
        proof.root_hash.into(),
        proof.tree_size,
        proof.hashes.iter().copied().map(Into::into).collect(),
        checkpoint,
    );
    let kind = match entry.kind {
        EntryKind::Dsse => types::KindVersion::DsseV001,
        EntryKind::Intoto => types::KindVersion::IntotoV002,
        EntryKind::HashedRekordV1 => types::KindVersion::HashedRekordV001,
        EntryKind::HashedRekordV2 => types::KindVersion::HashedRekordV002,
    };
    let built = types::TransparencyLogEntry::new(
        types::LogIndex::new(entry.index).map_err(types_error)?,
        types::LogId::new(types::LogKeyId::from_bytes(&entry.log_id)),
        kind,
        types::CanonicalizedBody::from_bytes(&entry.body),
    )
    .with_inclusion_proof(proof);
    let Some(promise) = &entry.promise else {
        return Ok(built);
    };
    let at = jiff::Timestamp::from_second(promise.integrated_at)
        .map_err(|_| KeylessError::Unproven("the time of the log entry"))?;
    let signed = types::SignedTimestamp::from_bytes(&promise.signature);
    Ok(built
        .with_integrated_time(at)
        .with_inclusion_promise(types::InclusionPromise::new(signed)))
}

/// What a root vouches for.
struct Vouched {
    issuer: String,
    time: SigningTime,
}

impl Vouched {
    /// Has all evidence checked against one root.
    fn by(
        root: &SigstoreRoot,
        bundle: &Bundle,
        entry: &LogEntry,
        leaf: &ProfiledLeaf,
        root_digest: [u8; 32],
        now: UnixTime,
    ) -> Result<Self, KeylessError> {
        // Whose it may be is asked afterwards, of all anchors of this root; the policy demands everything else,
        // and the checks below hold it to that.
        let policy = VerificationPolicy::any_identity();
        let digest = types::Sha256Hash::from(root_digest);
        let result = root
            .verifier()
            .verify(digest, bundle, &policy)
            .map_err(|e| KeylessError::Evidence(Box::new(e)))?;
        Self::of(root, entry, leaf, &result, now)
    }

    fn of(
        root: &SigstoreRoot,
        entry: &LogEntry,
        leaf: &ProfiledLeaf,
        result: &VerificationResult,
        now: UnixTime,
    ) -> Result<Self, KeylessError> {
        proven(result)?;
        let issuer = result.issuer().filter(|issuer| !issuer.is_empty());
        let issuer = issuer
            .ok_or(KeylessError::Unproven("who vouches for the identity"))?
            .to_owned();
        let in_log = result.integrated_time().map(|time| UnixTime(time.as_second()));
        let mut proofs = Vec::new();
        for time in result.verified_timestamps() {
            let at = UnixTime(time.as_second());
            if at > now {
                return Err(KeylessError::Future { at, now });
            }
            leaf.check_at(at).map_err(KeylessError::Leaf)?;
            // The crate lists the timestamps first and the log's time last.
            let last = proofs.len() + 1 == result.verified_timestamps().len();
            let witness = match in_log {
                Some(log) if last && log == at => Witness::Log {
                    name: root.log_name(&entry.log_id),
                    index: entry.index,
                },
                _ => Witness::Timestamp {
                    name: format!("of {}", root.name()),
                },
            };
            proofs.push(TimeProof { at, witness });
        }
        Ok(Self {
            issuer,
            time: SigningTime::proven_by(proofs),
        })
    }
}

/// Checks that the crate checked it all: a policy that leaves something out would show here.
fn proven(result: &VerificationResult) -> Result<(), KeylessError> {
    for (proven, what) in [
        (result.certificate_verified(), "the certificate"),
        (result.sct_verified(), "the certificate's SCT"),
        (result.tlog_verified(), "the log entry"),
        (!result.verified_timestamps().is_empty(), "when it was signed"),
    ] {
        if !proven {
            return Err(KeylessError::Unproven(what));
        }
    }
    Ok(())
}

/// A signer whom an anchor means, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The identity, with its kind.
    pub identity: String,
    /// Who must vouch for it.
    pub issuer: String,
}

impl Wanted {
    fn of(anchor: &KeylessAnchor) -> Self {
        Self {
            identity: anchor.identity.to_string(),
            issuer: printable(&anchor.issuer),
        }
    }
}

/// Why a keyless signature is not trusted.
#[derive(Debug)]
pub enum KeylessError {
    /// Nobody is trusted to sign so.
    NoAnchor,
    /// The payload is larger than [`MAX_KEYLESS_PAYLOAD_BYTES`].
    TooLarge {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The certificate is for a key on P-521.
    P521,
    /// The certificate does not keep the profile, or not at a time at which it signed.
    Leaf(ChainError),
    /// The certificate has not exactly one name that is an email address or a URI.
    Names {
        /// What it has.
        found: Vec<String>,
    },
    /// The inclusion proof is for another tree than the one that the log signed.
    TreeSize {
        /// The size that the proof says.
        proof: u64,
        /// The size that was signed.
        checkpoint: Option<u64>,
    },
    /// The evidence does not hold.
    Evidence(Box<Error>),
    /// Something was not proven although nothing was found wrong.
    Unproven(&'static str),
    /// It was signed after now.
    Future {
        /// When.
        at: UnixTime,
        /// Now.
        now: UnixTime,
    },
    /// It is signed, by somebody who is not meant.
    OtherSigner {
        /// By whom.
        found: String,
        /// Who vouches for them.
        issuer: String,
        /// Who is meant.
        wanted: Vec<Wanted>,
    },
}

impl KeylessError {
    pub(super) fn kind(&self) -> TrustErrorKind {
        let Self::Evidence(cause) = self else {
            return match self {
                Self::TooLarge { .. } | Self::TreeSize { .. } => TrustErrorKind::Bundle,
                _ => TrustErrorKind::Signer,
            };
        };
        match &**cause {
            Error::SignatureInvalid(_) => TrustErrorKind::Signature,
            Error::InvalidBundle(_)
            | Error::UnsupportedBundle(_)
            | Error::Bundle(_)
            | Error::Types(_)
            | Error::TransparencyLog(TransparencyLogError::MalformedEntry(_)) => TrustErrorKind::Bundle,
            _ => TrustErrorKind::Signer,
        }
    }
}

impl fmt::Display for KeylessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnchor => write!(f, "nobody is trusted to sign through Sigstore"),
            Self::TooLarge { bytes } => write!(
                f,
                "the payload has {bytes} bytes, more than the {MAX_KEYLESS_PAYLOAD_BYTES} of a keyless bundle: sign it with a key or a certificate"
            ),
            Self::P521 => write!(
                f,
                "the signer's key is on P-521, which is not taken for keyless signatures: sign with a key on P-256 or P-384"
            ),
            Self::Leaf(cause) => write!(f, "the signer's certificate is not trusted: {cause}"),
            Self::Names { found } => {
                write!(
                    f,
                    "the signer's certificate has not exactly one email address or URI as its name"
                )?;
                for name in found {
                    write!(f, " {}", quoted(name))?;
                }
                Ok(())
            }
            Self::TreeSize { proof, checkpoint } => write!(
                f,
                "the inclusion proof is for a log of {proof} entries, and the log's checkpoint is of {}",
                checkpoint.map_or_else(|| "none".to_owned(), |size| size.to_string())
            ),
            Self::Evidence(cause) => write!(f, "{}: {}", check(cause), printable(&cause.to_string())),
            Self::Unproven(what) => write!(f, "{what} is not proven"),
            Self::Future { at, now } => write!(f, "it was signed at {at}, and the time is {now}"),
            Self::OtherSigner {
                found,
                issuer,
                wanted,
            } => {
                write!(
                    f,
                    "it is signed by {}, for whom {} vouches: trusted is ",
                    quoted(found),
                    quoted(issuer)
                )?;
                for (i, wanted) in wanted.iter().enumerate() {
                    let or = if i == 0 { "" } else { " or " };
                    write!(
                        f,
                        "{or}{} with {}",
                        quoted(&wanted.identity),
                        quoted(&wanted.issuer)
                    )?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for KeylessError {}

/// The name of the check that refused.
fn check(error: &Error) -> &'static str {
    match error {
        Error::SignatureInvalid(_) => "the signature does not match",
        Error::ArtifactMismatch(_) | Error::UnsupportedArtifact(_) => {
            "the payload's subject is not the model's root digest"
        }
        Error::Certificate(_) => "the signer's certificate is not trusted",
        Error::TransparencyLog(cause) => match cause {
            TransparencyLogError::UnknownLog { .. } => "the transparency log is not trusted",
            TransparencyLogError::InclusionProof(_) => "the inclusion proof does not hold",
            TransparencyLogError::Checkpoint(_) => "the log's checkpoint does not hold",
            TransparencyLogError::InclusionPromise(_) => "the log's inclusion promise does not hold",
            TransparencyLogError::EntryMismatch(_) => "the log entry records another signature",
            TransparencyLogError::IntegratedTime(_) => "the log entry's time does not fit",
            _ => "the log entry is malformed",
        },
        Error::Timestamp(_) => "the timestamp does not hold",
        Error::InvalidTrustRoot(_) | Error::TrustRoot(_) | Error::TrustedCertificate(_) => {
            "the trusted root cannot be used"
        }
        _ => "the bundle is malformed",
    }
}

/// A text of others, safe to print and of bounded length.
fn printable(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_MESSAGE_CHARS).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    Escaped(shown.as_bytes()).to_string()
}

/// Longest text of others in a message, in characters. It may quote what somebody hostile wrote.
const MAX_MESSAGE_CHARS: usize = 400;
