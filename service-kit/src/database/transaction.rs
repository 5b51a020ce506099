//! Transactions, which write.

use sqlx::Postgres;

use super::{Error, Pools, Row, Sql, Value, bounded, health::HealthReporter, row::bind, sqlite};
use crate::changes::{CHANNEL, Changes};

/// A transaction that writes. It is rolled back unless it is committed.
///
/// It may read rows of transactions that are not durable yet. Pass them on only
/// after it has been committed or rolled back, and not after it was dropped.
#[derive(Debug)]
#[must_use = "a transaction that is dropped is rolled back"]
pub struct Transaction {
    open: Open,
    changed: Vec<String>,
    changes: Changes,
    health: HealthReporter,
    is_rollback_only: bool,
    /// A statement failed only because of a concurrent transaction.
    has_conflict: bool,
    /// A statement failed, or is in progress.
    is_aborted: bool,
}

#[derive(Debug)]
enum Open {
    Sqlite(sqlite::SqliteTransaction),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Transaction {
    pub(super) async fn begin(
        pools: &Pools,
        changes: Changes,
        health: HealthReporter,
    ) -> Result<Self, Error> {
        let open = match pools {
            Pools::Sqlite { writer, .. } => {
                writer.check()?;
                Open::Sqlite(sqlite::SqliteTransaction::new(writer))
            }
            Pools::Postgres(pool) => {
                // The pool would dial an unreachable server until the caller's
                // deadline.
                if let Some(cause) = health.failure() {
                    return Err(Error::Failing(cause));
                }
                // Boxed, since connecting makes a large future, and the callers'
                // would be as large, on SQLite too.
                Open::Postgres(health.observe(bounded(Box::pin(pool.begin())).await)?)
            }
        };
        Ok(Self {
            open,
            changed: Vec::new(),
            changes,
            health,
            is_rollback_only: false,
            has_conflict: false,
            is_aborted: false,
        })
    }

    /// Marks the transaction to be rolled back although its work succeeds, since
    /// the locked rows need no change.
    pub fn set_rollback_only(&mut self) {
        self.is_rollback_only = true;
    }

    pub(super) fn has_conflict(&self) -> bool {
        self.has_conflict
    }

    /// Commits, or rolls back a transaction that is marked so.
    pub(super) async fn end(self) -> Result<(), Error> {
        if self.is_rollback_only { self.rollback().await } else { self.commit().await }
    }

    /// Marks the transaction aborted until the statement ends. A cancelled
    /// statement leaves it so.
    fn begin_statement(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.is_aborted, true) { Err(Error::Aborted) } else { Ok(()) }
    }

    fn end_statement<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        let is_postgres = matches!(self.open, Open::Postgres(_));
        let result = if is_postgres { self.health.observe(result) } else { result };
        self.is_aborted = result.is_err();
        self.has_conflict |= result.as_ref().is_err_and(Error::is_conflict);
        result
    }

    /// Enqueues a statement without waiting for it. Posted statements run in
    /// order, before the next one or before the commit. On SQLite they share one
    /// round trip. The statement must write, and return no rows.
    ///
    /// # Errors
    /// As [`execute`](Self::execute), now or from the next statement.
    ///
    /// # Cancel safety
    /// As [`execute`](Self::execute).
    pub async fn post(&mut self, sql: impl Into<Sql>, values: &[Value]) -> Result<(), Error> {
        self.add(sql.into(), values, false).await
    }

    /// Like [`post`](Self::post), for a statement that must touch a row. A missing
    /// row costs least when no other statement of the transaction touches any
    /// then: on SQLite nothing has to be rolled back from the group commit.
    ///
    /// # Errors
    /// Also [`Error::Missed`], when it touches no row, now or from the next
    /// statement or from the commit: the transaction is aborted then.
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
        self.end_statement(done)
    }

    /// Runs a statement; returns the number of rows that it touched.
    ///
    /// # Errors
    /// When the database fails. The transaction is aborted then.
    ///
    /// # Cancel safety
    /// Cancelling aborts the transaction: drop it afterwards.
    pub async fn execute(&mut self, sql: impl Into<Sql>, values: &[Value]) -> Result<u64, Error> {
        let sql = sql.into();
        self.begin_statement()?;
        let done = match &mut self.open {
            Open::Sqlite(work) => work.execute(sql.sqlite, values).await,
            Open::Postgres(open) => bounded(bind(sql.postgres, values).execute(&mut **open))
                .await
                .map(|done| done.rows_affected()),
        };
        self.end_statement(done)
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
        self.end_statement(found)
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
        self.end_statement(found)
    }

    /// Announces a change of `key` after the commit, to the subscribers on all
    /// replicas.
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

    /// Makes the writes durable; then notifies this process's subscribers.
    ///
    /// # Errors
    /// When the database fails, a statement has failed or was cancelled, or a
    /// posted one fails.
    /// After [`Error::Unavailable`], [`Error::Slow`] and [`Error::Undurable`] the
    /// commit may have happened or not.
    ///
    /// # Cancel safety
    /// Not cancel safe: the commit may have happened or not.
    pub async fn commit(self) -> Result<(), Error> {
        if self.is_aborted {
            // PostgreSQL would report success for such a commit, and roll back.
            self.rollback().await?;
            return Err(Error::Aborted);
        }
        match self.open {
            Open::Sqlite(work) => work.commit(self.changed).await,
            Open::Postgres(open) => {
                self.health.observe(bounded(open.commit()).await)?;
                for key in &self.changed {
                    self.changes.announce(key);
                }
                Ok(())
            }
        }
    }

    /// Rolls back, which frees the locked row or the writer at once, and waits
    /// until everything that it has read is durable. Dropping frees them a little
    /// later, and does not wait.
    ///
    /// # Errors
    /// When the database fails; the transaction is rolled back nevertheless.
    /// [`Error::Undurable`] says that it may have read rows that were never
    /// committed.
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
