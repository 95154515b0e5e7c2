//! What a bundle says beside signature and certificate: entries of transparency logs and RFC 3161 timestamps.
//!
//! From JSON to values of the one shape that we accept, before anybody checks what they prove: unknown fields,
//! second entries and second spellings are refused here, because a verifier behind us may read them in another way
//! or not at all. Nothing here is trusted.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;

use crate::json;
use crate::json::AtMost;
use crate::json::JsonError;
use crate::json::Object;
use crate::path::Escaped;
use crate::trust::base64;
use crate::trust::base64::Base64Error;

/// Most timestamps in a bundle. Real ones have one; each costs a chain and a signature check.
pub(super) const MAX_TIMESTAMPS: usize = 8;

/// Most hashes in an inclusion proof: a tree of 2^63 entries needs no more.
const MAX_PROOF_HASHES: usize = 64;

/// Longest checkpoint in bytes. Real ones have two hundred for the log and one for each witness; each line may cost a
/// signature check.
const MAX_CHECKPOINT_BYTES: usize = 16 << 10;

/// Bytes of a SHA-256.
const HASH_BYTES: usize = 32;

/// The entry that records the signature in a transparency log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogEntry {
    pub(super) kind: EntryKind,
    pub(super) index: u64,
    pub(super) log_id: [u8; HASH_BYTES],
    pub(super) body: Vec<u8>,
    pub(super) proof: InclusionProof,
    /// The log's promise, with the time that it covers (Rekor v1).
    pub(super) promise: Option<Promise>,
}

/// The kinds of entry that record a DSSE envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// `dsse` 0.0.1, of Rekor v1.
    Dsse,
    /// `intoto` 0.0.2, of Rekor v1.
    Intoto,
    /// `hashedrekord` 0.0.1, of Rekor v1.
    HashedRekordV1,
    /// `hashedrekord` 0.0.2, of Rekor v2.
    HashedRekordV2,
}

/// That the log has the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InclusionProof {
    pub(super) index: u64,
    pub(super) root_hash: [u8; HASH_BYTES],
    pub(super) tree_size: u64,
    pub(super) hashes: Vec<[u8; HASH_BYTES]>,
    pub(super) checkpoint: String,
}

/// A signed entry timestamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) signature: Vec<u8>,
    /// Seconds since 1970; never zero, which protobuf cannot tell from absent.
    pub(super) integrated_at: i64,
}

impl LogEntry {
    /// Parses the value of `tlogEntries`, which holds exactly one.
    pub(super) fn parse(text: &str) -> Result<Self, EvidenceError> {
        let entries: AtMost<Object<EntryText<'_>>, 1> =
            json::parse(text.as_bytes()).map_err(|cause| EvidenceError::json("tlogEntries", cause))?;
        // The bundle's definition allows several, and every model has one. With two, a verifier that reads the
        // first and one that reads the last would see two different proofs.
        match entries.all().map(|mut only| only.pop()) {
            Ok(Some(Object(entry))) => entry.parse(),
            Ok(None) => Err(EvidenceError::EntryCount { count: 0 }),
            Err(count) => Err(EvidenceError::EntryCount { count }),
        }
    }
}

