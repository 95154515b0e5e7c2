//! What `verify` and `mount` do alike: from arguments to a bound tree.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::anchors;
use super::args::LimitArgs;
use super::args::TreeArgs;
use super::args::TrustArgs;
use super::bundle::BundleFile;
use super::bundle::shown;
use super::exit::Exit;
use super::failure::Failure;
#[cfg(feature = "planted-faults")]
use crate::mount::sandbox;
use crate::mount::sandbox::Keeps;
use crate::mount::sandbox::May;
use crate::mount::sandbox::Needs;
use crate::mount::sandbox::Place;
use crate::mount::sandbox::Sandbox;
use crate::path::ModelPath;
use crate::policy::ModelLocation;
use crate::source::Links;
use crate::source::ModelDir;
use crate::source::SourceError;
use crate::source::What;
use crate::sys::MemoryGauge;
use crate::tree::Binding;
use crate::tree::ContentProblem;
use crate::tree::ModelTree;
use crate::tree::ShownBundle;
use crate::tree::TreeProblem;
use crate::tree::TreeProblemKind;
use crate::trust::TrustAnchors;
use crate::verify::Engine;
use crate::verify::Haste;
use crate::verify::Options;
use crate::verify::Remembered;

/// A model and what is to be trusted, opened and read; not one byte of the bundle was looked at yet. What comes
/// after needs nothing but the model's own files, so that a process can confine itself to them in between.
#[derive(Debug)]
pub(super) struct Opened {
    bundle: BundleFile,
    /// The bundle's name in the model, when it lies inside.
    inside: Option<ModelPath>,
    anchors: TrustAnchors,
    source: ModelDir,
}

/// Opens a model and reads all files besides it that a command needs.
pub(super) fn open(
    bundle: &Path,
    model: &Path,
    trust: &TrustArgs,
    tree: &TreeArgs,
) -> Result<Opened, Failure> {
    let place = ModelLocation::of_model(model).map_err(|e| Failure::of(Exit::Io, &e))?;
    let bundle = BundleFile::read(bundle, Some(place.path()))?;
    let anchors = anchors::load(trust, &place)?;
    let links = match tree.allow_symlinks {
        true => Links::Follow,
        false => Links::Refuse,
    };
    let source = ModelDir::open(place.path(), links).map_err(|e| of_source(&e))?;
    if source.path() != place.path() {
        // A folder on the way has become a link since: the policy was asked about another place.
        let message = format!("{} has moved while it was opened: try again", shown(model));
        return Err(Failure::new(Exit::Io, message));
    }
    Ok(Opened {
        inside: bundle.path_within(place.path()),
        bundle,
        anchors,
        source,
    })
}

impl Opened {
    /// The model, whose content nobody has vouched for yet.
    pub(super) fn source(&self) -> &ModelDir {
        &self.source
    }

    /// Checks the signature, then ties what it covers to the model on disk.
    pub(super) fn bind(self, options: Options, state: Option<&Path>) -> Result<Binding, Failure> {
        let trusted = anchors::verify(&self.anchors, &self.bundle)?;
        let remembered = state
            .map(|directory| Remembered::open(directory, trusted.manifest().identity()))
            .transpose()
            .map_err(|e| Failure::of(if e.is_io() { Exit::Io } else { Exit::Usage }, &e))?;
        let engine = Engine::start(options, remembered).map_err(|e| Failure::of(Exit::Unforeseen, &e))?;
        let model = shown(self.source.path()).to_string();
        let bytes = self.bundle.bytes;
        let inside = self.inside.map(|path| ShownBundle {
            path,
            bytes: Arc::new(bytes),
        });
        ModelTree::bind(trusted, self.source, engine, inside)
            .map_err(|e| Failure::about(Exit::TreeDiffers, &model, &e))
    }
}

/// Confines a command to reading the model, or to what it has read already, before it looks at a byte of the bundle. Root
/// still reads what belongs to others, there.
pub(super) fn confine(source: Option<&ModelDir>) -> Result<(), Failure> {
    let places = match source {
        Some(source) => vec![Place::new(source.root().map_err(|e| of_source(&e))?, May::Read)],
        None => Vec::new(),
    };
    let needs = Needs {
        places,
        reads_anywhere: source.is_some_and(ModelDir::follows_links),
        backing: false,
        keeps: Keeps::Reading,
    };
    Sandbox::enter(needs).map_err(|e| Failure::of(Exit::Unforeseen, &e))?;
    #[cfg(feature = "planted-faults")]
    sandbox::break_out::run_in_command_if_planted(
        source.map(|model| model.path().join("config.json")).as_deref(),
    );
    Ok(())
}

/// A problem with the model's root, or with a folder in it.
pub(super) fn of_source(error: &SourceError) -> Failure {
    let exit = match error.what() {
        What::Link | What::Outside | What::NotRegular(_) => Exit::TreeDiffers,
        What::Missing | What::Io(_) => Exit::Io,
    };
    Failure::of(exit, error)
}

/// What reading and hashing may take.
///
/// What the machine has is asked here: a process that has confined itself cannot.
pub(super) fn options(limits: &LimitArgs) -> Options {
    let default = Options::default();
    Options {
        threads: limits.threads.unwrap_or(default.threads),
        memory: limits.memory.or(default.memory),
        max_file_bytes: limits.max_file_size.unwrap_or(default.max_file_bytes),
        source_timeout: limits.source_timeout.map_or(default.source_timeout, |seconds| {
            Duration::from_secs(seconds.into())
        }),
        gauge: Some(Arc::new(MemoryGauge::open())),
        ..default
    }
}

/// Everything found to be wrong with a model.
#[derive(Debug, Default)]
pub(super) struct Problems {
    tree: Vec<TreeProblem>,
    content: Vec<ContentProblem>,
}

