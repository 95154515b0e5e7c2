//! The statement as JSON: shapes and the fields that are said once, before any resource is looked at.

use std::borrow::Cow;

use serde::Deserialize;
use serde::Deserializer;

use super::MAX_IGNORED_PATHS;
use super::MAX_SHARD_SIZE;
use super::ManifestError;
use super::resources::LegacyResources;
use super::resources::Resources;
use crate::digest::Algorithm;
use crate::digest::Digest;
use crate::json;
use crate::json::AtMost;
use crate::json::Ignored;
use crate::json::JsonError;
use crate::json::Object;
use crate::path::ModelPath;

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_V1: &str = "https://model_signing/signature/v1.0";
const PREDICATE_LEGACY_V02: &str = "https://model_signing/Digests/v0.1";

/// What a statement lists, in one form for both formats.
pub(super) struct Listing<'a> {
    pub(super) subject: Cow<'a, str>,
    pub(super) algorithm: Algorithm,
    pub(super) method: Method,
    pub(super) allow_symlinks: bool,
    pub(super) ignore_paths: Vec<ModelPath>,
    pub(super) resources: Resources<'a>,
}

/// How the files were cut into resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Files,
    Shards { shard_size: u64 },
}

/// The root digest that a statement promises.
pub(super) enum StatedRoot {
    /// The subject's digest.
    Subject(Digest),
    /// The format has none: each file is a subject of its own.
    NotInFormat,
}

impl StatedRoot {
    pub(super) fn compare(self, computed: [u8; 32]) -> Result<(), ManifestError> {
        let computed = Digest::Sha256(computed);
        match self {
            Self::Subject(stated) if stated != computed => Err(ManifestError::RootDigestMismatch {
                stated: stated.into(),
                computed: computed.into(),
            }),
            Self::Subject(_) | Self::NotInFormat => Ok(()),
        }
    }
}

/// Reads a statement with the current predicate.
pub(super) fn read_v1(payload: &[u8]) -> Result<(Listing<'_>, StatedRoot), ManifestError> {
    let statement: Statement<'_, Subjects<'_>, Object<Predicate<'_>>> =
        Statement::parse(payload, PREDICATE_V1)?;
    let subjects = statement
        .subject
        .all()
        .map_err(|found| ManifestError::SubjectCount { found })?;
    let [Object(subject)] = <[_; 1]>::try_from(subjects).map_err(|subjects| ManifestError::SubjectCount {
        found: subjects.len(),
    })?;
    if subject.name.is_empty() {
        return Err(ManifestError::EmptySubjectName);
    }
    let root = Digest::from_hex(Algorithm::Sha256, &subject.digest.0.sha256)
        .map_err(ManifestError::SubjectDigest)?;
    let Object(predicate) = statement.predicate;
    let Object(serialization) = predicate.serialization;
    let listing = Listing {
        subject: subject.name,
        algorithm: serialization.algorithm()?,
        method: serialization.method()?,
        allow_symlinks: serialization.allow_symlinks,
        ignore_paths: serialization.ignore_paths()?,
        resources: predicate.resources,
    };
    Ok((listing, StatedRoot::Subject(root)))
}

/// Reads a statement of v0.2: every subject is a file, the predicate says nothing, and the reference reads
/// it as whole files under SHA-256.
pub(super) fn read_legacy(payload: &[u8]) -> Result<(Listing<'_>, StatedRoot), ManifestError> {
    let statement: Statement<'_, LegacyResources<'_>, Ignored> =
        Statement::parse(payload, PREDICATE_LEGACY_V02)?;
    let listing = Listing {
        subject: Cow::Borrowed(""),
        algorithm: Algorithm::Sha256,
        method: Method::Files,
        allow_symlinks: false,
        ignore_paths: Vec::new(),
        resources: statement.subject.0,
    };
    Ok((listing, StatedRoot::NotInFormat))
}

/// What a current statement is about: one model.
type Subjects<'a> = AtMost<Object<Subject<'a>>, 1>;

#[derive(Deserialize)]
struct Statement<'a, S, P> {
    #[serde(rename = "_type", borrow)]
    statement_type: Cow<'a, str>,
    #[serde(rename = "predicateType", borrow)]
    predicate_type: Cow<'a, str>,
    subject: S,
    predicate: P,
}

