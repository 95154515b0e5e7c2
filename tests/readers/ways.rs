//! The ways of reading a range of a file, each compared with what was signed.

use std::fs::File;
use std::io;
use std::io::IoSliceMut;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use rustix::fs::Advice;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::io::ReadWriteFlags;

use crate::support::random::Random;
use crate::support::sys;
use crate::support::sys::Aligned;
use crate::support::sys::Mapping;

/// A file that many read at once, and what it must be.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    pub(crate) file: File,
    direct: File,
    pub(crate) truth: Vec<u8>,
}

impl Reader {
    pub(crate) fn open(path: &Path, truth: &[u8]) -> Self {
        Self {
            path: path.to_owned(),
            file: File::open(path).unwrap(),
            direct: sys::open_direct(path).unwrap(),
            truth: truth.to_vec(),
        }
    }

    /// Whole, and not one byte else: a call must never be short before the end of the file.
    fn compare(&self, have: &[u8], at: usize, len: usize) {
        assert_eq!(have.len(), len, "{} at {at}: short", self.path.display());
        assert!(
            have == &self.truth[at..at + len],
            "{} at {at}: other bytes",
            self.path.display()
        );
    }
}

/// Reads and compares a range that lies within the file; `false` where the kernel does not do it this way.
type Way = fn(&Reader, usize, usize, &mut Random) -> io::Result<bool>;

pub(crate) const WAYS: [(&str, Way); 18] = [
    ("read", read),
    ("pread", pread),
    ("readv", readv),
    ("preadv", preadv),
    ("preadv2", preadv2),
    ("shared mapping", |reader, at, len, random| {
        mapped(reader, at, len, libc::MAP_SHARED, random)
    }),
    ("private mapping", |reader, at, len, random| {
        mapped(reader, at, len, libc::MAP_PRIVATE, random)
    }),
    ("populated mapping", |reader, at, len, random| {
        mapped(reader, at, len, libc::MAP_SHARED | libc::MAP_POPULATE, random)
    }),
    ("private mapping, written to", written),
    ("posix_fadvise", fadvise),
    ("readahead", readahead),
    ("copy_file_range", copy_file_range),
    ("sendfile", sendfile),
    ("splice", splice),
    ("io_uring", io_uring),
    ("O_DIRECT", direct),
    ("flock", flock),
    ("a child's read", child_reads),
];

fn read(reader: &Reader, at: usize, len: usize, _: &mut Random) -> io::Result<bool> {
    // A description of its own: the position of the shared one belongs to all.
    let mut file = File::open(&reader.path)?;
    file.seek(SeekFrom::Start(at as u64))?;
    let mut out = vec![0; len];
    let read = file.read(&mut out)?;
    reader.compare(&out[..read], at, len);
    assert_eq!(file.stream_position()?, (at + len) as u64);
    Ok(true)
}

fn pread(reader: &Reader, at: usize, len: usize, random: &mut Random) -> io::Result<bool> {
    // More than there is: what there is comes, and nothing after the end.
    let more = random.within(0..5000);
    let mut out = vec![0; len + more];
    let read = reader.file.read_at(&mut out, at as u64)?;
    reader.compare(&out[..read], at, (len + more).min(reader.truth.len() - at));
    Ok(true)
}

fn readv(reader: &Reader, at: usize, len: usize, random: &mut Random) -> io::Result<bool> {
    let mut file = File::open(&reader.path)?;
    file.seek(SeekFrom::Start(at as u64))?;
    let mut out = vec![0; len];
    let (a, b) = out.split_at_mut(random.within(0..len + 1));
    let read = file.read_vectored(&mut [IoSliceMut::new(a), IoSliceMut::new(b)])?;
    reader.compare(&out[..read], at, len);
    Ok(true)
}

