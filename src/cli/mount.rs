//! `modelfs mount`, `unmount` and `status`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use data_encoding::HEXLOWER;
use serde_json::Value;
use serde_json::json;

use super::anchors;
use super::args::MountArgs;
use super::args::PinWhich;
use super::args::Unsigned;
use super::args::When;
use super::background;
use super::background::Start;
use super::bundle::shown;
use super::exit::Exit;
use super::failure::Failure;
use super::failure::plain;
use super::failure::render;
use super::log;
use super::log::Destination;
use super::model;
use super::model::Problems;
use crate::fs::ModelFs;
use crate::fs::Report;
use crate::mount;
use crate::mount::HandedOver;
use crate::mount::MountError;
use crate::mount::MountOptions;
use crate::mount::Session;
use crate::path::Escaped;
use crate::tree::Ignored;
use crate::tree::ModelTree;
use crate::verify::Haste;
use crate::verify::Options;
use crate::verify::Pin;

/// Which half of a mount this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// The one that was called.
    Caller,
    /// The one that the caller started, to serve in the background.
    Server,
}

/// Most problems that are listed one by one before a mount is refused; `verify` lists all.
const MAX_LISTED: usize = 10;

/// Mounts. Returns when the mount is gone, or in the caller of a background mount when it stands.
pub(super) fn run(
    args: &MountArgs,
    json: bool,
    half: Half,
    arguments: &[OsString],
) -> Result<ExitCode, Failure> {
    // Before anything is opened: the number must mean what it meant to whoever started us.
    let handed = HandedOver::find(&args.mountpoint).map_err(|e| of_mount(&e))?;
    if !args.serve.foreground && half == Half::Caller {
        return in_background(arguments, handed.as_ref());
    }
    let level = std::env::var("MODELFS_LOG").ok();
    let level = log::level(level.as_deref()).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "$MODELFS_LOG must be one of error, warn, info and debug",
        )
    })?;
    let log_file = args.serve.log_file.as_deref().map(open_log).transpose()?;
    let tree = prepare(args, json)?;
    // Only now: what is found before is told as the command's own result, once.
    log::start(Destination::standard_error(), level);
    let served = serve(tree, args, handed, json, half, log_file);
    ::log::logger().flush();
    served.map(|()| Exit::Done.into())
}

fn in_background(arguments: &[OsString], handed: Option<&HandedOver>) -> Result<ExitCode, Failure> {
    match background::start(arguments, handed) {
        Ok(Start::Serving) => Ok(Exit::Done.into()),
        Ok(Start::Ended(status)) => match status.code().and_then(|code| u8::try_from(code).ok()) {
            // It would have said that it serves.
            Some(0) | None => Err(Failure::new(
                Exit::Unforeseen,
                format!("the server ended before the mount stood ({status}): try --foreground"),
            )),
            Some(code) => Ok(ExitCode::from(code)),
        },
        Err(e) => Err(Failure::new(
            Exit::Unforeseen,
            format!("the server cannot be started: {e}"),
        )),
    }
}

fn open_log(path: &Path) -> Result<File, Failure> {
    File::options().create(true).append(true).open(path).map_err(|e| {
        Failure::new(
            Exit::Io,
            format!("the log {} cannot be written: {e}", shown(path)),
        )
    })
}

/// All checks that come before the mount: what is wrong now is refused now.
fn prepare(args: &MountArgs, json: bool) -> Result<ModelTree, Failure> {
    let options = Options {
        pin: match args.serve.pin {
            PinWhich::Off => Pin::Off,
            PinWhich::Auto => Pin::Auto,
            PinWhich::All => Pin::All,
        },
        ..model::options(&args.limits)
    };
    let state = args.serve.state.as_deref();
    let binding = model::bind(&args.bundle, &args.model, &args.trust, &args.tree, options, state)?;
    let tree = binding.tree;
    let mut problems = Problems::default();
    problems.add_tree(binding.problems);
    if args.serve.unsigned == Unsigned::Refuse {
        let found = tree
            .unsigned(&Ignored::new(Vec::new(), true))
            .map_err(|e| model::of_source(&e))?;
        problems.add_tree(model::split_warnings(found).0);
    }
    if args.serve.verify == When::Eager {
        problems.add_content(model::verify_all(&tree));
    }
    if !json {
        list(&problems);
    }
    problems.judge(&args.model)?;
    Ok(tree)
}

