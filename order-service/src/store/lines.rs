//! The lines of an order, which one statement inserts.

use serde::Serialize;
use service_kit::database::{Error, Sql, Value};

use crate::domain::OrderLine;

/// Inserts the lines `$2`, from [`json`], of the order `$1`. It runs after the
/// insertion of the order, and inserts nothing when that did not, or when the
/// request `$3` has created an order of the first version.
pub(super) const INSERT: Sql = Sql::each(
    "INSERT INTO order_lines (order_id, position, product_id, title, unit_price, quantity) \
     SELECT $1, key, value->>'product_id', value->>'title', value->>'unit_price', value->>'quantity' \
     FROM json_each($2) \
     WHERE changes() > 0 AND NOT EXISTS (SELECT 1 FROM orders WHERE request_id = $3)",
    "INSERT INTO order_lines (order_id, position, product_id, title, unit_price, quantity) \
     SELECT $1, position - 1, line->>'product_id', line->>'title', (line->>'unit_price')::bigint, \
     (line->>'quantity')::bigint \
     FROM jsonb_array_elements($2::jsonb) WITH ORDINALITY AS lines (line, position) \
     WHERE NOT EXISTS (SELECT 1 FROM orders WHERE request_id = $3)",
);

#[derive(Serialize)]
struct Columns<'a> {
    product_id: &'a str,
    title: &'a str,
    unit_price: i64,
    quantity: u16,
}

pub(super) fn json(lines: &[OrderLine]) -> Result<Value, Error> {
    let columns = |line: &'_ OrderLine| -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(Columns {
            product_id: line.sku.as_str(),
            title: &line.title,
            unit_price: line.price.minor(),
            quantity: line.quantity.get(),
        })
    };
    let lines: serde_json::Result<Vec<_>> = lines.iter().map(columns).collect();
    let text = lines.and_then(|lines| serde_json::to_string(&lines));
    text.map(Value::Text).map_err(|why| Error::corrupt("line", why))
}
