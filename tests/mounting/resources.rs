//! What serving costs: each byte hashed once, bounded memory, nothing leaked.

use std::fs;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Duration;
use std::time::Instant;

use data_encoding::HEXLOWER;
use modelfs::digest::Algorithm;
use modelfs::digest::Hasher;
use serde_json::json;

use crate::small_model;
use crate::support;
use crate::support::CHUNK;
use crate::support::mounted::Mounted;
use crate::support::notice;
use crate::support::random::Random;
use crate::support::signing::Layout;
use crate::support::signing::Signed;
use crate::support::sys;

/// The daemon, as `/proc` shows it.
struct Process(PathBuf);

impl Process {
    fn of(mounted: &Mounted) -> Self {
        Self(PathBuf::from(format!("/proc/{}", mounted.pid())))
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(self.0.join("fd")).unwrap().count()
    }

    /// What the descriptors are of, for messages.
    fn open_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.join("fd")).unwrap();
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .collect();
        files.sort();
        files
    }

    fn threads(&self) -> usize {
        fs::read_dir(self.0.join("task")).unwrap().count()
    }

    /// Memory in use, in KiB; the field of `/proc/PID/status`.
    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(self.0.join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

#[test]
fn many_readers_of_a_cold_file_hash_it_once() {
    if !support::can_mount() {
        return;
    }
    for layout in [Layout::FILES, Layout::shards(1 << 20)] {
        let truth = Random::from_environment("cold file").bytes((16 << 20) + 5);
        let model = Signed::new(layout, &[("weights.bin", truth.clone())]);
        let mounted = Mounted::new(&model);
        let path = mounted.file("weights.bin");
        let start = Barrier::new(64);
        std::thread::scope(|scope| {
            for reader in 0..64 {
                let (start, path, truth) = (&start, &path, &truth);
                scope.spawn(move || {
                    start.wait();
                    let file = File::open(path).unwrap();
                    let at = reader * (truth.len() / 64);
                    let mut bytes = vec![0; 100_000];
                    let n = sys::read_full(&file, &mut bytes, at as u64).unwrap();
                    assert!(n > 0 && bytes[..n] == truth[at..at + n], "reader {reader}");
                });
            }
        });
        let status = mounted.status();
        let size = truth.len() as u64;
        let hashed = status["bytes"]["hashed"].as_u64().unwrap();
        assert!(hashed <= size, "{hashed} of {size} bytes were hashed: {status}");
        if layout.method == Layout::FILES.method {
            assert_eq!(
                (hashed, status["bytes"]["verified"].as_u64().unwrap()),
                (size, size)
            );
        }
        mounted.unmount();
    }
}

#[test]
fn opening_reading_and_closing_leaks_nothing() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mounted = Mounted::with(&model, &["--threads", "4"]);
    let process = Process::of(&mounted);
    let round = |times: usize| {
        let mut bytes = vec![0; 4096];
        for index in 0..times {
            let (name, truth) = &model.files[index % model.files.len()];
            let file = File::open(mounted.file(name)).unwrap();
            if index % 10 == 0 {
                sys::drop_cache(&file);
            }
            let n = sys::read_full(&file, &mut bytes, 0).unwrap();
            assert!(bytes[..n] == truth[..n]);
        }
    };
    round(2000);
    std::thread::sleep(Duration::from_secs(1));
    let before = (process.descriptors(), process.threads(), process.memory("VmRSS:"));
    let began = Instant::now();
    round(20_000);
    let took = began.elapsed();
    let at_once = process.descriptors();
    // Files of the source are closed in the background; that must come to an end.
    while process.descriptors() > before.0 && began.elapsed() < took + Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let after = (process.descriptors(), process.threads(), process.memory("VmRSS:"));
    notice(&format!(
        "20,000 times open, read, close in {took:?}: descriptors, threads, KiB {before:?} -> {after:?}, \
         {at_once} descriptors at once"
    ));
    assert!(
        after.0 <= before.0,
        "descriptors: {before:?} -> {after:?}, {:?}",
        process.open_files()
    );
    assert!(after.1 <= before.1 + 4, "threads: {before:?} -> {after:?}");
    assert!(
        after.2 <= before.2 + (16 << 10),
        "memory: {before:?} -> {after:?}"
    );
    mounted.unmount();
}

#[test]
fn fifty_mounts_leave_nothing_behind() {
    if !support::can_mount() {
        return;
    }
    let own = || fs::read_dir("/proc/self/fd").unwrap().count();
    let model = small_model(Layout::FILES);
    for _ in 0..50 {
        let mounted = Mounted::new(&model);
        assert!(fs::read(mounted.file("config.json")).unwrap() == model.content("config.json"));
        mounted.unmount();
    }
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = model.dir().to_str().unwrap();
    assert!(!table.contains(ours), "{table}");
    assert!(own() < 200, "this process has {} descriptors", own());
}

#[test]
fn a_file_of_four_gibibytes_is_served_in_bounded_memory() {
    if !support::can_mount() {
        return;
    }
    // Zeros of a sparse file cost no disk; a few bytes that are not zero show that places are not mixed up.
    const SIZE: u64 = 4 << 30;
    let marks = [0, 1_234_567_890, SIZE - 1];
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    for mark in marks {
        while at < mark {
            let n = (mark - at).min(zeros.len() as u64);
            hasher.update(&zeros[..n as usize]);
            at += n;
        }
        hasher.update(&[0xa5]);
        at += 1;
    }
    let digest = HEXLOWER.encode(hasher.finish().as_bytes());
    let resource = json!({"name": "weights.bin", "algorithm": "sha256", "digest": digest});
    let model = Signed::staged(Layout::FILES, vec![resource], |dir| {
        let file = File::create(dir.join("weights.bin")).unwrap();
        file.set_len(SIZE).unwrap();
        for mark in marks {
            std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5], mark).unwrap();
        }
    });
    let mounted = Mounted::with(&model, &["--memory", "64M"]);
    let process = Process::of(&mounted);
    let began = Instant::now();
    let file = File::open(mounted.file("weights.bin")).unwrap();
    let opened = began.elapsed();
    let mut random = Random::from_environment("large file");
    let mut bytes = vec![0; CHUNK];
    for index in 0..2000 {
        let at = match marks.get(index) {
            Some(mark) => mark.saturating_sub(10),
            None => random.next() % SIZE,
        };
        let n = sys::read_full(&file, &mut bytes, at).unwrap();
        assert_eq!(
            n as u64,
            (bytes.len() as u64).min(SIZE - at),
            "a short read at {at}"
        );
        let mut want = vec![0; n];
        for mark in marks {
            if (at..at + n as u64).contains(&mark) {
                want[(mark - at) as usize] = 0xa5;
            }
        }
        assert!(bytes[..n] == want, "a wrong byte after {at}");
    }
    let peak = process.memory("VmHWM:");
    notice(&format!(
        "4 GiB: opened in {opened:?}, at most {peak} KiB of memory"
    ));
    // The budget, and 64 MiB beside it.
    assert!(peak < 128 << 10, "{peak} KiB");
    drop(file);
    mounted.unmount();
}
