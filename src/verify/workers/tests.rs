//! Threads that are stuck, and those who wait for them.

use std::sync::mpsc::channel;

use super::jobs::MAX_THREADS_PER_FILE;
use super::*;
use crate::digest::Algorithm;
use crate::testing::Method;
use crate::testing::SignedModel;
use crate::verify::file::Demand;
use crate::verify::flight::Flight;
use crate::verify::memory::Claim;
use crate::verify::tests::bind;

/// Hangs in the source with whatever it is to do, until the lock is free.
struct Hanging(Workers, Arc<Mutex<()>>);

impl Run for Hanging {
    fn run(&self, job: Job, slot: &Slot) -> Option<()> {
        slot.in_source(&self.0, || drop(self.1.lock()));
        drop(job);
        Some(())
    }

    fn help(&self) -> Option<()> {
        Some(())
    }
}

#[test]
fn who_waits_for_what_nobody_can_fetch_is_not_left_to_wait() {
    const SHARD: usize = 8 << 20;
    let model = SignedModel::new(
        &[("w", vec![0; 2 * SHARD])],
        Algorithm::Blake3,
        Method::Shards(SHARD),
    );
    let bound = bind(&model, 0);
    let file = Arc::clone(bound.files.first().unwrap());
    let workers = Workers::new(8);
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock();
    let runner: Runner = Arc::new(Hanging(Workers(Arc::clone(&workers.0)), Arc::clone(&gate)));
    let _reader = Demand::for_file(&file);
    for resource in 0..2 {
        let marked = file.mark(resource..resource + 1);
        let flight = Flight::new(Arc::clone(&file), marked, Claim::Demand, None);
        assert_eq!(flight.recruit(), MAX_THREADS_PER_FILE);
        for _ in 0..MAX_THREADS_PER_FILE {
            workers.submit(Job::fetch(FetchTask::new(&flight)), &runner);
        }
    }
    // A read across both waits for the second one, for which no place is left.
    let (sender, answer) = channel();
    let job = Job {
        file: Arc::clone(&file),
        want: Want::Bytes(0..1),
        promise: Some(Promise::new(Box::new(move |result| {
            sender.send(result.is_err()).ok();
        }))),
        demand: None,
    };
    assert!(file.park(1, job).is_ok());
    std::thread::sleep(Duration::from_millis(300));
    workers.watch(Duration::from_millis(50), &runner);
    let answered = answer.try_recv();
    drop(closed);
    workers.end();
    assert_eq!(answered, Ok(true));
}
