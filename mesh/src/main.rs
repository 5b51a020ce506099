//! `mesh`: starts the whole shop on a registry, sends it load and inspects it.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{ArgMatches, FromArgMatches};
use service_kit::config::refuse_control_characters;

use crate::{
    cli::{Cli, Command},
    exit::{Exit, USAGE_ERROR},
};

mod call;
mod cli;
mod demo;
mod discover;
mod dynamic;
mod exit;
mod explain;
mod load;
mod logging;
mod method_client;
mod migrate;
mod serve;
mod services;
mod state;
mod status;
mod table;
mod terminal;
mod tether;
mod up;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = cli::definition(std::env::args_os().nth(1).as_deref());
    let matches = command.clone().get_matches();
    let run = || {
        refuse_control_characters(&command, &matches)?;
        run(Cli::from_arg_matches(&matches).context("could not read the command line")?, &matches)
    };
    run().map_or_else(
        |error| {
            terminal::print_error(&format!("{error:#}"));
            USAGE_ERROR.into()
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
    // No task left in the runtime needs an orderly end.
    runtime.shutdown_background();
    exit
}
