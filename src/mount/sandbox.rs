//! The serving part confines itself before it looks at a byte of the bundle or the model.
//!
//! What a server may still do is what serving takes: read beneath the model's folder, answer the kernel, log, ask
//! the privileged part. A flaw in a parser or a hash then gives an attacker no file, no program, no network and no
//! privilege. Landlock says which files, seccomp which system calls, and there are no capabilities. Nothing here
//! decides what a reader gets: the promise stands without a sandbox too.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::ABI;
use landlock::Access as _;
use landlock::AccessFs;
use landlock::AccessNet;
use landlock::BitFlags;
use landlock::LandlockStatus;
use landlock::PathBeneath;
use landlock::Ruleset;
use landlock::RulesetAttr as _;
use landlock::RulesetCreatedAttr as _;
use landlock::RulesetError;
use landlock::RulesetStatus;
use landlock::Scope;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::openat;
use rustix::thread::CapabilitySet;

use crate::fs::Confinement;
use crate::fs::Reach;
use crate::sys;

#[cfg(feature = "planted-faults")]
pub mod break_out;
mod filter;

/// The version of Landlock that was tried out. Its rights are asked for as far as the kernel has them; a right of
/// a later version would be one that nobody has seen at work.
const TRIED_ABI: ABI = ABI::V7;

/// A place in the file system that the server may use.
#[derive(Debug)]
pub struct Place {
    at: OwnedFd,
    may: May,
}

/// What a server may do in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// Read the files there, and list the folders.
    Read,
    /// Also write, create, rename and remove files there.
    Write,
    /// Use a device.
    Device,
}

impl Place {
    /// A folder with all beneath it, or a file.
    ///
    /// # Errors
    /// What `open` says.
    pub fn at(path: &Path, may: May) -> io::Result<Self> {
        let at = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self::new(at, may))
    }

    /// A folder or file that was found before, whatever its name leads to by now.
    pub fn new(at: OwnedFd, may: May) -> Self {
        Self { at, may }
    }
}

/// What a process keeps of its privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// None: whoever serves reads with no more than its user's rights.
    Nothing,
    /// To read what belongs to others, as far as it may reach: a command that root runs on somebody's model.
    Reading,
}

/// What a server needs.
#[derive(Debug)]
pub struct Needs {
    /// The places it uses.
    pub places: Vec<Place>,
    /// Whether links in the model may lead it anywhere: then reading cannot be confined to places.
    pub reads_anywhere: bool,
    /// Whether it hands sealed memory files to the privileged part.
    pub backing: bool,
    /// What it keeps of its privileges.
    pub keeps: Keeps,
}

/// That a process has confined itself, or was told not to.
#[derive(Clone, Debug)]
pub struct Sandbox {
    confinement: Confinement,
}

impl Sandbox {
    /// Confines this process, for good. It must have one thread: what others there are would stay as they are.
    ///
    /// # Errors
    /// When something fails that this kernel has. What it does not have is left out, and said in
    /// [`Sandbox::confinement`].
    pub fn enter(needs: Needs) -> Result<Self, SandboxError> {
        let threads = sys::count_threads().map_err(SandboxError::at("the number of threads"))?;
        if threads != 1 {
            return Err(SandboxError::Threads(threads));
        }
        // rustix asks for it once, in a way that is closed later, and panics when it gets no answer.
        let _ = rustix::param::page_size();
        sys::harden().map_err(SandboxError::at("the dumpable flag and the core limit"))?;
        let kept = match needs.keeps {
            Keeps::Nothing => CapabilitySet::empty(),
            Keeps::Reading => CapabilitySet::DAC_READ_SEARCH,
        };
        sys::keep_capabilities(kept).map_err(SandboxError::at("capabilities"))?;
        rustix::thread::set_no_new_privs(true).map_err(|e| SandboxError::System("no_new_privs", e.into()))?;
        let writes = needs.places.iter().any(|place| place.may == May::Write);
        let allowed = filter::Allowed {
            writes,
            backing: needs.backing,
        };
        let reads_anywhere = needs.reads_anywhere;
        let landlock = restrict_files(needs).map_err(|e| SandboxError::Landlock(Box::new(e)))?;
        // Last: it takes the calls that the others are made of.
        let seccomp = filter::install(allowed)?;
        Ok(Self {
            confinement: Confinement {
                on: true,
                privileges: false,
                landlock,
                reads: match (landlock, reads_anywhere) {
                    (0, _) | (_, true) => Reach::Anything,
                    _ => Reach::Model,
                },
                seccomp,
            },
        })
    }