/// Parses the value of `timestampVerificationData`: the DER of each RFC 3161 response.
pub(super) fn parse_timestamps(text: &str) -> Result<Vec<Vec<u8>>, EvidenceError> {
    let Object(data): Object<TimestampsText<'_>> = json::parse(text.as_bytes())
        .map_err(|cause| EvidenceError::json("timestampVerificationData", cause))?;
    let Some(list) = data.rfc3161_timestamps else {
        return Ok(Vec::new());
    };
    let list = list
        .all()
        .map_err(|count| EvidenceError::TooManyTimestamps { count })?;
    let mut tokens = Vec::with_capacity(list.len());
    for Object(timestamp) in list {
        let token = decode("signedTimestamp", &timestamp.signed_timestamp)?;
        if tokens.contains(&token) {
            return Err(EvidenceError::RepeatedTimestamp);
        }
        tokens.push(token);
    }
    Ok(tokens)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TimestampsText<'a> {
    #[serde(borrow)]
    rfc3161_timestamps: Option<AtMost<Object<TimestampText<'a>>, MAX_TIMESTAMPS>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TimestampText<'a> {
    #[serde(borrow)]
    signed_timestamp: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct EntryText<'a> {
    #[serde(borrow)]
    log_index: Option<Number<'a>>,
    #[serde(borrow)]
    log_id: Object<LogIdText<'a>>,
    #[serde(borrow)]
    kind_version: Object<KindText<'a>>,
    #[serde(borrow)]
    integrated_time: Option<Number<'a>>,
    #[serde(borrow)]
    inclusion_promise: Option<Object<PromiseText<'a>>>,
    #[serde(borrow)]
    inclusion_proof: Option<Object<ProofText<'a>>>,
    #[serde(borrow)]
    canonicalized_body: Cow<'a, str>,
}

impl EntryText<'_> {
    fn parse(self) -> Result<LogEntry, EvidenceError> {
        let kind = self.kind_version.0.parse()?;
        let Object(proof) = self.inclusion_proof.ok_or(EvidenceError::NoInclusionProof)?;
        let time = self.integrated_time.map(|time| time.parse("integratedTime"));
        let time = time.transpose()?.filter(|&time| time != 0);
        let promise = match self.inclusion_promise {
            None => None,
            Some(Object(promise)) => {
                let integrated_at = time.and_then(|time| i64::try_from(time).ok());
                Some(Promise {
                    signature: decode("signedEntryTimestamp", &promise.signed_entry_timestamp)?,
                    integrated_at: integrated_at.ok_or(EvidenceError::PromiseWithoutTime)?,
                })
            }
        };
        Ok(LogEntry {
            kind,
            index: number_or_zero(self.log_index, "logIndex")?,
            log_id: hash("logId.keyId", &self.log_id.0.key_id)?,
            body: decode("canonicalizedBody", &self.canonicalized_body)?,
            proof: proof.parse()?,
            promise,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LogIdText<'a> {
    #[serde(borrow)]
    key_id: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KindText<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    version: Cow<'a, str>,
}

impl KindText<'_> {
    fn parse(self) -> Result<EntryKind, EvidenceError> {
        match (&*self.kind, &*self.version) {
            ("dsse", "0.0.1") => Ok(EntryKind::Dsse),
            ("intoto", "0.0.2") => Ok(EntryKind::Intoto),
            ("hashedrekord", "0.0.1") => Ok(EntryKind::HashedRekordV1),
            ("hashedrekord", "0.0.2") => Ok(EntryKind::HashedRekordV2),
            (kind, version) => {
                let found: String = format!("{kind} {version}").chars().take(EXCERPT_CHARS).collect();
                Err(EvidenceError::UnknownKind { found })
            }
        }
    }
}

/// Characters of a kind that a message repeats; known ones have at most 18.
const EXCERPT_CHARS: usize = 40;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PromiseText<'a> {
    #[serde(borrow)]
    signed_entry_timestamp: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ProofText<'a> {
    #[serde(borrow)]
    log_index: Option<Number<'a>>,
    #[serde(borrow)]
    root_hash: Cow<'a, str>,
    #[serde(borrow)]
    tree_size: Number<'a>,
    #[serde(borrow, default)]
    hashes: AtMost<Text<'a>, MAX_PROOF_HASHES>,
    #[serde(borrow)]
    checkpoint: Option<Object<CheckpointText<'a>>>,
}

impl ProofText<'_> {
    fn parse(self) -> Result<InclusionProof, EvidenceError> {
        let checkpoint = self.checkpoint.map(|Object(checkpoint)| checkpoint.envelope);
        let checkpoint = checkpoint.filter(|note| !note.is_empty());
        let checkpoint = checkpoint.ok_or(EvidenceError::NoCheckpoint)?.into_owned();
        if checkpoint.len() > MAX_CHECKPOINT_BYTES {
            return Err(EvidenceError::LongCheckpoint {
                bytes: checkpoint.len(),
            });
        }
        let hashes = self
            .hashes
            .all()
            .map_err(|count| EvidenceError::TooManyHashes { count })?;
        Ok(InclusionProof {
            index: number_or_zero(self.log_index, "inclusionProof.logIndex")?,
            root_hash: hash("rootHash", &self.root_hash)?,
            tree_size: self.tree_size.parse("treeSize")?,
            hashes: hashes
                .iter()
                .map(|text| hash("hashes", &text.0))
                .collect::<Result<_, _>>()?,
            checkpoint,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointText<'a> {
    #[serde(borrow)]
    envelope: Cow<'a, str>,
}

/// A text in a list; `Cow` alone would be copied there.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A 64-bit integer, which protobuf's JSON writes as a string and lets others write as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number<'a> {
    Plain(u64),
    #[serde(borrow)]
    Text(Cow<'a, str>),
}

impl Number<'_> {
    fn parse(&self, field: &'static str) -> Result<u64, EvidenceError> {
        let number = match self {
            Self::Plain(number) => Some(*number),
            // One spelling: no sign, no leading zero.
            Self::Text(text) => text
                .parse()
                .ok()
                .filter(|number: &u64| number.to_string() == **text),
        };
        number
            .filter(|&number| i64::try_from(number).is_ok())
            .ok_or(EvidenceError::NotANumber { field })
    }
}

/// Protobuf's JSON leaves a zero out.
fn number_or_zero(number: Option<Number<'_>>, field: &'static str) -> Result<u64, EvidenceError> {
    number.map_or(Ok(0), |number| number.parse(field))
}

fn decode(field: &'static str, text: &str) -> Result<Vec<u8>, EvidenceError> {
    let bytes = base64::decode(text).map_err(|cause| EvidenceError::NotBase64 { field, cause })?;
    match bytes.is_empty() {
        true => Err(EvidenceError::Empty { field }),
        false => Ok(bytes),
    }
}

fn hash(field: &'static str, text: &str) -> Result<[u8; HASH_BYTES], EvidenceError> {
    let bytes = decode(field, text)?;
    <[u8; HASH_BYTES]>::try_from(bytes).map_err(|bytes| EvidenceError::NotAHash {
        field,
        bytes: bytes.len(),
    })
}

/// Why a bundle's evidence is not of the shape that it must have.
#[derive(Debug)]
pub enum EvidenceError {
    /// A part is not JSON of the known shape.
    Json {
        /// Which part.
        field: &'static str,
        /// What is wrong with it.
        cause: JsonError,
    },
    /// There is not exactly one entry of a transparency log.
    EntryCount {
        /// How many there are.
        count: usize,
    },
    /// The entry is of a kind that records no DSSE envelope.
    UnknownKind {
        /// The beginning of what it is of.
        found: String,
    },
    /// The entry has no inclusion proof.
    NoInclusionProof,
    /// The inclusion proof has no checkpoint, so nobody signed its root.
    NoCheckpoint,
    /// The checkpoint is longer than any log's.
    LongCheckpoint {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The inclusion proof has more hashes than any tree needs.
    TooManyHashes {
        /// How many it has.
        count: usize,
    },
    /// The entry has a promise without the time that it promises.
    PromiseWithoutTime,
    /// Neither a promise with a time nor a timestamp says when it was signed.
    NoTime,
    /// There are more than are looked at.
    TooManyTimestamps {
        /// How many there are.
        count: usize,
    },
    /// A timestamp stands there twice.
    RepeatedTimestamp,
    /// A number is none, or written in an unusual way.
    NotANumber {
        /// Which one.
        field: &'static str,
    },
    /// A text is not base64.
    NotBase64 {
        /// Which one.
        field: &'static str,
        /// What is wrong with it.
        cause: Base64Error,
    },
    /// A text decodes to nothing.
    Empty {
        /// Which one.
        field: &'static str,
    },
    /// A hash has not 32 bytes.
    NotAHash {
        /// Which one.
        field: &'static str,
        /// How many it has.
        bytes: usize,
    },
}

impl EvidenceError {
    fn json(field: &'static str, cause: JsonError) -> Self {
        Self::Json { field, cause }
    }
}

impl fmt::Display for EvidenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json { field, .. } => write!(f, "{field} is malformed"),
            Self::EntryCount { count } => {
                write!(
                    f,
                    "there are {count} transparency log entries: expected exactly one"
                )
            }
            Self::UnknownKind { found } => write!(
                f,
                "the transparency log entry is of the kind {}, which is not known",
                Escaped(found.as_bytes())
            ),
            Self::NoInclusionProof => write!(f, "the transparency log entry has no inclusion proof"),
            Self::NoCheckpoint => write!(f, "the inclusion proof has no checkpoint"),
            Self::LongCheckpoint { bytes } => {
                write!(
                    f,
                    "the checkpoint has {bytes} bytes, more than {MAX_CHECKPOINT_BYTES}"
                )
            }
            Self::TooManyHashes { count } => {
                write!(
                    f,
                    "the inclusion proof has {count} hashes, more than {MAX_PROOF_HASHES}"
                )
            }
            Self::PromiseWithoutTime => {
                write!(
                    f,
                    "the transparency log entry has an inclusion promise and no integratedTime"
                )
            }
            Self::NoTime => write!(
                f,
                "neither an inclusion promise nor a timestamp says when it was signed"
            ),
            Self::TooManyTimestamps { count } => {
                write!(f, "there are {count} timestamps, more than {MAX_TIMESTAMPS}")
            }
            Self::RepeatedTimestamp => write!(f, "a timestamp stands there twice"),
            Self::NotANumber { field } => {
                write!(
                    f,
                    "{field} is not a number from 0 to 2^63-1 written in its shortest form"
                )
            }
            Self::NotBase64 { field, .. } => write!(f, "{field} is not base64"),
            Self::Empty { field } => write!(f, "{field} is empty"),
            Self::NotAHash { field, bytes } => {
                write!(f, "{field} has {bytes} bytes, not the {HASH_BYTES} of a SHA-256")
            }
        }
    }
}

