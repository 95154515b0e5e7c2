//! What a mount says of itself: the JSON behind `user.modelfs.status` and `modelfs status`.

use data_encoding::HEXLOWER;
use serde::Deserialize;
use serde::Serialize;

use crate::tree::ModelTree;
use crate::verify::State;

/// Most files that a report names. An extended attribute holds 64 KiB, and a name up to 4 KiB; the totals
/// count all of them.
const MAX_NAMED_BYTES: usize = 40 * 1024;

/// Most threads that a report names for asking again and again, so that room is left for the files; the log names all.
const MAX_ASKED_AGAIN: usize = 8;

/// Longest text of ours or of the signer's in a report, in bytes; JSON may make six of each.
const MAX_TEXT_BYTES: usize = 1024;

/// The state of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The version of modelfs that serves.
    pub version: String,
    /// Process identifier of the server.
    pub pid: u32,
    /// Path of the source.
    pub model: String,
    /// What the signer called the model.
    pub subject: String,
    /// Who signed it, in one line.
    pub signer: String,
    /// How: `key`, `certificate` or `sigstore`.
    pub method: String,
    /// When it was signed and what proves that, in one line.
    pub signed_at: String,
    /// SHA-256 of the signed payload, in hexadecimal: which manifest this is.
    pub identity: String,
    /// Numbers of files by state.
    pub files: Files,
    /// Numbers of bytes.
    pub bytes: Bytes,
    /// How the source is read.
    pub source: Source,
    /// What stays in memory, sealed.
    pub pinned: Pinned,
    /// What chunks that are read again are held against.
    pub tags: String,
    /// Reads that were refused.
    pub refused: Refused,
    /// Who asks for refused bytes again and again, now; as many as fit.
    #[serde(default)]
    pub asked_again: Vec<AskedAgain>,
    /// Files that are rejected or changed; as many as fit.
    pub problems: Vec<Problem>,
    /// What the server may still do to the machine.
    #[serde(default)]
    pub sandbox: Confinement,
}

/// How far the serving process is confined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Whether it has confined itself; without, somebody asked for that.
    pub on: bool,
    /// Whether it has kept what privileges it was started with.
    pub privileges: bool,
    /// The version of Landlock that confines its files; 0 where the kernel has none.
    pub landlock: u32,
    /// What it can read.
    pub reads: Reach,
    /// Whether it can make only the system calls that serving takes.
    pub seccomp: bool,
}

/// Which files a server can open for reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Those of the model.
    Model,
    /// All that its user can: links may lead anywhere, or nothing confines it.
    #[default]
    Anything,
}

/// Numbers of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// All that are signed.
    pub total: u64,
    /// Wholly verified.
    pub verified: u64,
    /// Not read yet, or not wholly.
    pub unverified: u64,
    /// Different from their signed digest.
    pub rejected: u64,
    /// Verified, and different later.
    pub changed: u64,
}

/// Numbers of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// In all signed files.
    pub total: u64,
    /// In resources that matched their signed digest.
    pub verified: u64,
    /// Put through a signed hash function so far.
    pub hashed: u64,
    /// Handed to the kernel for readers so far.
    pub served: u64,
    /// Held in memory now, pinned files among them.
    pub held: u64,
    /// How many may be held now; shrinks when the system has little memory left.
    pub budget: u64,
}

/// How the source was read, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// From the device, past the page cache.
    pub direct: u64,
    /// Out of the page cache, where they were already.
    pub cached: u64,
    /// Through the page cache, and dropped there again.
    pub buffered: u64,
}

/// Files that the kernel reads by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// Their number.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Numbers of refusals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Resources that differ from their signed digest.
    pub resources: u64,
    /// Reads of bytes that changed after they were verified.
    pub changed_reads: u64,
    /// Reads that the source failed.
    pub source_errors: u64,
}

/// A file that is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its name, escaped for printing.
    pub path: String,
    /// `rejected` or `changed`.
    pub state: String,
    /// What was found, where that is known.
    pub detail: String,
}

