//! The engine against sources that change under it.

#![expect(clippy::as_conversions, reason = "sizes of a test's own files")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::*;
use crate::digest::Algorithm;
use crate::source::Links;
use crate::source::ModelDir;
use crate::testing::Method;
use crate::testing::SignedModel;
use crate::trust::TrustedFile;

mod attacks;
mod preload;
mod sweep;

/// The chunk as a length in memory.
const C: usize = 128 * 1024;

/// Sizes at which an off-by-one would show.
const EDGE_SIZES: [usize; 11] = [
    0,
    1,
    2,
    C - 1,
    C,
    C + 1,
    2 * C - 1,
    2 * C,
    2 * C + 1,
    3 * C,
    5 * C + 17,
];

fn content(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ len as u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A model's files behind an engine, as the tree ties them.
pub(super) struct Bound {
    pub(super) engine: Arc<Engine>,
    pub(super) files: Vec<Arc<VerifiedFile>>,
}

pub(super) fn bind(model: &SignedModel, memory: u64) -> Bound {
    bind_with(model, memory, Pin::Off)
}

fn bind_with(model: &SignedModel, memory: u64, pin: Pin) -> Bound {
    let options = Options {
        memory: Some(memory),
        threads: 8,
        pin,
        ..Options::default()
    };
    bind_as(model, options)
}

pub(super) fn bind_as(model: &SignedModel, options: Options) -> Bound {
    let engine = Engine::start(options, None).unwrap();
    let source = Arc::new(ModelDir::open(&model.path(), Links::Refuse).unwrap());
    let tie = |(id, file): (u32, TrustedFile)| {
        let size = source.size_of(file.path()).unwrap();
        Arc::new(VerifiedFile::new(id, file, Arc::clone(&source), size))
    };
    let files = (0..).zip(model.trusted().into_files()).map(tie).collect();
    Bound { engine, files }
}

fn open(bound: &Bound, index: usize) -> Result<(), ReadError> {
    let (sender, receiver) = channel();
    bound
        .engine
        .open(&bound.files[index], move |result| sender.send(result).unwrap());
    receiver.recv().unwrap()
}

fn read(bound: &Bound, index: usize, offset: usize, len: usize) -> Result<Vec<u8>, ReadError> {
    let (sender, receiver) = channel();
    let done = move |result: Result<VerifiedBytes, ReadError>| {
        sender
            .send(result.map(|bytes| bytes.as_slice().to_vec()))
            .unwrap();
    };
    bound
        .engine
        .read(&bound.files[index], offset as u64, len as u64, Asker(1), done);
    receiver.recv().unwrap()
}

/// Bytes, the file's state as a word, and the reason when there are none.
fn outcome(result: &Result<Vec<u8>, ReadError>) -> &'static str {
    match result {
        Ok(_) => "bytes",
        Err(ReadError::Rejected { .. }) => "rejected",
        Err(ReadError::Changed { .. }) => "changed",
        Err(ReadError::Source(_)) => "source",
        Err(ReadError::TimedOut { .. }) => "timed out",
        Err(ReadError::Abandoned) => "abandoned",
    }
}

