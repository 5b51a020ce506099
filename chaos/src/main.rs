//! `chaos`: hurts a mesh of real processes under load and measures what its
//! callers notice, figure by figure as RELIABILITY.md promises them.
//!
//! `cargo xtask chaos` runs it. A scenario starts its bed (a registry, three
//! replicas, each a process), sends calls at a fixed rate, injects its fault
//! and judges what it measured. `--off` runs it with the mechanism that it
//! guards switched off, which must show.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;

use crate::cli::{Cli, Command};

mod attack;
mod bed;
mod cli;
mod load;
mod run;
mod scenario;
mod target;
mod verdict;

mod proto {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::doc_markdown,
        clippy::too_many_lines,
        clippy::use_self,
        reason = "generated"
    )]
    tonic::include_proto!("chaos.v1");

    pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

/// The exit code of a missed figure.
const MISSED: u8 = 1;
/// The exit code of a wrong command line or a bed that cannot be made.
const SET_UP: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => MISSED.into(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            SET_UP.into()
        }
    }
}

/// Does what the command line says; whether all held.
fn start(cli: Cli) -> Result<bool> {
    let runtime = tokio::runtime::Runtime::new().context("could not start the runtime")?;
    let held = runtime.block_on(async {
        match cli.command {
            None => run::run(&cli.run).await,
            Some(Command::Serve(args)) => target::run(args).await.map(|()| true),
            Some(Command::ServeShop(args)) => bed::shop::serve(*args).await.map(|()| true),
            Some(Command::Registry { listen }) => bed::registry::serve(listen).await.map(|()| true),
            Some(Command::Attack(args)) => attack::run(args).await.map(|()| true),
            Some(Command::HostileServer(args)) => attack::host::run(args).await.map(|()| true),
            Some(Command::Victim(args)) => attack::victim::run(args).await.map(|()| true),
            Some(Command::Tether { command }) => bed::child::tether(&command).map(|()| true),
        }
    });
    // What is left in the runtime holds nothing that needs an orderly end.
    runtime.shutdown_background();
    held
}

/// Writes one line for whoever reads along. A closed pipe is no reason to
/// fail.
fn say(line: impl std::fmt::Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
