//! Pieces that are set aside.
//!
//! Time is the database's, so that replicas agree on when a lease runs out:
//! the server's clock on PostgreSQL, that of the one machine on SQLite.

use std::time::Duration;

use service_kit::{
    database::{Error as DatabaseError, Row, Sql, Transaction},
    timestamp::Timestamp,
};

use super::{
    Store,
    stock::{Short, move_pieces},
};
use crate::{
    Error,
    domain::{Event, Impossible, Items, Lease, Reservation, ReservationId, State},
};

/// Microseconds since 1970 by the database's clock, at the moment it is asked
/// and not when the transaction began.
macro_rules! now {
    (sqlite) => {
        "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    };
    (postgres) => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}

/// A statement with the present between its two parts.
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

/// Which have ended is asked again: a replica of the version before does not
/// take back the time of one that it holds anew. On PostgreSQL by the time at
/// which the transaction began: one that moves on finds nothing by an index.
const FORGET: Sql = Sql::each(
    "DELETE FROM reservations WHERE reservation_id IN (SELECT reservation_id FROM reservations \
     WHERE end_time IS NOT NULL AND end_time <= CAST(unixepoch('subsec') * 1000000 AS INTEGER) - $1 \
     AND state IN ('released', 'expired') ORDER BY end_time LIMIT $2)",
    "DELETE FROM reservations WHERE reservation_id IN (SELECT reservation_id FROM reservations \
     WHERE end_time IS NOT NULL AND end_time <= (extract(epoch FROM now()) * 1000000)::bigint - $1 \
     AND state IN ('released', 'expired') ORDER BY end_time LIMIT $2)",
);

/// The leases that run out next.
const NEXT: Sql = with_now!(
    "SELECT reservation_id, expire_time, ",
    " AS now FROM reservations WHERE state = 'held' ORDER BY expire_time LIMIT $1"
);

/// How many leases one sweep ends.
const BATCH: usize = 100;
/// How many reservations one transaction forgets.
pub(crate) const FORGET_BATCH: u64 = 500;

/// What becomes of a reservation, with what that takes.
enum Change<'a> {
    Reserve(&'a Items, Lease),
    Commit,
    Release,
    RunOut,
}

impl Change<'_> {
    fn event(&self) -> Event {
        match self {
            Self::Reserve(..) => Event::Reserve,
            Self::Commit => Event::Commit,
            Self::Release => Event::Release,
            Self::RunOut => Event::RunOut,
        }
    }
}

/// What a sweep has done.
#[derive(Debug, Default)]
pub struct Swept {
    /// How many leases it ended.
    pub ended: usize,
    /// How long until the next one runs out, when one is known.
    pub next: Option<Duration>,
}

impl Store {
    /// The reservation of that id.
    ///
    /// # Errors
    /// [`Error::Impossible`], [`Error::Database`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn reservation(&self, id: ReservationId) -> Result<Reservation, Error> {
        let row = self.database.row(BY_ID, &[id.to_string().into()]).await?;
        let kept = row.as_ref().map(read).transpose()?;
        let kept = kept.ok_or(Error::Impossible(id, Impossible::Unknown))?;
        let state = if kept.is_overdue() { State::Expired } else { kept.state };
        Ok(kept.standing(id, state))
    }

    /// Sets pieces aside, all or none.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::OutOfStock`], [`Error::Reused`],
    /// [`Error::Impossible`] after a release, [`Error::Database`].
    ///
    /// # Cancel safety
    /// They may have been set aside; the same call again tells.
    pub async fn reserve(
        &self,
        id: ReservationId,
        items: &Items,
        lease: Lease,
    ) -> Result<Reservation, Error> {
        self.change(id, &Change::Reserve(items, lease)).await
    }

    /// Makes pieces sold.
    ///
    /// # Errors
    /// [`Error::OutOfStock`] after the lease ran out, [`Error::Impossible`],
    /// [`Error::Database`].
    ///
    /// # Cancel safety
    /// They may be sold; the same call again tells.
    pub async fn commit(&self, id: ReservationId) -> Result<Reservation, Error> {
        self.change(id, &Change::Commit).await
    }

    /// Returns pieces, for good.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have returned; the same call again makes sure.
    pub async fn release(&self, id: ReservationId) -> Result<Reservation, Error> {
        self.change(id, &Change::Release).await
    }

    /// Ends up to a hundred leases that have run out. Any replica may do it at
    /// any time.
    ///
    /// # Errors
    /// The first; the others were swept nevertheless.
    ///
    /// # Cancel safety
    /// Each lease is ended or not.
    pub async fn sweep(&self) -> Result<Swept, Error> {
        let rows = self.database.rows(NEXT, &[i64::try_from(BATCH).unwrap_or(i64::MAX).into()]).await?;
        let (mut swept, mut failed) = (Swept::default(), None);
        for row in &rows {
            let left: i64 = row.get::<i64>("expire_time")? - row.get::<i64>("now")?;
            if left > 0 {
                swept.next = Some(Duration::from_micros(left.unsigned_abs()));
                break;
            }
            let id = ReservationId::parse(&row.get::<String>("reservation_id")?);
            let id = id.map_err(|why| DatabaseError::corrupt("reservation_id", why))?;
            match self.change(id, &Change::RunOut).await {
                Ok(_) => swept.ended += 1,
                Err(why) => failed = failed.or(Some(why)),
            }
        }
        if swept.ended == BATCH {
            swept.next = Some(Duration::ZERO);
        }
        failed.map_or(Ok(swept), Err)
    }

    /// Forgets some reservations that were released or ran out longer ago than
    /// `kept`; returns how many. Whoever comes with the id of one later makes a
    /// new one, so it is kept for longer than anybody goes on with an order.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have been forgotten.
    pub async fn forget_ended(&self, kept: Duration) -> Result<u64, DatabaseError> {
        let micros = |number: u128| i64::try_from(number).unwrap_or(i64::MAX);
        let values = [micros(kept.as_micros()).into(), micros(FORGET_BATCH.into()).into()];
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let forgotten = open.execute(FORGET, &values).await;
            if let Some(forgotten) = unit.end(open, forgotten).await {
                return forgotten;
            }
        }
    }

    async fn change(&self, id: ReservationId, change: &Change<'_>) -> Result<Reservation, Error> {
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
    change: &Change<'_>,
) -> Result<Reservation, Error> {
    if let Change::Reserve(items, lease) = change
        && let Some(expires) = hold_first(open, id, items, *lease).await?
    {
        let (state, moved) = State::after(None, Event::Reserve).map_err(|why| Error::Impossible(id, why))?;
        if let Some(moved) = moved {
            move_pieces(open, items, moved).await?.map_err(|short| refused(Event::Reserve, short))?;
        }
        return Ok(Reservation { id, items: (*items).clone(), state, expires: Some(expires) });
    }
    let kept = match (lock(open, id).await?, change) {
        (Some(kept), _) => kept,
        (None, Change::Release) => {
            if open.execute(RELEASE_FIRST, &[id.to_string().into()]).await? == 1 {
                let state = State::Released;
                return Ok(Reservation { id, items: Items::default(), state, expires: None });
            }
            // Somebody was faster, and is done by now.
            lock(open, id).await?.ok_or(Error::Impossible(id, Impossible::Unknown))?
        }
        (None, _) => return Err(Error::Impossible(id, Impossible::Unknown)),
    };
    change_kept(open, id, kept, change).await
}

