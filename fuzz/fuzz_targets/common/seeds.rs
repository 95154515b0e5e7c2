//! Inputs to begin with: out of the repository's own tests and documents and, where they lie beside it, the public test
//! vectors, which are read and never kept here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use data_encoding::BASE64;
use serde_json::Value;

use super::files;
use super::root;

/// Longest seed in bytes. Longer ones are slower and no stranger.
const MAX_SEED_BYTES: usize = 16 << 10;

/// Puts the seeds of a target where libFuzzer looks for them, and says what was left out.
#[cfg(fuzzing)]
pub(crate) fn plant_seeds(target: &str) {
    use modelfs::digest;

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).expect("a folder for the corpus");
    let seeds = seeds(target);
    for seed in &seeds {
        let name = data_encoding::HEXLOWER.encode(&digest::sha256(seed)[..8]);
        fs::write(folder.join(name), seed).expect("room for a seed");
    }
    println!("{target}: {} seeds", seeds.len());
    if !root().join("../shared/vectors").is_dir() {
        println!("NOTICE: the vectors were left out of the seeds: ../shared/vectors is not there");
    }
}

/// The seeds of a target, each once.
pub(crate) fn seeds(target: &str) -> BTreeSet<Vec<u8>> {
    let mut seeds = match target {
        "bundle" => bundles(),
        "manifest" => bundles().iter().filter_map(|bundle| payload(bundle)).collect(),
        "shard_names" => shard_names(),
        "chain" => chains(),
        "policy" => policies(),
        other => panic!("there is no target {other}"),
    };
    seeds.retain(|seed| seed.len() <= MAX_SEED_BYTES);
    assert!(seeds.len() >= 5, "{target} has {} seeds", seeds.len());
    seeds
}

/// The bundles of the repository and of the vectors.
pub(crate) fn bundles() -> BTreeSet<Vec<u8>> {
    let vectors = root().join("../shared/vectors");
    let mut paths = files(&root().join("tests"), ".sig");
    for (folder, end) in [
        ("oms", ".sig"),
        ("oms-historic", ".sig"),
        ("oms-spec", ".json"),
        ("sigstore-conformance", "bundle.sigstore.json"),
    ] {
        paths.append(&mut files(&vectors.join(folder), end));
    }
    paths
        .iter()
        .map(|path| fs::read(path).expect("a bundle"))
        .collect()
}

fn payload(bundle: &[u8]) -> Option<Vec<u8>> {
    let bundle: Value = serde_json::from_slice(bundle).ok()?;
    BASE64
        .decode(bundle.pointer("/dsseEnvelope/payload")?.as_str()?.as_bytes())
        .ok()
}

fn shard_names() -> BTreeSet<Vec<u8>> {
    let names_of = |payload: Vec<u8>| -> Option<String> {
        let statement: Value = serde_json::from_slice(&payload).ok()?;
        let predicate = statement.get("predicate")?;
        let size = predicate
            .pointer("/serialization/shard_size")
            .and_then(Value::as_u64);
        let names = predicate.get("resources")?.as_array()?.iter();
        let names: Option<Vec<&str>> = names.map(|resource| resource.get("name")?.as_str()).collect();
        Some(format!("{}\n{}", size.unwrap_or(10), names?.join("\n")))
    };
    let mut seeds: BTreeSet<Vec<u8>> = bundles()
        .iter()
        .filter_map(|bundle| names_of(payload(bundle)?))
        .filter(|names| names.len() <= 4096)
        .map(String::into_bytes)
        .collect();
    for text in [
        "10\na:0:10\na:10:15",
        "10\na:10:15\na:0:10",
        "1\n.:0:1\n.:1:2",
        "64\na:b:0:64\na:b:64:65\nc/d:0:1",
        "10\na:0:9\na:9:19",
        "9007199254740992\na:0:9007199254740992\na:9007199254740992:9007199254740993",
        "9223372036854775807\na:0:9223372036854775807",
        "1\na:0:1\na/b:0:1\nab:0:1",
    ] {
        seeds.insert(text.into());
    }
    seeds
}

