//! The signals that stop a process.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

/// Completes at the first SIGTERM, SIGINT (Ctrl-C) or SIGHUP (the terminal was
/// closed). After that, a second one ends the process at once, with exit code
/// 143, 130 or 129. A process under `nohup` still ignores SIGHUP.
///
/// Must be called within a tokio runtime; after the call the signals no longer
/// end the process by themselves.
pub fn shutdown_signal() -> impl Future<Output = ()> + Send {
    let signals = Signals::listen();
    async move {
        let mut signals = match signals {
            Ok(signals) => signals,
            Err(error) => {
                error!(%error, "failed to listen for SIGTERM, SIGINT and SIGHUP, which end the process at once now: {error}");
                return std::future::pending().await;
            }
        };
        let (name, _) = signals.next().await;
        info!("received {name}: shutting down; a second signal ends the process at once");
        tokio::spawn(async move {
            let (name, code) = signals.next().await;
            warn!("received {name} again: exiting at once");
            std::process::exit(code);
        });
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: hangup()?,
        })
    }

    /// The name of the next signal, and the exit code that shells use for it.
    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 143),
            _ = self.interrupt.recv() => ("SIGINT", 130),
            () = received(&mut self.hangup) => ("SIGHUP", 129),
        }
    }
}

/// Listens for SIGHUP; `None` when the process was started with SIGHUP ignored,
/// as by `nohup`.
///
/// # Errors
/// When the signal handler cannot be installed.
pub fn hangup() -> std::io::Result<Option<Signal>> {
    const SIGHUP_BIT: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    if ignored & SIGHUP_BIT != 0 {
        return Ok(None);
    }
    signal(SignalKind::hangup()).map(Some)
}

/// Completes at the signal; never without one.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}
