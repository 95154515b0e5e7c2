//! From arguments, environment and policy files to what is trusted.

use std::path::Path;
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
use crate::trust::PublicKey;
use crate::trust::TrustAnchors;
use crate::trust::TrustedManifest;
use crate::trust::UnixTime;

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
    anchors.verify(&parsed, now()).map_err(|e| of_bundle(&e))
}

/// Refuses what this version cannot do before anything is looked at.
pub(super) fn refuse_keyless(args: &TrustArgs) -> Result<(), Failure> {
    if args.identity.is_some() || args.identity_provider.is_some() || args.trusted_root.is_some() {
        return Err(Failure::new(
            Exit::Usage,
            "keyless signatures are not supported yet: give --public-key or --certificate-chain",
        ));
    }
    Ok(())
}

/// Reads what the arguments, or else a policy, trust for this place.
pub(super) fn load(args: &TrustArgs, place: &ModelLocation) -> Result<TrustAnchors, Failure> {
    if let Some(policy) = &args.policy {
        return from_policy(policy, place);
    }
    if !args.public_key.is_empty() || !args.certificate_chain.is_empty() {
        return from_options(args, place);
    }
    if args.allow_legacy {
        return Err(Failure::new(
            Exit::Usage,
            "--allow-legacy needs --public-key or --certificate-chain: in a policy, write allow_legacy = true in the rule",
        ));
    }
    let places = PolicyPlaces::from_environment();
    match places.find() {
        Some(policy) => from_policy(&policy, place),
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
            "nothing says whose signatures to trust: give --public-key FILE or --certificate-chain FILE, or write a \
             policy to {user}{SYSTEM_POLICY}, as modelfs verify --help shows"
        ),
    )
}

fn from_policy(path: &Path, place: &ModelLocation) -> Result<TrustAnchors, Failure> {
    let refused = |e: PolicyError| Failure::of(Exit::PolicyRefuses, &e);
    let policy = Policy::load(path, place).map_err(refused)?;
    let rule = policy.rule_for(place).map_err(refused)?;
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
    if args.allow_legacy {
        anchors.allow_legacy();
    }
    Ok(anchors)
}

/// The files of all `--certificate-chain` together: the reference tool too takes a chain in pieces.
fn certificates(args: &TrustArgs, place: &ModelLocation) -> Result<CertificateAnchor, Failure> {
    let files = args
        .certificate_chain
        .iter()
        .map(|path| read(path, place))
        .collect::<Result<Vec<_>, _>>()?;
    let pems: Vec<&[u8]> = files.iter().map(TrustFile::bytes).collect();
    let mut anchor = CertificateAnchor::from_pem(&pems).map_err(|e| {
        let names: Vec<String> = files.iter().map(|file| shown(file.path()).to_string()).collect();
        Failure::about(
            Exit::NotTrusted,
            &format!("the certificates {}", names.join(", ")),
            &e,
        )
    })?;
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
            FileError::NotRegular { .. }
            | FileError::ForeignOwner { .. }
            | FileError::Writable { .. }
            | FileError::FolderWritable { .. }
            | FileError::InsideModel { .. }
            | FileError::TooLarge { .. } => Exit::PolicyRefuses,
        };
        Failure::of(exit, &e)
    })
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
