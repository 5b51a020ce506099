//! Callers of the shop.

use std::time::Duration;

use mesh_proto::shop::{
    cart::v1::{AddItemRequest, Cart, cart_service_client::CartServiceClient},
    events::v1::{GetBacklogRequest, event_log_service_client::EventLogServiceClient},
    order::v1::{
        CancelOrderRequest, CompleteOrderRequest, CreateOrderRequest, ListOrdersRequest, Order,
        PayOrderRequest, ShipOrderRequest, order_service_client::OrderServiceClient,
    },
    payment::v1::payment_service_client::PaymentServiceClient,
    product::v1::product_service_client::ProductServiceClient,
    user::v1::{ListNotificationsRequest, Notification, user_service_client::UserServiceClient},
};
use registry_client::{Channel, Mesh};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Response, Status};

use super::{DEADLINE, Service};

/// How long a caller goes on to ask for an answer that it can rely on.
const INSIST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it waits before it asks again.
const AGAIN: std::ops::Range<u64> = 10..100;

/// How long a caller in a hurry waits for an answer, in milliseconds.
const HURRY: std::ops::Range<u64> = 50..1_500;

/// A client of each service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    pub(crate) users: UserServiceClient<Channel>,
    pub(crate) products: ProductServiceClient<Channel>,
    pub(crate) carts: CartServiceClient<Channel>,
    pub(crate) payments: PaymentServiceClient<Channel>,
    pub(crate) orders: OrderServiceClient<Channel>,
    with_short_timeouts: bool,
    /// Of user-service and order-service: what they have not delivered or taken.
    logs: [EventLogServiceClient<Channel>; 2],
}

impl Clients {
    pub(super) fn through(mesh: &Mesh) -> Self {
        Self {
            users: UserServiceClient::new(mesh.channel(Service::User.name())),
            products: ProductServiceClient::new(mesh.channel(Service::Product.name())),
            carts: CartServiceClient::new(mesh.channel(Service::Cart.name())),
            payments: PaymentServiceClient::new(mesh.channel(Service::Payment.name())),
            orders: OrderServiceClient::new(mesh.channel(Service::Order.name())),
            with_short_timeouts: false,
            logs: [Service::User, Service::Order]
                .map(|service| EventLogServiceClient::new(mesh.channel(service.name()))),
        }
    }

    /// Clients that hang up on most answers to come, and then ask again.
    #[must_use]
    pub(crate) fn with_short_timeouts(&self) -> Self {
        Self { with_short_timeouts: true, ..self.clone() }
    }

    /// Puts pieces into a cart that nobody else changes.
    ///
    /// # Errors
    /// What cart-service refused it with.
    pub(crate) async fn fill(&self, customer: &str, sku: &str, quantity: i32) -> Result<Cart, Status> {
        let (customer_id, product_id) = (customer.to_owned(), sku.to_owned());
        let request = AddItemRequest { customer_id, product_id, quantity, etag: String::new() };
        Ok(self.carts.clone().add_item(request).await?.into_inner())
    }

    /// Orders what a cart holds: asks until there is an answer.
    pub(crate) async fn order(&self, customer: &str, request_id: &str) -> RetriedCall<Order> {
        let (customer_id, request_id) = (customer.to_owned(), request_id.to_owned());
        let request = CreateOrderRequest { customer_id, request_id, ..CreateOrderRequest::default() };
        self.ask(|mut orders| {
            let request = request.clone();
            async move { orders.create_order(request).await }
        })
        .await
    }

    /// Pays an order: asks until there is an answer.
    pub(crate) async fn pay(&self, order_id: &str, payment_method: &str) -> RetriedCall<Order> {
        let request = paid(order_id, payment_method);
        self.ask(|mut orders| {
            let request = request.clone();
            async move { orders.pay_order(request).await }
        })
        .await
    }

    /// Asks once for an order to be paid, and does not care for what comes of
    /// it.
    pub(crate) async fn pay_without_waiting(&self, order_id: &str, payment_method: &str) {
        let mut orders = self.orders.clone();
        let _ = timeout(hurry(), orders.pay_order(paid(order_id, payment_method))).await;
    }

    /// Has an order shipped: asks until there is an answer.
    pub(crate) async fn ship(&self, order_id: &str) -> RetriedCall<Order> {
        let request = ShipOrderRequest { order_id: order_id.to_owned() };
        self.ask(|mut orders| {
            let request = request.clone();
            async move { orders.ship_order(request).await }
        })
        .await
    }

