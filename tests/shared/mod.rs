//! Where the shared test vectors are. They are not part of this repository: a test that needs them and does
//! not find them says so and passes.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

/// The folder of one kind of vectors, or `None` and a printed notice of what was left out.
pub(crate) fn vectors(kind: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/vectors")
        .join(kind);
    match folder.is_dir() {
        true => Some(folder),
        false => {
            // Past the capture of the test runner, which shows what a test prints only when it fails.
            let mut out = std::io::stderr().lock();
            writeln!(
                out,
                "NOTICE: the vectors of {kind} were left out: ../shared/vectors/{kind} is not there"
            )
            .ok();
            None
        }
    }
}

/// Reads a file of the vectors, which are complete or not there at all.
pub(crate) fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let path = path.as_ref();
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Reads a JSON file of the vectors.
pub(crate) fn read_json(path: impl AsRef<Path>) -> Value {
    let path = path.as_ref();
    serde_json::from_slice(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// An error with all its causes, as a person reads it.
#[allow(dead_code, reason = "not every test crate that includes this needs it")]
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", with_causes(cause)),
        None => error.to_string(),
    }
}
