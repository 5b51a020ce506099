//! cart-service with its product-service, in this process.

use std::fmt::Debug;

use cart_service::{CartService, NAME};
use mesh_proto::{
    google::r#type::Money,
    shop::{
        cart::v1::{
            AddItemRequest, Cart, ClearCartRequest, GetCartRequest, RemoveItemRequest, UpdateItemRequest,
            WatchCartRequest, cart_service_client::CartServiceClient,
        },
        product::v1::{
            CreateProductRequest, DeleteProductRequest, Product, UpdateProductRequest,
            product_service_client::ProductServiceClient,
        },
    },
};
use prost_types::FieldMask;
use registry_client::Channel;
use service_kit::testing::{self, Replica, TestDatabase, mesh_to};
use tonic::{Code, Status, Streaming};
use tonic_types::ErrorDetails;

pub(crate) struct TestApp {
    carts: Vec<CartServiceClient<Channel>>,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) products: Replica,
    _databases: [TestDatabase; 2],
}

pub(crate) const CUSTOMER: &str = "ada";

impl TestApp {
    /// One replica.
    pub(crate) async fn spawn(database: TestDatabase) -> Self {
        Self::with_replicas(database, 1).await
    }

    /// Several replicas on one database.
    pub(crate) async fn with_replicas(database: TestDatabase, number: usize) -> Self {
        let catalogue = TestDatabase::sqlite();
        let products = Replica::of::<product_service::ProductService>(mesh_to([]), &catalogue).await;
        let (mut carts, mut replicas) = (Vec::new(), Vec::new());
        for _ in 0..number {
            let replica = Replica::of::<CartService>(mesh_to([products.address]), &database).await;
            carts.push(CartServiceClient::new(mesh_to([replica.address]).channel(NAME)));
            replicas.push(replica);
        }
        let app = Self { carts, replicas, products, _databases: [database, catalogue] };
        app.stock().await;
        app
    }

    /// Tea and a mug in euro, a jug in yen.
    async fn stock(&self) {
        self.sell("tea", "EUR", 4, 990_000_000).await;
        self.sell("mug", "EUR", 12, 500_000_000).await;
        self.sell("jug", "JPY", 3_000, 0).await;
    }

    pub(crate) async fn sell(&self, product_id: &str, currency: &str, units: i64, nanos: i32) {
        let product = Product {
            product_id: product_id.into(),
            title: format!("A {product_id}"),
            price: Some(Money { currency_code: currency.into(), units, nanos }),
            ..Product::default()
        };
        self.catalogue().create_product(CreateProductRequest { product: Some(product) }).await.unwrap();
    }

    /// Gives a product a price of so many whole euros.
    pub(crate) async fn price(&self, product_id: &str, units: i64) {
        let price = Some(Money { currency_code: "EUR".into(), units, nanos: 0 });
        let product = Product { product_id: product_id.into(), price, ..Product::default() };
        let update_mask = Some(FieldMask { paths: vec!["price".into()] });
        let request = UpdateProductRequest { product: Some(product), update_mask };
        self.catalogue().update_product(request).await.unwrap();
    }

    /// Sells a product no longer.
    pub(crate) async fn withdraw(&self, product_id: &str) {
        let request =
            DeleteProductRequest { product_id: product_id.into(), ..DeleteProductRequest::default() };
        self.catalogue().delete_product(request).await.unwrap();
    }

    fn catalogue(&self) -> ProductServiceClient<Channel> {
        ProductServiceClient::new(mesh_to([self.products.address]).channel("product-service"))
    }

    /// A client of one of the replicas.
    pub(crate) fn replica(&self, number: usize) -> CartServiceClient<Channel> {
        self.carts[number].clone()
    }

    pub(crate) async fn get(&self) -> Result<Cart, Status> {
        let request = GetCartRequest { customer_id: CUSTOMER.into() };
        Ok(self.replica(0).get_cart(request).await?.into_inner())
    }

    pub(crate) async fn add(&self, product_id: &str, quantity: i32, etag: &str) -> Result<Cart, Status> {
        Ok(self.replica(0).add_item(addition(product_id, quantity, etag)).await?.into_inner())
    }

    pub(crate) async fn update(&self, product_id: &str, quantity: i32, etag: &str) -> Result<Cart, Status> {
        let request = UpdateItemRequest {
            customer_id: CUSTOMER.into(),
            product_id: product_id.into(),
            quantity,
            etag: etag.into(),
        };
        Ok(self.replica(0).update_item(request).await?.into_inner())
    }

    pub(crate) async fn remove(&self, product_id: &str, etag: &str) -> Result<Cart, Status> {
        let request = RemoveItemRequest {
            customer_id: CUSTOMER.into(),
            product_id: product_id.into(),
            etag: etag.into(),
        };
        Ok(self.replica(0).remove_item(request).await?.into_inner())
    }

    pub(crate) async fn clear(&self, etag: &str) -> Result<Cart, Status> {
        let request = ClearCartRequest { customer_id: CUSTOMER.into(), etag: etag.into() };
        Ok(self.replica(0).clear_cart(request).await?.into_inner())
    }

    pub(crate) async fn watch(&self, replica: usize) -> Streaming<Cart> {
        let request = WatchCartRequest { customer_id: CUSTOMER.into() };
        self.replica(replica).watch_cart(request).await.unwrap().into_inner()
    }
}

pub(crate) fn addition(product_id: &str, quantity: i32, etag: &str) -> AddItemRequest {
    AddItemRequest {
        customer_id: CUSTOMER.into(),
        product_id: product_id.into(),
        quantity,
        etag: etag.into(),
    }
}

/// The contents of a cart in the form `tea*3 mug*1`.
pub(crate) fn contents(cart: &Cart) -> String {
    let items: Vec<_> = cart.items.iter().map(|i| format!("{}*{}", i.product_id, i.quantity)).collect();
    items.join(" ")
}

#[track_caller]
pub(crate) fn refused<T: Debug>(result: Result<T, Status>, code: Code, reason: &str) -> ErrorDetails {
    testing::refused(NAME, result, code, reason)
}

#[track_caller]
pub(crate) fn refused_fields<T: Debug>(result: Result<T, Status>, expected: &[&str]) {
    testing::refused_fields(NAME, result, expected);
}
