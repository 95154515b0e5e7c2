//! First passes: resources are fetched, hashed, and settled.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use super::MAX_FINDINGS;
use crate::digest::Digest;
use crate::source::SourceError;
use crate::verify::chunk::Fetched;
use crate::verify::chunk::FirstPass;
use crate::verify::chunk::Tags;
use crate::verify::chunk::VerifiedBlock;
use crate::verify::file::ResourceState;
use crate::verify::file::State;
use crate::verify::file::VerifiedFile;
use crate::verify::flight::Flight;
use crate::verify::flight::Work;
use crate::verify::memory::Claim;
use crate::verify::refusal::Finding;
use crate::verify::workers::FetchTask;
use crate::verify::workers::Job;
use crate::verify::workers::Slot;

impl Engine {
    /// Marks resources for flights of a bearable length.
    pub(in crate::verify) fn mark(
        &self,
        file: &Arc<VerifiedFile>,
        run: Range<usize>,
        claim: Claim,
    ) -> Vec<Arc<Flight>> {
        let mut flights = Vec::new();
        let mut rest = run;
        while !rest.is_empty() {
            let first = file.range(rest.start).unwrap_or(0..0);
            let each = (first.end - first.start).max(1);
            let count = usize::try_from(FLIGHT_BYTES / each).unwrap_or(1).max(1);
            let end = rest.start.saturating_add(count).min(rest.end);
            let marked = file.mark(rest.start..end);
            if !marked.is_empty() {
                let preload = self.preload(file);
                flights.push(Flight::new(Arc::clone(file), marked, claim, preload));
            }
            rest.start = end;
        }
        flights
    }

    pub(super) fn start_flight(&self, flight: &Arc<Flight>) {
        if flight.is_empty() {
            self.board.offer(Arc::clone(flight));
            self.help();
        } else {
            self.feed(flight);
        }
    }

    /// Sees to it that enough threads fetch for a flight; `false` when it needs no more of them.
    pub(super) fn feed(&self, flight: &Arc<Flight>) -> bool {
        let recruits = flight.recruit();
        for _ in 0..recruits {
            let task = FetchTask::new(flight);
            self.workers.submit(Job::fetch(task), &self.runner);
        }
        recruits > 0
    }

    /// Lets so many flights be fetched that had to wait because too much waited to be hashed.
    pub(super) fn feed_starved(&self, most: usize) {
        let mut fed = 0;
        while fed < most && self.board.backlog() <= MAX_BACKLOG {
            let starved = self.starved.lock().pop_front();
            let Some(flight) = starved else { break };
            fed += usize::from(self.feed(&flight));
        }
    }

    /// Fetches blocks of a flight until there is none to fetch now, or something to hash and nobody to do it.
    pub(super) fn fetch(&self, task: FetchTask, slot: &Slot) {
        let flight = Arc::clone(task.flight());
        if self.sweeps(&flight, slot) {
            return;
        }
        if flight.is_idle() && self.board.backlog() > MAX_BACKLOG {
            drop(task);
            self.starved.lock().push_back(flight);
            // All may have been hashed meanwhile.
            self.feed_starved(1);
            return;
        }
        let fetched = self.fetch_blocks(&flight, slot);
        drop(task);
        match fetched {
            // Who found no room finds none at once. There is some when what has begun is hashed, and then others are called.
            Ok(0) if !flight.is_idle() => {}
            Ok(_) => {
                self.feed(&flight);
            }
            Err(e) => {
                flight.fail(self.source_error(e));
                // It will not be hashed, so another takes its turn now.
                self.feed_starved(1);
            }
        }
    }

