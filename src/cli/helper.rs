//! How mount(8) asks for a mount: `mount.modelfs SOURCE DIRECTORY [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`, from
//! fstab, from systemd or by hand; and what mount.fuse3 runs, `modelfs SOURCE DIRECTORY -o OPTIONS`.
//!
//! It all becomes arguments of `modelfs mount`. What may stand in OPTIONS is read off the definition of that command,
//! so an option that is added there is one here, too. What mount(8) says for every file system is accepted and means
//! nothing: a model is always mounted read-only, without devices and set-user-ID programs.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command as Process;

use clap::Arg;
use clap::ArgAction;
use clap::Command;

use super::bundle::BUNDLE_NAME;
use super::bundle::shown;
use super::exit::Exit;
use super::failure::Failure;
use crate::mount;
use crate::path::Escaped;

/// Names of this program that mean: mount(8) asks.
const HELPER_NAMES: [&str; 2] = ["mount.modelfs", "mount.fuse.modelfs"];

/// Options of every mount, which mount(8), systemd and mount.fuse3 pass on asked or not. That goes for `exec`, too:
/// mount(8) takes it for the default and mostly keeps it to itself, so it could not be relied on; `allow_exec` can.
const GENERIC: [&str; 41] = [
    "async",
    "atime",
    "auto",
    "defaults",
    "default_permissions",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "group",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "_netdev",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "noexec",
    "nofail",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nouser",
    "owner",
    "relatime",
    "ro",
    "rw",
    "silent",
    "strictatime",
    "suid",
    "sync",
    "user",
    "users",
    "nogroup",
    "noowner",
    "nousers",
];

/// The same, for options that carry a value.
const GENERIC_VALUES: [&str; 6] = ["comment", "fsname", "helper", "subtype", "uhelper", "user"];

/// Options that mount.fuse3 carries out before it runs us.
const OF_MOUNT_FUSE: [&str; 2] = ["drop_privileges", "setuid"];

/// The hidden option of `mount` for `-f`.
const FAKE: &str = "fake";

/// What the caller sees of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Personality {
    /// A command with subcommands.
    Command,
    /// A program that mount(8) runs, with its arguments and exit codes.
    MountHelper,
    /// What mount.fuse3 runs: the same, except that `-f` is that of every FUSE file system.
    FuseProgram,
}

impl Personality {
    /// Whom these arguments, the program's name first, are meant for.
    pub(super) fn of(arguments: &[OsString], program: &Command) -> Self {
        let called = arguments.first().map(Path::new).and_then(Path::file_name);
        if called.is_some_and(|name| HELPER_NAMES.iter().any(|helper| name == *helper)) {
            return Self::MountHelper;
        }
        let rest = arguments.get(1..).unwrap_or_default();
        let Some(first) = rest.first().map(|first| first.as_bytes()) else {
            return Self::Command;
        };
        let is_command = program
            .get_subcommands()
            .any(|command| command.get_name().as_bytes() == first);
        let has_options = rest.iter().any(|argument| argument.as_bytes().starts_with(b"-o"));
        match first {
            _ if is_command || first == b"help" => Self::Command,
            [b'-', b'o', ..] => Self::FuseProgram,
            [b'-', ..] => Self::Command,
            // A source is a path; a misspelt command is not, and none has -o.
            _ if has_options || (first.contains(&b'/') && rest.len() > 1) => Self::FuseProgram,
            _ => Self::Command,
        }
    }
}

