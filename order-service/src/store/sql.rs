//! The statements of the store.
//!
//! No order is claimed or postponed for as long as 60 s, [`MAX_AHEAD`]: a later
//! time was written before the clock was set back, and is ignored.

use std::time::Duration;

use service_kit::database::Sql;

/// The same as `60000000` in the statements.
pub(crate) const MAX_AHEAD: Duration = Duration::from_secs(60);

/// The columns of an order, by name: where a later version adds a column, a
/// prepared `SELECT *` would fail in programs that run meanwhile.
macro_rules! columns {
    () => {
        "order_id, customer_id, request_etag, cart_etag, cart_full, state, sold, cancel_reason, payment_method, charge_id, \
         tracking_number, total, currency, create_time, update_time, version, attempts, claim"
    };
}

/// Selects one row per line; an order has at least one line.
macro_rules! orders {
    ($which:literal) => {
        concat!(
            "SELECT o.*, l.product_id, l.title, l.unit_price, l.quantity FROM (SELECT ",
            columns!(),
            " FROM orders WHERE ",
            $which,
            ") o JOIN order_lines l ON l.order_id = o.order_id ORDER BY o.order_id DESC, l.position"
        )
    };
}

/// A statement with the current time between its parts, in microseconds: the
/// server's clock on PostgreSQL, where replicas are on many machines, the machine's
/// own on SQLite, which may have a suffix.
macro_rules! at {
    ($($part:literal)|+) => {
        at!($($part)|+, on SQLite "")
    };
    ($($part:literal)|+, on SQLite $more:literal) => {
        Sql::each(
            concat!(at!(@join "CAST(unixepoch('subsec') * 1000000 AS INTEGER)" $($part)|+), $more),
            at!(@join "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)" $($part)|+),
        )
    };
    (@join $now:literal $first:literal $(| $next:literal)*) => {
        concat!($first $(, $now, $next)*)
    };
}

macro_rules! claim_cart {
    ($where:literal) => {
        concat!(
            "INSERT INTO ordered_carts (customer_id, cart_etag, order_id) SELECT $1, $2, $3",
            $where,
            " ON CONFLICT (customer_id, cart_etag) DO UPDATE SET order_id = excluded.order_id \
             WHERE EXISTS (SELECT 1 FROM orders o WHERE o.order_id = ordered_carts.order_id \
             AND o.cancel_reason = 'out_of_stock')"
        )
    };
}

pub(super) const BY_ID: &str = orders!("order_id = $1");

/// As [`BY_ID`], with the state of its claim, without a lock.
pub(super) const SNAPSHOT: Sql = at!(
    "SELECT o.*, l.product_id, l.title, l.unit_price, l.quantity FROM (SELECT order_id, customer_id, \
     cart_etag, cart_full, state, sold, cancel_reason, payment_method, charge_id, tracking_number, total, currency, \
     create_time, update_time, version, attempts, claim, \
     CAST(CASE WHEN lease_time > "
        | " AND lease_time <= "
        | " + 60000000 THEN 1 ELSE 0 END AS BIGINT) AS busy, \
     CAST(CASE WHEN unsettled = 1 AND (due_time <= "
        | " OR due_time > "
        | " + 60000000) THEN 1 ELSE 0 END AS BIGINT) AS due FROM orders WHERE order_id = $1) o \
     JOIN order_lines l ON l.order_id = o.order_id ORDER BY o.order_id DESC, l.position"
);

/// Selects an order of the first version: later ones have no request id.
pub(super) const BY_REQUEST: &str = orders!("request_id = $1");

pub(super) const OF_CUSTOMER: &str =
    orders!("customer_id = $1 AND order_id < $2 ORDER BY order_id DESC LIMIT $3");

/// Claims the version `$2` of the cart of `$1` for the order `$3`, unless another
/// order has it that was not cancelled as out of stock, which is final. An order
/// that does not exist counts: PostgreSQL may not see it yet. It runs after the
/// claim on the request, and [`INSERT`] after it.
pub(super) const CLAIM_CART: Sql = Sql::each(claim_cart!(" WHERE changes() > 0"), claim_cart!(""));

/// Selects the order that has claimed a version of a cart.
pub(super) const CLAIMED_CART: &str =
    "SELECT order_id FROM ordered_carts WHERE customer_id = $1 AND cart_etag = $2";

/// Inserts an order with the first claim, for `$8` microseconds. It runs after the
/// claim on the cart, and inserts nothing when that did not; on PostgreSQL the
/// transaction has failed then.
pub(super) const INSERT: Sql = at!(
    "INSERT INTO orders (order_id, customer_id, cart_etag, state, total, currency, create_time, update_time, \
     version, cart_full, sold, unsettled, claim, lease_time, due_time) \
     SELECT $1, $2, $3, $4, $5, $6, $7, $7, 1, 1, 0, 1, 1, "
        | " + $8, "
        | " + $8",
    on SQLite " WHERE changes() > 0"
);

/// Locks an order against other writers, and returns the state of its claim.
pub(super) const LOCK: Sql = at!(
    "UPDATE orders SET version = version WHERE order_id = $1 RETURNING claim, attempts, cart_etag, cart_full, \
     CAST(CASE WHEN lease_time > "
        | " AND lease_time <= "
        | " + 60000000 THEN 1 ELSE 0 END AS BIGINT) AS busy, \
     CAST(CASE WHEN unsettled = 1 AND (due_time <= "
        | " OR due_time > "
        | " + 60000000) THEN 1 ELSE 0 END AS BIGINT) AS due"
);

/// Updates an order if the claim `$2` still holds it; `$3` is the new claim, for
/// `$4` microseconds.
pub(super) const WRITE: Sql = at!("UPDATE orders SET claim = $3, lease_time = "
    | " + $4, due_time = "
    | " + $4, unsettled = $5, \
     cart_full = $6, state = $7, update_time = $8, version = $9, sold = $10, cancel_reason = $11, \
     payment_method = $12, charge_id = $13, tracking_number = $14, attempts = 0 \
     WHERE order_id = $1 AND claim = $2");

/// Releases an order, which is due again in `$3` microseconds.
pub(super) const POSTPONE: Sql = at!("UPDATE orders SET lease_time = 0, due_time = "
    | " + $3, attempts = attempts + 1 \
     WHERE order_id = $1 AND claim = $2");

pub(super) const DUE: Sql = at!("SELECT order_id FROM orders WHERE unsettled = 1 AND (due_time <= "
    | " OR due_time > "
    | " + 60000000) ORDER BY due_time LIMIT $1");
