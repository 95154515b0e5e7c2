//! Failures as a person or a program reads them: one sentence, or the same as data.

use std::error::Error;
use std::fmt::Write as _;

use serde_json::Value;
use serde_json::json;

use super::exit::Exit;

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
        let message = plain(self.message.trim_end_matches('.'));
        format!("modelfs: {message}.")
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

/// Text with its control characters escaped: the last line of defence for messages that other crates and
/// the system put together. Names have been through [`crate::path::Escaped`] before, so the backslash stays
/// as it is.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
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
}
