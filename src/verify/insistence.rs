//! Readers that ask for the same refused bytes again and again.
//!
//! mmap(2) with `MAP_POPULATE` does so (seen on Linux 6.18): the kernel asks for a page that fails until it comes, as fast as it
//! hears, and its process hangs without a word. Such a reader is named, so that somebody ends it, and hears late, so that it
//! takes no processor. What it hears never changes. Others hear at once: a late answer waits in a list, on no thread and in no
//! place at a file's gate, and the kernel keeps locked only pages that were refused.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

use super::chunk::VerifiedBytes;
use super::file::VerifiedFile;
use super::refusal::ReadError;
use super::workers::Done;
use crate::path::ModelPath;

/// How often one thread may be refused the same bytes before it is called insistent: far more often than a program tries that
/// looks at what it hears, and 10 ms of a kernel that does not. More: it takes a processor for longer; fewer: a
/// patient program is taken for one that hangs.
const MANY: u64 = 300;

/// How long somebody must not ask to begin anew. Longer than a late answer takes, also on a busy machine; shorter than a
/// program pauses that tries now and then, and than an operator needs to look a second time.
const QUIET: Duration = Duration::from_secs(5);

/// How many readers are counted at a time. Those who asked least give way, so that somebody who tries each page
/// of a damaged file once drives out nobody who insists.
const MAX_COUNTED: usize = 64;

/// The thread that asks for bytes, by its number in the PID namespace of the process that mounted. The kernel gives 0 for one
/// that cannot be seen from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker(pub u32);

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => write!(f, "a process of another PID namespace"),
            // kill(2) takes the number of any thread for that of its process.
            thread => write!(f, "thread {thread} (kill -KILL {thread})"),
        }
    }
}

/// Somebody who asks for the same refused bytes again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insistent {
    /// The file.
    pub path: ModelPath,
    /// The bytes.
    pub range: Range<u64>,
    /// Who.
    pub asker: Asker,
    /// How often.
    pub times: u64,
}

impl fmt::Display for Insistent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.range;
        write!(
            f,
            "{} [{start}..{end}): refused {} times to {}",
            self.path, self.times, self.asker
        )
    }
}

/// Counts refusals, and holds back those that nobody heeds.
#[derive(Default)]
pub(super) struct Insistence {
    counted: Mutex<Vec<Counted>>,
    late: Mutex<Vec<(Done, ReadError)>>,
    /// Whether somebody gives the late answers.
    may_hold: AtomicBool,
}

struct Counted {
    file: u32,
    asked: Insistent,
    last: Instant,
}

impl Counted {
    fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > QUIET
    }
}

impl Insistence {
    /// Lets answers be late: from now on somebody calls [`Insistence::answer`] time and again.
    pub(super) fn begin(&self) {
        self.may_hold.store(true, Ordering::Relaxed);
    }

    /// Gives a refusal to whoever asked, at once or late.
    pub(super) fn refuse(
        &self,
        file: &Arc<VerifiedFile>,
        range: Range<u64>,
        asker: Asker,
        error: ReadError,
        done: impl FnOnce(Result<VerifiedBytes, ReadError>) + Send + 'static,
    ) {
        let times = self.count(file, range.clone(), asker, Instant::now());
        if times == MANY {
            let path = file.path().clone();
            let asked = Insistent {
                path,
                range,
                asker,
                times,
            };
            log::error!(
                event = "asked-again", path = file.path().as_str();
                "{asked}, as to mmap with MAP_POPULATE, which asks for ever; end that process, and mount with \
                 `--verify eager`, or run `modelfs verify` first, to meet what differs before a loader does"
            );
        }
        if times >= MANY && self.may_hold.load(Ordering::Relaxed) {
            self.late.lock().push((Box::new(done), error));
        } else {
            done(Err(error));
        }
    }

    /// Gives the answers that are late.
    pub(super) fn answer(&self) {
        let late = std::mem::take(&mut *self.late.lock());
        for (done, error) in late {
            done(Err(error));
        }
    }

    /// Who insists now.
    pub(super) fn insistent(&self) -> Vec<Insistent> {
        let now = Instant::now();
        let counted = self.counted.lock();
        let insists = |counted: &&Counted| counted.asked.times >= MANY && !counted.is_quiet(now);
        counted
            .iter()
            .filter(insists)
            .map(|counted| counted.asked.clone())
            .collect()
    }

