//! The representation of a cart for its customer: with titles, prices and their sum.

use mesh_proto::shop::cart::v1 as wire;
use service_kit::{money::Money, value::Sku};

use crate::{Error, catalogue::Offers, domain::Cart};

/// Adds `offers`, one for each line, to a cart.
///
/// # Errors
/// When an offer is missing, or the prices have no sum.
pub(crate) fn show(cart: Cart, offers: &Offers) -> Result<wire::Cart, Error> {
    let offer = |sku: &Sku| offers.get(sku).ok_or_else(|| Error::Withdrawn(vec![sku.to_string()]));
    let mut items = Vec::with_capacity(cart.lines.len());
    let mut prices = Vec::with_capacity(cart.lines.len());
    for line in &cart.lines {
        let offer = offer(&line.sku)?;
        prices.push((offer.price, line.quantity));
        items.push(wire::CartItem {
            product_id: line.sku.to_string(),
            title: offer.title.clone(),
            unit_price: Some(offer.price.into()),
            quantity: line.quantity.get().into(),
            previous_unit_price: line.price.filter(|price| *price != offer.price).map(Into::into),
        });
    }
    let subtotal = Money::total(prices).map_err(Error::NoTotal)?;
    Ok(wire::Cart {
        customer_id: cart.customer.as_str().to_owned(),
        items,
        subtotal: subtotal.map(Into::into),
        etag: cart.etag.to_string(),
        update_time: cart.updated.map(Into::into),
    })
}
