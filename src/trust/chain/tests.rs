//! Paths and certificates, good ones with one thing wrong.

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CustomExtension;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose as Purpose;
use rcgen::IsCa;
use rcgen::KeyIdMethod;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose as Usage;
use rcgen::SanType;
use rcgen::SerialNumber;
use rcgen::date_time_ymd;

use super::*;
use crate::trust::testing::Holder;
use crate::trust::testing::NOW;
use crate::trust::testing::authority;
use crate::trust::testing::intermediate;
use crate::trust::testing::signer;

/// The verdict about a leaf, with these in the bundle.
fn verify(anchor: &CertificateAnchor, leaf: &Holder, others: &[&Holder]) -> Result<(), ChainError> {
    verify_at(anchor, leaf, others, NOW)
}

fn verify_at(
    anchor: &CertificateAnchor,
    leaf: &Holder,
    others: &[&Holder],
    at: UnixTime,
) -> Result<(), ChainError> {
    let others: Vec<Vec<u8>> = others.iter().map(|holder| holder.der.clone()).collect();
    anchor.verify(&leaf.der, &others, at).map(drop)
}

#[track_caller]
fn flaw(verdict: Result<(), ChainError>) -> Flaw {
    match verdict.unwrap_err() {
        ChainError::Certificate { flaw, .. } | ChainError::Unusable { flaw, .. } => flaw,
        other => panic!("{other}"),
    }
}

fn edited(mut params: CertificateParams, edit: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    edit(&mut params);
    params
}

fn extension(oid: &[u64], critical: bool, content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

#[test]
fn a_path_may_have_authorities_of_every_kind_of_key() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA256,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_RSA_SHA384,
        &rcgen::PKCS_RSA_SHA512,
    ] {
        let root = Holder::self_signed(authority("root"), algorithm);
        let middle = root.issue_for(intermediate("middle"), KeyPair::generate_for(algorithm).unwrap());
        let leaf = middle.issue(signer("leaf"));
        let anchor = root.anchor();
        assert_eq!(verify(&anchor, &leaf, &[&middle]), Ok(()), "{algorithm:?}");
        assert_eq!(verify(&anchor, &leaf, &[&root, &middle]), Ok(()));
        assert_eq!(
            verify(&anchor, &leaf, &[]),
            Err(ChainError::NoIssuer {
                subject: "CN=leaf".into(),
                issuer: "CN=middle".into()
            })
        );
        let files = [root.pem(), middle.pem()].concat();
        let anchor = CertificateAnchor::from_pem(&[files.as_bytes()]).unwrap();
        assert_eq!(verify(&anchor, &leaf, &[]), Ok(()));
        let other = Holder::self_signed(authority("root"), algorithm);
        assert_eq!(
            verify(&other.anchor(), &leaf, &[&middle]),
            Err(ChainError::OtherIssuerKey {
                subject: "CN=middle".into(),
                issuer: "CN=root".into()
            })
        );
    }
}

