//! When the operating system asks the process to stop.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

/// Completes at the first SIGTERM or SIGINT (Ctrl-C). After that, a second one
/// ends the process at once, with exit code 143 or 130.
///
/// Called within a tokio runtime; from the call on, the signals no longer end
/// the process by themselves.
pub fn shutdown_signal() -> impl Future<Output = ()> + Send {
    let signals = Signals::listen();
    async move {
        let mut signals = match signals {
            Ok(signals) => signals,
            Err(error) => {
                error!(%error, "cannot listen for SIGTERM and SIGINT, so they end the process at once: {error}");
                return std::future::pending().await;
            }
        };
        let (name, _) = signals.next().await;
        info!("{name}: shutting down; once more ends the process at once");
        tokio::spawn(async move {
            let (name, code) = signals.next().await;
            warn!("{name} again: exiting at once");
            std::process::exit(code);
        });
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next signal: its name, and the exit code a shell expects of it.
    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 143),
            _ = self.interrupt.recv() => ("SIGINT", 130),
        }
    }
}
