//! Bytes as a bundle.
//!
//! 1. Nothing panics, and every refusal is a message that is safe to print.
//! 2. No input is trusted under a key that never signed it.
//! 3. An input that is a bundle stays one, with the same payload, whatever white space stands around it.

#![no_main]

mod common;

use common::SIGNER;
use common::check_message;
use libfuzzer_sys::fuzz_target;
use modelfs::trust::Bundle;

fuzz_target!(|data: &[u8]| {
    let bundle = match Bundle::parse(data) {
        Ok(bundle) => bundle,
        Err(error) => return check_message(&error),
    };
    match SIGNER.anchors.verify(&bundle, common::NOW) {
        Ok(trusted) => panic!("trusted: {}", trusted.signer()),
        Err(error) => check_message(&error),
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
});
