//! Files in memory that are filled through one mapping, in pieces, and then can never change.
//!
//! They lie in huge pages where the kernel can make such: it copies twice as fast out of these. By itself it gives a memory
//! file none as long as `shmem_enabled` says `never`, its default (admin-guide/mm/transhuge); asked with `MADV_COLLAPSE`
//! (madvise(2), Linux 6.1) it does, and a piece of which one page is there costs no copy.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ops::DerefMut;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::MemfdFlags;
use rustix::fs::SealFlags;
use rustix::fs::fcntl_add_seals;
use rustix::fs::memfd_create;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use rustix::mm::mmap;

use super::HUGE_PAGE_BYTES;
use super::PAGE_BYTES;
use super::pages::Map;

/// Advice to lay a range in huge pages now (`asm-generic/mman-common.h`).
const MADV_COLLAPSE: libc::c_int = 25;

/// Whether files in memory can lie in huge pages here.
pub fn has_huge_memory_files() -> bool {
    let bytes = HUGE_PAGE_BYTES;
    let file = u64::try_from(bytes).map(Unsealed::new);
    let piece = file
        .ok()
        .and_then(Result::ok)
        .and_then(|file| file.piece(0, bytes));
    piece.is_some_and(|piece| piece.make_huge())
}

/// A file in memory while it is filled.
pub struct Unsealed {
    file: File,
    pieces: Mutex<Pieces>,
}

struct Pieces {
    /// Gone once the file is sealed; never while a piece is in somebody's hands.
    map: Option<Map>,
    /// The pieces that somebody has now, in whole pages.
    taken: Vec<Range<usize>>,
}

impl Unsealed {
    /// A file of zeros of this length, in huge pages where the system has them.
    ///
    /// # Errors
    /// When the system has no such files, or no memory.
    pub fn new(length: u64) -> io::Result<Arc<Self>> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("modelfs-pinned", flags)?);
        let bytes = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        if let Some(last) = length.checked_sub(1) {
            // Makes the file as long as that without filling it.
            file.write_all_at(&[0], last)?;
        }
        let map = Map::new(bytes)?;
        // SAFETY: the mapping takes the place of one of the same length that nobody else knows. Of the file behind it
        // this value alone has the descriptor, so its length stays and nobody else writes.
        #[allow(unsafe_code, reason = "mapping a file of our own in memory, never a source")]
        unsafe {
            mmap(
                map.start.as_ptr().cast(),
                map.bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                &file,
                0,
            )?;
        }
        Ok(Arc::new(Self {
            file,
            pieces: Mutex::new(Pieces {
                map: Some(map),
                taken: Vec::new(),
            }),
        }))
    }

    /// The part of it from `offset` on, for one owner to fill; `None` when somebody has a byte of it, when it is not
    /// whole pages, or not in the file.
    pub fn piece(self: &Arc<Self>, offset: u64, bytes: usize) -> Option<Piece> {
        let start = usize::try_from(offset).ok()?;
        let range = start..start.checked_add(bytes)?;
        let is_whole = start.is_multiple_of(PAGE_BYTES) && bytes.is_multiple_of(PAGE_BYTES);
        let mut pieces = self.pieces.lock();
        let map = pieces
            .map
            .as_ref()
            .filter(|map| is_whole && range.end <= map.bytes)?;
        let overlaps = |other: &Range<usize>| other.start < range.end && range.start < other.end;
        if pieces.taken.iter().any(overlaps) {
            return None;
        }
        // SAFETY: the range lies in the mapping.
        #[allow(unsafe_code, reason = "a place in the mapping")]
        let start = unsafe { map.start.add(range.start) };
        pieces.taken.push(range.clone());
        drop(pieces);
        let piece = Piece {
            of: Arc::clone(self),
            range,
            start,
        };
        piece.make_huge();
        Some(piece)
    }

    /// Makes it unchangeable, for everybody and for ever.
    ///
    /// # Errors
    /// When somebody has a piece of it, or the kernel still writes to one.
    pub fn seal(&self) -> io::Result<Sealed> {
        let mut pieces = self.pieces.lock();
        if !pieces.taken.is_empty() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        // A writable mapping would stand in the way; without one there are no more pieces.
        drop(pieces.map.take());
        drop(pieces);
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&self.file, seals)?;
        Ok(Sealed(self.file.try_clone()?.into()))
    }
}

impl std::fmt::Debug for Unsealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unsealed").finish_non_exhaustive()
    }
}

/// A part of an [`Unsealed`] in the hands of one owner.
pub struct Piece {
    of: Arc<Unsealed>,
    range: Range<usize>,
    start: NonNull<u8>,
}

// SAFETY: the memory is this piece's alone, like that of a `Vec<u8>`.
#[allow(unsafe_code, reason = "a pointer into memory that nobody else has")]
unsafe impl Send for Piece {}
// SAFETY: shared references only read.
#[allow(unsafe_code, reason = "a pointer into memory that nobody else has")]
unsafe impl Sync for Piece {}

