//! Readers that know what they should get.

use std::env;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use crate::Arena;
use crate::Report;
use crate::support::CHUNK;
use crate::support::random::Random;
use crate::support::run;
use crate::support::sys;
use crate::support::sys::Aligned;
use crate::support::sys::Mapping;

/// How a reader gets at a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// `pread`.
    Plain,
    /// `pread` past the page cache.
    Direct,
    /// A mapping, in a process that a bad page may kill.
    Mapped,
}

/// Where the reader of a mapping finds its orders, one per line: the file, the same file intact, and a file
/// to which it adds one byte for each good look.
const ORDERS: &str = "MODELFS_MAPPED_READER";

/// The largest read, in bytes: several chunks, and more than one request to the daemon.
const MAX_READ: usize = 5 * CHUNK;

/// One visit of a reader: opens a file, reads here and there, and leaves.
pub(crate) fn visit(arena: &Arena, random: &mut Random) {
    let mount = arena.mount.read().unwrap();
    let report = &arena.report;
    if report.stopped() {
        return; // There may be no mount any more.
    }
    let (name, truth) = random.one_of(&arena.model.files);
    let path = mount.join(name);
    match fs::metadata(&path) {
        Ok(have) if have.len() == truth.len() as u64 => {}
        Ok(have) => report.violation(format!("{name} has {} bytes, not {}", have.len(), truth.len())),
        Err(why) => report.violation(format!("{name} has no attributes: {why}")),
    }
    let access = arena.scenario.access;
    if access == Access::Mapped {
        return visit_mapped(arena, name, &path);
    }
    let opened = match access {
        Access::Direct => sys::open_direct(&path),
        _ => File::open(&path),
    };
    let file = match opened {
        Ok(file) => file,
        Err(why) => {
            note_error(report, name, "open", &why);
            // What is rejected stays so, and refusing is quick: leave the processor to others.
            return sleep(Duration::from_millis(1));
        }
    };
    for _ in 0..random.within(1..30) {
        if arena.scenario.forget && random.once_in(3) {
            sys::drop_cache(&file);
        }
        let result = match access {
            Access::Direct => look_direct(&file, truth, random),
            _ => look(&file, truth, random),
        };
        match result {
            Ok(()) => Report::count(&report.good),
            Err(Surprise::Error(why)) => note_error(report, name, "read", &why),
            Err(Surprise::Violation(text)) => report.violation(format!("{name}: {text}")),
        }
        match file.metadata() {
            Ok(have) if have.len() == truth.len() as u64 => {}
            other => report.violation(format!("{name} changed its size: {other:?}")),
        }
        if report.stopped() {
            break;
        }
    }
}

/// What a read met that was not the truth.
enum Surprise {
    Error(io::Error),
    Violation(String),
}

fn note_error(report: &Report, name: &str, what: &str, why: &io::Error) {
    if why.raw_os_error() == Some(libc::EIO) {
        Report::count(&report.refused);
    } else {
        report.violation(format!("{name}: {what} failed with {why}"));
    }
}

/// Reads a range of any place and length, past the end too.
fn look(file: &File, truth: &[u8], random: &mut Random) -> Result<(), Surprise> {
    let at = random.within(0..truth.len() + 10);
    let len = match random.within(0..4) {
        0 => random.within(1..100),
        1 => CHUNK,
        _ => random.within(1..MAX_READ),
    };
    let mut buffer = vec![0xa5; len];
    fill(file, &mut buffer, at, truth)
}

/// Reads a range that begins and ends where a device's sectors do.
fn look_direct(file: &File, truth: &[u8], random: &mut Random) -> Result<(), Surprise> {
    let sectors = truth.len().div_ceil(Aligned::ALIGNMENT);
    let at = random.within(0..sectors) * Aligned::ALIGNMENT;
    let len = random.within(1..MAX_READ / Aligned::ALIGNMENT) * Aligned::ALIGNMENT;
    let mut buffer = Aligned::new(len);
    fill(file, buffer.bytes(), at, truth)
}

