//! The built command before what nobody should give it: files of the wrong kind, and every part of a signed model damaged.
//!
//! Whatever it is given, a run ends by itself, with one sentence and an exit code that was foreseen, and leaves no mount.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise"
)]

mod damage;
mod exchanged;
mod named_files;
mod surroundings;

#[path = "../support/mod.rs"]
mod support;

use support::Outcome;

/// Insists that a run refused: with one of these codes and one sentence, nothing on standard output.
fn refused(outcome: &Outcome, codes: &[i32], what: &str) {
    assert!(
        outcome.code.is_some_and(|code| codes.contains(&code)),
        "{what}: expected exit {codes:?}: {outcome:?}"
    );
    assert_eq!(outcome.stdout, "", "{what}");
    one_sentence(&outcome.stderr, what);
}

/// Insists on one line in the form that each failure has, which no terminal takes for more than text.
fn one_sentence(said: &str, what: &str) {
    let sentence = said
        .strip_prefix("modelfs: ")
        .and_then(|rest| rest.strip_suffix(".\n"))
        .unwrap_or_else(|| panic!("{what}: not a sentence of ours: {said:?}"));
    assert!(
        !sentence.is_empty() && sentence.len() < 1500 && !sentence.contains(char::is_control),
        "{what}: not one sentence: {said:?}"
    );
}
