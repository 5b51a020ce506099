//! Rows, read into orders that hold.

use service_kit::{
    currency::Currency,
    database::{Error, Row},
    money::Money,
    timestamp::Timestamp,
    value::{CustomerId, Etag, Quantity, Sku},
};

use crate::domain::{Line, Order, OrderId, State};

/// The order of these rows, all of one order.
pub(super) fn read_one(rows: &[Row]) -> Result<Option<Order>, Error> {
    Ok(read_all(rows)?.pop())
}

/// The orders of these rows, those of one order in succession.
pub(super) fn read_all(rows: &[Row]) -> Result<Vec<Order>, Error> {
    let mut orders: Vec<Order> = Vec::new();
    for row in rows {
        let id = OrderId::parse(&text(row, "order_id")?).map_err(|why| Error::corrupt("order_id", why))?;
        if orders.last().is_none_or(|order| order.id != id) {
            orders.push(order(id, row)?);
        }
        if let Some(order) = orders.last_mut() {
            let currency = order.total.currency();
            order.lines.push(line(currency, row)?);
        }
    }
    Ok(orders)
}

fn order(id: OrderId, row: &Row) -> Result<Order, Error> {
    let currency: Currency = text(row, "currency")?.parse().map_err(|why| Error::corrupt("currency", why))?;
    Ok(Order {
        id,
        customer: CustomerId::parse(&text(row, "customer_id")?)
            .map_err(|why| Error::corrupt("customer_id", why))?,
        state: State::parse(&text(row, "state")?).map_err(|why| Error::corrupt("state", why))?,
        lines: Vec::new(),
        total: Money::new(row.get("total")?, currency).map_err(|why| Error::corrupt("total", why))?,
        created: Timestamp::of_micros(row.get("create_time")?),
        updated: Timestamp::of_micros(row.get("update_time")?),
        etag: Etag::of(row.get("version")?),
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
