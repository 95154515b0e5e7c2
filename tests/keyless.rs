//! Keyless signatures: what a Sigstore instance vouches for is mounted and verified, and whatever lacks one proof,
//! carries another's or names somebody else is refused with the check that refused it.
//!
//! The instance is made here and signs for real, so each case has one thing wrong and everything else right. The real
//! instance's bundles are in `vectors.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise"
)]

mod support;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use data_encoding::BASE64;
use modelfs::trust::Bundle;
use modelfs::trust::KeylessAnchor;
use modelfs::trust::KeylessIdentity;
use modelfs::trust::Signer;
use modelfs::trust::SigstoreRoot;
use modelfs::trust::TrustAnchors;
use modelfs::trust::TrustError;
use modelfs::trust::TrustErrorKind;
use modelfs::trust::UnixTime;
use modelfs::trust::keyless::MAX_KEYLESS_PAYLOAD_BYTES;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::KeyUsagePurpose;
use serde_json::Value;
use serde_json::json;
use support::Outcome;
use support::modelfs;
use support::signing::Layout;
use support::signing::resources;
use support::signing::statement;
use support::sigstore::IDENTITY;
use support::sigstore::ISSUER;
use support::sigstore::Instance;
use support::sigstore::Order;
use support::sigstore::SIGNED_AT;
use support::sigstore::email;
use support::sigstore::uri;

/// 2026-06-01T00:00:00Z: every certificate here has long expired.
const NOW: UnixTime = UnixTime(1_780_272_000);

fn payload() -> Vec<u8> {
    statement(
        "model",
        Layout::FILES,
        resources("weights", b"weights", Layout::FILES),
    )
}

fn trusting(instance: &Instance, signers: &[(&str, &str)]) -> TrustAnchors {
    let root = instance.trusted_root().to_string();
    let root = Arc::new(SigstoreRoot::parse(root.as_bytes(), "ring").unwrap());
    let mut anchors = TrustAnchors::new();
    for (identity, issuer) in signers {
        let identity = KeylessIdentity::parse(identity).unwrap();
        anchors.add_keyless(KeylessAnchor::new(Arc::clone(&root), identity, *issuer));
    }
    anchors
}

fn verdict(anchors: &TrustAnchors, bundle: &Value) -> Result<Signer, (TrustErrorKind, String)> {
    let refused = |e: TrustError| (e.kind(), with_causes(&e));
    let bundle = Bundle::parse(bundle.to_string().as_bytes()).map_err(|e| refused(e.into()))?;
    let trusted = anchors.verify(&bundle, NOW).map_err(refused)?;
    Ok(trusted.signer().clone())
}

fn with_causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", with_causes(cause)),
        None => error.to_string(),
    }
}

fn refused(anchors: &TrustAnchors, bundle: &Value, kind: TrustErrorKind, want: &str, name: &str) {
    let (found, message) = verdict(anchors, bundle).expect_err(name);
    assert!(message.contains(want), "{name}: {message}, not {want}");
    assert_eq!(found, kind, "{name}: {message}");
    assert!(!message.contains(|c: char| c.is_control()), "{name}: {message:?}");
}

