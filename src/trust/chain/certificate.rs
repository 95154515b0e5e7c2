//! One certificate, with everything that must hold of it wherever in a path it stands.
//!
//! A [`Certificate`] is X.509 version 3, has a serial number, one algorithm, known critical extensions, each
//! once, no policies that we do not evaluate, and a key that we use. Whether it may stand where it
//! stands (as a leaf, an issuer, a root, at this time) is asked of it by the path validator.

use std::collections::HashSet;

use data_encoding::HEXLOWER;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::BasicConstraints;
use x509_parser::extensions::ExtendedKeyUsage;
use x509_parser::extensions::KeyUsage;
use x509_parser::extensions::ParsedExtension;
use x509_parser::extensions::X509Extension;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use crate::digest::sha256;
use crate::trust::chain::constraints::Forbidden;
use crate::trust::chain::constraints::JudgedName;
use crate::trust::chain::constraints::MAX_NAME_COMPARISONS;
use crate::trust::chain::constraints::NameConstraints;
use crate::trust::chain::der;
use crate::trust::chain::flaw::Flaw;
use crate::trust::chain::name::AlternativeName;
use crate::trust::chain::name::Name;
use crate::trust::chain::signature::SignatureAlgorithm;
use crate::trust::chain::signature::SubjectKey;
use crate::trust::key::BadSignature;
use crate::trust::time::UnixTime;

/// Largest certificate in bytes. Real ones have one or two thousand.
pub const MAX_CERTIFICATE_BYTES: usize = 64 << 10;

/// A certificate that keeps the part of the profile that does not depend on where it stands.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) der: Vec<u8>,
    pub(super) subject: Name,
    pub(super) issuer: Name,
    pub(super) serial: String,
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
    pub(super) key: SubjectKey,
    pub(super) spki_sha256: [u8; 32],
    pub(super) alternative_names: Vec<AlternativeName>,
    tbs: Vec<u8>,
    algorithm: SignatureAlgorithm,
    signature: Vec<u8>,
    basic_constraints: Option<Basic>,
    key_usage: Option<Usage>,
    purposes: Option<Purposes>,
    subject_key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
    critical_alternative_names: bool,
    /// Its subject and its alternative names, for the constraints of those above it.
    names: Vec<JudgedName>,
    name_constraints: Option<NameConstraints>,
}

#[derive(Clone, Copy, Debug)]
struct Basic {
    critical: bool,
    ca: bool,
    path_length: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Usage {
    digital_signature: bool,
    key_cert_sign: bool,
}

#[derive(Clone, Copy, Debug)]
struct Purposes {
    critical: bool,
    code_signing: bool,
    time_stamping: bool,
    any: bool,
    /// How many it lists.
    count: usize,
}

/// What a leaf's key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    CodeSigning,
    TimeStamping,
}

