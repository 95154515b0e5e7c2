//! Bytes as a bundle, where the signers of the repository's models are trusted, and those of the public vectors that
//! are there: keys, certificates and, through the public Sigstore instance, identities.
//!
//! 1. Nothing panics, and every refusal is a message that is safe to print.
//! 2. What is trusted says what one of these signers signed: the same payload, under the same name.
//! 3. Nothing is trusted under a key that never signed, or where nobody is trusted.
//! 4. An input that is a bundle stays one, with the same payload, whatever white space stands around it.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
#[allow(dead_code, reason = "the other targets use the rest of it")]
mod common;

use modelfs::trust::Bundle;
use modelfs::trust::TrustAnchors;

use crate::common::KNOWN;
use crate::common::NOW;
use crate::common::SIGNER;
use crate::common::check_message;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(init: common::plant_seeds("bundle"), |data: &[u8]| check(data));

pub(crate) fn check(data: &[u8]) {
    let bundle = match Bundle::parse(data) {
        Ok(bundle) => bundle,
        Err(error) => return check_message(&error),
    };
    match KNOWN.anchors.verify(&bundle, NOW) {
        Ok(trusted) => {
            let said = (*trusted.manifest().identity(), trusted.signer().to_string());
            assert!(KNOWN.statements.contains(&said), "nobody signed this: {said:?}");
        }
        Err(error) => check_message(&error),
    }
    for strangers in [&SIGNER.anchors, &TrustAnchors::new()] {
        match strangers.verify(&bundle, NOW) {
            Ok(trusted) => panic!("trusted: {}", trusted.signer()),
            Err(error) => check_message(&error),
        }
    }
    let again = Bundle::parse(&[b" \n", data, b"\t\r\n"].concat()).expect("white space means nothing");
    assert_eq!(again.method(), bundle.method());
    match (bundle.untrusted_manifest(), again.untrusted_manifest()) {
        (Ok(a), Ok(b)) => assert_eq!(a.identity(), b.identity()),
        (Err(a), Err(b)) => {
            check_message(&a);
            assert_eq!(a.to_string(), b.to_string());
        }
        (a, b) => panic!("{a:?} and {b:?}"),
    }
}
