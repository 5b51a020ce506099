//! What an order is, and how it may change.

use service_kit::{
    money::{Money, MoneyError},
    timestamp::Timestamp,
    value::{CustomerId, Etag, Quantity, Sku},
};

mod id;
mod payment;
mod state;
mod wire;

pub use id::{OrderId, RequestId};
pub use payment::PaymentMethod;
use state::Event;
pub use state::{CancelReason, State};

/// What a customer has bought, and where that stands. It changes by its
/// methods only; each returns the order as it then is, or refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    facts: Facts,
    state: State,
    updated: Timestamp,
    etag: Etag,
    sold: bool,
    reason: Option<CancelReason>,
    payment: Option<PaymentMethod>,
    charge: Option<String>,
    tracking: Option<String>,
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

/// What of an order changes, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changing {
    /// Where it stands.
    pub state: State,
    /// When it last changed.
    pub updated: Timestamp,
    /// Its version.
    pub etag: Etag,
    /// Whether its goods are its own: their reservation is committed.
    pub sold: bool,
    /// Why it was cancelled.
    pub reason: Option<CancelReason>,
    /// With what a charge was last tried; stays when it was declined, because
    /// that charge may have been tried.
    pub payment: Option<PaymentMethod>,
    /// The charge that paid for it.
    pub charge: Option<String>,
    /// What the carrier knows it by.
    pub tracking: Option<String>,
}

/// What an order that is not at rest needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its goods are to become its own.
    Secure,
    /// Its total is to be charged, or what became of that is to be found out.
    Charge,
    /// It is to be handed to the carrier.
    Book,
    /// What was charged is to be given back, what was reserved to be returned.
    Unwind,
}

impl Order {
    /// An order of these lines, made at `now`, whose goods are not secured.
    ///
    /// # Errors
    /// [`NoOrder`] when there is no line, or the lines have no sum.
    pub fn place(customer: CustomerId, lines: Vec<Line>, now: Timestamp) -> Result<Self, NoOrder> {
        let prices = lines.iter().map(|line| (line.price, line.quantity));
        let total = Money::total(prices)?.ok_or(NoOrder::Empty)?;
        let facts = Facts { id: OrderId::new(now), customer, lines, total, created: now };
        let changing = Changing {
            state: State::Pending,
            updated: now,
            etag: Etag::default().next(),
            sold: false,
            reason: None,
            payment: None,
            charge: None,
            tracking: None,
        };
        Ok(Self::kept(facts, changing))
    }

    /// An order as it was kept.
    pub(crate) fn kept(facts: Facts, changing: Changing) -> Self {
        let Changing { state, updated, etag, sold, reason, payment, charge, tracking } = changing;
        Self { facts, state, updated, etag, sold, reason, payment, charge, tracking }
    }

    /// What it needs next; `None` while it is at rest.
    #[must_use]
    pub fn next_step(&self) -> Option<Step> {
        match self.state {
            State::Pending => Some(Step::Secure),
            // By an earlier version, which said so too early.
            State::Confirmed if !self.sold => Some(Step::Secure),
            State::Paying => Some(Step::Charge),
            State::Shipping => Some(Step::Book),
            State::Cancelling => Some(Step::Unwind),
            State::Confirmed | State::Paid | State::Shipped | State::Completed | State::Cancelled => None,
        }
    }

    /// Its goods are its own: it is confirmed. One that an earlier version
    /// confirmed before they were changes in nothing that anybody sees.
    ///
    /// # Errors
    /// [`WrongState`] unless it is pending, or confirmed.
    pub fn secured(&self, now: Timestamp) -> Result<Self, WrongState> {
        let after = match self.state {
            State::Confirmed => self.clone(),
            _ => self.after(Event::Secured, now)?,
        };
        Ok(Self { sold: true, ..after })
    }

    /// Its goods cannot be had: it will be cancelled.
    ///
    /// # Errors
    /// [`WrongState`] when its goods are its own already.
    pub fn out_of_stock(&self, now: Timestamp) -> Result<Self, WrongState> {
        if self.sold {
            return Err(WrongState(self.state));
        }
        let after = self.after(Event::OutOfStock, now)?;
        Ok(Self { reason: Some(CancelReason::OutOfStock), ..after })
    }

