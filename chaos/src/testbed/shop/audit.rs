//! The invariants of a shop after any fault, read only through its public
//! methods.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use mesh_proto::{
    google::r#type::Money,
    shop::{
        order::v1::{Order, OrderState},
        payment::v1::{Charge, ChargeState, GetBalanceRequest, GetBalanceResponse, ListChargesRequest},
        product::v1::{GetStockRequest, Stock},
    },
};
use tokio::time::{Instant, sleep};

use super::{Clients, retry_until_definite};
use crate::verdict::ScenarioOutcome;

/// The number of concurrent queries.
const CONCURRENCY: usize = 16;
/// The interval between two reads until all is settled.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Orders, money and stock.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    /// The orders of the given customers.
    pub(crate) orders: Vec<Order>,
    /// The charges of all customers.
    pub(crate) charges: Vec<Charge>,
    pub(crate) balance: GetBalanceResponse,
    /// The current stock and the initial number of pieces.
    pub(crate) stock: Vec<(Stock, i64)>,
    /// The time until all was settled; `None` if that took too long.
    pub(crate) settled_audit: Option<Duration>,
}

impl Audit {
    /// Reads until no order is in progress, or for `limit`.
    pub(super) async fn settled_audit(
        clients: &Clients,
        customers: &[(Clients, Vec<String>)],
        products: &[(String, i64)],
        limit: Duration,
    ) -> Result<Self> {
        let began = Instant::now();
        loop {
            let audit = Self::read(clients, customers, products).await?;
            if audit.in_progress().is_empty() && audit.stock_difference() == 0 {
                return Ok(Self { settled_audit: Some(began.elapsed()), ..audit });
            }
            if began.elapsed() > limit {
                return Ok(audit);
            }
            // No single service publishes an event when all are settled, so
            // they are polled.
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn read(
        clients: &Clients,
        customers: &[(Clients, Vec<String>)],
        products: &[(String, i64)],
    ) -> Result<Self> {
        let all =
            customers.iter().flat_map(|(clients, all)| all.iter().map(move |one| (clients.clone(), one)));
        let orders = all.map(|(clients, one)| (clients, one.clone())).collect::<Vec<_>>();
        let orders = stream::iter(orders).map(|(clients, one)| async move { clients.orders_of(&one).await });
        let orders: Vec<_> = orders.buffer_unordered(CONCURRENCY).try_collect().await?;
        let mut stock = Vec::new();
        for (sku, pieces) in products {
            let request = GetStockRequest { product_id: sku.clone() };
            let response = retry_until_definite(|| {
                let (mut products, request) = (clients.products.clone(), request.clone());
                async move { products.get_stock(request).await }
            });
            stock.push((response.await.response.context("the stock cannot be read")?, *pieces));
        }
        let balance = retry_until_definite(|| {
            let mut payments = clients.payments.clone();
            async move { payments.get_balance(GetBalanceRequest { currency_code: "EUR".into() }).await }
        });
        let balance = balance.await.response.context("the balance cannot be read")?;
        let charges = charges(clients).await?;
        Ok(Self { orders: orders.concat(), charges, balance, stock, settled_audit: None })
    }

    /// Orders in a transient state.
    pub(crate) fn in_progress(&self) -> Vec<&Order> {
        self.orders.iter().filter(|order| is_transient(order.state())).collect()
    }

    /// Orders that are paid.
    pub(crate) fn paid_orders(&self) -> impl Iterator<Item = &Order> {
        self.orders.iter().filter(|order| is_paid(order.state()))
    }

    /// Charges that were not refunded.
    pub(crate) fn standing_charges(&self) -> impl Iterator<Item = &Charge> {
        self.charges.iter().filter(|charge| charge.state() == ChargeState::Succeeded)
    }

    /// The number of paid orders without exactly one charge of their total, and
    /// of charges without their order.
    pub(crate) fn unmatched(&self) -> usize {
        let key = |order: &Order| (order.order_id.clone(), cents(order.total.as_ref()));
        let mut open: BTreeMap<_, i64> = BTreeMap::new();
        for order in self.paid_orders() {
            *open.entry(key(order)).or_default() += 1;
        }
        for charge in self.standing_charges() {
            *open.entry((charge.idempotency_key.clone(), cents(charge.amount.as_ref()))).or_default() -= 1;
        }
        open.values().filter(|left| **left != 0).count()
    }

    /// The difference in cents between the ledger and the paid orders.
    pub(crate) fn ledger_difference(&self) -> i64 {
        let paid_orders: i64 = self.paid_orders().map(|order| cents(order.total.as_ref())).sum();
        (cents(self.balance.balance.as_ref()) - paid_orders).abs()
    }

    /// The difference in pieces between the current stock and the initial one,
    /// and between the taken pieces and the orders.
    pub(crate) fn stock_difference(&self) -> i64 {
        let mut ordered: BTreeMap<&str, i64> = BTreeMap::new();
        let active = self.orders.iter().filter(|order| order.state() != OrderState::Cancelled);
        for line in active.flat_map(|order| &order.lines) {
            *ordered.entry(&line.product_id).or_default() += i64::from(line.quantity);
        }
        let difference = |(now, first): &(Stock, i64)| {
            let taken = now.reserved + now.sold;
            let ordered = ordered.get(now.product_id.as_str()).copied().unwrap_or_default();
            (now.available + taken - first).abs() + (taken - ordered).abs()
        };
        self.stock.iter().map(difference).sum()
    }

    /// Adds the figures that hold for every shop.
    pub(crate) fn evaluate(&self, outcome: &mut ScenarioOutcome) {
        let count = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
        outcome.recovered(self.settled_audit);
        outcome.at_most(
            "orders stuck in progress",
            self.in_progress().len(),
            0,
            "order-service: resuming the sagas of a dead replica",
        );
        outcome.at_most(
            "paid orders without their charge, and charges without their order",
            self.unmatched(),
            0,
            "order-service: the charge's key is the order's id",
        );
        outcome.at_most(
            "cents that the ledger and the paid orders differ by",
            count(self.ledger_difference()),
            0,
            "payment-service: the ledger",
        );
        outcome.at_most(
            "pieces that stock and orders differ by",
            count(self.stock_difference()),
            0,
            "product-service: reservations",
        );
    }
}

async fn charges(clients: &Clients) -> Result<Vec<Charge>> {
    let mut request = ListChargesRequest { page_size: 1_000, ..ListChargesRequest::default() };
    let mut all = Vec::new();
    loop {
        let page = retry_until_definite(|| {
            let (mut payments, request) = (clients.payments.clone(), request.clone());
            async move { payments.list_charges(request).await }
        });
        let page = page.await.response.context("the charges cannot be read")?;
        all.extend(page.charges);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}

fn is_transient(state: OrderState) -> bool {
    use OrderState::{Cancelling, Paying, Pending, Shipping};
    matches!(state, Pending | Paying | Shipping | Cancelling)
}

fn is_paid(state: OrderState) -> bool {
    use OrderState::{Completed, Paid, Shipped, Shipping};
    matches!(state, Paid | Shipping | Shipped | Completed)
}

fn cents(money: Option<&Money>) -> i64 {
    money.map_or(0, |money| money.units * 100 + i64::from(money.nanos) / 10_000_000)
}

#[cfg(test)]
mod tests {
    use mesh_proto::shop::order::v1::OrderLine;

    use super::*;

    fn euros(units: i64) -> Option<Money> {
        Some(Money { currency_code: "EUR".into(), units, nanos: 0 })
    }

    fn order(id: &str, state: OrderState) -> Order {
        let line = OrderLine { product_id: "tea".into(), quantity: 2, ..OrderLine::default() };
        let mut order =
            Order { order_id: id.into(), lines: vec![line], total: euros(10), ..Order::default() };
        order.set_state(state);
        order
    }

    fn charge(key: &str, units: i64) -> Charge {
        let mut charge = Charge { idempotency_key: key.into(), amount: euros(units), ..Charge::default() };
        charge.set_state(ChargeState::Succeeded);
        charge
    }

    /// One order paid, one confirmed, one cancelled.
    fn audit() -> Audit {
        let orders = [("a", OrderState::Paid), ("b", OrderState::Confirmed), ("c", OrderState::Cancelled)];
        let stock = Stock { product_id: "tea".into(), available: 96, sold: 4, ..Stock::default() };
        Audit {
            orders: orders.map(|(id, state)| order(id, state)).into(),
            charges: vec![charge("a", 10)],
            balance: GetBalanceResponse { balance: euros(10), ..GetBalanceResponse::default() },
            stock: vec![(stock, 100)],
            settled_audit: None,
        }
    }

    fn missed(audit: &Audit) -> Vec<String> {
        let mut outcome = ScenarioOutcome::default();
        audit.evaluate(&mut outcome);
        outcome.figures.iter().filter(|figure| !figure.held).map(|figure| figure.what.to_string()).collect()
    }

    #[test]
    fn books_that_balance_miss_nothing() {
        assert_eq!(missed(&audit()), [""; 0]);
    }

    #[test]
    fn a_charge_that_is_lost_doubled_or_wrong_is_missed() {
        for charges in
            [vec![], vec![charge("a", 10), charge("a", 10)], vec![charge("a", 9)], vec![charge("b", 10)]]
        {
            let audit = Audit { charges, ..audit() };
            assert_eq!(missed(&audit).len(), 1, "{:?}", audit.charges);
        }
        let balance = GetBalanceResponse { balance: euros(20), ..GetBalanceResponse::default() };
        assert_eq!(Audit { balance, ..audit() }.ledger_difference(), 1_000);
    }

    #[test]
    fn a_piece_that_is_lost_or_sold_twice_is_missed() {
        for (available, reserved, sold) in [(95, 0, 4), (96, 1, 4), (98, 0, 2), (94, 2, 4)] {
            let stock = Stock { product_id: "tea".into(), available, reserved, sold, ..Stock::default() };
            assert_ne!(Audit { stock: vec![(stock, 100)], ..audit() }.stock_difference(), 0);
        }
    }

    #[test]
    fn an_order_under_way_is_missed() {
        for state in [OrderState::Pending, OrderState::Paying, OrderState::Shipping, OrderState::Cancelling] {
            let audit = Audit { orders: vec![order("a", state)], ..audit() };
            assert_eq!(audit.in_progress().len(), 1);
        }
    }
}
