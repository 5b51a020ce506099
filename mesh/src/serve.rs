//! `mesh serve`: one service in the foreground.

use std::{future::Future, io, pin::Pin};

use anyhow::{Context, Result};
use cart_service::CartService;
use clap::ArgMatches;
use order_service::OrderService;
use payment_service::PaymentService;
use product_service::ProductService;
use registry_client::server::shutdown_signal;
use service_kit::{config, service, telemetry};
use user_service::UserService;

use crate::{cli::ServeArgs, exit::Exit, services::Service, tether::watch_parent};

/// Runs the service until a shutdown signal. `args` was read from `matches`.
///
/// # Errors
/// When there is no such service or it cannot run.
pub(crate) async fn run(args: ServeArgs, matches: &ArgMatches) -> Result<Exit> {
    let service = Service::named(&args.service)?;
    if args.config.print_config {
        config::print(service.name(), &args.config, matches, &mut io::stdout().lock())
            .context("could not print the settings")?;
        args.config.check(service.name())?;
        return Ok(Exit::Success);
    }
    telemetry::init(&args.config.log);
    let shutdown = shutdown(args.parent_pipe)?;
    match service {
        Service::Cart => Box::pin(service::run::<CartService>(args.config, shutdown)).await,
        Service::Order => Box::pin(service::run::<OrderService>(args.config, shutdown)).await,
        Service::Product => Box::pin(service::run::<ProductService>(args.config, shutdown)).await,
        Service::Payment => Box::pin(service::run::<PaymentService>(args.config, shutdown)).await,
        Service::User => Box::pin(service::run::<UserService>(args.config, shutdown)).await,
    }?;
    Ok(Exit::Success)
}

/// Completes on a shutdown signal or when the parent process ends.
fn shutdown(parent_pipe: bool) -> Result<Pin<Box<dyn Future<Output = ()> + Send>>> {
    let signal = shutdown_signal();
    if !parent_pipe {
        return Ok(Box::pin(signal));
    }
    let parent = watch_parent()?;
    Ok(Box::pin(async move {
        tokio::select! {
            () = signal => {}
            () = parent.cancelled() => tracing::info!("the parent process is gone: shutting down"),
        }
    }))
}
