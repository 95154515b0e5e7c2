//! Which models a rule is for.
//!
//! A scope is an absolute path, or a pattern: `*` stands for any characters of one name and never crosses a
//! `/`; `/**` at the end stands for the folder itself and everything beneath it. Of two scopes that match
//! the same model the more specific decides: a plain path before a pattern, then the longer text before
//! the first `*`.

use std::cmp::Ordering;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::path::Escaped;

/// A canonical path or pattern of paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    text: String,
    /// The names between the slashes, without a `**` at the end.
    names: Vec<String>,
    reach: Reach,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The path alone.
    Path,
    /// The path and everything beneath it.
    Beneath,
}

impl Scope {
    /// Takes a scope as it stands in a policy.
    ///
    /// # Errors
    /// What no canonical path could match is refused: it would be a rule that never applies.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        let relative = text.strip_prefix('/').ok_or(ScopeError::NotAbsolute)?;
        if text.contains('\0') {
            return Err(ScopeError::Nul);
        }
        let (relative, reach) = match relative {
            "**" => ("", Reach::Beneath),
            _ => match relative.strip_suffix("/**") {
                Some(folder) => (folder, Reach::Beneath),
                None => (relative, Reach::Path),
            },
        };
        let names: Vec<String> = if text == "/**" || text == "/" {
            Vec::new()
        } else {
            relative.split('/').map(str::to_owned).collect()
        };
        for name in &names {
            match name.as_str() {
                "" => return Err(ScopeError::EmptyName),
                "." | ".." => return Err(ScopeError::DotName),
                _ if name.contains("**") => return Err(ScopeError::StarsInside),
                _ => {}
            }
        }
        Ok(Self {
            text: text.to_owned(),
            names,
            reach,
        })
    }

    /// Whether the scope covers a canonical path.
    pub fn matches(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        let Some(relative) = path.strip_prefix(b"/") else {
            return false;
        };
        let mut names = relative.split(|b| *b == b'/').filter(|name| !name.is_empty());
        for pattern in &self.names {
            if !names
                .next()
                .is_some_and(|name| name_matches(pattern.as_bytes(), name))
            {
                return false;
            }
        }
        self.reach == Reach::Beneath || names.next().is_none()
    }

    /// Compares two scopes that match the same path: the greater is the more specific one.
    pub fn specificity(&self, other: &Self) -> Ordering {
        (self.is_plain(), self.literal_bytes()).cmp(&(other.is_plain(), other.literal_bytes()))
    }

    /// Whether some path could be matched by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let fits = |longer: &Self, shorter: &Self| {
            longer.names.len() == shorter.names.len()
                || (longer.names.len() > shorter.names.len() && shorter.reach == Reach::Beneath)
        };
        let both = self.names.iter().zip(&other.names);
        (fits(self, other) || fits(other, self))
            && both
                .into_iter()
                .all(|(a, b)| names_meet(a.as_bytes(), b.as_bytes()))
    }

    fn is_plain(&self) -> bool {
        !self.text.contains('*')
    }

    /// Bytes before the first `*`.
    fn literal_bytes(&self) -> usize {
        self.text.find('*').unwrap_or(self.text.len())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.text.as_bytes()).fmt(f)
    }
}

/// Whether a name is one that a pattern stands for.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    // Greedy with one step back: the last `*` seen may always take more, earlier ones never need to.
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while let Some(byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(literal) if literal == byte => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after_star, taken)) = retry else {
                    return false;
                };
                retry = Some((after_star, taken + 1));
                (p, n) = (after_star, taken + 1);
            }
        }
    }
    pattern.iter().skip(p).all(|b| *b == b'*')
}