/// Reads until the range is there. The kernel may stop short of a page that it cannot have; then the next
/// read says so. An end of file that comes early is the silent truncation that must never be.
fn fill(file: &File, buffer: &mut [u8], at: usize, truth: &[u8]) -> Result<(), Surprise> {
    let want = truth.get(at..).unwrap_or_default();
    let want = &want[..want.len().min(buffer.len())];
    let mut have = 0;
    let outcome = loop {
        match file.read_at(&mut buffer[have..], (at + have) as u64) {
            Ok(0) if have < want.len() => {
                let text = format!("end of file at {} of {}", at + have, truth.len());
                return Err(Surprise::Violation(text));
            }
            Ok(0) => break Ok(()),
            Ok(n) => have += n,
            Err(why) => break Err(Surprise::Error(why)),
        }
        if have >= want.len() {
            break Ok(());
        }
    };
    if have > want.len() {
        let text = format!("{have} bytes at {at} where {} are left", want.len());
        return Err(Surprise::Violation(text));
    }
    match differs(&buffer[..have], &want[..have]) {
        None => outcome,
        Some(place) => Err(Surprise::Violation(format!("wrong byte at {}", at + place))),
    }
}

fn differs(a: &[u8], b: &[u8]) -> Option<usize> {
    (a != b).then(|| a.iter().zip(b).position(|(a, b)| a != b).unwrap_or_default())
}

/// Sends a reader of a mapping, which is this test's binary again, and sees how it comes back.
fn visit_mapped(arena: &Arena, name: &str, path: &Path) {
    let report = &arena.report;
    let counts = tempfile::NamedTempFile::new().unwrap();
    let golden = arena.model.dir().join("golden").join(name);
    let orders = format!(
        "{}\n{}\n{}",
        path.display(),
        golden.display(),
        counts.path().display()
    );
    let outcome = run(Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "readers::a_reader_of_a_mapping_sees_what_the_file_holds",
        ])
        .env(ORDERS, orders));
    let good = counts.path().metadata().unwrap().len();
    report.good.fetch_add(good, Ordering::Relaxed);
    match (outcome.code, outcome.signal) {
        (Some(0), _) => {}
        (_, Some(libc::SIGBUS)) => Report::count(&report.refused),
        (Some(_), _) if outcome.stdout.contains(REFUSED) => Report::count(&report.refused),
        _ => report.violation(format!("{name}: a reader of a mapping ended so: {outcome:?}")),
    }
}

/// What the reader of a mapping says when the file does not open, instead of dying.
const REFUSED: &str = "the open was refused with EIO";

#[test]
fn a_reader_of_a_mapping_sees_what_the_file_holds() {
    let plain = tempfile::NamedTempFile::new().unwrap();
    let counts = tempfile::NamedTempFile::new().unwrap();
    let orders = match env::var(ORDERS) {
        Ok(orders) => orders,
        Err(_) => {
            fs::write(&plain, Random::from_seed(1).bytes(MAX_READ)).unwrap();
            let [plain, counts] = [&plain, &counts].map(|file| file.path().display());
            format!("{plain}\n{plain}\n{counts}")
        }
    };
    let [path, golden, counts] = orders.lines().collect::<Vec<_>>()[..] else {
        panic!("three files");
    };
    let truth = fs::read(golden).unwrap();
    let mut counts = File::options().append(true).open(counts).unwrap();
    let mut random = Random::from_environment("mapping");
    let file = match File::open(path) {
        Err(why) if why.raw_os_error() == Some(libc::EIO) => panic!("{REFUSED}"),
        other => other.unwrap(),
    };
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        // Not MAP_POPULATE: over a page that cannot be read the kernel (6.18) tries for ever.
        let flags = *random.one_of(&[libc::MAP_SHARED, libc::MAP_PRIVATE]);
        let map = Mapping::read(&file, flags).unwrap();
        assert_eq!(map.len(), truth.len(), "the mapping has another size");
        for _ in 0..10 {
            let at = random.within(0..truth.len());
            let mut bytes = vec![0; random.within(1..(truth.len() - at).min(CHUNK) + 1)];
            map.copy(at, &mut bytes);
            assert_eq!(
                differs(&bytes, &truth[at..at + bytes.len()]),
                None,
                "wrong byte after {at}"
            );
            counts.write_all(b"+").unwrap();
        }
        drop(map);
        sys::drop_cache(&file);
    }
}
