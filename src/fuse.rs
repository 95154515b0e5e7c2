//! The kernel's side: decode, call [`crate::fs`], reply. Nothing is decided here.
//!
//! Every callback contains panics: the one request fails with EIO and the mount lives on (fuser would end
//! the session). A reply that is dropped unanswered is an EIO too, which fuser sees to.

use std::ffi::OsStr;
use std::io;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use fuser::BsdFileFlags;
use fuser::Errno;
use fuser::FileAttr;
use fuser::FileHandle;
use fuser::FileType;
use fuser::Filesystem;
use fuser::FopenFlags;
use fuser::Generation;
use fuser::INodeNo;
use fuser::InitFlags;
use fuser::IoctlFlags;
use fuser::KernelConfig;
use fuser::LockOwner;
use fuser::OpenFlags;
use fuser::PollEvents;
use fuser::PollFlags;
use fuser::PollNotifier;
use fuser::RenameFlags;
use fuser::ReplyAttr;
use fuser::ReplyCreate;
use fuser::ReplyData;
use fuser::ReplyDirectory;
use fuser::ReplyDirectoryPlus;
use fuser::ReplyEmpty;
use fuser::ReplyEntry;
use fuser::ReplyIoctl;
use fuser::ReplyLseek;
use fuser::ReplyOpen;
use fuser::ReplyPoll;
use fuser::ReplyStatfs;
use fuser::ReplyWrite;
use fuser::ReplyXattr;
use fuser::Request;
use fuser::TimeOrNow;
use fuser::WriteFlags;

use crate::fs::Attributes;
use crate::fs::BLOCK_BYTES;
use crate::fs::Caching;
use crate::fs::Error;
use crate::fs::Kind;
use crate::fs::ModelFs;
use crate::sys;
use crate::verify::Asker;

/// How long the kernel may remember names and confirmed attributes: the tree is frozen, so as long as it
/// likes.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How many requests the kernel may have under way that no process waits for, read-ahead foremost: as many as it
/// lets us. All files share them, so those that a hanging source does not answer would hold up every other
/// file; the threads that take requests never wait for one.
const MAX_BACKGROUND: u16 = u16::MAX;

/// Largest request in bytes: what the kernel allows without privileges (256 pages).
const MAX_REQUEST_BYTES: u32 = 1024 * 1024;

/// The one time that every file and directory bears: what is not signed is not shown.
const FIXED_TIME: SystemTime = UNIX_EPOCH;

/// Answers the kernel from a [`ModelFs`].
#[derive(Debug)]
pub struct FuseAdapter {
    fs: Arc<ModelFs>,
    uid: u32,
    gid: u32,
    passes_through: Arc<AtomicBool>,
}

impl FuseAdapter {
    /// Everything belongs to this user and group. `passes_through` hears whether the kernel reads from files that are
    /// offered to it, once it was asked.
    pub fn new(fs: Arc<ModelFs>, uid: u32, gid: u32, passes_through: Arc<AtomicBool>) -> Self {
        Self {
            fs,
            uid,
            gid,
            passes_through,
        }
    }

    fn attr(&self, attributes: &Attributes) -> FileAttr {
        let (kind, perm, nlink) = match attributes.kind {
            Kind::Directory => (FileType::Directory, 0o555, 2),
            Kind::File => (FileType::RegularFile, 0o444, 1),
        };
        FileAttr {
            ino: INodeNo(attributes.inode),
            size: attributes.size,
            blocks: attributes.size.div_ceil(512),
            atime: FIXED_TIME,
            mtime: FIXED_TIME,
            ctime: FIXED_TIME,
            crtime: FIXED_TIME,
            kind,
            perm,
            nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }
}

/// A size that no digest has confirmed yet is asked for anew each time.
fn time_to_live(attributes: &Attributes) -> Duration {
    if attributes.confirmed {
        FOREVER
    } else {
        Duration::ZERO
    }
}

fn errno(error: &Error) -> Errno {
    Errno::from_i32(error.errno())
}

/// Runs a callback; a panic drops its reply, and fuser answers EIO for that.
fn contain(operation: &str, run: impl FnOnce()) {
    #[cfg(feature = "planted-faults")]
    let run = || {
        crate::verify::planted_panic();
        run();
    };
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        log::error!("{operation}: {}", Error::Panicked);
    }
}