/// Whether some name is matched by both patterns.
fn names_meet(a: &[u8], b: &[u8]) -> bool {
    // Walks both patterns at once; `reachable` holds the positions in `b` that are possible at one in `a`.
    let close = |reachable: &mut Vec<bool>| {
        for (at, byte) in b.iter().enumerate() {
            if *byte == b'*' && reachable.get(at) == Some(&true) {
                set(reachable, at + 1);
            }
        }
    };
    let mut reachable = vec![false; b.len() + 1];
    set(&mut reachable, 0);
    close(&mut reachable);
    for byte in a {
        let mut next = vec![false; b.len() + 1];
        let mut any_before = false;
        for (at, possible) in reachable.iter().enumerate() {
            any_before |= possible;
            match b.get(at) {
                // A `*` of `a` may stand for whatever `b` still wants, or for nothing.
                _ if *byte == b'*' && any_before => set(&mut next, at),
                Some(b'*') if *possible => set(&mut next, at),
                Some(literal) if *possible && literal == byte => set(&mut next, at + 1),
                _ => {}
            }
        }
        close(&mut next);
        reachable = next;
    }
    reachable.last() == Some(&true)
}

fn set(flags: &mut [bool], at: usize) {
    if let Some(flag) = flags.get_mut(at) {
        *flag = true;
    }
}

/// Why a text is not a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeError {
    /// It does not begin with `/`.
    NotAbsolute,
    /// Two slashes follow each other, or one ends it.
    EmptyName,
    /// A name is `.` or `..`, which no canonical path has.
    DotName,
    /// `**` stands elsewhere than in a last `/**`.
    StarsInside,
    /// It contains a NUL byte, which no path has.
    Nul,
}

impl fmt::Display for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAbsolute => write!(f, "a scope begins with `/`"),
            Self::EmptyName => write!(f, "a scope has no empty name, and no `/` at its end"),
            Self::DotName => write!(f, "a scope has no `.` or `..`"),
            Self::StarsInside => write!(f, "`**` may stand only at the end, after a `/`"),
            Self::Nul => write!(f, "a scope has no NUL byte"),
        }
    }
}

