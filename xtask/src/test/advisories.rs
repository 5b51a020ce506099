//! Known vulnerabilities of dependencies. Their database is a Git repository.
//! On a machine that reaches only package registries it cannot be fetched; then
//! the check is skipped and the run prints a notice at its end.

use std::time::Duration;

use anyhow::Result;

use super::{cargo, cargo_command};
use crate::{machine::Machine, process};

/// The database is small: a fetch takes seconds.
const FETCH_TIMEOUT: Duration = Duration::from_mins(1);

/// Fetches the database and checks against it; returns a notice when it cannot be
/// fetched.
pub(super) fn check(machine: &Machine) -> Result<Option<String>> {
    let mut fetch = cargo_command(machine, "deny --log-level error fetch db");
    let log = machine.tools.join("logs/advisories.log");
    if let Err(error) = process::run(&mut fetch, &log, FETCH_TIMEOUT) {
        return Ok(Some(format!(
            "advisories were NOT checked: their database cannot be fetched from this machine\n{error:#}\n    \
             on a machine that reaches it: cargo deny --workspace check advisories"
        )));
    }
    cargo(machine, "deny --workspace --log-level warn check --disable-fetch advisories")?;
    Ok(None)
}
