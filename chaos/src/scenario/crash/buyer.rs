//! A customer who orders, pays, and has it shipped or cancels: and comes back
//! when a call is not answered.

use anyhow::{Context, Result};
use mesh_proto::shop::{
    order::v1::{
        CancelOrderRequest, CreateOrderRequest, Order, OrderState, PayOrderRequest, ShipOrderRequest,
    },
    payment::v1::{ChargeState, GetChargeRequest},
    product::v1::{GetReservationRequest, ReservationState},
};
use tonic::{Code, Response, Status};
use uuid::Uuid;

use crate::testbed::shop::{Clients, retry_until_definite};

/// How a checkout ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Shipped,
    Cancelled,
}

/// The calls of a checkout.
pub(super) const CALLS: usize = 3;

/// A customer in the middle of a checkout.
#[derive(Debug)]
pub(super) struct Buyer {
    pub(super) customer: String,
    key: String,
    end: End,
    /// What each call was answered, as far as it was.
    told: Vec<Order>,
    /// Calls that were made.
    pub(super) calls: usize,
}

impl Buyer {
    pub(super) fn new(customer: String, end: End) -> Self {
        Self { customer, key: Uuid::now_v7().to_string(), end, told: Vec::new(), calls: 0 }
    }

    /// How many calls were answered.
    pub(super) fn answered(&self) -> usize {
        self.told.len()
    }

    /// Makes one call after the other, each once; stops when one is not
    /// answered.
    ///
    /// # Errors
    /// What it was told then.
    pub(super) async fn try_once(&mut self, clients: &Clients) -> Result<(), Status> {
        while self.told.len() < CALLS {
            self.calls += 1;
            let answer = self.call(clients, self.told.len()).await?.into_inner();
            self.told.push(answer);
        }
        Ok(())
    }

    /// Comes back: repeats the first call, then goes on where it was, and asks
    /// until there is an answer. Whether what it was told before still holds.
    ///
    /// # Errors
    /// What it was refused with.
    pub(super) async fn come_back(&mut self, clients: &Clients) -> Result<bool, Status> {
        let first = self.insist_on(clients, 0).await?;
        let same = self.told.first().is_none_or(|before| *before == first);
        if self.told.is_empty() {
            self.told.push(first);
        }
        while self.told.len() < CALLS {
            let answer = self.insist_on(clients, self.told.len()).await?;
            self.told.push(answer);
        }
        Ok(same && self.told.iter().all(|order| order.order_id == self.told[0].order_id))
    }

    async fn insist_on(&mut self, clients: &Clients, call: usize) -> Result<Order, Status> {
        let insisted = retry_until_definite(|| self.call(clients, call)).await;
        self.calls += insisted.attempts;
        insisted.response
    }

    async fn call(&self, clients: &Clients, call: usize) -> Result<Response<Order>, Status> {
        let mut orders = clients.orders.clone();
        let order_id = self.told.first().map(|order| order.order_id.clone()).unwrap_or_default();
        match (call, self.end) {
            (0, _) => {
                let (customer_id, request_id) = (self.customer.clone(), self.key.clone());
                let request = CreateOrderRequest { customer_id, request_id, ..CreateOrderRequest::default() };
                orders.create_order(request).await
            }
            (1, _) => orders.pay_order(PayOrderRequest { order_id, payment_method: "pm_card".into() }).await,
            (_, End::Shipped) => orders.ship_order(ShipOrderRequest { order_id }).await,
            (_, End::Cancelled) => orders.cancel_order(CancelOrderRequest { order_id }).await,
        }
    }

    /// What the shop has of this customer now.
    ///
    /// # Errors
    /// When a service does not answer.
    pub(super) async fn look(&self, clients: &Clients) -> Result<CustomerState> {
        let orders = clients.orders_of(&self.customer).await.context("the orders cannot be read")?;
        let Some(order) = orders.first() else { return Ok(CustomerState::default()) };
        let charge = retry_until_definite(|| {
            let mut payments = clients.payments.clone();
            let request = GetChargeRequest { idempotency_key: order.order_id.clone() };
            async move { payments.get_charge(request).await }
        });
        let charge = there(charge.await.response).context("the charge cannot be read")?;
        let goods = retry_until_definite(|| {
            let mut products = clients.products.clone();
            let request = GetReservationRequest { reservation_id: order.order_id.clone() };
            async move { products.get_reservation(request).await }
        });
        let goods = there(goods.await.response).context("the reservation cannot be read")?;
        Ok(CustomerState {
            orders: orders.len(),
            state: Some(order.state()),
            charge: charge.and_then(|found| found.charge).map(|charge| charge.state()),
            goods: goods.map(|goods| goods.state()),
        })
    }