#[test]
fn every_range_of_every_size_reads_as_it_was_signed() {
    let files: Vec<_> = EDGE_SIZES
        .iter()
        .map(|&size| (format!("{size:07}"), content(size)))
        .collect();
    let named: Vec<_> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.clone()))
        .collect();
    for method in [
        Method::Files,
        Method::Shards(C),
        Method::Shards(C - 1),
        Method::Shards(3 * C + 5),
    ] {
        for algorithm in [Algorithm::Sha256, Algorithm::Blake2b, Algorithm::Blake3] {
            let model = SignedModel::new(&named, algorithm, method);
            for memory in [0, 4 * CHUNK_BYTES, 1 << 30] {
                let bound = bind(&model, memory);
                for (index, file) in bound.files.iter().enumerate() {
                    let want = &files
                        .iter()
                        .find(|(name, _)| name == file.path().as_str())
                        .unwrap()
                        .1;
                    open(&bound, index).unwrap();
                    for (offset, len) in [
                        (0, want.len()),
                        (0, 4096),
                        (C - 1, 2),
                        (C, C),
                        (C + 7, 2 * C),
                        (want.len().saturating_sub(1), 10),
                        (want.len(), 1),
                        (want.len() + 1, 1),
                        (usize::MAX, usize::MAX),
                        (5, 0),
                    ] {
                        let end = offset.saturating_add(len).min(want.len());
                        let got = read(&bound, index, offset, len).unwrap();
                        let want = want.get(offset..end).unwrap_or_default();
                        assert!(
                            got == want,
                            "{method:?} {algorithm} memory {memory} {offset}+{len} of {file:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_resource_is_hashed_once_however_many_readers_wait() {
    let model = SignedModel::new(&[("w", content(40 * C))], Algorithm::Sha256, Method::Files);
    let bound = Arc::new(bind(&model, 0));
    let readers: Vec<_> = (0..64)
        .map(|reader| {
            let bound = Arc::clone(&bound);
            std::thread::spawn(move || read(&bound, 0, reader * 1000, 1000).map(|bytes| bytes.len()))
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.join().unwrap().unwrap(), 1000);
    }
    assert_eq!(bound.engine.counters().hashed_bytes, 40 * CHUNK_BYTES);
}

#[test]
fn a_change_after_verification_is_refused_while_it_lasts() {
    for (method, memory) in [(Method::Files, 0), (Method::Shards(2 * C), 0)] {
        let original = content(4 * C);
        let model = SignedModel::new(&[("w", original.clone())], Algorithm::Sha256, method);
        let bound = bind(&model, memory);
        assert!(read(&bound, 0, 0, 4 * C).unwrap() == original);
        let file = File::options().write(true).open(model.file("w")).unwrap();
        file.write_all_at(&[original[C + 5] ^ 1], C as u64 + 5).unwrap();
        for (offset, len, want) in [
            (0, C, "bytes"),
            (C, C, "changed"),
            (C + 100, 1, "changed"),
            (0, 4 * C, "changed"),
            (2 * C, C, "bytes"),
        ] {
            assert_eq!(
                outcome(&read(&bound, 0, offset, len)),
                want,
                "{method:?} {offset}+{len}"
            );
        }
        assert_eq!(bound.files[0].state(), State::Changed);
        file.write_all_at(&original[C + 5..C + 6], C as u64 + 5).unwrap();
        assert!(read(&bound, 0, 0, 4 * C).unwrap() == original);
        for size in [3 * C as u64, 0] {
            file.set_len(size).unwrap();
            assert_eq!(
                outcome(&read(&bound, 0, 3 * C, C)),
                "changed",
                "truncated to {size}"
            );
        }
        std::fs::remove_file(model.file("w")).unwrap();
        assert_eq!(outcome(&read(&bound, 0, 0, 1)), "source");
    }
}

#[test]
fn a_rejected_resource_stays_rejected_after_its_source_is_restored() {
    let original = content(3 * C);
    let model = SignedModel::new(&[("w", original.clone())], Algorithm::Sha256, Method::Shards(C));
    let mut other = original.clone();
    other[C] ^= 0x80;
    std::fs::write(model.file("w"), &other).unwrap();
    let bound = bind(&model, 1 << 20);
    open(&bound, 0).unwrap();
    let outcomes = || [0, C, 2 * C].map(|offset| outcome(&read(&bound, 0, offset, C)));
    assert_eq!(outcomes(), ["bytes", "rejected", "bytes"]);
    std::fs::write(model.file("w"), &original).unwrap();
    assert_eq!(outcomes(), ["bytes", "rejected", "bytes"]);
    assert_eq!(bound.files[0].state(), State::Rejected);
    assert_eq!(bound.engine.counters().rejected_resources, 1);
    assert_eq!(bound.engine.findings()[0].range, CHUNK_BYTES..2 * CHUNK_BYTES);
}

#[test]
fn a_whole_file_that_differs_anywhere_gives_no_byte() {
    let original = content(2 * C + 100);
    for position in [0, C - 1, C, 2 * C + 99] {
        let model = SignedModel::new(&[("w", original.clone())], Algorithm::Blake3, Method::Files);
        let mut other = original.clone();
        other[position] ^= 1;
        std::fs::write(model.file("w"), &other).unwrap();
        let bound = bind(&model, 1 << 30);
        assert_eq!(outcome(&open(&bound, 0).map(|()| Vec::new())), "rejected");
        assert_eq!(outcome(&read(&bound, 0, 0, 1)), "rejected");
        assert_eq!(bound.engine.counters().served_bytes, 0);
    }
}

#[test]
fn a_source_that_shrinks_before_it_is_verified_is_rejected_and_one_that_grows_is_not_seen_to() {
    let original = content(2 * C);
    let model = SignedModel::new(&[("w", original.clone())], Algorithm::Sha256, Method::Files);
    let bound = bind(&model, 0);
    let file = File::options().append(true).open(model.file("w")).unwrap();
    std::io::Write::write_all(&mut &file, b"more").unwrap();
    assert!(read(&bound, 0, 0, 3 * C).unwrap() == original);
    assert_eq!(bound.files[0].size(), 2 * CHUNK_BYTES);
    let bound = {
        file.set_len(2 * CHUNK_BYTES).unwrap();
        let bound = bind(&model, 0);
        file.set_len(CHUNK_BYTES).unwrap();
        bound
    };
    assert_eq!(outcome(&read(&bound, 0, 0, 1)), "rejected");
}

#[test]
fn a_missing_source_is_an_error_and_not_a_rejection() {
    let model = SignedModel::new(&[("w", content(10))], Algorithm::Sha256, Method::Files);
    let bound = bind(&model, 0);
    std::fs::rename(model.file("w"), model.file("elsewhere")).unwrap();
    assert_eq!(outcome(&open(&bound, 0).map(|()| Vec::new())), "source");
    std::fs::rename(model.file("elsewhere"), model.file("w")).unwrap();
    open(&bound, 0).unwrap();
    assert_eq!(bound.files[0].state(), State::Verified);
}

#[test]
fn held_bytes_stay_within_the_budget_and_answer_without_the_source() {
    let original = content(16 * C);
    let model = SignedModel::new(
        &[("w", original.clone())],
        Algorithm::Sha256,
        Method::Shards(4 * C),
    );
    let bound = bind(&model, 9 * CHUNK_BYTES);
    assert!(read(&bound, 0, 3 * C, 2 * C).unwrap() == original[3 * C..5 * C]);
    let held = bound.engine.counters().held_bytes;
    assert!(0 < held && held <= 9 * CHUNK_BYTES, "{held}");
    std::fs::write(model.file("w"), vec![0; 16 * C]).unwrap();
    assert!(read(&bound, 0, 0, C).unwrap() == original[..C]);
}

#[test]
fn a_file_that_is_longer_when_bound_and_right_when_read_is_rejected_for_its_size() {
    let original = content(2 * C);
    let model = SignedModel::new(&[("w", original.clone())], Algorithm::Sha256, Method::Files);
    let file = File::options().write(true).open(model.file("w")).unwrap();
    file.set_len(3 * CHUNK_BYTES).unwrap();
    let bound = bind(&model, 1 << 30);
    file.set_len(2 * CHUNK_BYTES).unwrap();
    // The bytes that are left match the signed digest; the size that was shown does not.
    assert_eq!(outcome(&open(&bound, 0).map(|()| Vec::new())), "rejected");
    assert_eq!(outcome(&read(&bound, 0, 0, C)), "rejected");
}

#[test]
fn the_budget_pays_for_replies_and_no_more_than_the_chunks_they_touch() {
    let truth = content(20 * C);
    let model = SignedModel::new(&[("w", truth.clone())], Algorithm::Sha256, Method::Files);
    for (budget, offset, chunks) in [(1 << 30, 0, 8), (1 << 30, C + 4096, 9), (0, 0, 0)] {
        let bound = bind(&model, budget);
        open(&bound, 0).unwrap();
        // Gone from memory, since readers got all of it.
        assert!(read(&bound, 0, 0, truth.len()).unwrap() == truth);
        assert_eq!(bound.engine.counters().held_bytes, 0);
        let (sender, receiver) = channel();
        let engine = Arc::clone(&bound.engine);
        let done = move |result: Result<VerifiedBytes, ReadError>| {
            let held = engine.counters().held_bytes;
            sender.send((result.unwrap().as_slice().to_vec(), held)).unwrap();
        };
        let len = 8 * C;
        bound
            .engine
            .read(&bound.files[0], offset as u64, len as u64, Asker(1), done);
        let (bytes, held) = receiver.recv().unwrap();
        assert!(bytes == truth[offset..offset + len]);
        // What holding a block takes beside its buffer is little.
        assert_eq!(held / 4096 * 4096, chunks * CHUNK_BYTES, "{offset}");
    }
}