    /// How many blocks it fetched.
    fn fetch_blocks(&self, flight: &Arc<Flight>, slot: &Slot) -> Result<usize, SourceError> {
        let file = &flight.file;
        let mut reader = None;
        let mut blocks = 0;
        loop {
            let claimed = flight
                .claim(&self.memory)
                .map_err(|e| SourceError::at(file.path(), e))?;
            let Some(mut fetch) = claimed else {
                return Ok(blocks);
            };
            let reader = match &mut reader {
                Some(reader) => reader,
                None => reader.insert(self.reader(file, slot)?),
            };
            let room = fetch
                .buffer
                .bytes_mut()
                .get_mut(..fetch.bytes)
                .unwrap_or_default();
            let filled = reader.read_pages(room, fetch.base)?;
            let stays = self.options.keep_tags && flight.keeps(&fetch);
            let range = fetch.base..fetch.base.saturating_add(u64::try_from(fetch.bytes).unwrap_or(0));
            flight.bound_fetchers(match reader.was_cached() {
                // Copying takes a core, and hashing needs one.
                true => self.options.cores.saturating_sub(1),
                // A file of which a part was cached is not held up by that for the rest of it.
                false => usize::MAX,
            });
            blocks += 1;
            if flight.deposit(fetch, filled) {
                self.board.offer(Arc::clone(flight));
            }
            if stays {
                // The mount has them from now on. They need not lie in the page cache twice, where all or some did.
                reader.let_go(&range);
            }
            if self.board.wants_help() {
                return Ok(blocks);
            }
        }
    }

    /// Hashes what lies ready, unless enough threads do.
    pub(super) fn help(&self) {
        while let Some(member) = self.board.join() {
            loop {
                let flights = member.next();
                if flights.is_empty() {
                    break;
                }
                let hashed = flights.len();
                self.hash(flights);
                self.feed_starved(hashed);
            }
        }
    }

    /// Hashes what lies ready of some flights, side by side, and settles the resources that are complete.
    fn hash(&self, flights: Vec<Arc<Flight>>) {
        let most = if flights.len() > 1 { 1 } else { MAX_BLOCKS };
        let mut works: Vec<Work> = flights.iter().filter_map(|flight| flight.take(most)).collect();
        for work in &works {
            // There is room for more now; it comes while this is hashed.
            self.feed(&work.flight);
        }
        let mut runs: Vec<Vec<Running>> = works.iter_mut().map(|work| self.begin(work)).collect();
        FirstPass::take(
            &self.key,
            runs.iter_mut()
                .flatten()
                .map(|run| (&mut run.pass, std::mem::take(&mut run.parts)))
                .collect(),
        );
        for work in &mut works {
            // The passes have taken what they need.
            work.parts.clear();
        }
        for (mut work, runs) in works.into_iter().zip(runs) {
            let flight = work.flight;
            for run in runs {
                match run.ends {
                    false => work.passes.begun = Some(run.pass),
                    true => {
                        work.passes.next = run.index + 1;
                        let outcome = run.pass.finish(&run.signed);
                        self.settle(&flight, run.index, outcome.map_err(Some));
                    }
                }
            }
            if work.cut.is_some() {
                for index in work.passes.next..flight.resources.end {
                    self.settle(&flight, index, Err(None));
                }
                work.passes.next = flight.resources.end;
            }
            if flight.give_back(work.passes) {
                self.board.offer(Arc::clone(&flight));
            }
            self.feed(&flight);
            if flight.file.is_whole() && flight.is_idle() {
                self.follow_on();
                if flight.file.state() == State::Verified {
                    self.remember(&flight.file);
                }
            }
        }
    }

    /// The passes that the parts of a piece of work belong to.
    fn begin(&self, work: &mut Work) -> Vec<Running> {
        let file = &work.flight.file;
        let mut runs = Vec::new();
        let mut index = work.passes.next;
        let have_to = work.cut.unwrap_or(work.passes.hashed_to);
        while index < work.flight.resources.end
            && let (Some(range), Some(signed)) = (file.range(index), file.digest(index))
            && (range.start < have_to || range.is_empty())
            && (work.cut.is_none() || range.end <= have_to)
        {
            let begun = work.passes.begun.take();
            let parts: Vec<_> = work
                .parts
                .iter()
                .map(|part| part.part(&range))
                .filter(|part| !part.range().is_empty())
                .collect();
            let bytes: u64 = parts
                .iter()
                .map(|part| part.range().end - part.range().start)
                .sum();
            self.totals.hashed_bytes.fetch_add(bytes, Ordering::Relaxed);
            runs.push(Running {
                index,
                signed,
                pass: begun.unwrap_or_else(|| FirstPass::new(&self.key, &signed, self.options.keep_tags)),
                parts,
                ends: range.end <= have_to,
            });
            index += 1;
        }
        runs
    }

