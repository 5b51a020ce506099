//! product-service in this process, and its calls.

use std::fmt::Debug;

use mesh_proto::{
    google::r#type::Money,
    shop::product::v1::{
        BatchGetProductsRequest, CommitReservationRequest, CreateProductRequest, DeleteProductRequest,
        GetProductRequest, GetReservationRequest, GetStockRequest, ListProductsRequest, Product,
        ReleaseReservationRequest, Reservation, ReservationState, ReserveStockRequest, ReservedItem,
        SetStockRequest, Stock, UpdateProductRequest, product_service_client::ProductServiceClient,
    },
};
use product_service::{NAME, ProductService, sample_products};
use prost_types::FieldMask;
use registry_client::Channel;
use service_kit::{
    database::{Database, Row},
    service::Service,
    testing::{self, Replica, TestDatabase, mesh_to},
};
use tonic::{Code, Status};
use tonic_types::ErrorDetails;

pub(crate) struct TestApp {
    products: ProductServiceClient<Channel>,
    database: TestDatabase,
    replicas: Vec<Replica>,
}

impl TestApp {
    pub(crate) async fn spawn(database: TestDatabase) -> Self {
        Self::with_replicas(database, 1).await
    }

    /// Several replicas on one database, called in turn.
    pub(crate) async fn with_replicas(database: TestDatabase, number: usize) -> Self {
        let mut replicas = Vec::new();
        for _ in 0..number {
            replicas.push(Replica::of::<ProductService>(mesh_to([]), &database).await);
        }
        let mesh = mesh_to(replicas.iter().map(|replica| replica.address));
        Self { products: ProductServiceClient::new(mesh.channel(NAME)), database, replicas }
    }

    pub(crate) async fn with_samples(database: TestDatabase) -> Self {
        let app = Self::spawn(database).await;
        for product in sample_products() {
            app.create(product).await.unwrap();
        }
        app
    }

    /// The same database under another replica.
    pub(crate) async fn restart(self) -> Self {
        Self::spawn(self.stop().await).await
    }

    /// Stops all replicas; returns the database.
    pub(crate) async fn stop(self) -> TestDatabase {
        for replica in self.replicas {
            replica.stop().await;
        }
        self.database
    }

    /// Another connection to the database.
    pub(crate) async fn database(&self) -> Database {
        Database::open(self.database.url(), &ProductService::MIGRATIONS).await.unwrap()
    }

    /// Expires the lease of a reservation.
    pub(crate) async fn expire(&self, reservation_id: &str) {
        expire(&self.database().await, reservation_id).await;
    }

    /// The undelivered events of a product.
    pub(crate) async fn events(&self, product_id: &str) -> Vec<Row> {
        let sql = "SELECT sequence, event FROM outbox WHERE aggregate_id = $1 ORDER BY position";
        self.database().await.rows(sql, &[product_id.into()]).await.unwrap()
    }

    pub(crate) async fn create(&self, product: Product) -> Result<Product, Status> {
        let request = CreateProductRequest { product: Some(product) };
        Ok(self.products.clone().create_product(request).await?.into_inner())
    }

    pub(crate) async fn get(&self, product_id: &str) -> Result<Product, Status> {
        let request = GetProductRequest { product_id: product_id.into() };
        Ok(self.products.clone().get_product(request).await?.into_inner())
    }

    pub(crate) async fn batch_get(&self, product_ids: &[&str]) -> Result<Vec<Product>, Status> {
        let product_ids = product_ids.iter().map(|&id| id.to_owned()).collect();
        let request = BatchGetProductsRequest { product_ids };
        Ok(self.products.clone().batch_get_products(request).await?.into_inner().products)
    }

    pub(crate) async fn list(
        &self,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Product>, String), Status> {
        let request = ListProductsRequest { page_size, page_token: page_token.into() };
        let page = self.products.clone().list_products(request).await?.into_inner();
        Ok((page.products, page.next_page_token))
    }

    pub(crate) async fn update(&self, product: Product, paths: &[&str]) -> Result<Product, Status> {
        let paths = paths.iter().map(|&path| path.to_owned()).collect();
        let request = UpdateProductRequest { product: Some(product), update_mask: Some(FieldMask { paths }) };
        Ok(self.products.clone().update_product(request).await?.into_inner())
    }

