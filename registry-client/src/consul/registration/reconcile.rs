//! The loop that compares, and registers only on a difference: every
//! registration restarts the TTL and draws the first probe anew.

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
    RegistrationState, Wishes,
    catalogue::{self, Shown},
    compare,
    entry::Entry,
    spread::Spread,
};
use crate::consul::{
    AgentService, CheckStatus, Client, Error, ServiceSpec, View,
    watch::{
        self as engine,
        pace::{Bucket, Complaint, Pace, jittered},
    },
};

/// The agent's checks are looked at this often; the entry wakes us itself.
const LOOK: Duration = Duration::from_secs(30);
/// So long after a registration they are looked at first; then after double
/// the time, and so on.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// What the servers show follows an agent within a moment; after this it is
/// no moment any more.
const SETTLE: Duration = Duration::from_secs(5);
/// An instance whose agent and servers differ is registered again no more
/// often than this: should it not help, it only restarts the checks.
const HEAL_AGAIN: Duration = Duration::from_secs(300);

pub(super) struct Reconciler {
    client: Client,
    spec: Arc<ServiceSpec>,
    state: watch::Sender<RegistrationState>,
    wishes: watch::Receiver<Wishes>,
    forgotten: Arc<Notify>,
    spread: Spread,
    pace: Pace,
    /// Bounds a fight with whoever else writes our entry.
    registrations: Bucket,
    /// True if a maintenance that an earlier process of ours left has been
    /// looked for.
    lifted: AtomicBool,
    complaint: Mutex<Complaint>,
    /// True if the check passed at the last look.
    passing: AtomicBool,
    /// True if the servers have shown the instance.
    was_shown: AtomicBool,
    /// When it was last registered because servers and agent differed.
    healed: Mutex<Option<Instant>>,
}

/// What a look at the agent's checks and at the servers found.
#[derive(Default)]
struct Look {
    /// Why it is to be registered again.
    differs: Option<String>,
    /// How the servers show it otherwise than the agent.
    frozen: Option<String>,
    /// Why it is to be registered again, if the next look finds the same.
    lost: Option<String>,
    /// True if somebody took it out of service.
    maintained: bool,
}

/// The loop was told to end.
struct Stopped;

impl Reconciler {
    pub(super) fn new(
        client: Client,
        spec: Arc<ServiceSpec>,
        state: watch::Sender<RegistrationState>,
        wishes: watch::Receiver<Wishes>,
        forgotten: Arc<Notify>,
        spread: Spread,
    ) -> Self {
        // An agent of this machine may be asked often: it is what makes an
        // instance come back within seconds of its agent. Pauses are drawn from
        // nothing to this, so while it is away it is asked less than once a
        // second.
        let most = if client.is_local() { Duration::from_millis(2500) } else { Duration::from_secs(5) };
        let pace = Pace {
            initial_backoff: Duration::from_millis(250),
            max_backoff: most,
            slow: Duration::from_secs(10),
            refill: Duration::from_millis(250),
            ..Pace::default()
        };
        let registrations = Bucket::new(3, Duration::from_secs(3));
        Self {
            client,
            spec,
            state,
            wishes,
            forgotten,
            spread,
            pace,
            registrations,
            lifted: AtomicBool::new(false),
            complaint: Mutex::default(),
            passing: AtomicBool::new(false),
            was_shown: AtomicBool::new(false),
            healed: Mutex::default(),
        }
    }

    /// For ever, or until `stop`; what was begun is finished.
    pub(super) async fn run(&mut self, stop: &CancellationToken) {
        while let Ok(()) = self.register(stop).await {
            let Ok(why) = self.watch(stop).await else { return };
            self.pending(&format!("it is registered again: {why}"));
        }
    }

    /// Registers, trying until it works.
    async fn register(&mut self, stop: &CancellationToken) -> Result<(), Stopped> {
        tokio::select! {
            () = stop.cancelled() => return Err(Stopped),
            () = self.registrations.take() => {}
        }
        let mut backoff = self.pace.backoff();
        while let Err(e) = self.register_once().await {
            self.pending(&e.to_string());
            let pause = if e.is_retryable() { backoff.next() } else { jittered(self.pace.slow) };
            tokio::select! {
                () = stop.cancelled() => return Err(Stopped),
                () = sleep(pause.max(Duration::from_millis(50))) => {}
            }
        }
        // What a beat found missing before is there now.
        let _ = self.forgotten.notified().now_or_never();
        self.registered();
        Ok(())
    }

