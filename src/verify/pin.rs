//! Pinned files: verified in a file in memory, sealed, and then read by the kernel without us.
//!
//! A file is filled through its first pass, in place: the hash runs over the very pages that readers will see. They are
//! offered only when every byte of them was verified there and the seals are on, so that nobody, this process included,
//! can change them. Where anything stands in the way, the file is served like any other.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use parking_lot::Mutex;

use super::chunk::VerifiedBlock;
use super::memory::Charge;
use crate::sys::Piece;
use crate::sys::Sealed;
use crate::sys::Unsealed;

/// Which files are pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pin {
    /// None.
    #[default]
    Off,
    /// Those that opening verifies anyway, while the memory budget has room for them.
    Auto,
    /// All that the memory budget has room for; opening verifies the whole of each.
    All,
}

/// Gives sealed files to the kernel, to read from instead of asking us.
pub trait Offer: Send + Sync {
    /// Registers a file; what opens it from then on names this number.
    ///
    /// # Errors
    /// What the kernel says: it wants privileges, and to be new enough.
    fn offer(&self, sealed: BorrowedFd<'_>) -> io::Result<u32>;
}

/// How far the pinning of one file is.
#[derive(Default)]
pub(super) enum PinState {
    /// Nobody has opened it yet.
    #[default]
    Undecided,
    /// Its first pass goes into these pages.
    Filling(Arc<Filling>),
    /// The kernel has it under this number.
    Pinned {
        number: u32,
        _sealed: Sealed,
        _charge: Option<Charge>,
    },
    /// It is served like any other.
    Not,
}

/// A file in memory that first passes fill.
pub(super) struct Filling {
    file: Arc<Unsealed>,
    size: u64,
    /// What it takes of the memory budget.
    charge: Mutex<Option<Charge>>,
    /// What was verified in it. They keep their pieces: nobody else gets these to write to.
    verified: Mutex<Vec<VerifiedBlock>>,
}

impl Filling {
    pub(super) fn new(size: u64, charge: Charge) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            file: Unsealed::new(size)?,
            size,
            charge: Mutex::new(Some(charge)),
            verified: Mutex::default(),
        }))
    }

    /// Room for these bytes of the file, in their place.
    pub(super) fn piece(&self, base: u64, bytes: usize) -> Option<Piece> {
        self.file.piece(base, bytes)
    }

    /// Takes bytes that were verified in their place.
    pub(super) fn accept(&self, block: VerifiedBlock) {
        self.verified.lock().push(block);
    }

    /// Seals it and offers it to the kernel.
    ///
    /// # Errors
    /// When not every byte was verified in it, or the system refuses.
    pub(super) fn offer(&self, to: &dyn Offer) -> io::Result<PinState> {
        let mut blocks = std::mem::take(&mut *self.verified.lock());
        let charge = self.charge.lock().take();
        blocks.sort_by_key(|block| block.range().start);
        let mut end = 0;
        for block in &blocks {
            if block.is_in(&self.file) && block.range().start == end {
                end = block.range().end;
            }
        }
        if end != self.size {
            return Err(io::Error::other("not all of it was verified in memory"));
        }
        drop(blocks);
        let sealed = self.file.seal()?;
        Ok(PinState::Pinned {
            number: to.offer(sealed.as_fd())?,
            _sealed: sealed,
            _charge: charge,
        })
    }
}

impl fmt::Debug for PinState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecided => write!(f, "Undecided"),
            Self::Filling(_) => write!(f, "Filling"),
            Self::Pinned { number, .. } => write!(f, "Pinned({number})"),
            Self::Not => write!(f, "Not"),
        }
    }
}
