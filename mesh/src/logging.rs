//! Where log lines go, which is never standard output.

use std::{io, path::Path, sync::Mutex};

use anyhow::{Context, Result};
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

fn filter(default: &str) -> Result<EnvFilter> {
    let builder = EnvFilter::builder().with_default_directive(default.parse()?);
    builder.try_from_env().or_else(|error| {
        // Unset is the usual case; set to nonsense is worth a word.
        match std::error::Error::source(&error) {
            Some(cause) if cause.is::<std::env::VarError>() => Ok(EnvFilter::new(default)),
            _ => Err(error).context("RUST_LOG is not a filter such as info or mesh=debug"),
        }
    })
}
