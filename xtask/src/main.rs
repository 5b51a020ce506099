//! The project's own tasks: `cargo xtask setup` installs what the tests need,
//! `cargo xtask test` is everything that must hold before a change lands,
//! `cargo xtask bench` measures, `cargo xtask chaos` shows that the promises
//! hold under faults, `cargo xtask interop` that other implementations of gRPC
//! understand this one, `cargo xtask fuzz` looks for inputs that break a reader.
//!
//! One file per command; what commands share stands in `machine` (where things
//! are) and `process` (how a child is run and how its failure is told).

mod bench;
mod chaos;
mod fuzz;
mod interop;
mod machine;
mod process;
mod setup;
mod test;

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::machine::Machine;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what the tests need and print its versions; does nothing where nothing is missing
    Setup(setup::Arguments),
    /// Set up, then run every check that a change must pass
    Test(test::Arguments),
    /// Measure what a call costs our channel beside tonic's
    Bench(bench::Arguments),
    /// Hurt a mesh of real processes and see whether every promise holds
    Chaos(chaos::Arguments),
    /// Look for inputs that break what reads bytes of others
    Fuzz(fuzz::Arguments),
    /// Run gRPC's interop tests, both ways against other implementations
    Interop(interop::Arguments),
}

fn main() -> ExitCode {
    let task = Arguments::parse().command;
    let outcome = Machine::from_env().and_then(|machine| match task {
        Task::Setup(arguments) => setup::run(&machine, &arguments).map(done),
        Task::Test(arguments) => test::run(&machine, &arguments).map(done),
        Task::Bench(arguments) => bench::run(&machine, &arguments).map(done),
        Task::Chaos(arguments) => chaos::run(&machine, &arguments),
        Task::Fuzz(arguments) => fuzz::run(&machine, &arguments),
        Task::Interop(arguments) => interop::run(&machine, &arguments),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            say(format_args!("\nerror: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// How a command ends that says itself what it has to say.
fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Writes one line for the person at the terminal. A closed pipe (`| head`) is
/// no reason to fail, so a failed write is let go.
fn say(line: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
