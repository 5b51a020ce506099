//! Where an order stands, and how that changes.

use mesh_proto::shop::order::v1::{CancelReason as WireReason, OrderState};
use service_kit::value::InvalidValue;

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Recorded, its goods not yet secured.
    Pending,
    /// Accepted: its goods are its own.
    Confirmed,
    /// A charge is under way, or its outcome is not known yet.
    Paying,
    /// Paid.
    Paid,
    /// Being handed to the carrier, or whether that happened is not known yet.
    Shipping,
    /// With the carrier.
    Shipped,
    /// Arrived; final.
    Completed,
    /// Refunds and returns are under way.
    Cancelling,
    /// Cancelled; final.
    Cancelled,
}

/// What can happen to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Its goods are its own.
    Secured,
    /// Its goods cannot be had.
    OutOfStock,
    /// Somebody wants to pay.
    Pay,
    /// The charge was made.
    Charged,
    /// The charge was declined.
    Declined,
    /// Somebody wants it shipped.
    Ship,
    /// The carrier has taken it.
    Booked,
    /// The carrier refuses it.
    Refused,
    /// It has arrived.
    Complete,
    /// Somebody wants it cancelled.
    Cancel,
    /// Everything is refunded and returned.
    Unwound,
}

impl State {
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

    /// Where an order stands after an event: all transitions there are. `None`
    /// where the event cannot happen.
    ///
    /// ```text
    /// Pending ──► Confirmed ──► Paying ──► Paid ──► Shipping ──► Shipped ──► Completed
    ///    │            │  ▲         │ │       │          │
    ///    │            │  └─declined┘ │       │          │ refused
    ///    └────────────┴──────────────┴───────┴──────────┴──► Cancelling ──► Cancelled
    /// ```
    pub(super) fn after(self, event: Event) -> Option<Self> {
        Some(match (self, event) {
            (Self::Pending, Event::Secured) | (Self::Paying, Event::Declined) => Self::Confirmed,
            (Self::Confirmed, Event::Pay) => Self::Paying,
            (Self::Paying, Event::Charged) => Self::Paid,
            (Self::Paid, Event::Ship) => Self::Shipping,
            (Self::Shipping, Event::Booked) => Self::Shipped,
            (Self::Shipped, Event::Complete) => Self::Completed,
            (Self::Pending | Self::Confirmed, Event::OutOfStock)
            | (Self::Confirmed | Self::Paying | Self::Paid, Event::Cancel)
            | (Self::Shipping, Event::Refused) => Self::Cancelling,
            (Self::Cancelling, Event::Unwound) => Self::Cancelled,
            _ => return None,
        })
    }

    /// As it stands in the database.
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

    /// Reads what [`as_str`](Self::as_str) wrote.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.into_iter().find(|state| state.as_str() == text);
        known.ok_or_else(|| InvalidValue("is not a state of an order".into()))
    }
}

impl From<State> for OrderState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Confirmed => Self::Confirmed,
            State::Paying => Self::Paying,
            State::Paid => Self::Paid,
            State::Shipping => Self::Shipping,
            State::Shipped => Self::Shipped,
            State::Completed => Self::Completed,
            State::Cancelling => Self::Cancelling,
            State::Cancelled => Self::Cancelled,
        }
    }
}

/// Why an order was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// Somebody asked for it.
    Requested,
    /// There were too few pieces.
    OutOfStock,
    /// The carrier refused it.
    ShippingRefused,
}

impl CancelReason {
    const ALL: [Self; 3] = [Self::Requested, Self::OutOfStock, Self::ShippingRefused];

    /// As it stands in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::OutOfStock => "out_of_stock",
            Self::ShippingRefused => "shipping_refused",
        }
    }

    /// Reads what [`as_str`](Self::as_str) wrote.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        known.ok_or_else(|| InvalidValue("is not a reason to cancel".into()))
    }
}

impl From<CancelReason> for WireReason {
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
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Ok(state));
        }
        for reason in CancelReason::ALL {
            assert_eq!(CancelReason::parse(reason.as_str()), Ok(reason));
        }
        assert!(State::parse("").is_err() && CancelReason::parse("").is_err());
    }

    #[test]
    fn nothing_happens_to_what_is_final() {
        let events = [
            Event::Secured,
            Event::OutOfStock,
            Event::Pay,
            Event::Charged,
            Event::Declined,
            Event::Ship,
            Event::Booked,
            Event::Refused,
            Event::Complete,
            Event::Cancel,
            Event::Unwound,
        ];
        for event in events {
            assert_eq!((State::Completed.after(event), State::Cancelled.after(event)), (None, None));
        }
    }
}
