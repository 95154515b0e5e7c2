//! Threads that read and hash, apart from the ones that talk to the kernel.
//!
//! A job belongs to a file, and a file gets a few threads at most, so that a source which hangs or a file
//! which is huge never takes the threads that other files need. A thread that is stuck in the source does
//! not count against the limit: another one takes its place.

mod jobs;

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Condvar;
use parking_lot::Mutex;

pub(super) use jobs::Ahead;
pub(super) use jobs::Done;
pub(super) use jobs::FetchTask;
pub(super) use jobs::Gate;
pub use jobs::Haste;
pub(super) use jobs::Job;
pub(super) use jobs::Promise;
pub(super) use jobs::Want;

use super::file::VerifiedFile;
use super::refusal::ReadError;
use crate::source::SourceFile;

/// Most threads in all, stuck ones included. What hangs beyond that waits for its time-out.
const MAX_THREADS: usize = 1024;

/// After how long in one call to the source a thread counts as stuck: long for a disk, short for a reader who
/// waits for another file.
const STUCK: Duration = Duration::from_millis(100);

/// How often the watch looks for threads that are stuck.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// By how much the watch must have overslept for this process to have been frozen rather than busy.
const PAUSE_MILLISECONDS: u64 = 1000;

/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// Stack of a worker in bytes: nothing here recurses, and buffers are on the heap.
const STACK_BYTES: usize = 256 * 1024;

/// What a thread is doing, for the watch to see.
#[derive(Default)]
pub(super) struct Slot {
    /// Milliseconds since the workers' start, plus one, at which the call to the source began; 0 outside.
    in_source_since: AtomicU64,
    current: Mutex<Option<Current>>,
}

struct Current {
    file: Arc<VerifiedFile>,
    promise: Option<Arc<Promise>>,
    /// The resources whose readers wait for this thread.
    fetching: Range<usize>,
    reported: bool,
}

impl Slot {
    /// Says whose turn it is, for a thread that works for several files in turn.
    pub(super) fn works_for(&self, file: &Arc<VerifiedFile>, resource: usize) {
        if let Some(current) = self.current.lock().as_mut() {
            if !Arc::ptr_eq(&current.file, file) {
                current.file = Arc::clone(file);
                current.reported = false;
            }
            current.fetching = resource..resource + 1;
        }
    }

    /// Makes a call that may hang.
    pub(super) fn in_source<T>(&self, workers: &Workers, call: impl FnOnce() -> T) -> T {
        self.in_source_since.store(workers.0.now() + 1, Ordering::Relaxed);
        let result = call();
        self.in_source_since.store(0, Ordering::Relaxed);
        result
    }
}

/// The threads of one engine.
pub(super) struct Workers(Arc<Shared>);

struct Shared {
    start: Instant,
    limit: usize,
    queue: Mutex<Queue>,
    wake: Condvar,
    slots: Mutex<Vec<Arc<Slot>>>,
    stuck: AtomicUsize,
    /// When the watch looked last, in milliseconds since the start.
    watched: AtomicU64,
    closing: Mutex<Closing>,
}

/// Sources to close. That may wait for the file server that they lie on, as reading may, so one thread does it
/// and nobody waits; while it hangs, descriptors stay open.
#[derive(Default)]
struct Closing {
    files: Vec<SourceFile>,
    running: bool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Jobs that nobody waits for: done when there are no others.
    patient: VecDeque<Job>,
    threads: usize,
    /// Threads that were started and have not looked for a job yet.
    starting: usize,
    idle: usize,
    ended: bool,
}

impl Queue {
    fn len(&self) -> usize {
        self.jobs.len() + self.patient.len()
    }

