//! Known vulnerabilities of dependencies. Their database is a Git repository,
//! which a machine that reaches only package registries cannot fetch: then the
//! check is left out, and the run says so at its end.

use std::time::Duration;

use anyhow::Result;

use super::{cargo, cargo_command};
use crate::{machine::Machine, process};

/// The database is small; where it can be had at all, it comes in seconds.
const LIMIT: Duration = Duration::from_mins(1);

/// Checks against a database fetched just now; gives a notice when there is none.
pub(super) fn check(machine: &Machine) -> Result<Option<String>> {
    let mut fetch = cargo_command(machine, "deny --log-level error fetch db");
    let log = machine.tools.join("logs/advisories.log");
    if let Err(error) = process::run(&mut fetch, &log, LIMIT) {
        return Ok(Some(format!(
            "advisories were NOT checked: their database cannot be fetched from here\n{error:#}\n    \
             where Git reaches it: cargo deny --workspace check advisories"
        )));
    }
    cargo(machine, "deny --workspace --log-level warn check --disable-fetch advisories")?;
    Ok(None)
}
