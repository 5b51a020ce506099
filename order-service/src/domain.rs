//! An order, and its changes.

use service_kit::{
    id::Id,
    money::{Money, MoneyError},
    timestamp::Timestamp,
    value::{CustomerId, Etag, Quantity, Sku},
};

mod payment;
mod request;
mod state;
mod wire;

pub use payment::PaymentMethod;
pub use request::{CREATE_ORDER, OrderRequest, RequestId};
use state::OrderEvent;
pub use state::{CancelReason, OrderState};

/// The id of an order, which sorts by the time of its creation.
pub type OrderId = Id<Order>;

/// An order of a customer. It changes by its methods only; each returns the
/// changed order or an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    facts: OrderFacts,
    progress: OrderProgress,
}

/// The part of an order that never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderFacts {
    /// The id.
    pub id: OrderId,
    /// The customer.
    pub customer: CustomerId,
    /// The products, at least one.
    pub lines: Vec<OrderLine>,
    /// The total of the lines.
    pub total: Money,
    /// The time of creation.
    pub created: Timestamp,
}

/// A product with its title and price at the time of the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderLine {
    /// The product.
    pub sku: Sku,
    /// The title.
    pub title: String,
    /// The price of one piece.
    pub price: Money,
    /// The number of pieces.
    pub quantity: Quantity,
}

/// The part of an order that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderProgress {
    /// The state.
    pub state: OrderState,
    /// The time of the last change.
    pub updated: Timestamp,
    /// The version.
    pub etag: Etag,
    /// True once the reservation of its goods is committed.
    pub stock_committed: bool,
    /// The reason of its cancellation.
    pub reason: Option<CancelReason>,
    /// The payment method of the last attempt to charge; stays after a decline,
    /// because that charge may have been attempted.
    pub payment: Option<PaymentMethod>,
    /// The id of the charge that paid for it.
    pub charge: Option<String>,
    /// The tracking number of the carrier.
    pub tracking: Option<String>,
}

impl OrderProgress {
    /// The progress of an order that was created at `now`.
    pub(crate) fn new(state: OrderState, now: Timestamp) -> Self {
        Self {
            state,
            updated: now,
            etag: Etag::default().next(),
            stock_committed: false,
            reason: None,
            payment: None,
            charge: None,
            tracking: None,
        }
    }
}

/// The next step of an order that is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reserve its goods and commit the reservation.
    CommitStock,
    /// Charge its total, or find out the outcome of an earlier attempt.
    Charge,
    /// Book the carrier.
    Book,
    /// Refund the charge and release the reservation.
    Compensate,
}

impl Order {
    /// Creates an order of these lines at `now`, without its goods.
    ///
    /// # Errors
    /// [`NotOrderable`] when there is no line, or the lines have no total.
    pub fn place(customer: CustomerId, lines: Vec<OrderLine>, now: Timestamp) -> Result<Self, NotOrderable> {
        let prices = lines.iter().map(|line| (line.price, line.quantity));
        let total = Money::total(prices)?.ok_or(NotOrderable::EmptyCart)?;
        let facts = OrderFacts { id: OrderId::new(now), customer, lines, total, created: now };
        Ok(Self::stored(facts, OrderProgress::new(OrderState::Pending, now)))
    }

    /// An order from the database.
    pub(crate) fn stored(facts: OrderFacts, progress: OrderProgress) -> Self {
        Self { facts, progress }
    }

    /// The next step; `None` when the order is settled.
    #[must_use]
    pub fn next_step(&self) -> Option<Step> {
        match self.progress.state {
            OrderState::Pending => Some(Step::CommitStock),
            // An earlier version confirmed orders before their goods were committed.
            OrderState::Confirmed if !self.progress.stock_committed => Some(Step::CommitStock),
            OrderState::Paying => Some(Step::Charge),
            OrderState::Shipping => Some(Step::Book),
            OrderState::Cancelling => Some(Step::Compensate),
            OrderState::Confirmed
            | OrderState::Paid
            | OrderState::Shipped
            | OrderState::Completed
            | OrderState::Cancelled => None,
        }
    }

    /// Records that its goods are committed, and confirms it. An order that an
    /// earlier version confirmed too early keeps its version.
    ///
    /// # Errors
    /// [`WrongState`] unless it is pending, or confirmed.
    pub fn stock_committed(&self, now: Timestamp) -> Result<Self, WrongState> {
        let mut order = match self.progress.state {
            OrderState::Confirmed => self.clone(),
            _ => self.after(OrderEvent::StockCommitted, now)?,
        };
        order.progress.stock_committed = true;
        Ok(order)
    }

    /// Records that its goods are out of stock, and begins to cancel it.
    ///
    /// # Errors
    /// [`WrongState`] when its goods are committed already.
    pub fn out_of_stock(&self, now: Timestamp) -> Result<Self, WrongState> {
        if self.progress.stock_committed {
            return Err(WrongState(self.progress.state));
        }
        self.cancelled_for(CancelReason::OutOfStock, OrderEvent::OutOfStock, now)
    }