impl Filesystem for FuseAdapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Only what the kernel offers; none of these is needed to be right.
        for wish in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            // Files that are not cached can be mapped all the same.
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            // Pages leave the cache only when the kernel needs the room: mtime and size never change.
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ] {
            if config.add_capabilities(wish).is_err() {
                log::debug!("the kernel does not offer {wish:?}");
            }
        }
        // Only sealed files in memory are ever offered; they lie on no other file system.
        if self.fs.pins()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok()
        {
            self.passes_through.store(true, Ordering::Relaxed);
        }
        let background = config.set_max_background(MAX_BACKGROUND);
        let request = config.set_max_write(MAX_REQUEST_BYTES);
        if background.is_err() || request.is_err() {
            log::debug!("the kernel's limits stay as they are: {background:?} {request:?}");
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        contain("lookup", || match self.fs.lookup(parent.0, name) {
            Ok(attributes) => {
                self.fs.note_met(attributes.inode, true);
                let ttl = time_to_live(&attributes);
                reply.entry_with_ttls(&FOREVER, &ttl, &self.attr(&attributes), Generation(0));
            }
            // Inode 0 is the kernel's word for a name that does not exist and may be remembered so.
            Err(Error::NoEntry) => {
                let nothing = Attributes {
                    inode: 0,
                    kind: Kind::File,
                    size: 0,
                    confirmed: true,
                };
                reply.entry(&FOREVER, &self.attr(&nothing), Generation(0));
            }
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn forget(&self, _: &Request, inode: INodeNo, _: u64) {
        contain("forget", || self.fs.note_met(inode.0, false));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        contain("getattr", || match self.fs.attributes(inode.0) {
            Ok(attributes) => reply.attr(&time_to_live(&attributes), &self.attr(&attributes)),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        contain("open", || {
            if flags.0 & libc::O_ACCMODE != libc::O_RDONLY {
                return reply.error(errno(&Error::ReadOnly));
            }
            self.fs.open(inode.0, move |result| match result {
                Ok(Caching::Keep) => {
                    reply.opened(
                        FileHandle(0),
                        FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
                    );
                }
                Ok(Caching::Afresh) => reply.opened(FileHandle(0), FopenFlags::FOPEN_NOFLUSH),
                Ok(Caching::Bypass) => {
                    reply.opened(
                        FileHandle(0),
                        FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH,
                    );
                }
                Ok(Caching::Pinned(number)) => {
                    sys::reply_with_backing(reply, FopenFlags::FOPEN_NOFLUSH, number);
                }
                Err(e) => reply.error(errno(&e)),
            });
        });
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        contain("read", || {
            let asker = Asker(request.pid());
            self.fs
                .read(inode.0, offset, size, asker, move |result| match result {
                    Ok(bytes) => reply.data(bytes.as_slice()),
                    Err(e) => reply.error(errno(&e)),
                });
        });
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        contain("release", || {
            self.fs.release(inode.0);
            reply.ok();
        });
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        contain("opendir", || match self.fs.attributes(inode.0) {
            Ok(Attributes {
                kind: Kind::Directory,
                ..
            }) => {
                reply.opened(
                    FileHandle(0),
                    FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
                );
            }
            Ok(_) => reply.error(errno(&Error::NotDirectory)),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        contain("readdir", || {
            let listed = self.fs.list(inode.0, offset, |entry| {
                let kind = self.attr(&entry.attributes).kind;
                !reply.add(INodeNo(entry.attributes.inode), entry.next, kind, entry.name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        contain("readdirplus", || {
            let listed = self.fs.list(inode.0, offset, |entry| {
                let attr = self.attr(&entry.attributes);
                // One time serves name and attributes here; a size that is not confirmed decides.
                let ttl = time_to_live(&entry.attributes);
                self.fs.note_met(entry.attributes.inode, true);
                !reply.add(
                    INodeNo(entry.attributes.inode),
                    entry.next,
                    entry.name,
                    &ttl,
                    &attr,
                    Generation(0),
                )
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        contain("statfs", || {
            let totals = self.fs.totals();
            let name_bytes = u32::try_from(crate::path::MAX_COMPONENT_BYTES).unwrap_or(u32::MAX);
            reply.statfs(
                totals.blocks,
                0,
                0,
                totals.inodes,
                0,
                BLOCK_BYTES,
                name_bytes,
                BLOCK_BYTES,
            );
        });
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        contain("getxattr", || {
            give_xattr(self.fs.xattr(inode.0, name), size, reply)
        });
    }

    fn listxattr(&self, _: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        contain("listxattr", || {
            give_xattr(self.fs.list_xattrs(inode.0), size, reply)
        });
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        contain("ioctl", || reply.error(errno(&Error::NoCommand)));
    }

    // The kernel refuses all of these on a read-only mount before it asks; root can remount it otherwise.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(errno(&Error::ReadOnly));
    }

    // The kernel does these by itself once it has heard that we do not.

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(errno(&Error::Unsupported));
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(errno(&Error::Unsupported));
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(errno(&Error::Unsupported));
    }
}

/// Answers with the attribute's size when the caller asks for it with an empty buffer (getxattr(2)).
fn give_xattr(value: Result<Vec<u8>, Error>, room: u32, reply: ReplyXattr) {
    match value {
        Err(e) => reply.error(errno(&e)),
        Ok(value) => match (u32::try_from(value.len()), room) {
            (Ok(size), 0) => reply.size(size),
            (Ok(size), room) if size <= room => reply.data(&value),
            _ => reply.error(errno(&Error::AttributeTooLong)),
        },
    }
}
