//! The command line. Names and flags are a contract that scripts build on:
//! later versions only add to them.
#![allow(clippy::doc_markdown, reason = "these comments are read at a terminal, as help")]

use std::{
    ffi::OsStr,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use order_service::OrderService;
use payment_service::PaymentService;
use service_kit::config::ServiceConfig;
use user_service::UserService;

mod ports;
mod registry;

pub(crate) use ports::PortArgs;

pub(crate) use registry::{DEFAULT_PROGRAM, RegistrySpec};

/// Runs and inspects a mesh of gRPC services on Consul.
///
/// Without a command it is `mesh up`.
#[derive(Debug, Parser)]
#[command(
    name = "mesh",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 fine, 1 verdict missed or call failed, 2 usage or set-up, 3 not ready."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) up: UpArgs,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Starts a registry and the whole shop, and stays until Ctrl-C.
    Up(UpArgs),
    /// Shows every instance and its health in the registry.
    ///
    /// Exit code 0 when all are passing, 3 when not, 2 when the registry does
    /// not answer.
    Status(StatusArgs),
    /// Shows where the calls to a service go, and why, as running processes see it.
    ///
    /// Every process of the mesh with a channel to SERVICE reports for each
    /// instance whether it receives calls and, if not, what decided that: the
    /// registry, the instance's own health, the connection, the outcome of its
    /// calls, or damping, when the first two removed it several times within a
    /// minute.
    ///
    /// Exit code 0 when each process has an instance to call, 3 when one has
    /// none, 2 when no process answers.
    Explain(ExplainArgs),
    /// Runs one service in the foreground, configured by its environment.
    Serve(ServeArgs),
    /// Sends calls at a fixed rate, however slow the responses are, and reports
    /// latency.
    ///
    /// Open loop: a call starts when it is due, and its latency counts from
    /// then, so that a slow response neither delays another call nor hides its
    /// latency. In --data, {{uuid}} is a new UUID and {{n}} the call's number,
    /// from 0. Finding the first instance, connecting to it and checking its
    /// health comes before the first call and counts in no latency.
    ///
    /// With --json each call is a line: t (when it was due, in seconds since
    /// the start), ok, code, ms, endpoint (the instance that answered, or
    /// null), attempts, idempotent. The last line is the summary. Percentiles
    /// cover every call that was sent, failed ones too. A call that is due
    /// while --in-flight-max others are in flight is not sent: it counts as
    /// failed, with the code NOT_SENT.
    Load(LoadArgs),
    /// Makes one call and prints the response as JSON.
    ///
    /// Fields have the names of the protocol; those with their default value
    /// are left out. A server stream prints a line per message. A failed call
    /// prints its code, message and details on standard error; exit code 1.
    Call(CallArgs),
    /// Injects one fault under load and shows its effect on callers.
    ///
    /// Starts a shop of its own (temporary data, free ports, a registry of its
    /// own, three instances of each service), calls GetCart 200 times a second,
    /// injects the fault after five seconds, prints a scoreboard, and stops
    /// everything again. Exit code 1 when a target was missed.
    Demo(DemoArgs),
    /// Migrates the databases of the shop, as starting the services would.
    ///
    /// With --check it changes nothing. Exit code 0 when all are up to date, 1
    /// when something would run, 2 when a database cannot be opened or is newer
    /// than this program.
    Migrate(MigrateArgs),
    /// Runs a program that ends when standard input does.
    #[command(hide = true)]
    Tether(TetherArgs),
}

/// The location of a running mesh.
#[derive(Clone, Debug, Args)]
pub(crate) struct MeshLocation {
    /// The folder that `mesh up` keeps its data, logs and `mesh.json` in
    /// [default: .consort]
    #[arg(long, env = "CONSORT_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// A Consul's address, as its own command line takes it.
    #[arg(long, env = "CONSUL_HTTP_ADDR", value_name = "ADDRESS", hide_env_values = true)]
    http_addr: Option<String>,
}

impl MeshLocation {
    /// The Consul address, if one is set; an empty one counts as unset, as with
    /// Consul's own command line.
    pub(crate) fn consul(&self) -> Option<&str> {
        self.http_addr.as_deref().filter(|address| !address.is_empty())
    }
}

/// `mesh migrate`.
#[derive(Clone, Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The services to migrate [default: all].
    pub(crate) services: Vec<String>,
    /// Only prints the migrations that would run.
    #[arg(long)]
    pub(crate) check: bool,
    /// The database of each service, with `{service}` where its name goes
    /// [default: a SQLite file for each in the state directory]
    #[arg(long, env = "CONSORT_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    /// The folder that `mesh up` keeps its data in [default: .consort]
    #[arg(long, env = "CONSORT_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// `mesh up`.
