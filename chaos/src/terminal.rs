//! Output on the terminal.

use std::io::{self, Write};

/// Writes a line to standard output. A closed pipe is ignored.
pub(crate) fn print_line(line: impl std::fmt::Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
