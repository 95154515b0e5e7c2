//! What a reader will want next.

use std::ops::Range;

/// How far from where a reader is expected its next read may lie, in bytes: the kernel asks for several pieces of what
/// it reads ahead at a time, and they arrive in any order.
const SLACK_BYTES: u64 = 8 * 1024 * 1024;

/// How far ahead of a reader who has just begun resources are verified, in bytes.
const MIN_WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// How far ahead at most. Further costs memory and gains nothing: each core has its work already.
const MAX_WINDOW_BYTES: u64 = 64 * 1024 * 1024;

/// Steps in which the window moves on, in bytes: enough small resources to be hashed side by side.
const STEP_BYTES: u64 = 4 * 1024 * 1024;

/// Where the readers of one file are. Streams are told by position, not by handle: several processes may share one.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Where a reader who goes on comes next.
    expected: u64,
    /// Up to where verification was started.
    until: u64,
    window: u64,
}

impl Ahead {
    /// Notes a read; gives the bytes to verify now, which lie within `most` bytes after it. Nothing when the read does
    /// not go on from others.
    pub(super) fn note(&mut self, read: &Range<u64>, size: u64, most: u64) -> Range<u64> {
        let goes_on = read.start <= self.expected.saturating_add(SLACK_BYTES)
            && read.end.saturating_add(SLACK_BYTES) >= self.expected;
        if !goes_on {
            *self = Self {
                expected: read.end,
                until: read.end,
                window: 0,
            };
            return 0..0;
        }
        self.expected = self.expected.max(read.end);
        self.window = (2 * self.window)
            .clamp(MIN_WINDOW_BYTES, MAX_WINDOW_BYTES)
            .min(most);
        let from = self.until.max(self.expected);
        let to = self.expected.saturating_add(self.window).min(size);
        if to.saturating_sub(from) < STEP_BYTES.min(self.window) && to < size {
            return 0..0;
        }
        self.until = to.max(from);
        from..self.until
    }

    /// Takes back what was given last, because there was no room for it.
    pub(super) fn put_off(&mut self, given: &Range<u64>) {
        self.until = self.until.min(given.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_reader_who_goes_on_is_met_ever_further_ahead_and_nothing_is_given_twice() {
        let mut ahead = Ahead::default();
        let size = 1000 * MIB;
        let mut given = 0;
        for at in 0..1000 {
            let next = ahead.note(&(at * MIB..(at + 1) * MIB), size, 64 * MIB);
            if !next.is_empty() {
                assert!(next.start >= given && next.end <= size);
                assert!(next.end <= (at + 1 + 64) * MIB);
                given = next.end;
            }
        }
        assert_eq!(given, size);
    }

    #[test]
    fn a_reader_who_jumps_is_not_followed_until_it_goes_on() {
        let mut ahead = Ahead::default();
        let size = 10_000 * MIB;
        for at in [5000, 100, 9000, 2000] {
            assert!(
                ahead
                    .note(&(at * MIB..at * MIB + 4096), size, 64 * MIB)
                    .is_empty(),
                "{at}"
            );
        }
        let next = ahead.note(&(2000 * MIB + 4096..2000 * MIB + 8192), size, 64 * MIB);
        assert_eq!(next, 2000 * MIB + 8192..2004 * MIB + 8192);
    }

    #[test]
    fn what_is_put_off_is_given_again() {
        let mut ahead = Ahead::default();
        let next = ahead.note(&(0..MIB), 100 * MIB, 64 * MIB);
        ahead.put_off(&next);
        assert_eq!(ahead.note(&(MIB..2 * MIB), 100 * MIB, 64 * MIB).end, 10 * MIB);
    }
}
