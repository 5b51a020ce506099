//! Takes connections in, no more of one peer than its share.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tracing::{info, warn};

use super::{
    peers::{PeerConnection, Peers, Share},
    quiet::Quiet,
};

/// The wait after a connection could not be taken in: doubles up to the last.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A listener that refuses connections above their peer's share.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: TcpListener,
    peers: Arc<Peers>,
    refused: Quiet,
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
        Self { listener, peers, refused: Quiet::default() }
    }

    /// The next connection. Never fails: a connection that breaks while it is
    /// taken in is the peer's affair, and a process that is out of file
    /// descriptors gets some back.
    pub(super) async fn accept(&self) -> Accepted {
        let mut pause = PAUSE;
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if pause != PAUSE {
                        info!("connections can be taken in again");
                        pause = PAUSE;
                    }
                    match self.peers.connect(peer.ip()) {
                        Ok((connection, share)) => {
                            // Without this, small answers wait 40 ms for the peer's acknowledgement.
                            let _ = stream.set_nodelay(true);
                            return Accepted { stream, connection, share };
                        }
                        Err(open) => self.refuse(peer.ip(), open),
                    }
                }
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    if pause == PAUSE {
                        warn!(%error, "cannot take in connections, trying on: {error}; if files ran out, raise `ulimit -n`");
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn refuse(&self, peer: IpAddr, open: usize) {
        if let Some(more) = self.refused.say() {
            warn!(
                %peer,
                open,
                more,
                "a connection of {peer} was closed: it has {open} open, all in use, and more are kept for other peers (max_connections, `ulimit -n`)"
            );
        }
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