#[test]
fn a_keyless_signature_is_trusted_for_its_identity_and_issuer_long_after_its_certificate_expired() {
    let instance = Instance::new();
    let bundle = instance.sign(&Order::good(), &payload());
    for identity in [
        IDENTITY,
        "uri:https://forge.example/acme/train/release.yml@refs/tags/v1",
        "https://forge.example/acme/train/release.yml@refs/tags/*",
        "https://forge.example/*/train/release.yml@refs/tags/v1",
    ] {
        let signer = verdict(&trusting(&instance, &[(identity, ISSUER)]), &bundle).unwrap();
        let Signer::Sigstore {
            identity: found,
            issuer,
            root,
            stale: None,
            ..
        } = &signer
        else {
            panic!("{signer}");
        };
        assert_eq!(*found, format!("uri:{IDENTITY}"));
        assert_eq!((issuer.as_str(), root.as_str()), (ISSUER, "ring"));
    }
    let parsed = Bundle::parse(bundle.to_string().as_bytes()).unwrap();
    let trusted = trusting(&instance, &[(IDENTITY, ISSUER)])
        .verify(&parsed, NOW)
        .unwrap();
    assert_eq!(
        trusted.signed_at().to_string(),
        "2026-01-01T00:05:00Z (says the log \"https://rekor.example\", entry 4711)"
    );
    // Nobody signs in the future, whatever a log says.
    let early = trusting(&instance, &[(IDENTITY, ISSUER)]).verify(&parsed, UnixTime(SIGNED_AT - 1));
    let message = early.unwrap_err().to_string();
    assert!(
        message.contains("it was signed at 2026-01-01T00:05:00Z"),
        "{message}"
    );
    let just = trusting(&instance, &[(IDENTITY, ISSUER)]).verify(&parsed, UnixTime(SIGNED_AT));
    assert!(just.is_ok());
    // One of several is enough, whichever it is.
    let several = [
        ("a@acme.example", ISSUER),
        (IDENTITY, "https://x"),
        (IDENTITY, ISSUER),
    ];
    assert!(verdict(&trusting(&instance, &several), &bundle).is_ok());
}

#[test]
fn each_curve_of_the_format_signs_keyless_too() {
    let instance = Instance::new();
    let anchors = trusting(&instance, &[(IDENTITY, ISSUER)]);
    for curve in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let order = Order {
            curve,
            ..Order::good()
        };
        assert!(verdict(&anchors, &instance.sign(&order, &payload())).is_ok());
    }
    // The crate that checks the evidence does not know P-521: refused, not waved through.
    let order = Order {
        curve: &rcgen::PKCS_ECDSA_P521_SHA512,
        ..Order::good()
    };
    refused(
        &anchors,
        &instance.sign(&order, &payload()),
        TrustErrorKind::Signer,
        "the signer's key is on P-521, which is not taken for keyless signatures: sign with a key on P-256 or P-384",
        "P-521",
    );
    let order = Order {
        curve: &rcgen::PKCS_ED25519,
        ..Order::good()
    };
    let bundle = instance.sign(&order, &payload());
    refused(
        &anchors,
        &bundle,
        TrustErrorKind::Signer,
        "not trusted",
        "Ed25519",
    );
}

#[test]
fn a_keyless_payload_is_limited() {
    let instance = Instance::new();
    let anchors = trusting(&instance, &[(IDENTITY, ISSUER)]);
    // White space behind the statement makes it no other statement.
    let mut long = payload();
    long.resize(MAX_KEYLESS_PAYLOAD_BYTES, b' ');
    let verified = verdict(&anchors, &instance.sign(&Order::good(), &long));
    assert!(verified.is_ok(), "{verified:?}");
    long.push(b' ');
    refused(
        &anchors,
        &instance.sign(&Order::good(), &long),
        TrustErrorKind::Bundle,
        "the payload has 67108865 bytes, more than the 67108864 of a keyless bundle: sign it with a key or a certificate",
        "one byte more",
    );
}

