//! What lies in memory and what is remembered: pinned files, held bytes, the state directory.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use crate::sandbox::wait_until;
use crate::support::CHUNK;
use crate::support::can_mount;
use crate::support::modelfs;
use crate::support::modelfs_command;
use crate::support::mounted::Mounted;
use crate::support::notice;
use crate::support::random::Random;
use crate::support::signing::Layout;
use crate::support::signing::Signed;
use crate::support::sys;

/// Larger than what is read past the page cache, and no multiple of anything.
const LARGE: usize = (9 << 20) + 12_345;

fn model(layout: Layout) -> Signed {
    let mut random = Random::from_environment("memory");
    let files = [
        ("large.bin", LARGE),
        ("edge.bin", 2 << 20),
        ("small.bin", 1000),
        ("one.bin", 1),
    ];
    Signed::new(layout, &files.map(|(name, size)| (name, random.bytes(size))))
}

fn status(mounted: &Mounted) -> Value {
    let path = mounted.path().to_str().expect("test paths are text");
    let said = modelfs(["status", "--json", path]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let value: Value = serde_json::from_str(&said.stdout).expect("status is JSON");
    let mounts = value.get("mounts").and_then(Value::as_array).cloned();
    mounts.and_then(|mounts| mounts.first().cloned()).unwrap_or(value)
}

fn number(status: &Value, pointer: &str) -> u64 {
    let found = status.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("{pointer} in {status}"))
}

/// Every file through every offset class, by read and by mapping.
fn insist(mounted: &Mounted, model: &Signed) {
    for (name, truth) in &model.files {
        let file = File::open(mounted.file(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(file.metadata().unwrap().len(), truth.len() as u64);
        let mut all = vec![0; truth.len() + 100];
        assert_eq!(sys::read_full(&file, &mut all, 0).unwrap(), truth.len());
        assert!(all[..truth.len()] == truth[..], "{name}");
        let map = sys::Mapping::read(&file, libc::MAP_SHARED).unwrap();
        for at in [0, 4095, CHUNK - 7, (2 << 20) - 1, truth.len().saturating_sub(5)] {
            let end = truth.len().min(at + 10);
            if at < end {
                let mut got = vec![0; end - at];
                map.copy(at, &mut got);
                assert!(got == truth[at..end], "{name} at {at}");
            }
        }
    }
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn what_is_verified_lies_in_the_page_cache_and_what_differs_never_does() {
    if !can_mount() {
        return;
    }
    let model = model(Layout::FILES);
    let mounted = Mounted::new(&model);
    let truth = model.content("large.bin");
    let file = File::open(mounted.file("large.bin")).unwrap();
    let report = status(&mounted);
    assert_eq!(
        number(&report, "/bytes/served"),
        LARGE as u64,
        "at once: {report}"
    );
    assert_eq!(number(&report, "/bytes/held"), 0, "{report}");
    fs::write(model.source("large.bin"), vec![0xff; LARGE]).unwrap();
    let mut bytes = vec![0; LARGE];
    assert_eq!(sys::read_full(&file, &mut bytes, 0).unwrap(), LARGE);
    assert!(bytes == truth);
    assert_eq!(
        number(&status(&mounted), "/bytes/served"),
        LARGE as u64,
        "nobody asked again"
    );
    sys::drop_cache(&file);
    let read = sys::read_full(&file, &mut bytes, 0);
    assert_eq!(
        read.map_err(|e| e.raw_os_error()),
        Err(Some(libc::EIO)),
        "asked again, it has changed"
    );
    drop(file);
    mounted.unmount();

    // The same file, of which every byte differs: no way in while it is hashed, nor afterwards.
    let refused = Mounted::new(&model);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let opened = File::open(refused.file("large.bin"));
                    assert_eq!(
                        opened.map(drop).map_err(|e| e.raw_os_error()),
                        Err(Some(libc::EIO))
                    );
                }
            });
        }
    });
    assert_eq!(number(&status(&refused), "/bytes/served"), 0);
    refused.unmount();
}

