//! Parts that are whole and do not belong together: keys of JSON twice, fields of another bundle, what is no manifest
//! though its signer is trusted, and what else may lie in a key's file.

use data_encoding::BASE64;
use data_encoding::BASE64URL;
use rcgen::KeyPair;
use rcgen::PublicKeyData as _;
use serde_json::Value;
use serde_json::json;

use crate::damage::Damage;
use crate::damage::May;
use crate::damage::Part;
use crate::damage::Scene;
use crate::damage::payload_of;
use crate::damage::try_all;

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let scene = Scene::new();
    let mut damages = duplicated_keys(scene.part(Part::Bundle));
    damages.extend(reshaped_bundles(&scene));
    damages.extend(other_manifests(&scene));
    damages.extend(other_keys(&scene));
    try_all(&scene, damages);
}

/// Each key of the bundle once more, before itself, and in another spelling that JSON has for it.
fn duplicated_keys(bundle: &[u8]) -> Vec<Damage> {
    let text = std::str::from_utf8(bundle).unwrap();
    let mut damages = Vec::new();
    for (at, _) in text.match_indices("\":") {
        let start = text[..at].rfind('"').unwrap();
        let key = &text[start + 1..at];
        let escaped = format!("\\u{:04x}{}", u32::from(key.as_bytes()[0]), &key[1..]);
        for (spelling, value) in [(key, "null"), (key, "[]"), (&escaped, "null")] {
            let twice = format!("{}\"{spelling}\":{value},{}", &text[..start], &text[start..]);
            damages.push(Damage {
                name: format!("{spelling} twice, {value} before"),
                part: Part::Bundle,
                bytes: twice.into_bytes(),
                may: May::Refuse,
            });
        }
    }
    assert!(damages.len() >= 30, "every key of the bundle: {}", damages.len());
    damages
}

/// The bundle, its fields exchanged for others.
fn reshaped_bundles(scene: &Scene) -> Vec<Damage> {
    const KIND: &str = "application/vnd.dev.sigstore.bundle";
    struct Case {
        name: &'static str,
        at: &'static str,
        put: Value,
    }
    let other: Value = serde_json::from_slice(&scene.signed(b"{}")).unwrap();
    let of_certificate: Value = serde_json::from_slice(scene.part(Part::CertificateBundle)).unwrap();
    let bundle: Value = serde_json::from_slice(scene.part(Part::Bundle)).unwrap();
    let signature = bundle["dsseEnvelope"]["signatures"][0].clone();
    let payload = bundle["dsseEnvelope"]["payload"].as_str().unwrap();
    let bytes = BASE64.decode(payload.as_bytes()).unwrap();
    let (half, rest) = payload.split_at(payload.len() / 2);
    let case = |name, at, put| Case { name, at, put };
    let payload_at = "/dsseEnvelope/payload";
    let signatures_at = "/dsseEnvelope/signatures";
    let sig_at = "/dsseEnvelope/signatures/0/sig";
    let cases = [
        case(
            "another payload by the same signer",
            payload_at,
            other["dsseEnvelope"]["payload"].clone(),
        ),
        case(
            "the signature of another payload",
            signatures_at,
            other["dsseEnvelope"]["signatures"].clone(),
        ),
        case(
            "the signature of another signer",
            signatures_at,
            of_certificate["dsseEnvelope"]["signatures"].clone(),
        ),
        case(
            "a certificate for a key",
            "/verificationMaterial",
            of_certificate["verificationMaterial"].clone(),
        ),
        case("no material", "/verificationMaterial", json!({})),
        case("no signature", signatures_at, json!([])),
        case(
            "one signature twice",
            signatures_at,
            json!([signature, signature]),
        ),
        case("an empty signature", sig_at, json!("")),
        case("a signature of zeros", sig_at, json!(BASE64.encode(&[0; 64]))),
        case(
            "a signature of r and s alone",
            sig_at,
            json!(BASE64.encode(&[1; 64])),
        ),
        case(
            "a signature of r = s = 0",
            sig_at,
            json!(BASE64.encode(&[0x30, 6, 2, 1, 0, 2, 1, 0])),
        ),
        case("a number for a signature", sig_at, json!(1e300)),
        case(
            "another type of payload",
            "/dsseEnvelope/payloadType",
            json!("text/plain"),
        ),
        case("no type of payload", "/dsseEnvelope/payloadType", json!("")),
        case(
            "a bundle of the future",
            "/mediaType",
            json!(format!("{KIND}.v9.9+json")),
        ),
        case("a number for a type", "/mediaType", json!(u64::MAX)),
        case("a type of a megabyte", "/mediaType", json!("x".repeat(1 << 20))),
        case("base64 of URLs", payload_at, json!(BASE64URL.encode(&[0xff; 30]))),
        case(
            "base64 with a line end",
            payload_at,
            json!(format!("{half}\n{rest}")),
        ),
        case(
            "base64 with more behind its end",
            payload_at,
            json!(format!("{payload}====")),
        ),
        case(
            "the payload as an object",
            payload_at,
            serde_json::from_slice(&bytes).unwrap(),
        ),
        case(
            "a hint of another key",
            "/verificationMaterial/publicKey/hint",
            json!("0".repeat(64)),
        ),
        case("a list for a bundle", "", json!([bundle])),
    ];
    cases
        .into_iter()
        .map(|Case { name, at, put }| {
            let mut changed = bundle.clone();
            *changed.pointer_mut(at).unwrap_or_else(|| panic!("{name}: {at}")) = put;
            assert_ne!(changed, bundle, "{name}");
            Damage {
                name: name.to_owned(),
                part: Part::Bundle,
                bytes: serde_json::to_vec(&changed).unwrap(),
                may: May::Refuse,
            }
        })
        .collect()
}