impl<'a, S: Deserialize<'a>, P: Deserialize<'a>> Statement<'a, S, P> {
    fn parse(payload: &'a [u8], predicate_type: &'static str) -> Result<Self, ManifestError> {
        match json::parse::<Object<Self>>(payload) {
            Ok(Object(statement)) => {
                check_types(
                    &statement.statement_type,
                    &statement.predicate_type,
                    predicate_type,
                )?;
                Ok(statement)
            }
            Err(error) => Err(Self::explain(payload, predicate_type, error)),
        }
    }

    /// A statement of another type has other fields too: that it is of another type is the better answer.
    fn explain(payload: &'a [u8], predicate_type: &'static str, error: JsonError) -> ManifestError {
        let JsonError::Shape(_) = error else {
            return ManifestError::Json(error);
        };
        match json::parse::<Object<Types<'a>>>(payload) {
            Ok(Object(types)) => check_types(&types.statement_type, &types.predicate_type, predicate_type)
                .err()
                .unwrap_or(ManifestError::Json(error)),
            Err(_) => ManifestError::Json(error),
        }
    }
}

/// The two fields that say what the others mean.
#[derive(Deserialize)]
struct Types<'a> {
    #[serde(rename = "_type", borrow)]
    statement_type: Cow<'a, str>,
    #[serde(rename = "predicateType", borrow)]
    predicate_type: Cow<'a, str>,
}

fn check_types(statement: &str, predicate: &str, expected: &'static str) -> Result<(), ManifestError> {
    if statement != STATEMENT_TYPE {
        return Err(ManifestError::WrongStatementType {
            found: statement.to_owned(),
        });
    }
    if predicate != expected {
        return Err(ManifestError::WrongPredicateType {
            expected,
            found: predicate.to_owned(),
        });
    }
    Ok(())
}

#[derive(Deserialize)]
pub(super) struct Subject<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) digest: Object<SubjectDigest<'a>>,
}

/// Digests by other functions may stand beside it; SHA-256 is the one that counts.
#[derive(Deserialize)]
pub(super) struct SubjectDigest<'a> {
    #[serde(borrow)]
    pub(super) sha256: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Predicate<'a> {
    #[serde(borrow)]
    serialization: Object<Serialization<'a>>,
    #[serde(borrow)]
    resources: Resources<'a>,
}

#[derive(Deserialize)]
struct Serialization<'a> {
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    hash_type: Cow<'a, str>,
    allow_symlinks: bool,
    #[serde(default, deserialize_with = "present")]
    shard_size: Option<serde_json::Number>,
    #[serde(default)]
    ignore_paths: AtMost<String, MAX_IGNORED_PATHS>,
}

impl Serialization<'_> {
    fn algorithm(&self) -> Result<Algorithm, ManifestError> {
        Algorithm::from_id(&self.hash_type).ok_or_else(|| ManifestError::UnknownHashType {
            found: self.hash_type.to_string(),
        })
    }

    fn method(&self) -> Result<Method, ManifestError> {
        match (&*self.method, &self.shard_size) {
            ("files", None) => Ok(Method::Files),
            ("files", Some(_)) => Err(ManifestError::UnexpectedShardSize),
            ("shards", None) => Err(ManifestError::MissingShardSize),
            ("shards", Some(number)) => {
                let shard_size = parse_shard_size(number).ok_or_else(|| ManifestError::ShardSize {
                    found: number.to_string(),
                })?;
                Ok(Method::Shards { shard_size })
            }
            (unknown, _) => Err(ManifestError::UnknownMethod {
                found: unknown.to_owned(),
            }),
        }
    }

    fn ignore_paths(self) -> Result<Vec<ModelPath>, ManifestError> {
        let names = self.ignore_paths.all();
        let names = names.map_err(|found| ManifestError::TooManyIgnoredPaths { found })?;
        let parse =
            |name: String| ModelPath::parse(&name).map_err(|cause| ManifestError::IgnorePath { name, cause });
        names.into_iter().map(parse).collect()
    }
}

/// Python's producers keep numbers as doubles and write `1000000000.0`.
fn parse_shard_size(number: &serde_json::Number) -> Option<u64> {
    let integral = |number: f64| number.to_string().parse().ok();
    number
        .as_u64()
        .or_else(|| number.as_f64().and_then(integral))
        .filter(|size| (1..=MAX_SHARD_SIZE).contains(size))
}

/// A field that may be absent but not `null`.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
