//! Leases: the exclusive right of one replica to a task, for a bounded time.
//!
//! A lease has a name, and a fencing token that grows with every new holder. A
//! frozen holder does not know that its lease has passed to another, so holding
//! one proves nothing: every write that depends on it is made in a transaction
//! that checks the token, by [`Lease::fence`], and fails when another replica has
//! held the lease since.
//!
//! The clock is the database server's on PostgreSQL, so that a replica with a
//! wrong clock takes no lease early; on SQLite, where all replicas are on one
//! machine, it is that machine's. That clock may be set back: a lease that ends
//! later than [`MAX_LEASE`] from now is ignored, so no replica waits for longer
//! than that.

use std::time::{Duration, Instant};

use crate::database::{Database, Error, Migration, Migrations, Sql, Transaction};

/// The maximum time of a lease: 60 s. Longer requests are shortened to it.
pub const MAX_LEASE: Duration = Duration::from_secs(60);

/// The migration that creates the table of leases, for every service that uses
/// some.
pub const LEASES: Migrations = Migrations {
    sqlite: &[Migration { name: "leases", sql: include_str!("../migrations/sqlite/leases.sql") }],
    postgres: &[Migration { name: "leases", sql: include_str!("../migrations/postgres/leases.sql") }],
};

macro_rules! each_clock {
    ($($part:tt),+) => {
        Sql::each(
            each_clock!(@text "(CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000)", $($part),+),
            each_clock!(@text "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint", $($part),+),
        )
    };
    (@text $now:literal, $($part:tt),+) => { concat!($(each_clock!(@part $now, $part)),+) };
    (@part $now:literal, NOW) => { $now };
    (@part $now:literal, $text:literal) => { $text };
}

const TAKE: Sql = each_clock!(
    "INSERT INTO leases (name, owner, until, token) VALUES ($1, $2, ",
    NOW,
    " + $3, 1) \
     ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until, token = leases.token + 1 \
     WHERE leases.until <= ",
    NOW,
    " OR leases.until > ",
    NOW,
    // MAX_LEASE.
    " + 60000000 RETURNING token"
);

/// Renews a lease, also an expired one that no other replica has taken.
const RENEW: Sql = each_clock!("UPDATE leases SET until = ", NOW, " + $3 WHERE name = $1 AND token = $2");

const RELEASE: &str = "UPDATE leases SET until = 0 WHERE name = $1 AND token = $2";

/// The leases in a database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leases {
    database: Database,
}

impl Leases {
    /// The leases in `database`, whose schema has [`LEASES`].
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Takes the lease `name` for `time`, at most [`MAX_LEASE`], unless another
    /// holder has it.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been taken; it expires after `time` then.
    pub async fn take(&self, name: &str, time: Duration) -> Result<Option<Lease>, Error> {
        let time = time.min(MAX_LEASE);
        let owner = format!("{}/{}", std::process::id(), uuid::Uuid::new_v4());
        let mut unit = self.database.unit();
        loop {
            // Measured from before the statement, so that the lease never seems to
            // last longer here than in the database.
            let until = Instant::now() + time;
            let mut open = unit.begin().await?;
            let values = [name.into(), owner.as_str().into(), micros(time).into()];
            let row = open.row(TAKE, &values).await;
            if matches!(row, Ok(None)) {
                open.set_rollback_only();
            }
            if let Some(row) = unit.end(open, row).await {
                let Some(row) = row? else { return Ok(None) };
                let token = row.get("token")?;
                return Ok(Some(Lease {
                    name: name.to_owned(),
                    token,
                    until,
                    database: self.database.clone(),
                }));
            }
        }
    }
}

/// A lease that is held. Dropping it lets it expire.
#[derive(Debug)]
pub struct Lease {
    name: String,
    token: i64,
    until: Instant,
    database: Database,
}

/// The reason why a write under a lease failed.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// Another replica has held the lease since.
    #[error("the lease `{0}` has passed to another replica")]
    LeaseLost(String),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

impl Lease {
    /// The fencing token, greater than that of all earlier holders.
    #[must_use]
    pub fn token(&self) -> i64 {
        self.token
    }

    /// The time that the lease lasts at least; zero when it may have expired.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Checks and renews the lease in this transaction, until whose end no other
    /// replica can take it. Call it before the writes.
    ///
    /// # Errors
    /// [`FenceError::LeaseLost`]: nothing may be written then.
    ///
    /// # Cancel safety
    /// As [`Transaction::execute`].
    pub async fn fence(&self, open: &mut Transaction, time: Duration) -> Result<(), FenceError> {
        let values = [self.name.as_str().into(), self.token.into(), micros(time).into()];
        match open.execute(RENEW, &values).await? {
            0 => Err(FenceError::LeaseLost(self.name.clone())),
            _ => Ok(()),
        }
    }

    /// Records the commit of a transaction that began at `since` and called
    /// [`fence`](Self::fence) with `time`.
    pub fn record_renewal(&mut self, since: Instant, time: Duration) {
        self.until = self.until.max(since + time.min(MAX_LEASE));
    }

    /// Renews the lease for `time` from now.
    ///
    /// # Errors
    /// [`FenceError::LeaseLost`] when another replica has taken it.
    ///
    /// # Cancel safety
    /// It may have been renewed.
    pub async fn renew(&mut self, time: Duration) -> Result<(), FenceError> {
        let mut unit = self.database.unit();
        loop {
            let since = Instant::now();
            let mut open = unit.begin().await?;
            let fenced = self.fence(&mut open, time).await;
            if let Some(fenced) = unit.end(open, fenced).await {
                fenced?;
                self.record_renewal(since, time);
                return Ok(());
            }
        }
    }

    /// Releases the lease, so that another replica can take it at once.
    ///
    /// # Errors
    /// When the database fails; the lease expires then.
    ///
    /// # Cancel safety
    /// It may have been released; else it expires.
    pub async fn release(self) -> Result<(), Error> {
        let mut open = self.database.begin().await?;
        open.execute(RELEASE, &[self.name.as_str().into(), self.token.into()]).await?;
        open.commit().await
    }
}

fn micros(time: Duration) -> i64 {
    time.min(MAX_LEASE).as_micros().try_into().unwrap_or(i64::MAX)
}
