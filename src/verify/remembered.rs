//! Tags that outlive a mount, so that the next one need not hash everything again.
//!
//! A directory that only its owner can use holds a key and, for each file of each signed payload, the tags of what was
//! verified. Tags are keyed BLAKE3, never GMAC: they lie where others may come to see them, and two GMAC tags under one
//! nonce would give its key away. The tag key is derived from the stored key and the payload's digest, and each tag
//! covers the file's number and the chunk's place: tags of another model, file or place match nothing. The whole of a
//! file of tags is authenticated too, with its payload, number, size and resources, under a key of its own. What does not
//! fit exactly is as good as not there: it costs the time to hash anew. An older file of the same payload says the
//! same of the same bytes, so there is nothing to gain from bringing one back.

use std::fmt;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use aws_lc_rs::constant_time;
use data_encoding::HEXLOWER;
use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::openat;
use rustix::fs::renameat;
use rustix::fs::unlinkat;

use super::chunk::TagKey;
use crate::sys::random_bytes;

/// Name of the key in the directory.
const KEY_NAME: &str = "key";

/// What a file of tags begins with; another layout has another beginning.
const MAGIC: &[u8; 16] = b"modelfs tags v1\n";

/// Where the two derived keys are used (BLAKE3's `derive_key` wants a globally unique, hard-coded text).
const TAG_CONTEXT: &str = "modelfs 2026-11-25 keyed tags of chunks";
const FILE_CONTEXT: &str = "modelfs 2026-11-25 authenticity of a file of tags";

/// Longest file of tags in bytes: that of 8 TiB in one file. More is not read.
const MAX_FILE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// A directory of remembered tags, for one signed payload.
pub struct Remembered {
    directory: OwnedFd,
    path: PathBuf,
    /// SHA-256 of the payload.
    payload: [u8; 32],
    tag_key: [u8; 32],
    file_key: [u8; 32],
}

/// Which file's tags are meant; all of it must be the same for them to be of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) file: u32,
    pub(super) size: u64,
    pub(super) resources: u64,
    pub(super) chunk_bytes: u64,
}

/// The tags of the verified resources of one file: resource, tags.
pub(super) type Entries = Vec<(u64, Vec<u8>)>;

impl Remembered {
    /// Opens a directory, making it and its key when they are not there.
    ///
    /// # Errors
    /// When it belongs to somebody else, others may use it, or it cannot be used.
    pub fn open(path: &Path, payload: &[u8; 32]) -> Result<Self, StateError> {
        let failed = |problem| StateError {
            path: path.to_owned(),
            problem,
        };
        let system = |e: rustix::io::Errno| failed(Problem::Io(e.into()));
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(Problem::Io(e))),
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(rustix::fs::CWD, path, flags, Mode::empty()).map_err(system)?;
        private(&File::from(
            directory.try_clone().map_err(|e| failed(Problem::Io(e)))?,
        ))
        .map_err(failed)?;
        let key = stored_key(&directory).map_err(failed)?;
        let secret = [key.as_slice(), payload].concat();
        Ok(Self {
            directory,
            path: path.to_owned(),
            payload: *payload,
            tag_key: blake3::derive_key(TAG_CONTEXT, &secret),
            file_key: blake3::derive_key(FILE_CONTEXT, &secret),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key of this payload's tags.
    pub(super) fn tag_key(&self) -> TagKey {
        TagKey::Blake3(Box::new(self.tag_key))
    }

    /// What is remembered of a file; `None` when nothing is, or nothing that can be believed.
    pub(super) fn recall(&self, subject: &Subject) -> Option<Entries> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, self.name(subject.file), flags, Mode::empty()).ok()?);
        let about = file.metadata().ok()?;
        if !about.is_file() || about.len() > MAX_FILE_BYTES {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(about.len()).read_to_end(&mut bytes).ok()?;
        let parsed = self.parse(&bytes, subject);
        if parsed.is_none() {
            log::info!(
                "{}: what {} remembers of a file is of no use here; it is verified anew",
                self.path.display(),
                self.name(subject.file)
            );
        }
        parsed
    }