#[test]
fn nobody_else_is_let_in_and_the_message_says_who_signed() {
    let instance = Instance::new();
    let bundle = instance.sign(&Order::good(), &payload());
    let cases = [
        (
            "https://forge.example/acme/train/release.yml@refs/tags/v2",
            ISSUER,
        ),
        ("https://forge.example/acme/train/release.yml@refs/tags/", ISSUER),
        ("https://forge.example/acme/train/release.yml", ISSUER),
        (
            "https://FORGE.example/acme/train/release.yml@refs/tags/v1",
            ISSUER,
        ),
        ("https://forge.example/*", ISSUER),
        ("https://forge.example/acme/*", ISSUER),
        (
            "email:https://forge.example/acme/train/release.yml@refs/tags/v1",
            ISSUER,
        ),
        (IDENTITY, "https://token.forge.example/"),
        (IDENTITY, "https://token.forge.exampl"),
        (IDENTITY, "http://token.forge.example"),
        (IDENTITY, "*"),
    ];
    for (identity, issuer) in cases {
        let anchors = trusting(&instance, &[(identity, issuer)]);
        let want = format!("it is signed by \"uri:{IDENTITY}\", for whom \"{ISSUER}\" vouches: trusted is");
        refused(&anchors, &bundle, TrustErrorKind::Signer, &want, identity);
    }
    // The right identity under another instance's keys.
    let other = trusting(&Instance::new(), &[(IDENTITY, ISSUER)]);
    let (kind, message) = verdict(&other, &bundle).unwrap_err();
    assert_eq!(kind, TrustErrorKind::Signer, "{message}");
    let mut keys = TrustAnchors::new();
    keys.allow_legacy();
    refused(
        &keys,
        &bundle,
        TrustErrorKind::Signer,
        "nobody is trusted for it",
        "nobody",
    );
    // An address that poses as a URI's host, and the other way round.
    for (name, identity, right) in [
        (
            email("a@forge.example"),
            "uri:a@forge.example",
            "email:a@forge.example",
        ),
        (
            uri("a@forge.example"),
            "email:a@forge.example",
            "uri:a@forge.example",
        ),
    ] {
        let order = Order {
            names: vec![name],
            ..Order::good()
        };
        let bundle = instance.sign(&order, &payload());
        let anchors = trusting(&instance, &[(identity, ISSUER)]);
        refused(
            &anchors,
            &bundle,
            TrustErrorKind::Signer,
            "it is signed by",
            identity,
        );
        assert!(verdict(&trusting(&instance, &[(right, ISSUER)]), &bundle).is_ok());
    }
}

#[test]
fn a_certificate_that_the_instance_issued_may_still_be_the_wrong_kind() {
    let instance = Instance::new();
    let anchors = trusting(&instance, &[(IDENTITY, ISSUER), ("a@forge.example", ISSUER)]);
    let good = Order::good;
    let cases = [
        (
            "two names",
            Order {
                names: vec![uri(IDENTITY), uri("https://evil.example/")],
                ..good()
            },
            "not exactly one email address or URI",
        ),
        (
            "two kinds of names",
            Order {
                names: vec![email("a@forge.example"), uri(IDENTITY)],
                ..good()
            },
            "not exactly one email address or URI",
        ),
        (
            "a host",
            Order {
                names: vec![rcgen::SanType::DnsName("forge.example".try_into().unwrap())],
                ..good()
            },
            "not exactly one email address or URI",
        ),
        (
            "no name",
            Order {
                names: vec![],
                ..good()
            },
            "not exactly one email address or URI",
        ),
        (
            "no issuer",
            Order {
                issuer: None,
                ..good()
            },
            "who vouches for the identity is not proven",
        ),
        (
            "an empty issuer",
            Order {
                issuer: Some(""),
                ..good()
            },
            "who vouches for the identity is not proven",
        ),
        (
            "another purpose",
            Order {
                purposes: vec![ExtendedKeyUsagePurpose::ServerAuth],
                ..good()
            },
            "certificate",
        ),
        (
            "any purpose",
            Order {
                purposes: vec![ExtendedKeyUsagePurpose::Any],
                ..good()
            },
            "certificate",
        ),
        (
            "code signing and anything else",
            Order {
                purposes: vec![ExtendedKeyUsagePurpose::CodeSigning, ExtendedKeyUsagePurpose::Any],
                ..good()
            },
            "has an extended key usage other than codeSigning",
        ),
        (
            "a key that does not sign",
            Order {
                usages: vec![KeyUsagePurpose::KeyEncipherment],
                ..good()
            },
            "key usage without digitalSignature",
        ),
        ("no SCT", Order { sct: false, ..good() }, "SCT"),
        (
            "logged before the certificate was valid",
            Order {
                integrated_at: SIGNED_AT - 301,
                ..good()
            },
            "certificate",
        ),
        (
            "logged after it expired",
            Order {
                integrated_at: SIGNED_AT + 301,
                ..good()
            },
            "certificate",
        ),
    ];
    for (name, order, want) in cases {
        let bundle = instance.sign(&order, &payload());
        refused(&anchors, &bundle, TrustErrorKind::Signer, want, name);
    }
    for edge in [-300, 300] {
        let order = Order {
            integrated_at: SIGNED_AT + edge,
            ..good()
        };
        assert!(
            verdict(&anchors, &instance.sign(&order, &payload())).is_ok(),
            "{edge}"
        );
    }
}

