//! Whole-tree checks: what nobody signed, and what differs from what was signed.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::ModelTree;
use crate::manifest::SignedContent;
use crate::path::Escaped;
use crate::path::ModelPath;
use crate::path::loading_order;
use crate::source::Entry;
use crate::source::EntryKind;
use crate::source::SourceError;
use crate::verify::Haste;
use crate::verify::ReadError;
use crate::verify::VerifiedFile;

/// The names that signing leaves out at the root of a model unless told otherwise (OMS 6.2).
const GIT_PATHS: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

/// Bytes of shards that one job verifies. Smaller: more hand-overs; bigger: less even work at the end.
const SPAN_BYTES: u64 = 64 * 1024 * 1024;

/// How often progress is told while nothing ends.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What a whole-tree check leaves out of the search for unsigned entries. It never makes anything visible.
#[derive(Clone, Debug, Default)]
pub struct Ignored {
    paths: Vec<ModelPath>,
}

impl Ignored {
    /// Ignores these paths and what lies beneath them and, with `git`, what git keeps at a model's root.
    pub fn new(mut paths: Vec<ModelPath>, git: bool) -> Self {
        if git {
            paths.extend(GIT_PATHS.iter().filter_map(|path| ModelPath::parse(path).ok()));
        }
        Self { paths }
    }
}

/// What is wrong with an entry of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeProblemKind {
    /// Signed and not there.
    Missing,
    /// Signed as a file; something else is there.
    WrongType,
    /// Not as long as was signed.
    WrongSize,
    /// Signed, and the file system refuses to show it.
    Unreadable,
    /// There, and not signed.
    Unsigned,
    /// There without a byte in it, which this manifest had no way to sign (OMS 6.3.2).
    UnsignedEmpty,
}

/// An entry of the source that does not fit the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeProblem {
    kind: TreeProblemKind,
    name: Vec<u8>,
    text: String,
}

impl TreeProblem {
    pub(super) fn new(kind: TreeProblemKind, name: Vec<u8>, text: String) -> Self {
        Self { kind, name, text }
    }

    /// What is wrong.
    pub fn kind(&self) -> TreeProblemKind {
        self.kind
    }

    /// The name, in whatever bytes it has.
    pub fn name(&self) -> &[u8] {
        &self.name
    }
}

impl fmt::Display for TreeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A signed file whose content could not be verified.
#[derive(Clone, Debug)]
pub struct ContentProblem {
    path: ModelPath,
    error: ReadError,
    text: String,
}

impl ContentProblem {
    /// The file.
    pub fn path(&self) -> &ModelPath {
        &self.path
    }

    /// Whether the content differs; otherwise it could not be read.
    pub fn is_mismatch(&self) -> bool {
        matches!(self.error, ReadError::Rejected { .. } | ReadError::Changed { .. })
    }
}

