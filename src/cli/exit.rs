//! What the process tells its caller: the exit codes, all of them, in one place.

use std::process::ExitCode;

/// How a command ended. The numbers are a contract: scripts and service managers compare them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// The command did what it says.
    Done,
    /// Something that should not happen: a bug, or a system unlike any we know.
    Unforeseen,
    /// The arguments are wrong, or nothing says what to trust.
    Usage,
    /// The bundle, a key or a certificate is malformed, or the signature is not trusted.
    NotTrusted,
    /// The trust policy refuses the model, or a file that says what to trust is itself not safe.
    PolicyRefuses,
    /// Content differs from its signed digest.
    ContentDiffers,
    /// The tree differs: a file is missing, extra, or has the wrong type or size.
    TreeDiffers,
    /// A file could not be read.
    Io,
    /// The mount itself failed, or could not be undone.
    MountFailed,
}

impl Exit {
    /// The number.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Unforeseen => 1,
            Self::Usage => 2,
            Self::NotTrusted => 3,
            Self::PolicyRefuses => 4,
            Self::ContentDiffers => 5,
            Self::TreeDiffers => 6,
            Self::Io => 7,
            Self::MountFailed => 8,
        }
    }

    /// The end that a number stands for, as the background half of a mount reports it.
    pub(super) fn of_code(code: u8) -> Option<Self> {
        ALL.into_iter().find(|exit| exit.code() == code)
    }

    /// The number that mount(8) knows, for a mount helper: 1 is a wrong invocation, 2 a system error, 32 a mount that
    /// failed. The sentence says why.
    pub(super) const fn mount_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Usage => 1,
            Self::Unforeseen => 2,
            Self::NotTrusted
            | Self::PolicyRefuses
            | Self::ContentDiffers
            | Self::TreeDiffers
            | Self::Io
            | Self::MountFailed => 32,
        }
    }

    /// The name in `--json` output; as much a contract as the number.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unforeseen => "unforeseen",
            Self::Usage => "usage",
            Self::NotTrusted => "not-trusted",
            Self::PolicyRefuses => "policy-refuses",
            Self::ContentDiffers => "content-differs",
            Self::TreeDiffers => "tree-differs",
            Self::Io => "io",
            Self::MountFailed => "mount-failed",
        }
    }
}

const ALL: [Exit; 9] = [
    Exit::Done,
    Exit::Unforeseen,
    Exit::Usage,
    Exit::NotTrusted,
    Exit::PolicyRefuses,
    Exit::ContentDiffers,
    Exit::TreeDiffers,
    Exit::Io,
    Exit::MountFailed,
];

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// The table that `--help` ends with.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  unforeseen: a bug
  2  usage, or nothing says what to trust
  3  the bundle is malformed or its signature is not trusted
  4  the trust policy refuses
  5  content differs from its signed digest
  6  the tree differs: missing, extra, wrong type or size
  7  a file could not be read
  8  the mount failed";
