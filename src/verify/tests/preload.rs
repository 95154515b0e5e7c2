//! Bytes that go into the page cache before their digest has matched.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

use super::*;
use crate::sys;
use crate::verify::memory::Claim;
use crate::verify::preload::Preload;

/// Bigger than what is not worth it, and no multiple of anything.
const LARGE: usize = (5 << 20) + 12_345;

/// A page cache that never drops anything by itself.
#[derive(Default)]
struct Pages {
    pages: Mutex<BTreeMap<(u32, u64), u8>>,
    emptied: AtomicUsize,
    /// Whether it refuses to be emptied.
    stuck: AtomicBool,
    /// How many more times it takes bytes, if not always.
    takes: Mutex<Option<usize>>,
}

impl PageCache for Pages {
    fn put(&self, file: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(left) = &mut *self.takes.lock() {
            *left = left.checked_sub(1).ok_or(io::ErrorKind::OutOfMemory)?;
        }
        let places = (offset..).map(|at| (file, at));
        self.pages.lock().extend(places.zip(bytes.iter().copied()));
        Ok(())
    }

    fn empty(&self, file: u32) -> io::Result<()> {
        self.emptied.fetch_add(1, Ordering::SeqCst);
        if self.stuck.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::Other.into());
        }
        self.pages.lock().retain(|(of, _), _| *of != file);
        Ok(())
    }
}

impl Pages {
    /// How many bytes it has; all must be those of `truth`.
    fn only(&self, truth: &[u8]) -> usize {
        let pages = self.pages.lock();
        for ((_, at), byte) in &*pages {
            assert_eq!(truth[*at as usize], *byte, "at {at}");
        }
        pages.len()
    }
}

fn model(method: Method) -> (SignedModel, Vec<u8>) {
    let truth = content(LARGE);
    (
        SignedModel::new(&[("w", truth.clone())], Algorithm::Sha256, method),
        truth,
    )
}

fn bind_to(model: &SignedModel, memory: u64) -> (Bound, Arc<Pages>) {
    let bound = bind(model, memory);
    let pages = Arc::new(Pages::default());
    bound
        .engine
        .preload_through(Arc::clone(&pages) as Arc<dyn PageCache>);
    (bound, pages)
}

#[test]
fn a_whole_file_lies_in_the_page_cache_when_it_is_open_and_nowhere_else() {
    let (model, truth) = model(Method::Files);
    let (bound, pages) = bind_to(&model, 1 << 30);
    open(&bound, 0).unwrap();
    assert_eq!(pages.only(&truth), LARGE);
    assert!(bound.files[0].may_be_cached());
    let counters = bound.engine.counters();
    assert_eq!((counters.held_bytes, counters.served_bytes), (0, LARGE as u64));
    // The kernel may drop it: then it is read again.
    assert!(read(&bound, 0, 0, LARGE).unwrap() == truth);
}

#[test]
fn what_the_page_cache_does_not_take_is_held() {
    let (model, truth) = model(Method::Files);
    let (bound, pages) = bind_to(&model, 1 << 30);
    *pages.takes.lock() = Some(1);
    open(&bound, 0).unwrap();
    let preloaded = pages.only(&truth);
    assert!(0 < preloaded && preloaded < LARGE, "{preloaded}");
    assert!(bound.engine.counters().held_bytes > 0);
    assert!(read(&bound, 0, 0, LARGE).unwrap() == truth);
    assert!(bound.files[0].may_be_cached());
}

#[test]
fn nobody_hears_of_a_digest_that_differs_before_the_page_cache_is_empty() {
    let (model, truth) = model(Method::Files);
    let mut other = truth;
    other[LARGE - 1] ^= 1;
    std::fs::write(model.file("w"), &other).unwrap();
    let (bound, pages) = bind_to(&model, 1 << 30);
    let (sender, receiver) = channel();
    let seen = Arc::clone(&pages);
    bound.engine.open(&bound.files[0], move |result| {
        sender.send((result.is_ok(), seen.pages.lock().len())).unwrap();
    });
    assert_eq!(receiver.recv().unwrap(), (false, 0));
    assert_eq!(
        pages.emptied.load(Ordering::SeqCst),
        2,
        "at the beginning and at the end"
    );
    assert_eq!(bound.engine.counters().served_bytes, 0);
    assert!(bound.files[0].may_be_cached());
}

#[test]
fn a_page_cache_that_cannot_be_emptied_is_not_kept_for_any_reader() {
    let (model, truth) = model(Method::Files);
    let (bound, pages) = bind_to(&model, 1 << 30);
    pages.stuck.store(true, Ordering::SeqCst);
    open(&bound, 0).unwrap();
    assert_eq!(pages.only(&[]), 0, "nothing was put there");
    assert!(!bound.files[0].may_be_cached());
    assert!(read(&bound, 0, 0, LARGE).unwrap() == truth);

    let mut other = truth;
    other[0] ^= 1;
    std::fs::write(model.file("w"), &other).unwrap();
    let (bound, pages) = bind_to(&model, 1 << 30);
    let preload = Preload::begin(&(Arc::clone(&pages) as Arc<dyn PageCache>), &bound.files[0]).unwrap();
    assert!(preload.put(0, &other[..C]));
    pages.stuck.store(true, Ordering::SeqCst);
    assert_eq!(preload.end(false), 0);
    assert!(!bound.files[0].may_be_cached());
}

