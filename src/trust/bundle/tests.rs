//! Every spelling of a bundle that signers use, and every other shape with its reason.

use super::*;
use serde_json::Value;
use serde_json::json;

fn good() -> Value {
    json!({
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": "ab"}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": "e30=",
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": "AA==", "keyid": ""}],
        },
    })
}

fn with(pointer: &str, value: Value) -> Vec<u8> {
    let mut bundle = good();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = bundle.pointer_mut(parent).unwrap();
    match parent {
        Value::Object(map) => drop(map.insert(field.to_owned(), value)),
        other => other[field.parse::<usize>().unwrap()] = value,
    }
    bundle.to_string().into_bytes()
}

fn without(pointer: &str) -> Vec<u8> {
    let mut bundle = good();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    bundle
        .pointer_mut(parent)
        .and_then(Value::as_object_mut)
        .unwrap()
        .remove(field)
        .unwrap();
    bundle.to_string().into_bytes()
}

/// A log entry of the right shape, which proves nothing.
fn entry() -> Value {
    let hash = "A".repeat(43) + "=";
    json!({
        "logIndex": "1",
        "logId": {"keyId": hash},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": "1",
        "inclusionPromise": {"signedEntryTimestamp": "AA=="},
        "inclusionProof": {"rootHash": hash, "treeSize": 2, "checkpoint": {"envelope": "x"}},
        "canonicalizedBody": "e30=",
    })
}

const MATERIAL: &str = "/verificationMaterial";
const SIGNATURE: &str = "/dsseEnvelope/signatures/0";

#[test]
fn every_spelling_that_signers_use_is_accepted() {
    let certificate = json!({"rawBytes": "AA=="});
    let cases = [
        (good().to_string().into_bytes(), Method::Key),
        (with("/verificationMaterial/publicKey", json!({})), Method::Key),
        (
            with(
                "/verificationMaterial/publicKey",
                json!({"hint": "", "rawBytes": 7, "keyDetails": "x", "validFor": {}}),
            ),
            Method::Key,
        ),
        (without("/verificationMaterial/tlogEntries"), Method::Key),
        (
            with("/verificationMaterial/tlogEntries", json!([{"x": [1]}])),
            Method::Key,
        ),
        (
            with("/verificationMaterial/timestampVerificationData", json!({"x": 1})),
            Method::Key,
        ),
        (with(SIGNATURE, json!({"sig": "AA=="})), Method::Key),
        (
            with(SIGNATURE, json!({"sig": "AA==", "keyid": null})),
            Method::Key,
        ),
        (with(SIGNATURE, json!({"sig": "AA==", "keyid": "x"})), Method::Key),
        (with("/messageSignature", Value::Null), Method::Key),
        (
            with(
                MATERIAL,
                json!({"x509CertificateChain": {"certificates": [certificate]}}),
            ),
            Method::Certificate,
        ),
        (
            with(
                MATERIAL,
                json!({"certificate": certificate, "tlogEntries": [entry()]}),
            ),
            Method::Sigstore,
        ),
    ];
    for (bytes, want) in cases {
        let bundle = Bundle::parse(&bytes).unwrap_or_else(|e| panic!("{e}: {}", Escaped(&bytes)));
        assert_eq!(bundle.method(), want);
        assert_eq!(bundle.envelope().payload(), b"{}");
    }
}

