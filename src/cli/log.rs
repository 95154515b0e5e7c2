//! Where log lines go: standard error, a file, or the system's log.
//!
//! Standard error that leads to the journal gets each line with its priority in front; in the background the journal
//! itself gets fields, and where there is none, syslog gets lines. What a line can say is in [`entry`].
//!
//! A line is one line: control characters are escaped, so that nothing in a message can forge another. A
//! reader that trips over a broken model in a loop cannot fill the disk: past a limit lines are counted, not
//! written. The log never holds up what is logged about: a line that cannot be written is dropped.

use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use log::Level;
use log::LevelFilter;
use log::Log;
use log::Metadata;
use log::Record;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;

mod entry;

use super::args::LogFormat;
use super::failure::plain;
use entry::Entry;
use entry::IDENTIFIER;

/// Lines written in one window. More than a hundred refusals in ten seconds say nothing new.
const MAX_LINES: u32 = 100;

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(10);

/// Where the journal listens for entries with fields (systemd's "Native Journal Protocol").
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Where the system's log listens.
const SYSLOG: &str = "/dev/log";

/// `LOG_DAEMON` of syslog(3), shifted as there.
const SYSLOG_FACILITY: u8 = 3 << 3;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Destination {
    /// Standard error, in the words of a foreground command.
    Stderr,
    /// Standard error that leads to the journal: each line begins with its priority.
    Journal,
    /// A file, appended to.
    File(File),
    /// The journal, which takes fields.
    Journald(UnixDatagram),
    /// The system's log.
    Syslog(UnixDatagram),
    /// There is no log on this system.
    Nowhere,
}

impl Destination {
    /// Standard error, with priorities when it leads to the journal.
    pub(super) fn standard_error() -> Self {
        let stream = std::env::var("JOURNAL_STREAM").ok();
        match (stream, rustix::fs::fstat(io::stderr())) {
            // sd-daemon: the variable is inherited far and wide, only device and inode tell whose it is.
            (Some(stream), Ok(stat)) if stream == format!("{}:{}", stat.st_dev, stat.st_ino) => Self::Journal,
            _ => Self::Stderr,
        }
    }

    /// The system's log, if there is one: the journal, else syslog.
    pub(super) fn system() -> Self {
        let connect = |path: &str| -> io::Result<UnixDatagram> {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            // A log daemon that hangs must not make readers wait.
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let syslog = |_| connect(SYSLOG).map_or(Self::Nowhere, Self::Syslog);
        connect(JOURNAL).map_or_else(syslog, Self::Journald)
    }

    fn write(&mut self, entry: &Entry<'_>, format: LogFormat) {
        let text = || match format {
            LogFormat::Text => entry.message.clone(),
            LogFormat::Json => entry.json(),
        };
        let (level, severity) = (word(entry.level), severity(entry.level));
        let line = match (&self, format) {
            (Self::Nowhere, _) => return,
            (Self::Journald(_), _) => entry.journal_fields(),
            (Self::Syslog(_), _) => {
                let priority = SYSLOG_FACILITY | severity;
                format!("<{priority}>{IDENTIFIER}[{}]: {}", std::process::id(), text())
            }
            (Self::Journal, _) => format!("<{severity}>{}\n", text()),
            (Self::Stderr | Self::File(_), LogFormat::Json) => format!("{}\n", text()),
            (Self::Stderr, LogFormat::Text) => format!("{IDENTIFIER}: {level}: {}\n", text()),
            (Self::File(_), LogFormat::Text) => {
                format!("{} {level}: {}\n", entry::timestamp(entry.time), text())
            }
        };
        // Nothing can be said about a log that does not take what is said.
        let _ = match self {
            Self::Stderr | Self::Journal if takes_a_line(&io::stderr()) => {
                io::stderr().write_all(line.as_bytes())
            }
            Self::File(file) if takes_a_line(file) => file.write_all(line.as_bytes()),
            Self::Stderr | Self::Journal | Self::File(_) => Ok(()),
            Self::Journald(socket) | Self::Syslog(socket) => socket.send(line.as_bytes()).map(drop),
            Self::Nowhere => Ok(()),
        };
    }
}

/// Whether a line can be written without waiting. A pipe that can be written to has room for as much as we write
/// at a time (pipe(7), `PIPE_BUF`).
fn takes_a_line(destination: &impl AsFd) -> bool {
    let mut poll = [PollFd::new(destination, PollFlags::OUT)];
    rustix::event::poll(&mut poll, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// How many lines this window still has, and how many were left out.
#[derive(Debug)]
struct Limit {
    began: Instant,
    written: u32,
    dropped: u64,
}

/// What [`Limit::admit`] decides.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Write,
    /// Write, and say first that so many lines were dropped before.
    WriteAfterDropping(u64),
    Drop,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            written: 0,
            dropped: 0,
        }
    }