    /// It will be charged with `method`.
    ///
    /// # Errors
    /// [`WrongState`] unless it is confirmed and its goods are its own.
    pub fn pay(&self, method: PaymentMethod, now: Timestamp) -> Result<Self, WrongState> {
        self.owned()?;
        Ok(Self { payment: Some(method), ..self.after(Event::Pay, now)? })
    }

    /// It was charged.
    ///
    /// # Errors
    /// [`WrongState`] unless it is being paid.
    pub fn charged(&self, charge: String, now: Timestamp) -> Result<Self, WrongState> {
        Ok(Self { charge: Some(charge), ..self.after(Event::Charged, now)? })
    }

    /// The charge was declined: it is as before.
    ///
    /// # Errors
    /// [`WrongState`] unless it is being paid.
    pub fn declined(&self, now: Timestamp) -> Result<Self, WrongState> {
        self.after(Event::Declined, now)
    }

    /// It will be shipped.
    ///
    /// # Errors
    /// [`WrongState`] unless it is paid.
    pub fn ship(&self, now: Timestamp) -> Result<Self, WrongState> {
        self.after(Event::Ship, now)
    }

    /// The carrier has it.
    ///
    /// # Errors
    /// [`WrongState`] unless it is being shipped.
    pub fn booked(&self, tracking: String, now: Timestamp) -> Result<Self, WrongState> {
        Ok(Self { tracking: Some(tracking), ..self.after(Event::Booked, now)? })
    }

    /// The carrier refuses it: it will be cancelled.
    ///
    /// # Errors
    /// [`WrongState`] unless it is being shipped.
    pub fn refused(&self, now: Timestamp) -> Result<Self, WrongState> {
        Ok(Self { reason: Some(CancelReason::ShippingRefused), ..self.after(Event::Refused, now)? })
    }

    /// It has arrived.
    ///
    /// # Errors
    /// [`WrongState`] unless it is shipped.
    pub fn complete(&self, now: Timestamp) -> Result<Self, WrongState> {
        self.after(Event::Complete, now)
    }

    /// Somebody wants it cancelled: it will be.
    ///
    /// # Errors
    /// [`WrongState`] when its goods are not its own, or it is with the carrier
    /// or further.
    pub fn cancel(&self, now: Timestamp) -> Result<Self, WrongState> {
        self.owned()?;
        Ok(Self { reason: Some(CancelReason::Requested), ..self.after(Event::Cancel, now)? })
    }

    /// Everything is refunded and returned: it is cancelled.
    ///
    /// # Errors
    /// [`WrongState`] unless it is being cancelled.
    pub fn unwound(&self, now: Timestamp) -> Result<Self, WrongState> {
        self.after(Event::Unwound, now)
    }

    fn owned(&self) -> Result<(), WrongState> {
        if self.sold { Ok(()) } else { Err(WrongState(self.state)) }
    }

    fn after(&self, event: Event, now: Timestamp) -> Result<Self, WrongState> {
        let state = self.state.after(event).ok_or(WrongState(self.state))?;
        // Where clocks differ, or were set back, time stands still.
        Ok(Self { state, updated: now.max(self.updated), etag: self.etag.next(), ..self.clone() })
    }

    /// What of it never changes.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> OrderId {
        self.facts.id
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Its version, 1 at first.
    #[must_use]
    pub fn etag(&self) -> Etag {
        self.etag
    }

    /// Why it was cancelled.
    #[must_use]
    pub fn reason(&self) -> Option<CancelReason> {
        self.reason
    }

    /// With what a charge was last tried; `None` when none ever was.
    #[must_use]
    pub fn payment(&self) -> Option<&PaymentMethod> {
        self.payment.as_ref()
    }

    /// What of it changes, as it is kept.
    pub(crate) fn changing(&self) -> Changing {
        Changing {
            state: self.state,
            updated: self.updated,
            etag: self.etag,
            sold: self.sold,
            reason: self.reason,
            payment: self.payment.clone(),
            charge: self.charge.clone(),
            tracking: self.tracking.clone(),
        }
    }
}

