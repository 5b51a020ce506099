//! order-service with a cart-service that keeps carts in memory and fails when
//! told to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use mesh_proto::{
    google::r#type::Money,
    shop::{
        cart::v1::{
            AddItemRequest, Cart, CartItem, ClearCartRequest, GetCartRequest, RemoveItemRequest,
            UpdateItemRequest, WatchCartRequest,
            cart_service_server::{CartService, CartServiceServer},
        },
        order::v1::{
            CreateOrderRequest, GetOrderRequest, ListOrdersRequest, Order,
            order_service_client::OrderServiceClient,
        },
    },
};
use order_service::{NAME, OrderService};
use registry_client::Channel;
use service_kit::{
    follow::Following,
    testing::{Replica, TestDatabase, mesh_to},
};
use tonic::{Request, Response, Status};

use crate::app::new_request;

pub(crate) struct PlayedApp {
    orders: Vec<OrderServiceClient<Channel>>,
    replicas: Vec<Replica>,
    pub(crate) carts: PlayedCarts,
    cart_service: Replica,
    database: TestDatabase,
}

impl PlayedApp {
    /// Several replicas on one database.
    pub(crate) async fn spawn(database: TestDatabase, replicas: usize) -> Self {
        let carts = PlayedCarts::default();
        let served = CartServiceServer::new(carts.clone());
        let cart_service = Replica::start(|listener, shutdown| async move {
            let server = mesh_to([]).serve("cart-service").add_service(served);
            Ok(server.run(listener, shutdown).await?)
        })
        .await;
        let mut app = Self { orders: vec![], replicas: vec![], carts, cart_service, database };
        for _ in 0..replicas {
            app.add_replica().await;
        }
        app
    }

    async fn add_replica(&mut self) {
        let mesh = mesh_to([self.cart_service.address]);
        let replica = Replica::of::<OrderService>(mesh, &self.database).await;
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

    pub(crate) async fn create(&self, replica: usize, request: CreateOrderRequest) -> Result<Order, Status> {
        Ok(self.orders[replica].clone().create_order(request).await?.into_inner())
    }

    /// Fills the cart of a customer and orders it.
    pub(crate) async fn ordered(&self, replica: usize, customer: &str) -> Order {
        self.carts.put(customer, [item("tea", 499, 1)]);
        self.create(replica, wanted(customer)).await.unwrap()
    }

    pub(crate) async fn get(&self, order_id: &str) -> Result<Order, Status> {
        let request = GetOrderRequest { order_id: order_id.into() };
        Ok(self.orders[0].clone().get_order(request).await?.into_inner())
    }

    pub(crate) async fn list(&self, customer: &str, size: i32, token: &str) -> (Vec<Order>, String) {
        let request =
            ListOrdersRequest { customer_id: customer.into(), page_size: size, page_token: token.into() };
        let page = self.orders[0].clone().list_orders(request).await.unwrap().into_inner();
        (page.orders, page.next_page_token)
    }
}

/// A new request for an order of whatever the cart holds.
pub(crate) fn wanted(customer: &str) -> CreateOrderRequest {
    CreateOrderRequest {
        customer_id: customer.into(),
        request_id: new_request(),
        ..CreateOrderRequest::default()
    }
}

/// Carts by customer. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct PlayedCarts {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    carts: HashMap<String, Held>,
    reading: Mood,
    clearing: Mood,
    /// What the customer adds right after a cart is read.
    afterthought: Option<CartItem>,
}

#[derive(Clone, Default)]
struct Held {
    items: Vec<CartItem>,
    version: u64,
}

/// What becomes of a call.
#[derive(Clone, Default)]
pub(crate) enum Mood {
    #[default]
    Works,
    Fails(Status),
    Hangs,
}

impl PlayedCarts {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    pub(crate) fn put(&self, customer: &str, items: impl IntoIterator<Item = CartItem>) {
        self.shared().change(customer, |held| held.extend(items));
    }

    pub(crate) fn put_after_reading(&self, item: CartItem) {
        self.shared().afterthought = Some(item);
    }

    pub(crate) fn reading(&self, mood: Mood) {
        self.shared().reading = mood;
    }

    pub(crate) fn clearing(&self, mood: Mood) {
        self.shared().clearing = mood;
    }

    /// The cart as it is.
    pub(crate) fn cart(&self, customer: &str) -> Cart {
        self.shared().show(customer)
    }
}

impl Mood {
    async fn play(self) -> Result<(), Status> {
        match self {
            Self::Works => Ok(()),
            Self::Fails(status) => Err(status),
            Self::Hangs => std::future::pending().await,
        }
    }
}

impl Shared {
    fn change(&mut self, customer: &str, change: impl FnOnce(&mut Vec<CartItem>)) {
        let held = self.carts.entry(customer.to_owned()).or_default();
        change(&mut held.items);
        held.version += 1;
    }

    fn show(&self, customer: &str) -> Cart {
        let Held { items, version } = self.carts.get(customer).cloned().unwrap_or_default();
        Cart { customer_id: customer.to_owned(), items, etag: version.to_string(), ..Cart::default() }
    }
}

/// So many pieces at so many cents each.
pub(crate) fn item(product_id: &str, cents: i64, quantity: i32) -> CartItem {
    CartItem {
        product_id: product_id.into(),
        title: format!("A {product_id}"),
        unit_price: Some(money("EUR", cents / 100, i32::try_from(cents % 100).unwrap() * 10_000_000)),
        quantity,
        previous_unit_price: None,
    }
}

pub(crate) fn money(currency: &str, units: i64, nanos: i32) -> Money {
    Money { currency_code: currency.into(), units, nanos }
}

#[tonic::async_trait]
impl CartService for PlayedCarts {
    type WatchCartStream = Following<Cart>;

    async fn get_cart(&self, request: Request<GetCartRequest>) -> Result<Response<Cart>, Status> {
        let mood = self.shared().reading.clone();
        mood.play().await?;
        let customer = request.into_inner().customer_id;
        let mut shared = self.shared();
        let cart = shared.show(&customer);
        if let Some(item) = shared.afterthought.take() {
            shared.change(&customer, |items| items.push(item));
        }
        Ok(Response::new(cart))
    }

    async fn clear_cart(&self, request: Request<ClearCartRequest>) -> Result<Response<Cart>, Status> {
        let mood = self.shared().clearing.clone();
        mood.play().await?;
        let ClearCartRequest { customer_id, etag } = request.into_inner();
        let mut shared = self.shared();
        if shared.show(&customer_id).etag != etag {
            return Err(Status::aborted("the cart has changed since"));
        }
        shared.change(&customer_id, Vec::clear);
        Ok(Response::new(shared.show(&customer_id)))
    }

    async fn add_item(&self, _: Request<AddItemRequest>) -> Result<Response<Cart>, Status> {
        Err(Status::unimplemented("orders add nothing"))
    }

    async fn update_item(&self, _: Request<UpdateItemRequest>) -> Result<Response<Cart>, Status> {
        Err(Status::unimplemented("orders update nothing"))
    }

    async fn remove_item(&self, _: Request<RemoveItemRequest>) -> Result<Response<Cart>, Status> {
        Err(Status::unimplemented("orders remove nothing"))
    }

    async fn watch_cart(
        &self,
        _: Request<WatchCartRequest>,
    ) -> Result<Response<Self::WatchCartStream>, Status> {
        Err(Status::unimplemented("orders watch no cart"))
    }
}
