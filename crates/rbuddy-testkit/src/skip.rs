//! What a test says to people: figures worth reading, and why it did not run.

/// Prints a figure that belongs into a closing note. Shown with `--no-capture`, and for failed tests.
#[expect(clippy::print_stderr, reason = "tests talk to people through the test runner")]
pub fn report(line: &str) {
    eprintln!("{line}");
}

/// Says that a test is left out and why. `RBUDDY_NO_SKIP=1` makes that a failure: for machines where everything must run.
pub fn skip(why: &str) {
    assert!(std::env::var_os("RBUDDY_NO_SKIP").is_none(), "skipped although RBUDDY_NO_SKIP is set: {why}");
    report(&format!("SKIPPED: {why}"));
}
