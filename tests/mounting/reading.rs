//! Every way of reading, every edge of a file, and what a change of the source does to readers.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use modelfs::digest::Algorithm;
use rustix::fs::Advice;

use crate::assert_errno;
use crate::small_model;
use crate::support;
use crate::support::CHUNK;
use crate::support::EDGE_SIZES;
use crate::support::mounted::Mounted;
use crate::support::random::Random;
use crate::support::signing::Layout;
use crate::support::signing::Method;
use crate::support::signing::Signed;
use crate::support::sys;
use crate::support::sys::Aligned;
use crate::support::sys::Mapping;

/// A file of each size where an off-by-one shows.
fn edges(layout: Layout) -> Signed {
    let mut random = Random::from_environment("edges");
    let names: Vec<String> = EDGE_SIZES.iter().map(|size| format!("{size}.bin")).collect();
    let files: Vec<(&str, Vec<u8>)> = names
        .iter()
        .zip(EDGE_SIZES)
        // OMS 6.3.2: shards do not list a file without bytes.
        .filter(|(_, size)| *size > 0 || layout.method == Method::Files)
        .map(|(name, size)| (name.as_str(), random.bytes(size)))
        .collect();
    Signed::new(layout, &files)
}

#[test]
fn files_of_every_edge_size_read_back_whole() {
    if !support::can_mount() {
        return;
    }
    let layouts = [
        Layout::FILES,
        Layout::FILES.with(Algorithm::Blake2b),
        Layout::FILES.with(Algorithm::Blake3),
        Layout::shards(4096),
        Layout::shards(CHUNK as u64),
        Layout::shards(CHUNK as u64 + 1).with(Algorithm::Blake3),
        Layout {
            method: Method::ShardsMangled(1_000_000_000),
            algorithm: Algorithm::Blake2b,
        },
    ];
    for layout in layouts {
        let model = edges(layout);
        let mounted = Mounted::new(&model);
        for (name, truth) in &model.files {
            let path = mounted.file(name);
            assert_eq!(
                fs::metadata(&path).unwrap().len(),
                truth.len() as u64,
                "{name} {layout:?}"
            );
            assert!(fs::read(&path).unwrap() == *truth, "{name} {layout:?}");
            // From the end: nothing past it, and the last byte before it.
            let file = File::open(&path).unwrap();
            let mut byte = [0; 10];
            assert_eq!(file.read_at(&mut byte, truth.len() as u64).unwrap(), 0);
            assert_eq!(file.read_at(&mut byte, i64::MAX as u64 - 10).unwrap(), 0);
            if let Some(last) = truth.last() {
                assert_eq!(file.read_at(&mut byte, truth.len() as u64 - 1).unwrap(), 1);
                assert_eq!(byte[0], *last);
            }
        }
        mounted.unmount();
    }
}

/// One way of reading a range of a file.
type Way = fn(&File, &mut [u8], usize, usize) -> io::Result<usize>;

