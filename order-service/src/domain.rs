//! What an order is, and how it may change.

use std::fmt;

use mesh_proto::shop::order::v1 as wire;
use service_kit::{
    money::{Money, MoneyError},
    timestamp::Timestamp,
    value::{CustomerId, Etag, InvalidValue, Quantity, Sku},
};
use uuid::Uuid;

/// The id of an order: a version 7 UUID, which begins with the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderId(Uuid);

impl OrderId {
    /// A new one, greater than all that this process made before.
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads an order id.
    ///
    /// # Errors
    /// When it is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        parse_uuid(text).map(Self)
    }
}

impl Default for OrderId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// What tells one request for an order from another: a UUID that the caller
/// chose, the same in every repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Uuid);

impl RequestId {
    /// Reads a request id; how a UUID is spelt makes no difference.
    ///
    /// # Errors
    /// When it is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        parse_uuid(text).map(Self)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

fn parse_uuid(text: &str) -> Result<Uuid, InvalidValue> {
    let uuid = Uuid::try_parse(text).ok().filter(|uuid| !uuid.is_nil());
    uuid.ok_or_else(|| InvalidValue("must be a UUID that is not all zeroes".into()))
}

/// What a customer has bought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Who bought.
    pub customer: CustomerId,
    /// Where it stands.
    pub state: State,
    /// What was bought, at least one.
    pub lines: Vec<Line>,
    /// What the lines come to.
    pub total: Money,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// Its version, 1 at first.
    pub etag: Etag,
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
///
/// ```text
/// Confirmed ──cancel──► Cancelled ──cancel──► Cancelled
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Accepted.
    Confirmed,
    /// Cancelled; final.
    Cancelled,
}

impl State {
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
        Ok(Self {
            id: OrderId::new(),
            customer,
            state: State::Confirmed,
            lines,
            total,
            created: now,
            updated: now,
            etag: Etag::default().next(),
        })
    }

    /// The order as cancelling at `now` leaves it; `None` when it is cancelled
    /// already.
    #[must_use]
    pub fn cancel(&self, now: Timestamp) -> Option<Self> {
        match self.state {
            State::Confirmed => {
                let order = self.clone();
                Some(Self { state: State::Cancelled, updated: now, etag: self.etag.next(), ..order })
            }
            State::Cancelled => None,
        }
    }

    /// The order as it was when it was made: what the request for it was, and
    /// is each time again, answered with. Nothing else of it ever changes.
    #[must_use]
    pub fn as_placed(self) -> Self {
        let updated = self.created;
        Self { state: State::Confirmed, updated, etag: Etag::default().next(), ..self }
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
        Self {
            order_id: order.id.to_string(),
            customer_id: order.customer.as_str().to_owned(),
            state: state.into(),
            lines: order.lines.into_iter().map(Into::into).collect(),
            total: Some(order.total.into()),
            create_time: Some(order.created.into()),
            update_time: Some(order.updated.into()),
            etag: order.etag.to_string(),
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
        assert_eq!((order.total.minor(), order.state, order.etag), (1_498, State::Confirmed, Etag::of(1)));
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
    fn ids_are_uuids_however_they_are_spelt() {
        let id = "018f3c5e-7b1a-7cc0-8f00-0123456789ab";
        assert_eq!(RequestId::parse(&id.to_uppercase()).unwrap().to_string(), id);
        assert_eq!(RequestId::parse(&id.replace('-', "")).unwrap().to_string(), id);
        for bad in ["", "1", "018f3c5e-7b1a-7cc0-8f00-0123456789a", "00000000-0000-0000-0000-000000000000"] {
            assert!(RequestId::parse(bad).is_err() && OrderId::parse(bad).is_err(), "{bad}");
        }
        assert!(OrderId::new() < OrderId::new());
    }
}
