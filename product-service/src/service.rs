//! The gRPC handlers.

use std::collections::HashMap;

use mesh_proto::shop::product::v1::{
    self as wire, BatchGetProductsRequest, BatchGetProductsResponse, CommitReservationRequest,
    CreateProductRequest, DeleteProductRequest, GetProductRequest, GetReservationRequest, GetStockRequest,
    ListProductsRequest, ListProductsResponse, ReleaseReservationRequest, ReserveStockRequest,
    SetStockRequest, UpdateProductRequest, product_service_server::ProductService,
};
use prost::Message;
use service_kit::{auth::Caller, error::Fields, page::Page, value::Sku};
use tonic::{Request, Response, Status};

use crate::{
    Error,
    domain::{Change, Product, Reservation, Stock, StoredProduct, parse_skus},
    request::{Deletion, ReservationRequest, StockUpdate, reservation_id, sku},
    store::Store,
};

/// The catalogue as a gRPC service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Products {
    store: Store,
}

impl Products {
    /// The catalogue in `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    async fn create(&self, request: CreateProductRequest) -> Result<StoredProduct, Error> {
        self.store.create(Product::parse(request.product.as_ref())?).await
    }

    async fn get(&self, request: GetProductRequest) -> Result<StoredProduct, Error> {
        let sku = sku(&request.product_id)?;
        self.store.get(&sku).await?.ok_or_else(|| Error::Missing(vec![sku]))
    }

    async fn batch_get(&self, request: BatchGetProductsRequest) -> Result<Vec<wire::Product>, Error> {
        let skus = parse_skus(&request.product_ids)?;
        let found = self.store.get_all(&skus).await?;
        let found: HashMap<Sku, StoredProduct> =
            found.into_iter().map(|p| (p.product.sku.clone(), p)).collect();
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
        let fetch = async |after, limit| {
            let products = self.store.list(after, limit).await?;
            Ok::<_, Error>(products.into_iter().map(wire::Product::from).collect())
        };
        let (products, next_page_token) =
            page.fill(fetch, |product| &product.product_id, Message::encoded_len).await?;
        Ok(ListProductsResponse { products, next_page_token })
    }

    async fn update(&self, request: UpdateProductRequest) -> Result<StoredProduct, Error> {
        self.store.update(&Change::try_from(request)?).await
    }

    async fn delete(&self, request: DeleteProductRequest) -> Result<(), Error> {
        let Deletion { sku, etag } = request.try_into()?;
        self.store.delete(&sku, etag).await
    }

    async fn stock(&self, request: GetStockRequest) -> Result<Stock, Error> {
        self.store.stock(&sku(&request.product_id)?).await
    }

    async fn set_stock(&self, request: SetStockRequest) -> Result<Stock, Error> {
        let StockUpdate { sku, available, etag } = request.try_into()?;
        self.store.set_stock(&sku, available, etag).await
    }

    async fn reserve(&self, request: ReserveStockRequest) -> Result<Reservation, Error> {
        let ReservationRequest { id, items, lease } = request.try_into()?;
        self.store.reserve(id, &items, lease).await
    }
}

/// The body of a request that passed the guard. Products have no owner, so the
/// guard has checked all rights.
fn into_body<T>(request: Request<T>) -> Result<T, Error> {
    Caller::of(&request)?;
    Ok(request.into_inner())
}

#[tonic::async_trait]
impl ProductService for Products {
    async fn create_product(
        &self,
        request: Request<CreateProductRequest>,
    ) -> Result<Response<wire::Product>, Status> {
        Ok(Response::new(self.create(into_body(request)?).await?.into()))
    }

    async fn get_product(
        &self,
        request: Request<GetProductRequest>,
    ) -> Result<Response<wire::Product>, Status> {
        Ok(Response::new(self.get(into_body(request)?).await?.into()))
    }

    async fn batch_get_products(
        &self,
        request: Request<BatchGetProductsRequest>,
    ) -> Result<Response<BatchGetProductsResponse>, Status> {
        let products = self.batch_get(into_body(request)?).await?;
        Ok(Response::new(BatchGetProductsResponse { products }))
    }

    async fn list_products(
        &self,
        request: Request<ListProductsRequest>,
    ) -> Result<Response<ListProductsResponse>, Status> {
        Ok(Response::new(self.list(into_body(request)?).await?))
    }

    async fn update_product(
        &self,
        request: Request<UpdateProductRequest>,
    ) -> Result<Response<wire::Product>, Status> {
        Ok(Response::new(self.update(into_body(request)?).await?.into()))
    }

    async fn delete_product(&self, request: Request<DeleteProductRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(self.delete(into_body(request)?).await?))
    }

    async fn get_stock(&self, request: Request<GetStockRequest>) -> Result<Response<wire::Stock>, Status> {
        Ok(Response::new(self.stock(into_body(request)?).await?.into()))
    }

    async fn set_stock(&self, request: Request<SetStockRequest>) -> Result<Response<wire::Stock>, Status> {
        Ok(Response::new(self.set_stock(into_body(request)?).await?.into()))
    }

    async fn reserve_stock(
        &self,
        request: Request<ReserveStockRequest>,
    ) -> Result<Response<wire::Reservation>, Status> {
        Ok(Response::new(self.reserve(into_body(request)?).await?.into()))
    }

    async fn get_reservation(
        &self,
        request: Request<GetReservationRequest>,
    ) -> Result<Response<wire::Reservation>, Status> {
        let id = reservation_id(&into_body(request)?.reservation_id).map_err(Error::from)?;
        Ok(Response::new(self.store.reservation(id).await?.into()))
    }

    async fn commit_reservation(
        &self,
        request: Request<CommitReservationRequest>,
    ) -> Result<Response<wire::Reservation>, Status> {
        let id = reservation_id(&into_body(request)?.reservation_id).map_err(Error::from)?;
        Ok(Response::new(self.store.commit(id).await?.into()))
    }

    async fn release_reservation(
        &self,
        request: Request<ReleaseReservationRequest>,
    ) -> Result<Response<wire::Reservation>, Status> {
        let id = reservation_id(&into_body(request)?.reservation_id).map_err(Error::from)?;
        Ok(Response::new(self.store.release(id).await?.into()))
    }
}