fn chains() -> BTreeSet<Vec<u8>> {
    let mut seeds = BTreeSet::new();
    let mut add = |chain: &[Vec<u8>]| {
        let framed = chain.iter().map(|part| {
            let length = u16::try_from(part.len()).ok()?.to_be_bytes();
            Some([&length, part.as_slice()].concat())
        });
        if let Some(framed) = framed.collect::<Option<Vec<_>>>() {
            seeds.insert(framed.concat());
        }
    };
    let limbo = root().join("../shared/vectors/x509-limbo/limbo-codesign.json");
    if let Ok(text) = fs::read(limbo) {
        let cases: Value = serde_json::from_slice(&text).expect("the vectors are JSON");
        for case in cases.get("testcases").and_then(Value::as_array).expect("cases") {
            let pems = |field: &str| -> Vec<Vec<u8>> {
                let list = case.get(field).and_then(Value::as_array).expect("a list").iter();
                list.flat_map(|pem| certificates(pem.as_str().expect("PEM")))
                    .collect()
            };
            let leaf = certificates(case.get("peer_certificate").and_then(Value::as_str).expect("PEM"));
            for root in pems("trusted_certs").into_iter().take(2) {
                add(&[vec![root], leaf.clone(), pems("untrusted_intermediates")].concat());
            }
        }
    }
    let mut folders: Vec<_> = files(&root().join("tests"), "ca0.pem");
    folders.extend(files(&root().join("../shared/vectors/oms"), "ca0.pem"));
    for anchor in folders {
        let beside = |path: &Path| Some(path.parent()?.parent()?.join("bundle.sig"));
        let Some(Ok(bundle)) = beside(&anchor).map(fs::read) else {
            continue;
        };
        let roots = certificates(&fs::read_to_string(&anchor).expect("PEM"));
        let Ok(bundle) = serde_json::from_slice::<Value>(&bundle) else {
            continue;
        };
        let chain = bundle.pointer("/verificationMaterial/x509CertificateChain/certificates");
        let Some(chain) = chain.and_then(Value::as_array) else {
            continue;
        };
        let chain: Vec<Vec<u8>> = chain
            .iter()
            .filter_map(|certificate| {
                BASE64
                    .decode(certificate.get("rawBytes")?.as_str()?.as_bytes())
                    .ok()
            })
            .collect();
        if let Some(root) = roots.first() {
            add(&[vec![root.clone()], chain].concat());
        }
    }
    seeds
}

/// The certificates of a PEM file.
fn certificates(pem: &str) -> Vec<Vec<u8>> {
    let blocks = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
    blocks
        .filter_map(|block| {
            let body: String = block.split("-----END").next()?.split_ascii_whitespace().collect();
            BASE64.decode(body.as_bytes()).ok()
        })
        .collect()
}

fn policies() -> BTreeSet<Vec<u8>> {
    let text = fs::read_to_string(root().join("docs/POLICY.md")).expect("the document");
    let examples = text
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let mut seeds: BTreeSet<Vec<u8>> = examples.map(|text| text.as_bytes().to_vec()).collect();
    let head = r#"version = 1
default = "reject"
roots.key.lab = { pem = "lab.pub" }
roots.ca.lab = { certs = ["ca.pem"] }
roots.tsa.lab = { certs = ["ca.pem"] }
roots.sigstore.public = { trusted_root = "production" }
"#;
    for scope in [
        "DIR/srv/models/**",
        "DIR/srv/models/a",
        "DIR/srv/*/a",
        "/srv/**",
        "**",
        "/",
    ] {
        for signer in [
            r#"signers = [{ method = "key", key = "lab" }]"#,
            r#"signers = [{ method = "certificate", ca = "lab", identity = "email:a@b", time = "not-before" }]
tsa = ["lab"]"#,
            r#"signers = [{ method = "sigstore", root = "public", identity = "https://a.example/b/*", issuer = "https://c" }]
allow_legacy = true"#,
            r#"signers = [{ method = "sigstore", root = "public", identity = "*@a.example", issuer = "https://c" }]"#,
        ] {
            seeds.insert(format!("{head}[[rule]]\nscope = \"{scope}\"\n{signer}\n").into_bytes());
        }
    }
    seeds
}
