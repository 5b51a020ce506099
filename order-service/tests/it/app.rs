//! order-service with its dependencies, in this process.

use std::fmt::Debug;

use mesh_proto::{
    google::r#type::Money,
    shop::{
        cart::v1::{AddItemRequest, Cart, GetCartRequest, cart_service_client::CartServiceClient},
        order::v1::{
            CancelOrderRequest, CompleteOrderRequest, CreateOrderRequest, GetOrderRequest, ListOrdersRequest,
            Order, PayOrderRequest, ShipOrderRequest, WatchOrderRequest,
            order_service_client::OrderServiceClient,
        },
        payment::v1::{ChargeState, GetChargeRequest, payment_service_client::PaymentServiceClient},
        product::v1::{
            CreateProductRequest, DeleteProductRequest, GetStockRequest, Product, SetStockRequest, Stock,
            product_service_client::ProductServiceClient,
        },
    },
};
use order_service::{NAME, OrderService, carrier::Faults, saga::Sagas};
use payment_service::PaymentService;
use registry_client::{Channel, Mesh};
use service_kit::{
    database::Database,
    service::Service,
    testing::{self, Replica, TestDatabase, mesh_of, mesh_to},
};
use tonic::{Code, Status, Streaming};
use tonic_types::ErrorDetails;
use uuid::Uuid;

use crate::fakes::{CARD, sagas_of};

pub(crate) struct TestApp {
    orders: Vec<OrderServiceClient<Channel>>,
    pub(crate) carts: CartServiceClient<Channel>,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) cart_replica: Option<Replica>,
    mesh: Mesh,
    products: Replica,
    payments: Replica,
    database: TestDatabase,
    _databases: [TestDatabase; 3],
}

pub(crate) const CUSTOMER: &str = "ada";

impl TestApp {
    /// One replica.
    pub(crate) async fn spawn(database: TestDatabase) -> Self {
        Self::with_replicas(database, 1).await
    }

    /// Several replicas on one database.
    pub(crate) async fn with_replicas(database: TestDatabase, number: usize) -> Self {
        let [catalogue, kept, ledger] = [(); 3].map(|()| TestDatabase::sqlite());
        let products = Replica::of::<product_service::ProductService>(mesh_to([]), &catalogue).await;
        stock(&products).await;
        let carts = Replica::of::<cart_service::CartService>(mesh_to([products.address]), &kept).await;
        let payments = Replica::of::<PaymentService>(mesh_to([]), &ledger).await;
        let mesh = || {
            mesh_of([
                ("cart-service", vec![carts.address]),
                ("product-service", vec![products.address]),
                ("payment-service", vec![payments.address]),
            ])
        };
        let (mut orders, mut replicas) = (Vec::new(), Vec::new());
        for _ in 0..number {
            let replica = Replica::of::<OrderService>(mesh(), &database).await;
            orders.push(OrderServiceClient::new(mesh_to([replica.address]).channel(NAME)));
            replicas.push(replica);
        }
        Self {
            orders,
            carts: CartServiceClient::new(mesh_to([carts.address]).channel(cart_service::NAME)),
            replicas,
            mesh: mesh(),
            cart_replica: Some(carts),
            products,
            payments,
            database,
            _databases: [catalogue, kept, ledger],
        }
    }

    /// A client of one of the replicas.
    pub(crate) fn replica(&self, number: usize) -> OrderServiceClient<Channel> {
        self.orders[number].clone()
    }

    /// Puts pieces into a cart.
    pub(crate) async fn fill_of(&self, customer: &str, product_id: &str, quantity: i32) -> Cart {
        let request = AddItemRequest {
            customer_id: customer.into(),
            product_id: product_id.into(),
            quantity,
            etag: String::new(),
        };
        self.carts.clone().add_item(request).await.unwrap().into_inner()
    }

    pub(crate) async fn fill(&self, product_id: &str, quantity: i32) -> Cart {
        self.fill_of(CUSTOMER, product_id, quantity).await
    }

    pub(crate) async fn cart(&self) -> Cart {
        let request = GetCartRequest { customer_id: CUSTOMER.into() };
        self.carts.clone().get_cart(request).await.unwrap().into_inner()
    }

    pub(crate) async fn create(&self, request_id: &str, cart_etag: &str) -> Result<Order, Status> {
        Ok(self.replica(0).create_order(creation(request_id, cart_etag)).await?.into_inner())
    }

    /// Creates an order of one tea.
    pub(crate) async fn ordered(&self) -> Order {
        self.fill("tea", 1).await;
        self.create(&new_request(), "").await.unwrap()
    }

    /// Creates an order of the whole cart.
    pub(crate) async fn ordered_all(&self) -> Order {
        self.create(&new_request(), "").await.unwrap()
    }

    /// Sets the stock of a product.
    pub(crate) async fn restock(&self, product_id: &str, available: i64) {
        let request = SetStockRequest { product_id: product_id.into(), available, etag: String::new() };
        self.products().set_stock(request).await.unwrap();
    }

    /// Takes a product out of the catalogue.
    pub(crate) async fn delete(&self, product_id: &str) {
        let request = DeleteProductRequest { product_id: product_id.into(), etag: String::new() };
        self.products().delete_product(request).await.unwrap();
    }

