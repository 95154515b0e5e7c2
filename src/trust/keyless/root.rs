//! Trusted roots: the keys of a Sigstore instance, as its operators publish them.
//!
//! A [`SigstoreRoot`] has at least one of each kind of key that a keyless signature needs, so that nothing can go
//! unchecked for want of a key. It is trusted because the operator named it, and never fetched.

use std::fmt;

use sigstore_verify::Verifier;
use sigstore_verify::trust_root::SIGSTORE_PRODUCTION_TRUSTED_ROOT;
use sigstore_verify::trust_root::TrustedRoot;
use sigstore_verify::types::TimeRange;

use crate::json;
use crate::json::Ignored;
use crate::json::JsonError;
use crate::path::Escaped;
use crate::trust::UnixTime;

/// The word for the root of the public-good instance, as it was when this version was made.
pub const PRODUCTION: &str = "production";

/// Whence the root inside is: the release of `sigstore-trust-root` 0.15.1, 2026-10-23. A test holds it against the
/// root's digest, so that no other root comes with this date.
const PRODUCTION_DATE: UnixTime = UnixTime(1_792_713_600);

/// Age in seconds at which a root that was shipped is called stale: half a year, in which the public-good instance
/// signs its root anew at least once.
const STALE_AFTER: i64 = 180 * 86_400;

/// The keys of one Sigstore instance.
pub struct SigstoreRoot {
    verifier: Verifier,
    root: TrustedRoot,
    name: String,
    date: RootDate,
}

/// Of when a trusted root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootDate {
    /// It was shipped with modelfs, and is of this day.
    Shipped(UnixTime),
    /// The newest of its keys is valid from then on; the file itself has no date.
    NewestKey(UnixTime),
}

impl RootDate {
    /// The moment.
    pub fn at(self) -> UnixTime {
        match self {
            Self::Shipped(at) | Self::NewestKey(at) => at,
        }
    }
}

impl fmt::Display for RootDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shipped(at) => write!(f, "shipped with modelfs, as of {}", day(*at)),
            Self::NewestKey(at) => write!(f, "its newest key is valid from {}", day(*at)),
        }
    }
}

impl SigstoreRoot {
    /// The root of the public-good instance that is part of this program.
    ///
    /// # Errors
    /// None that a test would not have met.
    pub fn production() -> Result<Self, RootError> {
        let mut root = Self::parse(SIGSTORE_PRODUCTION_TRUSTED_ROOT.as_bytes(), PRODUCTION)?;
        root.date = RootDate::Shipped(PRODUCTION_DATE);
        Ok(root)
    }

    /// Takes a `trusted_root.json`; the name is for messages.
    ///
    /// # Errors
    /// Refuses what is none, and one that lacks a kind of key.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, RootError> {
        // Strictly first: of a key that stands there twice, which one counts?
        json::parse::<Ignored>(bytes).map_err(RootError::Json)?;
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let root = TrustedRoot::from_json(text).map_err(|e| RootError::Shape(e.to_string()))?;
        if !root.media_type.starts_with(MEDIA_TYPE) {
            return Err(RootError::MediaType {
                found: root.media_type.chars().take(EXCERPT_CHARS).collect(),
            });
        }
        for (kind, count) in [
            ("certificateAuthorities", root.certificate_authorities.len()),
            ("tlogs", root.tlogs.len()),
            ("ctlogs", root.ctlogs.len()),
        ] {
            if count == 0 {
                return Err(RootError::Lacks { kind });
            }
        }
        let verifier = Verifier::new(&root).map_err(|e| RootError::Unusable(e.to_string()))?;
        let newest = windows(&root).map(|(_, window)| window.map_or(0, |w| w.start.as_second()));
        let date = RootDate::NewestKey(UnixTime(newest.max().unwrap_or(0)));
        Ok(Self {
            verifier,
            root,
            name: name.to_owned(),
            date,
        })
    }

    /// What the operator called it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Of when it is.
    pub fn date(&self) -> RootDate {
        self.date
    }

    /// Why it should be replaced, if it should.
    pub fn staleness(&self, now: UnixTime) -> Option<Staleness> {
        for kind in [Authorities, Logs, CertificateLogs] {
            let mut of_kind = windows(&self.root).filter(|(k, _)| *k == kind);
            let ended = |window: Option<&TimeRange>| {
                window.is_some_and(|w| w.end.is_some_and(|end| end.as_second() < now.0))
            };
            if of_kind.all(|(_, window)| ended(window)) {
                return Some(Staleness::Ended { what: kind.plural() });
            }
        }
        match self.date {
            RootDate::Shipped(at) if now.0.saturating_sub(at.0) > STALE_AFTER => Some(Staleness::Old {
                days: now.0.saturating_sub(at.0) / 86_400,
            }),
            RootDate::Shipped(_) | RootDate::NewestKey(_) => None,
        }
    }

    /// The address of the transparency log with this identifier, safe to print.
    pub(super) fn log_name(&self, id: &[u8]) -> String {
        let log = self
            .root
            .tlogs
            .iter()
            .find(|log| log.log_id.key_id.as_bytes() == id);
        log.map_or_else(
            || "unknown".to_owned(),
            |log| Escaped(log.base_url.as_bytes()).to_string(),
        )
    }

    pub(super) fn verifier(&self) -> &Verifier {
        &self.verifier
    }
}

