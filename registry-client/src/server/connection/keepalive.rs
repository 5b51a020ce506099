//! Whether the peer of a connection is still there.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use crate::ServerConfig;

/// True if a peer has sent anything of late. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Activity(Arc<AtomicBool>);

impl Activity {
    /// Something has arrived.
    pub(in crate::server) fn record(&self) {
        self.0.store(true, Relaxed);
    }

    /// Returns whether something has arrived since this was last called.
    fn take(&self) -> bool {
        self.0.swap(false, Relaxed)
    }
}

/// When a silent peer is pinged, and when it counts as gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keepalive {
    interval: Duration,
    timeout: Duration,
}

impl Keepalive {
    pub(super) fn new(config: &ServerConfig) -> Self {
        Self { interval: config.keepalive_time, timeout: config.keepalive_timeout }
    }

    /// Completes once the peer was silent for the interval and has not answered
    /// a ping either.
    pub(super) async fn silence(self, ping: Option<PingPong>, activity: Activity) {
        let Some(mut ping) = ping else { return pending().await };
        loop {
            activity.take();
            sleep(self.interval).await;
            if activity.take() {
                continue;
            }
            // The error is that of the connection, which tells it itself.
            let pong = timeout(self.timeout, ping.ping(Ping::opaque())).await;
            if pong.is_err() && !activity.take() {
                return;
            }
        }
    }
}
