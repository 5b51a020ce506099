//! Replicas of a service in this process.

use std::{future::Future, net::SocketAddr, time::Duration};

use futures_util::FutureExt;
use registry_client::{Mesh, ServerConfig, resolve::fixed::FixedResolver};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::run::Shutdown;

/// A mesh without a registry: whatever service is asked for is found at
/// `addresses`. Its servers take no time to leave.
///
/// # Panics
/// When the protocol's descriptor set cannot be read.
#[must_use]
pub fn mesh_to(addresses: impl IntoIterator<Item = SocketAddr>) -> Mesh {
    let mut serving = ServerConfig::default();
    serving.drain = Duration::ZERO;
    serving.drain_timeout = Duration::from_secs(1);
    let mesh = Mesh::builder()
        .resolver(FixedResolver::new(addresses))
        .server_config(serving)
        .descriptors(mesh_proto::FILE_DESCRIPTOR_SET)
        .build();
    mesh.unwrap_or_else(|why| panic!("{why}"))
}

/// A server on loopback that stops when it is dropped.
#[derive(Debug)]
pub struct Replica {
    /// Where it listens.
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<anyhow::Result<()>>,
}

impl Replica {
    /// Starts `serve` on a free port. It answers from the return on: the port
    /// is bound.
    ///
    /// # Panics
    /// When no port can be had.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is left behind.
    pub async fn start<F>(serve: impl FnOnce(TcpListener, Shutdown) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.unwrap_or_else(|why| panic!("no port: {why}"));
        let address = listener.local_addr().unwrap_or_else(|why| panic!("no port: {why}"));
        let (stop, stopped) = oneshot::channel();
        let done = tokio::spawn(serve(listener, Box::pin(stopped.map(drop))));
        Self { address, stop, done }
    }

    /// Stops it as SIGTERM would, and waits until it has.
    ///
    /// # Panics
    /// When it failed.
    ///
    /// # Cancel safety
    /// It stops nevertheless.
    pub async fn stop(self) {
        drop(self.stop);
        match self.done.await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => panic!("the replica failed: {why:#}"),
            Err(why) => panic!("the replica failed: {why}"),
        }
    }
}