impl std::error::Error for EvidenceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json { cause, .. } => Some(cause),
            Self::NotBase64 { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use serde_json::json;

    fn hash() -> String {
        "A".repeat(43) + "="
    }

    fn entry() -> Value {
        json!({
            "logIndex": "12",
            "logId": {"keyId": hash()},
            "kindVersion": {"kind": "intoto", "version": "0.0.2"},
            "integratedTime": 7,
            "inclusionPromise": {"signedEntryTimestamp": "AQ=="},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": hash(),
                "treeSize": "9223372036854775807",
                "hashes": [hash(), hash()],
                "checkpoint": {"envelope": "note"},
            },
            "canonicalizedBody": "e30=",
        })
    }

    fn with(pointer: &str, value: Value) -> String {
        let mut entry = entry();
        *entry.pointer_mut(pointer).unwrap() = value;
        json!([entry]).to_string()
    }

    #[test]
    fn an_entry_is_read_as_it_is_written() {
        let want = LogEntry {
            kind: EntryKind::Intoto,
            index: 12,
            log_id: [0; 32],
            body: b"{}".to_vec(),
            proof: InclusionProof {
                index: 0,
                root_hash: [0; 32],
                tree_size: u64::try_from(i64::MAX).unwrap(),
                hashes: vec![[0; 32]; 2],
                checkpoint: "note".to_owned(),
            },
            promise: Some(Promise {
                signature: vec![1],
                integrated_at: 7,
            }),
        };
        assert_eq!(LogEntry::parse(&json!([entry()]).to_string()).unwrap(), want);
        // Protobuf's JSON leaves zeros and empty lists out.
        let mut bare = entry();
        for field in ["logIndex", "integratedTime", "inclusionPromise"] {
            bare.as_object_mut().unwrap().remove(field);
        }
        for field in ["logIndex", "hashes"] {
            bare["inclusionProof"].as_object_mut().unwrap().remove(field);
        }
        let got = LogEntry::parse(&json!([bare]).to_string()).unwrap();
        assert_eq!((got.index, got.promise, got.proof.hashes.len()), (0, None, 0));
    }

    #[test]
    fn limits_hold_at_the_limit_and_one_past_it() {
        let hashes = |count: usize| with("/inclusionProof/hashes", json!(vec![hash(); count]));
        assert!(LogEntry::parse(&hashes(MAX_PROOF_HASHES)).is_ok());
        assert!(matches!(
            LogEntry::parse(&hashes(MAX_PROOF_HASHES + 1)),
            Err(EvidenceError::TooManyHashes { count: 65 })
        ));
        let checkpoint = |bytes: usize| with("/inclusionProof/checkpoint/envelope", json!("x".repeat(bytes)));
        assert!(LogEntry::parse(&checkpoint(MAX_CHECKPOINT_BYTES)).is_ok());
        assert!(matches!(
            LogEntry::parse(&checkpoint(MAX_CHECKPOINT_BYTES + 1)),
            Err(EvidenceError::LongCheckpoint { .. })
        ));
        let stamps = |count: u8| {
            let list: Vec<Value> = (0..count)
                .map(|i| json!({"signedTimestamp": base64::encode(&[i])}))
                .collect();
            json!({"rfc3161Timestamps": list}).to_string()
        };
        assert_eq!(parse_timestamps(&stamps(8)).unwrap().len(), MAX_TIMESTAMPS);
        assert!(matches!(
            parse_timestamps(&stamps(9)),
            Err(EvidenceError::TooManyTimestamps { count: 9 })
        ));
    }

    #[test]
    fn a_number_has_one_spelling_and_a_hash_one_length() {
        for (pointer, value) in [
            ("/logIndex", json!("012")),
            ("/logIndex", json!("+12")),
            ("/logIndex", json!("12 ")),
            ("/logIndex", json!(12.0)),
            ("/logIndex", json!(-1)),
            ("/logIndex", json!(9_223_372_036_854_775_808_u64)),
            ("/logIndex", json!([12])),
            ("/inclusionProof/treeSize", json!("")),
            ("/inclusionProof/treeSize", Value::Null),
            ("/inclusionProof/rootHash", json!("AA==")),
            ("/inclusionProof/hashes", json!([hash(), "AA=="])),
            ("/logId/keyId", json!(hash() + "AAAA")),
            ("/canonicalizedBody", json!("")),
            ("/canonicalizedBody", json!("e31=")),
            ("/inclusionPromise/signedEntryTimestamp", json!("")),
            ("/kindVersion/version", json!("0.0.1")),
            ("/integratedTime", json!("0")),
        ] {
            assert!(
                LogEntry::parse(&with(pointer, value.clone())).is_err(),
                "{pointer} {value}"
            );
        }
        assert!(LogEntry::parse("{}").is_err() && LogEntry::parse("[[]]").is_err());
    }
}
