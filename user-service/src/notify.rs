//! The notifications of customers about their orders.

use mesh_proto::shop::{
    events::v1::{Event, event::Payload},
    order::v1::{CancelReason, Order, OrderState},
    user::v1::Notification,
};
use service_kit::{
    database::Transaction,
    events::{HandleError, Subscriber},
    money::Money,
    timestamp::Timestamp,
    value::{CustomerId, line},
};

use crate::store;

/// The subscriber that notifies customers of every change of their orders, by one
/// notification per event. The inbox filters duplicate events.
#[derive(Clone, Copy, Debug)]
pub struct Notifier;

#[tonic::async_trait]
impl Subscriber for Notifier {
    async fn handle(&self, open: &mut Transaction, event: &Event) -> Result<(), HandleError> {
        let Some(Payload::OrderChanged(changed)) = &event.payload else { return Ok(()) };
        let order =
            changed.order.as_ref().ok_or_else(|| HandleError::Permanent("the event has no order".into()))?;
        let customer = CustomerId::parse(&order.customer_id);
        let customer = customer.map_err(|why| HandleError::Permanent(format!("order.customer_id: {why}")))?;
        let notification = Notification {
            event_id: checked("event_id", &event.event_id)?,
            order_id: checked("order.order_id", &order.order_id)?,
            order_etag: checked("order.etag", &order.etag)?,
            text: text(order)?,
            create_time: None,
        };
        Ok(store::notify(open, &customer, &notification, created(event)).await?)
    }
}

fn checked(path: &str, text: &str) -> Result<String, HandleError> {
    line(text, 128).map_err(|why| HandleError::Permanent(format!("{path}: {why}")))
}

fn created(event: &Event) -> Timestamp {
    event.create_time.map_or_else(Timestamp::now, |time| {
        let micros = time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1_000);
        Timestamp::of_micros(micros)
    })
}

/// Describes the change in a sentence.
fn text(order: &Order) -> Result<String, HandleError> {
    let id = &order.order_id;
    let total = || {
        let total = Money::parse(order.total.as_ref());
        total.map_err(|why| HandleError::Permanent(format!("order.total: {why}")))
    };
    Ok(match order.state() {
        OrderState::Unspecified => return Err(HandleError::Permanent("order.state is unknown".into())),
        OrderState::Pending => format!("Order {id} was received."),
        OrderState::Confirmed => format!("Order {id} is confirmed: {}.", total()?),
        OrderState::Paying => format!("Order {id} is being paid: {}.", total()?),
        OrderState::Paid => format!("Order {id} is paid: {}.", total()?),
        OrderState::Shipping => format!("Order {id} is being handed to the carrier."),
        OrderState::Shipped if order.tracking_number.is_empty() => format!("Order {id} is on its way."),
        OrderState::Shipped => {
            let number = checked("order.tracking_number", &order.tracking_number)?;
            format!("Order {id} is on its way; its tracking number is {number}.")
        }
        OrderState::Completed => format!("Order {id} has arrived."),
        OrderState::Cancelling => format!("Order {id} is being cancelled."),
        OrderState::Cancelled => format!("Order {id} is cancelled{}.", because(order.cancel_reason())),
    })
}

fn because(reason: CancelReason) -> &'static str {
    match reason {
        CancelReason::Unspecified | CancelReason::Requested => "",
        CancelReason::OutOfStock => ": it is out of stock",
        CancelReason::ShippingRefused => ": the carrier refused it",
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::google::r#type::Money as WireMoney;

    use super::*;

    fn order(state: OrderState) -> Order {
        Order {
            order_id: "o-1".into(),
            customer_id: "ada".into(),
            state: state.into(),
            total: Some(WireMoney { currency_code: "EUR".into(), units: 24, nanos: 950_000_000 }),
            etag: "3".into(),
            ..Order::default()
        }
    }

    #[test]
    fn every_state_has_a_sentence() {
        assert_eq!(text(&order(OrderState::Paid)).unwrap(), "Order o-1 is paid: 24.95 EUR.");
        let shipped = Order { tracking_number: "T7".into(), ..order(OrderState::Shipped) };
        assert_eq!(text(&shipped).unwrap(), "Order o-1 is on its way; its tracking number is T7.");
        let cancelled =
            Order { cancel_reason: CancelReason::OutOfStock.into(), ..order(OrderState::Cancelled) };
        assert_eq!(text(&cancelled).unwrap(), "Order o-1 is cancelled: it is out of stock.");
        for state in 1..=9 {
            let state = OrderState::try_from(state).unwrap();
            assert!(text(&order(state)).unwrap().starts_with("Order o-1 "));
        }
    }

    #[test]
    fn an_event_without_a_valid_order_fails_permanently() {
        assert!(matches!(text(&order(OrderState::Unspecified)), Err(HandleError::Permanent(_))));
        let no_total = Order { total: None, ..order(OrderState::Paid) };
        assert!(matches!(text(&no_total), Err(HandleError::Permanent(_))));
        assert!(checked("event_id", "a\0b").is_err() && checked("event_id", "").is_err());
    }
}
