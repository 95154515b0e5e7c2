//! Certificates as DER and nothing else: one spelling for each value, and no place for bytes that nobody reads.
//!
//! The parser that reads certificates takes much of BER, and skips what follows the parts that it knows. Two
//! validators could then disagree about one chain, so [`Strict::parse`] comes first. It decides nothing about what
//! a certificate says. Left alone are values that are defaults and written out, and the order of sets: authorities
//! write both, and every parser reads them alike.

/// A certificate whose every element is spelt as DER spells it, with the fields of RFC 5280, 4.1, and no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strict<'a> {
    inner_algorithm: &'a [u8],
    outer_algorithm: &'a [u8],
}

impl<'a> Strict<'a> {
    /// Looks at a whole certificate; `None` when it is not DER.
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        if !is_spelt_strictly(der) {
            return None;
        }
        let [tbs, outer_algorithm, _] = fields(
            only(der, SEQUENCE)?,
            &[one(SEQUENCE), one(SEQUENCE), one(BIT_STRING)],
        )?;
        let [
            version,
            _,
            inner_algorithm,
            issuer,
            validity,
            subject,
            key,
            _,
            _,
            extensions,
        ] = fields(
            tbs?,
            &[
                maybe(context(0)),
                one(INTEGER),
                one(SEQUENCE),
                one(SEQUENCE),
                one(SEQUENCE),
                one(SEQUENCE),
                one(SEQUENCE),
                maybe(UNIQUE_ID_OF_ISSUER),
                maybe(UNIQUE_ID_OF_SUBJECT),
                maybe(context(3)),
            ],
        )?;
        let (inner_algorithm, outer_algorithm) = (inner_algorithm?, outer_algorithm?);
        let [algorithm_of_key, _] = fields(key?, &[one(SEQUENCE), one(BIT_STRING)])?;
        for algorithm in [inner_algorithm, outer_algorithm, algorithm_of_key?] {
            fields(algorithm, &[one(OBJECT_IDENTIFIER), maybe(ANY)])?;
        }
        for time in fields(validity?, &[one(ANY), one(ANY)])? {
            is_time(time?).then_some(())?;
        }
        for name in [issuer?, subject?] {
            is_name(name).then_some(())?;
        }
        if let Some(version) = version {
            only(version.content, INTEGER)?;
        }
        if let Some(extensions) = extensions {
            for extension in Elements(only(extensions.content, SEQUENCE)?.content) {
                let extension = extension.filter(|extension| extension.tag == SEQUENCE);
                fields(
                    extension?,
                    &[one(OBJECT_IDENTIFIER), maybe(BOOLEAN), one(OCTET_STRING)],
                )?;
            }
        }
        Some(Self {
            inner_algorithm: inner_algorithm.whole,
            outer_algorithm: outer_algorithm.whole,
        })
    }

    /// Whether what is signed and what is not name the same algorithm, byte for byte (RFC 5280, 4.1.1.2).
    pub(super) fn has_one_algorithm(&self) -> bool {
        self.inner_algorithm == self.outer_algorithm
    }
}

/// Whether an extension's value is one element, spelt strictly.
pub(super) fn is_value(der: &[u8]) -> bool {
    only(der, ANY).is_some() && is_spelt_strictly(der)
}

/// Whether a value is basic constraints and nothing besides (RFC 5280, 4.2.1.9).
pub(super) fn is_basic_constraints(der: &[u8]) -> bool {
    only(der, SEQUENCE).is_some_and(|value| fields(value, &[maybe(BOOLEAN), maybe(INTEGER)]).is_some())
}

/// Whether a value is the identifier of an authority's key and nothing besides (RFC 5280, 4.2.1.1).
pub(super) fn is_authority_key_id(der: &[u8]) -> bool {
    let pattern = [maybe(0x80), maybe(context(1)), maybe(0x82)];
    only(der, SEQUENCE).is_some_and(|value| fields(value, &pattern).is_some())
}

/// Whether a value is a list of identifiers, as extended key usage is (RFC 5280, 4.2.1.12).
pub(super) fn is_identifiers(der: &[u8]) -> bool {
    only(der, SEQUENCE).is_some_and(|value| {
        Elements(value.content).all(|element| element.is_some_and(|element| element.tag == OBJECT_IDENTIFIER))
    })
}

/// Whether a value is a list of alternative names (RFC 5280, 4.2.1.6).
pub(super) fn is_alternative_names(der: &[u8]) -> bool {
    only(der, SEQUENCE)
        .is_some_and(|value| Elements(value.content).all(|element| element.is_some_and(is_general_name)))
}

