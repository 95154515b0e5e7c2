//! From arguments, environment and policy files to what is trusted.

use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use super::args::CertTime;
use super::args::TrustArgs;
use super::bundle::BundleFile;
use super::bundle::shown;
use super::exit::Exit;
use super::failure::Failure;
use crate::path::Escaped;
use crate::policy::FileError;
use crate::policy::ModelLocation;
use crate::policy::Policy;
use crate::policy::PolicyError;
use crate::policy::PolicyPlaces;
use crate::policy::SYSTEM_POLICY;
use crate::policy::TrustFile;
use crate::trust::Bundle;
use crate::trust::CertificateAnchor;
use crate::trust::CertificateIdentity;
use crate::trust::CertificateTime;
use crate::trust::KeylessAnchor;
use crate::trust::KeylessIdentity;
use crate::trust::PublicKey;
use crate::trust::Signer;
use crate::trust::SigstoreRoot;
use crate::trust::TimestampAnchor;
use crate::trust::TrustAnchors;
use crate::trust::TrustedManifest;
use crate::trust::UnixTime;
use crate::trust::keyless::PRODUCTION;

/// Checks a bundle's signature against what is trusted.
pub(super) fn verify(anchors: &TrustAnchors, bundle: &BundleFile) -> Result<TrustedManifest, Failure> {
    let of_bundle = |e: &dyn std::error::Error| {
        Failure::about(
            Exit::NotTrusted,
            &format!("the signature {}", shown(&bundle.path)),
            e,
        )
    };
    let parsed = Bundle::parse(&bundle.bytes).map_err(|e| of_bundle(&e))?;
    let trusted = anchors.verify(&parsed, now()).map_err(|e| of_bundle(&e))?;
    if let Some(stale) = staleness(trusted.signer()) {
        let _ = writeln!(io::stderr(), "modelfs: warning: the trusted root {stale}");
    }
    Ok(trusted)
}

/// Reads what the arguments, or else a policy, trust for this place.
pub(super) fn load(args: &TrustArgs, place: &ModelLocation) -> Result<TrustAnchors, Failure> {
    if let Some(policy) = &args.policy {
        return from_policy(policy, place).map_err(|e| match e {
            // It was misnamed, as a key can be; one that was found where policies are looked for is broken.
            PolicyError::File(FileError::NotRegular { .. }) => Failure::of(Exit::Usage, &e),
            _ => Failure::of(Exit::PolicyRefuses, &e),
        });
    }
    let keys = !args.public_key.is_empty() || !args.certificate_chain.is_empty();
    for (given, option, in_policy) in [
        (args.allow_legacy, "--allow-legacy", "allow_legacy = true"),
        (!args.tsa_root.is_empty(), "--tsa-root", "tsa = [\"NAME\"]"),
    ] {
        if given && !keys {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "{option} needs --public-key or --certificate-chain: in a policy, write {in_policy} in the rule"
                ),
            ));
        }
    }
    if keys || args.identity.is_some() {
        return from_options(args, place);
    }
    let places = PolicyPlaces::from_environment();
    match places.find() {
        Some(policy) => from_policy(&policy, place).map_err(|e| Failure::of(Exit::PolicyRefuses, &e)),
        None => Err(nothing_trusted(&places)),
    }
}

fn nothing_trusted(places: &PolicyPlaces) -> Failure {
    let user = places.user_policy();
    let user = user
        .as_deref()
        .map(|path| format!("{} or ", shown(path)))
        .unwrap_or_default();
    Failure::new(
        Exit::Usage,
        format!(
            "nothing says whose signatures to trust: give --public-key FILE, --certificate-chain FILE or --identity STR, or write a \
             policy to {user}{SYSTEM_POLICY}, as modelfs verify --help shows"
        ),
    )
}

fn from_policy(path: &Path, place: &ModelLocation) -> Result<TrustAnchors, PolicyError> {
    let policy = Policy::load(path, place)?;
    let rule = policy.rule_for(place)?;
    Ok(rule.anchors().clone())
}

fn from_options(args: &TrustArgs, place: &ModelLocation) -> Result<TrustAnchors, Failure> {
    let mut anchors = TrustAnchors::new();
    for path in &args.public_key {
        let file = read(path, place)?;
        let key = PublicKey::from_pem(file.bytes())
            .map_err(|e| Failure::about(Exit::NotTrusted, &format!("the key {}", shown(path)), &e))?;
        anchors.add_key(key);
    }
    if !args.certificate_chain.is_empty() {
        anchors.add_certificates(certificates(args, place)?);
    }
    if let (Some(identity), Some(issuer)) = (&args.identity, &args.identity_provider) {
        anchors.add_keyless(keyless(identity, issuer, args.trusted_root.as_deref(), place)?);
    }
    if !args.tsa_root.is_empty() {
        anchors.set_timestamps(timestamps(args, place)?);
    }
    if args.allow_legacy {
        anchors.allow_legacy();
    }
    Ok(anchors)
}

