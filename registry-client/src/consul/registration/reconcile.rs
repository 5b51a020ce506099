//! The reconciliation loop. It registers only on a difference: every
//! registration restarts the TTL and schedules the first probe again.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    DesiredState, RegistrationState,
    agents::Agents,
    catalog::{self, CatalogStatus},
    compare,
    entry::OwnEntry,
};
use crate::consul::{
    AgentService, CheckStatus, Client, Error, ServiceSpec, View,
    watch::{
        self as engine,
        pace::{FailureLog, Pace, TokenBucket, jittered},
    },
};

/// The longest interval between reads of the agent's checks; the entry is
/// watched.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// The delay of the first read after a registration, which doubles each time.
const FIRST_CHECK_DELAY: Duration = Duration::from_secs(1);
/// The delay after which a catalog that differs from the agent counts as stale.
const CATALOG_DELAY: Duration = Duration::from_secs(5);
/// The least time between registrations because of a stale catalog: if they do
/// not help, they only restart the checks.
const REREGISTER_INTERVAL: Duration = Duration::from_secs(300);

pub(super) struct Reconciler {
    client: Client,
    spec: Arc<ServiceSpec>,
    state: watch::Sender<RegistrationState>,
    desired: watch::Receiver<DesiredState>,
    check_missing: Arc<Notify>,
    agents: Agents,
    pace: Pace,
    /// Bounds conflicts with another writer of the entry.
    registrations: TokenBucket,
    /// True once a maintenance that an earlier process left was looked for.
    maintenance_lifted: AtomicBool,
    failure_log: Mutex<FailureLog>,
    /// True if the check passed at the last read.
    was_passing: AtomicBool,
    /// True if the catalog has listed the instance.
    was_listed: AtomicBool,
    /// The time of the last registration because of a stale catalog.
    reregistered_at: Mutex<Option<Instant>>,
}

/// The findings of a read of the agent's checks and of the catalog.
#[derive(Default)]
struct CheckReport {
    /// The reason to register again.
    mismatch: Option<String>,
    /// The difference between catalog and agent.
    catalog_stale: Option<String>,
    /// The reason to register again, if the next read finds the same.
    unlisted: Option<String>,
    /// True if the instance is in maintenance.
    in_maintenance: bool,
}

/// The loop was stopped.
struct Stopped;

impl Reconciler {
    pub(super) fn new(
        client: Client,
        spec: Arc<ServiceSpec>,
        state: watch::Sender<RegistrationState>,
        desired: watch::Receiver<DesiredState>,
        check_missing: Arc<Notify>,
        agents: Agents,
    ) -> Self {
        // A local agent is queried often, so that an instance is back within
        // seconds of its agent. Delays are drawn from zero to this, so that it
        // is queried less than once a second while it is down.
        let max_backoff =
            if client.is_local() { Duration::from_millis(2500) } else { Duration::from_secs(5) };
        let pace = Pace {
            initial_backoff: Duration::from_millis(250),
            max_backoff,
            permanent_failure_delay: Duration::from_secs(10),
            refill: Duration::from_millis(250),
            ..Pace::default()
        };
        let registrations = TokenBucket::new(3, Duration::from_secs(3));
        Self {
            client,
            spec,
            state,
            desired,
            check_missing,
            agents,
            pace,
            registrations,
            maintenance_lifted: AtomicBool::new(false),
            failure_log: Mutex::default(),
            was_passing: AtomicBool::new(false),
            was_listed: AtomicBool::new(false),
            reregistered_at: Mutex::default(),
        }
    }

    /// Runs until `stop`; a request in progress is finished.
    pub(super) async fn run(&mut self, stop: &CancellationToken) {
        while let Ok(()) = self.register(stop).await {
            let Ok(why) = self.watch(stop).await else { return };
            self.set_pending(&format!("it is registered again: {why}"));
        }
    }

    /// Registers, with retries until it succeeds.
    async fn register(&mut self, stop: &CancellationToken) -> Result<(), Stopped> {
        tokio::select! {
            () = stop.cancelled() => return Err(Stopped),
            () = self.registrations.take() => {}
        }
        let mut backoff = self.pace.backoff();
        while let Err(e) = self.register_once().await {
            self.set_pending(&e.to_string());
            let pause =
                if e.is_retryable() { backoff.next() } else { jittered(self.pace.permanent_failure_delay) };
            tokio::select! {
                () = stop.cancelled() => return Err(Stopped),
                () = sleep(pause.max(Duration::from_millis(50))) => {}
            }
        }
        // The check that a heartbeat found missing is registered now.
        let _ = self.check_missing.notified().now_or_never();
        self.set_registered();
        Ok(())
    }

