//! What can go wrong in the catalogue.

use service_kit::{database, error::Fault, value::Sku};
use tonic::{Code, Status};

/// The most SKUs that an error names: details travel in a header.
const MOST_NAMED: usize = 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed.
    #[error("the request is malformed")]
    Invalid(Fault),
    /// No such products; at least one is named.
    #[error("{} of the products do not exist", .0.len())]
    Missing(Vec<Sku>),
    /// The SKU belongs to a product that differs.
    #[error("`{0}` is another product already")]
    Taken(Sku),
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
        let fault = match error {
            Error::Invalid(fault) => fault,
            Error::Missing(skus) => {
                let named: Vec<_> = skus.iter().take(MOST_NAMED).map(Sku::as_str).collect();
                Fault::new(Code::NotFound, "PRODUCT_NOT_FOUND", format!("no product {}", named.join(", ")))
                    .with("product_ids", named.join(","))
            }
            Error::Taken(sku) => {
                let words = format!("`{sku}` is another product already; choose another id");
                Fault::new(Code::AlreadyExists, "PRODUCT_ALREADY_EXISTS", words).with("product_id", sku)
            }
            Error::Database(error) => error.fault(),
        };
        fault.into_status(crate::NAME)
    }
}