/// `--identity`, `--identity-provider` and `--trusted-root`.
fn keyless(
    identity: &str,
    issuer: &str,
    root: Option<&Path>,
    place: &ModelLocation,
) -> Result<KeylessAnchor, Failure> {
    let parsed = KeylessIdentity::parse(identity).map_err(|e| {
        let place = format!("--identity {}", Escaped(identity.as_bytes()));
        Failure::about(Exit::Usage, &place, &e)
    })?;
    if issuer.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "--identity-provider is empty: name the issuer's URL",
        ));
    }
    let Some(path) = root else {
        return Err(Failure::new(
            Exit::Usage,
            "--identity needs the keys of the Sigstore instance: give --trusted-root FILE with its trusted_root.json, \
             or --trusted-root production for the public instance's as shipped with this modelfs",
        ));
    };
    let root = match path == Path::new(PRODUCTION) {
        true => SigstoreRoot::production(),
        false => SigstoreRoot::parse(read(path, place)?.bytes(), &shown(path).to_string()),
    };
    let root =
        root.map_err(|e| Failure::about(Exit::NotTrusted, &format!("the trusted root {}", shown(path)), &e))?;
    Ok(KeylessAnchor::new(Arc::new(root), parsed, issuer))
}

/// The files of all `--tsa-root` together.
fn timestamps(args: &TrustArgs, place: &ModelLocation) -> Result<TimestampAnchor, Failure> {
    let files = read_all(&args.tsa_root, place)?;
    let pems: Vec<&[u8]> = files.iter().map(TrustFile::bytes).collect();
    TimestampAnchor::from_pem(&pems)
        .map_err(|e| Failure::about(Exit::NotTrusted, &certificates_named(&files), &e))
}

fn read_all(paths: &[PathBuf], place: &ModelLocation) -> Result<Vec<TrustFile>, Failure> {
    paths.iter().map(|path| read(path, place)).collect()
}

fn certificates_named(files: &[TrustFile]) -> String {
    let names: Vec<String> = files.iter().map(|file| shown(file.path()).to_string()).collect();
    format!("the certificates {}", names.join(", "))
}

/// What is worth a warning about the trusted root behind a signer: which one, and why it should be replaced.
pub(super) fn staleness(signer: &Signer) -> Option<String> {
    match signer {
        Signer::Sigstore { root, stale, .. } => {
            stale.map(|stale| format!("{} is {stale}", Escaped(root.as_bytes())))
        }
        Signer::Key { .. } | Signer::Certificate { .. } => None,
    }
}

/// The files of all `--certificate-chain` together: the reference tool too takes a chain in pieces.
fn certificates(args: &TrustArgs, place: &ModelLocation) -> Result<CertificateAnchor, Failure> {
    let files = read_all(&args.certificate_chain, place)?;
    let pems: Vec<&[u8]> = files.iter().map(TrustFile::bytes).collect();
    let mut anchor = CertificateAnchor::from_pem(&pems)
        .map_err(|e| Failure::about(Exit::NotTrusted, &certificates_named(&files), &e))?;
    if let Some(text) = &args.certificate_identity {
        let identity = CertificateIdentity::parse(text).map_err(|e| {
            let place = format!("--certificate-identity {}", Escaped(text.as_bytes()));
            Failure::about(Exit::Usage, &place, &e)
        })?;
        anchor = anchor.with_identity(identity);
    }
    Ok(match args.cert_time {
        None | Some(CertTime::Now) => anchor.with_time(CertificateTime::Now),
        Some(CertTime::NotBefore) => anchor.with_time(CertificateTime::NotBefore),
    })
}

fn read(path: &Path, place: &ModelLocation) -> Result<TrustFile, Failure> {
    TrustFile::read_named(path, place).map_err(|e| {
        let exit = match e {
            FileError::Io { .. } => Exit::Io,
            FileError::NotRegular { .. } => Exit::Usage,
            // No key and no certificate is as large as that.
            FileError::TooLarge { .. } => Exit::NotTrusted,
            FileError::ForeignOwner { .. }
            | FileError::Writable { .. }
            | FileError::FolderWritable { .. }
            | FileError::InsideModel { .. } => Exit::PolicyRefuses,
        };
        Failure::of(exit, &e)
    })
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
