//! Tokens signed for real by authorities made here, with one thing wrong each.

use std::time::Duration;

use cmpv2::status::PkiStatusInfo;
use cms::cert::IssuerAndSerialNumber;
use cms::cert::x509::Certificate;
use cms::cert::x509::attr::Attribute;
use cms::cert::x509::ext::Extension;
use cms::content_info::CmsVersion;
use cms::content_info::ContentInfo;
use cms::signed_data::CertificateSet;
use cms::signed_data::EncapsulatedContentInfo;
use cms::signed_data::SignerIdentifier;
use cms::signed_data::SignerInfos;
use der::asn1::GeneralizedTime;
use der::asn1::Int;
use der::asn1::SetOfVec;
use rcgen::CertificateParams;
use rcgen::CustomExtension;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::KeyPair;
use rcgen::SigningKey as _;
use x509_tsp::MessageImprint;
use x509_tsp::TspVersion;

use super::*;
use crate::trust::chain::Flaw;
use crate::trust::testing::Holder;
use crate::trust::testing::NOW;
use crate::trust::testing::signer;

/// A signature to stamp; a stamp's bytes have no shape of their own.
const SIGNATURE: &[u8] = b"the signature";

/// 2026-01-01T00:00:00Z.
pub(in crate::trust) const THEN: UnixTime = UnixTime(1_767_225_600);

/// DER of extended key usages.
const TIME_STAMPING: &[u8] = b"\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x08";
const TIME_STAMPING_AND_CODE_SIGNING: &[u8] =
    b"\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x08\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x03";

/// What a time-stamping authority asks for.
pub(in crate::trust) fn timestamper(name: &str) -> CertificateParams {
    with_purposes(name, TIME_STAMPING, true)
}

fn with_purposes(name: &str, purposes: &[u8], critical: bool) -> CertificateParams {
    let mut params = signer(name);
    params.extended_key_usages = vec![];
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 37], purposes.to_vec());
    extension.set_criticality(critical);
    params.custom_extensions.push(extension);
    params
}

/// A token in the making.
pub(in crate::trust) struct Stamp<'a> {
    tsa: &'a Holder,
    info: TstInfo,
    content_type: ObjectIdentifier,
    attributes: Vec<Attribute>,
    digest_algorithm: ObjectIdentifier,
    signature_algorithm: &'static str,
    embedded: Vec<Vec<u8>>,
}

impl<'a> Stamp<'a> {
    /// A good one.
    pub(in crate::trust) fn new(tsa: &'a Holder, signature: &[u8], at: UnixTime) -> Self {
        let seconds = Duration::from_secs(at.0.try_into().unwrap());
        let info = TstInfo {
            version: TspVersion::V1,
            policy: ObjectIdentifier::new_unwrap("1.2.3.4"),
            message_imprint: imprint(SHA256, &crate::digest::sha256(signature)),
            serial_number: Int::new(&[7]).unwrap(),
            gen_time: GeneralizedTime::from_unix_duration(seconds).unwrap(),
            accuracy: None,
            ordering: false,
            nonce: None,
            tsa: None,
            extensions: None,
        };
        let mut stamp = Self {
            tsa,
            info,
            content_type: TST_INFO,
            attributes: vec![],
            digest_algorithm: SHA256,
            signature_algorithm: "1.2.840.10045.4.3.2",
            embedded: vec![tsa.der.clone()],
        };
        stamp.attribute_all();
        stamp
    }

    fn content(&self) -> Vec<u8> {
        self.info.to_der().unwrap()
    }

    /// The attributes that belong to the content as it is now.
    fn attribute_all(&mut self) {
        let digest = HashFunction::Sha256.digest(&self.content());
        self.attributes = vec![
            attribute(CONTENT_TYPE, &TST_INFO),
            attribute(
                MESSAGE_DIGEST,
                &OctetString::new(digest.as_ref().to_vec()).unwrap(),
            ),
            attribute(SIGNING_CERTIFICATE_V2, &named(&self.tsa.der)),
        ];
    }

