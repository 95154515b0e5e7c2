//! Why a policy, or a model under it, is refused, and in which words.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;

use super::file::FileError;
use super::file::shown;
use super::schema;
use super::schema::SchemaError;
use super::scope::Scope;
use super::scope::ScopeError;
use crate::path::Escaped;
use crate::trust::AnchorError;
use crate::trust::KeyError;
use crate::trust::keyless::RootError;

/// A scope that covers this model and no other, as a line of a policy may quote it. There is none where the path
/// holds a `*`, or a character that a person or TOML would read in another way: whoever named the folder could
/// have the operator admit something else.
pub(super) fn scope_of(model: &Path) -> Option<&str> {
    let text = model.to_str()?;
    let plain = !text.contains(['*', '"']) && Escaped(text.as_bytes()).to_string() == text;
    plain.then_some(text)
}

/// Why there is no rule for a model.
#[derive(Debug)]
pub enum PolicyError {
    /// The policy file may not be trusted, or cannot be read.
    File(FileError),
    /// A file that the policy names may not be trusted, or cannot be read.
    NamedFile {
        /// The policy.
        policy: PathBuf,
        /// What is wrong with the file.
        fault: FileError,
    },
    /// The policy says something that this version does not understand or accept.
    Content {
        /// The policy.
        policy: PathBuf,
        /// What it says.
        fault: Box<Fault>,
    },
    /// No rule covers the model.
    NoRule {
        /// The policy.
        policy: PathBuf,
        /// The model.
        model: PathBuf,
    },
    /// The model was reached by a link from where another rule holds.
    LinkBetweenRules(Box<LinkBetweenRules>),
}

/// A link that leads from where one rule holds to where another does.
#[derive(Debug)]
pub struct LinkBetweenRules {
    /// The policy.
    pub(super) policy: PathBuf,
    /// The name that led to the model.
    pub(super) link: PathBuf,
    /// The scope of the rule for that name.
    pub(super) demanded: Scope,
    /// The model.
    pub(super) model: PathBuf,
    /// The scope of the rule for the model.
    pub(super) scope: Scope,
}

/// What is wrong with the content of a policy.
#[derive(Debug)]
pub enum Fault {
    /// It is written for another version of the schema.
    UnknownVersion {
        /// That version.
        version: i64,
    },
    /// It is not TOML of the known shape.
    Toml {
        /// Line, from 1; `None` where the fault has no line.
        line: Option<usize>,
        /// What the parser said.
        message: String,
    },
    /// A scope could match no path.
    Scope {
        /// The scope.
        scope: String,
        /// What is wrong with it.
        fault: ScopeError,
    },
    /// A rule accepts nobody.
    NoSigners {
        /// The rule's scope.
        scope: Scope,
    },
    /// A rule names something that is not there.
    UnknownRoot {
        /// The rule's scope.
        scope: Scope,
        /// Which of the tables of `[roots]` it would be in.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A signer has no identity provider.
    NoIssuer {
        /// The rule's scope.
        scope: Scope,
    },
    /// The file behind a name is not a key.
    Key {
        /// The name.
        key: String,
        /// What it is instead.
        cause: KeyError,
    },
    /// The file behind a name is not a Sigstore instance's root.
    TrustedRoot {
        /// The name.
        name: String,
        /// What it is instead.
        cause: RootError,
    },
    /// The files behind a name are not certificates that can be trusted.
    Certificates {
        /// Which of the tables of `[roots]` it is in.
        kind: &'static str,
        /// The name.
        name: String,
        /// What they are instead.
        cause: AnchorError,
    },
    /// A rule names an identity that no certificate could have.
    Identity {
        /// The rule's scope.
        scope: Scope,
        /// The identity.
        identity: String,
        /// What is wrong with it.
        cause: Box<dyn Error + Send + Sync>,
    },
    /// Two rules match the same models and neither is the more specific.
    Ambiguous {
        /// The scope of one.
        first: Scope,
        /// The scope of the other.
        second: Scope,
    },
}

impl From<SchemaError> for Fault {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Version(version) => Self::UnknownVersion { version },
            SchemaError::Toml { line, message } => Self::Toml { line, message },
        }
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(fault) => write!(f, "policy refused: {fault}"),
            Self::NamedFile { policy, fault } => write!(f, "policy {} refused: {fault}", shown(policy)),
            Self::Content { policy, fault } => write!(f, "policy {} refused: {fault}", shown(policy)),
            Self::NoRule { policy, model } => {
                write!(
                    f,
                    "no rule of the policy {} covers {}: ",
                    shown(policy),
                    shown(model)
                )?;
                match scope_of(model) {
                    Some(scope) => write!(
                        f,
                        "add a [[rule]] with scope = \"{scope}\" and the signers to accept"
                    ),
                    None => write!(f, "no scope can name it alone, rename it first"),
                }
            }
            Self::LinkBetweenRules(between) => between.fmt(f),
        }
    }
}

