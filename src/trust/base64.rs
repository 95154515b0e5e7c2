//! Base64 (RFC 4648) with one spelling for each value.
//!
//! Protobuf's JSON allows the standard and the URL-safe alphabet, so both are read, but not mixed. White
//! space, other characters, absent or surplus padding and non-zero spare bits are refused: lenient readers
//! disagree about them, so two programs could see two payloads.

use std::fmt;

use data_encoding::BASE64;
use data_encoding::BASE64_NOPAD;
use data_encoding::BASE64URL_NOPAD;
use data_encoding::DecodeKind;
use data_encoding::Encoding;

/// Decodes a whole text.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, Base64Error> {
    let mut bytes = vec![0; decoded_bytes(text)?];
    decode_into(text, &mut bytes)?;
    Ok(bytes)
}

/// How many bytes a text decodes to, if it decodes.
pub(super) fn decoded_bytes(text: &str) -> Result<usize, Base64Error> {
    Ok(digits(text)?.len() / 4 * 3 + (digits(text)?.len() % 4).saturating_sub(1))
}

/// Decodes into a buffer of exactly [`decoded_bytes`] bytes, so that a large payload is written once, to
/// the place where it is needed.
pub(super) fn decode_into(text: &str, bytes: &mut [u8]) -> Result<(), Base64Error> {
    let digits = digits(text)?.as_bytes();
    if bytes.len() != decoded_bytes(text)? {
        return Err(Base64Error::Length {
            characters: text.len(),
        });
    }
    match decode_digits(&BASE64_NOPAD, digits, bytes) {
        // Of the other alphabet, if of any. Most are of the standard one: looking first would read each twice.
        Err(Base64Error::Symbol { at }) if matches!(digits.get(at), Some(b'-' | b'_')) => {
            decode_digits(&BASE64URL_NOPAD, digits, bytes)
        }
        result => result,
    }
}

fn decode_digits(alphabet: &Encoding, digits: &[u8], bytes: &mut [u8]) -> Result<(), Base64Error> {
    match alphabet.decode_mut(digits, bytes) {
        Ok(_) => Ok(()),
        Err(partial) => Err(match partial.error.kind {
            DecodeKind::Symbol => Base64Error::Symbol {
                at: partial.error.position,
            },
            DecodeKind::Trailing => Base64Error::SpareBits,
            DecodeKind::Length | DecodeKind::Padding => Base64Error::Length {
                characters: digits.len(),
            },
        }),
    }
}

/// Encodes in the standard alphabet with padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// The text without its padding.
fn digits(text: &str) -> Result<&str, Base64Error> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    if text.len().is_multiple_of(4) && padding <= 2 {
        Ok(digits)
    } else {
        Err(Base64Error::Length {
            characters: text.len(),
        })
    }
}

/// Why text is not base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base64Error {
    /// A character is not in the alphabet, or only in the other one.
    Symbol {
        /// Its offset in the text, from 0.
        at: usize,
    },
    /// Their number, with the padding, is not a multiple of four.
    Length {
        /// How many characters there are.
        characters: usize,
    },
    /// The last character carries bits that belong to no byte, and they are not zero.
    SpareBits,
}

impl fmt::Display for Base64Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symbol { at } => write!(f, "the character at {at} is not base64"),
            Self::Length { characters } => {
                write!(
                    f,
                    "{characters} characters, padding included, are not whole base64 groups"
                )
            }
            Self::SpareBits => write!(f, "the last base64 character has spare bits that are not zero"),
        }
    }
}

impl std::error::Error for Base64Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_one_spelling_per_alphabet() {
        let length = |characters| Err(Base64Error::Length { characters });
        let symbol = |at| Err(Base64Error::Symbol { at });
        let cases: &[(&str, Result<&[u8], Base64Error>)] = &[
            ("", Ok(b"")),
            ("AA==", Ok(b"\0")),
            ("AAA=", Ok(b"\0\0")),
            ("AAAA", Ok(b"\0\0\0")),
            ("+/+/", Ok(b"\xfb\xff\xbf")),
            ("-_-_", Ok(b"\xfb\xff\xbf")),
            ("+_+_", symbol(0)),
            ("AA", length(2)),
            ("AAA", length(3)),
            ("AAAAA===", length(8)),
            ("AAAA====", length(8)),
            ("====", length(4)),
            ("AA==AA==", symbol(2)),
            ("AA=A", symbol(2)),
            ("AAA\n", symbol(3)),
            ("AA AAAAA", symbol(2)),
            ("AB==", Err(Base64Error::SpareBits)),
            ("AAB=", Err(Base64Error::SpareBits)),
            ("\u{e4}A=", length(4)),
        ];
        for (text, want) in cases {
            let got = decode(text);
            if *text == "\u{e4}A=" {
                assert!(got.is_err());
            } else {
                assert_eq!(got.as_deref(), want.as_deref(), "{text:?}");
            }
        }
        for length in 0..70_u8 {
            let bytes: Vec<u8> = (0..length).map(|i| i.wrapping_mul(37)).collect();
            assert_eq!(decode(&encode(&bytes)).unwrap(), bytes);
        }
    }
}
