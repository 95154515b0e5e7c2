//! Nothing can be written, in any of the ways the kernel offers.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::CWD;
use rustix::fs::FallocateFlags;
use rustix::fs::FileType;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RenameFlags;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::fs::XattrFlags;

use crate::assert_errno;
use crate::small_model;
use crate::support;
use crate::support::mounted::Mounted;
use crate::support::signing::Layout;

type Call = fn(&Path) -> io::Result<()>;

/// Each call is given the mount point; the file that exists is `config.json`.
const CALLS: [(&str, Call); 24] = [
    ("open for writing", |m| {
        OpenOptions::new()
            .write(true)
            .open(m.join("config.json"))
            .map(drop)
    }),
    ("open for both", |m| {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .open(m.join("config.json"))
            .map(drop)
    }),
    ("open to truncate", |m| {
        let mut options = OpenOptions::new();
        options
            .write(true)
            .truncate(true)
            .open(m.join("config.json"))
            .map(drop)
    }),
    ("open to append", |m| {
        OpenOptions::new()
            .append(true)
            .open(m.join("config.json"))
            .map(drop)
    }),
    ("create", |m| File::create_new(m.join("new")).map(drop)),
    ("create in a directory", |m| {
        File::create_new(m.join("tokenizer/new")).map(drop)
    }),
    ("create without a name", |m| {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        Ok(rustix::fs::openat(CWD, m, flags, Mode::RUSR).map(drop)?)
    }),
    ("make a directory", |m| fs::create_dir(m.join("new"))),
    ("make a link", |m| symlink("config.json", m.join("new"))),
    ("make a hard link", |m| {
        fs::hard_link(m.join("config.json"), m.join("new"))
    }),
    ("make a pipe", |m| {
        let mode = Mode::RUSR;
        Ok(rustix::fs::mknodat(CWD, m.join("new"), FileType::Fifo, mode, 0)?)
    }),
    ("remove a file", |m| fs::remove_file(m.join("config.json"))),
    ("remove a directory", |m| fs::remove_dir(m.join("tokenizer"))),
    ("rename", |m| fs::rename(m.join("config.json"), m.join("new"))),
    ("rename over", |m| {
        fs::rename(m.join("config.json"), m.join("weights.bin"))
    }),
    ("exchange", |m| {
        let (a, b) = (m.join("config.json"), m.join("weights.bin"));
        Ok(rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
    }),
    ("truncate", |m| {
        let path = CString::new(m.join("config.json").as_os_str().as_bytes()).unwrap();
        support::sys::truncate(&path, 0)
    }),
    ("change the mode", |m| {
        fs::set_permissions(m.join("config.json"), Permissions::from_mode(0o644))
    }),
    ("change the owner", |m| {
        std::os::unix::fs::chown(m.join("config.json"), Some(1), Some(1))
    }),
    ("change the times", |m| {
        let now = Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        let flags = rustix::fs::AtFlags::empty();
        Ok(rustix::fs::utimensat(CWD, m.join("config.json"), &times, flags)?)
    }),
    ("set an attribute", |m| {
        let flags = XattrFlags::empty();
        Ok(rustix::fs::setxattr(
            m.join("config.json"),
            "user.x",
            b"1",
            flags,
        )?)
    }),
    ("set an attribute of ours", |m| {
        let name = "user.modelfs.state";
        let flags = XattrFlags::empty();
        Ok(rustix::fs::setxattr(
            m.join("config.json"),
            name,
            b"verified",
            flags,
        )?)
    }),
    ("remove an attribute", |m| {
        Ok(rustix::fs::removexattr(
            m.join("config.json"),
            "user.modelfs.digest",
        )?)
    }),
    ("rename out", |m| {
        // The kernel sees two filesystems before it sees a read-only one.
        match fs::rename(m.join("config.json"), m.with_extension("out")) {
            Err(why) if why.raw_os_error() == Some(libc::EXDEV) => {
                Err(io::Error::from_raw_os_error(libc::EROFS))
            }
            other => other,
        }
    }),
];

#[test]
fn nothing_can_be_written() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mounted = Mounted::new(&model);
    for (name, call) in CALLS {
        assert_errno(call(mounted.path()), libc::EROFS, name);
    }
    // With a descriptor that is open for reading.
    let file = File::open(mounted.file("config.json")).unwrap();
    assert_errno(file.set_len(0), libc::EINVAL, "ftruncate");
    let written = std::os::unix::fs::FileExt::write_at(&file, b"x", 0);
    assert_errno(written, libc::EBADF, "pwrite");
    let allocated = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 10);
    assert_errno(allocated.map_err(io::Error::from), libc::EBADF, "fallocate");
    assert_errno(
        support::sys::Mapping::write(&file),
        libc::EACCES,
        "a writable mapping",
    );
    drop(file);
    for (name, bytes) in &model.files {
        assert!(
            fs::read(mounted.file(name)).unwrap() == *bytes,
            "{name} is as it was"
        );
        assert!(
            fs::read(model.source(name)).unwrap() == *bytes,
            "{name} is as it was on disk"
        );
    }
    mounted.unmount();
}

#[test]
fn a_private_mapping_may_be_written_and_changes_nobody_else() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mounted = Mounted::new(&model);
    let file = File::open(mounted.file("weights.bin")).unwrap();
    let map = support::sys::Mapping::private(&file).unwrap();
    for at in (0..map.len()).step_by(1000) {
        map.flip(at, 0xff);
    }
    let truth = model.content("weights.bin");
    assert!(fs::read(mounted.file("weights.bin")).unwrap() == truth);
    let mut mine = vec![0; 1];
    map.copy(1000, &mut mine);
    assert_eq!(mine[0], !truth[1000]);
}

#[test]
fn advisory_locks_work() {
    if !support::can_mount() {
        return;
    }
    let model = small_model(Layout::FILES);
    let mounted = Mounted::new(&model);
    let open = || File::open(mounted.file("config.json")).unwrap();
    let (first, second) = (open(), open());
    rustix::fs::flock(&first, FlockOperation::LockExclusive).unwrap();
    let other = rustix::fs::flock(&second, FlockOperation::NonBlockingLockExclusive);
    assert_errno(other.map_err(io::Error::from), libc::EWOULDBLOCK, "a second lock");
    rustix::fs::flock(&first, FlockOperation::Unlock).unwrap();
    rustix::fs::flock(&second, FlockOperation::NonBlockingLockShared).unwrap();
    rustix::fs::fcntl_lock(&first, FlockOperation::NonBlockingLockShared).unwrap();
}