    /// Ends the verification of one resource: with what matched, or with the digest that was found, if the source had
    /// all of it. Those who wait hear of it.
    pub(super) fn settle(
        &self,
        flight: &Flight,
        index: usize,
        outcome: Result<(Tags, Vec<VerifiedBlock>), Option<Digest>>,
    ) {
        let file = &flight.file;
        let filling = flight.filling.as_ref();
        let (Some(range), Some(signed)) = (file.range(index), file.digest(index)) else {
            return;
        };
        let preloaded = flight
            .preload
            .as_ref()
            .map_or(0, |preload| preload.end(outcome.is_ok()));
        self.totals.served_bytes.fetch_add(preloaded, Ordering::Relaxed);
        match outcome {
            Ok((tags, kept)) => {
                let bytes = range.end - range.start;
                self.totals.verified_bytes.fetch_add(bytes, Ordering::Relaxed);
                self.totals.verified_resources.fetch_add(1, Ordering::Relaxed);
                for block in kept {
                    match filling {
                        Some(filling) if block.is_pinned() => filling.accept(block),
                        _ => self.memory.hold(Arc::new(block)),
                    }
                }
                for job in file.settle(index, ResourceState::Verified(tags)) {
                    self.workers.submit(job, &self.runner);
                }
            }
            Err(found) => {
                let finding = Finding {
                    path: file.path().clone(),
                    range,
                    signed,
                    found,
                };
                log::error!(event = "content-differs", path = finding.path.as_str(); "{finding}; it is refused until the model is mounted anew");
                self.totals.rejected_resources.fetch_add(1, Ordering::Relaxed);
                let mut findings = self.findings.lock();
                if findings.len() < MAX_FINDINGS {
                    findings.push(finding);
                }
                drop(findings);
                self.give_up_pin(file);
                for job in file.settle(index, ResourceState::Rejected) {
                    // A check goes on with the others.
                    self.workers.submit(job, &self.runner);
                }
            }
        }
    }
}

/// A pass that gets more bytes.
struct Running {
    index: usize,
    signed: Digest,
    pass: FirstPass,
    parts: Vec<Fetched>,
    /// Whether these are its last.
    ends: bool,
}

/// Bytes of small resources that one flight covers. Bigger: more of them are hashed side by side; smaller: more cores
/// share them.
pub(super) const FLIGHT_BYTES: u64 = 16 * 1024 * 1024;

/// Blocks that are hashed in one go, at most. Fewer: too few small resources side by side for the widest lanes.
const MAX_BLOCKS: usize = 8;

