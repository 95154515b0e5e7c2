//! What verifying costs beside what it is made of, in one run: the first pass beside hashing alone, and reading
//! again, checked by tags, beside hashing again and beside not checking at all.
//!
//! Everything lies in the page cache, and everything is driven as `fuse` drives it.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

#[allow(
    dead_code,
    clippy::panic,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "the tests use the rest, and their lints are theirs"
)]
#[path = "../tests/support/signing.rs"]
mod signing;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use criterion::BatchSize;
use criterion::Criterion;
use criterion::Throughput;
use modelfs::digest::Algorithm;
use modelfs::digest::Hasher;
use modelfs::fs::ModelFs;
use modelfs::source::Links;
use modelfs::source::ModelDir;
use modelfs::tree::ModelTree;
use modelfs::trust::Bundle;
use modelfs::trust::PublicKey;
use modelfs::trust::TrustAnchors;
use modelfs::trust::UnixTime;
use modelfs::verify::Asker;
use modelfs::verify::Engine;
use modelfs::verify::Options;
use signing::Layout;
use signing::Signed;

/// Bytes of the one file: many times what the processor's nearer caches hold.
const FILE_BYTES: u32 = 64 << 20;

/// Bytes of one read: the largest that the kernel asks for.
const READ_BYTES: u32 = 1 << 20;

/// Bytes that a plain reader reads and hashes at once.
const BUFFER_BYTES: usize = 256 << 10;

const NAME: &str = "weights.bin";

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    for (what, layout) in [
        ("one digest", Layout::FILES),
        ("shards of 1 MiB", Layout::shards(1 << 20)),
    ] {
        let signed = Signed::new(layout, &[(NAME, content())]);
        first_pass(&mut criterion, what, &signed);
        again(&mut criterion, what, &signed);
    }
    criterion.final_summary();
}

/// Bytes that no two chunks share; multiplication by an odd number, whose upper bits look random.
fn content() -> Vec<u8> {
    (0..u64::from(FILE_BYTES) / 8)
        .flat_map(|word| (word + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
        .collect()
}

fn first_pass(criterion: &mut Criterion, what: &str, signed: &Signed) {
    let mut group = criterion.benchmark_group(format!("first pass, {what}"));
    group.throughput(Throughput::Bytes(FILE_BYTES.into()));
    group.bench_function("verify and serve", |b| {
        b.iter_batched(
            || serve(signed, 0),
            |fs| (read_all(&fs), fs),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("read and hash", |b| b.iter(|| hash(&signed.source(NAME))));
    group.finish();
}

fn again(criterion: &mut Criterion, what: &str, signed: &Signed) {
    let mut group = criterion.benchmark_group(format!("again, {what}"));
    group.throughput(Throughput::Bytes(FILE_BYTES.into()));
    let fs = serve(signed, 0);
    read_all(&fs);
    group.bench_function("check tags and serve", |b| b.iter(|| read_all(&fs)));
    group.bench_function("read and hash", |b| b.iter(|| hash(&signed.source(NAME))));
    group.bench_function("read", |b| b.iter(|| read(&signed.source(NAME), |_| {})));
    group.finish();
}

/// A file system over the signed model, with so many bytes of budget.
fn serve(signed: &Signed, memory: u64) -> ModelFs {
    let mut anchors = TrustAnchors::new();
    let key = std::fs::read(signed.dir().join("signer.pem")).unwrap();
    anchors.add_key(PublicKey::from_pem(&key).unwrap());
    let bundle = std::fs::read(&signed.bundle).unwrap();
    let trusted = anchors
        .verify(&Bundle::parse(&bundle).unwrap(), UnixTime(0))
        .unwrap();
    let source = ModelDir::open(&signed.model, Links::Refuse).unwrap();
    let options = Options {
        memory: Some(memory),
        ..Options::default()
    };
    let engine = Engine::start(options, None).unwrap();
    ModelFs::new(ModelTree::bind(trusted, source, engine, None).unwrap().tree)
}

/// Opens the file and reads it to its end, the next request on its way while one is answered, as read-ahead does.
fn read_all(fs: &ModelFs) {
    let inode = fs.lookup(1, NAME.as_ref()).unwrap().inode;
    let (opened, wait) = channel();
    fs.open(inode, move |result| opened.send(result.map(drop)).unwrap());
    wait.recv().unwrap().unwrap();
    let (answered, answers) = channel();
    let ask = |offset: u32| {
        let answered = answered.clone();
        fs.read(inode, offset.into(), READ_BYTES, Asker(0), move |result| {
            answered.send(result.map(|bytes| bytes.as_slice().len())).unwrap();
        });
    };
    ask(0);
    for offset in (0..FILE_BYTES).step_by(READ_BYTES.try_into().unwrap()) {
        if offset + READ_BYTES < FILE_BYTES {
            ask(offset + READ_BYTES);
        }
        let length = answers.recv().unwrap().unwrap();
        assert_eq!(u32::try_from(length), Ok(READ_BYTES), "an answer is complete");
    }
    fs.release(inode);
}

fn hash(path: &Path) -> Vec<u8> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    read(path, |bytes| hasher.update(bytes));
    hasher.finish().as_bytes().to_vec()
}

fn read(path: &Path, mut each: impl FnMut(&[u8])) {
    let file = File::open(path).unwrap();
    let mut buffer = vec![0; BUFFER_BYTES];
    for offset in (0..u64::from(FILE_BYTES)).step_by(BUFFER_BYTES) {
        file.read_exact_at(&mut buffer, offset).unwrap();
        each(&buffer);
    }
}
