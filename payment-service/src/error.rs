//! What can go wrong with a payment.

use service_kit::{currency::Currency, database, error::Fault};
use tonic::{Code, Status};

use crate::domain::Key;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed, or its caller may not make it.
    #[error("the request is malformed")]
    Invalid(Fault),
    /// The key was charged with another body; these fields differ.
    #[error("the key {0} was charged with another body; choose a new one")]
    Reused(Key, Vec<&'static str>),
    /// The payment method was declined.
    #[error("the payment method was declined; try another")]
    Declined(Key),
    /// A later attempt was declined.
    #[error("a later attempt to charge this key was declined; ask what became of that")]
    Superseded(Key),
    /// The key was refunded or voided.
    #[error("the key {0} was refunded, which is final; choose a new one")]
    Voided(Key),
    /// Nothing is known of the key.
    #[error("nothing was charged, refunded or declined under the key {0}")]
    NotFound(Key),
    /// The sum is more than an amount can be.
    #[error("the sum in {0} is too large to be told")]
    TooMuch(Currency),
    /// The payment provider is away.
    #[error("the payment provider is not available right now; try again")]
    ProviderAway,
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
        let words = error.to_string();
        let fault = match error {
            Error::Invalid(fault) => fault,
            Error::Reused(key, fields) => {
                let fault = Fault::new(Code::InvalidArgument, "KEY_REUSED", words)
                    .with("idempotency_key", key)
                    .with("fields", fields.join(","));
                // Which differ, and not how: the other body may be another's.
                fields.into_iter().fold(fault, |fault, field| {
                    fault.field(field, "differs from what the key was charged with")
                })
            }
            Error::Declined(key) => {
                Fault::new(Code::FailedPrecondition, "PAYMENT_DECLINED", words).with("idempotency_key", key)
            }
            Error::Superseded(key) => {
                Fault::new(Code::Aborted, "CHARGE_SUPERSEDED", words).with("idempotency_key", key)
            }
            Error::Voided(key) => {
                Fault::new(Code::FailedPrecondition, "CHARGE_VOIDED", words).with("idempotency_key", key)
            }
            Error::NotFound(key) => {
                Fault::new(Code::NotFound, "CHARGE_NOT_FOUND", words).with("idempotency_key", key)
            }
            Error::TooMuch(currency) => {
                Fault::new(Code::OutOfRange, "SUM_TOO_LARGE", words).with("currency_code", currency)
            }
            Error::ProviderAway => Fault::new(Code::Unavailable, "PROVIDER_UNAVAILABLE", words),
            Error::Database(error) => error.fault(),
        };
        fault.into_status(crate::NAME)
    }
}