    /// Remembers the tags of a file's verified resources.
    ///
    /// # Errors
    /// When they cannot be written; what was remembered before stays.
    pub(super) fn remember(&self, subject: &Subject, entries: &Entries) -> io::Result<()> {
        let bytes = self.compose(subject, entries);
        let name = self.name(subject.file);
        let draft = format!(".{name}.{}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let written = openat(&self.directory, draft.as_str(), flags, mode)
            .map_err(io::Error::from)
            .and_then(|file| File::from(file).write_all(&bytes))
            .and_then(|()| {
                Ok(renameat(
                    &self.directory,
                    draft.as_str(),
                    &self.directory,
                    name.as_str(),
                )?)
            });
        if written.is_err() {
            // It may not be there.
            let _ = unlinkat(&self.directory, draft.as_str(), AtFlags::empty());
        }
        written
    }

    fn name(&self, file: u32) -> String {
        format!("{}.{file}", HEXLOWER.encode(&self.payload))
    }

    fn header(&self, subject: &Subject) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.payload);
        bytes.extend_from_slice(&u64::from(subject.file).to_le_bytes());
        bytes.extend_from_slice(&subject.size.to_le_bytes());
        bytes.extend_from_slice(&subject.resources.to_le_bytes());
        bytes.extend_from_slice(&subject.chunk_bytes.to_le_bytes());
        bytes
    }

    fn compose(&self, subject: &Subject, entries: &Entries) -> Vec<u8> {
        let mut bytes = self.header(subject);
        for (resource, tags) in entries {
            bytes.extend_from_slice(&resource.to_le_bytes());
            bytes.extend_from_slice(&u64::try_from(tags.len()).unwrap_or(u64::MAX).to_le_bytes());
            bytes.extend_from_slice(tags);
        }
        let seal = blake3::keyed_hash(&self.file_key, &bytes);
        bytes.extend_from_slice(seal.as_bytes());
        bytes
    }

    fn parse(&self, bytes: &[u8], subject: &Subject) -> Option<Entries> {
        let (content, seal) = bytes.split_at_checked(bytes.len().checked_sub(blake3::OUT_LEN)?)?;
        let want = blake3::keyed_hash(&self.file_key, content);
        constant_time::verify_slices_are_equal(want.as_bytes(), seal).ok()?;
        let mut rest = content.strip_prefix(self.header(subject).as_slice())?;
        let mut entries = Entries::new();
        while !rest.is_empty() {
            let (resource, after) = number(rest)?;
            let (length, after) = number(after)?;
            let (tags, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
            entries.push((resource, tags.to_vec()));
            rest = after;
        }
        Some(entries)
    }
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remembered({})", self.path.display())
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}

/// Whether something belongs to this user and nobody else may use it.
fn private(file: &File) -> Result<(), Problem> {
    let about = file.metadata().map_err(Problem::Io)?;
    if about.uid() != rustix::process::geteuid().as_raw() {
        return Err(Problem::Foreign);
    }
    if about.mode() & 0o077 != 0 {
        return Err(Problem::Open);
    }
    Ok(())
}

/// The key in the directory. One that is damaged is replaced: what it vouched for is then hashed anew.
fn stored_key(directory: &OwnedFd) -> Result<[u8; 32], Problem> {
    let system = |e: rustix::io::Errno| Problem::Io(e.into());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match openat(directory, KEY_NAME, flags, Mode::empty()) {
        Ok(file) => {
            let file = File::from(file);
            private(&file)?;
            let mut bytes = Vec::new();
            file.take(33).read_to_end(&mut bytes).map_err(Problem::Io)?;
            if let Ok(key) = bytes.try_into() {
                return Ok(key);
            }
            log::warn!(
                "the key of the remembered tags is damaged; a new one is made, and the model is verified anew"
            );
            unlinkat(directory, KEY_NAME, AtFlags::empty()).map_err(system)?;
        }
        Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(system(e)),
    }
    let key: [u8; 32] = random_bytes().map_err(Problem::Io)?;
    let draft = format!(".{KEY_NAME}.{}.{}", std::process::id(), directory.as_raw_fd());
    // In containers the next process may have the same number as one that ended before it was done.
    let _ = unlinkat(directory, draft.as_str(), AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, draft.as_str(), flags, Mode::RUSR | Mode::WUSR).map_err(system)?;
    File::from(file).write_all(&key).map_err(Problem::Io)?;
    // Two mounts that begin at once must end up with one key: the first name wins.
    let linked = rustix::fs::linkat(directory, draft.as_str(), directory, KEY_NAME, AtFlags::empty());
    let _ = unlinkat(directory, draft.as_str(), AtFlags::empty());
    match linked {
        Ok(()) => Ok(key),
        Err(rustix::io::Errno::EXIST) => stored_key(directory),
        Err(e) => Err(system(e)),
    }
}

/// Why a directory cannot hold remembered tags.
#[derive(Debug)]
pub struct StateError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Foreign,
    Open,
    Io(io::Error),
}

