//! webpki as a second opinion about chains.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::signature;
use aws_lc_rs::signature::UnparsedPublicKey;
use aws_lc_rs::signature::VerificationAlgorithm;
use data_encoding::BASE64;
use modelfs::trust::CertificateAnchor;
use modelfs::trust::UnixTime;
use rustls_pki_types::AlgorithmIdentifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::InvalidSignature;
use rustls_pki_types::ServerName;
use rustls_pki_types::SignatureVerificationAlgorithm;
use rustls_pki_types::alg_id;
use serde_json::Value;
use webpki::EndEntityCert;
use webpki::KeyUsage;
use webpki::anchor_from_trusted_cert;

use crate::chains;
use crate::shared::read;

/// RFC 5280, 4.2.1.12: id-kp-codeSigning, without tag and length.
const CODE_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];

/// Its verdict on a case of limbo; `None` where it cannot be asked the same.
pub(crate) fn of_limbo(case: &Value) -> Option<bool> {
    let list = |field: &str| -> Vec<Vec<u8>> {
        let pems = case[field].as_array().unwrap().iter();
        pems.map(|pem| chains::der(pem.as_str().unwrap())).collect()
    };
    let name = &case["expected_peer_name"];
    let is_dns = name["kind"] == "DNS";
    // It is asked about hosts, and knows neither this limit nor lists that nobody gave us.
    if !case["crls"].as_array().unwrap().is_empty()
        || !case["max_chain_depth"].is_null()
        || !(name.is_null() || is_dns)
    {
        return None;
    }
    let host = is_dns.then(|| name["value"].as_str().unwrap());
    let leaf = chains::der(case["peer_certificate"].as_str().unwrap());
    let (roots, others) = (list("trusted_certs"), list("untrusted_intermediates"));
    Some(accepts(&roots, &leaf, &others, chains::time_of(case), host))
}

/// Our verdict on the chain of a bundle and its own; `None` where the bundle has no chain.
pub(crate) fn of_vector(folder: &Path, entry: &Value) -> Option<(bool, bool)> {
    let dir = folder.join(entry["dir"].as_str().unwrap());
    let bundle: Value = serde_json::from_slice(&read(dir.join(entry["bundle"].as_str().unwrap()))).ok()?;
    let chain = &bundle["verificationMaterial"]["x509CertificateChain"]["certificates"];
    let chain: Option<Vec<Vec<u8>>> = chain
        .as_array()?
        .iter()
        .map(|certificate| BASE64.decode(certificate["rawBytes"].as_str()?.as_bytes()).ok())
        .collect();
    let (leaf, others) = chain.as_deref()?.split_first()?;
    let files = entry["trust"]["cert_chain"].as_array().unwrap();
    let files: Vec<Vec<u8>> = files
        .iter()
        .map(|file| read(dir.join(file.as_str().unwrap())))
        .collect();
    let now = chains::time_of(&Value::Null);
    let slices: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    let ours = CertificateAnchor::from_pem(&slices)
        .is_ok_and(|anchor| anchor.verify(leaf, others, UnixTime(now)).is_ok());
    let given: Vec<Vec<u8>> = files.iter().flat_map(|file| certificates(file)).collect();
    Some((ours, accepts(&given, leaf, others, now, None)))
}

/// The certificates of a PEM file.
fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(pem);
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    blocks
        .filter_map(|block| {
            let body: String = block.split("-----END").next()?.split_ascii_whitespace().collect();
            BASE64.decode(body.as_bytes()).ok()
        })
        .collect()
}

/// Whether it finds a path for code signing. To it, every certificate that the operator gives is an anchor.
fn accepts(trusted: &[Vec<u8>], leaf: &[u8], others: &[Vec<u8>], at: i64, host: Option<&str>) -> bool {
    let trusted: Vec<CertificateDer<'_>> = trusted
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let anchors: Vec<_> = trusted
        .iter()
        .filter_map(|der| anchor_from_trusted_cert(der).ok())
        .collect();
    let others: Vec<CertificateDer<'_>> = others
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let leaf = CertificateDer::from(leaf);
    let Ok(leaf) = EndEntityCert::try_from(&leaf) else {
        return false;
    };
    let at = Duration::from_secs(at.try_into().unwrap());
    let found = leaf.verify_for_usage(
        &ALGORITHMS,
        &anchors,
        &others,
        rustls_pki_types::UnixTime::since_unix_epoch(at),
        KeyUsage::required_if_present(CODE_SIGNING),
        None,
        None,
    );
    let named = host.is_none_or(|host| {
        ServerName::try_from(host).is_ok_and(|name| leaf.verify_is_valid_for_subject_name(&name).is_ok())
    });
    found.is_ok() && named
}

/// An algorithm of webpki's, without the copy of the backend that it would bring.
#[derive(Debug)]
struct Algorithm {
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    verify: &'static dyn VerificationAlgorithm,
}

impl SignatureVerificationAlgorithm for Algorithm {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let key = UnparsedPublicKey::new(self.verify, key);
        key.verify(message, signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

const fn algorithm(
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    verify: &'static dyn VerificationAlgorithm,
) -> Algorithm {
    Algorithm {
        key,
        signature,
        verify,
    }
}

static ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 16] = [
    &algorithm(
        alg_id::ECDSA_P256,
        alg_id::ECDSA_SHA256,
        &signature::ECDSA_P256_SHA256_ASN1,
    ),
    &algorithm(
        alg_id::ECDSA_P256,
        alg_id::ECDSA_SHA384,
        &signature::ECDSA_P256_SHA384_ASN1,
    ),
    &algorithm(
        alg_id::ECDSA_P256,
        alg_id::ECDSA_SHA512,
        &signature::ECDSA_P256_SHA512_ASN1,
    ),
    &algorithm(
        alg_id::ECDSA_P384,
        alg_id::ECDSA_SHA256,
        &signature::ECDSA_P384_SHA256_ASN1,
    ),
    &algorithm(
        alg_id::ECDSA_P384,
        alg_id::ECDSA_SHA384,
        &signature::ECDSA_P384_SHA384_ASN1,
    ),
    &algorithm(
        alg_id::ECDSA_P384,
        alg_id::ECDSA_SHA512,
        &signature::ECDSA_P384_SHA512_ASN1,
    ),
    &algorithm(
        alg_id::ECDSA_P521,
        alg_id::ECDSA_SHA256,
        &signature::ECDSA_P521_SHA256_ASN1,
    ),
    &algorithm(
        alg_id::ECDSA_P521,
        alg_id::ECDSA_SHA384,
        &signature::ECDSA_P521_SHA384_ASN1,
    ),
    &algorithm(
        alg_id::ECDSA_P521,
        alg_id::ECDSA_SHA512,
        &signature::ECDSA_P521_SHA512_ASN1,
    ),
    &algorithm(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PKCS1_SHA256,
        &signature::RSA_PKCS1_2048_8192_SHA256,
    ),
    &algorithm(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PKCS1_SHA384,
        &signature::RSA_PKCS1_2048_8192_SHA384,
    ),
    &algorithm(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PKCS1_SHA512,
        &signature::RSA_PKCS1_2048_8192_SHA512,
    ),
    &algorithm(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PSS_SHA256,
        &signature::RSA_PSS_2048_8192_SHA256,
    ),
    &algorithm(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PSS_SHA384,
        &signature::RSA_PSS_2048_8192_SHA384,
    ),
    &algorithm(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PSS_SHA512,
        &signature::RSA_PSS_2048_8192_SHA512,
    ),
    &algorithm(alg_id::ED25519, alg_id::ED25519, &signature::ED25519),
];