/// Whether a value is name constraints of at least one subtree, each of which is a name and nothing besides: the
/// distances that X.509 allows beside it must not be there (RFC 5280, 4.2.1.10).
pub(super) fn is_name_constraints(der: &[u8]) -> bool {
    let is_subtree = |element: Option<Element<'_>>| {
        element
            .filter(|element| element.tag == SEQUENCE)
            .and_then(|element| fields(element, &[one(ANY)]))
            .is_some_and(|[base]| base.is_some_and(is_general_name))
    };
    let is_list = |list: Element<'_>| !list.content.is_empty() && Elements(list.content).all(is_subtree);
    only(der, SEQUENCE)
        .and_then(|value| fields(value, &[maybe(context(0)), maybe(context(1))]))
        .is_some_and(|lists| {
            let mut lists = lists.into_iter().flatten().peekable();
            lists.peek().is_some() && lists.all(is_list)
        })
}

/// Whether a value is a list of named bits: zero bits at its end are left out (X.690, 11.2.2).
pub(super) fn is_named_bits(der: &[u8]) -> bool {
    only(der, BIT_STRING).is_some_and(|value| match value.content {
        [0] => true,
        [unused, .., last] => u32::from(*unused) == last.trailing_zeros(),
        _ => false,
    })
}

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
const OBJECT_IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UNIQUE_ID_OF_ISSUER: u8 = 0x81;
const UNIQUE_ID_OF_SUBJECT: u8 = 0x82;
const DIRECTORY_NAME: u8 = context(4);
/// Stands for every tag in a pattern; no element has it.
const ANY: u8 = 0;

/// Bit of an identifier that says that the content is elements.
const CONSTRUCTED: u8 = 0x20;
/// Bits of an identifier that are zero in the universal class.
const CLASS: u8 = 0xc0;
/// Number of a tag that is written in further bytes; nothing in a certificate needs one.
const LONG_TAG: u8 = 0x1f;

const fn context(number: u8) -> u8 {
    0x80 | CONSTRUCTED | number
}

/// One element.
#[derive(Clone, Copy, Debug)]
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// With its identifier and its length.
    whole: &'a [u8],
}

/// Elements one behind the other; the last item is `None` when what is left is no element.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Option<Element<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let split = split(self.0);
        self.0 = split.map_or(&[], |(_, rest)| rest);
        Some(split.map(|(element, _)| element))
    }
}

/// Takes the first element, whose length must be definite and in its shortest form.
fn split(input: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, after) = input.split_first()?;
    let (&first, after) = after.split_first()?;
    let (length, after) = match (first, after) {
        (0..=0x7f, _) => (usize::from(first), after),
        (0x81, [low @ 0x80..=0xff, after @ ..]) => (usize::from(*low), after),
        (0x82, [high @ 1..=0xff, low, after @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), after),
        // A length of three bytes would be that of a certificate beyond the limit.
        _ => return None,
    };
    let (content, rest) = after.split_at_checked(length)?;
    let (whole, _) = input.split_at_checked(input.len() - rest.len())?;
    let known = tag != ANY && tag & LONG_TAG != LONG_TAG;
    known.then_some((Element { tag, content, whole }, rest))
}

/// The one element of this tag that these bytes are.
fn only(der: &[u8], tag: u8) -> Option<Element<'_>> {
    let (element, rest) = split(der)?;
    (rest.is_empty() && (element.tag == tag || tag == ANY)).then_some(element)
}

/// A field of a sequence: its tag, and whether it may be absent.
type Field = (u8, bool);

const fn one(tag: u8) -> Field {
    (tag, false)
}

const fn maybe(tag: u8) -> Field {
    (tag, true)
}

/// The fields of a sequence in their order; `None` when one lacks or anything else is there.
fn fields<'a, const N: usize>(
    sequence: Element<'a>,
    pattern: &[Field; N],
) -> Option<[Option<Element<'a>>; N]> {
    let mut found = [None; N];
    let mut elements = Elements(sequence.content).peekable();
    for (slot, (tag, optional)) in found.iter_mut().zip(pattern) {
        match elements.peek() {
            Some(&Some(element)) if element.tag == *tag || *tag == ANY => {
                *slot = Some(element);
                elements.next();
            }
            _ if *optional => {}
            _ => return None,
        }
    }
    elements.next().is_none().then_some(found)
}

/// Whether every element, at whatever depth, is spelt as DER spells it. No recursion: the depth is the stranger's.
fn is_spelt_strictly(der: &[u8]) -> bool {
    let mut open = vec![Elements(der)];
    while let Some(elements) = open.last_mut() {
        match elements.next() {
            None => drop(open.pop()),
            Some(None) => return false,
            Some(Some(element)) if element.tag & CLASS == 0 && !is_universal(element) => return false,
            Some(Some(element)) if element.tag & CONSTRUCTED != 0 => open.push(Elements(element.content)),
            Some(Some(_)) => {}
        }
    }
    true
}

