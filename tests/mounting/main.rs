//! Real mounts: what the kernel, an operator and a reader see of one, and what is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise"
)]

mod errors;
mod handed_over;
mod helper;
mod insistence;
mod life;
mod logging;
mod manual;
mod memory;
mod names;
mod ordinary_user;
#[path = "../../examples/pages.rs"]
mod pages;
mod policy;
mod read_only;
mod reading;
mod refusals;
mod resources;
mod sandbox;
mod service;
mod status;
#[path = "../support/mod.rs"]
mod support;
mod unreliable_source;
mod warm;

use support::random::Random;
use support::signing::Layout;
use support::signing::Signed;

/// A small model with a directory, an empty file and a file of several chunks.
fn small_model(layout: Layout) -> Signed {
    let mut random = Random::from_environment("small model");
    Signed::new(
        layout,
        &[
            ("config.json", random.bytes(300)),
            ("empty.txt", Vec::new()),
            ("tokenizer/vocab.txt", random.bytes(5000)),
            ("weights.bin", random.bytes(3 * support::CHUNK + 17)),
        ],
    )
}

/// Asserts that a call failed with this errno.
fn assert_errno<T: std::fmt::Debug>(result: std::io::Result<T>, errno: i32, what: &str) {
    match result {
        Err(why) if why.raw_os_error() == Some(errno) => {}
        other => panic!(
            "{what}: want {}, got {other:?}",
            std::io::Error::from_raw_os_error(errno)
        ),
    }
}
