//! Names within constraints, outside, and neither.

use super::*;
use crate::trust::ChainError;
use crate::trust::chain::Flaw;
use crate::trust::testing::Holder;
use crate::trust::testing::NOW;
use crate::trust::testing::authority;
use crate::trust::testing::intermediate;
use crate::trust::testing::signer;
use rcgen::CertificateParams;
use rcgen::CustomExtension;
use rcgen::DistinguishedName;
use rcgen::GeneralSubtree as Subtree;
use rcgen::SanType;

fn dns(text: &str) -> Form {
    Form::Dns(text.to_ascii_lowercase())
}

fn email(text: &str) -> Form {
    Form::Email(text.into())
}

fn uri(text: &str) -> Form {
    Form::Uri(text.into())
}

fn ip(bytes: &[u8]) -> Form {
    Form::Ip(bytes.to_vec())
}

fn directory_of(parts: &[(&str, u32, &str)]) -> Form {
    let attribute = |&(oid, tag, value): &(&str, u32, &str)| Attribute {
        oid: oid.into(),
        tag,
        value: value.into(),
        folded: Some(value).filter(|text| text.is_ascii()).map(fold),
    };
    Form::Directory(parts.iter().map(|part| vec![attribute(part)]).collect())
}

#[test]
fn a_name_is_within_only_when_it_certainly_is_and_excluded_when_it_may_be() {
    let (net, host) = ([192, 0, 2, 0, 255, 255, 255, 0], [192, 0, 2, 77]);
    let country = directory_of(&[("2.5.4.6", 19, "DE")]);
    // Name, constraint, permitted by it, excluded by it.
    let cases = [
        (dns("example.com"), dns("example.com"), true, true),
        (dns("A.Example.com"), dns("example.COM"), true, true),
        (dns("badexample.com"), dns("example.com"), false, false),
        (dns("com"), dns("example.com"), false, false),
        (dns("anything"), dns(""), true, true),
        (dns("*.example.com"), dns("example.com"), true, true),
        (dns("*.example.com"), dns("foo.example.com"), false, true),
        (dns("*.example.com"), dns("foo.example.org"), false, false),
        (dns("a..example.com"), dns("example.com"), false, true),
        (dns("*"), dns("example.com"), false, true),
        (dns("a-.example.com"), dns("example.com"), false, true),
        (dns("-a.example.com"), dns("other.org"), false, true),
        (dns("192.0.2.1"), dns(""), false, true),
        (dns("a.*.example.com"), dns("other.org"), false, true),
        (email("a@example.com"), email("example.com"), true, true),
        (email("a@EXAMPLE.com"), email("a@example.com"), true, true),
        (email("A@example.com"), email("a@example.com"), false, false),
        (email("a@sub.example.com"), email("example.com"), false, false),
        (email("a@sub.example.com"), email(".example.com"), true, true),
        (email("a@example.com"), email(".example.com"), false, false),
        (email("user@example.com"), email("*@example.com"), false, false),
        (email("*@example.com"), email("*@example.com"), true, true),
        (email("a@b@example.com"), email("example.org"), false, true),
        (email("\"a@x\"@example.com"), email("example.org"), false, true),
        (email("nobody"), email("example.org"), false, true),
        (uri("https://example.com/a"), uri("example.com"), true, true),
        (
            uri("https://u:p@Example.com:443/a?b"),
            uri("example.com"),
            true,
            true,
        ),
        (uri("https://a.example.com"), uri("example.com"), false, false),
        (uri("https://a.example.com"), uri(".example.com"), true, true),
        (uri("https://example.com"), uri(".example.com"), false, false),
        (
            uri("https://example.org#@example.com"),
            uri("example.com"),
            false,
            false,
        ),
        (uri("https://192.0.2.1/"), uri("example.com"), false, true),
        (uri("https://[::1]/"), uri("example.com"), false, true),
        (uri("urn:example.com"), uri("example.com"), false, true),
        (uri("https://example.com:x/"), uri("example.com"), false, true),
        (ip(&host), ip(&net), true, true),
        (ip(&[192, 0, 3, 1]), ip(&net), false, false),
        (ip(&[0; 16]), ip(&[0; 8]), false, false),
        (ip(&[1; 16]), ip(&[0; 32]), true, true),
        (
            directory_of(&[("2.5.4.6", 19, "DE"), ("2.5.4.3", 12, "x")]),
            country.clone(),
            true,
            true,
        ),
        // Another spelling is no permission, and no way around an exclusion.
        (
            directory_of(&[("2.5.4.6", 12, " de ")]),
            country.clone(),
            false,
            true,
        ),
        (
            directory_of(&[("2.5.4.6", 12, "d\u{e9}")]),
            country.clone(),
            false,
            true,
        ),
        (
            directory_of(&[("2.5.4.6", 19, "FR")]),
            country.clone(),
            false,
            false,
        ),
        (
            directory_of(&[("2.5.4.10", 19, "DE")]),
            country.clone(),
            false,
            false,
        ),
        (directory_of(&[]), country, false, false),
        (Form::Other(0), Form::Other(0), false, true),
        (Form::Other(0), Form::Other(8), false, false),
        (dns("example.com"), email("example.com"), false, false),
    ];
    for (name, constraint, permitted, excluded) in cases {
        assert_eq!(
            is_within(&name, &constraint),
            permitted,
            "{name:?} within {constraint:?}"
        );
        assert_eq!(
            may_be_within(&name, &constraint),
            excluded,
            "{name:?} maybe within {constraint:?}"
        );
    }
}