#[test]
fn what_the_log_says_must_be_about_this_signature() {
    let instance = Instance::new();
    let anchors = trusting(&instance, &[(IDENTITY, ISSUER)]);
    let order = Order {
        recorded: Some(b"another payload".to_vec()),
        ..Order::good()
    };
    let bundle = instance.sign(&order, &payload());
    refused(
        &anchors,
        &bundle,
        TrustErrorKind::Signer,
        "records another signature",
        "recorded",
    );
    let order = Order {
        signed: Some(b"another payload".to_vec()),
        ..Order::good()
    };
    let bundle = instance.sign(&order, &payload());
    refused(
        &anchors,
        &bundle,
        TrustErrorKind::Signature,
        "does not match",
        "signed",
    );
    // Two good bundles of the same signer, with one part of the other's.
    let (one, two) = (
        instance.sign(&Order::good(), &payload()),
        instance.sign(&Order::good(), &payload()),
    );
    for (pointer, kind, want) in [
        (
            "/verificationMaterial/tlogEntries/0",
            TrustErrorKind::Signer,
            "records another signature",
        ),
        (
            "/verificationMaterial/certificate",
            TrustErrorKind::Signature,
            "does not match",
        ),
        ("/dsseEnvelope", TrustErrorKind::Signature, "does not match"),
        (
            "/verificationMaterial/tlogEntries/0/canonicalizedBody",
            TrustErrorKind::Signer,
            "inclusion promise does not hold",
        ),
        (
            "/verificationMaterial/tlogEntries/0/inclusionPromise",
            TrustErrorKind::Signer,
            "inclusion promise does not hold",
        ),
        (
            "/verificationMaterial/tlogEntries/0/inclusionProof",
            TrustErrorKind::Signer,
            "inclusion proof does not hold",
        ),
    ] {
        let mut mixed = one.clone();
        *mixed.pointer_mut(pointer).unwrap() = two.pointer(pointer).unwrap().clone();
        refused(&anchors, &mixed, kind, want, pointer);
    }
    // A tree of another size than the one that the log signed, with the root that it signed.
    let order = Order {
        tree_size: 3,
        ..Order::good()
    };
    let bundle = instance.sign(&order, &payload());
    refused(
        &anchors,
        &bundle,
        TrustErrorKind::Bundle,
        "for a log of 2 entries, and the log's checkpoint is of 3",
        "tree size",
    );
}

