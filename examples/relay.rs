//! The peer that `scripts/bench` measures a mount against: a FUSE file system that hands a folder's bytes on and
//! verifies nothing, with the kernel settings of modelfs. What it costs is what FUSE costs.
//!
//! It shows the files of one folder (no subfolders), reads them through the page cache, and ends when unmounted.
#![allow(
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "a wrong argument ends a measurement, nothing else"
)]

use std::cell::RefCell;
use std::error::Error;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use fuser::Errno;
use fuser::FileAttr;
use fuser::FileHandle;
use fuser::FileType;
use fuser::Filesystem;
use fuser::FopenFlags;
use fuser::Generation;
use fuser::INodeNo;
use fuser::InitFlags;
use fuser::KernelConfig;
use fuser::LockOwner;
use fuser::MountOption;
use fuser::OpenFlags;
use fuser::ReplyAttr;
use fuser::ReplyData;
use fuser::ReplyDirectory;
use fuser::ReplyEntry;
use fuser::ReplyOpen;
use fuser::Request;

const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const MAX_REQUEST_BYTES: u32 = 1024 * 1024;

thread_local! {
    /// What a thread reads into: a buffer for each request would cost more than the copy.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Relay {
    /// Name, content and size; the inode is the place in this list plus two.
    files: Vec<(std::ffi::OsString, File, u64)>,
    /// How long attributes are remembered: not at all when asked so, so that each `stat` is a request.
    attributes_last: Duration,
}

impl Relay {
    fn file(&self, inode: INodeNo) -> Option<&(std::ffi::OsString, File, u64)> {
        self.files.get(usize::try_from(inode.0.checked_sub(2)?).ok()?)
    }

    fn attr(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o555, 0),
            _ => (FileType::RegularFile, 0o444, self.file(inode)?.2),
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Relay {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wish in [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_ASYNC_DIO] {
            let _ = config.add_capabilities(wish);
        }
        let _ = config.set_max_background(u16::MAX);
        let _ = config.set_max_write(MAX_REQUEST_BYTES);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let place = self.files.iter().position(|(known, ..)| known == name);
        match place.and_then(|place| self.attr(INodeNo(place as u64 + 2))) {
            Some(attr) => reply.entry_with_ttls(&self.attributes_last, &FOREVER, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(inode) {
            Some(attr) => reply.attr(&self.attributes_last, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((_, file, length)) = self.file(inode) else {
            return reply.error(Errno::ENOENT);
        };
        let size = u64::from(size).min(length.saturating_sub(offset));
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(buffer.len().max(size as usize), 0);
            let bytes = &mut buffer[..size as usize];
            match file.read_exact_at(bytes, offset) {
                Ok(()) => reply.data(bytes),
                Err(_) => reply.error(Errno::EIO),
            }
        });
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, (name, ..)) in self.files.iter().enumerate().skip(skip) {
            let place = place as u64;
            if reply.add(INodeNo(place + 2), place + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (folder, mountpoint, attributes_last) = match args[..] {
        [folder, mountpoint] => (folder, mountpoint, FOREVER),
        ["--ask-again", folder, mountpoint] => (folder, mountpoint, Duration::ZERO),
        _ => return Err("usage: relay [--ask-again] FOLDER MOUNTPOINT".into()),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(Path::new(folder))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push((
                entry.file_name(),
                File::open(entry.path())?,
                entry.metadata()?.len(),
            ));
        }
    }
    files.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    let mut config = fuser::Config::default();
    config.mount_options = vec![
        MountOption::FSName("relay".into()),
        MountOption::RO,
        MountOption::DefaultPermissions,
    ];
    config.n_threads = Some(2);
    config.clone_fd = true;
    let relay = Relay {
        files,
        attributes_last,
    };
    let session = fuser::Session::new(relay, Path::new(mountpoint), &config)?;
    println!("{{\"mounted\":true}}");
    session.run()?;
    Ok(())
}
