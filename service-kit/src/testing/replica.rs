//! Replicas of a service in this process.

use std::{collections::HashMap, future::Future, net::SocketAddr, time::Duration};

use futures_util::FutureExt;
use registry_client::{
    Mesh, ServerConfig,
    instance::ServiceName,
    resolve::{Resolution, Resolver, fixed::FixedResolver},
};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
};

use super::TestDatabase;
use crate::{
    auth::Auth,
    database::Database,
    service::Shutdown,
    service::{self, Service, ServiceContext},
};

/// A mesh without a registry, which resolves all services to `addresses`. Its
/// servers drain without a delay.
///
/// # Panics
/// When the protocol's descriptor set cannot be read.
#[must_use]
pub fn mesh_to(addresses: impl IntoIterator<Item = SocketAddr>) -> Mesh {
    mesh_over(FixedResolver::new(addresses))
}

/// A mesh without a registry, which resolves each service to addresses of its
/// own. Its servers drain without a delay.
///
/// # Panics
/// When the protocol's descriptor set cannot be read.
#[must_use]
pub fn mesh_of<'a>(services: impl IntoIterator<Item = (&'a str, Vec<SocketAddr>)>) -> Mesh {
    let named = |(name, at): (&str, Vec<SocketAddr>)| (name.to_owned(), FixedResolver::new(at));
    mesh_over(Directory {
        services: services.into_iter().map(named).collect(),
        empty: FixedResolver::with([]),
    })
}

/// A resolver with addresses of its own for each name.
struct Directory {
    services: HashMap<String, FixedResolver>,
    empty: FixedResolver,
}

impl Resolver for Directory {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        self.services.get(service.as_str()).unwrap_or(&self.empty).resolve(service)
    }
}

fn mesh_over(resolver: impl Resolver) -> Mesh {
    let mut builder = ServerConfig::default();
    builder.drain = Duration::ZERO;
    builder.drain_timeout = Duration::from_secs(1);
    let mesh = Mesh::builder()
        .resolver(resolver)
        .server_config(builder)
        .descriptors(mesh_proto::FILE_DESCRIPTOR_SET)
        .build();
    mesh.unwrap_or_else(|why| panic!("{why}"))
}

/// A server on loopback that stops when it is dropped.
#[derive(Debug)]
pub struct Replica {
    /// The address at which it listens.
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<anyhow::Result<()>>,
}

impl Replica {
    /// Starts `serve` on a free port, which is bound on return.
    ///
    /// # Panics
    /// When no port is free.
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

    /// Starts the service `S` on a database, with the other services on `mesh`,
    /// and without authentication.
    ///
    /// # Panics
    /// When the database cannot be opened.
    ///
    /// # Cancel safety
    /// As [`start`](Self::start).
    pub async fn of<S: Service + Default>(mesh: Mesh, database: &TestDatabase) -> Self {
        Self::with_auth::<S>(mesh, database, Auth::off()).await
    }

    /// Like [`of`](Self::of), with the authentication `auth`.
    ///
    /// # Panics
    /// When the database cannot be opened.
    ///
    /// # Cancel safety
    /// As [`start`](Self::start).
    pub async fn with_auth<S: Service + Default>(mesh: Mesh, database: &TestDatabase, auth: Auth) -> Self {
        let open = Database::open(database.url(), &S::MIGRATIONS).await;
        let database = open.unwrap_or_else(|why| panic!("{why}"));
        let context = ServiceContext { auth, ..ServiceContext::open(mesh, database) };
        Self::start(|listener, shutdown| service::serve(S::default(), context, listener, shutdown)).await
    }

    /// Stops it as SIGTERM would, and waits for its end.
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
