//! Orders as the protocol has them.

use mesh_proto::shop::order::v1 as wire;

use super::{Facts, Line, Order};

impl From<&Order> for wire::Order {
    fn from(order: &Order) -> Self {
        let Facts { id, customer, lines, total, created } = order.facts();
        let reason = order.reason.map_or(wire::CancelReason::Unspecified, Into::into);
        Self {
            order_id: id.to_string(),
            customer_id: customer.as_str().to_owned(),
            state: wire::OrderState::from(order.state).into(),
            lines: lines.iter().map(Into::into).collect(),
            total: Some((*total).into()),
            create_time: Some((*created).into()),
            update_time: Some(order.updated.into()),
            etag: order.etag.to_string(),
            cancel_reason: reason.into(),
            charge_id: order.charge.clone().unwrap_or_default(),
            tracking_number: order.tracking.clone().unwrap_or_default(),
        }
    }
}

impl From<Order> for wire::Order {
    fn from(order: Order) -> Self {
        (&order).into()
    }
}

impl From<&Line> for wire::OrderLine {
    fn from(line: &Line) -> Self {
        Self {
            product_id: line.sku.to_string(),
            title: line.title.clone(),
            unit_price: Some(line.price.into()),
            quantity: line.quantity.get().into(),
        }
    }
}
