//! The Python reference signs and we verify, mount and read; it verifies what we mount, and what our own
//! tests sign.
//!
//! `MODELFS_PYTHON` names a Python that has the packages of `scripts/requirements/reference.txt`, as
//! `scripts/test` sets it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod support;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use data_encoding::BASE64;
use support::Outcome;
use support::modelfs;
use support::mounted::Mounted;
use support::notice;
use support::random::Random;
use support::run;
use support::signing::Layout;
use support::signing::Signed;
use support::signing::Signer;

const CURVES: [&rcgen::SignatureAlgorithm; 3] = [
    &rcgen::PKCS_ECDSA_P256_SHA256,
    &rcgen::PKCS_ECDSA_P384_SHA384,
    &rcgen::PKCS_ECDSA_P521_SHA512,
];

/// The interpreter to use, or a notice of what is left out.
fn python(what: &str) -> Option<PathBuf> {
    let python = std::env::var_os("MODELFS_PYTHON").map(PathBuf::from);
    if python.is_none() {
        notice(&format!(
            "{what} was left out: MODELFS_PYTHON names no Python with the reference tool"
        ));
    }
    python
}

/// Runs the reference tool's command line.
fn reference(python: &Path, args: &[OsString]) -> Outcome {
    run(Command::new(python).args(["-m", "model_signing"]).args(args))
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    let mut random = Random::from_environment("reference");
    vec![
        ("config.json", random.bytes(700)),
        ("empty.txt", Vec::new()),
        ("nested/deeper/vocab.txt", random.bytes(5000)),
        ("weights.bin", random.bytes(2 * support::CHUNK + 1)),
    ]
}

/// A model without a signature that we made: the reference is to make it.
fn unsigned(signer: &Signer) -> Signed {
    let model = Signed::by(signer, Layout::FILES, &files());
    fs::remove_file(&model.bundle).unwrap();
    model
}