/// Evidence can be taken away by anybody who handles the bundle.
#[test]
fn a_bundle_that_lacks_one_proof_is_refused() {
    let instance = Instance::new();
    let anchors = trusting(&instance, &[(IDENTITY, ISSUER)]);
    let good = instance.sign(&Order::good(), &payload());
    let entry = "/verificationMaterial/tlogEntries/0";
    let other = BASE64.encode(&[0; 32]);
    type Edit<'a> = Box<dyn Fn(&mut Value) + 'a>;
    let remove = |pointer: &'static str, field: &'static str| -> Edit<'_> {
        Box::new(move |bundle: &mut Value| {
            let parent = bundle.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
            parent.remove(field).unwrap();
        })
    };
    let set = |pointer: &'static str, value: Value| -> Edit<'_> {
        Box::new(move |bundle: &mut Value| *bundle.pointer_mut(pointer).unwrap() = value.clone())
    };
    let material = "/verificationMaterial";
    let cases: Vec<(&str, Edit<'_>, TrustErrorKind, &str)> = vec![
        (
            "no log entries",
            remove(material, "tlogEntries"),
            TrustErrorKind::Bundle,
            "no tlogEntries",
        ),
        (
            "an empty list of them",
            set("/verificationMaterial/tlogEntries", json!([])),
            TrustErrorKind::Bundle,
            "there are 0 transparency log entries",
        ),
        (
            "the same twice",
            Box::new(|bundle: &mut Value| {
                let entries = bundle.pointer_mut("/verificationMaterial/tlogEntries").unwrap();
                *entries = json!([entries[0], entries[0]]);
            }),
            TrustErrorKind::Bundle,
            "there are 2 transparency log entries",
        ),
        (
            "no inclusion proof",
            remove("/verificationMaterial/tlogEntries/0", "inclusionProof"),
            TrustErrorKind::Bundle,
            "has no inclusion proof",
        ),
        (
            "no checkpoint",
            remove("/verificationMaterial/tlogEntries/0/inclusionProof", "checkpoint"),
            TrustErrorKind::Bundle,
            "has no checkpoint",
        ),
        (
            "an empty checkpoint",
            set(
                "/verificationMaterial/tlogEntries/0/inclusionProof/checkpoint/envelope",
                json!(""),
            ),
            TrustErrorKind::Bundle,
            "has no checkpoint",
        ),
        (
            "no promise",
            remove("/verificationMaterial/tlogEntries/0", "inclusionPromise"),
            TrustErrorKind::Bundle,
            "says when it was signed",
        ),
        (
            "a promise of no time",
            remove("/verificationMaterial/tlogEntries/0", "integratedTime"),
            TrustErrorKind::Bundle,
            "no integratedTime",
        ),
        (
            "a promise of time zero",
            set("/verificationMaterial/tlogEntries/0/integratedTime", json!("0")),
            TrustErrorKind::Bundle,
            "no integratedTime",
        ),
        (
            "another time",
            set(
                "/verificationMaterial/tlogEntries/0/integratedTime",
                json!((SIGNED_AT + 1).to_string()),
            ),
            TrustErrorKind::Signer,
            "inclusion promise does not hold",
        ),
        (
            "another index",
            set("/verificationMaterial/tlogEntries/0/logIndex", json!("4712")),
            TrustErrorKind::Signer,
            "inclusion promise does not hold",
        ),
        (
            "another log",
            set("/verificationMaterial/tlogEntries/0/logId/keyId", json!(other)),
            TrustErrorKind::Signer,
            "inclusion promise does not hold",
        ),
        (
            "another place in the tree",
            set(
                "/verificationMaterial/tlogEntries/0/inclusionProof/logIndex",
                json!("1"),
            ),
            TrustErrorKind::Signer,
            "inclusion proof does not hold",
        ),
        (
            "another sibling",
            set(
                "/verificationMaterial/tlogEntries/0/inclusionProof/hashes",
                json!([other]),
            ),
            TrustErrorKind::Signer,
            "inclusion proof does not hold",
        ),
        (
            "another root",
            set(
                "/verificationMaterial/tlogEntries/0/inclusionProof/rootHash",
                json!(other),
            ),
            TrustErrorKind::Bundle,
            "malformed",
        ),
        (
            "another kind of entry",
            set(
                "/verificationMaterial/tlogEntries/0/kindVersion/kind",
                json!("hashedrekord"),
            ),
            TrustErrorKind::Bundle,
            "incompatible with a DSSE envelope",
        ),
        (
            "a kind that nobody knows",
            set(
                "/verificationMaterial/tlogEntries/0/kindVersion/kind",
                json!("dsse\n"),
            ),
            TrustErrorKind::Bundle,
            "dsse\\n 0.0.1, which is not known",
        ),
        (
            "a timestamp that is none",
            Box::new(|bundle: &mut Value| {
                bundle["verificationMaterial"]["timestampVerificationData"] =
                    json!({"rfc3161Timestamps": [{"signedTimestamp": "AAAA"}]});
            }),
            TrustErrorKind::Signer,
            "the timestamp does not hold",
        ),
        (
            "a message signature beside the envelope",
            Box::new(|bundle: &mut Value| bundle["messageSignature"] = json!({})),
            TrustErrorKind::Bundle,
            "messageSignature",
        ),
        (
            "a public key beside the certificate",
            Box::new(|bundle: &mut Value| bundle["verificationMaterial"]["publicKey"] = json!({})),
            TrustErrorKind::Bundle,
            "more than one of publicKey",
        ),
        (
            "no media type",
            remove("", "mediaType"),
            TrustErrorKind::Bundle,
            "no mediaType",
        ),
        (
            "a field that nobody knows",
            Box::new(|bundle: &mut Value| bundle["verificationMaterial"]["tlogEntries"][0]["x"] = json!(1)),
            TrustErrorKind::Bundle,
            "unknown field",
        ),
    ];
    for (name, edit, kind, want) in cases {
        let mut bundle = good.clone();
        edit(&mut bundle);
        assert_ne!(bundle, good, "{name}");
        refused(&anchors, &bundle, kind, want, name);
    }
    assert!(good.pointer(entry).is_some() && verdict(&anchors, &good).is_ok());
}