fn list(problems: &Problems) {
    let lines = problems.lines();
    let mut out = io::stderr().lock();
    for line in lines.iter().take(MAX_LISTED) {
        let _ = writeln!(out, "modelfs: {line}");
    }
    if let Some(more) = lines.len().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
        let _ = writeln!(out, "modelfs: and {more} more, which modelfs verify lists");
    }
}

/// Mounts the tree and serves until the mount is gone.
fn serve(
    tree: ModelTree,
    args: &MountArgs,
    handed: Option<HandedOver>,
    json: bool,
    half: Half,
    log_file: Option<File>,
) -> Result<(), Failure> {
    let options = MountOptions {
        allow_other: args.serve.allow_other,
        allow_exec: args.serve.allow_exec,
        source_name: tree.source_path().to_path_buf(),
    };
    let fs = Arc::new(ModelFs::new(tree));
    let session = match handed {
        Some(handed) => Session::take_over(Arc::clone(&fs), handed),
        None => Session::start(Arc::clone(&fs), &args.mountpoint, &options),
    }
    .map_err(|e| of_mount(&e))?;
    let mountpoint = session.mountpoint().to_path_buf();
    if json {
        super::print(&render(&mounted_data(fs.tree(), &mountpoint)));
    }
    let log_is_elsewhere = log_file.is_some() || half == Half::Server;
    match (half, log_file.map(Destination::File)) {
        (Half::Caller, None) => {}
        (Half::Caller, Some(file)) => log::redirect(file),
        (Half::Server, file) => {
            let log = file.unwrap_or_else(Destination::system);
            background::detach(log).map_err(|e| give_up(&mountpoint, &e))?;
        }
    }
    let about = fs.tree().model();
    ::log::info!(
        "mounted {} on {}, {}, signed by {} at {}, manifest sha256:{}",
        shown(fs.tree().source_path()),
        shown(&mountpoint),
        model::size_of(fs.tree()),
        about.signer,
        about.signed_at,
        HEXLOWER.encode(&about.identity)
    );
    if let Some(stale) = anchors::staleness(&about.signer) {
        ::log::warn!("the trusted root {stale}");
    }
    let engine = Arc::clone(fs.tree().engine());
    if args.serve.verify == When::Background {
        verify_in_background(fs);
    }
    let ended = session.wait().map_err(|e| of_mount(&e));
    engine.remember_all();
    match &ended {
        Ok(()) => ::log::info!("unmounted {}", shown(&mountpoint)),
        Err(failure) if log_is_elsewhere => ::log::error!("{}", failure.line()),
        Err(_) => {}
    }
    ended
}

/// Undoes a mount that nobody knows of: the caller has gone before it was told.
fn give_up(mountpoint: &Path, why: &io::Error) -> Failure {
    let undone = mount::unmount(mountpoint);
    let outcome = undone.map_or_else(|e| e.to_string(), |()| "unmounted again".to_owned());
    let failure = Failure::new(
        Exit::MountFailed,
        format!(
            "{}: the server cannot go into the background ({why}): {outcome}",
            shown(mountpoint)
        ),
    );
    ::log::error!("{}", failure.line());
    failure
}

fn mounted_data(tree: &ModelTree, mountpoint: &Path) -> Value {
    let about = tree.model();
    json!({
        "model": tree.source_path().to_string_lossy(),
        "mountpoint": mountpoint.to_string_lossy(),
        "signer": about.signer.to_string(),
        "signed_at": about.signed_at.to_string(),
        "identity": HEXLOWER.encode(&about.identity),
        "files": tree.files().len(),
        "bytes": about.total_bytes,
    })
}

/// Verifies what nobody has read yet. What differs is refused and logged as when a reader meets it.
fn verify_in_background(fs: Arc<ModelFs>) {
    let work = move || {
        let problems = fs.tree().verify_all(Haste::None, &|_, _| {});
        let unreadable = problems.iter().filter(|problem| !problem.is_mismatch());
        for problem in unreadable {
            ::log::warn!("{problem}");
        }
        match problems.len() {
            0 => ::log::info!("verified {}", model::size_of(fs.tree())),
            found => ::log::warn!("verified all files; {found} cannot be read as they were signed"),
        }
    };
    if let Err(e) = thread::Builder::new().name("verify".to_owned()).spawn(work) {
        ::log::warn!("files are verified only as they are read, there is no thread to do more: {e}");
    }
}

