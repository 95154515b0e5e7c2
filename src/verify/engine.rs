//! The engine: runs jobs, verifies resources, answers reads.

mod keep;
mod onward;
mod passes;
mod reads;
mod sweep;

#[cfg(feature = "planted-faults")]
pub(super) use reads::Reader;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::chunk::KeyUnavailable;
use super::chunk::TagKey;
use super::chunk::VerifiedBytes;
use super::file::Demand;
use super::file::VerifiedFile;
use super::flight::Board;
use super::flight::Flight;
use super::insistence::Asker;
use super::insistence::Insistence;
use super::insistence::Insistent;
use super::memory::Claim;
use super::memory::Memory;
use super::pin::Offer;
use super::pin::Pin;
use super::preload::MIN_PRELOADED_BYTES;
use super::preload::PageCache;
use super::preload::Preload;
use super::refusal::Finding;
use super::refusal::ReadError;
use super::remembered::Remembered;
use super::workers::Haste;
use super::workers::Job;
use super::workers::Promise;
use super::workers::Run;
use super::workers::Runner;
use super::workers::Slot;
use super::workers::WATCH_INTERVAL;
use super::workers::Want;
use super::workers::Workers;
use crate::source::SourceError;
use crate::sys::MemoryGauge;

/// What an engine may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most threads that read and hash; threads stuck in the source do not count.
    pub threads: usize,
    /// Budget in bytes for what was read and waits for its readers; `None` takes a quarter of what the system, or the
    /// control group, has left at the start. When less than as much again is left, the budget shrinks.
    pub memory: Option<u64>,
    /// After how long in one call to the source its readers get an error.
    pub source_timeout: Duration,
    /// Longest file in bytes that is accepted. Where only the content is signed, whoever can write the source
    /// can claim any length, and each 128 KiB of it costs 16 bytes of memory and the time to hash it.
    pub max_file_bytes: u64,
    /// Whether what is verified will be read: else nothing is kept of it, and no read of it can succeed.
    pub keep_tags: bool,
    /// Which files the kernel reads by itself once they are verified.
    pub pin: Pin,
    /// How many threads hash side by side.
    pub cores: usize,
    /// What tells how much memory is left; opened at the start when absent, which a confined process cannot.
    pub gauge: Option<Arc<MemoryGauge>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 64,
            memory: None,
            source_timeout: Duration::from_secs(30),
            max_file_bytes: 1 << 40,
            keep_tags: true,
            pin: Pin::Off,
            cores: cores(),
            gauge: None,
        }
    }
}

/// How many refused resources are remembered for `status`; all are counted and logged.
const MAX_FINDINGS: usize = 100;

/// Reads, hashes and re-checks for all files of a mount.
pub struct Engine {
    options: Options,
    key: TagKey,
    /// Where tags outlive this engine.
    remembered: Option<Remembered>,
    pub(super) memory: Memory,
    workers: Workers,
    runner: Runner,
    board: Board,
    /// Flights that nobody fetches for because too much waits to be hashed.
    starved: Mutex<VecDeque<Arc<Flight>>>,
    sweeps: Mutex<sweep::Sweeps>,
    /// The files in the order in which loaders read them.
    order: OnceLock<onward::Order>,
    /// The place in that order of the file that was opened last.
    followed: AtomicUsize,
    offer: OnceLock<Option<Box<dyn Offer>>>,
    cache: OnceLock<Arc<dyn PageCache>>,
    gauge: Arc<MemoryGauge>,
    totals: Totals,
    findings: Mutex<Vec<Finding>>,
    insistence: Arc<Insistence>,
}

#[derive(Default)]
struct Totals {
    hashed_bytes: AtomicU64,
    verified_bytes: AtomicU64,
    verified_resources: AtomicU64,
    rejected_resources: AtomicU64,
    changed_reads: AtomicU64,
    source_errors: AtomicU64,
    served_bytes: AtomicU64,
    recalled_resources: AtomicU64,
    pinned_files: AtomicU64,
    pinned_bytes: AtomicU64,
}

