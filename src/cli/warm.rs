//! `modelfs warm`: reads through a mount what will be needed, so that the kernel holds verified pages of it.
//!
//! It reads as any program does and needs no more rights than one. What is refused, and why, is what the mount
//! itself says.

use std::collections::VecDeque;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use serde_json::Value;
use serde_json::json;

use super::bundle::shown;
use super::exit::Exit;
use super::failure::Failure;
use super::failure::render;
use super::model;
use super::mount::of_mount;
use crate::fs::XATTR_PREFIX;
use crate::mount;
use crate::mount::MountError;
use crate::mount::Problem;
use crate::path::Escaped;
use crate::path::loading_order;

/// Reads all files of a mount, or those at and beneath some paths of it; what is printed on success.
pub(super) fn run(mountpoint: &Path, paths: &[PathBuf], json: bool) -> Result<String, Failure> {
    mount::status(mountpoint).map_err(|e| of_status(&e))?;
    let root = fs::canonicalize(mountpoint).map_err(|e| unreadable(mountpoint, &e))?;
    let mut files = Vec::new();
    if paths.is_empty() {
        collect(&root, root.clone(), &mut files)?;
    }
    for path in paths {
        collect(&root, within(&root, path)?, &mut files)?;
    }
    files.sort_by(|a, b| loading_order(&a.name, &b.name));
    files.dedup_by(|a, b| a.name == b.name);
    let total = files.iter().map(|file| file.bytes).sum();
    let count = files.len();

    let bar = model::progress("warming", total);
    let refused = read_all(files, &|read| bar.inc(read));
    bar.finish_and_clear();
    judge(mountpoint, refused, json)?;
    Ok(if json {
        render(&json!({"mountpoint": mountpoint.to_string_lossy(), "files": count, "bytes": total}))
    } else {
        let plural = if count == 1 { "" } else { "s" };
        let size = model::bytes(total);
        format!("{}: warm, {count} file{plural}, {size}\n", shown(mountpoint))
    })
}

/// A file to be read.
#[derive(Clone, Debug)]
struct Wanted {
    path: PathBuf,
    /// As the manifest has it.
    name: String,
    bytes: u64,
}

/// A path that was typed: relative to the mount, or absolute and in it.
fn within(root: &Path, path: &Path) -> Result<PathBuf, Failure> {
    let usage = |what: &str| {
        let (path, root) = (shown(path), shown(root));
        let message = format!("{path} {what}; name a file or folder of {root}, relative to it or absolute");
        Failure::new(Exit::Usage, message)
    };
    let found = fs::canonicalize(root.join(path)).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => usage("does not exist"),
        _ => unreadable(path, &e),
    })?;
    let device = |path: &Path| fs::metadata(path).map(|about| about.dev());
    let same = match (device(&found), device(root)) {
        (Ok(found), Ok(root)) => found == root,
        (Err(e), _) | (_, Err(e)) => return Err(unreadable(path, &e)),
    };
    if !same || !found.starts_with(root) {
        return Err(usage("is not in the mounted model"));
    }
    Ok(found)
}

/// Finds the files at and beneath a path.
fn collect(root: &Path, from: PathBuf, files: &mut Vec<Wanted>) -> Result<(), Failure> {
    let mut left = vec![from];
    while let Some(path) = left.pop() {
        let failed = |e: io::Error| unreadable(&path, &e);
        let about = fs::symlink_metadata(&path).map_err(failed)?;
        if about.is_dir() {
            for entry in fs::read_dir(&path).map_err(failed)? {
                left.push(entry.map_err(failed)?.path());
            }
        } else {
            let name = path.strip_prefix(root).unwrap_or(&path);
            files.push(Wanted {
                name: name.to_string_lossy().into_owned(),
                bytes: about.len(),
                path,
            });
        }
    }
    Ok(())
}

/// What is read in one go by one thread, in bytes. Larger: at the end of a large file threads have nothing to do; smaller:
/// the kernel begins to read ahead more often.
const STRETCH_BYTES: u64 = 16 << 20;

/// What one call asks for, in bytes: as much as a kernel takes into one request.
const CALL_BYTES: usize = 1 << 20;

/// What is to be done, the first first.
struct Work {
    /// Stretches of files that are open. They come before files that are not: their bytes may still be held.
    stretches: VecDeque<(Arc<File>, Arc<Wanted>, Range<u64>)>,
    files: VecDeque<Wanted>,
    refused: Vec<(Wanted, io::Error)>,
}

/// Reads files with as many threads as there are processors. Opening one verifies it where it has one digest; where it has
/// several, the threads share its stretches.
fn read_all(files: Vec<Wanted>, progress: &(dyn Fn(u64) + Sync)) -> Vec<(Wanted, io::Error)> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work = Mutex::new(Work {
        stretches: VecDeque::new(),
        files: files.into(),
        refused: Vec::new(),
    });
    thread::scope(|scope| {
        for _ in 1..threads {
            // With fewer threads it only takes longer.
            let _ = thread::Builder::new()
                .name("warm".into())
                .spawn_scoped(scope, || while step(&work, progress) {});
        }
        while step(&work, progress) {}
    });
    work.into_inner().refused
}

