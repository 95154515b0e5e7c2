//! Random bytes for keys, from the kernel.

use std::io;

use rustix::io::retry_on_intr;
use rustix::rand::GetRandomFlags;
use rustix::rand::getrandom;

/// Random bytes, fit for a key. The backend for signatures has a generator of its own, which first gathers entropy for
/// some 25 ms: more than a mount of a small model takes.
///
/// # Errors
/// What the system says; also when it gave fewer.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // getrandom(2): up to 256 bytes come all at once or not at all.
    let given = retry_on_intr(|| getrandom(bytes.as_mut_slice(), GetRandomFlags::empty()))?;
    match given == N {
        true => Ok(bytes),
        false => Err(io::Error::other(
            "the system gave fewer random bytes than it was asked for",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_are_filled_in_and_no_two_alike() {
        let [a, b]: [[u8; 32]; 2] = [random_bytes().unwrap(), random_bytes().unwrap()];
        assert_ne!(a, b);
        assert!(a.iter().filter(|&&byte| byte == 0).count() < 8, "{a:?}");
    }
}