fn preadv(reader: &Reader, at: usize, len: usize, random: &mut Random) -> io::Result<bool> {
    let mut out = vec![0; len];
    let (a, b) = out.split_at_mut(random.within(0..len + 1));
    let mut parts = [IoSliceMut::new(a), IoSliceMut::new(b)];
    let read = rustix::io::preadv(&reader.file, &mut parts, at as u64)?;
    reader.compare(&out[..read], at, len);
    Ok(true)
}

fn preadv2(reader: &Reader, at: usize, len: usize, _: &mut Random) -> io::Result<bool> {
    let mut out = vec![0; len];
    let mut parts = [IoSliceMut::new(&mut out)];
    match rustix::io::preadv2(&reader.file, &mut parts, at as u64, ReadWriteFlags::NOWAIT) {
        // What lies in the page cache, which may be less.
        Ok(read) => {
            reader.compare(&out[..read], at, read);
            Ok(true)
        }
        // Then a program has to wait; a FUSE mount knows no other way.
        Err(Errno::AGAIN | Errno::OPNOTSUPP) => {
            let mut parts = [IoSliceMut::new(&mut out)];
            let read = rustix::io::preadv2(&reader.file, &mut parts, at as u64, ReadWriteFlags::empty())?;
            reader.compare(&out[..read], at, len);
            Ok(true)
        }
        Err(why) => Err(why.into()),
    }
}

/// What a loader may tell the kernel of a mapping.
const ADVICE: [i32; 9] = [
    libc::MADV_NORMAL,
    libc::MADV_RANDOM,
    libc::MADV_SEQUENTIAL,
    libc::MADV_WILLNEED,
    libc::MADV_DONTNEED,
    libc::MADV_HUGEPAGE,
    libc::MADV_COLD,
    libc::MADV_PAGEOUT,
    libc::MADV_POPULATE_READ,
];

fn mapped(reader: &Reader, at: usize, len: usize, flags: i32, random: &mut Random) -> io::Result<bool> {
    let mapping = Mapping::read(&reader.file, flags)?;
    let mut out = vec![0; len];
    for _ in 0..2 {
        let advice = *random.one_of(&ADVICE);
        match mapping.advise(advice) {
            Ok(()) => {}
            // Not every kernel knows each of them.
            Err(why) if why.raw_os_error() == Some(libc::EINVAL) => {}
            Err(why) => return Err(why),
        }
        mapping.copy(at, &mut out);
        reader.compare(&out, at, len);
    }
    Ok(true)
}

fn written(reader: &Reader, at: usize, len: usize, random: &mut Random) -> io::Result<bool> {
    let mapping = Mapping::private(&reader.file)?;
    mapping.flip(at, 0xff);
    let mut out = vec![0; len];
    mapping.copy(at, &mut out);
    out[0] ^= 0xff;
    reader.compare(&out, at, len);
    pread(reader, at, len, random)
}

fn fadvise(reader: &Reader, at: usize, len: usize, random: &mut Random) -> io::Result<bool> {
    let advice = [
        Advice::Normal,
        Advice::Sequential,
        Advice::Random,
        Advice::NoReuse,
        Advice::WillNeed,
        Advice::DontNeed,
    ];
    let size = std::num::NonZero::new(len as u64);
    rustix::fs::fadvise(&reader.file, at as u64, size, *random.one_of(&advice))?;
    pread(reader, at, len, random)
}

fn readahead(reader: &Reader, at: usize, len: usize, random: &mut Random) -> io::Result<bool> {
    sys::readahead(&reader.file, at as u64, len)?;
    pread(reader, at, len, random)
}

fn copy_file_range(reader: &Reader, at: usize, len: usize, _: &mut Random) -> io::Result<bool> {
    let sink = tempfile::tempfile()?;
    let (mut from, mut to) = (at as u64, 0);
    while to < len as u64 {
        let left = len - to as usize;
        match rustix::fs::copy_file_range(&reader.file, Some(&mut from), &sink, Some(&mut to), left) {
            // The kernel does not copy between file systems of two kinds; programs then read and write.
            Err(Errno::XDEV | Errno::OPNOTSUPP) => return Ok(false),
            Ok(0) => break,
            Ok(_) => {}
            Err(why) => return Err(why.into()),
        }
    }
    let mut out = vec![0; to as usize];
    sink.read_exact_at(&mut out, 0)?;
    reader.compare(&out, at, len);
    Ok(true)
}