    async fn register_once(&self) -> Result<(), Error> {
        // An agent that forgot us would call us critical until its first probe,
        // which comes after up to an interval and another: it is told what it
        // knew. One that did not forget keeps what it knows.
        if self.passing.load(Relaxed) {
            self.client.register(&self.spec.starting_as(CheckStatus::Passing)).await?;
        } else {
            self.client.register(&self.spec).await?;
        }
        let wish = self.wishes.borrow().maintenance.clone();
        match wish {
            Some(notes) => self.maintain(&notes).await,
            None => Ok(()),
        }
    }

    async fn maintain(&self, notes: &str) -> Result<(), Error> {
        let id = &self.spec.id;
        if !self.spread.is_seen() {
            return self.client.maintenance(id, Some(notes)).await;
        }
        self.spread.everywhere(|client| async move { client.maintenance(id, Some(notes)).await }).await
    }

    /// Watches until something differs, and says what. None of its parts
    /// waits for another: an agent without a leader holds each read for long.
    async fn watch(&self, stop: &CancellationToken) -> Result<String, Stopped> {
        let look_again = Notify::new();
        tokio::select! {
            () = stop.cancelled() => Err(Stopped),
            () = self.forgotten.notified() => Ok("the agent does not know its check".to_owned()),
            why = self.watch_entry(&look_again) => Ok(why),
            why = self.watch_checks(&look_again) => Ok(why),
        }
    }

    async fn watch_entry(&self, look_again: &Notify) -> String {
        // A new watch each time: its first response is news whatever it says,
        // so that an entry lost again at once is noticed too.
        let entry = Entry { client: self.client.clone(), id: self.spec.id.clone() };
        let mut entry = engine::spawn(self.client.clone(), entry, self.pace);
        while let Ok(()) = entry.changed().await {
            let view = entry.borrow_and_update().clone();
            if let Some(why) = self.judge(&view) {
                return why;
            }
            if view.error.is_none() && self.registered() {
                // It may be another agent than before.
                look_again.notify_one();
            }
        }
        "its watch ended".to_owned()
    }

