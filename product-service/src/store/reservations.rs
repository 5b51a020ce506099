//! Reservations in the database.
//!
//! Leases expire by the clock of the database, so that replicas agree: the server's
//! clock on PostgreSQL, the machine's on SQLite.

use std::time::Duration;

use service_kit::{
    database::{Error as DatabaseError, Row, Sql, Transaction},
    timestamp::Timestamp,
};

use super::{
    Store,
    stock::{Shortage, transfer_pieces},
};
use crate::{
    Error,
    domain::{
        InvalidTransition, Items, Lease, Reservation, ReservationEvent, ReservationId, ReservationState,
    },
};

/// Microseconds since 1970 by the database's clock, when the statement runs and not
/// when the transaction began.
macro_rules! now {
    (sqlite) => {
        "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    };
    (postgres) => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}

/// A statement with the current time between its two parts.
macro_rules! with_now {
    ($before:literal, $after:literal) => {
        Sql::each(concat!($before, now!(sqlite), $after), concat!($before, now!(postgres), $after))
    };
}

const BY_ID: Sql =
    with_now!("SELECT state, items, expire_time, ", " AS now FROM reservations WHERE reservation_id = $1");

/// Locks the row, if there is one, and reads it.
const LOCK: Sql = with_now!(
    "UPDATE reservations SET state = state WHERE reservation_id = $1 RETURNING state, items, expire_time, ",
    " AS now"
);

const HOLD_FIRST: Sql = with_now!(
    "INSERT INTO reservations (reservation_id, state, items, expire_time) VALUES ($1, 'held', $2, $3 + ",
    ") ON CONFLICT (reservation_id) DO NOTHING RETURNING expire_time"
);

const HOLD_AGAIN: Sql = with_now!(
    "UPDATE reservations SET state = 'held', end_time = NULL, expire_time = $2 + ",
    " WHERE reservation_id = $1 RETURNING expire_time"
);

const WRITE: Sql = with_now!(
    "UPDATE reservations SET state = $2, expire_time = 0, end_time = CASE WHEN $2 = 'committed' THEN NULL ELSE ",
    " END WHERE reservation_id = $1"
);

const RELEASE_FIRST: Sql = with_now!(
    "INSERT INTO reservations (reservation_id, state, items, expire_time, end_time) \
     VALUES ($1, 'released', '', 0, ",
    ") ON CONFLICT (reservation_id) DO NOTHING"
);

/// The statement checks the state too: a replica of the previous version does not
/// reset `end_time` when it reserves again. On PostgreSQL it uses the time at which the
/// transaction began: a volatile time cannot use the index.
const DELETE_OLD: Sql = Sql::each(
    "DELETE FROM reservations WHERE reservation_id IN (SELECT reservation_id FROM reservations \
     WHERE end_time IS NOT NULL AND end_time <= CAST(unixepoch('subsec') * 1000000 AS INTEGER) - $1 \
     AND state IN ('released', 'expired') ORDER BY end_time LIMIT $2)",
    "DELETE FROM reservations WHERE reservation_id IN (SELECT reservation_id FROM reservations \
     WHERE end_time IS NOT NULL AND end_time <= (extract(epoch FROM now()) * 1000000)::bigint - $1 \
     AND state IN ('released', 'expired') ORDER BY end_time LIMIT $2)",
);

/// The leases that expire next.
const NEXT_LEASES: Sql = with_now!(
    "SELECT reservation_id, expire_time, ",
    " AS now FROM reservations WHERE state = 'held' ORDER BY expire_time LIMIT $1"
);

/// The most leases that one sweep ends.
const MAX_ENDED_LEASES: usize = 100;
/// The most reservations that one transaction deletes.
pub(crate) const MAX_DELETED_RESERVATIONS: u64 = 500;

/// A change of a reservation, with its parameters.
enum ReservationChange<'a> {
    Reserve(&'a Items, Lease),
    Commit,
    Release,
    Expire,
}

impl ReservationChange<'_> {
    fn event(&self) -> ReservationEvent {
        match self {
            Self::Reserve(..) => ReservationEvent::Reserve,
            Self::Commit => ReservationEvent::Commit,
            Self::Release => ReservationEvent::Release,
            Self::Expire => ReservationEvent::Expire,
        }
    }
}

/// The result of a sweep.
#[derive(Debug, Default)]
pub struct Sweep {
    /// The number of leases it ended.
    pub ended: usize,
    /// The time until the next lease expires, if one is known.
    pub next: Option<Duration>,
}