/// An order is in no state for what was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the order is {}", .0.as_str())]
pub struct WrongState(pub State);

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

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> Timestamp {
        Timestamp::of_micros(9)
    }

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

    fn pending() -> Order {
        place(vec![line(499, "EUR", 3)]).unwrap()
    }

    fn confirmed() -> Order {
        pending().secured(later()).unwrap()
    }

    /// By an earlier version, before its goods were its own.
    fn confirmed_early() -> Order {
        Order { sold: false, ..confirmed() }
    }

    fn card() -> PaymentMethod {
        PaymentMethod::parse("pm_card_visa").unwrap()
    }

    fn paid() -> Order {
        confirmed().pay(card(), later()).unwrap().charged("c".into(), later()).unwrap()
    }

    #[test]
    fn an_order_is_of_something_and_has_a_total() {
        let order = place(vec![line(499, "EUR", 3), line(1, "EUR", 1)]).unwrap();
        assert_eq!(
            (order.facts.total.minor(), order.state, order.etag),
            (1_498, State::Pending, Etag::of(1))
        );
        assert_eq!(place(vec![]), Err(NoOrder::Empty));
        assert!(matches!(place(vec![line(1, "EUR", 1), line(1, "USD", 1)]), Err(NoOrder::NoTotal(_))));
        assert!(matches!(place(vec![line(i64::MAX, "EUR", 2)]), Err(NoOrder::NoTotal(_))));
    }

    #[test]
    fn each_state_says_what_an_order_needs_next() {
        assert_eq!(pending().next_step(), Some(Step::Secure));
        assert_eq!(confirmed_early().next_step(), Some(Step::Secure));
        assert_eq!(confirmed().next_step(), None);
        assert_eq!(confirmed().pay(card(), later()).unwrap().next_step(), Some(Step::Charge));
        assert_eq!(paid().next_step(), None);
        let shipping = paid().ship(later()).unwrap();
        assert_eq!(shipping.next_step(), Some(Step::Book));
        assert_eq!(shipping.refused(later()).unwrap().next_step(), Some(Step::Unwind));
        assert_eq!(shipping.booked("t".into(), later()).unwrap().next_step(), None);
    }

    #[test]
    fn goods_that_are_the_orders_own_do_not_run_out_and_others_are_not_paid_for() {
        let early = confirmed_early();
        assert!(early.out_of_stock(later()).is_ok() && confirmed().out_of_stock(later()).is_err());
        assert!(early.pay(card(), later()).is_err() && early.cancel(later()).is_err());
        assert_eq!(early.etag, early.secured(later()).unwrap().etag);
        assert_ne!(pending().etag, pending().secured(later()).unwrap().etag);
    }

    #[test]
    fn a_reason_stands_by_every_cancelled_order() {
        let reasons = [
            (pending().out_of_stock(later()), CancelReason::OutOfStock),
            (confirmed().cancel(later()), CancelReason::Requested),
            (confirmed().pay(card(), later()).unwrap().cancel(later()), CancelReason::Requested),
            (paid().ship(later()).unwrap().refused(later()), CancelReason::ShippingRefused),
        ];
        for (cancelling, reason) in reasons {
            let cancelled = cancelling.unwrap().unwound(later()).unwrap();
            assert_eq!((cancelled.state, cancelled.reason), (State::Cancelled, Some(reason)));
            assert!(cancelled.cancel(later()).is_err());
        }
        assert_eq!(paid().ship(later()).unwrap().cancel(later()), Err(WrongState(State::Shipping)));
    }

    #[test]
    fn a_declined_payment_is_remembered_and_another_may_do() {
        let declined = confirmed().pay(card(), later()).unwrap().declined(later()).unwrap();
        assert_eq!((declined.state, declined.payment()), (State::Confirmed, Some(&card())));
        assert!(declined.pay(card(), later()).is_ok());
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_turn_back_an_order() {
        let order = pending();
        assert_eq!(order.secured(Timestamp::of_micros(1)).unwrap().updated, order.updated);
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
            // And on the wire, also after it has lived.
            let wire = mesh_proto::shop::order::v1::Order::from(&order.secured(later()).unwrap());
            let total = wire.total.unwrap();
            let cents = i128::from(total.units) * 100 + i128::from(total.nanos / 10_000_000);
            proptest::prop_assert_eq!(cents, sum);
        }
    }
}
