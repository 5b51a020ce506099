//! `cargo xtask chaos`: the promises of RELIABILITY.md, shown by faults in a
//! mesh of real processes. The scenarios are the crate `chaos`; this gets what
//! they need, builds and runs it.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    machine::Machine,
    process, say,
    setup::{self, Name},
};

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// As `chaos` takes them: [ID…] [--list] [--repeat N] [--off] [--json FILE]; --help tells all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// The command itself: exits as the scenarios do.
///
/// # Errors
/// When what they need cannot be had, or they cannot be started.
pub(crate) fn run(machine: &Machine, arguments: &Arguments) -> Result<ExitCode> {
    let only_tells = |word: &OsString| ["--list", "--help", "-h"].iter().any(|known| word == known);
    if !arguments.arguments.iter().any(only_tells) {
        setup::ensure(machine, &Name::FOR_CHAOS)?;
    }
    let mut cargo = machine.command("cargo");
    // The dev profile keeps up: 200 calls a second are some percent of a core.
    cargo.args(["run", "--locked", "--quiet", "-p", "chaos", "--"]).args(&arguments.arguments);
    if let Some(consul) = setup::consul(machine) {
        cargo.env("CONSUL_BIN", consul);
    }
    let status = cargo.status().with_context(|| format!("could not start `{}`", process::show(&cargo)))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    if code.is_none() {
        say(format_args!("the scenarios ended with {status}"));
    }
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
