//! The trust policy: what the operator demands of a model, by where it lies.
//!
//! A [`Policy`] exists only when its whole file is understood, every file it names is read and protected
//! from others, and no two of its rules could disagree about one model. It trusts nothing by itself: a
//! model that no rule covers is refused. It does not check signatures; a [`Rule`] holds the trust anchors to
//! check them against.
//!
//! ```toml
//! version = 1
//! default = "reject"
//!
//! [roots.key.lab]
//! pem = "keys/lab.pub"
//!
//! [roots.ca.acme]
//! certs = ["ca/acme-root.pem"]
//!
//! [roots.sigstore.public]
//! trusted_root = "trusted_root.json"
//!
//! [roots.tsa.acme]
//! certs = ["ca/acme-tsa.pem"]
//!
//! [[rule]]
//! scope = "/srv/models/acme/**"
//! signers = [
//!   { method = "key", key = "lab" },
//!   { method = "certificate", ca = "acme", identity = "uri:spiffe://acme/signer", time = "now" },
//!   { method = "sigstore", root = "public", identity = "a@acme.example", issuer = "https://id.acme.example" },
//! ]
//! tsa = ["acme"]
//! allow_legacy = false
//! ```
//!
//! File names are relative to the policy's own folder. `version` and `default` are mandatory.

mod error;
mod file;
mod location;
mod roots;
mod schema;
mod scope;

use std::cmp::Ordering;
use std::path::Path;
use std::path::PathBuf;

pub use error::Fault;
pub use error::LinkBetweenRules;
pub use error::PolicyError;
pub use file::FileError;
pub use file::MAX_TRUST_FILE_BYTES;
pub use file::TrustFile;
pub use location::ModelLocation;
pub use location::PolicyPlaces;
pub use location::SYSTEM_POLICY;
pub use scope::Scope;
pub use scope::ScopeError;

use crate::trust::TrustAnchors;
use roots::Roots;

/// A policy file that was understood as a whole.
#[derive(Debug)]
pub struct Policy {
    path: PathBuf,
    rules: Vec<Rule>,
}

/// What is demanded of the models in one scope.
#[derive(Clone, Debug)]
pub struct Rule {
    scope: Scope,
    anchors: TrustAnchors,
}

impl Policy {
    /// Reads a policy file and all that it names.
    ///
    /// # Errors
    /// Refuses a file that others could have written or that lies inside the model, whatever this version
    /// does not understand, and rules that could disagree.
    pub fn load(path: &Path, model: &ModelLocation) -> Result<Self, PolicyError> {
        let file = TrustFile::read_protected(path, model).map_err(PolicyError::File)?;
        let found = |fault| PolicyError::Content {
            policy: path.to_path_buf(),
            fault: Box::new(fault),
        };
        let toml = schema::parse(file.bytes()).map_err(|e| found(Fault::from(e)))?;
        let roots = Roots::read(path, toml.roots, model)?;
        let rules = toml
            .rule
            .into_iter()
            .map(|rule| roots.rule(rule))
            .collect::<Result<Vec<_>, _>>()
            .map_err(found)?;
        refuse_ambiguity(&rules).map_err(found)?;
        Ok(Self {
            path: path.to_path_buf(),
            rules,
        })
    }

    /// The file, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The most specific rule for a model.
    ///
    /// # Errors
    /// A model that no rule covers is refused, and one that was reached by a link from where another rule
    /// holds: who may put the link there is not who may say which signer is good enough.
    pub fn rule_for(&self, model: &ModelLocation) -> Result<&Rule, PolicyError> {
        let rule = self.covering(model.path()).ok_or_else(|| PolicyError::NoRule {
            policy: self.path.clone(),
            model: model.path().to_path_buf(),
        })?;
        for name in model.names() {
            if let Some(other) = self.covering(name)
                && !std::ptr::eq(other, rule)
            {
                return Err(PolicyError::LinkBetweenRules(Box::new(LinkBetweenRules {
                    policy: self.path.clone(),
                    link: name.clone(),
                    demanded: other.scope.clone(),
                    model: model.path().to_path_buf(),
                    scope: rule.scope.clone(),
                })));
            }
        }
        Ok(rule)
    }

    fn covering(&self, path: &Path) -> Option<&Rule> {
        self.rules
            .iter()
            .filter(|rule| rule.scope.matches(path))
            .max_by(|a, b| a.scope.specificity(&b.scope))
    }
}

impl Rule {
    /// The models that the rule is for.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Who may sign them.
    pub fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }
}

/// Refuses two rules of which neither is the more specific for some model.
fn refuse_ambiguity(rules: &[Rule]) -> Result<(), Fault> {
    for (i, rule) in rules.iter().enumerate() {
        for other in rules.iter().skip(i + 1) {
            let (a, b) = (&rule.scope, &other.scope);
            if a.specificity(b) == Ordering::Equal && a.overlaps(b) {
                return Err(Fault::Ambiguous {
                    first: a.clone(),
                    second: b.clone(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