    /// Changes what it says, and signs that.
    fn saying(mut self, edit: impl FnOnce(&mut TstInfo)) -> Self {
        edit(&mut self.info);
        self.attribute_all();
        self
    }

    /// Changes what the signature covers beside the content.
    fn attributed(mut self, edit: impl FnOnce(&mut Vec<Attribute>)) -> Self {
        edit(&mut self.attributes);
        self
    }

    fn embedding(mut self, certificates: &[&Holder]) -> Self {
        self.embedded = certificates.iter().map(|holder| holder.der.clone()).collect();
        self
    }

    fn signed(&self) -> SignedData {
        let attributes = SetOfVec::try_from(self.attributes.clone()).unwrap();
        let certificate = Certificate::from_der(&self.tsa.der).unwrap();
        let algorithm = |oid| AlgorithmIdentifierOwned {
            oid,
            parameters: None,
        };
        let signature = self.tsa.key.sign(&attributes.to_der().unwrap()).unwrap();
        let info = SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: certificate.tbs_certificate.issuer,
                serial_number: certificate.tbs_certificate.serial_number,
            }),
            digest_alg: algorithm(self.digest_algorithm),
            signed_attrs: Some(attributes),
            signature_algorithm: algorithm(ObjectIdentifier::new_unwrap(self.signature_algorithm)),
            signature: OctetString::new(signature).unwrap(),
            unsigned_attrs: None,
        };
        let certificates = self
            .embedded
            .iter()
            .map(|der| CertificateChoices::Certificate(Certificate::from_der(der).unwrap()));
        SignedData {
            version: CmsVersion::V3,
            digest_algorithms: SetOfVec::try_from(vec![algorithm(self.digest_algorithm)]).unwrap(),
            encap_content_info: EncapsulatedContentInfo {
                econtent_type: self.content_type,
                econtent: Some(Any::new(Tag::OctetString, self.content()).unwrap()),
            },
            certificates: Some(CertificateSet(
                SetOfVec::try_from(certificates.collect::<Vec<_>>()).unwrap(),
            )),
            crls: None,
            signer_infos: SignerInfos(SetOfVec::try_from(vec![info]).unwrap()),
        }
    }

    /// The whole response.
    pub(in crate::trust) fn response(&self) -> Vec<u8> {
        response(&self.signed(), PkiStatus::Accepted)
    }

    /// The response with the signed data changed afterwards.
    fn tampered(&self, edit: impl FnOnce(&mut SignedData)) -> Vec<u8> {
        let mut signed = self.signed();
        edit(&mut signed);
        response(&signed, PkiStatus::Accepted)
    }

    /// The same for its one signer.
    fn resigned(&self, edit: impl FnOnce(&mut SignerInfo)) -> Vec<u8> {
        self.tampered(|signed| {
            let mut infos = signed.signer_infos.0.clone().into_vec();
            edit(&mut infos[0]);
            signed.signer_infos = SignerInfos(SetOfVec::try_from(infos).unwrap());
        })
    }
}

fn response(signed: &SignedData, status: PkiStatus) -> Vec<u8> {
    let token = ContentInfo {
        content_type: SIGNED_DATA,
        content: Any::encode_from(signed).unwrap(),
    };
    bare_response(Some(token), status)
}

fn bare_response(token: Option<ContentInfo>, status: PkiStatus) -> Vec<u8> {
    let response = TimeStampResp {
        status: PkiStatusInfo {
            status,
            status_string: None,
            fail_info: None,
        },
        time_stamp_token: token,
    };
    response.to_der().unwrap()
}

fn imprint(hash: ObjectIdentifier, digest: &[u8]) -> MessageImprint {
    MessageImprint {
        hash_algorithm: AlgorithmIdentifierOwned {
            oid: hash,
            parameters: Some(Any::null()),
        },
        hashed_message: OctetString::new(digest.to_vec()).unwrap(),
    }
}

