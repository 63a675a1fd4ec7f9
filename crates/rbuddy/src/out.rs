//! What goes to people: results to stdout, everything else to stderr. A reader that has gone away (`rbuddy status | head`) is no error.

use std::io::{IsTerminal, Write, stderr, stdout};

/// A result.
pub(crate) fn result(text: &str) {
    let mut stdout = stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// A word beside it.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(stderr().lock(), "{text}");
}

/// Whether remarks may be coloured.
pub(crate) fn remarks_in_colour() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
