//! product-service, as carts see it.

use std::collections::HashMap;

use mesh_proto::shop::product::v1::{
    BatchGetProductsRequest, Product, product_service_client::ProductServiceClient,
};
use service_kit::{
    auth::Outgoing,
    error::{Fault, downstream, internal},
    money::Money,
    value::{Sku, line},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The service that keeps the catalogue.
pub const SERVICE: &str = "product-service";

/// What product-service says of products. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Catalogue {
    products: ProductServiceClient<Outgoing>,
}

/// What one product is called and costs today.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its title.
    pub title: String,
    /// The price of one piece.
    pub price: Money,
}

/// The offers of several products.
pub type Offers = HashMap<Sku, Offer>;

/// Why there are no offers.
#[derive(Debug)]
pub enum Unavailable {
    /// Some of the products do not exist; their SKUs.
    Missing(Vec<String>),
    /// product-service failed.
    Failed(Fault),
}

impl Catalogue {
    /// The catalogue behind `channel`.
    #[must_use]
    pub fn new(channel: Outgoing) -> Self {
        Self { products: ProductServiceClient::new(channel) }
    }

    /// What these products are called and cost; 100 at most. Nothing is asked
    /// for when there are none.
    ///
    /// # Errors
    /// When one of them does not exist, or product-service fails or does not
    /// answer in time: that of the mesh's settings for this method, or what is
    /// left of the call that this one helps to answer.
    ///
    /// # Cancel safety
    /// Cancel safe: the call is cancelled.
    pub async fn offers(&self, skus: impl IntoIterator<Item = &Sku>) -> Result<Offers, Unavailable> {
        let product_ids: Vec<_> = skus.into_iter().map(|sku| sku.as_str().to_owned()).collect();
        if product_ids.is_empty() {
            return Ok(Offers::new());
        }
        let found = self.products.clone().batch_get_products(BatchGetProductsRequest { product_ids }).await;
        let products = found.map_err(|status| unavailable(&status))?.into_inner().products;
        products.into_iter().map(read).collect()
    }
}

fn unavailable(status: &Status) -> Unavailable {
    if status.code() == Code::NotFound
        && let Some(info) = status.get_details_error_info()
        && let Some(skus) = info.metadata.get("product_ids")
    {
        return Unavailable::Missing(skus.split(',').map(str::to_owned).collect());
    }
    Unavailable::Failed(downstream(SERVICE, status))
}

fn read(product: Product) -> Result<(Sku, Offer), Unavailable> {
    let parsed = || {
        let sku = Sku::parse(&product.product_id).map_err(|why| why.to_string())?;
        let title = line(&product.title, 200).map_err(|why| why.to_string())?;
        let price = Money::parse(product.price.as_ref()).map_err(|why| why.to_string())?;
        Ok::<_, String>((sku, Offer { title, price }))
    };
    parsed().map_err(|why| {
        Unavailable::Failed(internal(&format_args!("{SERVICE} sent a product that is none: {why}")))
    })
}

#[cfg(test)]
mod tests {
    use registry_client::{Channel, ChannelConfig, policy::Methods, resolve::fixed::FixedResolver};
    use service_kit::auth::Auth;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_product_service_that_is_not_there_is_named_when_the_time_is_over() {
        let nobody = FixedResolver::with([]);
        let service = SERVICE.parse().unwrap();
        let config = ChannelConfig::default();
        let deadline = config.deadline;
        let channel = Channel::new(service, &nobody, Methods::default(), config);
        let channel = Auth::off().client(channel);
        let began = Instant::now();
        let sku = Sku::parse("espresso-beans-1kg").unwrap();
        let Err(Unavailable::Failed(fault)) = Catalogue::new(channel).offers([&sku]).await else {
            panic!("nobody answered, and yet there are offers")
        };
        assert_eq!(began.elapsed().as_secs(), deadline.as_secs());
        let status = fault.into_status("cart-service");
        let info = status.get_details_error_info().unwrap();
        assert_eq!((status.code(), &info.metadata["dependency"][..]), (Code::DeadlineExceeded, SERVICE));
    }
}
