//! What can go wrong in the catalogue and with its stock.

use service_kit::{database, error::Fault, value::Sku};
use tonic::{Code, Status};

use crate::domain::{Impossible, ReservationId};

/// The most SKUs that an error names: details travel in a header.
const MOST_NAMED: usize = 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed, or its caller may not make it.
    #[error("the request is malformed")]
    Invalid(Fault),
    /// No such products; at least one is named.
    #[error("{} of the products do not exist", .0.len())]
    Missing(Vec<Sku>),
    /// The SKU belongs to a product that differs.
    #[error("`{0}` is another product already; choose another id")]
    Taken(Sku),
    /// The product is not the one that the caller has seen.
    #[error("`{0}` has changed since; read it again")]
    ProductChanged(Sku),
    /// The stock is not the one that the caller has seen.
    #[error("the stock of `{0}` has changed since; read it again")]
    StockChanged(Sku),
    /// Pieces of the product are set aside.
    #[error("{pieces} pieces of `{sku}` are reserved; it can be deleted after they are sold or released")]
    Reserved {
        /// Of which product.
        sku: Sku,
        /// How many.
        pieces: i64,
    },
    /// There are too few pieces of these products, and so many there are.
    #[error("there are too few pieces of {} products", .0.len())]
    OutOfStock(Vec<(Sku, i64)>),
    /// The reservation cannot go on.
    #[error("the reservation {0} is not known or was released")]
    Impossible(ReservationId, Impossible),
    /// The id belongs to a reservation of other items.
    #[error("the reservation id {0} was used for other items; choose a new one")]
    Reused(ReservationId),
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
            Error::Missing(skus) => {
                let named: Vec<_> = skus.iter().take(MOST_NAMED).map(Sku::as_str).collect();
                Fault::new(Code::NotFound, "PRODUCT_NOT_FOUND", format!("no product {}", named.join(", ")))
                    .with("product_ids", named.join(","))
            }
            Error::Taken(sku) => {
                Fault::new(Code::AlreadyExists, "PRODUCT_ALREADY_EXISTS", words).with("product_id", sku)
            }
            Error::ProductChanged(sku) => {
                Fault::new(Code::Aborted, "PRODUCT_CHANGED", words).with("product_id", sku)
            }
            Error::StockChanged(sku) => {
                Fault::new(Code::Aborted, "STOCK_CHANGED", words).with("product_id", sku)
            }
            Error::Reserved { sku, .. } => {
                Fault::new(Code::FailedPrecondition, "PRODUCT_RESERVED", words).with("product_id", sku)
            }
            Error::OutOfStock(short) => out_of_stock(&short),
            Error::Impossible(id, why) => impossible(id, why),
            Error::Reused(id) => Fault::new(Code::InvalidArgument, "RESERVATION_ID_REUSED", words)
                .with("reservation_id", id)
                .field("reservation_id", "was used for other items"),
            Error::Database(error) => error.fault(),
        };
        fault.into_status(crate::NAME)
    }
}

fn impossible(id: ReservationId, why: Impossible) -> Fault {
    let fault = match why {
        Impossible::Unknown => {
            Fault::new(Code::NotFound, "RESERVATION_NOT_FOUND", format!("there is no reservation {id}"))
        }
        Impossible::Released => {
            let words = format!("the reservation {id} was released, which is final; choose a new id");
            Fault::new(Code::FailedPrecondition, "RESERVATION_RELEASED", words)
        }
    };
    fault.with("reservation_id", id)
}

/// Names the first SKUs and how many pieces there are of each.
fn out_of_stock(short: &[(Sku, i64)]) -> Fault {
    let named = &short[..short.len().min(MOST_NAMED)];
    let each: Vec<_> = named.iter().map(|(sku, left)| format!("{sku} ({left} left)")).collect();
    let mut words = format!("too few pieces of {}", each.join(", "));
    if short.len() > named.len() {
        words = format!("{words} and {} more", short.len() - named.len());
    }
    let skus: Vec<_> = named.iter().map(|(sku, _)| sku.as_str()).collect();
    let left: Vec<_> = named.iter().map(|(_, left)| left.to_string()).collect();
    Fault::new(Code::FailedPrecondition, "OUT_OF_STOCK", words)
        .with("product_ids", skus.join(","))
        .with("available", left.join(","))
        .with("products", short.len())
}
