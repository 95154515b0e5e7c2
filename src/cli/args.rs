//! The arguments of each command, as typed.
//!
//! Option names follow the reference tool; its spellings with underscores are accepted. Nothing here looks
//! at a file.

use std::path::PathBuf;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;

use super::exit::EXIT_CODES;
use crate::mount;

/// Mounts a signed machine-learning model read-only and verifies every byte as it is read.
#[derive(Debug, Parser)]
#[command(name = "modelfs", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(super) struct Arguments {
    /// Write results and errors to standard output as JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,

    /// We are the background half of `mount`: standard input is where to say that serving has begun.
    #[arg(long, hide = true)]
    pub(super) ready_on_stdin: bool,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Mount a signed model: whatever is read from the mount is verified first.
    Mount(MountArgs),
    /// Undo a mount.
    Unmount {
        /// Where the model is mounted.
        mountpoint: PathBuf,
    },
    /// Check a whole model against its signature: every file, and that there is none besides.
    Verify(VerifyArgs),
    /// Show who signed a bundle, what it says, and which files it covers.
    Inspect(InspectArgs),
    /// Show what has been verified and refused on one mount, or on all.
    Status {
        /// Where the model is mounted; all mounts when left out.
        mountpoint: Option<PathBuf>,
    },
    /// Read a mounted model through once, so that the kernel holds verified pages of it.
    Warm {
        /// Where the model is mounted.
        mountpoint: PathBuf,
        /// Files and folders of it, relative to MOUNTPOINT or absolute; all when left out.
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// We are the privileged part of a mount: standard input is a socket to the part that serves.
    #[command(hide = true, name = mount::privileged::COMMAND)]
    Privileged(AttachArgs),
    /// Mount, and give the device to the service manager for the server that it starts next.
    #[command(hide = true)]
    Attach(AttachArgs),
}

/// A mount without a server yet.
#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    #[arg(long, alias = "allow_other")]
    pub(super) allow_other: bool,
    #[arg(long, alias = "allow_exec")]
    pub(super) allow_exec: bool,
    #[arg(long, alias = "no_sandbox")]
    pub(super) no_sandbox: bool,
    #[arg(long, alias = "read_ahead")]
    pub(super) read_ahead: Option<u32>,
    /// What the mount table shows as the source.
    pub(super) source: PathBuf,
    /// An empty folder.
    pub(super) mountpoint: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = NO_TRUST_HELP)]
pub(super) struct MountArgs {
    /// The signature: a file, or the word `bundle` for model.sig inside MODEL.
    pub(super) bundle: PathBuf,
    /// The model: a folder, or a single file.
    pub(super) model: PathBuf,
    /// An empty folder.
    pub(super) mountpoint: PathBuf,
    #[command(flatten)]
    pub(super) trust: TrustArgs,
    #[command(flatten)]
    pub(super) tree: TreeArgs,
    #[command(flatten)]
    pub(super) serve: ServeArgs,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = NO_TRUST_HELP)]
pub(super) struct VerifyArgs {
    /// The signature: a file, or the word `bundle` for model.sig inside MODEL.
    pub(super) bundle: PathBuf,
    /// The model: a folder, or a single file.
    pub(super) model: PathBuf,
    #[command(flatten)]
    pub(super) trust: TrustArgs,
    #[command(flatten)]
    pub(super) tree: TreeArgs,
    /// Accept files that are not signed.
    #[arg(long, alias = "ignore_unsigned_files", help_heading = TREE)]
    pub(super) ignore_unsigned_files: bool,
    /// Accept unsigned files at or beneath PATH, relative to MODEL or absolute; repeatable.
    #[arg(long, alias = "ignore_paths", value_name = "PATH", help_heading = TREE)]
    pub(super) ignore_paths: Vec<PathBuf>,
    /// Demand that .git, .gitattributes, .github and .gitignore are signed too.
    #[arg(long, alias = "no-ignore_git_paths", alias = "no_ignore_git_paths", help_heading = TREE)]
    pub(super) no_ignore_git_paths: bool,
    /// Do not confine this process to reading the model.
    #[arg(long, alias = "no_sandbox")]
    pub(super) no_sandbox: bool,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = NO_TRUST_HELP)]
pub(super) struct InspectArgs {
    /// The signature, usually model.sig; a policy's scopes are compared with the folder it lies in.
    pub(super) bundle: PathBuf,
    #[command(flatten)]
    pub(super) trust: TrustArgs,
    /// Do not confine this process before it looks at the signature.
    #[arg(long, alias = "no_sandbox")]
    pub(super) no_sandbox: bool,
}

