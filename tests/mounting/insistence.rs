//! Readers that ask for refused bytes again and again, as the kernel does for a mapping that it populates.

use std::fs;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::support;
use crate::support::modelfs;
use crate::support::mounted::Mounted;
use crate::support::mounted::PATIENCE;
use crate::support::notice;
use crate::support::random::Random;
use crate::support::signing::Layout;
use crate::support::signing::Signed;
use crate::support::sys;

const PAGE: u64 = 4096;
const SHARD: usize = 300_000;
/// Where the one byte is that is not what was signed: in the third shard.
const DAMAGED: usize = 2 * SHARD + 100_000;

/// A program that never hears of its error, or does not heed it. It asks on a thread other than its first, as loaders do.
struct Reader {
    name: &'static str,
    script: &'static str,
    /// Which signal ends it, and whether it goes to the thread that the log names.
    end: Signal,
    by_thread: bool,
}

const READERS: [Reader; 3] = [
    Reader {
        name: "a populated mapping, in a program that handles SIGTERM",
        script: "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n\
                 run(lambda: mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED | 0x8000, mmap.PROT_READ))",
        end: Signal::KILL,
        by_thread: true,
    },
    Reader {
        name: "a populated mapping",
        script: "run(lambda: mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE | 0x8000, mmap.PROT_READ))",
        end: Signal::TERM,
        by_thread: false,
    },
    Reader {
        name: "reads in a loop",
        script: "def read():\n    while True:\n        try: os.pread(f.fileno(), 1, 700000)\n        except OSError: pass\nrun(read)",
        end: Signal::TERM,
        by_thread: false,
    },
];

const PRELUDE: &str = "import mmap, os, sys, threading\nf = open(sys.argv[1], 'rb')\n\
                       def run(it):\n    t = threading.Thread(target=it)\n    t.start()\n    t.join()\n";

/// A process that is gone when the test is.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What the report says of the threads of one process.
fn asked_by(child: &Child, status: &Value) -> Value {
    let is_its = |asked: &&Value| {
        let thread = asked["thread"].as_u64().unwrap();
        fs::exists(format!("/proc/{}/task/{thread}", child.id())).unwrap()
    };
    status["asked_again"]
        .as_array()
        .unwrap()
        .iter()
        .find(is_its)
        .unwrap_or_else(|| panic!("{status}"))
        .clone()
}

/// The first answer that is one, in time.
fn soon<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

/// Lines of the log that tell of readers like these.
fn told(mounted: &Mounted) -> Vec<Value> {
    let log = mounted.log();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|line: &Value| line["event"] == "asked-again")
        .collect()
}

