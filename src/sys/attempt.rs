//! A planted fault: any system call, as an attacker who runs code in the server would make it.

use std::io;

/// Makes a system call whose arguments are numbers or null pointers.
///
/// # Errors
/// What the call says.
pub fn attempt(number: libc::c_long, arguments: [usize; 5]) -> io::Result<()> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the callers pass numbers and null pointers only, so the kernel has no memory of ours to write to; what
    // the calls do otherwise is what is being tried. The feature is for tests alone.
    #[allow(unsafe_code, reason = "the fault that is planted")]
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
