//! Keepalive pings of the server.

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

/// A flag for received data. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Activity(Arc<AtomicBool>);

impl Activity {
    /// Records that data has arrived.
    pub(in crate::server) fn record(&self) {
        self.0.store(true, Relaxed);
    }

    /// Returns whether data has arrived since the last call.
    fn take(&self) -> bool {
        self.0.swap(false, Relaxed)
    }
}

/// The keepalive settings of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerKeepalive {
    interval: Duration,
    timeout: Duration,
}

impl ServerKeepalive {
    pub(super) fn new(config: &ServerConfig) -> Self {
        Self { interval: config.keepalive_time, timeout: config.keepalive_timeout }
    }

    /// Completes once the peer was silent for the interval and did not
    /// acknowledge a ping.
    pub(super) async fn silence(self, ping: Option<PingPong>, activity: Activity) {
        let Some(mut ping) = ping else { return pending().await };
        loop {
            activity.take();
            sleep(self.interval).await;
            if activity.take() {
                continue;
            }
            // An error here is the connection's own, which it reports itself.
            let pong = timeout(self.timeout, ping.ping(Ping::opaque())).await;
            if pong.is_err() && !activity.take() {
                return;
            }
        }
    }
}
