//! A source that lies, fails or hangs at a chosen read. A disk cannot be told to; a filesystem of the
//! test's own can, so these attacks happen every time and not only when a race is won.

use std::fs;
use std::fs::File;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use fuser::Errno;

use crate::assert_errno;
use crate::support;
use crate::support::CHUNK;
use crate::support::modelfs_command;
use crate::support::mounted::Mounted;
use crate::support::notice;
use crate::support::random::Random;
use crate::support::signing::Layout;
use crate::support::signing::Signed;
use crate::support::source::Answer;
use crate::support::source::Gate;
use crate::support::source::Source;
use crate::support::sys;

const LAYOUTS: [Layout; 2] = [Layout::FILES, Layout::shards(2 * CHUNK as u64)];

/// A model whose source is this test.
fn model(layout: Layout) -> Signed {
    let mut random = Random::from_environment("unreliable source");
    Signed::new(
        layout,
        &[
            ("a.bin", random.bytes(5 * CHUNK + 9)),
            ("b.bin", random.bytes(3 * CHUNK)),
            ("c.json", random.bytes(100)),
        ],
    )
}

fn source(model: &Signed, answer: Box<Answer>) -> Source {
    Source::mount(&model.model, &model.files, answer)
}

/// Reads a file from end to end past every cache, twice: whatever comes must be true.
fn only_truth(mounted: &Mounted, model: &Signed, name: &str) -> (usize, usize) {
    let truth = model.content(name);
    let (mut good, mut refused) = (0, 0);
    for _ in 0..2 {
        let Ok(file) = File::open(mounted.file(name)) else {
            refused += 1;
            continue;
        };
        for at in (0..truth.len()).step_by(CHUNK / 2) {
            sys::drop_cache(&file);
            let mut bytes = vec![0; CHUNK];
            match sys::read_full(&file, &mut bytes, at as u64) {
                Ok(n) => {
                    let want = &truth[at..truth.len().min(at + CHUNK)];
                    assert_eq!(n, want.len(), "{name}: a short read at {at}");
                    assert!(bytes[..n] == *want, "{name}: a wrong byte after {at}");
                    good += 1;
                }
                Err(why) => {
                    assert_eq!(why.raw_os_error(), Some(libc::EIO), "{name}: {why}");
                    refused += 1;
                }
            }
        }
        assert_eq!(file.metadata().unwrap().len(), truth.len() as u64);
    }
    (good, refused)
}

#[test]
fn a_source_that_lies_at_one_read_only_is_never_believed() {
    if !support::can_mount() {
        return;
    }
    // Whoever hashes one read and answers from another believes the lie at one of these.
    for layout in LAYOUTS {
        for lie in 0..6 {
            let model = model(layout);
            let _source = source(
                &model,
                Box::new(move |ask| Ok(if ask.nth == lie { ask.lie() } else { ask.truth() })),
            );
            let mounted = Mounted::new(&model);
            for name in ["a.bin", "b.bin", "c.json"] {
                only_truth(&mounted, &model, name);
            }
            assert!(!mounted.log().contains("panicked"));
        }
    }
}

#[test]
fn a_source_that_lies_every_other_time_is_never_believed() {
    if !support::can_mount() {
        return;
    }
    for layout in LAYOUTS {
        for parity in [0, 1] {
            let model = model(layout);
            let lie = move |nth: u32| nth % 2 == parity;
            let _source = source(
                &model,
                Box::new(move |ask| Ok(if lie(ask.nth) { ask.lie() } else { ask.truth() })),
            );
            let mounted = Mounted::new(&model);
            for name in ["a.bin", "b.bin", "c.json"] {
                only_truth(&mounted, &model, name);
            }
        }
    }
}

#[test]
fn reads_are_whole_or_eio() {
    if !support::can_mount() {
        return;
    }
    // The file ends early for the daemon, at every read or after the first pass.
    for layout in LAYOUTS {
        for from in [0, 1, 2] {
            let model = model(layout);
            let _source = source(
                &model,
                Box::new(move |ask| {
                    let mut bytes = ask.truth();
                    if ask.nth >= from && ask.offset >= 2 * CHUNK {
                        bytes.truncate(bytes.len() / 2);
                    }
                    Ok(bytes)
                }),
            );
            let mounted = Mounted::new(&model);
            for name in ["a.bin", "b.bin", "c.json"] {
                only_truth(&mounted, &model, name);
            }
        }
    }
}

