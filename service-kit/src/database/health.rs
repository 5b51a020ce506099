//! The health of a database.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::error::DatabaseError;
use tokio::sync::{Notify, watch};
use tracing::{error, info};

use super::{
    Error,
    error::{is_postgres, sqlite_code},
};

/// The health of a database, as found by its last write or probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It can be written, as far as is known.
    #[default]
    Healthy,
    /// It cannot be written, for this reason. It is probed until it can.
    Failing(String),
}

impl Health {
    /// True when it can be written.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        matches!(self, Self::Healthy)
    }
}

/// The publisher of a database's health. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct HealthReporter {
    health: watch::Sender<Health>,
    probe_request: Arc<Notify>,
    sessions: watch::Sender<SessionsSince>,
}

/// The time from which sessions are used. Older sessions are closed.
#[derive(Clone, Copy, Debug)]
struct SessionsSince(Instant);

impl Default for SessionsSince {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl HealthReporter {
    pub(super) fn watch(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// The reason why the database cannot be written, while it cannot.
    pub(super) fn failure(&self) -> Option<String> {
        match &*self.health.borrow() {
            Health::Healthy => None,
            Health::Failing(why) => Some(why.clone()),
        }
    }

    /// Observes the result of a statement: a failure may discard the sessions and
    /// request a probe.
    pub(super) fn observe<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            if error.ends_session() {
                self.discard_sessions();
            }
            if matches!(error, Error::Unavailable(_) | Error::Slow(_)) && !error.is_conflict() {
                self.probe_request.notify_one();
            }
        }
        result
    }

    /// Closes all sessions that are open now, each when it is not in use: they may
    /// lead to a server that is no longer the primary.
    fn discard_sessions(&self) {
        self.sessions.send_replace(SessionsSince::default());
    }

    /// True when a session of that age was discarded.
    pub(super) fn has_discarded(&self, age: Duration) -> bool {
        self.sessions.borrow().0.elapsed() < age
    }

    /// Waits until an observed failure requests a probe.
    pub(super) async fn probe_requested(&self) {
        self.probe_request.notified().await;
    }

    pub(super) fn set_failing(&self, why: String) {
        self.health.send_if_modified(|now| {
            let began = now.is_healthy();
            if began {
                error!(cause = why, "the database cannot be written: {why}");
            }
            *now = Health::Failing(why);
            began
        });
    }

    pub(super) fn set_healthy(&self) {
        self.health.send_if_modified(|now| {
            let has_recovered = !now.is_healthy();
            if has_recovered {
                // Sessions that were opened meanwhile lead to the failed server.
                self.discard_sessions();
                info!("the database can be written again");
            }
            *now = Health::Healthy;
            has_recovered
        });
    }
}

/// True when the disk, the memory or the server failed, and not the statement:
/// the next write will probably fail too.
pub(super) fn is_system_failure(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => is_system_failure_code(error.as_ref()),
        _ => false,
    }
}

fn is_system_failure_code(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    if is_postgres(error) {
        // Lost connections, a full disk, no memory, an operator's intervention
        // or a crash, failing I/O.
        matches!(code.get(..2), Some("08" | "58"))
            || matches!(&*code, "53100" | "53200" | "57P01" | "57P02" | "57P03")
    } else {
        // NOMEM, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB.
        matches!(sqlite_code(&code), Some(7 | 8 | 10 | 11 | 13 | 14 | 26))
    }
}
