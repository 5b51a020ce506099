//! A fake payment-service.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use mesh_proto::shop::payment::v1::{
    Charge, ChargeRequest, ChargeResponse, ChargeState, GetBalanceRequest, GetBalanceResponse,
    GetChargeRequest, GetChargeResponse, ListChargesRequest, ListChargesResponse, RefundRequest,
    RefundResponse, payment_service_server::PaymentService,
};
use service_kit::error::Fault;
use tonic::{Code, Request, Response, Status};

use super::behavior::BehaviorSwitch;

/// The charges. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct FakePayments {
    charges: Arc<Mutex<HashMap<String, Charge>>>,
    pub(crate) charging: BehaviorSwitch,
    pub(crate) refunding: BehaviorSwitch,
}

impl FakePayments {
    fn charges(&self) -> MutexGuard<'_, HashMap<String, Charge>> {
        self.charges.lock().unwrap()
    }

    /// The state of the charge of an order.
    pub(crate) fn of(&self, order_id: &str) -> Option<ChargeState> {
        self.charges().get(order_id).map(Charge::state)
    }

    /// The number of charges that are not refunded.
    pub(crate) fn unrefunded(&self) -> usize {
        self.charges().values().filter(|charge| charge.state() == ChargeState::Succeeded).count()
    }

    fn make(&self, request: ChargeRequest) -> Result<ChargeResponse, Status> {
        let mut charges = self.charges();
        let known = charges.get(&request.idempotency_key).cloned();
        let declined = request.payment_method == "pm_card_declined";
        let state = match known.as_ref().map(Charge::state) {
            None | Some(ChargeState::Declined) if declined => ChargeState::Declined,
            None | Some(ChargeState::Declined) => ChargeState::Succeeded,
            Some(ChargeState::Succeeded) => {
                let charge = known.unwrap();
                let same = charge.payment_method == request.payment_method && charge.amount == request.amount;
                let other = || Status::invalid_argument("the key was charged with another body");
                return same.then_some(ChargeResponse { charge: Some(charge) }).ok_or_else(other);
            }
            Some(_) => return Err(refuse("CHARGE_VOIDED")),
        };
        let charge = Charge {
            charge_id: format!("charge of {}", request.idempotency_key),
            idempotency_key: request.idempotency_key.clone(),
            state: state.into(),
            customer_id: request.customer_id,
            amount: request.amount,
            payment_method: request.payment_method,
            ..Charge::default()
        };
        charges.insert(request.idempotency_key, charge.clone());
        if declined { Err(refuse("PAYMENT_DECLINED")) } else { Ok(ChargeResponse { charge: Some(charge) }) }
    }

    fn return_all(&self, key: &str) -> RefundResponse {
        let mut charges = self.charges();
        let charge = charges.entry(key.to_owned()).or_default();
        let state = match charge.state() {
            ChargeState::Succeeded | ChargeState::Refunded => ChargeState::Refunded,
            _ => ChargeState::Voided,
        };
        charge.set_state(state);
        RefundResponse { charge: Some(charge.clone()) }
    }
}

fn refuse(reason: &'static str) -> Status {
    Fault::new(Code::FailedPrecondition, reason, "no").into_status("payment-service")
}

#[tonic::async_trait]
impl PaymentService for FakePayments {
    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Response<ChargeResponse>, Status> {
        self.charging.apply(|| self.make(request.into_inner())).await
    }

    async fn refund(&self, request: Request<RefundRequest>) -> Result<Response<RefundResponse>, Status> {
        self.refunding.apply(|| Ok(self.return_all(&request.get_ref().idempotency_key))).await
    }

    async fn get_charge(
        &self,
        request: Request<GetChargeRequest>,
    ) -> Result<Response<GetChargeResponse>, Status> {
        let charge = self.charges().get(&request.get_ref().idempotency_key).cloned();
        let charge = charge.ok_or_else(|| Status::not_found("no such key"))?;
        Ok(Response::new(GetChargeResponse { charge: Some(charge) }))
    }

    async fn list_charges(
        &self,
        _: Request<ListChargesRequest>,
    ) -> Result<Response<ListChargesResponse>, Status> {
        Err(Status::unimplemented("orders list no charges"))
    }

    async fn get_balance(
        &self,
        _: Request<GetBalanceRequest>,
    ) -> Result<Response<GetBalanceResponse>, Status> {
        Err(Status::unimplemented("orders read no balance"))
    }
}