/// Does one piece of work; `false` when none is left to take.
fn step(work: &Mutex<Work>, progress: &(dyn Fn(u64) + Sync)) -> bool {
    let mut now = work.lock();
    if let Some((file, wanted, range)) = now.stretches.pop_front() {
        drop(now);
        if let Err(e) = read(&file, range, progress) {
            let mut now = work.lock();
            now.stretches.retain(|(_, other, _)| !Arc::ptr_eq(other, &wanted));
            if now.refused.iter().all(|(other, _)| other.name != wanted.name) {
                now.refused.push(((*wanted).clone(), e));
            }
        }
        return true;
    }
    let Some(wanted) = now.files.pop_front() else {
        return false;
    };
    drop(now);
    match File::open(&wanted.path) {
        Ok(file) => {
            let (file, wanted) = (Arc::new(file), Arc::new(wanted));
            let mut now = work.lock();
            let mut at = 0;
            while at < wanted.bytes {
                let end = at.saturating_add(STRETCH_BYTES).min(wanted.bytes);
                now.stretches.push_back((file.clone(), wanted.clone(), at..end));
                at = end;
            }
        }
        Err(e) => work.lock().refused.push((wanted, e)),
    }
    true
}

fn read(file: &File, range: Range<u64>, progress: &(dyn Fn(u64) + Sync)) -> io::Result<()> {
    let mut buffer = vec![0; CALL_BYTES];
    let mut at = range.start;
    while at < range.end {
        let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        let (room, _) = buffer.split_at_mut(left.min(CALL_BYTES));
        match file.read_at(room, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                let read = u64::try_from(read).unwrap_or(u64::MAX);
                at = at.saturating_add(read);
                progress(read);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Most files that the sentence about all of them names.
const MAX_NAMED: usize = 10;

/// Tells which files were refused and why: one line each, and one sentence for all.
fn judge(mountpoint: &Path, mut refused: Vec<(Wanted, io::Error)>, json: bool) -> Result<(), Failure> {
    if refused.is_empty() {
        return Ok(());
    }
    refused.sort_by(|(a, _), (b, _)| loading_order(&a.name, &b.name));
    let reasons = mount::status(mountpoint).map(|report| report.problems);
    let reasons = reasons.unwrap_or_default();
    let (mut problems, mut differ, mut names) = (Vec::new(), 0, Vec::new());
    for (wanted, error) in &refused {
        let name = Escaped(wanted.name.as_bytes()).to_string();
        let state = state(&wanted.path);
        let message = match (reasons.iter().find(|problem| problem.path == name), &state) {
            (Some(problem), Some(_)) if !problem.detail.is_empty() => problem.detail.clone(),
            (_, Some(state)) => format!("{name} is {state}"),
            (_, None) => format!("{name} cannot be read: {error}"),
        };
        differ += usize::from(state.is_some());
        let kind = if state.is_some() { "differs" } else { "unreadable" };
        problems.push(json!({"path": wanted.name, "kind": kind, "message": message}));
        if !json {
            let _ = writeln!(io::stderr(), "modelfs: {message}");
        }
        names.push(name);
    }
    let more = names.len().saturating_sub(MAX_NAMED);
    names.truncate(MAX_NAMED);
    let mut names = names.join(", ");
    if more > 0 {
        names.push_str(&format!(" and {more} more"));
    }
    let (exit, what, remedy) = if differ > 0 {
        (
            Exit::ContentDiffers,
            "is not what was signed",
            "restore it from where the model came from, and mount it anew",
        )
    } else {
        (Exit::Io, "cannot be read", "see to its permissions and its disk")
    };
    let message = format!("{} {what} ({names}): {remedy}", shown(mountpoint));
    Err(Failure::new(exit, message).with("problems", Value::from(problems)))
}

/// The word for what is wrong with a file's content, if the mount says so.
fn state(path: &Path) -> Option<String> {
    let mut value = [0; 32];
    let name = format!("{XATTR_PREFIX}state");
    let size = rustix::fs::getxattr(path, name.as_str(), value.as_mut_slice()).ok()?;
    let word = String::from_utf8_lossy(value.get(..size)?);
    matches!(&*word, "rejected" | "changed").then(|| word.into_owned())
}

fn of_status(error: &MountError) -> Failure {
    match error {
        MountError::MountPoint {
            problem: Problem::NotMounted | Problem::Missing | Problem::NotDirectory,
            ..
        } => Failure::of(Exit::Usage, error),
        _ => of_mount(error),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::about(Exit::Io, &shown(path).to_string(), error)
}
