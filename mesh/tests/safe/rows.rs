//! One row for every method of the protocol: its allowed callers and a valid
//! request. Tests of every method go through these rows.

use std::collections::BTreeSet;

use mesh_proto::FILE_DESCRIPTOR_SET;
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};

use crate::stage::{Bundle, ORDER, uuid};

/// The allowed callers of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllowedCallers {
    Everybody,
    /// The owner, staff and admins.
    Owner,
    /// The same and services.
    OwnerOrService,
    /// As `Owner`; others do not even learn that the resource exists.
    Hidden,
    /// The account's owner and admins.
    Account,
    Staff,
    StaffOrService,
    Service,
    Admin,
}

/// One method.
pub(crate) struct Row {
    pub(crate) path: &'static str,
    pub(crate) allowed: AllowedCallers,
    /// A valid request on this customer's data.
    pub(crate) body: fn(&Bundle) -> Value,
}

/// All methods, in an order in which all of them succeed.
pub(crate) const ROWS: &[Row] = &[
    row(
        "shop.cart.v1.CartService/GetCart",
        AllowedCallers::OwnerOrService,
        |b| json!({"customer_id": b.person.id}),
    ),
    row("shop.cart.v1.CartService/AddItem", AllowedCallers::Owner, item),
    row("shop.cart.v1.CartService/UpdateItem", AllowedCallers::Owner, item),
    row("shop.cart.v1.CartService/WatchCart", AllowedCallers::Owner, |b| json!({"customer_id": b.person.id})),
    row(
        "shop.cart.v1.CartService/RemoveItem",
        AllowedCallers::Owner,
        |b| json!({"customer_id": b.person.id, "product_id": b.sku}),
    ),
    row(
        "shop.cart.v1.CartService/ClearCart",
        AllowedCallers::OwnerOrService,
        |b| json!({"customer_id": b.person.id}),
    ),
    row("shop.events.v1.EventSinkService/Deliver", AllowedCallers::Service, |b| {
        let gone = json!({"product_id": b.sku});
        let event = json!({
            "event_id": uuid(), "source": ORDER, "aggregate_id": "gone", "sequence": 1,
            "create_time": "2026-01-01T00:00:00Z", "product_deleted": gone,
        });
        json!({"events": [event]})
    }),
    row("shop.events.v1.EventLogService/GetBacklog", AllowedCallers::Admin, |_| json!({})),
    row("shop.events.v1.EventLogService/ListParkedEvents", AllowedCallers::Admin, |_| json!({})),
    row(
        "shop.events.v1.EventLogService/RetryParkedEvent",
        AllowedCallers::Admin,
        |_| json!({"event_id": uuid(), "subscriber": "cart-service"}),
    ),
    row(
        "shop.order.v1.OrderService/CreateOrder",
        AllowedCallers::Owner,
        |b| json!({"customer_id": b.person.id, "request_id": uuid()}),
    ),
    row("shop.order.v1.OrderService/GetOrder", AllowedCallers::Hidden, order),
    row(
        "shop.order.v1.OrderService/ListOrders",
        AllowedCallers::Owner,
        |b| json!({"customer_id": b.person.id}),
    ),
    row("shop.order.v1.OrderService/WatchOrder", AllowedCallers::Hidden, order),
    row(
        "shop.order.v1.OrderService/PayOrder",
        AllowedCallers::Hidden,
        |b| json!({"order_id": b.order, "payment_method": "pm_card_visa"}),
    ),
    row("shop.order.v1.OrderService/ShipOrder", AllowedCallers::Staff, order),
    row("shop.order.v1.OrderService/CompleteOrder", AllowedCallers::Staff, order),
    row(
        "shop.order.v1.OrderService/CancelOrder",
        AllowedCallers::Hidden,
        |b| json!({"order_id": b.other_order}),
    ),
    row("shop.payment.v1.PaymentService/Charge", AllowedCallers::Service, |b| {
        let amount = json!({"currency_code": "EUR", "units": 4});
        json!({
            "idempotency_key": uuid(), "customer_id": b.person.id, "amount": amount,
            "payment_method": "pm_card_visa",
        })
    }),
    row(
        "shop.payment.v1.PaymentService/GetCharge",
        AllowedCallers::StaffOrService,
        |b| json!({"idempotency_key": b.charge}),
    ),
    row(
        "shop.payment.v1.PaymentService/Refund",
        AllowedCallers::Service,
        |b| json!({"idempotency_key": b.charge}),
    ),
    row(
        "shop.payment.v1.PaymentService/ListCharges",
        AllowedCallers::Staff,
        |b| json!({"customer_id": b.person.id}),
    ),
    row(
        "shop.payment.v1.PaymentService/GetBalance",
        AllowedCallers::Staff,
        |_| json!({"currency_code": "EUR"}),
    ),
    row("shop.product.v1.ProductService/CreateProduct", AllowedCallers::Staff, |_| {
        let sku = format!("new-{}", uuid());
        json!({"product": {"product_id": sku, "title": "New", "description": "New.", "price": price()}})
    }),
    row("shop.product.v1.ProductService/GetProduct", AllowedCallers::Everybody, product),
    row(
        "shop.product.v1.ProductService/BatchGetProducts",
        AllowedCallers::Everybody,
        |b| json!({"product_ids": [b.sku]}),
    ),
    row("shop.product.v1.ProductService/ListProducts", AllowedCallers::Everybody, |_| json!({})),
    row("shop.product.v1.ProductService/UpdateProduct", AllowedCallers::Staff, |b| {
        let product = json!({"product_id": b.sku, "title": "Tea", "description": "", "price": price()});
        json!({"product": product, "update_mask": "title,description,price"})
    }),
    row("shop.product.v1.ProductService/GetStock", AllowedCallers::Everybody, product),
    row(
        "shop.product.v1.ProductService/SetStock",
        AllowedCallers::Staff,
        |b| json!({"product_id": b.sku, "available": 500}),
    ),
    row("shop.product.v1.ProductService/ReserveStock", AllowedCallers::Service, |b| {
        let items = json!([{"product_id": b.sku, "quantity": 1}]);
        json!({"reservation_id": uuid(), "items": items, "lease": "3600s"})
    }),
    row("shop.product.v1.ProductService/GetReservation", AllowedCallers::Service, reservation),
    row("shop.product.v1.ProductService/CommitReservation", AllowedCallers::Service, reservation),
    row("shop.product.v1.ProductService/ReleaseReservation", AllowedCallers::Service, reservation),
    row(
        "shop.product.v1.ProductService/DeleteProduct",
        AllowedCallers::Staff,
        |_| json!({"product_id": format!("old-{}", uuid())}),
    ),
    row("shop.user.v1.UserService/Register", AllowedCallers::Everybody, |_| {
        let email = format!("{}@shop.example", uuid());
        json!({"email": email, "password": crate::shop::PASSWORD, "display_name": "New"})
    }),
    row(
        "shop.user.v1.UserService/Login",
        AllowedCallers::Everybody,
        |b| json!({"email": b.person.email, "password": crate::shop::PASSWORD}),
    ),
    row(
        "shop.user.v1.UserService/RefreshToken",
        AllowedCallers::Everybody,
        |b| json!({"refresh_token": b.person.refresh}),
    ),
    row("shop.user.v1.UserService/GetUser", AllowedCallers::Owner, |b| json!({"user_id": b.person.id})),
    row(
        "shop.user.v1.UserService/UpdateUser",
        AllowedCallers::Account,
        |b| json!({"user": {"user_id": b.person.id, "display_name": "Somebody"}, "update_mask": "displayName"}),
    ),
    row(
        "shop.user.v1.UserService/ListNotifications",
        AllowedCallers::Owner,
        |b| json!({"customer_id": b.person.id}),
    ),
    row("shop.user.v1.UserService/GetJwks", AllowedCallers::Everybody, |_| json!({})),
    row("shop.user.v1.UserService/DeleteUser", AllowedCallers::Account, |b| json!({"user_id": b.person.id})),
];

const fn row(path: &'static str, allowed: AllowedCallers, body: fn(&Bundle) -> Value) -> Row {
    Row { path, allowed, body }
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
        "add a row with a valid request for {without:?}, so that invalid ones are tested"
    );
    assert_eq!(rows, methods);
}
