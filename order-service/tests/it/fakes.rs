//! order-service with fake dependencies, which keep their state in memory and fail on
//! demand.

use std::time::Duration;

use mesh_proto::shop::{
    cart::v1::cart_service_server::CartServiceServer,
    order::v1::{
        CancelOrderRequest, CompleteOrderRequest, CreateOrderRequest, GetOrderRequest, ListOrdersRequest,
        Order, OrderState, PayOrderRequest, ShipOrderRequest, order_service_client::OrderServiceClient,
    },
    payment::v1::payment_service_server::PaymentServiceServer,
    product::v1::product_service_server::ProductServiceServer,
};
use order_service::{
    NAME, OrderService,
    carrier::{Carrier, Faults},
    carts::Carts,
    domain::OrderId,
    payments::Payments,
    saga::{Dependencies, Sagas},
    stock::Stock,
    store::{OrderSnapshot, SUBSCRIBERS, Store},
};
use registry_client::{Channel, Mesh};
use service_kit::{
    auth::Auth,
    database::Database,
    events::Outbox,
    service::Service,
    testing::{Replica, TestDatabase, mesh_of, mesh_to},
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::app::new_request;

mod behavior;
mod carts;
mod payments;
mod server;
mod stock;

pub(crate) use behavior::Behavior;
pub(crate) use carts::{FakeCarts, item, money};
pub(crate) use payments::FakePayments;
pub(crate) use server::serve_fake;
pub(crate) use stock::FakeStock;

/// The payment method of customers.
pub(crate) const CARD: &str = "pm_card_visa";

pub(crate) struct FakeApp {
    orders: Vec<OrderServiceClient<Channel>>,
    replicas: Vec<Replica>,
    pub(crate) carts: FakeCarts,
    pub(crate) stock: FakeStock,
    pub(crate) payments: FakePayments,
    dependencies: [(&'static str, Replica); 3],
    pub(crate) database: TestDatabase,
}

impl FakeApp {
    /// Several replicas on one database.
    pub(crate) async fn spawn(database: TestDatabase, replicas: usize) -> Self {
        let (carts, stock, payments) = (FakeCarts::default(), FakeStock::default(), FakePayments::default());
        let dependencies = [
            ("cart-service", serve_fake(CartServiceServer::new(carts.clone())).await),
            ("product-service", serve_fake(ProductServiceServer::new(stock.clone())).await),
            ("payment-service", serve_fake(PaymentServiceServer::new(payments.clone())).await),
        ];
        let mut app =
            Self { orders: vec![], replicas: vec![], carts, stock, payments, dependencies, database };
        for _ in 0..replicas {
            app.add_replica().await;
        }
        app
    }

    fn mesh(&self) -> Mesh {
        mesh_of(self.dependencies.iter().map(|(name, replica)| (*name, vec![replica.address])))
    }

    pub(crate) async fn add_replica(&mut self) {
        let replica = Replica::of::<OrderService>(self.mesh(), &self.database).await;
        self.orders.push(OrderServiceClient::new(mesh_to([replica.address]).channel(NAME)));
        self.replicas.push(replica);
    }

    /// The same database under one new replica.
    pub(crate) async fn restart(&mut self) {
        self.orders.clear();
        for replica in self.replicas.drain(..) {
            replica.stop().await;
        }
        self.add_replica().await;
    }

    /// The sagas of one more replica, which the test controls and which does not
    /// resume abandoned orders.
    pub(crate) async fn sagas(&self, faults: Faults) -> Sagas {
        sagas_of(&self.database, &self.mesh(), faults).await
    }

    /// Expires every lease.
    pub(crate) async fn expire_leases(&self) {
        self.write("UPDATE orders SET lease_time = 0, due_time = 0").await;
    }

    /// Changes rows directly.
    pub(crate) async fn write(&self, sql: &'static str) {
        let database = Database::open(self.database.url(), &OrderService::MIGRATIONS).await.unwrap();
        let mut open = database.begin().await.unwrap();
        open.execute(sql, &[]).await.unwrap();
        open.commit().await.unwrap();
    }

    /// Changes rows as if the clock had been set back by so many seconds.
    pub(crate) async fn set_clock_back(&self, seconds: i64) {
        let database = Database::open(self.database.url(), &OrderService::MIGRATIONS).await.unwrap();
        let mut open = database.begin().await.unwrap();
        let ahead = seconds * 1_000_000;
        const ORDERS: &str = "UPDATE orders SET lease_time = lease_time + $1, due_time = due_time + $1";
        for rows in [ORDERS, "UPDATE leases SET until = until + $1"] {
            open.execute(rows, &[ahead.into()]).await.unwrap();
        }
        open.commit().await.unwrap();
    }

    /// Repeats `call` while it fails with a retryable code.
    pub(crate) async fn retry<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        for _ in 0..300 {
            match call().await {
                Err(status)
                    if matches!(
                        status.code(),
                        Code::Aborted | Code::Unavailable | Code::DeadlineExceeded
                    ) =>
                {
                    sleep(Duration::from_millis(100)).await;
                }
                done => return done,
            }
        }
        panic!("it stays busy");
    }

    pub(crate) fn client(&self, replica: usize) -> OrderServiceClient<Channel> {
        self.orders[replica].clone()
    }

    pub(crate) async fn create(&self, replica: usize, request: CreateOrderRequest) -> Result<Order, Status> {
        Ok(self.client(replica).create_order(request).await?.into_inner())
    }

    /// Fills the cart of a customer and orders it.
    pub(crate) async fn ordered(&self, replica: usize, customer: &str) -> Order {
        self.carts.put(customer, [item("tea", 499, 1)]);
        self.create(replica, create_request(customer)).await.unwrap()
    }

    pub(crate) async fn pay(&self, replica: usize, order_id: &str, method: &str) -> Result<Order, Status> {
        let request = PayOrderRequest { order_id: order_id.into(), payment_method: method.into() };
        Ok(self.client(replica).pay_order(request).await?.into_inner())
    }

    pub(crate) async fn ship(&self, replica: usize, order_id: &str) -> Result<Order, Status> {
        let request = ShipOrderRequest { order_id: order_id.into() };
        Ok(self.client(replica).ship_order(request).await?.into_inner())
    }

    pub(crate) async fn complete(&self, replica: usize, order_id: &str) -> Result<Order, Status> {
        let request = CompleteOrderRequest { order_id: order_id.into() };
        Ok(self.client(replica).complete_order(request).await?.into_inner())
    }

    pub(crate) async fn cancel(&self, replica: usize, order_id: &str) -> Result<Order, Status> {
        let request = CancelOrderRequest { order_id: order_id.into() };
        Ok(self.client(replica).cancel_order(request).await?.into_inner())
    }

    pub(crate) async fn get(&self, order_id: &str) -> Result<Order, Status> {
        let request = GetOrderRequest { order_id: order_id.into() };
        Ok(self.client(0).get_order(request).await?.into_inner())
    }

    /// Waits until the order is in that state.
    pub(crate) async fn becomes(&self, order_id: &str, state: OrderState) -> Order {
        let reached = async {
            loop {
                let order = self.get(order_id).await.unwrap();
                if order.state() == state {
                    return order;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(30), reached)
            .await
            .unwrap_or_else(|_| panic!("it did not become {state:?}"))
    }

    pub(crate) async fn list(&self, customer: &str, size: i32, token: &str) -> (Vec<Order>, String) {
        let request =
            ListOrdersRequest { customer_id: customer.into(), page_size: size, page_token: token.into() };
        let page = self.client(0).list_orders(request).await.unwrap().into_inner();
        (page.orders, page.next_page_token)
    }
}

/// Sagas on a database, with the dependencies of `mesh`.
pub(crate) async fn sagas_of(database: &TestDatabase, mesh: &Mesh, faults: Faults) -> Sagas {
    let database = Database::open(database.url(), &OrderService::MIGRATIONS).await.unwrap();
    let to = |service: &str| Auth::off().client(mesh.channel(service));
    let dependencies = Dependencies {
        carts: Carts::new(to("cart-service")),
        stock: Stock::new(to("product-service")),
        payments: Payments::new(to("payment-service")),
        carrier: Carrier::new(faults),
    };
    Sagas::new(Store::new(database, Outbox::new(NAME, SUBSCRIBERS)), dependencies)
}

/// A new request for an order of the cart.
pub(crate) fn create_request(customer: &str) -> CreateOrderRequest {
    CreateOrderRequest {
        customer_id: customer.into(),
        request_id: new_request(),
        ..CreateOrderRequest::default()
    }
}

/// Reads the snapshot on which a command is executed.
pub(crate) async fn snapshot(sagas: &Sagas, id: OrderId) -> OrderSnapshot {
    sagas.store().snapshot(id).await.unwrap()
}
