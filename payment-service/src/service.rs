//! The rpcs: translate, ask, translate back.

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
    domain::{Charge, Key, State},
    faults::{Faults, METADATA, Plan},
    request::{Listing, Wanted, currency, key},
    store::Store,
};

/// Payments as a gRPC service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Payments {
    store: Store,
    faults: Faults,
}

impl Payments {
    /// Payments that `store` keeps, with these faults.
    #[must_use]
    pub fn new(store: Store, faults: Faults) -> Self {
        Self { store, faults }
    }

    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Charge, Error> {
        let caller = Caller::of(&request)?.clone();
        let plan = self.plan(request.metadata())?;
        let Wanted { key, terms, token } = request.into_inner().try_into()?;
        caller.may_act_for(&terms.customer)?;
        begin(&plan).await?;
        let declined = plan.declined || terms.method.is_declined();
        let charge = self.store.charge(key, &terms, token, declined).await?;
        end(&plan).await?;
        if charge.state == State::Declined { Err(Error::Declined(key)) } else { Ok(charge) }
    }

    async fn refund(&self, request: Request<RefundRequest>) -> Result<Charge, Error> {
        let caller = Caller::of(&request)?.clone();
        let plan = self.plan(request.metadata())?;
        let key = key(&request.into_inner().idempotency_key)?;
        if let Err(Error::Invalid(denied)) = self.of_caller(&caller, key).await {
            return Err(denied.into());
        }
        begin(&plan).await?;
        let charge = self.store.refund(key).await?;
        end(&plan).await?;
        Ok(charge)
    }

    /// The charge of that key, if the caller may see it.
    async fn of_caller(&self, caller: &Caller, key: Key) -> Result<Charge, Error> {
        let charge = self.store.get(key).await?;
        if let Some(terms) = &charge.terms {
            caller.may_act_for(&terms.customer)?;
        }
        Ok(charge)
    }

    async fn get(&self, request: Request<GetChargeRequest>) -> Result<Charge, Error> {
        let caller = Caller::of(&request)?;
        self.of_caller(caller, key(&request.get_ref().idempotency_key)?).await
    }

    async fn list(&self, request: Request<ListChargesRequest>) -> Result<ListChargesResponse, Error> {
        let caller = Caller::of(&request)?.clone();
        let Listing { customer, page } = request.into_inner().try_into()?;
        match &customer {
            Some(customer) => caller.may_act_for(customer)?,
            None => may_see_all(&caller)?,
        }
        let fetch = async |after, most| {
            let charges = self.store.list(customer.as_ref(), after, most).await?;
            Ok::<_, Error>(charges.into_iter().map(wire::Charge::from).collect())
        };
        let (charges, next_page_token) =
            page.fill(fetch, |charge| &charge.charge_id, Message::encoded_len).await?;
        Ok(ListChargesResponse { charges, next_page_token })
    }

    async fn balance(&self, request: Request<GetBalanceRequest>) -> Result<GetBalanceResponse, Error> {
        may_see_all(Caller::of(&request)?)?;
        let currency = currency(&request.get_ref().currency_code)?;
        let balance = self.store.balance(currency).await?;
        let [charged, refunded, left] = balance.amounts().ok_or(Error::TooMuch(currency))?;
        Ok(GetBalanceResponse {
            charged: Some(charged),
            refunded: Some(refunded),
            balance: Some(left),
            charges: balance.charged.entries,
            refunds: balance.refunded.entries,
        })
    }

    fn plan(&self, metadata: &MetadataMap) -> Result<Plan, Fault> {
        self.faults.plan(metadata).map_err(|why| invalid(METADATA, why))
    }
}

/// Whether the caller may see what belongs to all customers.
fn may_see_all(caller: &Caller) -> Result<(), Fault> {
    if matches!(caller, Caller::Service(_)) || caller.has(Role::Staff) {
        return Ok(());
    }
    let words = "this is of all customers; name one whose charges are yours";
    Err(Fault::new(Code::PermissionDenied, "NOT_OWNER", words))
}

/// What befalls a call before anything is done.
async fn begin(plan: &Plan) -> Result<(), Error> {
    sleep(plan.slow.unwrap_or(Duration::ZERO)).await;
    if plan.unavailable { Err(Error::ProviderAway) } else { Ok(()) }
}

/// What befalls a call after everything is done.
async fn end(plan: &Plan) -> Result<(), Error> {
    let Some(silent) = plan.lost else { return Ok(()) };
    // Ends earlier when the caller gives up.
    sleep(silent).await;
    Err(Error::ProviderAway)
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