const WAYS: [(&str, Way); 7] = [
    ("pread", |file, out, at, _| sys::read_full(file, out, at as u64)),
    ("preadv", |file, out, at, _| {
        let (a, b) = out.split_at_mut(out.len() / 3);
        let mut parts = [io::IoSliceMut::new(a), io::IoSliceMut::new(b)];
        Ok(rustix::io::preadv(file, &mut parts, at as u64)?)
    }),
    ("readahead, then pread", |file, out, at, _| {
        rustix::fs::fadvise(file, at as u64, None, Advice::WillNeed)?;
        sys::read_full(file, out, at as u64)
    }),
    ("shared mapping", |file, out, at, size| {
        mapped(file, out, at, size, libc::MAP_SHARED)
    }),
    ("private mapping, populated", |file, out, at, size| {
        mapped(file, out, at, size, libc::MAP_PRIVATE | libc::MAP_POPULATE)
    }),
    ("sendfile", |file, out, at, _| {
        let sink = tempfile::tempfile()?;
        let mut offset = at as u64;
        while offset < (at + out.len()) as u64 {
            let left = at + out.len() - offset as usize;
            if rustix::fs::sendfile(&sink, file, Some(&mut offset), left)? == 0 {
                break;
            }
        }
        sys::read_full(&sink, out, 0)
    }),
    ("copy", |file, out, at, _| {
        // What `cp` does: copy_file_range, which the kernel refuses between filesystems, then the next best.
        let sink = tempfile::tempfile()?;
        let (mut from, mut to) = (at as u64, 0);
        match rustix::fs::copy_file_range(file, Some(&mut from), &sink, Some(&mut to), out.len()) {
            Ok(_) => {}
            Err(rustix::io::Errno::XDEV) => {}
            Err(why) => return Err(why.into()),
        }
        let mut rest = file;
        rest.seek(SeekFrom::Start(from))?;
        (&sink).seek(SeekFrom::Start(to))?;
        io::copy(&mut rest.take(out.len() as u64 - to), &mut &sink)?;
        sys::read_full(&sink, out, 0)
    }),
];

fn mapped(file: &File, out: &mut [u8], at: usize, size: usize, flags: i32) -> io::Result<usize> {
    let n = out.len().min(size.saturating_sub(at));
    Mapping::read(file, flags)?.copy(at, &mut out[..n]);
    Ok(n)
}

#[test]
fn every_way_of_reading_gives_the_same_bytes() {
    if !support::can_mount() {
        return;
    }
    let mut random = Random::from_environment("ways of reading");
    for layout in [Layout::FILES, Layout::shards(300_000).with(Algorithm::Blake3)] {
        let truth = random.bytes((4 << 20) + 4321);
        let model = Signed::new(layout, &[("weights.bin", truth.clone())]);
        let mounted = Mounted::new(&model);
        let path = mounted.file("weights.bin");
        let file = File::open(&path).unwrap();
        let direct = sys::open_direct(&path).unwrap();
        let end = Instant::now() + Duration::from_secs(8);
        let mut rounds = 0;
        while Instant::now() < end || rounds < 50 {
            rounds += 1;
            let at = random.within(0..truth.len());
            let len = random.within(1..3 * CHUNK);
            let want = &truth[at..truth.len().min(at + len)];
            for (name, way) in WAYS {
                if random.once_in(2) {
                    sys::drop_cache(&file);
                }
                let mut out = vec![0; want.len()];
                let n = way(&file, &mut out, at, truth.len()).unwrap_or_else(|why| panic!("{name}: {why}"));
                assert_eq!(n, want.len(), "{name} at {at}");
                assert!(out == want, "{name} at {at}: other bytes");
            }
            let at = at / Aligned::ALIGNMENT * Aligned::ALIGNMENT;
            let mut buffer = Aligned::new(len.next_multiple_of(Aligned::ALIGNMENT));
            let n = sys::read_full(&direct, buffer.bytes(), at as u64).unwrap();
            let want = &truth[at..truth.len().min(at + buffer.bytes().len())];
            assert!(buffer.bytes()[..n] == *want, "O_DIRECT at {at}");
        }
        drop((file, direct));
        mounted.unmount();
    }
}

