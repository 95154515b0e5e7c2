//! Who may sign what, tried from the side of somebody who may not.

use rcgen::KeyPair;
use serde_json::Value;
use serde_json::json;

use super::testing::*;
use super::timestamp::tests as timestamps;
use super::timestamp::tests::Stamp;
use super::*;

fn trusting(keys: &[&Holder], roots: &[&Holder]) -> TrustAnchors {
    let mut anchors = TrustAnchors::new();
    for holder in keys {
        anchors.add_key(holder.public_key());
    }
    for holder in roots {
        anchors.add_certificates(holder.anchor());
    }
    anchors
}

fn with_legacy(mut anchors: TrustAnchors) -> TrustAnchors {
    anchors.allow_legacy();
    anchors
}

/// The signer, or the kind and the beginning of the refusal.
fn verdict(anchors: &TrustAnchors, bundle: &Value) -> Result<Signer, (TrustErrorKind, String)> {
    match anchors.verify(&parse(bundle), NOW) {
        Ok(trusted) => Ok(trusted.signer().clone()),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "{text}");
            Err((error.kind(), text))
        }
    }
}

#[track_caller]
fn refused(anchors: &TrustAnchors, bundle: &Value, kind: TrustErrorKind, words: &str) {
    let (got, text) = verdict(anchors, bundle).unwrap_err();
    assert_eq!(got, kind, "{text}");
    assert!(text.contains(words), "{text}, not {words}");
}

fn of_key(holder: &Holder) -> Signer {
    Signer::Key {
        fingerprint: holder.public_key().fingerprint().to_owned(),
        curve: holder.public_key().curve(),
    }
}

/// Of the right shape, and proof of nothing.
fn keyless_material() -> Value {
    let hash = "A".repeat(43) + "=";
    json!({
        "certificate": {"rawBytes": "AA=="},
        "tlogEntries": [{
            "logId": {"keyId": hash},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": "1",
            "inclusionPromise": {"signedEntryTimestamp": "AA=="},
            "inclusionProof": {"rootHash": hash, "treeSize": "2", "checkpoint": {"envelope": "x"}},
            "canonicalizedBody": "e30=",
        }],
    })
}

const EVERY_CURVE: [&rcgen::SignatureAlgorithm; 3] = [
    &rcgen::PKCS_ECDSA_P256_SHA256,
    &rcgen::PKCS_ECDSA_P384_SHA384,
    &rcgen::PKCS_ECDSA_P521_SHA512,
];

#[test]
fn nothing_is_trusted_by_default() {
    let (root, payload) = (Holder::root("root"), statement());
    let leaf = root.issue(signer("leaf"));
    let mut keyless = root.sign(&payload, &pae(&payload));
    keyless["verificationMaterial"] = keyless_material();
    let key = root.sign(&payload, &pae(&payload));
    let certificate = leaf.sign_certified(&[], &payload, &pae(&payload));
    let nobody = with_legacy(TrustAnchors::new());
    assert!(nobody.is_empty());
    refused(&nobody, &key, TrustErrorKind::Signer, "no key is trusted");
    refused(
        &nobody,
        &certificate,
        TrustErrorKind::Signer,
        "no certificate chain is trusted",
    );
    refused(&nobody, &keyless, TrustErrorKind::Signer, "keyless");
    let everybody = with_legacy(trusting(&[&root, &leaf], &[&root]));
    assert!(!everybody.is_empty());
    refused(&everybody, &keyless, TrustErrorKind::Signer, "keyless");
}

#[test]
fn a_trusted_manifest_is_the_signed_one_and_names_its_signer() {
    let payload = statement();
    for algorithm in EVERY_CURVE {
        let root = Holder::self_signed(authority("root"), algorithm);
        let leaf = root.issue_for(signer("leaf"), KeyPair::generate_for(algorithm).unwrap());
        let anchors = trusting(&[&root], &[&root]);
        let by_key = anchors
            .verify(&parse(&root.sign(&payload, &pae(&payload))), NOW)
            .unwrap();
        assert_eq!(by_key.signer(), &of_key(&root));
        assert_eq!(by_key.signer().method(), Method::Key);
        assert_eq!(
            by_key.manifest().identity(),
            &crate::digest::sha256(payload.as_bytes())
        );
        let bundle = leaf.sign_certified(&[], &payload, &pae(&payload));
        let by_certificate = anchors.verify(&parse(&bundle), NOW).unwrap();
        assert_eq!(by_certificate.signer().method(), Method::Certificate);
        let text = by_certificate.signer().to_string();
        assert!(text.starts_with("certificate \"CN=leaf\" issued by \"CN=root\", serial number "));
        let Signer::Certificate {
            spki_sha256,
            not_before,
            ..
        } = by_certificate.signer()
        else {
            panic!("{text}")
        };
        assert_eq!(*spki_sha256, leaf.public_key().spki_sha256());
        assert_eq!(not_before.to_string(), "2025-01-01T00:00:00Z");
    }
}

