//! Planted faults: the mistakes a verifying filesystem could make, one at a time, so that the tests can show
//! that they would notice. Compiled only with the feature `planted-faults`, which no release can have.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::chunk::ChunkId;
use super::chunk::Tag;
use super::chunk::UntrustedChunk;
use super::chunk::VerifiedBytes;
use super::chunk::VerifiedChunk;
use super::engine::Engine;
use super::engine::Reader;
use super::file::VerifiedFile;
use crate::sys;

/// Which mistake to make, from the environment variable `MODELFS_PLANTED_FAULT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Check one buffer, answer from another that is read afterwards.
    HashThenReread,
    /// Check the first read only.
    VerifyOnce,
    /// Answer with fewer bytes instead of an error.
    ShortReply,
    /// Check and answer from a mapping of the source.
    MappedSource,
    /// Panic in every few operations.
    Panic,
}

fn planted() -> Option<Fault> {
    static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
    *FAULT.get_or_init(|| match std::env::var("MODELFS_PLANTED_FAULT").ok()?.as_str() {
        "hash-then-reread" => Some(Fault::HashThenReread),
        "verify-once" => Some(Fault::VerifyOnce),
        "short-reply" => Some(Fault::ShortReply),
        "mapped-source" => Some(Fault::MappedSource),
        "panic" => Some(Fault::Panic),
        _ => None,
    })
}

/// Panics in one operation of seven, if that is the fault: the mount must answer EIO and live on.
#[expect(clippy::panic, reason = "the fault that is planted")]
pub(crate) fn planted_panic() {
    static OPERATIONS: AtomicU64 = AtomicU64::new(0);
    if planted() == Some(Fault::Panic) && OPERATIONS.fetch_add(1, Ordering::Relaxed) % 7 == 6 {
        panic!("planted");
    }
}

/// What a planted fault did with a chunk.
pub(super) enum Outcome {
    Served,
    Short,
}

/// Reads a chunk of a verified resource wrongly; `None` lets the right code run.
pub(super) fn read(
    engine: &Engine,
    file: &VerifiedFile,
    reader: &mut Reader<'_>,
    (id, tag): (ChunkId, Tag),
    bytes: &Range<u64>,
    inside: Range<usize>,
    reply: &mut VerifiedBytes,
) -> Option<Outcome> {
    let fault = planted()?;
    let len = usize::try_from(bytes.end - bytes.start).ok()?;
    let key = engine.tag_key();
    let mut fetch = || {
        let mut buffer = vec![0; len];
        (reader.read_at(&mut buffer, bytes.start).ok()? == len).then_some(buffer)
    };
    let served = match fault {
        Fault::Panic => return None,
        Fault::HashThenReread => {
            UntrustedChunk::new(id, fetch()?).verify(key, tag)?;
            std::thread::yield_now();
            fetch()?
        }
        Fault::VerifyOnce => fetch()?,
        Fault::ShortReply => {
            match fetch().and_then(|buffer| UntrustedChunk::new(id, buffer).verify(key, tag)) {
                Some(_) => return None,
                None => return Some(Outcome::Short),
            }
        }
        Fault::MappedSource => {
            let mut matched = false;
            let copy = sys::mapped_copy(reader.file()?.file(), bytes.start, len, |mapped| {
                matched = UntrustedChunk::new(id, mapped.to_vec())
                    .verify(key, tag)
                    .is_some();
                std::thread::yield_now();
            });
            copy.ok().filter(|_| matched)?
        }
    };
    log::debug!("planted fault in {}", file.path());
    reply
        .append(&VerifiedChunk::planted(id, served), inside)
        .then_some(Outcome::Served)
}
