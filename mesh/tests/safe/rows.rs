//! Every method of the protocol, who may call it, and a request of it that is
//! good. What tests do to every method they do by these rows.

use std::collections::BTreeSet;

use mesh_proto::FILE_DESCRIPTOR_SET;
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};

use crate::stage::{Bundle, ORDER, uuid};

/// Who may call a method, and about whose things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    Everybody,
    /// Whose it is, the staff, and admins.
    Owner,
    /// And services.
    OwnerOrService,
    /// As owner; who is not learns not even that it is there.
    Hidden,
    /// Whose account it is, and admins.
    Account,
    Staff,
    StaffOrService,
    Service,
    Admin,
}

/// One method.
pub(crate) struct Row {
    pub(crate) path: &'static str,
    pub(crate) who: For,
    /// A good request, about what is this customer's.
    pub(crate) body: fn(&Bundle) -> Value,
}

/// In an order in which all of them succeed.
pub(crate) const ROWS: &[Row] = &[
    row("shop.cart.v1.CartService/GetCart", For::OwnerOrService, |b| json!({"customer_id": b.person.id})),
    row("shop.cart.v1.CartService/AddItem", For::Owner, item),
    row("shop.cart.v1.CartService/UpdateItem", For::Owner, item),
    row("shop.cart.v1.CartService/WatchCart", For::Owner, |b| json!({"customer_id": b.person.id})),
    row(
        "shop.cart.v1.CartService/RemoveItem",
        For::Owner,
        |b| json!({"customer_id": b.person.id, "product_id": b.sku}),
    ),
    row("shop.cart.v1.CartService/ClearCart", For::OwnerOrService, |b| json!({"customer_id": b.person.id})),
    row("shop.events.v1.EventSinkService/Deliver", For::Service, |b| {
        let gone = json!({"product_id": b.sku});
        let event = json!({
            "event_id": uuid(), "source": ORDER, "aggregate_id": "gone", "sequence": 1,
            "create_time": "2026-01-01T00:00:00Z", "product_deleted": gone,
        });
        json!({"events": [event]})
    }),
    row("shop.events.v1.EventLogService/GetBacklog", For::Admin, |_| json!({})),
    row("shop.events.v1.EventLogService/ListParkedEvents", For::Admin, |_| json!({})),
    row(
        "shop.events.v1.EventLogService/RetryParkedEvent",
        For::Admin,
        |_| json!({"event_id": uuid(), "subscriber": "cart-service"}),
    ),
    row(
        "shop.order.v1.OrderService/CreateOrder",
        For::Owner,
        |b| json!({"customer_id": b.person.id, "request_id": uuid()}),
    ),
    row("shop.order.v1.OrderService/GetOrder", For::Hidden, order),
    row("shop.order.v1.OrderService/ListOrders", For::Owner, |b| json!({"customer_id": b.person.id})),
    row("shop.order.v1.OrderService/WatchOrder", For::Hidden, order),
    row(
        "shop.order.v1.OrderService/PayOrder",
        For::Hidden,
        |b| json!({"order_id": b.order, "payment_method": "pm_card_visa"}),
    ),
    row("shop.order.v1.OrderService/ShipOrder", For::Staff, order),
    row("shop.order.v1.OrderService/CompleteOrder", For::Staff, order),
    row("shop.order.v1.OrderService/CancelOrder", For::Hidden, |b| json!({"order_id": b.other_order})),
    row("shop.payment.v1.PaymentService/Charge", For::Service, |b| {
        let amount = json!({"currency_code": "EUR", "units": 4});
        json!({
            "idempotency_key": uuid(), "customer_id": b.person.id, "amount": amount,
            "payment_method": "pm_card_visa",
        })
    }),
    row(
        "shop.payment.v1.PaymentService/GetCharge",
        For::StaffOrService,
        |b| json!({"idempotency_key": b.charge}),
    ),
    row("shop.payment.v1.PaymentService/Refund", For::Service, |b| json!({"idempotency_key": b.charge})),
    row("shop.payment.v1.PaymentService/ListCharges", For::Staff, |b| json!({"customer_id": b.person.id})),
    row("shop.payment.v1.PaymentService/GetBalance", For::Staff, |_| json!({"currency_code": "EUR"})),
    row("shop.product.v1.ProductService/CreateProduct", For::Staff, |_| {
        let sku = format!("new-{}", uuid());
        json!({"product": {"product_id": sku, "title": "New", "description": "New.", "price": price()}})
    }),
    row("shop.product.v1.ProductService/GetProduct", For::Everybody, product),
    row(
        "shop.product.v1.ProductService/BatchGetProducts",
        For::Everybody,
        |b| json!({"product_ids": [b.sku]}),
    ),
    row("shop.product.v1.ProductService/ListProducts", For::Everybody, |_| json!({})),
    row("shop.product.v1.ProductService/UpdateProduct", For::Staff, |b| {
        let product = json!({"product_id": b.sku, "title": "Tea", "description": "", "price": price()});
        json!({"product": product, "update_mask": "title,description,price"})
    }),
    row("shop.product.v1.ProductService/GetStock", For::Everybody, product),
    row(
        "shop.product.v1.ProductService/SetStock",
        For::Staff,
        |b| json!({"product_id": b.sku, "available": 500}),
    ),
    row("shop.product.v1.ProductService/ReserveStock", For::Service, |b| {
        let items = json!([{"product_id": b.sku, "quantity": 1}]);
        json!({"reservation_id": uuid(), "items": items, "lease": "3600s"})
    }),
    row("shop.product.v1.ProductService/GetReservation", For::Service, reservation),
    row("shop.product.v1.ProductService/CommitReservation", For::Service, reservation),
    row("shop.product.v1.ProductService/ReleaseReservation", For::Service, reservation),
    row(
        "shop.product.v1.ProductService/DeleteProduct",
        For::Staff,
        |_| json!({"product_id": format!("old-{}", uuid())}),
    ),
    row("shop.user.v1.UserService/Register", For::Everybody, |_| {
        let email = format!("{}@shop.example", uuid());
        json!({"email": email, "password": crate::shop::PASSWORD, "display_name": "New"})
    }),
    row(
        "shop.user.v1.UserService/Login",
        For::Everybody,
        |b| json!({"email": b.person.email, "password": crate::shop::PASSWORD}),
    ),
    row(
        "shop.user.v1.UserService/RefreshToken",
        For::Everybody,
        |b| json!({"refresh_token": b.person.refresh}),
    ),
    row("shop.user.v1.UserService/GetUser", For::Owner, |b| json!({"user_id": b.person.id})),
    row(
        "shop.user.v1.UserService/UpdateUser",
        For::Account,
        |b| json!({"user": {"user_id": b.person.id, "display_name": "Somebody"}, "update_mask": "displayName"}),
    ),
    row("shop.user.v1.UserService/ListNotifications", For::Owner, |b| json!({"customer_id": b.person.id})),
    row("shop.user.v1.UserService/GetJwks", For::Everybody, |_| json!({})),
    row("shop.user.v1.UserService/DeleteUser", For::Account, |b| json!({"user_id": b.person.id})),
];

