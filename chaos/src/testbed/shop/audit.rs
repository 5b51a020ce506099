//! What must hold of a shop whatever was done to it, read only through its
//! public methods.

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

/// How many are asked at once.
const AT_ONCE: usize = 16;
/// How long to wait before it is looked again whether all is settled.
const AGAIN: Duration = Duration::from_millis(250);

/// Orders, money and stock.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    /// Of the customers that were asked for.
    pub(crate) orders: Vec<Order>,
    /// Everybody's.
    pub(crate) charges: Vec<Charge>,
    pub(crate) balance: GetBalanceResponse,
    /// What there is now, and the pieces that there were at first.
    pub(crate) stock: Vec<(Stock, i64)>,
    /// How long it took until all was settled; `None` when it was not in time.
    pub(crate) settled_audit: Option<Duration>,
}

impl Audit {
    /// Reads until nothing is under way, or for as long as `limit`.
    pub(super) async fn settled_audit(
        clients: &Clients,
        whose: &[(Clients, Vec<String>)],
        sold: &[(String, i64)],
        limit: Duration,
    ) -> Result<Self> {
        let began = Instant::now();
        loop {
            let audit = Self::read(clients, whose, sold).await?;
            if audit.in_progress().is_empty() && audit.pieces_astray() == 0 {
                return Ok(Self { settled_audit: Some(began.elapsed()), ..audit });
            }
            if began.elapsed() > limit {
                return Ok(audit);
            }
            // Each service tells of its own; the whole is only seen by looking.
            sleep(AGAIN).await;
        }
    }

    async fn read(
        clients: &Clients,
        whose: &[(Clients, Vec<String>)],
        sold: &[(String, i64)],
    ) -> Result<Self> {
        let all = whose.iter().flat_map(|(clients, all)| all.iter().map(move |one| (clients.clone(), one)));
        let orders = all.map(|(clients, one)| (clients, one.clone())).collect::<Vec<_>>();
        let orders = stream::iter(orders).map(|(clients, one)| async move { clients.orders_of(&one).await });
        let orders: Vec<_> = orders.buffer_unordered(AT_ONCE).try_collect().await?;
        let mut stock = Vec::new();
        for (sku, pieces) in sold {
            let request = GetStockRequest { product_id: sku.clone() };
            let asked = retry_until_definite(|| {
                let (mut products, request) = (clients.products.clone(), request.clone());
                async move { products.get_stock(request).await }
            });
            stock.push((asked.await.answer.context("the stock cannot be read")?, *pieces));
        }
        let balance = retry_until_definite(|| {
            let mut payments = clients.payments.clone();
            async move { payments.get_balance(GetBalanceRequest { currency_code: "EUR".into() }).await }
        });
        let balance = balance.await.answer.context("the balance cannot be read")?;
        let charges = charges(clients).await?;
        Ok(Self { orders: orders.concat(), charges, balance, stock, settled_audit: None })
    }

    /// Orders that are neither here nor there.
    pub(crate) fn in_progress(&self) -> Vec<&Order> {
        self.orders.iter().filter(|order| is_transient(order.state())).collect()
    }

    /// Orders that are paid for.
    pub(crate) fn paid(&self) -> impl Iterator<Item = &Order> {
        self.orders.iter().filter(|order| is_paid(order.state()))
    }

    /// Charges that stand.
    pub(crate) fn charged(&self) -> impl Iterator<Item = &Charge> {
        self.charges.iter().filter(|charge| charge.state() == ChargeState::Succeeded)
    }

    /// Paid orders without their one charge of just their total, and charges
    /// without their order.
    pub(crate) fn unmatched(&self) -> usize {
        let key = |order: &Order| (order.order_id.clone(), cents(order.total.as_ref()));
        let mut open: BTreeMap<_, i64> = BTreeMap::new();
        for order in self.paid() {
            *open.entry(key(order)).or_default() += 1;
        }
        for charge in self.charged() {
            *open.entry((charge.idempotency_key.clone(), cents(charge.amount.as_ref()))).or_default() -= 1;
        }
        open.values().filter(|left| **left != 0).count()
    }

    /// Cents by which what the shop has differs from what its paid orders come
    /// to.
    pub(crate) fn cents_astray(&self) -> i64 {
        let paid: i64 = self.paid().map(|order| cents(order.total.as_ref())).sum();
        (cents(self.balance.balance.as_ref()) - paid).abs()
    }

    /// Pieces by which stock differs from what there was at first, or what was
    /// taken of it from what orders hold.
    pub(crate) fn pieces_astray(&self) -> i64 {
        let mut held: BTreeMap<&str, i64> = BTreeMap::new();
        let live = self.orders.iter().filter(|order| order.state() != OrderState::Cancelled);
        for line in live.flat_map(|order| &order.lines) {
            *held.entry(&line.product_id).or_default() += i64::from(line.quantity);
        }
        let astray = |(now, first): &(Stock, i64)| {
            let taken = now.reserved + now.sold;
            let held = held.get(now.product_id.as_str()).copied().unwrap_or_default();
            (now.available + taken - first).abs() + (taken - held).abs()
        };
        self.stock.iter().map(astray).sum()
    }

    /// The figures that hold of every shop.
    pub(crate) fn evaluate(&self, outcome: &mut ScenarioOutcome) {
        let count = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
        outcome.recovered(self.settled_audit);
        outcome.at_most(
            "orders stuck under way",
            self.in_progress().len(),
            0,
            "order-service: who resumes a saga whose replica died?",
        );
        outcome.at_most(
            "paid orders without their charge, and charges without their order",
            self.unmatched(),
            0,
            "order-service: the charge's key is the order's id",
        );
        outcome.at_most(
            "cents that the ledger and the paid orders differ by",
            count(self.cents_astray()),
            0,
            "payment-service: the ledger",
        );
        outcome.at_most(
            "pieces that stock and orders differ by",
            count(self.pieces_astray()),
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
        let page = page.await.answer.context("the charges cannot be read")?;
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
        assert_eq!(Audit { balance, ..audit() }.cents_astray(), 1_000);
    }

    #[test]
    fn a_piece_that_is_lost_or_sold_twice_is_missed() {
        for (available, reserved, sold) in [(95, 0, 4), (96, 1, 4), (98, 0, 2), (94, 2, 4)] {
            let stock = Stock { product_id: "tea".into(), available, reserved, sold, ..Stock::default() };
            assert_ne!(Audit { stock: vec![(stock, 100)], ..audit() }.pieces_astray(), 0);
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