impl Store {
    /// The reservation of that id.
    ///
    /// # Errors
    /// [`Error::Transition`], [`Error::Database`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn reservation(&self, id: ReservationId) -> Result<Reservation, Error> {
        let row = self.database.row(BY_ID, &[id.to_string().into()]).await?;
        let stored = row.as_ref().map(read).transpose()?;
        let stored = stored.ok_or(Error::Transition(id, InvalidTransition::NotFound))?;
        let state = if stored.is_overdue() { ReservationState::Expired } else { stored.state };
        Ok(stored.into_reservation(id, state))
    }

    /// Reserves pieces, all or none.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::OutOfStock`], [`Error::IdReused`],
    /// [`Error::Transition`] after a release, [`Error::Database`].
    ///
    /// # Cancel safety
    /// They may have been reserved; repeat the call to be sure.
    pub async fn reserve(
        &self,
        id: ReservationId,
        items: &Items,
        lease: Lease,
    ) -> Result<Reservation, Error> {
        self.change(id, &ReservationChange::Reserve(items, lease)).await
    }

    /// Sells reserved pieces.
    ///
    /// # Errors
    /// [`Error::OutOfStock`] after the lease expired, [`Error::Transition`],
    /// [`Error::Database`].
    ///
    /// # Cancel safety
    /// They may be sold; repeat the call to be sure.
    pub async fn commit(&self, id: ReservationId) -> Result<Reservation, Error> {
        self.change(id, &ReservationChange::Commit).await
    }

    /// Returns pieces, finally.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have been returned; repeat the call to be sure.
    pub async fn release(&self, id: ReservationId) -> Result<Reservation, Error> {
        self.change(id, &ReservationChange::Release).await
    }

    /// Ends up to 100 expired leases. Any replica may call it at any time.
    ///
    /// # Errors
    /// The first error; the other leases were ended nevertheless.
    ///
    /// # Cancel safety
    /// Each lease is ended or not.
    pub async fn sweep(&self) -> Result<Sweep, Error> {
        let limit = i64::try_from(MAX_ENDED_LEASES).unwrap_or(i64::MAX);
        let rows = self.database.rows(NEXT_LEASES, &[limit.into()]).await?;
        let (mut sweep, mut failed) = (Sweep::default(), None);
        for row in &rows {
            let remaining: i64 = row.get::<i64>("expire_time")? - row.get::<i64>("now")?;
            if remaining > 0 {
                sweep.next = Some(Duration::from_micros(remaining.unsigned_abs()));
                break;
            }
            let id = ReservationId::parse(&row.get::<String>("reservation_id")?);
            let id = id.map_err(|why| DatabaseError::corrupt("reservation_id", why))?;
            match self.change(id, &ReservationChange::Expire).await {
                Ok(_) => sweep.ended += 1,
                Err(why) => failed = failed.or(Some(why)),
            }
        }
        if sweep.ended == MAX_ENDED_LEASES {
            sweep.next = Some(Duration::ZERO);
        }
        failed.map_or(Ok(sweep), Err)
    }

    /// Deletes a batch of reservations that were released or expired longer ago than
    /// `retention`; returns their number. A later request with the id of one reserves
    /// anew, so `retention` is longer than any order takes.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have been deleted.
    pub async fn delete_old_reservations(&self, retention: Duration) -> Result<u64, DatabaseError> {
        let parameter = |number: u128| i64::try_from(number).unwrap_or(i64::MAX).into();
        let values = [parameter(retention.as_micros()), parameter(MAX_DELETED_RESERVATIONS.into())];
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let deleted = open.execute(DELETE_OLD, &values).await;
            if let Some(deleted) = unit.end(open, deleted).await {
                return deleted;
            }
        }
    }

    async fn change(&self, id: ReservationId, change: &ReservationChange<'_>) -> Result<Reservation, Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = change_in(&mut open, id, change).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }
}

async fn change_in(
    open: &mut Transaction,
    id: ReservationId,
    change: &ReservationChange<'_>,
) -> Result<Reservation, Error> {
    if let ReservationChange::Reserve(items, lease) = change
        && let Some(expires) = hold_first(open, id, items, *lease).await?
    {
        let state = transition(open, id, items, None, ReservationEvent::Reserve).await?;
        return Ok(Reservation { id, items: (*items).clone(), state, expires: Some(expires) });
    }
    let not_found = Error::Transition(id, InvalidTransition::NotFound);
    let stored = match (lock(open, id).await?, change) {
        (Some(stored), _) => stored,
        (None, ReservationChange::Release) => {
            if open.execute(RELEASE_FIRST, &[id.to_string().into()]).await? == 1 {
                let state = ReservationState::Released;
                return Ok(Reservation { id, items: Items::default(), state, expires: None });
            }
            // A concurrent transaction has inserted it, and has ended by now.
            lock(open, id).await?.ok_or(not_found)?
        }
        (None, _) => return Err(not_found),
    };
    change_stored(open, id, stored, change).await
}

