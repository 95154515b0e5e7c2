//! Chaos: readers against an adversary that changes the source while they read.
//!
//! Whatever the adversary does, a reader gets the signed bytes or `EIO`: never another byte, never an end
//! of file before the signed size, never another error, never another size. And the harness has teeth: with
//! `--features planted-faults` the daemon misbehaves on purpose in each way that matters, and each time the
//! same harness must notice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise"
)]

mod adversary;
mod readers;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::RwLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use adversary::Adversary;
use adversary::Mutation;
use modelfs::digest::Algorithm;
use readers::Access;
use support::CHUNK;
use support::modelfs_command;
use support::mounted::Mounted;
use support::notice;
use support::random::Random;
use support::signing::Layout;
use support::signing::Signed;

/// How long the daemon stays mounted before the harness mounts anew, because what it has once rejected it
/// rejects until then. Shorter: more first verifications under attack; longer: more re-checks.
const EPOCH: Duration = Duration::from_millis(1500);

/// How many readers there are. More than the two cores of a small machine, so that they overtake another.
const READERS: usize = 3;

/// One set-up that the adversary attacks.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    layout: Layout,
    access: Access,
    /// Whether readers make the kernel forget pages, so that reads reach the daemon again.
    forget: bool,
    options: &'static [&'static str],
}

const SCENARIOS: [Scenario; 9] = [
    Scenario {
        name: "whole files, plain reads, pages kept",
        layout: Layout::FILES,
        access: Access::Plain,
        forget: false,
        options: &[],
    },
    Scenario {
        name: "whole files, plain reads, pages forgotten",
        layout: Layout::FILES.with(Algorithm::Blake2b),
        access: Access::Plain,
        forget: true,
        options: &["--verify", "background"],
    },
    Scenario {
        name: "whole files, O_DIRECT",
        layout: Layout::FILES,
        access: Access::Direct,
        forget: true,
        options: &[],
    },
    Scenario {
        name: "whole files, mappings",
        layout: Layout::FILES,
        access: Access::Mapped,
        forget: true,
        options: &[],
    },
    Scenario {
        name: "shards, plain reads, pages forgotten",
        layout: Layout::shards(300_000).with(Algorithm::Blake3),
        access: Access::Plain,
        forget: true,
        options: &[],
    },
    Scenario {
        name: "shards, mappings",
        layout: Layout::shards(CHUNK as u64),
        access: Access::Mapped,
        forget: true,
        options: &["--verify", "background"],
    },
    Scenario {
        name: "shards, plain reads, nothing held",
        layout: Layout::shards(4096),
        access: Access::Plain,
        forget: true,
        options: &["--memory", "0"],
    },
    Scenario {
        name: "shards, mappings, pinned while they are verified and opened",
        layout: Layout::shards(64 << 10),
        access: Access::Mapped,
        forget: false,
        options: &["--pin", "all", "--verify", "background"],
    },
    Scenario {
        name: "whole files, plain reads, tags remembered from mount to mount",
        layout: Layout::FILES,
        access: Access::Plain,
        forget: true,
        options: &["--state", STATE, "--memory", "1M"],
    },
];

/// Stands for a directory of the run's own.
const STATE: &str = "STATE";

