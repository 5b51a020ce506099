//! What a product is, how many there are, and who has set some aside.

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
    Event, Impossible, Item, Items, Lease, Move, Place, Reservation, ReservationId, State,
};
pub use stock::{Count, Stock};

/// The most SKUs that one request may name.
pub const MOST_AT_ONCE: usize = 100;

/// One thing the shop sells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// What it is known by.
    pub sku: Sku,
    /// What a customer reads first.
    pub title: Title,
    /// What a customer reads next.
    pub description: Description,
    /// What one piece costs.
    pub price: Price,
}

/// A product with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The product.
    pub product: Product,
    /// Its version.
    pub etag: Etag,
}

/// 1 to 200 characters on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Title(String);

impl Title {
    /// Reads a title.
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
    /// Reads a description.
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

/// A price: more than nothing, and small enough that a full cart of it still
/// is an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price(Money);

/// An amount that is no price.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Not an amount at all.
    #[error(transparent)]
    Amount(#[from] MoneyError),
    /// Nothing.
    #[error("the price must be positive")]
    Free,
    /// Above [`Price::MOST`].
    #[error("the price must be at most {} minor units", Price::MOST)]
    TooHigh,
}

impl Price {
    /// The highest price, in minor units: times 999 pieces and 100 lines it is
    /// far below what an amount can be.
    pub const MOST: i64 = 1_000_000_000_000;

    /// Reads a price.
    ///
    /// # Errors
    /// When it is no amount, nothing, or too much.
    pub fn parse(wire: Option<&WireMoney>) -> Result<Self, PriceError> {
        Self::of(Money::parse(wire)?)
    }

    /// The price of that amount.
    ///
    /// # Errors
    /// When it is nothing or too much.
    pub fn of(amount: Money) -> Result<Self, PriceError> {
        match amount.minor() {
            ..=0 => Err(PriceError::Free),
            1..=Self::MOST => Ok(Self(amount)),
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
    /// Reads the product of a request; its etag is ignored.
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

/// Reads the SKUs of a look-up.
///
/// # Errors
/// When there is none, more than [`MOST_AT_ONCE`], or a malformed one.
pub fn parse_skus(texts: &[String]) -> Result<Vec<Sku>, Fault> {
    if texts.is_empty() || texts.len() > MOST_AT_ONCE {
        return Err(invalid("product_ids", format_args!("must name 1 to {MOST_AT_ONCE} products")));
    }
    let mut fields = Fields::default();
    let skus = texts.iter().enumerate();
    let skus: Vec<_> =
        skus.filter_map(|(n, text)| fields.take(format!("product_ids[{n}]"), Sku::parse(text))).collect();
    if skus.len() == texts.len() { Ok(skus) } else { Err(fields.fault()) }
}

impl From<Stored> for wire::Product {
    fn from(stored: Stored) -> Self {
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
    fn a_product_goes_to_the_wire_as_it_came() {
        let product = Product::parse(Some(&good())).unwrap();
        let back = wire::Product::from(Stored { product, etag: Etag::of(1) });
        assert_eq!(back, wire::Product { etag: "1".into(), ..good() });
    }

    #[test]
    fn every_bad_field_is_refused_by_its_path() {
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