/// A kind of problem: its name, what it amounts to and what to do about it.
struct Kind {
    name: &'static str,
    exit: Exit,
    remedy: &'static str,
}

const RESTORE: &str = "restore it from where it came, or have it signed anew";

/// The kinds, the graver first: the first that occurs gives the exit code.
const KINDS: [Kind; 6] = [
    Kind {
        name: "differs",
        exit: Exit::ContentDiffers,
        remedy: RESTORE,
    },
    Kind {
        name: "missing",
        exit: Exit::TreeDiffers,
        remedy: RESTORE,
    },
    Kind {
        name: "wrong-type",
        exit: Exit::TreeDiffers,
        remedy: RESTORE,
    },
    Kind {
        name: "wrong-size",
        exit: Exit::TreeDiffers,
        remedy: RESTORE,
    },
    Kind {
        name: "unsigned",
        exit: Exit::TreeDiffers,
        remedy: "remove what is not signed, or have it signed too",
    },
    Kind {
        name: "unreadable",
        exit: Exit::Io,
        remedy: "see to its permissions and its disk",
    },
];

impl Problems {
    pub(super) fn add_tree(&mut self, problems: impl IntoIterator<Item = TreeProblem>) {
        self.tree.extend(problems);
    }

    pub(super) fn add_content(&mut self, problems: impl IntoIterator<Item = ContentProblem>) {
        self.content.extend(problems);
    }

    /// One line for each.
    pub(super) fn lines(&self) -> Vec<String> {
        let content = self.content.iter().map(ToString::to_string);
        content.chain(self.tree.iter().map(ToString::to_string)).collect()
    }

    /// Nothing, or the failure that they amount to.
    pub(super) fn judge(&self, model: &Path) -> Result<(), Failure> {
        let count = |kind: &Kind| self.kinds().filter(|name| *name == kind.name).count();
        let found: Vec<(&Kind, usize)> = KINDS
            .iter()
            .map(|kind| (kind, count(kind)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let Some((gravest, _)) = found.first() else {
            return Ok(());
        };
        let counted: Vec<String> = found
            .iter()
            .map(|(kind, count)| format!("{count} {}", kind.name))
            .collect();
        let verdict = match gravest.exit {
            Exit::Io => "cannot be verified",
            _ => "is not what was signed",
        };
        let message = format!(
            "{} {verdict} ({}): {}",
            shown(model),
            counted.join(", "),
            gravest.remedy
        );
        Err(Failure::new(gravest.exit, message).with("problems", self.json()))
    }

    fn kinds(&self) -> impl Iterator<Item = &'static str> {
        let content = self.content.iter().map(content_kind);
        content.chain(self.tree.iter().map(|problem| tree_kind(problem.kind())))
    }

    fn json(&self) -> Value {
        let content = self.content.iter().map(|problem| {
            json!({
                "path": problem.path().as_str(),
                "kind": content_kind(problem),
                "message": problem.to_string(),
            })
        });
        let tree = self.tree.iter().map(|problem| {
            json!({
                "path": String::from_utf8_lossy(problem.name()),
                "kind": tree_kind(problem.kind()),
                "message": problem.to_string(),
            })
        });
        content.chain(tree).collect()
    }
}

fn content_kind(problem: &ContentProblem) -> &'static str {
    if problem.is_mismatch() {
        "differs"
    } else {
        "unreadable"
    }
}

fn tree_kind(kind: TreeProblemKind) -> &'static str {
    match kind {
        TreeProblemKind::Missing => "missing",
        TreeProblemKind::WrongType => "wrong-type",
        TreeProblemKind::WrongSize => "wrong-size",
        TreeProblemKind::Unreadable => "unreadable",
        TreeProblemKind::Unsigned => "unsigned",
        TreeProblemKind::UnsignedEmpty => "unsigned-empty",
    }
}

/// Splits what `unsigned` found: what is wrong, and what is only worth a word.
pub(super) fn split_warnings(found: Vec<TreeProblem>) -> (Vec<TreeProblem>, Vec<TreeProblem>) {
    found
        .into_iter()
        .partition(|problem| problem.kind() != TreeProblemKind::UnsignedEmpty)
}

/// How many files a tree has, and their bytes, for people.
pub(super) fn size_of(tree: &ModelTree) -> String {
    let files = tree.files().len();
    let plural = if files == 1 { "" } else { "s" };
    format!("{files} file{plural}, {}", bytes(tree.model().total_bytes))
}

/// A number of bytes for people: three digits and a unit of 1024.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // Tenths, so that no floating point rounds a size up to one it does not have.
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while tenths >= 10_240 {
        tenths /= 1024;
        unit = units.next();
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, unit.unwrap_or(&"EiB"))
}

/// Progress of a whole-tree check on standard error, when that is a terminal, and to whoever else wants to hear of it.
pub(super) fn verify_all(tree: &ModelTree, tell: &dyn Fn(u64, u64)) -> Vec<ContentProblem> {
    let bar = progress("verifying", tree.model().total_bytes);
    let problems = tree.verify_all(Haste::Some, &|done, total| {
        bar.set_length(total);
        bar.set_position(done.min(total));
        tell(done, total);
    });
    bar.finish_and_clear();
    problems
}

/// A bar on standard error for so many bytes, which shows itself only on a terminal.
pub(super) fn progress(doing: &str, total: u64) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(total);
    let template = format!("{doing} {{bar:30}} {{bytes}}/{{total_bytes}} {{bytes_per_sec}} {{eta}}");
    if let Ok(style) = indicatif::ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people_are_never_rounded_up() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (1024 * 1024, "1.0 MiB"),
            (4 << 30, "4.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (count, want) in cases {
            assert_eq!(bytes(count), want);
        }
    }
}