    fn admit(&mut self, now: Instant) -> Admission {
        let mut dropped = 0;
        if now.duration_since(self.began) >= WINDOW {
            dropped = self.dropped;
            *self = Self::new(now);
        }
        if self.written == MAX_LINES {
            self.dropped += 1;
            return Admission::Drop;
        }
        self.written += 1;
        match dropped {
            0 => Admission::Write,
            lines => Admission::WriteAfterDropping(lines),
        }
    }
}

#[derive(Debug)]
struct State {
    destination: Destination,
    format: LogFormat,
    /// Which mount all lines are about, once there is one.
    mountpoint: Option<String>,
    /// Errors have a limit of their own: a flood of warnings must not keep a refusal out of the log.
    errors: Limit,
    others: Limit,
}

/// The process's log.
#[derive(Debug)]
struct Logger {
    state: Mutex<State>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Starts logging.
pub(super) fn start(destination: Destination, level: LevelFilter, format: LogFormat) {
    let state = State {
        destination,
        format,
        mountpoint: None,
        errors: Limit::new(Instant::now()),
        others: Limit::new(Instant::now()),
    };
    let mut fresh = false;
    let logger = LOGGER.get_or_init(|| {
        fresh = true;
        Logger {
            state: Mutex::new(state),
        }
    });
    // Only tests run two commands in one process; the first one's log serves both.
    if fresh && log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}

/// Sends all further lines elsewhere.
pub(super) fn redirect(destination: Destination) {
    if let Some(logger) = LOGGER.get() {
        let mut state = logger.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.destination = destination;
    }
}

/// Says which mount all further lines are about.
pub(super) fn about(mountpoint: &Path) {
    if let Some(logger) = LOGGER.get() {
        let mut state = logger.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.mountpoint = Some(plain(&mountpoint.to_string_lossy()));
    }
}

/// The level that `$MODELFS_LOG` asks for; `None` when it is no level.
pub(super) fn level(text: Option<&str>) -> Option<LevelFilter> {
    match text {
        None | Some("") => Some(LevelFilter::Info),
        Some("error") => Some(LevelFilter::Error),
        Some("warn") => Some(LevelFilter::Warn),
        Some("info") => Some(LevelFilter::Info),
        Some("debug") => Some(LevelFilter::Debug),
        Some(_) => None,
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Other crates' lines are about their own business, and nobody has vetted what they print.
        metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = match record.level() {
            Level::Error => &mut state.errors,
            _ => &mut state.others,
        };
        match limit.admit(Instant::now()) {
            Admission::Drop => return,
            Admission::Write => {}
            Admission::WriteAfterDropping(lines) => state.write_dropped(lines),
        }
        let State {
            destination,
            format,
            mountpoint,
            ..
        } = &mut *state;
        destination.write(&Entry::of(record, mountpoint.as_deref()), *format);
    }

    fn flush(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = std::mem::take(&mut state.errors.dropped) + std::mem::take(&mut state.others.dropped);
        if lines > 0 {
            state.write_dropped(lines);
        }
    }
}

impl State {
    fn write_dropped(&mut self, lines: u64) {
        let entry = Entry {
            time: SystemTime::now(),
            level: Level::Warn,
            event: Some("dropped".to_owned()),
            mountpoint: self.mountpoint.as_deref(),
            path: None,
            message: dropped(lines),
        };
        self.destination.write(&entry, self.format);
    }
}

fn dropped(lines: u64) -> String {
    format!(
        "{lines} log lines were dropped, there were more than {MAX_LINES} in {} seconds",
        WINDOW.as_secs()
    )
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    }
}

