//! The command line. The names are a contract that scripts build on.
#![allow(clippy::doc_markdown, reason = "these comments are read at a terminal, as help")]

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    Serve(ServeArgs),
    /// A replica of a service of the shop.
    #[command(hide = true)]
    ServeShop(Box<crate::testbed::shop::ServeArgs>),
    /// A registry that ends when its standard input does.
    #[command(hide = true)]
    Registry {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// A hostile peer.
    #[command(hide = true)]
    Attack(AttackArgs),
    /// A hostile server.
    #[command(hide = true)]
    HostileServer(HostArgs),
    /// A client of a hostile server and of another.
    #[command(hide = true)]
    Victim(VictimArgs),
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
    #[arg(long = "attack", value_name = "NAME", value_parser = crate::attack::parse)]
    pub(crate) attacks: Vec<&'static crate::attack::Attack>,
    /// Keeps every process's log in DIR [default: a temporary folder, kept when
    /// a figure was missed]
    #[arg(long, value_name = "DIR")]
    pub(crate) logs: Option<PathBuf>,
}

/// The length of scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Size {
    /// Seconds: the fault once.
    Quick,
    /// About a minute each.
    Usual,
    /// As long as promised.
    Full,
}

/// A database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Database {
    /// Files.
    Sqlite,
    /// A server.
    Postgres,
}

/// `chaos attack`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct AttackArgs {
    /// The name.
    #[arg(value_parser = crate::attack::parse)]
    pub(crate) attack: &'static crate::attack::Attack,
    /// The server's address.
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// The longest run.
    #[arg(long, value_parser = registry_client::parse_duration)]
    pub(crate) time: Duration,
}

/// A hostile server.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct HostArgs {
    /// The name.
    #[arg(value_parser = crate::attack::parse_server)]
    pub(crate) server: &'static crate::attack::HostileServer,
    /// The address that it listens on.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// The longest run.
    #[arg(long, value_parser = registry_client::parse_duration)]
    pub(crate) time: Duration,
}

/// A client of a hostile server and of another.
#[derive(Clone, Debug, Args)]
pub(crate) struct VictimArgs {
    /// The address of the hostile server.
    #[arg(long)]
    pub(crate) hostile: SocketAddr,
    /// The address of the other server.
    #[arg(long)]
    pub(crate) neighbour: SocketAddr,
    /// The time for which only the other server is called.
    #[arg(long, value_parser = registry_client::parse_duration)]
    pub(crate) quiet: Duration,
    /// The time for which both are called.
    #[arg(long, value_parser = registry_client::parse_duration)]
    pub(crate) time: Duration,
    /// The mechanism that is switched off.
    #[arg(long, value_name = "MECHANISM")]
    pub(crate) without: Option<String>,
}

/// A replica.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// The service that it is an instance of.
    #[arg(long)]
    pub(crate) service: String,
    /// The address that it listens on.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// The registry; without one it does not register.
    #[arg(long)]
    pub(crate) registry: Option<String>,
    /// The service to which it relays every call.
    #[arg(long)]
    pub(crate) relay: Option<String>,
    /// The time that a call takes without a fault.
    #[arg(long, default_value = "20ms", value_parser = registry_client::parse_duration)]
    pub(crate) work: Duration,
    /// The number of calls that are worked on at once; the others wait.
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<usize>,
    /// The concurrency limit of a method [default: the server's own]
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrency: Option<usize>,
    /// The mechanism that is switched off.
    #[arg(long, value_name = "MECHANISM")]
    pub(crate) without: Option<String>,
}