    async fn register_once(&self) -> Result<(), Error> {
        // An agent that lost the instance would list it as critical until its
        // first probe, up to two intervals later, so the last known status is
        // sent. An agent that still has it keeps its status.
        if self.was_passing.load(Relaxed) {
            self.client.register(&self.spec.starting_as(CheckStatus::Passing)).await?;
        } else {
            self.client.register(&self.spec).await?;
        }
        let maintenance = self.desired.borrow().maintenance.clone();
        match maintenance {
            Some(notes) => self.maintain(&notes).await,
            None => Ok(()),
        }
    }

    async fn maintain(&self, notes: &str) -> Result<(), Error> {
        let id = &self.spec.id;
        if !self.agents.has_several() {
            return self.client.maintenance(id, Some(notes)).await;
        }
        self.agents.on_every_agent(|client| async move { client.maintenance(id, Some(notes)).await }).await
    }

    /// Watches until something differs, and returns the difference. The parts
    /// run concurrently: an agent without a leader delays each read.
    async fn watch(&self, stop: &CancellationToken) -> Result<String, Stopped> {
        let check_now = Notify::new();
        tokio::select! {
            () = stop.cancelled() => Err(Stopped),
            () = self.check_missing.notified() => Ok("the agent does not know its check".to_owned()),
            why = self.watch_entry(&check_now) => Ok(why),
            why = self.watch_checks(&check_now) => Ok(why),
        }
    }

    async fn watch_entry(&self, check_now: &Notify) -> String {
        // A new watch each time: its first response is always an event, so that
        // an entry that is lost again at once is detected too.
        let entry = OwnEntry { client: self.client.clone(), id: self.spec.id.clone() };
        let mut entry = engine::spawn(self.client.clone(), entry, self.pace);
        while let Ok(()) = entry.changed().await {
            let view = entry.borrow_and_update().clone();
            if let Some(why) = self.entry_problem(&view) {
                return why;
            }
            if view.error.is_none() && self.set_registered() {
                // The agent may be another one than before.
                check_now.notify_one();
            }
        }
        "its watch ended".to_owned()
    }

