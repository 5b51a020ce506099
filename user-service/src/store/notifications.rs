//! What customers were told.

use std::{slice, time::Duration};

use mesh_proto::shop::user::v1 as wire;
use service_kit::{
    database::{Error as DatabaseError, Row, Transaction, Value},
    timestamp::Timestamp,
    value::CustomerId,
};

use super::{CLEAN_BATCH, Store};

/// The next position, which holds the customer's row: positions become visible
/// in their order.
const NEXT: &str = "INSERT INTO notified (customer_id, position) VALUES ($1, 1) \
     ON CONFLICT (customer_id) DO UPDATE SET position = notified.position + 1 RETURNING position";

/// Nothing is kept of who is gone.
const TELL: &str = "INSERT INTO notifications \
     (customer_id, position, event_id, order_id, order_etag, text, create_time) \
     SELECT $1, $2, $3, $4, $5, $6, $7 WHERE NOT EXISTS (SELECT 1 FROM deleted_users WHERE user_id = $1)";

const LIST: &str = "SELECT position, event_id, order_id, order_etag, text, create_time FROM notifications \
     WHERE customer_id = $1 AND position > $2 ORDER BY position LIMIT $3";

const CLEAN: &str = "DELETE FROM notifications WHERE (customer_id, position) IN \
     (SELECT customer_id, position FROM notifications WHERE create_time <= $1 ORDER BY create_time LIMIT $2)";

/// How long a customer finds what they were told.
const KEPT: Duration = Duration::from_hours(90 * 24);

const HOLD: &str = "INSERT INTO notified (customer_id, position) VALUES ($1, 0) \
     ON CONFLICT (customer_id) DO UPDATE SET position = notified.position";

const FORGET: &str = "DELETE FROM notifications WHERE customer_id = $1";

const FORGET_POSITION: &str = "DELETE FROM notified WHERE customer_id = $1";

/// What a customer was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its place among those of its customer, as pages name it.
    pub position: String,
    /// As callers see it.
    pub notification: wire::Notification,
}

impl Store {
    /// Up to `most` of what a customer was told after the position `after`, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn told(
        &self,
        customer: &CustomerId,
        after: i64,
        most: usize,
    ) -> Result<Vec<Told>, DatabaseError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self.database.rows(LIST, &[customer.as_str().into(), after.into(), most.into()]).await?;
        rows.iter().map(read).collect()
    }

    /// Removes some of what customers were told more than 90 days ago; returns
    /// how many.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have been removed.
    pub async fn clean_notifications(&self, now: Timestamp) -> Result<u64, DatabaseError> {
        let kept = i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX);
        let before = now.micros().saturating_sub(kept);
        let mut open = self.database.begin().await?;
        let removed = open.execute(CLEAN, &[before.into(), CLEAN_BATCH.into()]).await?;
        open.commit().await?;
        Ok(removed)
    }
}

/// Tells a customer, in this transaction.
///
/// # Errors
/// When the database fails.
///
/// # Cancel safety
/// As [`Transaction::execute`].
pub(crate) async fn tell(
    open: &mut Transaction,
    customer: &CustomerId,
    notification: &wire::Notification,
    when: Timestamp,
) -> Result<(), DatabaseError> {
    let id: Value = customer.as_str().into();
    let Some(row) = open.row(NEXT, slice::from_ref(&id)).await? else {
        return Err(DatabaseError::corrupt("position", "there is none"));
    };
    let values = [
        id.clone(),
        row.get::<i64>("position")?.into(),
        notification.event_id.as_str().into(),
        notification.order_id.as_str().into(),
        notification.order_etag.as_str().into(),
        notification.text.as_str().into(),
        when.micros().into(),
    ];
    if open.execute(TELL, &values).await? == 0 {
        open.execute(FORGET_POSITION, &[id]).await?;
    }
    Ok(())
}

/// Forgets what a customer was told. Waits for whoever is about to tell them
/// more.
pub(super) async fn forget(open: &mut Transaction, customer: &Value) -> Result<(), DatabaseError> {
    for step in [HOLD, FORGET, FORGET_POSITION] {
        open.execute(step, slice::from_ref(customer)).await?;
    }
    Ok(())
}

fn read(row: &Row) -> Result<Told, DatabaseError> {
    let notification = wire::Notification {
        event_id: row.get("event_id")?,
        order_id: row.get("order_id")?,
        order_etag: row.get("order_etag")?,
        text: row.get("text")?,
        create_time: Some(Timestamp::of_micros(row.get("create_time")?).into()),
    };
    Ok(Told { position: row.get::<i64>("position")?.to_string(), notification })
}