pub(super) fn of_mount(error: &MountError) -> Failure {
    Failure::of(Exit::MountFailed, error)
}

/// Undoes a mount.
pub(super) fn unmount(mountpoint: &Path) -> Result<String, Failure> {
    mount::unmount(mountpoint).map_err(|e| of_mount(&e))?;
    Ok(String::new())
}

/// Tells what one mount, or each, says of itself.
pub(super) fn status(mountpoint: Option<&Path>, json: bool) -> Result<String, Failure> {
    if let Some(mountpoint) = mountpoint {
        let report = mount::status(mountpoint).map_err(|e| of_mount(&e))?;
        return Ok(if json {
            render(&report_data(mountpoint, &report))
        } else {
            report_text(mountpoint, &report)
        });
    }
    let mounted = mount::mounted()
        .map_err(|e| Failure::new(Exit::Unforeseen, format!("the mount table cannot be read: {e}")))?;
    let mut all = Vec::new();
    let mut out = String::new();
    for mountpoint in &mounted {
        match mount::status(mountpoint) {
            Ok(report) => {
                all.push(report_data(mountpoint, &report));
                out.push_str(&report_text(mountpoint, &report));
                out.push('\n');
            }
            // One that is gone, or somebody else's, does not hide the others.
            Err(e) => {
                all.push(json!({"mountpoint": mountpoint.to_string_lossy(), "error": e.to_string()}));
                let _ = writeln!(out, "{e}\n");
            }
        }
    }
    if mounted.is_empty() {
        out.push_str("no model is mounted\n");
    }
    Ok(if json {
        render(&Value::from(all))
    } else {
        out.trim_end().to_owned() + "\n"
    })
}

fn report_data(mountpoint: &Path, report: &Report) -> Value {
    let mut value = serde_json::to_value(report).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("mountpoint".to_owned(), mountpoint.to_string_lossy().into());
    }
    value
}

fn report_text(mountpoint: &Path, report: &Report) -> String {
    let safe = |text: &str| Escaped(text.as_bytes()).to_string();
    let (files, bytes, refused) = (&report.files, &report.bytes, &report.refused);
    let facts = [
        ("model", safe(&report.model)),
        // The signer's line and a problem's texts come from a server that has escaped them.
        ("signed by", plain(&report.signer)),
        ("signed at", plain(&report.signed_at)),
        ("identity", format!("sha256:{}", safe(&report.identity))),
        (
            "files",
            format!(
                "{}: {} verified, {} unverified, {} rejected, {} changed",
                files.total, files.verified, files.unverified, files.rejected, files.changed
            ),
        ),
        (
            "bytes",
            format!(
                "{}: {} verified, {} served",
                model::bytes(bytes.total),
                model::bytes(bytes.verified),
                model::bytes(bytes.served),
            ),
        ),
        (
            "memory",
            format!(
                "{} held of {}, {} of it in {} pinned files; read again against {}",
                model::bytes(bytes.held),
                model::bytes(bytes.budget),
                model::bytes(report.pinned.bytes),
                report.pinned.files,
                safe(&report.tags)
            ),
        ),
        (
            "reading",
            format!(
                "{} from the device, {} out of the page cache, {} through it",
                model::bytes(report.source.direct),
                model::bytes(report.source.cached),
                model::bytes(report.source.buffered)
            ),
        ),
        (
            "refused",
            format!(
                "{} resources, {} reads of changed bytes, {} source errors",
                refused.resources, refused.changed_reads, refused.source_errors
            ),
        ),
        (
            "server",
            format!("modelfs {}, process {}", safe(&report.version), report.pid),
        ),
    ];
    let mut out = format!("{}\n", shown(mountpoint));
    for (name, value) in facts {
        let _ = writeln!(out, "  {name:<10}{value}");
    }
    for problem in &report.problems {
        let detail = if problem.detail.is_empty() {
            &problem.path
        } else {
            &problem.detail
        };
        let _ = writeln!(out, "  {}: {}", plain(&problem.state), plain(detail));
    }
    out
}
