//! Hash rates beside those of the sha2 crate, in one run: messages that lie in the processor's caches and messages that
//! come from memory, one at a time and several at once.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;
use std::time::Duration;

use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use modelfs::digest::Algorithm;
use modelfs::digest::Digest;
use modelfs::digest::Hasher;
use sha2::Digest as _;
use sha2::Sha256;

/// What a worker holds of one resource, in bytes.
const CHUNK: usize = 128 << 10;

/// Far more than the caches hold, in bytes.
const LARGE: usize = 256 << 20;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    one(&mut criterion, "one message, 128 KiB in the caches", CHUNK, CHUNK);
    one(&mut criterion, "one message, 256 MiB from memory", LARGE, LARGE);
    one(
        &mut criterion,
        "one message, 256 MiB from memory by 1 MiB",
        LARGE,
        1 << 20,
    );
    for messages in [1, 2, 3, 8, 9, 10, 12, 16, 20, 32] {
        several(
            &mut criterion,
            "messages of 128 KiB, in the caches",
            messages,
            CHUNK,
        );
    }
    for messages in [2, 16] {
        several(&mut criterion, "messages from memory", messages, LARGE / messages);
    }
    other(&mut criterion);
    criterion.final_summary();
}

fn one(criterion: &mut Criterion, name: &str, length: usize, piece: usize) {
    let message = bytes(length);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(u64::try_from(length).unwrap()));
    group.bench_function("sha2", |b| {
        b.iter(|| {
            let mut hash = Sha256::new();
            black_box(&message)
                .chunks(piece)
                .for_each(|piece| hash.update(piece));
            hash.finalize()
        });
    });
    group.bench_function("Hasher", |b| {
        b.iter(|| {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            black_box(&message)
                .chunks(piece)
                .for_each(|piece| hasher.update(piece));
            hasher.finish()
        });
    });
    group.finish();
}

fn several(criterion: &mut Criterion, name: &str, messages: usize, length: usize) {
    let messages: Vec<_> = (0..messages).map(|_| bytes(length)).collect();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(u64::try_from(messages.len() * length).unwrap()));
    group.bench_function(BenchmarkId::new("sha2", messages.len()), |b| {
        b.iter(|| {
            let digests = black_box(&messages).iter().map(Sha256::digest);
            digests.collect::<Vec<_>>()
        });
    });
    group.bench_function(BenchmarkId::new("update_many", messages.len()), |b| {
        b.iter(|| together(Algorithm::Sha256, black_box(&messages)));
    });
    group.finish();
}

fn other(criterion: &mut Criterion) {
    let message = bytes(CHUNK);
    let mut group = criterion.benchmark_group("other functions, 128 KiB in the caches");
    group.throughput(Throughput::Bytes(u64::try_from(CHUNK).unwrap()));
    for algorithm in [Algorithm::Blake2b, Algorithm::Blake3] {
        group.bench_function(algorithm.id(), |b| {
            b.iter(|| modelfs::digest::hash(algorithm, black_box(&message)));
        });
    }
    group.finish();
}

fn together(algorithm: Algorithm, messages: &[Vec<u8>]) -> Vec<Digest> {
    let mut hashers: Vec<_> = messages.iter().map(|_| Hasher::new(algorithm)).collect();
    Hasher::update_many(hashers.iter_mut().zip(messages.iter().map(Vec::as_slice)));
    hashers.into_iter().map(Hasher::finish).collect()
}

/// Bytes of no pattern that a hash could profit from; that their order is simple costs nothing.
fn bytes(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}