/// Whoever has one trusted thing must not get anywhere by presenting it as another.
#[test]
fn a_signature_of_one_method_is_no_signature_of_the_other() {
    let (root, payload) = (Holder::root("root"), statement());
    let leaf = root.issue(signer("leaf"));
    let by_key = leaf.sign(&payload, &pae(&payload));
    let by_certificate = leaf.sign_certified(&[&root], &payload, &pae(&payload));
    // The leaf's key is certified, not trusted as it is; and the other way round.
    refused(
        &trusting(&[], &[&root]),
        &by_key,
        TrustErrorKind::Signer,
        "no key is trusted",
    );
    refused(
        &trusting(&[&leaf], &[]),
        &by_certificate,
        TrustErrorKind::Signer,
        "no certificate chain",
    );
    // Its issuer's key signs certificates, not models.
    let mut by_issuer = root.sign_certified(&[], &payload, &pae(&payload));
    by_issuer["verificationMaterial"] = by_certificate["verificationMaterial"].clone();
    refused(
        &trusting(&[], &[&root]),
        &by_issuer,
        TrustErrorKind::Signature,
        "does not match",
    );
    let misordered = root.sign_certified(&[&leaf], &payload, &pae(&payload));
    refused(
        &trusting(&[], &[&root]),
        &misordered,
        TrustErrorKind::Signer,
        "digitalSignature",
    );
}

#[test]
fn a_hint_selects_among_trusted_keys_and_vouches_for_none() {
    let (ours, theirs, stranger, payload) = (
        Holder::root("a"),
        Holder::root("b"),
        Holder::root("c"),
        statement(),
    );
    let both = trusting(&[&ours, &theirs], &[]);
    let signed = ours.sign(&payload, &pae(&payload));
    assert_eq!(verdict(&both, &signed), Ok(of_key(&ours)));
    let with_hint = |hint: Value| {
        let mut bundle = signed.clone();
        bundle["verificationMaterial"]["publicKey"] = hint;
        bundle
    };
    for absent in [json!({}), json!({"hint": ""}), json!({"hint": null})] {
        let bundle = with_hint(absent);
        assert_eq!(verdict(&both, &bundle), Ok(of_key(&ours)));
        refused(
            &trusting(&[&theirs, &stranger], &[]),
            &bundle,
            TrustErrorKind::Signature,
            "none of the 2 trusted keys",
        );
        refused(
            &trusting(&[&theirs], &[]),
            &bundle,
            TrustErrorKind::Signature,
            "does not match",
        );
    }
    // Both keys are trusted, and the bundle says the wrong one signed.
    let wrong = with_hint(json!({"hint": theirs.public_key().fingerprint()}));
    refused(&both, &wrong, TrustErrorKind::Signature, "does not match");
    let fingerprint = ours.public_key().fingerprint().to_owned();
    for unknown in [
        stranger.public_key().fingerprint().to_owned(),
        fingerprint.to_uppercase(),
        fingerprint[..63].to_owned(),
        format!("{fingerprint} "),
        ours.public_key().spki_sha256(),
        "\u{1b}[2J\n".to_owned(),
    ] {
        let bundle = with_hint(json!({"hint": unknown}));
        refused(
            &both,
            &bundle,
            TrustErrorKind::Signer,
            "none of the trusted keys is it",
        );
    }
    // A stranger brings a key along.
    let mut brought = stranger.sign(&payload, &pae(&payload));
    let pem = pem::encode("PUBLIC KEY", b"whatever");
    brought["verificationMaterial"]["publicKey"] = json!({"rawBytes": data_encoding::BASE64.encode(pem.as_bytes()), "keyDetails": "PKIX_ECDSA_P256_SHA_256"});
    refused(
        &both,
        &brought,
        TrustErrorKind::Signature,
        "none of the 2 trusted keys",
    );
}

