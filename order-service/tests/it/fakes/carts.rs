//! A fake cart-service.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use mesh_proto::{
    google::r#type::Money,
    shop::cart::v1::{
        AddItemRequest, Cart, CartItem, ClearCartRequest, GetCartRequest, RemoveItemRequest,
        UpdateItemRequest, WatchCartRequest, cart_service_server::CartService,
    },
};
use service_kit::follow::UpdateStream;
use tonic::{Request, Response, Status};

use super::behavior::BehaviorSwitch;

/// The carts by customer. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct FakeCarts {
    shared: Arc<Mutex<Shared>>,
    pub(crate) reading: BehaviorSwitch,
    pub(crate) clearing: BehaviorSwitch,
}

#[derive(Default)]
struct Shared {
    carts: HashMap<String, StoredCart>,
    /// The item that the customer adds right after a cart is read.
    added_after_reading: Option<CartItem>,
}

#[derive(Clone, Default)]
struct StoredCart {
    items: Vec<CartItem>,
    version: u64,
}

impl FakeCarts {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    pub(crate) fn put(&self, customer: &str, items: impl IntoIterator<Item = CartItem>) {
        self.shared().change(customer, |held| held.extend(items));
    }

    pub(crate) fn put_after_reading(&self, item: CartItem) {
        self.shared().added_after_reading = Some(item);
    }

    /// The current cart.
    pub(crate) fn cart(&self, customer: &str) -> Cart {
        self.shared().show(customer)
    }
}

impl Shared {
    fn change(&mut self, customer: &str, change: impl FnOnce(&mut Vec<CartItem>)) {
        let held = self.carts.entry(customer.to_owned()).or_default();
        change(&mut held.items);
        held.version += 1;
    }

    fn show(&self, customer: &str) -> Cart {
        let StoredCart { items, version } = self.carts.get(customer).cloned().unwrap_or_default();
        Cart { customer_id: customer.to_owned(), items, etag: version.to_string(), ..Cart::default() }
    }

    fn read(&mut self, customer: &str) -> Cart {
        let cart = self.show(customer);
        if let Some(item) = self.added_after_reading.take() {
            self.change(customer, |items| items.push(item));
        }
        cart
    }

    fn clear(&mut self, request: &ClearCartRequest) -> Result<Cart, Status> {
        let ClearCartRequest { customer_id, etag } = request;
        let now = self.show(customer_id);
        let cleared_before =
            now.items.is_empty() && etag.parse::<u64>().is_ok_and(|etag| (etag + 1).to_string() == now.etag);
        if now.etag == *etag {
            self.change(customer_id, Vec::clear);
        } else if !cleared_before {
            return Err(Status::aborted("the cart has changed since"));
        }
        Ok(self.show(customer_id))
    }
}

/// An item of so many pieces at so many cents each.
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
impl CartService for FakeCarts {
    type WatchCartStream = UpdateStream<Cart>;

    async fn get_cart(&self, request: Request<GetCartRequest>) -> Result<Response<Cart>, Status> {
        self.reading.apply(|| Ok(self.shared().read(&request.get_ref().customer_id))).await
    }

    async fn clear_cart(&self, request: Request<ClearCartRequest>) -> Result<Response<Cart>, Status> {
        self.clearing.apply(|| self.shared().clear(request.get_ref())).await
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