impl std::error::Error for ScopeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scopes_that_a_canonical_path_could_match_are_taken() {
        let cases = [
            ("/", None),
            ("/**", None),
            ("/srv/models", None),
            ("/srv/*/a*b", None),
            ("/srv/models/**", None),
            ("/srv/*/**", None),
            ("/srv/a b\u{e4}[x]?", None),
            ("", Some(ScopeError::NotAbsolute)),
            ("srv", Some(ScopeError::NotAbsolute)),
            ("**", Some(ScopeError::NotAbsolute)),
            ("~/models", Some(ScopeError::NotAbsolute)),
            ("/srv/", Some(ScopeError::EmptyName)),
            ("//srv", Some(ScopeError::EmptyName)),
            ("//**", Some(ScopeError::EmptyName)),
            ("/srv//a", Some(ScopeError::EmptyName)),
            ("/srv/../a", Some(ScopeError::DotName)),
            ("/srv/./a", Some(ScopeError::DotName)),
            ("/srv/**/a", Some(ScopeError::StarsInside)),
            ("/srv/a**", Some(ScopeError::StarsInside)),
            ("/srv/**/**", Some(ScopeError::StarsInside)),
            ("/srv/***", Some(ScopeError::StarsInside)),
            ("/a\0b", Some(ScopeError::Nul)),
        ];
        for (text, want) in cases {
            assert_eq!(Scope::parse(text).err(), want, "{text:?}");
        }
    }

    #[test]
    fn stars_stay_within_a_name_and_two_reach_beneath() {
        let cases = [
            ("/", "/", true),
            ("/", "/a", false),
            ("/**", "/", true),
            ("/**", "/a/b", true),
            ("/srv/a", "/srv/a", true),
            ("/srv/a", "/srv/a/b", false),
            ("/srv/a", "/srv", false),
            ("/srv/a", "/srv/ab", false),
            ("/srv/a/**", "/srv/a", true),
            ("/srv/a/**", "/srv/a/b/c", true),
            ("/srv/a/**", "/srv/ab", false),
            ("/srv/a/**", "/srv", false),
            ("/srv/*", "/srv/a", true),
            ("/srv/*", "/srv/.hidden", true),
            ("/srv/*", "/srv/a/b", false),
            ("/srv/*", "/srv", false),
            ("/srv/*/b", "/srv/a/b", true),
            ("/srv/*/b", "/srv/a/c/b", false),
            ("/srv/a*c*e", "/srv/abcde", true),
            ("/srv/a*c*e", "/srv/ace", true),
            ("/srv/a*c*e", "/srv/aecce", true),
            ("/srv/a*c*e", "/srv/acef", false),
            ("/srv/a*c*e", "/srv/ac/e", false),
            ("/srv/*/**", "/srv/a/b/c", true),
            ("/srv/*/**", "/srv", false),
            ("/srv/[ab]", "/srv/a", false),
            ("/srv/\u{e4}*", "/srv/\u{e4}b", true),
            ("/srv", "srv", false),
        ];
        for (scope, path, want) in cases {
            assert_eq!(
                Scope::parse(scope).unwrap().matches(Path::new(path)),
                want,
                "{scope} and {path}"
            );
        }
    }

    #[test]
    fn plain_paths_then_longer_literal_text_are_more_specific() {
        let ascending = [
            "/**",
            "/srv/*",
            "/srv/models/**",
            "/srv/models/acme*",
            "/srv/models/acme/**",
            "/srv/models/acme/*/x",
            // A plain path wins although its text is shorter.
            "/srv",
            "/srv/models",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                let (x, y) = (Scope::parse(a).unwrap(), Scope::parse(b).unwrap());
                let want = match i.cmp(&j) {
                    // The same text before the first star.
                    _ if i.min(j) == 4 && i.max(j) == 5 => Ordering::Equal,
                    order => order,
                };
                assert_eq!(x.specificity(&y), want, "{a} and {b}");
            }
        }
    }

    #[test]
    fn overlap_is_found_wherever_one_path_could_match_both() {
        let cases = [
            ("/srv/*/a", "/srv/*/b", false),
            ("/srv/*/a*", "/srv/*/*b", true),
            ("/srv/*/a*c", "/srv/*/a*d", false),
            ("/srv/*/a*", "/srv/*/b*", false),
            ("/srv/*", "/srv/**", true),
            ("/srv/*", "/srv/*/**", true),
            ("/srv/*/x", "/srv/*", false),
            ("/srv/*/x", "/srv/**", true),
            ("/srv/*/x/**", "/srv/*/y/**", false),
            ("/srv/*ab", "/srv/*b", true),
            ("/srv/*ab*ba*", "/srv/*aba", true),
            ("/srv/a*", "/srv/*", true),
            ("/srv/a", "/srv/a", true),
            ("/a*/b", "/a*/b/c/**", false),
        ];
        for (a, b, want) in cases {
            let (x, y) = (Scope::parse(a).unwrap(), Scope::parse(b).unwrap());
            assert_eq!(x.overlaps(&y), want, "{a} and {b}");
            assert_eq!(y.overlaps(&x), want, "{b} and {a}");
        }
    }

    /// Overlap against its definition: short names over a small alphabet, tried one by one.
    #[test]
    fn overlap_agrees_with_trying_every_short_name() {
        let words = |alphabet: &[u8], longest: usize| {
            let mut all: Vec<Vec<u8>> = vec![Vec::new()];
            let mut from = 0;
            for _ in 0..longest {
                let to = all.len();
                for i in from..to {
                    for byte in alphabet {
                        let mut word = all[i].clone();
                        word.push(*byte);
                        all.push(word);
                    }
                }
                from = to;
            }
            all
        };
        let patterns: Vec<_> = words(b"ab*", 3)
            .into_iter()
            .filter(|p| !p.windows(2).any(|w| w == b"**"))
            .collect();
        // Two patterns of three characters meet in a name of at most six if they meet at all.
        let names = words(b"ab", 6);
        for a in &patterns {
            for b in &patterns {
                let want = names.iter().any(|n| name_matches(a, n) && name_matches(b, n));
                assert_eq!(names_meet(a, b), want, "{} and {}", Escaped(a), Escaped(b));
            }
        }
    }
}
