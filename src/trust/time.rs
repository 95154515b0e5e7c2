//! Moments, as an argument: nothing in [`crate::trust`] reads a clock.

use std::fmt;

/// Seconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub i64);

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        // The civil calendar repeats after 400 years of 146097 days; counting from 1 March puts the leap
        // day last, so that a month's first day is linear in its number.
        let day = days.saturating_add(719_468);
        let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let date = day - (153 * month + 2) / 5 + 1;
        let (month, carry) = match month {
            0..=9 => (month + 3, 0),
            _ => (month - 9, 1),
        };
        let year = year + era * 400 + carry;
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

/// When a signature is known to have existed, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SigningTime {
    proofs: Vec<TimeProof>,
}

impl SigningTime {
    pub(super) fn proven_by(proofs: Vec<TimeProof>) -> Self {
        Self { proofs }
    }

    /// The proofs; none, when all there is would be the signer's own word.
    pub fn proofs(&self) -> &[TimeProof] {
        &self.proofs
    }
}

impl fmt::Display for SigningTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.proofs.is_empty() {
            return f.write_str("an unproven time");
        }
        for (i, proof) in self.proofs.iter().enumerate() {
            write!(f, "{}{proof}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// One proof of the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeProof {
    /// When the signature existed at the latest.
    pub at: UnixTime,
    /// Who says so, in their signature.
    pub witness: Witness,
}

impl fmt::Display for TimeProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (says {})", self.at, self.witness)
    }
}

/// Who attests a time. Names are safe to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Witness {
    /// A transparency log of the trusted root.
    Log {
        /// Its address, as the trusted root names it.
        name: String,
        /// The index of the entry.
        index: u64,
    },
    /// A time-stamping authority (RFC 3161).
    Timestamp {
        /// Its name: the certificate's subject, or "an authority of the trusted root".
        name: String,
    },
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log { name, index } => write!(f, "the log \"{name}\", entry {index}"),
            Self::Timestamp { name } => write!(f, "the time-stamping authority \"{name}\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected texts are what `date -u --date=@N +%FT%TZ` printed.
    #[test]
    fn moments_are_written_as_dates() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_577_923_200, "2020-01-02T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(UnixTime(seconds).to_string(), want);
        }
        for edge in [i64::MIN, i64::MAX] {
            assert!(!UnixTime(edge).to_string().is_empty());
        }
    }
}
