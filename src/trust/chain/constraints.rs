//! Name constraints: which names an authority may vouch for (RFC 5280, 4.2.1.10).
//!
//! Judged are the constraints of DNS names, e-mail addresses, URIs, IP addresses and directory names. One of another
//! form forbids every name of that form. A name that might be an excluded one counts as excluded, one that might be a
//! permitted one does not count as permitted: what cannot be told is refused.

#[cfg(test)]
mod tests;

use x509_parser::extensions::GeneralName;
use x509_parser::extensions::GeneralSubtree;
use x509_parser::extensions::NameConstraints as Parsed;
use x509_parser::x509::X509Name;

use crate::trust::chain::name::AlternativeName;
use crate::trust::chain::name::Name;

/// Most comparisons of a name with a constraint for one authority. A certificate of the largest size has room for
/// some thousand of each; without a limit two of them would cost millions of comparisons.
pub(super) const MAX_NAME_COMPARISONS: usize = 250_000;

/// Longest label and longest name of the DNS, in characters (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;
const MAX_DNS: usize = 253;

/// RFC 2985, 5.2.1: an e-mail address as part of a directory name.
const EMAIL_ADDRESS: &str = "1.2.840.113549.1.9.1";

/// What an authority's names constraints say.
#[derive(Clone, Debug)]
pub(super) struct NameConstraints {
    permitted: Vec<Form>,
    excluded: Vec<Form>,
}

/// A name to be judged, with how it is told to people.
#[derive(Clone, Debug)]
pub(super) struct JudgedName {
    form: Form,
    text: String,
}

/// Names, and constraints of them, by their form.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// In lower case.
    Dns(String),
    Email(String),
    Uri(String),
    /// An address; as a constraint with its mask behind it.
    Ip(Vec<u8>),
    Directory(Vec<Vec<Attribute>>),
    /// Some form that is not judged; which one, as its tag.
    Other(u8),
}

/// Part of a directory name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attribute {
    oid: String,
    tag: u32,
    value: Vec<u8>,
    /// Its ASCII text without case and surplus blanks; `None` when it has other characters, which nobody here folds.
    folded: Option<String>,
}

/// Why an authority does not vouch for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Forbidden {
    /// It has this name.
    Name(String),
    /// There are too many names or constraints to compare.
    TooMany,
}

impl NameConstraints {
    /// Takes an extension whose shape is right; `None` when one of its names is not of the characters that a
    /// constraint of its form has.
    pub(super) fn of(parsed: &Parsed<'_>) -> Option<Self> {
        let forms = |subtrees: &Option<Vec<GeneralSubtree<'_>>>| -> Option<Vec<Form>> {
            let subtrees = subtrees.as_deref().unwrap_or_default();
            subtrees.iter().map(|subtree| constraint(&subtree.base)).collect()
        };
        Some(Self {
            permitted: forms(&parsed.permitted_subtrees)?,
            excluded: forms(&parsed.excluded_subtrees)?,
        })
    }

    /// Judges the names of one certificate.
    pub(super) fn check<'a>(
        &self,
        names: impl Iterator<Item = &'a JudgedName>,
        comparisons_left: &mut usize,
    ) -> Result<(), Forbidden> {
        for name in names {
            *comparisons_left = comparisons_left
                .checked_sub(self.permitted.len() + self.excluded.len())
                .ok_or(Forbidden::TooMany)?;
            if self
                .excluded
                .iter()
                .any(|constraint| may_be_within(&name.form, constraint))
            {
                return Err(Forbidden::Name(name.text.clone()));
            }
            let mut same_form = self
                .permitted
                .iter()
                .filter(|c| is_same_form(c, &name.form))
                .peekable();
            if same_form.peek().is_some() && !same_form.any(|c| is_within(&name.form, c)) {
                return Err(Forbidden::Name(name.text.clone()));
            }
        }
        Ok(())
    }
}

impl JudgedName {
    /// A subject, unless it is empty, and the e-mail addresses in it.
    pub(super) fn of_subject(subject: &X509Name<'_>) -> Vec<Self> {
        let whole = directory(subject);
        let text = Name::of(subject).as_str().to_owned();
        let addresses = whole.iter().flatten().filter(|part| part.oid == EMAIL_ADDRESS);
        let mut names: Vec<Self> = addresses
            .map(|part| Self {
                form: Form::Email(String::from_utf8_lossy(&part.value).into_owned()),
                text: text.clone(),
            })
            .collect();
        if !whole.is_empty() {
            names.push(Self {
                form: Form::Directory(whole),
                text,
            });
        }
        names
    }