/// Signature wrapping: two envelopes, entries or certificates in one text, of which parsers read different ones.
#[test]
fn a_text_that_could_be_read_in_two_ways_is_not_read_at_all() {
    let instance = Instance::new();
    let anchors = trusting(&instance, &[(IDENTITY, ISSUER)]);
    let good = instance.sign(&Order::good(), &payload());
    let evil = Instance::new().sign(&Order::good(), b"{}");
    let text = good.to_string();
    for (key, value) in [
        ("dsseEnvelope", &evil["dsseEnvelope"]),
        ("verificationMaterial", &evil["verificationMaterial"]),
        ("payload", &evil["dsseEnvelope"]["payload"]),
        ("payl\\u006fad", &evil["dsseEnvelope"]["payload"]),
        ("certificate", &evil["verificationMaterial"]["certificate"]),
        ("tlogEntries", &evil["verificationMaterial"]["tlogEntries"]),
        ("canonicalizedBody", &json!("AAAA")),
        ("envelope", &json!("x")),
        ("integratedTime", &json!("1")),
    ] {
        let plain = key.replace("\\u006f", "o");
        let first = format!("\"{plain}\":");
        for twice in [
            text.replacen(&first, &format!("\"{key}\":{value},{first}"), 1),
            text.replacen(&first, &format!("{first}{value},\"{key}\":"), 1),
        ] {
            assert_ne!(twice, text, "{key}");
            let error = with_causes(&Bundle::parse(twice.as_bytes()).expect_err(key));
            assert!(error.contains("stands twice"), "{key}: {error}");
        }
    }
    // Spellings that a lenient decoder takes for the same bytes.
    for (pointer, spell) in [
        ("/dsseEnvelope/payload", " "),
        ("/dsseEnvelope/signatures/0/sig", "\n"),
        ("/verificationMaterial/certificate/rawBytes", "="),
        ("/verificationMaterial/tlogEntries/0/canonicalizedBody", "="),
        (
            "/verificationMaterial/tlogEntries/0/inclusionProof/rootHash",
            "\t",
        ),
        ("/verificationMaterial/tlogEntries/0/inclusionProof/treeSize", " "),
        ("/verificationMaterial/tlogEntries/0/logIndex", ".0"),
    ] {
        let mut bundle = good.clone();
        let value = bundle.pointer_mut(pointer).unwrap();
        *value = json!(format!("{}{spell}", value.as_str().unwrap()));
        let (kind, message) = verdict(&anchors, &bundle).expect_err(pointer);
        assert_eq!(kind, TrustErrorKind::Bundle, "{message}");
    }
    for number in ["+4711", "04711", "-1", "9223372036854775808", ""] {
        let mut bundle = good.clone();
        bundle["verificationMaterial"]["tlogEntries"][0]["logIndex"] = json!(number);
        refused(&anchors, &bundle, TrustErrorKind::Bundle, "logIndex", number);
    }
}

/// Every byte of the text, changed: what is still accepted says the same of the same signer.
#[test]
fn a_changed_keyless_bundle_is_refused_or_means_the_same() {
    let instance = Instance::new();
    let anchors = trusting(&instance, &[(IDENTITY, ISSUER)]);
    let text = instance.sign(&Order::good(), &payload()).to_string().into_bytes();
    let good = Bundle::parse(&text).unwrap();
    let good = anchors.verify(&good, NOW).unwrap();
    let mut accepted = 0;
    for at in 0..text.len() {
        for changed in [text[at] ^ 1, text[at] ^ 0x20, b'A', b'"'] {
            let mut mutant = text.clone();
            mutant[at] = changed;
            let Ok(bundle) = Bundle::parse(&mutant) else {
                continue;
            };
            let Ok(trusted) = anchors.verify(&bundle, NOW) else {
                continue;
            };
            if changed != text[at] {
                accepted += 1;
            }
            assert_eq!(trusted.manifest().identity(), good.manifest().identity());
            assert_eq!(trusted.signer(), good.signer());
            assert_eq!(trusted.signed_at(), good.signed_at());
        }
    }
    // The name on the checkpoint's signature line is all that nobody signs.
    assert!(accepted < 60, "{accepted} accepted");
}

