//! Concurrent calls through two replicas, with shaky dependencies.

use mesh_proto::shop::{
    order::v1::{CancelOrderRequest, OrderState, PayOrderRequest},
    payment::v1::ChargeState,
    product::v1::ReservationState,
};
use service_kit::{on_both_databases, testing::TestDatabase};
use tokio::task::JoinSet;

use crate::{
    app::CUSTOMER,
    fakes::{Behavior, CARD, FakeApp, create_request, item},
};

fn shake(app: &FakeApp) {
    for temper in [
        &app.stock.reserving,
        &app.stock.committing,
        &app.stock.releasing,
        &app.payments.charging,
        &app.payments.refunding,
        &app.carts.clearing,
    ] {
        temper.set(Behavior::Shaky(20));
    }
}

async fn the_same_request_a_hundred_times_at_once_is_one_order(database: TestDatabase) {
    let app = FakeApp::spawn(database, 2).await;
    shake(&app);
    app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    let request = create_request(CUSTOMER);
    let mut sending = JoinSet::new();
    for n in 0..100 {
        let (mut client, request) = (app.client(n % 2), request.clone());
        sending.spawn(async move { client.create_order(request).await });
    }
    let mut answers: Vec<_> = sending
        .join_all()
        .await
        .into_iter()
        .filter_map(Result::ok)
        .map(|answer| answer.into_inner())
        .collect();
    answers.push(app.retry(|| app.create(0, request.clone())).await.unwrap());
    answers.dedup();
    assert_eq!(answers.len(), 1);
    assert_eq!((app.stock.taken(), app.list(CUSTOMER, 0, "").await.0.len()), (1, 1));
}

async fn of_a_concurrent_payment_and_cancellation_one_wins(database: TestDatabase) {
    let app = FakeApp::spawn(database, 2).await;
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(app.ordered(n % 2, CUSTOMER).await.order_id);
    }
    shake(&app);
    let mut racing = JoinSet::new();
    for order_id in ids.clone() {
        let (mut one, mut other) = (app.client(0), app.client(1));
        racing.spawn(async move {
            let pay = PayOrderRequest { order_id: order_id.clone(), payment_method: CARD.into() };
            let cancel = CancelOrderRequest { order_id };
            let _ = tokio::join!(one.pay_order(pay), other.cancel_order(cancel));
        });
    }
    racing.join_all().await;
    for id in &ids {
        // Whatever came of both: it comes to rest.
        let order = app.retry(|| app.pay(0, id, CARD)).await;
        let state = app.get(id).await.unwrap().state();
        match order {
            Ok(_) => assert_eq!(state, OrderState::Paid),
            Err(_) => {
                app.becomes(id, OrderState::Cancelled).await;
            }
        }
        let left = (app.payments.of(id), app.stock.of(id));
        match app.get(id).await.unwrap().state() {
            OrderState::Paid => {
                assert_eq!(left, (Some(ChargeState::Succeeded), Some(ReservationState::Committed)));
            }
            _ => {
                assert_ne!(left.0, Some(ChargeState::Succeeded));
                assert_eq!(left.1, Some(ReservationState::Released));
            }
        }
    }
}

async fn orders_that_two_replicas_find_at_once_are_charged_once(database: TestDatabase) {
    let app = FakeApp::spawn(database, 2).await;
    app.payments.charging.set(Behavior::LosesResponse);
    let mut ids = Vec::new();
    for n in 0..12 {
        let id = app.ordered(n % 2, CUSTOMER).await.order_id;
        app.pay(n % 2, &id, CARD).await.unwrap_err();
        ids.push(id);
    }
    app.expire_leases().await;
    app.payments.charging.set(Behavior::Shaky(30));
    for id in &ids {
        app.becomes(id, OrderState::Paid).await;
    }
    assert_eq!(app.payments.unrefunded(), ids.len());
}

on_both_databases!(
    the_same_request_a_hundred_times_at_once_is_one_order,
    of_a_concurrent_payment_and_cancellation_one_wins,
    orders_that_two_replicas_find_at_once_are_charged_once,
);
