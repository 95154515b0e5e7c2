//! The engine: runs jobs, verifies resources, answers reads.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::chunk::CHUNK_BYTES;
use super::chunk::FirstPass;
use super::chunk::KeyUnavailable;
use super::chunk::TagKey;
use super::chunk::UntrustedChunk;
use super::chunk::VerifiedBytes;
use super::chunk::VerifiedChunk;
use super::file::Entered;
use super::file::Finding;
use super::file::ReadError;
use super::file::ResourceState;
use super::file::SourceReader;
use super::file::VerifiedFile;
use super::held::Held;
use super::held::Reservation;
use super::workers::Job;
use super::workers::Promise;
use super::workers::Runner;
use super::workers::Slot;
use super::workers::WATCH_INTERVAL;
use super::workers::Want;
use super::workers::Workers;
use crate::source::SourceError;

/// What an engine may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most threads that read and hash; threads stuck in the source do not count.
    pub threads: usize,
    /// Budget in bytes for verified chunks that are held in memory.
    pub memory: u64,
    /// After how long in one call to the source its readers get an error.
    pub source_timeout: Duration,
    /// Longest file in bytes that is accepted. Where only the content is signed, whoever can write the source
    /// can claim any length, and each 128 KiB of it costs 16 bytes of memory and the time to hash it.
    pub max_file_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 64,
            memory: 64 * 1024 * 1024,
            source_timeout: Duration::from_secs(30),
            max_file_bytes: 1 << 40,
        }
    }
}

/// How many refused resources are remembered for `status`; all are counted and logged.
const MAX_FINDINGS: usize = 100;

/// Reads, hashes and re-checks for all files of a mount.
pub struct Engine {
    options: Options,
    key: TagKey,
    held: Held,
    workers: Workers,
    runner: Runner,
    totals: Totals,
    findings: Mutex<Vec<Finding>>,
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
}

/// What an engine did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that went through a signed hash function, whatever the outcome.
    pub hashed_bytes: u64,
    /// Bytes of resources that matched their signed digest.
    pub verified_bytes: u64,
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
    /// Bytes of verified chunks held in memory now.
    pub held_bytes: u64,
}

