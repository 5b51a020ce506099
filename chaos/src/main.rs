//! `chaos`: injects faults into a mesh of real processes under load and
//! measures the effect on callers against the figures in RELIABILITY.md.
//!
//! `cargo xtask chaos` runs it. A scenario starts its testbed (a registry,
//! three replicas, each a process), sends calls at a fixed rate, injects its
//! fault and compares the figures with the promise. `--off` runs it without the
//! mechanism that it guards; it must then miss a figure.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;

use crate::cli::{Cli, Command};

mod attack;
mod cli;
mod load;
mod mechanism;
mod process_stats;
mod proto;
mod run;
mod scenario;
mod setting;
mod target;
mod terminal;
mod testbed;
mod verdict;

/// The exit code of a missed figure.
const MISSED: u8 = 1;
/// The exit code of a wrong command line or a testbed that cannot be started.
const USAGE_ERROR: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run_command(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => MISSED.into(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            USAGE_ERROR.into()
        }
    }
}

/// Runs the command; returns whether all figures held.
fn run_command(cli: Cli) -> Result<bool> {
    let runtime = tokio::runtime::Runtime::new().context("could not start the runtime")?;
    let all_held = runtime.block_on(async {
        match cli.command {
            None => run::run(&cli.run).await,
            Some(Command::Serve(args)) => target::run(args).await.map(|()| true),
            Some(Command::ServeShop(args)) => testbed::shop::serve(*args).await.map(|()| true),
            Some(Command::Registry { listen }) => testbed::registry::serve(listen).await.map(|()| true),
            Some(Command::Attack(args)) => attack::run(args).await.map(|()| true),
            Some(Command::HostileServer(args)) => attack::hostile_server::run(args).await.map(|()| true),
            Some(Command::Victim(args)) => attack::victim::run(args).await.map(|()| true),
            Some(Command::Tether { command }) => testbed::child::tether(&command).map(|()| true),
        }
    });
    // No task left in the runtime needs an orderly end.
    runtime.shutdown_background();
    all_held
}