    /// Begins to charge it with `method`.
    ///
    /// # Errors
    /// [`WrongState`] unless it is confirmed and its goods are committed.
    pub fn pay(&self, method: PaymentMethod, now: Timestamp) -> Result<Self, WrongState> {
        self.require_stock()?;
        let mut order = self.after(OrderEvent::Pay, now)?;
        order.progress.payment = Some(method);
        Ok(order)
    }

    /// Records its charge.
    ///
    /// # Errors
    /// [`WrongState`] unless it is being paid.
    pub fn charged(&self, charge: String, now: Timestamp) -> Result<Self, WrongState> {
        let mut order = self.after(OrderEvent::Charged, now)?;
        order.progress.charge = Some(charge);
        Ok(order)
    }

    /// Records that its charge was declined; it is confirmed again.
    ///
    /// # Errors
    /// [`WrongState`] unless it is being paid.
    pub fn declined(&self, now: Timestamp) -> Result<Self, WrongState> {
        self.after(OrderEvent::Declined, now)
    }

    /// Begins to ship it.
    ///
    /// # Errors
    /// [`WrongState`] unless it is paid.
    pub fn ship(&self, now: Timestamp) -> Result<Self, WrongState> {
        self.after(OrderEvent::Ship, now)
    }

    /// Records the carrier's booking.
    ///
    /// # Errors
    /// [`WrongState`] unless it is being shipped.
    pub fn booked(&self, tracking: String, now: Timestamp) -> Result<Self, WrongState> {
        let mut order = self.after(OrderEvent::Booked, now)?;
        order.progress.tracking = Some(tracking);
        Ok(order)
    }

    /// Records the carrier's refusal, and begins to cancel it.
    ///
    /// # Errors
    /// [`WrongState`] unless it is being shipped.
    pub fn refused(&self, now: Timestamp) -> Result<Self, WrongState> {
        self.cancelled_for(CancelReason::ShippingRefused, OrderEvent::Refused, now)
    }

    /// Records its arrival.
    ///
    /// # Errors
    /// [`WrongState`] unless it is shipped.
    pub fn complete(&self, now: Timestamp) -> Result<Self, WrongState> {
        self.after(OrderEvent::Complete, now)
    }

    /// Begins to cancel it on request.
    ///
    /// # Errors
    /// [`WrongState`] when its goods are not committed, or it is with the carrier
    /// or further.
    pub fn cancel(&self, now: Timestamp) -> Result<Self, WrongState> {
        self.require_stock()?;
        self.cancelled_for(CancelReason::Requested, OrderEvent::Cancel, now)
    }

    /// Records that it is refunded and its goods are released: it is cancelled.
    ///
    /// # Errors
    /// [`WrongState`] unless it is being cancelled.
    pub fn compensated(&self, now: Timestamp) -> Result<Self, WrongState> {
        self.after(OrderEvent::Compensated, now)
    }

    fn cancelled_for(
        &self,
        reason: CancelReason,
        event: OrderEvent,
        now: Timestamp,
    ) -> Result<Self, WrongState> {
        let mut order = self.after(event, now)?;
        order.progress.reason = Some(reason);
        Ok(order)
    }

    fn require_stock(&self) -> Result<(), WrongState> {
        if self.progress.stock_committed { Ok(()) } else { Err(WrongState(self.progress.state)) }
    }

    fn after(&self, event: OrderEvent, now: Timestamp) -> Result<Self, WrongState> {
        let mut order = self.clone();
        let progress = &mut order.progress;
        progress.state = progress.state.after(event).ok_or(WrongState(progress.state))?;
        // Never earlier than the last change, where clocks differ or were set back.
        progress.updated = now.max(progress.updated);
        progress.etag = progress.etag.next();
        Ok(order)
    }

