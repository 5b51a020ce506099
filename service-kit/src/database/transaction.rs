//! Writing.

use sqlx::Postgres;

use super::{Error, Pools, Row, Sql, Value, bounded, health::Told, row::bind, sqlite};
use crate::changes::{CHANNEL, Changes};

/// A transaction that writes. Undone unless it is committed.
///
/// What it reads may have been written by transactions that are not durable
/// yet: it may be said to others once this one has been committed or rolled
/// back, and not when it was dropped.
#[derive(Debug)]
#[must_use = "a transaction that is dropped is undone"]
pub struct Transaction {
    open: Open,
    changed: Vec<String>,
    changes: Changes,
    health: Told,
    /// Whether it shall leave nothing behind although it succeeds.
    undone: bool,
    /// Whether it failed only because another was under way.
    conflicted: bool,
    /// Whether a statement failed, or is under way.
    broken: bool,
}

#[derive(Debug)]
enum Open {
    Sqlite(sqlite::Work),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Transaction {
    pub(super) async fn begin(pools: &Pools, changes: Changes, health: Told) -> Result<Self, Error> {
        let open = match pools {
            Pools::Sqlite { writer, .. } => {
                writer.check()?;
                Open::Sqlite(sqlite::Work::new(writer))
            }
            Pools::Postgres(pool) => {
                // The pool would go on to dial a server that is away until the
                // caller's time is up.
                if let Some(why) = health.why() {
                    return Err(Error::Failing(why));
                }
                // Boxed, for it may have to connect: whatever writes would be as large,
                // on SQLite too.
                Open::Postgres(health.noted(bounded(Box::pin(pool.begin())).await)?)
            }
        };
        Ok(Self {
            open,
            changed: Vec::new(),
            changes,
            health,
            undone: false,
            conflicted: false,
            broken: false,
        })
    }

    /// Says that it shall leave nothing behind, although it succeeds: what was
    /// locked was found to need no change.
    pub fn undo(&mut self) {
        self.undone = true;
    }

    pub(super) fn is_conflicted(&self) -> bool {
        self.conflicted
    }

    /// Commits, unless it shall leave nothing behind.
    pub(super) async fn end(self) -> Result<(), Error> {
        if self.undone { self.rollback().await } else { self.commit().await }
    }

    /// Before a statement. One that was cancelled half way leaves it as it is
    /// while a statement is under way.
    fn begin_statement(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.broken, true) { Err(Error::GivenUp) } else { Ok(()) }
    }

    /// After a statement.
    fn noted<T>(&mut self, done: Result<T, Error>) -> Result<T, Error> {
        let done = if matches!(self.open, Open::Postgres(_)) { self.health.noted(done) } else { done };
        self.broken = done.is_err();
        self.conflicted |= done.as_ref().is_err_and(Error::is_conflict);
        done
    }

    /// Has a statement run that nobody waits for: before the next one, or before
    /// the commit, in the order in which they are given. On SQLite they travel
    /// together, which costs one round trip for all of them. It must write, and
    /// return no rows.
    ///
    /// # Errors
    /// As [`execute`](Self::execute), now or from what is asked next.
    ///
    /// # Cancel safety
    /// As [`execute`](Self::execute).
    pub async fn post(&mut self, sql: impl Into<Sql>, values: &[Value]) -> Result<(), Error> {
        self.add(sql.into(), values, false).await
    }

    /// As [`post`](Self::post), of a statement that must touch a row. It costs
    /// the least to miss one when no other statement of the transaction touches
    /// any then: on SQLite there is nothing to undo among what is written
    /// together.
    ///
    /// # Errors
    /// Also [`Error::Missed`], when it touches none, now or from what is asked
    /// next or from the commit: nothing more can then be done in this
    /// transaction.
    ///
    /// # Cancel safety
    /// As [`execute`](Self::execute).
    pub async fn require(&mut self, sql: impl Into<Sql>, values: &[Value]) -> Result<(), Error> {
        self.add(sql.into(), values, true).await
    }

    async fn add(&mut self, sql: Sql, values: &[Value], must_touch: bool) -> Result<(), Error> {
        self.begin_statement()?;
        let done = match &mut self.open {
            Open::Sqlite(work) => work.post(sql.sqlite, values, must_touch).await,
            Open::Postgres(open) => match bounded(bind(sql.postgres, values).execute(&mut **open)).await {
                Ok(done) if must_touch && done.rows_affected() == 0 => Err(Error::Missed),
                done => done.map(drop),
            },
        };
        self.noted(done)
    }

