//! The registration of an instance, which is maintained for its lifetime.
//!
//! ```text
//!              registered                 differs, absent, forgotten
//!   Register ──────────────► Watch ───────────────────────────────┐
//!      ▲ │ failed: back off    │ own entry by content hash,       │
//!      │ └──────┐              │ own checks every 30 s            │
//!      └────────┴──────────────┴──────────────────────────────────┘
//! ```
//!
//! It also compares the agent with the catalog, which is stale while the
//! agent's token for the instance has expired.

mod agents;
mod catalog;
mod compare;
mod entry;
mod heartbeat;
mod reconcile;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::{agents::Agents, heartbeat::Heartbeat, reconcile::Reconciler};
use super::{CheckStatus, Client, Error, ServiceSpec};

/// The timeout of deregistering, and of entering maintenance.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(2);

/// The registration of one instance: it registers, detects at once when the
/// entry is gone or changed (deregistered by others, or by a restart or reload
/// of the agent) and registers again, without limit. An operator's maintenance
/// is kept. Dropping it stops this and leaves the instance registered.
#[derive(Debug)]
pub struct Registration {
    client: Client,
    spec: Arc<ServiceSpec>,
    agents: Agents,
    state: watch::Receiver<RegistrationState>,
    desired: watch::Sender<DesiredState>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The state of a registration, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistrationState {
    /// The instance is not known to be registered; attempts continue.
    Pending {
        /// The reason, with the fix.
        why: Arc<str>,
    },
    /// The entry and the check are as specified.
    Registered,
}

/// The desired state of an instance besides its entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DesiredState {
    /// The reason for maintenance; `None` for none.
    maintenance: Option<Arc<str>>,
    /// The status of the TTL check.
    status: CheckStatus,
    output: Arc<str>,
}

impl Registration {
    /// Starts to keep `spec` registered at the agent of `client`. Must be
    /// called within a tokio runtime; returns at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `spec` breaks one of Consul's rules.
    pub fn start(client: Client, spec: ServiceSpec) -> Result<Self, Error> {
        spec.validate()?;
        let spec = Arc::new(spec);
        let why = Arc::from("it has not been registered yet");
        let (sender, state) = watch::channel(RegistrationState::Pending { why });
        let desired = watch::Sender::new(DesiredState {
            maintenance: None,
            status: CheckStatus::Passing,
            output: Arc::from("the process reports that it is healthy"),
        });
        let stop = CancellationToken::new();
        let check_missing = Arc::new(Notify::new());
        let agents = Agents::new(&client, &spec);
        let heartbeat = Heartbeat {
            client: client.clone(),
            spec: Arc::clone(&spec),
            agents: agents.clone(),
            state: state.clone(),
            desired: desired.subscribe(),
            check_missing: Arc::clone(&check_missing),
        };
        let (desired_state, about) = (desired.subscribe(), agents.clone());
        let reconciler =
            Reconciler::new(client.clone(), Arc::clone(&spec), sender, desired_state, check_missing, about);
        let task = tokio::spawn(run(reconciler, heartbeat, stop.clone()));
        Ok(Self { client, spec, agents, state, desired, stop, task })
    }

    /// The registered spec.
    #[must_use]
    pub fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    /// A receiver of the registration's state.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// Sets the status of a TTL check and sends it at once; passing until then.
    /// Has no effect on a gRPC check, which calls the instance itself.
    pub fn report(&self, status: CheckStatus, output: &str) {
        self.desired.send_if_modified(|desired| {
            let changed = desired.status != status || *desired.output != *output;
            desired.status = status;
            desired.output = output.into();
            changed
        });
    }

    /// Puts the instance into maintenance mode with `reason`; it stays
    /// registered, and in maintenance also after a restart of the agent. Waits
    /// at most 2 s.
    ///
    /// # Errors
    /// Any [`Error`]; the maintenance stays desired nevertheless.
    pub async fn maintenance(&self, reason: &str) -> Result<(), Error> {
        let notes: Arc<str> = compare::own_maintenance(reason).into();
        self.desired.send_modify(|desired| desired.maintenance = Some(Arc::clone(&notes)));
        let id = &self.spec.id;
        let action = async {
            match self.client.maintenance(id, Some(&notes)).await {
                Ok(()) if !self.agents.has_several() => Ok(()),
                Err(e) if !e.is_not_found() => Err(e),
                // The entry may be at another agent.
                Ok(()) | Err(_) => {
                    let notes = &notes;
                    let action = |client: Client| async move { client.maintenance(id, Some(notes)).await };
                    self.agents.on_every_agent(action).await
                }
            }
        };
        bounded(&self.client, "maintenance", action).await
    }

    /// Ends the registration and deregisters the instance. Waits at most 2 s;
    /// if it fails, the agent removes the instance after
    /// [`deregister_after`](ServiceSpec::deregister_after).
    ///
    /// # Errors
    /// Any [`Error`], except when the instance was already gone.
    pub async fn deregister(mut self) -> Result<(), Error> {
        self.stop.cancel();
        let client = self.client.clone();
        let deregistration = async {
            // A registration in progress must end before the deregistration; a
            // quarter of the time is enough for an agent that responds.
            let _ = timeout(DEREGISTER_TIMEOUT / 4, &mut self.task).await;
            self.task.abort();
            match self.client.deregister(&self.spec.id).await {
                Ok(()) if !self.agents.has_several() => Ok(()),
                Err(e) if !e.is_not_found() => Err(e),
                // The entry may be at another agent.
                Ok(()) | Err(_) => self.agents.deregister().await,
            }
        };
        bounded(&client, "deregister", deregistration).await
    }
}

/// Bounds `action` by [`DEREGISTER_TIMEOUT`]; an instance that the agent does
/// not know counts as done.
async fn bounded(
    client: &Client,
    what: &str,
    action: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    match timeout(DEREGISTER_TIMEOUT, action).await {
        Ok(Err(e)) if e.is_not_found() => Ok(()),
        Ok(done) => done,
        Err(_) => Err(Error::Timeout {
            addr: client.shown_addr(),
            path: what.to_owned(),
            after: DEREGISTER_TIMEOUT,
        }),
    }
}

async fn run(mut reconciler: Reconciler, heartbeat: Heartbeat, stop: CancellationToken) {
    tokio::select! {
        () = reconciler.run(&stop) => {}
        () = heartbeat.run() => {}
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}