#[test]
fn a_leaf_has_one_thing_wrong() {
    let root = Holder::root("root");
    let anchor = root.anchor();
    let cases: Vec<(&str, CertificateParams, Flaw)> = vec![
        (
            "no usage at all",
            edited(signer("leaf"), |p| {
                p.key_usages.clear();
                p.extended_key_usages.clear();
            }),
            Flaw::NoPurpose,
        ),
        (
            "key usage for something else",
            edited(signer("leaf"), |p| {
                p.key_usages = vec![Usage::KeyAgreement, Usage::ContentCommitment];
            }),
            Flaw::NoDigitalSignature,
        ),
        (
            "web server",
            edited(signer("leaf"), |p| {
                p.extended_key_usages = vec![Purpose::ServerAuth, Purpose::ClientAuth];
            }),
            Flaw::NotForCodeSigning,
        ),
        (
            "any purpose",
            edited(signer("leaf"), |p| p.extended_key_usages = vec![Purpose::Any]),
            Flaw::NotForCodeSigning,
        ),
        (
            "code signing and any purpose",
            edited(signer("leaf"), |p| p.extended_key_usages.push(Purpose::Any)),
            Flaw::NotForCodeSigning,
        ),
        (
            "authority that only signs certificates",
            edited(signer("leaf"), |p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                p.key_usages = vec![Usage::KeyCertSign];
            }),
            Flaw::NoDigitalSignature,
        ),
        (
            "authority without a key usage",
            edited(signer("leaf"), |p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                p.key_usages.clear();
            }),
            Flaw::AuthorityAsLeaf,
        ),
        (
            "signs certificates and is no authority",
            edited(signer("leaf"), |p| p.key_usages.push(Usage::KeyCertSign)),
            Flaw::CertSignWithoutCa,
        ),
        (
            "no authority key identifier",
            edited(signer("leaf"), |p| {
                p.use_authority_key_identifier_extension = false;
            }),
            Flaw::NoAuthorityKeyId,
        ),
        (
            "serial number too long",
            edited(signer("leaf"), |p| {
                p.serial_number = Some(SerialNumber::from_slice(&[0x7f; 21]));
            }),
            Flaw::SerialNumber,
        ),
        (
            "serial number zero",
            edited(signer("leaf"), |p| {
                p.serial_number = Some(SerialNumber::from_slice(&[0]));
            }),
            Flaw::SerialNumber,
        ),
        (
            "name constraints",
            edited(signer("leaf"), |p| {
                let content = b"\x30\x0d\xa0\x0b\x30\x09\x82\x07.b.c.de";
                p.custom_extensions = vec![extension(&[2, 5, 29, 30], true, content)];
            }),
            Flaw::NameConstraints,
        ),
        (
            "policy constraints",
            edited(signer("leaf"), |p| {
                let content = b"\x30\x03\x80\x01\x00";
                p.custom_extensions = vec![extension(&[2, 5, 29, 36], true, content)];
            }),
            Flaw::PolicyConstraints,
        ),
        (
            "critical and unknown",
            edited(signer("leaf"), |p| {
                p.custom_extensions = vec![extension(&[1, 2, 3, 4], true, b"\x05\x00")];
            }),
            Flaw::CriticalExtension {
                oid: "1.2.3.4".into(),
            },
        ),
        (
            "the same twice",
            edited(signer("leaf"), |p| {
                let again = extension(&[1, 2, 3, 4], false, b"\x05\x00");
                p.custom_extensions = vec![again.clone(), again];
            }),
            Flaw::DuplicateExtension {
                oid: "1.2.3.4".into(),
            },
        ),
        (
            "key usage twice, once generous",
            edited(signer("leaf"), |p| {
                p.custom_extensions = vec![extension(&[2, 5, 29, 15], true, b"\x03\x02\x07\x80")];
            }),
            Flaw::DuplicateExtension {
                oid: "2.5.29.15".into(),
            },
        ),
        (
            "key usage with something behind it",
            edited(signer("leaf"), |p| {
                p.key_usages.clear();
                let content = b"\x03\x02\x07\x80\x05\x00";
                p.custom_extensions = vec![extension(&[2, 5, 29, 15], true, content)];
            }),
            Flaw::UnreadableExtension {
                oid: "2.5.29.15".into(),
            },
        ),
        (
            "a line break in an alternative name",
            edited(signer("leaf"), |p| {
                let content = b"\x30\x05\x82\x03a\nb";
                p.custom_extensions = vec![extension(&[2, 5, 29, 17], false, content)];
            }),
            Flaw::UnreadableExtension {
                oid: "2.5.29.17".into(),
            },
        ),
        (
            "no name",
            edited(signer("leaf"), |p| {
                p.distinguished_name = rcgen::DistinguishedName::new();
            }),
            Flaw::NoSubject,
        ),
        (
            "expired",
            edited(signer("leaf"), |p| p.not_after = date_time_ymd(2026, 1, 1)),
            Flaw::Expired {
                until: UnixTime(1_767_225_600),
                at: NOW,
            },
        ),
        (
            "not yet valid",
            edited(signer("leaf"), |p| p.not_before = date_time_ymd(2027, 1, 1)),
            Flaw::NotYetValid {
                from: UnixTime(1_798_761_600),
                at: NOW,
            },
        ),
    ];
    assert_eq!(verify(&anchor, &root.issue(signer("leaf")), &[]), Ok(()));
    for (name, params, want) in cases {
        assert_eq!(flaw(verify(&anchor, &root.issue(params), &[])), want, "{name}");
    }
}

