//! Callers of the shop.

use std::time::Duration;

use mesh_proto::shop::{
    cart::v1::{AddItemRequest, Cart, cart_service_client::CartServiceClient},
    order::v1::{
        CreateOrderRequest, ListOrdersRequest, Order, PayOrderRequest,
        order_service_client::OrderServiceClient,
    },
    payment::v1::payment_service_client::PaymentServiceClient,
    product::v1::product_service_client::ProductServiceClient,
    user::v1::user_service_client::UserServiceClient,
};
use registry_client::{Channel, Mesh};
use tokio::time::{Instant, sleep};
use tonic::{Code, Response, Status};

use super::Service;

/// How long a caller goes on to ask for an answer that it can rely on.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits before it asks again.
const AGAIN: std::ops::Range<u64> = 10..100;

/// A client of each service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    pub(crate) users: UserServiceClient<Channel>,
    pub(crate) products: ProductServiceClient<Channel>,
    pub(crate) carts: CartServiceClient<Channel>,
    pub(crate) payments: PaymentServiceClient<Channel>,
    pub(crate) orders: OrderServiceClient<Channel>,
}

impl Clients {
    pub(super) fn through(mesh: &Mesh) -> Self {
        Self {
            users: UserServiceClient::new(mesh.channel(Service::User.name())),
            products: ProductServiceClient::new(mesh.channel(Service::Product.name())),
            carts: CartServiceClient::new(mesh.channel(Service::Cart.name())),
            payments: PaymentServiceClient::new(mesh.channel(Service::Payment.name())),
            orders: OrderServiceClient::new(mesh.channel(Service::Order.name())),
        }
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
    pub(crate) async fn order(&self, customer: &str, request_id: &str) -> Insisted<Order> {
        let (customer_id, request_id) = (customer.to_owned(), request_id.to_owned());
        let request = CreateOrderRequest { customer_id, request_id, ..CreateOrderRequest::default() };
        insist(|| {
            let (mut orders, request) = (self.orders.clone(), request.clone());
            async move { orders.create_order(request).await }
        })
        .await
    }

    /// Pays an order: asks until there is an answer.
    pub(crate) async fn pay(&self, order_id: &str, payment_method: &str) -> Insisted<Order> {
        let (order_id, payment_method) = (order_id.to_owned(), payment_method.to_owned());
        let request = PayOrderRequest { order_id, payment_method };
        insist(|| {
            let (mut orders, request) = (self.orders.clone(), request.clone());
            async move { orders.pay_order(request).await }
        })
        .await
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
            let page = insist(|| {
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

/// What a caller that does not give up was answered in the end.
#[derive(Debug)]
pub(crate) struct Insisted<T> {
    pub(crate) answer: Result<T, Status>,
    /// How often it asked.
    pub(crate) asked: usize,
}

/// Asks again for as long as the answer leaves open what has happened, or says
/// that it is under way; a minute at most. What is asked so may be asked twice.
pub(crate) async fn insist<T, F>(mut ask: impl FnMut() -> F) -> Insisted<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let until = Instant::now() + PATIENCE;
    let mut asked = 0;
    loop {
        asked += 1;
        match ask().await {
            Err(status) if is_open(status.code()) && Instant::now() < until => {
                sleep(Duration::from_millis(fastrand::u64(AGAIN))).await;
            }
            answer => return Insisted { answer: answer.map(Response::into_inner), asked },
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