/// What the trusted signer did sign, and no manifest is.
fn other_manifests(scene: &Scene) -> Vec<Damage> {
    let payload = payload_of(scene.part(Part::Bundle));
    let text = String::from_utf8(payload).unwrap();
    // Each is a change of the text, which is as the test's own signer writes it.
    let changes = [
        ("a path out of the model", "config.json", "../config.json"),
        ("an absolute path", "config.json", "/etc/passwd"),
        (
            "a path with a dot",
            "tokenizer/vocab.txt",
            "tokenizer/./vocab.txt",
        ),
        ("a zero in a name", "config.json", "config\\u0000.json"),
        ("half a surrogate in a name", "config.json", "config\\ud800.json"),
        ("a file that is a folder too", "config.json", "tokenizer"),
        ("a name twice", "config.json", "model.safetensors"),
        ("no name", "config.json", ""),
        (
            "an algorithm that is broken",
            "\"algorithm\":\"sha256\"",
            "\"algorithm\":\"md5\"",
        ),
        (
            "an algorithm of other length",
            "\"algorithm\":\"sha256\"",
            "\"algorithm\":\"sha512\"",
        ),
        (
            "a hash of its own for all",
            "\"hash_type\":\"sha256\"",
            "\"hash_type\":\"blake2b\"",
        ),
        ("another method", "\"method\":\"files\"", "\"method\":\"shards\""),
        (
            "shards of no bytes",
            "\"method\":\"files\"",
            "\"method\":\"shards\",\"shard_size\":0",
        ),
        (
            "shards below nothing",
            "\"method\":\"files\"",
            "\"method\":\"shards\",\"shard_size\":-1",
        ),
        (
            "shards without an end",
            "\"method\":\"files\"",
            "\"method\":\"shards\",\"shard_size\":1e999",
        ),
        (
            "shards of more than 64 bits",
            "\"method\":\"files\"",
            "\"method\":\"shards\",\"shard_size\":18446744073709551616",
        ),
        (
            "a key twice",
            "\"method\":\"files\"",
            "\"method\":\"files\",\"method\":\"files\"",
        ),
        (
            "another kind of predicate",
            "model_signing/signature/v1.0",
            "model_signing/signature/v9.0",
        ),
        (
            "another kind of statement",
            "in-toto.io/Statement/v1",
            "in-toto.io/Statement/v0.1",
        ),
        ("a short digest", "\"digest\":\"", "\"digest\":\"00"),
        ("no resources", "\"resources\":[", "\"resources\":[],\"others\":["),
        (
            "a number for the resources",
            "\"resources\":[",
            "\"resources\":1,\"others\":[",
        ),
        ("something after it", "}}", "}}{}"),
    ];
    let mut damages: Vec<Damage> = changes
        .into_iter()
        .map(|(name, from, to)| {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{name}");
            (name, changed.into_bytes())
        })
        .chain([
            ("nothing", Vec::new()),
            ("a list in a list, and so on", vec![b'['; 200_000]),
            ("bytes that are no text", vec![0xff; 64]),
            (
                "a manifest of the previous format",
                b"{\"_type\":\"https://in-toto.io/Statement/v1\"}".to_vec(),
            ),
        ])
        .map(|(name, payload)| Damage {
            name: format!("a manifest with {name}"),
            part: Part::Bundle,
            bytes: scene.signed(&payload),
            may: May::Refuse,
        })
        .collect();
    // To JSON it is the same; to the signature, and to the model's identity, it is not.
    damages.push(Damage {
        name: "the manifest with white space behind it, not signed anew".to_owned(),
        part: Part::Bundle,
        bytes: {
            let mut bundle: Value = serde_json::from_slice(scene.part(Part::Bundle)).unwrap();
            bundle["dsseEnvelope"]["payload"] = json!(BASE64.encode(format!("{text} ").as_bytes()));
            serde_json::to_vec(&bundle).unwrap()
        },
        may: May::Refuse,
    });
    damages
}

/// What else may lie in the key's file.
fn other_keys(scene: &Scene) -> Vec<Damage> {
    let pem = |kind| KeyPair::generate_for(kind).unwrap().public_key_pem().into_bytes();
    let own = String::from_utf8(scene.part(Part::Key).to_vec()).unwrap();
    let root = scene.part(Part::Root).to_vec();
    let cases: [(&str, Vec<u8>, May); 11] = [
        ("a stranger's", pem(&rcgen::PKCS_ECDSA_P256_SHA256), May::Refuse),
        (
            "a stranger's on P-384",
            pem(&rcgen::PKCS_ECDSA_P384_SHA384),
            May::Refuse,
        ),
        ("Ed25519", pem(&rcgen::PKCS_ED25519), May::Refuse),
        (
            "the private key",
            scene.signer.serialize_pem().into_bytes(),
            May::Refuse,
        ),
        ("a certificate", root, May::Refuse),
        ("DER", scene.signer.subject_public_key_info(), May::Refuse),
        (
            "another label",
            own.replace("PUBLIC KEY", "EC PUBLIC KEY").into_bytes(),
            May::Refuse,
        ),
        (
            "no end",
            own.replace("-----END PUBLIC KEY-----", "").into_bytes(),
            May::Refuse,
        ),
        ("no line ends", own.replace('\n', "").into_bytes(), May::Refuse),
        ("the policy", scene.part(Part::Policy).to_vec(), May::Refuse),
        (
            "line ends of Windows",
            own.replace('\n', "\r\n").into_bytes(),
            May::MeanTheSame,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, bytes, may)| Damage {
            name: format!("a key file with {name}"),
            part: Part::Key,
            bytes,
            may,
        })
        .collect()
}