#[test]
fn a_whole_file_that_differs_fails_at_open() {
    if !support::can_mount() {
        return;
    }
    struct Case {
        name: &'static str,
        change: fn(&mut Vec<u8>),
    }
    let cases = [
        Case {
            name: "the first byte",
            change: |bytes| bytes[0] ^= 1,
        },
        Case {
            name: "the last byte",
            change: |bytes| *bytes.last_mut().unwrap() ^= 0x80,
        },
        Case {
            name: "a byte less",
            change: |bytes| bytes.truncate(bytes.len() - 1),
        },
        Case {
            name: "a byte more",
            change: |bytes| bytes.push(0),
        },
        Case {
            name: "two chunks in the other order",
            change: |bytes| {
                let (a, b) = bytes.split_at_mut(CHUNK);
                a.swap_with_slice(&mut b[..CHUNK]);
            },
        },
    ];
    for case in cases {
        let model = small_model(Layout::FILES);
        let mut bytes = model.content("weights.bin").to_vec();
        (case.change)(&mut bytes);
        fs::write(model.source("weights.bin"), bytes).unwrap();
        let mounted = Mounted::new(&model);
        let opened = File::open(mounted.file("weights.bin"));
        assert_errno(opened, libc::EIO, case.name);
        assert_errno(
            sys::open_direct(&mounted.file("weights.bin")),
            libc::EIO,
            case.name,
        );
        for name in ["config.json", "empty.txt", "tokenizer/vocab.txt"] {
            assert!(
                fs::read(mounted.file(name)).unwrap() == model.content(name),
                "others go on"
            );
        }
        mounted.unmount();
    }
}

#[test]
fn a_sharded_file_opens_and_only_its_damaged_shards_fail() {
    if !support::can_mount() {
        return;
    }
    let shard = 50_000;
    let model = small_model(Layout::shards(shard as u64));
    let truth = model.content("weights.bin");
    let mut bytes = truth.to_vec();
    bytes[2 * shard] ^= 1;
    bytes[3 * shard - 1] ^= 1;
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(model.source("weights.bin"), bytes).unwrap();
    let mounted = Mounted::new(&model);
    let file = File::open(mounted.file("weights.bin")).unwrap();
    let last = truth.len() / shard;
    for start in (0..truth.len()).step_by(1000) {
        let index = start / shard;
        let mut out = [0; 1];
        let result = sys::read_full(&file, &mut out, start as u64);
        if index == 2 || index == last {
            // The kernel reads whole pages, and a page at an edge may belong to the good neighbour as well.
            assert_errno(result, libc::EIO, "a damaged shard");
        } else if result.is_ok() {
            assert_eq!(out[0], truth[start]);
        } else {
            let page = start / 4096 * 4096;
            let touches =
                |shard_index: usize| page < (shard_index + 1) * shard && page + 4096 > shard_index * shard;
            assert!(
                touches(2) || touches(last),
                "an intact shard failed at {start}: {result:?}"
            );
        }
    }
    let status = mounted.status();
    assert_eq!(status["refused"]["resources"], 2, "{status}");
    let again = File::open(mounted.file("weights.bin")).unwrap();
    let mut out = [0; 1000];
    again.read_exact_at(&mut out, 0).unwrap();
    assert!(out[..] == truth[..1000]);
}

#[test]
fn a_rejected_file_stays_rejected_until_remount() {
    if !support::can_mount() {
        return;
    }
    for layout in [Layout::FILES, Layout::shards(5000)] {
        let model = small_model(layout);
        let truth = model.content("config.json");
        fs::write(model.source("config.json"), vec![0; truth.len()]).unwrap();
        let mounted = Mounted::new(&model);
        let read = || fs::read(mounted.file("config.json"));
        assert_errno(read(), libc::EIO, "changed");
        fs::write(model.source("config.json"), truth).unwrap();
        assert_errno(read(), libc::EIO, "put right, and still rejected");
        mounted.unmount();
        let again = Mounted::new(&model);
        assert!(fs::read(again.file("config.json")).unwrap() == truth);
    }
}