#[test]
fn only_the_pae_of_these_bytes_counts() {
    let (holder, payload) = (Holder::root("a"), statement());
    let anchors = with_legacy(trusting(&[&holder], &[]));
    let other = payload.replace("weights", "Weights");
    let spaced = format!("{payload} ");
    for signed in [
        payload.clone().into_bytes(),
        pae(&other),
        pae(&spaced),
        pae_of_type("application/json", &payload),
        pae(&payload)[1..].to_vec(),
        [pae(&payload), b" ".to_vec()].concat(),
        String::from_utf8(pae(&payload))
            .unwrap()
            .replace("DSSEv1", "DSSEV1")
            .into_bytes(),
    ] {
        let bundle = holder.sign(&payload, &signed);
        refused(&anchors, &bundle, TrustErrorKind::Signature, "does not match");
    }
}

/// Each encoding goes with its own format, so that a signature made for one cannot be read as the other.
#[test]
fn legacy_is_accepted_whole_and_only_when_allowed() {
    let (new, old) = (statement(), legacy_statement());
    for algorithm in EVERY_CURVE {
        let holder = Holder::self_signed(signer("a"), algorithm);
        let strict = trusting(&[&holder], &[]);
        let lenient = with_legacy(strict.clone());
        let genuine = holder.sign(&old, &legacy_pae(&old));
        assert_eq!(verdict(&lenient, &genuine), Ok(of_key(&holder)));
        refused(
            &strict,
            &genuine,
            TrustErrorKind::Signature,
            "only with --allow-legacy",
        );
        let new_in_old = holder.sign(&new, &legacy_pae(&new));
        refused(&lenient, &new_in_old, TrustErrorKind::Manifest, "malformed");
        refused(
            &strict,
            &new_in_old,
            TrustErrorKind::Signature,
            "only with --allow-legacy",
        );
        let old_in_new = holder.sign(&old, &pae(&old));
        refused(&lenient, &old_in_new, TrustErrorKind::Manifest, "malformed");
        refused(&strict, &old_in_new, TrustErrorKind::Manifest, "malformed");
    }
}

/// v0.2 hashed with SHA-256 under every certificate, and as the curve says with every bare key.
#[test]
fn legacy_certificates_hash_with_sha256_whatever_the_curve() {
    let payload = legacy_statement();
    let root = Holder::root("root");
    let anchors = with_legacy(trusting(&[], &[&root]));
    let signs_with = |algorithm| {
        let leaf = root.issue_for(signer("leaf"), KeyPair::generate_for(algorithm).unwrap());
        leaf.sign_certified(&[], &payload, &legacy_pae(&payload))
    };
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P521_SHA256] {
        assert!(verdict(&anchors, &signs_with(algorithm)).is_ok());
    }
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P521_SHA512] {
        refused(
            &anchors,
            &signs_with(algorithm),
            TrustErrorKind::Signature,
            "does not match",
        );
    }
    let holder = Holder::self_signed(signer("a"), &rcgen::PKCS_ECDSA_P521_SHA256);
    let bundle = holder.sign(&payload, &legacy_pae(&payload));
    let anchors = with_legacy(trusting(&[&holder], &[]));
    refused(&anchors, &bundle, TrustErrorKind::Signature, "does not match");
}

#[test]
fn a_key_that_hashes_otherwise_than_its_curve_says_signs_nothing() {
    let payload = statement();
    let root = Holder::root("root");
    for algorithm in [&rcgen::PKCS_ECDSA_P521_SHA256, &rcgen::PKCS_ECDSA_P521_SHA384] {
        let leaf = root.issue_for(signer("leaf"), KeyPair::generate_for(algorithm).unwrap());
        let anchors = with_legacy(trusting(&[&leaf], &[&root]));
        let by_certificate = leaf.sign_certified(&[], &payload, &pae(&payload));
        refused(
            &anchors,
            &by_certificate,
            TrustErrorKind::Signature,
            "does not match",
        );
        let by_key = leaf.sign(&payload, &pae(&payload));
        refused(&anchors, &by_key, TrustErrorKind::Signature, "does not match");
    }
}

