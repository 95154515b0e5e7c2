//! Runs [`Manifest::parse`] over the payloads of the vectors in `../shared/vectors`.
//!
//! A vector's verdict is about the whole bundle; this test has the payload alone. So a vector that is refused
//! for its signature, envelope, certificate or tree must parse here, and [`REFUSED_ELSEWHERE`] says so by
//! kind. What has no payload to parse is counted and named, by kind too.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use data_encoding::BASE64;
use data_encoding::BASE64URL;
use modelfs::manifest::Format;
use modelfs::manifest::Manifest;
use modelfs::manifest::SignedContent;
use serde_json::Value;

/// Kinds whose bundle is refused although the payload is a manifest: what refuses them is not on this floor.
const REFUSED_ELSEWHERE: &[(&str, &str)] = &[
    ("bad-sig-bitflip", "signature"),
];

/// Kinds whose bundle yields no payload.
const WITHOUT_PAYLOAD: &[(&str, &str)] = &[
];
