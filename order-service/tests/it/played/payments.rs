//! A payment-service that keeps its charges in memory and fails when told to.

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

use super::mood::Temper;

/// The charges. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct PlayedPayments {
    charges: Arc<Mutex<HashMap<String, Charge>>>,
    pub(crate) charging: Temper,
    pub(crate) refunding: Temper,
}

impl PlayedPayments {
    fn charges(&self) -> MutexGuard<'_, HashMap<String, Charge>> {
        self.charges.lock().unwrap()
    }

    /// Where the charge of an order stands.
    pub(crate) fn of(&self, order_id: &str) -> Option<ChargeState> {
        self.charges().get(order_id).map(Charge::state)
    }

    /// How many charges stand.
    pub(crate) fn standing(&self) -> usize {
        self.charges().values().filter(|charge| charge.state() == ChargeState::Succeeded).count()
    }

    fn make(&self, asked: ChargeRequest) -> Result<ChargeResponse, Status> {
        let mut charges = self.charges();
        let known = charges.get(&asked.idempotency_key).cloned();
        let declined = asked.payment_method == "pm_card_declined";
        let state = match known.as_ref().map(Charge::state) {
            None | Some(ChargeState::Declined) if declined => ChargeState::Declined,
            None | Some(ChargeState::Declined) => ChargeState::Succeeded,
            Some(ChargeState::Succeeded) => {
                let charge = known.unwrap();
                let same = charge.payment_method == asked.payment_method && charge.amount == asked.amount;
                let other = || Status::invalid_argument("the key was charged with another body");
                return same.then_some(ChargeResponse { charge: Some(charge) }).ok_or_else(other);
            }
            Some(_) => return Err(refuse("CHARGE_VOIDED")),
        };
        let charge = Charge {
            charge_id: format!("charge of {}", asked.idempotency_key),
            idempotency_key: asked.idempotency_key.clone(),
            state: state.into(),
            customer_id: asked.customer_id,
            amount: asked.amount,
            payment_method: asked.payment_method,
            ..Charge::default()
        };
        charges.insert(asked.idempotency_key, charge.clone());
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
impl PaymentService for PlayedPayments {
    async fn charge(&self, asked: Request<ChargeRequest>) -> Result<Response<ChargeResponse>, Status> {
        self.charging.play(|| self.make(asked.into_inner())).await
    }

    async fn refund(&self, asked: Request<RefundRequest>) -> Result<Response<RefundResponse>, Status> {
        self.refunding.play(|| Ok(self.return_all(&asked.get_ref().idempotency_key))).await
    }

    async fn get_charge(
        &self,
        asked: Request<GetChargeRequest>,
    ) -> Result<Response<GetChargeResponse>, Status> {
        let charge = self.charges().get(&asked.get_ref().idempotency_key).cloned();
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
        Err(Status::unimplemented("orders ask for no balance"))
    }
}