#[test]
fn a_constraint_that_is_malformed_is_none() {
    let long = "a".repeat(MAX_LABEL);
    let too_long = "a".repeat(MAX_LABEL + 1);
    let address = |bytes: &'static [u8]| GeneralName::IPAddress(bytes);
    let cases = [
        (GeneralName::DNSName("example.com"), true),
        (GeneralName::DNSName(""), true),
        (GeneralName::DNSName(&long), true),
        (GeneralName::DNSName(&too_long), false),
        (GeneralName::DNSName(".example.com"), false),
        (GeneralName::DNSName("*.example.com"), false),
        (GeneralName::DNSName("example.com."), false),
        (GeneralName::DNSName("not-allowed_here.example.c0m"), true),
        (GeneralName::DNSName("example.com-"), false),
        (GeneralName::DNSName("-a.example.com"), false),
        (GeneralName::DNSName("a-.example.com"), false),
        (GeneralName::DNSName("1.example.com"), true),
        (GeneralName::DNSName("192.0.2.1"), false),
        (GeneralName::RFC822Name("a@example.com"), true),
        (GeneralName::RFC822Name(".example.com"), true),
        (GeneralName::RFC822Name("example.com"), true),
        (GeneralName::RFC822Name(""), false),
        (GeneralName::RFC822Name("a@b@example.com"), false),
        (GeneralName::RFC822Name("@example.com"), false),
        (GeneralName::RFC822Name("a@.example.com"), false),
        (GeneralName::URI("example.com"), true),
        (GeneralName::URI(".example.com"), true),
        (GeneralName::URI("https://example.com"), false),
        (GeneralName::URI(""), false),
        (address(&[192, 0, 2, 0, 255, 255, 255, 0]), true),
        (address(&[192, 0, 2, 0, 255, 255, 255, 128]), true),
        (address(&[0; 32]), true),
        (address(&[192, 0, 2, 1]), false),
        (address(&[192, 0, 2, 0, 255, 0, 255, 0]), false),
        (address(&[192, 0, 2, 0, 255, 255, 255, 0b1010_0000]), false),
        (address(&[0; 16]), false),
    ];
    for (name, want) in cases {
        assert_eq!(constraint(&name).is_some(), want, "{name:?}");
    }
}

#[test]
fn names_and_constraints_are_compared_up_to_a_limit() {
    let constraints = NameConstraints {
        permitted: vec![dns("example.com"); 500],
        excluded: vec![dns("example.org"); 500],
    };
    let name = JudgedName {
        form: dns("example.com"),
        text: "dns:example.com".into(),
    };
    let check =
        |count: usize| constraints.check(vec![&name; count].into_iter(), &mut { MAX_NAME_COMPARISONS });
    assert_eq!(check(250), Ok(()));
    assert_eq!(check(251), Err(Forbidden::TooMany));
}

/// A chain of root, middle and leaf, whose authorities have constraints.
struct Path {
    root: Holder,
    middle: Holder,
}

