//! Where log lines go, which is never standard output.

use std::{io, path::Path, sync::Mutex};

use anyhow::{Context, Result, anyhow};
use service_kit::telemetry::LogFilter;
use tracing_subscriber::{EnvFilter, fmt};

use crate::up::children::open_log;

/// Into a file, from `info` up unless `RUST_LOG` says otherwise: the terminal
/// of `mesh up` is for what people look at.
///
/// # Errors
/// When the file cannot be written or `RUST_LOG` cannot be read.
pub(crate) fn to_file(path: &Path) -> Result<()> {
    let file = open_log(path).with_context(|| format!("could not write {}", path.display()))?;
    fmt().with_env_filter(filter("info")?).with_ansi(false).with_writer(Mutex::new(file)).init();
    Ok(())
}

/// Onto standard error, errors only unless `RUST_LOG` says otherwise.
///
/// # Errors
/// When `RUST_LOG` cannot be read.
pub(crate) fn to_stderr() -> Result<()> {
    fmt().with_env_filter(filter("error")?).with_ansi(false).with_writer(io::stderr).init();
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "every command of `main` begins to log by these")]
fn filter(default: &str) -> Result<EnvFilter> {
    let set = std::env::var_os("RUST_LOG").filter(|text| !text.is_empty());
    let text = set.as_ref().map_or(Some(default), |text| text.to_str());
    let filter = LogFilter::parse(text.context("RUST_LOG is not UTF-8")?);
    Ok(filter.map_err(|why| anyhow!("RUST_LOG: {why}"))?.to_env_filter())
}