/// Whether an element of the universal class is constructed when it must be, and its value spelt in the one way.
fn is_universal(element: Element<'_>) -> bool {
    match (element.tag, element.content) {
        (SEQUENCE | SET, _) => true,
        // Strings in pieces are BER.
        (tag, _) if tag & CONSTRUCTED != 0 => false,
        (tag, _) if tag | CONSTRUCTED == SEQUENCE || tag | CONSTRUCTED == SET => false,
        (BOOLEAN, content) => matches!(content, [0 | 0xff]),
        (INTEGER | ENUMERATED, content) => {
            !matches!(content, [] | [0, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..])
        }
        (BIT_STRING, content) => match content {
            [0] => true,
            [unused @ 0..=7, .., last] => last.trailing_zeros() >= u32::from(*unused),
            _ => false,
        },
        (NULL, content) => content.is_empty(),
        (OBJECT_IDENTIFIER, content) => is_object_identifier(content),
        _ => true,
    }
}

/// Whether each number ends, and begins without padding (X.690, 8.19.2).
fn is_object_identifier(content: &[u8]) -> bool {
    let mut begins = true;
    for &byte in content {
        if begins && byte == 0x80 {
            return false;
        }
        begins = byte < 0x80;
    }
    begins && !content.is_empty()
}

/// Whether a name is parts of attributes, each a type and one value, with nothing between or behind them
/// (RFC 5280, 4.1.2.4). A parser that stops at what it cannot read shows the beginning for the whole.
fn is_name(name: Element<'_>) -> bool {
    let is_attribute = |attribute: Element<'_>| match fields(attribute, &[one(OBJECT_IDENTIFIER), one(ANY)]) {
        Some([_, Some(value)]) => attribute.tag == SEQUENCE && value.tag & CLASS == 0,
        _ => false,
    };
    Elements(name.content).all(|part| {
        part.is_some_and(|part| {
            part.tag == SET
                && !part.content.is_empty()
                && Elements(part.content).all(|attribute| attribute.is_some_and(is_attribute))
        })
    })
}

/// Whether an element is a general name (RFC 5280, 4.2.1.6): of its context tag and, where it holds a directory name, of
/// nothing but a whole one. As a constraint, a beginning that was shown for the whole would permit more.
fn is_general_name(name: Element<'_>) -> bool {
    match name.tag {
        DIRECTORY_NAME => only(name.content, SEQUENCE).is_some_and(is_name),
        tag => tag & CLASS == 0x80 && tag | CONSTRUCTED != DIRECTORY_NAME,
    }
}