fn attribute(kind: ObjectIdentifier, value: &(impl Encode + der::EncodeValue + der::Tagged)) -> Attribute {
    Attribute {
        oid: kind,
        values: SetOfVec::try_from(vec![Any::encode_from(value).unwrap()]).unwrap(),
    }
}

fn named(der: &[u8]) -> SigningCertificateV2 {
    SigningCertificateV2 {
        certs: vec![EssCertIdV2 {
            hash_algorithm: None,
            cert_hash: OctetString::new(crate::digest::sha256(der).to_vec()).unwrap(),
            issuer_serial: None,
        }],
        policies: None,
    }
}

fn named_with_sha1(der: &[u8]) -> SigningCertificate {
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der);
    SigningCertificate {
        certs: vec![EssCertId {
            cert_hash: OctetString::new(digest.as_ref().to_vec()).unwrap(),
            issuer_serial: None,
        }],
        policies: None,
    }
}

pub(in crate::trust) fn trusting(roots: &[&Holder]) -> TimestampAnchor {
    let pems: Vec<String> = roots.iter().map(|root| root.pem()).collect();
    let files: Vec<&[u8]> = pems.iter().map(|pem| pem.as_bytes()).collect();
    TimestampAnchor::from_pem(&files).unwrap()
}

fn verdict(roots: &[&Holder], response: &[u8]) -> Result<UnixTime, TimestampError> {
    let proof = trusting(roots).verify(response, SIGNATURE, NOW);
    proof.map(|proof| proof.at)
}

