//! What an order is, and how it may change.

use mesh_proto::shop::order::v1 as wire;
use service_kit::{
    money::{Money, MoneyError},
    timestamp::Timestamp,
    value::{CustomerId, Etag, InvalidValue, Quantity, Sku},
};

mod id;

pub use id::{OrderId, RequestId};

/// What a customer has bought, and where that stands. It changes by its
/// methods only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    facts: Facts,
    state: State,
    updated: Timestamp,
    etag: Etag,
}

/// What of an order never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its id.
    pub id: OrderId,
    /// Who bought.
    pub customer: CustomerId,
    /// What was bought, at least one.
    pub lines: Vec<Line>,
    /// What the lines come to.
    pub total: Money,
    /// When it was made.
    pub created: Timestamp,
}

/// A product with the title and the price that it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which product.
    pub sku: Sku,
    /// What it was called.
    pub title: String,
    /// What one piece cost.
    pub price: Money,
    /// How many pieces.
    pub quantity: Quantity,
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Accepted.
    Confirmed,
    /// Cancelled; final.
    Cancelled,
}

/// What can happen to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Cancel,
}

impl State {
    /// Where an order stands after an event: all transitions there are.
    ///
    /// ```text
    /// Confirmed ──cancel──► Cancelled ──cancel──► Cancelled
    /// ```
    fn after(self, event: Event) -> Self {
        match (self, event) {
            (Self::Confirmed | Self::Cancelled, Event::Cancel) => Self::Cancelled,
        }
    }

    /// As it stands in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`as_str`](Self::as_str) wrote.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        [Self::Confirmed, Self::Cancelled]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| InvalidValue("is not a state of an order".into()))
    }
}

impl Order {
    /// An order of these lines, made at `now`.
    ///
    /// # Errors
    /// [`NoOrder`] when there is no line, or the lines have no sum.
    pub fn place(customer: CustomerId, lines: Vec<Line>, now: Timestamp) -> Result<Self, NoOrder> {
        let prices = lines.iter().map(|line| (line.price, line.quantity));
        let total = Money::total(prices)?.ok_or(NoOrder::Empty)?;
        Ok(Self::new(Facts { id: OrderId::new(now), customer, lines, total, created: now }))
    }

    fn new(facts: Facts) -> Self {
        let updated = facts.created;
        Self { facts, state: State::Confirmed, updated, etag: Etag::default().next() }
    }

    /// An order as it was kept.
    pub(crate) fn kept(facts: Facts, state: State, updated: Timestamp, etag: Etag) -> Self {
        Self { facts, state, updated, etag }
    }

    /// The order as cancelling at `now` leaves it; `None` when it is cancelled
    /// already.
    #[must_use]
    pub fn cancel(&self, now: Timestamp) -> Option<Self> {
        self.after(Event::Cancel, now)
    }

    fn after(&self, event: Event, now: Timestamp) -> Option<Self> {
        let state = self.state.after(event);
        // Where clocks differ, or were set back, time stands still.
        let updated = now.max(self.updated);
        (state != self.state).then(|| Self {
            facts: self.facts.clone(),
            state,
            updated,
            etag: self.etag.next(),
        })
    }

    /// The order as it was when it was made: what the request for it was, and
    /// is each time again, answered with. Nothing else of it ever changes.
    #[must_use]
    pub fn as_placed(self) -> Self {
        Self::new(self.facts)
    }

    /// What of it never changes.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// When it last changed.
    #[must_use]
    pub fn updated(&self) -> Timestamp {
        self.updated
    }

    /// Its version, 1 at first.
    #[must_use]
    pub fn etag(&self) -> Etag {
        self.etag
    }
}

/// Why lines make no order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoOrder {
    /// There are none.
    #[error("the cart is empty")]
    Empty,
    /// They have no sum.
    #[error("the cart has no total: {0}")]
    NoTotal(#[from] MoneyError),
}

impl From<Order> for wire::Order {
    fn from(order: Order) -> Self {
        let state = match order.state {
            State::Confirmed => wire::OrderState::Confirmed,
            State::Cancelled => wire::OrderState::Cancelled,
        };
        let Facts { id, customer, lines, total, created } = order.facts;
        Self {
            order_id: id.to_string(),
            customer_id: customer.as_str().to_owned(),
            state: state.into(),
            lines: lines.into_iter().map(Into::into).collect(),
            total: Some(total.into()),
            create_time: Some(created.into()),
            update_time: Some(order.updated.into()),
            etag: order.etag.to_string(),
            ..Self::default()
        }
    }
}

impl From<Line> for wire::OrderLine {
    fn from(line: Line) -> Self {
        Self {
            product_id: line.sku.to_string(),
            title: line.title,
            unit_price: Some(line.price.into()),
            quantity: line.quantity.get().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(minor: i64, currency: &str, pieces: u16) -> Line {
        Line {
            sku: Sku::parse("tea").unwrap(),
            title: "Tea".into(),
            price: Money::new(minor, currency.parse().unwrap()).unwrap(),
            quantity: Quantity::parse(pieces).unwrap(),
        }
    }

    fn place(lines: Vec<Line>) -> Result<Order, NoOrder> {
        Order::place(CustomerId::parse("ada").unwrap(), lines, Timestamp::of_micros(7))
    }

    #[test]
    fn an_order_is_of_something_and_has_a_total() {
        let order = place(vec![line(499, "EUR", 3), line(1, "EUR", 1)]).unwrap();
        assert_eq!(
            (order.facts.total.minor(), order.state, order.etag),
            (1_498, State::Confirmed, Etag::of(1))
        );
        assert_eq!(place(vec![]), Err(NoOrder::Empty));
        assert!(matches!(place(vec![line(1, "EUR", 1), line(1, "USD", 1)]), Err(NoOrder::NoTotal(_))));
        assert!(matches!(place(vec![line(i64::MAX, "EUR", 2)]), Err(NoOrder::NoTotal(_))));
    }

    #[test]
    fn an_order_is_cancelled_once() {
        let order = place(vec![line(499, "EUR", 3)]).unwrap();
        let cancelled = order.cancel(Timestamp::of_micros(8)).unwrap();
        assert_eq!((cancelled.state, cancelled.etag), (State::Cancelled, Etag::of(2)));
        assert_eq!(cancelled.cancel(Timestamp::of_micros(9)), None);
        assert_eq!(cancelled.as_placed(), order);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_turn_back_an_order() {
        let order = place(vec![line(499, "EUR", 3)]).unwrap();
        assert_eq!(order.cancel(Timestamp::of_micros(1)).unwrap().updated, order.updated);
    }
}