#[derive(Clone, Debug, Args)]
pub(crate) struct UpArgs {
    /// The registry: `auto` takes the running Consul at CONSUL_HTTP_ADDR or
    /// 127.0.0.1:8500, else starts `consul agent -dev` from PATH, else the
    /// embedded one; `consul` and `embedded` name one; a URL names a running
    /// Consul.
    #[arg(
        long,
        env = "CONSORT_REGISTRY",
        default_value = "auto",
        value_name = "auto|embedded|consul|URL",
        hide_env_values = true
    )]
    pub(crate) registry: RegistrySpec,
    /// The number of instances of each service, 1 to 10.
    #[arg(long, env = "CONSORT_REPLICAS", default_value_t = 2, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=10))]
    pub(crate) replicas: u16,
    #[command(flatten)]
    pub(crate) location: MeshLocation,
    /// Throws away the data of earlier runs first.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Authenticates callers: every call needs a token, and its role limits what
    /// it may do. Prints a customer's token, and how to get others.
    #[arg(long, env = "CONSORT_AUTH", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) auth: bool,
    #[command(flatten)]
    pub(crate) ports: PortArgs,
    /// The database of each service, with `{service}` where its name goes, for
    /// example `postgres://shop@localhost/{service}` [default: a SQLite file
    /// for each in the state directory]
    #[arg(long, env = "CONSORT_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    /// The address that services listen on and register [default: 127.0.0.1,
    /// or, with a Consul on another machine, the address that faces it]
    #[arg(long, env = "CONSORT_HOST", value_name = "IP")]
    pub(crate) host: Option<IpAddr>,
    /// The Consul that `auto` and `consul` start.
    #[arg(long, env = "CONSUL_BIN", default_value = DEFAULT_PROGRAM, value_name = "PROGRAM")]
    pub(crate) consul_bin: PathBuf,
    /// True if the environment holds a token for Consul.
    #[arg(skip = token_is_set())]
    pub(crate) has_consul_token: bool,
}

#[allow(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
fn token_is_set() -> bool {
    std::env::var_os("CONSUL_HTTP_TOKEN").is_some_and(|token| !token.is_empty())
}

/// The definition of the command line. The options of `up` stand beside the
/// commands too; there they are read from the environment only without a
/// command, so that a bad one of `up` ends no other command.
pub(crate) fn definition(first: Option<&OsStr>) -> clap::Command {
    let command = Cli::command();
    match first.and_then(OsStr::to_str).and_then(|name| command.find_subcommand(name)) {
        Some(_) => command.mut_args(|option| option.env(None::<&str>)),
        None => command,
    }
}

/// `mesh status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) location: MeshLocation,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `mesh explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The service that is called, for example cart-service.
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) location: MeshLocation,
    /// Queries only this process: `order-service-1`, an instance's id, or a
    /// service for all its replicas.
    #[arg(long, value_name = "NAME")]
    pub(crate) process: Option<String>,
    /// Queries the process with this admin address (its CONSORT_ADMIN), also
    /// one that `mesh up` did not start; may be repeated.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) admin: Vec<SocketAddr>,
    /// One JSON object instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `mesh serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// cart-service, order-service, product-service, payment-service or
    /// user-service.
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) config: ServiceConfig,
    #[command(flatten)]
    pub(crate) order: OrderService,
    #[command(flatten)]
    pub(crate) payment: PaymentService,
    #[command(flatten)]
    pub(crate) user: UserService,
    /// Stops when standard input ends, as it does when the parent process dies.
    #[arg(long, hide = true)]
    pub(crate) parent_pipe: bool,
}

/// The request that `load` and `call` send.
#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    /// The method, for example shop.cart.v1.CartService/GetCart.
    pub(crate) method: String,
    /// The request as JSON, for example '{"customer_id":"ada"}'.
    #[arg(long, default_value = "{}", value_name = "JSON")]
    pub(crate) data: String,
    /// A metadata pair sent with every call; may be repeated.
    #[arg(long, value_name = "K:V", value_parser = pair)]
    pub(crate) metadata: Vec<(String, String)>,
    /// The service that is called [default: follows from the method:
    /// shop.cart.v1.CartService is cart-service]
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    #[command(flatten)]
    pub(crate) location: MeshLocation,
}