impl Certificate {
    /// Parses a certificate and checks it.
    pub(super) fn parse(der: &[u8]) -> Result<Self, Unusable> {
        let nameless = |flaw| Unusable { subject: None, flaw };
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(nameless(Flaw::TooLarge { bytes: der.len() }));
        }
        let strict = der::Strict::parse(der).ok_or_else(|| nameless(Flaw::NotDer))?;
        let parsed = match X509Certificate::from_der(der) {
            Ok(([], parsed)) => parsed,
            _ => return Err(nameless(Flaw::NotDer)),
        };
        Self::of(der, strict, &parsed).map_err(|flaw| Unusable {
            subject: Some(Name::of(parsed.subject())),
            flaw,
        })
    }

    fn of(der: &[u8], strict: der::Strict<'_>, parsed: &X509Certificate<'_>) -> Result<Self, Flaw> {
        let tbs = &parsed.tbs_certificate;
        if tbs.version != X509Version::V3 {
            return Err(Flaw::Version);
        }
        let serial = serial_number(tbs.raw_serial()).ok_or(Flaw::SerialNumber)?;
        if !strict.has_one_algorithm() {
            return Err(Flaw::AlgorithmMismatch);
        }
        if parsed.signature_value.unused_bits != 0 {
            return Err(Flaw::NotDer);
        }
        let mut certificate = Self {
            der: der.to_vec(),
            subject: Name::of(&tbs.subject),
            issuer: Name::of(&tbs.issuer),
            serial,
            not_before: UnixTime(tbs.validity.not_before.timestamp()),
            not_after: UnixTime(tbs.validity.not_after.timestamp()),
            key: SubjectKey::of(&tbs.subject_pki)?,
            spki_sha256: sha256(tbs.subject_pki.raw),
            alternative_names: Vec::new(),
            tbs: tbs.as_ref().to_vec(),
            algorithm: SignatureAlgorithm::of(&tbs.signature)?,
            signature: parsed.signature_value.data.to_vec(),
            basic_constraints: None,
            key_usage: None,
            purposes: None,
            subject_key_id: None,
            authority_key_id: None,
            critical_alternative_names: false,
            names: JudgedName::of_subject(&tbs.subject),
            name_constraints: None,
        };
        let mut seen = HashSet::new();
        for extension in tbs.extensions() {
            if !seen.insert(&extension.oid) {
                return Err(Flaw::DuplicateExtension {
                    oid: extension.oid.to_id_string(),
                });
            }
            certificate.take(extension)?;
        }
        Ok(certificate)
    }

    fn take(&mut self, extension: &X509Extension<'_>) -> Result<(), Flaw> {
        let oid = || extension.oid.to_id_string();
        let unreadable = || Flaw::UnreadableExtension { oid: oid() };
        let critical = extension.critical;
        // What is in an extension that nobody knows may be no DER at all.
        if !extension.parsed_extension().unsupported() && !der::is_value(extension.value) {
            return Err(unreadable());
        }
        // The parser ignores what follows the parts that it knows.
        let whole = match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(_) => der::is_basic_constraints(extension.value),
            ParsedExtension::AuthorityKeyIdentifier(_) => der::is_authority_key_id(extension.value),
            ParsedExtension::ExtendedKeyUsage(_) => der::is_identifiers(extension.value),
            ParsedExtension::SubjectAlternativeName(_) => der::is_alternative_names(extension.value),
            ParsedExtension::KeyUsage(_) => der::is_named_bits(extension.value),
            ParsedExtension::NameConstraints(_) => der::is_name_constraints(extension.value),
            _ => true,
        };
        if !whole {
            return Err(unreadable());
        }
        match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => return Err(unreadable()),
            ParsedExtension::BasicConstraints(BasicConstraints {
                ca,
                path_len_constraint,
            }) => {
                self.basic_constraints = Some(Basic {
                    critical,
                    ca: *ca,
                    path_length: *path_len_constraint,
                });
            }
            ParsedExtension::KeyUsage(usage) => self.key_usage = Some(Usage::of(usage)),
            ParsedExtension::ExtendedKeyUsage(purposes) => {
                self.purposes = Some(Purposes::of(purposes, critical))
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                let names = &names.general_names;
                let judged: Option<Vec<_>> = names.iter().map(JudgedName::of_alternative).collect();
                self.names.extend(judged.ok_or_else(unreadable)?);
                let names: Option<Vec<_>> = names.iter().map(AlternativeName::of).collect();
                self.alternative_names = names.filter(|names| !names.is_empty()).ok_or_else(unreadable)?;
                self.critical_alternative_names = critical;
            }
            // RFC 5280, 4.2.1.10: it must be critical.
            ParsedExtension::NameConstraints(constraints) if critical => {
                self.name_constraints = Some(NameConstraints::of(constraints).ok_or(Flaw::NameConstraints)?);
            }
            ParsedExtension::NameConstraints(_) => return Err(Flaw::NameConstraints),
            ParsedExtension::PolicyConstraints(_)
            | ParsedExtension::PolicyMappings(_)
            | ParsedExtension::InhibitAnyPolicy(_) => return Err(Flaw::PolicyConstraints),
            _ if critical => return Err(Flaw::CriticalExtension { oid: oid() }),
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether it names itself as its issuer. Anybody can write that; see [`Self::is_self_signed`].
    pub(super) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether it is its own issuer, by name and by signature.
    pub(super) fn is_self_signed(&self) -> bool {
        self.is_self_issued() && self.verify_issued_by(self).is_ok()
    }

    /// Whether its names and key identifiers point to this issuer. Cheap, and proves nothing.
    pub(super) fn names_as_issuer(&self, issuer: &Self) -> bool {
        let same_key = match (&self.authority_key_id, &issuer.subject_key_id) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        };
        self.issuer == issuer.subject && same_key
    }

    /// Whether this is the same subject with the same key: a path never needs it twice (RFC 5280, 6.1).
    pub(super) fn is_same_entity(&self, other: &Self) -> bool {
        self.subject == other.subject && self.spki_sha256 == other.spki_sha256
    }

    /// Checks that the issuer's key signed it.
    pub(super) fn verify_issued_by(&self, issuer: &Self) -> Result<(), BadSignature> {
        issuer.key.verify(self.algorithm, &self.tbs, &self.signature)
    }

    /// Checks that it may sign models, or times.
    pub(super) fn check_leaf(&self, at: UnixTime, purpose: Purpose) -> Result<(), Flaw> {
        self.check_validity(at)?;
        match (self.key_usage, self.purposes) {
            (None, None) => return Err(Flaw::NoPurpose),
            (Some(usage), _) if !usage.digital_signature => return Err(Flaw::NoDigitalSignature),
            // RFC 5280, 4.2.1.12: both must allow what is done with the key. "Any" would let a
            // certificate for a web server sign a model.
            (_, Some(purposes))
                if purpose == Purpose::CodeSigning && (!purposes.code_signing || purposes.any) =>
            {
                return Err(Flaw::NotForCodeSigning);
            }
            // RFC 3161, 2.3: this purpose, no other, and critical.
            (_, purposes) if purpose == Purpose::TimeStamping => {
                let purposes = purposes.ok_or(Flaw::NotForTimeStamping)?;
                if !purposes.time_stamping || purposes.count != 1 {
                    return Err(Flaw::NotForTimeStamping);
                }
                if !purposes.critical {
                    return Err(Flaw::TimeStampingNotCritical);
                }
            }
            _ => {}
        }
        let ca = self.basic_constraints.is_some_and(|basic| basic.ca);
        match self.key_usage {
            // The reference tool's own certificates are authorities that sign models. That is no more
            // than such an authority could do through a leaf, as long as it says so itself.
            None if ca => return Err(Flaw::AuthorityAsLeaf),
            // RFC 5280, 4.2.1.9.
            Some(usage) if usage.key_cert_sign && !ca => return Err(Flaw::CertSignWithoutCa),
            _ => {}
        }
        // RFC 5280, 4.2.1.10: only an authority has them, and this one signs a model.
        if self.name_constraints.is_some() {
            return Err(Flaw::NameConstraints);
        }
        // RFC 5280, 4.1.2.6: without a subject the names are all there is, so they must not be skippable.
        if self.subject.is_empty() && !self.critical_alternative_names {
            return Err(Flaw::NoSubject);
        }
        Ok(())
    }

    /// Checks that it may issue certificates, with so many non-self-issued intermediates beneath it.
    pub(super) fn check_issuer(&self, at: UnixTime, beneath: usize) -> Result<(), Flaw> {
        self.check_validity(at)?;
        let basic = self.basic_constraints.ok_or(Flaw::NotAnAuthority)?;
        if !basic.ca {
            return Err(Flaw::NotAnAuthority);
        }
        if !basic.critical {
            return Err(Flaw::BasicConstraintsNotCritical);
        }
        if let Some(limit) = basic.path_length
            && usize::try_from(limit).is_ok_and(|limit| beneath > limit)
        {
            return Err(Flaw::PathLength { limit });
        }
        if !self.key_usage.is_some_and(|usage| usage.key_cert_sign) {
            return Err(Flaw::NoCertSign);
        }
        if self.subject.is_empty() {
            return Err(Flaw::NoSubject);
        }
        if self.subject_key_id.is_none() {
            return Err(Flaw::NoSubjectKeyId);
        }
        Ok(())
    }

    /// Checks that it may vouch for the names of all certificates beneath it, the leaf's first.
    pub(super) fn check_names(&self, beneath: &[&Self]) -> Result<(), Flaw> {
        let Some(constraints) = &self.name_constraints else {
            return Ok(());
        };
        let mut comparisons_left = MAX_NAME_COMPARISONS;
        for (index, certificate) in beneath.iter().enumerate() {
            // RFC 5280, 6.1.3 (b): a self-issued one is only a new key of its issuer, unless it is the leaf.
            if index > 0 && certificate.is_self_issued() {
                continue;
            }
            constraints
                .check(certificate.names.iter(), &mut comparisons_left)
                .map_err(|forbidden| match forbidden {
                    Forbidden::Name(name) => Flaw::ForbiddenName { name },
                    Forbidden::TooMany => Flaw::TooManyNames,
                })?;
        }
        Ok(())
    }

    /// Checks what holds of every certificate that another one issued.
    pub(super) fn check_issued(&self) -> Result<(), Flaw> {
        match self.authority_key_id {
            Some(_) => Ok(()),
            None => Err(Flaw::NoAuthorityKeyId),
        }
    }

    /// Checks what holds of an intermediate beyond being an issuer.
    pub(super) fn check_intermediate(&self, purpose: Purpose) -> Result<(), Flaw> {
        self.check_issued()?;
        match (self.purposes, purpose) {
            (None, _) => Ok(()),
            (Some(purposes), _) if purposes.any => Ok(()),
            (Some(purposes), Purpose::CodeSigning) if !purposes.code_signing => Err(Flaw::NotForCodeSigning),
            (Some(purposes), Purpose::TimeStamping) if !purposes.time_stamping => {
                Err(Flaw::NotForTimeStamping)
            }
            _ => Ok(()),
        }
    }

    /// Checks what holds of a root beyond being an issuer.
    pub(super) fn check_root(&self) -> Result<(), Flaw> {
        if self.purposes.is_some() {
            return Err(Flaw::RootWithPurpose);
        }
        match &self.authority_key_id {
            Some(_) if self.authority_key_id != self.subject_key_id => Err(Flaw::RootKeyIds),
            _ => Ok(()),
        }
    }

    fn check_validity(&self, at: UnixTime) -> Result<(), Flaw> {
        if at < self.not_before {
            return Err(Flaw::NotYetValid {
                from: self.not_before,
                at,
            });
        }
        if at > self.not_after {
            return Err(Flaw::Expired {
                until: self.not_after,
                at,
            });
        }
        Ok(())
    }
}

