//! The project's own tasks: `cargo xtask setup` installs what the tests need,
//! `cargo xtask test` is everything that must hold before a change lands, `cargo
//! xtask bench` measures, `cargo xtask chaos` shows that the promises hold under
//! faults, `cargo xtask interop` that other implementations of gRPC understand
//! this one, `cargo xtask fuzz` searches inputs that break a parser.
//!
//! One file per command. All commands use `machine` (paths and environment),
//! `process` (child processes and their failures) and `terminal`.

mod bench;
mod chaos;
mod fuzz;
mod interop;
mod machine;
mod process;
mod setup;
mod terminal;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{machine::Machine, terminal::print_line};

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
    /// Inject faults into a mesh of real processes and check every promise
    Chaos(chaos::Arguments),
    /// Search inputs that break a parser of untrusted bytes
    Fuzz(fuzz::Arguments),
    /// Run gRPC's interop tests, both ways against other implementations
    Interop(interop::Arguments),
}

fn main() -> ExitCode {
    let task = Arguments::parse().command;
    let outcome = Machine::from_env().and_then(|machine| match task {
        Task::Setup(arguments) => setup::run(&machine, &arguments).map(success),
        Task::Test(arguments) => test::run(&machine, &arguments).map(success),
        Task::Bench(arguments) => bench::run(&machine, &arguments).map(success),
        Task::Chaos(arguments) => chaos::run(&machine, &arguments),
        Task::Fuzz(arguments) => fuzz::run(&machine, &arguments),
        Task::Interop(arguments) => interop::run(&machine, &arguments),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            print_line(format_args!("\nerror: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The exit code of a command that returned no error.
fn success((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
