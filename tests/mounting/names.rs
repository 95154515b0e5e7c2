//! Which names exist in a mount: the signed ones, and the bundle. Nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::assert_errno;
use crate::small_model;
use crate::support;
use crate::support::modelfs_command;
use crate::support::mounted::Mounted;
use crate::support::random::Random;
use crate::support::signing::Layout;
use crate::support::signing::Signed;

/// Every path beneath a directory, directories with a slash.
fn names(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let kind = entry.file_type().unwrap();
            assert!(
                kind.is_dir() || kind.is_file(),
                "{name} is neither file nor directory"
            );
            assert_eq!(
                kind,
                fs::symlink_metadata(&path).unwrap().file_type(),
                "{name}: readdir and lstat disagree"
            );
            if kind.is_dir() {
                found.insert(format!("{name}/"));
                open.push(path);
            } else {
                found.insert(name);
            }
        }
    }
    found
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

const SMALL: [&str; 5] = [
    "config.json",
    "empty.txt",
    "tokenizer/",
    "tokenizer/vocab.txt",
    "weights.bin",
];

#[test]
fn only_signed_names_exist() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let planted = [
        "extra.py",
        "tokenizer/extra.py",
        ".git/HEAD",
        ".gitignore",
        "empty dir/x",
    ];
    for name in planted {
        let path = model.source(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"planted before").unwrap();
    }
    symlink("/etc/passwd", model.source("link")).unwrap();
    symlink("/etc", model.source("linked")).unwrap();
    let mounted = Mounted::new(&model);
    let late = ["late.py", "tokenizer/late.py", "new/late.py"];
    for name in late {
        let path = model.source(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"planted after").unwrap();
    }
    assert_eq!(names(mounted.path()), set(&SMALL));
    let all = planted.iter().chain(&late);
    for name in all.chain(&[
        "link",
        "linked",
        "linked/passwd",
        "empty dir",
        "new",
        ".git",
        "model.sig",
    ]) {
        let path = mounted.file(name);
        assert_errno(fs::symlink_metadata(&path), libc::ENOENT, name);
        assert_errno(fs::File::open(&path), libc::ENOENT, name);
    }
    // Other spellings of what does exist.
    for name in ["Config.json", "config.json ", "tokenizer\\vocab.txt"] {
        assert_errno(fs::File::open(mounted.file(name)), libc::ENOENT, name);
    }
    assert_errno(
        fs::File::open(mounted.file("config.json/x")),
        libc::ENOTDIR,
        "a file is no directory",
    );
    mounted.unmount();
}

#[test]
fn a_file_that_goes_missing_stays_listed_and_fails_with_eio() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mounted = Mounted::new(&model);
    for name in ["config.json", "weights.bin", "tokenizer/vocab.txt"] {
        fs::remove_file(model.source(name)).unwrap();
    }
    fs::remove_dir(model.source("tokenizer")).unwrap();
    assert_eq!(names(mounted.path()), set(&SMALL));
    for name in ["config.json", "weights.bin", "tokenizer/vocab.txt"] {
        let size = fs::metadata(mounted.file(name)).unwrap().len();
        assert_eq!(size, model.content(name).len() as u64, "{name}");
        assert_errno(fs::read(mounted.file(name)), libc::EIO, name);
    }
}

#[test]
fn attributes_are_the_same_for_everything() {
    if !support::can_mount() {
        return;
    }
    let mut model = small_model(Layout::FILES);
    let executable = fs::Permissions::from_mode(0o4777);
    fs::set_permissions(model.source("config.json"), executable).unwrap();
    fs::hard_link(model.source("config.json"), model.dir().join("other name")).unwrap();
    model.bundle_inside();
    let mounted = Mounted::new(&model);
    let mut times = BTreeSet::new();
    let mut inodes = BTreeSet::new();
    for name in names(mounted.path()) {
        let have = fs::symlink_metadata(mounted.file(&name)).unwrap();
        let mode = if have.is_dir() { 0o40555 } else { 0o100_444 };
        assert_eq!(have.mode(), mode, "{name}: {:o}", have.mode());
        if have.is_file() {
            assert_eq!(have.nlink(), 1, "{name}");
        }
        times.extend([have.atime(), have.mtime(), have.ctime()]);
        assert_eq!(have.blksize(), 4096, "{name}");
        assert_eq!(have.uid(), rustix::process::geteuid().as_raw(), "{name}");
        assert!(inodes.insert(have.ino()), "{name} shares its inode number");
    }
    assert_eq!(times, BTreeSet::from([0]), "the first second of 1970");
}

#[test]
fn the_bundle_is_readable_and_stays_as_it_was_verified() {
    if !support::can_mount() {
        return;
    }
    let mut model = small_model(Layout::FILES);
    model.bundle_inside();
    let bundle = fs::read(&model.bundle).unwrap();
    let mounted = Mounted::new(&model);
    let mut want = set(&SMALL);
    want.insert("model.sig".to_owned());
    assert_eq!(names(mounted.path()), want);
    // It was read once; what becomes of it on disk is nobody's business any more.
    fs::write(&model.bundle, b"other").unwrap();
    let inside = mounted.file("model.sig");
    assert!(fs::read(&inside).unwrap() == bundle);
    assert_eq!(fs::metadata(&inside).unwrap().len(), bundle.len() as u64);
    fs::remove_file(&model.bundle).unwrap();
    support::sys::drop_cache_at(&inside);
    assert!(fs::read(&inside).unwrap() == bundle);
    mounted.unmount();
}

