//! Names that a manifest may give to a file, and names made safe to print.
//!
//! A [`ModelPath`] is canonical by construction: the same file has one spelling, it stays beneath the
//! model's root and it fits what the kernel accepts. Names that are not canonical are refused, never
//! repaired (OMS 6.1.2): two readers that repair differently would see two different models.

use std::fmt;

mod order;

pub use order::loading_order;

/// Longest component in bytes: the kernel's `NAME_MAX`. A longer one could be signed but never opened.
pub const MAX_COMPONENT_BYTES: usize = 255;

/// Longest path in bytes: the kernel's `PATH_MAX`, counting its terminating NUL.
pub const MAX_PATH_BYTES: usize = 4095;

/// Most components of a path. Each may become a directory of its own that lives as long as the mount; real
/// models have some ten levels. Without a limit one name of 4 KB makes two thousand directories.
pub const MAX_COMPONENTS: usize = 128;

/// A canonical path of a file, relative to the model's root, byte-exact and `/`-separated.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelPath(Box<str>);

impl ModelPath {
    /// Takes a name as it stands in a manifest.
    ///
    /// # Errors
    /// Refuses what is not canonical; nothing is normalised.
    pub fn parse(name: &str) -> Result<Self, PathError> {
        if name.is_empty() {
            return Err(PathError::Empty);
        }
        if name.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong { bytes: name.len() });
        }
        if name.contains('\0') {
            return Err(PathError::Nul);
        }
        if name.starts_with('/') {
            return Err(PathError::Absolute);
        }
        let components = name.split('/').count();
        if components > MAX_COMPONENTS {
            return Err(PathError::TooManyComponents { components });
        }
        for component in name.split('/') {
            match component {
                "" => return Err(PathError::EmptyComponent),
                "." | ".." => return Err(PathError::DotComponent),
                _ if component.len() > MAX_COMPONENT_BYTES => {
                    return Err(PathError::ComponentTooLong {
                        bytes: component.len(),
                    });
                }
                _ => {}
            }
        }
        Ok(Self(name.into()))
    }

    /// The path as it was signed.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components, outermost first; never empty.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// Whether both lie in the same directory and end alike, as the parts of one set of weights do.
    pub fn is_sibling_of(&self, other: &ModelPath) -> bool {
        let parts = |path: &str| {
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
            let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
            (directory.to_owned(), ending.to_owned())
        };
        parts(&self.0) == parts(&other.0)
    }

    /// Whether this path is `ancestor` or lies beneath it, compared by whole components.
    pub fn is_within(&self, ancestor: &ModelPath) -> bool {
        self.0
            .strip_prefix(ancestor.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for ModelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.0.as_bytes()).fmt(f)
    }
}

impl fmt::Debug for ModelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelPath({self})")
    }
}

/// Bytes that somebody else chose, shown so that they cannot move the cursor, forge a log line or
/// reverse the text around them: control and format characters and invalid UTF-8 are escaped, and so is
/// the backslash, so that no two names differ in what
/// cannot be seen.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c == '\\' || must_escape(c) {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Control characters, those that change how their neighbours are drawn, those that are drawn as nothing, and
/// blanks other than the space (Unicode Technical Report 36, section 2.3; the ranges of
/// `Default_Ignorable_Code_Point`).
pub(crate) fn must_escape(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Why a name is not canonical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// The name has no characters.
    Empty,
    /// The name begins with `/`.
    Absolute,
    /// Two slashes follow each other, or one ends the name.
    EmptyComponent,
    /// A component is `.` or `..`.
    DotComponent,
    /// The name contains a NUL byte.
    Nul,
    /// A component is longer than [`MAX_COMPONENT_BYTES`].
    ComponentTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The name has more components than [`MAX_COMPONENTS`].
    TooManyComponents {
        /// How many it has.
        components: usize,
    },
    /// The name is longer than [`MAX_PATH_BYTES`].
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the name is empty"),
            Self::Absolute => write!(f, "the name is absolute"),
            Self::EmptyComponent => write!(f, "the name has an empty component"),
            Self::DotComponent => write!(f, "the name has a `.` or `..` component"),
            Self::Nul => write!(f, "the name contains a NUL byte"),
            Self::ComponentTooLong { bytes } => {
                write!(
                    f,
                    "a component has {bytes} bytes, more than {MAX_COMPONENT_BYTES}"
                )
            }
            Self::TooManyComponents { components } => {
                write!(
                    f,
                    "the name has {components} components, more than {MAX_COMPONENTS}"
                )
            }
            Self::TooLong { bytes } => write!(f, "the name has {bytes} bytes, more than {MAX_PATH_BYTES}"),
        }
    }
}

