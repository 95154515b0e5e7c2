//! Random operations on a real mount against a model of the filesystem that fits on a page.
//!
//! The model knows what was signed, what the source holds now and what the daemon must think of each file.
//! Where it may think either (a page may still be cached), both outcomes are allowed; other bytes never are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise"
)]

mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::time::Duration;
use std::time::Instant;

use modelfs::digest::Algorithm;
use proptest::prelude::*;
use proptest::test_runner::Config;
use proptest::test_runner::TestRunner;
use support::CHUNK;
use support::mounted::Mounted;
use support::notice;
use support::random::Random;
use support::signing::Layout;
use support::signing::Signed;
use support::sys;

/// Names that operations choose from: files that may be signed, their directories, and what never is.
const NAMES: [&str; 9] = [
    "a",
    "b.bin",
    "d/c",
    "d/e/f",
    "d",
    "d/e",
    "d/x",
    "a/b",
    "model.sig",
];

/// How many of the names can be files.
const FILES: usize = 4;

/// How long the test goes on, so that a slow machine does fewer cases and not longer ones.
const LENGTH: Duration = Duration::from_secs(40);

#[derive(Clone, Debug)]
enum Op {
    Stat(usize),
    List(usize),
    Open(usize),
    Read { name: usize, at: usize, len: usize },
    Forget(usize),
    Tamper { name: usize, at: usize },
    Cut { name: usize, len: usize },
    Remove(usize),
    Restore(usize),
}

/// What the daemon must think of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Standing {
    Unread,
    Verified,
    /// Shards were read, and the kernel reads ahead as it likes: any may be verified, none is rejected.
    Sampled,
    Rejected,
    /// Any shard may be verified, rejected or neither.
    Mixed,
}

/// The filesystem as it should be.
struct Reference {
    signed: BTreeMap<&'static str, Vec<u8>>,
    source: BTreeMap<&'static str, Option<Vec<u8>>>,
    standing: BTreeMap<&'static str, Standing>,
    sharded: bool,
}

/// What may come of looking at a file's content.
#[derive(Debug, PartialEq)]
enum May {
    NoEntry,
    IsDirectory,
    NotDirectory,
    Truth,
    Eio,
    Either,
}

impl Reference {
    fn new(signed: BTreeMap<&'static str, Vec<u8>>, sharded: bool) -> Self {
        Self {
            source: signed.iter().map(|(n, b)| (*n, Some(b.clone()))).collect(),
            standing: signed.keys().map(|n| (*n, Standing::Unread)).collect(),
            signed,
            sharded,
        }
    }

    fn list(&self, dir: &str) -> Option<BTreeSet<String>> {
        let prefix = if dir.is_empty() {
            String::new()
        } else {
            format!("{dir}/")
        };
        let inside: BTreeSet<String> = self
            .signed
            .keys()
            .filter_map(|name| name.strip_prefix(&prefix))
            .map(|rest| rest.split('/').next().unwrap().to_owned())
            .collect();
        (!inside.is_empty()).then_some(inside)
    }

    fn find(&self, name: &str) -> Result<usize, May> {
        if let Some(bytes) = self.signed.get(name) {
            return Ok(bytes.len());
        }
        let through_a_file = name
            .match_indices('/')
            .any(|(at, _)| self.signed.contains_key(&name[..at]));
        Err(match self.list(name) {
            Some(_) => May::IsDirectory,
            None if through_a_file => May::NotDirectory,
            None => May::NoEntry,
        })
    }

    /// What opening, and reading of a range if any, may come to; and what the daemon then thinks.
    fn look(&mut self, name: &'static str, read: Option<Range<usize>>) -> May {
        if let Err(why) = self.find(name) {
            return why;
        }
        let (signed, source) = (&self.signed[name], self.source[name].as_ref());
        let intact = source == Some(signed);
        let standing = self.standing.get_mut(name).unwrap();
        let (may, next) = match (*standing, self.sharded, intact) {
            (Standing::Rejected, _, _) => (May::Eio, Standing::Rejected),
            (Standing::Verified, _, true) => (May::Truth, Standing::Verified),
            (Standing::Verified, _, false) => (May::Either, Standing::Verified),
            (Standing::Unread, false, true) => (May::Truth, Standing::Verified),
            (Standing::Unread, false, false) if source.is_some() => (May::Eio, Standing::Rejected),
            // A file that is not there was not found to be wrong: whether that lasts is not promised.
            (Standing::Unread, false, false) => (May::Eio, Standing::Mixed),
            (Standing::Unread | Standing::Sampled, true, true) => {
                let next = if read.is_some() {
                    Standing::Sampled
                } else {
                    *standing
                };
                (May::Truth, next)
            }
            (Standing::Unread, true, false) => match read {
                None => (May::Either, Standing::Unread),
                Some(range) => {
                    let range = range.start.min(signed.len())..range.end.min(signed.len());
                    let same = source.is_some_and(|bytes| bytes.get(range.clone()) == signed.get(range));
                    (if same { May::Either } else { May::Eio }, Standing::Mixed)
                }
            },
            (Standing::Sampled | Standing::Mixed, _, _) => (May::Either, Standing::Mixed),
        };
        *standing = next;
        may
    }
}