/// Each set of roots has its own pin; one set's leaf must not pass through another set.
#[test]
fn an_identity_belongs_to_its_own_roots() {
    let payload = statement();
    let (ours, theirs) = (Holder::root("ours"), Holder::root("theirs"));
    let pinned = |root: &Holder, name: &str| {
        let identity = CertificateIdentity::parse(&format!("subject:CN={name}")).unwrap();
        root.anchor().with_identity(identity)
    };
    let mut anchors = TrustAnchors::new();
    anchors.add_certificates(pinned(&ours, "alice"));
    anchors.add_certificates(pinned(&theirs, "bob"));
    let sign = |root: &Holder, name: &str| {
        root.issue(signer(name))
            .sign_certified(&[], &payload, &pae(&payload))
    };
    assert!(verdict(&anchors, &sign(&ours, "alice")).is_ok());
    assert!(verdict(&anchors, &sign(&theirs, "bob")).is_ok());
    for (root, name) in [(&ours, "bob"), (&theirs, "alice"), (&ours, "mallory")] {
        let bundle = sign(root, name);
        refused(
            &anchors,
            &bundle,
            TrustErrorKind::Signer,
            "trusted by none of 2 chains",
        );
    }
}

/// A signed manifest that is no manifest is refused after its signature, and says so.
#[test]
fn a_signature_does_not_make_a_manifest() {
    let holder = Holder::root("a");
    let anchors = trusting(&[&holder], &[]);
    for payload in ["", "{}", "[]", "null"] {
        let bundle = holder.sign(payload, &pae(payload));
        refused(&anchors, &bundle, TrustErrorKind::Manifest, "malformed");
        assert!(parse(&bundle).untrusted_manifest().is_err());
    }
    let malformed = TrustError::from(Bundle::parse(b"{}").unwrap_err());
    assert_eq!(malformed.kind(), TrustErrorKind::Bundle);
}

#[test]
fn what_a_bundle_states_can_be_read_without_trust() {
    let (holder, new, old) = (Holder::root("a"), statement(), legacy_statement());
    for (payload, signed) in [(&new, b"nothing".as_slice()), (&old, b"nothing")] {
        let bundle = parse(&holder.sign(payload, signed));
        let manifest = bundle.untrusted_manifest().unwrap();
        assert_eq!(manifest.identity(), &crate::digest::sha256(payload.as_bytes()));
        assert!(
            with_legacy(trusting(&[&holder], &[]))
                .verify(&bundle, NOW)
                .is_err()
        );
    }
}

/// Adds timestamps to a bundle.
fn stamped(mut bundle: Value, responses: &[Vec<u8>]) -> Value {
    let list: Vec<Value> = responses
        .iter()
        .map(|response| json!({"signedTimestamp": data_encoding::BASE64.encode(response)}))
        .collect();
    bundle["verificationMaterial"]["timestampVerificationData"] = json!({"rfc3161Timestamps": list});
    bundle
}

fn signature_of(bundle: &Value) -> Vec<u8> {
    let text = bundle["dsseEnvelope"]["signatures"][0]["sig"].as_str().unwrap();
    data_encoding::BASE64.decode(text.as_bytes()).unwrap()
}

fn with_tsa(mut anchors: TrustAnchors, root: &Holder) -> TrustAnchors {
    anchors.set_timestamps(timestamps::trusting(&[root]));
    anchors
}

/// A signer's certificate that was valid in January 2026, which [`timestamps::THEN`] begins.
fn expired(root: &Holder) -> Holder {
    let mut params = signer("leaf");
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 2, 1);
    root.issue(params)
}

