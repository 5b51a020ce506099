//! The client of payment-service: one charge for each order, under its id.

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

/// The service of the charges.
pub const SERVICE: &str = "payment-service";

/// The timeout of one call, so that the two of a step end within its timeout.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// The payments. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Payments {
    payments: PaymentServiceClient<Outgoing>,
}

/// The outcome of a charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChargeOutcome {
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

    /// Charges the total of an order once: a repeated call returns the outcome of the
    /// first. Each `attempt` has a higher number than those before: once one is
    /// declined, delayed messages of it and of earlier ones charge nothing.
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
    ) -> Result<ChargeOutcome, Fault> {
        let request = ChargeRequest {
            idempotency_key: order.id().to_string(),
            customer_id: order.facts().customer.as_str().to_owned(),
            amount: Some(order.facts().total.into()),
            payment_method: method.as_str().to_owned(),
            fencing_token: attempt,
        };
        match self.payments.clone().charge(with_timeout(request)).await {
            Ok(response) => {
                let charge = response.into_inner().charge.unwrap_or_default();
                Ok(ChargeOutcome::Made(charge.charge_id))
            }
            Err(status) => match (status.code(), reason(&status).as_str()) {
                (Code::FailedPrecondition, "PAYMENT_DECLINED") => Ok(ChargeOutcome::Declined),
                (Code::FailedPrecondition, "CHARGE_VOIDED") => Ok(ChargeOutcome::Voided),
                // An earlier, delayed charge has another payment method.
                (Code::InvalidArgument, _) => self.find_charge(order, &status).await,
                _ => Err(downstream(SERVICE, &status)),
            },
        }
    }

    /// Checks that the charge of a paid order was not refunded.
    ///
    /// # Errors
    /// When payment-service fails, or has no such charge.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_charged(&self, order: &Order) -> Result<bool, Fault> {
        let charge = self.get_charge(order).await.map_err(|status| downstream(SERVICE, &status))?;
        match charge.state() {
            ChargeState::Succeeded => Ok(true),
            ChargeState::Refunded | ChargeState::Voided => Ok(false),
            state => Err(internal(&format_args!(
                "{SERVICE} returned the state {} for the charge of a paid order",
                state.as_str_name()
            ))),
        }
    }

    async fn get_charge(&self, order: &Order) -> Result<Charge, Status> {
        let request = GetChargeRequest { idempotency_key: order.id().to_string() };
        let found = self.payments.clone().get_charge(with_timeout(request)).await?;
        Ok(found.into_inner().charge.unwrap_or_default())
    }

    /// Finds the outcome of a charge that was rejected with `error`.
    async fn find_charge(&self, order: &Order, error: &Status) -> Result<ChargeOutcome, Fault> {
        let charge = match self.get_charge(order).await {
            Ok(charge) => charge,
            Err(status) if status.code() == Code::NotFound => return Err(downstream(SERVICE, error)),
            Err(status) => return Err(downstream(SERVICE, &status)),
        };
        match charge.state() {
            ChargeState::Succeeded => Ok(ChargeOutcome::Made(charge.charge_id)),
            ChargeState::Declined => Ok(ChargeOutcome::Declined),
            ChargeState::Refunded | ChargeState::Voided => Ok(ChargeOutcome::Voided),
            ChargeState::Unspecified => {
                Err(internal(&format_args!("{SERVICE} returned a charge without a state")))
            }
        }
    }

    /// Refunds the charge of an order for ever, even if there is none: it cannot be
    /// charged any more.
    ///
    /// # Errors
    /// When payment-service fails: it may have been refunded.
    ///
    /// # Cancel safety
    /// It may have been refunded.
    pub async fn refund(&self, order: &Order) -> Result<(), Fault> {
        let request = RefundRequest { idempotency_key: order.id().to_string() };
        let refunded = self.payments.clone().refund(with_timeout(request)).await;
        refunded.map(drop).map_err(|status| downstream(SERVICE, &status))
    }
}

fn with_timeout<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