fn op() -> impl Strategy<Value = Op> {
    let name = || 0..NAMES.len();
    let file = || 0..FILES;
    let place = || prop_oneof![0..3 * CHUNK + 50, Just(0), Just(CHUNK - 1), Just(CHUNK)];
    prop_oneof![
        2 => name().prop_map(Op::Stat),
        1 => name().prop_map(Op::List),
        2 => name().prop_map(Op::Open),
        6 => (name(), place(), 1..2 * CHUNK).prop_map(|(name, at, len)| Op::Read { name, at, len }),
        2 => file().prop_map(Op::Forget),
        3 => (file(), place()).prop_map(|(name, at)| Op::Tamper { name, at }),
        1 => (file(), place()).prop_map(|(name, len)| Op::Cut { name, len }),
        1 => file().prop_map(Op::Remove),
        3 => file().prop_map(Op::Restore),
    ]
}

fn layout() -> impl Strategy<Value = Layout> {
    let shard = prop_oneof![Just(4096u64), Just(CHUNK as u64), 1000u64..300_000];
    prop_oneof![
        Just(Layout::FILES),
        Just(Layout::FILES.with(Algorithm::Blake3)),
        shard.prop_map(Layout::shards),
    ]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        1..3 * CHUNK,
        Just(1),
        Just(4096),
        Just(CHUNK - 1),
        Just(CHUNK),
        Just(CHUNK + 1),
        Just(2 * CHUNK),
    ]
}

#[test]
fn random_operations_agree_with_the_model_of_the_filesystem() {
    if !support::can_mount() {
        return;
    }
    let began = Instant::now();
    let mut cases = 0;
    let counts = std::cell::RefCell::new(BTreeMap::<String, u64>::new());
    // A few at a time, so that time bounds the whole; each failure is shrunk and printed with its input.
    while began.elapsed() < LENGTH && cases < 400 {
        let config = Config {
            cases: 20,
            failure_persistence: None,
            max_shrink_iters: 200,
            ..Config::default()
        };
        let inputs = (
            layout(),
            proptest::collection::vec(size(), FILES),
            any::<u64>(),
            proptest::collection::vec(op(), 5..40),
        );
        TestRunner::new(config)
            .run(&inputs, |(layout, sizes, seed, ops)| {
                play(layout, &sizes, seed, &ops, &counts);
                Ok(())
            })
            .unwrap_or_else(|why| panic!("{why}"));
        cases += 20;
    }
    notice(&format!(
        "reference model: {cases} cases in {:?}, outcomes {:?}",
        began.elapsed(),
        counts.borrow()
    ));
    for outcome in ["Truth", "Eio", "Either", "NoEntry", "IsDirectory", "NotDirectory"] {
        assert!(counts.borrow().contains_key(outcome), "never seen: {outcome}");
    }
}

fn play(
    layout: Layout,
    sizes: &[usize],
    seed: u64,
    ops: &[Op],
    counts: &std::cell::RefCell<BTreeMap<String, u64>>,
) {
    let mut random = Random::from_seed(seed);
    let files: Vec<(&str, Vec<u8>)> = NAMES
        .iter()
        .zip(sizes)
        .map(|(name, size)| (*name, random.bytes(*size)))
        .collect();
    let model = Signed::new(layout, &files);
    let mounted = Mounted::with(&model, &["--memory", "0"]);
    let sharded = layout.method != Layout::FILES.method;
    let mut reference = Reference::new(files.into_iter().collect(), sharded);
    for op in ops {
        step(op, &model, &mounted, &mut reference, counts);
    }
    assert!(!mounted.log().contains("panicked"), "{}", mounted.log());
    drop(mounted);
}

