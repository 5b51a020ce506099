//! The end of `mesh up`: the first signal asks, the second insists.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Whether it is time to stop, and how. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    drain: CancellationToken,
    now: CancellationToken,
}

impl Stop {
    /// One that SIGINT, SIGTERM and SIGHUP set off: the first to drain, the second to
    /// stop at once. Runs until the process ends.
    ///
    /// # Errors
    /// When the signals cannot be listened to.
    pub(crate) fn on_signals() -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("could not listen to SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("could not listen to SIGTERM")?;
        let mut hangup = registry_client::server::hangup().context("could not listen to SIGHUP")?;
        let stop = Self::default();
        let told = stop.clone();
        tokio::spawn(async move {
            for token in [&told.drain, &told.now] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = async { hangup.as_mut()?.recv().await }, if hangup.is_some() => {}
                }
                token.cancel();
            }
        });
        Ok(stop)
    }

    /// Asks everybody to drain.
    pub(crate) fn begin(&self) {
        self.drain.cancel();
    }

    /// Completes when it is time to drain.
    pub(crate) async fn asked(&self) {
        self.drain.cancelled().await;
    }

    /// Completes when there is no more time.
    pub(crate) async fn at_once(&self) {
        self.now.cancelled().await;
    }
}
