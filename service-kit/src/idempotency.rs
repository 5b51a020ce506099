//! Idempotency: a repeated request has one effect and gets the same response.
//!
//! The caller gives a request id. [`claim`] stores it in the transaction that
//! begins the effect, [`complete`] stores the response in the transaction that
//! ends it, which may be the same. For at least [`RETENTION`] after the claim the
//! same id of the same caller
//!
//! - with the same body gets the stored response, byte for byte,
//! - with another body is rejected (`REQUEST_ID_REUSED`),
//! - is asked to retry while there is no response yet (`REQUEST_IN_PROGRESS`).
//!
//! A request without a response is kept however old it is, since its effect has
//! not ended. One with a response is kept until [`run_cleanup`] deletes it,
//! [`RETENTION`] after the claim. That time does not depend on the clock, which
//! may be set: it counts the minutes during which a replica was up, see
//! [`ServiceAge`].

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

/// The migrations of its table, for every service that stores responses.
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

/// The minimum time for which a response is stored; `DELETE_EXPIRED` has the same value.
pub const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// The delay before a retry of a request in progress.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// The most rows that one transaction deletes, since others wait for it;
/// [`DELETE_EXPIRED`] has the same value.
const DELETE_BATCH_SIZE: u64 = 500;
/// The step by which [`ServiceAge`] advances.
const MINUTE: Duration = Duration::from_secs(60);

/// Inserts a claim. Earlier versions delete rows by `expire_time`.
const CLAIM: Sql = Sql::each(
    "INSERT INTO idempotency (caller, method, request_id, body, reference, claim_minute, expire_time) \
     SELECT $1, $2, $3, $4, $5, minutes, CAST(unixepoch('subsec') * 1000000 AS INTEGER) + $6 \
     FROM idempotency_age WHERE true ON CONFLICT (caller, method, request_id) DO NOTHING",
    "INSERT INTO idempotency (caller, method, request_id, body, reference, claim_minute, expire_time) \
     SELECT $1, $2, $3, $4, $5, minutes, CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT) + $6 \
     FROM idempotency_age ON CONFLICT (caller, method, request_id) DO NOTHING",
);

const LOOKUP: &str = "SELECT body, reference, code, answer FROM idempotency \
     WHERE caller = $1 AND method = $2 AND request_id = $3";

const COMPLETE: &str = "UPDATE idempotency SET code = $3, answer = $4 \
     WHERE method = $1 AND reference = $2 AND code IS NULL";

/// Deletes rows 1441 minutes after the claim, whose own minute was not a whole one.
const DELETE_EXPIRED: &str = "DELETE FROM idempotency WHERE (caller, method, request_id) IN \
     (SELECT caller, method, request_id FROM idempotency WHERE code IS NOT NULL \
     AND claim_minute < (SELECT minutes FROM idempotency_age) - 1440 ORDER BY claim_minute LIMIT 500)";

const READ_AGE: &str = "SELECT minutes FROM idempotency_age";

const ADVANCE: &str = "UPDATE idempotency_age SET minutes = minutes + 1 WHERE minutes = $1";

/// A request with an id, which may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotentRequest {
    caller: String,
    method: &'static str,
    id: String,
    body: Vec<u8>,
}

impl IdempotentRequest {
    /// The request `id` of `caller` for `method`. `body` is the parsed request, in
    /// which two spellings of one value are the same.
    #[must_use]
    pub fn new(caller: &Caller, method: &'static str, id: impl ToString, body: &impl Message) -> Self {
        let body = digest(&SHA256, &body.encode_to_vec()).as_ref().to_vec();
        Self { caller: caller.key(), method, id: id.to_string(), body }
    }

    fn key(&self) -> [Value; 3] {
        [self.caller.as_str().into(), self.method.into(), self.id.as_str().into()]
    }
}

/// The response to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredResponse {
    /// A message, encoded.
    Message(Vec<u8>),
    /// A status: its code, and the encoded details with its message.
    Error(Code, Vec<u8>),
}

impl StoredResponse {
    /// A response with this message.
    #[must_use]
    pub fn message(message: &impl Message) -> Self {
        Self::Message(message.encode_to_vec())
    }

    /// A response with this failure of the service `domain`.
    #[must_use]
    pub fn error(fault: Fault, domain: &'static str) -> Self {
        let status = fault.into_status(domain);
        Self::Error(status.code(), status.details().to_vec())
    }