impl fmt::Display for LinkBetweenRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} leads to {} through a link, and the policy {} has one rule for {} and another for {}: \
             name the model without the link, if it is the one that you want",
            shown(&self.link),
            shown(&self.model),
            shown(&self.policy),
            self.demanded,
            self.scope
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &str| Escaped(name.as_bytes()).to_string();
        match self {
            Self::UnknownVersion { version } => {
                write!(
                    f,
                    "it has version {version}, this modelfs knows version {}",
                    schema::VERSION
                )
            }
            Self::Toml {
                line: Some(line),
                message,
            } => write!(f, "line {line}: {}", name(message)),
            Self::Toml { line: None, message } => write!(f, "{}", name(message)),
            Self::Scope { scope, fault } => write!(f, "the scope \"{}\": {fault}", name(scope)),
            Self::NoSigners { scope } => {
                write!(
                    f,
                    "the rule for {scope} has no signers: name one, or remove the rule"
                )
            }
            Self::UnknownRoot {
                scope,
                kind,
                name: unknown,
            } => {
                let unknown = name(unknown);
                write!(
                    f,
                    "the rule for {scope} names the {kind} {unknown}, but there is no [roots.{kind}.{unknown}]"
                )
            }
            Self::NoIssuer { scope } => write!(
                f,
                "the rule for {scope} has an empty issuer: name the identity provider's URL"
            ),
            Self::Key { key, .. } => write!(f, "[roots.key.{}] is of no use", name(key)),
            Self::TrustedRoot { name: root, .. } => {
                write!(f, "[roots.sigstore.{}] is of no use", name(root))
            }
            Self::Certificates { kind, name: root, .. } => {
                write!(f, "[roots.{kind}.{}] is of no use", name(root))
            }
            Self::Identity { scope, identity, .. } => write!(
                f,
                "the rule for {scope} names the identity \"{}\"",
                name(identity)
            ),
            Self::Ambiguous { first, second } => write!(
                f,
                "the rules for {first} and {second} match the same models and neither is more specific: merge them, or name one scope more exactly"
            ),
        }
    }
}

impl Error for PolicyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // The fault's own words are in ours; what it was caused by is not.
            Self::File(fault) | Self::NamedFile { fault, .. } => fault.source(),
            Self::Content { fault, .. } => match fault.as_ref() {
                Fault::Key { cause, .. } => Some(cause),
                Fault::Certificates { cause, .. } => Some(cause),
                Fault::TrustedRoot { cause, .. } => Some(cause),
                Fault::Identity { cause, .. } => Some(cause.as_ref()),
                Fault::UnknownVersion { .. }
                | Fault::Toml { .. }
                | Fault::Scope { .. }
                | Fault::NoSigners { .. }
                | Fault::UnknownRoot { .. }
                | Fault::NoIssuer { .. }
                | Fault::Ambiguous { .. } => None,
            },
            Self::NoRule { .. } | Self::LinkBetweenRules(_) => None,
        }
    }
}
