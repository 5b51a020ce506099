//! What can go wrong with a cart.

use service_kit::{database, error::Fault, money::MoneyError, value::Sku};
use tonic::{Code, Status};

use crate::domain::Refusal;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed.
    #[error("the request is malformed")]
    Invalid(Fault),
    /// A rule of the cart forbids it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The product that is to be added does not exist.
    #[error("there is no product {0}")]
    NoSuchProduct(Sku),
    /// Products that the cart holds are no longer sold.
    #[error("{} products of the cart are no longer sold", .0.len())]
    Withdrawn(Vec<String>),
    /// What the cart holds has no sum in one currency.
    #[error("the cart has no total: {0}")]
    NoTotal(#[source] MoneyError),
    /// product-service failed.
    #[error("product-service failed")]
    Catalogue(Fault),
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
            Error::Invalid(fault) | Error::Catalogue(fault) => fault,
            Error::Refused(refusal) => refused(&refusal, words),
            Error::NoSuchProduct(sku) => {
                Fault::new(Code::NotFound, "PRODUCT_NOT_FOUND", words).with("product_id", sku)
            }
            Error::Withdrawn(skus) => {
                let skus = skus.join(",");
                let words = format!("no longer sold: {skus}; remove them with RemoveItem");
                Fault::new(Code::FailedPrecondition, "PRODUCT_WITHDRAWN", words).with("product_ids", skus)
            }
            Error::NoTotal(_) => Fault::new(Code::FailedPrecondition, "CART_HAS_NO_TOTAL", words),
            Error::Database(error) => error.fault(),
        };
        fault.into_status(crate::NAME)
    }
}

fn refused(refusal: &Refusal, words: String) -> Fault {
    let held = Code::FailedPrecondition;
    match refusal {
        Refusal::TooMany { sku, held: pieces, .. } => {
            Fault::new(held, "TOO_MANY_PIECES", words).with("product_id", sku).with("held", pieces)
        }
        Refusal::Full => Fault::new(held, "CART_FULL", words),
        Refusal::Mixed { sku, held: currency, other } => Fault::new(held, "CURRENCY_MIXED", words)
            .with("product_id", sku)
            .with("cart_currency", currency)
            .with("product_currency", other),
        Refusal::NotHeld(sku) => Fault::new(Code::NotFound, "ITEM_NOT_FOUND", words).with("product_id", sku),
        Refusal::Stale => Fault::new(Code::Aborted, "CART_CHANGED", words),
    }
}