async fn change_stored(
    open: &mut Transaction,
    id: ReservationId,
    stored: StoredReservation,
    change: &ReservationChange<'_>,
) -> Result<Reservation, Error> {
    if let ReservationChange::Reserve(items, _) = change
        && stored.items != **items
        && !stored.was_never_held()
    {
        return Err(Error::IdReused(id));
    }
    let mut state = stored.state;
    // A lease expires at its time, swept or not; one that was renewed since the sweep
    // began has not expired.
    let due = stored.is_overdue().then_some(ReservationEvent::Expire);
    let requested = Some(change.event()).filter(|event| *event != ReservationEvent::Expire);
    for event in due.into_iter().chain(requested) {
        state = transition(open, id, &stored.items, Some(state), event).await?;
    }
    if state == stored.state && !stored.is_overdue() {
        open.set_rollback_only();
        return Ok(stored.into_reservation(id, state));
    }
    let expires = match (state, change) {
        (ReservationState::Held, ReservationChange::Reserve(_, lease)) => {
            Some(hold_again(open, id, *lease).await?)
        }
        _ => {
            open.post(WRITE, &[id.to_string().into(), state.as_str().into()]).await?;
            None
        }
    };
    Ok(Reservation { id, items: stored.items, state, expires })
}

/// Transfers the pieces as `event` demands; returns the state after it.
async fn transition(
    open: &mut Transaction,
    id: ReservationId,
    items: &Items,
    from: Option<ReservationState>,
    event: ReservationEvent,
) -> Result<ReservationState, Error> {
    let after = ReservationState::after(from, event);
    let (state, transfer) = after.map_err(|why| Error::Transition(id, why))?;
    if let Some(transfer) = transfer {
        let done = transfer_pieces(open, items, transfer).await?;
        done.map_err(|shortage| shortage_error(event, shortage))?;
    }
    Ok(state)
}

/// Reserving a deleted product fails because it is missing. A reservation made before
/// the deletion fails because no pieces are available.
fn shortage_error(event: ReservationEvent, shortage: Shortage) -> Error {
    let Shortage { missing, mut available } = shortage;
    if event == ReservationEvent::Reserve && !missing.is_empty() {
        return Error::Missing(missing);
    }
    available.extend(missing.into_iter().map(|sku| (sku, 0)));
    available.sort();
    Error::OutOfStock(available)
}

/// A row of `reservations`, with the time at which it was read.
struct StoredReservation {
    state: ReservationState,
    items: Items,
    expires: i64,
    now: i64,
}

impl StoredReservation {
    /// True when the lease has expired and was not swept yet.
    fn is_overdue(&self) -> bool {
        self.state == ReservationState::Held && self.expires <= self.now
    }

    /// True when it was released before anything was reserved.
    fn was_never_held(&self) -> bool {
        self.items == Items::default()
    }

    fn into_reservation(self, id: ReservationId, state: ReservationState) -> Reservation {
        let expires = (state == ReservationState::Held).then(|| Timestamp::of_micros(self.expires));
        Reservation { id, items: self.items, state, expires }
    }
}

async fn lock(open: &mut Transaction, id: ReservationId) -> Result<Option<StoredReservation>, DatabaseError> {
    let row = open.row(LOCK, &[id.to_string().into()]).await?;
    row.as_ref().map(read).transpose()
}

/// Inserts a reservation of an unknown id; returns the end of its lease.
async fn hold_first(
    open: &mut Transaction,
    id: ReservationId,
    items: &Items,
    lease: Lease,
) -> Result<Option<Timestamp>, DatabaseError> {
    let values = [id.to_string().into(), items.to_string().into(), lease.micros().into()];
    let row = open.row(HOLD_FIRST, &values).await?;
    row.map(|row| Ok(Timestamp::of_micros(row.get("expire_time")?))).transpose()
}

async fn hold_again(
    open: &mut Transaction,
    id: ReservationId,
    lease: Lease,
) -> Result<Timestamp, DatabaseError> {
    let row = open.row(HOLD_AGAIN, &[id.to_string().into(), lease.micros().into()]).await?;
    let row = row.ok_or_else(|| DatabaseError::corrupt("reservation", "is missing while it is locked"))?;
    Ok(Timestamp::of_micros(row.get("expire_time")?))
}

fn read(row: &Row) -> Result<StoredReservation, DatabaseError> {
    let state = ReservationState::parse(&row.get::<String>("state")?);
    let items = Items::parse(&row.get::<String>("items")?);
    Ok(StoredReservation {
        state: state.map_err(|why| DatabaseError::corrupt("state", why))?,
        items: items.map_err(|why| DatabaseError::corrupt("items", why))?,
        expires: row.get("expire_time")?,
        now: row.get("now")?,
    })
}
