//! Whether a database can be written.

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

/// Whether a database can be written, as its last write or probe found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It can, as far as is known.
    #[default]
    Healthy,
    /// It cannot, for this reason. Probed until it can.
    Failing(String),
}

impl Health {
    /// Whether it can be written.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        matches!(self, Self::Healthy)
    }
}

/// Where the health is told. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    health: watch::Sender<Health>,
    doubt: Arc<Notify>,
    sessions: watch::Sender<SessionsSince>,
}

/// From when on sessions are used: those that were opened before are closed.
#[derive(Clone, Copy, Debug)]
struct SessionsSince(Instant);

impl Default for SessionsSince {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Told {
    pub(super) fn watch(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Why it cannot be written, while it cannot.
    pub(super) fn why(&self) -> Option<String> {
        match &*self.health.borrow() {
            Health::Healthy => None,
            Health::Failing(why) => Some(why.clone()),
        }
    }

    /// Notes what came of something that a failing server would make fail.
    pub(super) fn noted<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        if let Err(why) = &done {
            if why.ends_session() {
                self.discard_sessions();
            }
            if matches!(why, Error::Unavailable(_) | Error::Slow(_)) && !why.is_conflict() {
                self.doubt.notify_one();
            }
        }
        done
    }

    /// Has all sessions closed that are open now, each when it is not in use:
    /// they may lead to a server that is no longer the one to write to.
    fn discard_sessions(&self) {
        self.sessions.send_replace(SessionsSince::default());
    }

    /// Whether a session of that age was discarded.
    pub(super) fn has_discarded(&self, age: Duration) -> bool {
        self.sessions.borrow().0.elapsed() < age
    }

    /// Waits until something was noted that lets one doubt.
    pub(super) async fn doubted(&self) {
        self.doubt.notified().await;
    }

    pub(super) fn failing(&self, why: String) {
        self.health.send_if_modified(|now| {
            let began = now.is_healthy();
            if began {
                error!(cause = why, "the database cannot be written: {why}");
            }
            *now = Health::Failing(why);
            began
        });
    }

    pub(super) fn healthy(&self) {
        self.health.send_if_modified(|now| {
            let mended = !now.is_healthy();
            if mended {
                // What was opened meanwhile leads to what failed.
                self.discard_sessions();
                info!("the database can be written again");
            }
            *now = Health::Healthy;
            mended
        });
    }
}

/// Whether the disk, the memory or the server failed, and not the statement:
/// whoever writes next will probably fail too.
pub(super) fn is_trouble(why: &sqlx::Error) -> bool {
    match why {
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(why) => is_trouble_told(why.as_ref()),
        _ => false,
    }
}

fn is_trouble_told(why: &dyn DatabaseError) -> bool {
    let code = why.code().unwrap_or_default();
    if is_postgres(why) {
        // Lost connections, a full disk, no memory, an operator's intervention
        // or a crash, input and output that fail.
        matches!(code.get(..2), Some("08" | "58"))
            || matches!(&*code, "53100" | "53200" | "57P01" | "57P02" | "57P03")
    } else {
        // NOMEM, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB.
        matches!(sqlite_code(&code), Some(7 | 8 | 10 | 11 | 13 | 14 | 26))
    }
}
