//! The rpcs: translate, ask, translate back.

use std::collections::HashMap;

use mesh_proto::shop::product::v1::{
    self as wire, BatchGetProductsRequest, BatchGetProductsResponse, CreateProductRequest, GetProductRequest,
    ListProductsRequest, ListProductsResponse, product_service_server::ProductService,
};
use prost::Message;
use service_kit::{
    error::{Fields, invalid},
    page::Page,
    value::Sku,
};
use tonic::{Request, Response, Status};

use crate::{
    Error,
    domain::{Product, Stored, parse_skus},
    store::Store,
};

/// The catalogue as a gRPC service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Products {
    store: Store,
}

impl Products {
    /// A catalogue of what `store` holds.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    async fn create(&self, request: CreateProductRequest) -> Result<Stored, Error> {
        self.store.create(Product::parse(request.product.as_ref())?).await
    }

    async fn get(&self, request: GetProductRequest) -> Result<Stored, Error> {
        let sku = Sku::parse(&request.product_id).map_err(|why| invalid("product_id", why))?;
        self.store.get(&sku).await?.ok_or_else(|| Error::Missing(vec![sku]))
    }

    async fn batch_get(&self, request: BatchGetProductsRequest) -> Result<Vec<wire::Product>, Error> {
        let skus = parse_skus(&request.product_ids)?;
        let found = self.store.get_all(&skus).await?;
        let found: HashMap<Sku, Stored> = found.into_iter().map(|p| (p.product.sku.clone(), p)).collect();
        let missing: Vec<_> = skus.iter().filter(|sku| !found.contains_key(sku)).cloned().collect();
        if !missing.is_empty() {
            return Err(Error::Missing(missing));
        }
        Ok(skus.iter().filter_map(|sku| found.get(sku).cloned()).map(Into::into).collect())
    }

    async fn list(&self, request: ListProductsRequest) -> Result<ListProductsResponse, Error> {
        let mut fields = Fields::default();
        let page = Page::take(&mut fields, "products", request.page_size, &request.page_token);
        let page = page.ok_or_else(|| fields.fault())?;
        let fetch = async |after, most| {
            let products = self.store.list(after, most).await?;
            Ok::<_, Error>(products.into_iter().map(wire::Product::from).collect())
        };
        let (products, next_page_token) =
            page.fill(fetch, |product| &product.product_id, Message::encoded_len).await?;
        Ok(ListProductsResponse { products, next_page_token })
    }
}

#[tonic::async_trait]
impl ProductService for Products {
    async fn create_product(
        &self,
        request: Request<CreateProductRequest>,
    ) -> Result<Response<wire::Product>, Status> {
        Ok(Response::new(self.create(request.into_inner()).await?.into()))
    }

    async fn get_product(
        &self,
        request: Request<GetProductRequest>,
    ) -> Result<Response<wire::Product>, Status> {
        Ok(Response::new(self.get(request.into_inner()).await?.into()))
    }

    async fn batch_get_products(
        &self,
        request: Request<BatchGetProductsRequest>,
    ) -> Result<Response<BatchGetProductsResponse>, Status> {
        let products = self.batch_get(request.into_inner()).await?;
        Ok(Response::new(BatchGetProductsResponse { products }))
    }

    async fn list_products(
        &self,
        request: Request<ListProductsRequest>,
    ) -> Result<Response<ListProductsResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn update_product(
        &self,
        _: Request<wire::UpdateProductRequest>,
    ) -> Result<Response<wire::Product>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn delete_product(&self, _: Request<wire::DeleteProductRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn get_stock(&self, _: Request<wire::GetStockRequest>) -> Result<Response<wire::Stock>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn set_stock(&self, _: Request<wire::SetStockRequest>) -> Result<Response<wire::Stock>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn reserve_stock(
        &self,
        _: Request<wire::ReserveStockRequest>,
    ) -> Result<Response<wire::Reservation>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn get_reservation(
        &self,
        _: Request<wire::GetReservationRequest>,
    ) -> Result<Response<wire::Reservation>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn commit_reservation(
        &self,
        _: Request<wire::CommitReservationRequest>,
    ) -> Result<Response<wire::Reservation>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn release_reservation(
        &self,
        _: Request<wire::ReleaseReservationRequest>,
    ) -> Result<Response<wire::Reservation>, Status> {
        Err(Status::unimplemented("not yet"))
    }
}