    /// Confines the privileged part to what mounting and unmounting take, for good; it must run without new privileges. There
    /// is no Landlock for it: who is confined by that mounts nothing.
    ///
    /// # Errors
    /// When the filter is refused. A kernel without seccomp is none.
    pub(super) fn enter_part() -> Result<(), SandboxError> {
        filter::install_in_part().map(drop)
    }

    /// Leaves this process as it is, but for debuggers and core files. Somebody asked for it.
    pub fn decline() -> Self {
        // Worth no more than a try: whoever declines the rest does not lean on this.
        let _ = sys::harden();
        Self {
            confinement: Confinement {
                on: false,
                privileges: true,
                landlock: 0,
                reads: Reach::Anything,
                seccomp: false,
            },
        }
    }

    /// What it came to.
    pub fn confinement(&self) -> &Confinement {
        &self.confinement
    }
}

/// Lets this thread reach these places only; the version of Landlock that sees to it, 0 without one.
fn restrict_files(needs: Needs) -> Result<u32, RulesetError> {
    let mut handled = AccessFs::from_all(TRIED_ABI);
    if needs.reads_anywhere {
        handled &= !rights(May::Read);
    }
    let mut rules = Ruleset::default()
        .handle_access(handled)?
        .handle_access(AccessNet::from_all(TRIED_ABI))?
        .scope(Scope::from_all(TRIED_ABI))?
        .create()?;
    for place in needs.places {
        let mut may = rights(place.may);
        // A file has no entries to list or remove.
        let kind = rustix::fs::fstat(&place.at).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind != Ok(FileType::Directory) {
            may &= AccessFs::from_file(TRIED_ABI);
        }
        let may = may & handled;
        if !may.is_empty() {
            rules = rules.add_rule(PathBeneath::new(place.at, may))?;
        }
    }
    let status = rules.restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => 0,
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            let version = (1..=i32::from(u8::MAX)).find(|&version| ABI::from(version) == effective_abi);
            version
                .and_then(|version| u32::try_from(version).ok())
                .unwrap_or(0)
        }
        (_, LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) => 0,
    })
}

fn rights(may: May) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    match may {
        May::Read => read,
        May::Write => {
            read | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate
        }
        // `FUSE_DEV_IOC_CLONE`: each thread has its own way to the kernel.
        May::Device => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
    }
}

/// Why a process could not be confined.
#[derive(Debug)]
pub enum SandboxError {
    /// It has more than one thread; this is a bug.
    Threads(usize),
    /// The system refused.
    System(&'static str, io::Error),
    /// Landlock refused.
    Landlock(Box<RulesetError>),
    /// The filter of system calls could not be made or was refused.
    Seccomp(Box<dyn std::error::Error + Send + Sync>),
}

impl SandboxError {
    fn at(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System(what, error)
    }
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this process cannot confine itself; --no-sandbox goes on without that")?;
        match self {
            Self::Threads(count) => write!(f, ": it has {count} threads already"),
            Self::System(what, e) => write!(f, ": {what}: {e}"),
            Self::Landlock(_) => f.write_str(": Landlock"),
            Self::Seccomp(_) => f.write_str(": seccomp"),
        }
    }
}

impl std::error::Error for SandboxError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Threads(_) | Self::System(..) => None,
            Self::Landlock(e) => Some(e),
            Self::Seccomp(e) => Some(e.as_ref()),
        }
    }
}
