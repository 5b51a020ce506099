//! The client of product-service.

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

/// The service with the catalogue.
pub const SERVICE: &str = "product-service";

/// The products of product-service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Catalogue {
    products: ProductServiceClient<Outgoing>,
}

/// The title and the current price of a product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The title.
    pub title: String,
    /// The price of one piece.
    pub price: Money,
}

/// The offers of several products.
pub type Offers = HashMap<Sku, Offer>;

/// The reason why there are no offers.
#[derive(Debug)]
pub enum OffersError {
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

    /// Fetches the offers of at most 100 products; without any it makes no call.
    ///
    /// # Errors
    /// When one of them does not exist, or product-service fails or exceeds the
    /// deadline: the mesh's for this method, or that of the incoming call.
    ///
    /// # Cancel safety
    /// Cancel safe: the call is cancelled.
    pub async fn offers(&self, skus: impl IntoIterator<Item = &Sku>) -> Result<Offers, OffersError> {
        let product_ids: Vec<_> = skus.into_iter().map(|sku| sku.as_str().to_owned()).collect();
        if product_ids.is_empty() {
            return Ok(Offers::new());
        }
        let found = self.products.clone().batch_get_products(BatchGetProductsRequest { product_ids }).await;
        let products = found.map_err(|status| offers_error(&status))?.into_inner().products;
        products.into_iter().map(read).collect()
    }
}

fn offers_error(status: &Status) -> OffersError {
    if status.code() == Code::NotFound
        && let Some(info) = status.get_details_error_info()
        && let Some(skus) = info.metadata.get("product_ids")
    {
        return OffersError::Missing(skus.split(',').map(str::to_owned).collect());
    }
    OffersError::Failed(downstream(SERVICE, status))
}

fn read(product: Product) -> Result<(Sku, Offer), OffersError> {
    let parsed = || {
        let sku = Sku::parse(&product.product_id).map_err(|why| why.to_string())?;
        let title = line(&product.title, 200).map_err(|why| why.to_string())?;
        let price = Money::parse(product.price.as_ref()).map_err(|why| why.to_string())?;
        Ok::<_, String>((sku, Offer { title, price }))
    };
    parsed().map_err(|why| {
        OffersError::Failed(internal(&format_args!("{SERVICE} sent a malformed product: {why}")))
    })
}

#[cfg(test)]
mod tests {
    use registry_client::{Channel, ChannelConfig, policy::Methods, resolve::fixed::FixedResolver};
    use service_kit::auth::Auth;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_missing_product_service_is_named_after_the_deadline() {
        let resolver = FixedResolver::with([]);
        let service = SERVICE.parse().unwrap();
        let config = ChannelConfig::default();
        let deadline = config.deadline;
        let channel = Channel::new(service, &resolver, Methods::default(), config);
        let channel = Auth::off().client(channel);
        let began = Instant::now();
        let sku = Sku::parse("espresso-beans-1kg").unwrap();
        let Err(OffersError::Failed(fault)) = Catalogue::new(channel).offers([&sku]).await else {
            panic!("there are offers without a product-service")
        };
        assert_eq!(began.elapsed().as_secs(), deadline.as_secs());
        let status = fault.into_status("cart-service");
        let info = status.get_details_error_info().unwrap();
        assert_eq!((status.code(), &info.metadata["dependency"][..]), (Code::DeadlineExceeded, SERVICE));
    }
}
