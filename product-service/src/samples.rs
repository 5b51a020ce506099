//! Sample products.

use mesh_proto::{google::r#type::Money, shop::product::v1::Product};

/// Ten products for a new shop. Creating them again changes nothing.
#[must_use]
pub fn sample_products() -> Vec<Product> {
    SAMPLES.iter().map(product).collect()
}

/// The initial stock of each sample: enough for every demonstration and load test.
/// Set it with etag `0`, so that a shop keeps the stock that it has.
pub const SAMPLE_STOCK: i64 = 1_000_000;

/// SKU, title, cents, description.
type Sample = (&'static str, &'static str, i64, &'static str);

const SAMPLES: [Sample; 10] = [
    ("espresso-beans-1kg", "Espresso beans, 1 kg", 1_890, "Dark roast of Arabica and Robusta, whole beans."),
    (
        "pour-over-dripper",
        "Pour-over dripper",
        2_450,
        "Porcelain, for one to four cups. Takes size 02 filters.",
    ),
    ("paper-filters-100", "Paper filters, 100 pieces", 595, "Size 02, unbleached."),
    ("hand-grinder", "Hand grinder", 8_900, "Steel burrs, 36 settings, holds 30 g."),
    ("milk-pitcher-600ml", "Milk pitcher, 600 ml", 1_995, "Stainless steel, with a scale inside."),
    (
        "stoneware-mug",
        "Stoneware mug",
        1_250,
        "300 ml, thrown and glazed by hand; each is a little different.",
    ),
    ("travel-tumbler", "Travel tumbler", 2_990, "Keeps 350 ml hot for four hours. Fits under most machines."),
    ("kitchen-scale", "Kitchen scale with timer", 3_495, "Up to 2 kg in steps of 0.1 g."),
    ("green-tea-100g", "Sencha green tea, 100 g", 1_140, "First harvest, loose leaves, in a resealable tin."),
    ("gift-card-25", "Gift card", 2_500, "For whoever has everything but coffee."),
];

fn product((sku, title, cents, description): &Sample) -> Product {
    let nanos = i32::try_from(cents % 100 * 10_000_000).unwrap_or_default();
    Product {
        product_id: (*sku).to_owned(),
        title: (*title).to_owned(),
        description: (*description).to_owned(),
        price: Some(Money { currency_code: "EUR".to_owned(), units: cents / 100, nanos }),
        etag: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain;

    #[test]
    fn every_sample_is_a_product() {
        for sample in sample_products() {
            domain::Product::parse(Some(&sample)).unwrap();
        }
        assert_eq!(domain::Count::parse(SAMPLE_STOCK).unwrap().get(), SAMPLE_STOCK);
    }
}
