//! Clients of the shop.

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

/// The limit on retries until a definite response.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// The random delay before a retry, in milliseconds.
const RETRY_DELAY_MS: std::ops::Range<u64> = 10..100;

/// The random timeout of an impatient caller, in milliseconds.
const SHORT_TIMEOUT_MS: std::ops::Range<u64> = 50..1_500;

/// A client of each service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    pub(crate) users: UserServiceClient<Channel>,
    pub(crate) products: ProductServiceClient<Channel>,
    pub(crate) carts: CartServiceClient<Channel>,
    pub(crate) payments: PaymentServiceClient<Channel>,
    pub(crate) orders: OrderServiceClient<Channel>,
    has_short_timeouts: bool,
    /// The event logs of user-service and order-service.
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
            has_short_timeouts: false,
            logs: [Service::User, Service::Order]
                .map(|service| EventLogServiceClient::new(mesh.channel(service.name()))),
        }
    }

    /// Clients that cancel most calls early, and then retry them.
    #[must_use]
    pub(crate) fn with_short_timeouts(&self) -> Self {
        Self { has_short_timeouts: true, ..self.clone() }
    }

    /// Adds pieces to a cart that no other caller changes.
    ///
    /// # Errors
    /// The status of cart-service.
    pub(crate) async fn fill(&self, customer: &str, sku: &str, quantity: i32) -> Result<Cart, Status> {
        let (customer_id, product_id) = (customer.to_owned(), sku.to_owned());
        let request = AddItemRequest { customer_id, product_id, quantity, etag: String::new() };
        Ok(self.carts.clone().add_item(request).await?.into_inner())
    }

    /// Orders the content of a cart; retries until a definite response.
    pub(crate) async fn order(&self, customer: &str, request_id: &str) -> RetriedCall<Order> {
        let (customer_id, request_id) = (customer.to_owned(), request_id.to_owned());
        let request = CreateOrderRequest { customer_id, request_id, ..CreateOrderRequest::default() };
        self.call_orders(|mut orders| {
            let request = request.clone();
            async move { orders.create_order(request).await }
        })
        .await
    }

    /// Pays an order; retries until a definite response.
    pub(crate) async fn pay(&self, order_id: &str, payment_method: &str) -> RetriedCall<Order> {
        let request = pay_request(order_id, payment_method);
        self.call_orders(|mut orders| {
            let request = request.clone();
            async move { orders.pay_order(request).await }
        })
        .await
    }

    /// Sends one payment of an order, and ignores the outcome.
    pub(crate) async fn pay_without_waiting(&self, order_id: &str, payment_method: &str) {
        let mut orders = self.orders.clone();
        let _ = timeout(short_timeout(), orders.pay_order(pay_request(order_id, payment_method))).await;
    }

    /// Ships an order; retries until a definite response.
    pub(crate) async fn ship(&self, order_id: &str) -> RetriedCall<Order> {
        let request = ShipOrderRequest { order_id: order_id.to_owned() };
        self.call_orders(|mut orders| {
            let request = request.clone();
            async move { orders.ship_order(request).await }
        })
        .await
    }

    /// Completes an order; retries until a definite response.
    pub(crate) async fn complete(&self, order_id: &str) -> RetriedCall<Order> {
        let request = CompleteOrderRequest { order_id: order_id.to_owned() };
        self.call_orders(|mut orders| {
            let request = request.clone();
            async move { orders.complete_order(request).await }
        })
        .await
    }

    /// Cancels an order; retries until a definite response.
    pub(crate) async fn cancel(&self, order_id: &str) -> RetriedCall<Order> {
        let request = CancelOrderRequest { order_id: order_id.to_owned() };
        self.call_orders(|mut orders| {
            let request = request.clone();
            async move { orders.cancel_order(request).await }
        })
        .await
    }

    async fn call_orders<F>(&self, call: impl Fn(OrderServiceClient<Channel>) -> F) -> RetriedCall<Order>
    where
        F: Future<Output = Result<Response<Order>, Status>>,
    {
        retry_until_definite(|| {
            let response = call(self.orders.clone());
            // Without a short timeout it waits longer than the call's own
            // deadline.
            let wait_time = if self.has_short_timeouts { short_timeout() } else { DEADLINE * 2 };
            async move {
                let timed_out = |_| Err(Status::deadline_exceeded("the caller timed out"));
                timeout(wait_time, response).await.unwrap_or_else(timed_out)
            }
        })
        .await
    }

    /// The notifications of a customer, oldest first; up to 1,000.
    ///
    /// # Errors
    /// The status of user-service.
    pub(crate) async fn notifications(&self, customer: &str) -> Result<Vec<Notification>, Status> {
        let request = ListNotificationsRequest {
            customer_id: customer.to_owned(),
            page_size: 1_000,
            ..ListNotificationsRequest::default()
        };
        let page = retry_until_definite(|| {
            let (mut users, request) = (self.users.clone(), request.clone());
            async move { users.list_notifications(request).await }
        });
        Ok(page.await.response?.notifications)
    }

    /// The number of waiting and of parked events between order-service and
    /// user-service.
    ///
    /// # Errors
    /// The status of the service.
    pub(crate) async fn backlog(&self) -> Result<(i64, i64), Status> {
        let (mut waiting, mut parked) = (0, 0);
        for log in &self.logs {
            let attempts = retry_until_definite(|| {
                let mut log = log.clone();
                async move { log.get_backlog(GetBacklogRequest {}).await }
            });
            for backlog in attempts.await.response?.backlogs {
                waiting += backlog.waiting;
                parked += backlog.parked;
            }
        }
        Ok((waiting, parked))
    }

    /// All orders of a customer, newest first.
    ///
    /// # Errors
    /// The status of order-service.
    pub(crate) async fn orders_of(&self, customer: &str) -> Result<Vec<Order>, Status> {
        let mut request =
            ListOrdersRequest { customer_id: customer.to_owned(), ..ListOrdersRequest::default() };
        let mut all = Vec::new();
        loop {
            let page = retry_until_definite(|| {
                let (mut orders, request) = (self.orders.clone(), request.clone());
                async move { orders.list_orders(request).await }
            });
            let page = page.await.response?;
            all.extend(page.orders);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
    }
}

fn short_timeout() -> Duration {
    Duration::from_millis(fastrand::u64(SHORT_TIMEOUT_MS))
}

fn pay_request(order_id: &str, payment_method: &str) -> PayOrderRequest {
    PayOrderRequest { order_id: order_id.to_owned(), payment_method: payment_method.to_owned() }
}

/// The final response to a call that was retried.
#[derive(Debug)]
pub(crate) struct RetriedCall<T> {
    pub(crate) response: Result<T, Status>,
    /// The number of attempts.
    pub(crate) attempts: usize,
}

/// Retries an idempotent call while its outcome is unknown or still in
/// progress, for at most a minute.
pub(crate) async fn retry_until_definite<T, F>(mut call: impl FnMut() -> F) -> RetriedCall<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let deadline = Instant::now() + RETRY_TIMEOUT;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match call().await {
            Err(status) if is_indefinite(status.code()) && Instant::now() < deadline => {
                sleep(Duration::from_millis(fastrand::u64(RETRY_DELAY_MS))).await;
            }
            response => return RetriedCall { response: response.map(Response::into_inner), attempts },
        }
    }
}

fn is_indefinite(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::ResourceExhausted
            | Code::Cancelled
    )
}
