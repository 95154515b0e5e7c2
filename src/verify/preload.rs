//! Preloading: what a first pass hashes goes into the kernel's page cache at once, from the same buffer.
//!
//! Only a file that one digest covers is preloaded, and only while nobody can read it: an open of such a file is
//! answered after its digest has matched, and what is open was verified before. So the bytes wait for the verdict
//! where their readers will find them, instead of in memory of ours from which they would be copied afterwards.
//!
//! - A pass that begins empties the cache of its file; a pass that does not end with a match empties it again before
//!   anybody hears of its end. After that end it can put nothing there any more, however long a thread of it hung.
//! - A file is tainted from the first until a pass has matched, or the cache was emptied without an error. A tainted
//!   file is only opened in the way in which the kernel empties its cache first.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use parking_lot::RwLock;

use super::file::VerifiedFile;

/// The kernel's page cache of one mount.
pub trait PageCache: Send + Sync {
    /// Puts bytes at a position of a file, given by its number. The kernel may drop them
    /// whenever it likes, at once where it has not met the file.
    ///
    /// # Errors
    /// What the kernel says.
    fn put(&self, file: u32, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Drops all bytes of a file.
    ///
    /// # Errors
    /// What the kernel says.
    fn empty(&self, file: u32) -> io::Result<()>;
}

/// Files smaller than this many bytes are read in a few requests: nothing is gained.
pub(super) const MIN_PRELOADED_BYTES: u64 = 256 * 1024;

/// The bytes of one first pass on their way into the page cache.
pub(super) struct Preload {
    cache: Arc<dyn PageCache>,
    file: Arc<VerifiedFile>,
    /// Whether the pass still runs. Held while bytes are put, so that its end waits for them.
    running: RwLock<bool>,
    bytes: AtomicU64,
}

impl Preload {
    /// Begins a pass over a file that is marked as being verified; `None` when the page cache cannot be emptied.
    pub(super) fn begin(cache: &Arc<dyn PageCache>, file: &Arc<VerifiedFile>) -> Option<Self> {
        file.taint(true);
        cache.empty(file.id()).ok()?;
        Some(Self {
            cache: Arc::clone(cache),
            file: Arc::clone(file),
            running: RwLock::new(true),
            bytes: AtomicU64::new(0),
        })
    }

    /// Puts bytes that are hashed next; `false` when they are not in the page cache.
    pub(super) fn put(&self, offset: u64, bytes: &[u8]) -> bool {
        let running = self.running.read();
        if !*running || self.cache.put(self.file.id(), offset, bytes).is_err() {
            return false;
        }
        let count = u64::try_from(bytes.len()).unwrap_or(0);
        self.bytes.fetch_add(count, Ordering::Relaxed);
        true
    }

    /// Ends the pass, before anybody hears of its outcome; how many bytes of a file that matched are in the page
    /// cache.
    pub(super) fn end(&self, matched: bool) -> u64 {
        let mut running = self.running.write();
        if !std::mem::replace(&mut *running, false) {
            return 0;
        }
        if matched || self.cache.empty(self.file.id()).is_ok() {
            self.file.taint(false);
        }
        match matched {
            true => self.bytes.load(Ordering::Relaxed),
            false => 0,
        }
    }
}

impl Drop for Preload {
    fn drop(&mut self) {
        self.end(false);
    }
}