/// What to trust.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Trust")]
pub(super) struct TrustArgs {
    /// Trust the holder of this public key (PEM); repeatable.
    #[arg(long, alias = "public_key", value_name = "FILE")]
    pub(super) public_key: Vec<PathBuf>,
    /// Trust certificates that lead to the roots in this file (PEM, with intermediates if any); repeatable.
    #[arg(long, alias = "certificate_chain", value_name = "FILE")]
    pub(super) certificate_chain: Vec<PathBuf>,
    /// The signing certificate must be this one's: `subject:..`, `email:..`, `uri:..`, `dns:..` or `spki:..`.
    #[arg(
        long,
        alias = "certificate_identity",
        value_name = "ID",
        requires = "certificate_chain"
    )]
    pub(super) certificate_identity: Option<String>,
    /// When the certificates must be valid; `not-before` accepts those that have expired since.
    #[arg(
        long,
        alias = "cert_time",
        value_name = "WHEN",
        value_enum,
        requires = "certificate_chain"
    )]
    pub(super) cert_time: Option<CertTime>,
    /// Trust keyless (Sigstore) signatures of this email address or URI; `*` stands for anything but `/`.
    #[arg(long, value_name = "STR", requires = "identity_provider")]
    pub(super) identity: Option<String>,
    /// Who must vouch for the identity: the issuer's URL, exactly.
    #[arg(long, alias = "identity_provider", value_name = "URL", requires = "identity")]
    pub(super) identity_provider: Option<String>,
    /// The keys of the Sigstore instance: a trusted_root.json, or the word `production` for the public one.
    #[arg(long, alias = "trusted_root", value_name = "FILE", requires = "identity")]
    pub(super) trusted_root: Option<PathBuf>,
    /// Take the word of time-stamping authorities under this root (PEM) for when a key or a certificate signed: then
    /// the certificate must have been valid at that time; repeatable.
    #[arg(long, alias = "tsa_root", value_name = "FILE")]
    pub(super) tsa_root: Vec<PathBuf>,
    /// Accept signatures in the way of OMS v0.2.
    #[arg(long, alias = "allow_legacy")]
    pub(super) allow_legacy: bool,
    /// Trust what this policy file says.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "public_key", "certificate_chain", "certificate_identity", "cert_time", "identity",
            "identity_provider", "trusted_root", "tsa_root", "allow_legacy",
        ]
    )]
    pub(super) policy: Option<PathBuf>,
}

/// `--cert-time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CertTime {
    /// The certificates must be valid now.
    Now,
    /// They must have been valid when the signing certificate began to be.
    NotBefore,
}

/// How the model's folder is read.
#[derive(Debug, Args)]
#[command(next_help_heading = TREE)]
pub(super) struct TreeArgs {
    /// Read signed files through symbolic links, also through those that lead out of the model.
    #[arg(long, alias = "allow_symlinks")]
    pub(super) allow_symlinks: bool,
}

/// How a mount behaves.
#[derive(Debug, Args)]
#[command(next_help_heading = "Serving")]
pub(super) struct ServeArgs {
    /// Files that are not signed: hide them, or refuse to mount when there are any.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Unsigned::Hide)]
    pub(super) unsigned: Unsigned,
    /// Stay in the foreground; else return when serving has begun.
    #[arg(short, long)]
    pub(super) foreground: bool,
    /// What to verify, and when.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = When::Lazy)]
    pub(super) verify: When,
    /// Remember in this directory what was verified, so that the next mount need not hash it again; still every later
    /// change is met. Nobody but you may use it.
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
    /// Which files stay in memory, sealed, where the kernel reads them without asking (root only, within --memory).
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = PinWhich::Off)]
    pub(super) pin: PinWhich,
    /// Let other users read the mount.
    #[arg(long, alias = "allow_other")]
    pub(super) allow_other: bool,
    /// Where a mount that was handed over (/dev/fd/N) is: for the log, and for the watchdog of a service manager.
    #[arg(long, alias = "mounted_at", value_name = "DIR")]
    pub(super) mounted_at: Option<PathBuf>,
    /// Let readers map files as executable code.
    #[arg(long, alias = "allow_exec")]
    pub(super) allow_exec: bool,
    /// Do not confine the server to what serving takes.
    #[arg(long, alias = "no_sandbox")]
    pub(super) no_sandbox: bool,
    /// Do everything but the mount: what a mount helper is asked with -f.
    #[arg(long, hide = true)]
    pub(super) fake: bool,
    /// Append the log to this file instead of sending it to the system's log.
    #[arg(long, alias = "log_file", value_name = "FILE")]
    pub(super) log_file: Option<PathBuf>,
    /// What a line of the log looks like; the journal of a background mount gets fields either way.
    #[arg(long, alias = "log_format", value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub(super) log_format: LogFormat,
}

/// How much reading and hashing may take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Memory for what was read and for pinned files, in bytes or with K, M or G (of 1024); a quarter of what is available if
    /// not given.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(super) memory: Option<u64>,
    /// Threads that read and hash.
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub(super) threads: Option<usize>,
    /// Refuse signed files larger than this, in bytes or with K, M or G (of 1024).
    #[arg(long, alias = "max_file_size", value_name = "BYTES", value_parser = parse_bytes)]
    pub(super) max_file_size: Option<u64>,
    /// Give readers an error when the source does not answer one call for this long.
    #[arg(
        long,
        alias = "source_timeout",
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(super) source_timeout: Option<u32>,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// A sentence.
    Text,
    /// An object with the fields time, level, priority, identifier, pid, event, mountpoint, path and message.
    Json,
}