/// Made by hand from a good one. The signature no longer matches, but these are asked about before it is.
#[test]
fn a_certificate_of_another_form_is_refused_for_its_form() {
    let root = Holder::root("root");
    let leaf = root.issue(signer("leaf"));
    let patched = |from: &[u8], to: &[u8], which: usize| {
        let mut der = leaf.der.clone();
        let found: Vec<usize> = (0..der.len()).filter(|&at| der[at..].starts_with(from)).collect();
        let at = found[which];
        der[at..at + to.len()].copy_from_slice(to);
        der
    };
    let version = b"\xa0\x03\x02\x01\x02";
    let ecdsa_sha256 = b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
    let ecdsa_sha384 = b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03";
    let longer = [leaf.der.as_slice(), b"\0"].concat();
    let huge = vec![0x30; MAX_CERTIFICATE_BYTES + 1];
    for (name, der, want) in [
        (
            "version 1, stated",
            patched(version, b"\xa0\x03\x02\x01\x00", 0),
            Flaw::Version,
        ),
        (
            "version 2",
            patched(version, b"\xa0\x03\x02\x01\x01", 0),
            Flaw::Version,
        ),
        (
            "version 4",
            patched(version, b"\xa0\x03\x02\x01\x03", 0),
            Flaw::Version,
        ),
        (
            "another algorithm inside",
            patched(ecdsa_sha256, ecdsa_sha384, 0),
            Flaw::AlgorithmMismatch,
        ),
        (
            "another algorithm outside",
            patched(ecdsa_sha256, ecdsa_sha384, 1),
            Flaw::AlgorithmMismatch,
        ),
        ("something behind it", longer, Flaw::NotDer),
        ("nothing", vec![], Flaw::NotDer),
        ("as large as may be", huge[1..].to_vec(), Flaw::NotDer),
        (
            "larger than may be",
            huge,
            Flaw::TooLarge {
                bytes: MAX_CERTIFICATE_BYTES + 1,
            },
        ),
    ] {
        let anchor = root.anchor();
        assert_eq!(flaw(anchor.verify(&der, &[], NOW).map(drop)), want, "{name}");
        // As somebody else's issuer it is refused too, whether it can be read or not.
        let stranger = Holder::root("stranger").issue(signer("x"));
        assert!(anchor.verify(&stranger.der, &[der], NOW).is_err(), "{name}");
    }
}

/// rcgen always writes the identifier of an authority's key, so this one is renamed to another extension.
#[test]
fn an_authority_says_which_key_it_has() {
    let root = Holder::root("root");
    let id = b"\x06\x03\x55\x1d\x0e".as_slice();
    let at = root.der.windows(id.len()).position(|w| w == id).unwrap();
    let mut der = root.der.clone();
    der[at + 4] = 0x7f;
    let mut nameless = Certificate::parse(&der).unwrap();
    assert_eq!(nameless.check_issuer(NOW, 0), Err(Flaw::NoSubjectKeyId));
    der[at + 4] = 0x0e;
    nameless = Certificate::parse(&der).unwrap();
    assert_eq!(nameless.check_issuer(NOW, 0), Ok(()));
}

#[test]
fn a_leaf_may_be_what_published_leaves_are() {
    let root = Holder::root("root");
    for (name, params) in [
        (
            "key usage alone, as published models have it",
            edited(signer("leaf"), |p| p.extended_key_usages.clear()),
        ),
        (
            "extended key usage alone",
            edited(signer("leaf"), |p| p.key_usages.clear()),
        ),
        (
            "no basic constraints",
            edited(signer("leaf"), |p| p.is_ca = IsCa::NoCa),
        ),
        (
            "authority that signs models, as in the official vectors",
            edited(signer("leaf"), |p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }),
        ),
        (
            "authority that signs both",
            edited(signer("leaf"), |p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                p.key_usages.push(Usage::KeyCertSign);
            }),
        ),
        (
            "an unknown extension that may be skipped",
            edited(signer("leaf"), |p| {
                p.custom_extensions = vec![extension(&[1, 2, 3, 4], false, b"not even DER")];
            }),
        ),
        (
            "several purposes",
            edited(signer("leaf"), |p| {
                p.extended_key_usages.push(Purpose::EmailProtection);
            }),
        ),
        (
            "a serial number of 20 bytes",
            edited(signer("leaf"), |p| {
                p.serial_number = Some(SerialNumber::from_slice(&[0x7f; 20]));
            }),
        ),
    ] {
        assert_eq!(verify(&root.anchor(), &root.issue(params), &[]), Ok(()), "{name}");
    }
}

