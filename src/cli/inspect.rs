//! `modelfs inspect`: who signed a bundle, what it says, and which files it covers.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use serde_json::Value;
use serde_json::json;

use super::anchors;
use super::args::InspectArgs;
use super::bundle::BundleFile;
use super::bundle::shown;
use super::exit::Exit;
use super::failure::Failure;
use super::failure::render;
use super::model;
use crate::manifest::Manifest;
use crate::manifest::Shards;
use crate::manifest::SignedContent;
use crate::manifest::SignedFile;
use crate::path::Escaped;
use crate::policy::ModelLocation;
use crate::trust::RootDate;
use crate::trust::Signer;
use crate::trust::TimeProof;
use crate::trust::TrustedManifest;
use crate::trust::Witness;

/// Checks the signature and describes what it covers.
pub(super) fn run(args: &InspectArgs, json: bool) -> Result<String, Failure> {
    let bundle = BundleFile::read(&args.bundle, None)?;
    let place = ModelLocation::of_bundle(&bundle.path).map_err(|e| Failure::of(Exit::Io, &e))?;
    let anchors = anchors::load(&args.trust, &place)?;
    if !args.no_sandbox {
        model::confine(None)?;
    }
    let trusted = anchors::verify(&anchors, &bundle)?;
    Ok(if json {
        render(&data(&bundle, &trusted))
    } else {
        text(&bundle, &trusted)
    })
}

fn text(bundle: &BundleFile, trusted: &TrustedManifest) -> String {
    let manifest = trusted.manifest();
    let how = match manifest.shard_size() {
        None => format!("{}, one digest per file", manifest.algorithm()),
        Some(size) => format!("{}, one digest per {size} bytes", manifest.algorithm()),
    };
    let ignored: Vec<String> = manifest.ignore_paths().iter().map(ToString::to_string).collect();
    let mut facts = vec![
        ("bundle", shown(&bundle.path).to_string()),
        ("signed by", trusted.signer().to_string()),
        ("method", trusted.signer().method().to_string()),
        ("signed at", trusted.signed_at().to_string()),
        (
            "identity",
            format!("sha256:{}", HEXLOWER.encode(manifest.identity())),
        ),
        ("subject", Escaped(manifest.subject().as_bytes()).to_string()),
        (
            "root digest",
            format!("sha256:{}", HEXLOWER.encode(manifest.root_digest())),
        ),
        ("hash", how),
    ];
    match trusted.signer() {
        Signer::Key { .. } => {}
        Signer::Certificate {
            san,
            not_before,
            not_after,
            ..
        } => {
            for name in san {
                facts.push(("known as", Escaped(name.as_bytes()).to_string()));
            }
            facts.push(("certificate", format!("valid from {not_before} to {not_after}")));
        }
        Signer::Sigstore {
            root,
            root_date,
            stale,
            ..
        } => {
            facts.push((
                "trusted root",
                format!("{}, {root_date}", Escaped(root.as_bytes())),
            ));
            if let Some(stale) = stale {
                facts.push(("warning", format!("the trusted root is {stale}")));
            }
        }
    }
    if !ignored.is_empty() {
        facts.push(("left out", ignored.join(" ")));
    }
    if manifest.allow_symlinks() {
        facts.push(("links", "the signer followed symbolic links".to_owned()));
    }
    facts.push(("files", manifest.files().len().to_string()));
    let mut out = String::new();
    for (name, value) in facts {
        let _ = writeln!(out, "{name:<13}{value}");
    }
    out.push('\n');
    out.push_str(&listing(manifest));
    out
}

/// The files, one per line: size where sizes are signed, digest or number of shards, name.
fn listing(manifest: &Manifest) -> String {
    let rows: Vec<(String, String, &SignedFile)> = manifest
        .files()
        .iter()
        .map(|file| match file.content() {
            SignedContent::Whole(digest) => (String::new(), digest.to_string(), file),
            SignedContent::Shards(shards) => {
                let count = shards.count();
                let plural = if count == 1 { "" } else { "s" };
                (shards.size().to_string(), format!("{count} shard{plural}"), file)
            }
        })
        .collect();
    let sizes = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
    let digests = rows.iter().map(|row| row.1.len()).max().unwrap_or(0);
    let gap = if sizes == 0 { "" } else { "  " };
    let mut out = String::new();
    for (size, digest, file) in &rows {
        let _ = writeln!(out, "{size:>sizes$}{gap}{digest:<digests$}  {}", file.path());
    }
    out
}

fn data(bundle: &BundleFile, trusted: &TrustedManifest) -> Value {
    let manifest = trusted.manifest();
    let files: Vec<Value> = manifest.files().iter().map(file_data).collect();
    json!({
        "bundle": bundle.path.to_string_lossy(),
        "signer": signer_data(trusted.signer()),
        "signed_at": trusted.signed_at().proofs().iter().map(time_data).collect::<Vec<_>>(),
        "identity": HEXLOWER.encode(manifest.identity()),
        "subject": manifest.subject(),
        "root_digest": HEXLOWER.encode(manifest.root_digest()),
        "algorithm": manifest.algorithm().id(),
        "shard_size": manifest.shard_size(),
        "allow_symlinks": manifest.allow_symlinks(),
        "ignore_paths": manifest.ignore_paths().iter().map(|p| p.as_str()).collect::<Vec<_>>(),
        "single_file": manifest.is_single_file(),
        "files": files,
    })
}

fn signer_data(signer: &Signer) -> Value {
    match signer {
        Signer::Key { fingerprint, curve } => json!({
            "method": "key",
            "fingerprint": fingerprint,
            "curve": curve.to_string(),
        }),
        Signer::Certificate {
            subject,
            issuer,
            san,
            serial,
            spki_sha256,
            not_before,
            not_after,
        } => json!({
            "method": "certificate",
            "subject": subject,
            "issuer": issuer,
            "san": san,
            "serial": serial,
            "spki_sha256": spki_sha256,
            "not_before": not_before.to_string(),
            "not_after": not_after.to_string(),
        }),
        Signer::Sigstore {
            identity,
            issuer,
            spki_sha256,
            serial,
            root,
            root_date,
            stale,
        } => json!({
            "method": "sigstore",
            "identity": identity,
            "issuer": issuer,
            "serial": serial,
            "spki_sha256": spki_sha256,
            "trusted_root": {
                "name": root,
                "date": root_date.at().to_string(),
                "shipped": matches!(root_date, RootDate::Shipped(_)),
                "stale": stale.map(|stale| stale.to_string()),
            },
        }),
    }
}

/// One proof of when it was signed.
fn time_data(proof: &TimeProof) -> Value {
    match &proof.witness {
        Witness::Log { name, index } => json!({
            "time": proof.at.to_string(),
            "proof": "transparency-log",
            "log": name,
            "entry": index,
        }),
        Witness::Timestamp { name } => json!({
            "time": proof.at.to_string(),
            "proof": "rfc3161",
            "authority": name,
        }),
    }
}

fn file_data(file: &SignedFile) -> Value {
    match file.content() {
        SignedContent::Whole(digest) => json!({
            "path": file.path().as_str(),
            "digest": digest.to_string(),
        }),
        SignedContent::Shards(shards) => json!({
            "path": file.path().as_str(),
            "size": shards.size(),
            "shards": shard_data(shards),
        }),
    }
}

fn shard_data(shards: &Shards) -> Vec<Value> {
    (0..shards.count())
        .filter_map(|index| Some((shards.range(index)?, shards.digest(index)?)))
        .map(|(range, digest)| json!({"start": range.start, "end": range.end, "digest": digest.to_string()}))
        .collect()
}