/// `mesh load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) request: RequestArgs,
    /// Calls per second.
    #[arg(long, default_value = "200", value_name = "N", value_parser = rate)]
    pub(crate) rate: f64,
    /// The length of the run, for example 30s, 2m or 500ms.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Duration,
    /// The deadline of each call, all its attempts together.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = duration)]
    pub(crate) deadline: Duration,
    /// The limit on calls in flight.
    #[arg(long, default_value_t = 10_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) in_flight_max: u32,
    /// A JSON line per call and a summary line, instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Exit code 1 when more than N calls failed.
    #[arg(long, value_name = "N")]
    pub(crate) max_failed: Option<u64>,
}

/// `mesh call`.
#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    #[command(flatten)]
    pub(crate) request: RequestArgs,
    /// The deadline of the call [default: CONSORT_DEADLINE, 15s; a stream has
    /// none unless given]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,
    /// Adds a last JSON object: each attempt, its instance and the reason for
    /// it.
    #[arg(long)]
    pub(crate) explain: bool,
}

/// `mesh demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The fault to inject.
    #[arg(value_enum)]
    pub(crate) fault: Fault,
    /// A JSON line per second and the verdict as the last one, instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Puts every port into P..P+200 [default: any that are free]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1024..=65335))]
    pub(crate) port_base: Option<u16>,
}

/// The fault that a demo injects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Kills one of three instances: `kill -9`.
    Failover,
    /// Stops one of three for six seconds without ending it: it hangs.
    Freeze,
    /// Stops the registry for ten seconds; it loses its state.
    RegistryDown,
    /// Lets a fourth instance answer 0.3 seconds late.
    Slow,
    /// Restarts all three, one after the other, by SIGTERM.
    Rolling,
    /// Loses every packet to and from a fourth instance for six seconds.
    Blackhole,
}

/// `mesh tether`.
#[derive(Debug, Args)]
pub(crate) struct TetherArgs {
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once(':').ok_or("not KEY:VALUE")?;
    Ok((key.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.01..=1_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("not a number from 0.01 to 1000000".to_owned()),
    }
}

/// A time above zero and at most a day.
fn duration(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(86_400);
    match registry_client::parse_duration(text) {
        Ok(time) if !time.is_zero() && time <= DAY => Ok(time),
        Ok(_) => Err("must be above 0 and at most 24h".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_variable_has_a_name_that_a_link_writes() {
        fn walk(command: &clap::Command) {
            for option in command.get_arguments() {
                let Some(name) = option.get_env() else { continue };
                let name = name.to_str().unwrap();
                let link =
                    ["_PORT", "_SERVICE_HOST", "_SERVICE_PORT", "_TCP", "_PROTO", "_TCP_ADDR", "_UDP_ADDR"];
                assert!(!link.iter().any(|end| name.ends_with(end)), "{name}");
                assert!(!name.contains("_SERVICE_PORT_"), "{name}");
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_and_flags_keep_their_names() {
        let cli = Cli::command();
        let flags = |name: &str| -> Vec<String> {
            let command = cli.find_subcommand(name).unwrap();
            command.get_arguments().filter_map(|a| a.get_long().map(str::to_owned)).collect()
        };
        let contract: [(&str, &[&str]); 8] = [
            ("migrate", &["check", "database-url", "state-dir"]),
            ("demo", &["json"]),
            ("up", &["registry", "replicas", "state-dir", "fresh", "port-base", "auth"]),
            ("status", &["state-dir", "json"]),
            ("explain", &["process", "admin", "state-dir", "json"]),
            ("serve", &["print-config"]),
            (
                "load",
                &[
                    "rate",
                    "duration",
                    "deadline",
                    "data",
                    "metadata",
                    "service",
                    "in-flight-max",
                    "json",
                    "max-failed",
                    "state-dir",
                ],
            ),
            ("call", &["data", "explain", "deadline", "metadata", "state-dir"]),
        ];
        for (command, expected_flags) in contract {
            let have = flags(command);
            for flag in expected_flags {
                assert!(have.iter().any(|f| f == flag), "mesh {command} --{flag} is gone");
            }
        }
    }

    #[test]
    fn without_a_command_the_flags_are_those_of_up() {
        let cli = Cli::try_parse_from(["mesh", "--fresh", "--replicas", "3"]).unwrap();
        assert!(cli.command.is_none() && cli.up.fresh);
        assert_eq!(cli.up.replicas, 3);
    }

    #[test]
    fn a_time_is_bounded() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "30", "0s", "25h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
