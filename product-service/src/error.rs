//! The errors of the service and their statuses.

use service_kit::{database, error::Fault, value::Sku};
use tonic::{Code, Status};

use crate::domain::{InvalidTransition, ReservationId};

/// The most SKUs that an error names; its details are sent in a header.
const MAX_NAMED_PRODUCTS: usize = 20;

/// The reason why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed, or its caller may not make it.
    #[error("the request is malformed")]
    Invalid(Fault),
    /// These products, at least one, do not exist.
    #[error("{} of the products do not exist", .0.len())]
    Missing(Vec<Sku>),
    /// The SKU belongs to another product.
    #[error("`{0}` is another product already; choose another id")]
    SkuTaken(Sku),
    /// The product is not the version that the caller has read.
    #[error("`{0}` has changed since; read it again")]
    ProductChanged(Sku),
    /// The stock is not the version that the caller has read.
    #[error("the stock of `{0}` has changed since; read it again")]
    StockChanged(Sku),
    /// Pieces of the product are reserved.
    #[error("{pieces} pieces of `{sku}` are reserved; it can be deleted after they are sold or released")]
    Reserved {
        /// The product.
        sku: Sku,
        /// The number of pieces.
        pieces: i64,
    },
    /// There are too few pieces of these products; each with the pieces available.
    #[error("there are too few pieces of {} products", .0.len())]
    OutOfStock(Vec<(Sku, i64)>),
    /// The reservation does not exist or was released.
    #[error("the reservation {0} does not exist or was released")]
    Transition(ReservationId, InvalidTransition),
    /// The id belongs to a reservation of other items.
    #[error("the reservation id {0} was used for other items; choose a new one")]
    IdReused(ReservationId),
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
        let fault = match error {
            Error::Invalid(fault) => fault,
            Error::Missing(skus) => {
                let named: Vec<_> = skus.iter().take(MAX_NAMED_PRODUCTS).map(Sku::as_str).collect();
                Fault::new(Code::NotFound, "PRODUCT_NOT_FOUND", format!("no product {}", named.join(", ")))
                    .with("product_ids", named.join(","))
            }
            Error::SkuTaken(sku) => {
                Fault::new(Code::AlreadyExists, "PRODUCT_ALREADY_EXISTS", message).with("product_id", sku)
            }
            Error::ProductChanged(sku) => {
                Fault::new(Code::Aborted, "PRODUCT_CHANGED", message).with("product_id", sku)
            }
            Error::StockChanged(sku) => {
                Fault::new(Code::Aborted, "STOCK_CHANGED", message).with("product_id", sku)
            }
            Error::Reserved { sku, .. } => {
                Fault::new(Code::FailedPrecondition, "PRODUCT_RESERVED", message).with("product_id", sku)
            }
            Error::OutOfStock(short) => out_of_stock(&short),
            Error::Transition(id, why) => transition_fault(id, why),
            Error::IdReused(id) => Fault::new(Code::InvalidArgument, "RESERVATION_ID_REUSED", message)
                .with("reservation_id", id)
                .field("reservation_id", "was used for other items"),
            Error::Database(error) => error.fault(),
        };
        fault.into_status(crate::NAME)
    }
}

fn transition_fault(id: ReservationId, why: InvalidTransition) -> Fault {
    let fault = match why {
        InvalidTransition::NotFound => {
            Fault::new(Code::NotFound, "RESERVATION_NOT_FOUND", format!("there is no reservation {id}"))
        }
        InvalidTransition::Released => {
            let message = format!("the reservation {id} was released, which is final; choose a new id");
            Fault::new(Code::FailedPrecondition, "RESERVATION_RELEASED", message)
        }
    };
    fault.with("reservation_id", id)
}

/// Names the first SKUs and the pieces available of each.
fn out_of_stock(short: &[(Sku, i64)]) -> Fault {
    let named = &short[..short.len().min(MAX_NAMED_PRODUCTS)];
    let each: Vec<_> = named.iter().map(|(sku, left)| format!("{sku} ({left} left)")).collect();
    let mut message = format!("too few pieces of {}", each.join(", "));
    if short.len() > named.len() {
        message = format!("{message} and {} more", short.len() - named.len());
    }
    let skus: Vec<_> = named.iter().map(|(sku, _)| sku.as_str()).collect();
    let left: Vec<_> = named.iter().map(|(_, left)| left.to_string()).collect();
    Fault::new(Code::FailedPrecondition, "OUT_OF_STOCK", message)
        .with("product_ids", skus.join(","))
        .with("available", left.join(","))
        .with("products", short.len())
}