impl fmt::Debug for SigstoreRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigstoreRoot")
            .field("name", &self.name)
            .field("date", &self.date)
            .finish_non_exhaustive()
    }
}

/// Why a trusted root should be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staleness {
    /// It was shipped long ago.
    Old {
        /// How many days.
        days: i64,
    },
    /// None of these is valid any more.
    Ended {
        /// Which of its keys.
        what: &'static str,
    },
}

impl fmt::Display for Staleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Old { days } => write!(
                f,
                "stale, {days} days old: take a newer modelfs, or name a newer trusted_root.json with --trusted-root"
            ),
            Self::Ended { what } => write!(f, "stale, none of its {what} is valid any more: replace it"),
        }
    }
}

/// The kinds of key without which no signature can be checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Authorities,
    Logs,
    CertificateLogs,
}

use KeyKind::Authorities;
use KeyKind::CertificateLogs;
use KeyKind::Logs;

impl KeyKind {
    fn plural(self) -> &'static str {
        match self {
            Self::Authorities => "certificate authorities",
            Self::Logs => "transparency logs",
            Self::CertificateLogs => "certificate logs",
        }
    }
}

/// When each key is valid.
fn windows(root: &TrustedRoot) -> impl Iterator<Item = (KeyKind, Option<&TimeRange>)> {
    let authorities = root.certificate_authorities.iter();
    let authorities = authorities.map(|a| (Authorities, a.valid_for.as_ref()));
    let logs = root.tlogs.iter();
    let logs = logs.map(|log| (Logs, log.public_key.valid_for.as_ref()));
    let certificate_logs = root.ctlogs.iter();
    let certificate_logs = certificate_logs.map(|log| (CertificateLogs, log.public_key.valid_for.as_ref()));
    authorities.chain(logs).chain(certificate_logs)
}

/// The date of a moment.
fn day(at: UnixTime) -> String {
    let text = at.to_string();
    text.split_once('T')
        .map_or_else(|| text.clone(), |(day, _)| day.to_owned())
}

/// How the media type of every version begins.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.trustedroot";

/// Characters of a text from the file that a message repeats.
const EXCERPT_CHARS: usize = 80;

/// Why a file is no trusted root that can be used.
#[derive(Debug)]
pub enum RootError {
    /// It is not strict JSON.
    Json(JsonError),
    /// It has not the fields of a trusted root.
    Shape(String),
    /// It says itself that it is something else.
    MediaType {
        /// The beginning of what it says.
        found: String,
    },
    /// It has no key of a kind that every signature needs.
    Lacks {
        /// The kind, as the file names it.
        kind: &'static str,
    },
    /// A key in it cannot be used.
    Unusable(String),
}

impl fmt::Display for RootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = |text: &str| {
            let beginning: String = text.chars().take(2 * EXCERPT_CHARS).collect();
            Escaped(beginning.as_bytes()).to_string()
        };
        match self {
            Self::Json(_) => write!(f, "it is not a Sigstore trusted_root.json"),
            Self::Shape(why) => write!(f, "it is not a Sigstore trusted_root.json: {}", cut(why)),
            Self::MediaType { found } => write!(
                f,
                "it is not a Sigstore trusted_root.json: its mediaType is {}",
                cut(found)
            ),
            Self::Lacks { kind } => write!(f, "it has no {kind}, without which no signature can be checked"),
            Self::Unusable(why) => write!(f, "it cannot be used: {}", cut(why)),
        }
    }
}