#[test]
fn an_issuer_has_one_thing_wrong() {
    let root = Holder::root("root");
    let anchor = root.anchor();
    let middle = |edit: fn(&mut CertificateParams)| root.issue(edited(intermediate("middle"), edit));
    let cases: Vec<(&str, Holder, Flaw)> = vec![
        (
            "a signer's certificate",
            root.issue(signer("middle")),
            Flaw::NotAnAuthority,
        ),
        (
            // What the official vectors have as a leaf must not become an issuer.
            "an authority that signs models only",
            root.issue(edited(signer("middle"), |p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            })),
            Flaw::NoCertSign,
        ),
        (
            "an authority without a key usage",
            middle(|p| p.key_usages.clear()),
            Flaw::NoCertSign,
        ),
        (
            "no basic constraints",
            middle(|p| {
                p.is_ca = IsCa::NoCa;
                let id = b"\x04\x04\x01\x02\x03\x04";
                p.custom_extensions = vec![extension(&[2, 5, 29, 14], false, id)];
                p.key_identifier_method = KeyIdMethod::PreSpecified(vec![1, 2, 3, 4]);
            }),
            Flaw::NotAnAuthority,
        ),
        (
            "basic constraints that may be skipped",
            middle(|p| {
                p.is_ca = IsCa::NoCa;
                p.custom_extensions = vec![extension(&[2, 5, 29, 19], false, b"\x30\x03\x01\x01\xff")];
            }),
            Flaw::BasicConstraintsNotCritical,
        ),
        (
            "only for web servers",
            middle(|p| p.extended_key_usages = vec![Purpose::ServerAuth]),
            Flaw::NotForCodeSigning,
        ),
        (
            "does not say who issued it",
            middle(|p| p.use_authority_key_identifier_extension = false),
            Flaw::NoAuthorityKeyId,
        ),
        (
            "expired",
            middle(|p| p.not_after = date_time_ymd(2026, 1, 1)),
            Flaw::Expired {
                until: UnixTime(1_767_225_600),
                at: NOW,
            },
        ),
        (
            "malformed name constraints",
            middle(|p| {
                let content = b"\x30\x0d\xa0\x0b\x30\x09\x82\x07.b.c.de";
                p.custom_extensions = vec![extension(&[2, 5, 29, 30], true, content)];
            }),
            Flaw::NameConstraints,
        ),
        (
            "a critical policy",
            middle(|p| {
                let content = b"\x30\x08\x30\x06\x06\x04\x55\x1d\x20\x00";
                p.custom_extensions = vec![extension(&[2, 5, 29, 32], true, content)];
            }),
            Flaw::CriticalExtension {
                oid: "2.5.29.32".into(),
            },
        ),
    ];
    for (name, middle, want) in cases {
        let leaf = middle.issue(signer("leaf"));
        assert_eq!(flaw(verify(&anchor, &leaf, &[&middle])), want, "{name}");
    }
    // rcgen signs as whoever it is told: somebody else's key under the right names and identifiers.
    let genuine = root.issue(intermediate("middle"));
    let id = genuine.params.key_identifier(&genuine.key);
    let forger = Holder::self_signed(
        edited(authority("middle"), |p| {
            p.key_identifier_method = KeyIdMethod::PreSpecified(id);
        }),
        &rcgen::PKCS_ECDSA_P256_SHA256,
    );
    let forged = forger.issue(signer("leaf"));
    assert_eq!(flaw(verify(&anchor, &forged, &[&genuine])), Flaw::Signature);
}

