//! Orders, read from rows.

use service_kit::{
    currency::Currency,
    database::{Error, Row},
    money::Money,
    timestamp::Timestamp,
    value::{CustomerId, Etag, Quantity, Sku},
};

use crate::domain::{
    CancelReason, Order, OrderFacts, OrderId, OrderLine, OrderProgress, OrderState, PaymentMethod,
};

/// Reads an order from all its rows.
pub(super) fn read_one(rows: &[Row]) -> Result<Option<Order>, Error> {
    Ok(read_all(rows)?.pop())
}

/// Reads orders from their rows; those of one order are adjacent.
pub(super) fn read_all(rows: &[Row]) -> Result<Vec<Order>, Error> {
    let ids: Result<Vec<_>, Error> = rows.iter().map(|row| Ok((text(row, "order_id")?, row))).collect();
    ids?.chunk_by(|one, next| one.0 == next.0).filter_map(order).collect()
}

/// Reads an order: each row has one line, and the rest is the same in all rows.
fn order(rows: &[(String, &Row)]) -> Option<Result<Order, Error>> {
    let (id, first) = rows.first()?;
    let facts = facts(id, first, rows.iter().map(|(_, row)| *row));
    Some(facts.and_then(|facts| Ok(Order::stored(facts, progress(first)?))))
}

fn facts<'r>(id: &str, first: &Row, rows: impl Iterator<Item = &'r Row>) -> Result<OrderFacts, Error> {
    let currency = text(first, "currency")?.parse().map_err(|why| Error::corrupt("currency", why))?;
    Ok(OrderFacts {
        id: OrderId::parse(id).map_err(|why| Error::corrupt("order_id", why))?,
        customer: CustomerId::parse(&text(first, "customer_id")?)
            .map_err(|why| Error::corrupt("customer_id", why))?,
        lines: rows.map(|row| line(currency, row)).collect::<Result<_, _>>()?,
        total: Money::new(first.get("total")?, currency).map_err(|why| Error::corrupt("total", why))?,
        created: Timestamp::of_micros(first.get("create_time")?),
    })
}

fn progress(row: &Row) -> Result<OrderProgress, Error> {
    let some = |column| Ok::<_, Error>(Some(text(row, column)?).filter(|text| !text.is_empty()));
    let reason = some("cancel_reason")?.map(|text| CancelReason::parse(&text)).transpose();
    let payment = some("payment_method")?.map(|text| PaymentMethod::parse(&text)).transpose();
    Ok(OrderProgress {
        state: OrderState::parse(&text(row, "state")?).map_err(|why| Error::corrupt("state", why))?,
        updated: Timestamp::of_micros(row.get("update_time")?),
        etag: Etag::of(row.get("version")?),
        stock_committed: row.get::<i64>("sold")? == 1,
        reason: reason.map_err(|why| Error::corrupt("cancel_reason", why))?,
        payment: payment.map_err(|why| Error::corrupt("payment_method", why))?,
        charge: some("charge_id")?,
        tracking: some("tracking_number")?,
    })
}

fn line(currency: Currency, row: &Row) -> Result<OrderLine, Error> {
    Ok(OrderLine {
        sku: Sku::parse(&text(row, "product_id")?).map_err(|why| Error::corrupt("product_id", why))?,
        title: text(row, "title")?,
        price: Money::new(row.get("unit_price")?, currency)
            .map_err(|why| Error::corrupt("unit_price", why))?,
        quantity: Quantity::parse(row.get::<i64>("quantity")?)
            .map_err(|why| Error::corrupt("quantity", why))?,
    })
}

fn text(row: &Row, column: &'static str) -> Result<String, Error> {
    row.get(column)
}
