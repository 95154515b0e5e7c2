//! RFC 3161 timestamps that OpenSSL makes, through the binary: RSA and ECDSA authorities, both ways of naming the
//! certificate. Tokens with one thing wrong are unit tests beside the code.
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
use std::process::Command;

use data_encoding::BASE64;
use serde_json::Value;
use serde_json::json;
use support::Outcome;
use support::modelfs;
use support::notice;
use support::signing::Layout;
use support::signing::Signed;
use support::signing::Signer;

/// An authority of OpenSSL's in a folder.
struct Authority<'a> {
    dir: &'a Path,
}

impl<'a> Authority<'a> {
    /// `key` as `openssl req -newkey` takes it; `named_by` is the hash that names the certificate in a token.
    fn new(dir: &'a Path, key: &[&str], named_by: &str) -> Self {
        fs::create_dir(dir).unwrap();
        let config = format!(
            "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = ring\n\
             [root]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign\n\
             subjectKeyIdentifier = hash\n\
             [leaf]\nbasicConstraints = critical,CA:FALSE\nkeyUsage = critical,digitalSignature\n\
             extendedKeyUsage = critical,timeStamping\nsubjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid\n\
             [ts]\nserial = {}/serial\nsigner_digest = sha256\ndefault_policy = 1.2.3.4\n\
             digests = sha256,sha384\ness_cert_id_alg = {named_by}\ntsa_name = yes\naccuracy = secs:1\n",
            dir.display()
        );
        fs::write(dir.join("config"), config).unwrap();
        let authority = Self { dir };
        let new = |name: &str, more: &[&str]| {
            let common = ["req", "-config", "config", "-nodes", "-subj"];
            let subject = format!("/CN=ring {name}");
            let (pem, secret) = (format!("{name}.pem"), format!("{name}.key"));
            let named = [subject.as_str(), "-keyout", &secret, "-out", &pem];
            authority.openssl(&[&common[..], &named, key, more].concat());
        };
        new("root", &["-x509", "-extensions", "root", "-days", "30"]);
        new("tsa", &[]);
        authority.openssl(&[
            "x509",
            "-req",
            "-in",
            "tsa.pem",
            "-CA",
            "root.pem",
            "-CAkey",
            "root.key",
            "-CAcreateserial",
            "-days",
            "30",
            "-extfile",
            "config",
            "-extensions",
            "leaf",
            "-out",
            "tsa.pem",
        ]);
        authority
    }

    fn openssl(&self, args: &[&str]) {
        let output = Command::new("openssl")
            .args(args)
            .current_dir(self.dir)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {args:?}: {text}");
    }

    /// A response over these bytes.
    fn stamp(&self, bytes: &[u8]) -> Vec<u8> {
        fs::write(self.dir.join("bytes"), bytes).unwrap();
        self.openssl(&[
            "ts", "-query", "-data", "bytes", "-sha384", "-cert", "-out", "query",
        ]);
        self.openssl(&[
            "ts",
            "-reply",
            "-config",
            "config",
            "-section",
            "ts",
            "-queryfile",
            "query",
            "-signer",
            "tsa.pem",
            "-inkey",
            "tsa.key",
            "-out",
            "response",
        ]);
        fs::read(self.dir.join("response")).unwrap()
    }
}

fn edit(model: &Signed, responses: &[Vec<u8>]) {
    let mut bundle: Value = serde_json::from_slice(&fs::read(&model.bundle).unwrap()).unwrap();
    let list: Vec<Value> = responses
        .iter()
        .map(|response| json!({"signedTimestamp": BASE64.encode(response)}))
        .collect();
    bundle["verificationMaterial"]["timestampVerificationData"] = json!({"rfc3161Timestamps": list});
    fs::write(&model.bundle, bundle.to_string()).unwrap();
}

fn signature(model: &Signed) -> Vec<u8> {
    let bundle: Value = serde_json::from_slice(&fs::read(&model.bundle).unwrap()).unwrap();
    let text = bundle["dsseEnvelope"]["signatures"][0]["sig"].as_str().unwrap();
    BASE64.decode(text.as_bytes()).unwrap()
}

fn verify(model: &Signed, root: Option<&Path>) -> Outcome {
    let mut args: Vec<OsString> = vec!["verify".into()];
    args.extend(model.trust.iter().cloned());
    if let Some(root) = root {
        args.extend(["--tsa-root".into(), root.into()]);
    }
    args.extend([model.bundle.clone().into(), model.model.clone().into()]);
    modelfs(args)
}

#[test]
fn timestamps_of_openssl_are_read_and_held_against_their_root() {
    if Command::new("openssl").arg("version").output().is_err() {
        return notice("timestamps made by OpenSSL were left out: there is no openssl");
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| fs::canonicalize(scratch.path()).unwrap().join(name);
    let (rsa, ec) = (
        ["-newkey", "rsa:2048"],
        ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    );
    let other = path("other");
    Authority::new(&other, &ec, "sha256");
    for (name, key, named_by) in [
        ("a", &rsa[..], "sha1"),
        ("b", &rsa, "sha256"),
        ("c", &ec, "sha256"),
    ] {
        let dir = path(name);
        let authority = Authority::new(&dir, key, named_by);
        for signer in [
            Signer::p256(),
            Signer::certificate(&rcgen::PKCS_ECDSA_P256_SHA256),
        ] {
            let model = Signed::by(&signer, Layout::FILES, &[("weights", b"weights".to_vec())]);
            let root = dir.join("root.pem");
            let outcome = verify(&model, Some(&root));
            assert_eq!(outcome.code, Some(0), "no timestamp, valid now: {outcome:?}");
            assert!(outcome.text().contains("at an unproven time"), "{outcome:?}");
            let good = authority.stamp(&signature(&model));
            edit(&model, std::slice::from_ref(&good));
            let outcome = verify(&model, Some(&root));
            assert_eq!(outcome.code, Some(0), "{name}: {outcome:?}");
            assert!(
                outcome
                    .text()
                    .contains("(says the time-stamping authority \"CN=ring tsa\")"),
                "{outcome:?}"
            );
            let outcome = verify(&model, Some(&other.join("root.pem")));
            assert_eq!(outcome.code, Some(3), "another root: {outcome:?}");
            assert!(
                outcome
                    .text()
                    .contains("timestamp 0 of the bundle: its authority is not trusted"),
                "{outcome:?}"
            );
            assert_eq!(
                verify(&model, None).code,
                Some(0),
                "nobody asked about timestamps"
            );
            edit(&model, &[good, authority.stamp(b"another signature")]);
            let outcome = verify(&model, Some(&root));
            assert_eq!(outcome.code, Some(3), "another signature: {outcome:?}");
            assert!(
                outcome
                    .text()
                    .contains("timestamp 1 of the bundle: it is over another signature"),
                "{outcome:?}"
            );
            assert_eq!(
                verify(&model, Some(&dir.join("tsa.key"))).code,
                Some(3),
                "no certificates"
            );
            assert_eq!(verify(&model, Some(&path("nowhere"))).code, Some(7));
        }
    }
}