#[test]
fn pinned_files_are_what_was_signed_and_never_change() {
    if !can_mount() {
        return;
    }
    for (layout, option) in [
        (Layout::FILES, "auto"),
        (Layout::FILES, "all"),
        (Layout::shards(64 << 10), "all"),
        (Layout::shards(1 << 20), "all"),
    ] {
        let model = model(layout);
        let mounted = Mounted::with(&model, &["--pin", option]);
        insist(&mounted, &model);
        let report = status(&mounted);
        if number(&report, "/pinned/files") == 0 {
            assert!(!rustix::process::geteuid().is_root(), "root can pin: {report}");
            notice("only root can pin files: nothing was pinned here");
            return;
        }
        assert_eq!(number(&report, "/pinned/files"), 4, "{report}");
        assert_eq!(
            number(&report, "/bytes/served"),
            0,
            "the kernel asked for nothing: {report}"
        );
        for (name, truth) in &model.files {
            fs::write(model.source(name), vec![0xff; truth.len()]).unwrap();
            sys::drop_cache_at(&mounted.file(name));
        }
        insist(&mounted, &model);
        mounted.unmount();
        let refused = Mounted::with(&model, &["--pin", option]);
        for (name, _) in &model.files {
            let read = fs::read(refused.file(name));
            assert_eq!(read.map_err(|e| e.raw_os_error()), Err(Some(libc::EIO)), "{name}");
        }
        assert_eq!(number(&status(&refused), "/pinned/files"), 0);
        refused.unmount();
    }
}

#[test]
fn files_are_pinned_whenever_they_were_verified_and_whatever_is_remembered_of_them() {
    if !can_mount() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return notice("only root can pin files: nothing was pinned here");
    }
    for layout in [Layout::FILES, Layout::shards(1 << 20)] {
        let model = model(layout);
        let state = state_of(&model);
        let state = state.to_str().expect("test paths are text");
        let all: &[&str] = &["--pin", "all"];
        for options in [
            &["--verify", "eager"][..],
            &["--verify", "background"],
            &["--state", state],
            &["--state", state, "--verify", "background"],
        ] {
            let mounted = Mounted::with(&model, &[all, options].concat());
            if options.contains(&"background") {
                wait_until("all is verified", || {
                    number(&status(&mounted), "/files/unverified") == 0
                });
            }
            insist(&mounted, &model);
            let report = status(&mounted);
            assert_eq!(number(&report, "/pinned/files"), 4, "{options:?}: {report}");
            assert_eq!(number(&report, "/bytes/served"), 0, "{options:?}: {report}");
            let size: usize = model.files.iter().map(|(_, bytes)| bytes.len()).sum();
            assert_eq!(
                number(&report, "/bytes/hashed"),
                size as u64,
                "{options:?}: {report}"
            );
            mounted.unmount();
        }
    }
}

#[test]
fn what_cannot_be_pinned_is_served_like_any_other() {
    if !can_mount() {
        return;
    }
    // Larger than the budget; shards that share pages.
    for (layout, options) in [
        (Layout::FILES, ["--pin", "all", "--memory", "4M"]),
        (Layout::shards(100_000), ["--pin", "all", "--memory", "100M"]),
    ] {
        let model = model(layout);
        let mounted = Mounted::with(&model, &options);
        insist(&mounted, &model);
        let report = status(&mounted);
        assert!(number(&report, "/pinned/files") < 4, "{report}");
        assert!(number(&report, "/bytes/served") > 0, "{report}");
        mounted.unmount();
    }
}

#[test]
fn what_was_hashed_answers_the_reads_that_follow() {
    if !can_mount() {
        return;
    }
    for layout in [Layout::FILES, Layout::shards(1 << 20)] {
        let model = model(layout);
        for (name, _) in &model.files {
            sys::drop_cache_at(&model.source(name));
        }
        let mounted = Mounted::with(&model, &["--memory", "64M"]);
        for (name, truth) in &model.files {
            assert!(fs::read(mounted.file(name)).unwrap() == *truth, "{name}");
        }
        let report = status(&mounted);
        let read: u64 = ["direct", "cached", "buffered"]
            .map(|way| number(&report, &format!("/source/{way}")))
            .iter()
            .sum();
        let size: usize = model.files.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(read, size as u64, "each byte is read once: {report}");
        mounted.unmount();
    }
}