impl StateError {
    /// Whether the system refused, rather than what was found there.
    pub fn is_io(&self) -> bool {
        matches!(self.problem, Problem::Io(_))
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: ",
            crate::path::Escaped(self.path.as_os_str().as_encoded_bytes())
        )?;
        match &self.problem {
            Problem::Foreign => write!(
                f,
                "it, or the key in it, belongs to another user, who could make modelfs believe what nobody verified; name a \
                 directory of your own"
            ),
            Problem::Open => write!(
                f,
                "others may use it, or the key in it, and could make modelfs believe what nobody verified; run chmod -R go= \
                 on it"
            ),
            Problem::Io(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Io(e) => e.source(),
            Problem::Foreign | Problem::Open => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PAYLOAD: [u8; 32] = [7; 32];
    const SUBJECT: Subject = Subject {
        file: 3,
        size: 1000,
        resources: 2,
        chunk_bytes: 128 * 1024,
    };

    fn entries() -> Entries {
        vec![(0, vec![1; 32]), (1, vec![2; 64])]
    }

    fn file_of(state: &Path) -> PathBuf {
        state.join(format!("{}.3", HEXLOWER.encode(&PAYLOAD)))
    }

    #[test]
    fn what_was_remembered_is_recalled_by_another_mount_of_the_same_payload() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        Remembered::open(&state, &PAYLOAD)
            .unwrap()
            .remember(&SUBJECT, &entries())
            .unwrap();
        let again = Remembered::open(&state, &PAYLOAD).unwrap();
        assert_eq!(again.recall(&SUBJECT), Some(entries()));
        for other in [
            Subject { file: 4, ..SUBJECT },
            Subject {
                size: 1001,
                ..SUBJECT
            },
            Subject {
                resources: 1,
                ..SUBJECT
            },
            Subject {
                chunk_bytes: 4096,
                ..SUBJECT
            },
        ] {
            std::fs::copy(file_of(&state), state.join(again.name(other.file))).unwrap();
            assert_eq!(again.recall(&other), None, "{other:?}");
        }
        let names: Vec<_> = std::fs::read_dir(&state)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert!(
            names.iter().all(|name| !name.to_string_lossy().starts_with('.')),
            "{names:?}"
        );
    }

    #[test]
    fn a_damaged_foreign_or_moved_file_is_as_good_as_none() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        let own = Remembered::open(&state, &PAYLOAD).unwrap();
        own.remember(&SUBJECT, &entries()).unwrap();
        let good = std::fs::read(file_of(&state)).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(file_of(&state), &bad).unwrap();
            assert_eq!(own.recall(&SUBJECT), None, "byte {at}");
            std::fs::write(file_of(&state), &good[..at]).unwrap();
            assert_eq!(own.recall(&SUBJECT), None, "cut at {at}");
        }
        std::fs::write(file_of(&state), [good.as_slice(), b"\0"].concat()).unwrap();
        assert_eq!(own.recall(&SUBJECT), None);
        // Another model's tags under this one's name.
        let other = Remembered::open(&state, &[8; 32]).unwrap();
        other.remember(&SUBJECT, &entries()).unwrap();
        std::fs::rename(state.join(other.name(3)), file_of(&state)).unwrap();
        assert_eq!(own.recall(&SUBJECT), None);
        // Another user's, made with another key.
        let foreign = Remembered::open(&home.path().join("foreign"), &PAYLOAD).unwrap();
        foreign.remember(&SUBJECT, &entries()).unwrap();
        std::fs::copy(file_of(foreign.path()), file_of(&state)).unwrap();
        assert_eq!(own.recall(&SUBJECT), None);
        std::fs::remove_file(file_of(&state)).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, file_of(&state), Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(own.recall(&SUBJECT), None, "a FIFO neither blocks nor counts");
        std::fs::remove_file(file_of(&state)).unwrap();
        std::fs::write(state.join("good"), &good).unwrap();
        std::os::unix::fs::symlink(state.join("good"), file_of(&state)).unwrap();
        assert_eq!(own.recall(&SUBJECT), None, "a link is not followed");
    }

    #[test]
    fn a_key_that_is_damaged_or_gone_is_replaced_and_vouches_for_nothing_older() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        for damage in [Some(&b"short"[..]), Some(&[0; 33]), Some(b""), None] {
            let own = Remembered::open(&state, &PAYLOAD).unwrap();
            own.remember(&SUBJECT, &entries()).unwrap();
            match damage {
                Some(bytes) => std::fs::write(state.join(KEY_NAME), bytes).unwrap(),
                None => std::fs::remove_file(state.join(KEY_NAME)).unwrap(),
            }
            let again = Remembered::open(&state, &PAYLOAD).unwrap();
            assert_eq!(again.recall(&SUBJECT), None);
            assert_eq!(std::fs::read(state.join(KEY_NAME)).unwrap().len(), 32);
        }
    }

    #[test]
    fn a_directory_or_key_that_others_may_use_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        Remembered::open(&state, &PAYLOAD).unwrap();
        for (path, mode) in [
            (state.clone(), 0o750),
            (state.clone(), 0o701),
            (state.join(KEY_NAME), 0o640),
        ] {
            let before = std::fs::metadata(&path).unwrap().permissions();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Remembered::open(&state, &PAYLOAD).unwrap_err().to_string();
            assert!(error.contains("others may use it"), "{mode:o}: {error}");
            std::fs::set_permissions(&path, before).unwrap();
        }
        assert!(Remembered::open(&state, &PAYLOAD).is_ok());
        assert!(
            Remembered::open(&home.path().join("a/b"), &PAYLOAD).is_err(),
            "parents are not made"
        );
    }
}
