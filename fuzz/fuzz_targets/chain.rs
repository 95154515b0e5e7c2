//! Certificates, each behind its length in two bytes, big-endian: the first is a root that the operator trusts, the
//! second the signer's, the others come with the bundle.
//!
//! 1. Nothing panics, and every refusal is a message that is safe to print.
//! 2. An accepted leaf is accepted with the others in another order and twice.
//! 3. It is refused before anything was valid and after everything has expired.
//! 4. With a bit of its signature flipped it is refused.

#![no_main]

mod common;

use common::NOW;
use common::check_message;
use data_encoding::BASE64;
use libfuzzer_sys::fuzz_target;
use modelfs::trust::CertificateAnchor;
use modelfs::trust::UnixTime;

fuzz_target!(|data: &[u8]| {
    let mut certificates = split(data).into_iter();
    let (Some(root), Some(leaf)) = (certificates.next(), certificates.next()) else {
        return;
    };
    let others: Vec<Vec<u8>> = certificates.collect();
    let anchor = match CertificateAnchor::from_pem(&[pem(&root).as_bytes()]) {
        Ok(anchor) => anchor,
        Err(error) => return check_message(&error),
    };
    match anchor.verify(&leaf, &others, NOW) {
        Err(error) => return check_message(&error),
        Ok(trusted) => assert!(!trusted.signer().to_string().contains(char::is_control)),
    }
    let twice: Vec<Vec<u8>> = others.iter().rev().chain(&others).cloned().collect();
    assert!(anchor.verify(&leaf, &twice, NOW).is_ok());
    for time in [i64::MIN, i64::MAX] {
        assert!(anchor.verify(&leaf, &others, UnixTime(time)).is_err());
    }
    if leaf != root {
        let mut forged = leaf.clone();
        *forged.last_mut().expect("a certificate has bytes") ^= 1;
        assert!(anchor.verify(&forged, &others, NOW).is_err());
    }
});

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
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
