//! The files behind `[roots]`, read and understood, and the signers of rules that name them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::Fault;
use super::PolicyError;
use super::Rule;
use super::file::TrustFile;
use super::location::ModelLocation;
use super::schema::CaToml;
use super::schema::RootsToml;
use super::schema::RuleToml;
use super::schema::SignerToml;
use super::schema::TimeToml;
use super::scope::Scope;
use crate::trust::CertificateAnchor;
use crate::trust::CertificateIdentity;
use crate::trust::CertificateTime;
use crate::trust::KeylessAnchor;
use crate::trust::KeylessIdentity;
use crate::trust::PublicKey;
use crate::trust::SigstoreRoot;
use crate::trust::TimestampAnchor;
use crate::trust::TrustAnchors;
use crate::trust::keyless::PRODUCTION;

/// What rules may name.
pub(super) struct Roots {
    keys: BTreeMap<String, PublicKey>,
    cas: BTreeMap<String, CertificateAnchor>,
    sigstore: BTreeMap<String, Arc<SigstoreRoot>>,
    /// The PEM files of each, since a rule may name several.
    tsas: BTreeMap<String, Vec<TrustFile>>,
}

/// Reads what one policy names.
struct Reader<'a> {
    policy: &'a Path,
    model: &'a ModelLocation,
}

impl Reader<'_> {
    /// A file, relative to the policy's folder.
    fn read(&self, name: &str) -> Result<TrustFile, PolicyError> {
        let folder = self.policy.parent().unwrap_or(Path::new(""));
        TrustFile::read_protected(&folder.join(name), self.model).map_err(|fault| PolicyError::NamedFile {
            policy: self.policy.to_path_buf(),
            fault,
        })
    }

    fn read_all(&self, names: &CaToml) -> Result<Vec<TrustFile>, PolicyError> {
        names.certs.iter().map(|name| self.read(name)).collect()
    }

    fn found(&self, fault: Fault) -> PolicyError {
        PolicyError::Content {
            policy: self.policy.to_path_buf(),
            fault: Box::new(fault),
        }
    }
}

impl Roots {
    /// Reads the files, also those that no rule names.
    pub(super) fn read(policy: &Path, toml: RootsToml, model: &ModelLocation) -> Result<Self, PolicyError> {
        let reader = Reader { policy, model };
        let mut roots = Self {
            keys: BTreeMap::new(),
            cas: BTreeMap::new(),
            sigstore: BTreeMap::new(),
            tsas: BTreeMap::new(),
        };
        for (name, key) in toml.key {
            let parsed = PublicKey::from_pem(reader.read(&key.pem)?.bytes());
            let fault = |cause| {
                reader.found(Fault::Key {
                    key: name.clone(),
                    cause,
                })
            };
            roots.keys.insert(name.clone(), parsed.map_err(fault)?);
        }
        let useless = |kind, name: &str, cause| {
            reader.found(Fault::Certificates {
                kind,
                name: name.to_owned(),
                cause,
            })
        };
        for (name, ca) in toml.ca {
            let files = reader.read_all(&ca)?;
            let parsed = CertificateAnchor::from_pem(&pems(&files)).map_err(|e| useless("ca", &name, e))?;
            roots.cas.insert(name, parsed);
        }
        for (name, tsa) in toml.tsa {
            let files = reader.read_all(&tsa)?;
            TimestampAnchor::from_pem(&pems(&files)).map_err(|e| useless("tsa", &name, e))?;
            roots.tsas.insert(name, files);
        }
        for (name, instance) in toml.sigstore {
            let parsed = match instance.trusted_root.as_str() {
                PRODUCTION => SigstoreRoot::production(),
                file => SigstoreRoot::parse(reader.read(file)?.bytes(), file),
            };
            let fault = |cause| {
                reader.found(Fault::TrustedRoot {
                    name: name.clone(),
                    cause,
                })
            };
            roots
                .sigstore
                .insert(name.clone(), Arc::new(parsed.map_err(fault)?));
        }
        Ok(roots)
    }

    /// Makes the rule that a policy writes.
    pub(super) fn rule(&self, toml: RuleToml) -> Result<Rule, Fault> {
        let scope = Scope::parse(&toml.scope).map_err(|fault| Fault::Scope {
            scope: toml.scope.clone(),
            fault,
        })?;
        if toml.signers.is_empty() {
            return Err(Fault::NoSigners { scope });
        }
        let mut anchors = TrustAnchors::new();
        for signer in toml.signers {
            self.admit(signer, &scope, &mut anchors)?;
        }
        if !toml.tsa.is_empty() {
            anchors.set_timestamps(self.timestamps(&toml.tsa, &scope)?);
        }
        if toml.allow_legacy {
            anchors.allow_legacy();
        }
        Ok(Rule { scope, anchors })
    }

    fn admit(&self, toml: SignerToml, scope: &Scope, anchors: &mut TrustAnchors) -> Result<(), Fault> {
        match toml {
            SignerToml::Key { key } => {
                let known = self.keys.get(&key);
                anchors.add_key(known.ok_or_else(|| unknown(scope, "key", &key))?.clone());
            }
            SignerToml::Certificate { ca, identity, time } => {
                let known = self.cas.get(&ca);
                let known = known.ok_or_else(|| unknown(scope, "ca", &ca))?.clone();
                // A chain alone says nothing about who signed (docs/THREATS.md T26): a policy always names one.
                let parsed = CertificateIdentity::parse(&identity).map_err(|cause| Fault::Identity {
                    scope: scope.clone(),
                    identity,
                    cause: Box::new(cause),
                })?;
                let time = match time {
                    TimeToml::Now => CertificateTime::Now,
                    TimeToml::NotBefore => CertificateTime::NotBefore,
                };
                anchors.add_certificates(known.with_identity(parsed).with_time(time));
            }
            SignerToml::Sigstore {
                root,
                identity,
                issuer,
            } => {
                let known = self.sigstore.get(&root);
                let known = known.ok_or_else(|| unknown(scope, "sigstore", &root))?;
                let parsed = KeylessIdentity::parse(&identity).map_err(|cause| Fault::Identity {
                    scope: scope.clone(),
                    identity,
                    cause: Box::new(cause),
                })?;
                if issuer.is_empty() {
                    return Err(Fault::NoIssuer { scope: scope.clone() });
                }
                anchors.add_keyless(KeylessAnchor::new(Arc::clone(known), parsed, issuer));
            }
        }
        Ok(())
    }

    /// Trust in all of these time-stamping authorities.
    fn timestamps(&self, names: &[String], scope: &Scope) -> Result<TimestampAnchor, Fault> {
        let mut files = Vec::new();
        for name in names {
            let known = self.tsas.get(name).ok_or_else(|| unknown(scope, "tsa", name))?;
            files.extend(pems(known));
        }
        TimestampAnchor::from_pem(&files).map_err(|cause| Fault::Certificates {
            kind: "tsa",
            name: names.join(" and "),
            cause,
        })
    }
}

fn pems(files: &[TrustFile]) -> Vec<&[u8]> {
    files.iter().map(TrustFile::bytes).collect()
}

fn unknown(scope: &Scope, kind: &'static str, name: &str) -> Fault {
    Fault::UnknownRoot {
        scope: scope.clone(),
        kind,
        name: name.to_owned(),
    }
}
