//! Products, their stock and its reservations.

use mesh_proto::{google::r#type::Money as WireMoney, shop::product::v1 as wire};
use service_kit::{
    error::{Fault, Fields, invalid},
    money::{Money, MoneyError},
    value::{Etag, InvalidValue, Sku, line, prose},
};

mod change;
mod reservation;
mod stock;

pub use change::Change;
pub use reservation::{
    InvalidTransition, Item, Items, Lease, Place, Reservation, ReservationEvent, ReservationId,
    ReservationState, Transfer,
};
pub use stock::{Count, Stock};

/// The most SKUs of one request.
pub const MAX_PRODUCTS: usize = 100;

/// A product of the shop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// The id.
    pub sku: Sku,
    /// The title.
    pub title: Title,
    /// The description.
    pub description: Description,
    /// The price of one piece.
    pub price: Price,
}

/// A product with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredProduct {
    /// The product.
    pub product: Product,
    /// The version.
    pub etag: Etag,
}

/// 1 to 200 characters on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Title(String);

impl Title {
    /// Parses a title.
    ///
    /// # Errors
    /// When it is empty, too long or has control characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        line(text, 200).map(Self)
    }

    /// The title as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Up to 4,000 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description(String);

impl Description {
    /// Parses a description.
    ///
    /// # Errors
    /// When it is too long or has control characters other than line breaks
    /// and tabs.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        prose(text, 4_000).map(Self)
    }

    /// The description as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A price: positive, and small enough that the total of a full cart is a valid
/// amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price(Money);

/// The reason why an amount is no price.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// The amount is malformed.
    #[error(transparent)]
    Amount(#[from] MoneyError),
    /// The amount is not positive.
    #[error("the price must be positive")]
    NotPositive,
    /// The amount is above [`Price::MAX_MINOR_UNITS`].
    #[error("the price must be at most {} minor units", Price::MAX_MINOR_UNITS)]
    TooHigh,
}

impl Price {
    /// The highest price, in minor units. 999 pieces in each of 100 cart lines stay
    /// far below the largest amount.
    pub const MAX_MINOR_UNITS: i64 = 1_000_000_000_000;

    /// Parses a price.
    ///
    /// # Errors
    /// [`PriceError`].
    pub fn parse(wire: Option<&WireMoney>) -> Result<Self, PriceError> {
        Self::of(Money::parse(wire)?)
    }

    /// The price of `amount`.
    ///
    /// # Errors
    /// When it is not positive, or too high.
    pub fn of(amount: Money) -> Result<Self, PriceError> {
        match amount.minor() {
            ..=0 => Err(PriceError::NotPositive),
            1..=Self::MAX_MINOR_UNITS => Ok(Self(amount)),
            _ => Err(PriceError::TooHigh),
        }
    }

    /// The price as an amount.
    #[must_use]
    pub fn amount(self) -> Money {
        self.0
    }
}

impl Product {
    /// Parses the product of a request; its etag is ignored.
    ///
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn parse(wire: Option<&wire::Product>) -> Result<Self, Fault> {
        let wire = wire.ok_or_else(|| invalid("product", "a product is required"))?;
        let mut fields = Fields::default();
        let sku = fields.take("product.product_id", Sku::parse(&wire.product_id));
        let title = fields.take("product.title", Title::parse(&wire.title));
        let description = fields.take("product.description", Description::parse(&wire.description));
        let price = fields.take("product.price", Price::parse(wire.price.as_ref()));
        let (Some(sku), Some(title), Some(description), Some(price)) = (sku, title, description, price)
        else {
            return Err(fields.fault());
        };
        Ok(Self { sku, title, description, price })
    }
}

/// Parses the SKUs of a look-up.
///
/// # Errors
/// When there is none, more than [`MAX_PRODUCTS`], or a malformed one.
pub fn parse_skus(texts: &[String]) -> Result<Vec<Sku>, Fault> {
    if texts.is_empty() || texts.len() > MAX_PRODUCTS {
        return Err(invalid("product_ids", format_args!("must name 1 to {MAX_PRODUCTS} products")));
    }
    let mut fields = Fields::default();
    let skus = texts.iter().enumerate();
    let skus: Vec<_> =
        skus.filter_map(|(n, text)| fields.take(format!("product_ids[{n}]"), Sku::parse(text))).collect();
    if skus.len() == texts.len() { Ok(skus) } else { Err(fields.fault()) }
}

impl From<StoredProduct> for wire::Product {
    fn from(stored: StoredProduct) -> Self {
        let Product { sku, title, description, price } = stored.product;
        Self {
            product_id: sku.as_str().to_owned(),
            title: title.0,
            description: description.0,
            price: Some(price.amount().into()),
            etag: stored.etag.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> wire::Product {
        wire::Product {
            product_id: "tea".into(),
            title: "Tea".into(),
            description: "Green.\nLoose.".into(),
            price: Some(WireMoney { currency_code: "EUR".into(), units: 4, nanos: 500_000_000 }),
            etag: "ignored".into(),
        }
    }

    fn price(units: i64, nanos: i32) -> Option<WireMoney> {
        Some(WireMoney { currency_code: "EUR".into(), units, nanos })
    }

    #[test]
    fn a_product_survives_a_round_trip() {
        let product = Product::parse(Some(&good())).unwrap();
        let back = wire::Product::from(StoredProduct { product, etag: Etag::of(1) });
        assert_eq!(back, wire::Product { etag: "1".into(), ..good() });
    }

    #[test]
    fn every_malformed_field_is_reported_by_its_path() {
        type Spoil = fn(&mut wire::Product);
        let cases: [(&str, Spoil); 11] = [
            ("product.product_id", |p| p.product_id = "Tea".into()),
            ("product.product_id", |p| p.product_id = String::new()),
            ("product.title", |p| p.title = String::new()),
            ("product.title", |p| p.title = "a".repeat(201)),
            ("product.title", |p| p.title = "a\nb".into()),
            ("product.description", |p| p.description = "a".repeat(4_001)),
            ("product.price", |p| p.price = None),
            ("product.price", |p| p.price = price(0, 0)),
            ("product.price", |p| p.price = price(-1, 0)),
            ("product.price", |p| p.price = price(1, 1)),
            ("product.price", |p| p.price = price(10_000_000_000, 10_000_000)),
        ];
        for (path, spoil) in cases {
            let mut product = good();
            spoil(&mut product);
            let status = Product::parse(Some(&product)).unwrap_err().into_status("test");
            assert!(status.message().starts_with(path), "{path}: {}", status.message());
        }
        assert!(Product::parse(None).is_err());
        let highest = wire::Product { price: price(10_000_000_000, 0), ..good() };
        assert!(Product::parse(Some(&highest)).is_ok());
    }

    #[test]
    fn a_look_up_names_1_to_100_skus() {
        let skus = |n: usize| vec!["tea".to_owned(); n];
        assert!(parse_skus(&skus(1)).is_ok() && parse_skus(&skus(100)).is_ok());
        assert!(parse_skus(&skus(0)).is_err() && parse_skus(&skus(101)).is_err());
        let status = parse_skus(&["tea".into(), "Tea".into()]).unwrap_err().into_status("test");
        assert!(status.message().starts_with("product_ids[1]: "));
    }
}
