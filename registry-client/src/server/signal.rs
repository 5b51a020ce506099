//! When the operating system asks the process to stop.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

/// Completes at the first SIGTERM, SIGINT (Ctrl-C) or SIGHUP (the terminal is
/// gone). After that, a second one ends the process at once, with exit code
/// 143, 130 or 129. A process under `nohup` goes on ignoring SIGHUP.
///
/// Called within a tokio runtime; from the call on, the signals no longer end
/// the process by themselves.
pub fn shutdown_signal() -> impl Future<Output = ()> + Send {
    let signals = Signals::listen();
    async move {
        let mut signals = match signals {
            Ok(signals) => signals,
            Err(error) => {
                error!(%error, "cannot listen for SIGTERM, SIGINT and SIGHUP, so they end the process at once: {error}");
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

    /// The next signal: its name, and the exit code a shell expects of it.
    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 143),
            _ = self.interrupt.recv() => ("SIGINT", 130),
            () = received(&mut self.hangup) => ("SIGHUP", 129),
        }
    }
}

/// Listens for SIGHUP; `None` when the process was started to ignore it, as by
/// `nohup`, which listening would undo.
///
/// # Errors
/// When the signal cannot be listened for.
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
