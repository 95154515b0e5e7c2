//! Strict JSON: the one reading that every parser would agree with.
//!
//! Signed data must not mean one thing to us and another to somebody else, so whatever parsers are known
//! to disagree about is refused before any field is looked at: duplicate keys (at every depth, in parts we
//! ignore too), a byte order mark, encodings other than UTF-8, lone surrogates, trailing data, non-numbers
//! such as `NaN`, and nesting that would exhaust a stack. Typed parsing then runs over the same bytes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde::de::Deserializer;
use serde::de::Error as _;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde::de::value::MapAccessDeserializer;

use crate::path::Escaped;

/// Deepest nesting of arrays and objects. A bundle needs 9; a parser's stack frame per level is what
/// the limit protects.
pub const MAX_DEPTH: usize = 64;

/// Most keys in one object. A bundle's largest has 8; without a limit, an object of nothing but keys would take
/// six times its size in memory before anybody asked who signed it.
pub const MAX_KEYS: usize = 256;

/// Longest key in bytes; the longest that a bundle has is 25.
pub const MAX_KEY_BYTES: usize = 1024;

/// Longest string in bytes, apart from the payload. A parser that did not expect a string quotes it whole in its
/// message, several times as long.
pub const MAX_STRING_BYTES: usize = 256 * 1024;

/// The key whose value is a whole document in base64.
const DOCUMENT_KEY: &str = "payload";

/// Longest message in characters. It may quote what somebody hostile wrote.
const MAX_MESSAGE_CHARS: usize = 512;

/// Parses one JSON text into `T`.
///
/// # Errors
/// Refuses what is not strict JSON, and what is not a `T`.
pub fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, JsonError> {
    if text.starts_with(b"\xef\xbb\xbf") {
        return Err(JsonError::ByteOrderMark);
    }
    let text = std::str::from_utf8(text).map_err(|e| JsonError::NotUtf8 { at: e.valid_up_to() })?;
    let mut scan = serde_json::Deserializer::from_str(text);
    Strict {
        depth: 0,
        max_string: MAX_STRING_BYTES,
    }
    .deserialize(&mut scan)
    .map_err(JsonError::Syntax)?;
    scan.end().map_err(JsonError::Syntax)?;
    serde_json::from_str(text).map_err(JsonError::Shape)
}

/// Walks a value and refuses what [`parse`] promises to refuse.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
    /// Longest string in bytes at this place.
    max_string: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Self {
            depth: self.depth + 1,
            max_string: MAX_STRING_BYTES,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, string: &str) -> Result<(), E> {
        if string.len() > self.max_string {
            return Err(E::custom(format_args!(
                "a string of {} bytes, more than {}",
                string.len(),
                self.max_string
            )));
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut keys = Keys::default();
        while let Some(key) = map.next_key_seed(Key)? {
            let max_string = if key == DOCUMENT_KEY {
                usize::MAX
            } else {
                MAX_STRING_BYTES
            };
            if let Err(again) = keys.insert(key) {
                return Err(A::Error::custom(format_args!(
                    "the key {again:?} stands twice in one object"
                )));
            }
            if keys.count() > MAX_KEYS {
                return Err(A::Error::custom(format_args!(
                    "an object of more than {MAX_KEYS} keys"
                )));
            }
            map.next_value_seed(Self { max_string, ..inner })?;
        }
        Ok(())
    }
}

/// The keys of one object. Nearly every object has a handful, where comparing beats hashing; a hostile one
/// may have a million.
#[derive(Default)]
struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

/// Number of keys up to which an object's keys are compared one by one.
const FEW_KEYS: usize = 12;

impl<'de> Keys<'de> {
    fn count(&self) -> usize {
        self.few.len() + self.many.len()
    }

    /// Adds a key, or gives it back when it was there already.
    fn insert(&mut self, key: Cow<'de, str>) -> Result<(), Cow<'de, str>> {
        if self.few.contains(&key) {
            return Err(key);
        }
        if self.few.len() < FEW_KEYS {
            self.few.push(key);
            return Ok(());
        }
        if self.many.contains(&key) {
            return Err(key);
        }
        self.many.insert(key);
        Ok(())
    }
}

/// A key, borrowed from the text unless it holds an escape.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, key: &'de str) -> Result<Self::Value, E> {
        short(key).map(Cow::Borrowed)
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        short(key).map(|key| Cow::Owned(key.to_owned()))
    }
}