    /// Says that an order has arrived: asks until there is an answer.
    pub(crate) async fn complete(&self, order_id: &str) -> RetriedCall<Order> {
        let request = CompleteOrderRequest { order_id: order_id.to_owned() };
        self.ask(|mut orders| {
            let request = request.clone();
            async move { orders.complete_order(request).await }
        })
        .await
    }

    /// Cancels an order: asks until there is an answer.
    pub(crate) async fn cancel(&self, order_id: &str) -> RetriedCall<Order> {
        let request = CancelOrderRequest { order_id: order_id.to_owned() };
        self.ask(|mut orders| {
            let request = request.clone();
            async move { orders.cancel_order(request).await }
        })
        .await
    }

    async fn ask<F>(&self, ask: impl Fn(OrderServiceClient<Channel>) -> F) -> RetriedCall<Order>
    where
        F: Future<Output = Result<Response<Order>, Status>>,
    {
        retry_until_definite(|| {
            let asked = ask(self.orders.clone());
            // Who is in no hurry waits longer than the call's own deadline.
            let wait = if self.with_short_timeouts { hurry() } else { DEADLINE * 2 };
            async move {
                let left = |_| Err(Status::deadline_exceeded("the caller left"));
                timeout(wait, asked).await.unwrap_or_else(left)
            }
        })
        .await
    }

    /// What a customer was told of their orders, oldest first; up to 1,000.
    ///
    /// # Errors
    /// What user-service refused it with.
    pub(crate) async fn told(&self, customer: &str) -> Result<Vec<Notification>, Status> {
        let request = ListNotificationsRequest {
            customer_id: customer.to_owned(),
            page_size: 1_000,
            ..ListNotificationsRequest::default()
        };
        let page = retry_until_definite(|| {
            let (mut users, request) = (self.users.clone(), request.clone());
            async move { users.list_notifications(request).await }
        });
        Ok(page.await.answer?.notifications)
    }

    /// Events between order-service and user-service that wait, and that were
    /// parked.
    ///
    /// # Errors
    /// What a service refused it with.
    pub(crate) async fn backlog(&self) -> Result<(i64, i64), Status> {
        let (mut waiting, mut parked) = (0, 0);
        for log in &self.logs {
            let asked = retry_until_definite(|| {
                let mut log = log.clone();
                async move { log.get_backlog(GetBacklogRequest {}).await }
            });
            for backlog in asked.await.answer?.backlogs {
                waiting += backlog.waiting;
                parked += backlog.parked;
            }
        }
        Ok((waiting, parked))
    }

    /// All orders of a customer, newest first.
    ///
    /// # Errors
    /// What order-service refused it with.
    pub(crate) async fn orders_of(&self, customer: &str) -> Result<Vec<Order>, Status> {
        let mut request =
            ListOrdersRequest { customer_id: customer.to_owned(), ..ListOrdersRequest::default() };
        let mut all = Vec::new();
        loop {
            let page = retry_until_definite(|| {
                let (mut orders, request) = (self.orders.clone(), request.clone());
                async move { orders.list_orders(request).await }
            });
            let page = page.await.answer?;
            all.extend(page.orders);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
    }
}

fn hurry() -> Duration {
    Duration::from_millis(fastrand::u64(HURRY))
}

fn paid(order_id: &str, payment_method: &str) -> PayOrderRequest {
    PayOrderRequest { order_id: order_id.to_owned(), payment_method: payment_method.to_owned() }
}

/// What a caller that does not give up was answered in the end.
#[derive(Debug)]
pub(crate) struct RetriedCall<T> {
    pub(crate) answer: Result<T, Status>,
    /// How often it asked.
    pub(crate) asked: usize,
}

/// Asks again for as long as the answer leaves open what has happened, or says
/// that it is under way; a minute at most. What is asked so may be asked twice.
pub(crate) async fn retry_until_definite<T, F>(mut ask: impl FnMut() -> F) -> RetriedCall<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let until = Instant::now() + INSIST_TIMEOUT;
    let mut asked = 0;
    loop {
        asked += 1;
        match ask().await {
            Err(status) if is_open(status.code()) && Instant::now() < until => {
                sleep(Duration::from_millis(fastrand::u64(AGAIN))).await;
            }
            answer => return RetriedCall { answer: answer.map(Response::into_inner), asked },
        }
    }
}

fn is_open(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::ResourceExhausted
            | Code::Cancelled
    )
}