impl Usage {
    fn of(usage: &KeyUsage) -> Self {
        Self {
            digital_signature: usage.digital_signature(),
            key_cert_sign: usage.key_cert_sign(),
        }
    }
}

impl Purposes {
    fn of(purposes: &ExtendedKeyUsage<'_>, critical: bool) -> Self {
        let known = [
            purposes.any,
            purposes.server_auth,
            purposes.client_auth,
            purposes.code_signing,
            purposes.email_protection,
            purposes.time_stamping,
            purposes.ocsp_signing,
        ];
        Self {
            critical,
            code_signing: purposes.code_signing,
            time_stamping: purposes.time_stamping,
            any: purposes.any,
            count: known.iter().filter(|listed| **listed).count() + purposes.other.len(),
        }
    }
}

/// A serial number as hexadecimal; `None` unless it is positive and has at most 20 bytes (RFC 5280, 4.1.2.2).
fn serial_number(raw: &[u8]) -> Option<String> {
    let positive = raw.first().is_some_and(|first| first & 0x80 == 0) && raw.iter().any(|&b| b != 0);
    (positive && raw.len() <= 20).then(|| HEXLOWER.encode(raw))
}

/// A certificate that no path may use, with its subject if it has one.
#[derive(Clone, Debug)]
pub(super) struct Unusable {
    pub(super) subject: Option<Name>,
    pub(super) flaw: Flaw,
}
