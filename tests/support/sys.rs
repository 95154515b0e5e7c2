//! System calls that a reader or an adversary needs and that Rust has no safe form of, or a clumsy one.
#![allow(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "mapping files is what these tests are about; the library's own rule is about src"
)]

use std::ffi::CStr;
use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::ptr;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

use io_uring::IoUring;
use io_uring::opcode;
use io_uring::types;
use rustix::fs::Advice;

/// A shared or private mapping of a file. A page that cannot be had kills the process with SIGBUS, so
/// readers of mappings are processes of their own.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: *mut libc::c_void,
    len: usize,
}

// SAFETY: the mapping is plain memory, reached through atomics only, and lives until `drop`.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps a whole file that is not empty, to be read; `flags` as `mmap` takes them.
    pub(crate) fn read(file: &File, flags: i32) -> io::Result<Self> {
        Self::new(file, libc::PROT_READ, flags)
    }

    /// Maps a whole file, to be written through.
    pub(crate) fn write(file: &File) -> io::Result<Self> {
        Self::new(file, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)
    }

    /// Maps a whole file, to be written without anybody else seeing it.
    pub(crate) fn private(file: &File) -> io::Result<Self> {
        Self::new(file, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE)
    }

    fn new(file: &File, protection: i32, flags: i32) -> io::Result<Self> {
        let len = file.metadata()?.len() as usize;
        // SAFETY: a new mapping at an address of the kernel's choosing touches no memory of ours.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Tells the kernel how the mapping will be used. Only for advice that destroys nothing of a file.
    pub(crate) fn advise(&self, advice: i32) -> io::Result<()> {
        // SAFETY: the range is the mapping; what the advice may drop comes from the file again.
        match unsafe { libc::madvise(self.start, self.len, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Copies bytes out. The file may change meanwhile: each byte is loaded on its own.
    pub(crate) fn copy(&self, at: usize, out: &mut [u8]) {
        for (index, byte) in out.iter_mut().enumerate() {
            *byte = self.byte(at + index).load(Ordering::Relaxed);
        }
    }

    /// Turns bits over through the mapping.
    pub(crate) fn flip(&self, at: usize, bits: u8) {
        self.byte(at).fetch_xor(bits, Ordering::Relaxed);
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        assert!(at < self.len, "{at} lies outside the mapping");
        // SAFETY: inside the mapping, which outlives the reference; an atomic may be shared with other
        // processes that write. Whether the page exists is the caller's risk (SIGBUS), see the type.
        unsafe { &*self.start.cast::<AtomicU8>().add(at) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length, and no reference outlives `self`.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// Forgets the clean pages that the kernel holds of a file.
pub(crate) fn drop_cache(file: &File) {
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed).expect("the advice is taken");
}

/// Forgets the clean pages that the kernel holds of the file at a path, if it opens.
pub(crate) fn drop_cache_at(path: &Path) {
    if let Ok(file) = File::open(path) {
        drop_cache(&file);
    }
}

/// Opens past the page cache.
pub(crate) fn open_direct(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

/// A buffer for reads past the page cache, which must begin on a sector.
#[derive(Debug)]
pub(crate) struct Aligned {
    memory: Vec<u8>,
    skip: usize,
    len: usize,
}

impl Aligned {
    /// What every device here is content with, in bytes.
    pub(crate) const ALIGNMENT: usize = 4096;

    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![0; len + Self::ALIGNMENT];
        let skip = memory.as_ptr().align_offset(Self::ALIGNMENT);
        Self { memory, skip, len }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.skip..self.skip + self.len]
    }
}

/// Reads until the buffer is full or the file ends, as loaders do: how many bytes came.
pub(crate) fn read_full(file: &File, out: &mut [u8], at: u64) -> io::Result<usize> {
    let mut have = 0;
    while have < out.len() {
        match file.read_at(&mut out[have..], at + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(have)
}

/// Has the kernel read a range ahead.
pub(crate) fn readahead(file: &File, at: u64, len: usize) -> io::Result<()> {
    // SAFETY: the call takes three numbers.
    match unsafe { libc::readahead(file.as_raw_fd(), at as i64, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Moves bytes of a file into a pipe: how many.
pub(crate) fn splice(file: &File, at: u64, pipe: &impl AsFd, len: usize) -> io::Result<usize> {
    let mut at = at as i64;
    let to = pipe.as_fd().as_raw_fd();
    // SAFETY: `at` outlives the call; a pipe has no position.
    let moved = unsafe { libc::splice(file.as_raw_fd(), &mut at, to, ptr::null_mut(), len, 0) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// Reads all ranges at once through io_uring; nothing where the kernel does not allow a ring.
pub(crate) fn uring_reads(file: &File, ranges: &[(usize, usize)]) -> io::Result<Option<Vec<Vec<u8>>>> {
    let Ok(mut ring) = IoUring::new(8) else {
        return Ok(None);
    };
    let mut out: Vec<Vec<u8>> = ranges.iter().map(|(_, len)| vec![0; *len]).collect();
    for (number, (buffer, (at, len))) in out.iter_mut().zip(ranges).enumerate() {
        let read = opcode::Read::new(types::Fd(file.as_raw_fd()), buffer.as_mut_ptr(), *len as u32)
            .offset(*at as u64)
            .build()
            .user_data(number as u64);
        // SAFETY: the buffer and the file outlive the wait below, and no buffer is touched before it.
        unsafe { ring.submission().push(&read) }.map_err(io::Error::other)?;
    }
    let mut left = ranges.len();
    while left > 0 {
        match ring.submit_and_wait(left) {
            Ok(_) => {}
            Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
            // The buffers must not go while the kernel may write to them.
            Err(why) => panic!("waiting for reads: {why}"),
        }
        for done in ring.completion() {
            let read = usize::try_from(done.result());
            let read =
                read.unwrap_or_else(|_| panic!("read: {}", io::Error::from_raw_os_error(-done.result())));
            out[done.user_data() as usize].truncate(read);
            left -= 1;
        }
    }
    Ok(Some(out))
}

/// Cuts a file by its name, without opening it.
pub(crate) fn truncate(path: &CStr, len: i64) -> io::Result<()> {
    // SAFETY: the path ends with a NUL.
    match unsafe { libc::truncate(path.as_ptr(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal to one process that the caller started.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process has a number above zero");
    rustix::process::kill_process(pid, signal).ok();
}