/// Turns what mount(8) says into arguments of `modelfs`, without the program's name.
pub(super) fn translate(
    arguments: &[OsString],
    personality: Personality,
    program: &Command,
) -> Result<Vec<OsString>, Failure> {
    let request = match Request::parse(arguments.get(1..).unwrap_or_default(), personality)? {
        Asked::Mount(request) => request,
        Asked::Help => return Ok(vec!["mount".into(), "--help".into()]),
        Asked::Version => return Ok(vec!["--version".into()]),
    };
    let options = split(&request.options)?;
    if OF_MOUNT_FUSE.iter().any(|name| names(&options, name)) {
        return Err(hand_to_mount_fuse(&request, &options));
    }
    let mount = program
        .find_subcommand("mount")
        .expect("`mount` is one of our commands");
    let mut translated = Translated::default();
    for option in &options {
        translated.add(option, mount, request.unknown)?;
    }
    let arguments = translated.into_arguments(&request);
    if request.verbose {
        let words: Vec<String> = arguments
            .iter()
            .map(|word| Escaped(word.as_bytes()).to_string())
            .collect();
        let _ = writeln!(std::io::stderr(), "modelfs: this is: modelfs {}", words.join(" "));
    }
    Ok(arguments)
}

/// What is to be done.
#[derive(Debug)]
enum Asked {
    Mount(Request),
    Help,
    Version,
}

/// What becomes of options that nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Unknown {
    #[default]
    Refuse,
    /// `-s`, sloppy.
    Ignore,
}

/// The arguments of a mount helper, as typed.
#[derive(Debug, Default)]
struct Request {
    source: PathBuf,
    directory: PathBuf,
    options: Vec<u8>,
    kind: Option<OsString>,
    unknown: Unknown,
    verbose: bool,
    /// `-f` of mount(8): everything but the mount.
    fake: bool,
    /// `-f` of a FUSE file system.
    foreground: bool,
}

impl Request {
    fn parse(arguments: &[OsString], personality: Personality) -> Result<Asked, Failure> {
        let mut request = Self::default();
        let mut places = Vec::new();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let bytes = word.as_bytes();
            match bytes {
                b"--" => places.extend(words.by_ref().cloned()),
                b"--help" => return Ok(Asked::Help),
                b"--version" => return Ok(Asked::Version),
                [b'-', b'-', ..] => return Err(no_such_flag(bytes)),
                [b'-', flags @ ..] if !flags.is_empty() => {
                    let mut rest = flags;
                    while let Some((&flag, after)) = rest.split_first() {
                        rest = after;
                        match flag {
                            b'h' => return Ok(Asked::Help),
                            b'V' => return Ok(Asked::Version),
                            b'f' if personality == Personality::FuseProgram => request.foreground = true,
                            b'f' => request.fake = true,
                            // Where /etc/mtab is a file, it is mount(8) that writes it.
                            b'n' => {}
                            b's' => request.unknown = Unknown::Ignore,
                            b'v' => request.verbose = true,
                            b'o' | b't' | b'N' => {
                                let value = match rest {
                                    [] => words.next().map(|word| word.as_bytes()),
                                    attached => Some(attached),
                                };
                                let value = value
                                    .ok_or_else(|| usage(format!("-{} needs a value", char::from(flag))))?;
                                request.take(flag, value)?;
                                rest = &[];
                            }
                            _ => return Err(no_such_flag(bytes)),
                        }
                    }
                }
                _ => places.push(word.clone()),
            }
        }
        let [source, directory] = <[OsString; 2]>::try_from(places).map_err(|places| {
            usage(format!(
                "expected a model and a directory to mount it on, found {} arguments",
                places.len()
            ))
        })?;
        request.source = source.into();
        request.directory = directory.into();
        Ok(Asked::Mount(request))
    }

    /// A flag with its value.
    fn take(&mut self, flag: u8, value: &[u8]) -> Result<(), Failure> {
        match flag {
            b'o' => {
                if !self.options.is_empty() {
                    self.options.push(b',');
                }
                self.options.extend_from_slice(value);
            }
            b't' => {
                if ![&b"modelfs"[..], b"fuse.modelfs", b"fuse"].contains(&value) {
                    return Err(usage(format!(
                        "-t {}: this mounts models only, type modelfs",
                        Escaped(value)
                    )));
                }
                self.kind = Some(OsString::from_vec(value.to_vec()));
            }
            _ => {
                return Err(usage(format!(
                    "-N {0}: modelfs does not change namespaces; run nsenter --mount={0} mount ...",
                    Escaped(value)
                )));
            }
        }
        Ok(())
    }

    /// The signature when no option names it: inside the model, else beside it.
    fn usual_bundle(&self) -> PathBuf {
        let inside = self.source.join(BUNDLE_NAME);
        let mut beside = self.source.clone().into_os_string();
        beside.push(".sig");
        let beside = PathBuf::from(beside);
        if !inside.is_file() && beside.is_file() {
            return beside;
        }
        inside
    }
}