    fn take(&mut self) -> VecDeque<Job> {
        let mut jobs = std::mem::take(&mut self.jobs);
        jobs.append(&mut self.patient);
        jobs
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What threads do on behalf of an engine; `None` when the engine is gone.
pub(super) trait Run: Send + Sync {
    /// Runs a job.
    fn run(&self, job: Job, slot: &Slot) -> Option<()>;

    /// Does what is left to do for any file, once the job's own file has its place back.
    fn help(&self) -> Option<()>;
}

pub(super) type Runner = Arc<dyn Run>;

impl Workers {
    /// Threads come into being with the work, up to `limit`.
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Shared {
            start: Instant::now(),
            limit: limit.clamp(1, MAX_THREADS),
            queue: Mutex::default(),
            wake: Condvar::new(),
            slots: Mutex::default(),
            stuck: AtomicUsize::new(0),
            watched: AtomicU64::new(0),
            closing: Mutex::default(),
        }))
    }

    /// Queues a job, or lets it wait for its file's other jobs.
    pub(super) fn submit(&self, job: Job, runner: &Runner) {
        let file = Arc::clone(&job.file);
        let admitted = file.gate.lock().admit(job);
        if let Some(job) = admitted {
            self.push(job, runner);
        }
    }

    /// Closes a source, unless others still read it.
    pub(super) fn close(&self, file: Arc<SourceFile>) {
        let Some(file) = Arc::into_inner(file) else { return };
        let mut closing = self.0.closing.lock();
        closing.files.push(file);
        if closing.running {
            return;
        }
        let shared = Arc::clone(&self.0);
        let close = move || {
            loop {
                let mut closing = shared.closing.lock();
                let files = std::mem::take(&mut closing.files);
                closing.running = !files.is_empty();
                drop(closing);
                if files.is_empty() {
                    break;
                }
                drop(files);
            }
        };
        let thread = std::thread::Builder::new()
            .name("verify-close".into())
            .stack_size(STACK_BYTES);
        // Without a thread they stay open until the next try.
        closing.running = thread.spawn(close).is_ok();
    }

    fn push(&self, job: Job, runner: &Runner) {
        let mut queue = self.0.queue.lock();
        match job.is_urgent() {
            true => queue.jobs.push_back(job),
            false => queue.patient.push_back(job),
        }
        self.0.wake.notify_one();
        let lost = self.spawn_as_needed(&mut queue, runner);
        drop(queue);
        fail(lost);
    }

    /// Starts threads while there is more to do than threads that wait for it. What nobody will ever do,
    /// because no thread can be started, is the caller's to fail once the queue is unlocked.
    #[must_use]
    fn spawn_as_needed(&self, queue: &mut Queue, runner: &Runner) -> VecDeque<Job> {
        // Two for each that is stuck: behind many files of a source that hangs, one for one would take as many
        // rounds of the watch as there are files.
        let limit = (self.0.limit + 2 * self.0.stuck.load(Ordering::Relaxed)).min(MAX_THREADS);
        while queue.len() > queue.idle + queue.starting && queue.threads < limit {
            let shared = Arc::clone(&self.0);
            let runner = Arc::clone(runner);
            let spawned = std::thread::Builder::new()
                .name(format!("verify-{}", queue.threads))
                .stack_size(STACK_BYTES)
                .spawn(move || Workers(shared).work(&runner));
            match spawned {
                Ok(_) => {
                    queue.threads += 1;
                    queue.starting += 1;
                }
                Err(e) if queue.threads == 0 => {
                    log::error!("no thread can be started to read the model: {e}");
                    return queue.take();
                }
                // A thread that ends its own job takes the next.
                Err(e) => {
                    log::warn!("no further thread can be started: {e}");
                    break;
                }
            }
        }
        VecDeque::new()
    }

    fn work(self, runner: &Runner) {
        let slot = Arc::new(Slot::default());
        self.0.slots.lock().push(Arc::clone(&slot));
        self.0.queue.lock().starting -= 1;
        while let Some(job) = self.next() {
            if !self.run(job, &slot, runner) {
                break;
            }
        }
        self.0.slots.lock().retain(|other| !Arc::ptr_eq(other, &slot));
        self.0.queue.lock().threads -= 1;
    }

    /// Runs one job; `false` when the engine is gone.
    fn run(&self, job: Job, slot: &Slot, runner: &Runner) -> bool {
        let file = Arc::clone(&job.file);
        *slot.current.lock() = Some(Current {
            file: Arc::clone(&file),
            promise: job.promise.clone(),
            fetching: match &job.want {
                Want::Fetch(task) => task.flight().resources.clone(),
                _ => 0..0,
            },
            reported: false,
        });
        let ran = catch_unwind(AssertUnwindSafe(|| runner.run(job, slot)));
        slot.in_source_since.store(0, Ordering::Relaxed);
        // Dropped after the lock: it may hold the last word to a reader.
        let done = slot.current.lock().take();
        drop(done);
        let next = leave(&file);
        if let Some(next) = next {
            self.push(next, runner);
        }
        if ran.is_err() {
            log::error!("a read of {} panicked; this is a bug of modelfs", file.path());
        }
        let helped = catch_unwind(AssertUnwindSafe(|| runner.help()));
        if helped.is_err() {
            log::error!("a hash panicked; this is a bug of modelfs");
        }
        !matches!((ran, helped), (Ok(None), _) | (_, Ok(None)))
    }

    /// The next job; `None` after a while without one.
    fn next(&self) -> Option<Job> {
        let mut queue = self.0.queue.lock();
        let until = Instant::now() + IDLE;
        loop {
            if queue.ended {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if let Some(job) = queue.patient.pop_front() {
                return Some(job);
            }
            queue.idle += 1;
            let waited = self.0.wake.wait_until(&mut queue, until);
            queue.idle -= 1;
            if waited.timed_out() && queue.len() == 0 {
                return None;
            }
        }
    }

    /// Looks after threads that are stuck in the source: starts others in their place, and fails what waits
    /// for longer than `patience`.
    pub(super) fn watch(&self, patience: Duration, runner: &Runner) {
        let now = self.0.now();
        let slots = self.0.slots.lock().clone();
        self.forgive_a_pause(now, &slots);
        let stuck_for = |slot: &Slot| match slot.in_source_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis((now + 1).saturating_sub(since)),
        };
        let stuck = slots.iter().filter(|slot| stuck_for(slot) > STUCK).count();
        self.0.stuck.store(stuck, Ordering::Relaxed);
        let mut queue = self.0.queue.lock();
        let mut lost = self.spawn_as_needed(&mut queue, runner);
        if stuck >= MAX_THREADS && slots.iter().all(|slot| stuck_for(slot) > patience) {
            // As many threads as there may be wait for sources that do not answer.
            lost.append(&mut queue.take());
        }
        drop(queue);
        fail(lost);
        for slot in slots.iter().filter(|slot| stuck_for(slot) > patience) {
            let (file, promise, mut late): (_, _, Vec<Job>) = {
                let mut current = slot.current.lock();
                let Some(current) = current.as_mut() else { continue };
                if !std::mem::replace(&mut current.reported, true) {
                    log::warn!(
                        event = "source-silent", path = current.file.path().as_str();
                        "{}: the source does not answer; its readers get an error",
                        current.file.path()
                    );
                }
                let fetching = current.fetching.clone();
                let late = fetching.flat_map(|index| current.file.give_up(index)).collect();
                (Arc::clone(&current.file), current.promise.clone(), late)
            };
            let (mut queued, unfetched) = file.gate.lock().give_up();
            late.append(&mut queued);
            // Nobody fetches these while threads that are stuck have all of the file's places.
            late.extend(
                unfetched
                    .into_iter()
                    .flatten()
                    .flat_map(|index| file.give_up(index)),
            );
            let error = || {
                Err(ReadError::TimedOut {
                    path: file.path().clone(),
                })
            };
            if let Some(promise) = promise {
                promise.fulfil(error());
            }
            for job in late {
                job.answer(error());
            }
        }
    }

    /// Whether there is anything to watch.
    pub(super) fn has_threads(&self) -> bool {
        self.0.queue.lock().threads > 0
    }

    /// When this process was frozen (a paused container, a suspended machine), the time it slept is not the
    /// source's fault.
    fn forgive_a_pause(&self, now: u64, slots: &[Arc<Slot>]) {
        let interval = u64::try_from(WATCH_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let last = self.0.watched.swap(now, Ordering::Relaxed);
        let overslept = now.saturating_sub(last).saturating_sub(interval);
        if overslept < PAUSE_MILLISECONDS {
            return;
        }
        for slot in slots {
            let since = &slot.in_source_since;
            // A thread that leaves the source meanwhile has written a 0, which stays.
            let _ = since.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |since| match since {
                0 => None,
                since => Some(since.saturating_add(overslept)),
            });
        }
    }

    /// Lets the threads go as soon as they are free.
    pub(super) fn end(&self) {
        self.0.queue.lock().ended = true;
        self.0.wake.notify_all();
    }
}

/// Ends a job's stay in its file's gate; the file's next job takes its place.
fn leave(file: &VerifiedFile) -> Option<Job> {
    file.gate.lock().replace()
}

/// Fails jobs that nobody will run, and those that wait for them.
fn fail(jobs: VecDeque<Job>) {
    for job in jobs {
        let mut lost = Some(job);
        while let Some(job) = lost {
            let file = Arc::clone(&job.file);
            job.answer(Err(ReadError::Abandoned));
            lost = leave(&file);
        }
    }
}

#[cfg(test)]
mod tests;