#[test]
fn an_error_of_the_source_is_eio_and_passes_with_it() {
    if !support::can_mount() {
        return;
    }
    for layout in LAYOUTS {
        for errno in [
            Errno::EIO,
            Errno::EACCES,
            Errno::ENOENT,
            Errno::ESTALE,
            Errno::EINVAL,
        ] {
            let model = model(layout);
            let broken = Arc::new(AtomicBool::new(false));
            let fails = Arc::clone(&broken);
            let _source = source(
                &model,
                Box::new(move |ask| match fails.load(Ordering::Relaxed) {
                    true => Err(errno),
                    false => Ok(ask.truth()),
                }),
            );
            let mounted = Mounted::with(&model, &["--memory", "1M"]);
            let (_, refused) = only_truth(&mounted, &model, "a.bin");
            assert_eq!(refused, 0, "{layout:?}: a source that works");
            broken.store(true, Ordering::Relaxed);
            // One file that was verified and one that nobody has read.
            only_truth(&mounted, &model, "a.bin");
            let (good, _) = only_truth(&mounted, &model, "b.bin");
            assert_eq!(good, 0, "nothing of a file that nobody could read");
            broken.store(false, Ordering::Relaxed);
            let (_, refused) = only_truth(&mounted, &model, "a.bin");
            assert_eq!(refused, 0, "{layout:?}: a source that works again");
        }
    }
}

/// What a first attempt left in the page cache before it failed must be gone when the second one has succeeded.
#[test]
fn lies_of_an_attempt_that_failed_are_gone_when_the_next_one_succeeds() {
    if !support::can_mount() {
        return;
    }
    let model = Signed::new(
        Layout::FILES,
        &[("a.bin", Random::from_environment("attempts").bytes(9 << 20))],
    );
    let honest = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&honest);
    let _source = source(
        &model,
        Box::new(move |ask| match says.load(Ordering::Relaxed) {
            true => Ok(ask.truth()),
            false if ask.offset < 6 << 20 => Ok(ask.lie()),
            false => Err(Errno::EIO),
        }),
    );
    let mounted = Mounted::new(&model);
    for _ in 0..3 {
        let opened = File::open(mounted.file("a.bin"));
        assert_eq!(
            opened.map(drop).map_err(|e| e.raw_os_error()),
            Err(Some(libc::EIO))
        );
    }
    honest.store(true, Ordering::Relaxed);
    let file = File::open(mounted.file("a.bin")).unwrap();
    let truth = model.content("a.bin");
    let mut bytes = vec![0; truth.len()];
    assert_eq!(sys::read_full(&file, &mut bytes, 0).unwrap(), truth.len());
    assert!(bytes == truth, "by read");
    let map = sys::Mapping::read(&file, libc::MAP_SHARED).unwrap();
    bytes.fill(0);
    map.copy(0, &mut bytes);
    assert!(bytes == truth, "by mapping");
}

#[test]
fn a_hanging_source_does_not_stop_other_files() {
    if !support::can_mount() {
        return;
    }
    for (layout, opening) in [
        (LAYOUTS[0], false),
        (LAYOUTS[1], false),
        (LAYOUTS[0], true),
        (LAYOUTS[1], true),
    ] {
        let model = model(layout);
        let gate = Arc::new(Gate::default());
        let closed = Arc::clone(&gate);
        let _source = source(
            &model,
            Box::new(move |ask| {
                if ask.name == "a.bin" && ask.opening == opening {
                    closed.pass();
                }
                Ok(ask.truth())
            }),
        );
        let mounted = Mounted::with(&model, &["--threads", "2"]);
        let path = mounted.file("a.bin");
        std::thread::scope(|scope| {
            // More than there are threads for, in the daemon and in its loop.
            let stuck: Vec<_> = (0..20)
                .map(|_| {
                    let path = &path;
                    scope.spawn(move || fs::read(path))
                })
                .collect();
            sleep(Duration::from_millis(300));
            let began = Instant::now();
            for name in ["b.bin", "c.json"] {
                assert!(
                    fs::read(mounted.file(name)).unwrap() == model.content(name),
                    "{name}"
                );
            }
            assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 3);
            assert_eq!(fs::metadata(&path).unwrap().len(), (5 * CHUNK + 9) as u64);
            mounted.status();
            let took = began.elapsed();
            assert!(took < Duration::from_secs(5), "the others waited {took:?}");
            assert!(
                stuck.iter().all(|reader| !reader.is_finished()),
                "the source really hangs"
            );
            gate.open();
            for reader in stuck {
                match reader.join().unwrap() {
                    Ok(bytes) => assert!(bytes == model.content("a.bin")),
                    Err(why) => assert_eq!(why.raw_os_error(), Some(libc::EIO), "{why}"),
                }
            }
        });
        assert!(
            fs::read(&path).unwrap() == model.content("a.bin"),
            "and then it works"
        );
        mounted.unmount();
    }
}