/// `--unsigned`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Unsigned {
    /// They do not exist in the mount.
    Hide,
    /// One such file is enough to refuse the mount.
    Refuse,
}

/// `--pin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PinWhich {
    /// None.
    Off,
    /// Those that opening verifies anyway, as far as there is memory.
    Auto,
    /// All, as far as there is memory; opening a file verifies the whole of it.
    All,
}

/// `--verify`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// Nothing more than what is opened or read.
    Lazy,
    /// Everything, once the mount stands.
    Background,
    /// Everything, before the mount stands.
    Eager,
}

const TREE: &str = "Tree";

const NO_TRUST_HELP: &str = "\
Without trust options, $MODELFS_POLICY names the policy file, else it is
$XDG_CONFIG_HOME/modelfs/policy.toml (~/.config/modelfs/policy.toml), else
/etc/modelfs/policy.toml. A minimal one:

  version = 1
  default = \"reject\"
  [roots.key.lab]
  pem = \"lab.pub\"
  [[rule]]
  scope = \"/srv/models/**\"
  signers = [{ method = \"key\", key = \"lab\" }]";

/// A size such as `65536`, `512M` or `2G`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, ""),
    };
    let factor = match unit.to_ascii_uppercase().trim_end_matches("IB") {
        "" if !unit.is_empty() => None,
        "" => Some(1),
        "K" => Some(1 << 10),
        "M" => Some(1 << 20),
        "G" => Some(1_u64 << 30),
        _ => None,
    };
    factor
        .and_then(|factor| digits.parse::<u64>().ok()?.checked_mul(factor))
        .ok_or_else(|| "expected a number of bytes such as 536870912 or 512M".to_owned())
}

/// Most threads. Each has a stack and a buffer; no machine we know reads faster with more.
const MAX_THREADS: usize = 1024;

fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|threads| (1..=MAX_THREADS).contains(threads))
        .ok_or_else(|| format!("expected a number from 1 to {MAX_THREADS}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Arguments, ErrorKind> {
        Arguments::try_parse_from(line.split(' ')).map_err(|e| e.kind())
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_option_can_be_spelt_with_underscores() {
        for command in Arguments::command().get_subcommands() {
            for arg in command.get_arguments() {
                let Some(long) = arg.get_long().filter(|l| l.contains('-')) else {
                    continue;
                };
                let aliases = arg.get_all_aliases().unwrap_or_default();
                assert!(
                    aliases.contains(&long.replace('-', "_").as_str()),
                    "--{long} of {}",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn trust_comes_from_options_or_from_a_policy_but_never_both() {
        use ErrorKind::ArgumentConflict;
        use ErrorKind::MissingRequiredArgument;
        let cases = [
            ("--public-key a --public_key b", None),
            (
                "--certificate-chain a --certificate_chain b --certificate-identity dns:x --cert-time not-before",
                None,
            ),
            ("--public-key a --certificate-chain b --allow-legacy", None),
            ("--policy p", None),
            ("", None),
            ("--policy p --public-key a", Some(ArgumentConflict)),
            ("--policy p --certificate-chain a", Some(ArgumentConflict)),
            ("--policy p --allow-legacy", Some(ArgumentConflict)),
            (
                "--identity a --identity-provider b --trusted_root production",
                None,
            ),
            ("--identity a --identity_provider b", None),
            ("--public-key a --tsa-root b --tsa_root c", None),
            (
                "--policy p --identity a --identity-provider b",
                Some(ArgumentConflict),
            ),
            ("--policy p --tsa-root a", Some(ArgumentConflict)),
            ("--identity a", Some(MissingRequiredArgument)),
            ("--identity-provider a", Some(MissingRequiredArgument)),
            ("--trusted-root a", Some(MissingRequiredArgument)),
            ("--policy p --policy q", Some(ArgumentConflict)),
            ("--certificate-identity dns:x", Some(MissingRequiredArgument)),
            ("--cert-time now", Some(MissingRequiredArgument)),
            (
                "--certificate-chain a --cert-time later",
                Some(ErrorKind::InvalidValue),
            ),
        ];
        for (options, want) in cases {
            let line = format!("modelfs inspect {options} b").replace("  ", " ");
            assert_eq!(parse(&line).err(), want, "{options}");
        }
    }

    #[test]
    fn commands_that_do_not_exist_yet_are_not_commands() {
        for command in ["sign", "digest"] {
            assert_eq!(
                parse(&format!("modelfs {command}")).err(),
                Some(ErrorKind::InvalidSubcommand)
            );
        }
    }

    #[test]
    fn sizes_have_units() {
        let cases = [
            ("0", Some(0)),
            ("65536", Some(65536)),
            ("64K", Some(65536)),
            ("64k", Some(65536)),
            ("512MiB", Some(512 << 20)),
            ("2G", Some(2 << 30)),
            ("", None),
            ("M", None),
            ("-1", None),
            ("1.5G", None),
            ("1T", None),
            ("1iB", None),
            ("1 M", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("18446744073709551615K", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_bytes(text).ok(), want, "{text:?}");
        }
    }
}