/// The severity of syslog(3) and sd-daemon(3).
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::UNIX_EPOCH;

    #[test]
    fn past_the_limit_lines_are_counted_and_the_count_is_told() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        for _ in 0..MAX_LINES {
            assert_eq!(limit.admit(start), Admission::Write);
        }
        for _ in 0..7 {
            assert_eq!(
                limit.admit(start + WINDOW - Duration::from_millis(1)),
                Admission::Drop
            );
        }
        assert_eq!(limit.admit(start + WINDOW), Admission::WriteAfterDropping(7));
        assert_eq!(limit.admit(start + WINDOW), Admission::Write);
    }

    fn entry(level: Level, message: &str) -> Entry<'_> {
        Entry {
            time: UNIX_EPOCH + Duration::from_millis(1_709_210_096_789),
            level,
            event: Some("content-differs".to_owned()),
            mountpoint: Some("/mnt/a\\b"),
            path: Some("w.bin".to_owned()),
            message: message.to_owned(),
        }
    }

    #[test]
    fn a_file_gets_whole_lines_with_time_and_level() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut destination = Destination::File(File::create(&path).unwrap());
        destination.write(&entry(Level::Error, "refused"), LogFormat::Text);
        destination.write(&entry(Level::Warn, "act \"now\""), LogFormat::Json);
        let pid = std::process::id();
        assert_eq!(
            fs::read_to_string(path).unwrap(),
            format!(
                "2024-02-29T12:34:56Z error: refused\n{{\"time\":\"2024-02-29T12:34:56Z\",\"level\":\"warning\",\
                 \"priority\":4,\"identifier\":\"modelfs\",\"pid\":{pid},\"event\":\"content-differs\",\
                 \"mountpoint\":\"/mnt/a\\\\b\",\"path\":\"w.bin\",\"message\":\"act \\\"now\\\"\"}}\n"
            )
        );
    }

    #[test]
    fn the_system_log_gets_priority_and_name_and_the_journal_fields() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let got = |mut destination: Destination| {
            destination.write(&entry(Level::Error, "refused"), LogFormat::Text);
            let mut buffer = [0; 400];
            let length = theirs.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!(
            got(Destination::Syslog(ours.try_clone().unwrap())),
            format!("<27>modelfs[{}]: refused", std::process::id())
        );
        assert_eq!(
            got(Destination::Journald(ours)),
            "MESSAGE=refused\nPRIORITY=3\nSYSLOG_IDENTIFIER=modelfs\nSYSLOG_FACILITY=3\n\
             MESSAGE_ID=a07a04866eac4ba682ef7965cce421f1\nMODELFS_EVENT=content-differs\n\
             MODELFS_MOUNTPOINT=/mnt/a\\b\nMODELFS_PATH=w.bin\n"
        );
    }

    #[test]
    fn only_named_levels_are_levels() {
        let cases = [
            (None, Some(LevelFilter::Info)),
            (Some(""), Some(LevelFilter::Info)),
            (Some("error"), Some(LevelFilter::Error)),
            (Some("debug"), Some(LevelFilter::Debug)),
            (Some("off"), None),
            (Some("ERROR"), None),
        ];
        for (text, want) in cases {
            assert_eq!(level(text), want, "{text:?}");
        }
    }
}
