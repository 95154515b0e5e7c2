//! Planted faults: the mistakes a verifying filesystem could make, one at a time, so that the tests can show
//! that they would notice. Compiled only with the feature `planted-faults`, which no release can have.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::chunk::Fetched;
use super::chunk::VerifiedBlock;
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

/// Serves what was read again of a verified resource wrongly; gives it back to let the right code run.
pub(super) fn recheck(
    engine: &Engine,
    file: &VerifiedFile,
    reader: &mut Reader<'_>,
    range: &Range<u64>,
    fetched: Fetched,
) -> Result<VerifiedBlock, Fetched> {
    let Some(fault) = planted() else {
        return Err(fetched);
    };
    let key = engine.tag_key();
    let mut again = || {
        std::thread::yield_now();
        let (buffer, base, _) = engine.read_again(file, reader, range).ok()?;
        Some(Fetched::new(buffer, file.id(), base, range.clone()))
    };
    let whole = fetched.part(range);
    let served = match fault {
        Fault::Panic => None,
        Fault::HashThenReread => fetched.part(range).verify(key, file).ok().and_then(|_| again()),
        Fault::VerifyOnce => Some(fetched.part(range)),
        Fault::ShortReply => match fetched.part(range).verify(key, file) {
            Ok(_) => None,
            Err(chunk) => Some(fetched.part(&(range.start..chunk.start))),
        },
        Fault::MappedSource => mapped(engine, file, reader, range),
    };
    served.map(VerifiedBlock::planted).ok_or(whole)
}

/// Checks a mapping of the source, and answers from it.
fn mapped(engine: &Engine, file: &VerifiedFile, reader: &Reader<'_>, range: &Range<u64>) -> Option<Fetched> {
    let len = usize::try_from(range.end - range.start).ok()?;
    let fetched = |bytes: &[u8]| {
        let base = range.start - range.start % 4096;
        let skip = usize::try_from(range.start - base).ok()?;
        let mut buffer = engine.planted_buffer(skip + bytes.len())?;
        buffer
            .bytes_mut()
            .get_mut(skip..)?
            .get_mut(..bytes.len())?
            .copy_from_slice(bytes);
        Some(Fetched::new(buffer, file.id(), base, range.clone()))
    };
    let mut matched = false;
    let copy = sys::mapped_copy(reader.file()?.file(), range.start, len, |mapped| {
        let checked = fetched(mapped).and_then(|copy| copy.verify(engine.tag_key(), file).ok());
        matched = checked.is_some();
        std::thread::yield_now();
    });
    copy.ok().filter(|_| matched).and_then(|copy| fetched(&copy))
}
