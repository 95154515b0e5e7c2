//! DSSE envelopes: the payload and the bytes that were signed.
//!
//! The payload is decoded once, straight behind the header of its pre-authentication encoding (PAE), so
//! the bytes that a signature is checked over are the bytes that are parsed afterwards: there is no second
//! copy that could differ.

use std::fmt;

use aws_lc_rs::digest::Context;
use aws_lc_rs::digest::Digest;

use crate::trust::base64;
use crate::trust::base64::Base64Error;
use crate::trust::key::BadSignature;
use crate::trust::key::HashFunction;
use crate::trust::key::PublicKey;

/// The only payload type that OMS has.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// How the signer made bytes to sign from the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// DSSE v1, hashed as the key's curve says.
    V1,
    /// v0.2 of the reference tool with a bare key: its own encoding, hashed as the key's curve says.
    LegacyKey,
    /// v0.2 of the reference tool with a certificate: its own encoding, hashed with SHA-256 always.
    LegacyCertificate,
}

/// A payload with one signature that nobody has looked at yet.
pub(super) struct Envelope {
    pae: Vec<u8>,
    payload_at: usize,
    signature: Vec<u8>,
}

impl Envelope {
    /// Decodes the two texts of an envelope whose type is [`PAYLOAD_TYPE`].
    pub(super) fn parse(payload: &str, signature: &str) -> Result<Self, EnvelopeError> {
        let signature = base64::decode(signature).map_err(EnvelopeError::SignatureNotBase64)?;
        if signature.is_empty() {
            return Err(EnvelopeError::EmptySignature);
        }
        let payload_bytes = base64::decoded_bytes(payload).map_err(EnvelopeError::PayloadNotBase64)?;
        let header = header("DSSEv1", payload_bytes);
        let mut pae = vec![0; header.len() + payload_bytes];
        let (head, body) = pae.split_at_mut(header.len());
        head.copy_from_slice(header.as_bytes());
        base64::decode_into(payload, body).map_err(EnvelopeError::PayloadNotBase64)?;
        Ok(Self {
            pae,
            payload_at: header.len(),
            signature,
        })
    }

    /// The payload, for parsing.
    pub(super) fn payload(&self) -> &[u8] {
        self.pae.get(self.payload_at..).unwrap_or_default()
    }

    /// The signature's own bytes, which time-stamping authorities and logs refer to.
    pub(super) fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// The digest of what v0.2 signed: the payload as Python prints a bytes object (OMS 11, `pae_compat`).
    /// It may be four times the payload, so it is hashed as it is made.
    fn legacy_digest(&self, hash: HashFunction) -> Digest {
        let payload = self.payload();
        let mut context = Context::new(hash.algorithm());
        context.update(header("DSSEV1", payload.len()).as_bytes());
        python_repr(payload, |piece| context.update(piece));
        context.finish()
    }
}

/// The digests of one envelope, each made when it is first asked for and then kept: a payload may have 288 MiB,
/// and many keys may be tried.
pub(super) struct Digests<'a> {
    envelope: &'a Envelope,
    made: Vec<(Encoding, HashFunction, Digest)>,
}

/// How the payload becomes the bytes that are hashed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    V1,
    Legacy,
}

impl<'a> Digests<'a> {
    /// Of this envelope; none is made yet.
    pub(super) fn of(envelope: &'a Envelope) -> Self {
        Self {
            envelope,
            made: Vec::new(),
        }
    }

    /// Checks the envelope's signature.
    pub(super) fn verify(&mut self, key: &PublicKey, scheme: Scheme) -> Result<(), BadSignature> {
        let (encoding, hash) = match scheme {
            Scheme::V1 => (Encoding::V1, key.curve().hash_function()),
            Scheme::LegacyKey => (Encoding::Legacy, key.curve().hash_function()),
            Scheme::LegacyCertificate => (Encoding::Legacy, HashFunction::Sha256),
        };
        key.verify_digest(&self.digest(encoding, hash), &self.envelope.signature)
    }

    fn digest(&mut self, encoding: Encoding, hash: HashFunction) -> Digest {
        let known = self.made.iter().find(|(e, h, _)| (*e, *h) == (encoding, hash));
        if let Some((.., digest)) = known {
            return *digest;
        }
        let digest = match encoding {
            Encoding::V1 => hash.digest(&self.envelope.pae),
            Encoding::Legacy => self.envelope.legacy_digest(hash),
        };
        self.made.push((encoding, hash, digest));
        digest
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// What stands before the payload in the bytes that are signed (DSSE protocol, section "Signature definition").
fn header(version: &str, payload_bytes: usize) -> String {
    format!("{version} {} {PAYLOAD_TYPE} {payload_bytes} ", PAYLOAD_TYPE.len())
}

/// Prints bytes as Python's `repr` does, piece by piece.
fn python_repr(bytes: &[u8], mut write: impl FnMut(&[u8])) {
    let quote = match bytes.contains(&b'\'') && !bytes.contains(&b'"') {
        true => b'"',
        false => b'\'',
    };
    write(&[b'b', quote]);
    let plain = |b: u8| matches!(b, b' '..=b'~') && b != b'\\' && b != quote;
    for run in bytes.chunk_by(|&a, &b| plain(a) && plain(b)) {
        match *run {
            [b'\t'] => write(b"\\t"),
            [b'\n'] => write(b"\\n"),
            [b'\r'] => write(b"\\r"),
            [b] if b == quote || b == b'\\' => write(&[b'\\', b]),
            // Without an allocation each: a hostile payload may be of nothing else.
            [b] if !plain(b) => write(&[b'\\', b'x', hex_digit(b >> 4), hex_digit(b & 0xf)]),
            _ => write(run),
        }
    }
    write(&[quote]);
}

const fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + nibble - 10,
    }
}

