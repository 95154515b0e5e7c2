//! What `scripts/bench` times with: reads files as a loader does and prints how long it took, as one line of JSON.
//!
//! It knows nothing of modelfs, so that a mount, a plain relay and the files themselves are all read by the same
//! program. It also makes the bytes that are read. Times are in nanoseconds, of a monotonic clock.
#![allow(
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "a wrong argument ends a measurement, nothing else"
)]

use std::error::Error;
use std::fs::File;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Bytes per `read`: what large-file readers ask for, and the largest request that FUSE hands on unprivileged.
const BLOCK_BYTES: usize = 1024 * 1024;

/// Bytes per random read, and the distance of the bytes that `touch` looks at.
const PAGE_BYTES: usize = 4096;

const USAGE: &str =
    "usage: reader generate FILE BYTES SEED | read FILE... | first FILE BYTES | sum FILE | touch FILE
              | random FILE COUNT SEED | metadata FOLDER";

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let figures = match args[..] {
        ["generate", file, bytes, seed] => generate(file, bytes.parse()?, seed.parse()?)?,
        ["read", ref files @ ..] if !files.is_empty() => read(files)?,
        ["first", file, bytes] => first(file, bytes.parse()?)?,
        ["sum", file] => mapped(file, sum)?,
        ["touch", file] => mapped(file, touch)?,
        ["random", file, count, seed] => random(file, count.parse()?, seed.parse()?)?,
        ["metadata", folder] => metadata(Path::new(folder))?,
        _ => return Err(USAGE.into()),
    };
    println!("{figures}");
    Ok(())
}

/// SplitMix64: nothing that compresses, as fast as memory, the same from the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn generate(path: &str, bytes: u64, seed: u64) -> Outcome<Value> {
    let mut random = Random(seed);
    let mut file = File::create(path)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        let now = left.min(BLOCK_BYTES as u64) as usize;
        file.write_all(&block[..now])?;
        left -= now as u64;
    }
    // A page that is not on disk yet cannot be evicted.
    file.sync_all()?;
    Ok(json!({ "bytes": bytes }))
}

/// One file after the other, each from its first byte to its last. As loaders of a model in parts do, it looks whether
/// all of them are there before it begins.
fn read(files: &[&str]) -> Outcome<Value> {
    let mut block = vec![0; BLOCK_BYTES];
    let began = Instant::now();
    let mut first = None;
    let mut bytes = 0;
    for path in files {
        std::fs::metadata(path)?;
    }
    for path in files {
        let mut file = File::open(path)?;
        if first.is_none() {
            file.read_exact_at(&mut block[..1], 0)?;
            first = Some(nanoseconds(began));
        }
        loop {
            match file.read(&mut block)? {
                0 => break,
                read => bytes += read as u64,
            }
        }
    }
    Ok(json!({ "bytes": bytes, "first": first, "total": nanoseconds(began) }))
}

fn first(path: &str, bytes: usize) -> Outcome<Value> {
    let mut block = vec![0; bytes];
    let began = Instant::now();
    File::open(path)?.read_exact_at(&mut block, 0)?;
    Ok(json!({ "bytes": bytes, "total": nanoseconds(began) }))
}

/// The time that `look` takes over a fresh mapping of the whole file.
fn mapped(path: &str, look: fn(&[u8]) -> u64) -> Outcome<Value> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len())?;
    let began = Instant::now();
    // SAFETY: a new mapping that the kernel places, of a file that is open and not empty; checked below.
    #[allow(
        unsafe_code,
        clippy::disallowed_methods,
        reason = "loaders map files, so it is to be timed"
    )]
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: `length` bytes are mapped at `start` until this process ends, and the bench changes no file that
    // is being read. A page that cannot be had kills this process, and with it the measurement.
    #[allow(unsafe_code, reason = "see above")]
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) };
    let looked = look(bytes);
    Ok(json!({ "bytes": length, "total": nanoseconds(began), "looked": looked }))
}

/// Looks at every byte, eight at a time.
fn sum(bytes: &[u8]) -> u64 {
    let mut sums = [0_u64; 8];
    for block in bytes.chunks_exact(64) {
        for (sum, word) in sums.iter_mut().zip(block.chunks_exact(8)) {
            let word: [u8; 8] = word.try_into().unwrap_or_default();
            *sum = sum.wrapping_add(u64::from_le_bytes(word));
        }
    }
    sums.iter().fold(0, |total, sum| total.wrapping_add(*sum))
}

/// Looks at one byte of each page: what the page faults cost.
fn touch(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .step_by(PAGE_BYTES)
        .map(|&byte| u64::from(byte))
        .sum()
}

fn random(path: &str, count: usize, seed: u64) -> Outcome<Value> {
    let mut random = Random(seed);
    let file = File::open(path)?;
    let pages = file.metadata()?.len() / PAGE_BYTES as u64;
    let mut page = vec![0; PAGE_BYTES];
    let mut latencies = Vec::with_capacity(count);
    let began = Instant::now();
    for _ in 0..count {
        let offset = random.next() % pages * PAGE_BYTES as u64;
        let asked = Instant::now();
        file.read_exact_at(&mut page, offset)?;
        latencies.push(nanoseconds(asked));
    }
    let total = nanoseconds(began);
    Ok(json!({ "count": count, "total": total, "latency": percentiles(&mut latencies) }))
}

/// Asks for names that do not exist (each is new to the kernel), for the attributes of each file, and for the
/// list, over and over until standard input ends.
fn metadata(folder: &Path) -> Outcome<Value> {
    let enough = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&enough);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        told.store(true, Ordering::Relaxed);
    });
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let (mut lookups, mut attributes, mut lists) = (Vec::new(), Vec::new(), Vec::new());
    let mut name = u64::from(std::process::id()) << 32;
    while !enough.load(Ordering::Relaxed) {
        name += 1;
        let nothing = folder.join(format!("no-such-file-{name}"));
        let asked = Instant::now();
        let found = std::fs::metadata(nothing);
        lookups.push(nanoseconds(asked));
        if !matches!(&found, Err(e) if e.kind() == ErrorKind::NotFound) {
            return Err(format!("a name that cannot exist: {found:?}").into());
        }
        for file in &files {
            let asked = Instant::now();
            std::fs::metadata(file)?;
            attributes.push(nanoseconds(asked));
        }
        let asked = Instant::now();
        let listed = std::fs::read_dir(folder)?.count();
        lists.push(nanoseconds(asked));
        if listed != files.len() {
            return Err(format!("{listed} files were listed, before {}", files.len()).into());
        }
        // A program that asks without a pause would be the third that wants a core.
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(json!({
        "lookup": percentiles(&mut lookups),
        "getattr": percentiles(&mut attributes),
        "readdir": percentiles(&mut lists),
    }))
}

fn percentiles(values: &mut [u64]) -> Value {
    values.sort_unstable();
    let at = |share: usize| values.get(values.len().saturating_sub(1) * share / 100).copied();
    json!({ "count": values.len(), "p50": at(50), "p99": at(99), "max": at(100) })
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