fn sendfile(reader: &Reader, at: usize, len: usize, _: &mut Random) -> io::Result<bool> {
    let sink = tempfile::tempfile()?;
    let mut from = at as u64;
    while from < (at + len) as u64 {
        let left = at + len - from as usize;
        if rustix::fs::sendfile(&sink, &reader.file, Some(&mut from), left)? == 0 {
            break;
        }
    }
    let mut out = vec![0; from as usize - at];
    sink.read_exact_at(&mut out, 0)?;
    reader.compare(&out, at, len);
    Ok(true)
}

fn splice(reader: &Reader, at: usize, len: usize, _: &mut Random) -> io::Result<bool> {
    let (mut out_of, into) = io::pipe()?;
    let mut have = Vec::new();
    while have.len() < len {
        // No more than a pipe holds, or it would wait for its reader, which is this thread.
        let left = (len - have.len()).min(PIPE_BYTES);
        let moved = sys::splice(&reader.file, (at + have.len()) as u64, &into, left)?;
        if moved == 0 {
            break;
        }
        let mut piece = vec![0; moved];
        out_of.read_exact(&mut piece)?;
        have.extend(piece);
    }
    reader.compare(&have, at, len);
    Ok(true)
}

/// What a new pipe holds, in bytes, when pages are of 4 KiB and a range begins and ends within one.
const PIPE_BYTES: usize = 15 * 4096;

fn io_uring(reader: &Reader, at: usize, len: usize, random: &mut Random) -> io::Result<bool> {
    // Several reads at once, in pieces of which none is the first to be asked for.
    let cut = random.within(0..len + 1);
    let ranges = [(at + cut, len - cut), (at, cut), (at, len)];
    let Some(have) = sys::uring_reads(&reader.file, &ranges)? else {
        return Ok(false);
    };
    for (have, (at, len)) in have.iter().zip(ranges) {
        reader.compare(have, at, len);
    }
    Ok(true)
}

fn direct(reader: &Reader, at: usize, len: usize, _: &mut Random) -> io::Result<bool> {
    let at = at / Aligned::ALIGNMENT * Aligned::ALIGNMENT;
    let mut buffer = Aligned::new(len.next_multiple_of(Aligned::ALIGNMENT));
    let read = reader.direct.read_at(buffer.bytes(), at as u64)?;
    let len = buffer.bytes().len().min(reader.truth.len() - at);
    reader.compare(&buffer.bytes()[..read], at, len);
    Ok(true)
}

fn flock(reader: &Reader, at: usize, len: usize, random: &mut Random) -> io::Result<bool> {
    let file = File::open(&reader.path)?;
    rustix::fs::flock(&file, FlockOperation::LockShared)?;
    pread(reader, at, len, random)?;
    rustix::fs::flock(&file, FlockOperation::Unlock)?;
    Ok(true)
}

fn child_reads(reader: &Reader, at: usize, len: usize, _: &mut Random) -> io::Result<bool> {
    let mut file = File::open(&reader.path)?;
    // A child is not cheap: only the end of the file.
    let at = at.max(reader.truth.len() - len.min(10_000));
    file.seek(SeekFrom::Start(at as u64))?;
    let output = child(&file).wait_with_output()?;
    reader.compare(&output.stdout, at, reader.truth.len() - at);
    // The child's reading moved the position that both have.
    assert_eq!(file.stream_position()?, reader.truth.len() as u64);
    Ok(true)
}

/// A process that reads on from where a description stands.
pub(crate) fn child(file: &File) -> Child {
    Command::new("cat")
        .stdin(file.try_clone().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cat starts")
}
