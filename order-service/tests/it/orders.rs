//! Commands on existing orders.

use mesh_proto::shop::{
    order::v1::{CancelOrderRequest, CancelReason, OrderState},
    payment::v1::{ChargeRequest, ChargeState, RefundRequest},
    product::v1::ReleaseReservationRequest,
};
use order_service::checkout;
use service_kit::{on_both_databases, testing::TestDatabase};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::{
    app::{CUSTOMER, TestApp, creation, new_request, refused, refused_fields},
    crashes::parsed,
    fakes::CARD,
};

async fn cancelling_twice_returns_the_same(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let order = app.ordered().await;
    let cancelled = app.cancel(&order.order_id).await.unwrap();
    assert_eq!((cancelled.state(), cancelled.etag.as_str()), (OrderState::Cancelled, "4"));
    assert_eq!((&cancelled.lines, &cancelled.create_time), (&order.lines, &order.create_time));
    assert_eq!(app.cancel(&order.order_id).await.unwrap(), cancelled);
    assert_eq!(app.get(&order.order_id).await.unwrap(), cancelled);
}

async fn cancelling_at_once_through_two_replicas_is_one_change(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    let order_id = app.ordered().await.order_id;
    let mut cancelling = JoinSet::new();
    for n in 0..20 {
        let (mut orders, order_id) = (app.replica(n % 2), order_id.clone());
        cancelling.spawn(async move {
            // One that another caller works on for more than a second, as on a
            // busy machine, is request for again, as every caller would.
            loop {
                match orders.cancel_order(CancelOrderRequest { order_id: order_id.clone() }).await {
                    Err(status) if status.code() == Code::Aborted => {}
                    ended => return ended.unwrap().into_inner(),
                }
            }
        });
    }
    for order in cancelling.join_all().await {
        assert_eq!((order.state(), order.etag.as_str()), (OrderState::Cancelled, "4"));
    }
}

async fn an_order_is_paid_shipped_and_completed(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let order_id = app.ordered().await.order_id;
    refused(app.ship(&order_id).await, Code::FailedPrecondition, "WRONG_STATE");
    let paid = app.pay(&order_id).await.unwrap();
    assert_eq!((paid.state(), paid.charge_id.is_empty()), (OrderState::Paid, false));
    assert_eq!(app.pay(&order_id).await.unwrap(), paid);
    refused(app.complete(&order_id).await, Code::FailedPrecondition, "WRONG_STATE");
    let shipped = app.ship(&order_id).await.unwrap();
    assert_eq!((shipped.state(), shipped.tracking_number.is_empty()), (OrderState::Shipped, false));
    assert_eq!(app.ship(&order_id).await.unwrap(), shipped);
    let details = refused(app.cancel(&order_id).await, Code::FailedPrecondition, "WRONG_STATE");
    assert_eq!(details.error_info().unwrap().metadata["state"], "ORDER_STATE_SHIPPED");
    let completed = app.complete(&order_id).await.unwrap();
    assert_eq!(completed.state(), OrderState::Completed);
    for again in [app.pay(&order_id).await, app.ship(&order_id).await, app.complete(&order_id).await] {
        assert_eq!(again.unwrap(), completed);
    }
    assert_eq!(app.pieces("tea").await, [999, 0, 1]);
}

async fn a_paid_order_that_is_cancelled_is_refunded_and_its_goods_return(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let order_id = app.ordered().await.order_id;
    app.pay(&order_id).await.unwrap();
    let cancelled = app.cancel(&order_id).await.unwrap();
    assert_eq!(
        (cancelled.state(), cancelled.cancel_reason()),
        (OrderState::Cancelled, CancelReason::Requested)
    );
    assert_eq!(app.charge_of(&order_id).await, Some(ChargeState::Refunded));
    assert_eq!(app.pieces("tea").await, [1_000, 0, 0]);
    refused(app.pay(&order_id).await, Code::FailedPrecondition, "WRONG_STATE");
}

async fn an_order_that_was_refunded_manually_is_not_shipped(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let order_id = app.ordered().await.order_id;
    app.pay(&order_id).await.unwrap();
    app.payments().refund(RefundRequest { idempotency_key: order_id.clone() }).await.unwrap();
    for _ in 0..2 {
        refused(app.ship(&order_id).await, Code::FailedPrecondition, "WRONG_STATE");
    }
    let order = app.get(&order_id).await.unwrap();
    assert_eq!((order.state(), order.cancel_reason()), (OrderState::Cancelled, CancelReason::Requested));
    assert_eq!(app.pieces("tea").await, [1_000, 0, 0]);
}

