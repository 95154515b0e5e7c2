//! Readers of every kind, at random and at once, against the bytes that were signed; and the facts about a mount that
//! loaders rely on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise"
)]

mod facts;
mod ways;

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use modelfs::digest::Algorithm;

use support::CHUNK;
use support::mounted::Mounted;
use support::random::Random;
use support::signing::Layout;
use support::signing::Signed;
use ways::Reader;
use ways::WAYS;

/// How long each layout is read for.
const TIME: Duration = Duration::from_secs(6);

/// Threads that read at once, all through the same descriptors.
const THREADS: usize = 4;

#[test]
fn no_way_of_reading_finds_other_bytes_than_those_that_were_signed() {
    if !support::can_mount() {
        return;
    }
    let mut random = Random::from_environment("readers");
    let layouts = [
        Layout::FILES,
        Layout::shards(300_000).with(Algorithm::Blake3),
        Layout::shards(4096),
    ];
    let mut taken = BTreeMap::new();
    for layout in layouts {
        let sizes = [1, 4096, CHUNK + 1, (6 << 20) + 4321];
        let names: Vec<String> = sizes.iter().map(|size| format!("{size}.bin")).collect();
        let names = names.iter().map(String::as_str);
        let files: Vec<_> = names
            .zip(sizes)
            .map(|(name, size)| (name, random.bytes(size)))
            .collect();
        let model = Signed::new(layout, &files);
        let mounted = Mounted::with(&model, &["--memory", "64M"]);
        for (way, count) in read_at_random(&mounted, &model, &mut random) {
            *taken.entry(way).or_insert(0) += count;
        }
        assert_eq!(mounted.status()["refused"]["source_errors"], 0);
        mounted.unmount();
    }
    println!("{taken:?}");
    for (name, _) in WAYS {
        match taken.get(name) {
            Some(1..) => {}
            _ => support::notice(&format!(
                "the kernel refused {name} each time, so nothing was read that way"
            )),
        }
    }
    // What every kernel has that can run modelfs. The rest is counted above.
    for name in [
        "read",
        "pread",
        "shared mapping",
        "O_DIRECT",
        "splice",
        "a child's read",
    ] {
        assert!(taken.get(name) > Some(&10), "{name} was hardly tried: {taken:?}");
    }
}

/// How often each way read something.
fn read_at_random(mounted: &Mounted, model: &Signed, random: &mut Random) -> BTreeMap<&'static str, usize> {
    let readers: Vec<Reader> = model
        .files
        .iter()
        .map(|(name, truth)| Reader::open(&mounted.file(name), truth))
        .collect();
    let taken = Mutex::new(BTreeMap::new());
    let end = Instant::now() + TIME;
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (mut random, readers, taken) = (random.fork(), &readers, &taken);
            scope.spawn(move || {
                while Instant::now() < end {
                    let (name, way) = random.one_of(&WAYS);
                    let reader = random.one_of(readers);
                    let at = random.within(0..reader.truth.len());
                    let len = random.within(1..3 * CHUNK).min(reader.truth.len() - at);
                    if random.once_in(4) {
                        support::sys::drop_cache(&reader.file);
                    }
                    let done = way(reader, at, len, &mut random)
                        .unwrap_or_else(|why| panic!("{name} of {len} at {at} by thread {number}: {why}"));
                    *taken.lock().unwrap().entry(*name).or_insert(0) += usize::from(done);
                }
            });
        }
    });
    taken.into_inner().unwrap()
}

#[test]
fn two_processes_that_share_a_descriptor_share_the_file_between_them() {
    if !support::can_mount() {
        return;
    }
    let truth = Random::from_environment("shared descriptor").bytes((3 << 20) + 17);
    let model = Signed::new(Layout::shards(1 << 20), &[("weights.bin", truth.clone())]);
    let mounted = Mounted::new(&model);
    let file = File::open(mounted.file("weights.bin")).unwrap();
    let children: Vec<_> = (0..2).map(|_| ways::child(&file)).collect();
    let mut have = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        have.extend(output.stdout);
    }
    // Who got which piece is chance; together they have each byte once.
    let count = |bytes: &[u8]| {
        let mut counts = [0_usize; 256];
        bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        counts
    };
    assert_eq!(have.len(), truth.len());
    assert!(count(&have) == count(&truth));
    drop(file);
    mounted.unmount();
}