    /// The response as a handler returns it.
    ///
    /// # Errors
    /// The stored status, or INTERNAL when the stored bytes are invalid.
    pub fn read<T: Message + Default>(&self) -> Result<T, Status> {
        let broken =
            |why: prost::DecodeError| Status::internal(format!("a stored response is corrupt: {why}"));
        match self {
            Self::Message(bytes) => T::decode(bytes.as_slice()).map_err(broken),
            Self::Error(code, details) => {
                let words = tonic_types::pb::Status::decode(details.as_slice()).map_err(broken)?.message;
                Err(Status::with_details(*code, words, details.clone().into()))
            }
        }
    }

    fn code(&self) -> i64 {
        match self {
            Self::Message(_) => 0,
            Self::Error(code, _) => i64::from(i32::from(*code)),
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Message(bytes) | Self::Error(_, bytes) => bytes,
        }
    }
}

/// The state of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is unknown.
    New,
    /// It has a response.
    Stored(StoredResponse),
    /// It has no response yet; with the reference of its effect.
    InProgress(String),
    /// The id was used with another body.
    IdReused,
}

/// Claims a request for the effect that `reference` names. The transaction fails
/// with [`Error::Missed`] when the request is known already; [`lookup`] returns its
/// state. One of several concurrent claims succeeds; the others wait for its
/// commit.
///
/// # Errors
/// When the request is known, or the database fails; now or later, as
/// [`Transaction::require`].
///
/// # Cancel safety
/// As [`Transaction::execute`].
pub async fn claim(
    open: &mut Transaction,
    request: &IdempotentRequest,
    reference: &str,
) -> Result<(), Error> {
    let [caller, method, id] = request.key();
    let life = i64::try_from(RETENTION.as_micros()).unwrap_or(i64::MAX);
    open.require(CLAIM, &[caller, method, id, request.body.clone().into(), reference.into(), life.into()])
        .await
}

/// Looks up the state of a request, without claiming it.
///
/// # Errors
/// When the database fails.
///
/// # Cancel safety
/// Cancel safe.
pub async fn lookup(database: &Database, request: &IdempotentRequest) -> Result<Claim, Error> {
    match database.row(LOOKUP, &request.key()).await? {
        Some(row) => read(request, &row),
        None => Ok(Claim::New),
    }
}

/// Stores the response to the request with the effect `reference`, in the
/// transaction that ends the effect. Does nothing when there is a response.
///
/// # Errors
/// When the database fails.
///
/// # Cancel safety
/// As [`Transaction::execute`].
pub async fn complete(
    open: &mut Transaction,
    method: &'static str,
    reference: &str,
    response: StoredResponse,
) -> Result<(), Error> {
    let code = response.code();
    let values = [method.into(), reference.into(), code.into(), response.into_bytes().into()];
    open.post(COMPLETE, &values).await
}

fn read(request: &IdempotentRequest, row: &Row) -> Result<Claim, Error> {
    if row.get::<Vec<u8>>("body")? != request.body {
        return Ok(Claim::IdReused);
    }
    let Some(code) = row.get::<Option<i64>>("code")? else {
        return Ok(Claim::InProgress(row.get("reference")?));
    };
    let bytes = row.get::<Option<Vec<u8>>>("answer")?.unwrap_or_default();
    let code = i32::try_from(code).map_err(|why| Error::corrupt("code", why))?;
    Ok(Claim::Stored(match Code::from_i32(code) {
        Code::Ok => StoredResponse::Message(bytes),
        code => StoredResponse::Error(code, bytes),
    }))
}

/// The fault for a request id that was used with another body.
#[must_use]
pub fn id_reused(id: impl ToString) -> Fault {
    let id = id.to_string();
    let words = format!("the request id {id} was used with another body; choose a new one");
    Fault::new(Code::InvalidArgument, "REQUEST_ID_REUSED", words)
        .with("request_id", id)
        .field("request_id", "was used with another body")
}

/// The fault for a request that is in progress.
#[must_use]
pub fn in_progress(id: impl ToString) -> Fault {
    let words = "the same request is still in progress; send it again for its response";
    Fault::new(Code::Aborted, "REQUEST_IN_PROGRESS", words)
        .with("request_id", id.to_string())
        .retry_in(RETRY_DELAY)
}

/// The counter of minutes that a service has run, as one replica sees it. The
/// database stores the counter. A replica increments it after it has read the same
/// number for a minute of its monotonic clock. So the counter never runs fast,
/// whatever the number of replicas, crashes and changes of the clock.
#[derive(Debug, Default)]
pub struct ServiceAge {
    seen: Option<(i64, Instant)>,
}