impl Piece {
    /// Puts it into huge pages if it covers such; `false` where it stays in small ones, which only is slower.
    fn make_huge(&self) -> bool {
        let whole = |at: usize| at.is_multiple_of(HUGE_PAGE_BYTES);
        if self.is_empty() || !whole(self.range.start) || !whole(self.range.len()) {
            return false;
        }
        for page in self.chunks(HUGE_PAGE_BYTES) {
            // The kernel collapses nothing of which it has no page yet.
            std::hint::black_box(page.first().copied());
        }
        // SAFETY: it changes how these bytes lie in memory, and neither them nor their addresses.
        #[allow(unsafe_code, reason = "an advice that rustix does not know")]
        let done = unsafe { libc::madvise(self.start.as_ptr().cast(), self.range.len(), MADV_COLLAPSE) };
        done == 0
    }

    /// Whether it is a part of this file.
    pub fn is_of(&self, file: &Arc<Unsealed>) -> bool {
        Arc::ptr_eq(&self.of, file)
    }
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Piece({:?})", self.range)
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies in the mapping, which stays while it is taken; it is taken by this piece alone, and
        // whoever could write to it holds the piece exclusively.
        #[allow(unsafe_code, reason = "the piece as a slice")]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.range.len())
        }
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for reading; the piece is borrowed exclusively.
        #[allow(unsafe_code, reason = "the piece as a slice")]
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr(), self.range.len())
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let taken = &mut self.of.pieces.lock().taken;
        if let Some(at) = taken.iter().position(|range| *range == self.range) {
            taken.swap_remove(at);
        }
    }
}

/// A file in memory that nobody can change any more.
#[derive(Debug)]
pub struct Sealed(OwnedFd);

impl std::os::fd::AsFd for Sealed {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_has_what_was_filled_in_and_takes_nothing_more() {
        let length = 3 * PAGE_BYTES + 5;
        let file = Unsealed::new(u64::try_from(length).unwrap()).unwrap();
        let mut first = file.piece(0, 2 * PAGE_BYTES).unwrap();
        let mut rest = file.piece(2 * 4096, 2 * PAGE_BYTES).unwrap();
        first.fill(1);
        rest.fill(2);
        for (offset, bytes) in [(0, PAGE_BYTES), (4096, 2 * PAGE_BYTES), (3 * 4096, PAGE_BYTES)] {
            assert!(file.piece(offset, bytes).is_none(), "{offset} is taken");
        }
        drop(first);
        for (offset, bytes) in [(1, PAGE_BYTES), (0, 1), (4 * 4096, PAGE_BYTES)] {
            assert!(
                file.piece(offset, bytes).is_none(),
                "{offset}+{bytes} is not to be had"
            );
        }
        assert!(file.piece(0, 2 * PAGE_BYTES).is_some());
        assert_eq!(
            file.seal().map(drop).map_err(|e| e.kind()),
            Err(io::ErrorKind::ResourceBusy)
        );
        drop(rest);
        let sealed = File::from(file.seal().unwrap().0);
        assert_eq!(sealed.metadata().unwrap().len(), u64::try_from(length).unwrap());
        let mut content = vec![0; length];
        sealed.read_exact_at(&mut content, 0).unwrap();
        let want: Vec<u8> = (0..length)
            .map(|at| if at < 2 * PAGE_BYTES { 1 } else { 2 })
            .collect();
        assert!(content == want);
        assert!(
            sealed.write_at(&[9], 0).is_err()
                && sealed.set_len(1).is_err()
                && sealed.set_len(1 << 20).is_err()
        );
    }

    /// A file of two huge pages and a bit, the piece of it that has both, and how many KiB of that lie in such.
    fn two_huge_pages() -> (Arc<Unsealed>, Piece, String) {
        let length = 2 * HUGE_PAGE_BYTES + PAGE_BYTES;
        let file = Unsealed::new(u64::try_from(length).unwrap()).unwrap();
        let piece = file.piece(0, 2 * HUGE_PAGE_BYTES).unwrap();
        let start = format!("{:x}-", piece.as_ptr().addr());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (_, ours) = maps.split_once(&start).expect("the mapping is listed");
        let huge = ours.lines().find_map(|line| line.strip_prefix("ShmemPmdMapped:"));
        let huge = huge.unwrap_or_default().trim().to_owned();
        (file, piece, huge)
    }

    #[test]
    fn a_piece_lies_in_huge_pages_where_the_kernel_makes_them_and_keeps_what_it_has() {
        let (file, mut piece, _) = two_huge_pages();
        assert!(piece.iter().all(|&byte| byte == 0));
        piece.fill(7);
        piece.make_huge();
        assert!(piece.iter().all(|&byte| byte == 7));
        let tail = u64::try_from(2 * HUGE_PAGE_BYTES).unwrap();
        assert!(!file.piece(tail, PAGE_BYTES).unwrap().make_huge());

        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
        let is_new = (numbers.next(), numbers.next()) >= (Some(6), Some(1));
        let knob = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
        if is_new && knob.is_ok_and(|says| !says.contains("[deny]")) {
            // Memory may be in too small pieces for a moment.
            assert!((0..10).any(|_| has_huge_memory_files()));
            assert!((0..10).any(|_| two_huge_pages().2 == "4096 kB"));
        } else {
            println!("NOTICE: this kernel makes no huge pages of memory files");
        }
    }

    #[test]
    fn an_empty_file_can_be_sealed() {
        let file = Unsealed::new(0).unwrap().seal().unwrap();
        assert_eq!(File::from(file.0).metadata().unwrap().len(), 0);
    }
}