fn flaw_of(verdict: Result<UnixTime, TimestampError>) -> Flaw {
    match verdict {
        Err(TimestampError::Chain(ChainError::Certificate { flaw, .. })) => flaw,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_token_of_a_trusted_authority_proves_its_time() {
    let root = Holder::root("tsa root");
    let tsa = root.issue(timestamper("tsa"));
    let good = || Stamp::new(&tsa, SIGNATURE, THEN);
    let middle = root.issue(crate::trust::testing::intermediate("tsa middle"));
    let below = middle.issue(timestamper("tsa below"));
    let p384 = root.issue_for(
        timestamper("p384"),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
    );
    let mut with_p384 = Stamp::new(&p384, SIGNATURE, THEN);
    with_p384.digest_algorithm = SHA384;
    with_p384.signature_algorithm = "1.2.840.10045.4.3.3";
    let digest = HashFunction::Sha384.digest(&with_p384.content());
    let digest = OctetString::new(digest.as_ref().to_vec()).unwrap();
    let with_p384 = with_p384.attributed(|all| all[1] = attribute(MESSAGE_DIGEST, &digest));
    let sha512 = HashFunction::Sha512.digest(SIGNATURE);
    let cases = [
        ("plain", good().response(), vec![&root]),
        ("SHA-384 and P-384", with_p384.response(), vec![&root]),
        (
            "imprint of SHA-512",
            good()
                .saying(|info| info.message_imprint = imprint(SHA512, sha512.as_ref()))
                .response(),
            vec![&root],
        ),
        (
            "named by SHA-1",
            good()
                .attributed(|all| all[2] = attribute(SIGNING_CERTIFICATE, &named_with_sha1(&tsa.der)))
                .response(),
            vec![&root],
        ),
        (
            "certificate from the operator",
            good().embedding(&[]).response(),
            vec![&root, &tsa],
        ),
        (
            "intermediate in the token",
            Stamp::new(&below, SIGNATURE, THEN)
                .embedding(&[&middle, &below])
                .response(),
            vec![&root],
        ),
        // Whoever asked for a token compares its nonce; we did not ask.
        (
            "any nonce and serial number",
            good()
                .saying(|info| {
                    info.nonce = Some(Int::new(&[1; 20]).unwrap());
                    info.serial_number = Int::new(&[0x7f; 20]).unwrap();
                })
                .response(),
            vec![&root],
        ),
        ("one of two roots", good().response(), vec![&tsa, &middle, &root]),
        (
            "granted with modifications",
            response(&good().signed(), PkiStatus::GrantedWithMods),
            vec![&root],
        ),
        // RFC 5652 leaves it unsigned; the certificate is found by what is signed.
        (
            "another signer identifier",
            good().resigned(|info| {
                if let SignerIdentifier::IssuerAndSerialNumber(sid) = &mut info.sid {
                    sid.serial_number = Certificate::from_der(&root.der)
                        .unwrap()
                        .tbs_certificate
                        .serial_number;
                }
            }),
            vec![&root],
        ),
    ];
    for (name, response, roots) in cases {
        assert_eq!(verdict(&roots, &response), Ok(THEN), "{name}");
    }
    let proof = trusting(&[&root])
        .verify(&good().response(), SIGNATURE, NOW)
        .unwrap();
    assert_eq!(
        proof.to_string(),
        "2026-01-01T00:00:00Z (says the time-stamping authority \"CN=tsa\")"
    );
}

#[test]
fn a_token_has_one_thing_wrong() {
    let (root, other) = (Holder::root("tsa root"), Holder::root("tsa root"));
    let tsa = root.issue(timestamper("tsa"));
    let good = || Stamp::new(&tsa, SIGNATURE, THEN);
    let sha1 = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
    let sha256_of = |bytes: &[u8]| crate::digest::sha256(bytes).to_vec();
    let signed = good().signed();
    let twice = |kind: usize| {
        move |all: &mut Vec<Attribute>| {
            let mut again = all[kind].clone();
            let value = Any::encode_from(&OctetString::new(vec![1]).unwrap()).unwrap();
            again.values = SetOfVec::try_from(vec![value]).unwrap();
            all.push(again);
        }
    };
    let malformed = TimestampError::Malformed;
    let missing = |kind| TimestampError::Attribute { kind };
    let cases = [
        (
            "over another signature",
            Stamp::new(&tsa, b"the signatures", THEN).response(),
            TimestampError::OtherSignature,
        ),
        (
            "imprint of SHA-1",
            good()
                .saying(|info| info.message_imprint = imprint(sha1, &[0; 20]))
                .response(),
            TimestampError::Hash,
        ),
        (
            "imprint cut short",
            good()
                .saying(|info| info.message_imprint = imprint(SHA256, &sha256_of(SIGNATURE)[..31]))
                .response(),
            TimestampError::OtherSignature,
        ),
        (
            "empty imprint",
            good()
                .saying(|info| info.message_imprint = imprint(SHA256, &[]))
                .response(),
            TimestampError::OtherSignature,
        ),
        (
            "time changed afterwards",
            good().tampered(|signed| {
                let mut info = good().info;
                info.gen_time = GeneralizedTime::from_unix_duration(Duration::from_secs(1)).unwrap();
                signed.encap_content_info.econtent =
                    Some(Any::new(Tag::OctetString, info.to_der().unwrap()).unwrap());
            }),
            TimestampError::Content,
        ),
        (
            "nonce added afterwards",
            good().tampered(|signed| {
                let mut info = good().info;
                info.nonce = Some(Int::new(&[1]).unwrap());
                signed.encap_content_info.econtent =
                    Some(Any::new(Tag::OctetString, info.to_der().unwrap()).unwrap());
            }),
            TimestampError::Content,
        ),
        (
            "attributes changed afterwards",
            good().resigned(|info| {
                let changed = good().attributed(|all| {
                    all.push(attribute(
                        ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.99"),
                        &OctetString::new(vec![1]).unwrap(),
                    ));
                });
                info.signed_attrs = Some(SetOfVec::try_from(changed.attributes).unwrap());
            }),
            TimestampError::BadSignature,
        ),
        (
            "signature of nobody",
            good().resigned(|info| info.signature = OctetString::new(vec![0; 70]).unwrap()),
            TimestampError::BadSignature,
        ),
        (
            "no signature",
            good().resigned(|info| info.signature = OctetString::new(vec![]).unwrap()),
            TimestampError::BadSignature,
        ),
        (
            "signature by RSA, says the token",
            good().resigned(|info| {
                info.signature_algorithm.oid = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
            }),
            TimestampError::BadSignature,
        ),
        (
            "signature over SHA-384, says one of two fields",
            good().resigned(|info| {
                info.signature_algorithm.oid = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
            }),
            TimestampError::BadSignature,
        ),
        (
            "content hashed with SHA-1",
            good().resigned(|info| info.digest_alg.oid = sha1),
            TimestampError::Hash,
        ),
        (
            "no signed attributes",
            good().resigned(|info| info.signed_attrs = None),
            malformed("its token has no signed attributes"),
        ),
        (
            "signature for other content",
            good()
                .attributed(|all| all[0] = attribute(CONTENT_TYPE, &SIGNED_DATA))
                .response(),
            malformed("its signature is for other content"),
        ),
        (
            "no content type",
            good().attributed(|all| drop(all.remove(0))).response(),
            missing("content-type"),
        ),
        (
            "no message digest",
            good().attributed(|all| drop(all.remove(1))).response(),
            missing("message-digest"),
        ),
        (
            "two message digests",
            good().attributed(twice(1)).response(),
            missing("message-digest"),
        ),
        (
            "no signing certificate",
            good().attributed(|all| drop(all.remove(2))).response(),
            missing("signing-certificate"),
        ),
        (
            "two signing certificates",
            good().attributed(twice(2)).response(),
            missing("signing-certificate-v2"),
        ),
        (
            "signing certificate of somebody else",
            good()
                .attributed(|all| all[2] = attribute(SIGNING_CERTIFICATE_V2, &named(&other.der)))
                .response(),
            TimestampError::NoCertificate,
        ),
        (
            "signing certificate nowhere",
            good().embedding(&[]).response(),
            TimestampError::NoCertificate,
        ),
        (
            "two signers",
            good().tampered(|signed| {
                let one = signed.signer_infos.0.get(0).unwrap().clone();
                let mut two = one.clone();
                two.version = CmsVersion::V3;
                signed.signer_infos = SignerInfos(SetOfVec::try_from(vec![one, two]).unwrap());
            }),
            malformed("its token has not exactly one signer"),
        ),
        (
            "no signer",
            good().tampered(|signed| signed.signer_infos = SignerInfos(SetOfVec::new())),
            malformed("its token has not exactly one signer"),
        ),
        (
            "data that is no time",
            good().tampered(|signed| signed.encap_content_info.econtent_type = SIGNED_DATA),
            malformed("its token says no time (TSTInfo)"),
        ),
        (
            "no data",
            good().tampered(|signed| signed.encap_content_info.econtent = None),
            malformed("its token has no content"),
        ),
        (
            "critical extension",
            good()
                .saying(|info| {
                    info.extensions = Some(vec![Extension {
                        extn_id: ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.99"),
                        critical: true,
                        extn_value: OctetString::new(vec![]).unwrap(),
                    }]);
                })
                .response(),
            malformed("it has a critical extension that is not understood"),
        ),
        (
            "rejected, with a good token",
            response(&signed, PkiStatus::Rejection),
            TimestampError::NotGranted,
        ),
        (
            "waiting",
            bare_response(None, PkiStatus::Waiting),
            TimestampError::NotGranted,
        ),
        (
            "granted, without a token",
            bare_response(None, PkiStatus::Accepted),
            malformed("it has no token"),
        ),
        (
            "from the future",
            Stamp::new(&tsa, SIGNATURE, UnixTime(NOW.0 + 1)).response(),
            TimestampError::Future {
                at: UnixTime(NOW.0 + 1),
                now: NOW,
            },
        ),
        (
            "trailing bytes",
            [good().response(), vec![0]].concat(),
            malformed("it is not the DER of a timestamp response"),
        ),
        (
            "a token without its response",
            good().signed().to_der().unwrap(),
            malformed("it is not the DER of a timestamp response"),
        ),
        (
            "nothing",
            vec![],
            malformed("it is not the DER of a timestamp response"),
        ),
        (
            "too many certificates",
            {
                let crowd: Vec<Holder> = (0..11).map(|i| root.issue(timestamper(&i.to_string()))).collect();
                good().embedding(&crowd.iter().collect::<Vec<_>>()).response()
            },
            TimestampError::TooManyCertificates { count: 11 },
        ),
    ];
    for (name, response, want) in cases {
        assert_eq!(verdict(&[&root], &response), Err(want), "{name}");
    }
    assert_eq!(
        verdict(&[&root], &Stamp::new(&tsa, SIGNATURE, NOW).response()),
        Ok(NOW)
    );
}

#[test]
fn an_authority_has_one_thing_wrong() {
    let root = Holder::root("tsa root");
    let stamped = |tsa: &Holder, at| verdict(&[&root], &Stamp::new(tsa, SIGNATURE, at).response());
    let by = |params| flaw_of(stamped(&root.issue(params), THEN));
    let mut no_purpose = timestamper("tsa");
    no_purpose.custom_extensions.clear();
    let mut code_signing = signer("tsa");
    code_signing.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let mut no_usage = timestamper("tsa");
    no_usage.key_usages = vec![rcgen::KeyUsagePurpose::KeyEncipherment];
    let cases = [
        ("for code signing", by(code_signing), Flaw::NotForTimeStamping),
        (
            "for nothing in particular",
            by(no_purpose),
            Flaw::NotForTimeStamping,
        ),
        (
            "for two purposes",
            by(with_purposes("tsa", TIME_STAMPING_AND_CODE_SIGNING, true)),
            Flaw::NotForTimeStamping,
        ),
        (
            "for time-stamping, perhaps",
            by(with_purposes("tsa", TIME_STAMPING, false)),
            Flaw::TimeStampingNotCritical,
        ),
        ("not for signatures", by(no_usage), Flaw::NoDigitalSignature),
    ];
    for (name, found, want) in cases {
        assert_eq!(found, want, "{name}");
    }
    // A time-stamping authority signs times, and no models.
    let tsa = root.issue(timestamper("tsa"));
    let as_signer = root.anchor().verify(&tsa.der, &[], NOW);
    assert!(
        matches!(
            as_signer,
            Err(ChainError::Certificate {
                flaw: Flaw::NotForCodeSigning,
                ..
            })
        ),
        "{as_signer:?}"
    );
    let mut limited = crate::trust::testing::intermediate("code signing only");
    limited.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let limited = root.issue(limited);
    let below = limited.issue(timestamper("tsa"));
    let response = Stamp::new(&below, SIGNATURE, THEN)
        .embedding(&[&limited, &below])
        .response();
    assert_eq!(flaw_of(verdict(&[&root], &response)), Flaw::NotForTimeStamping);
}

#[test]
fn an_authority_must_be_valid_when_it_stamps_and_lead_to_a_given_root() {
    let root = Holder::root("tsa root");
    let mut brief = timestamper("brief");
    brief.not_before = rcgen::date_time_ymd(2026, 1, 1);
    brief.not_after = rcgen::date_time_ymd(2026, 2, 1);
    let brief = root.issue(brief);
    let end = UnixTime(1_769_904_000);
    let at = |at: i64| verdict(&[&root], &Stamp::new(&brief, SIGNATURE, UnixTime(at)).response());
    // It has expired since, which is what timestamps are for.
    assert_eq!(at(THEN.0), Ok(THEN));
    assert_eq!(at(end.0), Ok(end));
    assert!(matches!(flaw_of(at(THEN.0 - 1)), Flaw::NotYetValid { .. }));
    assert!(matches!(flaw_of(at(end.0 + 1)), Flaw::Expired { .. }));
    // Same names, another key.
    let stranger = Holder::root("tsa root");
    let forged = stranger.issue(timestamper("tsa"));
    for embedded in [vec![&forged], vec![&forged, &stranger]] {
        let response = Stamp::new(&forged, SIGNATURE, THEN)
            .embedding(&embedded)
            .response();
        assert!(
            matches!(verdict(&[&root], &response), Err(TimestampError::Chain(_))),
            "a root that came along is no root"
        );
    }
}

/// Whatever is done to a token, it proves its own time or nothing.
#[test]
fn a_changed_token_proves_the_same_time_or_none() {
    let root = Holder::root("tsa root");
    let tsa = root.issue(timestamper("tsa"));
    let response = Stamp::new(&tsa, SIGNATURE, THEN).response();
    let anchor = trusting(&[&root]);
    let mut accepted = 0;
    for at in 0..response.len() {
        for bit in 0..8 {
            let mut changed = response.clone();
            changed[at] ^= 1 << bit;
            if let Ok(proof) = anchor.verify(&changed, SIGNATURE, NOW) {
                accepted += 1;
                assert_eq!(proof.at, THEN, "byte {at}, bit {bit}");
            }
        }
    }
    // What is not signed may change: the signer's identifier, versions, the list of algorithms.
    assert!(
        accepted < response.len() * 8 / 4,
        "{accepted} of {}",
        response.len() * 8
    );
}

/// Tokens of real authorities, held against the crate that checks those of keyless bundles: the same time, or both
/// refuse.
#[test]
fn real_tokens_prove_the_time_that_the_other_reader_reads() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/vectors/sigstore-conformance/bundle-verify");
    if !folder.is_dir() {
        return crate::trust::testing::notice(
            "real timestamps were left out: ../shared/vectors is not there",
        );
    }
    let read = |path: std::path::PathBuf| std::fs::read(path).unwrap();
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
    let decode = |text: &serde_json::Value| {
        data_encoding::BASE64
            .decode(text.as_str().unwrap_or_default().as_bytes())
            .ok()
    };
    let (mut same, mut refused) = (0, 0);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let case = entry.unwrap().path();
        if !case.join("trusted_root.json").exists() {
            continue;
        }
        let root_text = read(case.join("trusted_root.json"));
        let Ok(root) =
            sigstore_verify::trust_root::TrustedRoot::from_json(std::str::from_utf8(&root_text).unwrap())
        else {
            continue;
        };
        let Some(bundle) = json(&read(case.join("bundle.sigstore.json"))) else {
            continue;
        };
        let signature = [
            &bundle["messageSignature"]["signature"],
            &bundle["dsseEnvelope"]["signatures"][0]["sig"],
        ]
        .into_iter()
        .find_map(|text| decode(text).filter(|bytes| !bytes.is_empty()));
        let stamp = &bundle["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"][0];
        let (Some(signature), Some(token)) = (signature, decode(&stamp["signedTimestamp"])) else {
            continue;
        };
        if token.is_empty() {
            continue;
        }
        for tsa in root.timestamp_authorities.iter().zip(root.tsa_authorities()) {
            let (listed, authority) = tsa;
            let pems: Vec<String> = listed
                .cert_chain
                .certificates
                .iter()
                .map(|certificate| crate::trust::pem::encode("CERTIFICATE", certificate.raw_bytes.as_bytes()))
                .collect();
            let files: Vec<&[u8]> = pems.iter().map(|pem| pem.as_bytes()).collect();
            let ours = TimestampAnchor::from_pem(&files)
                .ok()
                .and_then(|anchor| anchor.verify(&token, &signature, NOW).ok());
            // The crate also asks whether the root lets this authority speak for this time, which no PEM says.
            let unlimited = sigstore_verify::types::TsaAuthority::new(
                authority.leaf,
                authority.intermediates,
                authority.root,
                None,
            );
            let theirs = sigstore_verify::tsa::verify_timestamp_for_authority(
                &sigstore_verify::types::TimestampToken::new(token.clone()),
                &sigstore_verify::types::SignatureBytes::new(signature.clone()),
                &unlimited,
            )
            .ok();
            let theirs = theirs.map(|time| UnixTime(time.as_second()));
            assert_eq!(ours.map(|proof| proof.at), theirs, "{}", case.display());
            match theirs {
                Some(_) => same += 1,
                None => refused += 1,
            }
        }
    }
    assert!(same >= 5 && refused >= 2, "{same} and {refused}");
}