    /// The sagas of one more replica, which the test controls.
    pub(crate) async fn sagas(&self) -> Sagas {
        sagas_of(&self.database, &self.mesh, Faults::default()).await
    }

    /// The state of the charge of an order.
    pub(crate) async fn charge_of(&self, order_id: &str) -> Option<ChargeState> {
        let request = GetChargeRequest { idempotency_key: order_id.into() };
        let found = self.payments().get_charge(request).await.unwrap();
        found.into_inner().charge.map(|charge| charge.state())
    }

    /// Changes rows as if the clock had been set forward by so many seconds.
    pub(crate) async fn set_clock_forward(&self, seconds: i64) {
        let database = Database::open(self.database.url(), &OrderService::MIGRATIONS).await.unwrap();
        let mut open = database.begin().await.unwrap();
        let age = seconds * 1_000_000;
        const ORDERS: &str = "UPDATE orders SET create_time = create_time - $1, update_time = update_time - $1, \
             lease_time = lease_time - $1, due_time = due_time - $1";
        for rows in [ORDERS, "UPDATE idempotency SET expire_time = expire_time - $1"] {
            open.execute(rows, &[age.into()]).await.unwrap();
        }
        open.commit().await.unwrap();
    }

    pub(crate) fn payments(&self) -> PaymentServiceClient<Channel> {
        PaymentServiceClient::new(mesh_to([self.payments.address]).channel("payment-service"))
    }

    pub(crate) fn products(&self) -> ProductServiceClient<Channel> {
        ProductServiceClient::new(mesh_to([self.products.address]).channel("product-service"))
    }

    pub(crate) async fn get(&self, order_id: &str) -> Result<Order, Status> {
        let request = GetOrderRequest { order_id: order_id.into() };
        Ok(self.replica(0).get_order(request).await?.into_inner())
    }

    pub(crate) async fn cancel(&self, order_id: &str) -> Result<Order, Status> {
        let request = CancelOrderRequest { order_id: order_id.into() };
        Ok(self.replica(0).cancel_order(request).await?.into_inner())
    }

    pub(crate) async fn list(
        &self,
        customer: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Order>, String), Status> {
        let request =
            ListOrdersRequest { customer_id: customer.into(), page_size, page_token: page_token.into() };
        let page = self.replica(0).list_orders(request).await?.into_inner();
        Ok((page.orders, page.next_page_token))
    }

    /// The pieces of a product: available, reserved, sold.
    pub(crate) async fn pieces(&self, product_id: &str) -> [i64; 3] {
        let request = GetStockRequest { product_id: product_id.into() };
        let Stock { available, reserved, sold, .. } =
            self.products().get_stock(request).await.unwrap().into_inner();
        [available, reserved, sold]
    }

    pub(crate) async fn pay(&self, order_id: &str) -> Result<Order, Status> {
        let request = PayOrderRequest { order_id: order_id.into(), payment_method: CARD.into() };
        Ok(self.replica(0).pay_order(request).await?.into_inner())
    }

    pub(crate) async fn ship(&self, order_id: &str) -> Result<Order, Status> {
        let request = ShipOrderRequest { order_id: order_id.into() };
        Ok(self.replica(0).ship_order(request).await?.into_inner())
    }

    pub(crate) async fn complete(&self, order_id: &str) -> Result<Order, Status> {
        let request = CompleteOrderRequest { order_id: order_id.into() };
        Ok(self.replica(0).complete_order(request).await?.into_inner())
    }

    pub(crate) async fn watch(&self, replica: usize, order_id: &str) -> Streaming<Order> {
        let request = WatchOrderRequest { order_id: order_id.into() };
        self.replica(replica).watch_order(request).await.unwrap().into_inner()
    }
}

/// Tea and a mug.
async fn stock(products: &Replica) {
    let mut client = ProductServiceClient::new(mesh_to([products.address]).channel("product-service"));
    for (product_id, units, nanos) in [("tea", 4, 990_000_000), ("mug", 12, 500_000_000)] {
        let product = Product {
            product_id: product_id.into(),
            title: format!("A \"{product_id}\""),
            price: Some(Money { currency_code: "EUR".into(), units, nanos }),
            ..Product::default()
        };
        client.create_product(CreateProductRequest { product: Some(product) }).await.unwrap();
        let plenty = SetStockRequest { product_id: product_id.into(), available: 1_000, etag: String::new() };
        client.set_stock(plenty).await.unwrap();
    }
}

pub(crate) fn new_request() -> String {
    Uuid::new_v4().to_string()
}

pub(crate) fn creation(request_id: &str, cart_etag: &str) -> CreateOrderRequest {
    CreateOrderRequest {
        customer_id: CUSTOMER.into(),
        request_id: request_id.into(),
        cart_etag: cart_etag.into(),
        expected_total: None,
    }
}

#[track_caller]
pub(crate) fn refused<T: Debug>(result: Result<T, Status>, code: Code, reason: &str) -> ErrorDetails {
    testing::refused(NAME, result, code, reason)
}

#[track_caller]
pub(crate) fn refused_fields<T: Debug>(result: Result<T, Status>, expected: &[&str]) {
    testing::refused_fields(NAME, result, expected);
}