/// Flights that may wait to be hashed before others do not even begin to be fetched.
pub(super) const MAX_BACKLOG: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;
    use std::time::Instant;

    use super::*;
    use crate::digest::Algorithm;
    use crate::testing::Method;
    use crate::testing::SignedModel;
    use crate::verify::Options;
    use crate::verify::tests::Bound;
    use crate::verify::tests::bind;
    use crate::verify::tests::bind_as;

    #[test]
    fn what_must_wait_for_the_hashes_is_put_aside_once_and_has_its_turn() {
        let names: Vec<_> = (0..2 * MAX_BACKLOG).map(|n| format!("empty-{n}")).collect();
        let mut files: Vec<_> = names.iter().map(|name| (name.as_str(), Vec::new())).collect();
        files.push(("last", vec![1; 1000]));
        let model = SignedModel::new(&files, Algorithm::Sha256, Method::Files);
        let bound = bind(&model, 0);
        let engine = &bound.engine;
        let (last, empty) = bound.files.split_last().unwrap();
        for file in empty {
            for flight in engine.mark(file, 0..1, Claim::Spare) {
                engine.board.offer(flight);
            }
        }
        let flight = engine.mark(last, 0..1, Claim::Spare).remove(0);
        assert_eq!(flight.recruit(), 1);
        engine.fetch(FetchTask::new(&flight), &Slot::default());
        assert_eq!(engine.starved.lock().len(), 1);
        assert_eq!(flight.recruit(), 1, "nobody else was called to fetch it");
        flight.dismiss();
        engine.help();
        let began = Instant::now();
        while bound.files.iter().any(|file| file.state() != State::Verified) {
            assert!(began.elapsed() < Duration::from_secs(5), "it has no turn");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(engine.starved.lock().is_empty());
    }

    /// A flight over a file of 30 blocks, with four threads that are to fetch for it.
    fn about_to_be_fetched(bound: &Bound) -> Arc<Flight> {
        let file = bound.files.first().unwrap();
        let flight = bound.engine.mark(file, 0..1, Claim::Spare).remove(0);
        assert_eq!(flight.recruit(), 4);
        flight
    }

    fn large_model() -> SignedModel {
        SignedModel::new(&[("w", vec![7; 60 << 20])], Algorithm::Blake3, Method::Files)
    }

    #[test]
    fn what_lies_in_the_page_cache_is_fetched_by_one_thread_less_than_there_are_cores() {
        let model = large_model();
        for (cores, most) in [(1, 1), (2, 1), (3, 2), (4, 3)] {
            let options = Options {
                memory: Some(0),
                cores,
                ..Options::default()
            };
            let bound = bind_as(&model, options);
            let engine = &bound.engine;
            let flight = about_to_be_fetched(&bound);
            let source = bound.files[0].reader().unwrap();
            let first = 0..2 << 20;
            drop(std::fs::read(model.file("w")).unwrap());
            if !source.is_cached(&first) {
                println!("NOTICE: this kernel does not tell what its page cache holds");
                return;
            }
            // Back as soon as there is something to hash: this is the only thread so far.
            engine.fetch_blocks(&flight, &Slot::default()).unwrap();
            for fetching in (1..=4).rev() {
                let block = flight.claim(&engine.memory).unwrap();
                assert_eq!(block.is_some(), fetching <= most, "{fetching} of {most}");
                flight.dismiss();
            }
            assert_eq!(flight.recruit(), most, "{cores} cores");
        }
    }

    #[test]
    fn a_file_of_which_a_part_is_cached_is_fetched_by_many_where_it_is_not() {
        let model = large_model();
        let options = Options {
            memory: Some(0),
            cores: 2,
            ..Options::default()
        };
        let bound = bind_as(&model, options);
        let flight = about_to_be_fetched(&bound);
        for _ in 0..4 {
            flight.dismiss();
        }
        let source = bound.files[0].reader().unwrap();
        std::fs::File::open(model.file("w")).unwrap().sync_all().unwrap();
        source.let_go(&(2 << 20..60 << 20));
        let cached = [0..2 << 20, 2 << 20..4 << 20].map(|block| source.is_cached(&block));
        if cached != [true, false] {
            println!("NOTICE: this system does not tell, or keeps, what is in its page cache: {cached:?}");
            return;
        }
        for want in [1, 4] {
            bound.engine.fetch_blocks(&flight, &Slot::default()).unwrap();
            assert_eq!(flight.recruit(), want);
            for _ in 0..want {
                flight.dismiss();
            }
        }
    }

    #[test]
    fn who_finds_no_room_for_a_block_does_not_try_again_before_there_may_be_some() {
        let model = large_model();
        let bound = bind(&model, 0);
        let engine = &bound.engine;
        let flight = about_to_be_fetched(&bound);
        let passing = || engine.memory.buffer(1 << 20, Claim::Passing).unwrap();
        let all: Vec<_> = std::iter::from_fn(passing).collect();
        let slow = flight.claim(&engine.memory).unwrap().expect("a small one");
        for _ in 0..3 {
            flight.dismiss();
        }
        assert!(engine.feed(&flight));
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(flight.recruit(), 3, "threads still try");
        for _ in 0..4 {
            flight.dismiss();
        }
        // Room alone wakes nobody; that something was hashed does.
        drop(all);
        let file = bound.files.first().unwrap();
        let bytes = slow.bytes;
        let mut slow = slow;
        slow.buffer.bytes_mut().get_mut(..bytes).unwrap().fill(7);
        assert!(flight.deposit(slow, bytes));
        engine.board.offer(flight);
        engine.help();
        let began = Instant::now();
        while file.state() != State::Verified {
            assert!(began.elapsed() < Duration::from_secs(20), "nobody goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
