//! The listener, which bounds the connections of each peer.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tracing::{info, warn};

use super::{
    log_limiter::LogLimiter,
    peers::{PeerConnection, Peers, Share},
};
use crate::backoff::Backoff;

/// The first delay after `accept` failed; doubles up to the next.
const INITIAL_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A listener that closes connections above their peer's share.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: TcpListener,
    peers: Arc<Peers>,
    rejected_log: LogLimiter,
}

/// A connection, which counts until its share is dropped.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) connection: Arc<PeerConnection>,
    pub(super) share: Share,
}

impl Acceptor {
    pub(super) fn new(listener: TcpListener, peers: Arc<Peers>) -> Self {
        Self { listener, peers, rejected_log: LogLimiter::default() }
    }

    /// The next connection. Never fails: a connection that breaks during
    /// `accept` is ignored, and a process that is out of file descriptors
    /// retries.
    pub(super) async fn accept(&self) -> Accepted {
        let mut backoff = Backoff::exact(INITIAL_BACKOFF, MAX_BACKOFF);
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if !backoff.is_reset() {
                        info!("connections are accepted again");
                        backoff.reset();
                    }
                    match self.peers.connect(peer.ip()) {
                        Ok((connection, share)) => {
                            // Without this, small responses wait 40 ms for the
                            // peer's acknowledgement.
                            let _ = stream.set_nodelay(true);
                            return Accepted { stream, connection, share };
                        }
                        Err(open) => self.reject(peer.ip(), open),
                    }
                }
                Err(error) if is_peer_error(&error) => {}
                Err(error) => {
                    if backoff.is_reset() {
                        warn!(%error, "failed to accept a connection, retrying: {error}; if the process ran out of file descriptors, raise `ulimit -n`");
                    }
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    fn reject(&self, peer: IpAddr, open: usize) {
        if let Some(more) = self.rejected_log.admit() {
            warn!(
                %peer,
                open,
                more,
                "closed a connection of {peer}: it has {open} open, all in use, and the rest is reserved for other peers; raise max_connections or `ulimit -n`"
            );
        }
    }
}

fn is_peer_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
