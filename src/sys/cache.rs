//! The page cache: how much of a file lies in it.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// `struct cachestat_range` of linux/mman.h.
#[repr(C)]
struct CachestatRange {
    offset: u64,
    length: u64,
}

/// `struct cachestat` of linux/mman.h, in pages.
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// The number of cachestat(2), the same on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

/// How many bytes of a range the page cache has, in whole pages; `None` where the kernel does not tell: before
/// Linux 6.5, and, since 6.14, of files that somebody else owns.
pub fn cached_bytes(file: &File, range: &Range<u64>) -> Option<u64> {
    let asked = CachestatRange {
        offset: range.start,
        length: range.end.saturating_sub(range.start),
    };
    let mut found = Cachestat::default();
    // SAFETY: both structures are laid out as the kernel's, live for the whole call, and the kernel writes to
    // the second one only; the descriptor is open as long as `file` is borrowed.
    #[allow(unsafe_code, reason = "no crate wraps cachestat")]
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            &raw const asked,
            &raw mut found,
            0,
        )
    };
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    (result == 0).then(|| found.cached.saturating_mul(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_written_is_cached() {
        let path = std::env::temp_dir().join(format!("modelfs-cachestat-{}", std::process::id()));
        std::fs::write(&path, vec![7; 3 * 4096]).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        match cached_bytes(&file, &(0..3 * 4096)) {
            Some(bytes) => assert_eq!(bytes, 3 * 4096),
            None => println!("NOTICE: this kernel does not tell what its page cache holds"),
        }
    }
}