#[test]
fn a_later_change_is_refused_while_it_lasts() {
    if !support::can_mount() {
        return;
    }
    for layout in [Layout::FILES, Layout::shards(CHUNK as u64)] {
        let model = small_model(layout);
        let truth = model.content("weights.bin");
        // No memory for chunks, so that each read goes to the source.
        let mounted = Mounted::with(&model, &["--memory", "0"]);
        let file = File::open(mounted.file("weights.bin")).unwrap();
        let read = |at: usize| {
            sys::drop_cache(&file);
            let mut out = vec![0; 1000];
            sys::read_full(&file, &mut out, at as u64).map(|n| {
                assert_eq!(n, 1000);
                assert!(out == truth[at..at + n], "a wrong byte after {at}");
            })
        };
        read(0).unwrap();
        read(2 * CHUNK).unwrap();
        let source = File::options()
            .write(true)
            .open(model.source("weights.bin"))
            .unwrap();
        source
            .write_all_at(&[truth[2 * CHUNK] ^ 1], 2 * CHUNK as u64)
            .unwrap();
        assert_errno(read(2 * CHUNK), libc::EIO, "changed");
        read(0).unwrap();
        source
            .write_all_at(&[truth[2 * CHUNK]], 2 * CHUNK as u64)
            .unwrap();
        read(2 * CHUNK).unwrap();
        // Cut short, and whole again.
        source.set_len(CHUNK as u64).unwrap();
        assert_errno(read(2 * CHUNK), libc::EIO, "cut short");
        assert_eq!(file.metadata().unwrap().len(), truth.len() as u64);
        source.write_all_at(truth, 0).unwrap();
        read(2 * CHUNK).unwrap();
        drop(file);
        mounted.unmount();
    }
}

#[test]
fn cached_bytes_outlive_the_source() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let truth = model.content("weights.bin");
    let mounted = Mounted::new(&model);
    let file = File::open(mounted.file("weights.bin")).unwrap();
    let mut bytes = vec![0; truth.len()];
    assert_eq!(sys::read_full(&file, &mut bytes, 0).unwrap(), truth.len());
    fs::write(model.source("weights.bin"), vec![7; truth.len()]).unwrap();
    bytes.fill(0);
    assert_eq!(sys::read_full(&file, &mut bytes, 0).unwrap(), truth.len());
    assert!(bytes == truth, "verified pages stay");
}

#[test]
fn sizes_never_change_while_mounted() {
    if !support::can_mount() {
        return;
    }
    for layout in [Layout::FILES, Layout::shards(10_000)] {
        let model = small_model(layout);
        let mounted = Mounted::new(&model);
        let truth = model.content("weights.bin").len() as u64;
        let path = mounted.file("weights.bin");
        let source = File::options()
            .write(true)
            .open(model.source("weights.bin"))
            .unwrap();
        for size in [0, 1, truth - 1, truth + 1, 10 * truth] {
            source.set_len(size).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), truth);
            if let Ok(file) = File::open(&path) {
                assert_eq!(file.metadata().unwrap().len(), truth);
            }
            // A new mount may bind another size where sizes are not signed, but then serves nothing.
            if layout.method == Method::Files {
                let other = Mounted::start(support::modelfs_command(), &model, &[]);
                if let Ok(other) = other {
                    assert_errno(File::open(other.file("weights.bin")), libc::EIO, "another size");
                }
            }
        }
    }
}

#[test]
fn a_mapped_page_that_cannot_be_verified_raises_sigbus() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::shards(CHUNK as u64));
    let mounted = Mounted::new(&model);
    let mut bytes = model.content("weights.bin").to_vec();
    bytes[CHUNK + 5] ^= 1;
    fs::write(model.source("weights.bin"), bytes).unwrap();
    // Python is the smallest program at hand that maps a file; it must die, and not see the byte.
    let script = "import mmap,sys\nf=open(sys.argv[1],'rb')\nm=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\n\
                  sys.stdout.write('first %d\\n'%m[0])\nsys.stdout.flush()\nsys.stdout.write('second %d\\n'%m[131077])";
    let output = match Command::new("python3")
        .args(["-c", script])
        .arg(mounted.file("weights.bin"))
        .output()
    {
        Ok(output) => output,
        Err(why) => {
            return support::notice(&format!("SIGBUS was left out: python3 does not start ({why})"));
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
    assert_eq!(
        said,
        format!("first {}\n", model.content("weights.bin")[0]),
        "{output:?}"
    );
    mounted.unmount();
}

#[test]
fn statfs_tells_the_size_of_the_model() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mounted = Mounted::new(&model);
    let have = rustix::fs::statfs(mounted.path()).unwrap();
    let total: usize = model.files.iter().map(|(_, bytes)| bytes.len()).sum();
    let shown = have.f_blocks * have.f_bsize as u64;
    assert!(
        (total as u64..total as u64 + 65536).contains(&shown),
        "{shown} for {total}"
    );
    assert_eq!((have.f_bfree, have.f_bavail), (0, 0));
}

