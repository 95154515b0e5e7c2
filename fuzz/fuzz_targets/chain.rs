//! Certificates, each behind its length in two bytes, big-endian: the first is a root that the operator trusts, the
//! second the signer's, the others come with the bundle. They are judged as they are and, so that a change need not
//! stop at a signature that no longer matches, once more with one key in all of them, which signs them anew.
//!
//! 1. Nothing panics, and every refusal is a message that is safe to print.
//! 2. An accepted leaf is accepted with the others in another order and twice.
//! 3. It is refused before anything was valid and after everything has expired.
//! 4. With a bit of its signature flipped it is refused.
//! 5. What is accepted, webpki accepts too, but for the differences that docs/DIFFERENCES.md tells of: a leaf that is an
//!    authority or the root itself, and constraints, which do not count for a self-issued intermediate and of which
//!    webpki knows some forms only; nor does it know times before 1970.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
#[allow(dead_code, reason = "the other targets use the rest of it")]
mod common;

use std::time::Duration;

use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1;
use aws_lc_rs::signature::UnparsedPublicKey;
use data_encoding::BASE64;
use modelfs::trust::CertificateAnchor;
use modelfs::trust::UnixTime;
use rustls_pki_types::AlgorithmIdentifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::InvalidSignature;
use rustls_pki_types::SignatureVerificationAlgorithm;
use rustls_pki_types::alg_id;
use webpki::EndEntityCert;
use webpki::KeyUsage;
use webpki::anchor_from_trusted_cert;
use x509_parser::extensions::GeneralName;

use crate::common::NOW;
use crate::common::SIGNER;
use crate::common::check_message;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(init: common::plant_seeds("chain"), |data: &[u8]| check(data));

pub(crate) fn check(data: &[u8]) {
    let certificates = split(data);
    judge(&certificates);
    let again: Option<Vec<Vec<u8>>> = certificates.iter().map(|der| signed_anew(der)).collect();
    if let Some([root, leaf, others @ ..]) = again.as_deref()
        && judge(&again.clone().expect("it is there"))
        && leaf != root
    {
        match webpki_accepts(root, leaf, others) {
            Ok(()) | Err(webpki::Error::CaUsedAsEndEntity) => {}
            Err(webpki::Error::NameConstraintViolation)
                if again
                    .iter()
                    .flatten()
                    .any(|der| is_self_issued(der) || has_more_constraints(der)) => {}
            Err(webpki::Error::BadDerTime) if again.iter().flatten().any(|der| begins_before_1970(der)) => {}
            Err(error) => panic!("webpki refuses it: {error:?}"),
        }
    }
}

/// Whether the chain is accepted, after all that must hold of it then.
fn judge(certificates: &[Vec<u8>]) -> bool {
    let [root, leaf, others @ ..] = certificates else {
        return false;
    };
    let anchor = match CertificateAnchor::from_pem(&[pem(root).as_bytes()]) {
        Ok(anchor) => anchor,
        Err(error) => {
            check_message(&error);
            return false;
        }
    };
    match anchor.verify(leaf, others, NOW) {
        Err(error) => {
            check_message(&error);
            return false;
        }
        Ok(trusted) => assert!(!trusted.signer().to_string().contains(char::is_control)),
    }
    let twice: Vec<Vec<u8>> = others.iter().rev().chain(others).cloned().collect();
    assert!(anchor.verify(leaf, &twice, NOW).is_ok());
    for time in [i64::MIN, i64::MAX] {
        assert!(anchor.verify(leaf, others, UnixTime(time)).is_err());
    }
    if leaf != root {
        let mut forged = leaf.clone();
        *forged.last_mut().expect("a certificate has bytes") ^= 1;
        assert!(anchor.verify(&forged, others, NOW).is_err());
    }
    true
}

fn split(mut data: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while let [high, low, rest @ ..] = data {
        let (part, after) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
        parts.push(part.to_vec());
        data = after;
    }
    parts
}

fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("base64 is ASCII"))
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// The certificate with the key of [`SIGNER`] in place of its own, signed with that; `None` where it has no key of the
/// same kind.
fn signed_anew(der: &[u8]) -> Option<Vec<u8>> {
    // RFC 5480: ecdsa-with-SHA256.
    const ALGORITHM: &[u8] = &[
        0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
    ];
    let (body, _) = element(der)?;
    let (_, to_be_signed) = element(der.get(der.len() - body..)?)?;
    let mut to_be_signed = to_be_signed.to_vec();
    let spki = SIGNER.spki();
    let header = spki.len() - 64;
    let at = to_be_signed
        .windows(header)
        .position(|window| Some(window) == spki.get(..header))?;
    to_be_signed.get_mut(at..at + spki.len())?.copy_from_slice(&spki);
    let signature = [&[0][..], &SIGNER.sign_bytes(&to_be_signed)].concat();
    let body = [&to_be_signed, ALGORITHM, &wrap(0x03, &signature)].concat();
    Some(wrap(0x30, &body))
}

/// How long the body of the first element is that ends where `der` does or before, and the element as a whole.
fn element(der: &[u8]) -> Option<(usize, &[u8])> {
    let (header, length) = match der {
        [0x30, length @ 0..=0x7f, ..] => (2, usize::from(*length)),
        [0x30, 0x81, length, ..] => (3, usize::from(*length)),
        [0x30, 0x82, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        _ => return None,
    };
    let whole = der.get(..header + length)?;
    Some((der.len() - header, whole))
}

fn wrap(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len())
        .expect("a part is shorter")
        .to_be_bytes();
    let header = match length {
        [0, low @ 0..=0x7f] => vec![tag, low],
        [0, low] => vec![tag, 0x81, low],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [&header, body].concat()
}

fn is_self_issued(der: &[u8]) -> bool {
    x509_parser::parse_x509_certificate(der)
        .is_ok_and(|(_, found)| found.subject().as_raw() == found.issuer().as_raw())
}

/// Whether it has constraints that webpki refuses whatever the name is.
fn has_more_constraints(der: &[u8]) -> bool {
    x509_parser::parse_x509_certificate(der).is_ok_and(|(_, found)| {
        let constraints = found
            .name_constraints()
            .ok()
            .flatten()
            .map(|extension| extension.value);
        let bases = constraints.into_iter().flat_map(|constraints| {
            let lists = [&constraints.permitted_subtrees, &constraints.excluded_subtrees];
            lists.into_iter().flatten().flatten().map(|subtree| &subtree.base)
        });
        bases.into_iter().any(|base| {
            matches!(
                base,
                GeneralName::DirectoryName(_) | GeneralName::RFC822Name(_) | GeneralName::URI(_)
            )
        })
    })
}

fn begins_before_1970(der: &[u8]) -> bool {
    x509_parser::parse_x509_certificate(der)
        .is_ok_and(|(_, found)| found.validity().not_before.timestamp() < 0)
}

/// RFC 5280, 4.2.1.12: id-kp-codeSigning, without tag and length.
const CODE_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];

fn webpki_accepts(root: &[u8], leaf: &[u8], others: &[Vec<u8>]) -> Result<(), webpki::Error> {
    let root = CertificateDer::from(root);
    let anchor = anchor_from_trusted_cert(&root)?;
    let others: Vec<CertificateDer<'_>> = others
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let leaf = CertificateDer::from(leaf);
    let now = Duration::from_secs(NOW.0.try_into().expect("it is past 1970"));
    EndEntityCert::try_from(&leaf)?
        .verify_for_usage(
            &[&P256],
            &[anchor],
            &others,
            rustls_pki_types::UnixTime::since_unix_epoch(now),
            KeyUsage::required_if_present(CODE_SIGNING),
            None,
            None,
        )
        .map(drop)
}

/// The one algorithm of what is signed anew.
#[derive(Debug)]
struct P256;

impl SignatureVerificationAlgorithm for P256 {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key);
        key.verify(message, signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}
