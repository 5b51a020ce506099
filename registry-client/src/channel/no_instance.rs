//! The reasons for which no instance is ready.

use std::{fmt, sync::Arc};

use crate::instance::InstanceId;

/// The reason for which no instance is ready; its `Display` is written for the
/// person on call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoInstance {
    /// No look-up has succeeded yet; with the error of the last one.
    NeverResolved(Option<Arc<str>>),
    /// The registry lists no instance; with the error of a later look-up.
    NoneListed(Option<Arc<str>>),
    /// This many instances are being connected to for the first time.
    Connecting(usize),
    /// Every instance failed or was taken out; each with the last cause.
    AllFailing(Vec<(InstanceId, Arc<str>)>),
}

impl NoInstance {
    /// Returns whether an instance is likely to be ready soon, so that even a
    /// call that fails fast waits.
    pub(super) fn is_settling(&self) -> bool {
        matches!(self, Self::NeverResolved(None) | Self::Connecting(_))
    }
}

impl fmt::Display for NoInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverResolved(None) => f.write_str("the registry has not answered yet"),
            Self::NeverResolved(Some(error)) => write!(f, "it was never resolved: {error}"),
            Self::NoneListed(None) => {
                f.write_str("the registry lists none: is it started, and registered under this name?")
            }
            Self::NoneListed(Some(error)) => {
                write!(f, "the registry listed none when it last answered; now {error}")
            }
            Self::Connecting(1) => f.write_str("the only instance is still being connected to"),
            Self::Connecting(n) => write!(f, "{n} instances are still being connected to"),
            Self::AllFailing(causes) => {
                write!(f, "all {} are failing", causes.len())?;
                let mut separator = ": ";
                for (id, cause) in causes.iter().take(5) {
                    write!(f, "{separator}{id}: {cause}")?;
                    separator = "; ";
                }
                if causes.len() > 5 { f.write_str("; …") } else { Ok(()) }
            }
        }
    }
}
