//! `mesh tether`: a program that ends when its standard input does.
//!
//! `mesh up` starts programs that are not its own, such as `consul agent
//! -dev`, through it: the pipe closes when `mesh up` dies, even by `kill -9`,
//! and no agent is left behind.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::TetherArgs,
    exit::Exit,
    up::{children, shutdown::Shutdown},
};

/// The limit on the program's stop; shorter than `mesh up` waits for this
/// process.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// Runs the program until it ends, standard input does, or SIGTERM arrives.
///
/// # Errors
/// When the program cannot be started, or ends by itself.
pub(crate) async fn run(args: TetherArgs) -> Result<Exit> {
    let parent = watch_parent()?;
    let shutdown = Shutdown::on_signals()?;
    let mut words = args.command.into_iter();
    let program = words.next().context("no program is given")?;
    let mut child = Command::new(&program)
        .args(words)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("could not start {}", program.display()))?;
    let name = program.to_string_lossy();
    tokio::select! {
        ended = child.wait() => anyhow::bail!("{name} {}", children::describe(ended)),
        () = parent.cancelled() => {}
        () = shutdown.requested() => {}
    }
    children::end(&name, &mut child, STOP_TIMEOUT, &shutdown).await;
    Ok(Exit::Success)
}

/// A token that is cancelled when standard input ends: the process at the other
/// end of the pipe is gone.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn watch_parent() -> Result<CancellationToken> {
    let gone = CancellationToken::new();
    let cancel = gone.clone();
    // A thread and not tokio's standard input: a read that is under way would
    // hold up the end of the runtime.
    std::thread::Builder::new()
        .name("parent".into())
        .spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            cancel.cancel();
        })
        .context("could not start a thread")?;
    Ok(gone)
}
