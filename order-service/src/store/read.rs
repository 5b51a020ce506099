//! Rows, read into orders that hold.

use service_kit::{
    currency::Currency,
    database::{Error, Row},
    money::Money,
    timestamp::Timestamp,
    value::{CustomerId, Etag, Quantity, Sku},
};

use crate::domain::{CancelReason, Changing, Facts, Line, Order, OrderId, PaymentMethod, State};

/// The order of these rows, all of one order.
pub(super) fn read_one(rows: &[Row]) -> Result<Option<Order>, Error> {
    Ok(read_all(rows)?.pop())
}

/// The orders of these rows, those of one order in succession.
pub(super) fn read_all(rows: &[Row]) -> Result<Vec<Order>, Error> {
    let ids: Result<Vec<_>, Error> = rows.iter().map(|row| Ok((text(row, "order_id")?, row))).collect();
    ids?.chunk_by(|one, next| one.0 == next.0).filter_map(order).collect()
}

/// One line in each row; the rest of an order is the same in all of them.
fn order(rows: &[(String, &Row)]) -> Option<Result<Order, Error>> {
    let (id, first) = rows.first()?;
    let facts = facts(id, first, rows.iter().map(|(_, row)| *row));
    Some(facts.and_then(|facts| Ok(Order::kept(facts, changing(first)?))))
}

fn facts<'r>(id: &str, first: &Row, rows: impl Iterator<Item = &'r Row>) -> Result<Facts, Error> {
    let currency = text(first, "currency")?.parse().map_err(|why| Error::corrupt("currency", why))?;
    Ok(Facts {
        id: OrderId::parse(id).map_err(|why| Error::corrupt("order_id", why))?,
        customer: CustomerId::parse(&text(first, "customer_id")?)
            .map_err(|why| Error::corrupt("customer_id", why))?,
        lines: rows.map(|row| line(currency, row)).collect::<Result<_, _>>()?,
        total: Money::new(first.get("total")?, currency).map_err(|why| Error::corrupt("total", why))?,
        created: Timestamp::of_micros(first.get("create_time")?),
    })
}

fn changing(row: &Row) -> Result<Changing, Error> {
    let some = |column| Ok::<_, Error>(Some(text(row, column)?).filter(|text| !text.is_empty()));
    let reason = some("cancel_reason")?.map(|text| CancelReason::parse(&text)).transpose();
    let payment = some("payment_method")?.map(|text| PaymentMethod::parse(&text)).transpose();
    Ok(Changing {
        state: State::parse(&text(row, "state")?).map_err(|why| Error::corrupt("state", why))?,
        updated: Timestamp::of_micros(row.get("update_time")?),
        etag: Etag::of(row.get("version")?),
        sold: row.get::<i64>("sold")? == 1,
        reason: reason.map_err(|why| Error::corrupt("cancel_reason", why))?,
        payment: payment.map_err(|why| Error::corrupt("payment_method", why))?,
        charge: some("charge_id")?,
        tracking: some("tracking_number")?,
    })
}

fn line(currency: Currency, row: &Row) -> Result<Line, Error> {
    Ok(Line {
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