    async fn watch_checks(&self, check_now: &Notify) -> String {
        let mut last_difference = None;
        let mut unlisted = false;
        let mut catalog_stale = false;
        let mut next = FIRST_CHECK_DELAY;
        loop {
            let report = self.check().await;
            if let Some(why) = report.mismatch {
                return why;
            }
            // The catalog follows an agent within a moment, so it has to differ
            // twice.
            match report.unlisted {
                Some(why) if std::mem::replace(&mut unlisted, true) => return why,
                Some(_) => {}
                None => unlisted = false,
            }
            let pause = match report.catalog_stale {
                // The same difference twice is not a sync in progress.
                Some(why) if last_difference.as_ref() == Some(&why) => {
                    if self.may_reregister() {
                        self.reregister(report.in_maintenance).await;
                        return why;
                    }
                    catalog_stale = true;
                    self.set_pending(&why);
                    CHECK_INTERVAL
                }
                Some(why) => {
                    last_difference = Some(why);
                    CATALOG_DELAY
                }
                None if unlisted => CATALOG_DELAY,
                None => {
                    last_difference = None;
                    if std::mem::take(&mut catalog_stale) {
                        self.set_registered();
                    }
                    let pause = next;
                    next = (next * 2).min(CHECK_INTERVAL);
                    pause
                }
            };
            tokio::select! {
                () = sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())) => {}
                () = check_now.notified() => {}
            }
        }
    }

    /// Makes the agent sync the instance to the servers with the current token,
    /// when it is registered again. An agent whose sync was denied considers
    /// the entry as synced, and a registration of the same content too: the
    /// entry must be removed in between. That would end a maintenance, which
    /// instead waits for the agent's own full sync, minutes later.
    async fn reregister(&self, in_maintenance: bool) {
        let cleared = async {
            self.client.register(&self.spec).await?;
            if in_maintenance { Ok(()) } else { self.client.deregister(&self.spec.id).await }
        };
        if let Err(e) = cleared.await {
            tracing::debug!(id = %self.spec.id, "failed to sync `{}` to the servers again: {e}", self.spec.id);
        }
    }

    /// Returns whether the instance may be registered again because of a stale
    /// catalog.
    fn may_reregister(&self) -> bool {
        let mut reregistered_at = self.reregistered_at.lock().unwrap_or_else(PoisonError::into_inner);
        let may = reregistered_at.is_none_or(|at| at.elapsed() >= REREGISTER_INTERVAL);
        if may {
            *reregistered_at = Some(Instant::now());
        }
        may
    }

    /// The problem of the entry; `None` for an entry that cannot be read.
    fn entry_problem(&self, view: &View<Option<AgentService>>) -> Option<String> {
        if let Some(error) = &view.error {
            self.set_pending(error);
            return None;
        }
        match view.value.as_ref()? {
            // The catalog knows whether another agent has it.
            None if self.agents.has_several() => None,
            None => Some(
                "the agent does not know it (the agent was restarted, or the instance was deregistered)"
                    .to_owned(),
            ),
            Some(actual) => compare::entry_mismatch(&self.spec, actual),
        }
    }

    /// Reads the agent's checks and the catalog. Also repairs what needs no
    /// registration.
    async fn check(&self) -> CheckReport {
        let all = match self.client.checks().await {
            Ok(all) => all,
            Err(e) => {
                // The watch of the entry fails too then, and logs it.
                tracing::debug!(id = %self.spec.id, "failed to read the checks of `{}`: {e}", self.spec.id);
                return CheckReport::default();
            }
        };
        let status = all.get(&self.spec.check_id()).map(|check| check.status);
        if let Some(status) = status {
            self.was_passing.store(status == CheckStatus::Passing, Relaxed);
        }
        if self.agents.has_several() {
            return self.check_catalog().await;
        }
        let checks = compare::compare_checks(&self.spec, &all);
        if checks.mismatch.is_some() {
            return CheckReport { mismatch: checks.mismatch, ..CheckReport::default() };
        }
        if let Err(e) = self.repair(&checks).await {
            tracing::warn!(id = %self.spec.id, "failed to repair the checks of `{}`: {e}", self.spec.id);
        }
        let listed = catalog::fetch(&self.client, &self.spec).await;
        self.agents.update(&listed.nodes).await;
        let status = listed.status;
        self.was_listed.fetch_or(matches!(status, CatalogStatus::Check(_)), Relaxed);
        let catalog_stale = catalog::mismatch(&self.spec, &all, status, self.was_listed.load(Relaxed));
        CheckReport { catalog_stale, in_maintenance: checks.maintenance.is_some(), ..CheckReport::default() }
    }

    /// Reads the catalog only: behind a balancer any agent may respond.
    async fn check_catalog(&self) -> CheckReport {
        let listed = catalog::fetch(&self.client, &self.spec).await;
        self.agents.update(&listed.nodes).await;
        let unlisted = match listed.status {
            CatalogStatus::Absent => Some("no agent behind the balancer lists it".to_owned()),
            CatalogStatus::Check(_) | CatalogStatus::Unknown => None,
        };
        CheckReport { unlisted, ..CheckReport::default() }
    }

    async fn repair(&self, checks: &compare::CheckComparison) -> Result<(), Error> {
        for stale in &checks.stale {
            tracing::info!(id = %self.spec.id, "deregistering check `{stale}` of an earlier version");
            self.client.deregister_check(stale).await?;
        }
        let maintenance = self.desired.borrow().maintenance.clone();
        match (&checks.maintenance, maintenance) {
            (None, Some(notes)) => self.client.maintenance(&self.spec.id, Some(&notes)).await?,
            (Some(notes), None) if !self.maintenance_lifted.load(Relaxed) && compare::is_own(notes) => {
                tracing::info!(id = %self.spec.id, "ending the maintenance of an earlier process ({notes})");
                self.client.maintenance(&self.spec.id, None).await?;
            }
            // An operator's maintenance is kept.
            _ => {}
        }
        self.maintenance_lifted.store(true, Relaxed);
        Ok(())
    }

    /// Reports that the instance may not be registered.
    fn set_pending(&self, why: &str) {
        let id = &self.spec.id;
        if self.failure_log().should_log(why) {
            tracing::warn!(%id, "instance `{id}` is not known to be registered: {why}");
        } else {
            tracing::debug!(%id, "instance `{id}` is still not known to be registered: {why}");
        }
        self.state.send_if_modified(|state| {
            let same = matches!(state, RegistrationState::Pending { why: before } if **before == *why);
            *state = RegistrationState::Pending { why: why.into() };
            !same
        });
    }

    /// Reports that the instance is registered; returns whether that is a
    /// change.
    fn set_registered(&self) -> bool {
        self.failure_log().clear();
        let news = self.state.send_if_modified(|state| {
            let news = *state != RegistrationState::Registered;
            *state = RegistrationState::Registered;
            news
        });
        if news {
            let (id, addr) = (&self.spec.id, self.client.addr());
            tracing::info!(%id, "instance `{id}` is registered at Consul agent {addr}");
        }
        news
    }

    fn failure_log(&self) -> MutexGuard<'_, FailureLog> {
        self.failure_log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
