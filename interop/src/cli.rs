//! The command line.
#![allow(clippy::doc_markdown, reason = "these comments are read at a terminal, as help")]

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::peer::PeerName;

/// gRPC's interop tests, both ways against other implementations.
///
/// The last line is `N passed, N failed`. Exit code 0 when all passed, 1 when
/// a case failed, 2 when a peer could not be started.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask interop",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// The other commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves grpc.testing until it is interrupted.
    Serve {
        /// The address to listen on.
        #[arg(long, default_value = "127.0.0.1:10000")]
        listen: SocketAddr,
    },
}

/// The cases and the peers.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// Only this case; may be given more than once.
    #[arg(long, value_name = "CASE")]
    pub(crate) only: Vec<String>,
    /// Shows the cases instead of running them.
    #[arg(long)]
    pub(crate) list: bool,
    /// Skips the cases that take longer than a few seconds.
    #[arg(long)]
    pub(crate) short: bool,
    /// The silent time in `silent_connection`. Servers that count pings close a
    /// connection with one every ten seconds after fifty at most.
    #[arg(long, default_value = "70s", value_parser = registry_client::parse_duration, value_name = "TIME")]
    pub(crate) silence: Duration,
    /// The other implementations.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ours", value_name = "PEER")]
    pub(crate) peers: Vec<PeerName>,
    /// The folder into which `cargo xtask interop` builds the other
    /// implementations.
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub(crate) tools: PathBuf,
}
