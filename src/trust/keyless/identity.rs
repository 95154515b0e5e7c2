//! Whom a keyless signature must be from: an identity, exact or by a pattern, and who vouches for it.

use std::fmt;

use crate::path::Escaped;
use crate::trust::chain::AlternativeName;

/// The identity that a Sigstore certificate must have.
///
/// Compared byte for byte and as a whole. `*` stands for any characters but `/`, and in an email address but `@`;
/// it may not stand where it would leave open which host or domain is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeylessIdentity {
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Email,
    Uri,
}

impl KeylessIdentity {
    /// Takes an identity as an operator writes it: `email:` or `uri:`, then the value; or the value alone, where
    /// `://` makes it a URI and else an `@` an email address.
    ///
    /// # Errors
    /// Refuses what is neither, and patterns that are too wide.
    pub fn parse(text: &str) -> Result<Self, KeylessIdentityError> {
        let (kind, value) = match text.split_once(':') {
            Some(("email", value)) => (Kind::Email, value),
            Some(("uri", value)) => (Kind::Uri, value),
            _ if text.contains("://") => (Kind::Uri, text),
            _ if text.contains('@') => (Kind::Email, text),
            _ => return Err(KeylessIdentityError::NoKind),
        };
        if value.is_empty() {
            return Err(KeylessIdentityError::NoValue);
        }
        if !value.bytes().all(|b| matches!(b, b'!'..=b'~')) {
            return Err(KeylessIdentityError::NotPrintable);
        }
        if let Some(at) = value.find('*') {
            let fixed = match kind {
                Kind::Email => value.rfind('@').is_some_and(|sign| value.rfind('*') < Some(sign)),
                Kind::Uri => host_end(value).is_some_and(|end| at > end),
            };
            if !fixed {
                return Err(KeylessIdentityError::TooWide);
            }
        }
        Ok(Self {
            kind,
            text: value.to_owned(),
        })
    }

    /// Whether a certificate's name is this identity.
    pub(in crate::trust) fn is(&self, name: &AlternativeName) -> bool {
        match (self.kind, name) {
            (Kind::Email, AlternativeName::Email(found)) => matches(&self.text, found, "/@"),
            (Kind::Uri, AlternativeName::Uri(found)) => matches(&self.text, found, "/"),
            (Kind::Email | Kind::Uri, _) => false,
        }
    }
}

impl fmt::Display for KeylessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Email => "email",
            Kind::Uri => "uri",
        };
        write!(f, "{kind}:{}", Escaped(self.text.as_bytes()))
    }
}

/// Where a URI's authority ends, at the `/` after it.
fn host_end(uri: &str) -> Option<usize> {
    let (scheme, rest) = uri.split_once("://")?;
    let host = rest.find('/').filter(|&end| end > 0)?;
    Some(scheme.len() + "://".len() + host)
}

/// Whether a whole text matches a pattern in which `*` stands for any characters but those of `walls`.
fn matches(pattern: &str, text: &str, walls: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // Where to go on when a guess about the last `*` was wrong.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, text) {
            ([], []) => return true,
            ([b'*', rest @ ..], _) => {
                pattern = rest;
                again = Some((rest, text));
            }
            ([p, pattern_rest @ ..], [t, text_rest @ ..]) if p == t => {
                pattern = pattern_rest;
                text = text_rest;
            }
            _ => match again {
                Some((after, [skipped, rest @ ..])) if !walls.as_bytes().contains(skipped) => {
                    pattern = after;
                    text = rest;
                    again = Some((after, rest));
                }
                _ => return false,
            },
        }
    }
}

/// Why text is not an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeylessIdentityError {
    /// It is neither an email address nor a URI.
    NoKind,
    /// Nothing follows the kind.
    NoValue,
    /// It has characters that no such identity has.
    NotPrintable,
    /// Its `*` leaves open which domain or host is meant.
    TooWide,
}

impl fmt::Display for KeylessIdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKind => write!(
                f,
                "the identity is neither an email address nor a URI: begin it with email: or uri:"
            ),
            Self::NoValue => write!(f, "the identity has no value"),
            Self::NotPrintable => write!(f, "the identity has a space or other characters than ASCII's"),
            Self::TooWide => write!(
                f,
                "a * may stand only before the @ of an email address, or after the host of a URI"
            ),
        }
    }
}