async fn change_kept(
    open: &mut Transaction,
    id: ReservationId,
    kept: Kept,
    change: &Change<'_>,
) -> Result<Reservation, Error> {
    if let Change::Reserve(items, _) = change
        && kept.items != **items
        && !kept.was_never_made()
    {
        return Err(Error::Reused(id));
    }
    let mut state = kept.state;
    // Whether it was swept or not, a lease that has run out has run out; and
    // one that was made anew since the sweep began has not.
    let due = kept.is_overdue().then_some(Event::RunOut);
    let asked = Some(change.event()).filter(|event| *event != Event::RunOut);
    for event in due.into_iter().chain(asked) {
        let (next, moved) = State::after(Some(state), event).map_err(|why| Error::Impossible(id, why))?;
        if let Some(moved) = moved {
            move_pieces(open, &kept.items, moved).await?.map_err(|short| refused(event, short))?;
        }
        state = next;
    }
    if state == kept.state && !kept.is_overdue() {
        open.set_rollback_only();
        return Ok(kept.standing(id, state));
    }
    let expires = match (state, change) {
        (State::Held, Change::Reserve(_, lease)) => Some(hold_again(open, id, *lease).await?),
        _ => {
            open.post(WRITE, &[id.to_string().into(), state.as_str().into()]).await?;
            None
        }
    };
    Ok(Reservation { id, items: kept.items, state, expires })
}

/// Who asks for pieces learns that there is no such product. Who asked before
/// it was deleted learns that it has none left.
fn refused(event: Event, short: Short) -> Error {
    let Short { missing, mut left } = short;
    if event == Event::Reserve && !missing.is_empty() {
        return Error::Missing(missing);
    }
    left.extend(missing.into_iter().map(|sku| (sku, 0)));
    left.sort();
    Error::OutOfStock(left)
}

/// A reservation as it is kept.
struct Kept {
    state: State,
    items: Items,
    expires: i64,
    now: i64,
}

impl Kept {
    /// Whether its lease has run out and nobody has swept it yet.
    fn is_overdue(&self) -> bool {
        self.state == State::Held && self.expires <= self.now
    }

    /// Whether it was released before anything was reserved.
    fn was_never_made(&self) -> bool {
        self.items == Items::default()
    }

    fn standing(self, id: ReservationId, state: State) -> Reservation {
        let expires = (state == State::Held).then(|| Timestamp::of_micros(self.expires));
        Reservation { id, items: self.items, state, expires }
    }
}

async fn lock(open: &mut Transaction, id: ReservationId) -> Result<Option<Kept>, DatabaseError> {
    let row = open.row(LOCK, &[id.to_string().into()]).await?;
    row.as_ref().map(read).transpose()
}

/// Keeps a reservation of an id that was not known; when its lease runs out.
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
    let row = row.ok_or_else(|| DatabaseError::corrupt("reservation", "is gone while it is locked"))?;
    Ok(Timestamp::of_micros(row.get("expire_time")?))
}

fn read(row: &Row) -> Result<Kept, DatabaseError> {
    let state = State::parse(&row.get::<String>("state")?);
    let items = Items::parse(&row.get::<String>("items")?);
    Ok(Kept {
        state: state.map_err(|why| DatabaseError::corrupt("state", why))?,
        items: items.map_err(|why| DatabaseError::corrupt("items", why))?,
        expires: row.get("expire_time")?,
        now: row.get("now")?,
    })
}