    /// The part that never changes.
    #[must_use]
    pub fn facts(&self) -> &OrderFacts {
        &self.facts
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> OrderId {
        self.facts.id
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> OrderState {
        self.progress.state
    }

    /// The version, 1 at first.
    #[must_use]
    pub fn etag(&self) -> Etag {
        self.progress.etag
    }

    /// The part that changes.
    pub(crate) fn progress(&self) -> &OrderProgress {
        &self.progress
    }
}

/// The error when the state of an order does not allow a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the order is {}", .0.as_str())]
pub struct WrongState(pub OrderState);

/// The reason why a cart cannot be ordered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOrderable {
    /// It has no lines.
    #[error("the cart is empty")]
    EmptyCart,
    /// The lines have no total.
    #[error("the cart has no total: {0}")]
    NoTotal(#[from] MoneyError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> Timestamp {
        Timestamp::of_micros(9)
    }

    fn line(minor: i64, currency: &str, pieces: u16) -> OrderLine {
        OrderLine {
            sku: Sku::parse("tea").unwrap(),
            title: "Tea".into(),
            price: Money::new(minor, currency.parse().unwrap()).unwrap(),
            quantity: Quantity::parse(pieces).unwrap(),
        }
    }

    fn place(lines: Vec<OrderLine>) -> Result<Order, NotOrderable> {
        Order::place(CustomerId::parse("ada").unwrap(), lines, Timestamp::of_micros(7))
    }

    fn pending() -> Order {
        place(vec![line(499, "EUR", 3)]).unwrap()
    }

    fn confirmed() -> Order {
        pending().stock_committed(later()).unwrap()
    }

    /// An order that an earlier version confirmed before its goods were committed.
    fn confirmed_early() -> Order {
        let mut order = confirmed();
        order.progress.stock_committed = false;
        order
    }

    fn card() -> PaymentMethod {
        PaymentMethod::parse("pm_card_visa").unwrap()
    }

    fn paid() -> Order {
        confirmed().pay(card(), later()).unwrap().charged("c".into(), later()).unwrap()
    }

    #[test]
    fn an_order_has_lines_and_a_total() {
        let order = place(vec![line(499, "EUR", 3), line(1, "EUR", 1)]).unwrap();
        assert_eq!(
            (order.facts.total.minor(), order.progress.state, order.progress.etag),
            (1_498, OrderState::Pending, Etag::of(1))
        );
        assert_eq!(place(vec![]), Err(NotOrderable::EmptyCart));
        assert!(matches!(place(vec![line(1, "EUR", 1), line(1, "USD", 1)]), Err(NotOrderable::NoTotal(_))));
        assert!(matches!(place(vec![line(i64::MAX, "EUR", 2)]), Err(NotOrderable::NoTotal(_))));
    }

    #[test]
    fn each_state_has_its_next_step() {
        assert_eq!(pending().next_step(), Some(Step::CommitStock));
        assert_eq!(confirmed_early().next_step(), Some(Step::CommitStock));
        assert_eq!(confirmed().next_step(), None);
        assert_eq!(confirmed().pay(card(), later()).unwrap().next_step(), Some(Step::Charge));
        assert_eq!(paid().next_step(), None);
        let shipping = paid().ship(later()).unwrap();
        assert_eq!(shipping.next_step(), Some(Step::Book));
        assert_eq!(shipping.refused(later()).unwrap().next_step(), Some(Step::Compensate));
        assert_eq!(shipping.booked("t".into(), later()).unwrap().next_step(), None);
    }

    #[test]
    fn committed_goods_do_not_run_out_and_others_are_not_paid_for() {
        let early = confirmed_early();
        assert!(early.out_of_stock(later()).is_ok() && confirmed().out_of_stock(later()).is_err());
        assert!(early.pay(card(), later()).is_err() && early.cancel(later()).is_err());
        assert_eq!(early.progress.etag, early.stock_committed(later()).unwrap().progress.etag);
        assert_ne!(pending().progress.etag, pending().stock_committed(later()).unwrap().progress.etag);
    }

    #[test]
    fn every_cancelled_order_has_a_reason() {
        let reasons = [
            (pending().out_of_stock(later()), CancelReason::OutOfStock),
            (confirmed().cancel(later()), CancelReason::Requested),
            (confirmed().pay(card(), later()).unwrap().cancel(later()), CancelReason::Requested),
            (paid().ship(later()).unwrap().refused(later()), CancelReason::ShippingRefused),
        ];
        for (cancelling, reason) in reasons {
            let cancelled = cancelling.unwrap().compensated(later()).unwrap();
            assert_eq!(
                (cancelled.progress.state, cancelled.progress.reason),
                (OrderState::Cancelled, Some(reason))
            );
            assert!(cancelled.cancel(later()).is_err());
        }
        assert_eq!(paid().ship(later()).unwrap().cancel(later()), Err(WrongState(OrderState::Shipping)));
    }

    #[test]
    fn a_declined_payment_is_recorded_and_another_is_possible() {
        let declined = confirmed().pay(card(), later()).unwrap().declined(later()).unwrap();
        assert_eq!(
            (declined.progress.state, declined.progress.payment.as_ref()),
            (OrderState::Confirmed, Some(&card()))
        );
        assert!(declined.pay(card(), later()).is_ok());
    }

    #[test]
    fn the_time_of_a_change_never_goes_back() {
        let order = pending();
        assert_eq!(
            order.stock_committed(Timestamp::of_micros(1)).unwrap().progress.updated,
            order.progress.updated
        );
    }

    proptest::proptest! {
        #[test]
        fn an_orders_total_is_the_sum_of_its_lines_to_the_cent(
            lines in proptest::collection::vec((0_i64..1_000_000_000_000, 1_u16..=999), 1..100)
        ) {
            let order = place(lines.iter().map(|(price, pieces)| line(*price, "EUR", *pieces)).collect());
            let sum: i128 = lines.iter().map(|(price, pieces)| i128::from(*price) * i128::from(*pieces)).sum();
            let order = order.unwrap();
            proptest::prop_assert_eq!(i128::from(order.facts.total.minor()), sum);
            // The same on the wire, also after a change.
            let wire = mesh_proto::shop::order::v1::Order::from(&order.stock_committed(later()).unwrap());
            let total = wire.total.unwrap();
            let cents = i128::from(total.units) * 100 + i128::from(total.nanos / 10_000_000);
            proptest::prop_assert_eq!(cents, sum);
        }
    }
}