/// One option, its escapes undone.
#[derive(Debug, PartialEq, Eq)]
struct MountOption {
    name: Vec<u8>,
    value: Option<Vec<u8>>,
}

fn names(options: &[MountOption], name: &str) -> bool {
    options.iter().any(|option| option.name == name.as_bytes())
}

/// Takes a list of options apart. A comma belongs to a value when it stands behind a backslash, as mount.fuse3 writes
/// it, or between double quotes, as mount(8) reads it.
fn split(list: &[u8]) -> Result<Vec<MountOption>, Failure> {
    let mut options = Vec::new();
    let mut current: Vec<u8> = Vec::new();
    let mut equals = None;
    let mut quoted = false;
    let mut finish = |current: &mut Vec<u8>, equals: &mut Option<usize>| {
        let text = std::mem::take(current);
        let option = match equals.take() {
            Some(at) => MountOption {
                name: text.get(..at).unwrap_or_default().to_vec(),
                value: Some(text.get(at..).unwrap_or_default().to_vec()),
            },
            None if text.is_empty() => return,
            None => MountOption {
                name: text,
                value: None,
            },
        };
        options.push(option);
    };
    let mut bytes = list.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let begins_value = equals.is_some_and(|at| at == current.len());
        match byte {
            b'\\' if bytes.peek().is_some_and(|next| b",\\\"".contains(next)) => {
                current.extend(bytes.next());
            }
            b'"' if quoted || begins_value => quoted = !quoted,
            b',' if !quoted => finish(&mut current, &mut equals),
            b'=' if equals.is_none() => equals = Some(current.len()),
            byte => current.push(byte),
        }
    }
    if quoted {
        return Err(usage(format!(
            "-o {}: a quotation mark is missing",
            Escaped(list)
        )));
    }
    finish(&mut current, &mut equals);
    Ok(options)
}

/// Options as arguments of `mount`.
#[derive(Debug, Default)]
struct Translated {
    bundle: Option<PathBuf>,
    no_allow_other: bool,
    /// By the option's name, since one that does not repeat counts where it stands last: mount(8) puts those of the
    /// command line behind those of fstab.
    arguments: Vec<(String, OsString)>,
}

impl Translated {
    fn add(&mut self, option: &MountOption, mount: &Command, unknown: Unknown) -> Result<(), Failure> {
        let name = String::from_utf8_lossy(&option.name).into_owned();
        let value = option.value.as_deref();
        let shown = Escaped(&option.name).to_string();
        let wants_value = |what: &str| usage(format!("-o {shown}: needs a value, {shown}={what}"));
        match (name.as_str(), value) {
            ("bundle", Some(path)) if !path.is_empty() => {
                self.bundle = Some(PathBuf::from(OsStr::from_bytes(path)));
                return Ok(());
            }
            ("bundle", _) => return Err(wants_value("FILE")),
            ("noallow_other", None) => self.no_allow_other = true,
            ("remount", _) => {
                return Err(usage(
                    "-o remount: a mounted model does not change; unmount it and mount it anew",
                ));
            }
            ("auto_unmount", None) => {
                return Err(usage(
                    "-o auto_unmount: not for a model, a reader must never find an empty directory in its place; leave \
                     it away",
                ));
            }
            _ => {}
        }
        let generic = match value {
            None => GENERIC.contains(&name.as_str()) || name == "noallow_other",
            Some(_) => GENERIC_VALUES.contains(&name.as_str()),
        };
        if generic || name.starts_with("x-") || name.starts_with("X-") {
            return Ok(());
        }
        let Some(arg) = find(mount, &name) else {
            return match unknown {
                Unknown::Ignore => Ok(()),
                Unknown::Refuse => Err(usage(format!(
                    "-o {shown}: there is no such option; mount.modelfs(8) lists them, and -s ignores others"
                ))),
            };
        };
        let long = arg.get_long().unwrap_or_default().to_owned();
        let mut word = OsString::from(format!("--{long}"));
        match (takes_value(arg), value) {
            (true, Some(value)) => {
                word.push("=");
                word.push(OsStr::from_bytes(value));
            }
            (true, None) => {
                let what = arg.get_value_names().and_then(|names| names.first());
                return Err(wants_value(what.map_or("VALUE", |what| what.as_str())));
            }
            (false, Some(_)) => return Err(usage(format!("-o {shown}: takes no value"))),
            (false, None) => {}
        }
        if !matches!(arg.get_action(), ArgAction::Append) {
            self.arguments.retain(|(other, _)| *other != long);
        }
        self.arguments.push((long, word));
        Ok(())
    }

