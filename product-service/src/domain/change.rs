//! A change of some fields of a product.

use mesh_proto::shop::product::v1::UpdateProductRequest;
use service_kit::{
    error::{Fault, Fields, invalid},
    value::{Etag, InvalidValue, Sku},
};

use super::{Description, Price, Product, Title};

/// The longest path of a mask that an error message repeats.
const MAX_SHOWN_PATH_BYTES: usize = 40;

/// New values for some fields of a product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The product.
    pub sku: Sku,
    /// The version that it must have, if any.
    pub etag: Option<Etag>,
    title: Option<Title>,
    description: Option<Description>,
    price: Option<Price>,
}

/// The fields to change.
#[derive(Clone, Copy, Default)]
struct Mask {
    title: bool,
    description: bool,
    price: bool,
}

impl Mask {
    const ALL: Self = Self { title: true, description: true, price: true };

    fn with(self, path: &str) -> Result<Self, InvalidValue> {
        match path {
            "title" => Ok(Self { title: true, ..self }),
            "description" => Ok(Self { description: true, ..self }),
            "price" => Ok(Self { price: true, ..self }),
            "*" => Ok(Self::ALL),
            _ => Err(InvalidValue(format!("{} is not title, description, price or *", shown(path)))),
        }
    }

    fn take(fields: &mut Fields, paths: &[String]) -> Option<Self> {
        if paths.is_empty() {
            return Some(Self::ALL);
        }
        // Only the first error, so that a long list causes no long answer.
        let mask = paths.iter().try_fold(Self::default(), |mask, path| mask.with(path));
        fields.take("update_mask", mask)
    }
}

fn shown(path: &str) -> String {
    if path.len() <= MAX_SHOWN_PATH_BYTES && path.bytes().all(|b| b.is_ascii_graphic()) {
        format!("`{path}`")
    } else {
        "a path that no field of a product has".to_owned()
    }
}

impl Change {
    /// The product after this change.
    #[must_use]
    pub fn apply(&self, product: &Product) -> Product {
        let Self { title, description, price, .. } = self.clone();
        Product {
            sku: product.sku.clone(),
            title: title.unwrap_or_else(|| product.title.clone()),
            description: description.unwrap_or_else(|| product.description.clone()),
            price: price.unwrap_or(product.price),
        }
    }
}

impl TryFrom<UpdateProductRequest> for Change {
    type Error = Fault;

    fn try_from(from: UpdateProductRequest) -> Result<Self, Fault> {
        let product = from.product.ok_or_else(|| invalid("product", "a product is required"))?;
        let paths = from.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let mut fields = Fields::default();
        let sku = fields.take("product.product_id", Sku::parse(&product.product_id));
        let etag = fields.take("product.etag", Etag::parse(&product.etag));
        let mask = Mask::take(&mut fields, &paths);
        let masked = mask.unwrap_or_default();
        // `Some(None)`: not in the mask. `None`: in the mask, and malformed.
        let title = when(masked.title, || fields.take("product.title", Title::parse(&product.title)));
        let description = when(masked.description, || {
            fields.take("product.description", Description::parse(&product.description))
        });
        let price = when(masked.price, || fields.take("product.price", Price::parse(product.price.as_ref())));
        match (sku, etag, mask, title, description, price) {
            (Some(sku), Some(etag), Some(_), Some(title), Some(description), Some(price)) => {
                Ok(Self { sku, etag, title, description, price })
            }
            _ => Err(fields.fault()),
        }
    }
}

fn when<T>(is_masked: bool, take: impl FnOnce() -> Option<T>) -> Option<Option<T>> {
    if is_masked { take().map(Some) } else { Some(None) }
}

#[cfg(test)]
mod tests {
    use mesh_proto::{google::r#type::Money, shop::product::v1 as wire};
    use prost_types::FieldMask;

    use super::*;

    fn request(paths: &[&str]) -> UpdateProductRequest {
        let product = wire::Product {
            product_id: "tea".into(),
            title: "New".into(),
            description: "new".into(),
            price: Some(Money { currency_code: "EUR".into(), units: 9, nanos: 0 }),
            etag: String::new(),
        };
        let paths = paths.iter().map(|&path| path.to_owned()).collect();
        UpdateProductRequest { product: Some(product), update_mask: Some(FieldMask { paths }) }
    }

    fn old() -> Product {
        let wire = wire::Product {
            product_id: "tea".into(),
            title: "Old".into(),
            description: "old".into(),
            price: Some(Money { currency_code: "EUR".into(), units: 1, nanos: 0 }),
            etag: String::new(),
        };
        Product::parse(Some(&wire)).unwrap()
    }

    fn after(paths: &[&str]) -> (String, String, i64) {
        let product = Change::try_from(request(paths)).unwrap().apply(&old());
        (
            product.title.as_str().to_owned(),
            product.description.as_str().to_owned(),
            product.price.amount().minor(),
        )
    }

    #[test]
    fn a_change_applies_to_the_fields_of_its_mask() {
        let all = ("New".to_owned(), "new".to_owned(), 900);
        for paths in [&[][..], &["*"], &["price", "title", "description"], &["title", "*"]] {
            assert_eq!(after(paths), all, "{paths:?}");
        }
        assert_eq!(after(&["title"]), ("New".into(), "old".into(), 100));
        assert_eq!(after(&["description"]), ("Old".into(), "new".into(), 100));
        assert_eq!(after(&["price", "price"]), ("Old".into(), "old".into(), 900));
    }

    #[test]
    fn an_unknown_path_is_repeated_in_the_error_unless_it_is_long() {
        let why = |path: &str| Change::try_from(request(&["title", path])).unwrap_err().into_status("test");
        assert_eq!(why("etag").message(), "update_mask: `etag` is not title, description, price or *");
        let long = why(&"x".repeat(5_000));
        assert!(long.message().len() < 200 && long.message().starts_with("update_mask: "));
        assert!(!why("a\nb").message().contains('\n'));
    }

    #[test]
    fn only_fields_of_the_mask_must_be_valid() {
        let mut bare = request(&["title"]);
        bare.product =
            Some(wire::Product { product_id: "tea".into(), title: "New".into(), ..wire::Product::default() });
        assert!(Change::try_from(bare.clone()).is_ok());
        bare.update_mask = None;
        let why = Change::try_from(bare).unwrap_err().into_status("test");
        assert!(why.message().starts_with("product.price: "));
    }
}
