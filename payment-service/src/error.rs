//! The errors of the service and their statuses.

use service_kit::{currency::Currency, database, error::Fault};
use tonic::{Code, Status};

use crate::domain::IdempotencyKey;

/// The reason why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed, or its caller may not make it.
    #[error("the request is malformed")]
    Invalid(Fault),
    /// The key was charged with another body; these fields differ.
    #[error("the key {0} was charged with another body; choose a new one")]
    KeyReused(IdempotencyKey, Vec<&'static str>),
    /// The payment method was declined.
    #[error("the payment method was declined; try another")]
    Declined(IdempotencyKey),
    /// A later attempt was declined.
    #[error("a later attempt to charge this key was declined; read the charge with GetCharge")]
    Superseded(IdempotencyKey),
    /// The key was refunded or voided.
    #[error("the key {0} was refunded, which is final; choose a new one")]
    Voided(IdempotencyKey),
    /// The key is unknown.
    #[error("nothing was charged, refunded or declined under the key {0}")]
    NotFound(IdempotencyKey),
    /// The sum exceeds the largest amount.
    #[error("the sum in {0} exceeds the largest amount")]
    SumTooLarge(Currency),
    /// The payment provider is unavailable.
    #[error("the payment provider is unavailable; try again")]
    ProviderUnavailable,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] database::Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let fault =
            match error {
                Error::Invalid(fault) => fault,
                Error::KeyReused(key, fields) => {
                    let fault = Fault::new(Code::InvalidArgument, "KEY_REUSED", message)
                        .with("idempotency_key", key)
                        .with("fields", fields.join(","));
                    // Without the values: the other body may belong to another customer.
                    fields.into_iter().fold(fault, |fault, field| {
                        fault.field(field, "differs from what the key was charged with")
                    })
                }
                Error::Declined(key) => Fault::new(Code::FailedPrecondition, "PAYMENT_DECLINED", message)
                    .with("idempotency_key", key),
                Error::Superseded(key) => {
                    Fault::new(Code::Aborted, "CHARGE_SUPERSEDED", message).with("idempotency_key", key)
                }
                Error::Voided(key) => Fault::new(Code::FailedPrecondition, "CHARGE_VOIDED", message)
                    .with("idempotency_key", key),
                Error::NotFound(key) => {
                    Fault::new(Code::NotFound, "CHARGE_NOT_FOUND", message).with("idempotency_key", key)
                }
                Error::SumTooLarge(currency) => {
                    Fault::new(Code::OutOfRange, "SUM_TOO_LARGE", message).with("currency_code", currency)
                }
                Error::ProviderUnavailable => Fault::new(Code::Unavailable, "PROVIDER_UNAVAILABLE", message),
                Error::Database(error) => error.fault(),
            };
        fault.into_status(crate::NAME)
    }
}