/// How long a process has computed, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// How long most reads of something take that the kernel has not cached.
fn typical(file: &File, at: usize, truth: &[u8]) -> Duration {
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            sys::drop_cache(file);
            let mut out = [0; 100];
            let began = Instant::now();
            assert_eq!(sys::read_full(file, &mut out, at as u64).unwrap(), out.len());
            assert!(out[..] == truth[at..at + out.len()]);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// A reader that was found out: what the report says of it.
fn found_out(mounted: &Mounted, child: &mut Child, reader: &Reader, before: usize) -> Option<Value> {
    let began = Instant::now();
    let line = loop {
        if let Some(line) = told(mounted).get(before) {
            break line.clone();
        }
        if let Some(status) = child.try_wait().unwrap() {
            notice(&format!(
                "{}: left out, this kernel ends it: {status}",
                reader.name
            ));
            return None;
        }
        assert!(began.elapsed() < PATIENCE, "{}: not found out", reader.name);
        sleep(Duration::from_millis(20));
    };
    let asked = asked_by(child, &mounted.status());
    assert_eq!(
        (line["level"].as_str(), line["path"].as_str()),
        (Some("error"), Some("weights.bin"))
    );
    let message = line["message"].as_str().unwrap();
    let thread = asked["thread"].as_u64().unwrap();
    for part in [
        "weights.bin [",
        &format!("kill -KILL {thread})"),
        "MAP_POPULATE",
        "--verify eager",
        "modelfs verify",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(asked["path"], "weights.bin");
    let (start, end) = (asked["start"].as_u64().unwrap(), asked["end"].as_u64().unwrap());
    let shard = 2 * SHARD as u64 / PAGE * PAGE..(3 * SHARD as u64).next_multiple_of(PAGE);
    assert!(start < end && start < shard.end && end > shard.start, "{asked}");
    let outcome = modelfs(["status".as_ref(), mounted.path().as_os_str()]);
    let said = format!("  asked again: weights.bin [{start}..{end}): refused ");
    assert!(outcome.stdout.contains(&said), "{}", outcome.stdout);
    Some(asked)
}

#[test]
fn who_asks_again_and_again_for_what_is_refused_is_named_and_costs_nobody_else_time() {
    if !support::can_mount() {
        return;
    }
    let mut random = Random::from_environment("insistence");
    let files = [
        ("other.bin", random.bytes(SHARD)),
        ("weights.bin", random.bytes(4 * SHARD)),
    ];
    let model = Signed::new(Layout::shards(SHARD as u64), &files);
    let truth = model.content("weights.bin");
    let mut bytes = truth.to_vec();
    bytes[DAMAGED] ^= 1;
    fs::write(model.source("weights.bin"), bytes).unwrap();
    // Nothing is held, so that each read of the others goes the way that the insistent reader goes, too.
    let mounted = Mounted::with(&model, &["--memory", "0", "--log-format", "json"]);
    for reader in READERS {
        let before = told(&mounted).len();
        let mut started = Started(
            Command::new("python3")
                .args(["-c", &(PRELUDE.to_owned() + reader.script)])
                .arg(mounted.file("weights.bin"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("python3 starts"),
        );
        let child = &mut started.0;
        let Some(asked) = found_out(&mounted, child, &reader, before) else {
            continue;
        };

        // Neither process computes, and others are answered as ever: in that file, and in another.
        let computed = || ticks(mounted.pid()) + ticks(child.id());
        let (ticks_before, status) = (computed(), mounted.status());
        sleep(Duration::from_secs(1));
        let busy = computed() - ticks_before;
        assert!(busy < 10, "{}: {busy} hundredths of a second in one", reader.name);
        let times = |status: &Value| asked_by(child, status)["times"].as_u64().unwrap();
        let more = times(&mounted.status()) - times(&status);
        assert!((2..100).contains(&more), "{}: asked {more} times", reader.name);
        for (name, at) in [("other.bin", 0), ("weights.bin", SHARD)] {
            let file = File::open(mounted.file(name)).unwrap();
            let time = typical(&file, at, model.content(name));
            assert!(
                time < Duration::from_millis(40),
                "{}: {name} took {time:?}",
                reader.name
            );
        }

        if reader.end == Signal::KILL {
            sys::signal(child.id(), Signal::TERM);
            sleep(Duration::from_millis(300));
            assert_eq!(
                child.try_wait().unwrap(),
                None,
                "a signal that is handled waits for the call to end"
            );
        }
        let to = match reader.by_thread {
            true => asked["thread"].as_u64().unwrap().try_into().unwrap(),
            false => child.id(),
        };
        sys::signal(to, reader.end);
        let status = soon("the end of the reader", || child.try_wait().unwrap());
        assert_eq!(status.signal(), Some(reader.end.as_raw()), "{}", reader.name);
    }
    // Each was named once in the log, and none is in the report any more after a while.
    let lines = told(&mounted);
    let threads: std::collections::BTreeSet<&str> = lines
        .iter()
        .map(|line| line["message"].as_str().unwrap())
        .collect();
    assert_eq!(threads.len(), lines.len());
    assert!(lines.len() <= READERS.len() + 1, "{lines:?}");
    soon("an empty report", || {
        (mounted.status()["asked_again"] == serde_json::json!([])).then_some(())
    });
    mounted.unmount();
}