impl fmt::Display for ContentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl ModelTree {
    /// Entries of the source that no resource signs.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn unsigned(&self, ignored: &Ignored) -> Result<Vec<TreeProblem>, SourceError> {
        let signed: HashSet<&[u8]> = self.signed_names().map(|path| path.as_str().as_bytes()).collect();
        let ignored: HashSet<&[u8]> = (ignored.paths.iter().chain(&self.model.ignore_paths))
            .map(|path| path.as_str().as_bytes())
            .collect();
        let skip = |name: &[u8]| ignored.contains(name);
        let found = self.source.walk(&skip)?;
        Ok(found
            .into_iter()
            .filter_map(|entry| self.judge(entry, &signed))
            .collect())
    }

    /// Hashes every resource, on as many threads as the engine has, and says what differs. `progress` hears
    /// of bytes done and bytes in all. Where nobody waits for it, in the order in which frameworks load.
    pub fn verify_all(&self, haste: Haste, progress: &dyn Fn(u64, u64)) -> Vec<ContentProblem> {
        let (sender, results) = channel();
        let mut work = self.in_order(haste).into_iter().flat_map(spans);
        let before = self.engine.counters().hashed_bytes;
        let tell = || {
            progress(
                self.engine.counters().hashed_bytes - before,
                self.model.total_bytes,
            )
        };
        let mut outstanding = 0;
        let mut problems: Vec<ContentProblem> = Vec::new();
        loop {
            while outstanding < self.parallel_jobs()
                && let Some((file, span)) = work.next()
            {
                self.submit(file, span, haste, &sender);
                outstanding += 1;
            }
            tell();
            if outstanding == 0 {
                break;
            }
            if let Some((path, result)) = next(&results) {
                outstanding -= 1;
                if let Err(error) = result
                    && !problems.iter().any(|problem| problem.path == path)
                {
                    problems.push(self.describe(path, error));
                }
            }
        }
        problems.sort_by(|a, b| a.path.cmp(&b.path));
        problems
    }

    /// All files, in the order in which they are checked: with readers on their way, what they will want first.
    pub(super) fn in_order(&self, haste: Haste) -> Vec<&Arc<VerifiedFile>> {
        let mut files: Vec<_> = self.files.iter().collect();
        if haste == Haste::None {
            files.sort_by(|a, b| loading_order(a.path().as_str(), b.path().as_str()));
        }
        files
    }

    /// Verifies what no read will ever verify.
    pub(super) fn verify_empty_files(&self) {
        let (sender, results) = channel();
        let empty: Vec<_> = self.files.iter().filter(|file| file.size() == 0).collect();
        for file in &empty {
            self.submit(file, 0..1, Haste::Some, &sender);
        }
        for _ in &empty {
            // Each ends with a result, whatever happens: a job that is dropped answers with an error.
            let _ = results.recv();
        }
    }

    fn submit(&self, file: &Arc<VerifiedFile>, span: Range<usize>, haste: Haste, sender: &Sender<Verified>) {
        let (path, sender) = (file.path().clone(), sender.clone());
        self.engine.verify(file, span, haste, move |result| {
            // Nobody listens any more only when the check itself is gone.
            let _ = sender.send((path, result));
        });
    }

    /// Enough to keep every core busy while some threads wait for the source.
    fn parallel_jobs(&self) -> usize {
        2 * std::thread::available_parallelism().map_or(1, usize::from)
    }

    fn signed_names(&self) -> impl Iterator<Item = &ModelPath> {
        let bundle = self.bundle.as_ref().map(|bundle| &bundle.path);
        self.files
            .iter()
            .map(|file| file.path())
            .chain(&self.unbound)
            .chain(bundle)
    }

    fn judge(&self, entry: Entry, signed: &HashSet<&[u8]>) -> Option<TreeProblem> {
        if signed.contains(entry.name.as_slice()) {
            return None;
        }
        let name = Escaped(&entry.name);
        let (kind, text) = match entry.kind {
            EntryKind::File { empty: true } if self.model.is_sharded => (
                TreeProblemKind::UnsignedEmpty,
                format!("{name}: empty and not signed, as shards leave empty files out"),
            ),
            EntryKind::File { .. } => (TreeProblemKind::Unsigned, format!("{name}: not signed")),
            EntryKind::Other(what) => (
                TreeProblemKind::Unsigned,
                format!("{name}: not signed; it is {what}"),
            ),
        };
        Some(TreeProblem::new(kind, entry.name, text))
    }

    fn describe(&self, path: ModelPath, error: ReadError) -> ContentProblem {
        let findings = self.engine.findings();
        let mut findings = findings.iter().filter(|finding| finding.path == path);
        let text = match (&error, findings.next()) {
            (ReadError::Rejected { .. }, Some(first)) => match findings.count() {
                0 => first.to_string(),
                more => format!("{first}; so do {more} more of its shards"),
            },
            _ => error.to_string(),
        };
        ContentProblem { path, error, text }
    }
}

type Verified = (ModelPath, Result<(), ReadError>);

fn next(results: &Receiver<Verified>) -> Option<Verified> {
    results.recv_timeout(PROGRESS_INTERVAL).ok()
}

/// The resources of a file in portions for one job each.
fn spans(file: &Arc<VerifiedFile>) -> impl Iterator<Item = (&Arc<VerifiedFile>, Range<usize>)> {
    let (count, step): (usize, usize) = match file.content() {
        SignedContent::Whole(_) => (1, 1),
        SignedContent::Shards(shards) => (
            shards.count(),
            usize::try_from(SPAN_BYTES / shards.shard_size())
                .unwrap_or(usize::MAX)
                .max(1),
        ),
    };
    (0..count)
        .step_by(step)
        .map(move |start| (file, start..count.min(start.saturating_add(step))))
}
