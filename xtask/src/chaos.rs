//! `cargo xtask chaos`: the promises of RELIABILITY.md, shown by faults in a
//! mesh of real processes. The scenarios are the crate `chaos`; this command
//! installs its tools, builds it and runs it.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    machine::Machine,
    process,
    setup::{self, ToolName},
    terminal::print_line,
};

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Arguments of `chaos`: [ID…] [--list] [--repeat N] [--off] [--json FILE]; --help lists all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Runs `chaos` and returns its exit code.
///
/// # Errors
/// When a tool cannot be installed or `chaos` cannot be started.
pub(crate) fn run(machine: &Machine, arguments: &Arguments) -> Result<ExitCode> {
    let prints_only = |word: &OsString| ["--list", "--help", "-h"].iter().any(|known| word == known);
    if !arguments.arguments.iter().any(prints_only) {
        setup::ensure(machine, &ToolName::FOR_CHAOS)?;
    }
    let mut cargo = machine.command("cargo");
    // The dev profile is fast enough: 200 calls a second take a few percent of
    // a core.
    cargo.args(["run", "--locked", "--quiet", "-p", "chaos", "--"]).args(&arguments.arguments);
    if let Some(consul) = setup::consul(machine) {
        cargo.env("CONSUL_BIN", consul);
    }
    let status = cargo.status().with_context(|| format!("could not start `{}`", process::show(&cargo)))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    if code.is_none() {
        print_line(format_args!("`chaos` ended with {status}"));
    }
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