#[test]
fn a_root_has_one_thing_wrong() {
    let root = |edit: fn(&mut CertificateParams)| {
        Holder::self_signed(edited(authority("root"), edit), &rcgen::PKCS_ECDSA_P256_SHA256)
    };
    for (name, root, want) in [
        ("no key usage", root(|p| p.key_usages.clear()), Flaw::NoCertSign),
        (
            "expired",
            root(|p| p.not_after = date_time_ymd(2026, 1, 1)),
            Flaw::Expired {
                until: UnixTime(1_767_225_600),
                at: NOW,
            },
        ),
        (
            "a purpose",
            root(|p| p.extended_key_usages = vec![Purpose::CodeSigning]),
            Flaw::RootWithPurpose,
        ),
        (
            "no authority",
            root(|p| {
                p.is_ca = IsCa::ExplicitNoCa;
                p.key_usages = vec![Usage::DigitalSignature];
            }),
            Flaw::NotAnAuthority,
        ),
    ] {
        let leaf = root.issue(signer("leaf"));
        assert_eq!(flaw(verify(&root.anchor(), &leaf, &[])), want, "{name}");
    }
}

#[test]
fn path_lengths_are_kept_and_self_issued_certificates_do_not_count() {
    let limited = |name: &str, limit| {
        edited(intermediate(name), |p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Constrained(limit));
        })
    };
    let root = Holder::self_signed(limited("root", 1), &rcgen::PKCS_ECDSA_P256_SHA256);
    let one = root.issue(limited("one", 0));
    assert_eq!(
        verify(&root.anchor(), &one.issue(signer("leaf")), &[&one]),
        Ok(())
    );
    // A leaf that is an authority is still no intermediate (RFC 5280, 4.2.1.9).
    let authority_leaf = one.issue(edited(signer("leaf"), |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }));
    assert_eq!(verify(&root.anchor(), &authority_leaf, &[&one]), Ok(()));
    let two = one.issue(intermediate("two"));
    assert_eq!(
        flaw(verify(&root.anchor(), &two.issue(signer("leaf")), &[&one, &two])),
        Flaw::PathLength { limit: 0 }
    );
    let renewed = one.issue(limited("one", 0));
    let leaf = renewed.issue(signer("leaf"));
    assert_eq!(verify(&root.anchor(), &leaf, &[&one, &renewed]), Ok(()));
}

#[test]
fn a_path_has_at_most_eight_intermediates() {
    let root = Holder::root("root");
    let mut chain = vec![root.issue(intermediate("1"))];
    while chain.len() <= MAX_INTERMEDIATES {
        let name = (chain.len() + 1).to_string();
        let next = chain.last().unwrap().issue(intermediate(&name));
        chain.push(next);
    }
    let anchor = root.anchor();
    let others: Vec<&Holder> = chain.iter().collect();
    let longest = chain[MAX_INTERMEDIATES - 1].issue(signer("leaf"));
    assert_eq!(verify(&anchor, &longest, &others), Ok(()));
    let too_long = chain[MAX_INTERMEDIATES].issue(signer("leaf"));
    assert_eq!(
        verify(&anchor, &too_long, &others),
        Err(ChainError::TooLong {
            limit: MAX_INTERMEDIATES
        })
    );
    let one = chain[0].issue(signer("leaf"));
    let two = chain[1].issue(signer("leaf"));
    let anchor = anchor.with_max_intermediates(1);
    assert_eq!(verify(&anchor, &one, &others), Ok(()));
    assert_eq!(
        verify(&anchor, &two, &others),
        Err(ChainError::TooLong { limit: 1 })
    );
    // A path of self-issued certificates counts for nothing, and ends all the same.
    let mut same = vec![root.issue(intermediate("same"))];
    while same.len() <= MAX_INTERMEDIATES {
        let next = same.last().unwrap().issue(intermediate("same"));
        same.push(next);
    }
    let others: Vec<&Holder> = same.iter().collect();
    let leaf = same[MAX_INTERMEDIATES].issue(signer("leaf"));
    assert!(matches!(
        verify(&root.anchor(), &leaf, &others),
        Err(ChainError::TooLong { .. })
    ));
}