    /// A subject alternative name.
    pub(super) fn of_alternative(name: &GeneralName<'_>) -> Option<Self> {
        Some(Self {
            form: form(name)?,
            text: AlternativeName::of(name)?.to_string(),
        })
    }
}

fn form(name: &GeneralName<'_>) -> Option<Form> {
    Some(match name {
        GeneralName::DNSName(text) => Form::Dns(text.to_ascii_lowercase()),
        GeneralName::RFC822Name(text) => Form::Email((*text).to_owned()),
        GeneralName::URI(text) => Form::Uri((*text).to_owned()),
        GeneralName::IPAddress(bytes) => Form::Ip(bytes.to_vec()),
        GeneralName::DirectoryName(name) => Form::Directory(directory(name)),
        GeneralName::OtherName(..) => Form::Other(0),
        GeneralName::X400Address(_) => Form::Other(3),
        GeneralName::EDIPartyName(_) => Form::Other(5),
        GeneralName::RegisteredID(_) => Form::Other(8),
        GeneralName::Invalid(..) => return None,
    })
}

/// A name as a constraint; `None` when it is malformed.
fn constraint(name: &GeneralName<'_>) -> Option<Form> {
    let form = form(name)?;
    let well_formed = match &form {
        // Without a leading period, unlike the two below. Nothing at all is every name.
        Form::Dns(text) => text.is_empty() || is_dns(text),
        Form::Email(text) => match text.split_once('@') {
            Some((local, host)) => is_local_part(local) && is_dns(host),
            None => is_dns(text.strip_prefix('.').unwrap_or(text)),
        },
        Form::Uri(text) => is_dns(text.strip_prefix('.').unwrap_or(text)),
        Form::Ip(bytes) => network(bytes).is_some(),
        Form::Directory(_) | Form::Other(_) => true,
    };
    well_formed.then_some(form)
}

fn directory(name: &X509Name<'_>) -> Vec<Vec<Attribute>> {
    let attribute = |part: &x509_parser::x509::AttributeTypeAndValue<'_>| Attribute {
        oid: part.attr_type().to_id_string(),
        tag: part.attr_value().tag().0,
        value: part.attr_value().data.to_vec(),
        folded: part.as_str().ok().filter(|text| text.is_ascii()).map(fold),
    };
    name.iter_rdn()
        .map(|rdn| rdn.iter().map(attribute).collect())
        .collect()
}

/// RFC 5280, 7.1: neither case nor the number of blanks tells two names apart.
fn fold(text: &str) -> String {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    words.join(" ").to_ascii_lowercase()
}

