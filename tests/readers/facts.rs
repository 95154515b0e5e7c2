//! What loaders rely on without asking.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;
use std::time::Instant;

use crate::support;
use crate::support::CHUNK;
use crate::support::mounted::Mounted;
use crate::support::random::Random;
use crate::support::signing::Layout;
use crate::support::signing::Signed;

/// `FUSE_SUPER_MAGIC` of linux/magic.h.
const FUSE_MAGIC: u64 = 0x6573_5546;

/// A model whose weights take the daemon some time to hash.
fn model() -> Signed {
    let mut random = Random::from_environment("facts");
    let files = [
        ("config.json", random.bytes(5000)),
        ("weights.bin", random.bytes(64 << 20)),
    ];
    Signed::new(Layout::FILES, &files)
}

#[test]
fn files_look_as_loaders_expect_regular_files_to_look() {
    if !support::can_mount() {
        return;
    }
    let model = model();
    let mounted = Mounted::new(&model);
    for (name, truth) in &model.files {
        let about = fs::symlink_metadata(mounted.file(name)).unwrap();
        assert!(about.is_file(), "{name}");
        let facts = (
            about.blksize(),
            about.nlink(),
            about.mode() & 0o7777,
            about.len(),
            about.blocks(),
        );
        let bytes = truth.len() as u64;
        assert_eq!(facts, (4096, 1, 0o444, bytes, bytes.div_ceil(512)), "{name}");
    }
    let about = rustix::fs::statfs(mounted.path()).unwrap();
    let bytes: usize = model.files.iter().map(|(_, truth)| truth.len()).sum();
    let facts = (
        about.f_type as u64,
        about.f_bsize as u64,
        about.f_blocks,
        about.f_namelen as u64,
    );
    assert_eq!(facts, (FUSE_MAGIC, 4096, bytes.div_ceil(4096) as u64, 255));
    assert_eq!((about.f_bfree, about.f_bavail, about.f_ffree), (0, 0, 0));
    // The root and the two files.
    assert_eq!(about.f_files, 3);
    // What libraries look for, with the names of the table's own format, proc(5).
    let table = fs::read_to_string("/proc/mounts").unwrap();
    let path = mounted.path().to_str().unwrap();
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(1) == Some(path))
        .unwrap();
    assert_eq!(line.split(' ').nth(2), Some("fuse.modelfs"));
    mounted.unmount();
}

#[test]
fn attributes_that_do_not_exist_are_answered_while_hashes_run() {
    if !support::can_mount() {
        return;
    }
    const QUERIES: usize = 2000;
    let model = model();
    let mounted = Mounted::new(&model);
    let weights = mounted.file("weights.bin");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(&weights).unwrap().len());
        let mut slowest = Duration::ZERO;
        let began = Instant::now();
        for _ in 0..QUERIES {
            let asked = Instant::now();
            let mut value = [0_u8; 64];
            // What libc and the security modules ask of files everywhere.
            for name in ["security.selinux", "system.posix_acl_access", "user.mime_type"] {
                let found = rustix::fs::getxattr(&weights, name, &mut value[..]);
                let absent = [rustix::io::Errno::NODATA, rustix::io::Errno::OPNOTSUPP];
                assert!(found.is_err_and(|why| absent.contains(&why)), "{name}");
            }
            slowest = slowest.max(asked.elapsed());
        }
        let mean = began.elapsed() / QUERIES as u32;
        println!("three absent attributes: {mean:?} on average, {slowest:?} at most");
        // The bound is for machines that are busy with other things, too.
        assert!(mean < Duration::from_millis(20), "{mean:?}");
        assert_eq!(reader.join().unwrap(), 64 << 20);
    });
    mounted.unmount();
}

#[test]
fn a_call_for_a_large_range_is_answered_whole() {
    if !support::can_mount() {
        return;
    }
    use std::os::unix::fs::FileExt as _;
    let model = model();
    let mounted = Mounted::new(&model);
    let truth = model.content("weights.bin");
    let file = fs::File::open(mounted.file("weights.bin")).unwrap();
    for (at, len) in [
        (0, truth.len()),
        (1, truth.len() - 1),
        (CHUNK - 1, 33 << 20),
        (12_345, usize::MAX),
    ] {
        let mut out = vec![0; len.min(truth.len() + 1)];
        let want = &truth[at..truth.len().min(at.saturating_add(len))];
        let read = file.read_at(&mut out, at as u64).unwrap();
        assert!(out[..read] == *want, "{len} at {at}: {read}");
    }
    drop(file);
    mounted.unmount();
}