/// A model on disk, signed by an instance, and what an operator gives.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(instance: &Instance, order: &Order) -> Self {
        let scene = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(scene.path("model")).unwrap();
        fs::write(scene.path("model/weights"), b"weights").unwrap();
        let bundle = instance.sign(order, &payload()).to_string();
        fs::write(scene.path("model.sig"), bundle).unwrap();
        fs::write(scene.path("root.json"), instance.trusted_root().to_string()).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    fn trust(&self) -> Vec<OsString> {
        let root = self.path("root.json").into_os_string();
        let options = [
            "--identity".into(),
            IDENTITY.into(),
            "--identity-provider".into(),
            ISSUER.into(),
            "--trusted-root".into(),
            root,
        ];
        options.to_vec()
    }

    fn run(&self, command: &str, trust: &[OsString]) -> Outcome {
        let mut args: Vec<OsString> = vec![command.into()];
        args.extend(trust.iter().cloned());
        args.push(self.path("model.sig").into());
        if command != "inspect" {
            args.push(self.path("model").into());
        }
        modelfs(args)
    }
}

fn options(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[test]
fn a_keyless_model_is_inspected_verified_and_mounted_and_each_says_who_signed_when() {
    let scene = Scene::new(&Instance::new(), &Order::good());
    let who = format!("sigstore identity \"uri:{IDENTITY}\" for whom \"{ISSUER}\" vouches");
    let when = "2026-01-01T00:05:00Z (says the log \"https://rekor.example\", entry 4711)";
    let outcome = scene.run("inspect", &scene.trust());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for line in [
        format!("signed by    {who}"),
        "method       sigstore".to_owned(),
        format!("signed at    {when}"),
        format!(
            "trusted root {}, its newest key is valid from 2025-01-01",
            scene.path("root.json").display()
        ),
    ] {
        assert!(outcome.text().contains(&line), "{line}: {outcome:?}");
    }
    let mut json = scene.trust();
    json.insert(0, "--json".into());
    let outcome = scene.run("inspect", &json);
    let data: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(data["signer"]["method"], "sigstore");
    assert_eq!(data["signer"]["identity"], format!("uri:{IDENTITY}"));
    assert_eq!(data["signer"]["issuer"], ISSUER);
    assert_eq!(
        data["signed_at"],
        json!([{
            "time": "2026-01-01T00:05:00Z",
            "proof": "transparency-log",
            "log": "https://rekor.example",
            "entry": 4711,
        }])
    );
    let outcome = scene.run("verify", &scene.trust());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.text().contains(&who) && outcome.text().contains(when),
        "{outcome:?}"
    );
    if !support::can_mount() {
        return;
    }
    let point = scene.path("mnt");
    fs::create_dir(&point).unwrap();
    let log = scene.path("log");
    let mut args = options(&["mount", "--log-file"]);
    args.push(log.clone().into());
    args.extend(scene.trust());
    args.extend(["model.sig", "model", "mnt"].map(|name| scene.path(name).into_os_string()));
    let outcome = modelfs(args);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let mounted = Unmount(&point);
    assert_eq!(fs::read(point.join("weights")).unwrap(), b"weights");
    let status = modelfs(["status".into(), point.clone().into_os_string()]);
    let logged = fs::read_to_string(&log).unwrap();
    for text in [status.text(), logged] {
        assert!(text.contains(&who) && text.contains(when), "{text}");
    }
    drop(mounted);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        support::mounted::unmount(self.0);
    }
}

