//! Logging to standard output, as text on a terminal and as JSON lines otherwise.

use std::io::{IsTerminal, stdout};

use tracing_subscriber::{EnvFilter, fmt};

/// The levels; `off` is for a target.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// The first directives of every filter. Errors are always logged. `h2` warns once
/// for each connection that a peer abuses, so a peer could fill the disk; it logs
/// errors only, unless the filter names it: `info,h2=debug`. sqlx's pool logs an
/// error for each connection that it cannot open, over and over while a server is
/// unreachable; its callers log that failure.
const DEFAULT_DIRECTIVES: &str = "error,h2=error,sqlx_core::pool=off";

/// The log filter in the syntax of `RUST_LOG`: `info`, or
/// `warn,cart_service=debug`. A word that is no level is rejected, since it would
/// count as a target and silence everything else. Errors are always logged, unless
/// a target is turned `off` by its name. `h2`, whose warnings peers can provoke,
/// logs errors only, unless it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// Parses a filter; an empty one is `info`.
    ///
    /// # Errors
    /// When it is invalid; the error lists the levels.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = if text.trim().is_empty() { "info" } else { text };
        if text.contains(char::is_control) {
            return Err("holds a control character, such as a line break".to_owned());
        }
        for directive in directives(text) {
            let level = match directive.rsplit_once('=') {
                _ if directive.ends_with(']') => continue,
                Some((_, level)) => level,
                None => directive,
            };
            if !is_level(level) {
                return Err(format!(
                    "`{}` is no level; write {} or {}, alone or behind a target: cart_service=debug",
                    level.escape_debug(),
                    LEVELS[..5].join(", "),
                    LEVELS[5],
                ));
            }
        }
        match EnvFilter::try_new(directives(text).collect::<Vec<_>>().join(",")) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(why) => Err(format!("{why}; write a level such as info, or cart_service=debug")),
        }
    }

    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The filter with the default directives.
    #[must_use]
    pub fn to_env_filter(&self) -> EnvFilter {
        let own = directives(&self.0).map(|one| if is_off(one) { "error" } else { one });
        EnvFilter::new([DEFAULT_DIRECTIVES].into_iter().chain(own).collect::<Vec<_>>().join(","))
    }
}

fn directives(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// True for a level's name, or its number from 0, `off`, to 5, `trace`.
fn is_level(word: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) || matches!(word.as_bytes(), [b'0'..=b'5'])
}

fn is_off(directive: &str) -> bool {
    directive.eq_ignore_ascii_case("off") || directive == "0"
}

/// Initializes logging. Called once, by `main`; a second call changes nothing.
pub fn init(filter: &LogFilter) {
    let lines = fmt().with_env_filter(filter.to_env_filter());
    // A second call fails, and the first one stays in effect.
    let _ = if stdout().is_terminal() {
        lines.compact().try_init()
    } else {
        lines.json().flatten_event(true).try_init()
    };
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[test]
    fn a_filter_is_checked_before_it_is_used() {
        assert_eq!(LogFilter::parse("").unwrap().as_str(), "info");
        for good in
            ["warn,sqlx=error", "WARN", "3", "off", "h2=off, info", "[call{id=1}]=debug,warn", "[call]"]
        {
            assert_eq!(LogFilter::parse(good).unwrap().as_str(), good);
        }
        for (bad, word) in [
            ("warn,sqlx=loud", "loud"),
            ("warning", "warning"),
            ("inof", "inof"),
            ("info,cart_service", "cart_service"),
            ("cart_service=", ""),
            ("[call]=debug,warning", "warning"),
        ] {
            let why = LogFilter::parse(bad).unwrap_err();
            assert!(why.contains(&format!("`{word}`")), "{why}");
            assert!(why.contains("error, warn, info, debug, trace or off"), "{why}");
        }
        assert!(LogFilter::parse("info\r").unwrap_err().contains("control character"));
    }

    /// The targets and levels that `filter` lets through.
    fn written(filter: &str) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (filter, lines) = (LogFilter::parse(filter).unwrap().to_env_filter(), Lines::default());
        let writer = lines.clone();
        let log = fmt().with_env_filter(filter).without_time().with_ansi(false);
        tracing::subscriber::with_default(log.with_writer(move || writer.clone()).finish(), || {
            tracing::error!("shop");
            tracing::warn!("shop");
            tracing::info!("shop");
            tracing::error!(target: "h2::proto", "peer");
            tracing::warn!(target: "h2::proto", "peer");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            format!("{}:{}", words.next_back().unwrap(), words.next().unwrap())
        };
        text.lines().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn errors_are_always_written_and_a_peer_writes_no_line_per_connection() {
        assert_eq!(written("info"), "shop:ERROR shop:WARN shop:INFO peer:ERROR");
        assert_eq!(written("warn"), "shop:ERROR shop:WARN peer:ERROR");
        assert_eq!(written("trace"), "shop:ERROR shop:WARN shop:INFO peer:ERROR");
        for quiet in ["off", "0", "elsewhere=trace", "error"] {
            assert_eq!(written(quiet), "shop:ERROR peer:ERROR", "{quiet}");
        }
        assert_eq!(written("error,h2=warn"), "shop:ERROR peer:ERROR peer:WARN");
        assert_eq!(written("error,h2=off"), "shop:ERROR");
    }
}
