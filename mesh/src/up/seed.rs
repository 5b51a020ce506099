//! The first products of a new shop.

use std::time::Duration;

use futures_util::future::try_join_all;
use mesh_proto::shop::product::v1::{
    CreateProductRequest, Product, product_service_client::ProductServiceClient,
};
use registry_client::Mesh;
use tonic::{Code, Request, Status};

/// Creates `products` through the mesh, as any caller would. Waits for a
/// product-service to be there, at most `patience`. A product that exists and differs was changed
/// by somebody and stays as it is.
///
/// # Errors
/// What the first call that failed was answered.
pub(crate) async fn seed(mesh: &Mesh, products: Vec<Product>, patience: Duration) -> Result<(), Status> {
    let client = ProductServiceClient::new(mesh.channel("product-service"));
    let create = |product| {
        let mut client = client.clone();
        async move {
            let mut request = Request::new(CreateProductRequest { product: Some(product) });
            request.set_timeout(patience);
            match client.create_product(request).await {
                Err(status) if status.code() != Code::AlreadyExists => Err(status),
                _ => Ok(()),
            }
        }
    };
    try_join_all(products.into_iter().map(create)).await.map(drop)
}