#[test]
fn what_is_missing_on_the_command_line_is_said_with_its_remedy() {
    let scene = Scene::new(&Instance::new(), &Order::good());
    let root = scene.path("root.json");
    let root = root.to_str().unwrap();
    fs::write(scene.path("no-root.json"), "{}").unwrap();
    let no_root = scene.path("no-root.json");
    let identity = ["--identity", IDENTITY];
    let issuer = ["--identity-provider", ISSUER];
    let cases = [
        (
            [&identity[..], &issuer[..]].concat(),
            2,
            "give --trusted-root FILE with its trusted_root.json, or --trusted-root production",
        ),
        (
            [&identity[..], &["--trusted-root", root]].concat(),
            2,
            "--identity-provider",
        ),
        ([&issuer[..], &["--trusted-root", root]].concat(), 2, "--identity"),
        (vec!["--trusted-root", root], 2, "--identity"),
        (
            vec![
                "--identity",
                "alice",
                "--identity-provider",
                ISSUER,
                "--trusted-root",
                root,
            ],
            2,
            "begin it with email: or uri:",
        ),
        (
            vec![
                "--identity",
                IDENTITY,
                "--identity-provider",
                "",
                "--trusted-root",
                root,
            ],
            2,
            "--identity-provider is empty",
        ),
        (
            [
                &identity[..],
                &issuer[..],
                &["--trusted-root", root, "--tsa-root", root],
            ]
            .concat(),
            2,
            "--tsa-root needs --public-key or --certificate-chain",
        ),
        (
            [
                &identity[..],
                &issuer[..],
                &["--trusted-root", no_root.to_str().unwrap()],
            ]
            .concat(),
            3,
            "not a Sigstore trusted_root.json",
        ),
        (
            [&identity[..], &issuer[..], &["--trusted-root", "/nowhere"]].concat(),
            7,
            "/nowhere",
        ),
        // The instance that is inside is another one.
        (
            [&identity[..], &issuer[..], &["--trusted-root", "production"]].concat(),
            3,
            "inclusion promise does not hold",
        ),
    ];
    for (words, code, want) in cases {
        let outcome = scene.run("inspect", &options(&words));
        assert_eq!(outcome.code, Some(code), "{words:?}: {outcome:?}");
        assert!(outcome.text().contains(want), "{words:?}: {outcome:?}");
    }
}

#[test]
fn a_policy_names_keyless_signers_as_it_names_keys() {
    let scene = Scene::new(&Instance::new(), &Order::good());
    let policy = |signer: &str| {
        format!(
            "version = 1\ndefault = \"reject\"\n\
             [roots.sigstore.ring]\ntrusted_root = \"root.json\"\n\
             [roots.sigstore.public]\ntrusted_root = \"production\"\n\
             [[rule]]\nscope = \"{}/**\"\nsigners = [{signer}]\n",
            scene.path("").display().to_string().trim_end_matches('/')
        )
    };
    let signer = |root: &str, identity: &str, issuer: &str| {
        format!(
            "{{ method = \"sigstore\", root = \"{root}\", identity = \"{identity}\", issuer = \"{issuer}\" }}"
        )
    };
    let pattern = IDENTITY.replace("v1", "*");
    let cases = [
        (signer("ring", IDENTITY, ISSUER), 0),
        (signer("ring", &pattern, ISSUER), 0),
        (
            [
                signer("public", IDENTITY, ISSUER),
                signer("ring", IDENTITY, ISSUER),
            ]
            .join(", "),
            0,
        ),
        (signer("ring", "https://forge.example/*", ISSUER), 3),
        (signer("ring", IDENTITY, "https://other.example"), 3),
        (signer("public", IDENTITY, ISSUER), 3),
        (signer("none", IDENTITY, ISSUER), 4),
    ];
    for (signers, code) in cases {
        fs::write(scene.path("policy.toml"), policy(&signers)).unwrap();
        let outcome = scene.run(
            "verify",
            &["--policy".into(), scene.path("policy.toml").into_os_string()],
        );
        assert_eq!(outcome.code, Some(code), "{signers}: {outcome:?}");
    }
}

/// A name in a certificate is the signer's choice, and the identity provider may let much through.
#[test]
fn a_name_cannot_pose_as_the_rest_of_a_line() {
    let instance = Instance::new();
    let name = "https://e.example/\" for whom \"https://token.forge.example\" vouches";
    let order = Order {
        names: vec![uri(name)],
        ..Order::good()
    };
    let scene = Scene::new(&instance, &order);
    let outcome = scene.run("inspect", &scene.trust());
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome
            .text()
            .contains("signed by \"uri:https://e.example/\\\" for whom \\\"https://token"),
        "{outcome:?}"
    );
}
