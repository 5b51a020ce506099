//! Output for the person at the terminal.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Prints one line. A failed write is ignored, because a closed pipe (`| head`)
/// is no reason to fail.
pub(crate) fn print_line(line: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