#[test]
fn every_other_shape_is_refused_with_its_reason() {
    let certificate = json!({"rawBytes": "AA=="});
    let chain =
        |count: usize| json!({"x509CertificateChain": {"certificates": vec![certificate.clone(); count]}});
    let cases = [
        (b"".to_vec(), "not strict JSON"),
        (b"[]".to_vec(), "unexpected JSON"),
        (b"{}".to_vec(), "no mediaType"),
        (
            with("/mediaType", json!("application/x\n")),
            "mediaType is application/x\\n: expected",
        ),
        (with("/mediaType", json!("x".repeat(1000))), "x...: expected"),
        (with("/mediaType", Value::Null), "no mediaType"),
        (
            with(
                "/mediaType",
                json!("application/vnd.dev.sigstore.bundle+json;version=0.3"),
            ),
            "mediaType",
        ),
        (with("/extra", json!(1)), "unknown field"),
        (with("/verificationMaterial/extra", json!(1)), "unknown field"),
        (
            with("/verificationMaterial/publicKey/extra", json!(1)),
            "unknown field",
        ),
        (with("/dsseEnvelope/extra", json!(1)), "unknown field"),
        (
            with("/dsseEnvelope/signatures/0/extra", json!(1)),
            "unknown field",
        ),
        (without(MATERIAL), "none of publicKey"),
        (with(MATERIAL, json!({"tlogEntries": []})), "none of publicKey"),
        (
            with("/verificationMaterial/certificate", certificate.clone()),
            "more than one of publicKey",
        ),
        (
            with("/verificationMaterial/x509CertificateChain", json!({})),
            "more than one of publicKey",
        ),
        (
            with(MATERIAL, json!({"certificate": certificate})),
            "no tlogEntries",
        ),
        (with(MATERIAL, chain(0)), "no certificates"),
        (with(MATERIAL, chain(11)), "has 11 certificates, more than 10"),
        (
            with(
                MATERIAL,
                json!({"x509CertificateChain": {"certificates": [certificate, {"rawBytes": "A"}]}}),
            ),
            "certificate 1 of the bundle is not base64",
        ),
        (
            with("/verificationMaterial/publicKey/hint", json!("x".repeat(257))),
            "257 bytes",
        ),
        (
            with("/verificationMaterial/publicKey/hint", json!(1)),
            "unexpected JSON",
        ),
        (without("/dsseEnvelope"), "no dsseEnvelope"),
        (with("/messageSignature", json!({})), "messageSignature"),
        (without("/dsseEnvelope/payload"), "missing field `payload`"),
        (
            without("/dsseEnvelope/payloadType"),
            "missing field `payloadType`",
        ),
        (
            with("/dsseEnvelope/payloadType", json!("text/plain")),
            "payloadType is text/plain",
        ),
        (without("/dsseEnvelope/signatures"), "has 0 signatures"),
        (with("/dsseEnvelope/signatures", json!([])), "has 0 signatures"),
        (
            with(
                "/dsseEnvelope/signatures",
                json!([{"sig": "AA=="}, {"sig": "AA=="}]),
            ),
            "has 2 signatures",
        ),
        (
            with(SIGNATURE, json!({"sig": "AA==", "keyid": 1})),
            "unexpected JSON",
        ),
        (
            with("/dsseEnvelope/payload", json!("e30")),
            "payload is not base64",
        ),
        (with(SIGNATURE, json!({"sig": ""})), "signature is empty"),
    ];
    for (bytes, want) in cases {
        let error = Bundle::parse(&bytes).expect_err(want);
        let text = with_causes(&error);
        assert!(text.contains(want), "{text}, not {want}");
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn a_list_of_values_does_not_stand_for_an_object_of_named_ones() {
    let (key, chain) = (
        MATERIAL,
        with(
            MATERIAL,
            json!({"x509CertificateChain": [[{"rawBytes": "AA=="}]]}),
        ),
    );
    let cases = [
        json!([MEDIA_TYPE, good()["verificationMaterial"], good()["dsseEnvelope"]])
            .to_string()
            .into_bytes(),
        with(key, json!([{ "hint": "ab" }])),
        with("/verificationMaterial/publicKey", json!(["ab"])),
        with(
            "/dsseEnvelope",
            json!(["e30=", PAYLOAD_TYPE, [{ "sig": "AA==" }]]),
        ),
        with(SIGNATURE, json!(["AA==", ""])),
        with(
            MATERIAL,
            json!({"x509CertificateChain": {"certificates": [["AA=="]]}}),
        ),
        with(MATERIAL, json!({"certificate": ["AA=="]})),
        chain,
    ];
    for bytes in cases {
        assert!(
            matches!(Bundle::parse(&bytes), Err(BundleError::Json(_))),
            "{}",
            Escaped(&bytes)
        );
    }
}

#[test]
fn a_key_written_twice_is_refused_wherever_it_stands() {
    let text = good().to_string();
    for (once, twice) in [
        ("\"mediaType\":", "\"mediaType\":\"x\",\"mediaType\":"),
        ("\"dsseEnvelope\":", "\"dsseEnvelope\":{},\"dsseEnvelope\":"),
        ("\"payload\":", "\"payload\":\"\",\"p\\u0061yload\":"),
        ("\"tlogEntries\":[]", "\"tlogEntries\":[{\"a\":1,\"a\":2}]"),
    ] {
        let doubled = text.replacen(once, twice, 1);
        assert_ne!(doubled, text);
        let error = with_causes(&Bundle::parse(doubled.as_bytes()).unwrap_err());
        assert!(error.contains("twice"), "{error}");
    }
}

#[test]
fn a_bundle_may_be_as_large_as_the_limit_and_no_larger() {
    let spaces = vec![b' '; MAX_BUNDLE_BYTES + 1];
    assert!(matches!(
        Bundle::parse(&spaces),
        Err(BundleError::TooLarge { bytes }) if bytes == MAX_BUNDLE_BYTES + 1
    ));
    assert!(matches!(Bundle::parse(&spaces[1..]), Err(BundleError::Json(_))));
    let most = json!({"x509CertificateChain": {"certificates": vec![json!({"rawBytes": "AA=="}); 10]}});
    assert!(Bundle::parse(&with(MATERIAL, most)).is_ok());
    let hint = json!("x".repeat(MAX_HINT_BYTES));
    assert!(Bundle::parse(&with("/verificationMaterial/publicKey/hint", hint)).is_ok());
}

fn with_causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", with_causes(cause)),
        None => error.to_string(),
    }
}
