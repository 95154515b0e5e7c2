//! What is verified before anybody asks: what comes after the bytes and the files that readers are at.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use super::passes::FLIGHT_BYTES;
use crate::verify::file::State;
use crate::verify::file::VerifiedFile;
use crate::verify::memory::Claim;
use crate::verify::workers::Ahead;
use crate::verify::workers::Job;
use crate::verify::workers::Want;

impl Engine {
    /// Verifies what a reader of these bytes will want next, while there is memory for it.
    pub(super) fn go_on(&self, file: &Arc<VerifiedFile>, read: &Range<u64>) {
        if file.is_whole() || read.is_empty() {
            return;
        }
        // Another reader's turn is as good.
        let Some(mut ahead) = file.ahead.try_lock() else {
            return;
        };
        let next = ahead.note(read, file.size(), self.memory.limit() / 4);
        if next.is_empty() {
            return;
        }
        if self.memory.free() < next.end - next.start {
            ahead.put_off(&next);
            return;
        }
        drop(ahead);
        self.submit_ahead(file, Ahead::Resources(file.resources_of(&next)));
        if next.end == file.size() {
            self.follow(file);
        }
    }

    /// Verifies what loaders read after this file: its neighbours of the same kind, as many as there are cores.
    pub(super) fn follow(&self, file: &Arc<VerifiedFile>) {
        let Some(order) = self.order.get() else { return };
        if file.size() < MIN_FOLLOWED_BYTES {
            return;
        }
        let Some(place) = order.place_of(file) else { return };
        self.followed.store(place, Ordering::Relaxed);
        self.submit_ahead(file, Ahead::Files);
    }

    /// Leaves to a worker what may have to wait for a disk: the kernel's threads do not.
    fn submit_ahead(&self, file: &Arc<VerifiedFile>, ahead: Ahead) {
        let job = Job {
            file: Arc::clone(file),
            want: Want::Ahead(ahead),
            promise: None,
            demand: None,
        };
        self.workers.submit(job, &self.runner);
    }

    /// Does what was left to a worker.
    pub(super) fn run_ahead(&self, file: &Arc<VerifiedFile>, ahead: Ahead) {
        match ahead {
            Ahead::Resources(resources) => self.verify_ahead(file, resources),
            Ahead::Files => self.follow_on(),
        }
    }

    /// Goes on with what [`Engine::follow`] began, as files come to their end.
    pub(super) fn follow_on(&self) {
        let Some(order) = self.order.get() else { return };
        let mut files = order
            .files
            .iter()
            .skip(self.followed.load(Ordering::Relaxed))
            .take(1 + self.options.cores);
        let Some(first) = files.next() else { return };
        let mut busy = usize::from(first.is_in_flight());
        for next in files {
            if !first.path().is_sibling_of(next.path()) || next.size() < MIN_FOLLOWED_BYTES {
                break;
            }
            if next.is_in_flight() {
                busy += 1;
            } else if next.state() == State::Unverified {
                // A file that does not fit is hashed all the same when nothing else is to do.
                let needed = match next.is_whole() && !self.may_preload(next) {
                    true => next.size(),
                    false => FLIGHT_BYTES,
                };
                if busy >= self.options.cores || (busy > 0 && self.memory.free() < needed) {
                    break;
                }
                let first = match self.begin_pin(next) {
                    true => next.all_resources(),
                    false => next.resources_of(&(0..FLIGHT_BYTES.min(next.size()))),
                };
                self.verify_ahead(next, first);
                busy += 1;
            }
        }
    }

    fn verify_ahead(&self, file: &Arc<VerifiedFile>, resources: Range<usize>) {
        self.recall(file);
        for run in file.survey(resources).unverified {
            for flight in self.mark(file, run, Claim::Spare) {
                self.start_flight(&flight);
            }
        }
    }
}

/// Files in the order in which loaders read them.
pub(super) struct Order {
    pub(super) files: Vec<Arc<VerifiedFile>>,
    /// Their places, by their numbers.
    places: HashMap<u32, usize>,
}

impl Order {
    pub(super) fn new(files: Vec<Arc<VerifiedFile>>) -> Self {
        let places = files
            .iter()
            .enumerate()
            .map(|(place, file)| (file.id(), place))
            .collect();
        Self { files, places }
    }

    fn place_of(&self, file: &VerifiedFile) -> Option<usize> {
        self.places.get(&file.id()).copied()
    }
}

/// Files smaller than this many bytes are read before anything ahead of them could be verified, and say nothing of what
/// comes next: a configuration is opened by many who load nothing.
const MIN_FOLLOWED_BYTES: u64 = 16 * 1024 * 1024;
