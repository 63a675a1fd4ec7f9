//! What goes to people: tables to stdout, progress to stderr. A reader that has gone away is no error.

use std::io::{Write, stderr, stdout};

/// A part of the result.
pub(crate) fn result(text: &str) {
    let mut stdout = stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// What happens at the moment.
pub(crate) fn progress(text: &str) {
    let _ = writeln!(stderr().lock(), "{text}");
}
