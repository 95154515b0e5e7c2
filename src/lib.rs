//! modelfs mounts a signed machine-learning model read-only and verifies every byte as it is read.
//!
//! The promise: every byte that a read or a mapped page returns was, in a private buffer of the daemon,
//! hashed and found equal to what the signed manifest says, immediately before it was handed to the
//! kernel. Otherwise the call fails. ARCHITECTURE.md lists the modules by floor; a module uses only the
//! floors below it, and `scripts/check-layers` proves it.

pub mod cli;
pub mod digest;
pub mod fs;
pub mod fuse;
pub mod json;
pub mod manifest;
pub mod mount;
pub mod path;
pub mod policy;
pub mod source;
pub mod sys;
pub mod tree;
pub mod trust;
pub mod verify;

#[cfg(test)]
mod testing;