impl std::error::Error for PathError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_names_are_taken() {
        let long = "x".repeat(MAX_COMPONENT_BYTES);
        let too_long = "x".repeat(MAX_COMPONENT_BYTES + 1);
        let whole = vec![long.as_str(); MAX_PATH_BYTES.div_ceil(long.len() + 1)].join("/");
        let too_much = whole.clone() + "x";
        assert_eq!(whole.len(), MAX_PATH_BYTES);
        let deep = "x/".repeat(MAX_COMPONENTS - 1) + "x";
        let too_deep = deep.clone() + "/x";
        let cases: &[(&str, Option<PathError>)] = &[
            ("a", None),
            ("a/b.bin", None),
            ("...", None),
            ("a b\n\t\\*", None),
            (&long, None),
            (&whole, None),
            (&deep, None),
            ("", Some(PathError::Empty)),
            ("/a", Some(PathError::Absolute)),
            ("/", Some(PathError::Absolute)),
            ("a//b", Some(PathError::EmptyComponent)),
            ("a/", Some(PathError::EmptyComponent)),
            (".", Some(PathError::DotComponent)),
            ("..", Some(PathError::DotComponent)),
            ("./a", Some(PathError::DotComponent)),
            ("a/../b", Some(PathError::DotComponent)),
            ("a\0b", Some(PathError::Nul)),
            (
                &too_long,
                Some(PathError::ComponentTooLong {
                    bytes: MAX_COMPONENT_BYTES + 1,
                }),
            ),
            (
                &too_deep,
                Some(PathError::TooManyComponents {
                    components: MAX_COMPONENTS + 1,
                }),
            ),
            (
                &too_much,
                Some(PathError::TooLong {
                    bytes: MAX_PATH_BYTES + 1,
                }),
            ),
        ];
        for (name, want) in cases {
            assert_eq!(ModelPath::parse(name).err(), *want, "{name:?}");
        }
    }

    #[test]
    fn within_compares_whole_components() {
        let path = |name| ModelPath::parse(name).unwrap();
        for (inner, outer, want) in [
            ("a/b", "a", true),
            ("a", "a", true),
            ("ab", "a", false),
            ("a", "a/b", false),
        ] {
            assert_eq!(
                path(inner).is_within(&path(outer)),
                want,
                "{inner} within {outer}"
            );
        }
    }

    #[test]
    fn printed_names_cannot_forge_their_surroundings() {
        let cases: &[(&[u8], &str)] = &[
            (b"plain.bin", "plain.bin"),
            ("gewicht-\u{e4}.bin".as_bytes(), "gewicht-\u{e4}.bin"),
            (b"a\nerror: b", "a\\nerror: b"),
            (b"\x1b[2J", "\\u{1b}[2J"),
            ("\u{202e}nib".as_bytes(), "\\u{202e}nib"),
            (b"a\\n", "a\\\\n"),
            (b"\xff.bin", "\\xff.bin"),
            (
                "a\u{fe0f}\u{a0}\u{e0100}".as_bytes(),
                "a\\u{fe0f}\\u{a0}\\u{e0100}",
            ),
        ];
        for (raw, want) in cases {
            assert_eq!(Escaped(raw).to_string(), *want);
        }
    }
}
