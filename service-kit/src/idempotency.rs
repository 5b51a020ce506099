//! The same request is answered the same, and has its effect once.
//!
//! Whoever asks for an effect gives a request id. [`claim`] writes it down in
//! the transaction that begins the effect, [`settle`] writes the answer in the
//! transaction that ends it; where one transaction does both, so be it. For at
//! least [`LIFE`] after the claim the same caller's same id
//!
//! - with the same body gets the stored answer, byte for byte,
//! - with another body is refused (`REQUEST_ID_REUSED`),
//! - is told to come again while there is no answer yet
//!   (`REQUEST_IN_PROGRESS`).
//!
//! A request without an answer is kept however old it is: what it began is not
//! over. One with an answer is known until [`clean`] deletes it, [`LIFE`] after
//! the claim. That time is not the clock's, which may be set: it is counted in
//! minutes that a replica was up, see [`Age`], so that the time in which no
//! replica runs does not count.

use std::time::{Duration, Instant};

use prost::Message;
use ring::digest::{SHA256, digest};
use tokio::{join, time::sleep};
use tonic::{Code, Status};
use tracing::debug;

use crate::{
    auth::Caller,
    database::{Database, Error, Migration, Migrations, Row, Sql, Transaction, Value},
    error::Fault,
    retention,
};

/// The table; steps of the schema of every service that keeps answers.
pub const IDEMPOTENCY: Migrations = Migrations {
    sqlite: &[
        Migration { name: "idempotency", sql: include_str!("../migrations/sqlite/idempotency.sql") },
        Migration {
            name: "idempotency rows",
            sql: include_str!("../migrations/sqlite/idempotency_rows.sql"),
        },
        Migration { name: "idempotency age", sql: include_str!("../migrations/sqlite/idempotency_age.sql") },
    ],
    postgres: &[
        Migration { name: "idempotency", sql: include_str!("../migrations/postgres/idempotency.sql") },
        Migration {
            name: "idempotency age",
            sql: include_str!("../migrations/postgres/idempotency_age.sql"),
        },
    ],
};

/// For how long an answer is kept at least, as `FORGET` says.
pub const LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// When to come again for an answer that there is not yet.
const COME_AGAIN: Duration = Duration::from_millis(500);
/// How many answers one transaction forgets, as [`FORGET`] says: others wait
/// for it.
const BATCH: u64 = 500;
/// What [`Age`] grows by.
const MINUTE: Duration = Duration::from_secs(60);

/// Earlier versions forget by `expire_time`.
const CLAIM: Sql = Sql::each(
    "INSERT INTO idempotency (caller, method, request_id, body, reference, claim_minute, expire_time) \
     SELECT $1, $2, $3, $4, $5, minutes, CAST(unixepoch('subsec') * 1000000 AS INTEGER) + $6 \
     FROM idempotency_age WHERE true ON CONFLICT (caller, method, request_id) DO NOTHING",
    "INSERT INTO idempotency (caller, method, request_id, body, reference, claim_minute, expire_time) \
     SELECT $1, $2, $3, $4, $5, minutes, CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT) + $6 \
     FROM idempotency_age ON CONFLICT (caller, method, request_id) DO NOTHING",
);

const LOOK: &str = "SELECT body, reference, code, answer FROM idempotency \
     WHERE caller = $1 AND method = $2 AND request_id = $3";

const SETTLE: &str = "UPDATE idempotency SET code = $3, answer = $4 \
     WHERE method = $1 AND reference = $2 AND code IS NULL";

/// Of the minute of the claim a part had passed, so one more must.
const FORGET: &str = "DELETE FROM idempotency WHERE (caller, method, request_id) IN \
     (SELECT caller, method, request_id FROM idempotency WHERE code IS NOT NULL \
     AND claim_minute < (SELECT minutes FROM idempotency_age) - 1440 ORDER BY claim_minute LIMIT 500)";

const AGE: &str = "SELECT minutes FROM idempotency_age";

const GROW: &str = "UPDATE idempotency_age SET minutes = minutes + 1 WHERE minutes = $1";

/// A request that may be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    caller: String,
    method: &'static str,
    id: String,
    body: Vec<u8>,
}

impl Asked {
    /// The request `id` of `caller` for `method`. `body` is all of what is
    /// asked for, as it was understood: two spellings of one value are the same
    /// body.
    #[must_use]
    pub fn new(caller: &Caller, method: &'static str, id: impl ToString, body: &impl Message) -> Self {
        let body = digest(&SHA256, &body.encode_to_vec()).as_ref().to_vec();
        Self { caller: caller.key(), method, id: id.to_string(), body }
    }

    fn key(&self) -> [Value; 3] {
        [self.caller.as_str().into(), self.method.into(), self.id.as_str().into()]
    }
}

