//! Takes connections in, no more at once than allowed.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tracing::{info, warn};

/// The wait after a connection could not be taken in: doubles up to the last.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A listener that hands out at most so many connections at once.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: TcpListener,
    room: Arc<Semaphore>,
    limit: usize,
}

impl Acceptor {
    pub(super) fn new(listener: TcpListener, limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self { listener, room: Arc::new(Semaphore::new(limit)), limit }
    }

    /// The next connection; it counts until the permit is dropped. Never fails:
    /// a connection that breaks while it is taken in is the peer's affair, and
    /// a process that is out of file descriptors gets some back.
    pub(super) async fn accept(&self) -> (TcpStream, OwnedSemaphorePermit) {
        let permit = self.permit().await;
        let mut pause = PAUSE;
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if pause != PAUSE {
                        info!("connections can be taken in again");
                    }
                    // Without this, small answers wait 40 ms for the peer's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    return (stream, permit);
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

    async fn permit(&self) -> OwnedSemaphorePermit {
        if self.room.available_permits() == 0 {
            warn!(
                limit = self.limit,
                "{} connections are open, the most allowed; further ones wait", self.limit
            );
        }
        match self.room.clone().acquire_owned().await {
            Ok(permit) => permit,
            // Closed never: nobody calls `close`.
            Err(_) => std::future::pending().await,
        }
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