#[test]
fn links_of_a_hugging_face_cache_are_served_as_the_files_they_lead_to() {
    if !support::can_mount() {
        return;
    }
    for layout in [Layout::FILES, Layout::shards(10_000)] {
        let mut random = Random::from_environment("links");
        let model = Signed::new(
            layout,
            &[
                ("config.json", random.bytes(200)),
                ("onnx/model.onnx", random.bytes(support::CHUNK + 5)),
                ("model.safetensors", random.bytes(40_000)),
            ],
        )
        .into_links();
        let refused = Mounted::start(modelfs_command(), &model, &[]);
        assert_eq!(
            refused.err().and_then(|o| o.code),
            Some(6),
            "links need to be allowed"
        );
        let mounted = Mounted::with(&model, &["--allow-symlinks"]);
        assert_eq!(
            names(mounted.path()),
            set(&["config.json", "onnx/", "onnx/model.onnx", "model.safetensors"])
        );
        for (name, bytes) in &model.files {
            assert!(fs::read(mounted.file(name)).unwrap() == *bytes, "{name}");
        }
        // A link turned to something else is other content, wherever it leads.
        let link = model.source("config.json");
        fs::remove_file(&link).unwrap();
        symlink("/etc/passwd", &link).unwrap();
        let again = Mounted::start(modelfs_command(), &model, &["--allow-symlinks"]);
        if let Ok(again) = again {
            assert_errno(
                fs::read(again.file("config.json")),
                libc::EIO,
                "a link to a secret",
            );
        }
    }
}

#[test]
fn a_link_planted_as_a_directory_shows_nothing_of_where_it_leads() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    symlink("/etc", model.source("plugins")).unwrap();
    let mounted = Mounted::with(&model, &["--allow-symlinks"]);
    assert_eq!(names(mounted.path()), set(&SMALL));
    assert_errno(
        fs::metadata(mounted.file("plugins/passwd")),
        libc::ENOENT,
        "planted",
    );
}

#[test]
fn a_single_file_model_is_a_directory_with_that_file() {
    if !support::can_mount() {
        return;
    }
    for layout in [Layout::FILES, Layout::shards(5000)] {
        for signed_as in [".", "model.gguf"] {
            let bytes = Random::from_seed(7).bytes(support::CHUNK + 3);
            let model = Signed::single(layout, "model.gguf", signed_as, bytes.clone());
            let mounted = Mounted::new(&model);
            assert_eq!(
                names(mounted.path()),
                set(&["model.gguf"]),
                "{signed_as} {layout:?}"
            );
            assert!(fs::read(mounted.file("model.gguf")).unwrap() == bytes);
            mounted.unmount();
        }
    }
}

#[test]
fn names_are_compared_byte_by_byte() {
    if !support::can_mount() {
        return;
    }
    let composed = "caf\u{e9}.bin";
    let decomposed = "cafe\u{301}.bin";
    let odd = ["a b", "-rf", "x:0:5", "back\\slash", "UPPER", "upper", "#?%20"];
    let all: Vec<(&str, Vec<u8>)> = odd
        .iter()
        .chain(&[composed, decomposed])
        .map(|name| (*name, name.as_bytes().to_vec()))
        .collect();
    for layout in [Layout::FILES, Layout::shards(2)] {
        let model = Signed::new(layout, &all);
        let mounted = Mounted::new(&model);
        for (name, bytes) in &all {
            assert!(fs::read(mounted.file(name)).unwrap() == *bytes, "{name}");
        }
        assert_eq!(names(mounted.path()).len(), all.len());
    }
}

#[test]
fn a_directory_of_many_files_is_listed_whole() {
    if !support::can_mount() {
        return;
    }
    let many: Vec<String> = (0..3000).map(|n| format!("dir/file-{n:05}.txt")).collect();
    let files: Vec<(&str, Vec<u8>)> = many
        .iter()
        .map(|name| (name.as_str(), name.as_bytes().to_vec()))
        .collect();
    let model = Signed::new(Layout::FILES, &files);
    let mounted = Mounted::new(&model);
    let mut want: BTreeSet<String> = many.iter().cloned().collect();
    want.insert("dir/".to_owned());
    assert_eq!(names(mounted.path()), want);
    for name in many.iter().step_by(97) {
        assert_eq!(fs::read(mounted.file(name)).unwrap(), name.as_bytes());
    }
}

#[test]
fn ignored_names_do_not_exist() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    // The statement ignores these four; whoever signed looked away from them.
    for name in [
        ".git/HEAD",
        ".github/workflow.yml",
        ".gitattributes",
        ".gitignore",
    ] {
        let path = model.source(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"ignored").unwrap();
    }
    let mounted = Mounted::new(&model);
    assert_eq!(names(mounted.path()), set(&SMALL));
    for name in [".git", ".git/HEAD", ".github", ".gitattributes", ".gitignore"] {
        assert_errno(fs::symlink_metadata(mounted.file(name)), libc::ENOENT, name);
    }
}

#[test]
fn an_unsigned_empty_file_does_not_exist() {
    if !support::can_mount() {
        return;
    }
    // OMS 6.3.2: a sharded manifest has no entry for a file without bytes, so anybody may plant one.
    let model = small_model(Layout::shards(10_000));
    let mounted = Mounted::new(&model);
    assert!(model.source("empty.txt").exists());
    assert_errno(
        fs::metadata(mounted.file("empty.txt")),
        libc::ENOENT,
        "an unsigned empty file",
    );
    assert_eq!(names(mounted.path()).len(), SMALL.len() - 1);
}