/// Why an envelope cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvelopeError {
    /// The payload is not base64.
    PayloadNotBase64(Base64Error),
    /// The signature is not base64.
    SignatureNotBase64(Base64Error),
    /// The signature has no bytes.
    EmptySignature,
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PayloadNotBase64(_) => write!(f, "the envelope's payload is not base64"),
            Self::SignatureNotBase64(_) => write!(f, "the envelope's signature is not base64"),
            Self::EmptySignature => write!(f, "the envelope's signature is empty"),
        }
    }
}

impl std::error::Error for EnvelopeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::PayloadNotBase64(cause) | Self::SignatureNotBase64(cause) => Some(cause),
            Self::EmptySignature => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_what_is_parsed() {
        let envelope = Envelope::parse("aGVsbG8=", "AA==").unwrap();
        assert_eq!(envelope.payload(), b"hello");
        assert_eq!(envelope.pae, b"DSSEv1 28 application/vnd.in-toto+json 5 hello");
        let empty = Envelope::parse("", "AA==").unwrap();
        assert_eq!(empty.payload(), b"");
        assert_eq!(empty.pae, b"DSSEv1 28 application/vnd.in-toto+json 0 ");
    }

    #[test]
    fn each_digest_is_made_once_however_many_keys_are_tried() {
        let key = |algorithm| {
            let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
            PublicKey::from_pem(pair.public_key_pem().as_bytes()).unwrap()
        };
        let envelope = Envelope::parse("aGVsbG8=", "AA==").unwrap();
        let mut digests = Digests::of(&envelope);
        for (algorithm, made) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, 2),
            (&rcgen::PKCS_ECDSA_P256_SHA256, 2),
            (&rcgen::PKCS_ECDSA_P384_SHA384, 4),
            (&rcgen::PKCS_ECDSA_P256_SHA256, 4),
        ] {
            let key = key(algorithm);
            for scheme in [Scheme::V1, Scheme::LegacyKey, Scheme::LegacyCertificate] {
                assert_eq!(digests.verify(&key, scheme), Err(BadSignature));
            }
            assert_eq!(digests.made.len(), made);
        }
        for (encoding, hash, digest) in &digests.made {
            let want = match encoding {
                Encoding::V1 => hash.digest(&envelope.pae),
                Encoding::Legacy => hash.digest(b"DSSEV1 28 application/vnd.in-toto+json 5 b'hello'"),
            };
            assert_eq!(digest.as_ref(), want.as_ref());
        }
    }

    #[test]
    fn texts_that_do_not_decode_are_refused() {
        let cases = [
            ("AA==", "", EnvelopeError::EmptySignature),
            (
                "AA==",
                "A",
                EnvelopeError::SignatureNotBase64(Base64Error::Length { characters: 1 }),
            ),
            (
                "AA=",
                "AA==",
                EnvelopeError::PayloadNotBase64(Base64Error::Length { characters: 3 }),
            ),
            (
                "A!==",
                "AA==",
                EnvelopeError::PayloadNotBase64(Base64Error::Symbol { at: 1 }),
            ),
        ];
        for (payload, signature, want) in cases {
            assert_eq!(Envelope::parse(payload, signature).unwrap_err(), want);
        }
    }

    /// The expected texts are what Python 3.11 printed for `repr(..)`.
    #[test]
    fn legacy_bytes_are_printed_as_python_prints_them() {
        let cases: &[(&[u8], &str)] = &[
            (b"", "b''"),
            (b"{\"a\": 1}", "b'{\"a\": 1}'"),
            (b"it's", "b\"it's\""),
            (b"it's \"x\"", "b'it\\'s \"x\"'"),
            (b"a\\b\t\n\r", "b'a\\\\b\\t\\n\\r'"),
            (b"\x00\x1f ~\x7f\xff", "b'\\x00\\x1f ~\\x7f\\xff'"),
            (b"\n\nab\n", "b'\\n\\nab\\n'"),
            (b"'", "b\"'\""),
            (b"\\'", "b\"\\\\'\""),
        ];
        for (bytes, want) in cases {
            let mut got = Vec::new();
            python_repr(bytes, |piece| got.extend_from_slice(piece));
            assert_eq!(String::from_utf8(got).unwrap(), *want);
        }
    }
}
