//! Text for people.

use std::io::{self, Write};

/// Writes a line to standard output, or several. What cannot be written is lost on purpose: a
/// mesh goes on running when whoever read its output is gone.
pub(crate) fn say(text: impl AsRef<str>) {
    let text = text.as_ref().trim_end_matches('\n');
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes a line to standard error: cause and mend. Where it cannot be
/// written there is nobody to tell.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "mesh: {}", text.trim_end());
}
