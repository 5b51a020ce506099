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
    Exit,
    cli::TetherArgs,
    up::{children, stop::Stop},
};

/// How long the program may take to stop; less than `mesh up` waits for us.
const GRACE: Duration = Duration::from_secs(8);

/// Runs the program until it ends, standard input does, or SIGTERM arrives.
///
/// # Errors
/// When the program cannot be started, or ends by itself and not well.
pub(crate) async fn run(args: TetherArgs) -> Result<Exit> {
    let parent = parent_gone()?;
    let stop = Stop::on_signals()?;
    let mut words = args.command.into_iter();
    let program = words.next().context("no program was named")?;
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
        () = stop.asked() => {}
    }
    children::end(&name, &mut child, GRACE, &stop).await;
    Ok(Exit::Fine)
}

/// Cancelled when standard input ends: the process that holds the other end
/// of the pipe is gone.
///
/// # Errors
/// When no thread can be had.
pub(crate) fn parent_gone() -> Result<CancellationToken> {
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