impl ServiceAge {
    /// Reads the counter, and increments it when a minute has passed. `now` is the
    /// monotonic clock.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been incremented.
    pub async fn advance(&mut self, database: &Database, now: impl Fn() -> Instant) -> Result<(), Error> {
        let Some(row) = database.row(READ_AGE, &[]).await? else { return Err(Error::Missed) };
        let minutes = row.get("minutes")?;
        match self.seen {
            Some((seen, since)) if seen == minutes => {
                if now().saturating_duration_since(since) >= MINUTE {
                    // Even when another replica was faster.
                    self.seen = None;
                    increment(database, minutes).await?;
                    self.seen = Some((minutes + 1, now()));
                }
            }
            // The time after the read, so that a full minute passes.
            _ => self.seen = Some((minutes, now())),
        }
        Ok(())
    }
}

async fn increment(database: &Database, minutes: i64) -> Result<u64, Error> {
    let mut unit = database.unit();
    loop {
        let mut open = unit.begin().await?;
        let done = open.execute(ADVANCE, &[minutes.into()]).await;
        if let Some(done) = unit.end(open, done).await {
            return done;
        }
    }
}

/// Deletes expired responses in batches, for ever: a background task of a service.
///
/// # Cancel safety
/// Cancel safe.
pub async fn run_cleanup(database: Database) {
    let advance = async {
        let mut age = ServiceAge::default();
        loop {
            // The deletion fails for the same cause, and logs a warning.
            if let Err(why) = age.advance(&database, Instant::now).await {
                debug!(error = %why, "could not advance the age of the service");
            }
            sleep(MINUTE).await;
        }
    };
    let delete = || delete_expired(&database);
    join!(advance, retention::delete_repeatedly("expired rows of `idempotency`", DELETE_BATCH_SIZE, delete));
}

/// Deletes a batch of expired responses; returns their number.
///
/// # Errors
/// When the database fails.
///
/// # Cancel safety
/// They may have been deleted.
pub async fn delete_expired(database: &Database) -> Result<u64, Error> {
    let mut unit = database.unit();
    loop {
        let mut open = unit.begin().await?;
        let done = open.execute(DELETE_EXPIRED, &[]).await;
        if let Some(done) = unit.end(open, done).await {
            return done;
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;

    fn request(id: &str, body: &str) -> IdempotentRequest {
        IdempotentRequest::new(&Caller::Unrestricted, "Create", id, &body.to_owned())
    }

    #[test]
    fn a_body_is_compared_by_its_hash() {
        assert_eq!(request("1", "tea"), request("1", "tea"));
        assert_ne!(request("1", "tea"), request("1", "mug"));
        assert_eq!(request("1", "tea").body.len(), 32);
    }

    #[test]
    fn a_stored_error_is_restored() {
        let fault = Fault::new(Code::FailedPrecondition, "OUT_OF_STOCK", "too few").with("sku", "tea");
        let status = fault.clone().into_status("x");
        let stored = StoredResponse::error(fault, "x");
        assert_eq!(stored.code(), 9);
        let again = stored.read::<String>().unwrap_err();
        assert_eq!((again.code(), again.message()), (status.code(), status.message()));
        assert_eq!(again.details(), status.details());
        assert_eq!(again.get_error_details().error_info().unwrap().metadata["sku"], "tea");
        assert_eq!(StoredResponse::message(&"tea".to_owned()).read::<String>().unwrap(), "tea");
    }

    #[tokio::test]
    async fn expired_rows_are_found_by_an_index_of_postgres() {
        let database = crate::testing::TestDatabase::postgres().await;
        let database = Database::open(database.url(), &IDEMPOTENCY).await.unwrap();
        let mut open = database.begin().await.unwrap();
        open.execute("SET LOCAL enable_seqscan = off", &[]).await.unwrap();
        let explain: &'static str = format!("EXPLAIN {DELETE_EXPIRED}").leak();
        let plan = open.rows(explain, &[]).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get("QUERY PLAN").unwrap()).collect();
        assert!(plan.iter().any(|line| line.contains("Index Cond: (claim_minute <")), "{plan:#?}");
    }

    #[test]
    fn a_request_in_progress_has_a_retry_delay() {
        let details = in_progress("1").into_status("x").get_error_details();
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(RETRY_DELAY));
    }
}
