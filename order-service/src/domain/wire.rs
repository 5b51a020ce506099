//! Orders in the protocol.

use mesh_proto::shop::order::v1 as wire;

use super::{Order, OrderFacts, OrderLine};

impl From<&Order> for wire::Order {
    fn from(order: &Order) -> Self {
        let OrderFacts { id, customer, lines, total, created } = order.facts();
        let progress = order.progress();
        let reason = progress.reason.map_or(wire::CancelReason::Unspecified, Into::into);
        Self {
            order_id: id.to_string(),
            customer_id: customer.as_str().to_owned(),
            state: wire::OrderState::from(progress.state).into(),
            lines: lines.iter().map(Into::into).collect(),
            total: Some((*total).into()),
            create_time: Some((*created).into()),
            update_time: Some(progress.updated.into()),
            etag: progress.etag.to_string(),
            cancel_reason: reason.into(),
            charge_id: progress.charge.clone().unwrap_or_default(),
            tracking_number: progress.tracking.clone().unwrap_or_default(),
        }
    }
}

impl From<Order> for wire::Order {
    fn from(order: Order) -> Self {
        (&order).into()
    }
}

impl From<&OrderLine> for wire::OrderLine {
    fn from(line: &OrderLine) -> Self {
        Self {
            product_id: line.sku.to_string(),
            title: line.title.clone(),
            unit_price: Some(line.price.into()),
            quantity: line.quantity.get().into(),
        }
    }
}