/// What happened in a run.
#[derive(Debug, Default)]
struct Report {
    good: AtomicU64,
    refused: AtomicU64,
    mutations: [AtomicU64; Mutation::ALL.len()],
    violations: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Report {
    fn violation(&self, text: String) {
        let mut all = self.violations.lock().unwrap();
        if all.len() < 10 {
            all.push(text);
        }
        self.stop.store(true, Ordering::Relaxed);
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn mutations(&self) -> BTreeMap<String, u64> {
        Mutation::ALL
            .iter()
            .zip(&self.mutations)
            .map(|(kind, n)| (format!("{kind:?}"), n.load(Ordering::Relaxed)))
            .collect()
    }
}

/// What readers and the adversary share: the mount of the moment, and the truth.
struct Arena {
    model: Signed,
    scenario: Scenario,
    /// Held to read by whoever touches the mount or the source, to write by whoever mounts anew. Its value
    /// is where the mount is.
    mount: RwLock<PathBuf>,
    report: Report,
}

impl Arena {
    fn new(scenario: Scenario, random: &mut Random) -> Self {
        let files = [
            ("config.json", 1000),
            ("shard/edge-below.bin", CHUNK - 1),
            ("shard/edge-above.bin", 2 * CHUNK + 1),
            ("shard/large.bin", (3 << 20) + 4097),
            ("tokens.bin", 1 << 20),
        ]
        .map(|(name, size)| (name, random.bytes(size)));
        let model = Signed::new(scenario.layout, &files);
        for (name, bytes) in &model.files {
            let golden = model.dir().join("golden").join(name);
            fs::create_dir_all(golden.parent().unwrap()).unwrap();
            fs::write(golden, bytes).unwrap();
        }
        Self {
            model,
            scenario,
            mount: RwLock::default(),
            report: Report::default(),
        }
    }

    /// Runs readers and the adversary for so long, or until something is wrong.
    fn run(&self, length: Duration, fault: Option<&str>, random: &mut Random) {
        let deadline = Instant::now() + length;
        let adversary = Adversary::new(&self.model);
        std::thread::scope(|scope| {
            // Nobody may touch the mount before there is one.
            let mut guard = self.mount.write().unwrap();
            let mut own = random.fork();
            let adversary = &adversary;
            scope.spawn(move || {
                while !self.report.stopped() {
                    let _source = self.mount.read().unwrap();
                    let kind = adversary.strike(&mut own);
                    Report::count(&self.report.mutations[kind as usize]);
                }
            });
            for _ in 0..READERS {
                let mut own = random.fork();
                scope.spawn(move || {
                    while !self.report.stopped() {
                        readers::visit(self, &mut own);
                    }
                });
            }
            let mut warm = false;
            while Instant::now() < deadline && !self.report.stopped() {
                let mut command = modelfs_command();
                if let Some(fault) = fault {
                    command.env("MODELFS_PLANTED_FAULT", fault);
                }
                let state = self.model.dir().join("state");
                let options = self.scenario.options.iter().map(|&option| match option {
                    STATE => state.to_str().expect("test paths are text"),
                    option => option,
                });
                let options: Vec<_> = options.collect();
                let mounted = match Mounted::start(command, &self.model, &options) {
                    Ok(mounted) => mounted,
                    Err(outcome) => {
                        self.report
                            .violation(format!("an intact model does not mount: {outcome:?}"));
                        break;
                    }
                };
                *guard = mounted.path().to_owned();
                warm = !warm;
                if warm {
                    self.insist_on_everything(&mounted, "before the adversary began");
                }
                drop(guard);
                let epoch = (Instant::now() + EPOCH).min(deadline);
                while Instant::now() < epoch && !self.report.stopped() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                guard = self.mount.write().unwrap();
                if warm && !self.report.stopped() {
                    self.insist_on_everything(&mounted, "once the source was as it had been");
                }
                if mounted.log().contains("panicked") {
                    self.report.violation("the daemon panicked".to_owned());
                }
                if fault.is_none() && !self.report.stopped() {
                    mounted.unmount();
                }
            }
            self.report.stop.store(true, Ordering::Relaxed);
            drop(guard);
        });
    }

    /// Each file that was once verified must be readable whenever its source is intact.
    fn insist_on_everything(&self, mounted: &Mounted, when: &str) {
        for (name, bytes) in &self.model.files {
            let path = mounted.file(name);
            support::sys::drop_cache_at(&path);
            match fs::read(&path) {
                Ok(have) if have == *bytes => {}
                Ok(_) => self.report.violation(format!("{name} has other bytes {when}")),
                Err(why) => self
                    .report
                    .violation(format!("{name} does not read {when}: {why}")),
            }
        }
    }
}

/// The least that a run of one second must have seen, or it shows nothing.
struct Floor {
    good: u64,
    refused: u64,
    mutations: u64,
}

/// A tenth of what a slow two-core machine managed.
const FLOOR: Floor = Floor {
    good: 100,
    refused: 1,
    mutations: 10,
};

fn seconds() -> u64 {
    match std::env::var("MODELFS_CHAOS_SECONDS") {
        Ok(text) => text.parse().expect("MODELFS_CHAOS_SECONDS is a number"),
        Err(_) => 60,
    }
}

#[test]
fn readers_get_signed_bytes_or_an_error_whatever_happens_to_the_source() {
    if !support::can_mount() {
        return;
    }
    let mut random = Random::from_environment("chaos");
    let length = Duration::from_secs(seconds()) / SCENARIOS.len() as u32;
    let mut by_kind: BTreeMap<String, u64> = BTreeMap::new();
    for scenario in SCENARIOS {
        let arena = Arena::new(scenario, &mut random);
        arena.run(length, None, &mut random);
        let report = &arena.report;
        let mutations = report.mutations();
        let (good, refused) = (
            report.good.load(Ordering::Relaxed),
            report.refused.load(Ordering::Relaxed),
        );
        notice(&format!(
            "chaos, {}: {good} good reads, {refused} EIO, {} mutations {mutations:?}",
            scenario.name,
            mutations.values().sum::<u64>()
        ));
        let violations = report.violations.lock().unwrap();
        assert!(violations.is_empty(), "{}: {violations:#?}", scenario.name);
        let least = |per_second: u64| (length.as_secs_f64() * per_second as f64) as u64;
        assert!(good >= least(FLOOR.good), "too few good reads: {good}");
        // Where nobody makes the kernel forget, only what is opened for the first time can be refused.
        let refusals = least(FLOOR.refused) / if scenario.forget { 1 } else { 4 };
        assert!(refused >= refusals, "too few refusals: {refused}");
        let all = mutations.values().sum::<u64>();
        assert!(all >= least(FLOOR.mutations), "too few mutations: {all}");
        for (kind, n) in mutations {
            *by_kind.entry(kind).or_default() += n;
        }
    }
    for (kind, n) in by_kind {
        assert!(n > 0, "the adversary never did this: {kind}");
    }
}

#[test]
fn a_mount_made_under_attack_serves_signed_bytes_or_nothing() {
    if !support::can_mount() {
        return;
    }
    let mut random = Random::from_environment("mounting under attack");
    let length = Duration::from_secs(seconds().min(60)) / 6;
    for layout in [Layout::FILES, Layout::shards(100_000)] {
        let scenario = Scenario {
            layout,
            ..SCENARIOS[0]
        };
        let arena = Arena::new(scenario, &mut random);
        let adversary = Adversary::new(&arena.model);
        let stop = AtomicBool::new(false);
        let mut own = random.fork();
        let (mut mounts, mut refusals, mut good, mut refused) = (0, 0, 0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    adversary.strike(&mut own);
                }
            });
            let end = Instant::now() + length / 2;
            while Instant::now() < end {
                match Mounted::start(modelfs_command(), &arena.model, &[]) {
                    // Missing, a link or of another size at the moment.
                    Err(outcome) => {
                        assert!(matches!(outcome.code, Some(5..=7)), "{outcome:?}");
                        refusals += 1;
                    }
                    Ok(mounted) => {
                        mounts += 1;
                        for (name, truth) in &arena.model.files {
                            match fs::read(mounted.file(name)) {
                                Ok(bytes) => {
                                    assert!(bytes == *truth, "{name}: other bytes");
                                    good += 1;
                                }
                                Err(why) => {
                                    assert_eq!(why.raw_os_error(), Some(libc::EIO), "{name}: {why}");
                                    refused += 1;
                                }
                            }
                        }
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        notice(&format!(
            "mounting under attack: {mounts} mounts, {refusals} refusals, {good} good files, {refused} EIO"
        ));
        assert!(mounts > 0 && good > 0, "nothing was ever served");
    }
}

/// How long a planted fault may go unnoticed.
#[cfg(feature = "planted-faults")]
const PATIENCE: Duration = Duration::from_secs(15);

#[cfg(feature = "planted-faults")]
#[test]
fn every_planted_fault_is_caught() {
    if !support::can_mount() {
        return;
    }
    let mut random = Random::from_environment("planted faults");
    let mut missed = Vec::new();
    for fault in ["hash-then-reread", "verify-once", "short-reply", "mapped-source"] {
        // Readers that never ask twice have nothing to notice; all others must.
        for scenario in SCENARIOS.into_iter().filter(|scenario| scenario.forget) {
            let arena = Arena::new(scenario, &mut random);
            let began = Instant::now();
            arena.run(PATIENCE, Some(fault), &mut random);
            let violations = arena.report.violations.lock().unwrap();
            match violations.first() {
                Some(first) => {
                    // The beginning says it; what a child printed behind it reads like a result of ours.
                    let first: String = first.chars().take(60).collect();
                    notice(&format!(
                        "{fault} was caught after {:?} by {}: {first}",
                        began.elapsed(),
                        scenario.name
                    ));
                }
                None => missed.push(format!("{fault} by {}", scenario.name)),
            }
        }
    }
    assert_eq!(missed, Vec::<String>::new(), "the harness did not notice");
}

#[cfg(feature = "planted-faults")]
#[test]
fn a_panic_in_an_operation_is_eio_and_the_mount_lives_on() {
    if !support::can_mount() {
        return;
    }
    let mut random = Random::from_environment("planted panic");
    let arena = Arena::new(SCENARIOS[4], &mut random);
    let mut command = modelfs_command();
    command.env("MODELFS_PLANTED_FAULT", "panic");
    let mounted = Mounted::start(command, &arena.model, &[]).unwrap_or_else(|o| panic!("{o:?}"));
    let (mut good, mut refused) = (0, 0);
    for round in 0..2000 {
        let (name, truth) = random.one_of(&arena.model.files);
        let path = mounted.file(name);
        if round % 3 == 0 {
            support::sys::drop_cache_at(&path);
        }
        match fs::read(&path) {
            Ok(bytes) => {
                assert!(bytes == *truth, "{name}: other bytes");
                good += 1;
            }
            Err(why) => {
                assert_eq!(why.raw_os_error(), Some(libc::EIO), "{name}: {why}");
                refused += 1;
            }
        }
    }
    notice(&format!("planted panics: {good} good reads, {refused} EIO"));
    assert!(good > 100 && refused > 100, "{good} good reads, {refused} EIO");
    assert!(mounted.log().contains("panicked"), "a bug of ours is logged");
    mounted.unmount();
}

/// What an attacker tries who runs code in the server; see `src/mount/sandbox/break_out.rs`.
#[cfg(feature = "planted-faults")]
#[test]
fn every_planted_break_out_is_refused() {
    if !support::can_mount() {
        return;
    }
    let mut random = Random::from_environment("planted break-out");
    let arena = Arena::new(SCENARIOS[0], &mut random);
    let tried = |options: &[&str]| {
        let mut command = modelfs_command();
        command.env("MODELFS_PLANTED_FAULT", "break-out");
        let mounted = Mounted::start(command, &arena.model, options).unwrap_or_else(|o| panic!("{o:?}"));
        let began = Instant::now();
        while !mounted.log().contains("break-out ended") {
            assert!(began.elapsed() < PATIENCE, "{}", mounted.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        let log = mounted.log();
        mounted.unmount();
        outcomes(&log)
    };
    let mut confined = tried(&[]);
    assert_eq!(
        confined.remove("read-model").as_deref(),
        Some("done"),
        "what serving takes works"
    );
    all_are_refused(&confined, 50);
    // The same without a sandbox: what is refused above is refused by nothing else.
    let free = tried(&["--no-sandbox"]);
    let by_others: Vec<_> = free.iter().filter(|(_, outcome)| *outcome != "done").collect();
    notice(&format!(
        "{} ways out were refused; without a sandbox {} of them were open, and these were not: {by_others:?}",
        confined.len(),
        free.len() - 1 - by_others.len()
    ));
    let must_be_open: &[&str] = match support::is_root() {
        true => &[
            "read-secret",
            "write-model",
            "create",
            "chmod",
            "exec",
            "connect-network",
            "ptrace",
            "mount",
            "capset",
        ],
        false => &["read-world-readable", "exec", "connect-network", "ptrace"],
    };
    for name in must_be_open {
        assert_eq!(
            free.get(*name).map(String::as_str),
            Some("done"),
            "{name}: the attempt itself is wrong"
        );
    }
}

/// What became of each attempt that a log tells of.
#[cfg(feature = "planted-faults")]
fn outcomes(log: &str) -> BTreeMap<String, String> {
    log.lines()
        .filter_map(|line| line.split_once("break-out ")?.1.split_once(": "))
        .map(|(name, outcome)| (name.to_owned(), outcome.to_owned()))
        .collect()
}

#[cfg(feature = "planted-faults")]
fn all_are_refused(tried: &BTreeMap<String, String>, at_least: usize) {
    let refusals = [libc::EPERM, libc::EACCES, libc::ENOSYS].map(|errno| errno.to_string());
    let got_out: Vec<_> = tried
        .iter()
        .filter(|(_, outcome)| !refusals.contains(outcome))
        .collect();
    assert!(got_out.is_empty(), "got out: {got_out:?}");
    assert!(tried.len() >= at_least, "tried only {}: {tried:?}", tried.len());
}

/// What an attacker tries who runs code in the privileged part, which needs files and mounts but starts nothing.
#[cfg(feature = "planted-faults")]
#[test]
fn every_planted_break_out_of_the_privileged_part_is_refused() {
    if !support::can_mount() {
        return;
    }
    if !support::is_root() {
        return notice("the privileged part of an ordinary user has no filter: it runs fusermount3");
    }
    let mut random = Random::from_environment("planted break-out of the part");
    let arena = Arena::new(SCENARIOS[0], &mut random);
    let tried = |options: &[&str]| {
        let mut command = modelfs_command();
        command.env("MODELFS_PLANTED_FAULT", "break-out-of-part");
        let mut mounted = Mounted::start(command, &arena.model, options).unwrap_or_else(|o| panic!("{o:?}"));
        // It tries when it is asked to unmount.
        support::sys::signal(mounted.pid(), rustix::process::Signal::TERM);
        assert_eq!(mounted.wait().code(), Some(0));
        let log = mounted.log();
        assert!(log.contains("break-out ended"), "{log}");
        outcomes(&log)
    };
    all_are_refused(&tried(&[]), 38);
    let free = tried(&["--no-sandbox"]);
    for name in [
        "exec",
        "connect-network",
        "socket-unix",
        "ptrace",
        "mount",
        "memfd_create",
    ] {
        let outcome = free.get(name).map(String::as_str);
        assert_eq!(outcome, Some("done"), "{name}: the attempt itself is wrong");
    }
}

/// The same in the commands that look at a bundle and a model without mounting it.
#[cfg(feature = "planted-faults")]
#[test]
fn every_planted_break_out_of_verify_and_inspect_is_refused() {
    let mut random = Random::from_environment("planted break-out of commands");
    let arena = Arena::new(SCENARIOS[0], &mut random);
    let model = &arena.model;
    let tried = |command: &str, options: &[&str]| {
        let mut run = modelfs_command();
        run.arg(command)
            .args(&model.trust)
            .args(options)
            .arg(&model.bundle)
            .env("MODELFS_PLANTED_FAULT", "break-out");
        if command == "verify" {
            run.arg(&model.model);
        }
        let outcome = support::run(&mut run);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stderr.contains("break-out ended"), "{outcome:?}");
        outcomes(&outcome.stderr)
    };
    let mut confined = tried("verify", &[]);
    assert_eq!(confined.remove("read-model").as_deref(), Some("done"));
    all_are_refused(&confined, 50);
    all_are_refused(&tried("inspect", &[]), 45);
}
