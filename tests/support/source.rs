//! A source that the test controls: a small filesystem in the test's own process, on which a model lies.
//! It can lie, fail or hang at a chosen read, which a disk cannot be told to do.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Condvar;
use std::sync::Mutex;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use fuser::BackgroundSession;
use fuser::Config;
use fuser::Errno;
use fuser::FileAttr;
use fuser::FileHandle;
use fuser::FileType;
use fuser::Filesystem;
use fuser::FopenFlags;
use fuser::INodeNo;
use fuser::LockOwner;
use fuser::MountOption;
use fuser::OpenFlags;
use fuser::ReplyAttr;
use fuser::ReplyData;
use fuser::ReplyDirectory;
use fuser::ReplyEmpty;
use fuser::ReplyEntry;
use fuser::ReplyOpen;
use fuser::Request;

/// Never cache: each read of the daemon must reach us.
const TTL: Duration = Duration::ZERO;

/// One read that the daemon makes of its source.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    /// The file.
    pub(crate) name: &'a str,
    /// What it was signed as.
    pub(crate) content: &'a [u8],
    /// Where the read begins.
    pub(crate) offset: usize,
    /// How many bytes it wants, cut to the end of the file.
    pub(crate) len: usize,
    /// How many reads of this file began at this offset before.
    pub(crate) nth: u32,
    /// Whether this is no read yet, but the file being opened: no bytes are wanted.
    pub(crate) opening: bool,
}

impl Ask<'_> {
    /// The signed bytes.
    pub(crate) fn truth(&self) -> Vec<u8> {
        self.content[self.offset..self.offset + self.len].to_vec()
    }

    /// Other bytes.
    pub(crate) fn lie(&self) -> Vec<u8> {
        self.truth().iter().map(|byte| byte ^ 0x5a).collect()
    }
}

/// What the source does with a read, or with a file being opened.
pub(crate) type Answer = dyn Fn(&Ask<'_>) -> Result<Vec<u8>, Errno> + Send + Sync;

/// What the source does before it answers that a file is closed, by the file's name.
pub(crate) type Closing = dyn Fn(&str) + Send + Sync;

/// A mounted source. Its files lie flat in one directory.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    background: Option<BackgroundSession>,
}

impl Source {
    /// Mounts files over an existing directory; `answer` decides each read.
    pub(crate) fn mount(path: &Path, files: &[(String, Vec<u8>)], answer: Box<Answer>) -> Self {
        Self::serve(path, files, answer, None)
    }

    /// The same; a `close` of one of its files waits for `closing`, as network file systems make it wait.
    pub(crate) fn mount_closing(
        path: &Path,
        files: &[(String, Vec<u8>)],
        answer: Box<Answer>,
        closing: Box<Closing>,
    ) -> Self {
        Self::serve(path, files, answer, Some(closing))
    }

    fn serve(
        path: &Path,
        files: &[(String, Vec<u8>)],
        answer: Box<Answer>,
        closing: Option<Box<Closing>>,
    ) -> Self {
        let server = Server {
            files: files.to_vec(),
            reads: Mutex::default(),
            answer,
            closing,
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::FSName("ring".to_owned())];
        // A read that hangs occupies a thread, and others must go on.
        config.n_threads = Some(16);
        let background = fuser::spawn_mount(server, path, &config).expect("the source mounts");
        Self {
            path: path.to_owned(),
            background: Some(background),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        super::mounted::unmount_lazily(&self.path);
        drop(self.background.take());
    }
}

/// Something that readers wait at until the test opens it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    /// Waits until the gate is open.
    pub(crate) fn pass(&self) {
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.changed.wait(open).unwrap();
        }
    }

    /// Lets everybody through from now on.
    pub(crate) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

struct Server {
    files: Vec<(String, Vec<u8>)>,
    reads: Mutex<HashMap<(u64, u64), u32>>,
    answer: Box<Answer>,
    closing: Option<Box<Closing>>,
}

impl Server {
    fn attributes(&self, ino: u64) -> Option<FileAttr> {
        let (size, kind, perm) = match ino {
            1 => (0, FileType::Directory, 0o755),
            _ => (self.file(ino)?.1.len() as u64, FileType::RegularFile, 0o644),
        };
        Some(FileAttr {
            ino: INodeNo(ino),
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

    fn file(&self, ino: u64) -> Option<&(String, Vec<u8>)> {
        self.files.get(usize::try_from(ino.checked_sub(2)?).ok()?)
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files.iter().position(|(have, _)| OsStr::new(have) == name);
        match found.and_then(|index| self.attributes(index as u64 + 2)) {
            Some(attributes) => reply.entry(&TTL, &attributes, fuser::Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino.0) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let Some((name, content)) = self.file(ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        let ask = Ask {
            name,
            content,
            offset: 0,
            len: 0,
            nth: 0,
            opening: true,
        };
        match (self.answer)(&ask) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((name, content)) = self.file(ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        let nth = {
            let mut reads = self.reads.lock().unwrap();
            let count = reads.entry((ino.0, offset)).or_default();
            *count += 1;
            *count - 1
        };
        let offset = content.len().min(offset as usize);
        let ask = Ask {
            name,
            content,
            offset,
            len: (size as usize).min(content.len() - offset),
            nth,
            opening: false,
        };
        match (self.answer)(&ask) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, ino: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        match (&self.closing, self.file(ino.0)) {
            (Some(closing), Some((name, _))) => {
                closing(name);
                reply.ok();
            }
            // The kernel does not ask again.
            _ => reply.error(Errno::ENOSYS),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        for (index, (name, _)) in self.files.iter().enumerate().skip(offset as usize) {
            let ino = INodeNo(index as u64 + 2);
            if reply.add(ino, index as u64 + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}