    /// Whether what the shop has at rest goes with what this customer was told.
    pub(super) fn keeps(&self, state: CustomerState) -> bool {
        use OrderState::{Confirmed, Paid};
        match (self.told.len(), state.state) {
            (0, None | Some(Confirmed)) | (1, Some(Confirmed | Paid)) => true,
            (2, Some(state)) => state == Paid || state == self.last(),
            (CALLS, Some(state)) => state == self.last(),
            _ => false,
        }
    }

    fn last(&self) -> OrderState {
        match self.end {
            End::Shipped => OrderState::Shipped,
            End::Cancelled => OrderState::Cancelled,
        }
    }
}

/// What there is; `None` when there is nothing of that name.
fn there<T>(answer: Result<T, Status>) -> Result<Option<T>, Status> {
    match answer {
        Err(status) if status.code() == Code::NotFound => Ok(None),
        answer => answer.map(Some),
    }
}

/// What the shop has of a customer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CustomerState {
    pub(super) orders: usize,
    /// Of the latest order.
    state: Option<OrderState>,
    /// Of its charge.
    charge: Option<ChargeState>,
    /// Of its reservation.
    goods: Option<ReservationState>,
}

impl CustomerState {
    /// Whether nothing is under way.
    pub(super) fn rests(self) -> bool {
        use OrderState::{Cancelling, Paying, Pending, Shipping};
        let in_progress = matches!(self.state, Some(Pending | Paying | Shipping | Cancelling));
        !in_progress && self.goods != Some(ReservationState::Held)
    }

    /// Whether there is a charge just where there has to be one.
    pub(super) fn is_paid_right(self) -> bool {
        use OrderState::{Cancelled, Completed, Confirmed, Paid, Shipped};
        match self.state {
            Some(Paid | Shipped | Completed) => self.charge == Some(ChargeState::Succeeded),
            Some(Cancelled) => self.charge != Some(ChargeState::Succeeded),
            Some(Confirmed) | None => self.charge.is_none(),
            Some(_) => false,
        }
    }

    /// Whether the goods are the order's just where they have to be.
    pub(super) fn has_goods_right(self) -> bool {
        use OrderState::{Cancelled, Completed, Confirmed, Paid, Shipped};
        match self.state {
            Some(Confirmed | Paid | Shipped | Completed) => self.goods == Some(ReservationState::Committed),
            Some(Cancelled) => self.goods == Some(ReservationState::Released),
            None => self.goods.is_none(),
            Some(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(state: OrderState, charge: Option<ChargeState>, goods: ReservationState) -> CustomerState {
        CustomerState { orders: 1, state: Some(state), charge, goods: Some(goods) }
    }

    #[test]
    fn money_and_goods_go_with_the_order() {
        use {ChargeState::*, OrderState::*, ReservationState::*};
        for (state, paid, goods) in [
            (CustomerState::default(), true, true),
            (state(Confirmed, None, Committed), true, true),
            (state(Confirmed, Some(Succeeded), Committed), false, true),
            (state(Paid, None, Committed), false, true),
            (state(Shipped, Some(Succeeded), Released), true, false),
            (state(Cancelled, Some(Refunded), Released), true, true),
            (state(Cancelled, Some(Succeeded), Committed), false, false),
        ] {
            assert_eq!((state.is_paid_right(), state.has_goods_right()), (paid, goods), "{state:?}");
        }
    }

    #[test]
    fn what_is_set_aside_or_half_done_does_not_rest() {
        assert!(CustomerState::default().rests());
        assert!(state(OrderState::Confirmed, None, ReservationState::Committed).rests());
        assert!(!state(OrderState::Confirmed, None, ReservationState::Held).rests());
        assert!(!state(OrderState::Paying, None, ReservationState::Committed).rests());
    }

    #[test]
    fn an_answer_binds() {
        let mut buyer = Buyer::new("c".into(), End::Cancelled);
        let paid = state(OrderState::Paid, Some(ChargeState::Succeeded), ReservationState::Committed);
        assert!(buyer.keeps(CustomerState::default()) && !buyer.keeps(paid));
        buyer.told.resize(2, Order::default());
        assert!(buyer.keeps(paid) && !buyer.keeps(CustomerState::default()));
        buyer.told.resize(CALLS, Order::default());
        assert!(!buyer.keeps(paid) && !buyer.keeps(CustomerState::default()));
    }
}
