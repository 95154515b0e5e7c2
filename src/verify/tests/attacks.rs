//! What a hostile source, or two threads that meet at the wrong moment, could gain.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use super::*;
use crate::verify::file::Demand;
use crate::verify::flight::Flight;
use crate::verify::memory::Claim;
use crate::verify::memory::Memory;
use crate::verify::pin::Filling;
use crate::verify::pin::PinState;
use crate::verify::workers::Job;
use crate::verify::workers::Promise;
use crate::verify::workers::Want;

/// Takes every offer and counts them.
struct Taken(Arc<AtomicUsize>);

impl Offer for Taken {
    fn offer(&self, _: BorrowedFd<'_>) -> io::Result<u32> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(1)
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(5), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_last_page_of_a_pinned_file_is_zero_behind_its_end() {
    let signed = vec![0xaa; 5000];
    let model = SignedModel::new(&[("w", signed)], Algorithm::Sha256, Method::Files);
    let bound = bind(&model, 0);
    let file = &bound.files[0];
    let memory = Memory::new(1 << 20);
    let filling = Filling::new(5000, memory.charge(5000).unwrap()).unwrap();
    *file.pin.lock() = PinState::Filling(Arc::clone(&filling));
    let flight = Flight::new(Arc::clone(file), file.mark(0..1), Claim::Demand, None);
    let mut fetch = flight.claim(&memory).unwrap().unwrap();
    assert_eq!((fetch.base, fetch.bytes), (0, 8192));
    // The source has grown since: the whole page comes full.
    fetch.buffer.bytes_mut().fill(0xaa);
    flight.deposit(fetch, 8192);
    drop(flight.take(1));
    let page = filling.piece(0, 8192).unwrap();
    assert!(page[..5000].iter().all(|&byte| byte == 0xaa));
    assert!(page[5000..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_flight_that_failed_leaves_what_others_began_since_alone() {
    let model = SignedModel::new(&[("w", content(5 << 20))], Algorithm::Sha256, Method::Files);
    let bound = bind(&model, 0);
    let file = &bound.files[0];
    let memory = Memory::new(1 << 30);
    let old = Flight::new(Arc::clone(file), file.mark(0..1), Claim::Demand, None);
    let first = old.claim(&memory).unwrap().unwrap();
    assert!(old.deposit(first, 2 << 20), "it goes to those that hash");
    old.fail(ReadError::Abandoned);
    let marked = file.mark(0..1);
    assert_eq!(marked, 0..1, "another reader begins anew");
    let (sender, answers) = channel();
    let job = Job {
        file: Arc::clone(file),
        want: Want::Open,
        promise: Some(Promise::new(Box::new(move |result| {
            sender.send(result.map(drop)).ok();
        }))),
        demand: Some(Demand::for_file(file)),
    };
    assert!(file.park(0, job).is_ok());
    // Only now those that hash get to the old one.
    let work = old.take(8).unwrap();
    old.give_back(work.passes);
    drop(old);
    assert!(answers.try_recv().is_err(), "it waits for the new flight");
    assert_eq!(file.survey(0..1).unverified, [], "which is still under way");
}

#[test]
fn a_file_that_is_rejected_costs_nothing_of_the_budget_and_its_other_shards_are_served() {
    let original = content(4 * C);
    let mut other = original.clone();
    other[C] ^= 1;
    for (method, opened) in [(Method::Files, "rejected"), (Method::Shards(C), "bytes")] {
        let model = SignedModel::new(&[("w", original.clone())], Algorithm::Sha256, method);
        std::fs::write(model.file("w"), &other).unwrap();
        let bound = bind_with(&model, 4 * CHUNK_BYTES, Pin::All);
        let offers = Arc::new(AtomicUsize::new(0));
        bound
            .engine
            .pin_through(Some(Box::new(Taken(Arc::clone(&offers)))));
        assert_eq!(outcome(&open(&bound, 0).map(|()| Vec::new())), opened);
        if opened == "bytes" {
            assert!(read(&bound, 0, 0, C).unwrap() == original[..C]);
            assert_eq!(outcome(&read(&bound, 0, C, C)), "rejected");
            assert!(read(&bound, 0, 2 * C, 2 * C).unwrap() == original[2 * C..]);
        }
        eventually("the budget is given back", || {
            bound.engine.counters().held_bytes < 4 * CHUNK_BYTES
        });
        assert_eq!(offers.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_file_is_offered_only_when_all_of_it_was_verified_in_its_place() {
    let original = content(4 * C);
    let model = SignedModel::new(&[("w", original)], Algorithm::Sha256, Method::Shards(2 * C));
    for elsewhere in [false, true] {
        let bound = bind_with(&model, 1 << 30, Pin::All);
        let file = &bound.files[0];
        let offers = Arc::new(AtomicUsize::new(0));
        bound
            .engine
            .pin_through(Some(Box::new(Taken(Arc::clone(&offers)))));
        let memory = Memory::new(1 << 30);
        let filling = Filling::new(file.size(), memory.charge(file.size()).unwrap()).unwrap();
        *file.pin.lock() = PinState::Filling(Arc::clone(&filling));
        // Somebody has a page of it, as a fetch of an earlier flight may that hangs in the source.
        let held = elsewhere.then(|| filling.piece(2 * CHUNK_BYTES, 4096).unwrap());
        let verified = channel();
        bound.engine.verify(file, 0..2, Haste::Some, move |result| {
            verified.0.send(result.is_ok()).unwrap();
        });
        assert_eq!(verified.1.recv(), Ok(true));
        drop(held);
        open(&bound, 0).unwrap();
        assert_eq!(offers.load(Ordering::Relaxed), usize::from(!elsewhere));
        assert_eq!(file.pinned().is_some(), !elsewhere);
    }
}

#[test]
fn what_is_verified_before_it_is_opened_is_pinned_when_it_is_and_nothing_stays_filled_where_nobody_can_pin() {
    let original = content(4 * C);
    for (method, pin) in [(Method::Files, Pin::Auto), (Method::Shards(C), Pin::All)] {
        let model = SignedModel::new(&[("w", original.clone())], Algorithm::Sha256, method);
        for can_pin in [true, false] {
            let bound = bind_with(&model, 1 << 30, pin);
            bound.engine.expect(bound.files.clone());
            let file = &bound.files[0];
            let verified = channel();
            bound
                .engine
                .verify(file, file.all_resources(), Haste::Some, move |result| {
                    verified.0.send(result.is_ok()).unwrap();
                });
            assert_eq!(verified.1.recv(), Ok(true));
            let offers = Arc::new(AtomicUsize::new(0));
            let taken = || -> Box<dyn Offer> { Box::new(Taken(Arc::clone(&offers))) };
            bound.engine.pin_through(can_pin.then(taken));
            if !can_pin {
                eventually("the memory goes back", || bound.engine.counters().held_bytes == 0);
            }
            open(&bound, 0).unwrap();
            assert_eq!(file.pinned().is_some(), can_pin);
            assert_eq!(offers.load(Ordering::Relaxed), usize::from(can_pin));
            assert_eq!(bound.engine.counters().hashed_bytes, file.size(), "once");
            assert!(read(&bound, 0, 0, 4 * C).unwrap() == original);
        }
    }
}

#[test]
fn opening_a_small_file_reads_no_large_one_ahead() {
    let large = vec![7; 16 << 20];
    let files = [("a", content(100)), ("b", large.clone()), ("c", large)];
    let model = SignedModel::new(&files, Algorithm::Sha256, Method::Files);
    let bound = bind(&model, 1 << 30);
    bound.engine.expect(bound.files.clone());
    open(&bound, 0).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(bound.engine.counters().hashed_bytes, 100);
}

#[test]
fn a_source_that_is_cut_short_rejects_what_it_has_not_and_nothing_else() {
    let original = content(4 * C);
    for left in [0, 1, C - 1, C, 2 * C + 5, 4 * C - 1] {
        let model = SignedModel::new(&[("w", original.clone())], Algorithm::Sha256, Method::Shards(C));
        let bound = bind(&model, 0);
        let file = File::options().write(true).open(model.file("w")).unwrap();
        file.set_len(left as u64).unwrap();
        for shard in 0..4 {
            let got = read(&bound, 0, shard * C, C);
            if (shard + 1) * C <= left {
                assert!(got.unwrap() == original[shard * C..(shard + 1) * C]);
            } else {
                assert_eq!(outcome(&got), "rejected", "{left} bytes left, shard {shard}");
            }
        }
    }
}
