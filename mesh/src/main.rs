//! `mesh`: starts the whole shop on a registry, loads it, looks into it.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{ArgMatches, FromArgMatches};
use service_kit::config::refuse_control_characters;

use crate::cli::{Cli, Command};

mod call;
mod cli;
mod demo;
mod dynamic;
mod explain;
mod found;
mod load;
mod logging;
mod migrate;
mod out;
mod outgoing;
mod serve;
mod services;
mod state;
mod status;
mod table;
mod tether;
mod up;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a command ends with. Scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Fine,
    /// A verdict was missed, or a call failed.
    Missed,
    /// Not everything is ready.
    NotReady,
    /// A second Ctrl-C left no time for an orderly end.
    Interrupted,
}

/// The exit code of a wrong command line or a set-up that does not work.
const SET_UP: u8 = 2;

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Fine => 0,
            Exit::Missed => 1,
            Exit::NotReady => 3,
            Exit::Interrupted => 130,
        })
    }
}

fn main() -> ExitCode {
    let command = cli::definition(std::env::args_os().nth(1).as_deref());
    let matches = command.clone().get_matches();
    let run = || {
        refuse_control_characters(&command, &matches)?;
        run(Cli::from_arg_matches(&matches).context("could not read the command line")?, &matches)
    };
    run().map_or_else(
        |error| {
            out::complain(&format!("{error:#}"));
            SET_UP.into()
        },
        ExitCode::from,
    )
}

fn run(cli: Cli, matches: &ArgMatches) -> Result<Exit> {
    let runtime = tokio::runtime::Runtime::new().context("could not start the runtime")?;
    let exit = runtime.block_on(async {
        match cli.command.unwrap_or(Command::Up(cli.up)) {
            Command::Up(mut args) => {
                up::read_former_names(&mut args)?;
                up::run(args).await
            }
            Command::Serve(args) => {
                serve::run(args, matches.subcommand_matches("serve").unwrap_or(matches)).await
            }
            Command::Status(args) => {
                logging::to_stderr()?;
                status::run(args).await
            }
            Command::Explain(args) => {
                logging::to_stderr()?;
                explain::run(args).await
            }
            Command::Load(args) => {
                logging::to_stderr()?;
                load::run(args).await
            }
            Command::Call(args) => {
                logging::to_stderr()?;
                call::run(args).await
            }
            Command::Demo(args) => {
                logging::to_stderr()?;
                demo::run(args).await
            }
            Command::Migrate(args) => {
                logging::to_stderr()?;
                migrate::run(args).await
            }
            Command::Tether(args) => tether::run(args).await,
        }
    });
    // What is left in the runtime holds nothing that needs an orderly end.
    runtime.shutdown_background();
    exit
}
