//! Whoever can write the source: changes one thing, waits a little, and puts it back.
//!
//! Putting back is what makes it an attack on the order of things: a daemon that looks twice may see the
//! truth once and something else the other time.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use rustix::fs::CWD;
use rustix::fs::FallocateFlags;
use rustix::fs::RenameFlags;

use crate::support::random::Random;
use crate::support::signing::Signed;
use crate::support::sys::Mapping;

/// A directory of the model that is swapped as a whole.
const DIRECTORY: &str = "shard";

/// One thing that can be done to a source.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mutation {
    /// Other bytes over a range of a file.
    Overwrite,
    /// The end of a file cut off.
    Truncate,
    /// Bytes after the end of a file.
    Extend,
    /// A range deallocated, so that it reads as zeros.
    Punch,
    /// One bit turned through a shared mapping, which changes no time stamp until later.
    FlipMapped,
    /// Bits turned to and fro as fast as the machine can, against whoever looks twice.
    Storm,
    /// A file that is not there for a while.
    RenameAway,
    /// Another file of the same size in its place, swapped in one step.
    SwapTwin,
    /// A link to another file in a file's place.
    LinkFile,
    /// A link to another directory in a directory's place.
    LinkDirectory,
}

impl Mutation {
    pub(crate) const ALL: [Self; 10] = [
        Self::Overwrite,
        Self::Truncate,
        Self::Extend,
        Self::Punch,
        Self::FlipMapped,
        Self::Storm,
        Self::RenameAway,
        Self::SwapTwin,
        Self::LinkFile,
        Self::LinkDirectory,
    ];
}

/// The adversary, with other bytes of the same names and sizes at hand.
#[derive(Debug)]
pub(crate) struct Adversary {
    model: PathBuf,
    twin: PathBuf,
    stash: PathBuf,
    names: Vec<String>,
    truth: Vec<Vec<u8>>,
}

impl Adversary {
    pub(crate) fn new(model: &Signed) -> Self {
        let twin = model.dir().join("twin");
        for (name, bytes) in &model.files {
            let path = twin.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
            fs::write(path, other).unwrap();
        }
        Self {
            model: model.model.clone(),
            twin,
            stash: model.dir().join("stash"),
            names: model.files.iter().map(|(name, _)| name.clone()).collect(),
            truth: model.files.iter().map(|(_, bytes)| bytes.clone()).collect(),
        }
    }

    /// Does one thing and undoes it: which.
    pub(crate) fn strike(&self, random: &mut Random) -> Mutation {
        let kind = *random.one_of(&Mutation::ALL);
        let victim = random.within(0..self.names.len());
        let name = &self.names[victim];
        let path = self.model.join(name);
        let truth = &self.truth[victim];
        let at = random.within(0..truth.len());
        let len = random.within(1..truth.len() - at + 1);
        let length = Duration::from_micros(random.next() % 8000);
        let hold = || sleep(length);
        match kind {
            Mutation::Overwrite => {
                let file = open(&path);
                let other = random.bytes(len);
                file.write_all_at(&other, at as u64).unwrap();
                hold();
                file.write_all_at(&truth[at..at + len], at as u64).unwrap();
            }
            Mutation::Truncate => {
                let file = open(&path);
                file.set_len(at as u64).unwrap();
                hold();
                file.write_all_at(&truth[at..], at as u64).unwrap();
            }
            Mutation::Extend => {
                let file = open(&path);
                file.write_all_at(b"more", truth.len() as u64).unwrap();
                hold();
                file.set_len(truth.len() as u64).unwrap();
            }
            Mutation::Punch => {
                let file = open(&path);
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&file, flags, at as u64, len as u64).unwrap();
                hold();
                file.write_all_at(&truth[at..at + len], at as u64).unwrap();
            }
            Mutation::FlipMapped => {
                let map = Mapping::write(&open(&path)).unwrap();
                let bit = 1 << random.within(0..8);
                map.flip(at, bit);
                hold();
                map.flip(at, bit);
            }
            Mutation::Storm => {
                let map = Mapping::write(&open(&path)).unwrap();
                let end = Instant::now() + Duration::from_millis(random.within(5..40) as u64);
                while Instant::now() < end {
                    for _ in 0..50 {
                        map.flip(at, 1);
                        spin(random);
                        map.flip(at, 1);
                        spin(random);
                    }
                }
            }
            Mutation::RenameAway => {
                fs::rename(&path, &self.stash).unwrap();
                hold();
                fs::rename(&self.stash, &path).unwrap();
            }
            Mutation::SwapTwin => {
                let twin = self.twin.join(name);
                exchange(&path, &twin);
                hold();
                exchange(&path, &twin);
            }
            Mutation::LinkFile => self.link(&path, &self.twin.join(name), &hold),
            Mutation::LinkDirectory => {
                self.link(&self.model.join(DIRECTORY), &self.twin.join(DIRECTORY), &hold);
            }
        }
        // Readers need calm as well, or nothing is ever served.
        sleep(Duration::from_micros(random.next() % 4000));
        kind
    }

    fn link(&self, path: &Path, to: &Path, hold: &dyn Fn()) {
        symlink(to, &self.stash).unwrap();
        exchange(path, &self.stash);
        hold();
        exchange(path, &self.stash);
        fs::remove_file(&self.stash).unwrap();
    }
}

/// A pause too short for the scheduler, in which a reader may look.
fn spin(random: &mut Random) {
    for _ in 0..random.next() % 2000 {
        std::hint::spin_loop();
    }
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn exchange(a: &Path, b: &Path) {
    rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
}