    async fn watch_checks(&self, look_again: &Notify) -> String {
        let mut doubt = None;
        let mut lost = false;
        let mut frozen = false;
        let mut next = FIRST_LOOK;
        loop {
            let look = self.look().await;
            if let Some(why) = look.differs {
                return why;
            }
            // The catalogue follows an agent within a moment; twice is no moment.
            match look.lost {
                Some(why) if std::mem::replace(&mut lost, true) => return why,
                Some(_) => {}
                None => lost = false,
            }
            let pause = match look.frozen {
                // Twice the same is no change that is on its way.
                Some(why) if doubt.as_ref() == Some(&why) => {
                    if self.may_heal() {
                        self.thaw(look.maintained).await;
                        return why;
                    }
                    frozen = true;
                    self.pending(&why);
                    LOOK
                }
                Some(why) => {
                    doubt = Some(why);
                    SETTLE
                }
                None if lost => SETTLE,
                None => {
                    doubt = None;
                    if std::mem::take(&mut frozen) {
                        self.registered();
                    }
                    let pause = next;
                    next = (next * 2).min(LOOK);
                    pause
                }
            };
            tokio::select! {
                () = sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())) => {}
                () = look_again.notified() => {}
            }
        }
    }

    /// Makes the agent tell the servers about the instance with the token of
    /// today, when it is registered again. An agent that was refused keeps the
    /// entry as told, and so a registration of the same content too: it must
    /// be gone in between. That would end a maintenance, which then waits for
    /// the agent's own comparison, minutes later.
    async fn thaw(&self, maintained: bool) {
        let forgotten = async {
            self.client.register(&self.spec).await?;
            if maintained { Ok(()) } else { self.client.deregister(&self.spec.id).await }
        };
        if let Err(e) = forgotten.await {
            tracing::debug!(id = %self.spec.id, "`{}` could not be told to the servers anew: {e}", self.spec.id);
        }
    }

    /// Returns whether registering again may be tried against a difference
    /// between agent and servers.
    fn may_heal(&self) -> bool {
        let mut healed = self.healed.lock().unwrap_or_else(PoisonError::into_inner);
        let may = healed.is_none_or(|at| at.elapsed() >= HEAL_AGAIN);
        if may {
            *healed = Some(Instant::now());
        }
        may
    }

    /// What is wrong with the entry; an entry that cannot be read is not.
    fn judge(&self, view: &View<Option<AgentService>>) -> Option<String> {
        if let Some(error) = &view.error {
            self.pending(error);
            return None;
        }
        match view.value.as_ref()? {
            // The catalogue says whether another agent has it.
            None if self.spread.is_seen() => None,
            None => {
                Some("the agent does not know it (it was restarted, or somebody deregistered it)".to_owned())
            }
            Some(has) => compare::entry(&self.spec, has),
        }
    }

    /// What is wrong with our check. Also mends what needs no registration.
    async fn look(&self) -> Look {
        let all = match self.client.checks().await {
            Ok(all) => all,
            Err(e) => {
                // The watch of the entry fails too then, and says so.
                tracing::debug!(id = %self.spec.id, "the checks of `{}` cannot be read: {e}", self.spec.id);
                return Look::default();
            }
        };
        let status = all.get(&self.spec.check_id()).map(|check| check.status);
        if let Some(status) = status {
            self.passing.store(status == CheckStatus::Passing, Relaxed);
        }
        if self.spread.is_seen() {
            return self.look_behind_balancer().await;
        }
        let checks = compare::checks(&self.spec, &all);
        if checks.differs.is_some() {
            return Look { differs: checks.differs, ..Look::default() };
        }
        if let Err(e) = self.mend(&checks).await {
            tracing::warn!(id = %self.spec.id, "the checks of `{}` cannot be mended: {e}", self.spec.id);
        }
        let listed = catalogue::ask(&self.client, &self.spec).await;
        self.spread.look(&listed.nodes).await;
        let shown = listed.shown;
        self.was_shown.fetch_or(matches!(shown, Shown::As(_)), Relaxed);
        let frozen = catalogue::differs(&self.spec, &all, shown, self.was_shown.load(Relaxed));
        Look { frozen, maintained: checks.maintenance.is_some(), ..Look::default() }
    }

    /// What the catalogue says of the instance: which agent answers is left
    /// to chance.
    async fn look_behind_balancer(&self) -> Look {
        let listed = catalogue::ask(&self.client, &self.spec).await;
        self.spread.look(&listed.nodes).await;
        let lost = match listed.shown {
            Shown::Absent => Some("no agent behind the balancer lists it".to_owned()),
            Shown::As(_) | Shown::Unknown => None,
        };
        Look { lost, ..Look::default() }
    }

    async fn mend(&self, checks: &compare::Checks) -> Result<(), Error> {
        for stale in &checks.stale {
            tracing::info!(id = %self.spec.id, "check `{stale}`, left by an earlier version, is deregistered");
            self.client.deregister_check(stale).await?;
        }
        let wish = self.wishes.borrow().maintenance.clone();
        match (&checks.maintenance, wish) {
            (None, Some(notes)) => self.client.maintenance(&self.spec.id, Some(&notes)).await?,
            (Some(notes), None) if !self.lifted.load(Relaxed) && compare::is_own(notes) => {
                tracing::info!(id = %self.spec.id, "the maintenance of an earlier process ({notes}) is lifted");
                self.client.maintenance(&self.spec.id, None).await?;
            }
            // An operator's maintenance is his.
            _ => {}
        }
        self.lifted.store(true, Relaxed);
        Ok(())
    }

    /// Tells that the registry may not know the instance.
    fn pending(&self, why: &str) {
        let id = &self.spec.id;
        if self.complaint().is_news(why) {
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

    /// Tells that the registry knows the instance; true when that is news.
    fn registered(&self) -> bool {
        self.complaint().ends();
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

    fn complaint(&self) -> MutexGuard<'_, Complaint> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