#[test]
fn a_source_that_never_answers_costs_its_readers_eio_after_a_time() {
    if !support::can_mount() {
        return;
    }
    let model = model(Layout::FILES);
    let gate = Arc::new(Gate::default());
    let closed = Arc::clone(&gate);
    let _source = source(
        &model,
        Box::new(move |ask| {
            if ask.name == "a.bin" {
                closed.pass();
            }
            Ok(ask.truth())
        }),
    );
    let mounted = Mounted::new(&model);
    let began = Instant::now();
    assert_errno(
        File::open(mounted.file("a.bin")).map(drop),
        libc::EIO,
        "a source that never answers",
    );
    let took = began.elapsed();
    assert!(took < Duration::from_secs(60), "the reader waited {took:?}");
    gate.open();
}

#[test]
fn a_source_that_never_changes_is_served_whole() {
    if !support::can_mount() {
        return;
    }
    // The harness itself: without an attack, nothing is refused.
    for layout in LAYOUTS {
        let model = model(layout);
        let _source = source(&model, Box::new(|ask| Ok(ask.truth())));
        let mounted =
            Mounted::start(modelfs_command(), &model, &[]).unwrap_or_else(|o| panic!("no mount: {o:?}"));
        for name in ["a.bin", "b.bin", "c.json"] {
            let (good, refused) = only_truth(&mounted, &model, name);
            assert!(good > 0 && refused == 0, "{name}: {good} good, {refused} refused");
        }
        mounted.unmount();
    }
}

#[test]
fn running_out_of_descriptors_refuses_reads_and_breaks_nothing() {
    if !support::can_mount() {
        return;
    }
    let names: Vec<String> = (0..200).map(|n| format!("{n}.bin")).collect();
    let mut random = Random::from_environment("descriptors");
    let files: Vec<(&str, Vec<u8>)> = names
        .iter()
        .map(|name| (name.as_str(), random.bytes(5000)))
        .collect();
    for layout in LAYOUTS {
        let model = Signed::new(layout, &files);
        // `prlimit` starts the program in its own place, so the child is the daemon all the same.
        let mut command = Command::new("prlimit");
        command
            .args(["--nofile=40:40", support::MODELFS])
            .env("HOME", "/nonexistent");
        let mounted = Mounted::start(command, &model, &[]).unwrap_or_else(|o| panic!("no mount: {o:?}"));
        let mut held = Vec::new();
        let mut refused = 0;
        for (name, truth) in &model.files {
            match File::open(mounted.file(name)) {
                Ok(file) => {
                    let mut bytes = vec![0; truth.len()];
                    match sys::read_full(&file, &mut bytes, 0) {
                        Ok(n) => assert!(bytes[..n] == *truth, "{name}"),
                        Err(why) => {
                            assert_eq!(why.raw_os_error(), Some(libc::EIO), "{name}: {why}");
                            refused += 1;
                        }
                    }
                    held.push(file);
                }
                Err(why) => {
                    assert_eq!(why.raw_os_error(), Some(libc::EIO), "{name}: {why}");
                    refused += 1;
                }
            }
        }
        notice(&format!(
            "200 files open with 40 descriptors: {refused} were refused"
        ));
        held.clear();
        // What failed for want of a descriptor was not found to be wrong. The daemon closes files in the
        // background, so it may want for one a little longer.
        let began = Instant::now();
        for (name, truth) in &model.files {
            let bytes = loop {
                match fs::read(mounted.file(name)) {
                    Ok(bytes) => break bytes,
                    Err(why) if began.elapsed() > Duration::from_secs(10) => panic!("{name}: {why}"),
                    Err(_) => sleep(Duration::from_millis(10)),
                }
            };
            assert!(bytes == *truth, "{name}");
        }
        mounted.unmount();
    }
}