#[test]
fn a_pass_puts_nothing_after_its_end() {
    let (model, truth) = model(Method::Files);
    let (bound, pages) = bind_to(&model, 1 << 30);
    let cache = Arc::clone(&pages) as Arc<dyn PageCache>;
    let late = Preload::begin(&cache, &bound.files[0]).unwrap();
    assert!(late.put(0, &[0xee; 4096]));
    assert!(!bound.files[0].may_be_cached());
    assert_eq!(late.end(false), 0);
    assert!(bound.files[0].may_be_cached());
    open(&bound, 0).unwrap();
    // A thread of the first pass comes back from a source that hung.
    assert!(!late.put(4096, &[0xee; 4096]));
    assert_eq!(late.end(true), 0);
    drop(late);
    assert_eq!(pages.only(&truth), LARGE);
}

#[test]
fn a_source_that_fails_halfway_leaves_nothing_behind() {
    let (model, truth) = model(Method::Files);
    let (bound, pages) = bind_to(&model, 1 << 30);
    let file = &bound.files[0];
    file.note_met(true);
    let flight = bound.engine.mark(file, 0..1, Claim::Demand).remove(0);
    let mut fetch = flight.claim(&bound.engine.memory).unwrap().unwrap();
    fetch.buffer.bytes_mut().fill(0xee);
    let bytes = fetch.bytes;
    flight.deposit(fetch, bytes);
    assert_eq!(pages.pages.lock().len(), bytes);
    assert!(!file.may_be_cached());
    flight.fail(ReadError::Abandoned);
    assert_eq!(pages.pages.lock().len(), 0);
    assert!(file.may_be_cached());
    assert_eq!(file.state(), State::Unverified);
    open(&bound, 0).unwrap();
    drop(flight);
    assert_eq!(pages.only(&truth), LARGE);
}

#[test]
fn a_file_is_not_preloaded_where_somebody_could_read_it_or_nothing_is_gained() {
    let nothing = |method, memory, size: usize, met: bool| {
        let truth = content(size);
        let model = SignedModel::new(&[("w", truth)], Algorithm::Sha256, method);
        let (bound, pages) = bind_to(&model, memory);
        let file = &bound.files[0];
        match met {
            true => open(&bound, 0).unwrap(),
            false => {
                let (sender, receiver) = channel();
                let all = 0..1;
                bound
                    .engine
                    .verify(file, all, Haste::None, move |result| sender.send(result).unwrap());
                receiver.recv().unwrap().unwrap();
            }
        }
        assert!(read(&bound, 0, 0, size).is_ok());
        pages.emptied.load(Ordering::SeqCst)
    };
    assert_eq!(nothing(Method::Files, 1 << 30, LARGE, true), 1);
    assert_eq!(
        nothing(Method::Shards(LARGE), 1 << 30, LARGE, true),
        0,
        "shards are open unverified"
    );
    assert_eq!(nothing(Method::Files, 0, LARGE, true), 0, "nothing is to be kept");
    assert_eq!(nothing(Method::Files, 1 << 30, C, true), 0, "small");
    assert_eq!(
        nothing(Method::Files, 1 << 30, LARGE, false),
        0,
        "unknown to the kernel"
    );
}

/// How many bytes of a file the page cache has.
fn cached(path: &Path) -> Option<u64> {
    sys::cached_bytes(&File::open(path).unwrap(), &(0..LARGE as u64))
}

/// Puts a file where the page cache has all of it and may drop it; `false` where it does not do so.
fn warm(path: &Path) -> bool {
    File::open(path).unwrap().sync_all().unwrap();
    std::fs::read(path).unwrap();
    cached(path).is_some_and(|bytes| bytes >= LARGE as u64)
}

#[test]
fn what_the_mount_has_does_not_stay_in_the_page_cache_beneath_it() {
    for method in [Method::Files, Method::Shards(1 << 20), Method::Shards(C - 1)] {
        let (model, truth) = model(method);
        let path = model.file("w");
        let source = ModelDir::open(&model.path(), Links::Refuse).unwrap();
        let name = model.trusted().into_files().next().unwrap().path().clone();
        let can_drop = warm(&path) && {
            source.open_file(&name).unwrap().let_go(&(0..LARGE as u64));
            cached(&path) == Some(0)
        };
        if !can_drop {
            println!("NOTICE: the page cache of this file system drops nothing, or does not tell");
            return;
        }
        // How many bytes are left beneath when all of it was verified, and read if it can be.
        let left = |keep_tags| {
            assert!(warm(&path));
            let options = Options {
                memory: Some(1 << 30),
                keep_tags,
                ..Options::default()
            };
            let bound = bind_as(&model, options);
            bound.engine.preload_through(Arc::new(Pages::default()));
            open(&bound, 0).unwrap();
            if keep_tags {
                assert!(read(&bound, 0, 0, LARGE).unwrap() == truth);
            }
            let began = Instant::now();
            while cached(&path) > Some(0) && began.elapsed() < Duration::from_millis(300) {
                std::thread::yield_now();
            }
            cached(&path)
        };
        // A page that somebody looks at in that moment stays, so it may take another attempt.
        assert!((0..20).any(|_| left(true) == Some(0)));
        // A command that only verifies has no copy of its own.
        assert!(left(false) > Some(0));
    }
}
