//! `cargo xtask test`: every check that a change must pass, one after the
//! other, each with its time; the first failure ends the run and names the
//! command that repeats that step.

mod advisories;

use std::{process::Command, time::Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use clap::ValueEnum;

use crate::{interop, machine::Machine, process, setup, terminal::print_line};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Skip the check that all tools are installed
    #[arg(long)]
    no_setup: bool,
    /// Only this step; may be given more than once
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
}

/// The steps in the order in which they run, those that fail in seconds first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// The code is formatted
    Fmt,
    /// The protocol follows buf's style
    Buf,
    /// The code has no warning
    Clippy,
    /// All tests, the tidy test among them
    Nextest,
    /// The short form of the interop tests
    Interop,
    /// The examples in the documentation
    Doctest,
    /// The documentation has no warning
    Doc,
    /// The book in docs/ can be built
    Book,
    /// Licences, bans and sources of dependencies; advisories where their database
    /// can be fetched
    Deny,
}

/// Runs the steps.
///
/// # Errors
/// Names the first step that failed and the command that repeats it.
pub(crate) fn run(machine: &Machine, arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let mut times = Vec::new();
    if !arguments.no_setup {
        heading("setup");
        setup::ensure(machine, &setup::FOR_TESTS)?;
        times.push(("setup", started.elapsed().as_secs_f64()));
    }
    let mut notices = Vec::new();
    for step in Step::value_variants() {
        if !arguments.only.is_empty() && !arguments.only.contains(step) {
            continue;
        }
        let started_step = Instant::now();
        heading(step.name());
        notices.extend(step.run(machine).map_err(|error| step.failed(started_step, &error))?);
        let seconds = started_step.elapsed().as_secs_f64();
        print_line(format_args!("-- {}: passed in {seconds:.1} s", step.name()));
        times.push((step.name(), seconds));
    }
    print_line("");
    for (name, seconds) in times {
        print_line(format_args!("{name:<10} {seconds:>8.1} s"));
    }
    print_line(format_args!("{:<10} {:>8.1} s, all passed", "together", started.elapsed().as_secs_f64()));
    for notice in notices {
        print_line(format_args!("notice: {notice}"));
    }
    Ok(())
}

impl Step {
    /// The name that `--only` takes.
    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Buf => "buf",
            Self::Clippy => "clippy",
            Self::Nextest => "nextest",
            Self::Interop => "interop",
            Self::Doctest => "doctest",
            Self::Doc => "doc",
            Self::Book => "book",
            Self::Deny => "deny",
        }
    }

    fn failed(self, started_step: Instant, error: &Error) -> Error {
        let (name, seconds) = (self.name(), started_step.elapsed().as_secs_f64());
        anyhow!(
            "step `{name}` failed after {seconds:.1} s: {error:#}\n  \
             alone: cargo xtask test --no-setup --only {name}"
        )
    }

    /// Runs the step; returns a notice for the end when a part was skipped.
    fn run(self, machine: &Machine) -> Result<Option<String>> {
        match self {
            Self::Fmt => cargo(machine, "fmt --all --check")?,
            Self::Buf => show(machine.command("buf").arg("lint").current_dir(machine.root.join("proto")))?,
            Self::Clippy => cargo(machine, "clippy --locked --workspace --all-targets -- -D warnings")?,
            Self::Nextest => cargo(machine, "nextest run --locked --workspace --no-fail-fast")?,
            Self::Interop => interop::short(machine)?,
            Self::Doctest => cargo(machine, "test --locked --workspace --doc")?,
            Self::Doc => show(
                cargo_command(machine, "doc --locked --workspace --no-deps")
                    .env("RUSTDOCFLAGS", "-D warnings"),
            )?,
            Self::Book => show(machine.command("mdbook").arg("build").arg(machine.root.join("docs")))?,
            Self::Deny => {
                cargo(
                    machine,
                    "deny --workspace --log-level warn check --hide-inclusion-graph bans licenses sources",
                )?;
                return advisories::check(machine);
            }
        }
        Ok(None)
    }
}

fn cargo(machine: &Machine, arguments: &str) -> Result<()> {
    show(&mut cargo_command(machine, arguments))
}

fn cargo_command(machine: &Machine, arguments: &str) -> Command {
    let mut command = machine.command("cargo");
    command.args(arguments.split_whitespace());
    if let Some(consul) = setup::consul(machine) {
        command.env("CONSUL_BIN", consul);
    }
    command
}

/// Runs a command that writes to the terminal.
fn show(command: &mut Command) -> Result<()> {
    let shown = process::show(command);
    print_line(format_args!("$ {shown}"));
    let status = command.status().with_context(|| {
        format!("could not start `{shown}`; `cargo xtask setup` installs what this step needs")
    })?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

fn heading(step: &str) {
    print_line(format_args!("\n== {step}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_the_name_that_the_flag_only_takes() {
        for step in Step::value_variants() {
            assert_eq!(Step::from_str(step.name(), false), Ok(*step));
        }
    }
}
