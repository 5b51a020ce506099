//! Output on the terminal.

use std::io::{self, Write};

/// Writes lines to standard output. Write errors are ignored: a mesh keeps running when the
/// reader of its output is gone.
pub(crate) fn print_line(text: impl AsRef<str>) {
    let text = text.as_ref().trim_end_matches('\n');
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes an error with its cause and fix to standard error.
pub(crate) fn print_error(text: &str) {
    let _ = writeln!(io::stderr(), "mesh: {}", text.trim_end());
}
