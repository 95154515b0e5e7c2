//! State that few files of a model ever have.
//!
//! A model may have a million files, and what is kept for each is multiplied by that: room for who waits, who reads and
//! what is pinned is made when a file is first read.

use std::ops::Deref;

use once_cell::race::OnceBox;

/// A value that is made when it is first used; until then it takes one word.
pub(super) struct Seldom<T>(OnceBox<T>);

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Self(OnceBox::new())
    }
}

impl<T: Default> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.get_or_init(Box::default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::thread;

    #[test]
    fn all_threads_see_the_one_value_that_was_made_first() {
        assert_eq!(size_of::<Seldom<[u64; 16]>>(), size_of::<usize>());
        let count: Seldom<Mutex<u64>> = Seldom::default();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1000).for_each(|_| *count.lock() += 1));
            }
        });
        assert_eq!(*count.lock(), 8000);
    }
}
