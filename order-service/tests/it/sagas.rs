//! Orders whose dependencies fail, hang, and lose responses.

use std::time::Duration;

use mesh_proto::shop::{
    order::v1::{CancelReason, Order, OrderState, PayOrderRequest, WatchOrderRequest},
    payment::v1::ChargeState,
    product::v1::ReservationState,
};
use order_service::{carrier::Faults, commands::OrderCommand, domain::OrderId};
use service_kit::{database::Database, on_both_databases, service::Service, testing::TestDatabase};
use tonic::{Code, Request, Status};

use crate::{
    app::{CUSTOMER, refused},
    fakes::{Behavior, CARD, FakeApp, create_request, item, snapshot},
};

const DECLINED: &str = "pm_card_declined";

fn unavailable() -> Behavior {
    Behavior::Fails(Status::unavailable("unavailable"))
}

async fn goods_that_cannot_be_reserved_for_now_are_reserved_later(database: TestDatabase) {
    let app = FakeApp::spawn(database, 2).await;
    app.carts.put(CUSTOMER, [item("tea", 499, 2)]);
    let request = create_request(CUSTOMER);
    for behavior in [unavailable(), Behavior::LosesResponse] {
        app.stock.reserving.set(behavior);
        refused(app.create(0, request.clone()).await, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
    }
    app.stock.reserving.set(Behavior::Works);
    let order = app.retry(|| app.create(1, request.clone())).await.unwrap();
    assert_eq!(order.state(), OrderState::Confirmed);
    assert_eq!(app.stock.of(&order.order_id), Some(ReservationState::Committed));
    assert_eq!((app.stock.taken(), app.list(CUSTOMER, 0, "").await.0.len()), (2, 1));
}

async fn an_order_proceeds_without_its_caller(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    app.stock.committing.set(Behavior::SucceedsSilently);
    let create = create_request(CUSTOMER);
    let mut request = Request::new(create.clone());
    request.set_timeout(Duration::from_millis(300));
    assert_eq!(app.client(0).create_order(request).await.unwrap_err().code(), Code::DeadlineExceeded);
    app.stock.committing.set(Behavior::Works);
    let order = app.retry(|| app.create(0, create.clone())).await.unwrap();
    assert_eq!(app.stock.of(&order.order_id), Some(ReservationState::Committed));
    assert_eq!(app.list(CUSTOMER, 0, "").await.0, [order]);
}

async fn an_order_is_not_acknowledged_when_its_goods_are_gone(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    app.stock.count("tea", 1);
    app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    app.stock.committing.set(unavailable());
    let request = create_request(CUSTOMER);
    refused(app.create(0, request.clone()).await, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
    let order_id = app.list(CUSTOMER, 0, "").await.0[0].order_id.clone();
    // It is confirmed neither in a response nor by an event.
    assert_eq!(app.get(&order_id).await.unwrap().state(), OrderState::Pending);
    assert!(events_of(&app, &order_id).await.is_empty());
    app.stock.expire();
    app.stock.count("tea", 0);
    app.stock.committing.set(Behavior::Works);
    for _ in 0..2 {
        let answer = app.retry(|| app.create(0, request.clone())).await;
        refused(answer, Code::FailedPrecondition, "OUT_OF_STOCK");
    }
    let order = app.becomes(&order_id, OrderState::Cancelled).await;
    assert_eq!(order.cancel_reason(), CancelReason::OutOfStock);
    assert_eq!(app.stock.taken(), 0);
}

async fn an_order_that_an_earlier_version_confirmed_too_early_gets_its_goods(database: TestDatabase) {
    let mut app = FakeApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let id = crate::crashes::abandon_pending(&app, &sagas).await.to_string();
    app.write("UPDATE orders SET state = 'confirmed', version = 2").await;
    app.expire_leases().await;
    app.add_replica().await;
    let order = app.retry(|| app.pay(0, &id, CARD)).await.unwrap();
    assert_eq!((order.state(), order.etag.as_str()), (OrderState::Paid, "4"));
    assert_eq!(app.stock.of(&id), Some(ReservationState::Committed));
}

async fn an_order_that_can_never_be_reserved_is_cancelled_with_a_reason(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    for (customer, why) in [("ada", Status::not_found("x")), ("bob", Status::invalid_argument("x"))] {
        app.carts.put(customer, [item("tea", 499, 1)]);
        app.stock.reserving.set(Behavior::Fails(why));
        let request = create_request(customer);
        let details = refused(app.create(0, request.clone()).await, Code::FailedPrecondition, "OUT_OF_STOCK");
        assert_eq!(details.error_info().unwrap().metadata["product_ids"], "tea");
        app.stock.reserving.set(Behavior::Works);
        refused(app.create(0, request).await, Code::FailedPrecondition, "OUT_OF_STOCK");
        let [order] = &app.list(customer, 0, "").await.0[..] else { panic!("not one order") };
        let order = app.becomes(&order.order_id, OrderState::Cancelled).await;
        assert_eq!(order.cancel_reason(), CancelReason::OutOfStock);
        assert_eq!(app.carts.cart(customer).items.len(), 1);
    }
}

async fn an_expired_reservation_is_made_again(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    app.stock.committing.set(unavailable());
    let request = create_request(CUSTOMER);
    refused(app.create(0, request.clone()).await, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
    app.stock.expire();
    app.stock.committing.set(Behavior::Works);
    let order = app.retry(|| app.create(0, request.clone())).await.unwrap();
    assert_eq!(app.stock.of(&order.order_id), Some(ReservationState::Committed));
}

async fn a_declined_payment_keeps_the_order_and_another_is_possible(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    let order_id = app.ordered(0, CUSTOMER).await.order_id;
    for _ in 0..2 {
        refused(app.pay(0, &order_id, DECLINED).await, Code::FailedPrecondition, "PAYMENT_DECLINED");
        assert_eq!(app.get(&order_id).await.unwrap().state(), OrderState::Confirmed);
    }
    assert_eq!(app.pay(0, &order_id, CARD).await.unwrap().state(), OrderState::Paid);
}

async fn a_charge_with_a_lost_response_is_found(database: TestDatabase) {
    let app = FakeApp::spawn(database, 2).await;
    let order_id = app.ordered(0, CUSTOMER).await.order_id;
    app.payments.charging.set(Behavior::LosesResponse);
    refused(app.pay(0, &order_id, CARD).await, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
    assert_eq!(app.get(&order_id).await.unwrap().state(), OrderState::Paying);
    app.payments.charging.set(Behavior::Works);
    // Without another request.
    let paid = app.becomes(&order_id, OrderState::Paid).await;
    assert_eq!(paid.charge_id, format!("charge of {order_id}"));
    assert_eq!(app.payments.unrefunded(), 1);
}

async fn a_charge_without_a_response_is_found(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    let order_id = app.ordered(0, CUSTOMER).await.order_id;
    app.payments.charging.set(Behavior::SucceedsSilently);
    let request = PayOrderRequest { order_id: order_id.clone(), payment_method: CARD.into() };
    let mut request = Request::new(request);
    request.set_timeout(Duration::from_millis(300));
    assert_eq!(app.client(0).pay_order(request).await.unwrap_err().code(), Code::DeadlineExceeded);
    app.payments.charging.set(Behavior::Works);
    app.becomes(&order_id, OrderState::Paid).await;
    assert_eq!(app.payments.unrefunded(), 1);
}

async fn an_unknown_charge_can_be_cancelled(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    for (behavior, left) in
        [(Behavior::LosesResponse, ChargeState::Refunded), (unavailable(), ChargeState::Voided)]
    {
        app.payments.charging.set(behavior);
        let order_id = app.ordered(0, CUSTOMER).await.order_id;
        refused(app.pay(0, &order_id, CARD).await, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
        let cancelled = app.retry(|| app.cancel(0, &order_id)).await.unwrap();
        assert_eq!(cancelled.state(), OrderState::Cancelled);
        assert_eq!(app.payments.of(&order_id), Some(left));
        assert_eq!(app.stock.of(&order_id), Some(ReservationState::Released));
    }
    assert_eq!((app.payments.unrefunded(), app.stock.taken()), (0, 0));
}

async fn the_cart_of_an_abandoned_order_is_not_ordered_again(database: TestDatabase) {
    let mut app = FakeApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let id = crate::crashes::abandon_pending(&app, &sagas).await.to_string();
    app.add_replica().await;
    let details = refused(app.create(0, create_request("left")).await, Code::Aborted, "CART_ORDERED");
    assert_eq!(details.error_info().unwrap().metadata["order_id"], id);
    app.expire_leases().await;
    let order = app.becomes(&id, OrderState::Confirmed).await;
    assert_eq!(app.list("left", 0, "").await.0, [order]);
    // The new contents of the cart were not ordered.
    assert_eq!(app.ordered(0, "left").await.state(), OrderState::Confirmed);
}

async fn a_refund_that_cannot_be_made_for_now_is_made_later(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    let order_id = app.ordered(0, CUSTOMER).await.order_id;
    app.pay(0, &order_id, CARD).await.unwrap();
    app.payments.refunding.set(Behavior::LosesResponse);
    refused(app.cancel(0, &order_id).await, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
    assert_eq!(app.get(&order_id).await.unwrap().state(), OrderState::Cancelling);
    refused(app.ship(0, &order_id).await, Code::FailedPrecondition, "WRONG_STATE");
    app.payments.refunding.set(Behavior::Works);
    app.becomes(&order_id, OrderState::Cancelled).await;
    assert_eq!(app.payments.of(&order_id), Some(ChargeState::Refunded));
    assert_eq!(app.stock.of(&order_id), Some(ReservationState::Released));
}

async fn what_the_carrier_refuses_is_refunded_and_its_goods_return(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    let order_id = app.ordered(0, CUSTOMER).await.order_id;
    app.pay(0, &order_id, CARD).await.unwrap();
    let id = OrderId::parse(&order_id).unwrap();
    let sagas = app.sagas(Faults { refuse: 1.0, ..Faults::default() }).await;
    for _ in 0..2 {
        let refusal =
            OrderCommand::Ship.execute(&sagas, snapshot(&sagas, id).await).await.map_err(Status::from);
        refused(refusal, Code::FailedPrecondition, "SHIPPING_REFUSED");
    }
    let order = app.get(&order_id).await.unwrap();
    assert_eq!(
        (order.state(), order.cancel_reason()),
        (OrderState::Cancelled, CancelReason::ShippingRefused)
    );
    assert_eq!(app.payments.of(&order_id), Some(ChargeState::Refunded));
    assert_eq!(app.stock.of(&order_id), Some(ReservationState::Released));
}

async fn a_carrier_that_is_away_takes_the_order_later(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    let order_id = app.ordered(0, CUSTOMER).await.order_id;
    app.pay(0, &order_id, CARD).await.unwrap();
    let sagas = app.sagas(Faults { lost: 1.0, ..Faults::default() }).await;
    let answer =
        OrderCommand::Ship.execute(&sagas, snapshot(&sagas, OrderId::parse(&order_id).unwrap()).await).await;
    refused(answer.map_err(Status::from), Code::Unavailable, "CARRIER_UNAVAILABLE");
    // By the other replica, whose carrier works.
    let order = app.becomes(&order_id, OrderState::Shipped).await;
    assert!(!order.tracking_number.is_empty());
}

async fn an_order_from_before_the_clock_was_set_back_is_carried_on(database: TestDatabase) {
    let mut app = FakeApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let id = crate::crashes::abandon_pending(&app, &sagas).await;
    app.set_clock_back(3_600).await;
    app.add_replica().await;
    app.becomes(&id.to_string(), OrderState::Confirmed).await;
}

async fn a_write_of_who_lost_the_order_is_refused(database: TestDatabase) {
    let app = FakeApp::spawn(database, 0).await;
    let (one, other) = (app.sagas(Faults::default()).await, app.sagas(Faults::default()).await);
    let id = crate::crashes::abandon_pending(&app, &one).await;
    assert!(other.store().claim_due(id).await.unwrap().is_none(), "it is held");
    app.expire_leases().await;
    let first = one.store().claim_due(id).await.unwrap().unwrap();
    assert!(other.store().claim_due(id).await.unwrap().is_none(), "it is held again");
    app.expire_leases().await;
    let second = other.store().claim_due(id).await.unwrap().unwrap();
    // The one wakes up, and finds that it is not its any more.
    let late = one.run_steps(first).await;
    assert!(matches!(late.end, order_service::saga::SagaEnd::ClaimLost), "{late:?}");
    let done = other.run_steps(second).await;
    assert_eq!(Order::from(done.order).state(), OrderState::Confirmed);
    assert_eq!(app.stock.taken(), 1);
}

async fn every_change_is_reported_in_its_order(database: TestDatabase) {
    let app = FakeApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let id = crate::crashes::create_order(&app, &sagas, CUSTOMER).await;
    let commands = [
        OrderCommand::Pay(order_service::domain::PaymentMethod::parse(CARD).unwrap()),
        OrderCommand::Ship,
        OrderCommand::Complete,
    ];
    for command in commands {
        command.execute(&sagas, snapshot(&sagas, id).await).await.unwrap();
    }
    assert_eq!(events_of(&app, &id.to_string()).await, [2, 3, 4, 5, 6, 7]);
}

/// The versions of an order of which an event waits to be delivered.
async fn events_of(app: &FakeApp, order_id: &str) -> Vec<i64> {
    let database =
        Database::open(app.database.url(), &order_service::OrderService::MIGRATIONS).await.unwrap();
    let waiting = "SELECT sequence FROM outbox WHERE aggregate_id = $1 ORDER BY position";
    let rows = database.rows(waiting, &[order_id.into()]).await.unwrap();
    rows.iter().map(|row| row.get("sequence").unwrap()).collect()
}

async fn a_watch_sees_states_in_their_order(database: TestDatabase) {
    let app = FakeApp::spawn(database, 2).await;
    let order_id = app.ordered(0, CUSTOMER).await.order_id;
    let request = WatchOrderRequest { order_id: order_id.clone() };
    let mut watch = app.client(1).watch_order(request).await.unwrap().into_inner();
    let mut seen = vec![watch.message().await.unwrap().unwrap()];
    app.pay(0, &order_id, CARD).await.unwrap();
    app.ship(0, &order_id).await.unwrap();
    app.complete(1, &order_id).await.unwrap();
    while seen.last().unwrap().state() != OrderState::Completed {
        let next = tokio::time::timeout(Duration::from_secs(10), watch.message()).await.unwrap();
        seen.push(next.unwrap().unwrap());
    }
    let versions: Vec<u64> = seen.iter().map(|order| order.etag.parse().unwrap()).collect();
    assert!(versions.is_sorted_by(|one, next| one < next), "{versions:?}");
}

on_both_databases!(
    goods_that_cannot_be_reserved_for_now_are_reserved_later,
    an_order_proceeds_without_its_caller,
    an_order_is_not_acknowledged_when_its_goods_are_gone,
    an_order_that_an_earlier_version_confirmed_too_early_gets_its_goods,
    an_order_that_can_never_be_reserved_is_cancelled_with_a_reason,
    an_expired_reservation_is_made_again,
    a_declined_payment_keeps_the_order_and_another_is_possible,
    a_charge_with_a_lost_response_is_found,
    a_charge_without_a_response_is_found,
    an_unknown_charge_can_be_cancelled,
    the_cart_of_an_abandoned_order_is_not_ordered_again,
    a_refund_that_cannot_be_made_for_now_is_made_later,
    what_the_carrier_refuses_is_refunded_and_its_goods_return,
    a_carrier_that_is_away_takes_the_order_later,
    an_order_from_before_the_clock_was_set_back_is_carried_on,
    a_write_of_who_lost_the_order_is_refused,
    every_change_is_reported_in_its_order,
    a_watch_sees_states_in_their_order,
);
