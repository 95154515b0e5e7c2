//! What a mount says of itself.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use data_encoding::HEXLOWER;
use modelfs::digest;
use modelfs::digest::Algorithm;

use crate::assert_errno;
use crate::small_model;
use crate::support;
use crate::support::modelfs;
use crate::support::mounted::Mounted;
use crate::support::signing::Layout;

fn attribute(path: &Path, name: &str) -> io::Result<String> {
    let mut value = vec![0; 64 << 10];
    let n = rustix::fs::getxattr(path, name, &mut value[..])?;
    Ok(String::from_utf8(value[..n].to_vec()).unwrap())
}

fn attributes(path: &Path) -> BTreeSet<String> {
    let mut names = vec![0u8; 64 << 10];
    let n = rustix::fs::listxattr(path, &mut names[..]).unwrap();
    names[..n]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect()
}

#[test]
fn extended_attributes_tell_digest_state_and_signer() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mounted = Mounted::new(&model);
    let path = mounted.file("weights.bin");
    let value = digest::hash(Algorithm::Sha256, model.content("weights.bin"));
    assert_eq!(
        attribute(&path, "user.modelfs.digest").unwrap(),
        format!("sha256:{}", HEXLOWER.encode(value.as_bytes()))
    );
    assert_eq!(attribute(&path, "user.modelfs.state").unwrap(), "unverified");
    fs::read(&path).unwrap();
    assert_eq!(attribute(&path, "user.modelfs.state").unwrap(), "verified");
    for name in ["user.modelfs.signer", "user.modelfs.identity"] {
        assert!(!attribute(mounted.path(), name).unwrap().is_empty(), "{name}");
    }
    let known = attributes(&path).into_iter().chain(attributes(mounted.path()));
    for name in known {
        assert!(name.starts_with("user.modelfs."), "{name}");
    }
    for other in [
        "user.x",
        "user.modelfs.",
        "user.modelfs.other",
        "security.capability",
    ] {
        for path in [&path, mounted.path()] {
            match attribute(path, other) {
                Err(why) if matches!(why.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {}
                found => panic!("{other}: {found:?}"),
            }
        }
    }
    // A buffer that is too small is told so, and an empty one asks for the size.
    let mut small = [0u8; 3];
    let result = rustix::fs::getxattr(&path, "user.modelfs.digest", &mut small[..]);
    assert_errno(result.map_err(io::Error::from), libc::ERANGE, "three bytes");
    let size = rustix::fs::getxattr_query(&path, "user.modelfs.digest").unwrap();
    assert_eq!(size, "sha256:".len() + 64);
    mounted.unmount();
}

#[test]
fn status_counts_what_was_verified_and_names_what_was_refused() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mut wrong = model.content("weights.bin").to_vec();
    wrong[1000] ^= 1;
    fs::write(model.source("weights.bin"), &wrong).unwrap();
    let mounted = Mounted::new(&model);
    let status = mounted.status();
    assert_eq!(status["files"]["total"], 4, "{status}");
    assert_eq!(status["files"]["rejected"], 0, "{status}");
    assert_eq!(
        Path::new(status["model"].as_str().unwrap()),
        model.model.canonicalize().unwrap()
    );
    assert_eq!(status["pid"], mounted.pid(), "{status}");

    fs::read(mounted.file("config.json")).unwrap();
    for _ in 0..3 {
        assert_errno(fs::read(mounted.file("weights.bin")), libc::EIO, "a changed file");
    }
    let status = mounted.status();
    assert_eq!(status["files"]["rejected"], 1, "{status}");
    assert!(status["files"]["verified"].as_u64().unwrap() >= 1, "{status}");
    assert_eq!(status["problems"][0]["path"], "weights.bin", "{status}");
    assert_eq!(status["problems"][0]["state"], "rejected", "{status}");
    assert_eq!(
        attribute(&mounted.file("weights.bin"), "user.modelfs.state").unwrap(),
        "rejected"
    );

    // One line in the log, with the name and both digests, however often it was read.
    let log = mounted.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("weights.bin")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    let want = HEXLOWER.encode(&digest::sha256(model.content("weights.bin")));
    let have = HEXLOWER.encode(&digest::sha256(&wrong));
    assert!(lines[0].contains(&want) && lines[0].contains(&have), "{log}");
    assert!(lines[0].to_lowercase().contains("error"), "{log}");

    // For people, with and without a place.
    for args in [vec!["status"], vec!["status", mounted.path().to_str().unwrap()]] {
        let outcome = modelfs(&args);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let text = outcome.stdout;
        assert!(text.contains(mounted.path().to_str().unwrap()), "{text}");
        assert!(text.contains("weights.bin"), "{text}");
    }
}

#[test]
fn status_of_what_is_not_mounted_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path(), Path::new("/proc"), Path::new("/nonexistent")] {
        let outcome = modelfs([OsStr::new("status"), path.as_os_str()]);
        assert_eq!(outcome.code, Some(8), "{outcome:?}");
        assert!(!outcome.stderr.is_empty());
    }
}