impl Engine {
    /// Makes an engine; its threads come with the work.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn start(options: Options) -> Result<Arc<Self>, KeyUnavailable> {
        let key = TagKey::generate()?;
        let engine = Arc::new_cyclic(|engine: &Weak<Self>| {
            let weak = Weak::clone(engine);
            let runner: Runner = Arc::new(move |job, slot| {
                weak.upgrade()?.run(job, slot);
                Some(())
            });
            Self {
                held: Held::new(options.memory),
                workers: Workers::new(options.threads),
                options,
                key,
                runner,
                totals: Totals::default(),
                findings: Mutex::default(),
            }
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
                    engine
                        .workers
                        .watch(engine.options.source_timeout, &engine.runner);
                }
            });
        if let Err(e) = watch {
            log::warn!(
                "no thread can be started to watch the source: {e}; a hanging source will hang its readers"
            );
        }
        Ok(engine)
    }

    /// Opens a file and calls back when it is open. A file that one digest covers is verified first, so that
    /// its reader meets an error here and not later on a mapped page.
    pub fn open(&self, file: &Arc<VerifiedFile>, done: impl FnOnce(Result<(), ReadError>) + Send + 'static) {
        self.submit(file, Want::Open, move |result| done(result.map(drop)));
    }

    /// Reads bytes of an open file and calls back with all of them up to the file's end, or with an error.
    pub fn read(
        &self,
        file: &Arc<VerifiedFile>,
        offset: u64,
        len: u64,
        done: impl FnOnce(Result<VerifiedBytes, ReadError>) + Send + 'static,
    ) {
        let start = offset.min(file.size());
        let end = offset.saturating_add(len).min(file.size());
        self.submit(file, Want::Bytes(start..end), done);
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
        done: impl FnOnce(Result<(), ReadError>) + Send + 'static,
    ) {
        self.submit(file, Want::Resources(resources), move |result| {
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
            verified_resources: read(&self.totals.verified_resources),
            rejected_resources: read(&self.totals.rejected_resources),
            changed_reads: read(&self.totals.changed_reads),
            source_errors: read(&self.totals.source_errors),
            served_bytes: read(&self.totals.served_bytes),
            held_bytes: self.held.bytes(),
        }
    }

    /// The first resources that were refused.
    pub fn findings(&self) -> Vec<Finding> {
        self.findings.lock().clone()
    }

    fn submit(
        &self,
        file: &Arc<VerifiedFile>,
        want: Want,
        done: impl FnOnce(Result<VerifiedBytes, ReadError>) + Send + 'static,
    ) {
        let job = Job {
            file: Arc::clone(file),
            want,
            promise: Promise::new(Box::new(done)),
        };
        self.workers.submit(job, &self.runner);
    }

    fn run(&self, job: Job, slot: &Slot) {
        #[cfg(feature = "planted-faults")]
        super::planted_panic();
        let file = Arc::clone(&job.file);
        let resources = match &job.want {
            Want::Open if !file.is_whole() => 0..0,
            Want::Open => 0..1,
            Want::Bytes(range) => file.resources_of(range),
            Want::Resources(range) => range.clone(),
        };
        let Some(job) = self.ensure(job, resources, slot) else {
            return;
        };
        let result = match job.want {
            Want::Resources(_) => Ok(VerifiedBytes::default()),
            Want::Bytes(range) => self.bytes(&file, range, slot),
            Want::Open => {
                let opened = slot.in_source(&self.workers, || file.acquire());
                let opened = opened
                    .map(|()| VerifiedBytes::default())
                    .map_err(|e| self.source_error(e));
                let delivered = opened.is_ok();
                if !job.promise.fulfil(opened) && delivered {
                    // The open was answered with an error while the source hung: nobody will release it.
                    self.release(&file);
                }
                return;
            }
        };
        job.promise.fulfil(result);
    }

    /// Brings resources to the verified state; `None` when the job is answered or waits elsewhere. A check
    /// goes on after a resource that differs, so that all of them are found; a reader does not.
    fn ensure(&self, mut job: Job, resources: Range<usize>, slot: &Slot) -> Option<Job> {
        let file = Arc::clone(&job.file);
        let check_all = matches!(job.want, Want::Resources(_));
        let mut rejected = None;
        for index in resources {
            let error = match file.enter(index, job) {
                Entered::Parked => return None,
                Entered::Ready(entered) => {
                    job = entered;
                    continue;
                }
                Entered::Rejected(entered) => {
                    job = entered;
                    ReadError::Rejected {
                        path: file.path().clone(),
                    }
                }
                Entered::Verify(entered) => {
                    job = entered;
                    match self.first_pass(&file, index, slot) {
                        Ok(()) => continue,
                        Err(e) => e,
                    }
                }
            };
            if check_all && matches!(error, ReadError::Rejected { .. }) {
                rejected = Some(error);
                continue;
            }
            job.promise.fulfil(Err(error));
            return None;
        }
        if let Some(error) = rejected {
            job.promise.fulfil(Err(error));
            return None;
        }
        Some(job)
    }

    /// Verifies one resource and tells those who wait.
    fn first_pass(&self, file: &Arc<VerifiedFile>, index: usize, slot: &Slot) -> Result<(), ReadError> {
        let mut flight = Flight {
            engine: self,
            file,
            index,
            landed: false,
        };
        slot.set_verifying(Some(index));
        let outcome = self.hash_resource(file, index, slot);
        slot.set_verifying(None);
        match outcome {
            Ok(Pass::Matched { state, kept, bytes }) => {
                self.totals.verified_bytes.fetch_add(bytes, Ordering::Relaxed);
                self.totals.verified_resources.fetch_add(1, Ordering::Relaxed);
                for (chunk, room) in kept {
                    drop(room);
                    self.held.insert(chunk);
                }
                for job in flight.land(state) {
                    self.workers.submit(job, &self.runner);
                }
                Ok(())
            }
            Ok(Pass::Differs(finding)) => {
                log::error!("{finding}; it is refused until the model is mounted anew");
                self.totals.rejected_resources.fetch_add(1, Ordering::Relaxed);
                let mut findings = self.findings.lock();
                if findings.len() < MAX_FINDINGS {
                    findings.push(*finding);
                }
                drop(findings);
                let error = ReadError::Rejected {
                    path: file.path().clone(),
                };
                for job in flight.land(ResourceState::Rejected) {
                    job.promise.fulfil(Err(error.clone()));
                }
                Err(error)
            }
            Err(e) => {
                let error = self.source_error(e);
                for job in flight.land(ResourceState::Unverified) {
                    job.promise.fulfil(Err(error.clone()));
                }
                Err(error)
            }
        }
    }

    fn hash_resource(
        &self,
        file: &Arc<VerifiedFile>,
        index: usize,
        slot: &Slot,
    ) -> Result<Pass, SourceError> {
        let (Some(range), Some(signed)) = (file.range(index), file.digest(index)) else {
            // `enter` refuses an index without a resource.
            return Err(SourceError::at(
                file.path(),
                std::io::ErrorKind::InvalidInput.into(),
            ));
        };
        let finding = |found| {
            Pass::Differs(Box::new(Finding {
                path: file.path().clone(),
                range: range.clone(),
                signed,
                found,
            }))
        };
        let mut reader = self.reader(file, slot)?;
        let mut pass = FirstPass::new(&self.key, &signed);
        let mut spare = None;
        for (_, id, bytes) in file.chunks(index, range.clone()) {
            let mut buffer = spare.take().unwrap_or_else(|| self.held.buffer());
            buffer.resize(length(&bytes), 0);
            let read = reader.read_at(&mut buffer, bytes.start)?;
            if read < buffer.len() {
                return Ok(finding(None));
            }
            self.totals
                .hashed_bytes
                .fetch_add(bytes.end - bytes.start, Ordering::Relaxed);
            let room = self.held.reserve();
            spare = pass.take(UntrustedChunk::new(id, buffer), room);
        }
        Ok(match pass.finish(&signed) {
            Ok((tags, kept)) => Pass::Matched {
                state: ResourceState::Verified(tags),
                kept,
                bytes: range.end - range.start,
            },
            Err(found) => finding(Some(found)),
        })
    }

    /// Collects bytes of verified resources, each chunk from memory or checked against its tag right here.
    fn bytes(
        &self,
        file: &Arc<VerifiedFile>,
        range: Range<u64>,
        slot: &Slot,
    ) -> Result<VerifiedBytes, ReadError> {
        let mut reply = VerifiedBytes::with_capacity(length(&range));
        let mut reader = None;
        for index in file.resources_of(&range) {
            for (chunk, id, bytes) in file.chunks(index, range.clone()) {
                let want = range.start.max(bytes.start)..range.end.min(bytes.end);
                let inside = length(&(bytes.start..want.start))..length(&(bytes.start..want.end));
                let whole = want == bytes;
                let held = if whole {
                    self.held.take(id)
                } else {
                    self.held.get(id)
                };
                if let Some(held) = held {
                    let appended = reply.append(&held, inside.clone());
                    self.held.give_back(held);
                    if appended {
                        continue;
                    }
                }
                let Some(tag) = file.tag(index, chunk) else {
                    return Err(ReadError::Abandoned);
                };
                let reader = match &mut reader {
                    Some(reader) => reader,
                    None => reader.insert(self.reader(file, slot).map_err(|e| self.source_error(e))?),
                };
                #[cfg(feature = "planted-faults")]
                match super::faults::read(self, file, reader, (id, tag), &bytes, inside.clone(), &mut reply) {
                    Some(super::faults::Outcome::Served) => continue,
                    Some(super::faults::Outcome::Short) => return Ok(reply),
                    None => {}
                }
                let mut read = |room: &mut [u8]| {
                    let read = reader.read_at(room, bytes.start);
                    read.map_err(|e| self.source_error(e))
                };
                let matched = if whole {
                    reply.append_read(&self.key, id, tag, length(&bytes), read)?
                } else {
                    let mut buffer = vec![0; length(&bytes)];
                    let complete = read(&mut buffer)? == buffer.len();
                    let chunk = UntrustedChunk::new(id, buffer)
                        .verify(&self.key, tag)
                        .filter(|_| complete);
                    match chunk {
                        Some(chunk) => {
                            let appended = reply.append(&chunk, inside);
                            self.held.insert(chunk);
                            appended
                        }
                        None => false,
                    }
                };
                if !matched {
                    return Err(self.changed(file, index, bytes));
                }
            }
        }
        self.totals
            .served_bytes
            .fetch_add(range.end - range.start, Ordering::Relaxed);
        Ok(reply)
    }

    fn reader<'a>(&'a self, file: &'a VerifiedFile, slot: &'a Slot) -> Result<Reader<'a>, SourceError> {
        let reader = slot.in_source(&self.workers, || file.reader())?;
        Ok(Reader {
            engine: self,
            slot,
            reader: Some(reader),
        })
    }

    fn changed(&self, file: &VerifiedFile, index: usize, range: Range<u64>) -> ReadError {
        self.totals.changed_reads.fetch_add(1, Ordering::Relaxed);
        let error = ReadError::Changed {
            path: file.path().clone(),
            range,
        };
        if file.note_change(index) {
            log::error!("{error}; reads of it are refused while that lasts");
        }
        error
    }

    fn source_error(&self, error: SourceError) -> ReadError {
        self.totals.source_errors.fetch_add(1, Ordering::Relaxed);
        log::warn!("{error}; its reader gets an error");
        ReadError::Source(Arc::new(error))
    }

    #[cfg(feature = "planted-faults")]
    pub(super) fn tag_key(&self) -> &TagKey {
        &self.key
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

/// Reads the source on behalf of one job: whatever may hang is seen by the watch, closing included.
pub(super) struct Reader<'a> {
    engine: &'a Engine,
    slot: &'a Slot,
    reader: Option<SourceReader<'a>>,
}