/// Variants of the same authorities, as after many renewals: each could be the issuer of all beneath it, every
/// signature matches, and none of the many ways leads to the root.
#[test]
fn a_maze_of_authorities_is_left_after_a_bounded_number_of_signatures() {
    let mut files = Holder::root("root").pem();
    let mut issuer = Holder::root("outside");
    for name in ["a", "b", "c", "d"] {
        let key = KeyPair::generate().unwrap().serialize_pem();
        let variants: Vec<Holder> = (1..=6)
            .map(|serial| {
                let params = edited(intermediate(name), |p| {
                    p.serial_number = Some(SerialNumber::from_slice(&[serial]));
                });
                issuer.issue_for(params, KeyPair::from_pem(&key).unwrap())
            })
            .collect();
        files.extend(variants.iter().map(Holder::pem));
        issuer = variants.into_iter().next().unwrap();
    }
    let anchor = CertificateAnchor::from_pem(&[files.as_bytes()]).unwrap();
    let leaf = issuer.issue(signer("leaf"));
    assert_eq!(
        verify(&anchor, &leaf, &[]),
        Err(ChainError::TooManySignatures {
            limit: MAX_SIGNATURE_CHECKS
        })
    );
}

#[test]
fn authorities_that_issue_each_other_lead_nowhere() {
    let a = Holder::root("a");
    let b = a.issue(intermediate("b"));
    let a_by_b = b.issue_for(
        intermediate("a"),
        KeyPair::from_pem(&a.key.serialize_pem()).unwrap(),
    );
    let leaf = b.issue(signer("leaf"));
    let stranger = Holder::root("stranger").anchor();
    assert!(verify(&stranger, &leaf, &[&a_by_b, &b]).is_err());
    assert_eq!(verify(&a.anchor(), &leaf, &[&a_by_b, &b]), Ok(()));
}

#[test]
fn a_root_in_the_bundle_is_not_trusted() {
    let theirs = Holder::root("root");
    let leaf = theirs.issue(signer("leaf"));
    let end = Err(ChainError::UntrustedRoot {
        subject: "CN=root".into(),
    });
    assert_eq!(verify(&Holder::root("other").anchor(), &leaf, &[&theirs]), end);
    assert_eq!(verify(&Holder::root("root").anchor(), &leaf, &[&theirs]), end);
    // The same name and key identifier as the trusted root's, and a key of one's own.
    let ours = Holder::root("root");
    let id = ours.params.key_identifier(&ours.key);
    let forger = Holder::self_signed(
        edited(authority("root"), |p| {
            p.key_identifier_method = KeyIdMethod::PreSpecified(id);
        }),
        &rcgen::PKCS_ECDSA_P256_SHA256,
    );
    let forged = forger.issue(signer("leaf"));
    assert!(verify(&ours.anchor(), &forged, &[&forger]).is_err());
    assert_eq!(flaw(verify(&ours.anchor(), &forged, &[])), Flaw::Signature);
}

#[test]
fn only_a_self_signed_certificate_is_a_root() {
    let root = Holder::root("root");
    let middle = root.issue(intermediate("middle"));
    let pem = middle.pem();
    assert_eq!(
        CertificateAnchor::from_pem(&[pem.as_bytes()]).unwrap_err(),
        AnchorError::NoRoot { count: 1 }
    );
    // Like the official vectors' leaf: it names itself as issuer, and somebody else signed it.
    let twin = middle.issue(edited(signer("middle"), |p| p.is_ca = IsCa::NoCa));
    let pem = twin.pem();
    assert_eq!(
        CertificateAnchor::from_pem(&[pem.as_bytes()]).unwrap_err(),
        AnchorError::NoRoot { count: 1 }
    );
    let anchor = CertificateAnchor::from_pem(&[pem.as_bytes(), root.pem().as_bytes()]).unwrap();
    assert!(verify(&anchor, &twin.issue(signer("leaf")), &[]).is_err());
    assert_eq!(verify(&anchor, &twin, &[&middle]), Ok(()));
}

