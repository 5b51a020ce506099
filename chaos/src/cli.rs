//! The command line. The names are a contract that scripts build on.
#![allow(clippy::doc_markdown, reason = "these comments are read at a terminal, as help")]

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::{
    attack::{self, Attack},
    setting::{Database, Size},
    target,
    testbed::shop,
};

/// Faults under load, measured against their promised figures.
///
/// The last line is `N passed, N failed`. Exit code 0 when all held, 1 when a
/// figure was missed, 2 when something could not be set up.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask chaos", args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// The subcommands that the harness starts itself with.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A replica that is controlled by its standard input.
    #[command(hide = true)]
    Serve(target::ServeArgs),
    /// A replica of a service of the shop.
    #[command(hide = true)]
    ServeShop(Box<shop::ServeArgs>),
    /// A registry that ends when its standard input does.
    #[command(hide = true)]
    Registry {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// A hostile peer.
    #[command(hide = true)]
    Attack(attack::AttackArgs),
    /// A hostile server.
    #[command(hide = true)]
    HostileServer(attack::hostile_server::HostArgs),
    /// A client of a hostile server and of another.
    #[command(hide = true)]
    Victim(attack::victim::VictimArgs),
    /// A program that ends when its parent process does.
    #[command(hide = true)]
    Tether {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

/// The scenarios to run, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// The scenarios, such as R1 [default: all]
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Shows the scenarios instead of running them.
    #[arg(long)]
    pub(crate) list: bool,
    /// The number of runs of each scenario; the worst run counts.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,
    /// The database of the shop in R20 to R26.
    #[arg(long, value_enum, default_value_t = Database::Sqlite)]
    pub(crate) db: Database,
    /// Writes the results to FILE as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Switches off the mechanism that each scenario guards: it must then miss
    /// a figure.
    #[arg(long)]
    pub(crate) off: bool,
    /// The length of scenarios: `quick` is what `cargo xtask test` runs, `full`
    /// keeps faults as long as promised (R14: ten minutes).
    #[arg(long, value_enum, default_value_t = Size::Usual)]
    pub(crate) size: Size,
    /// The Consul of the scenarios that need a real one.
    #[arg(long, env = "CONSUL_BIN", default_value = "consul", value_name = "PROGRAM")]
    pub(crate) consul: PathBuf,
    /// The grpc-go server of R33, which `cargo xtask setup` builds.
    #[arg(long, default_value = "chaos-grpc-go", value_name = "PROGRAM")]
    pub(crate) grpc_go: PathBuf,
    /// The attacks of R29, by name [default: all]
    #[arg(long = "attack", value_name = "NAME", value_parser = attack::parse)]
    pub(crate) attacks: Vec<&'static Attack>,
    /// Keeps every process's log in DIR [default: a temporary folder, kept when
    /// a figure was missed]
    #[arg(long, value_name = "DIR")]
    pub(crate) logs: Option<PathBuf>,
}
