//! The gRPC handlers.

use std::time::Duration;

use mesh_proto::shop::payment::v1::{
    self as wire, ChargeRequest, ChargeResponse, GetBalanceRequest, GetBalanceResponse, GetChargeRequest,
    GetChargeResponse, ListChargesRequest, ListChargesResponse, RefundRequest, RefundResponse,
    payment_service_server::PaymentService,
};
use prost::Message;
use service_kit::{
    auth::{Caller, Role},
    error::{Fault, invalid},
};
use tokio::time::sleep;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};

use crate::{
    Error,
    domain::{Charge, ChargeState, IdempotencyKey},
    faults::{CallFaults, Faults, METADATA},
    request::{ChargeAttempt, ListRequest, currency, key},
    store::Store,
};

/// Payments as a gRPC service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Payments {
    store: Store,
    faults: Faults,
}

impl Payments {
    /// The payments in `store`, with injected faults.
    #[must_use]
    pub fn new(store: Store, faults: Faults) -> Self {
        Self { store, faults }
    }

    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Charge, Error> {
        let caller = Caller::of(&request)?.clone();
        let faults = self.draw_faults(request.metadata())?;
        let ChargeAttempt { key, terms, token } = request.into_inner().try_into()?;
        caller.may_act_for(&terms.customer)?;
        fail_before(&faults).await?;
        let declined = faults.declined || terms.method.is_declined();
        let charge = self.store.charge(key, &terms, token, declined).await?;
        fail_after(&faults).await?;
        if charge.state == ChargeState::Declined { Err(Error::Declined(key)) } else { Ok(charge) }
    }

    async fn refund(&self, request: Request<RefundRequest>) -> Result<Charge, Error> {
        let caller = Caller::of(&request)?.clone();
        let faults = self.draw_faults(request.metadata())?;
        let key = key(&request.into_inner().idempotency_key)?;
        if let Err(Error::Invalid(denied)) = self.authorized_charge(&caller, key).await {
            return Err(denied.into());
        }
        fail_before(&faults).await?;
        let charge = self.store.refund(key).await?;
        fail_after(&faults).await?;
        Ok(charge)
    }

    /// The charge of that key, if the caller may see it.
    async fn authorized_charge(&self, caller: &Caller, key: IdempotencyKey) -> Result<Charge, Error> {
        let charge = self.store.get(key).await?;
        if let Some(terms) = &charge.terms {
            caller.may_act_for(&terms.customer)?;
        }
        Ok(charge)
    }

    async fn get(&self, request: Request<GetChargeRequest>) -> Result<Charge, Error> {
        let caller = Caller::of(&request)?;
        self.authorized_charge(caller, key(&request.get_ref().idempotency_key)?).await
    }

    async fn list(&self, request: Request<ListChargesRequest>) -> Result<ListChargesResponse, Error> {
        let caller = Caller::of(&request)?.clone();
        let ListRequest { customer, page } = request.into_inner().try_into()?;
        match &customer {
            Some(customer) => caller.may_act_for(customer)?,
            None => check_may_read_all(&caller)?,
        }
        let fetch = async |after, limit| {
            let charges = self.store.list(customer.as_ref(), after, limit).await?;
            Ok::<_, Error>(charges.into_iter().map(wire::Charge::from).collect())
        };
        let (charges, next_page_token) =
            page.fill(fetch, |charge| &charge.charge_id, Message::encoded_len).await?;
        Ok(ListChargesResponse { charges, next_page_token })
    }

    async fn balance(&self, request: Request<GetBalanceRequest>) -> Result<GetBalanceResponse, Error> {
        check_may_read_all(Caller::of(&request)?)?;
        let currency = currency(&request.get_ref().currency_code)?;
        let balance = self.store.balance(currency).await?;
        let [charged, refunded, difference] = balance.amounts().ok_or(Error::SumTooLarge(currency))?;
        Ok(GetBalanceResponse {
            charged: Some(charged),
            refunded: Some(refunded),
            balance: Some(difference),
            charges: balance.charged.entries,
            refunds: balance.refunded.entries,
        })
    }

    fn draw_faults(&self, metadata: &MetadataMap) -> Result<CallFaults, Fault> {
        self.faults.draw(metadata).map_err(|why| invalid(METADATA, why))
    }
}

/// Checks that the caller may read the data of all customers.
fn check_may_read_all(caller: &Caller) -> Result<(), Fault> {
    if matches!(caller, Caller::Service(_)) || caller.has(Role::Staff) {
        return Ok(());
    }
    let message = "the request is for all customers; set customer_id to your own";
    Err(Fault::new(Code::PermissionDenied, "NOT_OWNER", message))
}

/// Injects the faults that precede the effect of a call.
async fn fail_before(faults: &CallFaults) -> Result<(), Error> {
    sleep(faults.slow.unwrap_or(Duration::ZERO)).await;
    if faults.unavailable { Err(Error::ProviderUnavailable) } else { Ok(()) }
}

/// Injects the faults that follow the effect of a call.
async fn fail_after(faults: &CallFaults) -> Result<(), Error> {
    let Some(time) = faults.lost else { return Ok(()) };
    // It ends earlier when the caller gives up.
    sleep(time).await;
    Err(Error::ProviderUnavailable)
}

#[tonic::async_trait]
impl PaymentService for Payments {
    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Response<ChargeResponse>, Status> {
        let charge = Some(Self::charge(self, request).await?.into());
        Ok(Response::new(ChargeResponse { charge }))
    }

    async fn refund(&self, request: Request<RefundRequest>) -> Result<Response<RefundResponse>, Status> {
        let charge = Some(Self::refund(self, request).await?.into());
        Ok(Response::new(RefundResponse { charge }))
    }

    async fn get_charge(
        &self,
        request: Request<GetChargeRequest>,
    ) -> Result<Response<GetChargeResponse>, Status> {
        let charge = Some(self.get(request).await?.into());
        Ok(Response::new(GetChargeResponse { charge }))
    }

    async fn list_charges(
        &self,
        request: Request<ListChargesRequest>,
    ) -> Result<Response<ListChargesResponse>, Status> {
        Ok(Response::new(self.list(request).await?))
    }

    async fn get_balance(
        &self,
        request: Request<GetBalanceRequest>,
    ) -> Result<Response<GetBalanceResponse>, Status> {
        Ok(Response::new(self.balance(request).await?))
    }
}