/// Where a run remembers.
fn state_of(model: &Signed) -> PathBuf {
    model.dir().join("state")
}

fn mount_with_state(model: &Signed) -> Mounted {
    let state = state_of(model);
    Mounted::with(model, &["--state", state.to_str().expect("test paths are text")])
}

#[test]
fn what_was_verified_once_is_not_hashed_again_and_later_changes_are_met() {
    if !can_mount() {
        return;
    }
    for layout in [Layout::FILES, Layout::shards(1 << 20)] {
        let model = model(layout);
        let first = mount_with_state(&model);
        insist(&first, &model);
        first.unmount();
        let second = mount_with_state(&model);
        insist(&second, &model);
        let hashed = number(&status(&second), "/bytes/hashed");
        assert!(hashed <= 1001, "only small files are hashed again: {hashed}");
        second.unmount();
        let at = (5 << 20) + 3;
        flip(&model.source("large.bin"), at);
        let third = mount_with_state(&model);
        let file = File::open(third.file("large.bin")).unwrap();
        let truth = model.content("large.bin");
        let mut page = [0; 4096];
        file.read_exact_at(&mut page, 0).unwrap();
        assert!(page[..] == truth[..4096]);
        let met = file.read_exact_at(&mut page, at).map_err(|e| e.raw_os_error());
        assert_eq!(met, Err(Some(libc::EIO)));
        drop(file);
        third.unmount();
    }
}

#[test]
fn whatever_happens_to_the_remembered_tags_readers_get_signed_bytes() {
    if !can_mount() {
        return;
    }
    let model = model(Layout::FILES);
    mount_and_read(&model);
    let mut random = Random::from_environment("remembered tags");
    let state = state_of(&model);
    let files = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.file_name().is_some_and(|name| name != "key"))
            .collect()
    };
    assert_eq!(files().len(), 2, "one for each file that is worth it");
    let good: Vec<_> = files()
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    // The content changes with the tags: what was remembered must not vouch for it.
    flip(&model.source("large.bin"), 7_000_000);
    for round in 0..12 {
        for (path, bytes) in &good {
            let mut bytes = bytes.clone();
            match round % 4 {
                0 => {
                    let at = (random.next() as usize) % bytes.len();
                    bytes[at] ^= 1 << (random.next() % 8);
                }
                1 => bytes.truncate((random.next() as usize) % bytes.len()),
                2 => bytes = good[usize::from(path == &good[0].0)].1.clone(),
                _ => bytes.clear(),
            }
            fs::write(path, bytes).unwrap();
        }
        let mounted = mount_with_state(&model);
        let read = fs::read(mounted.file("large.bin"));
        assert_eq!(
            read.map(drop).map_err(|e| e.raw_os_error()),
            Err(Some(libc::EIO)),
            "round {round}"
        );
        assert!(fs::read(mounted.file("edge.bin")).unwrap() == model.content("edge.bin"));
        mounted.unmount();
    }
    // What is good again is of use again.
    flip(&model.source("large.bin"), 7_000_000);
    for (path, bytes) in &good {
        fs::write(path, bytes).unwrap();
    }
    mount_and_read(&model);
}

fn mount_and_read(model: &Signed) {
    let mounted = mount_with_state(model);
    insist(&mounted, model);
    mounted.unmount();
}

#[test]
fn a_state_directory_that_others_may_use_refuses_the_mount() {
    if !can_mount() {
        return;
    }
    let model = model(Layout::FILES);
    let state = state_of(&model);
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    let path = state.to_str().expect("test paths are text");
    let refused =
        Mounted::start(modelfs_command(), &model, &["--state", path]).expect_err("others may use it");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("others may use it"), "{refused:?}");
}
