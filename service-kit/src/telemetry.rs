//! Logs: on standard output, as text for a person at a terminal and as JSON,
//! a line each, for everything else.

use std::io::{IsTerminal, stdout};

use tracing_subscriber::{EnvFilter, fmt};

/// Which log lines are written, as `RUST_LOG` says it: `info`, or
/// `warn,cart_service=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// Reads a filter; nothing means `info`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = if text.trim().is_empty() { "info" } else { text };
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(why) => Err(format!("{why}; write a level such as info, or cart_service=debug")),
        }
    }

    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Begins to write logs. Called once, by `main`; a second call changes
/// nothing.
pub fn init(filter: &LogFilter) {
    let lines = fmt().with_env_filter(EnvFilter::new(filter.as_str()));
    // The second of two would be refused, and the first goes on.
    let _ = if stdout().is_terminal() {
        lines.compact().try_init()
    } else {
        lines.json().flatten_event(true).try_init()
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_checked_before_it_is_used() {
        assert_eq!(LogFilter::parse("").unwrap().as_str(), "info");
        assert_eq!(LogFilter::parse("warn,sqlx=error").unwrap().as_str(), "warn,sqlx=error");
        assert!(LogFilter::parse("warn,sqlx=loud").is_err());
    }
}
