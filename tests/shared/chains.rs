//! The cases of x509-limbo, put to the path validator.

use modelfs::trust::CertificateAnchor;
use modelfs::trust::CertificateIdentity;
use modelfs::trust::UnixTime;
use serde_json::Value;

use crate::shared::with_causes;

/// 2026-11-20T12:00:00Z, for the cases that leave the time open.
const NOW: i64 = 1_795_176_000;

/// The time of a case, in seconds.
pub(crate) fn time_of(case: &Value) -> i64 {
    case["validation_time"].as_str().map_or(NOW, unix_seconds)
}

/// Runs one case as an operator would state it: the trusted certificates are the anchor, the peer's name is
/// the identity that is pinned.
pub(crate) fn verdict(case: &Value) -> Result<(), String> {
    // There is no way to give a revocation list, so a case that needs one cannot be put to us: a check that
    // cannot run has failed.
    if !case["crls"].as_array().unwrap().is_empty() {
        return Err("revocation lists are not supported".into());
    }
    let texts = |field: &str| -> Vec<String> {
        let list = case[field].as_array().unwrap();
        list.iter().map(|pem| pem.as_str().unwrap().to_owned()).collect()
    };
    let trusted = texts("trusted_certs");
    let trusted: Vec<&[u8]> = trusted.iter().map(String::as_bytes).collect();
    let mut anchor = CertificateAnchor::from_pem(&trusted).map_err(|e| with_causes(&e))?;
    if let Some(depth) = case["max_chain_depth"].as_u64() {
        anchor = anchor.with_max_intermediates(depth.try_into().unwrap());
    }
    let name = &case["expected_peer_name"];
    if let (Some(kind), Some(value)) = (name["kind"].as_str(), name["value"].as_str()) {
        let kind = match kind {
            "DNS" => "dns",
            "RFC822" => "email",
            // Nobody signs a model as an IP address; there is no such pin.
            "IP" => return Err("an IP address is no identity".into()),
            other => panic!("kind {other}"),
        };
        let identity = CertificateIdentity::parse(&format!("{kind}:{value}")).unwrap();
        anchor = anchor.with_identity(identity);
    }
    let leaf = der(case["peer_certificate"].as_str().unwrap());
    let others: Vec<Vec<u8>> = texts("untrusted_intermediates")
        .iter()
        .map(|pem| der(pem))
        .collect();
    let now = time_of(case);
    match anchor.verify(&leaf, &others, UnixTime(now)) {
        Ok(_) => Ok(()),
        Err(error) => Err(with_causes(&error)),
    }
}

pub(crate) fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    data_encoding::BASE64.decode(body.as_bytes()).unwrap()
}

/// Reads `2024-03-01T00:00:00+00:00`, the only form in which the cases state times.
pub(crate) fn unix_seconds(text: &str) -> i64 {
    let number = |at: std::ops::Range<usize>| text[at].parse::<i64>().unwrap();
    assert!(text.ends_with("+00:00") && text.len() == 25, "{text}");
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let days_of_year = |y| if leap(y) { 366 } else { 365 };
    let february = if leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before: i64 = (1970..year).map(days_of_year).sum();
    let in_year: i64 = months.iter().take(usize::try_from(month - 1).unwrap()).sum();
    let days = before + in_year + day - 1;
    ((days * 24 + number(11..13)) * 60 + number(14..16)) * 60 + number(17..19)
}
