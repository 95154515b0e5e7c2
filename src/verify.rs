//! Verification: bytes leave here verified or not at all.
//!
//! A resource is verified once, by one thread, however many readers wait; what was read and hashed is
//! tagged chunk by chunk, and every later read is checked against the tags in the very buffer that answers
//! it. A source that hangs, shrinks, grows or changes costs its own readers an error and nobody else
//! anything. What this module does not do: names, attributes, and deciding what to verify.

mod ahead;
mod chunk;
mod engine;
mod file;
mod flight;
mod insistence;
mod memory;
mod pin;
mod preload;
mod refusal;
mod remembered;
mod seldom;
mod workers;

#[cfg(feature = "planted-faults")]
mod faults;
#[cfg(feature = "planted-faults")]
pub(crate) use faults::planted_panic;

pub use chunk::CHUNK_BYTES;
pub use chunk::KeyUnavailable;
pub use chunk::VerifiedBytes;
pub use engine::Counters;
pub use engine::Engine;
pub use engine::Options;
pub use file::State;
pub use file::VerifiedFile;
pub use insistence::Asker;
pub use insistence::Insistent;
pub use pin::Offer;
pub use pin::Pin;
pub use preload::PageCache;
pub use refusal::Finding;
pub use refusal::ReadError;
pub use remembered::Remembered;
pub use remembered::StateError;
pub use workers::Haste;

#[cfg(all(feature = "planted-faults", not(debug_assertions)))]
compile_error!("planted-faults is for the tests that prove the tests: a release must not carry it");

#[cfg(test)]
mod tests;
