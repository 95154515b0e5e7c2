//! `modelfs mount`, `unmount` and `status`.

use std::cell::Cell;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use data_encoding::HEXLOWER;
use sd_notify::NotifyState;
use serde_json::Value;
use serde_json::json;

use super::anchors;
use super::args::AttachArgs;
use super::args::MountArgs;
use super::args::PinWhich;
use super::args::Unsigned;
use super::args::When;
use super::background;
use super::background::Background;
use super::background::Start;
use super::bundle::shown;
use super::exit::Exit;
use super::failure::Failure;
use super::failure::plain;
use super::failure::render;
use super::log;
use super::log::Destination;
use super::model;
use super::model::Opened;
use super::model::Problems;
use super::service::Manager;
use crate::fs::Confinement;
use crate::fs::ModelFs;
use crate::fs::Reach;
use crate::fs::Report;
use crate::mount;
use crate::mount::Attachment;
use crate::mount::HandedOver;
use crate::mount::MountError;
use crate::mount::MountOptions;
use crate::mount::Session;
use crate::mount::privileged::Helper;
use crate::mount::sandbox::Keeps;
use crate::mount::sandbox::May;
use crate::mount::sandbox::Needs;
use crate::mount::sandbox::Place;
use crate::mount::sandbox::Sandbox;
use crate::path::Escaped;
use crate::source::ModelDir;
use crate::sys;
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

/// How often at most the service manager hears of progress.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// How far the kernel reads ahead on a mount, in KiB, where it may be raised: 32 times what it does by itself, for a reader that
/// goes on gets twice the speed then. More gains nothing.
const READ_AHEAD_KIB: u32 = 4096;

/// Most problems that are listed one by one before a mount is refused; `verify` lists all.
const MAX_LISTED: usize = 10;

/// Mounts. Returns when the mount is gone, or in the caller of a background mount when it stands.
pub(super) fn run(args: &MountArgs, json: bool, half: Half, arguments: &[OsString]) -> Result<Exit, Failure> {
    if args.serve.fake {
        let opened = model::open(&args.bundle, &args.model, &args.trust, &args.tree)?;
        return prepare(args, json, (opened, model::options(&args.limits)), None).map(|_| Exit::Done);
    }
    // Before anything is opened: the number must mean what it meant to whoever started us.
    let handed = HandedOver::find(&args.mountpoint).map_err(|e| of_mount(&e))?;
    let handed = handed.map(|handed| handed.seen_at(args.serve.mounted_at.clone()));
    if handed.is_none() && args.serve.mounted_at.is_some() {
        return Err(Failure::new(
            Exit::Usage,
            "--mounted-at is for a mount that was handed over, with a mount point of the form /dev/fd/N",
        ));
    }
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
    let opened = model::open(&args.bundle, &args.model, &args.trust, &args.tree)?;
    // All that is opened outside of the model is opened here, before the process confines itself.
    let manager = Manager::connect().map(Arc::new);
    if let (Some(manager), Some(_)) = (&manager, &handed) {
        manager.forget();
    }
    let attachment = match handed {
        Some(handed) => Attachment::Theirs(handed),
        None => Attachment::Ours(start_helper(args, opened.source())?),
    };
    let log =
        match (half, log_file.map(Destination::File)) {
            (Half::Caller, None) => Log::AsItIs,
            (Half::Caller, Some(file)) => Log::To(file),
            (Half::Server, file) => {
                let background = Background::prepare(file.unwrap_or_else(Destination::system));
                Log::InBackground(background.map_err(|e| {
                    Failure::new(Exit::MountFailed, format!("/dev/null cannot be opened: {e}"))
                })?)
            }
        };
    let descriptors = sys::raise_descriptor_limit();
    // The kernel reads from a file in memory for root only, and only where we opened the device ourselves.
    let pins = rustix::process::geteuid().is_root() && matches!(attachment, Attachment::Ours(_));
    let options = Options {
        pin: match args.serve.pin {
            PinWhich::Auto if pins => Pin::Auto,
            PinWhich::All if pins => Pin::All,
            _ => Pin::Off,
        },
        ..model::options(&args.limits)
    };
    let small_pages = options.pin != Pin::Off && !sys::has_huge_memory_files();
    let sandbox = confine(args, opened.source())?;
    let run = || {
        let tree = prepare(args, json, (opened, options), manager.as_deref())?;
        // Only now: what is found before is told as the command's own result, once.
        log::start(Destination::standard_error(), level, args.serve.log_format);
        if let Err(e) = descriptors {
            ::log::warn!("the number of files that may be open could not be raised: {e}");
        }
        if small_pages {
            ::log::info!(
                "pinned files will lie in small pages and be read more slowly: the kernel makes no huge ones of memory files \
                 (it does since Linux 6.1, unless /sys/kernel/mm/transparent_hugepage/shmem_enabled says deny)"
            );
        }
        serve(tree, args, json, (attachment, sandbox), log, manager.as_ref())
    };
    let served = run();
    ::log::logger().flush();
    if let Some(manager) = &manager {
        // Only now: who waits for the end of this service expects the mount to be gone.
        match &served {
            Ok(()) => manager.tell(&[NotifyState::Stopping]),
            Err(failure) => manager.tell(&[NotifyState::Stopping, NotifyState::Status(&failure.line())]),
        }
    }
    served.map(|()| Exit::Done)
}

