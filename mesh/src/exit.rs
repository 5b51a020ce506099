//! The exit codes.

use std::process::ExitCode;

/// The end of a command. Scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    /// A target was missed, or a call failed.
    Failed,
    /// Not every instance is ready.
    NotReady,
    /// A second Ctrl-C cut the shutdown short.
    Interrupted,
}

/// The exit code of a wrong command line or a set-up that does not work.
pub(crate) const USAGE_ERROR: u8 = 2;

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failed => 1,
            Exit::NotReady => 3,
            Exit::Interrupted => 130,
        })
    }
}
