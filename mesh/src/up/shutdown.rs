//! The shutdown of `mesh up`: the first signal drains, the second forces the
//! end.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The two stages of a shutdown. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shutdown {
    drain: CancellationToken,
    forced: CancellationToken,
}

impl Shutdown {
    /// A shutdown that SIGINT, SIGTERM and SIGHUP trigger: the first to drain, the
    /// second to stop at once. Its task runs until the process ends.
    ///
    /// # Errors
    /// When the signals cannot be listened to.
    pub(crate) fn on_signals() -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("could not listen to SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("could not listen to SIGTERM")?;
        let mut hangup = registry_client::server::hangup().context("could not listen to SIGHUP")?;
        let shutdown = Self::default();
        let stages = shutdown.clone();
        tokio::spawn(async move {
            for token in [&stages.drain, &stages.forced] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = async { hangup.as_mut()?.recv().await }, if hangup.is_some() => {}
                }
                token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// Starts the drain.
    pub(crate) fn begin(&self) {
        self.drain.cancel();
    }

    /// Completes when the drain has started.
    pub(crate) async fn requested(&self) {
        self.drain.cancelled().await;
    }

    /// Completes when a second signal forces the end.
    pub(crate) async fn forced(&self) {
        self.forced.cancelled().await;
    }
}