impl std::error::Error for RootError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(cause) => Some(cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use serde_json::Value;

    fn edited(edit: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut root: Value = serde_json::from_str(SIGSTORE_PRODUCTION_TRUSTED_ROOT).unwrap();
        edit(&mut root);
        root.to_string().into_bytes()
    }

    #[test]
    fn the_date_of_the_root_inside_belongs_to_this_root() {
        let digest = crate::digest::sha256(SIGSTORE_PRODUCTION_TRUSTED_ROOT.as_bytes());
        assert_eq!(
            HEXLOWER.encode(&digest),
            "6494e21ea73fa7ee769f85f57d5a3e6a08725eae1e38c755fc3517c9e6bc0b66",
            "another root: find out its date, then change both"
        );
        let root = SigstoreRoot::production().unwrap();
        assert_eq!(root.name(), "production");
        assert_eq!(root.date().to_string(), "shipped with modelfs, as of 2026-10-23");
    }

    #[test]
    fn an_old_root_is_called_stale_and_so_is_one_that_has_ended() {
        let shipped = SigstoreRoot::production().unwrap();
        let days = |days: i64| UnixTime(PRODUCTION_DATE.0 + days * 86_400);
        assert_eq!(shipped.staleness(days(180)), None);
        assert_eq!(shipped.staleness(days(181)), Some(Staleness::Old { days: 181 }));
        let same = SigstoreRoot::parse(&edited(|_| ()), "file").unwrap();
        assert_eq!(same.date().to_string(), "its newest key is valid from 2025-09-23");
        assert_eq!(same.staleness(days(1000)), None);
        for (kind, what) in [
            ("certificateAuthorities", "certificate authorities"),
            ("tlogs", "transparency logs"),
            ("ctlogs", "certificate logs"),
        ] {
            let ended = edited(|root| {
                for one in root[kind].as_array_mut().unwrap() {
                    let one = match kind {
                        "certificateAuthorities" => one,
                        _ => &mut one["publicKey"],
                    };
                    one["validFor"]["end"] = "2026-01-01T00:00:00Z".into();
                }
            });
            let ended = SigstoreRoot::parse(&ended, "file").unwrap();
            assert_eq!(ended.staleness(days(0)), Some(Staleness::Ended { what }));
        }
    }

    #[test]
    fn a_root_that_lacks_a_kind_of_key_is_refused() {
        let text = SIGSTORE_PRODUCTION_TRUSTED_ROOT;
        let twice = text.replacen("\"tlogs\":", "\"tlogs\": [], \"tlogs\":", 1);
        assert_ne!(twice, text);
        let cases = [
            (b"".to_vec(), "not a Sigstore trusted_root.json"),
            (b"{}".to_vec(), "not a Sigstore trusted_root.json"),
            (twice.into_bytes(), "not a Sigstore trusted_root.json"),
            (
                edited(|root| {
                    root["mediaType"] = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json".into()
                }),
                "its mediaType is application/vnd.dev.sigstore.clienttrustconfig",
            ),
            (
                edited(|root| root["tlogs"] = Value::Array(vec![])),
                "it has no tlogs",
            ),
            (
                edited(|root| drop(root.as_object_mut().unwrap().remove("ctlogs"))),
                "it has no ctlogs",
            ),
            (
                edited(|root| root["certificateAuthorities"] = Value::Array(vec![])),
                "it has no certificateAuthorities",
            ),
            (
                edited(|root| root["tlogs"][0]["publicKey"]["rawBytes"] = "AAAA".into()),
                "it cannot be used",
            ),
            (
                edited(|root| {
                    root["certificateAuthorities"][0]["certChain"]["certificates"] = Value::Array(vec![])
                }),
                "it cannot be used",
            ),
        ];
        for (bytes, want) in cases {
            let error = SigstoreRoot::parse(&bytes, "file").expect_err(want).to_string();
            assert!(error.contains(want), "{error}, not {want}");
        }
    }
}
