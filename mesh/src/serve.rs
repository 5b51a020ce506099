//! `mesh serve`: one service in the foreground.

use std::{future::Future, io, pin::Pin};

use anyhow::Result;
use cart_service::CartService;
use clap::{ArgMatches, Args};
use product_service::ProductService;
use registry_client::server::shutdown_signal;
use service_kit::{config::ServiceConfig, service, telemetry};

use crate::{cli::ServeArgs, exit::Exit, services::Service, tether::watch_parent};

/// Runs the service until a shutdown signal. `args` was read from `matches`.
///
/// # Errors
/// When there is no such service or it cannot run.
pub(crate) async fn run(args: ServeArgs, matches: &ArgMatches) -> Result<Exit> {
    let ServeArgs { service, config, order, payment, user, parent_pipe } = args;
    match Service::named(&service)? {
        Service::Cart => Box::pin(serve(CartService, config, matches, parent_pipe)).await,
        Service::Order => Box::pin(serve(order, config, matches, parent_pipe)).await,
        Service::Product => Box::pin(serve(ProductService, config, matches, parent_pipe)).await,
        Service::Payment => Box::pin(serve(payment, config, matches, parent_pipe)).await,
        Service::User => Box::pin(serve(user, config, matches, parent_pipe)).await,
    }?;
    Ok(Exit::Success)
}

/// Serves until shutdown, or prints the settings.
async fn serve<S: service::Service + Args>(
    service: S,
    config: ServiceConfig,
    matches: &ArgMatches,
    parent_pipe: bool,
) -> Result<()> {
    if config.print_config {
        return service::print_and_check(&service, &config, matches, &mut io::stdout().lock());
    }
    telemetry::init(&config.log);
    let shutdown = shutdown(parent_pipe)?;
    service::run(service, config, shutdown).await
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
