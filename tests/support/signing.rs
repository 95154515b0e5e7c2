//! Models in a temporary directory, signed for real with a key made here.
//!
//! This is a second, independent writer of the format: statement, DSSE envelope and bundle are built from
//! the specification, not with the code under test.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use data_encoding::BASE64;
use data_encoding::HEXLOWER;
use modelfs::digest;
use modelfs::digest::Algorithm;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::SigningKey as _;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

/// How the content is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// One digest for each file.
    Files,
    /// One digest for each range of so many bytes; `algorithm` as the specification spells it.
    Shards(u64),
    /// The same; `algorithm` as the reference tool spells it, `sha256-sharded-N`, and the size as a float.
    ShardsMangled(u64),
}

/// Method and hash function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) method: Method,
    pub(crate) algorithm: Algorithm,
}

impl Layout {
    /// What every published bundle uses.
    pub(crate) const FILES: Self = Self {
        method: Method::Files,
        algorithm: Algorithm::Sha256,
    };

    /// Shards of so many bytes.
    pub(crate) const fn shards(bytes: u64) -> Self {
        Self {
            method: Method::Shards(bytes),
            algorithm: Algorithm::Sha256,
        }
    }

    /// The same with another hash function.
    pub(crate) const fn with(self, algorithm: Algorithm) -> Self {
        Self { algorithm, ..self }
    }
}

/// Who signs.
#[derive(Debug)]
pub(crate) enum Signer {
    /// A bare key.
    Key(KeyPair),
    /// A leaf, its intermediate, and the root that an operator would trust.
    Certificate {
        leaf: KeyPair,
        chain: Vec<Vec<u8>>,
        root: String,
    },
}

impl Signer {
    /// A new P-256 key.
    pub(crate) fn p256() -> Self {
        Self::key(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// A new key of the given kind.
    pub(crate) fn key(kind: &'static rcgen::SignatureAlgorithm) -> Self {
        Self::Key(KeyPair::generate_for(kind).unwrap())
    }

    /// A new leaf of the given kind beneath a new intermediate and a new root.
    pub(crate) fn certificate(kind: &'static rcgen::SignatureAlgorithm) -> Self {
        let named = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            // RFC 5280 4.2.1.1 demands it of all but self-signed ones.
            params.use_authority_key_identifier_extension = true;
            params
        };
        let authority = |name: &str| {
            let mut params = named(name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params
        };
        let root_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let root = authority("ring root").self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(authority("ring root"), &root_key);

        let middle_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let middle = authority("ring intermediate")
            .signed_by(&middle_key, &root_issuer)
            .unwrap();
        let middle_issuer = Issuer::new(authority("ring intermediate"), &middle_key);

        let leaf_key = KeyPair::generate_for(kind).unwrap();
        let mut params = named("ring signer");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        let leaf = params.signed_by(&leaf_key, &middle_issuer).unwrap();
        Self::Certificate {
            leaf: leaf_key,
            chain: vec![leaf.der().to_vec(), middle.der().to_vec()],
            root: root.pem(),
        }
    }

    /// The bundle over a payload.
    pub(crate) fn bundle(&self, payload: &[u8]) -> Vec<u8> {
        let (key, material) = match self {
            Self::Key(key) => {
                let hint = HEXLOWER.encode(&digest::sha256(public_pem(key).as_bytes()));
                (key, json!({"publicKey": {"hint": hint}}))
            }
            Self::Certificate { leaf, chain, .. } => {
                let certificates: Vec<Value> = chain
                    .iter()
                    .map(|der| json!({"rawBytes": BASE64.encode(der)}))
                    .collect();
                (
                    leaf,
                    json!({"x509CertificateChain": {"certificates": certificates}}),
                )
            }
        };
        let kind = "application/vnd.in-toto+json";
        let signature = key.sign(&pae(kind, payload)).unwrap();
        let mut material = material;
        material["tlogEntries"] = json!([]);
        let bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": BASE64.encode(payload),
                "payloadType": kind,
                "signatures": [{"sig": BASE64.encode(&signature), "keyid": ""}],
            },
        });
        serde_json::to_vec(&bundle).unwrap()
    }

    /// What an operator who trusts this signer passes, with the file written beneath `dir`.
    pub(crate) fn trust(&self, dir: &Path) -> Vec<OsString> {
        let (flag, file, text) = match self {
            Self::Key(key) => ("--public-key", dir.join("signer.pem"), public_pem(key)),
            Self::Certificate { root, .. } => ("--certificate-chain", dir.join("root.pem"), root.clone()),
        };
        fs::write(&file, text).unwrap();
        vec![flag.into(), file.into()]
    }
}

/// A signed model on disk and what an operator needs to mount it.
#[derive(Debug)]
pub(crate) struct Signed {
    dir: TempDir,
    /// The model's directory, or its file.
    pub(crate) model: PathBuf,
    /// The bundle, beside the model.
    pub(crate) bundle: PathBuf,
    /// The flags that trust its signer.
    pub(crate) trust: Vec<OsString>,
    /// What was signed, in the order of the names.
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

impl Signed {
    /// Writes the files as a model and signs them with a new P-256 key.
    pub(crate) fn new(layout: Layout, files: &[(&str, Vec<u8>)]) -> Self {
        Self::by(&Signer::p256(), layout, files)
    }