/// A thread that is refused the same bytes again and again, as mmap(2) with `MAP_POPULATE` is, which never comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedAgain {
    /// The file's name, escaped for printing.
    pub path: String,
    /// The first byte.
    pub start: u64,
    /// The first byte after them.
    pub end: u64,
    /// How often.
    pub times: u64,
    /// Number of the thread in the PID namespace of the mount; `None` where it is of another.
    pub thread: Option<u32>,
    /// All of it in one line.
    pub detail: String,
}

impl Report {
    /// Looks at a tree.
    pub(super) fn of(tree: &ModelTree, sandbox: &Confinement) -> Self {
        let states = tree.states();
        let count = |state| states.get(&state).copied().unwrap_or(0);
        let counters = tree.engine().counters();
        let traffic = tree.traffic();
        let mut room = MAX_NAMED_BYTES;
        let asked_again = asked_again(tree, &mut room);
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            model: beginning(tree.source_path().to_string_lossy().into_owned()),
            subject: beginning(tree.model().subject.clone()),
            signer: beginning(tree.model().signer.to_string()),
            method: tree.model().signer.method().to_string(),
            signed_at: beginning(tree.model().signed_at.to_string()),
            identity: HEXLOWER.encode(&tree.model().identity),
            files: Files {
                total: u64::try_from(tree.files().len()).unwrap_or(u64::MAX),
                verified: count(State::Verified),
                unverified: count(State::Unverified),
                rejected: count(State::Rejected),
                changed: count(State::Changed),
            },
            bytes: Bytes {
                total: tree.model().total_bytes,
                verified: counters.verified_bytes,
                hashed: counters.hashed_bytes,
                served: counters.served_bytes,
                held: counters.held_bytes,
                budget: counters.budget_bytes,
            },
            source: Source {
                direct: traffic.direct_bytes,
                cached: traffic.cached_bytes,
                buffered: traffic.buffered_bytes,
            },
            pinned: Pinned {
                files: counters.pinned_files,
                bytes: counters.pinned_bytes,
            },
            tags: tree.engine().tag_name().into(),
            refused: Refused {
                resources: counters.rejected_resources,
                changed_reads: counters.changed_reads,
                source_errors: counters.source_errors,
            },
            asked_again,
            problems: problems(tree, &mut room),
            sandbox: sandbox.clone(),
        }
    }
}

/// As much of a text as a report has room for.
fn beginning(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
        text.push_str("...");
    }
    text
}

fn asked_again(tree: &ModelTree, room: &mut usize) -> Vec<AskedAgain> {
    let mut all = Vec::new();
    for asked in tree.engine().insistent().into_iter().take(MAX_ASKED_AGAIN) {
        let detail = asked.to_string();
        let path = asked.path.to_string();
        if !fits(path.len() + detail.len(), room) {
            break;
        }
        all.push(AskedAgain {
            path,
            start: asked.range.start,
            end: asked.range.end,
            times: asked.times,
            thread: Some(asked.asker.0).filter(|&thread| thread != 0),
            detail,
        });
    }
    all
}

/// Takes so many bytes of text out of the room that is left, if there is so much.
fn fits(bytes: usize, room: &mut usize) -> bool {
    // JSON escapes what is escaped once more: at worst each byte becomes six. What stands around them is less than 192.
    let left = room.checked_sub(6 * bytes + 192);
    *room = left.unwrap_or(*room);
    left.is_some()
}

fn problems(tree: &ModelTree, room: &mut usize) -> Vec<Problem> {
    let findings = tree.engine().findings();
    let mut problems = Vec::new();
    for file in tree.files() {
        let state = file.state();
        if !matches!(state, State::Rejected | State::Changed) {
            continue;
        }
        let detail = findings.iter().find(|finding| finding.path == *file.path());
        let problem = Problem {
            path: file.path().to_string(),
            state: state.word().into(),
            detail: detail.map(ToString::to_string).unwrap_or_default(),
        };
        if !fits(problem.path.len() + problem.detail.len(), room) {
            break;
        }
        problems.push(problem);
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let exact = "x".repeat(MAX_TEXT_BYTES);
        assert_eq!(beginning(exact.clone()), exact);
        assert_eq!(beginning(exact.clone() + "y"), exact + "...");
        let umlauts = "\u{e4}".repeat(MAX_TEXT_BYTES);
        assert_eq!(beginning("x".to_owned() + &umlauts).len(), MAX_TEXT_BYTES - 1 + 3);
    }
}
