//! Mutants of real bundles: none of them makes modelfs panic, and one that is accepted says what the original said.
//!
//! `MODELFS_MUTANTS` is how many there are of each bundle (30,000), `MODELFS_SEED` which ones. The last line is the
//! tally, so this has no test harness around it (Cargo.toml).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise, and its numbers are its own"
)]

mod mutate;
#[path = "../support/random.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod random;
#[path = "../shared/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod shared;
mod tree;

use std::panic;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use modelfs::path::Escaped;
use modelfs::trust::Bundle;
use modelfs::trust::CertificateAnchor;
use modelfs::trust::KeylessAnchor;
use modelfs::trust::KeylessIdentity;
use modelfs::trust::PublicKey;
use modelfs::trust::SigstoreRoot;
use modelfs::trust::TrustAnchors;
use modelfs::trust::UnixTime;
use mutate::Mutator;
use shared::read;
use shared::vectors;

/// 2026-11-20T12:00:00Z, within the validity of the vectors' certificates.
const NOW: UnixTime = UnixTime(1_795_176_000);

const BUNDLES: [&str; 13] = [
    "v0.2.0-certificate",
    "v0.3.1-certificate",
    "v0.3.1-elliptic-key",
    "v0.3.1-sigstore",
    "v1.0.0-certificate",
    "v1.0.0-elliptic-key",
    "v1.0.0-sigstore",
    "v1.0.1-certificate",
    "v1.0.1-elliptic-key",
    "v1.0.1-sigstore",
    "v1.1.0-certificate",
    "v1.1.0-elliptic-key",
    "v1.1.0-sigstore",
];

/// Mutants of each bundle.
const MUTANTS: usize = 30_000;

/// What is said of a bundle: the payload's SHA-256 and the signer, or nothing.
type Verdict = Option<([u8; 32], String)>;

#[derive(Default)]
struct Tally {
    refused: usize,
    accepted: usize,
    surprises: Vec<String>,
}

fn main() -> ExitCode {
    let Some(folder) = vectors("oms-historic") else {
        return ExitCode::SUCCESS;
    };
    let number =
        |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().expect(name));
    let mutants = usize::try_from(number("MODELFS_MUTANTS", MUTANTS as u64)).unwrap();
    let seed = number("MODELFS_SEED", 0x6d75_7461_6e74);
    let began = Instant::now();
    let anchors = anchors(&folder);
    let work = Mutex::new(BUNDLES.iter());
    let total = Mutex::new(Tally::default());
    // What a panic says is told with the mutant that made it.
    panic::set_hook(Box::new(|_| {}));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(name) = { work.lock().unwrap().next() } {
                    let tally = attack(&folder, name, &anchors, mutants, seed);
                    println!("{name}: {} refused, {} accepted", tally.refused, tally.accepted);
                    let mut total = total.lock().unwrap();
                    total.refused += tally.refused;
                    total.accepted += tally.accepted;
                    total.surprises.extend(tally.surprises);
                }
            });
        }
    });
    let total = total.into_inner().unwrap();
    for surprise in total.surprises.iter().take(20) {
        println!("{surprise}");
    }
    let tried = total.refused + total.accepted + total.surprises.len();
    println!(
        "mutants: {tried} of {} bundles in {} s, seed {seed}: {} refused, {} accepted with the same payload and signer, {} otherwise",
        BUNDLES.len(),
        began.elapsed().as_secs(),
        total.refused,
        total.accepted,
        total.surprises.len()
    );
    match total.surprises.is_empty() && tried == BUNDLES.len() * mutants {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Who signed the bundles: with keys that lie beside them, and through the public Sigstore instance.
fn anchors(folder: &Path) -> TrustAnchors {
    let keys = folder.join("keys/certificate");
    let mut anchors = TrustAnchors::new();
    let root = Arc::new(SigstoreRoot::production().unwrap());
    let identity = KeylessIdentity::parse("email:stefanb@us.ibm.com").unwrap();
    anchors.add_keyless(KeylessAnchor::new(
        root,
        identity,
        "https://sigstore.verify.ibm.com/oauth2",
    ));
    anchors.add_key(PublicKey::from_pem(&read(keys.join("signing-key-pub.pem"))).unwrap());
    anchors.add_certificates(CertificateAnchor::from_pem(&[&read(keys.join("ca-cert.pem"))]).unwrap());
    anchors.allow_legacy();
    anchors
}

fn attack(folder: &Path, name: &str, anchors: &TrustAnchors, mutants: usize, seed: u64) -> Tally {
    let original = read(folder.join(name).join("model.sig"));
    let want = verdict(anchors, &original);
    // Without it every mutant would be refused, and nothing be proved.
    assert!(want.is_some(), "{name} is not accepted itself");
    let mut mutator = Mutator::new(original, seed);
    assert!(mutator.values() > 10, "{name} has no structure");
    let mut tally = Tally::default();
    for number in 0..mutants {
        let mutant = mutator.make(number);
        match panic::catch_unwind(AssertUnwindSafe(|| verdict(anchors, &mutant))) {
            Ok(None) => tally.refused += 1,
            Ok(got) if got == want => tally.accepted += 1,
            Ok(got) => tally
                .surprises
                .push(tell(name, number, &mutant, &format!("accepted as {got:?}"))),
            Err(cause) => {
                let cause = cause.downcast_ref::<String>().cloned();
                tally
                    .surprises
                    .push(tell(name, number, &mutant, &format!("panicked: {cause:?}")));
            }
        }
    }
    tally
}

fn tell(name: &str, number: usize, mutant: &[u8], what: &str) -> String {
    format!("{name}, mutant {number}: {what}: {}", Escaped(mutant))
}

fn verdict(anchors: &TrustAnchors, bundle: &[u8]) -> Verdict {
    let trusted = anchors.verify(&Bundle::parse(bundle).ok()?, NOW).ok()?;
    Some((*trusted.manifest().identity(), trusted.signer().to_string()))
}