fn short<E: serde::de::Error>(key: &str) -> Result<&str, E> {
    if key.len() > MAX_KEY_BYTES {
        return Err(E::custom(format_args!(
            "a key of {} bytes, more than {MAX_KEY_BYTES}",
            key.len()
        )));
    }
    Ok(key)
}

/// A `T` that stands as an object.
///
/// Derived parsers of structs also take an array of the fields in order: `["a", "sha256", "00"]` would be a
/// resource to us and nonsense to everybody else.
#[derive(Clone, Copy, Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// A list that is kept only if it has at most `N` elements.
///
/// A hostile list has millions, of which each takes several times its text in memory. What stands behind the
/// `N`th is only counted.
#[derive(Clone, Debug)]
pub struct AtMost<T, const N: usize> {
    kept: Vec<T>,
    count: usize,
}

impl<T, const N: usize> AtMost<T, N> {
    /// The whole list.
    ///
    /// # Errors
    /// How many elements it has, when they are more than `N`.
    pub fn all(self) -> Result<Vec<T>, usize> {
        if self.count > N {
            Err(self.count)
        } else {
            Ok(self.kept)
        }
    }
}

impl<T, const N: usize> Default for AtMost<T, N> {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            count: 0,
        }
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for ListVisitor<T, N> {
    type Value = AtMost<T, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = AtMost::default();
        while list.count < N {
            match seq.next_element()? {
                Some(element) => list.kept.push(element),
                None => return Ok(list),
            }
            list.count += 1;
        }
        while seq.next_element::<Ignored>()?.is_some() {
            list.count += 1;
        }
        Ok(list)
    }
}

/// A field whose presence matters and whose value does not.
pub type Ignored = IgnoredAny;

/// Why text is not the JSON we asked for. Positions are the parser's line and column, from 1.
#[derive(Debug)]
pub enum JsonError {
    /// The text begins with a byte order mark, which some parsers skip and some refuse.
    ByteOrderMark,
    /// The text is not UTF-8 (RFC 8259, section 8.1).
    NotUtf8 {
        /// Offset in bytes of the first wrong byte.
        at: usize,
    },
    /// The text is not strict JSON.
    Syntax(serde_json::Error),
    /// The text is JSON, of another shape than required.
    Shape(serde_json::Error),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByteOrderMark => write!(f, "the JSON text begins with a byte order mark"),
            Self::NotUtf8 { at } => write!(f, "the JSON text is not UTF-8 at byte {at}"),
            Self::Syntax(e) => write!(f, "not strict JSON: {}", Quoted(e)),
            Self::Shape(e) => write!(f, "unexpected JSON: {}", Quoted(e)),
        }
    }
}

impl std::error::Error for JsonError {}