fn step(
    op: &Op,
    model: &Signed,
    mounted: &Mounted,
    reference: &mut Reference,
    counts: &std::cell::RefCell<BTreeMap<String, u64>>,
) {
    let expect = |what: &May| {
        *counts.borrow_mut().entry(format!("{what:?}")).or_default() += 1;
    };
    match *op {
        Op::Stat(name) => {
            let have = fs::symlink_metadata(mounted.file(NAMES[name]));
            match reference.find(NAMES[name]) {
                Ok(size) => assert_eq!(have.unwrap().len(), size as u64),
                Err(May::IsDirectory) => assert!(have.unwrap().is_dir()),
                Err(why) => agree(&why, have.map(|_| true)),
            }
        }
        Op::List(name) => {
            let dir = NAMES.get(name).filter(|_| name > 0).copied().unwrap_or_default();
            let have = fs::read_dir(mounted.file(dir)).map(|entries| {
                entries
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect::<BTreeSet<_>>()
            });
            assert_eq!(have.ok(), reference.list(dir));
        }
        Op::Open(name) => {
            let may = reference.look(NAMES[name], None);
            expect(&may);
            let opened = File::open(mounted.file(NAMES[name]));
            if may != May::IsDirectory {
                agree(&may, opened.map(|_| true));
            }
        }
        Op::Read { name, at, len } => {
            let name = NAMES[name];
            let before = reference.standing.get(name).copied();
            let may = reference.look(name, Some(at..at + len));
            expect(&may);
            let mut out = vec![0; len];
            let result = File::open(mounted.file(name)).and_then(|file| {
                let n = sys::read_full(&file, &mut out, at as u64)?;
                let truth = &reference.signed[name];
                let want = truth.get(at..).unwrap_or_default();
                Ok(out[..n] == want[..want.len().min(len)])
            });
            // A read past the end reads nothing, of a sharded file without asking the source.
            let past = reference.signed.get(name).is_some_and(|truth| at >= truth.len());
            if !(past && result.as_ref().is_ok_and(|right| *right)) {
                agree(&may, result);
            } else if let Some(before) = before.filter(|_| reference.sharded) {
                reference.standing.insert(name, before);
            }
        }
        Op::Forget(name) => {
            // Only an open file can be forgotten, and opening is looking.
            let may = reference.look(NAMES[name], None);
            let opened = File::open(mounted.file(NAMES[name]));
            agree(&may, opened.map(|file| sys::drop_cache(&file)).map(|()| true));
        }
        Op::Tamper { name, at } => change(model, reference, NAMES[name], |bytes| {
            let at = at.min(bytes.len().saturating_sub(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x10;
            }
        }),
        Op::Cut { name, len } => change(model, reference, NAMES[name], |bytes| bytes.truncate(len)),
        Op::Remove(name) => {
            fs::remove_file(model.source(NAMES[name])).ok();
            reference.source.insert(NAMES[name], None);
        }
        Op::Restore(name) => {
            let truth = reference.signed[NAMES[name]].clone();
            fs::write(model.source(NAMES[name]), &truth).unwrap();
            reference.source.insert(NAMES[name], Some(truth));
        }
    }
}

fn change(model: &Signed, reference: &mut Reference, name: &'static str, edit: impl FnOnce(&mut Vec<u8>)) {
    if let Some(bytes) = reference.source.get_mut(name).unwrap() {
        edit(bytes);
        fs::write(model.source(name), bytes).unwrap();
    }
}

/// Holds an outcome against what it may be; `Ok(false)` says that the bytes were other ones.
fn agree(may: &May, result: io::Result<bool>) {
    let errno = match result {
        Ok(right) => {
            assert!(right, "other bytes");
            None
        }
        Err(why) => Some(why.raw_os_error().unwrap()),
    };
    let fits = match may {
        May::Truth => errno.is_none(),
        May::Eio => errno == Some(libc::EIO),
        May::Either => errno.is_none() || errno == Some(libc::EIO),
        May::NoEntry => errno == Some(libc::ENOENT),
        May::NotDirectory => errno == Some(libc::ENOTDIR),
        May::IsDirectory => errno == Some(libc::EISDIR),
    };
    assert!(fits, "want {may:?}, got errno {errno:?}");
}
