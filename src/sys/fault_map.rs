//! A planted fault: reading a source through a mapping, as no release does.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use rustix::mm::mmap;
use rustix::mm::munmap;

/// Mappings begin at a multiple of this; 64 KiB covers every architecture's page.
const PAGE_BYTES: u64 = 64 * 1024;

/// Copies `len` bytes at `offset` out of a mapping of the file, calling `between` once the mapping stands.
///
/// # Errors
/// What `mmap` says; a truncated file kills the process, which is the point of the fault.
pub fn mapped_copy(file: &File, offset: u64, len: usize, between: impl FnOnce(&[u8])) -> io::Result<Vec<u8>> {
    // SAFETY: not sound at all: the file can change under the slice. The feature exists to show that the
    // chaos test notices.
    #[allow(unsafe_code, clippy::disallowed_methods, reason = "the fault that is planted")]
    unsafe {
        let before = offset % PAGE_BYTES;
        let skip = usize::try_from(before).map_err(io::Error::other)?;
        let fd = file.as_fd();
        let start = mmap(
            std::ptr::null_mut(),
            skip + len,
            ProtFlags::READ,
            MapFlags::SHARED,
            fd,
            offset - before,
        )?;
        let bytes = std::slice::from_raw_parts(start.cast::<u8>().add(skip), len);
        between(bytes);
        let copy = bytes.to_vec();
        munmap(start, skip + len)?;
        Ok(copy)
    }
}
