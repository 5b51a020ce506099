//! Resolvers: the current instances of services.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};

use crate::{
    instance::{Instance, ServiceName},
    telemetry::Counter,
};

pub mod dns;
pub mod fixed;

/// The instances of a service, always as a whole set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolution {
    /// The newest accepted set; `None` until the first response.
    pub instances: Option<Arc<[Instance]>>,
    /// The error of the last look-up; `None` once one succeeded. The set beside
    /// it is the last good one.
    pub error: Option<Arc<str>>,
    /// The time since which look-ups fail; `None` while they succeed.
    pub stale_since: Option<SystemTime>,
    /// The time at which the set was saved, if it comes from the snapshot of an
    /// earlier process; `None` from the registry's first accepted response on.
    pub snapshot_saved_at: Option<SystemTime>,
}

impl Resolution {
    /// A successful look-up.
    #[must_use]
    pub fn found(instances: impl Into<Arc<[Instance]>>) -> Self {
        Self { instances: Some(instances.into()), ..Self::default() }
    }

    /// Records that a look-up failed; the set stays. Returns whether anything
    /// changed.
    pub fn fail(&mut self, words: &str) -> bool {
        if self.stale_since.is_some() && self.error.as_deref() == Some(words) {
            return false;
        }
        self.error = Some(words.into());
        self.stale_since.get_or_insert_with(SystemTime::now);
        true
    }
}

/// Finds the instances of services and reports every change.
pub trait Resolver: Send + Sync + 'static {
    /// Begins to watch `service` and returns at once. The view changes only
    /// when the content does; it never goes back to "no response yet", and a
    /// failed look-up leaves the instances as they were. The watch ends when
    /// the last receiver is dropped. Called within a tokio runtime; must not
    /// block.
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution>;

    /// The scope that distinguishes this resolver from others of the same kind,
    /// such as a datacenter and a filter; empty by default. Must be the same in
    /// every process with the same settings.
    fn scope(&self) -> String {
        String::new()
    }

    /// The counters of the look-ups of `service`, which was
    /// [resolved](Self::resolve) before; `None` where nothing is counted.
    fn counters(&self, service: &ServiceName) -> Option<Arc<RegistryCounters>> {
        let _ = service;
        None
    }
}

impl<R: Resolver + ?Sized> Resolver for Arc<R> {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        (**self).resolve(service)
    }

    fn scope(&self) -> String {
        (**self).scope()
    }

    fn counters(&self, service: &ServiceName) -> Option<Arc<RegistryCounters>> {
        (**self).counters(service)
    }
}

/// The look-ups of one service in its registry, counted since the watch began.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RegistryCounters {
    /// Queries sent, failed ones included.
    pub queries: Counter,
    /// Queries without a usable response: no agent, no leader, a missing
    /// permission, a response that was not accepted.
    pub errors: Counter,
    /// Blocking queries that returned with a new index and unchanged content.
    pub unchanged_wakes: Counter,
    last_response: Mutex<Option<Instant>>,
}

impl RegistryCounters {
    /// Records a good response of the registry.
    pub fn record_response(&self) {
        *self.last_response.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The age of the last good response; `None` before the first. Without
    /// changes the registry responds when the wait of a blocking query ends.
    #[must_use]
    pub fn response_age(&self) -> Option<Duration> {
        self.last_response.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }
}
