//! The notifications of customers.

use std::{slice, time::Duration};

use mesh_proto::shop::user::v1 as wire;
use service_kit::{
    database::{Error as DatabaseError, Row, Transaction, Value},
    timestamp::Timestamp,
    value::CustomerId,
};

use super::{CLEANUP_BATCH_SIZE, Store};
use crate::clock::before;

/// Takes the next position and locks the customer's row, so that positions become
/// visible in order.
const NEXT: &str = "INSERT INTO notified (customer_id, position) VALUES ($1, 1) \
     ON CONFLICT (customer_id) DO UPDATE SET position = notified.position + 1 RETURNING position";

/// Inserts a notification, unless the account was deleted.
const INSERT: &str = "INSERT INTO notifications \
     (customer_id, position, event_id, order_id, order_etag, text, create_time) \
     SELECT $1, $2, $3, $4, $5, $6, $7 WHERE NOT EXISTS (SELECT 1 FROM deleted_users WHERE user_id = $1)";

const LIST: &str = "SELECT position, event_id, order_id, order_etag, text, create_time FROM notifications \
     WHERE customer_id = $1 AND position > $2 ORDER BY position LIMIT $3";

const DELETE_OLD: &str = "DELETE FROM notifications WHERE (customer_id, position) IN \
     (SELECT customer_id, position FROM notifications WHERE create_time <= $1 ORDER BY create_time LIMIT $2)";

/// The age at which notifications are deleted.
const RETENTION: Duration = Duration::from_hours(90 * 24);

const LOCK: &str = "INSERT INTO notified (customer_id, position) VALUES ($1, 0) \
     ON CONFLICT (customer_id) DO UPDATE SET position = notified.position";

const DELETE: &str = "DELETE FROM notifications WHERE customer_id = $1";

const DELETE_POSITION: &str = "DELETE FROM notified WHERE customer_id = $1";

/// A notification with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNotification {
    /// The position among those of its customer, which is the key of pages.
    pub position: String,
    /// The notification for callers.
    pub notification: wire::Notification,
}

impl Store {
    /// Lists up to `limit` notifications of a customer after the position `after`,
    /// oldest first.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn notifications(
        &self,
        customer: &CustomerId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<StoredNotification>, DatabaseError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.database.rows(LIST, &[customer.as_str().into(), after.into(), limit.into()]).await?;
        rows.iter().map(read).collect()
    }

    /// Deletes a batch of notifications that are older than 90 days; returns their
    /// number.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have been deleted.
    pub async fn delete_old_notifications(&self, now: Timestamp) -> Result<u64, DatabaseError> {
        let oldest = before(now, RETENTION).micros();
        let mut open = self.database.begin().await?;
        let deleted = open.execute(DELETE_OLD, &[oldest.into(), CLEANUP_BATCH_SIZE.into()]).await?;
        open.commit().await?;
        Ok(deleted)
    }
}

/// Adds a notification of a customer, in this transaction.
///
/// # Errors
/// When the database fails.
///
/// # Cancel safety
/// As [`Transaction::execute`].
pub(crate) async fn notify(
    open: &mut Transaction,
    customer: &CustomerId,
    notification: &wire::Notification,
    time: Timestamp,
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
        time.micros().into(),
    ];
    if open.execute(INSERT, &values).await? == 0 {
        open.execute(DELETE_POSITION, &[id]).await?;
    }
    Ok(())
}

/// Deletes the notifications of a customer, after waiting for a transaction that adds
/// one.
pub(super) async fn delete(open: &mut Transaction, customer: &Value) -> Result<(), DatabaseError> {
    for step in [LOCK, DELETE, DELETE_POSITION] {
        open.execute(step, slice::from_ref(customer)).await?;
    }
    Ok(())
}

fn read(row: &Row) -> Result<StoredNotification, DatabaseError> {
    let notification = wire::Notification {
        event_id: row.get("event_id")?,
        order_id: row.get("order_id")?,
        order_etag: row.get("order_etag")?,
        text: row.get("text")?,
        create_time: Some(Timestamp::of_micros(row.get("create_time")?).into()),
    };
    Ok(StoredNotification { position: row.get::<i64>("position")?.to_string(), notification })
}
