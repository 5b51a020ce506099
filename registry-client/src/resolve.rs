//! Which instances a service has right now.

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

/// What is known of a service's instances. Always the whole set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolution {
    /// The newest set that was believed; `None` until the first response.
    pub instances: Option<Arc<[Instance]>>,
    /// Why the last look-up failed, in words; `None` once one succeeded. The
    /// set beside it is the last good one.
    pub error: Option<Arc<str>>,
    /// Since when look-ups fail; `None` while they succeed.
    pub stale_since: Option<SystemTime>,
    /// When the set was saved, if it comes from a snapshot that an earlier
    /// process left and the registry has not been believed to say it since;
    /// `None` from the registry's first response on.
    pub remembered: Option<SystemTime>,
}

impl Resolution {
    /// A successful look-up.
    #[must_use]
    pub fn found(instances: impl Into<Arc<[Instance]>>) -> Self {
        Self { instances: Some(instances.into()), ..Self::default() }
    }

    /// Takes note that a look-up failed: the set stays. True when that changed
    /// anything.
    pub fn fail(&mut self, words: &str) -> bool {
        if self.stale_since.is_some() && self.error.as_deref() == Some(words) {
            return false;
        }
        self.error = Some(words.into());
        self.stale_since.get_or_insert_with(SystemTime::now);
        true
    }
}

/// Tells the current set of a service's instances, and every change of it.
pub trait Resolver: Send + Sync + 'static {
    /// Begins to watch `service` and returns at once. The view changes only
    /// when the content does; it never goes back to "no response yet", and a
    /// failed look-up leaves the instances as they were. The watch ends when
    /// the last receiver is dropped. Called within a tokio runtime; must not
    /// block.
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution>;

    /// What tells its sets from those of another resolver of the same kind,
    /// such as a datacenter and a filter; empty unless there is something. The
    /// same text in every process that is set up alike.
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
    /// Queries that brought no usable answer: no agent, no leader, a missing
    /// right, a response that is not believed.
    pub errors: Counter,
    /// Blocking queries that returned because the registry's index moved, with
    /// the content that was known already.
    pub unchanged_wakes: Counter,
    last_answer: Mutex<Option<Instant>>,
}

impl RegistryCounters {
    /// Notes that the registry gave a good response at this moment.
    pub fn record_answer(&self) {
        *self.last_answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The age of the last good response; `None` before the first. A registry
    /// that has no news answers when the wait of a blocking query ends.
    #[must_use]
    pub fn answer_age(&self) -> Option<Duration> {
        self.last_answer.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }
}
