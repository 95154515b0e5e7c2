//! Every vector gets its expected verdict: may its bundle be trusted?

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a malformed vector should stop the test"
)]

mod shared;

use std::path::Path;
use std::sync::Arc;

use modelfs::trust::Bundle;
use modelfs::trust::CertificateAnchor;
use modelfs::trust::CertificateTime;
use modelfs::trust::KeylessAnchor;
use modelfs::trust::KeylessIdentity;
use modelfs::trust::Method;
use modelfs::trust::PublicKey;
use modelfs::trust::SigstoreRoot;
use modelfs::trust::TrustAnchors;
use modelfs::trust::UnixTime;
use serde_json::Value;
use shared::read;
use shared::read_json;
use shared::vectors;
use shared::with_causes;

/// 2026-11-20T12:00:00Z, when the vectors were made; some of their certificates expire in 2028.
const NOW: UnixTime = UnixTime(1_795_176_000);

/// What the operator gives: files, and whether v0.2 is allowed.
struct Trust {
    keys: Vec<Vec<u8>>,
    chains: Vec<Vec<u8>>,
    /// Identity, issuer and trusted root.
    keyless: Option<(String, String, Vec<u8>)>,
    time: CertificateTime,
    legacy: bool,
}

impl Trust {
    fn of_key(key: Vec<u8>) -> Self {
        Self {
            keys: vec![key],
            chains: vec![],
            keyless: None,
            time: CertificateTime::Now,
            legacy: false,
        }
    }

    fn of_chain(chains: Vec<Vec<u8>>) -> Self {
        Self {
            keys: vec![],
            chains,
            keyless: None,
            time: CertificateTime::Now,
            legacy: false,
        }
    }

    /// `Ok` with the signer or `Err` with the whole message, wherever it was refused.
    fn verdict(&self, bundle: &[u8]) -> Result<String, String> {
        let mut anchors = TrustAnchors::new();
        for key in &self.keys {
            anchors.add_key(PublicKey::from_pem(key).map_err(|e| with_causes(&e))?);
        }
        if !self.chains.is_empty() {
            let files: Vec<&[u8]> = self.chains.iter().map(Vec::as_slice).collect();
            let anchor = CertificateAnchor::from_pem(&files).map_err(|e| with_causes(&e))?;
            anchors.add_certificates(anchor.with_time(self.time));
        }
        if let Some((identity, issuer, root)) = &self.keyless {
            let root = SigstoreRoot::parse(root, "the vector's").map_err(|e| with_causes(&e))?;
            let identity = KeylessIdentity::parse(identity).map_err(|e| with_causes(&e))?;
            anchors.add_keyless(KeylessAnchor::new(Arc::new(root), identity, issuer));
        }
        if self.legacy {
            anchors.allow_legacy();
        }
        let bundle = Bundle::parse(bundle).map_err(|e| with_causes(&e))?;
        let trusted = anchors.verify(&bundle, NOW).map_err(|e| with_causes(&e))?;
        Ok(trusted.signer().to_string())
    }
}

fn accepted(verdict: &Result<String, String>) -> &'static str {
    match verdict {
        Ok(_) => "accept",
        Err(_) => "reject",
    }
}

/// Collects what differs from what was expected, so that one run shows all of it.
#[derive(Default)]
struct Tally {
    seen: usize,
    differences: Vec<String>,
}

impl Tally {
    fn add(&mut self, name: &str, want: &str, got: &Result<String, String>) {
        self.seen += 1;
        println!("{name}: {got:?}");
        if let Err(message) = got {
            assert!(!message.contains(|c: char| c.is_control()), "{name}: {message:?}");
        }
        if accepted(got) != want {
            self.differences.push(format!("{name}: {want} expected, {got:?}"));
        }
    }

    fn finish(self, at_least: usize) {
        assert!(
            self.differences.is_empty(),
            "{} of {} differ:\n{}",
            self.differences.len(),
            self.seen,
            self.differences.join("\n")
        );
        assert!(self.seen >= at_least, "only {} vectors", self.seen);
    }
}

