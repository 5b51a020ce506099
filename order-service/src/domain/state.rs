//! The state of an order, and its transitions.

use mesh_proto::shop::order::v1 as wire;
use service_kit::value::InvalidValue;

/// The state of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderState {
    /// Recorded, without its goods.
    Pending,
    /// Accepted, with its goods committed.
    Confirmed,
    /// Being charged; the outcome is unknown.
    Paying,
    /// Paid.
    Paid,
    /// Being handed to the carrier; the outcome is unknown.
    Shipping,
    /// With the carrier.
    Shipped,
    /// Arrived; final.
    Completed,
    /// Being refunded and released.
    Cancelling,
    /// Cancelled; final.
    Cancelled,
}

/// An event in the life of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OrderEvent {
    StockCommitted,
    OutOfStock,
    /// Payment is requested.
    Pay,
    Charged,
    Declined,
    /// Shipment is requested.
    Ship,
    /// The carrier has accepted it.
    Booked,
    /// The carrier has refused it.
    Refused,
    /// It has arrived.
    Complete,
    /// Cancellation is requested.
    Cancel,
    /// It is refunded and released.
    Compensated,
}

impl OrderState {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Confirmed,
        Self::Paying,
        Self::Paid,
        Self::Shipping,
        Self::Shipped,
        Self::Completed,
        Self::Cancelling,
        Self::Cancelled,
    ];

    /// The state after an event, with all transitions. `None` when the event is not
    /// possible.
    ///
    /// ```text
    /// Pending ──► Confirmed ──► Paying ──► Paid ──► Shipping ──► Shipped ──► Completed
    ///    │            │  ▲         │ │       │          │
    ///    │            │  └─declined┘ │       │          │ refused
    ///    └────────────┴──────────────┴───────┴──────────┴──► Cancelling ──► Cancelled
    /// ```
    pub(super) fn after(self, event: OrderEvent) -> Option<Self> {
        Some(match (self, event) {
            (Self::Pending, OrderEvent::StockCommitted) | (Self::Paying, OrderEvent::Declined) => {
                Self::Confirmed
            }
            (Self::Confirmed, OrderEvent::Pay) => Self::Paying,
            (Self::Paying, OrderEvent::Charged) => Self::Paid,
            (Self::Paid, OrderEvent::Ship) => Self::Shipping,
            (Self::Shipping, OrderEvent::Booked) => Self::Shipped,
            (Self::Shipped, OrderEvent::Complete) => Self::Completed,
            (Self::Pending | Self::Confirmed, OrderEvent::OutOfStock)
            | (Self::Confirmed | Self::Paying | Self::Paid, OrderEvent::Cancel)
            | (Self::Shipping, OrderEvent::Refused) => Self::Cancelling,
            (Self::Cancelling, OrderEvent::Compensated) => Self::Cancelled,
            _ => return None,
        })
    }

    /// The value in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Paying => "paying",
            Self::Paid => "paid",
            Self::Shipping => "shipping",
            Self::Shipped => "shipped",
            Self::Completed => "completed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Parses the value of [`as_str`](Self::as_str).
    ///
    /// # Errors
    /// When it is another value.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.into_iter().find(|state| state.as_str() == text);
        known.ok_or_else(|| InvalidValue("is not a state of an order".into()))
    }
}

impl From<OrderState> for wire::OrderState {
    fn from(state: OrderState) -> Self {
        match state {
            OrderState::Pending => Self::Pending,
            OrderState::Confirmed => Self::Confirmed,
            OrderState::Paying => Self::Paying,
            OrderState::Paid => Self::Paid,
            OrderState::Shipping => Self::Shipping,
            OrderState::Shipped => Self::Shipped,
            OrderState::Completed => Self::Completed,
            OrderState::Cancelling => Self::Cancelling,
            OrderState::Cancelled => Self::Cancelled,
        }
    }
}

/// The reason why an order was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// A caller requested it.
    Requested,
    /// There were too few pieces.
    OutOfStock,
    /// The carrier refused it.
    ShippingRefused,
}

impl CancelReason {
    const ALL: [Self; 3] = [Self::Requested, Self::OutOfStock, Self::ShippingRefused];

    /// The value in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::OutOfStock => "out_of_stock",
            Self::ShippingRefused => "shipping_refused",
        }
    }

    /// Parses the value of [`as_str`](Self::as_str).
    ///
    /// # Errors
    /// When it is another value.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        known.ok_or_else(|| InvalidValue("is not a reason to cancel".into()))
    }
}

impl From<CancelReason> for wire::CancelReason {
    fn from(reason: CancelReason) -> Self {
        match reason {
            CancelReason::Requested => Self::Requested,
            CancelReason::OutOfStock => Self::OutOfStock,
            CancelReason::ShippingRefused => Self::ShippingRefused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_reasons_are_read_as_they_were_written() {
        for state in OrderState::ALL {
            assert_eq!(OrderState::parse(state.as_str()), Ok(state));
        }
        for reason in CancelReason::ALL {
            assert_eq!(CancelReason::parse(reason.as_str()), Ok(reason));
        }
        assert!(OrderState::parse("").is_err() && CancelReason::parse("").is_err());
    }

    #[test]
    fn a_final_state_has_no_transitions() {
        let events = [
            OrderEvent::StockCommitted,
            OrderEvent::OutOfStock,
            OrderEvent::Pay,
            OrderEvent::Charged,
            OrderEvent::Declined,
            OrderEvent::Ship,
            OrderEvent::Booked,
            OrderEvent::Refused,
            OrderEvent::Complete,
            OrderEvent::Cancel,
            OrderEvent::Compensated,
        ];
        for event in events {
            assert_eq!(
                (OrderState::Completed.after(event), OrderState::Cancelled.after(event)),
                (None, None)
            );
        }
    }
}