    /// Counts one refusal; how many there were.
    fn count(&self, file: &VerifiedFile, range: Range<u64>, asker: Asker, now: Instant) -> u64 {
        let mut counted = self.counted.lock();
        let same = |other: &&mut Counted| {
            other.file == file.id() && other.asked.range == range && other.asked.asker == asker
        };
        if let Some(known) = counted.iter_mut().find(same) {
            let before = if known.is_quiet(now) { 0 } else { known.asked.times };
            known.asked.times = before + 1;
            known.last = now;
            return known.asked.times;
        }
        let path = file.path().clone();
        let new = Counted {
            file: file.id(),
            asked: Insistent {
                path,
                range,
                asker,
                times: 1,
            },
            last: now,
        };
        if counted.len() < MAX_COUNTED {
            counted.push(new);
            return 1;
        }
        let worth = |counted: &&mut Counted| match counted.is_quiet(now) {
            true => (0, counted.last),
            false => (counted.asked.times, counted.last),
        };
        if let Some(least) = counted.iter_mut().min_by_key(worth) {
            *least = new;
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::digest::Algorithm;
    use crate::testing::Method;
    use crate::testing::SignedModel;
    use crate::verify::tests::bind;

    const PAGE: Range<u64> = 4096..8192;

    fn model() -> SignedModel {
        SignedModel::new(&[("w", vec![0; 9000])], Algorithm::Blake3, Method::Shards(4096))
    }

    #[test]
    fn who_asks_many_times_hears_late_and_nobody_else_does() {
        let model = model();
        let bound = bind(&model, 0);
        let file = bound.files.first().unwrap();
        let insistence = Insistence::default();
        insistence.begin();
        let heard = Arc::new(AtomicU64::new(0));
        let refuse = |range: Range<u64>, asker: u32| {
            let hears = Arc::clone(&heard);
            let error = ReadError::Rejected {
                path: file.path().clone(),
            };
            insistence.refuse(file, range, Asker(asker), error, move |result| {
                assert!(matches!(result, Err(ReadError::Rejected { .. })));
                hears.fetch_add(1, Ordering::Relaxed);
            });
            heard.swap(0, Ordering::Relaxed)
        };
        for _ in 1..MANY {
            assert_eq!(refuse(PAGE, 7), 1);
        }
        assert_eq!(insistence.insistent(), []);
        assert_eq!(refuse(PAGE, 7), 0);
        assert_eq!((refuse(PAGE, 8), refuse(0..4096, 7)), (1, 1));
        let want = Insistent {
            path: file.path().clone(),
            range: PAGE,
            asker: Asker(7),
            times: MANY,
        };
        assert_eq!(insistence.insistent(), [want]);
        insistence.answer();
        assert_eq!(heard.swap(0, Ordering::Relaxed), 1);
        assert_eq!(refuse(PAGE, 7), 0);
        insistence.answer();
        insistence.answer();
        assert_eq!(heard.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn who_insists_is_named_by_a_number_only_where_there_is_one() {
        let model = model();
        let bound = bind(&model, 0);
        let line = |asker| {
            let path = bound.files.first().unwrap().path().clone();
            let range = PAGE;
            let asker = Asker(asker);
            Insistent {
                path,
                range,
                asker,
                times: 300,
            }
            .to_string()
        };
        assert_eq!(
            line(7),
            "w [4096..8192): refused 300 times to thread 7 (kill -KILL 7)"
        );
        assert_eq!(
            line(0),
            "w [4096..8192): refused 300 times to a process of another PID namespace"
        );
    }

    #[test]
    fn nothing_is_late_where_nobody_would_answer() {
        let model = model();
        let bound = bind(&model, 0);
        let file = bound.files.first().unwrap();
        let insistence = Insistence::default();
        let heard = Arc::new(AtomicU64::new(0));
        for _ in 0..2 * MANY {
            let heard = Arc::clone(&heard);
            insistence.refuse(file, PAGE, Asker(0), ReadError::Abandoned, move |_| {
                heard.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(heard.load(Ordering::Relaxed), 2 * MANY);
    }

    #[test]
    fn after_a_pause_counting_begins_anew() {
        let model = model();
        let bound = bind(&model, 0);
        let file = bound.files.first().unwrap();
        let insistence = Insistence::default();
        let mut now = Instant::now();
        for times in 1..=10 {
            assert_eq!(insistence.count(file, PAGE, Asker(7), now), times);
            now += QUIET;
        }
        now += Duration::from_millis(1);
        assert_eq!(insistence.count(file, PAGE, Asker(7), now), 1);
    }

    #[test]
    fn who_tries_everything_once_drives_out_nobody_who_insists() {
        let model = model();
        let bound = bind(&model, 0);
        let file = bound.files.first().unwrap();
        let insistence = Insistence::default();
        let now = Instant::now();
        for times in 1..=MANY {
            assert_eq!(insistence.count(file, PAGE, Asker(7), now), times);
            let others = if times == 1 {
                MAX_COUNTED / 2
            } else {
                2 * MAX_COUNTED
            };
            for other in 0..others {
                let start = u64::try_from(other).unwrap() * 4096;
                assert_eq!(
                    insistence.count(file, start..start + times, Asker(8), now),
                    1,
                    "{other}"
                );
            }
        }
        assert_eq!(insistence.counted.lock().len(), MAX_COUNTED);
    }
}
