//! Which system calls a server makes, and which its privileged part. Lists of what is allowed, so that what a later kernel adds
//! is not.
//!
//! A call that is not on it fails with EPERM: a C library that tries something new and copes without goes on. The
//! calls that take their flags in memory, where a filter cannot look, are on it only where any flags will do.
//! io_uring is not: it makes calls that no filter sees.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::BpfProgram;
use seccompiler::SeccompAction;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpArgLen::Qword;
use seccompiler::SeccompCmpOp::Eq;
use seccompiler::SeccompCmpOp::MaskedEq;
use seccompiler::SeccompCondition;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;
use seccompiler::TargetArch;
use seccompiler::apply_filter;

use super::SandboxError;

/// What depends on how a server was told to serve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    /// It writes files in some place.
    pub(super) writes: bool,
    /// It hands memory files to the privileged part.
    pub(super) backing: bool,
}

/// Installs the filter of a server for this thread and all it starts; `false` where the kernel has no seccomp.
pub(super) fn install(allowed: Allowed) -> Result<bool, SandboxError> {
    install_rules(rules(allowed))
}

/// The same for the privileged part.
pub(super) fn install_in_part() -> Result<bool, SandboxError> {
    install_rules(rules_of_part())
}

fn install_rules(rules: Result<Rules, seccompiler::BackendError>) -> Result<bool, SandboxError> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(false);
    };
    let error = |e: seccompiler::Error| SandboxError::Seccomp(Box::new(e));
    let backend = |e: seccompiler::BackendError| SandboxError::Seccomp(Box::new(e));
    let compile = |rules, otherwise, matched| -> Result<BpfProgram, seccompiler::BackendError> {
        SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()
    };
    let refused = SeccompAction::Errno(errno(libc::EPERM));
    let allow_list = compile(rules.map_err(backend)?, refused, SeccompAction::Allow);
    // clone3 has its flags in memory. A C library that is told there is no such call uses clone, whose flags the
    // list can see.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let no_clone3 = compile(
        clone3,
        SeccompAction::Allow,
        SeccompAction::Errno(errno(libc::ENOSYS)),
    );
    let (allow_list, no_clone3) = (allow_list.map_err(backend)?, no_clone3.map_err(backend)?);
    for program in [no_clone3, allow_list] {
        match apply_filter(&program) {
            Ok(()) => {}
            Err(seccompiler::Error::Seccomp(e))
                if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
            {
                return Ok(false);
            }
            Err(e) => return Err(error(e)),
        }
    }
    Ok(true)
}

fn errno(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(allowed: Allowed) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = any_process()?;
    rules.extend(SERVER.iter().map(|&call| (call, Vec::new())));
    // Calls are added under the name that the C library of an architecture has for them.
    #[cfg(target_arch = "x86_64")]
    rules.extend(
        [libc::SYS_poll, libc::SYS_dup2, libc::SYS_open, libc::SYS_readlink].map(|call| (call, Vec::new())),
    );
    if allowed.writes {
        #[cfg(target_arch = "x86_64")]
        rules.extend([libc::SYS_mkdir, libc::SYS_rename].map(|call| (call, Vec::new())));
        rules.extend(WRITES.iter().map(|&call| (call, Vec::new())));
    }
    if allowed.backing {
        rules.extend(BACKING.iter().map(|&call| (call, Vec::new())));
        // Room for a memory file, and no holes in the log.
        rules.insert(libc::SYS_fallocate, vec![one(1, Dword, Eq, 0)?]);
    }
    let threads = number(libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND);
    let spaces = number(
        libc::CLONE_NEWNS
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP,
    );
    for (call, ways) in [
        // Threads of this process, and nothing else that can be cloned.
        (
            libc::SYS_clone,
            vec![one(0, Qword, MaskedEq(threads | spaces), threads)?],
        ),
        // The pair through which a signal wakes a thread.
        (
            libc::SYS_socketpair,
            vec![one(0, Dword, Eq, number(libc::AF_UNIX))?],
        ),
        (
            libc::SYS_prctl,
            any(0, Dword, &[libc::PR_SET_NAME, libc::PR_GET_NAME])?,
        ),
        // Not the flags of an open file: the log is appended to.
        (
            libc::SYS_fcntl,
            any(
                1,
                Dword,
                &[
                    libc::F_GETFD,
                    libc::F_SETFD,
                    libc::F_GETFL,
                    libc::F_DUPFD_CLOEXEC,
                    libc::F_ADD_SEALS,
                    libc::F_GET_SEALS,
                ],
            )?,
        ),
        (libc::SYS_ioctl, requests()?),
        // Of threads of this process: 0 is the caller.
        (libc::SYS_sched_setscheduler, vec![one(0, Dword, Eq, 0)?]),
        (libc::SYS_sched_setattr, vec![one(0, Dword, Eq, 0)?]),
        (
            libc::SYS_setpriority,
            vec![SeccompRule::new(vec![
                SeccompCondition::new(0, Dword, Eq, 0)?,
                SeccompCondition::new(1, Dword, Eq, 0)?,
            ])?],
        ),
        // Asked for, not set.
        (
            libc::SYS_prlimit64,
            vec![SeccompRule::new(vec![
                SeccompCondition::new(0, Dword, Eq, 0)?,
                SeccompCondition::new(2, Qword, Eq, 0)?,
            ])?],
        ),
    ] {
        rules.insert(call, ways);
    }
    Ok(rules)
}