/// Writes what the reference needs to sign: its method, and the arguments.
fn signing_arguments(signer: &Signer, dir: &Path) -> (&'static str, Vec<OsString>) {
    let private = dir.join("private.pem");
    let pem = |der: &[u8]| {
        let text = BASE64.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    match signer {
        Signer::Key(key) => {
            fs::write(&private, key.serialize_pem()).unwrap();
            ("key", vec!["--private_key".into(), private.into()])
        }
        Signer::Certificate { leaf, chain, .. } => {
            let (certificate, rest) = (dir.join("leaf.pem"), dir.join("chain.pem"));
            fs::write(&private, leaf.serialize_pem()).unwrap();
            fs::write(&certificate, pem(&chain[0])).unwrap();
            fs::write(&rest, chain[1..].iter().map(|der| pem(der)).collect::<String>()).unwrap();
            let args = [
                "--private_key".into(),
                private.into(),
                "--signing_certificate".into(),
                certificate.into(),
                "--certificate_chain".into(),
                rest.into(),
            ];
            ("certificate", args.into())
        }
    }
}

/// The trust flags as the reference spells them in its 1.1.1 release.
fn reference_trust(model: &Signed) -> Vec<OsString> {
    let spelled = |arg: &OsString| match arg.to_str() {
        Some("--public-key") => "--public_key".into(),
        Some("--certificate-chain") => "--certificate_chain".into(),
        _ => arg.clone(),
    };
    model.trust.iter().map(spelled).collect()
}

fn reference_verifies(python: &Path, model: &Signed, method: &str, bundle: &Path, tree: &Path) -> Outcome {
    let mut args: Vec<OsString> = vec![
        "verify".into(),
        method.into(),
        "--signature".into(),
        bundle.into(),
    ];
    args.extend(reference_trust(model));
    args.push(tree.into());
    reference(python, &args)
}

fn verify(model: &Signed) -> Outcome {
    let mut args: Vec<OsString> = vec!["verify".into()];
    args.extend(model.trust.iter().cloned());
    args.extend([model.bundle.clone().into(), model.model.clone().into()]);
    modelfs(args)
}

#[test]
fn the_reference_signs_we_serve_and_it_verifies_what_we_serve() {
    let Some(python) = python("the reference tool's signatures") else {
        return;
    };
    let mount = support::can_mount();
    for curve in CURVES {
        for signer in [Signer::key(curve), Signer::certificate(curve)] {
            let mut model = unsigned(&signer);
            model.bundle = model.model.join("model.sig");
            let (method, more) = signing_arguments(&signer, model.dir());
            let mut args: Vec<OsString> = vec!["sign".into(), method.into(), "--signature".into()];
            args.push(model.bundle.clone().into());
            args.extend(more);
            args.push(model.model.clone().into());
            let outcome = reference(&python, &args);
            assert_eq!(outcome.code, Some(0), "the reference signs: {outcome:?}");

            let outcome = verify(&model);
            assert_eq!(outcome.code, Some(0), "{curve:?} {method}: {outcome:?}");
            if !mount {
                continue;
            }
            let mounted = Mounted::new(&model);
            for (name, bytes) in &model.files {
                assert!(fs::read(mounted.file(name)).unwrap() == *bytes, "{name}");
            }
            let inside = mounted.file("model.sig");
            let outcome = reference_verifies(&python, &model, method, &inside, mounted.path());
            assert_eq!(outcome.code, Some(0), "the mounted tree: {outcome:?}");
            mounted.unmount();

            // And it fails on a mount of a model that was changed, because we give it no byte of it.
            let mut wrong = model.content("weights.bin").to_vec();
            wrong[7] ^= 1;
            fs::write(model.source("weights.bin"), wrong).unwrap();
            let mounted = Mounted::new(&model);
            let inside = mounted.file("model.sig");
            let outcome = reference_verifies(&python, &model, method, &inside, mounted.path());
            assert_eq!(outcome.code, Some(1), "a changed model: {outcome:?}");
        }
    }
}

#[test]
fn every_layout_that_the_reference_can_sign_verifies() {
    let Some(python) = python("the reference library's other layouts") else {
        return;
    };
    let layouts = [
        "use_file_serialization(hashing_algorithm='sha256')",
        "use_file_serialization(hashing_algorithm='blake2')",
        "use_file_serialization(hashing_algorithm='blake3')",
        "use_shard_serialization(shard_size=1000)",
        "use_shard_serialization(hashing_algorithm='blake2', shard_size=131072)",
        "use_shard_serialization()",
    ];
    let script = "import sys\nfrom model_signing import signing, hashing\nimport pathlib\n\
        key, model, bundle = map(pathlib.Path, sys.argv[1:4])\n\
        config = hashing.Config()\nconfig = config.LAYOUT\n\
        signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(config).sign(model, bundle)\n";
    for layout in layouts {
        let signer = Signer::p256();
        let model = unsigned(&signer);
        signing_arguments(&signer, model.dir());
        let outcome = run(Command::new(&python)
            .args(["-c", &script.replace("LAYOUT", layout)])
            .arg(model.dir().join("private.pem"))
            .args([&model.model, &model.bundle]));
        assert_eq!(outcome.code, Some(0), "{layout}: {outcome:?}");
        let outcome = verify(&model);
        assert_eq!(outcome.code, Some(0), "{layout}: {outcome:?}");
        if support::can_mount() {
            let mounted = Mounted::new(&model);
            assert!(
                fs::read(mounted.file("weights.bin")).unwrap() == model.content("weights.bin"),
                "{layout}"
            );
            mounted.unmount();
        }
    }
}

#[test]
fn what_our_tests_sign_is_real_to_the_reference() {
    let Some(python) = python("the reference tool's opinion of our fixtures") else {
        return;
    };
    for curve in CURVES {
        for signer in [Signer::key(curve), Signer::certificate(curve)] {
            let model = Signed::by(&signer, Layout::FILES, &files());
            let (method, _) = signing_arguments(&signer, model.dir());
            let outcome = reference_verifies(&python, &model, method, &model.bundle, &model.model);
            assert_eq!(outcome.code, Some(0), "{curve:?} {method}: {outcome:?}");
            fs::write(model.source("config.json"), b"{}").unwrap();
            let outcome = reference_verifies(&python, &model, method, &model.bundle, &model.model);
            assert_eq!(outcome.code, Some(1), "it can refuse: {outcome:?}");
        }
    }
}
