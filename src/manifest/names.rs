//! Names against names: no file twice, none beneath another, none beneath an ignored path.
//!
//! In byte order `a-b` stands between `a` and `a/b`, so neighbours alone tell nothing. But all names that
//! begin with the bytes of `a` follow `a` without a break: a stack of the names that the current one begins
//! with holds every candidate, and the work stays within the bytes that were listed.

use super::ManifestError;
use super::SignedFile;
use crate::path::ModelPath;

/// Refuses a path that is listed twice or that leads through a file. The files are in byte order.
pub(super) fn refuse_conflicts(files: &[SignedFile]) -> Result<(), ManifestError> {
    let mut walk = Walk::default();
    for file in files {
        if let Some(outer) = walk.enclosing(&file.path) {
            return Err(if *outer == file.path {
                ManifestError::DuplicatePath {
                    path: file.path.clone(),
                }
            } else {
                ManifestError::FileBeneathFile {
                    outer: outer.clone(),
                    inner: file.path.clone(),
                }
            });
        }
        walk.open.push(&file.path);
    }
    Ok(())
}

/// Refuses a signed file that is ignored or lies beneath what is ignored. The files are in byte order.
pub(super) fn refuse_ignored(files: &[SignedFile], ignored: &[ModelPath]) -> Result<(), ManifestError> {
    let mut sorted: Vec<&ModelPath> = ignored.iter().collect();
    sorted.sort();
    // One that is listed often would be compared as often with every file.
    sorted.dedup();
    let mut sorted = sorted.into_iter().peekable();
    let mut walk = Walk::default();
    for file in files {
        while let Some(next) = sorted.next_if(|next| **next <= file.path) {
            walk.leave(next);
            walk.open.push(next);
        }
        if let Some(ignored) = walk.enclosing(&file.path) {
            return Err(ManifestError::IgnoredFile {
                path: file.path.clone(),
                ignored: ignored.clone(),
            });
        }
    }
    Ok(())
}

/// A walk over names in byte order.
#[derive(Default)]
struct Walk<'a> {
    /// The names so far that the current one begins with, each beginning with the one before it.
    open: Vec<&'a ModelPath>,
}

impl<'a> Walk<'a> {
    /// Drops the names that `path`, and so everything after it, does not begin with.
    fn leave(&mut self, path: &ModelPath) {
        while let Some(last) = self.open.last() {
            if path.as_str().starts_with(last.as_str()) {
                break;
            }
            self.open.pop();
        }
    }

    /// The name that is `path` or one of its ancestors.
    fn enclosing(&mut self, path: &ModelPath) -> Option<&'a ModelPath> {
        self.leave(path);
        // Each of them is a prefix of the path: what matters is whether it ends at a component.
        let ends_component = |name: &&&ModelPath| {
            matches!(
                path.as_str().as_bytes().get(name.as_str().len()),
                None | Some(b'/')
            )
        };
        self.open.iter().rev().find(ends_component).copied()
    }
}
