//! Random numbers that a failure can be repeated with.

use std::ops::Range;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough to choose offsets and fill files.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Starts from `MODELFS_SEED`, or from the clock; prints which, so that a failure shows it.
    pub(crate) fn from_environment(what: &str) -> Self {
        let seed = match std::env::var("MODELFS_SEED") {
            Ok(text) => text.parse().expect("MODELFS_SEED is a number"),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("the clock is past 1970")
                .as_nanos() as u64,
        };
        println!("{what}: repeat with MODELFS_SEED={seed}");
        Self(seed)
    }

    /// Starts from a given number.
    pub(crate) fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in a range that is not empty.
    pub(crate) fn within(&mut self, range: Range<usize>) -> usize {
        assert!(!range.is_empty(), "no number lies in {range:?}");
        range.start + (self.next() % (range.end - range.start) as u64) as usize
    }

    /// One of several.
    pub(crate) fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.within(0..choices.len())]
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.within(0..n) == 0
    }

    /// Bytes of no pattern, so that a shifted or swapped range cannot look right.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }

    /// A generator of its own for another thread.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