#[test]
fn files_hold_certificates() {
    let root = Holder::root("root").pem();
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (files, want) in [
        (vec![], "no PEM block"),
        (vec![""], "no PEM block"),
        (vec!["words"], "no PEM block"),
        (vec![root.as_str(), key], "found PRIVATE KEY"),
        (
            vec![root.as_str(), garbage],
            "a certificate is not a DER certificate",
        ),
        (vec!["-----BEGIN CERTIFICATE-----\n"], "not PEM"),
    ] {
        let files: Vec<&[u8]> = files.iter().map(|text| text.as_bytes()).collect();
        let error = CertificateAnchor::from_pem(&files).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    let weak = Holder::self_signed(
        edited(authority("weak"), |p| {
            p.serial_number = Some(SerialNumber::from_slice(&[0]));
        }),
        &rcgen::PKCS_ECDSA_P256_SHA256,
    );
    let weak = weak.pem();
    assert_eq!(
        CertificateAnchor::from_pem(&[weak.as_bytes()]).unwrap_err(),
        AnchorError::NoUsableRoot {
            subject: "CN=weak".into(),
            flaw: Flaw::SerialNumber
        }
    );
    assert!(CertificateAnchor::from_pem(&[weak.as_bytes(), root.as_bytes()]).is_ok());
}

#[test]
fn a_signer_that_is_its_own_root_is_still_a_signer() {
    let own = |edit: fn(&mut CertificateParams)| {
        Holder::self_signed(edited(signer("own"), edit), &rcgen::PKCS_ECDSA_P384_SHA384)
    };
    let good = own(|_| {});
    assert_eq!(verify(&good.anchor(), &good, &[]), Ok(()));
    assert!(verify(&own(|_| {}).anchor(), &good, &[&good]).is_err());
    let server = own(|p| p.extended_key_usages = vec![Purpose::ServerAuth]);
    assert_eq!(
        flaw(verify(&server.anchor(), &server, &[])),
        Flaw::NotForCodeSigning
    );
    let root = Holder::root("root");
    assert_eq!(flaw(verify(&root.anchor(), &root, &[])), Flaw::NoDigitalSignature);
    // It vouches for itself alone.
    let issued = good.issue(signer("leaf"));
    assert_eq!(flaw(verify(&good.anchor(), &issued, &[])), Flaw::NotAnAuthority);
}

#[test]
fn the_edges_of_a_validity_are_valid() {
    let root = Holder::root("root");
    let leaf = root.issue(edited(signer("leaf"), |p| {
        p.not_before = date_time_ymd(2026, 3, 1);
        p.not_after = date_time_ymd(2026, 4, 1);
    }));
    let (from, until) = (1_772_323_200, 1_775_001_600);
    let anchor = root.anchor();
    for (at, want) in [
        (from - 1, false),
        (from, true),
        (until, true),
        (until + 1, false),
        (i64::MIN, false),
        (i64::MAX, false),
    ] {
        assert_eq!(verify_at(&anchor, &leaf, &[], UnixTime(at)).is_ok(), want, "{at}");
    }
    let relaxed = anchor.with_time(CertificateTime::NotBefore);
    for at in [i64::MIN, from - 1, until + 1, i64::MAX] {
        assert_eq!(verify_at(&relaxed, &leaf, &[], UnixTime(at)), Ok(()));
    }
    // The relaxed time is one time for the whole path.
    let old = root.issue(edited(intermediate("old"), |p| {
        p.not_after = date_time_ymd(2026, 1, 1);
    }));
    let late = old.issue(edited(signer("leaf"), |p| {
        p.not_before = date_time_ymd(2026, 3, 1);
    }));
    assert_eq!(
        flaw(verify(&relaxed, &late, &[&old])),
        Flaw::Expired {
            until: UnixTime(1_767_225_600),
            at: UnixTime(from)
        }
    );
}

#[test]
fn an_identity_is_matched_whole() {
    let root = Holder::root("root");
    let leaf = root.issue(edited(signer("Alice, Inc."), |p| {
        p.distinguished_name.push(DnType::OrganizationName, "Example");
        p.distinguished_name.push(DnType::CountryName, "US");
        p.subject_alt_names = vec![
            SanType::Rfc822Name("alice@example.com".try_into().unwrap()),
            SanType::URI("https://example.com/alice".try_into().unwrap()),
            SanType::DnsName("*.example.com".try_into().unwrap()),
        ];
    }));
    let spki = leaf.public_key().spki_sha256();
    let with = |identity: &str| {
        let identity = CertificateIdentity::parse(identity).unwrap();
        verify(&root.anchor().with_identity(identity), &leaf, &[])
    };
    for good in [
        "subject:C=US,O=Example,CN=Alice\\, Inc.",
        "email:alice@example.com",
        "uri:https://example.com/alice",
        "dns:*.example.com",
        &format!("spki:{spki}"),
    ] {
        assert_eq!(with(good), Ok(()), "{good}");
    }
    for bad in [
        "subject:CN=Alice\\, Inc.,O=Example,C=US",
        "subject:C=US,O=Example,CN=Alice\\, Inc",
        "subject:C=US, O=Example, CN=Alice\\, Inc.",
        "subject:CN=Alice\\, Inc.",
        "subject:alice@example.com",
        "email:Alice@example.com",
        "email:alice@example.com.evil.example",
        "email:lice@example.com",
        "email:https://example.com/alice",
        "uri:https://example.com/alice/",
        "uri:https://example.com",
        "uri:alice@example.com",
        "dns:www.example.com",
        "dns:example.com",
        &format!("spki:{}", "0".repeat(64)),
    ] {
        let error = with(bad).unwrap_err();
        assert!(
            matches!(error, ChainError::OtherIdentity { .. }),
            "{bad}: {error}"
        );
        let text = error.to_string();
        assert!(text.contains("subject:C=US,O=Example,CN=Alice\\, Inc."), "{text}");
        assert!(text.contains(&format!("spki:{spki}")), "{text}");
    }
}

#[test]
fn names_cannot_move_a_cursor() {
    let root = Holder::root("root\u{1b}[2J");
    let leaf = root.issue(edited(signer("a\nerror: b\u{202e}"), |p| {
        p.not_after = date_time_ymd(2026, 1, 1);
    }));
    let error = verify(&root.anchor(), &leaf, &[]).unwrap_err().to_string();
    assert!(error.contains("CN=a\\0aerror: b\\e2\\80\\ae expired"), "{error}");
    let leaf = root.issue(signer("a\nb"));
    let trusted = root.anchor().verify(&leaf.der, &[], NOW).unwrap();
    let text = trusted.signer().to_string();
    assert!(
        text.starts_with("certificate \"CN=a\\0ab\" issued by \"CN=root\\1b[2J\", "),
        "{text}"
    );
}

/// Whatever is done to a certificate, nothing panics, and what is still trusted is who it was. Around what is
/// signed (outer lengths, the encoding of the signature) a parser's leniency changes nothing.
#[test]
fn mutated_certificates_are_refused_or_mean_the_same() {
    let root = Holder::root("root");
    let leaf = root.issue(edited(signer("leaf"), |p| {
        p.subject_alt_names = vec![SanType::Rfc822Name("a@example.com".try_into().unwrap())];
    }));
    let anchor = root.anchor();
    let want = anchor.verify(&leaf.der, &[], NOW).unwrap();
    // SEQUENCE, two bytes of length; the signed part begins with the same.
    let header = 4;
    let signed = header..header + 4 + usize::from(u16::from_be_bytes([leaf.der[6], leaf.der[7]]));
    assert_eq!((leaf.der[1], leaf.der[5]), (0x82, 0x82));
    for at in 0..leaf.der.len() {
        for bit in 0..8 {
            let mut der = leaf.der.clone();
            der[at] ^= 1 << bit;
            if let Ok(trusted) = anchor.verify(&der, &[], NOW) {
                assert!(!signed.contains(&at), "byte {at}, bit {bit}");
                assert_eq!(trusted.signer(), want.signer(), "byte {at}, bit {bit}");
                assert_eq!(trusted.key().spki_sha256(), want.key().spki_sha256());
            }
            let pem = pem::encode("CERTIFICATE", &der);
            drop(CertificateAnchor::from_pem(&[pem.as_bytes()]));
        }
        assert!(anchor.verify(&leaf.der[..at], &[], NOW).is_err());
    }
}

#[test]
fn a_message_shows_the_beginning_of_a_long_name() {
    let a = |count: usize| "a".repeat(count);
    for (name, want) in [
        (a(512), (a(512), "")),
        (a(513), (a(512), "... (513 bytes)")),
        (a(511) + "\\\"", (a(511), "... (513 bytes)")),
    ] {
        assert_eq!(beginning(&name), (want.0.as_str(), want.1.to_owned()));
    }
    let other = |names: usize| ChainError::OtherIdentity {
        wanted: CertificateIdentity::parse("dns:b").unwrap(),
        found: vec!["dns:a".to_owned(); names],
    };
    let listed = vec!["\"dns:a\""; 16].join(", ");
    for (names, rest) in [(16, ""), (17, " and 1 more")] {
        assert_eq!(
            other(names).to_string(),
            format!("the signer's certificate is not for dns:b but for {listed}{rest}")
        );
    }
}