/// A parser's message, which quotes the text: what stands there may move a cursor, or be long.
struct Quoted<'a>(&'a serde_json::Error);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.0.to_string();
        match message.char_indices().nth(MAX_MESSAGE_CHARS) {
            None => Escaped(message.as_bytes()).fmt(f),
            Some((end, _)) => {
                let beginning = message.get(..end).unwrap_or_default();
                write!(f, "{} ...", Escaped(beginning.as_bytes()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    #[test]
    fn what_parsers_disagree_about_is_refused() {
        let many = |last: &str| {
            let keys: Vec<String> = (0..200).map(|i| format!("\"k{i}\":0")).collect();
            format!("{{{},\"{last}\":0}}", keys.join(","))
        };
        let (fits, too_deep, bomb) = (nested(MAX_DEPTH), nested(MAX_DEPTH + 1), nested(1_000_000));
        let (distinct, again_early, again_late) = (many("k200"), many("k3"), many("k199"));
        let cases: &[(&[u8], bool)] = &[
            (br#"{"a":1,"b":[{"a":2}]}"#, true),
            (br#"{"a":1.0e3,"b":-1,"c":null,"d":true,"e":"\u00e4"}"#, true),
            (br#"{"a":1,"a":2}"#, false),
            (br#"{"a":1,"\u0061":2}"#, false),
            (br#"[{"x":{"a":1,"a":1}}]"#, false),
            (b"\xef\xbb\xbf{}", false),
            (b"{}\x00", false),
            (b"{} {}", false),
            (b"", false),
            (b"{", false),
            (b"[1,]", false),
            (b"NaN", false),
            (b"[1e999]", false),
            (b"\"\xff\"", false),
            (br#""\ud800""#, false),
            (b"{\0\"\0a\0\"\0}\0", false),
            (distinct.as_bytes(), true),
            (again_early.as_bytes(), false),
            (again_late.as_bytes(), false),
            (fits.as_bytes(), true),
            (too_deep.as_bytes(), false),
            (bomb.as_bytes(), false),
        ];
        for (text, want) in cases {
            let got = parse::<Value>(text);
            assert_eq!(
                got.is_ok(),
                *want,
                "{}: {got:?}",
                Escaped(text.get(..40).unwrap_or(text))
            );
        }
    }

    #[test]
    fn a_list_is_kept_up_to_its_limit_and_counted_beyond() {
        for (text, want) in [
            ("[]", Ok(vec![])),
            ("[1,2,3]", Ok(vec![1, 2, 3])),
            ("[1,2,3,4]", Err(4)),
            ("[1,2,3,{},\"x\"]", Err(5)),
        ] {
            let list: AtMost<u8, 3> = parse(text.as_bytes()).unwrap();
            assert!(list.kept.len() <= 3);
            assert_eq!(list.all(), want, "{text}");
        }
        for text in ["[1,2,{}]", "null", "{}", "1", "[1,2,3,4"] {
            assert!(parse::<AtMost<u8, 3>>(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_and_strings_are_limited_and_a_document_is_not() {
        let keys = |count: usize| {
            let keys: Vec<String> = (0..count).map(|i| format!("\"k{i}\":0")).collect();
            format!("[{{{}}}]", keys.join(","))
        };
        let key = |bytes: usize| format!("{{\"{}\":0}}", "k".repeat(bytes));
        let string = |name: &str, bytes: usize| format!("{{\"{name}\":\"{}\"}}", "s".repeat(bytes));
        let cases = [
            (keys(MAX_KEYS), true),
            (keys(MAX_KEYS + 1), false),
            (key(MAX_KEY_BYTES), true),
            (key(MAX_KEY_BYTES + 1), false),
            (string("name", MAX_STRING_BYTES), true),
            (string("name", MAX_STRING_BYTES + 1), false),
            (string("payload", MAX_STRING_BYTES + 1), true),
            (
                format!("{{\"payload\":{}}}", string("name", MAX_STRING_BYTES + 1)),
                false,
            ),
            (
                format!("{{\"payload\":[\"{}\"]}}", "s".repeat(MAX_STRING_BYTES + 1)),
                false,
            ),
            (format!("\"{}\"", "s".repeat(MAX_STRING_BYTES + 1)), false),
        ];
        for (text, want) in cases {
            let got = parse::<Value>(text.as_bytes());
            assert_eq!(got.is_ok(), want, "{} bytes: {:?}", text.len(), got.err());
        }
    }

    #[test]
    fn messages_are_short_whatever_they_quote() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Named {
            #[serde(rename = "name")]
            _name: u8,
        }
        let long = "\u{7f}".repeat(MAX_KEY_BYTES);
        for text in [
            format!("{{\"name\":\"{}\"}}", "\u{7f}".repeat(MAX_STRING_BYTES)),
            format!("{{\"{long}\":1}}"),
            format!("{{\"{long}\":1,\"{long}\":1}}"),
        ] {
            let message = parse::<Named>(text.as_bytes()).unwrap_err().to_string();
            assert!(message.len() < 10 * MAX_MESSAGE_CHARS, "{} bytes", message.len());
        }
    }

    #[test]
    fn an_array_of_fields_is_no_object() {
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        let cases: &[(&[u8], Option<&str>)] = &[
            (br#"{"name":"a","more":1}"#, Some("a")),
            (br#"["a"]"#, None),
            (b"{}", None),
            (br#""a""#, None),
            (b"null", None),
        ];
        for (text, want) in cases {
            let got = parse::<Object<Named>>(text).ok().map(|Object(named)| named.name);
            assert_eq!(got.as_deref(), *want, "{}", Escaped(text));
        }
        assert!(parse::<Named>(br#"["a"]"#).is_ok(), "what Object is there for");
    }

    #[test]
    fn messages_do_not_carry_control_characters() {
        let error = parse::<Value>(b"{\"\\u001b[2J\":1,\"\\u001b[2J\":1}")
            .unwrap_err()
            .to_string();
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
}