impl Reader<'_> {
    /// Fills the buffer as far as the file goes.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, SourceError> {
        let Some(reader) = &mut self.reader else {
            return Ok(0);
        };
        self.slot
            .in_source(&self.engine.workers, || reader.read_at(buffer, offset))
    }

    #[cfg(feature = "planted-faults")]
    pub(super) fn file(&self) -> Option<&crate::source::SourceFile> {
        self.reader.as_ref().map(SourceReader::file)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.engine.workers.close(reader.into_file());
        }
    }
}

/// How a first pass ended.
enum Pass {
    Matched {
        state: ResourceState,
        kept: Vec<(VerifiedChunk, Reservation)>,
        bytes: u64,
    },
    Differs(Box<Finding>),
}

/// The verification of one resource by this thread: whatever happens, it ends and those who wait hear of it.
struct Flight<'a> {
    engine: &'a Engine,
    file: &'a Arc<VerifiedFile>,
    index: usize,
    landed: bool,
}

impl Flight<'_> {
    fn land(&mut self, state: ResourceState) -> Vec<Job> {
        self.landed = true;
        self.file.settle(self.index, state)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if !self.landed {
            self.engine.totals.source_errors.fetch_add(1, Ordering::Relaxed);
            for job in self.file.settle(self.index, ResourceState::Unverified) {
                job.promise.fulfil(Err(ReadError::Abandoned));
            }
        }
    }
}

/// Length of a range that is no longer than a buffer: a chunk's, or what the kernel asks for at a time.
fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}

const _: () = assert!(CHUNK_BYTES <= 1 << 30, "a chunk is read into one buffer");
