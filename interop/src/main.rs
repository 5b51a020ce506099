//! `interop`: gRPC's interop tests, our channel against other implementations'
//! servers and their clients against our server.
//!
//! `cargo xtask interop` builds the other implementations and runs this
//! program. Every pair of client and server is a column, every case a row; a
//! cell is one run of a case.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{Cli, Command},
    terminal::print_line,
};

mod cases;
mod cli;
mod client;
mod matrix;
mod peer;
mod prefixes;
mod proto;
mod server;
mod table;
mod terminal;

/// The exit code of a failed case.
const FAILED: u8 = 1;
/// The exit code of a wrong command line or a peer that cannot be started.
const USAGE_ERROR: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => FAILED.into(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            USAGE_ERROR.into()
        }
    }
}

/// Runs the command; returns true when every case passed.
fn run(cli: Cli) -> Result<bool> {
    let levels = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(levels).with_ansi(false).with_writer(io::stderr).init();
    let runtime = tokio::runtime::Runtime::new().context("could not start the runtime")?;
    let passed = runtime.block_on(async {
        match cli.command {
            None => matrix::run(&cli.run).await,
            Some(Command::Serve { listen }) => {
                let listener = tokio::net::TcpListener::bind(listen).await;
                let listener = listener.with_context(|| format!("could not listen on {listen}"))?;
                print_line(format_args!("listening on {}", listener.local_addr()?));
                server::run(listener).await.map(|()| true)
            }
        }
    });
    // No remaining task needs a graceful end.
    runtime.shutdown_background();
    passed
}