    pub(crate) async fn delete(&self, product_id: &str, etag: &str) -> Result<(), Status> {
        let request = DeleteProductRequest { product_id: product_id.into(), etag: etag.into() };
        self.products.clone().delete_product(request).await.map(drop)
    }

    pub(crate) async fn stock(&self, product_id: &str) -> Result<Stock, Status> {
        let request = GetStockRequest { product_id: product_id.into() };
        Ok(self.products.clone().get_stock(request).await?.into_inner())
    }

    pub(crate) async fn set_stock(
        &self,
        product_id: &str,
        available: i64,
        etag: &str,
    ) -> Result<Stock, Status> {
        let request = SetStockRequest { product_id: product_id.into(), available, etag: etag.into() };
        Ok(self.products.clone().set_stock(request).await?.into_inner())
    }

    /// Creates a product with `pieces` pieces.
    pub(crate) async fn stocked(&self, product_id: &str, pieces: i64) {
        self.create(Product { product_id: product_id.into(), ..tea() }).await.unwrap();
        self.set_stock(product_id, pieces, "").await.unwrap();
    }

    /// Available, reserved, sold.
    pub(crate) async fn pieces(&self, product_id: &str) -> (i64, i64, i64) {
        let stock = self.stock(product_id).await.unwrap();
        (stock.available, stock.reserved, stock.sold)
    }

    pub(crate) async fn reserve(&self, id: &str, items: &[(&str, i32)]) -> Result<Reservation, Status> {
        self.reserve_for(id, items, None).await
    }

    pub(crate) async fn reserve_for(
        &self,
        id: &str,
        items: &[(&str, i32)],
        lease: Option<prost_types::Duration>,
    ) -> Result<Reservation, Status> {
        let item = |&(sku, quantity): &(&str, i32)| ReservedItem { product_id: sku.into(), quantity };
        let items = items.iter().map(item).collect();
        let request = ReserveStockRequest { reservation_id: id.into(), items, lease };
        Ok(self.products.clone().reserve_stock(request).await?.into_inner())
    }

    pub(crate) async fn reservation(&self, id: &str) -> Result<Reservation, Status> {
        let request = GetReservationRequest { reservation_id: id.into() };
        Ok(self.products.clone().get_reservation(request).await?.into_inner())
    }

    pub(crate) async fn commit(&self, id: &str) -> Result<Reservation, Status> {
        let request = CommitReservationRequest { reservation_id: id.into() };
        Ok(self.products.clone().commit_reservation(request).await?.into_inner())
    }

    pub(crate) async fn release(&self, id: &str) -> Result<Reservation, Status> {
        let request = ReleaseReservationRequest { reservation_id: id.into() };
        Ok(self.products.clone().release_reservation(request).await?.into_inner())
    }
}

/// Expires the lease of a reservation: it ran out long ago.
pub(crate) async fn expire(database: &Database, reservation_id: &str) {
    let sql = "UPDATE reservations SET expire_time = 1 WHERE reservation_id = $1 AND state = 'held'";
    let mut open = database.begin().await.unwrap();
    assert_eq!(open.execute(sql, &[reservation_id.into()]).await.unwrap(), 1);
    open.commit().await.unwrap();
}

pub(crate) fn tea() -> Product {
    Product {
        product_id: "tea".into(),
        title: "Tea ☕ 'quoted'".into(),
        description: "Two\nlines".into(),
        price: Some(Money { currency_code: "EUR".into(), units: 4, nanos: 990_000_000 }),
        etag: String::new(),
    }
}

pub(crate) fn ids(products: &[Product]) -> Vec<&str> {
    products.iter().map(|product| product.product_id.as_str()).collect()
}

/// An id for a reservation.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[track_caller]
pub(crate) fn assert_state(result: Result<Reservation, Status>, state: ReservationState) -> Reservation {
    let reservation = result.unwrap();
    assert_eq!(reservation.state(), state);
    assert_eq!(reservation.expire_time.is_some(), state == ReservationState::Held);
    reservation
}

#[track_caller]
pub(crate) fn refused<T: Debug>(result: Result<T, Status>, code: Code, reason: &str) -> ErrorDetails {
    testing::refused(NAME, result, code, reason)
}

#[track_caller]
pub(crate) fn refused_field<T: Debug>(result: Result<T, Status>, field: &str) {
    testing::refused_fields(NAME, result, &[field]);
}