/// Where a server logs once it serves.
enum Log {
    AsItIs,
    To(Destination),
    InBackground(Background),
}

/// Starts the process that mounts, while nothing has been read yet that could tell it what.
fn start_helper(args: &MountArgs, source: &ModelDir) -> Result<Arc<Helper>, Failure> {
    let options = MountOptions {
        allow_other: args.serve.allow_other,
        allow_exec: args.serve.allow_exec,
        source_name: source.path().to_path_buf(),
        no_sandbox: args.serve.no_sandbox,
        read_ahead_kib: Some(READ_AHEAD_KIB),
    };
    let helper = Helper::start(&args.mountpoint, options).map_err(|e| of_mount(&e))?;
    Ok(Arc::new(helper))
}

/// Confines this process to reading the model, unless it is told not to.
fn confine(args: &MountArgs, source: &ModelDir) -> Result<Sandbox, Failure> {
    if args.serve.no_sandbox {
        return Ok(Sandbox::decline());
    }
    let root = source.root().map_err(|e| model::of_source(&e))?;
    let mut places = vec![Place::new(root, May::Read)];
    // Where there is none, mounting will say so.
    places.extend(Place::at(Path::new("/dev/fuse"), May::Device));
    if let Some(state) = &args.serve.state {
        let unusable = |e: io::Error| Failure::new(Exit::Io, format!("{}: {e}", shown(state)));
        // A folder that is not there yet is made here: beside it nothing can be made later.
        match DirBuilder::new().mode(0o700).create(state) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(e)),
            _ => places.push(Place::at(state, May::Write).map_err(unusable)?),
        }
    }
    let needs = Needs {
        places,
        reads_anywhere: source.follows_links(),
        backing: args.serve.pin != PinWhich::Off,
        keeps: Keeps::Nothing,
    };
    Sandbox::enter(needs).map_err(|e| Failure::of(Exit::MountFailed, &e))
}

fn in_background(arguments: &[OsString], handed: Option<&HandedOver>) -> Result<Exit, Failure> {
    match background::start(arguments, handed) {
        Ok(Start::Serving) => Ok(Exit::Done),
        Ok(Start::Ended(status)) => match status
            .code()
            .and_then(|code| Exit::of_code(u8::try_from(code).ok()?))
        {
            // It would have said that it serves.
            Some(Exit::Done) | None => Err(Failure::new(
                Exit::Unforeseen,
                format!("the server ended before the mount stood ({status}): try --foreground"),
            )),
            Some(exit) => Ok(exit),
        },
        Err(e) => Err(Failure::new(
            Exit::Unforeseen,
            format!("the server cannot be started: {e}"),
        )),
    }
}