/// What a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A message, encoded.
    Reply(Vec<u8>),
    /// A status: its code, and its details with which it is whole again.
    Refusal(Code, Vec<u8>),
}

impl Answer {
    /// The answer that is this message.
    #[must_use]
    pub fn reply(message: &impl Message) -> Self {
        Self::Reply(message.encode_to_vec())
    }

    /// The answer that is this failure of the service `domain`.
    #[must_use]
    pub fn refusal(fault: Fault, domain: &'static str) -> Self {
        let status = fault.into_status(domain);
        Self::Refusal(status.code(), status.details().to_vec())
    }

    /// The answer as a handler returns it.
    ///
    /// # Errors
    /// The status that was stored, or INTERNAL when what was stored is not
    /// what it should be.
    pub fn read<T: Message + Default>(&self) -> Result<T, Status> {
        let broken = |why: prost::DecodeError| Status::internal(format!("a stored answer is broken: {why}"));
        match self {
            Self::Reply(bytes) => T::decode(bytes.as_slice()).map_err(broken),
            Self::Refusal(code, details) => {
                let words = tonic_types::pb::Status::decode(details.as_slice()).map_err(broken)?.message;
                Err(Status::with_details(*code, words, details.clone().into()))
            }
        }
    }

    fn code(&self) -> i64 {
        match self {
            Self::Reply(_) => 0,
            Self::Refusal(code, _) => i64::from(i32::from(*code)),
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Reply(bytes) | Self::Refusal(_, bytes) => bytes,
        }
    }
}

/// What is known of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing, until now: it is the caller's to have the effect.
    New,
    /// It was answered.
    Stored(Answer),
    /// It has no answer yet; what has the effect.
    Running(String),
    /// Its id was used with another body.
    Reused,
}

/// Writes down that this request begins to have its effect, by what
/// `reference` names. The transaction fails with [`Error::Missed`] when the
/// request is known already, and [`look`] tells what of it. Of several that come
/// at once one succeeds; the others wait for its commit.
///
/// # Errors
/// When the request is known, or the database fails; now or later, as
/// [`Transaction::require`].
///
/// # Cancel safety
/// As [`Transaction::execute`].
pub async fn claim(open: &mut Transaction, asked: &Asked, reference: &str) -> Result<(), Error> {
    let [caller, method, id] = asked.key();
    let life = i64::try_from(LIFE.as_micros()).unwrap_or(i64::MAX);
    open.require(CLAIM, &[caller, method, id, asked.body.clone().into(), reference.into(), life.into()]).await
}

/// What is known of this request; [`Claim::New`] when nothing is, without
/// claiming it.
///
/// # Errors
/// When the database fails.
///
/// # Cancel safety
/// Cancel safe.
pub async fn look(database: &Database, asked: &Asked) -> Result<Claim, Error> {
    match database.row(LOOK, &asked.key()).await? {
        Some(row) => read(asked, &row),
        None => Ok(Claim::New),
    }
}

/// Stores the answer to the request whose effect `reference` had, in the
/// transaction that ends it. Does nothing when there is an answer.
///
/// # Errors
/// When the database fails.
///
/// # Cancel safety
/// As [`Transaction::execute`].
pub async fn settle(
    open: &mut Transaction,
    method: &'static str,
    reference: &str,
    answer: Answer,
) -> Result<(), Error> {
    let code = answer.code();
    let values = [method.into(), reference.into(), code.into(), answer.into_bytes().into()];
    open.post(SETTLE, &values).await
}

fn read(asked: &Asked, row: &Row) -> Result<Claim, Error> {
    if row.get::<Vec<u8>>("body")? != asked.body {
        return Ok(Claim::Reused);
    }
    let Some(code) = row.get::<Option<i64>>("code")? else {
        return Ok(Claim::Running(row.get("reference")?));
    };
    let bytes = row.get::<Option<Vec<u8>>>("answer")?.unwrap_or_default();
    let code = i32::try_from(code).map_err(|why| Error::corrupt("code", why))?;
    Ok(Claim::Stored(match Code::from_i32(code) {
        Code::Ok => Answer::Reply(bytes),
        code => Answer::Refusal(code, bytes),
    }))
}

/// What a caller is told whose request id was used with another body.
#[must_use]
pub fn reused(id: impl ToString) -> Fault {
    let id = id.to_string();
    let words = format!("the request id {id} was used with another body; choose a new one");
    Fault::new(Code::InvalidArgument, "REQUEST_ID_REUSED", words)
        .with("request_id", id)
        .field("request_id", "was used with another body")
}