#[test]
fn a_timestamp_keeps_a_signature_good_after_its_certificate_has_expired() {
    let (root, tsa_root, payload) = (Holder::root("root"), Holder::root("tsa root"), statement());
    let leaf = expired(&root);
    let tsa = tsa_root.issue(timestamps::timestamper("tsa"));
    let plain = leaf.sign_certified(&[], &payload, &pae(&payload));
    let stamp = |at: i64| Stamp::new(&tsa, &signature_of(&plain), UnixTime(at)).response();
    let then = timestamps::THEN.0;
    let good = stamped(plain.clone(), &[stamp(then)]);
    let anchors = with_tsa(trusting(&[], &[&root]), &tsa_root);
    let trusted = anchors.verify(&parse(&good), NOW).unwrap();
    assert_eq!(
        trusted.signed_at().to_string(),
        "2026-01-01T00:00:00Z (says the time-stamping authority \"CN=tsa\")"
    );
    // Two of two are as good as one.
    assert!(verdict(&anchors, &stamped(plain.clone(), &[stamp(then), stamp(then + 1)])).is_ok());
    let refuse = |anchors: &TrustAnchors, bundle: &Value, want: &str| {
        refused(anchors, bundle, TrustErrorKind::Signer, want);
    };
    // Without a trusted authority, or without a token: valid now, and it is not.
    refuse(&trusting(&[], &[&root]), &good, "expired at 2026-02-01");
    refuse(&anchors, &plain, "expired at 2026-02-01");
    for empty in [json!({}), json!({"rfc3161Timestamps": []}), Value::Null] {
        let mut bundle = plain.clone();
        bundle["verificationMaterial"]["timestampVerificationData"] = empty;
        refuse(&anchors, &bundle, "expired at 2026-02-01");
    }
    // Proof of a time at which the certificate was not valid is proof against it, whatever else is proven.
    refuse(
        &anchors,
        &stamped(plain.clone(), &[stamp(then - 1)]),
        "is valid from 2026-01-01",
    );
    let late = stamp(1_780_272_000);
    refuse(
        &anchors,
        &stamped(plain.clone(), std::slice::from_ref(&late)),
        "expired at 2026-02-01",
    );
    refuse(
        &anchors,
        &stamped(plain.clone(), &[stamp(then), late]),
        "expired at 2026-02-01",
    );
    // Of an authority that nobody named.
    let strangers = with_tsa(trusting(&[], &[&root]), &Holder::root("tsa root"));
    refuse(&strangers, &good, "its authority is not trusted");
    // The signer's own root is none for times, and the other way round.
    refuse(
        &with_tsa(trusting(&[], &[&root]), &root),
        &good,
        "its authority is not trusted",
    );
    refuse(
        &with_tsa(trusting(&[], &[&tsa_root]), &tsa_root),
        &good,
        "not trusted",
    );
}

#[test]
fn a_timestamp_that_does_not_hold_refuses_what_would_be_good_without_it() {
    let (root, tsa_root, payload) = (Holder::root("root"), Holder::root("tsa root"), statement());
    let leaf = root.issue(signer("leaf"));
    let tsa = tsa_root.issue(timestamps::timestamper("tsa"));
    let by_certificate = leaf.sign_certified(&[], &payload, &pae(&payload));
    let by_key = leaf.sign(&payload, &pae(&payload));
    let other = leaf.sign(&payload, &pae(&payload));
    let both = trusting(&[&leaf], &[&root]);
    let anchors = with_tsa(both.clone(), &tsa_root);
    for plain in [&by_certificate, &by_key] {
        assert!(verdict(&anchors, plain).is_ok());
        let good = Stamp::new(&tsa, &signature_of(plain), timestamps::THEN).response();
        assert!(verdict(&anchors, &stamped(plain.clone(), std::slice::from_ref(&good))).is_ok());
        let stolen = Stamp::new(&tsa, &signature_of(&other), timestamps::THEN).response();
        let mut cut = good.clone();
        cut.pop();
        let cases = [
            (
                vec![stolen.clone()],
                TrustErrorKind::Signature,
                "timestamp 0 of the bundle: it is over another",
            ),
            (
                vec![good.clone(), stolen],
                TrustErrorKind::Signature,
                "timestamp 1 of the bundle: it is over another",
            ),
            (vec![cut], TrustErrorKind::Bundle, "malformed"),
            (vec![good.clone(), good.clone()], TrustErrorKind::Bundle, ""),
            (vec![good; 9], TrustErrorKind::Bundle, ""),
        ];
        for (responses, kind, want) in cases {
            let bundle = stamped(plain.clone(), &responses);
            refused(&anchors, &bundle, kind, want);
            // To an operator who trusts no authority it says nothing, good or bad.
            assert!(verdict(&both, &bundle).is_ok());
        }
        for odd in [
            json!([]),
            json!({"x": 1}),
            json!({"rfc3161Timestamps": [{"signedTimestamp": "A"}]}),
        ] {
            let mut bundle = plain.clone();
            bundle["verificationMaterial"]["timestampVerificationData"] = odd;
            refused(&anchors, &bundle, TrustErrorKind::Bundle, "malformed");
        }
    }
    // A token vouches for a time, and for nobody.
    let alone = with_tsa(TrustAnchors::new(), &tsa_root);
    assert!(alone.is_empty());
    let stamp = Stamp::new(&tsa, &signature_of(&by_key), timestamps::THEN).response();
    refused(
        &alone,
        &stamped(by_key, &[stamp]),
        TrustErrorKind::Signer,
        "no key is trusted",
    );
}
