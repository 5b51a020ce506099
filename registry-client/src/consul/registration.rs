//! An instance that stays registered for as long as it lives.
//!
//! ```text
//!              registered                 differs, absent, forgotten
//!   Register ──────────────► Watch ───────────────────────────────┐
//!      ▲ │ failed: back off    │ own entry by content hash,       │
//!      │ └──────┐              │ own checks every 30 s            │
//!      └────────┴──────────────┴──────────────────────────────────┘
//! ```
//!
//! Besides its agent's word it compares what the servers show, which differs
//! for as long as the agent's token for the instance has expired.

mod beat;
mod catalogue;
mod compare;
mod entry;
mod reconcile;
mod spread;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::{beat::Beat, reconcile::Reconciler, spread::Spread};
use super::{CheckStatus, Client, Error, ServiceSpec};

/// A leaving instance waits no longer than this for its agent.
const FAREWELL: Duration = Duration::from_secs(2);

/// Keeps one instance registered: it registers, notices at once when the
/// entry is gone or changed (a foreign deregistration, an agent restarted or
/// reloaded) and registers again, for ever. An operator's maintenance is left
/// alone. Dropping it stops that and leaves the instance registered.
#[derive(Debug)]
pub struct Registration {
    client: Client,
    spec: Arc<ServiceSpec>,
    spread: Spread,
    state: watch::Receiver<RegistrationState>,
    wishes: watch::Sender<Wishes>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// True if the registry knows the instance, as far as we know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistrationState {
    /// Not, or not for certain; it is being tried.
    Pending {
        /// Why, in words that say how to mend it.
        why: Arc<str>,
    },
    /// Its entry and its check stand as they should.
    Registered,
}

/// What the instance wants besides its entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wishes {
    /// Why it wants to be out of service.
    maintenance: Option<Arc<str>>,
    /// What its TTL check is told.
    status: CheckStatus,
    output: Arc<str>,
}

impl Registration {
    /// Begins to keep `spec` registered at the agent of `client`. Called
    /// within a tokio runtime; returns at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `spec` breaks one of Consul's rules.
    pub fn start(client: Client, spec: ServiceSpec) -> Result<Self, Error> {
        spec.validate()?;
        let spec = Arc::new(spec);
        let why = Arc::from("it has not been registered yet");
        let (sender, state) = watch::channel(RegistrationState::Pending { why });
        let wishes = watch::Sender::new(Wishes {
            maintenance: None,
            status: CheckStatus::Passing,
            output: Arc::from("the process tells that it is well"),
        });
        let stop = CancellationToken::new();
        let forgotten = Arc::new(Notify::new());
        let spread = Spread::new(&client, &spec);
        let beat = Beat {
            client: client.clone(),
            spec: Arc::clone(&spec),
            spread: spread.clone(),
            state: state.clone(),
            wishes: wishes.subscribe(),
            forgotten: Arc::clone(&forgotten),
        };
        let (wished, about) = (wishes.subscribe(), spread.clone());
        let reconciler = Reconciler::new(client.clone(), Arc::clone(&spec), sender, wished, forgotten, about);
        let task = tokio::spawn(run(reconciler, beat, stop.clone()));
        Ok(Self { client, spec, spread, state, wishes, stop, task })
    }

    /// What is registered.
    #[must_use]
    pub fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    /// Returns whether the registry knows the instance, and every change of
    /// that.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// What a TTL check is told from now on, and at once; passing until then.
    /// Without a meaning for a gRPC check, which asks the instance itself.
    pub fn report(&self, status: CheckStatus, output: &str) {
        self.wishes.send_if_modified(|wishes| {
            let changed = wishes.status != status || *wishes.output != *output;
            wishes.status = status;
            wishes.output = output.into();
            changed
        });
    }

    /// Takes the instance out of service for `reason`; it stays registered,
    /// and out of service also after the agent forgot it. Waits at most 2 s.
    ///
    /// # Errors
    /// Any [`Error`]; the wish stands nevertheless.
    pub async fn maintenance(&self, reason: &str) -> Result<(), Error> {
        let notes: Arc<str> = compare::own_maintenance(reason).into();
        self.wishes.send_modify(|wishes| wishes.maintenance = Some(Arc::clone(&notes)));
        let id = &self.spec.id;
        let order = async {
            match self.client.maintenance(id, Some(&notes)).await {
                Ok(()) if !self.spread.is_seen() => Ok(()),
                Err(e) if !e.is_not_found() => Err(e),
                // Another agent may have it.
                Ok(()) | Err(_) => {
                    let notes = &notes;
                    let order = |client: Client| async move { client.maintenance(id, Some(notes)).await };
                    self.spread.everywhere(order).await
                }
            }
        };
        bounded(&self.client, "maintenance", order).await
    }

    /// Ends the registration and takes the instance out of the registry.
    /// Waits at most 2 s; what could not be done by then the agent does after
    /// [`deregister_after`](ServiceSpec::deregister_after).
    ///
    /// # Errors
    /// Any [`Error`]; that it was already gone is none.
    pub async fn deregister(mut self) -> Result<(), Error> {
        self.stop.cancel();
        let client = self.client.clone();
        let farewell = async {
            // A registration under way must not be overtaken by its undoing;
            // a quarter of the time is enough for an agent that answers at all.
            let _ = timeout(FAREWELL / 4, &mut self.task).await;
            self.task.abort();
            match self.client.deregister(&self.spec.id).await {
                Ok(()) if !self.spread.is_seen() => Ok(()),
                Err(e) if !e.is_not_found() => Err(e),
                // Another agent may have it.
                Ok(()) | Err(_) => self.spread.deregister().await,
            }
        };
        bounded(&client, "deregister", farewell).await
    }
}

/// At most [`FAREWELL`]; that the agent does not know us is as good as done.
async fn bounded(
    client: &Client,
    what: &str,
    order: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    match timeout(FAREWELL, order).await {
        Ok(Err(e)) if e.is_not_found() => Ok(()),
        Ok(done) => done,
        Err(_) => Err(Error::Timeout { addr: client.shown(), path: what.to_owned(), after: FAREWELL }),
    }
}

async fn run(mut reconciler: Reconciler, beat: Beat, stop: CancellationToken) {
    tokio::select! {
        () = reconciler.run(&stop) => {}
        () = beat.run() => {}
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}