/// What a caller is told whose request is still being worked on.
#[must_use]
pub fn in_progress(id: impl ToString) -> Fault {
    let words = "the same request is still being worked on; send it again for its answer";
    Fault::new(Code::Aborted, "REQUEST_IN_PROGRESS", words)
        .with("request_id", id.to_string())
        .retry_in(COME_AGAIN)
}

/// The minutes that a service has run, as one replica sees them grow. They are
/// kept in the database and grow by one when a replica has seen the same number
/// for a minute of its monotonic clock: so never faster than time passes,
/// however many replicas there are, however often they crash, and whatever is
/// done to the clocks.
#[derive(Debug, Default)]
pub struct Age {
    seen: Option<(i64, Instant)>,
}

impl Age {
    /// Looks at the minutes, and raises them when it is time. `now` tells the
    /// monotonic time.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have been raised.
    pub async fn grow(&mut self, database: &Database, now: impl Fn() -> Instant) -> Result<(), Error> {
        let Some(row) = database.row(AGE, &[]).await? else { return Err(Error::Missed) };
        let minutes = row.get("minutes")?;
        match self.seen {
            Some((seen, since)) if seen == minutes => {
                if now().saturating_duration_since(since) >= MINUTE {
                    // Whether or not another was faster: it is seen anew.
                    self.seen = None;
                    raise(database, minutes).await?;
                    self.seen = Some((minutes + 1, now()));
                }
            }
            // From after it was read: it is at least as old.
            _ => self.seen = Some((minutes, now())),
        }
        Ok(())
    }
}

async fn raise(database: &Database, minutes: i64) -> Result<u64, Error> {
    let mut unit = database.unit();
    loop {
        let mut open = unit.begin().await?;
        let done = open.execute(GROW, &[minutes.into()]).await;
        if let Some(done) = unit.end(open, done).await {
            return done;
        }
    }
}

/// Forgets answers whose time has passed, a few at a time, for ever: a service's
/// work beside its calls.
///
/// # Cancel safety
/// Cancel safe.
pub async fn clean(database: Database) {
    let growing = async {
        let mut age = Age::default();
        loop {
            // What hinders it hinders forgetting, which says so.
            if let Err(why) = age.grow(&database, Instant::now).await {
                debug!(error = %why, "could not count a minute");
            }
            sleep(MINUTE).await;
        }
    };
    join!(growing, retention::forget("old answers", BATCH, || forget(&database)));
}

/// Forgets some answers whose time has passed; returns how many.
///
/// # Errors
/// When the database fails.
///
/// # Cancel safety
/// They may have been forgotten.
pub async fn forget(database: &Database) -> Result<u64, Error> {
    let mut unit = database.unit();
    loop {
        let mut open = unit.begin().await?;
        let done = open.execute(FORGET, &[]).await;
        if let Some(done) = unit.end(open, done).await {
            return done;
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;

    fn asked(id: &str, body: &str) -> Asked {
        Asked::new(&Caller::Unrestricted, "Create", id, &body.to_owned())
    }

    #[test]
    fn what_is_asked_for_is_known_by_its_hash() {
        assert_eq!(asked("1", "tea"), asked("1", "tea"));
        assert_ne!(asked("1", "tea"), asked("1", "mug"));
        assert_eq!(asked("1", "tea").body.len(), 32);
    }

    #[test]
    fn a_stored_refusal_is_whole_again() {
        let fault = Fault::new(Code::FailedPrecondition, "OUT_OF_STOCK", "too few").with("sku", "tea");
        let told = fault.clone().into_status("x");
        let stored = Answer::refusal(fault, "x");
        assert_eq!(stored.code(), 9);
        let again = stored.read::<String>().unwrap_err();
        assert_eq!((again.code(), again.message()), (told.code(), told.message()));
        assert_eq!(again.details(), told.details());
        assert_eq!(again.get_error_details().error_info().unwrap().metadata["sku"], "tea");
        assert_eq!(Answer::reply(&"tea".to_owned()).read::<String>().unwrap(), "tea");
    }

    #[tokio::test]
    async fn what_is_forgotten_is_found_by_an_index_of_postgres() {
        let database = crate::testing::TestDatabase::postgres().await;
        let database = Database::open(database.url(), &IDEMPOTENCY).await.unwrap();
        let mut open = database.begin().await.unwrap();
        open.execute("SET LOCAL enable_seqscan = off", &[]).await.unwrap();
        let explain: &'static str = format!("EXPLAIN {FORGET}").leak();
        let plan = open.rows(explain, &[]).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get("QUERY PLAN").unwrap()).collect();
        assert!(plan.iter().any(|line| line.contains("Index Cond: (claim_minute <")), "{plan:#?}");
    }

    #[test]
    fn who_comes_too_early_is_told_when_to_come_again() {
        let details = in_progress("1").into_status("x").get_error_details();
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(COME_AGAIN));
    }
}
