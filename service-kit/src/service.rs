//! What the services of the shop have in common, from their settings to their
//! end: the one wiring.

use std::{convert::Infallible, fmt, future::Future, pin::Pin, time::Duration};

use registry_client::{
    Mesh,
    server::{Drain, Server, ServerHealth},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};
use tonic::{
    body::Body,
    codegen::{
        Service as TowerService,
        http::{Request, Response},
    },
    server::NamedService,
};

use crate::{
    auth::{Auth, EncryptionKeys},
    config::{FirstAdmin, ServiceConfig},
    database::{self, Database, Migrations},
    events::Nats,
    run::{Ready, ready},
};

/// How long work may take to leave once nothing is served any more.
const LEAVING: Duration = Duration::from_secs(1);

/// A service of the shop.
pub trait Service: 'static {
    /// The name under which it registers.
    const NAME: &'static str;
    /// Its version.
    const VERSION: &'static str;
    /// Its schema.
    const MIGRATIONS: Migrations;

    /// Adds to `serving` what it serves and what it does besides, on `base`.
    ///
    /// # Errors
    /// When a setting cannot be used; says how to mend it.
    fn build(base: &Base, serving: Serving) -> impl Future<Output = anyhow::Result<Serving>> + Send;
}

/// What a service runs on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Base {
    /// Where it finds others.
    pub mesh: Mesh,
    /// Its data.
    pub database: Database,
    /// Whether and how callers are asked who they are.
    pub auth: Auth,
    /// Under which keys user-service encrypts the keys that sign tokens.
    pub encryption_keys: EncryptionKeys,
    /// Whom user-service makes admin at its start.
    pub admin: Option<FirstAdmin>,
    /// The setting `PAYMENT_FAULTS`, as it was given.
    pub payment_faults: String,
    /// What brings events; the mesh itself where there is none.
    pub nats: Option<Nats>,
    /// How the carrier fails, as `CARRIER_FAULTS` spells it.
    pub carrier_faults: String,
}

impl Base {
    /// A base on which nobody is asked who they are, as tests want it.
    #[must_use]
    pub fn open(mesh: Mesh, database: Database) -> Self {
        Self {
            mesh,
            database,
            auth: Auth::off(),
            encryption_keys: EncryptionKeys::none(),
            admin: None,
            payment_faults: String::new(),
            carrier_faults: String::new(),
            nats: None,
        }
    }
}

/// Something that a service does besides answering calls: goes on until it is
/// dropped, which may happen at every point where it waits.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A service that is being put together.
pub struct Serving {
    server: Server,
    auth: Auth,
    works: Vec<Work>,
    leaving: Vec<Work>,
    /// The full names of what it serves.
    names: Vec<&'static str>,
}

impl Serving {
    /// Serves `service`, one that tonic generates, behind the guard.
    #[must_use]
    pub fn serve<S, B>(self, service: S) -> Self
    where
        S: TowerService<Request<Body>, Response = Response<B>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Self { server, auth, works, leaving, mut names } = self;
        names.push(S::NAME);
        Self { server: server.add_service(auth.guard(service)), auth, works, leaving, names }
    }

    /// Does `work` while it serves: from before the first call until after the
    /// last.
    #[must_use]
    pub fn work(mut self, work: impl Future<Output = ()> + Send + 'static) -> Self {
        self.works.push(Box::pin(work));
        self
    }

    /// Does `work` while it serves, which ends by itself when
    /// [`drain`](Self::drain) tells it to: it is waited for, up to 1 s, so that
    /// it can give up what others wait for.
    #[must_use]
    pub fn work_that_leaves(mut self, work: impl Future<Output = ()> + Send + 'static) -> Self {
        self.leaving.push(Box::pin(work));
        self
    }

    /// Tells when it begins to drain.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.server.drain_signal()
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let works = self.works.len() + self.leaving.len();
        f.debug_struct("Serving").field("works", &works).finish_non_exhaustive()
    }
}

/// Runs a service as its settings say until `shutdown` completes.
///
/// # Errors
/// When a setting, the address or the database cannot be used; says how to
/// mend it.
///
/// # Cancel safety
/// As [`serve`].
pub async fn run<S: Service>(
    config: ServiceConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let Ready { base, listener } = ready((S::NAME, S::VERSION), &config, &S::MIGRATIONS).await?;
    serve::<S>(base, listener, shutdown).await
}

/// Serves on `listener` until `shutdown` completes; then closes the database.
///
/// # Errors
/// As [`Server::run`].
///
/// # Cancel safety
/// Dropping it closes every connection; what is committed stays.
pub async fn serve<S: Service>(
    base: Base,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let server = base.mesh.serve(S::NAME).version(S::VERSION);
    let (works, leaving, names) = (Vec::new(), Vec::new(), Vec::new());
    let serving = Serving { server, auth: base.auth.clone(), works, leaving, names };
    let Serving { server, works, leaving, names, .. } = S::build(&base, serving).await?;
    // Ends with this future, whichever way that ends.
    let mut working: JoinSet<()> = works.into_iter().collect();
    working.spawn(tell_health(base.database.health(), server.health(), names));
    working.spawn(base.auth.keep_keys(&base.mesh));
    let mut leaving: JoinSet<()> = leaving.into_iter().collect();
    let served = server.run(listener, shutdown).await;
    drop(working);
    if served.is_ok() {
        // What is not done by then, others wait for until a lease runs out.
        let _ = timeout(LEAVING, async { while leaving.join_next().await.is_some() {} }).await;
    }
    drop(leaving);
    base.database.close().await;
    Ok(served?)
}

/// Serves nothing while the database cannot be written: callers then choose
/// another instance, whose disk may be well.
async fn tell_health(
    mut database: watch::Receiver<database::Health>,
    server: ServerHealth,
    names: Vec<&'static str>,
) {
    loop {
        let able = database.borrow_and_update().is_healthy();
        for name in &names {
            server.report(name, able);
        }
        if database.changed().await.is_err() {
            return;
        }
    }
}