    /// The same with a signer of the test's choosing.
    pub(crate) fn by(signer: &Signer, layout: Layout, files: &[(&str, Vec<u8>)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        fs::create_dir(&model).unwrap();
        let mut files: Vec<(String, Vec<u8>)> =
            files.iter().map(|(n, b)| ((*n).to_owned(), b.clone())).collect();
        files.sort();
        for (name, bytes) in &files {
            let path = model.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let resources = files
            .iter()
            .flat_map(|(name, bytes)| resources(name, bytes, layout))
            .collect();
        // OMS 6.3.2: a file of no bytes has no shards, so it is on disk and not signed.
        files.retain(|(_, bytes)| !bytes.is_empty() || layout.method == Method::Files);
        Self::finish(dir, model, signer, layout, resources, files)
    }

    /// A model that is one file, named `.` as the reference tool does or by its own name.
    pub(crate) fn single(layout: Layout, name: &str, signed_as: &str, bytes: Vec<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join(name);
        fs::write(&model, &bytes).unwrap();
        let resources = resources(signed_as, &bytes, layout);
        let files = vec![(name.to_owned(), bytes)];
        Self::finish(dir, model, &Signer::p256(), layout, resources, files)
    }

    /// A model whose content the caller lays out: the resources are signed as they are given.
    pub(crate) fn staged(layout: Layout, resources: Vec<Value>, stage: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        fs::create_dir(&model).unwrap();
        stage(&model);
        Self::finish(dir, model, &Signer::p256(), layout, resources, Vec::new())
    }

    fn finish(
        dir: TempDir,
        model: PathBuf,
        signer: &Signer,
        layout: Layout,
        resources: Vec<Value>,
        files: Vec<(String, Vec<u8>)>,
    ) -> Self {
        let name = model.file_name().unwrap().to_str().unwrap();
        let payload = statement(name, layout, resources);
        let bundle = dir.path().join("model.sig");
        fs::write(&bundle, signer.bundle(&payload)).unwrap();
        let trust = signer.trust(dir.path());
        Self {
            dir,
            model,
            bundle,
            trust,
            files,
        }
    }

    /// The directory around the model, for mount points, logs and evil twins.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where a file of the model lies on disk.
    pub(crate) fn source(&self, name: &str) -> PathBuf {
        self.model.join(name)
    }

    /// What a file was signed as.
    pub(crate) fn content(&self, name: &str) -> &[u8] {
        let found = self.files.iter().find(|(have, _)| have == name);
        &found.unwrap_or_else(|| panic!("{name} is not in the model")).1
    }

    /// Moves the bundle into the model, as `model.sig`.
    pub(crate) fn bundle_inside(&mut self) {
        let inside = self.model.join("model.sig");
        fs::rename(&self.bundle, &inside).unwrap();
        self.bundle = inside;
    }

    /// Rearranges the model as a Hugging Face cache does: a snapshot of links into `blobs`.
    pub(crate) fn into_links(mut self) -> Self {
        let blobs = self.dir().join("hub/blobs");
        let snapshot = self.dir().join("hub/snapshots/0123abcd/model");
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
        fs::rename(&self.model, &snapshot).unwrap();
        for (index, (name, _)) in self.files.iter().enumerate() {
            let file = snapshot.join(name);
            let blob = blobs.join(format!("{index:064x}"));
            fs::rename(&file, &blob).unwrap();
            let up = "../".repeat(name.split('/').count() + 2);
            symlink(format!("{up}blobs/{index:064x}"), &file).unwrap();
            assert!(
                file.metadata().unwrap().is_file(),
                "the link leads to the blob: {}",
                file.display()
            );
        }
        self.model = snapshot;
        self
    }
}

/// The resources of one file.
pub(crate) fn resources(name: &str, bytes: &[u8], layout: Layout) -> Vec<Value> {
    let one = |name: String, algorithm: String, bytes: &[u8]| {
        let value = digest::hash(layout.algorithm, bytes);
        json!({"name": name, "algorithm": algorithm, "digest": HEXLOWER.encode(value.as_bytes())})
    };
    let id = layout.algorithm.id();
    let (size, spelling) = match layout.method {
        Method::Files => return vec![one(name.to_owned(), id.to_owned(), bytes)],
        Method::Shards(size) => (size, id.to_owned()),
        Method::ShardsMangled(size) => (size, format!("{id}-sharded-{size}")),
    };
    // OMS 6.3.2: a file of no bytes has no shards.
    bytes
        .chunks(size as usize)
        .scan(0, |start, shard| {
            let end = *start + shard.len();
            let resource = one(format!("{name}:{start}:{end}"), spelling.clone(), shard);
            *start = end;
            Some(resource)
        })
        .collect()
}

/// The payload: an in-toto statement with the OMS predicate.
pub(crate) fn statement(subject: &str, layout: Layout, resources: Vec<Value>) -> Vec<u8> {
    let digests: Vec<u8> = resources
        .iter()
        .flat_map(|r| HEXLOWER.decode(r["digest"].as_str().unwrap().as_bytes()).unwrap())
        .collect();
    let mut serialization = json!({
        "method": if layout.method == Method::Files { "files" } else { "shards" },
        "hash_type": layout.algorithm.id(),
        "allow_symlinks": false,
        "ignore_paths": [".git", ".gitattributes", ".github", ".gitignore"],
    });
    match layout.method {
        Method::Files => {}
        Method::Shards(size) => serialization["shard_size"] = json!(size),
        Method::ShardsMangled(size) => serialization["shard_size"] = json!(size as f64),
    }
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": subject, "digest": {"sha256": HEXLOWER.encode(&digest::sha256(&digests))}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": serialization, "resources": resources},
    });
    serde_json::to_vec(&statement).unwrap()
}

/// DSSE's pre-authentication encoding.
fn pae(kind: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {kind} {} ", kind.len(), body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

/// The public key as the reference tool prints it, which the hint is a hash of: 64 columns, `\n`.
fn public_pem(key: &KeyPair) -> String {
    key.public_key_pem().replace("\r\n", "\n")
}
