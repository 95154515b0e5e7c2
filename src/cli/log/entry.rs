//! One line of the log and its fields, which are the same for all lines. Their names are a contract: programs read them.
//!
//! What a line says has been through [`plain`]: nothing in it can end the line, or begin another field.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use log::Level;
use log::Record;
use serde::Serialize;

use super::plain;
use super::severity;
use super::word;
use crate::trust::UnixTime;

/// Whose lines these are, in every log.
pub(super) const IDENTIFIER: &str = "modelfs";

/// Longest message in bytes. With what stands before it a line fits into one write to a pipe.
const MAX_MESSAGE_BYTES: usize = 4000;

/// What a pipe takes whole or not at all, in bytes (pipe(7), `PIPE_BUF`).
const MAX_LINE_BYTES: usize = 4096;

/// Longest text in bytes in a line of JSON that would else be longer than a pipe takes. There are three, each could
/// double by its escapes.
const MAX_SHORT_BYTES: usize = 500;

/// Number of each event in the journal's catalogue: made once by chance (systemd-id128(1)), and never changed.
const MESSAGE_IDS: [(&str, &str); 9] = [
    ("mounted", "5a5b766f1c5d46f7955973d5e28cafd6"),
    ("unmounted", "7b79c7b089b04427b03b2194801e271d"),
    ("verified", "e96d79d730904ce4abba757a54c60b82"),
    ("content-differs", "a07a04866eac4ba682ef7965cce421f1"),
    ("content-changed", "f92aadc1b2ba440cbb88a89e27ed07be"),
    ("asked-again", "26ba9f3f7fa249ba99bb3eb0074efd8e"),
    ("source-error", "9c20ffb8ea8b4fbd80f47d92f9522f75"),
    ("source-silent", "8ccb5b6008dd4f0693dcff75e50271af"),
    ("dropped", "7cf5a7621a2b4f4da072e3a3b75f773f"),
];

/// A line, as every destination gets it.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    /// What happened, in one word, for lines that programs wait for.
    pub(super) event: Option<String>,
    pub(super) mountpoint: Option<&'a str>,
    /// The file of the model that it is about.
    pub(super) path: Option<String>,
    pub(super) message: String,
}

#[derive(Serialize)]
struct Fields<'a> {
    time: String,
    level: &'a str,
    priority: u8,
    identifier: &'a str,
    pid: u32,
    event: Option<&'a str>,
    mountpoint: Option<&'a str>,
    path: Option<&'a str>,
    message: &'a str,
}

impl<'a> Entry<'a> {
    /// What was logged, now.
    pub(super) fn of(record: &Record<'_>, mountpoint: Option<&'a str>) -> Self {
        let field = |name: &str| {
            let value = record.key_values().get(name.into())?;
            Some(plain(&value.to_string()))
        };
        Self {
            time: SystemTime::now(),
            level: record.level(),
            event: field("event"),
            mountpoint,
            path: field("path"),
            message: cut(&plain(&record.args().to_string()), MAX_MESSAGE_BYTES),
        }
    }

    /// The line as one object of JSON. All fields are there, `null` where they say nothing.
    pub(super) fn json(&self) -> String {
        let line = self.object(usize::MAX);
        if line.len() < MAX_LINE_BYTES {
            return line;
        }
        self.object(MAX_SHORT_BYTES)
    }

    fn object(&self, longest: usize) -> String {
        let path = self.path.as_ref().map(|path| cut(path, longest));
        let mountpoint = self.mountpoint.map(|path| cut(path, longest));
        let fields = Fields {
            time: timestamp(self.time).to_string(),
            level: word(self.level),
            priority: severity(self.level),
            identifier: IDENTIFIER,
            pid: std::process::id(),
            event: self.event.as_deref(),
            mountpoint: mountpoint.as_deref(),
            path: path.as_deref(),
            message: &cut(&self.message, longest),
        };
        serde_json::to_string(&fields).unwrap_or_default()
    }

    /// The line in the journal's own protocol: a field a line. The process and the time are the journal's to add.
    pub(super) fn journal_fields(&self) -> String {
        let mut text = format!(
            "MESSAGE={}\nPRIORITY={}\nSYSLOG_IDENTIFIER={IDENTIFIER}\nSYSLOG_FACILITY=3\n",
            self.message,
            severity(self.level)
        );
        let event = self.event.as_deref();
        let number = MESSAGE_IDS.iter().find(|(name, _)| event == Some(name));
        for (name, value) in [
            ("MESSAGE_ID", number.map(|(_, number)| *number)),
            ("MODELFS_EVENT", event),
            ("MODELFS_MOUNTPOINT", self.mountpoint),
            ("MODELFS_PATH", self.path.as_deref()),
        ] {
            if let Some(value) = value {
                text.push_str(&format!("{name}={value}\n"));
            }
        }
        text
    }
}

/// UTC as in RFC 3339.
pub(super) fn timestamp(time: SystemTime) -> UnixTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Text of limited length.
fn cut(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at));
    format!("{} [cut]", text.get(..end.unwrap_or(0)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(message: &str, path: &str) -> String {
        let arguments = format_args!("{message}").to_string();
        let values = [("event", "content-differs"), ("path", path)];
        let record = |args: &str| {
            Entry::of(
                &Record::builder()
                    .level(Level::Error)
                    .key_values(&values)
                    .args(format_args!("{args}"))
                    .build(),
                Some("/mnt"),
            )
            .json()
        };
        record(&arguments)
    }

    #[test]
    fn lines_cannot_be_forged_and_have_an_end() {
        let line = of("a\nmodelfs: error: b\u{1b}[2J", "x\nMESSAGE=y");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "a\\nmodelfs: error: b\\u{1b}[2J");
        assert_eq!(value["path"], "x\\nMESSAGE=y");
        for (message, path) in [
            ("\u{e4}".repeat(5000), "x".to_owned()),
            ("\"".repeat(5000), "\\".repeat(5000)),
        ] {
            let line = of(&message, &path);
            assert!(line.len() < MAX_LINE_BYTES, "{}", line.len());
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(value["message"].as_str().unwrap().ends_with(" [cut]"));
        }
    }

    #[test]
    fn every_event_has_a_number_of_its_own() {
        for (at, (name, number)) in MESSAGE_IDS.iter().enumerate() {
            assert_eq!(number.len(), 32);
            assert!(number.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let others = || MESSAGE_IDS.iter().skip(at + 1);
            assert!(others().all(|(other, its)| other != name && its != number));
        }
    }
}