const fn row(path: &'static str, who: For, body: fn(&Bundle) -> Value) -> Row {
    Row { path, who, body }
}

fn item(b: &Bundle) -> Value {
    json!({"customer_id": b.person.id, "product_id": b.sku, "quantity": 1})
}

fn order(b: &Bundle) -> Value {
    json!({"order_id": b.order})
}

fn product(b: &Bundle) -> Value {
    json!({"product_id": b.sku})
}

fn reservation(b: &Bundle) -> Value {
    json!({"reservation_id": b.reservation})
}

fn price() -> Value {
    json!({"currency_code": "EUR", "units": 4, "nanos": 500_000_000})
}

#[test]
fn every_method_has_one_row() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let methods = pool.services().flat_map(|service| {
        let name = service.full_name().to_owned();
        service.methods().map(move |method| format!("{name}/{}", method.name())).collect::<Vec<_>>()
    });
    let methods: BTreeSet<String> = methods.collect();
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.path.to_owned()).collect();
    assert_eq!(rows.len(), ROWS.len(), "a method has two rows");
    let without: Vec<_> = methods.difference(&rows).collect();
    assert!(
        without.is_empty(),
        "say in ROWS what a good request of {without:?} is, so that bad ones are tried"
    );
    assert_eq!(rows, methods);
}
