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

/// What the harness starts itself as.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A replica that does what its standard input says.
    #[command(hide = true)]
    Serve(ServeArgs),
    /// A replica of a service of the shop.
    #[command(hide = true)]
    ServeShop(Box<crate::bed::shop::ServeArgs>),
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
    /// A program that ends when its starter does.
    #[command(hide = true)]
    Tether {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

/// Which scenarios, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// The scenarios, such as R1 [default: all]
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Shows the scenarios instead of running them.
    #[arg(long)]
    pub(crate) list: bool,
    /// How often each is run; the worst run counts.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,
    /// Where the shop of R20 to R26 keeps its data.
    #[arg(long, value_enum, default_value_t = Database::Sqlite)]
    pub(crate) db: Database,
    /// Writes the results there as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Switches off the mechanism that each scenario guards: it must then be
    /// missed.
    #[arg(long)]
    pub(crate) off: bool,
    /// How long: `quick` is what `cargo xtask test` runs, `full` takes faults
    /// as long as they are promised (R14: ten minutes).
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
    /// Keeps every process's log there [default: a temporary folder, kept
    /// when a figure was missed]
    #[arg(long, value_name = "DIR")]
    pub(crate) logs: Option<PathBuf>,
}

/// How long scenarios are.
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

/// An attack on a server.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct AttackArgs {
    /// Which one.
    #[arg(value_parser = crate::attack::parse)]
    pub(crate) attack: &'static crate::attack::Attack,
    /// The server's address.
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// How long it goes on at the most.
    #[arg(long, value_parser = registry_client::parse_duration)]
    pub(crate) time: Duration,
}

/// A hostile server.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct HostArgs {
    /// Which one.
    #[arg(value_parser = crate::attack::parse_server)]
    pub(crate) server: &'static crate::attack::Hostile,
    /// Where it listens.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// How long it goes on at the most.
    #[arg(long, value_parser = registry_client::parse_duration)]
    pub(crate) time: Duration,
}

/// A client of a hostile server and of another.
#[derive(Clone, Debug, Args)]
pub(crate) struct VictimArgs {
    /// Where the hostile server listens.
    #[arg(long)]
    pub(crate) hostile: SocketAddr,
    /// Where the other listens.
    #[arg(long)]
    pub(crate) neighbour: SocketAddr,
    /// How long only the other is called at first.
    #[arg(long, value_parser = registry_client::parse_duration)]
    pub(crate) quiet: Duration,
    /// How long both are.
    #[arg(long, value_parser = registry_client::parse_duration)]
    pub(crate) time: Duration,
    /// A mechanism that is switched off in it.
    #[arg(long, value_name = "MECHANISM")]
    pub(crate) without: Option<String>,
}

/// A replica.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// The service that it is an instance of.
    #[arg(long)]
    pub(crate) service: String,
    /// Where it listens.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// The registry; without one it does not register.
    #[arg(long)]
    pub(crate) registry: Option<String>,
    /// The service that it passes every call on to.
    #[arg(long)]
    pub(crate) relay: Option<String>,
    /// How long a call takes it when it is well.
    #[arg(long, default_value = "20ms", value_parser = registry_client::parse_duration)]
    pub(crate) work: Duration,
    /// How many calls may do their work at once; the others wait.
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<usize>,
    /// The most calls of a method that it takes on; as every server unless set.
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrency: Option<usize>,
    /// A mechanism that is switched off in it.
    #[arg(long, value_name = "MECHANISM")]
    pub(crate) without: Option<String>,
}