#[test]
fn oms_vectors_get_their_verdicts() {
    let Some(folder) = vectors("oms") else { return };
    let manifest = read_json(folder.join("manifest.json"));
    let exceptions = read_json(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trust-exceptions.json"));
    let mut unused: Vec<&Value> = exceptions.as_array().unwrap().iter().collect();
    let mut tally = Tally::default();
    let mut sigstore = 0;
    for vector in manifest["vectors"].as_array().unwrap() {
        let id = vector["id"].as_str().unwrap();
        let folder = folder.join(vector["dir"].as_str().unwrap());
        let file = |path: &Value| read(folder.join(path.as_str().unwrap()));
        let mut trust = match vector["method"].as_str().unwrap() {
            "key" => Trust::of_key(file(&vector["trust"]["public_key"])),
            "certificate" => {
                let chain = vector["trust"]["cert_chain"].as_array().unwrap();
                Trust::of_chain(chain.iter().map(file).collect())
            }
            "sigstore" => {
                sigstore += 1;
                let text = |field: &str| vector["trust"][field].as_str().unwrap().to_owned();
                let root = file(&vector["trust"]["trusted_root"]);
                Trust {
                    keyless: Some((text("identity"), text("issuer"), root)),
                    ..Trust::of_chain(vec![])
                }
            }
            other => panic!("{id}: method {other}"),
        };
        let expected = &vector["expected"];
        let mut want = expected["bundle"].as_str().unwrap();
        if let Some(at) = unused.iter().position(|e| e["id"] == *id) {
            let exception = unused.remove(at);
            assert_eq!(exception["expected"], want, "{id}");
            assert_ne!(exception["actual"], want, "{id}: no exception");
            assert!(
                exception["reason"].as_str().is_some_and(|r| !r.is_empty()),
                "{id}"
            );
            want = exception["actual"].as_str().unwrap();
        }
        let bundle = file(&vector["bundle"]);
        let needs_legacy = expected["legacy"].as_bool().unwrap_or(false);
        let strictly = if needs_legacy { "reject" } else { want };
        tally.add(id, strictly, &trust.verdict(&bundle));
        trust.legacy = true;
        tally.add(&format!("{id} (legacy)"), want, &trust.verdict(&bundle));
    }
    assert_eq!(sigstore, 55, "every keyless vector");
    assert!(unused.is_empty(), "exceptions without a vector: {unused:?}");
    tally.finish(2 * 525);
}

/// A key or a root that the operator trusts says nothing about a keyless bundle.
#[test]
fn sigstore_bundles_are_refused_where_only_keys_and_roots_are_trusted() {
    let Some(folder) = vectors("oms-historic") else {
        return;
    };
    let keys = folder.join("keys/certificate");
    let trust = Trust {
        keys: vec![read(keys.join("signing-key-pub.pem"))],
        chains: vec![read(keys.join("ca-cert.pem"))],
        keyless: None,
        time: CertificateTime::NotBefore,
        legacy: true,
    };
    for version in ["v0.3.1", "v1.0.0", "v1.0.1", "v1.1.0"] {
        let bundle = read(folder.join(format!("{version}-sigstore/model.sig")));
        assert_eq!(Bundle::parse(&bundle).unwrap().method(), Method::Sigstore);
        let message = trust.verdict(&bundle).unwrap_err();
        assert!(message.contains("keyless"), "{message}");
    }
}

#[test]
fn historic_bundles_verify_with_their_own_trust_and_no_other() {
    let Some(folder) = vectors("oms-historic") else {
        return;
    };
    let keys = folder.join("keys/certificate");
    let chain = |name: &str| Trust::of_chain(vec![read(keys.join(name))]);
    let other_folder = vectors("oms").expect("both folders come together");
    let other_key = || {
        Trust::of_key(read(
            other_folder.join("positive/pos-key-p384-0/trust/public_key.pem"),
        ))
    };
    let other_chain = || {
        Trust::of_chain(vec![read(
            other_folder.join("certificate/cert-good-cli-leaf-int-0/trust/ca0.pem"),
        )])
    };
    let mut tally = Tally::default();
    for version in ["v0.2.0", "v0.3.1", "v1.0.0", "v1.0.1", "v1.1.0"] {
        for method in ["certificate", "elliptic-key"] {
            let name = format!("{version}-{method}");
            let path = folder.join(&name).join("model.sig");
            if version == "v0.2.0" && method == "elliptic-key" {
                assert!(!path.exists(), "v0.2.0 came without a key bundle");
                continue;
            }
            let bundle = read(path);
            let own = match method {
                "certificate" => chain("ca-cert.pem"),
                _ => Trust::of_key(read(keys.join("signing-key-pub.pem"))),
            };
            let legacy = version == "v0.2.0";
            tally.add(
                &name,
                if legacy { "reject" } else { "accept" },
                &own.verdict(&bundle),
            );
            let allowed = Trust { legacy: true, ..own };
            tally.add(&format!("{name} legacy"), "accept", &allowed.verdict(&bundle));
            for (what, mut trust) in [
                ("wrong key", other_key()),
                ("wrong root", other_chain()),
                ("intermediate", chain("int-ca-cert.pem")),
                ("leaf", chain("signing-key-cert.pem")),
            ] {
                trust.legacy = true;
                tally.add(&format!("{name} {what}"), "reject", &trust.verdict(&bundle));
            }
        }
    }
    tally.finish(9 * 6);
}

#[test]
fn the_specifications_own_vectors_have_their_shape() {
    let Some(folder) = vectors("oms-spec") else { return };
    let mut tally = Tally::default();
    for (kind, want) in [
        ("valid", "accept"),
        ("invalid", "reject"),
        ("invalid-payload", "reject"),
    ] {
        for entry in std::fs::read_dir(folder.join("test-vectors/v1.0").join(kind)).unwrap() {
            let path = entry.unwrap().path();
            let shape = Bundle::parse(&read(&path))
                .map_err(|e| with_causes(&e))
                .and_then(|bundle| bundle.untrusted_manifest().map_err(|e| with_causes(&e)))
                .map(|manifest| manifest.subject().to_owned());
            tally.add(&path.display().to_string(), want, &shape);
        }
    }
    tally.finish(8);
}

/// Whatever is done to a real bundle, nothing panics, and what is still accepted has the same payload.
#[test]
fn mutated_bundles_are_refused_or_mean_the_same() {
    let Some(folder) = vectors("oms-historic") else {
        return;
    };
    let keys = folder.join("keys/certificate");
    let mut anchors = TrustAnchors::new();
    anchors.add_key(PublicKey::from_pem(&read(keys.join("signing-key-pub.pem"))).unwrap());
    anchors.add_certificates(CertificateAnchor::from_pem(&[&read(keys.join("ca-cert.pem"))]).unwrap());
    anchors.allow_legacy();
    let seed = std::env::var("MODELFS_SEED").map_or(0x2545_f491_4f6c_dd1d, |s| s.parse().unwrap());
    println!("MODELFS_SEED={seed}");
    let mut random = Random(seed);
    let (mut tried, mut accepted) = (0, 0);
    for name in [
        "v0.2.0-certificate",
        "v0.3.1-elliptic-key",
        "v1.0.0-certificate",
        "v1.1.0-certificate",
        "v1.1.0-elliptic-key",
    ] {
        let original = read(folder.join(name).join("model.sig"));
        let bundle = Bundle::parse(&original).unwrap();
        let want = *anchors.verify(&bundle, NOW).unwrap().manifest().identity();
        for _ in 0..1500 {
            let mut bytes = original.clone();
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
            tried += 1;
            let Ok(bundle) = Bundle::parse(&bytes) else {
                continue;
            };
            drop(bundle.untrusted_manifest());
            if let Ok(trusted) = anchors.verify(&bundle, NOW) {
                accepted += 1;
                assert_eq!(*trusted.manifest().identity(), want, "{name}");
            }
        }
    }
    println!("{tried} mutants, {accepted} accepted with the same payload");
}

/// xorshift64*: enough to choose where to break something, and reproducible.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap() % limit
    }
}
