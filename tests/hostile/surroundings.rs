//! A model that was damaged on disk, and arguments out of their range.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use crate::damage::unmount_lazily_if;
use crate::one_sentence;
use crate::refused;
use crate::support;
use crate::support::mounted::mount_entry;
use crate::support::mounted::new_mount_point;
use crate::support::random::Random;
use crate::support::signing::Layout;
use crate::support::signing::Signed;

#[test]
fn a_damaged_model_is_refused_with_the_code_of_its_damage() {
    struct Case {
        name: String,
        change: Box<dyn Fn(&Path)>,
        code: i32,
    }
    let mut random = Random::from_environment("damaged models");
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("a.bin", random.bytes(300_000)),
        ("b.bin", random.bytes(300_000)),
        ("sub/c.json", b"{}".to_vec()),
    ];
    let mut cases: Vec<Case> = Vec::new();
    let mut case = |name: String, code, change: Box<dyn Fn(&Path)>| cases.push(Case { name, change, code });
    for (name, bytes) in &files {
        for nth in 0..4 {
            let at = random
                .within(nth * bytes.len() / 4..((nth + 1) * bytes.len() / 4).max(nth * bytes.len() / 4 + 1));
            let mut flipped = bytes.clone();
            flipped[at.min(bytes.len() - 1)] ^= 1 << random.within(0..8);
            let name = (*name).to_owned();
            let what = format!("a bit of byte {at} of {name}");
            case(
                what,
                5,
                Box::new(move |m| fs::write(m.join(&name), &flipped).unwrap()),
            );
        }
    }
    case(
        "two files swapped".into(),
        5,
        Box::new(|m| {
            fs::rename(m.join("a.bin"), m.join("x")).unwrap();
            fs::rename(m.join("b.bin"), m.join("a.bin")).unwrap();
            fs::rename(m.join("x"), m.join("b.bin")).unwrap();
        }),
    );
    case(
        "one file in the place of both".into(),
        5,
        Box::new(|m| {
            fs::remove_file(m.join("a.bin")).unwrap();
            fs::hard_link(m.join("b.bin"), m.join("a.bin")).unwrap();
        }),
    );
    for (from, to) in [
        ("a.bin", "A.bin"),
        ("a.bin", "a.bin "),
        ("sub", "sub\u{200b}"),
        ("sub/c.json", "c.json"),
    ] {
        let what = format!("{from} renamed to {to:?}");
        case(
            what,
            6,
            Box::new(move |m| fs::rename(m.join(from), m.join(to)).unwrap()),
        );
    }
    for layout in [Layout::FILES, Layout::shards(100_000)] {
        for case in &cases {
            let model = Signed::new(layout, &files);
            let point = new_mount_point(model.dir());
            (case.change)(&model.model);
            for command in ["verify", "mount"] {
                let what = format!("{command} with {} in {layout:?}", case.name);
                let mut words: Vec<OsString> = vec![command.into()];
                words.extend(model.trust.iter().cloned());
                words.extend([&model.bundle, &model.model].map(OsString::from));
                if command == "mount" {
                    words.push(point.clone().into());
                    words.extend(["--verify", "eager", "--log-file", "/dev/null"].map(OsString::from));
                }
                let outcome = support::modelfs(words);
                let entry = mount_entry(&point);
                unmount_lazily_if(&point);
                assert_eq!(
                    (outcome.code, entry),
                    (Some(case.code), None),
                    "{what}: {outcome:?}"
                );
                // A line for each file, then the sentence.
                let last = outcome.stderr.lines().last().unwrap_or_default();
                one_sentence(&format!("{last}\n"), &what);
                assert!(
                    outcome.stderr.lines().all(|line| line.starts_with("modelfs: ")),
                    "{what}: {outcome:?}"
                );
            }
        }
    }
}

#[test]
fn arguments_out_of_their_range_are_refused() {
    let model = Signed::new(Layout::FILES, &[("a.bin", b"weights".to_vec())]);
    let point = new_mount_point(model.dir());
    let long = "x".repeat(300);
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    // An option with a value instead of none, or another mount point.
    let options: [(&str, OsString, i32); 15] = [
        ("--memory", "-1".into(), 2),
        ("--memory", "".into(), 2),
        ("--memory", "1e9".into(), 2),
        ("--memory", "18446744073709551616".into(), 2),
        ("--memory", "18446744073709551615G".into(), 2),
        ("--memory", "\u{0661}".into(), 2),
        ("--threads", "0".into(), 2),
        ("--threads", "99999999999999999999".into(), 2),
        ("--source-timeout", "0".into(), 2),
        ("--source-timeout", "4294967296".into(), 2),
        ("--max-file-size", "0x10".into(), 2),
        ("--verify", bytes(b"eager\xff"), 2),
        ("--pin", "ALL".into(), 2),
        ("--state", "/dev/null".into(), 7),
        ("--log-format", "\u{202e}json".into(), 2),
    ];
    let points: [OsString; 6] = [
        "/dev/fd/99".into(),
        "/dev/fd/99999999999999999999".into(),
        "/dev/fd/-1".into(),
        "/dev/null".into(),
        bytes(b"/nowhere\xff\n\x1b[2J"),
        long.into(),
    ];
    let mut lines: Vec<(Vec<OsString>, OsString, i32)> = Vec::new();
    for (option, value, code) in options {
        let mut word = OsString::from(format!("{option}="));
        word.push(value);
        lines.push((vec![word], point.clone().into(), code));
    }
    lines.extend(points.map(|point| (Vec::new(), point, 8)));
    lines.push((Vec::new(), "".into(), 2));
    for (options, at, code) in lines {
        let what = format!("{options:?} {at:?}");
        let mut words: Vec<OsString> = vec!["mount".into(), "--log-file".into(), "/dev/null".into()];
        words.extend(model.trust.iter().cloned());
        words.extend(options);
        words.extend([&model.bundle, &model.model].map(OsString::from));
        words.push(at);
        let outcome = support::modelfs(words);
        let entry = mount_entry(&point);
        unmount_lazily_if(&point);
        refused(&outcome, &[code], &what);
        assert_eq!(entry, None, "{what}");
    }
}