/// What an engine did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that went through a signed hash function, whatever the outcome.
    pub hashed_bytes: u64,
    /// Bytes of resources that matched their signed digest.
    pub verified_bytes: u64,
    /// Resources that matched when an earlier mount verified them, and whose tags it left.
    pub recalled_resources: u64,
    /// Resources that matched.
    pub verified_resources: u64,
    /// Resources that did not match.
    pub rejected_resources: u64,
    /// Reads refused because a verified resource's source had changed.
    pub changed_reads: u64,
    /// Reads refused because the source could not be read.
    pub source_errors: u64,
    /// Bytes handed to readers.
    pub served_bytes: u64,
    /// Bytes held in memory now, those of pinned files among them.
    pub held_bytes: u64,
    /// How many may be held now.
    pub budget_bytes: u64,
    /// Files that are pinned.
    pub pinned_files: u64,
    /// Their bytes.
    pub pinned_bytes: u64,
}

impl Engine {
    /// Makes an engine; its threads come with the work.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn start(options: Options, remembered: Option<Remembered>) -> Result<Arc<Self>, KeyUnavailable> {
        let key = match &remembered {
            Some(remembered) => remembered.tag_key(),
            None => TagKey::generate()?,
        };
        let gauge = options
            .gauge
            .clone()
            .unwrap_or_else(|| Arc::new(MemoryGauge::open()));
        let memory = options.memory.unwrap_or_else(|| share_of(gauge.available()));
        let engine = Arc::new_cyclic(|engine: &Weak<Self>| Self {
            memory: Memory::new(memory),
            workers: Workers::new(options.threads),
            board: Board::new(options.cores),
            starved: Mutex::default(),
            sweeps: Mutex::default(),
            order: OnceLock::new(),
            // Nobody is followed yet.
            followed: AtomicUsize::new(usize::MAX),
            offer: OnceLock::new(),
            cache: OnceLock::new(),
            gauge: Arc::clone(&gauge),
            options,
            key,
            remembered,
            runner: Arc::new(Errand(Weak::clone(engine))),
            totals: Totals::default(),
            findings: Mutex::default(),
            insistence: Arc::default(),
        });
        let watched = Arc::downgrade(&engine);
        let watch = std::thread::Builder::new()
            .name("verify-watch".into())
            .spawn(move || {
                loop {
                    let busy = watched
                        .upgrade()
                        .is_some_and(|engine| engine.workers.has_threads());
                    std::thread::sleep(if busy { WATCH_INTERVAL } else { 5 * WATCH_INTERVAL });
                    let Some(engine) = watched.upgrade() else { break };
                    engine.insistence.answer();
                    if let Some(available) = gauge.available() {
                        engine
                            .memory
                            .set_limit(bearable(memory, engine.memory.spent(), available));
                    }
                    engine
                        .workers
                        .watch(engine.options.source_timeout, &engine.runner);
                    // Those whose turn went to flights that hang in the source.
                    engine.feed_starved(passes::MAX_BACKLOG);
                }
            });
        match watch {
            Ok(_) => engine.insistence.begin(),
            Err(e) => log::warn!(
                "no thread can be started to watch the source: {e}; a hanging source will hang its readers"
            ),
        }
        Ok(engine)
    }

    /// Opens a file and calls back when it is open. A file that one digest covers is verified first, so that
    /// its reader meets an error here and not later on a mapped page.
    pub fn open(&self, file: &Arc<VerifiedFile>, done: impl FnOnce(Result<(), ReadError>) + Send + 'static) {
        file.note_met(true);
        self.submit(file, Want::Open, move |result| done(result.map(drop)));
        if file.is_whole() {
            self.follow(file);
        }
    }

    /// Reads bytes of an open file and calls back with all of them up to the file's end, or with an error; late where
    /// the same bytes were refused to this asker again and again.
    pub fn read(
        &self,
        file: &Arc<VerifiedFile>,
        offset: u64,
        len: u64,
        asker: Asker,
        done: impl FnOnce(Result<VerifiedBytes, ReadError>) + Send + 'static,
    ) {
        let start = offset.min(file.size());
        let end = offset.saturating_add(len).min(file.size());
        // What lies at hand is given at once: no other thread, no waiting.
        if let Some(block) = self.memory.find(file.id(), start)
            && let Some(bytes) = VerifiedBytes::in_place(Arc::clone(&block), start..end)
        {
            self.count_served(start..end);
            done(Ok(bytes));
            self.memory.served(&block, end - start);
        } else {
            let insistence = Arc::clone(&self.insistence);
            let of = Arc::clone(file);
            self.submit(file, Want::Bytes(start..end), move |result| match result {
                Ok(bytes) => done(Ok(bytes)),
                Err(e) => insistence.refuse(&of, start..end, asker, e, done),
            });
        }
        self.go_on(file, &(start..end));
    }

    /// Says in which order loaders read the files, so that the next ones can be verified while one is read.
    pub(crate) fn expect(&self, order: Vec<Arc<VerifiedFile>>) {
        // Told once, when the tree is bound.
        let _ = self.order.set(onward::Order::new(order));
    }

    /// Ends what a successful [`Engine::open`] began.
    pub fn release(&self, file: &VerifiedFile) {
        if let Some(source) = file.release() {
            self.workers.close(source);
        }
    }

    /// Verifies resources of a file and calls back.
    pub(crate) fn verify(
        &self,
        file: &Arc<VerifiedFile>,
        resources: Range<usize>,
        haste: Haste,
        done: impl FnOnce(Result<(), ReadError>) + Send + 'static,
    ) {
        self.submit(file, Want::Resources(resources, haste), move |result| {
            done(result.map(drop))
        });
    }

    /// What it may use.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            hashed_bytes: read(&self.totals.hashed_bytes),
            verified_bytes: read(&self.totals.verified_bytes),
            recalled_resources: read(&self.totals.recalled_resources),
            verified_resources: read(&self.totals.verified_resources),
            rejected_resources: read(&self.totals.rejected_resources),
            changed_reads: read(&self.totals.changed_reads),
            source_errors: read(&self.totals.source_errors),
            served_bytes: read(&self.totals.served_bytes),
            held_bytes: self.memory.spent(),
            budget_bytes: self.memory.limit(),
            pinned_files: read(&self.totals.pinned_files),
            pinned_bytes: read(&self.totals.pinned_bytes),
        }
    }

    /// What chunks that are read again are held against, for people.
    pub fn tag_name(&self) -> &'static str {
        self.key.name()
    }

    /// The first resources that were refused.
    pub fn findings(&self) -> Vec<Finding> {
        self.findings.lock().clone()
    }

    /// Who asks for refused bytes again and again.
    pub fn insistent(&self) -> Vec<Insistent> {
        self.insistence.insistent()
    }

    fn submit(
        &self,
        file: &Arc<VerifiedFile>,
        want: Want,
        done: impl FnOnce(Result<VerifiedBytes, ReadError>) + Send + 'static,
    ) {
        let waits = !matches!(want, Want::Resources(_, Haste::None));
        let job = Job {
            file: Arc::clone(file),
            want,
            promise: Some(Promise::new(Box::new(done))),
            demand: waits.then(|| Demand::for_file(file)),
        };
        self.workers.submit(job, &self.runner);
    }

    fn run(&self, job: Job, slot: &Slot) {
        #[cfg(feature = "planted-faults")]
        super::planted_panic();
        let resources = match &job.want {
            Want::Ahead(_) => {
                if let Want::Ahead(ahead) = job.want {
                    self.run_ahead(&job.file, ahead);
                }
                return;
            }
            Want::Fetch(_) => {
                if let Want::Fetch(task) = job.want {
                    self.fetch(task, slot);
                }
                return;
            }
            Want::Open if self.begin_pin(&job.file) => job.file.all_resources(),
            Want::Open if !job.file.is_whole() => 0..0,
            Want::Open => 0..1,
            Want::Bytes(range) => job.file.resources_of(range),
            Want::Resources(range, _) => {
                // Whoever opens it later finds it filled.
                self.begin_pin(&job.file);
                range.clone()
            }
        };
        self.recall(&job.file);
        let Some(job) = self.ensure(job, resources) else {
            return;
        };
        let file = Arc::clone(&job.file);
        let result = match &job.want {
            Want::Resources(..) | Want::Fetch(_) | Want::Ahead(_) => Ok(VerifiedBytes::default()),
            Want::Bytes(range) => self.bytes(&file, range.clone(), slot),
            Want::Open => {
                self.end_pin(&file);
                let opened = slot.in_source(&self.workers, || file.acquire());
                let opened = opened
                    .map(|()| VerifiedBytes::default())
                    .map_err(|e| self.source_error(e));
                let delivered = opened.is_ok();
                if !job.answer(opened) && delivered {
                    // The open was answered with an error while the source hung: nobody will release it.
                    self.release(&file);
                }
                return;
            }
        };
        job.answer(result);
    }

    /// Brings resources to the verified state; `None` when the job is answered, or waits for a resource and will be
    /// run anew. A check goes on after a resource that differs, so that all of them are found; a reader does not.
    fn ensure(&self, mut job: Job, resources: Range<usize>) -> Option<Job> {
        let file = Arc::clone(&job.file);
        let check_all = matches!(job.want, Want::Resources(..));
        loop {
            let found = file.survey(resources.clone());
            let rejected = found.rejected && !(check_all && found.pending.is_some());
            if rejected {
                job.answer(Err(ReadError::Rejected {
                    path: file.path().clone(),
                }));
                return None;
            }
            let Some(pending) = found.pending else {
                return Some(job);
            };
            let claim = if job.demand.is_some() {
                Claim::Demand
            } else {
                Claim::Spare
            };
            let flights: Vec<_> = found
                .unverified
                .into_iter()
                .flat_map(|run| self.mark(&file, run, claim))
                .collect();
            let parked = file.park(pending, job);
            for flight in flights {
                self.start_flight(&flight);
            }
            match parked {
                Ok(()) => return None,
                Err(back) => job = back,
            }
        }
    }

    /// Where tags are remembered.
    pub fn remembers_in(&self) -> Option<&std::path::Path> {
        self.remembered.as_ref().map(Remembered::path)
    }

    /// Says who gives pinned files to the kernel. Where nobody can, the memory goes back that was filled in the hope of it.
    pub fn pin_through(&self, offer: Option<Box<dyn Offer>>) {
        // Told once, when the mount stands.
        let _ = self.offer.set(offer);
        if let (Some(None), Some(order)) = (self.offer.get(), self.order.get()) {
            for file in &order.files {
                self.give_up_pin(file);
            }
        }
    }

    /// Says what puts bytes into the kernel's page cache.
    pub fn preload_through(&self, cache: Arc<dyn PageCache>) {
        // Told once, when the mount stands.
        let _ = self.cache.set(cache);
    }

    /// The way into the page cache for a file whose first pass begins, if it is worth it: a file that the page cache
    /// would have dropped before its reader comes is read twice for nothing.
    fn preload(&self, file: &Arc<VerifiedFile>) -> Option<Preload> {
        let cache = self.cache.get().filter(|_| self.may_preload(file))?;
        Preload::begin(cache, file)
    }

    fn may_preload(&self, file: &VerifiedFile) -> bool {
        let bytes = file.size();
        let has_room = || {
            self.gauge
                .available()
                .is_none_or(|available| bytes <= available / 2)
        };
        self.cache.get().is_some()
            && self.options.keep_tags
            && self.memory.limit() > 0
            && file.is_whole()
            && file.is_met()
            && bytes >= MIN_PRELOADED_BYTES
            && !file.is_filled()
            && has_room()
    }

    fn source_error(&self, error: SourceError) -> ReadError {
        self.totals.source_errors.fetch_add(1, Ordering::Relaxed);
        log::warn!(event = "source-error"; "{error}; its reader gets an error");
        ReadError::Source(Arc::new(error))
    }

    #[cfg(feature = "planted-faults")]
    pub(super) fn tag_key(&self) -> &TagKey {
        &self.key
    }

    #[cfg(feature = "planted-faults")]
    pub(super) fn planted_buffer(&self, bytes: usize) -> Option<super::memory::Buffer> {
        self.memory.buffer(bytes, Claim::Owed).ok()?
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.workers.end();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.options)
            .field("counters", &self.counters())
            .finish()
    }
}

/// What the threads of an engine do for it.
struct Errand(Weak<Engine>);

impl Run for Errand {
    fn run(&self, job: Job, slot: &Slot) -> Option<()> {
        self.0.upgrade()?.run(job, slot);
        Some(())
    }

    fn help(&self) -> Option<()> {
        self.0.upgrade()?.help();
        Some(())
    }
}

/// The budget in bytes where none is given.
fn share_of(available: Option<u64>) -> u64 {
    available.map_or(MIN_MEMORY_BYTES, |bytes| (bytes / 4).max(MIN_MEMORY_BYTES))
}

/// As much of a budget as leaves the system as much again.
fn bearable(budget: u64, spent: u64, available: u64) -> u64 {
    budget.min(spent.saturating_add(available) / 2)
}

/// The budget in bytes where the system has nothing left, or does not tell.
const MIN_MEMORY_BYTES: u64 = 64 * 1024 * 1024;

/// How many threads may compute at a time.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
