//! Backing files of a FUSE connection (passthrough): the one call that no crate wraps safely.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl::Opcode;
use rustix::ioctl::Setter;
use rustix::ioctl::ioctl;
use rustix::ioctl::opcode;

/// `FUSE_DEV_IOC_BACKING_CLOSE` of `linux/fuse.h`.
const BACKING_CLOSE: Opcode = opcode::write::<u32>(b'\xe5', 2);

/// Takes a backing file from a FUSE connection. Files that are open already keep it.
///
/// # Errors
/// `ENOENT` when there is none of this number, `EPERM` without `CAP_SYS_ADMIN`, and what else the kernel says.
pub fn close_backing(device: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    // SAFETY: the request reads one `u32` at the address it is given, as `linux/fuse.h` defines it, and the
    // setter points it at one that lives as long as the call.
    #[allow(unsafe_code, reason = "no crate wraps this request")]
    let outcome = unsafe { ioctl(device, Setter::<BACKING_CLOSE, u32>::new(id)) };
    outcome.map_err(io::Error::from)
}
