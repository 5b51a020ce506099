//! Leases: what only one replica does at a time, for a bounded time.
//!
//! A lease has a name; who holds it has a token that grows with every new
//! holder. A holder that froze does not know that its lease has passed to
//! another, so holding one proves nothing: every write that depends on it is
//! made in a transaction that asks for the token, by [`Lease::fence`], and
//! fails when somebody else has held the lease since.
//!
//! The clock that counts is the database server's on PostgreSQL, so that a
//! replica whose clock is wrong takes nothing early; on SQLite, where all
//! replicas are on one machine, it is that machine's. That clock may be set
//! back: what lies further ahead than [`MAX_LEASE`] is no lease, so nobody waits
//! for longer than that.

use std::time::{Duration, Instant};

use crate::database::{Database, Error, Migration, Migrations, Sql, Transaction};

/// The longest lease: 60 s. One that is asked for longer is this long.
pub const MAX_LEASE: Duration = Duration::from_secs(60);

/// The table of leases; a step of the schema of every service that has some.
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

/// Holds it on, also when it is over but nobody else has taken it.
const RENEW: Sql = each_clock!("UPDATE leases SET until = ", NOW, " + $3 WHERE name = $1 AND token = $2");

const GIVE_UP: &str = "UPDATE leases SET until = 0 WHERE name = $1 AND token = $2";

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

    /// Takes the lease of that name for `time`, at most [`MAX_LEASE`], unless
    /// somebody holds it.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been taken; it is then over after `time`.
    pub async fn take(&self, name: &str, time: Duration) -> Result<Option<Lease>, Error> {
        let time = time.min(MAX_LEASE);
        let owner = format!("{}/{}", std::process::id(), uuid::Uuid::new_v4());
        let mut unit = self.database.unit();
        loop {
            // Counted from before the question, so that we never believe to
            // hold it for longer than the database does.
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

/// A lease that was taken. Dropping it lets it run out.
#[derive(Debug)]
pub struct Lease {
    name: String,
    token: i64,
    until: Instant,
    database: Database,
}

/// Why a write that needs a lease was not made.
#[derive(Debug, thiserror::Error)]
pub enum Unfenced {
    /// Somebody else has held the lease since.
    #[error("the lease `{0}` has passed to another replica")]
    Lost(String),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

impl Lease {
    /// Its token: greater than that of every holder before.
    #[must_use]
    pub fn token(&self) -> i64 {
        self.token
    }

    /// How long it surely lasts; zero when it may be over.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Makes this transaction one of the holder's: whoever wants to take the
    /// lease waits until it ends. Call it before the writes.
    ///
    /// # Errors
    /// [`Unfenced::Lost`]: then nothing may be written.
    ///
    /// # Cancel safety
    /// As [`Transaction::execute`].
    pub async fn fence(&self, open: &mut Transaction, time: Duration) -> Result<(), Unfenced> {
        let values = [self.name.as_str().into(), self.token.into(), micros(time).into()];
        match open.execute(RENEW, &values).await? {
            0 => Err(Unfenced::Lost(self.name.clone())),
            _ => Ok(()),
        }
    }

    /// Says that a transaction that was begun at `since`, and that
    /// [`fence`](Self::fence) held on by `time`, has been committed.
    pub fn renewed(&mut self, since: Instant, time: Duration) {
        self.until = self.until.max(since + time.min(MAX_LEASE));
    }

    /// Holds it on for `time` from now.
    ///
    /// # Errors
    /// [`Unfenced::Lost`] when somebody else has taken it.
    ///
    /// # Cancel safety
    /// It may have been held on.
    pub async fn renew(&mut self, time: Duration) -> Result<(), Unfenced> {
        let mut unit = self.database.unit();
        loop {
            let since = Instant::now();
            let mut open = unit.begin().await?;
            let fenced = self.fence(&mut open, time).await;
            if let Some(fenced) = unit.end(open, fenced).await {
                fenced?;
                self.renewed(since, time);
                return Ok(());
            }
        }
    }

    /// Lets somebody else take it at once.
    ///
    /// # Errors
    /// When the database fails; it then runs out.
    ///
    /// # Cancel safety
    /// It may have been given up; else it runs out.
    pub async fn give_up(self) -> Result<(), Error> {
        let mut open = self.database.begin().await?;
        open.execute(GIVE_UP, &[self.name.as_str().into(), self.token.into()]).await?;
        open.commit().await
    }
}

fn micros(time: Duration) -> i64 {
    time.min(MAX_LEASE).as_micros().try_into().unwrap_or(i64::MAX)
}