fn is_same_form(a: &Form, b: &Form) -> bool {
    match (a, b) {
        (Form::Other(a), Form::Other(b)) => a == b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

/// Whether a name is certainly one of those that a constraint describes.
fn is_within(name: &Form, constraint: &Form) -> bool {
    match (name, constraint) {
        (Form::Dns(name), Form::Dns(domain)) => {
            // A wildcard is within only what all the names that it stands for are within.
            let host = name.strip_prefix("*.").unwrap_or(name);
            is_dns(host) && is_beneath_or_equal(host, domain)
        }
        (Form::Email(name), Form::Email(constraint)) => {
            mailbox(name).is_some_and(|mailbox| is_mailbox_within(mailbox, constraint))
        }
        (Form::Uri(name), Form::Uri(constraint)) => {
            host_of(name).is_some_and(|host| is_host_within(host, constraint))
        }
        (Form::Ip(address), Form::Ip(constraint)) => {
            network(constraint).is_some_and(|(network, mask)| is_in_network(address, network, mask))
        }
        (Form::Directory(name), Form::Directory(base)) => {
            base.len() <= name.len() && name.iter().zip(base).all(|(a, b)| a == b)
        }
        _ => false,
    }
}

/// Whether a name may be one of those that a constraint describes: for all that is known, or for one of the names that
/// it stands for.
fn may_be_within(name: &Form, constraint: &Form) -> bool {
    match (name, constraint) {
        (Form::Dns(name), Form::Dns(domain)) => match name.strip_prefix("*.") {
            Some(rest) if is_dns(rest) => {
                is_beneath_or_equal(rest, domain) || is_beneath_or_equal(domain, rest)
            }
            None if is_dns(name) => is_beneath_or_equal(name, domain),
            _ => true,
        },
        (Form::Email(name), Form::Email(constraint)) => {
            mailbox(name).is_none_or(|mailbox| is_mailbox_within(mailbox, constraint))
        }
        (Form::Uri(name), Form::Uri(constraint)) => {
            host_of(name).is_none_or(|host| is_host_within(host, constraint))
        }
        (Form::Directory(name), Form::Directory(base)) => {
            base.len() <= name.len() && name.iter().zip(base).all(|(a, b)| may_be_equal(a, b))
        }
        (Form::Other(name), Form::Other(constraint)) => name == constraint,
        _ => is_within(name, constraint),
    }
}

/// Whether two parts of a name may be one to somebody who compares them more loosely than byte by byte.
fn may_be_equal(a: &[Attribute], b: &[Attribute]) -> bool {
    let alike = |a: &Attribute, b: &Attribute| {
        a.oid == b.oid
            && match (&a.folded, &b.folded) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            }
    };
    a.len() == b.len() && a.iter().all(|a| b.iter().any(|b| alike(a, b)))
}

/// Whether a host is a domain or beneath it. Both are in lower case, and every host is beneath no domain at all.
fn is_beneath_or_equal(host: &str, domain: &str) -> bool {
    match host.strip_suffix(domain) {
        Some(rest) => rest.is_empty() || domain.is_empty() || rest.ends_with('.'),
        None => false,
    }
}

/// Whether a host is the one that a constraint names or, where that begins with a period, beneath it.
fn is_host_within(host: &str, constraint: &str) -> bool {
    let (host, constraint) = (host.to_ascii_lowercase(), constraint.to_ascii_lowercase());
    match constraint.starts_with('.') {
        true => host.len() > constraint.len() && host.ends_with(&constraint),
        false => host == constraint,
    }
}

fn is_mailbox_within((local, host): (&str, &str), constraint: &str) -> bool {
    match constraint.split_once('@') {
        // RFC 5280, 7.5: the local part is compared exactly.
        Some((wanted, at)) => local == wanted && host.eq_ignore_ascii_case(at),
        None => is_host_within(host, constraint),
    }
}

/// The two parts of an address. A quoted local part, which may hold an `@`, is none that is judged.
fn mailbox(address: &str) -> Option<(&str, &str)> {
    address
        .split_once('@')
        .filter(|(local, host)| is_local_part(local) && is_dns(&host.to_ascii_lowercase()))
}

fn is_local_part(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'@' | b'"' | b'\\'))
}

/// The host of a URI that has one. An IP address is none (RFC 5280, 4.2.1.10: such a name must not pass).
fn host_of(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host_and_port.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) => return None,
        None => host_and_port,
    };
    let is_scheme = scheme
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        && !scheme.is_empty();
    (is_scheme && is_dns(&host.to_ascii_lowercase())).then_some(host)
}

/// Whether text is the name of a host: labels of letters, digits, hyphens within (RFC 1034, 3.5) and, as many are,
/// underscores; the last is not a number, so that no address is one (RFC 1123, 2.1).
fn is_dns(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let last = text.rsplit('.').next().unwrap_or(text);
    text.len() <= MAX_DNS && text.split('.').all(is_label) && !last.bytes().all(|b| b.is_ascii_digit())
}

/// An address and its mask, whose ones all stand before its zeros (RFC 4632).
fn network(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (address, mask) = match bytes.len() {
        8 | 32 => bytes.split_at(bytes.len() / 2),
        _ => return None,
    };
    let mut rest = mask.iter().skip_while(|&&byte| byte == 0xff);
    let border = rest.next().copied().unwrap_or(0);
    let contiguous = border.leading_ones() + border.trailing_zeros() == 8 && rest.all(|&byte| byte == 0);
    contiguous.then_some((address, mask))
}

fn is_in_network(address: &[u8], network: &[u8], mask: &[u8]) -> bool {
    address.len() == network.len()
        && address
            .iter()
            .zip(network)
            .zip(mask)
            .all(|((a, n), m)| a & m == n & m)
}
