//! A customer who orders, pays, and has the order shipped or cancels it, and
//! retries failed calls.

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

/// The end of a checkout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckoutEnd {
    Shipped,
    Cancelled,
}

/// The number of calls in a checkout.
pub(super) const CALLS: usize = 3;

/// A customer in the middle of a checkout.
#[derive(Debug)]
pub(super) struct Buyer {
    pub(super) customer: String,
    request_id: String,
    end: CheckoutEnd,
    /// The responses so far.
    responses: Vec<Order>,
    /// The number of calls that were made.
    pub(super) calls: usize,
}

impl Buyer {
    pub(super) fn new(customer: String, end: CheckoutEnd) -> Self {
        Self { customer, request_id: Uuid::now_v7().to_string(), end, responses: Vec::new(), calls: 0 }
    }

    /// The number of calls with a response.
    pub(super) fn responded(&self) -> usize {
        self.responses.len()
    }

    /// Makes each call once, until one fails.
    ///
    /// # Errors
    /// The status of the call that failed.
    pub(super) async fn try_once(&mut self, clients: &Clients) -> Result<(), Status> {
        while self.responses.len() < CALLS {
            self.calls += 1;
            let response = self.call(clients, self.responses.len()).await?.into_inner();
            self.responses.push(response);
        }
        Ok(())
    }

    /// Repeats the first call, then makes the remaining ones, with retries.
    /// Returns whether the earlier responses still hold.
    ///
    /// # Errors
    /// The status of a rejected call.
    pub(super) async fn resume(&mut self, clients: &Clients) -> Result<bool, Status> {
        let first = self.retry_call(clients, 0).await?;
        let is_same = self.responses.first().is_none_or(|before| *before == first);
        if self.responses.is_empty() {
            self.responses.push(first);
        }
        while self.responses.len() < CALLS {
            let response = self.retry_call(clients, self.responses.len()).await?;
            self.responses.push(response);
        }
        Ok(is_same && self.responses.iter().all(|order| order.order_id == self.responses[0].order_id))
    }

    async fn retry_call(&mut self, clients: &Clients, call_number: usize) -> Result<Order, Status> {
        let retried = retry_until_definite(|| self.call(clients, call_number)).await;
        self.calls += retried.attempts;
        retried.response
    }

    async fn call(&self, clients: &Clients, call_number: usize) -> Result<Response<Order>, Status> {
        let mut orders = clients.orders.clone();
        let order_id = self.responses.first().map(|order| order.order_id.clone()).unwrap_or_default();
        match (call_number, self.end) {
            (0, _) => {
                let (customer_id, request_id) = (self.customer.clone(), self.request_id.clone());
                let request = CreateOrderRequest { customer_id, request_id, ..CreateOrderRequest::default() };
                orders.create_order(request).await
            }
            (1, _) => orders.pay_order(PayOrderRequest { order_id, payment_method: "pm_card".into() }).await,
            (_, CheckoutEnd::Shipped) => orders.ship_order(ShipOrderRequest { order_id }).await,
            (_, CheckoutEnd::Cancelled) => orders.cancel_order(CancelOrderRequest { order_id }).await,
        }
    }

    /// Reads the shop's state of this customer.
    ///
    /// # Errors
    /// When a service does not respond.
    pub(super) async fn read_state(&self, clients: &Clients) -> Result<CustomerState> {
        let orders = clients.orders_of(&self.customer).await.context("the orders cannot be read")?;
        let Some(order) = orders.first() else { return Ok(CustomerState::default()) };
        let charge = retry_until_definite(|| {
            let mut payments = clients.payments.clone();
            let request = GetChargeRequest { idempotency_key: order.order_id.clone() };
            async move { payments.get_charge(request).await }
        });
        let charge = found_or_none(charge.await.response).context("the charge cannot be read")?;
        let reservation = retry_until_definite(|| {
            let mut products = clients.products.clone();
            let request = GetReservationRequest { reservation_id: order.order_id.clone() };
            async move { products.get_reservation(request).await }
        });
        let reservation =
            found_or_none(reservation.await.response).context("the reservation cannot be read")?;
        Ok(CustomerState {
            orders: orders.len(),
            state: Some(order.state()),
            charge: charge.and_then(|found| found.charge).map(|charge| charge.state()),
            reservation: reservation.map(|reservation| reservation.state()),
        })
    }