fn named(mut params: CertificateParams, names: Vec<SanType>) -> CertificateParams {
    params.subject_alt_names = names;
    params
}

fn constrained(
    mut params: CertificateParams,
    permitted: &[Subtree],
    excluded: &[Subtree],
) -> CertificateParams {
    params.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: permitted.to_vec(),
        excluded_subtrees: excluded.to_vec(),
    });
    params
}

impl Path {
    fn new(root: CertificateParams, middle: CertificateParams) -> Self {
        let root = Holder::self_signed(root, &rcgen::PKCS_ECDSA_P256_SHA256);
        let middle = root.issue(middle);
        Self { root, middle }
    }

    fn verify(&self, leaf: CertificateParams) -> Result<(), ChainError> {
        let leaf = self.middle.issue(leaf);
        let others = [self.middle.der.clone()];
        self.root.anchor().verify(&leaf.der, &others, NOW).map(drop)
    }
}

fn dns_name(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn mail(text: &str) -> SanType {
    SanType::Rfc822Name(text.try_into().unwrap())
}

fn domain(text: &str) -> Subtree {
    Subtree::DnsName(text.into())
}

#[test]
fn an_authority_vouches_for_no_name_outside_its_constraints() {
    let common_name = |text: &str| {
        let mut name = DistinguishedName::new();
        name.push(rcgen::DnType::CommonName, text);
        name
    };
    let example = [domain("example.com")];
    let forbidden = |of: &str, name: &str| {
        Err(ChainError::Certificate {
            subject: of.into(),
            flaw: Flaw::ForbiddenName { name: name.into() },
        })
    };
    let plain = || intermediate("middle");
    let leaf = |names| named(signer("leaf"), names);
    let root =
        |permitted: &[Subtree], excluded: &[Subtree]| constrained(authority("root"), permitted, excluded);
    let cases = [
        (
            "within",
            root(&example, &[]),
            plain(),
            leaf(vec![dns_name("a.example.com")]),
            Ok(()),
        ),
        (
            "no name of that form",
            root(&example, &[]),
            plain(),
            leaf(vec![mail("a@other.org")]),
            Ok(()),
        ),
        (
            "no names at all",
            root(&example, &[]),
            plain(),
            leaf(vec![]),
            Ok(()),
        ),
        (
            "outside",
            root(&example, &[]),
            plain(),
            leaf(vec![dns_name("example.org")]),
            forbidden("CN=root", "dns:example.org"),
        ),
        (
            "the second name outside",
            root(&example, &[]),
            plain(),
            leaf(vec![dns_name("example.com"), dns_name("example.org")]),
            forbidden("CN=root", "dns:example.org"),
        ),
        (
            "excluded, though permitted",
            root(&example, &[domain("a.example.com")]),
            plain(),
            leaf(vec![dns_name("x.a.example.com")]),
            forbidden("CN=root", "dns:x.a.example.com"),
        ),
        (
            "an intermediate's own name",
            root(&example, &[]),
            named(plain(), vec![dns_name("example.org")]),
            leaf(vec![]),
            forbidden("CN=root", "dns:example.org"),
        ),
        (
            "an intermediate cannot widen",
            root(&example, &[]),
            constrained(plain(), &[domain("example.org"), domain("example.com")], &[]),
            leaf(vec![dns_name("example.org")]),
            forbidden("CN=root", "dns:example.org"),
        ),
        (
            "an intermediate narrows",
            root(&example, &[]),
            constrained(plain(), &[domain("a.example.com")], &[]),
            leaf(vec![dns_name("b.example.com")]),
            forbidden("CN=middle", "dns:b.example.com"),
        ),
        (
            "a subject outside",
            root(&[Subtree::DirectoryName(common_name("somebody"))], &[]),
            named(plain(), vec![]),
            leaf(vec![]),
            forbidden("CN=root", "CN=leaf"),
        ),
        (
            "a subject excluded",
            root(&[], &[Subtree::DirectoryName(common_name("LEAF"))]),
            plain(),
            leaf(vec![]),
            forbidden("CN=root", "CN=leaf"),
        ),
        (
            "an address",
            root(
                &[],
                &[Subtree::IpAddress(rcgen::CidrSubnet::from_v4_prefix(
                    [192, 0, 2, 0],
                    24,
                ))],
            ),
            plain(),
            leaf(vec![SanType::IpAddress([192, 0, 2, 9].into())]),
            forbidden("CN=root", "ip:192.0.2.9"),
        ),
        (
            "a URI beside mail",
            root(&[Subtree::Rfc822Name("example.com".into())], &[]),
            plain(),
            leaf(vec![
                SanType::URI("https://other.org".try_into().unwrap()),
                mail("a@other.org"),
            ]),
            forbidden("CN=root", "email:a@other.org"),
        ),
    ];
    for (name, root, middle, leaf, want) in cases {
        assert_eq!(Path::new(root, middle).verify(leaf), want, "{name}");
    }
}

#[test]
fn a_self_issued_intermediate_may_have_any_name_and_a_leaf_of_that_kind_may_not() {
    let root = constrained(authority("same"), &[domain("example.com")], &[]);
    let path = Path::new(root, named(intermediate("same"), vec![dns_name("example.org")]));
    assert_eq!(
        path.verify(named(signer("leaf"), vec![dns_name("example.com")])),
        Ok(())
    );
    let refused = path.verify(named(signer("same"), vec![dns_name("example.org")]));
    assert!(matches!(
        refused,
        Err(ChainError::Certificate {
            flaw: Flaw::ForbiddenName { .. },
            ..
        })
    ));
}

#[test]
fn constraints_that_cannot_be_judged_make_an_authority_unusable() {
    let subtree = |name: &[u8]| element(0x30, &[name]);
    let good = subtree(b"\x82\x01a");
    let wrap = |tag: u8, subtrees: &[&[u8]]| element(0x30, &[&element(tag, subtrees)]);
    let cases = [
        ("good", true, wrap(0xa0, &[&good]), true),
        (
            "both",
            true,
            element(
                0x30,
                &[
                    &element(0xa0, &[&good]),
                    &element(0xa1, &[&subtree(b"\x82\x01b")]),
                ],
            ),
            true,
        ),
        ("not critical", false, wrap(0xa0, &[&good]), false),
        ("nothing in it", true, b"\x30\x00".to_vec(), false),
        ("an empty list", true, wrap(0xa0, &[]), false),
        (
            "a distance",
            true,
            wrap(0xa0, &[&element(0x30, &[b"\x82\x01a", b"\x80\x01\x01"])]),
            false,
        ),
        (
            "a name without its sequence",
            true,
            wrap(0xa0, &[b"\x82\x01a"]),
            false,
        ),
        ("a wildcard", true, wrap(0xa0, &[&subtree(b"\x82\x03*.a")]), false),
        (
            "an address without a mask",
            true,
            wrap(0xa0, &[&subtree(b"\x87\x04\x7f\x00\x00\x01")]),
            false,
        ),
        (
            "a directory name",
            true,
            wrap(
                0xa0,
                &[&subtree(
                    b"\xa4\x11\x30\x0f\x31\x0d\x30\x0b\x06\x03\x55\x04\x03\x0c\x04leaf",
                )],
            ),
            true,
        ),
        // A parser that stops at what it cannot read makes of it the name without parts, which permits every name.
        (
            "a directory name whose attribute has no value",
            true,
            wrap(
                0xa0,
                &[&subtree(
                    b"\xa4\x0e\x30\x0c\x31\x0a\x30\x08\x06\x06\x55\x04\x03\x0c\x01a",
                )],
            ),
            false,
        ),
        (
            "a directory name with something behind it",
            true,
            wrap(0xa0, &[&subtree(b"\xa4\x04\x30\x00\x05\x00")]),
            false,
        ),
        (
            "a directory name that is no element",
            true,
            wrap(0xa0, &[&subtree(b"\x84\x02\x30\x00")]),
            false,
        ),
        ("a third list", true, wrap(0xa2, &[&good]), false),
    ];
    for (name, critical, content, want) in cases {
        let mut middle = intermediate("middle");
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
        extension.set_criticality(critical);
        middle.custom_extensions = vec![extension];
        let got = Path::new(authority("root"), middle).verify(named(signer("leaf"), vec![dns_name("x.a")]));
        assert_eq!(got.is_ok(), want, "{name}: {got:?}");
    }
}

/// One DER element shorter than 128 bytes.
fn element(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let header = [tag, u8::try_from(content.len()).unwrap()];
    [&header, content.as_slice()].concat()
}
