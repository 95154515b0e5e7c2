//! What outlasts a read: pinned files, and tags that the next mount finds.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use crate::verify::file::VerifiedFile;
use crate::verify::pin::Filling;
use crate::verify::pin::Pin;
use crate::verify::pin::PinState;
use crate::verify::remembered::Remembered;

impl Engine {
    /// Decides whether a file is to be pinned, before the first pass over any of it; `true` when all of it goes into its
    /// place in memory first.
    pub(super) fn begin_pin(&self, file: &Arc<VerifiedFile>) -> bool {
        // Before the mount stands nobody knows yet whether the kernel takes it.
        if self.options.pin == Pin::Off || matches!(self.offer.get(), Some(None)) {
            return false;
        }
        let mut pin = file.pin.lock();
        if matches!(*pin, PinState::Undecided) {
            let wanted = match self.options.pin {
                Pin::Off => false,
                Pin::Auto => file.is_whole(),
                Pin::All => true,
            };
            let filling = || {
                let charge = self.memory.charge(file.size())?;
                Filling::new(file.size(), charge).ok()
            };
            *pin = match wanted && file.may_be_filled() {
                true => filling().map_or(PinState::Not, PinState::Filling),
                false => PinState::Not,
            };
        }
        matches!(*pin, PinState::Filling(_))
    }

    /// Offers a file that was filled to the kernel; whatever hinders that, the file is served like any other.
    pub(super) fn end_pin(&self, file: &Arc<VerifiedFile>) {
        let mut pin = file.pin.lock();
        if !matches!(*pin, PinState::Filling(_)) {
            return;
        }
        if let (PinState::Filling(filling), Some(Some(offer))) =
            (std::mem::replace(&mut *pin, PinState::Not), self.offer.get())
        {
            match filling.offer(&**offer) {
                Ok(pinned) => {
                    *pin = pinned;
                    self.totals.pinned_files.fetch_add(1, Ordering::Relaxed);
                    self.totals.pinned_bytes.fetch_add(file.size(), Ordering::Relaxed);
                }
                Err(e) => log::info!("{}: not pinned: {e}", file.path()),
            }
        }
    }

    /// Gives up pinning a file some of which is not what was signed; the rest is served like any other's.
    pub(super) fn give_up_pin(&self, file: &VerifiedFile) {
        let mut pin = file.pin.lock();
        if matches!(*pin, PinState::Filling(_)) {
            let filling = std::mem::replace(&mut *pin, PinState::Not);
            drop(pin);
            // Giving its memory back takes its time.
            drop(filling);
        }
    }

    /// Takes what is remembered of a file, before anything else is done with it; not of one that is to be pinned, of which
    /// every byte is read and hashed in its place.
    pub(super) fn recall(&self, file: &VerifiedFile) {
        let worth_it = |_: &&Remembered| file.size() >= MIN_REMEMBERED_BYTES && !file.is_filled();
        if let Some(remembered) = self.remembered.as_ref().filter(worth_it) {
            let resources = file.recall(remembered);
            self.totals
                .recalled_resources
                .fetch_add(u64::try_from(resources).unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Stores the tags of a file, if tags are stored.
    pub(super) fn remember(&self, file: &VerifiedFile) {
        if let Some(remembered) = &self.remembered
            && file.size() >= MIN_REMEMBERED_BYTES
            && let Err(e) = file.remember(remembered)
        {
            log::warn!(
                "{}: what was verified cannot be remembered in {}: {e}",
                file.path(),
                remembered.path().display()
            );
        }
    }

    /// Stores the tags of all files that have some, at the end of a mount.
    pub fn remember_all(&self) {
        for file in self.order.get().into_iter().flat_map(|order| &order.files) {
            if !file.is_whole() {
                self.remember(file);
            }
        }
    }
}

/// Files smaller than this many bytes are hashed sooner than their tags are found.
const MIN_REMEMBERED_BYTES: u64 = 1024 * 1024;