async fn an_order_whose_goods_were_released_manually_is_refunded_instead_of_shipped(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let order_id = app.ordered().await.order_id;
    app.pay(&order_id).await.unwrap();
    let release = ReleaseReservationRequest { reservation_id: order_id.clone() };
    app.products().release_reservation(release).await.unwrap();
    refused(app.ship(&order_id).await, Code::FailedPrecondition, "WRONG_STATE");
    assert_eq!(app.get(&order_id).await.unwrap().state(), OrderState::Cancelled);
    assert_eq!(app.charge_of(&order_id).await, Some(ChargeState::Refunded));
}

async fn a_manual_charge_is_refunded_with_the_order(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let order = app.ordered().await;
    let charge = ChargeRequest {
        idempotency_key: order.order_id.clone(),
        customer_id: CUSTOMER.into(),
        amount: order.total,
        payment_method: CARD.into(),
        fencing_token: 0,
    };
    app.payments().charge(charge).await.unwrap();
    app.cancel(&order.order_id).await.unwrap();
    assert_eq!(app.charge_of(&order.order_id).await, Some(ChargeState::Refunded));
    // No later charge of its key is possible.
    let order_id = app.ordered().await.order_id;
    app.cancel(&order_id).await.unwrap();
    assert_eq!(app.charge_of(&order_id).await, Some(ChargeState::Voided));
}

async fn an_unknown_order_is_not_found(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let nobodys = new_request();
    refused(app.get(&nobodys).await, Code::NotFound, "ORDER_NOT_FOUND");
    refused(app.cancel(&nobodys).await, Code::NotFound, "ORDER_NOT_FOUND");
    let watched = app.watch(0, &nobodys).await.message().await;
    refused(watched, Code::NotFound, "ORDER_NOT_FOUND");
    refused_fields(app.get("1").await, &["order_id"]);
    refused_fields(app.cancel("").await, &["order_id"]);
}

async fn orders_are_listed_newest_first_and_each_customers_own(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(app.ordered().await);
    }
    made.reverse();
    assert_eq!(app.list(CUSTOMER, 0, "").await.unwrap(), (made.clone(), String::new()));
    let (first, token) = app.list(CUSTOMER, 2, "").await.unwrap();
    let (second, next) = app.list(CUSTOMER, 2, &token).await.unwrap();
    let (third, end) = app.list(CUSTOMER, 2, &next).await.unwrap();
    assert_eq!(([first, second, third].concat(), end.as_str()), (made, ""));
    assert_eq!(app.list("bob", 0, "").await.unwrap(), (Vec::new(), String::new()));
    refused_fields(app.list("bob", 0, &token).await, &["page_token"]);
    refused_fields(app.list("", -1, "x").await, &["customer_id", "page_size", "page_token"]);
}

async fn a_product_that_is_deleted_after_the_cart_was_read_is_refused(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.fill("tea", 1).await;
    app.fill("mug", 1).await;
    let (sagas, request) = (app.sagas().await, creation(&new_request(), ""));
    let request_to_order = parsed(&request);
    let prepared = checkout::prepare(&sagas, &request_to_order).await.unwrap();
    app.delete("mug").await;
    let response = checkout::execute(&sagas, &request_to_order, prepared).await.map_err(Status::from);
    let details = refused(response, Code::FailedPrecondition, "OUT_OF_STOCK");
    assert_eq!(details.error_info().unwrap().metadata["product_ids"], "mug");
    refused(app.create(&request.request_id, "").await, Code::FailedPrecondition, "OUT_OF_STOCK");
    let order = &app.list(CUSTOMER, 0, "").await.unwrap().0[0];
    assert_eq!(order.state(), OrderState::Cancelled);
    assert_eq!(app.pieces("tea").await, [1_000, 0, 0]);
}

on_both_databases!(
    a_product_that_is_deleted_after_the_cart_was_read_is_refused,
    cancelling_twice_returns_the_same,
    cancelling_at_once_through_two_replicas_is_one_change,
    an_order_is_paid_shipped_and_completed,
    a_paid_order_that_is_cancelled_is_refunded_and_its_goods_return,
    an_order_that_was_refunded_manually_is_not_shipped,
    an_order_whose_goods_were_released_manually_is_refunded_instead_of_shipped,
    a_manual_charge_is_refunded_with_the_order,
    an_unknown_order_is_not_found,
    orders_are_listed_newest_first_and_each_customers_own,
);