    /// Runs a statement; returns how many rows it touched.
    ///
    /// # Errors
    /// When the database fails. Nothing more can then be done in this
    /// transaction.
    ///
    /// # Cancel safety
    /// Drop the transaction after cancelling this: nothing more can be done in
    /// it.
    pub async fn execute(&mut self, sql: impl Into<Sql>, values: &[Value]) -> Result<u64, Error> {
        let sql = sql.into();
        self.begin_statement()?;
        let done = match &mut self.open {
            Open::Sqlite(work) => work.execute(sql.sqlite, values).await,
            Open::Postgres(open) => bounded(bind(sql.postgres, values).execute(&mut **open))
                .await
                .map(|done| done.rows_affected()),
        };
        self.noted(done)
    }

    /// Reads at most one row; also of a statement that writes, by `RETURNING`.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    ///
    /// # Cancel safety
    /// As [`execute`](Self::execute).
    pub async fn row(&mut self, sql: impl Into<Sql>, values: &[Value]) -> Result<Option<Row>, Error> {
        let sql = sql.into();
        self.begin_statement()?;
        let found = match &mut self.open {
            Open::Sqlite(work) => work.row(sql.sqlite, values).await,
            Open::Postgres(open) => bounded(bind(sql.postgres, values).fetch_optional(&mut **open))
                .await
                .map(|row| row.map(Row::Postgres)),
        };
        self.noted(found)
    }

    /// Reads all rows. The statement must bound how many there are.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    ///
    /// # Cancel safety
    /// As [`execute`](Self::execute).
    pub async fn rows(&mut self, sql: impl Into<Sql>, values: &[Value]) -> Result<Vec<Row>, Error> {
        let sql = sql.into();
        self.begin_statement()?;
        let found = match &mut self.open {
            Open::Sqlite(work) => work.rows(sql.sqlite, values).await,
            Open::Postgres(open) => bounded(bind(sql.postgres, values).fetch_all(&mut **open))
                .await
                .map(|rows| rows.into_iter().map(Row::Postgres).collect()),
        };
        self.noted(found)
    }

    /// Says that what `key` names has changed: after the commit, whoever
    /// subscribed to it hears of it, through whichever replica.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    ///
    /// # Cancel safety
    /// As [`execute`](Self::execute).
    pub async fn changed(&mut self, key: &str) -> Result<(), Error> {
        if matches!(self.open, Open::Postgres(_)) {
            // Sent by the server when, and only when, the transaction commits.
            self.row("SELECT pg_notify($1, $2)", &[CHANNEL.into(), key.into()]).await?;
        }
        self.changed.push(key.to_owned());
        Ok(())
    }

    /// Makes it durable; then tells this process's subscribers.
    ///
    /// # Errors
    /// When the database fails, or a statement before has, or was cancelled, or
    /// one that was posted fails.
    /// [`Error::Unavailable`], [`Error::Slow`] and [`Error::Undurable`] leave
    /// open whether the commit happened.
    ///
    /// # Cancel safety
    /// Not cancel safe: the commit may have happened or not.
    pub async fn commit(self) -> Result<(), Error> {
        if self.broken {
            // PostgreSQL would answer such a commit with success, and undo it.
            self.rollback().await?;
            return Err(Error::GivenUp);
        }
        match self.open {
            Open::Sqlite(work) => work.commit(self.changed).await,
            Open::Postgres(open) => {
                self.health.noted(bounded(open.commit()).await)?;
                for key in &self.changed {
                    self.changes.announce(key);
                }
                Ok(())
            }
        }
    }

    /// Undoes it, and waits until it is undone, which frees the row or the
    /// writer at once, and until what it has read is durable. Dropping does the
    /// former a little later.
    ///
    /// # Errors
    /// When the database fails; it is undone nevertheless.
    /// [`Error::Undurable`] says that what it has read may never have been.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn rollback(self) -> Result<(), Error> {
        match self.open {
            Open::Sqlite(work) => work.rollback().await,
            Open::Postgres(open) => bounded(open.rollback()).await,
        }
    }
}
