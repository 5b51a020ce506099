//! `interop`: gRPC's interop tests, our channel against other implementations'
//! servers and their clients against our server.
//!
//! `cargo xtask interop` builds the others and runs it. Every pair of client
//! and server is a column, every case a row; a cell is one run of a case.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

mod cases;
mod cli;
mod client;
mod matrix;
mod peer;
mod prefixes;
mod server;
mod table;

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
    tonic::include_proto!("grpc.testing");

    pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

/// The exit code of a failed case.
const FAILED: u8 = 1;
/// The exit code of a wrong command line or a peer that cannot be started.
const SET_UP: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => FAILED.into(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            SET_UP.into()
        }
    }
}

/// Does what the command line says; whether every case passed.
fn start(cli: Cli) -> Result<bool> {
    let levels = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(levels).with_ansi(false).with_writer(io::stderr).init();
    let runtime = tokio::runtime::Runtime::new().context("could not start the runtime")?;
    let passed = runtime.block_on(async {
        match cli.command {
            None => matrix::run(&cli.run).await,
            Some(Command::Serve { listen }) => {
                let listener = tokio::net::TcpListener::bind(listen).await;
                let listener = listener.with_context(|| format!("could not listen on {listen}"))?;
                say(format_args!("listening on {}", listener.local_addr()?));
                server::run(listener).await.map(|()| true)
            }
        }
    });
    // What is left in the runtime holds nothing that needs an orderly end.
    runtime.shutdown_background();
    passed
}

/// Writes one line for the person at the terminal. A closed pipe is no reason
/// to fail.
fn say(line: impl std::fmt::Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