/// What any process does, to itself and to who was connected to before.
fn any_process() -> Result<Rules, seccompiler::BackendError> {
    let own = u64::from(std::process::id());
    let executable = MaskedEq(number(libc::PROT_EXEC));
    let mut rules: Rules = ANY.iter().map(|&call| (call, Vec::new())).collect();
    rules.extend([
        // Memory that never holds code.
        (libc::SYS_mmap, vec![one(2, Dword, executable.clone(), 0)?]),
        (libc::SYS_mprotect, vec![one(2, Dword, executable, 0)?]),
        // abort(3), and what a thread does to itself.
        (libc::SYS_tgkill, vec![one(0, Dword, Eq, own)?]),
        // No address: it would name anybody.
        (libc::SYS_sendto, vec![one(4, Qword, Eq, 0)?]),
    ]);
    Ok(rules)
}

/// The privileged part starts nothing and connects to nobody; it mounts as models are mounted and in no other way, so that
/// it cannot bind, move or change a mount.
fn rules_of_part() -> Result<Rules, seccompiler::BackendError> {
    let mut rules = any_process()?;
    // With the device. The socket is connected, and there is no other.
    rules.insert(libc::SYS_sendmsg, Vec::new());
    #[cfg(target_arch = "x86_64")]
    rules.extend(
        [
            libc::SYS_open,
            libc::SYS_stat,
            libc::SYS_lstat,
            libc::SYS_readlink,
        ]
        .map(|call| (call, Vec::new())),
    );
    let mounting = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    let (idle, lazily) = (
        libc::UMOUNT_NOFOLLOW,
        libc::UMOUNT_NOFOLLOW | libc::MNT_DETACH | libc::MNT_FORCE,
    );
    rules.extend([
        (
            libc::SYS_mount,
            vec![
                one(3, Qword, Eq, mounting)?,
                one(3, Qword, Eq, mounting | libc::MS_NOEXEC)?,
            ],
        ),
        (libc::SYS_umount2, any(1, Dword, &[idle, lazily])?),
        (
            libc::SYS_ioctl,
            vec![
                one(1, Dword, Eq, FUSE_BACKING_OPEN)?,
                one(1, Dword, Eq, FUSE_BACKING_CLOSE)?,
            ],
        ),
        (
            libc::SYS_fcntl,
            any(1, Dword, &[libc::F_GETFD, libc::F_GETFL, libc::F_GET_SEALS])?,
        ),
    ]);
    Ok(rules)
}

/// `FUSE_DEV_IOC_BACKING_OPEN` and `FUSE_DEV_IOC_BACKING_CLOSE` of `linux/fuse.h`.
const FUSE_BACKING_OPEN: u64 = 0x4010_e501;
const FUSE_BACKING_CLOSE: u64 = 0x4004_e502;

/// `FUSE_DEV_IOC_CLONE` of `linux/fuse.h`.
const FUSE_CLONE: u64 = 0x8004_e500;

/// `FIONBIO`, `TIOCGWINSZ` and `TCGETS` of `asm-generic/ioctls.h`: C libraries differ in their type.
const FIONBIO: u64 = 0x5421;
const TIOCGWINSZ: u64 = 0x5413;
const TCGETS: u64 = 0x5401;

/// A device of its own for each thread; sockets that do not wait; the size of a terminal for a progress bar.
fn requests() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    [FUSE_CLONE, FIONBIO, TIOCGWINSZ, TCGETS]
        .into_iter()
        .map(|request| one(1, Dword, Eq, request))
        .collect()
}

/// A rule about one argument.
fn one(
    argument: u8,
    length: seccompiler::SeccompCmpArgLen,
    operator: seccompiler::SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
}

/// Rules of which one must hold: the argument is one of these.
fn any(
    argument: u8,
    length: seccompiler::SeccompCmpArgLen,
    values: &[i32],
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |&value| one(argument, length.clone(), Eq, number(value));
    values.iter().map(rule).collect()
}

/// A flag as the register has it.
fn number(flag: i32) -> u64 {
    u64::from(flag.cast_unsigned())
}

/// cachestat(2), the same on every architecture; the C library has no name for it yet.
const SYS_CACHESTAT: c_long = 451;

/// What any process does: reads, answers, looks about, allocates, ends. None of these can find another process, nor, where
/// Landlock keeps `open` to reading, change a file that is not open for writing already.
const ANY: [c_long; 37] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    // The mount's own pulse.
    libc::SYS_statfs,
    // In the server, Landlock decides of which files, and that none is written.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_recvmsg,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_sched_yield,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What every server does besides: reads and answers in other ways, waits, starts threads. The same goes for these.
const SERVER: [c_long; 28] = [
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_chdir,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    SYS_CACHESTAT,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_membarrier,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpriority,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_setsid,
    // For the other filter to say ENOSYS: of two errors the one of this filter would count.
    libc::SYS_clone3,
];

/// Files that change.
const WRITES: [c_long; 10] = [
    libc::SYS_pwrite64,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_renameat2,
    libc::SYS_renameat,
    libc::SYS_unlinkat,
    libc::SYS_flock,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
];

/// Memory files, and handing them over.
const BACKING: [c_long; 3] = [libc::SYS_memfd_create, libc::SYS_pwrite64, libc::SYS_sendmsg];