    fn has(&self, long: &str) -> bool {
        self.arguments.iter().any(|(name, _)| name == long)
    }

    fn into_arguments(self, request: &Request) -> Vec<OsString> {
        let mut flags: Vec<OsString> = Vec::new();
        // Services run as users of their own, and it is for them that root mounts.
        let by_root = rustix::process::geteuid().is_root();
        if by_root && !self.no_allow_other && !self.has("allow-other") {
            flags.push("--allow-other".into());
        }
        if request.fake {
            flags.push(format!("--{FAKE}").into());
        }
        if request.foreground && !self.has("foreground") {
            flags.push("--foreground".into());
        }
        let bundle = self.bundle.unwrap_or_else(|| request.usual_bundle());
        let mut arguments: Vec<OsString> = vec!["mount".into()];
        arguments.extend(flags);
        arguments.extend(self.arguments.into_iter().map(|(_, word)| word));
        arguments.extend(["--".into(), bundle.into()]);
        arguments.extend([request.source.clone().into(), request.directory.clone().into()]);
        arguments
    }
}

/// The argument of `mount` that an option names, by any of its spellings.
fn find<'a>(mount: &'a Command, name: &str) -> Option<&'a Arg> {
    mount.get_arguments().find(|arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        // What is not mounted must not look as if it were because of a line in fstab.
        arg.get_long() != Some(FAKE) && (arg.get_long() == Some(name) || aliases.contains(&name))
    })
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Becomes mount.fuse3, which mounts, gives its privileges away, and runs us with `/dev/fd/N`. Returns only when there
/// is none.
fn hand_to_mount_fuse(request: &Request, options: &[MountOption]) -> Failure {
    let mut list = request.options.clone();
    if names(options, "drop_privileges") {
        // That mount is not made by us, so what ours always are must be said.
        list.extend_from_slice(b",ro,nosuid,nodev,default_permissions,fsname=");
        list.extend(mount::escape_option(request.source.as_os_str().as_bytes()));
        for (unless, option) in [("allow_exec", ",noexec"), ("noallow_other", ",allow_other")] {
            if !names(options, unless) {
                list.extend_from_slice(option.as_bytes());
            }
        }
    }
    let why = Process::new(MOUNT_FUSE)
        .args([&request.source, &request.directory])
        .args(["-t", "fuse.modelfs", "-o"])
        .arg(OsStr::from_bytes(&list))
        .exec();
    Failure::new(
        Exit::MountFailed,
        format!(
            "{}: the options {} are those of {MOUNT_FUSE}, which cannot be run: {why}; install the package fuse3",
            shown(&request.directory),
            OF_MOUNT_FUSE.join(" and ")
        ),
    )
}

/// The program that mounts for FUSE file systems, where mount(8) looks for it, which gives us no PATH.
const MOUNT_FUSE: &str = "/sbin/mount.fuse3";

fn no_such_flag(word: &[u8]) -> Failure {
    usage(format!(
        "{}: there is no such flag for a mount helper; mount.modelfs(8) lists them",
        Escaped(word)
    ))
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, message)
}

#[cfg(test)]
mod tests;