    /// Returns whether a settled state matches the responses to this customer.
    pub(super) fn matches_responses(&self, state: CustomerState) -> bool {
        use OrderState::{Confirmed, Paid};
        match (self.responses.len(), state.state) {
            (0, None | Some(Confirmed)) | (1, Some(Confirmed | Paid)) => true,
            (2, Some(state)) => state == Paid || state == self.final_state(),
            (CALLS, Some(state)) => state == self.final_state(),
            _ => false,
        }
    }

    fn final_state(&self) -> OrderState {
        match self.end {
            CheckoutEnd::Shipped => OrderState::Shipped,
            CheckoutEnd::Cancelled => OrderState::Cancelled,
        }
    }
}

/// Turns `NOT_FOUND` into `None`.
fn found_or_none<T>(response: Result<T, Status>) -> Result<Option<T>, Status> {
    match response {
        Err(status) if status.code() == Code::NotFound => Ok(None),
        response => response.map(Some),
    }
}

/// The shop's state of a customer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CustomerState {
    pub(super) orders: usize,
    /// The state of the latest order.
    state: Option<OrderState>,
    /// The state of its charge.
    charge: Option<ChargeState>,
    /// The state of its reservation.
    reservation: Option<ReservationState>,
}

impl CustomerState {
    /// Returns whether the order is in a final state.
    pub(super) fn is_settled(self) -> bool {
        use OrderState::{Cancelling, Paying, Pending, Shipping};
        let in_progress = matches!(self.state, Some(Pending | Paying | Shipping | Cancelling));
        !in_progress && self.reservation != Some(ReservationState::Held)
    }

    /// Returns whether the charge matches the order's state.
    pub(super) fn has_correct_charge(self) -> bool {
        use OrderState::{Cancelled, Completed, Confirmed, Paid, Shipped};
        match self.state {
            Some(Paid | Shipped | Completed) => self.charge == Some(ChargeState::Succeeded),
            Some(Cancelled) => self.charge != Some(ChargeState::Succeeded),
            Some(Confirmed) | None => self.charge.is_none(),
            Some(_) => false,
        }
    }

    /// Returns whether the reservation matches the order's state.
    pub(super) fn has_correct_reservation(self) -> bool {
        use OrderState::{Cancelled, Completed, Confirmed, Paid, Shipped};
        match self.state {
            Some(Confirmed | Paid | Shipped | Completed) => {
                self.reservation == Some(ReservationState::Committed)
            }
            Some(Cancelled) => self.reservation == Some(ReservationState::Released),
            None => self.reservation.is_none(),
            Some(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(state: OrderState, charge: Option<ChargeState>, reservation: ReservationState) -> CustomerState {
        CustomerState { orders: 1, state: Some(state), charge, reservation: Some(reservation) }
    }

    #[test]
    fn money_and_goods_go_with_the_order() {
        use {ChargeState::*, OrderState::*, ReservationState::*};
        for (state, paid, reservation) in [
            (CustomerState::default(), true, true),
            (state(Confirmed, None, Committed), true, true),
            (state(Confirmed, Some(Succeeded), Committed), false, true),
            (state(Paid, None, Committed), false, true),
            (state(Shipped, Some(Succeeded), Released), true, false),
            (state(Cancelled, Some(Refunded), Released), true, true),
            (state(Cancelled, Some(Succeeded), Committed), false, false),
        ] {
            assert_eq!(
                (state.has_correct_charge(), state.has_correct_reservation()),
                (paid, reservation),
                "{state:?}"
            );
        }
    }

    #[test]
    fn what_is_set_aside_or_half_done_does_not_rest() {
        assert!(CustomerState::default().is_settled());
        assert!(state(OrderState::Confirmed, None, ReservationState::Committed).is_settled());
        assert!(!state(OrderState::Confirmed, None, ReservationState::Held).is_settled());
        assert!(!state(OrderState::Paying, None, ReservationState::Committed).is_settled());
    }

    #[test]
    fn an_answer_binds() {
        let mut buyer = Buyer::new("c".into(), CheckoutEnd::Cancelled);
        let paid = state(OrderState::Paid, Some(ChargeState::Succeeded), ReservationState::Committed);
        assert!(buyer.matches_responses(CustomerState::default()) && !buyer.matches_responses(paid));
        buyer.responses.resize(2, Order::default());
        assert!(buyer.matches_responses(paid) && !buyer.matches_responses(CustomerState::default()));
        buyer.responses.resize(CALLS, Order::default());
        assert!(!buyer.matches_responses(paid) && !buyer.matches_responses(CustomerState::default()));
    }
}