impl std::error::Error for KeylessIdentityError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(identity: &str, name: &AlternativeName) -> bool {
        KeylessIdentity::parse(identity).unwrap().is(name)
    }

    #[test]
    fn an_identity_is_compared_whole_and_with_its_kind() {
        let email = |text: &str| AlternativeName::Email(text.to_owned());
        let uri = |text: &str| AlternativeName::Uri(text.to_owned());
        let release = "https://example.com/acme/train/release.yml@refs/tags/v1";
        let cases = [
            ("a@example.com", email("a@example.com"), true),
            ("email:a@example.com", email("a@example.com"), true),
            ("a@example.com", email("A@example.com"), false),
            ("a@example.com", email("a@example.com.evil"), false),
            ("a@example.com", email("xa@example.com"), false),
            ("a@example.com", email("a@example.co"), false),
            ("a@example.com", uri("a@example.com"), false),
            (
                "a@example.com",
                AlternativeName::Dns("a@example.com".into()),
                false,
            ),
            (
                "a@example.com",
                AlternativeName::Other("a@example.com".into()),
                false,
            ),
            ("uri:a@example.com", uri("a@example.com"), true),
            ("uri:a@example.com", email("a@example.com"), false),
            ("a.example.com/x@y", email("axexample.com/x@y"), false),
            (release, uri(release), true),
            (release, email(release), false),
            ("https://example.com/a", uri("https://example.com/a/"), false),
            ("https://example.com/a", uri("https://example.com/A"), false),
        ];
        for (identity, name, want) in cases {
            assert_eq!(is(identity, &name), want, "{identity} and {name}");
        }
    }

    #[test]
    fn a_star_crosses_no_slash_and_leaves_no_host_open() {
        let cases = [
            ("https://h/a/*/c", "https://h/a/b/c", true),
            ("https://h/a/*/c", "https://h/a//c", true),
            ("https://h/a/*/c", "https://h/a/b/b/c", false),
            ("https://h/a/*", "https://h/a/b/", false),
            ("https://h/a/*", "https://h/a/b/../c", false),
            ("https://h/a/*", "https://h/a/", true),
            ("https://h/a/*", "https://h/a", false),
            ("https://h/a/v*.*", "https://h/a/v1.2.3", true),
            ("https://h/a/v*.*", "https://h/a/v1", false),
            ("https://h/a/*ab*ab", "https://h/a/aabab", true),
            ("https://h/a/*ab*ab", "https://h/a/aab", false),
            ("https://h/a/*b", "xhttps://h/a/b", false),
            ("https://h/a/**", "https://h/a/b/c", false),
            ("https://h/a/?", "https://h/a/b", false),
            ("https://h/a/[a-z]", "https://h/a/b", false),
            ("https://h/a/.*", "https://h/a/b", false),
        ];
        for (identity, text, want) in cases {
            let name = AlternativeName::Uri(text.to_owned());
            assert_eq!(is(identity, &name), want, "{identity} and {text}");
        }
        for (identity, text, want) in [
            ("*@example.com", "a@example.com", true),
            ("*@example.com", "a@evil@example.com", false),
            ("*@example.com", "a/b@example.com", false),
            ("*@example.com", "a@sub.example.com", false),
            ("ci-*@example.com", "ci-1@example.com", true),
        ] {
            let name = AlternativeName::Email(text.to_owned());
            assert_eq!(is(identity, &name), want, "{identity} and {text}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_is_matched_in_no_time() {
        let identity = format!("https://h/{}b", "*a".repeat(500));
        let name = AlternativeName::Uri(format!("https://h/{}", "a".repeat(100_000)));
        assert!(!is(&identity, &name));
    }

    #[test]
    fn only_emails_and_uris_are_identities() {
        let cases = [
            ("", Err(KeylessIdentityError::NoKind)),
            ("alice", Err(KeylessIdentityError::NoKind)),
            ("subject:CN=alice", Err(KeylessIdentityError::NoKind)),
            ("*", Err(KeylessIdentityError::NoKind)),
            ("email:", Err(KeylessIdentityError::NoValue)),
            ("uri:", Err(KeylessIdentityError::NoValue)),
            ("a b@example.com", Err(KeylessIdentityError::NotPrintable)),
            ("a@example.com\n", Err(KeylessIdentityError::NotPrintable)),
            ("a@ex\u{e4}mple.com", Err(KeylessIdentityError::NotPrintable)),
            ("a@*", Err(KeylessIdentityError::TooWide)),
            ("a@*.example.com", Err(KeylessIdentityError::TooWide)),
            ("*@*@example.com", Ok("email:*@*@example.com")),
            ("email:*", Err(KeylessIdentityError::TooWide)),
            ("https://*", Err(KeylessIdentityError::TooWide)),
            ("https://*/a", Err(KeylessIdentityError::TooWide)),
            ("https://a.*/b", Err(KeylessIdentityError::TooWide)),
            ("http*://a/b", Err(KeylessIdentityError::TooWide)),
            ("uri:*", Err(KeylessIdentityError::TooWide)),
            ("uri:urn:a:*", Err(KeylessIdentityError::TooWide)),
            ("https:///*", Err(KeylessIdentityError::TooWide)),
            ("uri:urn:a:b", Ok("uri:urn:a:b")),
            ("https://a/*", Ok("uri:https://a/*")),
            ("a@example.com", Ok("email:a@example.com")),
        ];
        for (text, want) in cases {
            let got = KeylessIdentity::parse(text).map(|identity| identity.to_string());
            assert_eq!(got.as_deref().map_err(|e| *e), want, "{text:?}");
        }
    }
}
