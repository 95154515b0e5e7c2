//! Failures as a person or a program reads them: one sentence, or the same as data.

use std::error::Error;
use std::fmt::Write as _;

use serde_json::Value;
use serde_json::json;

use super::exit::Exit;
use crate::path::must_escape;

/// Why a command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    exit: Exit,
    message: String,
    details: Option<(&'static str, Value)>,
}

impl Failure {
    /// A failure in our own words: what and where, then the remedy.
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            details: None,
        }
    }

    /// A failure in the words of an error and of its causes.
    pub(super) fn of(exit: Exit, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let _ = write!(message, ": {inner}");
            cause = inner.source();
        }
        Self::new(exit, message)
    }

    /// The same, for an error that does not name its place.
    pub(super) fn about(exit: Exit, place: &str, error: &dyn Error) -> Self {
        let inner = Self::of(exit, error);
        Self::new(exit, format!("{place}: {}", inner.message))
    }

    /// Adds data that `--json` shows beside the error.
    pub(super) fn with(mut self, key: &'static str, data: Value) -> Self {
        self.details = Some((key, data));
        self
    }

    pub(super) fn exit(&self) -> Exit {
        self.exit
    }

    /// The line for standard error.
    pub(super) fn sentence(&self) -> String {
        format!("modelfs: {}.", self.line())
    }

    /// The same for a log, which says itself whose line it is.
    pub(super) fn line(&self) -> String {
        plain(self.message.trim_end_matches('.'))
    }

    /// The same as data.
    pub(super) fn json(&self) -> Value {
        let mut value = json!({
            "error": {
                "code": self.exit.code(),
                "kind": self.exit.kind(),
                "message": self.message,
            }
        });
        if let (Some((key, data)), Some(object)) = (&self.details, value.as_object_mut()) {
            object.insert((*key).to_owned(), data.clone());
        }
        value
    }
}

/// Text with all characters escaped that could do more than stand there: the last line of defence for
/// messages that other crates and the system put together. Names have been through
/// [`crate::path::Escaped`] before, so the backslash stays as it is.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if must_escape(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// JSON as it is printed: for people's eyes, so what could do more to a terminal than stand there is written
/// in the way that JSON has for it.
pub(super) fn render(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string());
    let mut out = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        // The line ends are the printer's own: in a string they are escaped already.
        if c == '\n' || !must_escape(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;
    use std::io;

    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a.bin cannot be read")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_failure_is_one_sentence_with_its_causes() {
        let failure = Failure::of(Exit::Io, &Outer(io::Error::other("disk on\n\u{1b}[31mfire.")));
        assert_eq!(
            failure.sentence(),
            "modelfs: a.bin cannot be read: disk on\\n\\u{1b}[31mfire."
        );
        assert_eq!(
            failure.with("problems", json!([1])).json(),
            json!({
                "error": {"code": 7, "kind": "io", "message": "a.bin cannot be read: disk on\n\u{1b}[31mfire."},
                "problems": [1],
            })
        );
    }

    #[test]
    fn printed_json_keeps_its_meaning_and_cannot_move_a_cursor() {
        let value = json!({"\u{202e}": ["\u{9b}2J", "\u{e0041}\u{e4}", "a\nb\u{7f}"]});
        let text = render(&value);
        assert!(text.chars().all(|c| c == '\n' || !must_escape(c)), "{text:?}");
        assert!(text.contains("\\udb40\\udc41\u{e4}"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
