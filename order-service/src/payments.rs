//! payment-service, as orders see it: one charge for each order, under its id.

use std::time::Duration;

use mesh_proto::shop::payment::v1::{
    Charge, ChargeRequest, ChargeState, GetChargeRequest, RefundRequest,
    payment_service_client::PaymentServiceClient,
};
use service_kit::{
    auth::Outgoing,
    error::{Fault, downstream, internal},
};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::domain::{Order, PaymentMethod};

/// The service that charges.
pub const SERVICE: &str = "payment-service";

/// How long one call may take: so that the two of a step end within it.
const LIMIT: Duration = Duration::from_secs(3);

/// The payments. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Payments {
    payments: PaymentServiceClient<Outgoing>,
}

/// What became of a charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Charging {
    /// It was made, under this id.
    Made(String),
    /// The payment method was declined: nothing was charged.
    Declined,
    /// It was refunded or voided, and can never be made.
    Voided,
}

impl Payments {
    /// The payments behind `channel`.
    #[must_use]
    pub fn new(channel: Outgoing) -> Self {
        Self { payments: PaymentServiceClient::new(channel) }
    }

    /// Charges the total of an order, once however often it is asked for: to
    /// ask again is to find out what became of it. Each `attempt` has a higher
    /// number than those before: once one is declined, what was sent for earlier
    /// ones, or again for this one, charges nothing when it arrives late.
    ///
    /// # Errors
    /// When payment-service fails: the charge may have been made.
    ///
    /// # Cancel safety
    /// It may have been made.
    pub async fn charge(
        &self,
        order: &Order,
        method: &PaymentMethod,
        attempt: i64,
    ) -> Result<Charging, Fault> {
        let request = ChargeRequest {
            idempotency_key: order.id().to_string(),
            customer_id: order.facts().customer.as_str().to_owned(),
            amount: Some(order.facts().total.into()),
            payment_method: method.as_str().to_owned(),
            fencing_token: attempt,
        };
        match self.payments.clone().charge(limited(request)).await {
            Ok(answer) => {
                let charge = answer.into_inner().charge.unwrap_or_default();
                Ok(Charging::Made(charge.charge_id))
            }
            Err(status) => match (status.code(), reason(&status).as_str()) {
                (Code::FailedPrecondition, "PAYMENT_DECLINED") => Ok(Charging::Declined),
                (Code::FailedPrecondition, "CHARGE_VOIDED") => Ok(Charging::Voided),
                // With another method: a charge of before, late.
                (Code::InvalidArgument, _) => self.look(order, &status).await,
                _ => Err(downstream(SERVICE, &status)),
            },
        }
    }

    /// Whether the charge that paid for an order stands.
    ///
    /// # Errors
    /// When payment-service fails, or knows of no such charge.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_charged(&self, order: &Order) -> Result<bool, Fault> {
        let charge = self.get(order).await.map_err(|status| downstream(SERVICE, &status))?;
        match charge.state() {
            ChargeState::Succeeded => Ok(true),
            ChargeState::Refunded | ChargeState::Voided => Ok(false),
            state => {
                Err(internal(&format_args!("{SERVICE} says that a paid order is {}", state.as_str_name())))
            }
        }
    }

    async fn get(&self, order: &Order) -> Result<Charge, Status> {
        let request = GetChargeRequest { idempotency_key: order.id().to_string() };
        let found = self.payments.clone().get_charge(limited(request)).await?;
        Ok(found.into_inner().charge.unwrap_or_default())
    }

    /// What became of the charge of an order that was refused with `why`.
    async fn look(&self, order: &Order, why: &Status) -> Result<Charging, Fault> {
        let charge = match self.get(order).await {
            Ok(charge) => charge,
            Err(status) if status.code() == Code::NotFound => return Err(downstream(SERVICE, why)),
            Err(status) => return Err(downstream(SERVICE, &status)),
        };
        match charge.state() {
            ChargeState::Succeeded => Ok(Charging::Made(charge.charge_id)),
            ChargeState::Declined => Ok(Charging::Declined),
            ChargeState::Refunded | ChargeState::Voided => Ok(Charging::Voided),
            ChargeState::Unspecified => {
                Err(internal(&format_args!("{SERVICE} sent a charge that stands nowhere")))
            }
        }
    }

    /// Gives back what was charged for an order, whether or not anything was,
    /// for ever: it cannot be charged any more.
    ///
    /// # Errors
    /// When payment-service fails: it may have been given back.
    ///
    /// # Cancel safety
    /// It may have been given back.
    pub async fn refund(&self, order: &Order) -> Result<(), Fault> {
        let request = RefundRequest { idempotency_key: order.id().to_string() };
        let refunded = self.payments.clone().refund(limited(request)).await;
        refunded.map(drop).map_err(|status| downstream(SERVICE, &status))
    }
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LIMIT);
    request
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
