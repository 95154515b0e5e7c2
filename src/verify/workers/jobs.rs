//! Jobs: what there is to do for a file, who hears of it, and how many of a file's jobs have a thread.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::verify::chunk::VerifiedBytes;
use crate::verify::file::Demand;
use crate::verify::file::VerifiedFile;
use crate::verify::flight::Flight;
use crate::verify::refusal::ReadError;

/// Most threads that work for one file at a time. More: one slow file takes more of the machine; fewer: one
/// file's shards verify less in parallel.
pub(super) const MAX_THREADS_PER_FILE: usize = 4;

/// How many of them may be at what nobody waits for.
const MAX_PATIENT_PER_FILE: usize = 2;

/// Who gets the result of a job.
pub(in crate::verify) type Done = Box<dyn FnOnce(Result<VerifiedBytes, ReadError>) + Send>;

/// A reply that is owed: given once, and given as an error when nobody can give it any more.
pub(in crate::verify) struct Promise(Mutex<Option<Done>>);

impl Promise {
    pub(in crate::verify) fn new(done: Done) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(done))))
    }

    /// Gives the result; `false` when one was given before.
    pub(in crate::verify) fn fulfil(&self, result: Result<VerifiedBytes, ReadError>) -> bool {
        let Some(done) = self.0.lock().take() else {
            return false;
        };
        done(result);
        true
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.fulfil(Err(ReadError::Abandoned));
    }
}

/// Something to do for a file.
pub(in crate::verify) struct Job {
    pub(in crate::verify) file: Arc<VerifiedFile>,
    pub(in crate::verify) want: Want,
    /// Who hears of it; fetching for a flight is nobody's.
    pub(in crate::verify) promise: Option<Arc<Promise>>,
    /// Held while a reader waits.
    pub(in crate::verify) demand: Option<Demand>,
}

impl Job {
    pub(in crate::verify) fn fetch(task: FetchTask) -> Self {
        Self {
            file: Arc::clone(&task.flight().file),
            want: Want::Fetch(task),
            promise: None,
            demand: None,
        }
    }

    /// Gives the result to whoever waits for it; `false` when it was given before, or nobody does.
    pub(in crate::verify) fn answer(self, result: Result<VerifiedBytes, ReadError>) -> bool {
        self.promise.is_some_and(|promise| promise.fulfil(result))
    }

    /// Whether somebody waits for it, or for something in the same file that may need it.
    pub(super) fn is_urgent(&self) -> bool {
        self.demand.is_some() || self.file.is_demanded()
    }
}

/// What a job is to do.
pub(in crate::verify) enum Want {
    /// Open the file; a file with one digest is verified first.
    Open,
    /// Read these bytes.
    Bytes(Range<u64>),
    /// Verify these resources.
    Resources(Range<usize>, Haste),
    /// Fetch blocks for a flight.
    Fetch(FetchTask),
    /// Verify what a reader will want next.
    Ahead(Ahead),
}

/// What a reader will want next.
pub(in crate::verify) enum Ahead {
    /// More of the same file.
    Resources(Range<usize>),
    /// The files after it.
    Files,
}

/// Whether somebody waits for a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Nobody: whoever reads comes first.
    None,
    /// Somebody does.
    Some,
}

/// A thread's duty to fetch for a flight, which counts it until this is dropped.
pub(in crate::verify) struct FetchTask(Arc<Flight>);

impl FetchTask {
    /// Takes up a duty that [`Flight::recruit`] has counted.
    pub(in crate::verify) fn new(flight: &Arc<Flight>) -> Self {
        Self(Arc::clone(flight))
    }

    pub(in crate::verify) fn flight(&self) -> &Arc<Flight> {
        &self.0
    }
}

impl Drop for FetchTask {
    fn drop(&mut self) {
        self.0.dismiss();
    }
}

/// Admission to the threads, one for each file.
#[derive(Default)]
pub(in crate::verify) struct Gate {
    running: usize,
    waiting: VecDeque<Job>,
    /// Jobs that nobody waits for.
    patient: VecDeque<Job>,
}

impl Gate {
    /// Lets a job in, or keeps it for later.
    pub(super) fn admit(&mut self, job: Job) -> Option<Job> {
        let (limit, queue) = match job.is_urgent() {
            true => (MAX_THREADS_PER_FILE, &mut self.waiting),
            false => (MAX_PATIENT_PER_FILE, &mut self.patient),
        };
        if self.running >= limit {
            queue.push_back(job);
            return None;
        }
        self.running += 1;
        Some(job)
    }

    /// The job that takes the place of one that has ended.
    pub(super) fn replace(&mut self) -> Option<Job> {
        self.running = self.running.saturating_sub(1);
        let next = match self.waiting.pop_front() {
            Some(job) => Some(job),
            None if self.running < MAX_PATIENT_PER_FILE => self.patient.pop_front(),
            None => None,
        };
        self.running += usize::from(next.is_some());
        next
    }

    /// Takes out the jobs that somebody hears of; and tells the resources that the others would fetch.
    pub(super) fn give_up(&mut self) -> (Vec<Job>, Vec<Range<usize>>) {
        let mut given_up = Vec::new();
        let mut unfetched = Vec::new();
        for queue in [&mut self.waiting, &mut self.patient] {
            for job in std::mem::take(queue) {
                if job.promise.is_some() {
                    given_up.push(job);
                    continue;
                }
                if let Want::Fetch(task) = &job.want {
                    unfetched.push(task.flight().resources.clone());
                }
                queue.push_back(job);
            }
        }
        (given_up, unfetched)
    }
}
