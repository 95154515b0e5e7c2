//! PEM (RFC 7468): the armour around keys and certificates in the operator's files.
//!
//! Text between blocks is skipped, because tools write explanations there; a block itself is read
//! strictly, and a block that doesn't end is refused rather than skipped. So is armour that does not stand
//! where it counts: what a person sees as a second key must not be text between blocks to us.

use std::fmt;

use crate::path::Escaped;
use crate::trust::base64;
use crate::trust::base64::Base64Error;

/// Largest PEM file in bytes. The public web roots in one file are about 220 KiB; anything larger is not
/// a key and not a chain.
pub const MAX_PEM_BYTES: usize = 1 << 20;

/// One block: its label and what it holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) label: String,
    pub(super) der: Vec<u8>,
}

/// Reads every block of a file, in order.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Block>, PemError> {
    if text.len() > MAX_PEM_BYTES {
        return Err(PemError::TooLarge { bytes: text.len() });
    }
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for (line, number) in text.split(|&b| b == b'\n').zip(1..) {
        let line = line.trim_ascii_end();
        open = match open {
            None => match armour(line, BEGIN) {
                None if holds(line, BEGIN) || holds(line, END) => {
                    return Err(PemError::StrayArmour { line: number });
                }
                label => label.map(|label| (label, String::new())),
            },
            Some((label, mut body)) => match armour(line, END) {
                Some(end) if end == label => {
                    let der = base64::decode(&body).map_err(|cause| PemError::Body {
                        label: label.clone(),
                        cause,
                    })?;
                    blocks.push(Block { label, der });
                    None
                }
                Some(_) => return Err(PemError::Unfinished { label }),
                None => {
                    body.push_str(&String::from_utf8_lossy(line));
                    Some((label, body))
                }
            },
        };
    }
    match open {
        Some((label, _)) => Err(PemError::Unfinished { label }),
        None => Ok(blocks),
    }
}

/// Writes one block in lines of 64 columns, as every common tool does.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    let body = base64::encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for (column, c) in body.chars().enumerate() {
        if column > 0 && column % COLUMNS == 0 {
            text.push('\n');
        }
        text.push(c);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

fn armour(line: &[u8], edge: &[u8]) -> Option<String> {
    let label = line.strip_prefix(edge)?.strip_suffix(b"-----")?;
    Some(String::from_utf8_lossy(label).into_owned())
}

/// Whether armour stands anywhere in a line: behind a byte order mark, blanks or words, or before a lone
/// carriage return.
fn holds(line: &[u8], edge: &[u8]) -> bool {
    line.windows(edge.len()).any(|bytes| bytes == edge)
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";

/// RFC 7468, section 2: all lines but the last have 64 characters. The fingerprint of a key depends on it.
const COLUMNS: usize = 64;

/// Why a file is not PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PemError {
    /// The file is larger than [`MAX_PEM_BYTES`].
    TooLarge {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A block begins and does not end.
    Unfinished {
        /// What its first line calls it.
        label: String,
    },
    /// Armour stands in a line between blocks, and not as the line.
    StrayArmour {
        /// The line, from 1.
        line: usize,
    },
    /// What stands in a block is not base64.
    Body {
        /// What its first line calls it.
        label: String,
        /// What is wrong with it.
        cause: Base64Error,
    },
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes } => {
                write!(f, "the PEM file has {bytes} bytes, more than {MAX_PEM_BYTES}")
            }
            Self::Unfinished { label } => {
                write!(f, "the PEM block {} has no end line", Escaped(label.as_bytes()))
            }
            Self::StrayArmour { line } => write!(
                f,
                "line {line} of the PEM file has the begin or end of a block, but not alone in its line or not in its place"
            ),
            Self::Body { label, .. } => {
                write!(f, "the PEM block {} is not base64", Escaped(label.as_bytes()))
            }
        }
    }
}

impl std::error::Error for PemError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Body { cause, .. } => Some(cause),
            Self::TooLarge { .. } | Self::Unfinished { .. } | Self::StrayArmour { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_as_they_were_written() {
        for length in [0, 1, 47, 48, 49, 96, 300] {
            let der: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let text = encode("THING", &der);
            assert!(text.lines().all(|line| line.len() <= COLUMNS), "{text}");
            let noisy = format!("subject=x\r\n{}trailing words\n", text.replace('\n', "\r\n"));
            for text in [text, noisy] {
                let blocks = parse(text.as_bytes()).unwrap();
                assert_eq!(
                    blocks,
                    [Block {
                        label: "THING".into(),
                        der: der.clone()
                    }]
                );
            }
        }
    }

    #[test]
    fn a_broken_block_is_refused_and_not_skipped() {
        let unfinished = |label: &str| Err(PemError::Unfinished { label: label.into() });
        let stray = |line| Err(PemError::StrayArmour { line });
        let body = |cause| {
            Err(PemError::Body {
                label: "A".into(),
                cause,
            })
        };
        let cases: &[(&str, Result<Vec<Block>, PemError>)] = &[
            ("", Ok(vec![])),
            ("AAAA\n", Ok(vec![])),
            ("-----BEGIN A-----\nAAAA\n", unfinished("A")),
            ("-----BEGIN A-----\nAAAA\n-----END B-----\n", unfinished("A")),
            (
                "-----BEGIN A-----\nAA AA\n-----END A-----\n",
                body(Base64Error::Length { characters: 5 }),
            ),
            (
                "-----BEGIN A-----\nProc-Type: 4\n-----END A-----\n",
                body(Base64Error::Symbol { at: 9 }),
            ),
            (" -----BEGIN A-----\nAAAA\n-----END A-----\n", stray(1)),
            ("\u{feff}-----BEGIN A-----\nAAAA\n-----END A-----\n", stray(1)),
            ("x\nkey: -----BEGIN A-----\n", stray(2)),
            (
                "-----BEGIN A-----\rAAAA\r-----END A-----\r",
                unfinished("A-----\rAAAA\r-----END A"),
            ),
            ("-----BEGIN A----\nAAAA\n", stray(1)),
            (
                "-----BEGIN A-----\nAAAA\n-----END A-----\n-----END A-----\n",
                stray(4),
            ),
            ("-----BEGIN\n-----END\n----- BEGIN A -----\n", Ok(vec![])),
        ];
        for (text, want) in cases {
            assert_eq!(&parse(text.as_bytes()), want, "{text:?}");
        }
        let large = vec![b'\n'; MAX_PEM_BYTES + 1];
        assert_eq!(parse(&large[1..]), Ok(vec![]));
        assert_eq!(
            parse(&large),
            Err(PemError::TooLarge {
                bytes: MAX_PEM_BYTES + 1
            })
        );
    }
}
