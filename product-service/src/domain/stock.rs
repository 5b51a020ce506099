//! The stock of a product.

use mesh_proto::shop::product::v1 as wire;
use service_kit::value::{Etag, InvalidValue, Sku};

/// The pieces of one product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stock {
    /// The product.
    pub sku: Sku,
    /// Pieces that can be reserved.
    pub available: i64,
    /// Pieces that are set aside by reservations.
    pub reserved: i64,
    /// Pieces that were sold and not returned.
    pub sold: i64,
    /// The number of times it was set.
    pub etag: Etag,
}

/// A number of pieces that stock can be set to: 0 to 10^9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(i64);

impl Count {
    const MAX: i64 = 1_000_000_000;

    /// Parses a number of pieces.
    ///
    /// # Errors
    /// When it is not 0 to 10^9.
    pub fn parse(number: i64) -> Result<Self, InvalidValue> {
        match number {
            0..=Self::MAX => Ok(Self(number)),
            _ => Err(InvalidValue("must be 0 to 1,000,000,000".into())),
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }
}

impl From<Stock> for wire::Stock {
    fn from(stock: Stock) -> Self {
        let Stock { sku, available, reserved, sold, etag } = stock;
        Self { product_id: sku.to_string(), available, reserved, sold, etag: etag.to_string() }
    }
}
