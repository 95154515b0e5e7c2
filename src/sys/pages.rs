//! Memory in whole pages, for buffers that devices write to.

use std::ffi::c_void;
use std::io;
use std::ops::Deref;
use std::ops::DerefMut;
use std::ptr::NonNull;

use rustix::mm::Advice;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use rustix::mm::madvise;
use rustix::mm::mmap_anonymous;
use rustix::mm::munmap;

/// Size and alignment in bytes that direct reads keep to: the largest that devices ask for in practice.
pub const PAGE_BYTES: usize = 4096;

/// Size of a huge page in bytes (x86-64, and AArch64 with small pages). Elsewhere it is only an alignment.
pub const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Pages of our own, zero at first. Buffers of a huge page and more ask for such: a direct read into one is a single request
/// to the device, where scattered small pages make several (docs/decisions/0009 has what that gains).
pub struct Pages(Map);

impl Pages {
    /// At least so many bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// When the system has no memory.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let map = Map::new(bytes)?;
        if map.bytes >= HUGE_PAGE_BYTES {
            // SAFETY: it changes how these pages lie in memory, and nothing else.
            #[allow(unsafe_code, reason = "an advice")]
            let advised = unsafe { madvise(map.start.as_ptr().cast(), map.bytes, Advice::LinuxHugepage) };
            // Only faster; a system without huge pages says no.
            let _ = advised;
        }
        Ok(Self(map))
    }
}

/// A mapping that ends with this value, which alone knows it. One of a huge page and more begins where a huge page can.
pub(super) struct Map {
    pub(super) start: NonNull<u8>,
    pub(super) bytes: usize,
}

// SAFETY: the mapping belongs to this value, like the memory of a `Vec<u8>`.
#[allow(unsafe_code, reason = "a pointer into memory that nobody else has")]
unsafe impl Send for Map {}
// SAFETY: the map itself reads and writes nothing.
#[allow(unsafe_code, reason = "a pointer into memory that nobody else has")]
unsafe impl Sync for Map {}

impl Map {
    /// At least so many bytes of private memory, rounded up to whole pages; zero, and not there before they are used.
    ///
    /// # Errors
    /// When the system has no memory.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let bytes = bytes
            .max(1)
            .checked_next_multiple_of(rustix::param::page_size().max(PAGE_BYTES))
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let slop = if bytes >= HUGE_PAGE_BYTES {
            HUGE_PAGE_BYTES
        } else {
            0
        };
        let all = bytes.checked_add(slop).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        #[allow(unsafe_code, reason = "mapping memory")]
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                all,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let before = if slop == 0 {
            0
        } else {
            start.addr().wrapping_neg() % HUGE_PAGE_BYTES
        };
        let after = slop - before;
        // SAFETY: `before + bytes + after` is the length of the mapping that was just made; both ends are whole
        // pages of it, and nobody has a pointer into them.
        #[allow(unsafe_code, reason = "giving back the ends that only aligned the middle")]
        let start = unsafe {
            let aligned = start.byte_add(before);
            if before > 0 {
                munmap(start, before)?;
            }
            if after > 0 {
                munmap(aligned.byte_add(bytes), after)?;
            }
            aligned
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let start: *mut c_void = self.start.as_ptr().cast();
        // SAFETY: this value alone knows the mapping, and ends with it; whoever hands out pieces drops it after them.
        #[allow(unsafe_code, reason = "unmapping memory")]
        let unmapped = unsafe { munmap(start, self.bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has `bytes` readable bytes from `start` on, which live as long as `self`, and
        // whoever could write to them holds `self` exclusively.
        #[allow(unsafe_code, reason = "the pages as a slice")]
        unsafe {
            std::slice::from_raw_parts(self.0.start.as_ptr(), self.0.bytes)
        }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for reading; `self` is borrowed exclusively.
        #[allow(unsafe_code, reason = "the pages as a slice")]
        unsafe {
            std::slice::from_raw_parts_mut(self.0.start.as_ptr(), self.0.bytes)
        }
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pages({} bytes)", self.0.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_whole_zero_writable_and_aligned() {
        for (asked, got) in [
            (0, PAGE_BYTES),
            (1, PAGE_BYTES),
            (PAGE_BYTES, PAGE_BYTES),
            (PAGE_BYTES + 1, 2 * PAGE_BYTES),
            (HUGE_PAGE_BYTES, HUGE_PAGE_BYTES),
            (HUGE_PAGE_BYTES + 1, HUGE_PAGE_BYTES + PAGE_BYTES),
        ] {
            let mut pages = Pages::new(asked).unwrap();
            assert_eq!(pages.len(), got);
            assert!(pages.iter().all(|&byte| byte == 0));
            pages.fill(0xa5);
            assert!(pages.iter().all(|&byte| byte == 0xa5));
            let align = if got >= HUGE_PAGE_BYTES {
                HUGE_PAGE_BYTES
            } else {
                PAGE_BYTES
            };
            assert_eq!(pages.as_ptr().addr() % align, 0);
        }
        assert!(Pages::new(usize::MAX).is_err());
    }
}
