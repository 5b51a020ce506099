//! `mesh serve`: one service in the foreground.

use anyhow::{Result, bail};

use crate::{Exit, cli::ServeArgs, services::Service, tether::parent_gone};

/// Runs it until it is told to stop.
///
/// # Errors
/// When there is no such service or it cannot run.
pub(crate) async fn run(args: ServeArgs) -> Result<Exit> {
    let service = Service::named(&args.service)?;
    let _parent = if args.parent_pipe { Some(parent_gone()?) } else { None };
    bail!("{service} cannot be served yet");
}
