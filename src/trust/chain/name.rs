//! Names in certificates, written so that equal texts mean equal names.

use std::fmt;
use std::net::IpAddr;

use data_encoding::HEXLOWER;
use x509_parser::asn1_rs::Any;
use x509_parser::asn1_rs::ToDer;
use x509_parser::extensions::GeneralName;
use x509_parser::x509::AttributeTypeAndValue;
use x509_parser::x509::X509Name;

use crate::path::Escaped;

/// A distinguished name.
///
/// Two are equal when their DER is: what issued what is never decided by a looser comparison (RFC 5280,
/// 7.1, allows one; authorities copy the bytes).
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Name {
    der: Vec<u8>,
    text: String,
}

impl Name {
    pub(super) fn of(name: &X509Name<'_>) -> Self {
        Self {
            der: name.as_raw().to_vec(),
            text: rfc4514(name),
        }
    }

    /// The name as RFC 4514 writes it: most specific part first, special characters escaped. What could
    /// confuse a terminal is escaped too, so this is safe to print, and to copy into a policy.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_empty() {
            true => f.write_str("(no name)"),
            false => f.write_str(&self.text),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

/// A subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::trust) enum AlternativeName {
    Email(String),
    Uri(String),
    Dns(String),
    /// Nothing to pin: an address, a directory name, a registered or private kind, ready to print.
    Other(String),
}

impl AlternativeName {
    /// `None` when the name is not of the characters that its kind has.
    pub(super) fn of(name: &GeneralName<'_>) -> Option<Self> {
        // RFC 5280, 4.2.1.6: these three are IA5String; the parser lets other characters through. Control
        // characters stand in none of them, and would not be safe to print.
        let printable = |text: &str| text.bytes().all(|b| matches!(b, b' '..=b'~'));
        let ascii = |text: &str| (printable(text) && !text.is_empty()).then(|| text.to_owned());
        Some(match name {
            GeneralName::RFC822Name(text) => Self::Email(ascii(text)?),
            GeneralName::URI(text) => Self::Uri(ascii(text)?),
            GeneralName::DNSName(text) => Self::Dns(ascii(text)?),
            GeneralName::IPAddress(bytes) => Self::Other(format!("ip:{}", ip_address(bytes)?)),
            GeneralName::DirectoryName(name) => Self::Other(format!("dir:{}", rfc4514(name))),
            GeneralName::RegisteredID(oid) => Self::Other(format!("oid:{oid}")),
            GeneralName::OtherName(oid, _) => Self::Other(format!("other:{oid}")),
            GeneralName::X400Address(_) => Self::Other("x400".into()),
            GeneralName::EDIPartyName(_) => Self::Other("edi".into()),
            GeneralName::Invalid(..) => return None,
        })
    }
}

impl fmt::Display for AlternativeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Email(text) => write!(f, "email:{text}"),
            Self::Uri(text) => write!(f, "uri:{text}"),
            Self::Dns(text) => write!(f, "dns:{text}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn rfc4514(name: &X509Name<'_>) -> String {
    let parts: Vec<String> = name
        .iter_rdn()
        .map(|rdn| rdn.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    // RFC 4514, 2.1: from the last part of the sequence to the first.
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT_NAMES
        .iter()
        .find_map(|(known, short)| (*known == oid).then_some(*short));
    match (short, attribute.as_str()) {
        (Some(short), Ok(text)) => format!("{short}={}", escape(text)),
        (short, _) => format!("{}=#{}", short.unwrap_or(&oid), hex(attribute.attr_value())),
    }
}

/// RFC 4514, section 3: the types that have a name; others are written as numbers with their DER.
const SHORT_NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// RFC 4514, section 2.4.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (at, c) in text.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.extend(['\\', c]),
            '#' if at == 0 => out.push_str("\\#"),
            ' ' if at == 0 || at == last => out.push_str("\\ "),
            _ if is_plain(c) => out.push(c),
            _ => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    out.push_str(&format!("\\{byte:02x}"));
                }
            }
        }
    }
    out
}

/// Whether a character is shown as itself.
fn is_plain(c: char) -> bool {
    let mut buffer = [0; 4];
    let text: &str = c.encode_utf8(&mut buffer);
    Escaped(text.as_bytes()).to_string() == text
}

fn hex(value: &Any<'_>) -> String {
    HEXLOWER.encode(&value.to_der_vec_raw().unwrap_or_else(|_| value.data.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_hold_the_separators_cannot_pose_as_more_attributes() {
        for (text, want) in [
            ("plain", "plain"),
            ("a,O=b", "a\\,O=b"),
            ("a+b", "a\\+b"),
            (" a ", "\\ a\\ "),
            (" ", "\\ "),
            ("#a#", "\\#a#"),
            ("a\\,b", "a\\\\\\,b"),
            ("a\0b\n", "a\\00b\\0a"),
            ("\u{202e}\u{e4}", "\\e2\\80\\ae\u{e4}"),
            ("\"<>;", "\\\"\\<\\>\\;"),
            ("", ""),
        ] {
            assert_eq!(escape(text), want);
        }
    }
}
