//! The actions of customers from their first login, and the calls between
//! services behind them.

use std::time::Duration;

use serde_json::{Value, json};
use service_kit::{on_both_databases, testing::TestDatabase};
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::{
    shop::{Caller, PASSWORD, outcome},
    stage::Stage,
};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Polls for a change that happens asynchronously.
async fn wait_until(mut poll: impl AsyncFnMut() -> Option<Value>) -> Value {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Some(response) = poll().await {
            return response;
        }
        assert!(Instant::now() < deadline, "it did not come");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Order-service calls cart, product and payment; the relays of orders and
/// products notify users and carts.
async fn an_order_goes_through_all_five_services(database: TestDatabase) {
    let stage = Stage::open(&database).await;
    let (shop, ada, staff) = (&stage.shop, stage.ada.who(), stage.staff());
    let order = json!({"order_id": stage.ada.order});
    let pay = json!({"order_id": stage.ada.order, "payment_method": "pm_card_visa"});
    let paid = shop.must(&ada, "shop.order.v1.OrderService/PayOrder", pay).await;
    assert_eq!(paid["state"], "ORDER_STATE_PAID");
    shop.must(&staff, "shop.order.v1.OrderService/ShipOrder", order.clone()).await;
    shop.must(&staff, "shop.order.v1.OrderService/CompleteOrder", order).await;
    let cancel = json!({"order_id": stage.ada.other_order});
    shop.must(&ada, "shop.order.v1.OrderService/CancelOrder", cancel).await;
    let charge = json!({"idempotency_key": stage.ada.order});
    let charge = shop.must(&staff, "shop.payment.v1.PaymentService/GetCharge", charge).await;
    assert_eq!(charge["charge"]["customer_id"], Value::from(stage.ada.person.id.clone()));

    let own = json!({"customer_id": stage.ada.person.id});
    wait_until(async || {
        let notifications = shop.must(&ada, "shop.user.v1.UserService/ListNotifications", own.clone()).await;
        let notifications = notifications["notifications"].as_array().cloned().unwrap_or_default();
        // Confirmed, paid, shipped, completed; the other confirmed and cancelled.
        (notifications.len() >= 6).then(|| Value::from(notifications.len()))
    })
    .await;

    let price = json!({"currency_code": "EUR", "units": 9});
    let dearer = json!({"product": {"product_id": stage.ada.sku, "price": price}, "update_mask": "price"});
    shop.must(&staff, "shop.product.v1.ProductService/UpdateProduct", dearer).await;
    let cart = shop.must(&ada, "shop.cart.v1.CartService/GetCart", own).await;
    assert_eq!(cart["items"][0]["unit_price"]["units"], "9");
    for service in ["order-service", "product-service"] {
        let backlog = wait_until(async || {
            let path = "shop.events.v1.EventLogService/GetBacklog";
            let response = shop.call_at(service, &stage.admin(), path, &json!({})).await.unwrap();
            let backlogs = response["backlogs"].as_array().cloned().unwrap_or_default();
            let waits = |backlog: &Value| !backlog["waiting"].is_null() && backlog["waiting"] != "0";
            (!backlogs.iter().any(waits)).then_some(response)
        })
        .await;
        let backlogs = backlog["backlogs"].as_array().unwrap();
        assert!(!backlogs.is_empty(), "{service} has subscribers");
        assert!(backlogs.iter().all(|one| one["parked"].is_null() || one["parked"] == "0"), "{backlog}");
    }
}

/// Tokens stay valid, no one can log in, and afterwards all works as before.
async fn while_user_service_is_away_others_still_know_who_calls(database: TestDatabase) {
    let mut stage = Stage::open(&database).await;
    let ada = stage.ada.who();
    let own = json!({"customer_id": stage.ada.person.id});
    let get = "shop.cart.v1.CartService/GetCart";
    let before = stage.shop.must(&ada, get, own.clone()).await;
    stage.shop.stop_users().await;
    assert_eq!(stage.shop.must(&ada, get, own.clone()).await, before);
    let foreign = stage.shop.call(&stage.bob.who(), get, &own).await;
    assert_eq!(outcome(&foreign), (Code::PermissionDenied, "NOT_OWNER".into()));
    let create = json!({"customer_id": stage.ada.person.id, "request_id": crate::stage::uuid()});
    stage.shop.must(&ada, "shop.order.v1.OrderService/CreateOrder", create).await;

    stage.shop.start_users().await;
    let again = wait_until(async || {
        let login = json!({"email": stage.ada.person.email, "password": PASSWORD});
        stage.shop.call(&Caller::Nobody, "shop.user.v1.UserService/Login", &login).await.ok()
    })
    .await;
    let mut person = stage.ada.person.clone();
    person.access = again["access_token"].as_str().unwrap().to_owned();
    stage.shop.must(&Caller::Person(person), get, own.clone()).await;
    stage.shop.must(&ada, get, own).await;
}

/// A change needs the current password, and works only on the own account.
async fn one_changes_the_own_password_by_knowing_it(database: TestDatabase) {
    let stage = Stage::open(&database).await;
    let (ada, path) = (stage.ada.who(), "shop.user.v1.UserService/UpdateUser");
    let body = |whose: &str, current: &str| {
        json!({
            "user": {"user_id": whose}, "password": "another-password-9", "current_password": current,
            "update_mask": "password",
        })
    };
    let (own, other) = (stage.ada.person.id.as_str(), stage.bob.person.id.as_str());
    let denied = |reason: &str| (Code::PermissionDenied, reason.to_owned());
    for (whose, current, reason) in [
        (own, "", "CURRENT_PASSWORD_WRONG"),
        (own, "not-the-password", "CURRENT_PASSWORD_WRONG"),
        (other, PASSWORD, "NOT_OWNER"),
    ] {
        let response = stage.shop.call(&ada, path, &body(whose, current)).await;
        assert_eq!(outcome(&response), denied(reason), "{current}");
    }
    stage.shop.must(&ada, path, body(own, PASSWORD)).await;
    stage.shop.log_in(&stage.ada.person.email, "another-password-9").await;
    let refresh = json!({"refresh_token": stage.ada.person.refresh});
    let ended = stage.shop.call(&ada, "shop.user.v1.UserService/RefreshToken", &refresh).await;
    assert_eq!(outcome(&ended), (Code::Unauthenticated, "REFRESH_TOKEN_INVALID".into()));
}

on_both_databases!(
    an_order_goes_through_all_five_services,
    while_user_service_is_away_others_still_know_who_calls,
    one_changes_the_own_password_by_knowing_it,
);
