//! The policy file as it is written: TOML of a fixed shape.
//!
//! A key that this version does not know refuses the whole file: a demand that is skipped because it was
//! misspelt, or because an older modelfs reads a newer file, would let in what the operator meant to keep
//! out. Later versions add tables for claims, formats and freshness beside the ones here.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The version of the schema that this module reads.
pub(super) const VERSION: i64 = 1;

/// What is read first: a file of another version is told so, not that its keys are unknown.
#[derive(Deserialize)]
struct Head {
    version: i64,
}

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyToml {
    #[allow(dead_code, reason = "read from Head; here so that the key is known")]
    version: i64,
    #[allow(
        dead_code,
        reason = "demanded so that the file says what happens to everything else"
    )]
    default: DefaultToml,
    #[serde(default)]
    pub(super) roots: RootsToml,
    #[serde(default)]
    pub(super) rule: Vec<RuleToml>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DefaultToml {
    Reject,
}

/// `[roots]`: keys and certificates by the names that rules use.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RootsToml {
    #[serde(default)]
    pub(super) key: BTreeMap<String, KeyToml>,
    #[serde(default)]
    pub(super) ca: BTreeMap<String, CaToml>,
    #[serde(default)]
    pub(super) sigstore: BTreeMap<String, SigstoreToml>,
    #[serde(default)]
    pub(super) tsa: BTreeMap<String, CaToml>,
}

/// `[roots.key.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyToml {
    pub(super) pem: String,
}

/// `[roots.sigstore.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SigstoreToml {
    pub(super) trusted_root: String,
}

/// `[roots.ca.NAME]`, and `[roots.tsa.NAME]` for time-stamping authorities.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaToml {
    pub(super) certs: Vec<String>,
}

/// `[[rule]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleToml {
    pub(super) scope: String,
    pub(super) signers: Vec<SignerToml>,
    #[serde(default)]
    pub(super) tsa: Vec<String>,
    #[serde(default)]
    pub(super) allow_legacy: bool,
}

/// One of a rule's `signers`.
#[derive(Debug, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum SignerToml {
    Key {
        key: String,
    },
    Certificate {
        ca: String,
        identity: String,
        #[serde(default)]
        time: TimeToml,
    },
    Sigstore {
        root: String,
        identity: String,
        issuer: String,
    },
}

/// The moment at which a certificate must be valid.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum TimeToml {
    #[default]
    Now,
    NotBefore,
}

/// Why a text is not a policy of this version.
#[derive(Debug)]
pub(super) enum SchemaError {
    /// The file is for another version of the schema.
    Version(i64),
    /// The file is not TOML, or not of the shape above.
    Toml {
        /// Line, from 1; `None` when the fault has no place, such as a missing key.
        line: Option<usize>,
        /// What the parser said.
        message: String,
    },
}

/// Parses a policy file.
pub(super) fn parse(text: &[u8]) -> Result<PolicyToml, SchemaError> {
    let text = std::str::from_utf8(text).map_err(|e| SchemaError::Toml {
        line: line_of(text, e.valid_up_to()),
        message: "not UTF-8".to_owned(),
    })?;
    let toml = |e: toml::de::Error| SchemaError::Toml {
        line: e.span().and_then(|span| line_of(text.as_bytes(), span.start)),
        message: e.message().replace('\n', ", "),
    };
    let head: Head = toml::from_str(text).map_err(toml)?;
    if head.version != VERSION {
        return Err(SchemaError::Version(head.version));
    }
    toml::from_str(text).map_err(toml)
}

/// The line of an offset, from 1.
fn line_of(text: &[u8], at: usize) -> Option<usize> {
    let before = text.get(..at)?;
    Some(before.iter().filter(|b| **b == b'\n').count() + 1)
}