fn open_log(path: &Path) -> Result<File, Failure> {
    // Opening a FIFO that nobody reads would wait for a reader, and so would a line that finds it full.
    let opened = File::options()
        .create(true)
        .append(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    opened.map_err(|e| {
        let why = match e.raw_os_error() {
            Some(libc::ENXIO) => "nobody reads it: start its reader first, or name a file".to_owned(),
            _ => e.to_string(),
        };
        Failure::new(
            Exit::Io,
            format!("the log {} cannot be written: {why}", shown(path)),
        )
    })
}

/// All checks that come before the mount: what is wrong now is refused now.
fn prepare(
    args: &MountArgs,
    json: bool,
    (opened, options): (Opened, Options),
    manager: Option<&Manager>,
) -> Result<ModelTree, Failure> {
    let binding = opened.bind(options, args.serve.state.as_deref())?;
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
        let told = Cell::new(None);
        problems.add_content(model::verify_all(&tree, &|done, total| {
            let now = Instant::now();
            let due = told
                .get()
                .is_none_or(|last| now.duration_since(last) >= TELL_INTERVAL);
            if let Some(manager) = manager.filter(|_| due) {
                told.set(Some(now));
                manager.checking(done, total);
            }
        }));
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
    json: bool,
    (attachment, sandbox): (Attachment, Sandbox),
    log: Log,
    manager: Option<&Arc<Manager>>,
) -> Result<(), Failure> {
    let fs = Arc::new(ModelFs::new(tree).in_sandbox(sandbox.confinement().clone()));
    let session = Session::start(Arc::clone(&fs), attachment, &sandbox).map_err(|e| of_mount(&e))?;
    let mountpoint = session.mountpoint().to_path_buf();
    log::about(&mountpoint);
    if json {
        super::print(&render(&mounted_data(fs.tree(), &mountpoint)));
    }
    let log_is_elsewhere = !matches!(log, Log::AsItIs);
    match log {
        Log::AsItIs => {}
        Log::To(destination) => log::redirect(destination),
        Log::InBackground(background) => background.detach().map_err(|e| give_up(&session, &e))?,
    }
    let about = fs.tree().model();
    ::log::info!(
        event = "mounted";
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
    if let Some(manager) = manager {
        manager.serving(&fs, session.pulse(&fs));
    }
    if args.serve.verify == When::Background {
        verify_in_background(fs);
    }
    let ended = session.wait().map_err(|e| of_mount(&e));
    engine.remember_all();
    match &ended {
        Ok(()) => ::log::info!(event = "unmounted"; "unmounted {}", shown(&mountpoint)),
        Err(failure) if log_is_elsewhere => ::log::error!("{}", failure.line()),
        Err(_) => {}
    }
    ended
}

/// Undoes a mount that nobody knows of: the caller has gone before it was told.
fn give_up(session: &Session, why: &io::Error) -> Failure {
    let undone = session.undo();
    let outcome = undone.map_or_else(|e| e.to_string(), |()| "unmounted again".to_owned());
    let failure = Failure::new(
        Exit::MountFailed,
        format!(
            "{}: the server cannot go into the background ({why}): {outcome}",
            shown(session.mountpoint())
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
            ::log::warn!(event = "source-error"; "{problem}");
        }
        match problems.len() {
            0 => ::log::info!(event = "verified"; "verified {}", model::size_of(fs.tree())),
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

/// Is the privileged part of a mount until its serving part is gone.
pub(super) fn privileged(args: &AttachArgs) -> Result<String, Failure> {
    mount::privileged::serve(&args.mountpoint, &options(args))
        .map_err(|e| Failure::new(Exit::Unforeseen, format!("nobody to serve: {e}")))?;
    Ok(String::new())
}

/// Mounts for a server that the service manager starts next, in a sandbox that could not mount.
pub(super) fn attach(args: &AttachArgs) -> Result<String, Failure> {
    let manager = Manager::connect().ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "no service manager listens ($NOTIFY_SOCKET): attach is for ExecStartPre= in a unit with \
             FileDescriptorStoreMax=1 and NotifyAccess=all",
        )
    })?;
    let device = mount::privileged::attach(&args.mountpoint, &options(args)).map_err(|e| of_mount(&e))?;
    manager.keep(device.as_fd()).map_err(|e| {
        let undone = mount::unmount(&args.mountpoint);
        let outcome = undone.map_or_else(|e| e.to_string(), |()| "unmounted again".to_owned());
        let problem = format!("the service manager does not take the device ({e}): {outcome}");
        Failure::new(Exit::MountFailed, problem)
    })?;
    Ok(String::new())
}

fn options(args: &AttachArgs) -> MountOptions {
    MountOptions {
        allow_other: args.allow_other,
        allow_exec: args.allow_exec,
        source_name: args.source.clone(),
        no_sandbox: args.no_sandbox,
        read_ahead_kib: args.read_ahead,
    }
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
            match report.pinned.files {
                0 => format!(
                    "{} held of {}",
                    model::bytes(bytes.held),
                    model::bytes(bytes.budget)
                ),
                files => format!(
                    "{} held of {}, {} of it pinned ({files})",
                    model::bytes(bytes.held),
                    model::bytes(bytes.budget),
                    model::bytes(report.pinned.bytes),
                ),
            },
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
        ("sandbox", confinement(&report.sandbox)),
        (
            "server",
            format!("modelfs {}, process {}", safe(&report.version), report.pid),
        ),
    ];
    let mut out = format!("{}\n", shown(mountpoint));
    for (name, value) in facts {
        let _ = writeln!(out, "  {name:<10}{value}");
    }
    for asked in &report.asked_again {
        let _ = writeln!(out, "  asked again: {}", plain(&asked.detail));
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

/// What a server may still do, in a line.
fn confinement(sandbox: &Confinement) -> String {
    if !sandbox.on {
        return "none: the server may do all that its user may".to_owned();
    }
    let files = match (sandbox.landlock, sandbox.reads) {
        (0, _) => "no Landlock in this kernel, so any file that its user may use".to_owned(),
        (version, Reach::Model) => format!("reads the model and nothing else (Landlock {version})"),
        (version, Reach::Anything) => {
            format!("reads any file, for links lead out of the model, and writes none (Landlock {version})")
        }
    };
    let calls = if sandbox.seccomp {
        "the system calls of serving only (seccomp)"
    } else {
        "no seccomp in this kernel, so any system call"
    };
    format!("no privileges; {files}; {calls}")
}