#[test]
fn sizes_of_sharded_files_are_the_signed_ones() {
    if !support::can_mount() {
        return;
    }
    let model = edges(Layout::shards(10_000));
    let mounted = Mounted::new(&model);
    for (name, truth) in &model.files {
        assert_eq!(
            fs::metadata(mounted.file(name)).unwrap().len(),
            truth.len() as u64
        );
    }
    for change in [1, -1] {
        let source = File::options()
            .write(true)
            .open(model.source("4096.bin"))
            .unwrap();
        source.set_len((4096 + change) as u64).unwrap();
        let outcome = Mounted::start(support::modelfs_command(), &model, &[]);
        assert_eq!(outcome.err().and_then(|o| o.code), Some(6));
    }
}

#[test]
fn an_opened_file_has_its_confirmed_size() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let path = model.source("weights.bin");
    let truth = model.content("weights.bin");
    // Bound while it is too long, opened when it is as it was signed: the digest covers other bytes then.
    let long = [truth, b"and more"].concat();
    fs::write(&path, &long).unwrap();
    let mounted = Mounted::new(&model);
    fs::write(&path, truth).unwrap();
    match File::open(mounted.file("weights.bin")) {
        Err(why) => assert_eq!(why.raw_os_error(), Some(libc::EIO), "{why}"),
        Ok(file) => assert_eq!(file.metadata().unwrap().len(), truth.len() as u64),
    }
    let file = File::open(mounted.file("config.json")).unwrap();
    assert_eq!(
        file.metadata().unwrap().len(),
        model.content("config.json").len() as u64
    );
}

#[test]
fn shards_smaller_than_a_page_fail_alone() {
    if !support::can_mount() {
        return;
    }
    for shard in [1, 100, 4095] {
        let mut random = Random::from_environment("small shards");
        let model = Signed::new(
            Layout::shards(shard as u64),
            &[
                ("a.bin", random.bytes(3 * shard + shard / 2)),
                ("b.bin", random.bytes(10_000)),
            ],
        );
        let truth = model.content("a.bin");
        let mut bytes = truth.to_vec();
        bytes[2 * shard - 1] ^= 1;
        fs::write(model.source("a.bin"), bytes).unwrap();
        let mounted = Mounted::new(&model);
        let file = File::open(mounted.file("a.bin")).unwrap();
        for (at, want) in truth.iter().enumerate() {
            let mut byte = [0];
            let result = file.read_at(&mut byte, at as u64);
            if (shard..2 * shard).contains(&at) {
                assert_errno(result, libc::EIO, "the damaged shard");
            } else {
                assert_eq!(result.unwrap(), 1);
                assert_eq!(byte[0], *want, "{at}");
            }
        }
        assert_errno(
            fs::read(mounted.file("a.bin")),
            libc::EIO,
            "across the damaged shard",
        );
        drop(file);
        // A file that is whole can be read and mapped as any other.
        let whole = File::open(mounted.file("b.bin")).unwrap();
        let truth = model.content("b.bin");
        assert!(fs::read(mounted.file("b.bin")).unwrap() == truth);
        for flags in [libc::MAP_SHARED, libc::MAP_PRIVATE] {
            let mut out = vec![0; truth.len()];
            Mapping::read(&whole, flags).unwrap().copy(0, &mut out);
            assert!(out == truth);
        }
        drop(whole);
        mounted.unmount();
    }
}