/// Whether a time is in UTC, to the second (RFC 5280, 4.1.2.5).
fn is_time(time: Element<'_>) -> bool {
    let digits = match time.tag {
        UTC_TIME => 12,
        GENERALIZED_TIME => 14,
        _ => return false,
    };
    match time.content {
        [number @ .., b'Z'] => number.len() == digits && number.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_name_among_alternative_names_is_whole() {
        let cases: [(&[u8], bool); 8] = [
            (b"\x30\x03\x82\x01a", true),
            (b"\x30\x04\xa4\x02\x30\x00", true),
            (
                b"\x30\x10\xa4\x0e\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01a",
                true,
            ),
            // An attribute without a value, one with two, something behind the name, and no elements at all.
            (
                b"\x30\x10\xa4\x0e\x30\x0c\x31\x0a\x30\x08\x06\x06\x55\x04\x03\x0c\x01a",
                false,
            ),
            (
                b"\x30\x12\xa4\x10\x30\x0e\x31\x0c\x30\x0a\x06\x03\x55\x04\x03\x0c\x01a\x05\x00",
                false,
            ),
            (b"\x30\x06\xa4\x04\x30\x00\x05\x00", false),
            (b"\x30\x04\x84\x02\x30\x00", false),
            (b"\x30\x03\x0c\x01a", false),
        ];
        for (value, want) in cases {
            assert!(is_value(value), "{value:02x?}");
            assert_eq!(is_alternative_names(value), want, "{value:02x?}");
        }
    }

    #[test]
    fn each_value_has_one_spelling() {
        let cases: &[(&[u8], bool)] = &[
            (b"\x30\x00", true),
            (b"\x30\x03\x01\x01\xff", true),
            (b"\x01\x01\x00", true),
            (b"\x01\x01\x01", false),
            (b"\x01\x02\x00\x00", false),
            (b"\x02\x01\x00", true),
            (b"\x02\x02\x00\x80", true),
            (b"\x02\x02\xff\x7f", true),
            (b"\x02\x00", false),
            (b"\x02\x02\x00\x7f", false),
            (b"\x02\x02\xff\x80", false),
            (b"\x0a\x02\x00\x01", false),
            (b"\x03\x01\x00", true),
            (b"\x03\x02\x07\x80", true),
            (b"\x03\x02\x00\x00", true),
            (b"\x03\x00", false),
            (b"\x03\x01\x01", false),
            (b"\x03\x02\x07\xc0", false),
            (b"\x03\x02\x08\x00", false),
            (b"\x23\x04\x03\x02\x00\x01", false),
            (b"\x05\x00", true),
            (b"\x05\x01\x00", false),
            (b"\x06\x02\x88\x37", true),
            (b"\x06\x00", false),
            (b"\x06\x01\x80", false),
            (b"\x06\x02\x80\x01", false),
            (b"\x06\x02\x2a\x88", false),
            (b"\x10\x00", false),
            (b"\x11\x00", false),
            (b"\x24\x02\x04\x00", false),
            (b"\x00\x00", false),
            (b"\x1f\x01\x00", false),
            (b"\x9f\x01\x00", false),
            (b"\x80\x01\x00", true),
            (b"\xa0\x03\x01\x01\x01", false),
            (b"\x30\x80\x00\x00", false),
            (b"\x30\x81\x00", false),
            (b"\x30\x82\x00\x80", false),
            (b"\x30\x83\x00\x00\x00", false),
            (b"\x30\x02\x05", false),
            (b"\x30", false),
            (b"\x30\x01\x05", false),
        ];
        for (der, want) in cases {
            assert_eq!(is_value(der), *want, "{der:02x?}");
        }
        assert!(!is_value(b"") && !is_value(b"\x05\x00\x05\x00"));
        for (length, header) in [
            (127, b"\x04\x7f".as_slice()),
            (128, b"\x04\x81\x80"),
            (255, b"\x04\x81\xff"),
            (256, b"\x04\x82\x01\x00"),
            (65535, b"\x04\x82\xff\xff"),
        ] {
            assert!(is_value(&[header, &vec![0; length]].concat()), "{length}");
            assert!(!is_value(&[header, &vec![0; length - 1]].concat()), "{length}");
        }
    }

    #[test]
    fn bottomless_nesting_costs_no_stack() {
        // From the inside out, as deep as a certificate has room for.
        let mut der = Vec::new();
        while der.len() < 60_000 {
            let header = match der.len() {
                short @ 0..=127 => vec![u8::try_from(short).unwrap(), 0x30],
                short @ 128..=255 => vec![u8::try_from(short).unwrap(), 0x81, 0x30],
                long => {
                    let [high, low] = u16::try_from(long).unwrap().to_be_bytes();
                    vec![low, high, 0x82, 0x30]
                }
            };
            // Built backwards, so that a layer is an append.
            der.extend(header);
        }
        der.reverse();
        assert!(is_value(&der));
        assert!(Strict::parse(&der).is_none());
    }

    #[test]
    fn named_bits_end_with_one_that_is_set() {
        for (der, want) in [
            (b"\x03\x01\x00".as_slice(), true),
            (b"\x03\x02\x07\x80", true),
            (b"\x03\x02\x01\x06", true),
            (b"\x03\x03\x07\x00\x80", true),
            (b"\x03\x02\x00\x06", false),
            (b"\x03\x03\x00\x06\x00", false),
            (b"\x03\x02\x00\x00", false),
            (b"\x03\x00", false),
            (b"\x04\x02\x07\x80", false),
        ] {
            assert_eq!(is_named_bits(der), want, "{der:02x?}");
        }
    }

    #[test]
    fn times_are_in_utc_to_the_second() {
        for (tag, content, want) in [
            (UTC_TIME, "260101120000Z", true),
            (GENERALIZED_TIME, "20260101120000Z", true),
            (UTC_TIME, "2601011200Z", false),
            (UTC_TIME, "260101120000+0000", false),
            (UTC_TIME, "260101120000", false),
            (GENERALIZED_TIME, "20260101120000.5Z", false),
            (GENERALIZED_TIME, "260101120000Z", false),
            (OCTET_STRING, "260101120000Z", false),
        ] {
            let content = content.as_bytes();
            let time = Element {
                tag,
                content,
                whole: content,
            };
            assert_eq!(is_time(time), want, "{tag} {content:?}");
        }
    }
}
